/**
 * Where BARs go in a guest's address space (T19, T21): two holes, one below 4 GiB and limited, one above. A 64-bit
 * prefetchable BAR goes above; every other one below, and a 64-bit one that finds no room there above.
 * A BAR takes whole pages at an address aligned to its size; larger BARs are placed first. The toolstack's own record:
 * nobody else knows what is free.
 */
import {
  GUEST_MMIO_BAR_BASE_32,
  GUEST_MMIO_BAR_BASE_64,
  GUEST_MMIO_BAR_SIZE_32,
  GUEST_MMIO_BAR_SIZE_64,
  XEN_PAGE_SIZE,
} from '#shared/abi/arch-arm.ts';

export interface HoleRequest {
  readonly sizeBytes: number;
  /** A 64-bit BAR. */
  readonly wide: boolean;
  readonly prefetchable: boolean;
}

interface Taken {
  readonly start: number;
  readonly end: number;
}

class Hole {
  readonly #start: number;
  readonly #end: number;
  /** In ascending order. */
  readonly taken: Taken[] = [];

  constructor(start: number, sizeBytes: number) {
    this.#start = start;
    this.#end = start + sizeBytes;
  }

  /** The first free place of `sizeBytes`, aligned to it; undefined when there is none. */
  take(sizeBytes: number): number | undefined {
    let at = alignUp(this.#start, sizeBytes);
    let i = 0;
    for (; i < this.taken.length; i++) {
      const t = this.taken[i]!;
      if (at + sizeBytes <= t.start) break;
      if (t.end > at) at = alignUp(t.end, sizeBytes);
    }
    if (at + sizeBytes > this.#end) return undefined;
    this.taken.splice(i, 0, { start: at, end: at + sizeBytes });
    return at;
  }

  give(start: number): boolean {
    const i = this.taken.findIndex((t) => t.start === start);
    if (i < 0) return false;
    this.taken.splice(i, 1);
    return true;
  }
}

export class MmioHoles {
  readonly #low = new Hole(GUEST_MMIO_BAR_BASE_32, GUEST_MMIO_BAR_SIZE_32);
  readonly #high = new Hole(GUEST_MMIO_BAR_BASE_64, GUEST_MMIO_BAR_SIZE_64);

  /** Places all BARs of a function, in the order given; undefined, and nothing taken, when one finds no room. */
  take(requests: readonly HoleRequest[]): number[] | undefined {
    const order = requests.map((_, i) => i).sort((a, b) => requests[b]!.sizeBytes - requests[a]!.sizeBytes);
    const placed = new Array<number>(requests.length).fill(0);
    const done: number[] = [];
    for (const i of order) {
      const ipa = this.#takeOne(requests[i]!);
      if (ipa === undefined) {
        this.give(done);
        return undefined;
      }
      placed[i] = ipa;
      done.push(ipa);
    }
    return placed;
  }

  give(addresses: readonly number[]): void {
    for (const ipa of addresses) if (!this.#low.give(ipa)) this.#high.give(ipa);
  }

  /** What is taken, in ascending order. */
  inspect(): { ipa: number; sizeBytes: number }[] {
    return [...this.#low.taken, ...this.#high.taken].map((t) => ({ ipa: t.start, sizeBytes: t.end - t.start }));
  }

  #takeOne(request: HoleRequest): number | undefined {
    const sizeBytes = alignUp(request.sizeBytes, XEN_PAGE_SIZE);
    if (request.wide && request.prefetchable) return this.#high.take(sizeBytes);
    return this.#low.take(sizeBytes) ?? (request.wide ? this.#high.take(sizeBytes) : undefined);
  }
}

function alignUp(value: number, align: number): number {
  return Math.ceil(value / align) * align;
}
