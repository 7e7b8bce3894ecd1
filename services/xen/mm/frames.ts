/**
 * The machine's memory as Xen hands it out: a buddy allocator of 4 KiB frames, and for each frame who owns it and how
 * often it is referenced (xen/common/page_alloc.c and struct page_info).
 * A frame of a domain starts with one reference, that of its allocation. A foreign or grant mapping takes another, so
 * that a frame whose owner dies stays until the last mapping of it is gone.
 * The highest free memory goes first, as Xen keeps low memory for devices that need it.
 * Not modelled: NUMA placement, the page type count; a frame has one count.
 */
import { XEN_PAGE_SHIFT, XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { assert } from '#shared/core/assert.ts';
import { XenError } from '../error.ts';

/** Frames of one allocation at most: 4 GiB. */
const ORDER_MAX = 20;
/** Frames described together: 2 MiB. */
const CHUNK = 512;

/** Owners that are no domain. */
export const OWNER_FREE = -1;
export const OWNER_XEN = -2;

interface Chunk {
  readonly owner: Int32Array;
  readonly refs: Uint16Array;
}

export class Frames {
  /** By order: the first frames of free blocks, each naturally aligned. */
  readonly #free: Set<number>[] = Array.from({ length: ORDER_MAX + 1 }, () => new Set<number>());
  readonly #chunks = new Map<number, Chunk>();
  #freeCount = 0;
  #totalCount = 0;

  /** Frames that nobody has. */
  get free(): number {
    return this.#freeCount;
  }

  /** Frames that were given to the allocator. */
  get total(): number {
    return this.#totalCount;
  }

  /** Gives [pa, pa + sizeBytes) to the allocator; partial pages at the ends are left out. */
  addRange(pa: number, sizeBytes: number): void {
    const first = Math.ceil(pa / XEN_PAGE_SIZE);
    const end = Math.floor((pa + sizeBytes) / XEN_PAGE_SIZE);
    if (end <= first) return;
    this.#totalCount += end - first;
    this.#freeRun(first, end - first);
  }

  /** The first of 2^order frames, naturally aligned, owned by Xen with one reference each. Throws XenError ENOMEM. */
  allocPages(order: number): number {
    const mfn = this.tryAllocPages(order);
    if (mfn === undefined) throw new XenError('ENOMEM', `no 2^${order} frames in a row are free`);
    return mfn;
  }

  /** As allocPages; undefined when there are none. */
  tryAllocPages(order: number): number | undefined {
    assert(order >= 0, `order ${order}`);
    let best = -1;
    let from = 0;
    for (let at = order; at <= ORDER_MAX; at++) {
      for (const mfn of this.#free[at]!) {
        if (mfn <= best) continue;
        best = mfn;
        from = at;
      }
    }
    if (best < 0) return undefined;
    this.#free[from]!.delete(best);
    for (let half = from - 1; half >= order; half--) {
      this.#free[half]!.add(best);
      best += 2 ** half;
    }
    this.#freeCount -= 2 ** order;
    this.#set(best, 2 ** order, OWNER_XEN, 1);
    return best;
  }

  /** Gives back frames of Xen. Whoever may have written them for a guest scrubs them before. */
  freePages(mfn: number, order: number): void {
    this.freeRun(mfn, 2 ** order);
  }

  /** Gives back `count` frames of Xen from `mfn` on. */
  freeRun(mfn: number, count: number): void {
    for (let i = 0; i < count; i++) {
      assert(this.ownerOf(mfn + i) === OWNER_XEN, () => `mfn ${hex(mfn + i)} of ${this.ownerOf(mfn + i)} was freed`);
    }
    this.#freeRun(mfn, count);
  }

  /** The address of `sizeBytes` of memory for Xen, aligned to `alignBytes` (a power of two). Throws XenError ENOMEM. */
  allocAligned(sizeBytes: number, alignBytes: number): number {
    const count = Math.max(1, Math.ceil(sizeBytes / XEN_PAGE_SIZE));
    const order = Math.max(orderFor(count), orderFor(Math.ceil(alignBytes / XEN_PAGE_SIZE)));
    const mfn = this.allocPages(order);
    if (2 ** order > count) this.freeRun(mfn + count, 2 ** order - count);
    return mfn * XEN_PAGE_SIZE;
  }

  /** Gives back what allocAligned returned for the same size. */
  freeAligned(pa: number, sizeBytes: number): void {
    this.freeRun(pa / XEN_PAGE_SIZE, Math.max(1, Math.ceil(sizeBytes / XEN_PAGE_SIZE)));
  }

  /** Frames of Xen become a domain's. The one reference that each has is that of its allocation. */
  assign(mfn: number, count: number, domid: number): void {
    for (let i = 0; i < count; i++) {
      assert(this.ownerOf(mfn + i) === OWNER_XEN, () => `mfn ${hex(mfn + i)} was assigned twice`);
    }
    this.#set(mfn, count, domid, 1);
  }

  /** The owner's domid, OWNER_XEN, or OWNER_FREE (also for what is no memory of the allocator). */
  ownerOf(mfn: number): number {
    return this.#chunks.get(Math.floor(mfn / CHUNK))?.owner[mfn % CHUNK] ?? OWNER_FREE;
  }

  refsOf(mfn: number): number {
    return this.#chunks.get(Math.floor(mfn / CHUNK))?.refs[mfn % CHUNK] ?? 0;
  }

  /** Takes a reference to a frame of `domid`; false when it is not that domain's. */
  getPage(mfn: number, domid: number): boolean {
    if (this.ownerOf(mfn) !== domid) return false;
    const refs = this.#chunks.get(Math.floor(mfn / CHUNK))!.refs;
    assert(refs[mfn % CHUNK]! > 0 && refs[mfn % CHUNK]! < 0xffff, () => `mfn ${hex(mfn)} has a bad count`);
    refs[mfn % CHUNK]!++;
    return true;
  }

  /**
   * Drops a reference. True when it was the last: the frame is Xen's now, and the caller scrubs it and calls freePages.
   */
  putPage(mfn: number): boolean {
    const chunk = this.#chunks.get(Math.floor(mfn / CHUNK));
    const i = mfn % CHUNK;
    assert(
      chunk !== undefined && chunk.owner[i]! >= 0 && chunk.refs[i]! > 0,
      () => `mfn ${hex(mfn)} was put too often`,
    );
    chunk.refs[i]!--;
    if (chunk.refs[i] !== 0) return false;
    chunk.owner[i] = OWNER_XEN;
    chunk.refs[i] = 1;
    return true;
  }

  #set(mfn: number, count: number, owner: number, refs: number): void {
    for (let at = mfn; at < mfn + count; ) {
      const index = Math.floor(at / CHUNK);
      let chunk = this.#chunks.get(index);
      if (chunk === undefined) {
        chunk = { owner: new Int32Array(CHUNK).fill(OWNER_FREE), refs: new Uint16Array(CHUNK) };
        this.#chunks.set(index, chunk);
      }
      const from = at % CHUNK;
      const to = Math.min(CHUNK, from + mfn + count - at);
      chunk.owner.fill(owner, from, to);
      chunk.refs.fill(refs, from, to);
      at += to - from;
    }
  }

  #freeRun(first: number, count: number): void {
    // Only what was handed out has a record; memory that is new has none.
    for (let index = Math.floor(first / CHUNK); index * CHUNK < first + count; index++) {
      const chunk = this.#chunks.get(index);
      if (chunk === undefined) continue;
      const from = Math.max(0, first - index * CHUNK);
      const to = Math.min(CHUNK, first + count - index * CHUNK);
      chunk.owner.fill(OWNER_FREE, from, to);
      chunk.refs.fill(0, from, to);
    }
    for (let at = first; at < first + count; ) {
      const order = largestOrder(at, first + count - at);
      this.#freeBlock(at, order);
      at += 2 ** order;
    }
    this.#freeCount += count;
  }

  #freeBlock(mfn: number, order: number): void {
    let block = mfn;
    let at = order;
    for (; at < ORDER_MAX; at++) {
      const size = 2 ** at;
      const buddy = (block / size) % 2 === 0 ? block + size : block - size;
      if (!this.#free[at]!.delete(buddy)) break;
      block = Math.min(block, buddy);
    }
    this.#free[at]!.add(block);
  }
}

/** The smallest order whose block has at least `count` frames. */
export function orderFor(count: number): number {
  let order = 0;
  while (2 ** order < count) order++;
  return order;
}

/** The largest order of a block that starts at `at`, aligned, and is no longer than `count`. */
function largestOrder(at: number, count: number): number {
  let order = 0;
  while (order < ORDER_MAX && 2 ** (order + 1) <= count && at % 2 ** (order + 1) === 0) order++;
  return order;
}

export function frameOf(pa: number): number {
  return Math.floor(pa / XEN_PAGE_SIZE);
}

export function addressOf(frame: number): number {
  return frame * 2 ** XEN_PAGE_SHIFT;
}

function hex(n: number): string {
  return `0x${n.toString(16)}`;
}
