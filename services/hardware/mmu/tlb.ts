/**
 * A TLB: direct-mapped, one part for 4 KiB pages and one for pieces of 2 MiB; a larger leaf is held as such pieces. It
 * holds what a walk found, with its permissions, until it is invalidated or another entry takes the place; it never
 * holds a fault. One for the CPUs, one in each SMMU.
 * An entry belongs to a tag: the stage-2 translations of a VMID, or the stage-1 ones (with stage 2 combined into them)
 * of a VMID and an ASID, or the global ones of a VMID. Whoever translates keeps the tag object, so that invalidating a
 * VMID or an ASID is giving its tags new numbers: no entry has to be looked at.
 * Entries are filled for every page, so a result stays stale until its invalidation, as on silicon.
 */
import { DFSC } from '#shared/arch/vmsa.ts';
import { loadArray, type Saved } from '../state/saved.ts';

const PAGES = 4096;
const BLOCKS = 1024;
const ENTRIES = PAGES + BLOCKS;
/** Words of an entry: address [43:12] (or [43:21]), key, attributes and address, more attributes and address. */
const STRIDE = 4;
const PAGE_MASK = PAGES - 1;
const BLOCK_MASK = BLOCKS - 1;
const BLOCK_BYTES = 0x20_0000;
const HIGH = 0x1_0000_0000;
/** A key is the tag's number above bits [48:44] of the address; an empty entry has 0. */
const NUMBER_LSB = 5;
const NUMBER_MAX = 2 ** (31 - NUMBER_LSB) - 1;
/** Third word, below the page: what the access may do, what stage 1 alone allows, level of the leaf. */
const STAGE1_LSB = 2;
const LEVEL_LSB = 4;
/** Fourth word: output address [47:32], then log2 of the leaf that an invalidation by address takes away. */
const LEAF_SHIFT_LSB = 16;

/** ASIDs of tags that have none. */
export const STAGE2_ONLY = -1;
export const GLOBAL = -2;

/** What `tlbLookup` answers when nothing is cached; faults are `~dfsc`, nearer to zero. */
export const TLB_MISS = -0x1_0000;
const INPUT_LIMIT = 2 ** 48;
// For the hot paths: what is exported or imported is no constant to the compiler but a variable of unknown type.
const MISS = TLB_MISS;
const PERMISSION = DFSC.PERMISSION;

export class TlbTag {
  declare readonly vmid: number;
  declare readonly asid: number;
  /** Spreads the tags over the entries. */
  declare readonly salt: number;
  /** The current number, in place in a key. */
  key = 0;

  constructor(vmid: number, asid: number) {
    this.vmid = vmid;
    this.asid = asid;
    this.salt = Math.imul(vmid, 0x9e5) ^ Math.imul(asid + 1, 0x5c5);
  }
}

/** A live entry. `asid` is there for stage-1 entries: a number, or GLOBAL. */
export interface TlbEntry {
  readonly vmid: number;
  readonly ipa: number;
  readonly pa: number;
  readonly bytes: number;
  readonly s2ap: number;
  readonly asid?: number;
}

interface SavedTlb {
  readonly words: Int32Array;
  readonly ipas: Int32Array;
  readonly tags: readonly (readonly [vmid: number, asid: number, key: number])[];
  readonly next: number;
  readonly largeLeaves: boolean;
  readonly counts: readonly [hits: number, misses: number, invalidations: number];
}

export class Tlb implements Saved {
  readonly words = new Int32Array(ENTRIES * STRIDE);
  /** Of stage-1 entries of nested translation: the intermediate page, [31:12] and [47:32]. */
  readonly ipas = new Int32Array(ENTRIES * 2);
  readonly #tags = new Map<number, TlbTag>();
  readonly #tagsOfVmid = new Map<number, TlbTag[]>();
  #next = 1;
  /** Whether some entry is a piece of something larger than itself, so that an invalidation has to search. */
  #largeLeaves = false;
  /** Of the last lookup that hit: bits [31:0] of the output, and the size of the entry minus one. */
  paLow = 0;
  mask = 0xfff;
  /** The entry that was filled last, or that denied an access last. */
  at = 0;
  /** Of the last `lookup` or `fill`: bytes from the address to the end of the entry. */
  runBytes = 0;
  hits = 0;
  misses = 0;
  invalidations = 0;

  /** The tag of a VMID and an ASID (or STAGE2_ONLY, GLOBAL); the same object each time. */
  tag(vmid: number, asid: number = STAGE2_ONLY): TlbTag {
    const id = vmid * 0x2_0000 + asid + 2;
    let tag = this.#tags.get(id);
    if (tag === undefined) {
      tag = new TlbTag(vmid, asid);
      this.#tags.set(id, tag);
      const others = this.#tagsOfVmid.get(vmid);
      if (others === undefined) this.#tagsOfVmid.set(vmid, [tag]);
      else others.push(tag);
      this.#renew(tag);
    }
    return tag;
  }

  /**
   * Translates a stage-2 address from what is cached. Returns the physical address, `~dfsc` for an entry without the
   * permission `want` (WANT_READ, WANT_WRITE), or -Infinity when nothing is cached.
   */
  lookup(vmid: number, ipa: number, want: number): number {
    // Bits [63:48] are not in the key of an entry, and no entry is for an address that has one of them.
    const high =
      ipa >= INPUT_LIMIT ? TLB_MISS : tlbLookup(this, this.tag(vmid), Math.floor(ipa / HIGH) | 0, ipa | 0, want);
    if (high >= 0) {
      this.runBytes = this.mask + 1 - (ipa & this.mask);
      return high * HIGH + (this.paLow >>> 0);
    }
    if (high !== TLB_MISS) return high;
    this.misses++;
    return -Infinity;
  }

  /** Keeps the result of a stage-2 walk: the leaf of `leafBytes` at `leafPa` that holds `ipa`. Sets `runBytes`. */
  fill(vmid: number, ipa: number, leafPa: number, leafBytes: number, s2ap: number, level: number): void {
    const pa = leafPa + (ipa % leafBytes);
    const leafShift = Math.log2(leafBytes);
    const high = Math.floor(ipa / HIGH) | 0;
    tlbFill(this, this.tag(vmid), high, ipa | 0, Math.floor(pa / HIGH), pa | 0, leafShift, leafShift, s2ap, 3, level);
    this.runBytes = this.mask + 1 - (ipa & this.mask);
  }

  /** Everything of one VMID (TLBI VMALLS12E1IS, CMD_TLBI_S12_VMALL), without a look at the entries. */
  invalidateVmid(vmid: number): void {
    this.invalidations++;
    for (const tag of this.#tagsOfVmid.get(vmid) ?? []) this.#renew(tag);
  }

  /** What stage 1 had a part in, of one VMID (CMD_TLBI_NH_ALL). */
  invalidateStage1(vmid: number): void {
    this.invalidations++;
    for (const tag of this.#tagsOfVmid.get(vmid) ?? []) if (tag.asid !== STAGE2_ONLY) this.#renew(tag);
  }

  /** The entries of one ASID but for global ones (CMD_TLBI_NH_ASID). */
  invalidateAsid(vmid: number, asid: number): void {
    this.invalidations++;
    const tag = this.#tags.get(vmid * 0x2_0000 + asid + 2);
    if (tag !== undefined) this.#renew(tag);
  }

  /** The stage-2 entries of one VMID that hold `ipa` (TLBI IPAS2E1IS), whatever the size of their leaf. */
  invalidateIpa(vmid: number, ipa: number): void {
    this.invalidateIpaRange(vmid, Math.floor(ipa / HIGH) | 0, ipa | 0, 1);
  }

  /** The same for `pages` pages of 4 KiB from `high`:`low` on (CMD_TLBI_S2_IPA). Combined entries stay. */
  invalidateIpaRange(vmid: number, high: number, low: number, pages: number): void {
    this.invalidations++;
    this.#invalidateRange(this.#tags.get(vmid * 0x2_0000 + STAGE2_ONLY + 2), high, low, pages);
  }

  /** The stage-1 entries of an ASID and the global ones, by virtual address (CMD_TLBI_NH_VA). */
  invalidateVa(vmid: number, asid: number, high: number, low: number, pages: number): void {
    this.invalidations++;
    this.#invalidateRange(this.#tags.get(vmid * 0x2_0000 + asid + 2), high, low, pages);
    this.#invalidateRange(this.#tags.get(vmid * 0x2_0000 + GLOBAL + 2), high, low, pages);
  }

  /** The stage-1 entries of every ASID, by virtual address (CMD_TLBI_NH_VAA). */
  invalidateVaAllAsids(vmid: number, high: number, low: number, pages: number): void {
    this.invalidations++;
    for (const tag of this.#tagsOfVmid.get(vmid) ?? []) {
      if (tag.asid !== STAGE2_ONLY) this.#invalidateRange(tag, high, low, pages);
    }
  }

  /** Everything (TLBI ALLE1IS, CMD_TLBI_NSNH_ALL). */
  invalidateAll(): void {
    this.invalidations++;
    this.#clear();
  }

  /** What is held now, for checkers: one row a live entry. */
  entries(): TlbEntry[] {
    const live = new Map([...this.#tags.values()].map((tag) => [tag.key >>> NUMBER_LSB, tag]));
    const rows: TlbEntry[] = [];
    for (let i = 0; i < ENTRIES; i++) {
      const [page, key, low, high] = this.words.subarray(i * STRIDE, i * STRIDE + STRIDE) as unknown as number[];
      const tag = live.get(key! >>> NUMBER_LSB);
      if (key === 0 || tag === undefined) continue;
      const ofPages = i < PAGES;
      rows.push({
        vmid: tag.vmid,
        ipa: addressOf(key!, ofPages ? page! : page! << 9, tag.asid !== STAGE2_ONLY),
        pa: (high! & 0xffff) * HIGH + ((low! & 0xffff_f000) >>> 0),
        bytes: ofPages ? 0x1000 : BLOCK_BYTES,
        s2ap: low! & 3,
        ...(tag.asid === STAGE2_ONLY ? {} : { asid: tag.asid }),
      });
    }
    return rows;
  }

  /** Power-on: empty, and the counts too. */
  reset(): void {
    this.#clear();
    this.hits = 0;
    this.misses = 0;
    this.invalidations = 0;
  }

  save(): SavedTlb {
    return {
      words: this.words.slice(),
      ipas: this.ipas.slice(),
      tags: [...this.#tags.values()].map(({ vmid, asid, key }) => [vmid, asid, key] as const),
      next: this.#next,
      largeLeaves: this.#largeLeaves,
      counts: [this.hits, this.misses, this.invalidations],
    };
  }

  load(state: unknown): void {
    const saved = state as SavedTlb;
    loadArray(this.words, saved.words, 'TLB');
    loadArray(this.ipas, saved.ipas, 'TLB');
    const known = new Set(
      saved.tags.map(([vmid, asid, key]) => {
        const tag = this.tag(vmid, asid);
        tag.key = key;
        return tag;
      }),
    );
    this.#next = saved.next;
    // A tag that only this TLB has may not share a number with one that was saved.
    for (const tag of this.#tags.values()) if (!known.has(tag)) this.#renew(tag);
    this.#largeLeaves = saved.largeLeaves;
    [this.hits, this.misses, this.invalidations] = saved.counts;
  }

  /** Tells the TLB that an entry of a leaf larger than its piece was made. */
  noteLargeLeaf(): void {
    this.#largeLeaves = true;
  }

  #clear(): void {
    this.words.fill(0);
    this.#largeLeaves = false;
  }

  #renew(tag: TlbTag): void {
    if (this.#next > NUMBER_MAX) {
      // All numbers were used: empty, so that no entry of an old number can come back to life.
      this.#clear();
      this.#next = 1;
      for (const other of this.#tags.values()) other.key = this.#next++ << NUMBER_LSB;
    }
    tag.key = this.#next++ << NUMBER_LSB;
  }

  /** Entries of a tag that touch the pages [first, first + pages), or whose leaf does. */
  #invalidateRange(tag: TlbTag | undefined, high: number, low: number, pages: number): void {
    if (tag === undefined) return;
    if (pages <= 64 && !this.#largeLeaves) {
      for (let done = 0; done < pages; done++) {
        const address = (low >>> 0) + done * 0x1000;
        this.#drop(tag, high + (address >= HIGH ? 1 : 0), address | 0);
      }
      return;
    }
    const first = pageNumber(high, low);
    const { words } = this;
    for (let i = 0; i < ENTRIES; i++) {
      const at = i * STRIDE;
      const key = words[at + 1]!;
      if (key >>> NUMBER_LSB !== tag.key >>> NUMBER_LSB) continue;
      const page = i < PAGES ? words[at]! : words[at]! << 9;
      const start = ((key & 31) * HIGH + (page >>> 0)) as number;
      const leafPages = 2 ** ((words[at + 3]! >>> LEAF_SHIFT_LSB) - 12);
      const leafStart = start - (start % leafPages);
      if (leafStart < first + pages && leafStart + leafPages > first) words[at + 1] = 0;
    }
  }

  #drop(tag: TlbTag, high: number, low: number): void {
    const { words } = this;
    const page = (high << 20) | (low >>> 12);
    const key = tag.key | ((high >>> 12) & 31);
    const i = ((page ^ tag.salt) & PAGE_MASK) * STRIDE;
    if (words[i] === page && words[i + 1] === key) words[i + 1] = 0;
    const block = page >>> 9;
    const j = (PAGES + ((block ^ tag.salt) & BLOCK_MASK)) * STRIDE;
    if (words[j] === block && words[j + 1] === key) words[j + 1] = 0;
  }
}

/**
 * Translates the address `high`:`low` for `want` (WANT_READ, WANT_WRITE). Returns bits [47:32] of the physical address,
 * with the rest in `t.paLow`, `~dfsc` for an entry without the permission (`t.at` is that entry), or TLB_MISS.
 */
export function tlbLookup(t: Tlb, tag: TlbTag, high: number, low: number, want: number): number {
  const { words } = t;
  const page = (high << 20) | (low >>> 12);
  const key = tag.key | ((high >>> 12) & 31);
  let i = ((page ^ tag.salt) & PAGE_MASK) * STRIDE;
  let mask = 0xfff;
  if (words[i] !== page || words[i + 1] !== key) {
    const block = page >>> 9;
    i = (PAGES + ((block ^ tag.salt) & BLOCK_MASK)) * STRIDE;
    if (words[i] !== block || words[i + 1] !== key) return MISS;
    mask = BLOCK_BYTES - 1;
  }
  const entry = words[i + 2]!;
  if ((entry & want) !== want) {
    t.at = i;
    return ~(PERMISSION | ((entry >>> LEVEL_LSB) & 3));
  }
  t.hits++;
  t.mask = mask;
  t.paLow = (entry & ~mask) | (low & mask);
  return words[i + 3]! & 0xffff;
}

/**
 * The same for an entry of 4 KiB that allows the access; TLB_MISS for everything else, which is for `tlbLookup` then. To
 * be inlined where it is used: it has no call and no branch but out, which is worth half of its time.
 */
export function tlbHit(t: Tlb, tag: TlbTag, high: number, low: number, want: number): number {
  const { words } = t;
  const page = (high << 20) | (low >>> 12);
  const key = tag.key | ((high >>> 12) & 31);
  const i = ((page ^ tag.salt) & PAGE_MASK) * STRIDE;
  if (words[i] !== page || words[i + 1] !== key) return MISS;
  const entry = words[i + 2]!;
  if ((entry & want) !== want) return MISS;
  t.hits++;
  t.mask = 0xfff;
  t.paLow = (entry & ~0xfff) | (low & 0xfff);
  return words[i + 3]! & 0xffff;
}

/**
 * Keeps what a walk found for `high`:`low`: the physical address, the permissions of both stages together (`allowed`)
 * and of stage 1 alone (3 without stage 1), and the leaf's level. `pieceShift`: log2 of what is known to lie in a row
 * around the address; `leafShift`: of the leaf that an invalidation by address names. Sets `t.mask` and `t.at`.
 */
export function tlbFill(
  t: Tlb,
  tag: TlbTag,
  high: number,
  low: number,
  paHigh: number,
  paLow: number,
  pieceShift: number,
  leafShift: number,
  allowed: number,
  stage1: number,
  level: number,
): void {
  const { words } = t;
  const page = (high << 20) | (low >>> 12);
  const ofBlock = pieceShift >= 21;
  const frame = ofBlock ? page >>> 9 : page;
  const i = (ofBlock ? PAGES + ((frame ^ tag.salt) & BLOCK_MASK) : (frame ^ tag.salt) & PAGE_MASK) * STRIDE;
  const mask = ofBlock ? BLOCK_BYTES - 1 : 0xfff;
  if (leafShift !== (ofBlock ? 21 : 12)) t.noteLargeLeaf();
  words[i] = frame;
  words[i + 1] = tag.key | ((high >>> 12) & 31);
  words[i + 2] = (paLow & ~mask) | allowed | (stage1 << STAGE1_LSB) | (level << LEVEL_LSB);
  words[i + 3] = (paHigh & 0xffff) | (leafShift << LEAF_SHIFT_LSB);
  t.at = i;
  t.mask = mask;
}

/** What stage 1 alone allows in the entry of the last lookup. */
export function tlbStage1Allows(t: Tlb): number {
  return (t.words[t.at + 2]! >>> STAGE1_LSB) & 3;
}

/** Notes the intermediate page of the entry that was filled last, and reads it again after a lookup. */
export function tlbSetIpa(t: Tlb, ipaHigh: number, ipaLow: number): void {
  const i = (t.at / STRIDE) * 2;
  t.ipas[i] = ipaLow & ~t.mask;
  t.ipas[i + 1] = ipaHigh;
}

export function tlbIpaLow(t: Tlb, low: number): number {
  const mask = t.at < PAGES * STRIDE ? 0xfff : BLOCK_BYTES - 1;
  return t.ipas[(t.at / STRIDE) * 2]! | (low & mask);
}

export function tlbIpaHigh(t: Tlb): number {
  return t.ipas[(t.at / STRIDE) * 2 + 1]!;
}

/** Bits [48:12] of an address, as the entries keep them. */
function pageNumber(high: number, low: number): number {
  return ((high >>> 12) & 31) * HIGH + (((high << 20) | (low >>> 12)) >>> 0);
}

/** The address of an entry's start; a virtual one of the upper half is sign-extended. */
function addressOf(key: number, page: number, isVirtual: boolean): number {
  const address = ((key & 31) * HIGH + (page >>> 0)) * 0x1000;
  return isVirtual && address >= 2 ** 48 ? address - 2 ** 49 + 2 ** 64 : address;
}
