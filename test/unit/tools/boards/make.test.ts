import { readFileSync } from 'node:fs';
import { assert, describe, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import { buildFdt } from '#shared/fdt/blob.ts';
import { BOARDS } from '#tools/boards/make.ts';
import { loadBoard } from '../../../../services/hardware/board/load.ts';

const EXAMPLES = new URL('../../../../examples/boards/', import.meta.url);

describe.each(Object.entries(BOARDS))('the bundled board %s', (name, make) => {
  test('is the tree that the code makes, byte for byte', () => {
    const bundled = new Uint8Array(readFileSync(new URL(`${name}.dtb`, EXAMPLES)));
    assert.deepEqual(buildFdt(make()), bundled, 'run node tools/boards/make.ts');
  });

  test('has a board file with a dma-probe on every segment', () => {
    const board = loadBoard(readBoard(new URL(`${name}.yaml`, EXAMPLES).pathname));
    const probes = board.functions.filter((f) => f.model === 'dma-probe').map((f) => Math.floor(f.sbdf / 0x1_0000));
    assert.deepEqual([...new Set(probes)].sort(), board.bridges.map((b) => b.segment).sort());
  });
});
