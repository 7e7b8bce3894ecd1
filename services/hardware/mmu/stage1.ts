/**
 * The stage-1 table walk as a device meets it in an SMMU (DDI 0487, "Stage 1 translation"; IHI 0070, "Context
 * Descriptor"): two halves of the address space with a table base each, granules of 4, 16 and 64 KiB, access flag, AP and
 * hierarchical APTable for unprivileged data accesses, not-global entries. Where stage 2 is on, every table lies at an
 * intermediate address and is reached through it. Nothing is allocated per walk.
 * Not modelled: memory attributes (MAIR), XN and PAN (devices fetch no instructions and are unprivileged), hardware
 * update of AF and dirty state, HAD (IDR3.HAD is 0), 52-bit addresses.
 */
import { DFSC, hasBlocks, levelShift, S1_LO, S1_TABLE_HI, S2_LO, stage1StartLevel } from '#shared/arch/vmsa.ts';
import { chunkBase, type Ram } from '../bus/ram.ts';
import { bitsFrom, type Stage2Regime, type Stage2Walker, WANT_READ, WANT_WRITE, walkStage2 } from './stage2.ts';

const HIGH = 0x1_0000_0000;

// For the walk: what is imported is no constant to the compiler but a variable of unknown type.
const { VALID, TABLE_OR_PAGE } = S2_LO;
const { AP_LSB, NG } = S1_LO;
const { NO_EL0, READ_ONLY } = S1_TABLE_HI;
const { ADDRESS_SIZE, TRANSLATION, ACCESS_FLAG, PERMISSION, WALK_EXTERNAL_ABORT } = DFSC;
const READ = WANT_READ;
const WRITE = WANT_WRITE;

/** One half of the address space: a TTBR with its TCR or CD fields. */
export interface Stage1Table {
  readonly root: number;
  /** TxSZ, 16 to 39. */
  readonly tsz: number;
  readonly granuleShift: number;
  /** TBI: bits [63:56] of an address do not count. */
  readonly topByteIgnored: boolean;
}

interface Half {
  readonly inputBits: number;
  readonly startLevel: number;
  readonly granuleShift: number;
  readonly topByteIgnored: boolean;
  readonly rootHigh: number;
  readonly rootLow: number;
}

export interface Stage1Regime {
  /** TTBR0 and TTBR1; undefined: every address there faults (EPD). */
  readonly lower: Half | undefined;
  readonly upper: Half | undefined;
  /** Bits [47:32] of an output that have to be 0. */
  readonly outputZero: number;
  readonly accessFlag: number;
}

/** Low bits of a root below the alignment of its table are ignored. `outputBits`: IPS, capped to what the part has. */
export function stage1Regime(
  lower: Stage1Table | undefined,
  upper: Stage1Table | undefined,
  outputBits: number,
  accessFlagFaults: boolean,
): Stage1Regime {
  return {
    lower: lower && halfOf(lower),
    upper: upper && halfOf(upper),
    outputZero: outputBits >= 48 ? 0 : 0xffff & (-1 << (outputBits - 32)),
    accessFlag: accessFlagFaults ? S2_LO.AF : 0,
  };
}

function halfOf({ root, tsz, granuleShift, topByteIgnored }: Stage1Table): Half {
  const inputBits = 64 - tsz;
  const startLevel = stage1StartLevel(tsz, granuleShift);
  const tableBytes = Math.max(8 * 2 ** (inputBits - levelShift(granuleShift, startLevel)), 64);
  const aligned = root - (root % tableBytes);
  return {
    inputBits,
    startLevel,
    granuleShift,
    topByteIgnored,
    rootHigh: Math.floor(aligned / HIGH),
    rootLow: aligned | 0,
  };
}

export class Stage1Walker {
  readonly ram: Ram;
  readonly stage2: Stage2Walker;
  /** Of a walk that found a leaf: bits [31:0] of its output, log2 of its size, what it lets a device do. */
  outputLow = 0;
  outputHigh = 0;
  leafShift = 12;
  allowed = 0;
  notGlobal = false;
  /** Of a walk that failed: whether stage 2 did while a table was fetched, and the address of that descriptor. */
  onTable = false;
  tableHigh = 0;
  tableLow = 0;
  level = 0;

  constructor(ram: Ram, stage2: Stage2Walker) {
    this.ram = ram;
    this.stage2 = stage2;
  }

  /** Of a walk whose own descriptor could not be read (not one of stage 2): its physical address. */
  get fetchPa(): number {
    return this.tableHigh * HIGH + (this.tableLow >>> 0);
  }
}

/**
 * Whether bits [63:48] of an address (but the top byte, when it is ignored) are all alike, as they have to be before it
 * may be looked up in a TLB that knows it by [48:12].
 */
export function isCanonical(r: Stage1Regime, high: number): boolean {
  const half = (high & 0x0080_0000) === 0 ? r.lower : r.upper;
  const top = half?.topByteIgnored === true ? (high << 8) >> 24 : high >> 16;
  return top === 0 || top === -1;
}

/**
 * Translates the address `high`:`low` for an unprivileged `want` (WANT_READ, WANT_WRITE). Returns bits [47:32] of the
 * output, with the rest in `w.outputLow`, or `~dfsc` (negative). With `stage2` the output is an intermediate address,
 * and a fault of stage 2 on the way to a table sets `w.onTable`; `noDeviceTables` makes a table in device memory one
 * (STE.S2PTW).
 */
export function walkStage1(
  w: Stage1Walker,
  r: Stage1Regime,
  stage2: Stage2Regime | undefined,
  noDeviceTables: boolean,
  high: number,
  low: number,
  want: number,
): number {
  w.onTable = false;
  const sign = (high << 8) >> 31; // of bit 55
  const half = sign === 0 ? r.lower : r.upper;
  if (half === undefined || !inRange(half, sign, high, low)) return end(w, 0, TRANSLATION);
  const { granuleShift } = half;
  const tableMask = -1 << granuleShift;
  let mask = (1 << (half.inputBits - levelShift(granuleShift, half.startLevel))) - 1;
  let tableHigh = half.rootHigh;
  let tableLow = half.rootLow;
  let withheld = 0;
  if ((tableHigh & r.outputZero) !== 0) return end(w, 0, ADDRESS_SIZE);
  for (let level = half.startLevel; ; level++) {
    const shift = levelShift(granuleShift, level);
    // A table does not cross its alignment, so there is no carry.
    let atHigh = tableHigh;
    let atLow = tableLow + ((bitsFrom(high, low, shift) & mask) << 3);
    w.tableHigh = atHigh;
    w.tableLow = atLow;
    if (stage2 !== undefined) {
      const fetched = walkStage2(w.stage2, stage2, atHigh, atLow, READ);
      if (fetched < 0) return endOnTable(w, level, fetched);
      if (noDeviceTables && w.stage2.isDevice) return endOnTable(w, level, ~(PERMISSION | w.stage2.level));
      atHigh = fetched;
      atLow = w.stage2.paLow;
    }
    const word = (atLow & 0x1f_ffff) >>> 2;
    const base = chunkBase(w.ram, (atHigh << 11) | (atLow >>> 21), word << 2);
    if (base < 0) {
      w.tableHigh = atHigh;
      w.tableLow = atLow;
      return end(w, level, WALK_EXTERNAL_ABORT);
    }
    const lo = w.ram.words[base + word]!;
    if ((lo & VALID) === 0) return end(w, level, TRANSLATION);
    const hi = w.ram.words[base + word + 1]!;
    const isTableOrPage = (lo & TABLE_OR_PAGE) !== 0;
    if (level === 3 ? !isTableOrPage : !isTableOrPage && !hasBlocks(granuleShift, level)) {
      return end(w, level, TRANSLATION);
    }
    if ((hi & 0xffff & r.outputZero) !== 0) return end(w, level, ADDRESS_SIZE);
    if (level < 3 && isTableOrPage) {
      if ((hi & NO_EL0) !== 0) withheld = READ | WRITE;
      if ((hi & READ_ONLY) !== 0) withheld |= WRITE;
      tableHigh = hi & 0xffff;
      tableLow = lo & tableMask;
      mask = (1 << (granuleShift - 3)) - 1;
      continue;
    }
    if ((lo & r.accessFlag) !== r.accessFlag) return end(w, level, ACCESS_FLAG);
    const offset = (1 << shift) - 1;
    w.level = level;
    w.leafShift = shift;
    w.notGlobal = (lo & NG) !== 0;
    w.allowed = allowedAt((lo >>> AP_LSB) & 3) & ~withheld;
    w.outputHigh = hi & 0xffff;
    w.outputLow = (lo & tableMask & ~offset) | (low & offset);
    return (w.allowed & want) === want ? w.outputHigh : ~(PERMISSION | level);
  }
}

/** What AP[2:1] lets an unprivileged access do. */
function allowedAt(ap: number): number {
  if ((ap & 1) === 0) return 0;
  return (ap & 2) === 0 ? READ | WRITE : READ;
}

/** Whether every bit from the top (or the one below the top byte) down to the size of the half is like bit 55. */
function inRange(half: Half, sign: number, high: number, low: number): boolean {
  const top = half.topByteIgnored ? (high << 8) >> 8 : high;
  if (half.inputBits >= 32) return half.inputBits === 64 || top >> (half.inputBits - 32) === sign;
  return top === sign && low >> half.inputBits === sign;
}

function end(w: Stage1Walker, level: number, kind: number): number {
  w.level = level;
  return ~(kind | level);
}

function endOnTable(w: Stage1Walker, level: number, fault: number): number {
  w.level = level;
  w.onTable = true;
  return fault;
}
