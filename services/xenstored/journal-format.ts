/**
 * The journal's bytes: records one after the other, each with a header of 16 bytes (all little-endian) and a payload in
 * MessagePack.
 *
 *   0  u32  bytes of the payload
 *   4  u32  CRC-32C (RFC 3720, appendix B.4) over what follows, payload included
 *   8  u64  position: grows from record to record
 *
 * A record holds all that one step of the daemon changed, so a transaction is in one record or in none. It says what is
 * there now, not what was done: records may be read again from any earlier one on. The first record of a file may say
 * that nothing was before it; a snapshot is records like all others.
 */
import { Packr } from 'msgpackr';
import type { ChildChange, Children } from './children.ts';
import { formatPerm, type Perm, parsePerm } from './permissions.ts';
import type { Node } from './store.ts';

export const RECORD_HEADER_BYTES = 16;
/** A payload that claims more is none. */
const PAYLOAD_MAX = 0x4000_0000;

/**
 * A node that is there: path, generation, value, permissions; then, when its list of children changed: 0 and each
 * change as `+name` or `-name`, or 1 and the whole list. Or only the path of one that is not there.
 */
export type NodeChange = readonly [string] | readonly (string | number | Uint8Array)[];

/** domid, introduced, shutdown, target, features, limits in the order of QUOTA_KINDS. Only the domid: it is not known. */
export type DomainState = readonly [number] | readonly [number, boolean, boolean, number, number, readonly number[]];

/** domid, id of its request on the bus, reply. */
export type AnsweredRequest = readonly [number, number, Uint8Array];

export interface JournalRecord {
  /** The daemon's last generation when it was written. */
  readonly position: number;
  /** What was before this record does not count. */
  readonly fresh: boolean;
  readonly nodes: readonly NodeChange[];
  readonly domains: readonly DomainState[];
  readonly answers: readonly AnsweredRequest[];
  /** The global limits, when they changed. */
  readonly limits: readonly number[];
}

const packr = new Packr({ useRecords: false, copyBuffers: true } as ConstructorParameters<typeof Packr>[0]);

export function encodeRecord(record: JournalRecord): Uint8Array {
  const { position, fresh, nodes, domains, answers, limits } = record;
  const payload: Uint8Array = packr.pack([fresh, nodes, domains, answers, limits]);
  const bytes = new Uint8Array(RECORD_HEADER_BYTES + payload.length);
  bytes.set(payload, RECORD_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, payload.length, true);
  view.setUint32(8, position >>> 0, true);
  view.setUint32(12, Math.floor(position / 2 ** 32), true);
  view.setUint32(4, crc32c(bytes, 8, bytes.length), true);
  return bytes;
}

export interface Decoded {
  readonly record: JournalRecord;
  /** Where the next one starts. */
  readonly end: number;
}

/**
 * The record at `at`; undefined when the bytes from there on are none: cut off, torn, or of an earlier position than
 * `after`. `after` is the position of the record before, -1 at the start.
 */
export function decodeRecord(bytes: Uint8Array, at: number, after: number): Decoded | undefined {
  if (bytes.length - at < RECORD_HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(at, true);
  const end = at + RECORD_HEADER_BYTES + length;
  if (length > PAYLOAD_MAX || end > bytes.length) return undefined;
  if (crc32c(bytes, at + 8, end) !== view.getUint32(at + 4, true)) return undefined;
  const position = view.getUint32(at + 12, true) * 2 ** 32 + view.getUint32(at + 8, true);
  if (position < after) return undefined;
  const [fresh, nodes, domains, answers, limits] = packr.unpack(bytes.subarray(at + RECORD_HEADER_BYTES, end));
  return { record: { position, fresh, nodes, domains, answers, limits }, end };
}

export function nodeGone(path: string): NodeChange {
  return [path];
}

/** What became of a node whose list of children was `before`; undefined stands for a node that was not there. */
export function nodePut(path: string, node: Node, before: Children | undefined): NodeChange {
  const { generation, value, children } = node;
  const put: (string | number | Uint8Array)[] = [path, generation, value, permsText(node.perms)];
  if (before === undefined) return children.size === 0 ? put : [...put, 1, ...children];
  if (before === children) return put;
  const changes = children.changesSince(before);
  if (changes === undefined) put.push(1, ...children);
  else put.push(0, ...changes.map(changeText));
  return put;
}

/** A node as it is, for a snapshot. */
export function nodeWhole(path: string, node: Node): NodeChange {
  const put: (string | number | Uint8Array)[] = [path, node.generation, node.value, permsText(node.perms), 1];
  for (const name of node.children) put.push(name);
  return put;
}

export function changedChildren(change: NodeChange, before: Children, none: Children): Children {
  if (change.length <= 4) return before;
  let children = change[4] === 1 ? none : before;
  for (let i = 5; i < change.length; i++) {
    const text = change[i] as string;
    if (change[4] === 1) children = children.with(text);
    else children = text.startsWith('+') ? children.with(text.slice(1)) : children.without(text.slice(1));
  }
  return children;
}

function changeText({ name, added }: ChildChange): string {
  return (added ? '+' : '-') + name;
}

/** Lists are shared by many nodes: each is written once, and read back as one. */
const texts = new WeakMap<readonly Perm[], string>();

function permsText(perms: readonly Perm[]): string {
  let text = texts.get(perms);
  if (text === undefined) {
    text = perms.map(formatPerm).join(',');
    texts.set(perms, text);
  }
  return text;
}

/** The lists of permissions of one recovery, by their text. */
export class PermLists {
  readonly #lists = new Map<string, readonly Perm[]>();

  of(text: string): readonly Perm[] {
    let perms = this.#lists.get(text);
    if (perms === undefined) {
      perms = text.split(',').map((one) => {
        const perm = parsePerm(one);
        if (perm === undefined) throw new RangeError(`the journal has a permission "${one}"`);
        return perm;
      });
      this.#lists.set(text, perms);
    }
    return perms;
  }
}

const POLYNOMIAL = 0x82f6_3b78;
/** Eight tables, so that eight bytes take one round (slicing-by-8). */
const TABLES = Array.from({ length: 8 }, () => new Int32Array(256));
for (let i = 0; i < 256; i++) {
  let c = i;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ POLYNOMIAL : c >>> 1;
  TABLES[0]![i] = c;
}
for (let i = 0; i < 256; i++) {
  for (let t = 1; t < 8; t++) {
    const below = TABLES[t - 1]![i]!;
    TABLES[t]![i] = (below >>> 8) ^ TABLES[0]![below & 0xff]!;
  }
}
const [T0, T1, T2, T3, T4, T5, T6, T7] = TABLES as unknown as readonly [
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
];

/** CRC-32C of the bytes from `start` up to `end`. */
export function crc32c(bytes: Uint8Array, start: number, end: number): number {
  let c = -1;
  let i = start;
  for (; i + 8 <= end; i += 8) {
    const low = c ^ (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24));
    c =
      T7[low & 0xff]! ^
      T6[(low >>> 8) & 0xff]! ^
      T5[(low >>> 16) & 0xff]! ^
      T4[low >>> 24]! ^
      T3[bytes[i + 4]!]! ^
      T2[bytes[i + 5]!]! ^
      T1[bytes[i + 6]!]! ^
      T0[bytes[i + 7]!]!;
  }
  for (; i < end; i++) c = (c >>> 8) ^ T0[(c ^ bytes[i]!) & 0xff]!;
  return ~c >>> 0;
}
