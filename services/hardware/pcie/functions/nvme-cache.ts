/**
 * What of a namespace is not on its medium yet. The contents themselves are in the namespace; here are the pages of
 * 4 KiB that differ from the medium, and those that were written there since the last time that all was made durable.
 * One request is under way at a time, the oldest pages first; what comes meanwhile goes in the next. Whoever waits
 * for durability waits for what was written before, and for nothing that comes later.
 * A request that fails fails all who wait. Its pages stay here, with all that were written since the last successful
 * synchronisation (nobody knows which of them are lost); they are tried again when the next one waits.
 */
import type { MediaPiece, MediaPort } from '../../bus/media.ts';
import { NVME_CHUNK_BYTES } from './nvme-namespace-shape.ts';

const PAGE_BYTES = 4096;
const PAGES = NVME_CHUNK_BYTES / PAGE_BYTES;
/** Bytes of one request, at most. */
const REQUEST_BYTES = 4 << 20;
const NO_DATA = new Uint8Array(0);

/** Pages of one chunk: a bit each, and the epoch of the oldest of them. */
interface Pages {
  mask: number;
  readonly epoch: number;
}

/** By chunk, oldest first. */
type PageSet = Map<number, Pages>;

interface Waiter {
  /** Pages of earlier epochs are what it waits for. */
  readonly epoch: number;
  readonly done: (ok: boolean) => void;
}

interface Request {
  readonly pages: PageSet;
  readonly sync: boolean;
  /** Waiters up to this epoch wait for nothing that comes after it. */
  readonly covers: number;
}

/** The contents that the cache writes out. */
export interface CachedContents {
  readonly bytes: number;
  /** Undefined for a chunk that is all zeroes. */
  chunk(index: number): Uint8Array | undefined;
}

export class NvmeWriteCache {
  readonly #contents: CachedContents;
  readonly #medium: string;
  readonly #port: MediaPort;
  #dirty: PageSet = new Map();
  /** On the medium, and perhaps not durable there. */
  #written: PageSet = new Map();
  #underWay: Request | undefined;
  #epoch = 1;
  #waiters: Waiter[] = [];
  #faulty = false;
  readonly #counts = { requests: 0, syncs: 0, faults: 0 };

  constructor(contents: CachedContents, medium: string, port: MediaPort) {
    this.#contents = contents;
    this.#medium = medium;
    this.#port = port;
  }

  /** Everything that was ever written is durable. */
  get isClean(): boolean {
    return this.#dirty.size === 0 && this.#written.size === 0 && this.#underWay === undefined;
  }

  /** The medium did not take what it was last given. */
  get isFaulty(): boolean {
    return this.#faulty;
  }

  /** The contents of these bytes have changed, or will before anything else happens. */
  mark(at: number, bytes: number): void {
    const last = Math.floor((at + bytes - 1) / PAGE_BYTES);
    for (let page = Math.floor(at / PAGE_BYTES); page <= last; ) {
      const chunk = Math.floor(page / PAGES);
      let mask = 0;
      for (; page <= last && Math.floor(page / PAGES) === chunk; page++) mask |= 1 << (page % PAGES);
      add(this.#dirty, chunk, mask, this.#epoch);
    }
  }

  /** Begins to write out what there is. A medium that does not take it is left alone until somebody waits. */
  writeOut(): void {
    if (!this.#faulty) this.#send();
  }

  /** Calls `done` when everything that was written so far is durable, or cannot be; never within the call. */
  whenDurable(done: (ok: boolean) => void): void {
    this.#waiters.push({ epoch: ++this.#epoch, done });
    this.#send();
  }

  /** The pages that a medium may not have: chunk and bits. */
  pages(): [number, number][] {
    const all: PageSet = new Map();
    for (const set of [this.#written, this.#underWay?.pages ?? new Map(), this.#dirty])
      for (const [chunk, { mask }] of set) add(all, chunk, mask, 0);
    return [...all].map(([chunk, { mask }]) => [chunk, mask]);
  }

  /** Nothing is under way and nobody waits; exactly these pages are to be written out. */
  load(pages: readonly (readonly [number, number])[]): void {
    this.#dirty = new Map();
    this.#written = new Map();
    this.#underWay = undefined;
    this.#waiters = [];
    this.#faulty = false;
    for (const [chunk, mask] of pages) add(this.#dirty, chunk, mask, 0);
  }

  inspect(): unknown {
    return { dirtyChunks: this.#dirty.size, clean: this.isClean, faulty: this.#faulty, ...this.#counts };
  }

  #send(): void {
    if (this.#underWay !== undefined) return;
    const pages: PageSet = new Map();
    const pieces: MediaPiece[] = [];
    for (const [chunk, dirty] of this.#dirty) {
      if (pages.size === REQUEST_BYTES / NVME_CHUNK_BYTES) break;
      this.#dirty.delete(chunk);
      pages.set(chunk, dirty);
      this.#cut(chunk, dirty.mask, pieces);
    }
    const left = this.#dirty.values().next().value?.epoch ?? Number.POSITIVE_INFINITY;
    const wanted = this.#waiters[0];
    const sync = wanted !== undefined && wanted.epoch <= left;
    if (pages.size === 0 && !sync) return;
    const request = { pages, sync, covers: Math.min(left, this.#epoch) };
    this.#underWay = request;
    this.#counts.requests++;
    if (sync) this.#counts.syncs++;
    this.#port.write(this.#medium, pieces, sync, (ok) => {
      if (this.#underWay === request) this.#onAnswer(request, ok);
    });
  }

  #onAnswer({ pages, sync, covers }: Request, ok: boolean): void {
    this.#underWay = undefined;
    let told: Waiter[];
    if (ok && sync) {
      this.#written = new Map();
      this.#faulty = false;
      told = this.#waiters.filter(({ epoch }) => epoch <= covers);
      this.#waiters = this.#waiters.filter(({ epoch }) => epoch > covers);
    } else if (ok) {
      for (const [chunk, { mask, epoch }] of pages) add(this.#written, chunk, mask, epoch);
      told = [];
    } else {
      this.#faulty = true;
      this.#counts.faults++;
      const again: PageSet = new Map();
      for (const set of [this.#written, pages]) for (const [chunk, { mask }] of set) add(again, chunk, mask, 0);
      for (const [chunk, { mask, epoch }] of this.#dirty) add(again, chunk, mask, epoch);
      this.#dirty = again;
      this.#written = new Map();
      told = this.#waiters;
      this.#waiters = [];
    }
    if (ok) this.#send();
    for (const { done } of told) done(ok);
  }

  /** Adds the pieces of one chunk: pages that follow each other are one piece. */
  #cut(index: number, mask: number, pieces: MediaPiece[]): void {
    const chunk = this.#contents.chunk(index);
    const start = index * NVME_CHUNK_BYTES;
    const room = Math.min(NVME_CHUNK_BYTES, this.#contents.bytes - start);
    for (let page = 0; page < PAGES; page++) {
      if ((mask & (1 << page)) === 0) continue;
      const from = page * PAGE_BYTES;
      while (page + 1 < PAGES && (mask & (1 << (page + 1))) !== 0) page++;
      const end = Math.min((page + 1) * PAGE_BYTES, room);
      // A copy: the contents may change before the medium has taken them.
      const piece =
        chunk === undefined ? { data: NO_DATA, zeroes: end - from } : { data: chunk.slice(from, end), zeroes: 0 };
      pieces.push({ offset: start + from, ...piece });
    }
  }
}

function add(set: PageSet, chunk: number, mask: number, epoch: number): void {
  const there = set.get(chunk);
  if (there === undefined) set.set(chunk, { mask, epoch });
  else there.mask |= mask;
}
