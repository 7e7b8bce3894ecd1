/**
 * Flattened device trees, version 17: bytes to tree and tree to bytes
 * (Devicetree Specification, "Flattened Devicetree (DTB) Format").
 * Not modelled: versions before 16; they are refused.
 */
import { FdtError, FdtNode, type FdtRegion } from './node.ts';

export const FDT_MAGIC = 0xd00d_feed;
const FDT_BEGIN_NODE = 1;
const FDT_END_NODE = 2;
const FDT_PROP = 3;
const FDT_NOP = 4;
const FDT_END = 9;
const HEADER_BYTES = 40;
/** Nodes nested deeper are taken for a mistake. */
const DEPTH_MAX = 64;

const latin1 = new TextDecoder('latin1');

/** Reads a blob and says where it ends too early. */
class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u32(at: number, end: number, what: string): number {
    if (at + 4 > end) throw truncated(what, at);
    return this.#view.getUint32(at);
  }

  bytes(at: number, length: number, end: number, what: string): Uint8Array {
    if (at + length > end) throw truncated(what, at);
    return this.#bytes.subarray(at, at + length);
  }

  /** A string up to its NUL. */
  string(at: number, end: number, what: string): string {
    const stop = at < end ? this.#bytes.subarray(at, end).indexOf(0) : -1;
    if (stop < 0) throw truncated(`${what} has no end`, at);
    return latin1.decode(this.#bytes.subarray(at, at + stop));
  }
}

interface Layout {
  readonly reader: Reader;
  readonly struct: number;
  readonly structEnd: number;
  readonly strings: number;
  readonly stringsEnd: number;
  readonly reserved: number;
  readonly total: number;
}

/** The tree in `bytes`, which may be followed by more. Throws FdtError with what is wrong and at which byte. */
export function parseFdt(bytes: Uint8Array): FdtNode {
  const { reader, struct, structEnd, strings, stringsEnd } = layoutOf(bytes);
  let at = struct;
  let root: FdtNode | undefined;
  let node: FdtNode | undefined;
  let depth = 0;
  for (;;) {
    const tokenAt = at;
    const token = reader.u32(at, structEnd, 'the structure block ends without FDT_END');
    at += 4;
    switch (token) {
      case FDT_BEGIN_NODE: {
        const name = reader.string(at, structEnd, 'a node name');
        at = align4(at + name.length + 1);
        if (node === undefined && root !== undefined) throw malformed('a second root node', tokenAt);
        if (++depth > DEPTH_MAX) throw malformed(`nodes nested deeper than ${DEPTH_MAX}`, tokenAt);
        if (node === undefined) {
          root = new FdtNode('');
          node = root;
        } else node = node.addChild(name);
        break;
      }
      case FDT_END_NODE:
        if (node === undefined) throw malformed('the end of a node that was not begun', tokenAt);
        node = node.parent;
        depth--;
        break;
      case FDT_PROP: {
        const length = reader.u32(at, structEnd, 'a property');
        const nameOffset = reader.u32(at + 4, structEnd, 'a property');
        const name = reader.string(strings + nameOffset, stringsEnd, `the name of the property at byte ${tokenAt}`);
        if (node === undefined) throw malformed(`property ${name} outside any node`, tokenAt);
        if (node.children.length > 0) throw malformed(`property ${name} behind a child node`, tokenAt);
        node.set(name, reader.bytes(at + 8, length, structEnd, `the value of ${name} in ${node.path}`).slice());
        at = align4(at + 8 + length);
        break;
      }
      case FDT_NOP:
        break;
      case FDT_END:
        if (node !== undefined) throw malformed(`the end of the tree inside ${node.path}`, tokenAt);
        if (root === undefined) throw malformed('no root node', tokenAt);
        return root;
      default:
        throw malformed(`token 0x${token.toString(16)}`, tokenAt);
    }
  }
}

/** The memory reservation block: regions that nobody may use. Throws FdtError. */
export function parseFdtReservations(bytes: Uint8Array): FdtRegion[] {
  const { reader, reserved, total } = layoutOf(bytes);
  const regions: FdtRegion[] = [];
  for (let at = reserved; ; at += 16) {
    const word = (i: number): number => reader.u32(at + i * 4, total, 'the memory reservation block');
    const address = word(0) * 2 ** 32 + word(1);
    const sizeBytes = word(2) * 2 ** 32 + word(3);
    if (address === 0 && sizeBytes === 0) return regions;
    regions.push({ address, sizeBytes });
  }
}

/** A version 17 blob of `root`. Property names share one strings block. */
export function buildFdt(root: FdtNode, reserved: readonly FdtRegion[] = []): Uint8Array {
  const strings = new Map<string, number>();
  let stringsBytes = 0;
  for (const node of root.walk()) {
    for (const name of node.properties.keys()) {
      if (strings.has(name)) continue;
      strings.set(name, stringsBytes);
      stringsBytes += name.length + 1;
    }
  }
  const structBytes = structSize(root) + 4;
  const structAt = HEADER_BYTES + (reserved.length + 1) * 16;
  const stringsAt = structAt + structBytes;
  const total = stringsAt + stringsBytes;
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  const header = [FDT_MAGIC, total, structAt, stringsAt, HEADER_BYTES, 17, 16, 0, stringsBytes, structBytes];
  header.forEach((word, i) => {
    view.setUint32(i * 4, word);
  });
  reserved.forEach((region, i) => {
    setU64(view, HEADER_BYTES + i * 16, region.address);
    setU64(view, HEADER_BYTES + i * 16 + 8, region.sizeBytes);
  });
  const end = writeNode(root, bytes, view, structAt, strings);
  view.setUint32(end, FDT_END);
  for (const [name, offset] of strings) writeString(bytes, stringsAt + offset, name);
  return bytes;
}

function layoutOf(bytes: Uint8Array): Layout {
  const reader = new Reader(bytes);
  const word = (i: number): number => reader.u32(i * 4, bytes.length, 'the header');
  const magic = word(0);
  if (magic !== FDT_MAGIC) throw malformed(`0x${magic.toString(16)} where the magic number 0xd00dfeed should be`, 0);
  const total = word(1);
  if (total > bytes.length)
    throw truncated(`its header says ${total} bytes and there are ${bytes.length}`, bytes.length);
  const version = word(5);
  if (version < 16 || word(6) > 17)
    throw malformed(`version ${version}, compatible back to ${word(6)}; 16 and 17 are read`, 20);
  const struct = word(2);
  const structEnd = version >= 17 ? struct + word(9) : total;
  const strings = word(3);
  const stringsEnd = strings + word(8);
  if (structEnd > total) throw truncated('the structure block is cut off', total);
  if (stringsEnd > total) throw truncated('the strings block is cut off', total);
  if (struct % 4 !== 0) throw malformed(`a structure block at byte ${struct}, not aligned to 4`, 8);
  return { reader, struct, structEnd, strings, stringsEnd, reserved: word(4), total };
}

function structSize(node: FdtNode): number {
  let size = 4 + align4(node.name.length + 1) + 4;
  for (const value of node.properties.values()) size += 12 + align4(value.length);
  for (const child of node.children) size += structSize(child);
  return size;
}

function writeNode(
  node: FdtNode,
  bytes: Uint8Array,
  view: DataView,
  from: number,
  strings: Map<string, number>,
): number {
  let at = from;
  view.setUint32(at, FDT_BEGIN_NODE);
  writeString(bytes, at + 4, node.name);
  at += 4 + align4(node.name.length + 1);
  for (const [name, value] of node.properties) {
    view.setUint32(at, FDT_PROP);
    view.setUint32(at + 4, value.length);
    view.setUint32(at + 8, strings.get(name) ?? 0);
    bytes.set(value, at + 12);
    at += 12 + align4(value.length);
  }
  for (const child of node.children) at = writeNode(child, bytes, view, at, strings);
  view.setUint32(at, FDT_END_NODE);
  return at + 4;
}

function writeString(bytes: Uint8Array, at: number, value: string): void {
  for (let i = 0; i < value.length; i++) bytes[at + i] = value.charCodeAt(i);
}

function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value % 2 ** 32);
}

function align4(n: number): number {
  return Math.ceil(n / 4) * 4;
}

function truncated(what: string, at: number): FdtError {
  return new FdtError(`device tree is truncated: ${what} (at byte ${at})`);
}

function malformed(what: string, at: number): FdtError {
  return new FdtError(`device tree is malformed: ${what} (at byte ${at})`);
}
