/**
 * Fields of structures in memory, given as the books draw them: bits of the n-th little-endian 64-bit word. The memory
 * is any array of 32-bit words (Uint32Array or Int32Array); `at` is the index of the structure's first word.
 */

/** A field of up to 32 bits, also across the middle of a doubleword, or an address left in place. */
export interface Slot {
  /** Index of the 32-bit word that holds the lowest bit. */
  readonly word: number;
  readonly lsb: number;
  readonly width: number;
  /** The value keeps its position: an address whose low bits are zero. */
  readonly inPlace: boolean;
}

export type Words = Uint32Array | Int32Array;

/** Bits [msb:lsb] of doubleword `n`; 32 bits at most. */
export function dw(n: number, msb: number, lsb: number = msb): Slot {
  const width = msb - lsb + 1;
  if (msb > 63 || lsb < 0 || width < 1 || width > 32)
    throw new Error(`DW${n}[${msb}:${lsb}] is no field of up to 32 bits`);
  return { word: 2 * n + (lsb >>> 5), lsb: lsb & 31, width, inPlace: false };
}

/** An address in place: bits [msb:lsb] of doubleword `n`, lsb below 32, msb from 32 to 52. */
export function dwAddr(n: number, msb: number, lsb: number): Slot {
  if (lsb < 0 || lsb > 31 || msb < 32 || msb > 52) throw new Error(`DW${n}[${msb}:${lsb}] is no address field`);
  return { word: 2 * n, lsb, width: msb - lsb + 1, inPlace: true };
}

/** The field's value, unsigned; an address up to 2^53. */
export function load(mem: Words, at: number, slot: Slot): number {
  const i = at + slot.word;
  if (slot.inPlace) {
    const high = mem[i + 1]! & (0xffff_ffff >>> (64 - slot.lsb - slot.width));
    return high * 0x1_0000_0000 + (((mem[i]! >>> slot.lsb) << slot.lsb) >>> 0);
  }
  const low = mem[i]! >>> slot.lsb;
  const both = slot.lsb + slot.width > 32 ? low | (mem[i + 1]! << (32 - slot.lsb)) : low;
  return (both & (0xffff_ffff >>> (32 - slot.width))) >>> 0;
}

/** Replaces the field; bits of `value` outside it are cut off, the other bits of the words are kept. */
export function store(mem: Words, at: number, slot: Slot, value: number): void {
  const i = at + slot.word;
  if (slot.inPlace) {
    const highMask = 0xffff_ffff >>> (64 - slot.lsb - slot.width);
    const lowMask = (0xffff_ffff << slot.lsb) >>> 0;
    mem[i] = (mem[i]! & ~lowMask) | (value & lowMask);
    mem[i + 1] = (mem[i + 1]! & ~highMask) | (Math.floor(value / 0x1_0000_0000) & highMask);
    return;
  }
  const mask = 0xffff_ffff >>> (32 - slot.width);
  mem[i] = (mem[i]! & ~(mask << slot.lsb)) | ((value & mask) << slot.lsb);
  if (slot.lsb + slot.width > 32) {
    const highMask = mask >>> (32 - slot.lsb);
    mem[i + 1] = (mem[i + 1]! & ~highMask) | ((value >>> (32 - slot.lsb)) & highMask);
  }
}

/** Stores the named fields of a layout: `storeFields(words, 0, STE, { V: 1, Config: 6 })`. */
export function storeFields<T extends Readonly<Record<string, Slot>>>(
  mem: Words,
  at: number,
  layout: T,
  values: { readonly [K in keyof T]?: number },
): void {
  for (const [name, value] of Object.entries(values as Record<string, number>)) store(mem, at, layout[name]!, value);
}

/** Every field of a layout by name. */
export function loadFields<T extends Readonly<Record<string, Slot>>>(
  mem: Words,
  at: number,
  layout: T,
): { -readonly [K in keyof T]: number } {
  const values: Record<string, number> = {};
  for (const [name, slot] of Object.entries(layout)) values[name] = load(mem, at, slot);
  return values as { -readonly [K in keyof T]: number };
}

/** The bytes of `words` as they lie in memory (a view, nothing is copied). Needs a little-endian host. */
export function bytesOf(words: Words): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

/** A copy of `bytes` (a multiple of 4 of them) as little-endian 32-bit words. */
export function wordsOf(bytes: Uint8Array): Uint32Array {
  const words = new Uint32Array(bytes.length >>> 2);
  new Uint8Array(words.buffer).set(bytes);
  return words;
}
