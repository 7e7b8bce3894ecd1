/**
 * What a particular SMMUv3 is: the values of its identification registers that a board may choose, by their names there
 * (IHI 0070, "SMMU_IDR0" and on), and what follows from them.
 */
import * as v3 from '#shared/arch/smmu/v3.ts';
import { assert } from '#shared/core/assert.ts';
import { wordWith } from '#shared/regs/field.ts';

export interface SmmuFeatures {
  readonly S1P: 0 | 1;
  readonly S2P: 0 | 1;
  /** 1: two-level stream tables too. */
  readonly ST_LEVEL: 0 | 1;
  /** Range invalidation; the part is an SMMUv3.2 then. */
  readonly RIL: 0 | 1;
  /** Index into ADDRESS_BITS, 0 to 5. */
  readonly OAS: number;
  /** 0 to 32. */
  readonly SIDSIZE: number;
  /** 0: no substreams. */
  readonly SSIDSIZE: number;
  readonly VMID16: 0 | 1;
  /** The SMMU's own interrupts can be writes. */
  readonly MSI: 0 | 1;
  readonly GRAN16K: 0 | 1;
  readonly GRAN64K: 0 | 1;
  readonly CMDQS: number;
  readonly EVENTQS: number;
}

/** Both stages, no substreams, 48-bit addresses, wired interrupts. */
export const DEFAULT_FEATURES: SmmuFeatures = {
  S1P: 1,
  S2P: 1,
  ST_LEVEL: 1,
  RIL: 0,
  OAS: 5,
  SIDSIZE: 16,
  SSIDSIZE: 0,
  VMID16: 1,
  MSI: 0,
  GRAN16K: 1,
  GRAN64K: 1,
  CMDQS: 8,
  EVENTQS: 7,
};

/** The defaults with `given` over them. Throws for what no part can be. */
export function featuresOf(given: Partial<SmmuFeatures> | undefined): SmmuFeatures {
  const f = { ...DEFAULT_FEATURES, ...given };
  assert(f.S1P === 1 || f.S2P === 1, 'an SMMUv3 has a stage');
  assert(f.OAS >= 0 && f.OAS <= 5, 'an SMMUv3 here has 32 to 48 address bits');
  assert(f.SIDSIZE <= 32 && f.SSIDSIZE <= 20, 'StreamIDs have up to 32 bits, SubstreamIDs up to 20');
  assert(f.CMDQS <= 19 && f.EVENTQS <= 19, 'a queue has up to 2^19 entries');
  return f;
}

/** Bits of input (IAS) and output (OAS) addresses; they are the same, for there are no 32-bit tables. */
export function addressBits(f: SmmuFeatures): number {
  return v3.ADDRESS_BITS[f.OAS]!;
}

/** log2 of the granule that an STE or CD names by one of the TG tables of vmsa.ts; undefined: the part lacks it. */
export function granuleOf(f: SmmuFeatures, table: readonly (number | undefined)[], tg: number): number | undefined {
  const shift = table[tg];
  if (shift === 14 && f.GRAN16K === 0) return undefined;
  return shift === 16 && f.GRAN64K === 0 ? undefined : shift;
}

/** The words of the identification registers. */
export function identification(
  f: SmmuFeatures,
): readonly (readonly [register: { offset: number; id: string }, word: number])[] {
  const { S1P, S2P, ST_LEVEL, RIL, OAS, SIDSIZE, SSIDSIZE, VMID16, MSI, GRAN16K, GRAN64K, CMDQS, EVENTQS } = f;
  const idr0 = {
    S2P,
    S1P,
    TTF: 2,
    COHACC: 1,
    ASID16: S1P,
    MSI,
    VMID16: S2P === 1 ? VMID16 : 0,
    CD2L: SSIDSIZE > 0 ? 1 : 0,
    TTENDIAN: 2,
    STALL_MODEL: 1,
    TERM_MODEL: 1,
    ST_LEVEL,
  };
  return [
    [v3.SMMU_IDR0, wordWith(v3.SMMU_IDR0, idr0)],
    [v3.SMMU_IDR1, wordWith(v3.SMMU_IDR1, { SIDSIZE, SSIDSIZE, CMDQS, EVENTQS })],
    [v3.SMMU_IDR3, wordWith(v3.SMMU_IDR3, { RIL })],
    [v3.SMMU_IDR5, wordWith(v3.SMMU_IDR5, { OAS, GRAN4K: 1, GRAN16K, GRAN64K })],
    [v3.SMMU_AIDR, wordWith(v3.SMMU_AIDR, { ArchMinorRev: RIL === 1 ? 2 : 1 })],
  ];
}
