/**
 * The physical bus: every master (CPU ports, EL2, devices behind their SMMU) sees the same map of RAM and register
 * blocks. RAM takes any length and alignment; a register block takes aligned accesses of 1, 2 and 4 bytes, and what is
 * longer is cut into them in rising order, so 8 bytes go low half first.
 * Where nothing is mapped the bus says so, and the master decides what that means (an external abort for a CPU).
 */
import { assert } from '#shared/core/assert.ts';
import { CHUNK_BYTES, copyBytes, type Ram, wholeChunkBase } from './ram.ts';
import type { MmioTarget, Requester } from './transaction.ts';

const HIGH = 0x1_0000_0000;
// For the hot path: what is imported is no constant to the compiler but a variable of unknown type.
const CHUNK_MASK = CHUNK_BYTES - 1;
const wholeBase = wholeChunkBase;
const copy = copyBytes;

/** What a device writes at once into one register block may begin this far in at most; elsewhere it takes the longer way. */
const PIECE_MAX = 2 ** 30;
const NO_TARGET: MmioTarget = { name: 'nobody', read: () => 0, write: () => {} };

export interface Region {
  readonly base: number;
  readonly end: number;
  readonly target: MmioTarget;
}

export class Bus {
  declare readonly ram: Ram;
  /** What the last `read` brought: the low 32 bits, and the high ones of an 8-byte read. */
  low = 0;
  high = 0;
  /** The CPU that makes the access under way, for registers of which each CPU has its own; the first unless EL2 says so. */
  cpu = 0;
  /** By base. */
  readonly #regions: Region[] = [];
  #last: Region | undefined;
  /** Of `#last` once more, for device writes: bits [47:32] and [31:0] of its base, its size, where it is of use. */
  #lastHigh = -1;
  #lastLow = 0;
  #lastBytes = 0;
  #lastTarget: MmioTarget = NO_TARGET;

  constructor(ram: Ram) {
    this.ram = ram;
  }

  /** Puts `target` at [base, base + sizeBytes). It may touch neither RAM nor another target. */
  map(base: number, sizeBytes: number, target: MmioTarget): void {
    const end = base + sizeBytes;
    assert(sizeBytes > 0 && base % 4 === 0, `${target.name} at ${hex(base)} is empty or not aligned to 4 bytes`);
    for (const bank of this.ram.banks) {
      assert(
        end <= bank.pa || base >= bank.pa + bank.sizeBytes,
        `${target.name} at ${hex(base)} lies over RAM at ${hex(bank.pa)}`,
      );
    }
    for (const other of this.#regions) {
      assert(
        end <= other.base || base >= other.end,
        `${target.name} at ${hex(base)} lies over ${other.target.name} at ${hex(other.base)}`,
      );
    }
    this.#regions.push({ base, end, target });
    this.#regions.sort((a, b) => a.base - b.base);
  }

  /** The register block that holds `pa`, or undefined (also for RAM). */
  find(pa: number): Region | undefined {
    const last = this.#last;
    if (last !== undefined && pa >= last.base && pa < last.end) return last;
    const regions = this.#regions;
    let from = 0;
    let to = regions.length;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if (regions[middle]!.end <= pa) from = middle + 1;
      else to = middle;
    }
    const region = regions[from];
    if (region === undefined || pa < region.base) return undefined;
    this.#last = region;
    this.#lastTarget = region.target;
    this.#lastHigh = Math.floor(region.base / HIGH);
    this.#lastLow = region.base | 0;
    this.#lastBytes =
      Math.floor((region.end - 1) / HIGH) === this.#lastHigh ? Math.min(region.end - region.base, PIECE_MAX) : 0;
    return region;
  }

  /** Every mapped block, by address. */
  get regions(): readonly Region[] {
    return this.#regions;
  }

  /** One aligned access of 1, 2, 4 or 8 bytes into `low` and `high`. False: nothing there, or not aligned. */
  read(pa: number, sizeBytes: number, requester?: Requester): boolean {
    if (!aligned(pa, sizeBytes)) return false;
    this.high = 0;
    const { ram } = this;
    if (ram.contains(pa, sizeBytes)) {
      if (sizeBytes === 1) this.low = ram.read8(pa);
      else if (sizeBytes === 2) this.low = ram.read16(pa);
      else {
        this.low = ram.read32(pa);
        if (sizeBytes === 8) this.high = ram.read32(pa + 4);
      }
      return true;
    }
    const region = this.find(pa);
    if (region === undefined || pa + sizeBytes > region.end) return false;
    const offset = pa - region.base;
    if (sizeBytes === 8) {
      const low = region.target.read(offset, 4, requester) >>> 0;
      this.high = region.target.read(offset + 4, 4, requester) >>> 0;
      this.low = low; // after the target ran: it may use this bus itself
    } else this.low = region.target.read(offset, sizeBytes, requester) >>> 0;
    return true;
  }

  /** One aligned access of 1, 2, 4 or 8 bytes. False: nothing there, or not aligned, and nothing was written. */
  write(pa: number, sizeBytes: number, low: number, high = 0, requester?: Requester): boolean {
    if (!aligned(pa, sizeBytes)) return false;
    const { ram } = this;
    if (ram.contains(pa, sizeBytes)) {
      if (sizeBytes === 1) ram.write8(pa, low);
      else if (sizeBytes === 2) ram.write16(pa, low);
      else {
        ram.write32(pa, low);
        if (sizeBytes === 8) ram.write32(pa + 4, high);
      }
      return true;
    }
    const region = this.find(pa);
    if (region === undefined || pa + sizeBytes > region.end) return false;
    const offset = pa - region.base;
    region.target.write(offset, Math.min(sizeBytes, 4), low >>> 0, requester);
    if (sizeBytes === 8) region.target.write(offset + 4, 4, high >>> 0, requester);
    return true;
  }

  /** Reads [pa, pa + sizeBytes) to into[offset..]. Returns the bytes done; fewer: nothing is mapped from there on. */
  readBytes(
    pa: number,
    into: Uint8Array,
    offset = 0,
    sizeBytes: number = into.length - offset,
    requester?: Requester,
  ): number {
    let done = 0;
    while (done < sizeBytes) {
      const at = pa + done;
      const inRam = Math.min(this.ram.bytesFrom(at), sizeBytes - done);
      if (inRam > 0) {
        this.ram.readBytes(at, into, offset + done, inRam);
        done += inRam;
        continue;
      }
      const region = this.find(at);
      if (region === undefined) return done;
      const size = pieceBytes(at, Math.min(sizeBytes - done, region.end - at));
      const value = region.target.read(at - region.base, size, requester);
      for (let i = 0; i < size; i++) into[offset + done + i] = value >>> (8 * i);
      done += size;
    }
    return done;
  }

  /** Writes from[offset..] to [pa, pa + sizeBytes). Returns the bytes done; fewer: nothing is mapped from there on. */
  writeBytes(
    pa: number,
    from: Uint8Array,
    offset = 0,
    sizeBytes: number = from.length - offset,
    requester?: Requester,
  ): number {
    let done = 0;
    while (done < sizeBytes) {
      const at = pa + done;
      const inRam = Math.min(this.ram.bytesFrom(at), sizeBytes - done);
      if (inRam > 0) {
        this.ram.writeBytes(at, from, offset + done, inRam);
        done += inRam;
        continue;
      }
      const region = this.find(at);
      if (region === undefined) return done;
      const size = pieceBytes(at, Math.min(sizeBytes - done, region.end - at));
      let value = 0;
      for (let i = 0; i < size; i++) value |= from[offset + done + i]! << (8 * i);
      region.target.write(at - region.base, size, value >>> 0, requester);
      done += size;
    }
    return done;
  }

  /**
   * `readBytes` for a master that has the address `high`:`low` in two 32-bit halves, of a piece that does not cross a
   * multiple of 2 MiB: what DMA is made of. Nothing is allocated.
   */
  readPiece(
    high: number,
    low: number,
    into: Uint8Array,
    offset: number,
    sizeBytes: number,
    requester: Requester,
  ): number {
    const { ram } = this;
    const base = wholeBase(ram, (high << 11) | (low >>> 21));
    if (base >= 0) {
      copy(ram.bytes, base * 4 + (low & CHUNK_MASK), into, offset, sizeBytes);
      return sizeBytes;
    }
    return this.readBytes(high * HIGH + (low >>> 0), into, offset, sizeBytes, requester);
  }

  /** The same for `writeBytes`. One aligned access to the register block that was met last goes there at once. */
  writePiece(
    high: number,
    low: number,
    from: Uint8Array,
    offset: number,
    sizeBytes: number,
    requester: Requester,
  ): number {
    const { ram } = this;
    const chunk = (high << 11) | (low >>> 21);
    let base = wholeBase(ram, chunk);
    if (base >= 0) {
      if (base === 0) base = ram.claim(chunk, 0);
      copy(from, offset, ram.bytes, base * 4 + (low & CHUNK_MASK), sizeBytes);
      return sizeBytes;
    }
    // A block that lies across a multiple of 4 GiB has no extent here, and what is before it an offset above 2^31.
    const at = (low - this.#lastLow) >>> 0;
    const mask = (sizeBytes - 1) | 0;
    const oneAccess = sizeBytes <= 4 && (sizeBytes & mask) === 0 && (low & mask) === 0;
    if (high !== this.#lastHigh || at + sizeBytes > this.#lastBytes || !oneAccess) {
      return this.writeBytes(high * HIGH + (low >>> 0), from, offset, sizeBytes, requester);
    }
    let value = from[offset]!;
    if (mask !== 0) value |= from[(offset + 1) | 0]! << 8;
    if (mask === 3) value |= (from[(offset + 2) | 0]! << 16) | (from[(offset + 3) | 0]! << 24);
    this.#lastTarget.write(at, sizeBytes, value >>> 0, requester);
    return sizeBytes;
  }
}

function aligned(pa: number, sizeBytes: number): boolean {
  return (sizeBytes === 1 || sizeBytes === 2 || sizeBytes === 4 || sizeBytes === 8) && (pa & (sizeBytes - 1)) === 0;
}

/** The widest aligned access of up to 4 bytes at `pa` within `left` bytes. */
function pieceBytes(pa: number, left: number): number {
  if ((pa & 3) === 0 && left >= 4) return 4;
  return (pa & 1) === 0 && left >= 2 ? 2 : 1;
}

function hex(n: number): string {
  return `0x${n.toString(16)}`;
}
