/**
 * The page that a domain and xenstored share: struct xenstore_domain_interface (xen/include/public/io/xs_wire.h,
 * docs/misc/xenstore-ring.txt). Requests in one ring, replies and events in the other, and the words that say where.
 * Indices run freely modulo 2^32; what they point at is their value modulo the size of a ring.
 */
import { struct, u32 } from './layout.ts';

/** Bytes of each ring. */
export const XENSTORE_RING_SIZE = 1024;

/** Byte offsets in the page. */
export const XS_RING = { req: 0, rsp: 1024, words: 2048 } as const;

/** Everything behind the rings, at XS_RING.words. */
export const xs_ring_words = struct({
  req_cons: u32,
  req_prod: u32,
  rsp_cons: u32,
  rsp_prod: u32,
  server_features: u32,
  connection: u32,
  error: u32,
  evtchn_port: u32,
});

/** Byte offsets of single words in the page. */
export const XS_RING_WORD = {
  req_cons: 2048,
  req_prod: 2052,
  rsp_cons: 2056,
  rsp_prod: 2060,
  server_features: 2064,
  connection: 2068,
  error: 2072,
  evtchn_port: 2076,
} as const;

/** The word `connection`. */
export const XENSTORE_CONNECTION = { CONNECTED: 0, RECONNECT: 1 } as const;
/** The word `error`. */
export const XENSTORE_ERROR = { NONE: 0, COMM: 1, RINGIDX: 2, PROTO: 3 } as const;

/** Bytes between two indices. More than XENSTORE_RING_SIZE means that one of them is bad. */
export function ringUsed(prod: number, cons: number): number {
  return (prod - cons) >>> 0;
}

/** `count` bytes of a ring from index `from` on, whichever way they lie around its end. */
export function ringBytes(ring: Uint8Array, from: number, count: number): Uint8Array {
  const at = from % XENSTORE_RING_SIZE;
  const first = Math.min(count, XENSTORE_RING_SIZE - at);
  if (first === count) return ring.slice(at, at + count);
  const out = new Uint8Array(count);
  out.set(ring.subarray(at, at + first));
  out.set(ring.subarray(0, count - first), first);
  return out;
}

/** Where `data` goes when it is put into a ring at index `from`: one piece, or two around the end. */
export function ringPieces(from: number, data: Uint8Array): { readonly at: number; readonly data: Uint8Array }[] {
  const at = from % XENSTORE_RING_SIZE;
  const first = Math.min(data.length, XENSTORE_RING_SIZE - at);
  const pieces = [{ at, data: data.subarray(0, first) }];
  if (first < data.length) pieces.push({ at: 0, data: data.subarray(first) });
  return pieces;
}

/** Bytes that wait to be put into a ring, in order. */
export class RingOutput {
  #parts: Uint8Array[] = [];
  #skip = 0;
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  push(data: Uint8Array): void {
    this.#parts.push(data);
    this.#bytes += data.length;
  }

  clear(): void {
    this.#parts = [];
    this.#skip = 0;
    this.#bytes = 0;
  }

  /** Takes off at most `max` bytes. */
  take(max: number): Uint8Array {
    const out = new Uint8Array(Math.min(max, this.#bytes));
    let have = 0;
    let whole = 0;
    while (have < out.length) {
      const part = this.#parts[whole]!;
      const n = Math.min(part.length - this.#skip, out.length - have);
      out.set(part.subarray(this.#skip, this.#skip + n), have);
      have += n;
      this.#skip += n;
      if (this.#skip < part.length) break;
      this.#skip = 0;
      whole++;
    }
    this.#parts.splice(0, whole);
    this.#bytes -= out.length;
    return out;
  }
}
