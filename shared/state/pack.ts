/** State as bytes and back: MessagePack with its extension for typed arrays, which come back as what they were. */
import { Packr } from 'msgpackr';

const packr = new Packr({ moreTypes: true, useRecords: false, variableMapSize: true });

/** Plain values, arrays, objects with string keys and typed arrays. */
export function pack(state: unknown): Uint8Array {
  return packr.pack(state);
}

/** What `pack` was given. Throws Error for bytes that are not of its making. */
export function unpack(bytes: Uint8Array): unknown {
  return packr.unpack(bytes);
}
