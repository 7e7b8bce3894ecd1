/** A set of numbers kept as ranges in order (xen/common/rangeset.c). */

export interface Range {
  readonly first: number;
  /** Inclusive, as in Xen. */
  readonly last: number;
}

export class RangeSet {
  #ranges: Range[] = [];

  get ranges(): readonly Range[] {
    return this.#ranges;
  }

  add(first: number, count: number): void {
    let start = first;
    let end = first + count - 1;
    const kept: Range[] = [];
    for (const r of this.#ranges) {
      if (r.last < start - 1 || r.first > end + 1) kept.push(r);
      else {
        start = Math.min(start, r.first);
        end = Math.max(end, r.last);
      }
    }
    kept.push({ first: start, last: end });
    this.#ranges = kept.sort((a, b) => a.first - b.first);
  }

  remove(first: number, count: number): void {
    const last = first + count - 1;
    this.#ranges = this.#ranges.flatMap((r) => {
      if (r.last < first || r.first > last) return [r];
      const parts: Range[] = [];
      if (r.first < first) parts.push({ first: r.first, last: first - 1 });
      if (r.last > last) parts.push({ first: last + 1, last: r.last });
      return parts;
    });
  }

  /** Whether all of [first, first + count) is in the set. */
  contains(first: number, count: number): boolean {
    return this.#ranges.some((r) => r.first <= first && first + count - 1 <= r.last);
  }

  clear(): void {
    this.#ranges = [];
  }
}
