/**
 * The bytes of a saved machine: what it is, whose, when, and the state of its parts. The board is not in it: a state is
 * loaded into a machine that was built from the same board, and a digest of the device tree, of the functions and of
 * the choices says whether it is.
 * Not modelled: states of an earlier version of this program; they are refused.
 */
import { pack, unpack } from '#shared/state/pack.ts';
import type { Board } from '../board.ts';
import { SavedStateError } from './saved.ts';

const FORMAT = 'culvert machine 1';

interface MachineState {
  readonly format: string;
  readonly board: number;
  /** Nanoseconds on the machine's clock. */
  readonly now: number;
  readonly machine: unknown;
}

export function packMachine(board: Board, now: number, machine: unknown): Uint8Array {
  const state: MachineState = { format: FORMAT, board: digest(board), now, machine };
  return pack(state);
}

/** Throws SavedStateError when the bytes are no machine's, or one's of another board. */
export function unpackMachine(board: Board, bytes: Uint8Array): MachineState {
  let state: unknown;
  try {
    state = unpack(bytes);
  } catch (error) {
    throw new SavedStateError('not the state of a machine', { cause: error });
  }
  if (!isMachineState(state)) throw new SavedStateError('not the state of a machine of this version');
  if (state.board !== digest(board)) throw new SavedStateError('the state of a machine of another board');
  return state;
}

function isMachineState(state: unknown): state is MachineState {
  return typeof state === 'object' && state !== null && (state as Partial<MachineState>).format === FORMAT;
}

/** FNV-1a over the device tree, the functions and the choices. */
function digest(board: Board): number {
  let hash = 0x811c_9dc5;
  const add = (byte: number): void => {
    hash = Math.imul(hash ^ byte, 0x0100_0193);
  };
  for (const byte of board.dtb) add(byte);
  for (const fn of board.functions) {
    for (let shift = 0; shift < 32; shift += 8) add((fn.sbdf >>> shift) & 0xff);
    for (const byte of fn.config) add(byte);
  }
  for (const char of JSON.stringify(board.choices)) add(char.charCodeAt(0));
  return hash >>> 0;
}
