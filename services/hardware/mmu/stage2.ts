/**
 * The stage-2 table walk of a CPU port and of an SMMU (DDI 0487, "Stage 2 translation"; IHI 0070 uses the same
 * tables): granules of 4, 16 and 64 KiB with their pages and blocks, concatenated root tables, 48-bit addresses.
 * Synchronous, and nothing is allocated per walk: an address goes in and comes out as two 32-bit integers. It reads
 * tables through RAM only; a table elsewhere is an external abort on the walk.
 * Not modelled: memory attributes but for `isDevice`, the Contiguous hint, hardware update of AF and dirty state, XN
 * (no fetches), 4 TiB blocks and everything else of 52-bit addresses.
 */
import { DFSC, hasBlocks, levelShift, S2_LO, stage2Geometry } from '#shared/arch/vmsa.ts';
import { chunkBase, type Ram } from '../bus/ram.ts';

/** What an access needs, in terms of S2AP. */
export const WANT_READ = 1;
export const WANT_WRITE = 2;

const HIGH = 0x1_0000_0000;

// For the walks: what is imported is no constant to the compiler but a variable of unknown type.
const { VALID, TABLE_OR_PAGE, S2AP_LSB } = S2_LO;
const { ADDRESS_SIZE, TRANSLATION, ACCESS_FLAG, PERMISSION, WALK_EXTERNAL_ABORT } = DFSC;

/** Where the tables are and how they are to be read: what a VTCR/VTTBR pair or an STE says. Made by stage2Regime. */
export interface Stage2Regime {
  /** The root table, aligned to all of its concatenated tables. */
  readonly root: number;
  readonly startLevel: number;
  /** Input bits; 0: the geometry is not permitted, and every walk faults. */
  readonly ipaBits: number;
  /** Output bits; an output beyond is an address size fault. */
  readonly paBits: number;
  /** log2 of the granule. */
  readonly granuleShift: number;
  /** The rest follows from these. Bits of an input's two halves that have to be 0: */
  readonly inputHighZero: number;
  readonly inputLowZero: number;
  /** Bits [47:32] of an output that have to be 0, in place at [15:0]. */
  readonly outputZero: number;
  readonly rootOutOfRange: boolean;
  /** The root's chunk of RAM, and its first word there. */
  readonly rootChunk: number;
  readonly rootWord: number;
  /** The AF bit, or 0 when AF 0 is no fault (STE.S2AFFD). */
  readonly accessFlag: number;
}

/** A regime from T0SZ, SL0 and the rest. Low bits of `root` below the alignment are ignored. */
export function stage2Regime(
  root: number,
  t0sz: number,
  sl0: number,
  paBits: number,
  accessFlagFaults: boolean,
  granuleShift = 12,
): Stage2Regime {
  const outputBits = Math.min(paBits, 48);
  const geometry = stage2Geometry(t0sz, sl0, granuleShift);
  const ipaBits = geometry?.ipaBits ?? 0;
  const startLevel = geometry?.startLevel ?? 0;
  const tableBytes = Math.max(8 * 2 ** (ipaBits - levelShift(granuleShift, startLevel)), 64);
  const aligned = geometry === undefined ? root : root - (root % tableBytes);
  return {
    root: aligned,
    startLevel,
    ipaBits,
    paBits: outputBits,
    granuleShift,
    inputHighZero: zeroAbove(ipaBits - 32),
    inputLowZero: zeroAbove(ipaBits),
    outputZero: zeroAbove(outputBits - 32) & 0xffff,
    rootOutOfRange: aligned >= 2 ** outputBits,
    rootChunk: Math.floor(aligned / 0x20_0000) & 0x7ff_ffff,
    rootWord: (aligned & 0x1f_ffff) >>> 2,
    accessFlag: accessFlagFaults ? S2_LO.AF : 0,
  };
}

/** The bits of a word from `bits` on: all for 0 and less, none for 32 and more. */
function zeroAbove(bits: number): number {
  if (bits <= 0) return -1;
  return bits >= 32 ? 0 : -1 << bits;
}

export class Stage2Walker {
  declare readonly ram: Ram;
  /** Of the last walk: the level where it ended. */
  level = 0;
  /** Of the last walk that found a leaf (also one that gave a permission fault): its descriptor's low word, log2 size. */
  leaf = 0;
  leafShift = 12;
  /** Bits [31:0] of the output, of a walk that succeeded; also of one that gave a permission fault, then as [47:32]. */
  paLow = 0;
  paHigh = 0;
  /** Of the last walk that ended in an external abort: what could not be read, as chunk of 2 MiB and word in it. */
  fetchChunk = 0;
  fetchWord = 0;
  /** Of the last `walk`: the leaf's size and start. */
  leafBytes = 0;
  leafPa = 0;

  constructor(ram: Ram) {
    this.ram = ram;
  }

  /** S2AP of `leaf`. */
  get s2ap(): number {
    return (this.leaf >>> S2_LO.S2AP_LSB) & 3;
  }

  /** Whether `leaf` is of a device type: MemAttr[3:2] is 0. */
  get isDevice(): boolean {
    return (this.leaf & (3 << (S2_LO.MEM_ATTR_LSB + 2))) === 0;
  }

  get fetchPa(): number {
    return this.fetchChunk * 0x20_0000 + this.fetchWord * 4;
  }

  /** Translates `ipa` for `want` (WANT_READ, WANT_WRITE or both). Returns the physical address, or `~dfsc` (negative). */
  walk(regime: Stage2Regime, ipa: number, want: number): number {
    const high = walkStage2(this, regime, Math.floor(ipa / HIGH) | 0, ipa | 0, want);
    this.leafBytes = 2 ** this.leafShift;
    const pa = this.paHigh * HIGH + (this.paLow >>> 0);
    this.leafPa = pa - (pa % this.leafBytes);
    return high < 0 ? high : pa;
  }
}

/**
 * Translates the address `high`:`low` (bits [63:32] and [31:0]) for `want`. Returns bits [47:32] of the physical address,
 * with the rest in `w.paLow`, or `~dfsc` (negative; DFSC of shared/arch/vmsa.ts with the level).
 */
export function walkStage2(w: Stage2Walker, r: Stage2Regime, high: number, low: number, want: number): number {
  if (((high & r.inputHighZero) | (low & r.inputLowZero)) !== 0) return end(w, 0, TRANSLATION);
  if (r.rootOutOfRange) return end(w, 0, ADDRESS_SIZE);
  if (r.granuleShift !== 12) return walkGranule(w, r, high, low, want);
  const { ram } = w;
  const { words, directory } = ram;
  const page = (high << 20) | (low >>> 12); // [43:12]
  let shift = 27 - 9 * r.startLevel;
  let index = r.startLevel === 0 ? (high >>> 7) & 0x1ff : (page >>> shift) & 0x1fff;
  let chunk = r.rootChunk;
  let word = r.rootWord;
  for (;;) {
    word = (word + (index << 1)) | 0;
    // chunkBase, spelled out for the loop.
    const base = directory[(directory[chunk >>> 13]! + (chunk & 0x1fff)) | 0]!;
    // No RAM, or the edge of a bank. A call that came back would have the compiler load everything again for each level.
    if (base < 0) return walkGranule(w, r, high, low, want);
    const at = (base + word) | 0;
    const lo = words[at]!;
    if ((lo & VALID) === 0) return end(w, level(shift), TRANSLATION);
    const hi = words[(at + 1) | 0]! & 0xffff;
    if (shift === 0 || (lo & TABLE_OR_PAGE) === 0) {
      // A level 3 entry without its bit 1, and a block at level 0.
      if (shift === 0 ? (lo & TABLE_OR_PAGE) === 0 : shift === 27) {
        return end(w, level(shift), TRANSLATION);
      }
      const offset = (1 << (shift + 12)) - 1;
      // leafOf, spelled out: address size, then access flag, then permission.
      if ((hi & r.outputZero) !== 0) return end(w, level(shift), ADDRESS_SIZE);
      if ((lo & r.accessFlag) !== r.accessFlag) return end(w, level(shift), ACCESS_FLAG);
      w.leaf = lo;
      w.leafShift = shift + 12;
      w.level = level(shift);
      w.paLow = (lo & 0xffff_f000 & ~offset) | (low & offset);
      w.paHigh = hi;
      return ((lo >>> S2AP_LSB) & want) === want ? hi : ~(PERMISSION | level(shift));
    }
    if ((hi & r.outputZero) !== 0) return end(w, level(shift), ADDRESS_SIZE);
    chunk = (hi << 11) | (lo >>> 21);
    word = (lo & 0x1f_f000) >>> 2;
    shift = (shift - 9) | 0;
    index = (page >>> shift) & 0x1ff;
  }
}

/** The level whose entries cover 2^(shift + 12) bytes each, with the 4 KiB granule. */
function level(shift: number): number {
  return shift === 0 ? 3 : shift === 9 ? 2 : shift === 18 ? 1 : 0;
}

/** The same for every granule, and wherever the tables lie; range and root have been checked. */
function walkGranule(w: Stage2Walker, r: Stage2Regime, high: number, low: number, want: number): number {
  const { granuleShift } = r;
  const tableMask = -1 << granuleShift;
  const firstShift = levelShift(granuleShift, r.startLevel);
  let mask = (1 << (r.ipaBits - firstShift)) - 1;
  let chunk = r.rootChunk;
  let word = r.rootWord;
  for (let at = r.startLevel; ; at++) {
    const shift = levelShift(granuleShift, at);
    word += (bitsFrom(high, low, shift) & mask) << 1;
    const base = chunkBase(w.ram, chunk, word << 2);
    if (base < 0) return endFetch(w, chunk, word, at);
    const lo = w.ram.words[base + word]!;
    if ((lo & VALID) === 0) return end(w, at, TRANSLATION);
    const hi = w.ram.words[base + word + 1]! & 0xffff;
    const isTableOrPage = (lo & TABLE_OR_PAGE) !== 0;
    if (at === 3 ? !isTableOrPage : !isTableOrPage && !hasBlocks(granuleShift, at)) {
      return end(w, at, TRANSLATION);
    }
    if ((hi & r.outputZero) !== 0) return end(w, at, ADDRESS_SIZE);
    if (at === 3 || !isTableOrPage) {
      if ((lo & r.accessFlag) !== r.accessFlag) return end(w, at, ACCESS_FLAG);
      const offset = (1 << shift) - 1;
      w.leaf = lo;
      w.leafShift = shift;
      w.level = at;
      w.paLow = (lo & ~offset) | (low & offset);
      w.paHigh = hi;
      return ((lo >>> S2AP_LSB) & want) === want ? hi : ~(PERMISSION | at);
    }
    const table = lo & tableMask;
    chunk = (hi << 11) | (table >>> 21);
    word = (table & 0x1f_f000) >>> 2;
    mask = (1 << (granuleShift - 3)) - 1;
  }
}

/** Bits from `shift` (1 to 47) on of `high`:`low`; at least the 17 that an index can need. */
export function bitsFrom(high: number, low: number, shift: number): number {
  return shift >= 32 ? high >>> (shift - 32) : (low >>> shift) | (high << (32 - shift));
}

function end(w: Stage2Walker, level: number, kind: number): number {
  w.level = level;
  return ~(kind | level);
}

function endFetch(w: Stage2Walker, chunk: number, word: number, level: number): number {
  w.fetchChunk = chunk;
  w.fetchWord = word;
  return end(w, level, WALK_EXTERNAL_ABORT);
}
