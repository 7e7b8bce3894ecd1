/**
 * Physical memory: banks of RAM, each in chunks of 2 MiB that exist once something other than zero was written.
 * All chunks that exist lie in one array, seen as bytes and as 32-bit words; a directory says where each starts. The
 * hot paths (table walks, translation, ITS tables) work on chunk numbers and words and make no addresses: `chunkBase`.
 * RAM reads as zero after power-on. Not modelled: ECC, caches; every master sees the same bytes at once.
 * Deviates: a machine may have any amount of RAM, but no more than 8 GiB of it can hold something other than zero.
 */
import { assert } from '#shared/core/assert.ts';
import { type Saved, SavedStateError } from '../state/saved.ts';

export const CHUNK_BYTES = 0x20_0000;
export const CHUNK_WORDS = CHUNK_BYTES / 4;
const CHUNK_OFFSET_MASK = CHUNK_BYTES - 1;
/** Multiplying is quicker than dividing, and exact for a power of two. */
const CHUNKS_PER_BYTE = 1 / CHUNK_BYTES;
/** Addresses have 48 bits, chunk numbers 27. */
const ADDRESS_LIMIT = 2 ** 48;
/** A page of the directory covers 16 GiB. */
const PAGE_SHIFT = 13;
const PAGE_ENTRIES = 1 << PAGE_SHIFT;
const PAGE_MASK = PAGE_ENTRIES - 1;
/** Entries of the directory that say where its pages are. */
const ROOT_ENTRIES = 2 ** 27 / PAGE_ENTRIES;
/** Directory entries that are no place in `words`. */
const NO_RAM = -1;
/** A bank starts or ends inside this chunk: the banks have to be asked. */
const EDGE = -2;
/** Where chunks that were never written lead: words that are zero, and that nothing writes to. */
const ZERO = 0;
/**
 * Chunks that there is room for at first, the one of zeros included, and that there can ever be. Room costs the host
 * nothing until it is written to; making more means copying what there is.
 */
const ROOM_FIRST = 2048;
const ROOM_MAX = 4096;

export interface RamBank {
  readonly pa: number;
  readonly sizeBytes: number;
}

export interface SavedRam {
  /** Chunk numbers (address / 2 MiB), and the bytes of each. */
  readonly chunks: readonly number[];
  readonly bytes: readonly Uint8Array[];
}

export class Ram implements Saved {
  readonly banks: readonly RamBank[];
  /** Every chunk that exists, ZERO first. Another array once there is no room in it: not to be kept. */
  declare words: Int32Array;
  declare bytes: Uint8Array;
  /**
   * First, by chunk number / 2^13, where a page of the directory starts here; then the pages, of which the first has no
   * RAM: first word of each chunk in `words`, NO_RAM or EDGE. One array, for a walk that looks into two loads what it
   * needs of both.
   */
  declare readonly directory: Int32Array;
  /** Where the chunks at the edges of banks are. */
  readonly #edges = new Map<number, number>();
  #last: RamBank;
  #room: number;
  #used = 1;
  readonly #free: number[] = [];

  /** Banks are multiples of 4 KiB below 2^48 and do not overlap; at least one. */
  constructor(banks: readonly RamBank[]) {
    this.banks = checkedBanks(banks);
    this.#last = this.banks[0]!;
    this.directory = this.#makeDirectory();
    const total = this.banks.reduce((sum, bank) => sum + Math.ceil(bank.sizeBytes / CHUNK_BYTES) + 1, 1);
    this.words = roomFor(Math.min(total, ROOM_FIRST));
    this.#room = this.words.length / CHUNK_WORDS;
    this.bytes = new Uint8Array(this.words.buffer);
  }

  /** Whether all of [pa, pa + sizeBytes) lies in one bank. */
  contains(pa: number, sizeBytes: number): boolean {
    const bank = this.#bank(pa);
    return bank !== undefined && pa + sizeBytes <= bank.pa + bank.sizeBytes;
  }

  /** Bytes from `pa` to the end of its bank, 0 when there is no RAM. */
  bytesFrom(pa: number): number {
    const bank = this.#bank(pa);
    return bank === undefined ? 0 : bank.pa + bank.sizeBytes - pa;
  }

  /**
   * The words of the 2 MiB chunk around `pa`, for reading only; word `(pa & 0x1fffff) >>> 2` is the one at `pa`.
   * Undefined where there is no RAM. Not to be kept: a later write may put another buffer in its place.
   */
  chunkWords(pa: number): Int32Array | undefined {
    const base = this.#baseAt(pa);
    return base < 0 ? undefined : this.words.subarray(base, base + CHUNK_WORDS);
  }

  read8(pa: number): number {
    return this.bytes[this.#forRead(pa) * 4 + (pa & CHUNK_OFFSET_MASK)]!;
  }

  /** Aligned. */
  read16(pa: number): number {
    const at = this.#forRead(pa) * 4 + (pa & CHUNK_OFFSET_MASK);
    return this.bytes[at]! | (this.bytes[at + 1]! << 8);
  }

  /** Aligned; unsigned. */
  read32(pa: number): number {
    return this.words[this.#forRead(pa) + ((pa & CHUNK_OFFSET_MASK) >>> 2)]! >>> 0;
  }

  write8(pa: number, value: number): void {
    const base = this.#forWrite(pa);
    this.bytes[base * 4 + (pa & CHUNK_OFFSET_MASK)] = value;
  }

  /** Aligned. */
  write16(pa: number, value: number): void {
    const at = this.#forWrite(pa) * 4 + (pa & CHUNK_OFFSET_MASK);
    this.bytes[at] = value;
    this.bytes[at + 1] = value >>> 8;
  }

  /** Aligned. */
  write32(pa: number, value: number): void {
    const base = this.#forWrite(pa);
    this.words[base + ((pa & CHUNK_OFFSET_MASK) >>> 2)] = value;
  }

  /** Copies into[offset, offset + sizeBytes) from `pa` on; all of it must be RAM of one bank. */
  readBytes(pa: number, into: Uint8Array, offset = 0, sizeBytes: number = into.length - offset): void {
    this.#need(pa, sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const at = (pa + done) & CHUNK_OFFSET_MASK;
      const length = Math.min(sizeBytes - done, CHUNK_BYTES - at);
      const base = this.#forRead(pa + done);
      if (base === ZERO) into.fill(0, offset + done, offset + done + length);
      else copyBytes(this.bytes, base * 4 + at, into, offset + done, length);
      done += length;
    }
  }

  /** Copies from[offset, offset + sizeBytes) to `pa` on; all of it must be RAM of one bank. */
  writeBytes(pa: number, from: Uint8Array, offset = 0, sizeBytes: number = from.length - offset): void {
    this.#need(pa, sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const at = (pa + done) & CHUNK_OFFSET_MASK;
      const length = Math.min(sizeBytes - done, CHUNK_BYTES - at);
      const base = this.#forWrite(pa + done);
      copyBytes(from, offset + done, this.bytes, base * 4 + at, length);
      done += length;
    }
  }

  /** Sets every byte of [pa, pa + sizeBytes). A chunk that is zeroed as a whole exists no more. */
  fill(pa: number, sizeBytes: number, byte: number): void {
    this.#need(pa, sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const at = (pa + done) & CHUNK_OFFSET_MASK;
      const length = Math.min(sizeBytes - done, CHUNK_BYTES - at);
      const there = byte === 0 ? this.#forRead(pa + done) : this.#forWrite(pa + done);
      if (there !== ZERO) {
        this.bytes.fill(byte, there * 4 + at, there * 4 + at + length);
        if (byte === 0 && length === CHUNK_BYTES) this.#drop(Math.floor((pa + done) / CHUNK_BYTES), there);
      }
      done += length;
    }
  }

  /** Host memory behind what was written. */
  get residentBytes(): number {
    return (this.#used - 1 - this.#free.length) * CHUNK_BYTES;
  }

  /**
   * First word in `words` of chunk `chunk` (address / 2^21, below 2^27) for one that reads the word at byte `offset` of
   * it; -1 when there is no RAM. The slow half of the function `chunkBase`.
   */
  edgeBase(chunk: number, offset: number): number {
    if (this.directory[this.directory[chunk >>> PAGE_SHIFT]! + (chunk & PAGE_MASK)] !== EDGE) return NO_RAM;
    return this.#bank(chunk * CHUNK_BYTES + offset) === undefined ? NO_RAM : (this.#edges.get(chunk) ?? ZERO);
  }

  /** The same for one that is going to write: the chunk exists when it returns. -1 when there is no RAM. */
  claim(chunk: number, offset: number): number {
    const base = chunkBase(this, chunk, offset);
    if (base !== ZERO) return base;
    const fresh = this.#allocate();
    this.#place(chunk, fresh);
    return fresh;
  }

  save(): SavedRam {
    const chunks: number[] = [];
    const bytes: Uint8Array[] = [];
    for (const { pa, sizeBytes } of this.banks) {
      const end = Math.ceil((pa + sizeBytes) / CHUNK_BYTES);
      for (let chunk = Math.floor(pa / CHUNK_BYTES); chunk < end; chunk++) {
        const base = chunkBase(this, chunk, Math.max(pa - chunk * CHUNK_BYTES, 0));
        // Two banks may share a chunk.
        if (base <= ZERO || chunks.at(-1) === chunk) continue;
        chunks.push(chunk);
        bytes.push(this.bytes.slice(base * 4, base * 4 + CHUNK_BYTES));
      }
    }
    return { chunks, bytes };
  }

  load(state: unknown): void {
    const { chunks, bytes } = state as SavedRam;
    for (const { pa, sizeBytes } of this.banks) this.fill(pa, sizeBytes, 0);
    chunks.forEach((chunk, i) => {
      const bank = this.banks.find((b) => chunk * CHUNK_BYTES < b.pa + b.sizeBytes && (chunk + 1) * CHUNK_BYTES > b.pa);
      if (bank === undefined || bytes[i]?.length !== CHUNK_BYTES) {
        throw new SavedStateError(`RAM: there is no bank at 0x${(chunk * CHUNK_BYTES).toString(16)}`);
      }
      const base = this.claim(chunk, Math.max(bank.pa - chunk * CHUNK_BYTES, 0));
      this.bytes.set(bytes[i], base * 4);
    });
  }

  #makeDirectory(): Int32Array {
    const held = new Set<number>();
    const eachChunk = (visit: (chunk: number, whole: boolean) => void): void => {
      for (const { pa, sizeBytes } of this.banks) {
        const end = pa + sizeBytes;
        for (let chunk = Math.floor(pa / CHUNK_BYTES); chunk * CHUNK_BYTES < end; chunk++) {
          visit(chunk, chunk * CHUNK_BYTES >= pa && (chunk + 1) * CHUNK_BYTES <= end);
        }
      }
    };
    eachChunk((chunk) => held.add(chunk >>> PAGE_SHIFT));
    const directory = new Int32Array(ROOT_ENTRIES + (1 + held.size) * PAGE_ENTRIES).fill(NO_RAM);
    let next = ROOT_ENTRIES;
    directory.fill(next, 0, ROOT_ENTRIES);
    for (const page of held) {
      next += PAGE_ENTRIES;
      directory[page] = next;
    }
    eachChunk((chunk, whole) => {
      directory[directory[chunk >>> PAGE_SHIFT]! + (chunk & PAGE_MASK)] = whole ? ZERO : EDGE;
    });
    return directory;
  }

  #bank(pa: number): RamBank | undefined {
    const last = this.#last;
    if (pa >= last.pa && pa < last.pa + last.sizeBytes) return last;
    for (const bank of this.banks) {
      if (pa >= bank.pa && pa < bank.pa + bank.sizeBytes) {
        this.#last = bank;
        return bank;
      }
    }
    return undefined;
  }

  #need(pa: number, sizeBytes: number): void {
    assert(this.contains(pa, sizeBytes), () => `${sizeBytes} bytes at 0x${pa.toString(16)} are not RAM`);
  }

  #baseAt(pa: number): number {
    if (pa >= ADDRESS_LIMIT) return NO_RAM;
    return chunkBase(this, (pa * CHUNKS_PER_BYTE) | 0, pa & CHUNK_OFFSET_MASK);
  }

  #forRead(pa: number): number {
    const base = this.#baseAt(pa);
    assert(base >= 0, () => `0x${pa.toString(16)} is not RAM`);
    return base;
  }

  #forWrite(pa: number): number {
    let base = this.#baseAt(pa);
    if (base <= ZERO) {
      assert(base === ZERO, () => `0x${pa.toString(16)} is not RAM`);
      base = this.claim((pa * CHUNKS_PER_BYTE) | 0, pa & CHUNK_OFFSET_MASK);
    }
    return base;
  }

  #place(chunk: number, base: number): void {
    const at = this.directory[chunk >>> PAGE_SHIFT]! + (chunk & PAGE_MASK);
    if (this.directory[at] === EDGE) this.#edges.set(chunk, base);
    else this.directory[at] = base;
  }

  #drop(chunk: number, base: number): void {
    this.#place(chunk, ZERO);
    this.#free.push(base);
  }

  /** Room for a chunk, all zero. */
  #allocate(): number {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#used === this.#room) this.#grow();
    return this.#used++ * CHUNK_WORDS;
  }

  #grow(): void {
    assert(this.#room < ROOM_MAX, 'more than 8 GiB of RAM were written to');
    this.#room = Math.min(this.#room * 2, ROOM_MAX);
    const words = new Int32Array(this.#room * CHUNK_WORDS);
    words.set(this.words);
    this.words = words;
    this.bytes = new Uint8Array(words.buffer);
  }
}

/**
 * First word in `ram.words` of chunk `chunk` (address / 2^21, below 2^27), for one that reads at byte `offset` of it; -1
 * when there is no RAM. 0: the chunk was never written; who wants to write there asks `ram.claim`.
 */
export function chunkBase(ram: Ram, chunk: number, offset: number): number {
  const { directory } = ram;
  const base = directory[(directory[chunk >>> PAGE_SHIFT]! + (chunk & PAGE_MASK)) | 0]!;
  return base >= 0 ? base : ram.edgeBase(chunk, offset);
}

/** The same for a chunk that one bank covers whole; -1 for one at the edge of a bank too. */
export function wholeChunkBase(ram: Ram, chunk: number): number {
  const { directory } = ram;
  const base = directory[(directory[chunk >>> PAGE_SHIFT]! + (chunk & PAGE_MASK)) | 0]!;
  return base >= 0 ? base : NO_RAM;
}

/** Room for `chunks`, or for fewer where the host does not promise so much at once. */
function roomFor(chunks: number): Int32Array {
  for (let room = chunks; ; room = Math.ceil(room / 2)) {
    try {
      return new Int32Array(room * CHUNK_WORDS);
    } catch (error) {
      if (!(error instanceof RangeError) || room <= 8) throw error;
    }
  }
}

function checkedBanks(banks: readonly RamBank[]): readonly RamBank[] {
  assert(banks.length > 0, 'a machine without RAM');
  for (const { pa, sizeBytes } of banks) {
    const whole = pa % 4096 === 0 && sizeBytes % 4096 === 0 && sizeBytes > 0;
    assert(whole, `RAM bank at 0x${pa.toString(16)} is not made of whole pages`);
    assert(pa + sizeBytes <= ADDRESS_LIMIT, `RAM bank at 0x${pa.toString(16)} ends above 48 bits`);
  }
  const sorted = [...banks].sort((a, b) => a.pa - b.pa);
  for (let i = 1; i < sorted.length; i++) {
    const below = sorted[i - 1]!;
    assert(below.pa + below.sizeBytes <= sorted[i]!.pa, `RAM banks overlap at 0x${sorted[i]!.pa.toString(16)}`);
  }
  return sorted;
}

/** Copies without making a view when there is little to copy. */
export function copyBytes(
  source: Uint8Array,
  sourceAt: number,
  target: Uint8Array,
  targetAt: number,
  length: number,
): void {
  if (length <= 64) {
    for (let i = 0; i < length; i++) target[targetAt + i] = source[sourceAt + i]!;
    return;
  }
  const whole = sourceAt === 0 && length === source.length;
  target.set(whole ? source : source.subarray(sourceAt, sourceAt + length), targetAt);
}
