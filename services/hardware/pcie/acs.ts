/**
 * Access Control Services of a port or of a function of a multi-function device (PCIe 5.0, "Access Control Services
 * (ACS)"): what may come in from below, and whether a request to a peer is turned around or sent up to the SMMU.
 * A control counts where its capability bit is set; without the capability nothing is stopped or redirected.
 * Not modelled: P2P Completion Redirect; software can set CR, and completions carry nothing that it would change.
 * Not modelled: the enhanced controls (I/O blocking, memory target access); their bits are hard-wired to zero.
 */
import { PCI_ACS } from '#shared/arch/pci/capability.ts';
import type { ConfigSpace } from './config-space.ts';
import { ADDRESS_TYPE } from './route.ts';

/** What becomes of a request to a peer. */
export const PEER = { DIRECT: 0, REDIRECT: 1, VIOLATION: 2 } as const;

/** The controls that are on, `at` being the offset of the capability, -1 without one. */
function controls(config: ConfigSpace, at: number): number {
  return at < 0 ? 0 : config.u16(at + PCI_ACS.CTRL);
}

/** Whether a port lets a request of `rid` in from its bus numbers `secondary` to `subordinate`. */
export function acsAdmits(
  config: ConfigSpace,
  at: number,
  rid: number,
  addressType: number,
  secondary: number,
  subordinate: number,
): boolean {
  const on = controls(config, at);
  if ((on & PCI_ACS.TB) !== 0 && addressType !== ADDRESS_TYPE.UNTRANSLATED) return false;
  if ((on & PCI_ACS.SV) === 0) return true;
  const bus = rid >>> 8;
  return bus >= secondary && bus <= subordinate;
}

/** PEER: what the sender's side does with a request to the peer with this port or function number. */
export function acsPeer(config: ConfigSpace, at: number, addressType: number, peer: number): number {
  const on = controls(config, at);
  const redirect = (on & PCI_ACS.RR) !== 0;
  if ((on & PCI_ACS.DT) !== 0 && addressType === ADDRESS_TYPE.TRANSLATED) return PEER.DIRECT;
  if ((on & PCI_ACS.EC) !== 0) {
    const declared = config.u8(at + PCI_ACS.CAP + 1);
    const size = declared === 0 ? 256 : declared;
    const inVector = peer < size && at + PCI_ACS.EGRESS + (peer >>> 3) < config.sizeBytes;
    const stopped = inVector && (config.u8(at + PCI_ACS.EGRESS + (peer >>> 3)) & (1 << (peer & 7))) !== 0;
    // With RR besides, egress control chooses which requests are redirected; alone, it stops them.
    if (stopped) return redirect ? PEER.REDIRECT : PEER.VIOLATION;
    return PEER.DIRECT;
  }
  return redirect ? PEER.REDIRECT : PEER.DIRECT;
}

/** Whether a port sends up again what was redirected to it although it would lead back down (Upstream Forwarding). */
export function acsForwards(config: ConfigSpace, at: number): boolean {
  return (controls(config, at) & PCI_ACS.UF) !== 0;
}
