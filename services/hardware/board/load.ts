/** A board: the parts of its device tree, and its functions, each of them checked. */
import type { BoardDescription } from '#shared/board/description.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import { type Board, BoardError } from '../board.ts';
import { checkFunctions } from './functions.ts';

/** Reads and checks a description. Throws BoardError. */
export function loadBoard(description: BoardDescription): Board {
  const board = readBoardTree(description);
  const { functions, choices = {} } = description;
  const chosen = (['gic', 'its'] as const).find((part) => choices[part] !== undefined);
  if (chosen !== undefined && board.gic.version === 2)
    throw new BoardError(`board file chooses ${chosen}, which is of a GICv3; ${board.gic.path} is a GICv2`);
  if (choices.smmu !== undefined && !board.smmus.some(({ kind }) => kind === 'v3'))
    throw new BoardError('board file chooses smmu, which is of an SMMUv3; the board has none');
  checkFunctions(functions, board.bridges);
  return { ...board, functions, choices };
}
