/**
 * What a particular SMMUv3 is: the values of its identification registers that a board may choose, by their names there
 * (IHI 0070, "SMMU_IDR0" and on), and what follows from them.
 */
import * as v3 from '#shared/arch/smmu/v3.ts';
import type { SmmuV3Choices as SmmuFeatures } from '#shared/board/choices.ts';
import { wordWith } from '#shared/regs/field.ts';
import { BoardError } from '../../board.ts';

export type { SmmuV3Choices as SmmuFeatures } from '#shared/board/choices.ts';

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

/** The defaults with `given` over them. Throws BoardError for what no part can be, or none here. */
export function featuresOf(given: Partial<SmmuFeatures> = {}): SmmuFeatures {
  const f = { ...DEFAULT_FEATURES, ...given };
  if (f.S1P === 0 && f.S2P === 0) throw new BoardError('an SMMUv3 without stage 1 and without stage 2 (S1P, S2P)');
  if (!within(f.OAS, 0, 5))
    throw new BoardError(`an SMMUv3 with OAS ${f.OAS}; 0 (32 bits) to 5 (48 bits) are possible`);
  if (!within(f.SIDSIZE, 0, 32)) throw new BoardError(`an SMMUv3 with SIDSIZE ${f.SIDSIZE}; 0 to 32 are possible`);
  if (!within(f.SSIDSIZE, 0, f.S1P === 1 ? 20 : 0))
    throw new BoardError(`an SMMUv3 with SSIDSIZE ${f.SSIDSIZE}; 0 to 20 are possible, and 0 without stage 1`);
  if (!within(f.CMDQS, 0, 19) || !within(f.EVENTQS, 0, 19))
    throw new BoardError(`an SMMUv3 with CMDQS ${f.CMDQS} and EVENTQS ${f.EVENTQS}; 0 to 19 are possible`);
  return f;
}

function within(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
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
