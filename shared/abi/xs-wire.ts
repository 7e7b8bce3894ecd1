/**
 * The xenstore wire: packet header, request types, error names, limits (xen/include/public/io/xs_wire.h and
 * docs/misc/xenstore.txt). Numbers are little-endian, as on every supported host. The shared page is xs-ring.ts.
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
  GET_FEATURE: 23,
  SET_FEATURE: 24,
  GET_QUOTA: 25,
  SET_QUOTA: 26,
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
  putWord(packet, 0, type);
  putWord(packet, 4, reqId);
  putWord(packet, 8, txId);
  putWord(packet, 12, payload.length);
  packet.set(payload, XS_HEADER_BYTES);
  return packet;
}

/** Exactly one packet; its payload is a view of `bytes`. Throws XsProtocolError for anything else. */
export function parsePacket(bytes: Uint8Array): XsPacket {
  if (bytes.length < XS_HEADER_BYTES || packetBytes(bytes, 0) !== bytes.length)
    throw new XsProtocolError(`${bytes.length} bytes are not one packet`);
  return packetAt(bytes, 0);
}

/**
 * Cuts a stream into packets, whatever its chunks. At most one packet's bytes are kept between two chunks.
 * A payload that lies whole in its chunk is a view of it: who keeps it longer than the call has to copy it.
 */
export class PacketReader {
  readonly #kept = new Uint8Array(XS_HEADER_BYTES + XENSTORE_PAYLOAD_MAX);
  #have = 0;

  /**
   * Gives each packet that `chunk` completes, in order. Throws XsProtocolError as soon as a header announces more than
   * XENSTORE_PAYLOAD_MAX bytes: the packets before it were given, and the stream is of no further use.
   */
  feed(chunk: Uint8Array, onPacket: (packet: XsPacket) => void): void {
    let at = 0;
    while (this.#have > 0) {
      const needed = this.#have < XS_HEADER_BYTES ? XS_HEADER_BYTES : packetBytes(this.#kept, 0);
      const take = Math.min(needed - this.#have, chunk.length - at);
      this.#kept.set(chunk.subarray(at, at + take), this.#have);
      this.#have += take;
      at += take;
      if (this.#have < needed) return;
      if (this.#have !== packetBytes(this.#kept, 0)) continue; // the header is whole now, its payload is not
      this.#have = 0;
      onPacket(packetAt(this.#kept.slice(0, needed), 0));
    }
    while (chunk.length - at >= XS_HEADER_BYTES) {
      const bytes = packetBytes(chunk, at);
      if (at + bytes > chunk.length) break;
      onPacket(packetAt(chunk, at));
      at += bytes;
    }
    this.#kept.set(chunk.subarray(at));
    this.#have = chunk.length - at;
  }
}

/** Bytes of the packet whose header is at `at`. */
function packetBytes(bytes: Uint8Array, at: number): number {
  const len = word(bytes, at + 12);
  if (len > XENSTORE_PAYLOAD_MAX) throw new XsProtocolError(`a header announces ${len} bytes of payload`);
  return XS_HEADER_BYTES + len;
}

function packetAt(bytes: Uint8Array, at: number): XsPacket {
  const start = at + XS_HEADER_BYTES;
  return {
    type: word(bytes, at),
    reqId: word(bytes, at + 4),
    txId: word(bytes, at + 8),
    payload: bytes.subarray(start, start + word(bytes, at + 12)),
  };
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

/** Byte by byte: a view would make a small array leave V8's heap, which takes longer than all else. */
function putWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** One character per byte up to `end`, so that bytes that are no text survive the way there and back. */
export function textOf(bytes: Uint8Array, end = bytes.length): string {
  if (bytes instanceof Buffer) return bytes.toString('latin1', 0, end);
  let text = '';
  for (let i = 0; i < end; i++) text += String.fromCharCode(bytes[i]!);
  return text;
}

/** The bytes of `textOf` text: one per character, each below 0x100. */
export function bytesOf(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** `a`, `b` as `a NUL b NUL`. */
export function packStrings(...strings: readonly string[]): Uint8Array {
  return bytesOf(strings.map((s) => `${s}\0`).join(''));
}

/** The NUL-terminated strings of a payload; bytes behind the last NUL are not one. */
export function stringsOf(payload: Uint8Array): string[] {
  return textOf(payload).split('\0').slice(0, -1);
}
