/**
 * What a part of the machine gives to be written down, and takes back.
 * A state is made of numbers, strings, booleans, undefined, arrays, plain objects with string keys, and typed arrays:
 * what MessagePack with its typed-array extension keeps as it is.
 * Maps and sets are given as arrays of entries, callbacks and references to other parts not at all: a machine is built
 * anew from the same board and then loaded, so everything that the board fixes is there already.
 * Timers are no state of a part: a part that has something under way keeps when it is due (`Scheduler.now` plus the
 * delay), saves that, and arms it anew with its `Scheduler` when it is loaded: the clock of a machine that is restored goes on
 * from where it stood.
 */
export interface Saved {
  /** A copy of everything that this part would lose with the process. Later changes of the part do not show in it. */
  save(): unknown;
  /**
   * Takes the state that `save` of the same part of the same board gave. No interrupt, DMA or callback comes of it.
   * Throws SavedStateError when the state cannot be this part's.
   */
  load(state: unknown): void;
}

/** A state that does not belong to the part it was given to. One line. */
export class SavedStateError extends Error {
  override name = 'SavedStateError';
}

/** The typed arrays that a state may hold. */
export type SavedArray = Uint8Array | Uint16Array | Uint32Array | Int16Array | Int32Array | Float64Array;

/** Copies saved words over an array of the same length. Throws SavedStateError when the lengths differ. */
export function loadArray<T extends SavedArray>(into: T, from: T, what: string): void {
  if (from === undefined || from.length !== into.length) {
    throw new SavedStateError(`${what}: ${from?.length ?? 'no'} values were saved and ${into.length} are needed`);
  }
  into.set(from);
}

/** Entries of a counter object, put back in place so that whoever holds the object goes on seeing it. */
export function loadCounts(into: Record<string, number>, from: Readonly<Record<string, number>>): void {
  for (const key of Object.keys(into)) delete into[key];
  Object.assign(into, from);
}
