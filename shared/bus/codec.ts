/** Messages to bytes and back. 64-bit integers become numbers here, once; one above 2^53 is a malformed message. */
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { Envelope } from '#gen/bus.ts';

let writer = new BinaryWriter();

export function encodeEnvelope(envelope: Envelope): Uint8Array {
  try {
    return Envelope.encode(envelope, writer).finish();
  } catch (error) {
    writer = new BinaryWriter(); // it may hold half a message
    throw error;
  }
}

/** Throws when `bytes` is no envelope. */
export function decodeEnvelope(bytes: Uint8Array): Envelope {
  return Envelope.decode(bytes);
}
