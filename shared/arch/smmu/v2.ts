/**
 * Register layout of an SMMUv2 (IHI 0062, "Memory map and registers"): global space 0 and 1, and one page for each
 * context bank. A page is 4 or 64 KiB; the global space is the lower half of the part, the context banks the upper one.
 * A 64-bit register is two, the low half first; software may write it as one or as two.
 * Not modelled: the Secure copies and the non-secure aliases at +0x400, address translation operations (ATS1PR, GATS1*,
 * PAR), performance monitors, the implementation defined page, PRRR/NMRR; software sees zeros and its writes are dropped.
 */
import { type FieldSpec, type Register, type Register32, reg32 } from '#shared/regs/field.ts';

/** Register number n of an array: one of 32 bits at every fourth byte. */
export function indexed<R extends string, T>(first: Register32<R, T>, n: number): Register32<R, T> {
  return { ...first, offset: first.offset + 4 * n };
}

/** As `register`, with fewer bits that software can write: those that a part does not have are read as zero. */
export function narrowed<R extends string, T>(register: Register32<R, T>, rwMask: number): Register32<R, T> {
  return { ...register, rwMask: (register.rwMask & rwMask) >>> 0 };
}

// Global register space 0

export const SMMU_sCR0 = reg32('SMMU_sCR0', 0x00, {
  /** 1: the SMMU is off and everything passes. */
  CLIENTPD: ['RW', 0],
  GFRE: ['RW', 1],
  GFIE: ['RW', 2],
  /** 16-bit StreamIDs; validity moves from SMR.VALID to S2CR.EXIDVALID. */
  EXIDENABLE: ['RW', 3],
  GCFGFRE: ['RW', 4],
  GCFGFIE: ['RW', 5],
  STALLD: ['RW', 8],
  GSE: ['RW', 9],
  /** 1: a stream that matches nothing faults, 0: it passes. */
  USFCFG: ['RW', 10],
  VMIDPNE: ['RW', 11],
  PTM: ['RW', 12],
  FB: ['RW', 13],
  BSU: ['RW', 15, 14],
  /** 1: a stream that matches several entries faults. */
  SMCFCFG: ['RW', 21],
  VMID16EN: ['RW', 31],
});

export const SMMU_sACR = reg32('SMMU_sACR', 0x10, { IMPLEMENTATION: ['RW', 31, 0] });

export const SMMU_IDR0 = reg32('SMMU_IDR0', 0x20, {
  NUMSMRG: ['RO', 7, 0],
  EXIDS: ['RO', 8],
  NUMSIDB: ['RO', 12, 9],
  BTM: ['RO', 13],
  CTTW: ['RO', 14],
  NUMIRPT: ['RO', 23, 16],
  PTFS: ['RO', 25, 24],
  ATOSNS: ['RO', 26],
  /** Stream matching; without it a StreamID indexes S2CR. */
  SMS: ['RO', 27],
  NTS: ['RO', 28],
  S2TS: ['RO', 29],
  S1TS: ['RO', 30],
  SES: ['RO', 31],
});

export const SMMU_IDR1 = reg32('SMMU_IDR1', 0x24, {
  NUMCB: ['RO', 7, 0],
  SMCD: ['RO', 15],
  NUMS2CB: ['RO', 23, 16],
  /** The global space has 2^(NUMPAGENDXB + 1) pages, and so have the context banks. */
  NUMPAGENDXB: ['RO', 30, 28],
  /** 1: pages of 64 KiB. */
  PAGESIZE: ['RO', 31],
});

export const SMMU_IDR2 = reg32('SMMU_IDR2', 0x28, {
  IAS: ['RO', 3, 0],
  OAS: ['RO', 7, 4],
  UBS: ['RO', 11, 8],
  PTFSv8_4kB: ['RO', 12],
  PTFSv8_16kB: ['RO', 13],
  PTFSv8_64kB: ['RO', 14],
  VMID16S: ['RO', 15],
});

export const SMMU_IDR7 = reg32('SMMU_IDR7', 0x3c, { MINOR: ['RO', 3, 0], MAJOR: ['RO', 7, 4] });

export const SMMU_sGFAR_LO = reg32('SMMU_sGFAR_LO', 0x40, { FADDR: ['RW', 31, 0] });
export const SMMU_sGFAR_HI = reg32('SMMU_sGFAR_HI', 0x44, { FADDR: ['RW', 31, 0] });

const GFSR = {
  /** Invalid context: the S2CR says fault. */
  ICF: 0,
  /** Unidentified stream. */
  USF: 1,
  /** Stream match conflict. */
  SMCF: 2,
  /** Unimplemented context bank. */
  UCBF: 3,
  UCIF: 4,
  CAF: 5,
  EF: 6,
  PF: 7,
  UUT: 8,
  MULTI: 31,
} as const;

export const SMMU_sGFSR = reg32('SMMU_sGFSR', 0x48, flags(GFSR, 'W1C'));
export const SMMU_sGFSRRESTORE = reg32('SMMU_sGFSRRESTORE', 0x4c, flags(GFSR, 'WO'));

export const SMMU_sGFSYNR0 = reg32('SMMU_sGFSYNR0', 0x50, {
  NESTED: ['RW', 0],
  WNR: ['RW', 1],
  PNU: ['RW', 2],
  IND: ['RW', 3],
  NSSTATE: ['RW', 4],
  NSATTR: ['RW', 5],
  ATS: ['RW', 6],
});
export const SMMU_sGFSYNR1 = reg32('SMMU_sGFSYNR1', 0x54, { StreamID: ['RW', 15, 0], SSD_Index: ['RW', 31, 16] });

export const SMMU_STLBIALL = reg32('SMMU_STLBIALL', 0x60, {});
export const SMMU_TLBIVMID = reg32('SMMU_TLBIVMID', 0x64, { VMID: ['WO', 15, 0] });
export const SMMU_TLBIALLNSNH = reg32('SMMU_TLBIALLNSNH', 0x68, {});
export const SMMU_TLBIALLH = reg32('SMMU_TLBIALLH', 0x6c, {});
export const SMMU_sTLBGSYNC = reg32('SMMU_sTLBGSYNC', 0x70, {});
export const SMMU_sTLBGSTATUS = reg32('SMMU_sTLBGSTATUS', 0x74, { GSACTIVE: ['RO', 0] });

/** SMR0; `indexed` gives the others. With sCR0.EXIDENABLE: ID is [15:0] and MASK [31:16]. */
export const SMMU_SMR = reg32('SMMU_SMR', 0x800, { ID: ['RW', 14, 0], MASK: ['RW', 30, 16], VALID: ['RW', 31] });
export const SMMU_SMR_EXID = reg32('SMMU_SMR_EXID', 0x800, { ID: ['RW', 15, 0], MASK: ['RW', 31, 16] });

export const SMMU_S2CR = reg32('SMMU_S2CR', 0xc00, {
  CBNDX: ['RW', 7, 0],
  EXIDVALID: ['RW', 10],
  TYPE: ['RW', 17, 16],
  PRIVCFG: ['RW', 25, 24],
});
/** S2CR.TYPE. */
export const S2CR_TYPE = { TRANSLATE: 0, BYPASS: 1, FAULT: 2 } as const;

// Global register space 1 (the second page)

export const SMMU_CBAR = reg32('SMMU_CBAR', 0x000, {
  VMID: ['RW', 7, 0],
  /** Without stage 2; with nested translation [15:8] is CBNDX, the stage 2 bank. */
  BPSHCFG: ['RW', 9, 8],
  MemAttr: ['RW', 15, 12],
  TYPE: ['RW', 17, 16],
  IRPTNDX: ['RW', 31, 24],
});
/** The stage 2 bank of a nested one shares [15:8] with the fields above. */
export const CBAR_CBNDX = { lsb: 8, max: 0xff } as const;
/** Bits that a CBAR keeps: [11:10] and what the fields cover. */
export const CBAR_RW_MASK = 0xff03_ffff;
/** CBAR.TYPE. */
export const CBAR_TYPE = { S2: 0, S1_S2_BYPASS: 1, S1_S2_FAULT: 2, S1_S2: 3 } as const;

export const SMMU_CBFRSYNRA = reg32('SMMU_CBFRSYNRA', 0x400, { StreamID: ['RW', 15, 0], SSD_Index: ['RW', 31, 16] });
export const SMMU_CBA2R = reg32('SMMU_CBA2R', 0x800, {
  /** AArch64 tables. */
  VA64: ['RW', 0],
  MONC: ['RW', 1],
  VMID16: ['RW', 31, 16],
});

// A context bank (a page of its own)

export const SMMU_CB_SCTLR = reg32('SMMU_CB_SCTLR', 0x00, {
  M: ['RW', 0],
  TRE: ['RW', 1],
  AFE: ['RW', 2],
  AFFD: ['RW', 3],
  E: ['RW', 4],
  /** A fault is answered by an abort; 0: reads as zero, writes ignored. */
  CFRE: ['RW', 5],
  /** A fault raises the bank's interrupt. */
  CFIE: ['RW', 6],
  CFCFG: ['RO', 7],
  HUPCF: ['RW', 8],
  ASIDPNE: ['RW', 12],
});
export const SMMU_CB_TCR2 = reg32('SMMU_CB_TCR2', 0x10, {
  PASize: ['RW', 2, 0],
  /** ASIDs of 16 bits. */
  AS: ['RW', 4],
  TBI0: ['RW', 5],
  TBI1: ['RW', 6],
  SEP: ['RW', 17, 15],
});
export const SMMU_CB_TTBR0_LO = reg32('SMMU_CB_TTBR0_LO', 0x20, { ADDRESS: ['RW', 31, 0] });
/** In stage 1 [31:16] is the ASID. */
export const SMMU_CB_TTBR0_HI = reg32('SMMU_CB_TTBR0_HI', 0x24, { ADDRESS: ['RW', 15, 0], ASID: ['RW', 31, 16] });
export const SMMU_CB_TTBR1_LO = reg32('SMMU_CB_TTBR1_LO', 0x28, { ADDRESS: ['RW', 31, 0] });
export const SMMU_CB_TTBR1_HI = reg32('SMMU_CB_TTBR1_HI', 0x2c, { ADDRESS: ['RW', 15, 0], ASID: ['RW', 31, 16] });
/** As VTCR_EL2 for stage 2 (T0SZ, SL0, TG0, PS); SMMU_CB_TCR_STAGE1 for stage 1. */
export const SMMU_CB_TCR = reg32('SMMU_CB_TCR', 0x30, {
  T0SZ: ['RW', 5, 0],
  SL0: ['RW', 7, 6],
  IRGN0: ['RW', 9, 8],
  ORGN0: ['RW', 11, 10],
  SH0: ['RW', 13, 12],
  TG0: ['RW', 15, 14],
  PS: ['RW', 18, 16],
  REST: ['RW', 31, 19],
});
/** The same register of a bank of stage 1: the low word of TCR_EL1. */
export const SMMU_CB_TCR_STAGE1 = reg32('SMMU_CB_TCR_STAGE1', 0x30, {
  T0SZ: ['RW', 5, 0],
  EPD0: ['RW', 7],
  IRGN0: ['RW', 9, 8],
  ORGN0: ['RW', 11, 10],
  SH0: ['RW', 13, 12],
  TG0: ['RW', 15, 14],
  T1SZ: ['RW', 21, 16],
  /** The ASID is that of TTBR1. */
  A1: ['RW', 22],
  EPD1: ['RW', 23],
  IRGN1: ['RW', 25, 24],
  ORGN1: ['RW', 27, 26],
  SH1: ['RW', 29, 28],
  TG1: ['RW', 31, 30],
});
export const SMMU_CB_MAIR0 = reg32('SMMU_CB_MAIR0', 0x38, { ATTR: ['RW', 31, 0] });
export const SMMU_CB_MAIR1 = reg32('SMMU_CB_MAIR1', 0x3c, { ATTR: ['RW', 31, 0] });

const FSR = {
  /** Translation, access flag, permission, external abort. */
  TF: 1,
  AFF: 2,
  PF: 3,
  EF: 4,
  TLBMCF: 5,
  TLBLKF: 6,
  /** Address size. */
  ASF: 7,
  UUT: 8,
  SS: 30,
  MULTI: 31,
} as const;
export type FsrFault = 'TF' | 'AFF' | 'PF' | 'EF' | 'ASF';

export const SMMU_CB_FSR = reg32('SMMU_CB_FSR', 0x58, flags(FSR, 'W1C'));
export const SMMU_CB_FSRRESTORE = reg32('SMMU_CB_FSRRESTORE', 0x5c, flags(FSR, 'WO'));
export const SMMU_CB_FAR_LO = reg32('SMMU_CB_FAR_LO', 0x60, { FADDR: ['RW', 31, 0] });
export const SMMU_CB_FAR_HI = reg32('SMMU_CB_FAR_HI', 0x64, { FADDR: ['RW', 31, 0] });
export const SMMU_CB_FSYNR0 = reg32('SMMU_CB_FSYNR0', 0x68, {
  /** Level of the walk. */
  PLVL: ['RW', 1, 0],
  WNR: ['RW', 4],
  PNU: ['RW', 5],
  IND: ['RW', 6],
  NSATTR: ['RW', 8],
  ATOF: ['RW', 9],
  /** The fault came on a walk of stage 1. */
  PTWF: ['RW', 10],
  AFR: ['RW', 11],
  S1CBNDX: ['RW', 23, 16],
});
export const SMMU_CB_IPAFAR_LO = reg32('SMMU_CB_IPAFAR_LO', 0x70, { IPA: ['RW', 31, 0] });
export const SMMU_CB_IPAFAR_HI = reg32('SMMU_CB_IPAFAR_HI', 0x74, { IPA: ['RW', 31, 0] });

/** Maintenance of stage 1: VA >> 12 in [43:0], ASID in [63:48]. The low half does it; an upper half that is not 0 does it again. */
export const SMMU_CB_TLBIVA_LO = reg32('SMMU_CB_TLBIVA_LO', 0x600, { ADDRESS: ['RW', 31, 0] });
export const SMMU_CB_TLBIVA_HI = reg32('SMMU_CB_TLBIVA_HI', 0x604, { ADDRESS: ['RW', 11, 0], ASID: ['RW', 31, 16] });
export const SMMU_CB_TLBIVAA_LO = reg32('SMMU_CB_TLBIVAA_LO', 0x608, { ADDRESS: ['RW', 31, 0] });
export const SMMU_CB_TLBIVAA_HI = reg32('SMMU_CB_TLBIVAA_HI', 0x60c, { ADDRESS: ['RW', 11, 0] });
export const SMMU_CB_TLBIASID = reg32('SMMU_CB_TLBIASID', 0x610, { ASID: ['WO', 15, 0] });
export const SMMU_CB_TLBIALL = reg32('SMMU_CB_TLBIALL', 0x618, {});
export const SMMU_CB_TLBIVAL_LO = reg32('SMMU_CB_TLBIVAL_LO', 0x620, { ADDRESS: ['RW', 31, 0] });
export const SMMU_CB_TLBIVAL_HI = reg32('SMMU_CB_TLBIVAL_HI', 0x624, { ADDRESS: ['RW', 11, 0], ASID: ['RW', 31, 16] });
export const SMMU_CB_TLBIVAAL_LO = reg32('SMMU_CB_TLBIVAAL_LO', 0x628, { ADDRESS: ['RW', 31, 0] });
export const SMMU_CB_TLBIVAAL_HI = reg32('SMMU_CB_TLBIVAAL_HI', 0x62c, { ADDRESS: ['RW', 11, 0] });
/** Maintenance of stage 2: IPA >> 12. */
export const SMMU_CB_TLBIIPAS2_LO = reg32('SMMU_CB_TLBIIPAS2_LO', 0x630, { ADDRESS: ['RW', 31, 0] });
export const SMMU_CB_TLBIIPAS2_HI = reg32('SMMU_CB_TLBIIPAS2_HI', 0x634, { ADDRESS: ['RW', 3, 0] });
export const SMMU_CB_TLBIIPAS2L_LO = reg32('SMMU_CB_TLBIIPAS2L_LO', 0x638, { ADDRESS: ['RW', 31, 0] });
export const SMMU_CB_TLBIIPAS2L_HI = reg32('SMMU_CB_TLBIIPAS2L_HI', 0x63c, { ADDRESS: ['RW', 3, 0] });
export const SMMU_CB_TLBSYNC = reg32('SMMU_CB_TLBSYNC', 0x7f0, {});
export const SMMU_CB_TLBSTATUS = reg32('SMMU_CB_TLBSTATUS', 0x7f4, { SACTIVE: ['RO', 0] });

/** Registers of one context bank. */
export const CONTEXT_BANK_REGISTERS: readonly Register[] = [
  SMMU_CB_SCTLR,
  SMMU_CB_TCR2,
  SMMU_CB_TTBR0_LO,
  SMMU_CB_TTBR0_HI,
  SMMU_CB_TTBR1_LO,
  SMMU_CB_TTBR1_HI,
  SMMU_CB_TCR,
  SMMU_CB_MAIR0,
  SMMU_CB_MAIR1,
  SMMU_CB_FSR,
  SMMU_CB_FSRRESTORE,
  SMMU_CB_FAR_LO,
  SMMU_CB_FAR_HI,
  SMMU_CB_FSYNR0,
  SMMU_CB_IPAFAR_LO,
  SMMU_CB_IPAFAR_HI,
  SMMU_CB_TLBIVA_LO,
  SMMU_CB_TLBIVA_HI,
  SMMU_CB_TLBIVAA_LO,
  SMMU_CB_TLBIVAA_HI,
  SMMU_CB_TLBIASID,
  SMMU_CB_TLBIALL,
  SMMU_CB_TLBIVAL_LO,
  SMMU_CB_TLBIVAL_HI,
  SMMU_CB_TLBIVAAL_LO,
  SMMU_CB_TLBIVAAL_HI,
  SMMU_CB_TLBIIPAS2_LO,
  SMMU_CB_TLBIIPAS2_HI,
  SMMU_CB_TLBIIPAS2L_LO,
  SMMU_CB_TLBIIPAS2L_HI,
  SMMU_CB_TLBSYNC,
  SMMU_CB_TLBSTATUS,
];

function flags<K extends string>(
  bits: Readonly<Record<K, number>>,
  access: 'W1C' | 'WO',
): { readonly [N in K]: FieldSpec } {
  const table: Record<string, FieldSpec> = {};
  for (const [name, bit] of Object.entries<number>(bits)) table[name] = [access, bit];
  return table as { readonly [N in K]: FieldSpec };
}

/** Names of the flags that are set in a fault status word, lowest first, without MULTI. */
export function faultNames(status: number, of: 'global' | 'context'): string[] {
  const bits: Readonly<Record<string, number>> = of === 'global' ? GFSR : FSR;
  return Object.entries(bits)
    .filter(([name, bit]) => name !== 'MULTI' && ((status >>> bit) & 1) === 1)
    .map(([name]) => name);
}

/** Where things stand in a part of this page size and NUMPAGENDXB. */
export interface SmmuV2Geometry {
  readonly pageBytes: number;
  readonly sizeBytes: number;
  /** Of global space 1. */
  readonly gr1: number;
  /** Of context bank 0; bank n is n pages on. */
  readonly banks: number;
}

/** From the fields of SMMU_IDR1. */
export function smmuV2Geometry(pageSize: number, numPageNdxb: number): SmmuV2Geometry {
  const pageBytes = pageSize === 1 ? 0x1_0000 : 0x1000;
  const half = pageBytes * 2 ** (numPageNdxb + 1);
  return { pageBytes, sizeBytes: 2 * half, gr1: pageBytes, banks: half };
}
