/**
 * Physical memory: banks of RAM, each in chunks of 2 MiB that exist once something other than zero was written.
 * A chunk is seen as bytes and as 32-bit words over the same buffer. Nothing is allocated per access.
 * RAM reads as zero after power-on. Not modelled: ECC, caches; every master sees the same bytes at once.
 */
import { assert } from '#shared/core/assert.ts';

export const CHUNK_BYTES = 0x20_0000;
const CHUNK_OFFSET_MASK = CHUNK_BYTES - 1;

export interface RamBank {
  readonly pa: number;
  readonly sizeBytes: number;
}

interface Chunk {
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
}

/** A bank, and the chunks over it; chunk 0 starts at the multiple of 2 MiB at or below the bank. */
class Bank {
  readonly start: number;
  readonly end: number;
  readonly chunkBase: number;
  readonly chunks: (Chunk | undefined)[];

  constructor(bank: RamBank) {
    this.start = bank.pa;
    this.end = bank.pa + bank.sizeBytes;
    this.chunkBase = bank.pa - (bank.pa % CHUNK_BYTES);
    this.chunks = new Array(Math.ceil((this.end - this.chunkBase) / CHUNK_BYTES)).fill(undefined);
  }
}

function makeChunk(): Chunk {
  const words = new Int32Array(CHUNK_BYTES / 4);
  return { words, bytes: new Uint8Array(words.buffer) };
}

/** What a chunk that was never written reads as. Nothing writes to it. */
const ZERO = makeChunk();

export class Ram {
  readonly banks: readonly RamBank[];
  readonly #banks: readonly Bank[];
  #last: Bank;

  /** Banks are multiples of 4 KiB and do not overlap; at least one. */
  constructor(banks: readonly RamBank[]) {
    assert(banks.length > 0, 'a machine without RAM');
    for (const bank of banks) {
      assert(
        bank.pa % 4096 === 0 && bank.sizeBytes % 4096 === 0 && bank.sizeBytes > 0,
        `RAM bank at 0x${bank.pa.toString(16)} is not made of whole pages`,
      );
    }
    this.banks = [...banks].sort((a, b) => a.pa - b.pa);
    for (let i = 1; i < this.banks.length; i++) {
      const below = this.banks[i - 1]!;
      assert(
        below.pa + below.sizeBytes <= this.banks[i]!.pa,
        `RAM banks overlap at 0x${this.banks[i]!.pa.toString(16)}`,
      );
    }
    this.#banks = this.banks.map((bank) => new Bank(bank));
    this.#last = this.#banks[0]!;
  }

  /** Whether all of [pa, pa + sizeBytes) lies in one bank. */
  contains(pa: number, sizeBytes: number): boolean {
    const bank = this.#bank(pa);
    return bank !== undefined && pa + sizeBytes <= bank.end;
  }

  /** Bytes from `pa` to the end of its bank, 0 when there is no RAM. */
  bytesFrom(pa: number): number {
    const bank = this.#bank(pa);
    return bank === undefined ? 0 : bank.end - pa;
  }

  /**
   * The words of the 2 MiB chunk around `pa`, for reading only; word `(pa & 0x1fffff) >>> 2` is the one at `pa`.
   * Undefined where there is no RAM. Not to be kept: a later write may put another buffer in its place.
   */
  chunkWords(pa: number): Int32Array | undefined {
    const bank = this.#bank(pa);
    if (bank === undefined) return undefined;
    return (bank.chunks[((pa - bank.chunkBase) / CHUNK_BYTES) | 0] ?? ZERO).words;
  }

  read8(pa: number): number {
    return this.#forRead(pa).bytes[pa & CHUNK_OFFSET_MASK]!;
  }

  /** Aligned. */
  read16(pa: number): number {
    const bytes = this.#forRead(pa).bytes;
    const at = pa & CHUNK_OFFSET_MASK;
    return bytes[at]! | (bytes[at + 1]! << 8);
  }

  /** Aligned; unsigned. */
  read32(pa: number): number {
    return this.#forRead(pa).words[(pa & CHUNK_OFFSET_MASK) >>> 2]! >>> 0;
  }

  write8(pa: number, value: number): void {
    this.#forWrite(pa).bytes[pa & CHUNK_OFFSET_MASK] = value;
  }

  /** Aligned. */
  write16(pa: number, value: number): void {
    const bytes = this.#forWrite(pa).bytes;
    const at = pa & CHUNK_OFFSET_MASK;
    bytes[at] = value;
    bytes[at + 1] = value >>> 8;
  }

  /** Aligned. */
  write32(pa: number, value: number): void {
    this.#forWrite(pa).words[(pa & CHUNK_OFFSET_MASK) >>> 2] = value;
  }

  /** Copies into[offset, offset + sizeBytes) from `pa` on; all of it must be RAM of one bank. */
  readBytes(pa: number, into: Uint8Array, offset = 0, sizeBytes: number = into.length - offset): void {
    const bank = this.#need(pa, sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const at = (pa + done) & CHUNK_OFFSET_MASK;
      const length = Math.min(sizeBytes - done, CHUNK_BYTES - at);
      const chunk = bank.chunks[((pa + done - bank.chunkBase) / CHUNK_BYTES) | 0];
      if (chunk === undefined) into.fill(0, offset + done, offset + done + length);
      else copy(chunk.bytes, at, into, offset + done, length);
      done += length;
    }
  }

  /** Copies from[offset, offset + sizeBytes) to `pa` on; all of it must be RAM of one bank. */
  writeBytes(pa: number, from: Uint8Array, offset = 0, sizeBytes: number = from.length - offset): void {
    this.#need(pa, sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const at = (pa + done) & CHUNK_OFFSET_MASK;
      const length = Math.min(sizeBytes - done, CHUNK_BYTES - at);
      copy(from, offset + done, this.#forWrite(pa + done).bytes, at, length);
      done += length;
    }
  }

  /** Sets every byte of [pa, pa + sizeBytes). Zeroing a whole chunk gives its memory back to the host. */
  fill(pa: number, sizeBytes: number, byte: number): void {
    const bank = this.#need(pa, sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const at = (pa + done) & CHUNK_OFFSET_MASK;
      const length = Math.min(sizeBytes - done, CHUNK_BYTES - at);
      const i = ((pa + done - bank.chunkBase) / CHUNK_BYTES) | 0;
      if (byte !== 0) this.#forWrite(pa + done).bytes.fill(byte, at, at + length);
      else if (length === CHUNK_BYTES) bank.chunks[i] = undefined;
      else bank.chunks[i]?.bytes.fill(0, at, at + length);
      done += length;
    }
  }

  /** Host memory behind what was written. */
  get residentBytes(): number {
    let count = 0;
    for (const bank of this.#banks) for (const chunk of bank.chunks) if (chunk !== undefined) count++;
    return count * CHUNK_BYTES;
  }

  #bank(pa: number): Bank | undefined {
    const last = this.#last;
    if (pa >= last.start && pa < last.end) return last;
    for (const bank of this.#banks) {
      if (pa >= bank.start && pa < bank.end) {
        this.#last = bank;
        return bank;
      }
    }
    return undefined;
  }

  #need(pa: number, sizeBytes: number): Bank {
    const bank = this.#bank(pa);
    assert(
      bank !== undefined && pa + sizeBytes <= bank.end,
      () => `${sizeBytes} bytes at 0x${pa.toString(16)} are not RAM`,
    );
    return bank;
  }

  #forRead(pa: number): Chunk {
    const bank = this.#need(pa, 1);
    return bank.chunks[((pa - bank.chunkBase) / CHUNK_BYTES) | 0] ?? ZERO;
  }

  #forWrite(pa: number): Chunk {
    const bank = this.#need(pa, 1);
    const i = ((pa - bank.chunkBase) / CHUNK_BYTES) | 0;
    let chunk = bank.chunks[i];
    if (chunk === undefined) {
      chunk = makeChunk();
      bank.chunks[i] = chunk;
    }
    return chunk;
  }
}

/** Copies without making a view when there is little to copy. */
function copy(source: Uint8Array, sourceAt: number, target: Uint8Array, targetAt: number, length: number): void {
  if (length <= 32) {
    for (let i = 0; i < length; i++) target[targetAt + i] = source[sourceAt + i]!;
    return;
  }
  const whole = sourceAt === 0 && length === source.length;
  target.set(whole ? source : source.subarray(sourceAt, sourceAt + length), targetAt);
}
