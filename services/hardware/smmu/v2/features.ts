/**
 * What one SMMUv2 has: sizes and options of the part, its ID registers, and a guess for the parts that device trees name
 * (IHI 0062, "SMMU_IDR0" to "SMMU_IDR2").
 */
import { SMMU_IDR0, SMMU_IDR1, SMMU_IDR2, type SmmuV2Geometry, smmuV2Geometry } from '#shared/arch/smmu/v2.ts';
import type { Word } from '#shared/regs/field.ts';
import { wordWith } from '#shared/regs/field.ts';

export interface Smmuv2Features {
  /** SMMU_IDR7.MAJOR: 1 takes the interrupt of a bank from CBAR.IRPTNDX, 2 has one for each bank. */
  readonly version: 1 | 2;
  /** 4096 or 65536. */
  readonly pageBytes: number;
  /** SMMU_IDR1.NUMPAGENDXB: global space and banks have 2^(this + 1) pages each. */
  readonly numPageNdxb: number;
  /** Context banks, up to 128 and no more than there are pages for. */
  readonly contextBanks: number;
  /** Stream mapping groups (SMR and S2CR), up to 128. */
  readonly streamGroups: number;
  /** Wired context interrupts. */
  readonly contextInterrupts: number;
  /** False: a StreamID indexes S2CR (SMMU_IDR0.SMS 0). */
  readonly streamMatching: boolean;
  /** StreamIDs have 16 bits when software asks for them. */
  readonly extendedStreamIds: boolean;
  /** Stage 1 and nested translation, beside stage 2. */
  readonly stage1: boolean;
  /** Table walks snoop caches (SMMU_IDR0.CTTW). */
  readonly coherentWalk: boolean;
  /** Bits of physical addresses and of intermediate ones: 32, 36, 40, 42, 44 or 48. */
  readonly addressBits: number;
}

/** 128 groups, 128 banks, 48 bits. */
export const DEFAULT_FEATURES: Smmuv2Features = {
  version: 2,
  pageBytes: 0x1_0000,
  numPageNdxb: 6,
  contextBanks: 128,
  streamGroups: 128,
  contextInterrupts: 128,
  streamMatching: true,
  extendedStreamIds: false,
  stage1: true,
  coherentWalk: true,
  addressBits: 48,
};

/** Encodings of IAS, OAS and PS by width. */
const SIZE_CODES: readonly number[] = [32, 36, 40, 42, 44, 48];

export interface Smmuv2Node {
  readonly implementation: string;
  readonly sizeBytes: number;
  readonly contextInterrupts: number;
  readonly dmaCoherent: boolean;
}

/** The features of a part as its device tree node leads one to expect: named part, size of the registers, interrupts. */
export function featuresOf({ implementation, sizeBytes, contextInterrupts, dmaCoherent }: Smmuv2Node): Smmuv2Features {
  const old = implementation === 'smmu-v1' || implementation === 'mmu-400' || implementation === 'mmu-401';
  const largest = (pageBytes: number): number => Math.floor(Math.log2(sizeBytes / (4 * pageBytes)));
  const pageBytes = !old && largest(0x1_0000) >= 0 ? 0x1_0000 : 0x1000;
  const numPageNdxb = Math.max(0, Math.min(7, largest(pageBytes)));
  return {
    ...DEFAULT_FEATURES,
    version: implementation === 'smmu-v1' ? 1 : 2,
    pageBytes,
    numPageNdxb,
    contextBanks: Math.min(128, 2 ** (numPageNdxb + 1)),
    contextInterrupts: Math.min(contextInterrupts, 255),
    extendedStreamIds: implementation === 'cavium-smmu-v2' || implementation === 'mmu-500',
    coherentWalk: dmaCoherent,
  };
}

export interface Smmuv2IdRegisters {
  readonly idr0: Word<'SMMU_IDR0'>;
  readonly idr1: Word<'SMMU_IDR1'>;
  readonly idr2: Word<'SMMU_IDR2'>;
}

export function idRegisters(f: Smmuv2Features): Smmuv2IdRegisters {
  const size = SIZE_CODES.indexOf(f.addressBits);
  const banks = f.contextBanks;
  return {
    idr0: wordWith(SMMU_IDR0, {
      NUMSMRG: f.streamGroups,
      EXIDS: Number(f.extendedStreamIds),
      // 2^n StreamIDs; with matching it is their width.
      NUMSIDB: f.streamMatching ? 15 : Math.ceil(Math.log2(f.streamGroups)),
      CTTW: Number(f.coherentWalk),
      NUMIRPT: f.version === 1 ? f.contextInterrupts : 0,
      SMS: Number(f.streamMatching),
      NTS: Number(f.stage1),
      S2TS: 1,
      S1TS: Number(f.stage1),
    }),
    idr1: wordWith(SMMU_IDR1, {
      NUMCB: banks,
      NUMPAGENDXB: f.numPageNdxb,
      PAGESIZE: f.pageBytes === 0x1_0000 ? 1 : 0,
    }),
    idr2: wordWith(SMMU_IDR2, { IAS: size, OAS: size, UBS: size, PTFSv8_4kB: 1 }),
  };
}

export function geometryOf(f: Smmuv2Features): SmmuV2Geometry {
  return smmuV2Geometry(f.pageBytes === 0x1_0000 ? 1 : 0, f.numPageNdxb);
}

/** Width of the StreamIDs: 15, or 16 with sCR0.EXIDENABLE. */
export function streamIdBits(extended: boolean): number {
  return extended ? 16 : 15;
}
