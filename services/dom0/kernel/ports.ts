/**
 * What dom0 switches on in a port for the bus below it: ARI Forwarding where function 0 there has an ARI capability
 * (Linux drivers/pci/pci.c, pci_configure_ari), and in a root port that Request Retry Status can be seen
 * (drivers/pci/probe.c, pci_enable_rrs_sv).
 */
import { PCI_CAP_ID, PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import {
  PCI_EXP,
  PCI_EXP_DEVCAP2_ARI,
  PCI_EXP_DEVCTL2_ARI,
  PCI_EXP_FLAGS,
  PCI_EXP_RTCTL_RRS_SVE,
  PCI_EXP_TYPE,
} from '#shared/arch/pci/express.ts';
import type { Op } from '#shared/core/op.ts';
import { type ConfigAccess, findCapability, findExtendedCapability, type Link } from '#shared/kernel/pci-core.ts';
import type { PciFunction } from './function.ts';

/** RTCAP: RRS Software Visibility. */
const RTCAP_RRS_SV = 1;

/** Whether only device 0 can be on the bus below: a link leads there. */
export function isDownstreamPort({ portType }: PciFunction): boolean {
  return portType === PCI_EXP_TYPE.ROOT_PORT || portType === PCI_EXP_TYPE.DOWNSTREAM;
}

/** For a scan below `port`; `ari` says afterwards whether it forwards. */
interface PortLink extends Link {
  readonly ari: boolean;
}

export function linkBelow(access: ConfigAccess, port: PciFunction): PortLink {
  const link = {
    ari: false,
    oneDevice: isDownstreamPort(port),
    *forwardsAri(function0: number): Op<boolean> {
      if (!link.oneDevice) return false;
      const at = yield* findCapability(access, port.sbdf, PCI_CAP_ID.EXPRESS);
      const version = (yield* access.read(port.sbdf, at + PCI_EXP.FLAGS, 2)) & PCI_EXP_FLAGS.VERSION_MASK;
      if (version < 2) return false;
      if (((yield* access.read(port.sbdf, at + PCI_EXP.DEVCAP2, 4)) & PCI_EXP_DEVCAP2_ARI) === 0) return false;
      link.ari = (yield* findExtendedCapability(access, function0, PCI_EXT_CAP_ID.ARI)) !== 0;
      const control = yield* access.read(port.sbdf, at + PCI_EXP.DEVCTL2, 2);
      const wanted = (control & ~PCI_EXP_DEVCTL2_ARI) | (link.ari ? PCI_EXP_DEVCTL2_ARI : 0);
      if (wanted !== control) yield* access.write(port.sbdf, at + PCI_EXP.DEVCTL2, 2, wanted);
      return link.ari;
    },
  };
  return link;
}

/** A root port that can show Request Retry Status shall: a function in reset then reads as vendor 0001, not as absent. */
export function* showRetries(access: ConfigAccess, port: PciFunction): Op<void> {
  if (port.portType !== PCI_EXP_TYPE.ROOT_PORT) return;
  const at = yield* findCapability(access, port.sbdf, PCI_CAP_ID.EXPRESS);
  if (((yield* access.read(port.sbdf, at + PCI_EXP.RTCAP, 2)) & RTCAP_RRS_SV) === 0) return;
  const control = yield* access.read(port.sbdf, at + PCI_EXP.RTCTL, 2);
  yield* access.write(port.sbdf, at + PCI_EXP.RTCTL, 2, control | PCI_EXP_RTCTL_RRS_SVE);
}
