/**
 * Sets of small numbers, each a tree of bitmaps: a bit of each level says whether the 32-bit word below it has any bit.
 * Adding, removing and finding the smallest member cost one step a level (three for 2^16). All sets of a family lie in
 * one array, so that no step goes through another object; nothing is allocated but when a set is made.
 */

/** The last level has this many words at most. */
const ROOT_WORDS = 2;

export class BitTrees {
  /** Words of level 0, which has the members, and of all levels but the last. */
  #width = 0;
  readonly #widths: number[] = [];
  /** From the start of a set to its last level, and to the next set. */
  #root = 0;
  #stride = 0;
  #words = new Int32Array(0);

  /** Members are below `size`. */
  constructor(size: number) {
    this.#width = Math.ceil(size / 32);
    for (let width = this.#width; width > ROOT_WORDS; width = Math.ceil(width / 32)) {
      this.#widths.push(width);
      this.#root += width;
    }
    this.#stride = this.#root + ROOT_WORDS;
  }

  /** Makes an empty set; returns what it is called by from then on. */
  make(): number {
    const set = this.#words.length;
    const words = new Int32Array(set + this.#stride);
    words.set(this.#words);
    this.#words = words;
    return set;
  }

  isEmpty(set: number): boolean {
    const root = set + this.#root;
    return (this.#words[root]! | this.#words[root + 1]!) === 0;
  }

  has(set: number, member: number): boolean {
    return ((this.#words[set + (member >>> 5)]! >>> (member & 31)) & 1) !== 0;
  }

  add(set: number, member: number): void {
    const words = this.#words;
    let level = set;
    let width = this.#width;
    for (let i = member; ; i >>>= 5) {
      const at = (level + (i >>> 5)) | 0;
      const was = words[at]!;
      words[at] = was | (1 << (i & 31));
      if (was !== 0 || width <= ROOT_WORDS) return;
      level = (level + width) | 0;
      width = (width + 31) >> 5;
    }
  }

  /** Returns whether the set still has members. */
  delete(set: number, member: number): boolean {
    const words = this.#words;
    let level = set;
    let width = this.#width;
    for (let i = member; ; i >>>= 5) {
      const at = (level + (i >>> 5)) | 0;
      const now = words[at]! & ~(1 << (i & 31));
      words[at] = now;
      if (now !== 0) return true;
      if (width <= ROOT_WORDS) return words[level] !== 0 || words[level + 1] !== 0;
      level = (level + width) | 0;
      width = (width + 31) >> 5;
    }
  }

  /** The smallest member, or -1. */
  first(set: number): number {
    const words = this.#words;
    const widths = this.#widths;
    let at = set + this.#root;
    let i = words[at] === 0 ? 1 : 0;
    if (words[at + i] === 0) return -1;
    i = i * 32 + lowest(words[at + i]!);
    for (let level = widths.length - 1; level >= 0; level--) {
      at -= widths[level]!;
      i = i * 32 + lowest(words[at + i]!);
    }
    return i;
  }

  clear(set: number): void {
    this.#words.fill(0, set, set + this.#stride);
  }
}

/** Position of the lowest bit that is set. */
function lowest(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}
