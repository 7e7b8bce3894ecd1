/**
 * The kernel's own memory: which ranges of the RAM that the device tree names are free, in whole pages, contiguous.
 * Not modelled: virtual memory, a page cache; everything that is not taken here is free.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { assert } from '#shared/core/assert.ts';
import { LIMITS } from '#shared/core/limits.ts';
import type { Op } from '#shared/core/op.ts';
import type { CpuBus } from '#shared/kernel/cpu-bus.ts';

/** A range of RAM, addresses as the guest sees them. */
export interface RamRange {
  readonly base: number;
  readonly sizeBytes: number;
}

/** No contiguous range of that size is free. */
export class OutOfMemory extends Error {
  override name = 'OutOfMemory';
}

export class Pages {
  readonly banks: readonly RamRange[];
  readonly #cpu: CpuBus;
  /** Free ranges, by address, never adjacent. */
  #free: { base: number; end: number }[];

  constructor(cpu: CpuBus, banks: readonly RamRange[]) {
    assert(banks.length > 0, 'a kernel without RAM');
    this.#cpu = cpu;
    this.banks = banks;
    this.#free = banks
      .map((b) => ({ base: roundUp(b.base, XEN_PAGE_SIZE), end: roundDown(b.base + b.sizeBytes, XEN_PAGE_SIZE) }))
      .filter((r) => r.end > r.base)
      .sort((a, b) => a.base - b.base);
  }

  get freeBytes(): number {
    return this.#free.reduce((sum, r) => sum + (r.end - r.base), 0);
  }

  /** Keeps the pages that `range` touches out of use, as far as they are RAM. */
  reserve(range: RamRange): void {
    const from = roundDown(range.base, XEN_PAGE_SIZE);
    const to = roundUp(range.base + range.sizeBytes, XEN_PAGE_SIZE);
    this.#free = this.#free.flatMap((r) =>
      [
        { base: r.base, end: Math.min(r.end, from) },
        { base: Math.max(r.base, to), end: r.end },
      ].filter((part) => part.end > part.base),
    );
  }

  /** Takes whole pages as they are, the highest that fit. Throws OutOfMemory. */
  take(sizeBytes: number, alignBytes: number = XEN_PAGE_SIZE): number {
    const size = roundUp(sizeBytes, XEN_PAGE_SIZE);
    const align = Math.max(alignBytes, XEN_PAGE_SIZE);
    for (let i = this.#free.length - 1; i >= 0; i--) {
      const base = roundDown(this.#free[i]!.end - size, align);
      if (base < this.#free[i]!.base) continue;
      this.reserve({ base, sizeBytes: size });
      return base;
    }
    throw new OutOfMemory(`no ${size} contiguous bytes are free (${this.freeBytes} in all)`);
  }

  /** Takes pages and zeroes them. Throws OutOfMemory. */
  *allocate(sizeBytes: number, alignBytes: number = XEN_PAGE_SIZE): Op<number> {
    const base = this.take(sizeBytes, alignBytes);
    const zeros = new Uint8Array(Math.min(roundUp(sizeBytes, XEN_PAGE_SIZE), LIMITS.bulkAccessBytes));
    for (let at = 0; at < sizeBytes; at += zeros.length) {
      yield* this.#cpu.write(
        base + at,
        zeros.subarray(0, Math.min(zeros.length, roundUp(sizeBytes, XEN_PAGE_SIZE) - at)),
      );
    }
    return base;
  }

  /** Gives back what `take` or `allocate` gave, with the same size. */
  free(base: number, sizeBytes: number): void {
    const end = base + roundUp(sizeBytes, XEN_PAGE_SIZE);
    assert(!this.#free.some((r) => base < r.end && r.base < end), () => `0x${base.toString(16)} is freed twice`);
    const merged: { base: number; end: number }[] = [];
    for (const r of [...this.#free, { base, end }].sort((a, b) => a.base - b.base)) {
      const last = merged.at(-1);
      if (last !== undefined && last.end === r.base) last.end = r.end;
      else merged.push({ ...r });
    }
    this.#free = merged;
  }
}

function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

function roundDown(value: number, to: number): number {
  return Math.floor(value / to) * to;
}
