/**
 * A board that the machine can be built from, checked as the machine itself does, so that a mistake in it is told in one
 * line before anything is started.
 */
import { placeIn, readBoard } from '#shared/board/board-file.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { FileError } from '#shared/yaml/document.ts';
import { createHardwareCore } from '../../services/hardware/core.ts';

/** How the messages of BoardError start that are about choices of the board file, and the key of those. */
const PARTS = [
  ['an ITS ', 'its'],
  ['a GIC ', 'gic'],
  ['an SMMUv3 ', 'smmu'],
] as const;

/** Throws FileError, or the error of the part that cannot be read; each starts with a file. */
export function checkedBoard(file: string): BoardDescription {
  const board = readBoard(file);
  try {
    createHardwareCore(board, { idBase: 0 });
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'BoardError') throw error;
    const named = /[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]/.exec(error.message)?.[0];
    const part = PARTS.find(([start]) => error.message.startsWith(start))?.[1] ?? 'dtb';
    const place = placeIn(file, named === undefined ? undefined : parseSbdf(named), part);
    throw new FileError(`${place}: ${error.message}`, { cause: error });
  }
  return board;
}
