import { readFileSync } from 'node:fs';
import { assert, test } from 'vitest';
import { BoardError } from '#shared/board/parts.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import { Prng } from '#shared/core/prng.ts';

const BOARDS = ['qemu-virt', 'thunderx-2015', 'numa-4its'].map(
  (name) => new Uint8Array(readFileSync(new URL(`../../../examples/boards/${name}.dtb`, import.meta.url))),
);

test('a damaged tree is taken, or refused in one line: nothing else comes of it (600 trees)', () => {
  const random = new Prng(1);
  let refused = 0;
  for (let i = 0; i < 600; i++) {
    const dtb = BOARDS[random.below(BOARDS.length)]!.slice();
    for (let n = 1 + random.below(4); n > 0; n--) dtb[random.below(dtb.length)] = random.below(256);
    try {
      readBoardTree({ dtb, without: ['msi', 'smmu'] });
    } catch (error) {
      assert.instanceOf(error, BoardError);
      assert.notInclude((error as Error).message, '\n');
      refused++;
    }
  }
  assert.isAbove(refused, 100);
});
