/**
 * The CPU interface's system registers by name, and their fields (IHI 0069, "CPU interface registers").
 * Not modelled: taking group 0 interrupts, the virtual interface (ICH_*).
 */

/** The registers of a CPU interface that EL2 may name. */
export const ICC_REGISTERS = [
  'ICC_PMR_EL1',
  'ICC_IGRPEN1_EL1',
  'ICC_IAR1_EL1',
  'ICC_EOIR1_EL1',
  'ICC_HPPIR1_EL1',
  'ICC_RPR_EL1',
  'ICC_CTLR_EL1',
  'ICC_SRE_EL1',
  'ICC_DIR_EL1',
  'ICC_BPR0_EL1',
  'ICC_BPR1_EL1',
  'ICC_AP1R0_EL1',
  'ICC_SGI1R_EL1',
] as const;

export type IccRegister = (typeof ICC_REGISTERS)[number];

/** 1: ICC_BPR0_EL1 groups the priorities of both groups. */
export const ICC_CTLR_EL1_CBPR = 1 << 0;
/** 1: ICC_EOIR1_EL1 drops the priority only, ICC_DIR_EL1 deactivates. */
export const ICC_CTLR_EL1_EOImode = 1 << 1;
/** Bits of an INTID that can be taken: 0 is 16, 1 is 24. */
export const ICC_CTLR_EL1_IDbits_24 = 1 << 11;
export const ICC_CTLR_EL1_A3V = 1 << 15;
export const ICC_SRE_EL1_SRE = 1 << 0;
export const ICC_SRE_EL1_DFB = 1 << 1;
export const ICC_SRE_EL1_DIB = 1 << 2;
export const ICC_IGRPEN1_EL1_Enable = 1 << 0;
/** The running priority when nothing is active. */
export const ICC_RPR_EL1_IDLE = 0xff;

/** ICC_SGI1R_EL1: which PEs an SGI is for. */
export interface IccSgi1r {
  readonly intid: number;
  /** All PEs but the one that writes; the affinity fields say nothing then. */
  readonly IRM: boolean;
  /** Aff0 is `16 * RS` plus the position of each bit of the list. */
  readonly TargetList: number;
  readonly RS: number;
  readonly Aff1: number;
  readonly Aff2: number;
  readonly Aff3: number;
}

/** The value of ICC_SGI1R_EL1 as a number; exact while Aff3 is below 32. */
export function encodeIccSgi1r(s: IccSgi1r): number {
  const lo = ((s.TargetList & 0xffff) | ((s.Aff1 & 0xff) << 16) | ((s.intid & 0xf) << 24)) >>> 0;
  const hi = ((s.Aff2 & 0xff) | (s.IRM ? 1 << 8 : 0) | ((s.RS & 0xf) << 12) | ((s.Aff3 & 0xff) << 16)) >>> 0;
  return hi * 0x1_0000_0000 + lo;
}

export function decodeIccSgi1r(value: number): IccSgi1r {
  const lo = value >>> 0;
  const hi = Math.floor(value / 0x1_0000_0000) >>> 0;
  return {
    intid: (lo >>> 24) & 0xf,
    IRM: ((hi >>> 8) & 1) !== 0,
    TargetList: lo & 0xffff,
    RS: (hi >>> 12) & 0xf,
    Aff1: (lo >>> 16) & 0xff,
    Aff2: hi & 0xff,
    Aff3: (hi >>> 16) & 0xff,
  };
}
