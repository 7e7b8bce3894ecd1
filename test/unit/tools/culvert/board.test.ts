import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import { buildFdt } from '#shared/fdt/blob.ts';
import { thunderx2015 } from '#tools/boards/thunderx-2015.ts';
import { board } from '#tools/culvert/board.ts';

const ROOT = resolve(import.meta.dirname, '../../../..');
let folder = '';

describe('culvert board', () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'culvert-board-'));
    const bare = thunderx2015();
    bare.find('/pcie@88001f000000')?.properties.delete('iommu-map');
    writeFileSync(join(folder, 'bare.dtb'), buildFdt(bare));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test('prints what a board offers, a part a line', () => {
    const { exit, stdout } = board(join(ROOT, 'examples/boards/thunderx-2015.dtb'), {});
    assert.equal(exit, 0);
    const lines = stdout.split('\n');
    for (const line of [
      'RAM      0x40000000+0x40000000',
      'SMMUv2   /iommu@830000000000: 0x830000000000+0x2000000, NUMA node 0',
      'bridge   /pcie@88001f000000: segment 4, buses 1f-57, thunder-pem, NUMA node 0',
      '         StreamID: 0x1f00-0x57ff -> 0x2000 at /iommu@831000000000',
      'NUMA     node 1: CPUs 2 3, RAM 0x10040000000+0x40000000, distances 20 10',
    ])
      assert.include(lines, line);
  });

  test('says in one line why a board is refused, and exits with 1', () => {
    const { exit, stdout, stderr } = board(join(folder, 'bare.dtb'), {});
    assert.deepEqual([exit, stdout], [1, '']);
    assert.match(stderr, /^culvert: .*bare\.dtb: host bridge \/pcie@88001f000000 has no iommu-map[^\n]*\n$/);
  });

  test('takes a board file, and asks of it what it says', () => {
    const { exit, stdout } = board(join(ROOT, 'examples/boards/numa-4its.yaml'), {});
    assert.equal(exit, 0);
    assert.match(stdout, /^SMMUv3 {3}\/iommu@3002b400000: /m);
  });

  test('a file that is no device tree is refused as one', () => {
    writeFileSync(join(folder, 'no.dtb'), 'not a tree');
    const { exit, stderr } = board(join(folder, 'no.dtb'), {});
    assert.equal(exit, 1);
    assert.match(stderr, /device tree is malformed/);
  });

  test('--without takes a board that lacks something; --json is one document', () => {
    const { exit, stdout } = board(join(folder, 'bare.dtb'), { without: ['smmu'], json: true });
    assert.equal(exit, 0);
    const { bridges } = JSON.parse(stdout) as { bridges: { segment: number; iommuMap: { rows: unknown[] } }[] };
    assert.deepEqual(
      bridges.map((b) => [b.segment, b.iommuMap.rows.length]),
      [
        [0, 1],
        [4, 0],
        [10, 1],
        [14, 1],
      ],
    );
  });
});
