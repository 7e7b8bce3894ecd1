import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardFunction } from '#shared/board/description.ts';

const BOARDS = resolve(import.meta.dirname, '../../../examples/boards');
let folder = '';

/** The one function of a board file, with these lines in its entry. */
function read(...lines: readonly string[]): BoardFunction {
  const file = join(folder, 'board.yaml');
  const head = [`dtb: ${join(BOARDS, 'qemu-virt.dtb')}`, `dump: ${join(BOARDS, 'qemu-virt.lspci')}`, 'functions:'];
  writeFileSync(file, [...head, '  - at: "0000:01:00.0"', ...lines.map((line) => `    ${line}`), ''].join('\n'));
  return readBoard(file).functions[0]!;
}

describe('a function of a board file', () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'culvert-quirks-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test('is as its dump says unless the board says otherwise', () => {
    assert.equal(read().quirks, undefined);
  });

  test('may have virtual functions, from 1 on', () => {
    assert.deepEqual([read().vfs, read('vfs: 3').vfs], [undefined, 3]);
    assert.throws(() => read('vfs: 0'), /vfs/);
  });

  test('may never come out of a reset', () => {
    assert.deepEqual(read('reset: never-completes').quirks, { resetNs: Number.POSITIVE_INFINITY });
  });

  test('may take its time, saying that it should be asked again or nothing', () => {
    assert.deepEqual(read('reset: { ms: 300 }').quirks, { resetNs: 300e6, notReady: 'rrs' });
    assert.deepEqual(read('reset: { ms: 0.5, meanwhile: all-ones }').quirks, {
      resetNs: 500_000,
      notReady: 'all-ones',
    });
    assert.throws(() => read('reset: { ms: 0 }'), /reset/);
  });

  test('may lack Function Level Reset', () => {
    assert.deepEqual(read('flr: none').quirks, { flr: 'none' });
  });

  test('gives sizes of BARs, of the ROM and of VF BARs', () => {
    assert.deepEqual(
      [...read('bars: { bar3: 16K, rom: 64K, vf0: 1M }').barSizes],
      [
        [3, 0x4000],
        [6, 0x1_0000],
        [7, 0x10_0000],
      ],
    );
  });
});
