/** A guest's disk in a file, in the simulated world: a disk with the same contents stands in for it. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, assert, beforeAll, test } from 'vitest';
import { dmaProbeFill } from '#shared/arch/dma-probe.ts';
import { readScenario } from '#tools/scenario/schema.ts';
import { checkedBoard } from '#tools/sim/checked-board.ts';
import { playSimulated } from '#tools/sim/play.ts';

const EXAMPLES = resolve(import.meta.dirname, '../../examples/boards');
const BYTES = 1 << 20;
let folder = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'culvert-disk-'));
  const words = new Int32Array(BYTES / 4);
  dmaProbeFill(words, 3, 0);
  writeFileSync(join(folder, 'disk.img'), new Uint8Array(words.buffer));
  const devices = readFileSync(`${EXAMPLES}/qemu-virt-devices.yaml`, 'utf8');
  writeFileSync(
    join(folder, 'board.yaml'),
    devices.replace(/^(dtb|dump): /gm, `$1: ${EXAMPLES}/`).replace('{ size: 256M }', '{ file: disk.img }'),
  );
  const check = (args: string, result: string) => `
  - guest: guest1
    run: nvme-check
    with: { ${args} }
    expect: { ${result} }`;
  writeFileSync(
    join(folder, 'scenario.yaml'),
    `name: A disk in a file
board: board.yaml
guests:
  guest1: |
    name = "guest1"
    memory = 96
steps:
  - xl: pci-assignable-add 0000:02:00.0
  - xl: create guest1
  - xl: pci-attach guest1 0000:02:00.0${check('bytes: 1048576, seed: 3, only: read', 'mismatches: 0, bytesWritten: 0')}${check('bytes: 65536, lba: 100, seed: 4', 'mismatches: 0')}
  - xl: destroy guest1
  - xl: create guest1
  - xl: pci-attach guest1 0000:02:00.0${check('bytes: 65536, lba: 100, seed: 4, only: read', 'mismatches: 0')}
`,
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

test('guests find what the file held and what was flushed, equal seeds do the same, and the file is left alone', () => {
  const scenario = readScenario(join(folder, 'scenario.yaml'));
  const before = readFileSync(join(folder, 'disk.img'));
  const play = () => playSimulated(scenario, checkedBoard(scenario.boardFile), { seed: 7 }, () => undefined);
  const one = play();
  assert.deepEqual(
    one.steps.flatMap((step) => step.problems.map((problem) => `${step.title}: ${problem}`)),
    [],
  );
  assert.equal(one.result, 'passed');
  assert.equal(play().traceHash, one.traceHash);
  assert.isTrue(readFileSync(join(folder, 'disk.img')).equals(before));
});
