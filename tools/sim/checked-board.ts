/**
 * A board that the machine can be built from, checked as the machine itself does, so that a mistake in it is told in one
 * line before anything is started.
 */
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import { FileError } from '#shared/yaml/document.ts';
import { createHardwareCore } from '../../services/hardware/core.ts';

/** Throws FileError, or the error of the part that cannot be read; each starts with a file. */
export function checkedBoard(file: string): BoardDescription {
  const board = readBoard(file);
  try {
    createHardwareCore(board, { idBase: 0 });
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'BoardError') throw error;
    throw new FileError(`${file}: ${error.message}`, { cause: error });
  }
  return board;
}
