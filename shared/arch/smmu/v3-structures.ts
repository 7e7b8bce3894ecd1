/**
 * The stream table (IHI 0070, "Data structure formats"): level 1 descriptors of 8 bytes and stream table entries of 64.
 * Not modelled: context descriptors; the part has no stage 1.
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

/** A level 1 descriptor of a level 2 array with 2^`split` entries at `l2Ptr`. */
export function encodeL1Std(l2Ptr: number, split: number): Uint32Array {
  const words = new Uint32Array(2);
  storeFields(words, 0, L1STD, { Span: split + 1, L2Ptr: l2Ptr });
  return words;
}
