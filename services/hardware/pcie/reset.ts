/**
 * Which configuration writes reset a function (PCIe 5.0, "Function Level Reset"; PCI-PM, D3hot to D0; Advanced
 * Features capability). A reset is over when the write returns, and the function answers at once unless the board
 * gives it a time (readiness.ts).
 */
import { PCI_AF, PCI_PM } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_DEVCAP_FLR, PCI_EXP_DEVCTL } from '#shared/arch/pci/express.ts';
import type { ConfigFields } from './config-fields.ts';
import type { ConfigSpace } from './config-space.ts';

/** Sticky registers (AER) live through all but `power-on`. */
export type ResetKind = 'power-on' | 'hot' | 'function';

/** Whether a write starts a Function Level Reset: DEVCTL bit 15, or the AF capability's bit, where the function has it. */
export function startsFlr(
  config: ConfigSpace,
  fields: ConfigFields,
  offset: number,
  size: number,
  value: number,
): boolean {
  if (fields.express >= 0 && (config.u32(fields.express + PCI_EXP.DEVCAP) & PCI_EXP_DEVCAP_FLR) !== 0) {
    const high = byteWritten(fields.express + PCI_EXP.DEVCTL + 1, offset, size, value);
    if ((high & (PCI_EXP_DEVCTL.INITIATE_FLR >>> 8)) !== 0) return true;
  }
  if (fields.af >= 0 && (config.u8(fields.af + PCI_AF.CAP) & PCI_AF.CAP_FLR) !== 0)
    return (byteWritten(fields.af + PCI_AF.CTRL, offset, size, value) & PCI_AF.CTRL_FLR) !== 0;
  return false;
}

/**
 * The power state that PMCSR says: 0 for D0 to 3 for D3hot. D1 and D2 are optional: a write of one that the function
 * does not have is taken back, and it stays in `before`.
 */
export function powerState(config: ConfigSpace, fields: ConfigFields, before: number): number {
  if (fields.pm < 0) return 0;
  const state = config.u16(fields.pm + PCI_PM.CTRL) & PCI_PM.CTRL_STATE_MASK;
  if ((fields.powerStates & (1 << state)) !== 0) return state;
  config.poke(fields.pm + PCI_PM.CTRL, 2, PCI_PM.CTRL_STATE_MASK, before);
  return before;
}

/** Whether the step from D3hot back to D0 resets this function. */
export function resetsOnD0(config: ConfigSpace, fields: ConfigFields): boolean {
  return (config.u16(fields.pm + PCI_PM.CTRL) & PCI_PM.CTRL_NO_SOFT_RESET) === 0;
}

/** The byte that a write puts at `at`, or 0 when it does not touch it. */
function byteWritten(at: number, offset: number, size: number, value: number): number {
  return at >= offset && at < offset + size ? (value >>> (8 * (at - offset))) & 0xff : 0;
}
