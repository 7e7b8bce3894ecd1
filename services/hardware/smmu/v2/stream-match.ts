/**
 * From a StreamID to a stream mapping group (IHI 0062, "Stream mapping"): by SMRs with masks, or by index into S2CR.
 * An SMR of a part without 16-bit StreamIDs in use has ID [14:0], MASK [30:16] and VALID; with sCR0.EXIDENABLE ID [15:0],
 * MASK [31:16], and validity is S2CR.EXIDVALID. A StreamID wider than the part's matches nothing.
 * Deviates: with several matches and sCR0.SMCFCFG 0, which the book leaves open, the lowest group counts.
 * Registers are looked at for each access: there is no configuration cache to invalidate.
 */
import { SMMU_S2CR } from '#shared/arch/smmu/v2.ts';
import { get } from '#shared/regs/field.ts';
import { streamIdBits } from './features.ts';
import type { GlobalRegisters } from './global-registers.ts';

/** What `match` answers when no group, or more than one, has the stream. */
export const NO_MATCH = -1;
export const CONFLICT = -2;

/** The group of a StreamID, NO_MATCH or CONFLICT. */
export function match(registers: GlobalRegisters, streamId: number): number {
  const { features, extended } = registers;
  if (streamId >= 2 ** streamIdBits(extended)) return NO_MATCH;
  if (!features.streamMatching) return streamId < features.streamGroups ? streamId : NO_MATCH;
  let found = NO_MATCH;
  for (let n = 0; n < features.streamGroups; n++) {
    if (!matches(registers, n, streamId, extended)) continue;
    if (found !== NO_MATCH) return registers.conflictsFault ? CONFLICT : found;
    found = n;
    if (!registers.conflictsFault) return found;
  }
  return found;
}

/** Whether a group is in use, and its ID and mask. */
export function groupOf(
  registers: GlobalRegisters,
  n: number,
): { readonly valid: boolean; readonly id: number; readonly mask: number } {
  const smr = registers.smr(n);
  if (registers.extended) {
    return { valid: get(SMMU_S2CR.EXIDVALID, registers.s2cr(n)) === 1, id: smr & 0xffff, mask: smr >>> 16 };
  }
  return { valid: smr >>> 31 === 1, id: smr & 0x7fff, mask: (smr >>> 16) & 0x7fff };
}

function matches(registers: GlobalRegisters, n: number, streamId: number, extended: boolean): boolean {
  const smr = registers.smr(n);
  if (extended) {
    return get(SMMU_S2CR.EXIDVALID, registers.s2cr(n)) === 1 && ((streamId ^ smr) & ~(smr >>> 16) & 0xffff) === 0;
  }
  return smr >>> 31 === 1 && ((streamId ^ smr) & ~(smr >>> 16) & 0x7fff) === 0;
}
