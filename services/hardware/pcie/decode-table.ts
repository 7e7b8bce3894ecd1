/**
 * Who claims a memory address on one bus: BARs, VF BARs and bridge windows, kept by address as they open and close.
 * A look-up costs a binary search; an overlap is found too, and the first by device, function and register wins.
 */

/** What stands behind a range. */
export interface Claimant {
  readonly devfn: number;
  /** Aligned 1, 2 or 4 bytes at an address that `d` holds: the value, or -1 when the request failed further down. */
  readAt(d: Decoder, address: number, size: number): number;
  /** False when the request failed further down. */
  writeAt(d: Decoder, address: number, size: number, value: number): boolean;
}

/** One range that a function can claim, or a bridge pass down. Its owner opens and closes it. */
export interface Decoder {
  readonly owner: Claimant;
  /** Decides between ranges that overlap: the lower one claims. */
  readonly order: number;
  /** BAR index; a VF BAR is SRIOV_BAR + its index; a window of a bridge is WINDOW or WINDOW + 1. */
  readonly index: number;
  /** First and last address; `from` is -1 while it claims nothing. */
  from: number;
  to: number;
}

export const SRIOV_BAR = 16;
export const WINDOW = 32;

export function decoder(owner: Claimant, index: number): Decoder {
  return { owner, order: owner.devfn * 64 + index, index, from: -1, to: -1 };
}

export class DecodeTable {
  /** By `from`. */
  readonly #open: Decoder[] = [];
  /** `from` of #open[i], side by side for the search. */
  readonly #starts: number[] = [];
  /** The highest `to` among #open[0..i]. */
  readonly #reach: number[] = [];
  /** A stretch of addresses that nobody claims, as last found: most requests of devices go to one, and stay there. */
  #gapFrom = 0;
  #gapEnd = 0;

  /** Lets `d` claim [from, to]; a `from` above `to`, or below 0, closes it. */
  set(d: Decoder, from: number, to: number): void {
    if (from < 0 || from > to) from = to = -1;
    if (from === d.from && to === d.to) return;
    if (d.from >= 0) this.#remove(d);
    this.#gapEnd = 0;
    d.from = from;
    d.to = to;
    if (from >= 0) this.#insert(d);
  }

  /** Who claims `address`, leaving out what `except` owns; undefined: nobody. */
  find(address: number, except?: Claimant): Decoder | undefined {
    const open = this.#open;
    let best: Decoder | undefined;
    for (let i = this.#after(address) - 1; i >= 0 && this.#reach[i]! >= address; i--) {
      const d = open[i]!;
      if (d.to >= address && d.owner !== except && (best === undefined || d.order < best.order)) best = d;
    }
    return best;
  }

  /** Whether nobody claims anything in [address, end). */
  unclaimed(address: number, end: number): boolean {
    if (address >= this.#gapFrom && end <= this.#gapEnd) return true;
    const after = this.#after(address);
    const reach = after === 0 ? -1 : this.#reach[after - 1]!;
    if (reach >= address) return false;
    this.#gapFrom = reach + 1;
    this.#gapEnd = after < this.#open.length ? this.#open[after]!.from : Number.POSITIVE_INFINITY;
    return end <= this.#gapEnd;
  }

  /**
   * The first address above `address` where another range begins, or one that holds `address` ends; at most `end`.
   * What `except` owns is left out.
   */
  edgeAfter(address: number, end: number, except?: Claimant): number {
    const open = this.#open;
    const after = this.#after(address);
    let edge = end;
    for (let i = after; i < open.length && open[i]!.from < edge; i++) {
      if (open[i]!.owner !== except) edge = open[i]!.from;
    }
    for (let i = after - 1; i >= 0 && this.#reach[i]! >= address; i--) {
      const { to, owner } = open[i]!;
      if (to >= address && to + 1 < edge && owner !== except) edge = to + 1;
    }
    return edge;
  }

  /** How many ranges begin at or below `address`. */
  #after(address: number): number {
    const starts = this.#starts;
    let from = 0;
    let to = starts.length;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if (starts[middle]! <= address) from = middle + 1;
      else to = middle;
    }
    return from;
  }

  #insert(d: Decoder): void {
    const at = this.#after(d.from);
    this.#open.splice(at, 0, d);
    this.#starts.splice(at, 0, d.from);
    this.#reachFrom(at);
  }

  #remove(d: Decoder): void {
    const at = this.#open.indexOf(d);
    this.#open.splice(at, 1);
    this.#starts.splice(at, 1);
    this.#reachFrom(at);
  }

  #reachFrom(first: number): void {
    this.#reach.length = this.#open.length;
    let reach = first === 0 ? -1 : this.#reach[first - 1]!;
    for (let i = first; i < this.#open.length; i++) {
      reach = Math.max(reach, this.#open[i]!.to);
      this.#reach[i] = reach;
    }
  }
}
