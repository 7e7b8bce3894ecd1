/**
 * Structures in memory (IHI 0070, "Data structure formats"): the stream table with level 1 descriptors of 8 bytes and
 * entries of 64, and the context descriptors of stage 1, 64 bytes each, with their own level 1 of 8 bytes.
 * Not modelled: the fields of MPAM, VMS and DPT.
 */
import { dw, dwAddr, storeFields } from '#shared/regs/struct.ts';

export const L1STD_BYTES = 8;
export const L1STD = {
  /** 2^(Span - 1) entries at L2Ptr; 0 and from 12 on: invalid. */
  Span: dw(0, 4, 0),
  L2Ptr: dwAddr(0, 52, 6),
} as const;

export const STE_BYTES = 64;
export const STE_WORDS = 16;
export const STE = {
  V: dw(0, 0),
  Config: dw(0, 3, 1),
  S1Fmt: dw(0, 5, 4),
  S1ContextPtr: dwAddr(0, 51, 6),
  S1CDMax: dw(0, 63, 59),
  S1DSS: dw(1, 1, 0),
  S1CIR: dw(1, 3, 2),
  S1COR: dw(1, 5, 4),
  S1CSH: dw(1, 7, 6),
  S1STALLD: dw(1, 27),
  EATS: dw(1, 29, 28),
  STRW: dw(1, 31, 30),
  MemAttr: dw(1, 35, 32),
  MTCFG: dw(1, 36),
  ALLOCCFG: dw(1, 40, 37),
  SHCFG: dw(1, 45, 44),
  NSCFG: dw(1, 47, 46),
  PRIVCFG: dw(1, 49, 48),
  INSTCFG: dw(1, 51, 50),
  MEV: dw(1, 19),
  S2VMID: dw(2, 15, 0),
  S2T0SZ: dw(2, 37, 32),
  S2SL0: dw(2, 39, 38),
  S2IR0: dw(2, 41, 40),
  S2OR0: dw(2, 43, 42),
  S2SH0: dw(2, 45, 44),
  S2TG: dw(2, 47, 46),
  S2PS: dw(2, 50, 48),
  S2AA64: dw(2, 51),
  S2ENDI: dw(2, 52),
  S2AFFD: dw(2, 53),
  S2PTW: dw(2, 54),
  S2HD: dw(2, 55),
  S2HA: dw(2, 56),
  S2S: dw(2, 57),
  S2R: dw(2, 58),
  S2TTB: dwAddr(3, 51, 4),
} as const;

/** STE.Config; 0 to 3 all abort. */
export const STE_CONFIG = { abort: 0, bypass: 4, s1: 5, s2: 6, s1s2: 7 } as const;
/** STE.S2TG; another order than in VTCR_EL2.TG0's neighbours: 1 is 64 KiB. */
export const STE_S2TG = { granule4K: 0, granule64K: 1, granule16K: 2 } as const;
/** STE.SHCFG: use the incoming shareability. */
export const STE_SHCFG_INCOMING = 1;

/** STE.S1Fmt: how many context descriptors there are at S1ContextPtr, and in how many levels. */
export const STE_S1FMT = { linear: 0, twoLevel4K: 1, twoLevel64K: 2 } as const;
/** STE.S1DSS: what a transaction without a SubstreamID meets where there are substreams. */
export const STE_S1DSS = { terminate: 0, bypass: 1, substream0: 2 } as const;

export const L1CD_BYTES = 8;
export const L1CD = { V: dw(0, 0), L2Ptr: dwAddr(0, 51, 12) } as const;

export const CD_BYTES = 64;
export const CD_WORDS = 16;
export const CD = {
  T0SZ: dw(0, 5, 0),
  TG0: dw(0, 7, 6),
  IR0: dw(0, 9, 8),
  OR0: dw(0, 11, 10),
  SH0: dw(0, 13, 12),
  EPD0: dw(0, 14),
  ENDI: dw(0, 15),
  T1SZ: dw(0, 21, 16),
  TG1: dw(0, 23, 22),
  IR1: dw(0, 25, 24),
  OR1: dw(0, 27, 26),
  SH1: dw(0, 29, 28),
  EPD1: dw(0, 30),
  V: dw(0, 31),
  IPS: dw(0, 34, 32),
  AFFD: dw(0, 35),
  WXN: dw(0, 36),
  UWXN: dw(0, 37),
  TBI0: dw(0, 38),
  TBI1: dw(0, 39),
  PAN: dw(0, 40),
  AA64: dw(0, 41),
  HD: dw(0, 42),
  HA: dw(0, 43),
  S: dw(0, 44),
  R: dw(0, 45),
  A: dw(0, 46),
  ASET: dw(0, 47),
  ASID: dw(0, 63, 48),
  TTB0: dwAddr(1, 51, 4),
  TTB1: dwAddr(2, 51, 4),
  MAIR0: dw(3, 31, 0),
  MAIR1: dw(3, 63, 32),
} as const;

export interface ContextDescriptor {
  readonly asid: number;
  readonly t0sz: number;
  /** Index into ADDRESS_BITS. */
  readonly ips: number;
  readonly ttb0: number;
  /** The upper half; without it EPD1 is set. */
  readonly upper?: { readonly t1sz: number; readonly ttb1: number };
}

/** A descriptor as Linux writes it for DMA: 4 KiB granule, faults recorded and aborted, its own ASID. */
export function encodeCd(cd: ContextDescriptor): Uint32Array {
  const words = new Uint32Array(CD_WORDS);
  const upper =
    cd.upper === undefined ? { EPD1: 1 } : { T1SZ: cd.upper.t1sz, TG1: 2, IR1: 1, OR1: 1, SH1: 3, TTB1: cd.upper.ttb1 };
  storeFields(words, 0, CD, {
    T0SZ: cd.t0sz,
    IR0: 1,
    OR0: 1,
    SH0: 3,
    V: 1,
    IPS: cd.ips,
    AA64: 1,
    R: 1,
    A: 1,
    ASET: 1,
    ASID: cd.asid,
    TTB0: cd.ttb0,
    MAIR0: 0x0400_ff44, // attribute 0 non-cacheable, 1 write-back, 2 device-nGnRnE, 3 device-nGnRE
    ...upper,
  });
  return words;
}

/** A level 1 context descriptor that leads to a page of them. */
export function encodeL1Cd(l2Ptr: number): Uint32Array {
  const words = new Uint32Array(2);
  storeFields(words, 0, L1CD, { V: 1, L2Ptr: l2Ptr });
  return words;
}

/** An entry that aborts every transaction without an event. */
export function encodeAbortSte(): Uint32Array {
  const words = new Uint32Array(STE_WORDS);
  storeFields(words, 0, STE, { V: 1, Config: STE_CONFIG.abort });
  return words;
}

export function encodeBypassSte(): Uint32Array {
  const words = new Uint32Array(STE_WORDS);
  storeFields(words, 0, STE, { V: 1, Config: STE_CONFIG.bypass, SHCFG: STE_SHCFG_INCOMING });
  return words;
}

export interface Stage2Ste {
  readonly vmid: number;
  readonly t0sz: number;
  readonly sl0: number;
  readonly ps: number;
  /** Root table, S2TTB. */
  readonly ttb: number;
}

/** Stage 2 only, as Xen writes it: 4 KiB granule, inner shareable write-back walks, faults recorded and terminated. */
export function encodeStage2Ste(ste: Stage2Ste): Uint32Array {
  const words = new Uint32Array(STE_WORDS);
  storeFields(words, 0, STE, {
    V: 1,
    Config: STE_CONFIG.s2,
    SHCFG: STE_SHCFG_INCOMING,
    S2VMID: ste.vmid,
    S2T0SZ: ste.t0sz,
    S2SL0: ste.sl0,
    S2IR0: 1,
    S2OR0: 1,
    S2SH0: 3,
    S2TG: STE_S2TG.granule4K,
    S2PS: ste.ps,
    S2AA64: 1,
    S2PTW: 1,
    S2R: 1,
    S2TTB: ste.ttb,
  });
  return words;
}

/** Stage 1 only, one context descriptor, as Linux writes it; `vmid` tags what the SMMU keeps where it has stage 2. */
export function encodeStage1Ste(contextPtr: number, vmid = 0): Uint32Array {
  const words = new Uint32Array(STE_WORDS);
  storeFields(words, 0, STE, {
    V: 1,
    Config: STE_CONFIG.s1,
    S1ContextPtr: contextPtr,
    S1CIR: 1,
    S1COR: 1,
    S1CSH: 3,
    S2VMID: vmid,
  });
  return words;
}

/** Both stages: the context descriptor at an intermediate address, and everything of stage 1 below `ste`. */
export function encodeNestedSte(contextIpa: number, ste: Stage2Ste): Uint32Array {
  const words = encodeStage2Ste(ste);
  storeFields(words, 0, STE, {
    Config: STE_CONFIG.s1s2,
    S1ContextPtr: contextIpa,
    S1CIR: 1,
    S1COR: 1,
    S1CSH: 3,
  });
  return words;
}

/** A level 1 descriptor of a level 2 array with 2^`split` entries at `l2Ptr`. */
export function encodeL1Std(l2Ptr: number, split: number): Uint32Array {
  const words = new Uint32Array(2);
  storeFields(words, 0, L1STD, { Span: split + 1, L2Ptr: l2Ptr });
  return words;
}
