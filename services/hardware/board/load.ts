/** A board: the parts of its device tree, and its functions, each of them checked. */
import type { BoardDescription } from '#shared/board/description.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import type { Board } from '../board.ts';
import { checkFunctions } from './functions.ts';

/** Reads and checks a description. Throws BoardError. */
export function loadBoard(description: BoardDescription): Board {
  const board = readBoardTree(description);
  const { functions, choices = {} } = description;
  checkFunctions(functions, board.bridges);
  return { ...board, functions, choices };
}
