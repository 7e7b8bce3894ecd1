/**
 * The xenstore wire: packet header, request types, error names, limits (xen/include/public/io/xs_wire.h and
 * docs/misc/xenstore.txt). Numbers are little-endian, as on every supported host.
 * Not modelled: the shared ring page; a packet travels whole in a message of the bus, and software sees no ring
 * indices, features word or connection word.
 */

/** Message types. A reply has the type of its request, or `ERROR`. */
export const XS = {
  CONTROL: 0,
  DIRECTORY: 1,
  READ: 2,
  GET_PERMS: 3,
  WATCH: 4,
  UNWATCH: 5,
  TRANSACTION_START: 6,
  TRANSACTION_END: 7,
  INTRODUCE: 8,
  RELEASE: 9,
  GET_DOMAIN_PATH: 10,
  WRITE: 11,
  MKDIR: 12,
  RM: 13,
  SET_PERMS: 14,
  WATCH_EVENT: 15,
  ERROR: 16,
  IS_DOMAIN_INTRODUCED: 17,
  RESUME: 18,
  SET_TARGET: 19,
  RESET_WATCHES: 21,
  DIRECTORY_PART: 22,
} as const;
export type XsType = (typeof XS)[keyof typeof XS];

const NAMES = new Map<number, string>(Object.entries(XS).map(([name, type]) => [type, name]));

/** The name of a message type, as in `XS_WRITE` without its prefix; a number that has none as decimal text. */
export function xsTypeName(type: number): string {
  return NAMES.get(type) ?? `${type}`;
}

/** Errors that have a name on the wire (`xsd_errors`). An errno outside this table is sent as EINVAL. */
export const XS_ERROR_NAMES = [
  'EINVAL',
  'EACCES',
  'EEXIST',
  'EISDIR',
  'ENOENT',
  'ENOMEM',
  'ENOSPC',
  'EIO',
  'ENOTEMPTY',
  'ENOSYS',
  'EROFS',
  'EBUSY',
  'EAGAIN',
  'EISCONN',
  'E2BIG',
  'EPERM',
] as const;
export type XsErrorName = (typeof XS_ERROR_NAMES)[number];

/** The error name in an ERROR payload; EINVAL for text that is none. */
export function parseXsError(payload: Uint8Array): XsErrorName {
  const text = stringsOf(payload)[0];
  return XS_ERROR_NAMES.find((name) => name === text) ?? 'EINVAL';
}

export const XS_HEADER_BYTES = 16;
/** Payload bytes of one packet at most. */
export const XENSTORE_PAYLOAD_MAX = 4096;
/** Bytes of an absolute path at most, its NUL included. */
export const XENSTORE_ABS_PATH_MAX = 3072;
/** Bytes of a relative path at most, its NUL included. */
export const XENSTORE_REL_PATH_MAX = 2048;

export interface XsPacket {
  readonly type: number;
  /** Echoed in the reply; 0 in a watch event. */
  readonly reqId: number;
  /** 0 outside a transaction. */
  readonly txId: number;
  readonly payload: Uint8Array;
}

/** The other side does not speak the protocol: its connection is of no further use. */
export class XsProtocolError extends Error {
  override name = 'XsProtocolError';
}

/** Header and payload as one packet. The payload is at most XENSTORE_PAYLOAD_MAX bytes (XsProtocolError). */
export function packPacket(type: number, reqId: number, txId: number, payload: Uint8Array): Uint8Array {
  if (payload.length > XENSTORE_PAYLOAD_MAX) throw new XsProtocolError(`a payload of ${payload.length} bytes`);
  const packet = new Uint8Array(XS_HEADER_BYTES + payload.length);
  const header = new DataView(packet.buffer);
  header.setUint32(0, type, true);
  header.setUint32(4, reqId, true);
  header.setUint32(8, txId, true);
  header.setUint32(12, payload.length, true);
  packet.set(payload, XS_HEADER_BYTES);
  return packet;
}

/** Exactly one packet. Throws XsProtocolError for anything else. */
export function parsePacket(bytes: Uint8Array): XsPacket {
  const { packets, rest } = parsePackets(NOTHING, bytes);
  const packet = packets[0];
  if (packet === undefined || packets.length !== 1 || rest.length !== 0) {
    throw new XsProtocolError(`${bytes.length} bytes are not one packet`);
  }
  return packet;
}

/**
 * Cuts a stream into packets, whatever its chunks: `rest` is what the next call takes as `pending`.
 * Throws XsProtocolError as soon as a header announces more than XENSTORE_PAYLOAD_MAX bytes.
 */
export function parsePackets(
  pending: Uint8Array,
  chunk: Uint8Array,
): { readonly packets: readonly XsPacket[]; readonly rest: Uint8Array } {
  const bytes = new Uint8Array(pending.length + chunk.length);
  bytes.set(pending);
  bytes.set(chunk, pending.length);
  const view = new DataView(bytes.buffer);
  const packets: XsPacket[] = [];
  let at = 0;
  while (bytes.length - at >= XS_HEADER_BYTES) {
    const len = view.getUint32(at + 12, true);
    if (len > XENSTORE_PAYLOAD_MAX) throw new XsProtocolError(`a header announces ${len} bytes of payload`);
    const end = at + XS_HEADER_BYTES + len;
    if (end > bytes.length) break;
    packets.push({
      type: view.getUint32(at, true),
      reqId: view.getUint32(at + 4, true),
      txId: view.getUint32(at + 8, true),
      payload: bytes.slice(at + XS_HEADER_BYTES, end),
    });
    at = end;
  }
  return { packets, rest: bytes.slice(at) };
}

/** One character per byte, so that bytes that are no text survive the way there and back. */
export function textOf(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

/** The bytes of `textOf` text: one per character, each below 0x100. */
export function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(text, (c) => c.charCodeAt(0));
}

/** `a`, `b` as `a NUL b NUL`. */
export function packStrings(...strings: readonly string[]): Uint8Array {
  return bytesOf(strings.map((s) => `${s}\0`).join(''));
}

/** The NUL-terminated strings of a payload; bytes behind the last NUL are not one. */
export function stringsOf(payload: Uint8Array): string[] {
  return textOf(payload).split('\0').slice(0, -1);
}

const NOTHING = new Uint8Array(0);
