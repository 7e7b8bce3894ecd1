import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';

const BOARDS = resolve(import.meta.dirname, '../../../examples/boards');
let folder = '';

/** A board file with these lines before its one function. */
function write(...lines: readonly string[]): string {
  const file = join(folder, 'board.yaml');
  const dtb = `dtb: ${join(BOARDS, 'qemu-virt.dtb')}`;
  const dump = `dump: ${join(BOARDS, 'qemu-virt.lspci')}`;
  writeFileSync(file, [dtb, dump, ...lines, 'functions:', '  - at: "0000:00:00.0"', ''].join('\n'));
  return file;
}

describe('a board file', () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'culvert-board-file-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test('lacks nothing unless it says so', () => {
    assert.deepEqual(readBoard(write()).without, []);
    assert.deepEqual(readBoard(write('without: [msi, smmu]')).without, ['msi', 'smmu']);
  });

  test('cannot lack anything else', () => {
    assert.throws(() => readBoard(write('without: [ram]')), /without/);
  });
});
