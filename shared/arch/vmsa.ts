/**
 * VMSAv8-64 (DDI 0487, "The AArch64 Virtual Memory System Architecture"): descriptors of both stages, VTCR_EL2, the
 * geometry of the tables for the three granules, and the syndrome of an abort. The writers of descriptors make those of
 * the 4 KiB granule.
 * Not modelled: 52-bit addresses (LPA, LPA2), hardware access flag and dirty state.
 */
import { asWord, get, reg32 } from '#shared/regs/field.ts';

export const PAGE_BYTES = 0x1000;
export const BLOCK_L2_BYTES = 0x20_0000;
export const BLOCK_L1_BYTES = 0x4000_0000;
/** Entries of one table. */
export const TABLE_ENTRIES = 512;

/** Bytes that one entry covers, by level 0 to 3. */
export const LEVEL_BYTES: readonly number[] = [2 ** 39, BLOCK_L1_BYTES, BLOCK_L2_BYTES, PAGE_BYTES];

// Descriptors, as two 32-bit words

/** Bits of a descriptor's low word. */
export const S2_LO = {
  VALID: 1 << 0,
  /** At levels 0 to 2 a table, at level 3 a page (which must have it). */
  TABLE_OR_PAGE: 1 << 1,
  MEM_ATTR_LSB: 2,
  S2AP_LSB: 6,
  SH_LSB: 8,
  AF: 1 << 10,
} as const;

/** Bits of a descriptor's high word. XN is bit 54; [58:55] are for software. */
export const S2_HI = { XN: 1 << 22, SOFTWARE_LSB: 23, SOFTWARE_MASK: 0xf << 23 } as const;

/** S2AP. */
export const S2AP = { none: 0, read: 1, write: 2, readWrite: 3 } as const;
/** MemAttr: what a device's registers and what memory is mapped with. */
export const MEM_ATTR = { device_nGnRE: 1, normal_NC: 5, normal_WB: 0xf } as const;
export const SHAREABILITY = { non: 0, outer: 2, inner: 3 } as const;

/** Bits of a stage-1 descriptor's low word that stage 2 does not have: AP[2:1] and not-global. */
export const S1_LO = { ATTR_INDX_LSB: 2, AP_LSB: 6, NG: 1 << 11 } as const;

/** AP[2:1] of a stage-1 leaf: bit 0 lets EL0 in, bit 1 takes the write permission away. */
export const S1_AP = { privileged: 0, readWrite: 1, privilegedReadOnly: 2, readOnly: 3 } as const;

/** Bits of a stage-1 table descriptor's high word: APTable [62:61], which takes permissions from all below it. */
export const S1_TABLE_HI = { NO_EL0: 1 << 29, READ_ONLY: 1 << 30 } as const;

export interface LeafAttributes {
  /** One of S2AP. */
  readonly s2ap: number;
  /** One of MEM_ATTR. */
  readonly memAttr: number;
  /** One of SHAREABILITY. */
  readonly sh: number;
  readonly xn: boolean;
  /** Bits [58:55], for software; 0 when left out. */
  readonly software?: number;
}

type Words = Uint32Array | Int32Array;

/** Writes a table descriptor at words[2 * index]. */
export function writeTable(words: Words, index: number, tablePa: number): void {
  words[2 * index] = (tablePa & 0xffff_f000) | S2_LO.TABLE_OR_PAGE | S2_LO.VALID;
  words[2 * index + 1] = Math.floor(tablePa / 0x1_0000_0000) & 0xffff;
}

/** Writes a block (levels 1 and 2) or page (level 3) descriptor at words[2 * index], with AF set. */
export function writeLeaf(words: Words, index: number, level: number, pa: number, attributes: LeafAttributes): void {
  words[2 * index] =
    (pa & 0xffff_f000) |
    S2_LO.AF |
    (attributes.sh << S2_LO.SH_LSB) |
    (attributes.s2ap << S2_LO.S2AP_LSB) |
    (attributes.memAttr << S2_LO.MEM_ATTR_LSB) |
    (level === 3 ? S2_LO.TABLE_OR_PAGE : 0) |
    S2_LO.VALID;
  words[2 * index + 1] =
    (Math.floor(pa / 0x1_0000_0000) & 0xffff) |
    (attributes.xn ? S2_HI.XN : 0) |
    ((attributes.software ?? 0) << S2_HI.SOFTWARE_LSB);
}

export interface Stage1LeafAttributes {
  /** One of S1_AP. */
  readonly ap: number;
  /** Which of MAIR's eight bytes. */
  readonly attrIndx: number;
  /** One of SHAREABILITY. */
  readonly sh: number;
  /** nG: only for the ASID it was made for. */
  readonly notGlobal: boolean;
}

/** Writes a stage-1 block or page descriptor at words[2 * index], with AF set. */
export function writeStage1Leaf(words: Words, index: number, level: number, pa: number, a: Stage1LeafAttributes): void {
  words[2 * index] =
    (pa & 0xffff_f000) |
    (a.notGlobal ? S1_LO.NG : 0) |
    S2_LO.AF |
    (a.sh << S2_LO.SH_LSB) |
    (a.ap << S1_LO.AP_LSB) |
    (a.attrIndx << S1_LO.ATTR_INDX_LSB) |
    (level === 3 ? S2_LO.TABLE_OR_PAGE : 0) |
    S2_LO.VALID;
  words[2 * index + 1] = Math.floor(pa / 0x1_0000_0000) & 0xffff;
}

export function writeInvalid(words: Words, index: number): void {
  words[2 * index] = 0;
  words[2 * index + 1] = 0;
}

/** Bits [47:12] of a descriptor: the next table, or the output address. */
export function descriptorAddress(lo: number, hi: number): number {
  return (hi & 0xffff) * 0x1_0000_0000 + ((lo & 0xffff_f000) >>> 0);
}

/** What an entry of `level` is. A block at level 0 and a level 3 entry with bit 1 clear count as invalid. */
export function descriptorKind(lo: number, level: number): 'invalid' | 'table' | 'leaf' {
  if ((lo & S2_LO.VALID) === 0) return 'invalid';
  const bit1 = (lo & S2_LO.TABLE_OR_PAGE) !== 0;
  if (level === 3) return bit1 ? 'leaf' : 'invalid';
  if (bit1) return 'table';
  return level === 0 ? 'invalid' : 'leaf';
}

// VTCR_EL2 and geometry

/** The low word of VTCR_EL2; there is nothing for us above it. */
export const VTCR_EL2 = reg32('VTCR_EL2', 0, {
  T0SZ: ['RW', 5, 0],
  SL0: ['RW', 7, 6],
  IRGN0: ['RW', 9, 8],
  ORGN0: ['RW', 11, 10],
  SH0: ['RW', 13, 12],
  TG0: ['RW', 15, 14],
  PS: ['RW', 18, 16],
  /** 16-bit VMIDs. */
  VS: ['RW', 19],
  HA: ['RW', 21],
  HD: ['RW', 22],
  RES1: ['RW', 31],
});

export interface Vtcr {
  readonly t0sz: number;
  readonly sl0: number;
  /** 0 is 4 KiB. */
  readonly tg0: number;
  /** Index into ADDRESS_BITS. */
  readonly ps: number;
  readonly vmid16: boolean;
}

export function decodeVtcr(raw: number): Vtcr {
  const word = asWord(VTCR_EL2, raw);
  return {
    t0sz: get(VTCR_EL2.T0SZ, word),
    sl0: get(VTCR_EL2.SL0, word),
    tg0: get(VTCR_EL2.TG0, word),
    ps: get(VTCR_EL2.PS, word),
    vmid16: get(VTCR_EL2.VS, word) === 1,
  };
}

/** VTCR_EL2 as Xen writes it: 4 KiB granule, inner shareable write-back walks. */
export function encodeVtcr(values: Pick<Vtcr, 't0sz' | 'sl0' | 'ps' | 'vmid16'>): number {
  return (
    (0x8000_0000 |
      (values.vmid16 ? 1 << 19 : 0) |
      (values.ps << 16) |
      (SHAREABILITY.inner << 12) |
      (1 << 10) |
      (1 << 8) |
      (values.sl0 << 6) |
      values.t0sz) >>>
    0
  );
}

/** log2 of the granule by VTCR_EL2.TG0, STE.S2TG and CD.TG0; and by CD.TG1, which counts otherwise. */
export const TG0_SHIFT: readonly (number | undefined)[] = [12, 16, 14, undefined];
export const TG1_SHIFT: readonly (number | undefined)[] = [undefined, 14, 12, 16];

/** log2 of what one entry of `level` covers. A table of this granule resolves `granuleShift - 3` bits. */
export function levelShift(granuleShift: number, level: number): number {
  return granuleShift + (3 - level) * (granuleShift - 3);
}

/** Whether a descriptor of this level (below 3) may be a block. */
export function hasBlocks(granuleShift: number, level: number): boolean {
  return level === 2 || (level === 1 && granuleShift === 12);
}

export interface Stage2Geometry {
  readonly ipaBits: number;
  readonly startLevel: number;
  /** Tables side by side at the root, 1 to 16; the root is aligned to all of them. */
  readonly rootTables: number;
}

/**
 * The geometry of T0SZ and SL0 for a granule of 2^granuleShift bytes (12, 14 or 16), or undefined for a combination that
 * is not permitted (DDI 0487, "Concatenated translation tables"; IPAs of 48 bits at most).
 */
export function stage2Geometry(t0sz: number, sl0: number, granuleShift = 12): Stage2Geometry | undefined {
  if (t0sz < 16 || t0sz > 39 || sl0 < 0 || sl0 > 2) return undefined;
  const startLevel = (granuleShift === 12 ? 2 : 3) - sl0;
  const ipaBits = 64 - t0sz;
  const tableBits = granuleShift - 3;
  const indexBits = ipaBits - levelShift(granuleShift, startLevel);
  if (indexBits < 1) return undefined;
  if (indexBits > (startLevel === 0 ? tableBits : tableBits + 4)) return undefined;
  return { ipaBits, startLevel, rootTables: indexBits > tableBits ? 1 << (indexBits - tableBits) : 1 };
}

/** Where a stage-1 walk of `64 - tsz` bits starts; `tsz` is 16 to 39 (DDI 0487, "Translation table base register"). */
export function stage1StartLevel(tsz: number, granuleShift: number): number {
  return 4 - Math.ceil((64 - tsz - granuleShift) / (granuleShift - 3));
}

export interface Stage2Choice extends Stage2Geometry {
  readonly t0sz: number;
  readonly sl0: number;
}

/** What Xen chooses for a width of physical addresses (xen/arch/arm/p2m.c, setup_virt_paging): 32 to 48 bits. */
export function stage2Choice(paBits: number): Stage2Choice {
  const sl0 = paBits > 42 ? 2 : 1;
  const t0sz = 64 - paBits;
  const geometry = stage2Geometry(t0sz, sl0);
  if (geometry === undefined) throw new Error(`no stage 2 tables for ${paBits} bits`);
  return { ...geometry, t0sz, sl0 };
}

// Faults

/**
 * DFSC of an abort; the first four and WALK_EXTERNAL_ABORT take the level in [1:0]. A walk that fails answers
 * `~dfsc`, which is negative.
 */
export const DFSC = {
  ADDRESS_SIZE: 0b00_0000,
  TRANSLATION: 0b00_0100,
  ACCESS_FLAG: 0b00_1000,
  PERMISSION: 0b00_1100,
  EXTERNAL_ABORT: 0b01_0000,
  WALK_EXTERNAL_ABORT: 0b01_0100,
  ALIGNMENT: 0b10_0001,
} as const;

/** DFSC without the level. */
export function dfscKind(dfsc: number): number {
  return dfsc & ~3;
}

/** `translation fault, level 2` and the like, of a DFSC that a walk gave. */
export function formatDfsc(dfsc: number): string {
  const level = `level ${dfsc & 3}`;
  switch (dfscKind(dfsc)) {
    case DFSC.ADDRESS_SIZE:
      return `address size fault, ${level}`;
    case DFSC.TRANSLATION:
      return `translation fault, ${level}`;
    case DFSC.ACCESS_FLAG:
      return `access flag fault, ${level}`;
    case DFSC.PERMISSION:
      return `permission fault, ${level}`;
    case DFSC.WALK_EXTERNAL_ABORT:
      return `external abort on walk, ${level}`;
    default:
      return dfsc === DFSC.EXTERNAL_ABORT ? 'external abort' : `DFSC 0x${dfsc.toString(16)}`;
  }
}

/** ESR_EL2 of a data abort from a lower exception level. */
export const ESR_EL2 = reg32('ESR_EL2', 0, {
  DFSC: ['RW', 5, 0],
  WnR: ['RW', 6],
  S1PTW: ['RW', 7],
  CM: ['RW', 8],
  EA: ['RW', 9],
  FnV: ['RW', 10],
  SET: ['RW', 12, 11],
  AR: ['RW', 14],
  /** 64-bit register. */
  SF: ['RW', 15],
  SRT: ['RW', 20, 16],
  SSE: ['RW', 21],
  SAS: ['RW', 23, 22],
  ISV: ['RW', 24],
  IL: ['RW', 25],
  EC: ['RW', 31, 26],
});

/** ESR_EL2.EC. */
export const EC = { INSTRUCTION_ABORT_LOWER: 0x20, DATA_ABORT_LOWER: 0x24 } as const;

export interface DataAbort {
  readonly dfsc: number;
  readonly isWrite: boolean;
  /** 1, 2, 4 or 8 for a load or store of one register; anything else gives ISV 0. */
  readonly sizeBytes: number;
}

export function encodeDataAbort(abort: DataAbort): number {
  const sas = [1, 2, 4, 8].indexOf(abort.sizeBytes);
  const syndrome = sas < 0 ? 0 : (1 << 24) | (sas << 22) | (sas === 3 ? 1 << 15 : 0);
  return ((EC.DATA_ABORT_LOWER << 26) | (1 << 25) | syndrome | (abort.isWrite ? 1 << 6 : 0) | abort.dfsc) >>> 0;
}

/** The abort behind an ESR_EL2, or undefined when it is none from a lower level. `sizeBytes` is 0 without ISV. */
export function decodeDataAbort(esr: number): DataAbort | undefined {
  const word = asWord(ESR_EL2, esr);
  if (get(ESR_EL2.EC, word) !== EC.DATA_ABORT_LOWER) return undefined;
  return {
    dfsc: get(ESR_EL2.DFSC, word),
    isWrite: get(ESR_EL2.WnR, word) === 1,
    sizeBytes: get(ESR_EL2.ISV, word) === 1 ? 1 << get(ESR_EL2.SAS, word) : 0,
  };
}
