/**
 * Access Control Services, and which functions they keep apart (PCIe 5.0, "Access Control Services (ACS)"; Linux
 * drivers/pci/pci.c, pci_std_enable_acs and pci_acs_enabled; drivers/iommu/iommu.c, pci_device_group).
 * Functions that no ACS separates reach each other's BARs without passing the SMMU: an IOVA of one guest that equals a
 * BAR address of another's function goes there (XSA-461 is the same for functions that share more than they should).
 * dom0 says so, and lets them be assigned all the same.
 * Not modelled: the command line's disable_acs_redir and config_acs; Translation Blocking for ports of external devices.
 */
import { PCI_ACS, PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import type { Op } from '#shared/core/op.ts';
import { busOf, deviceOf, type Sbdf } from '#shared/ids/sbdf.ts';
import { type ConfigAccess, findExtendedCapability } from '#shared/kernel/pci-core.ts';
import type { PciFunction } from './function.ts';

/** What Linux switches on, and asks for: Source Validation, Request and Completion Redirect, Upstream Forwarding. */
const WANTED = PCI_ACS.SV | PCI_ACS.RR | PCI_ACS.CR | PCI_ACS.UF;

/** Switches on what a function's ACS has of the four. Gives whether that keeps its peers apart; false without ACS. */
export function* enableAcs(access: ConfigAccess, sbdf: Sbdf): Op<boolean> {
  const at = yield* findExtendedCapability(access, sbdf, PCI_EXT_CAP_ID.ACS);
  if (at === 0) return false;
  const capable = (yield* access.read(sbdf, at + PCI_ACS.CAP, 2)) & WANTED;
  const control = (yield* access.read(sbdf, at + PCI_ACS.CTRL, 2)) | capable;
  yield* access.write(sbdf, at + PCI_ACS.CTRL, 2, control);
  // A control that the function does not have is not asked of it.
  return ((yield* access.read(sbdf, at + PCI_ACS.CTRL, 2)) & capable) === capable;
}

/** Why a function is not alone. */
export interface Sharing {
  /** Where ACS is missing: a port or bridge above it, or the function itself. */
  readonly missingAt: Sbdf;
  /** Endpoints that it reaches without passing the SMMU, in ascending order. */
  readonly peers: readonly Sbdf[];
}

/** The endpoints that nothing keeps apart from `fn`; undefined when there are none. */
export function sharingOf(functions: ReadonlyMap<Sbdf, PciFunction>, fn: PciFunction): Sharing | undefined {
  const parentOf = (f: PciFunction): PciFunction | undefined =>
    f.parent === undefined ? undefined : functions.get(f.parent);
  // The highest bridge that does not isolate, or has one above that does not: all below it is one group.
  let top = fn;
  let missingAt: PciFunction | undefined;
  for (let bridge = parentOf(fn); bridge !== undefined; bridge = parentOf(bridge)) {
    if (isolates(bridge)) continue;
    top = bridge;
    missingAt ??= bridge;
  }
  const members = new Set<PciFunction>([top]);
  if (top.multifunction && !isolates(top)) {
    missingAt ??= top;
    for (const f of functions.values()) {
      const sibling = f.multifunction && f.parent === top.parent && sameDevice(f.sbdf, top.sbdf);
      if (sibling && !isolates(f)) members.add(f);
    }
  }
  if (missingAt === undefined) return undefined;
  const peers = [...functions.values()].filter((f) => f !== fn && f.headerType === 0 && isBelow(f));
  return peers.length === 0 ? undefined : { missingAt: missingAt.sbdf, peers: peers.map((f) => f.sbdf) };

  function isBelow(f: PciFunction): boolean {
    for (let at: PciFunction | undefined = f; at !== undefined; at = parentOf(at)) if (members.has(at)) return true;
    return false;
  }
}

/** pci_acs_enabled: a port needs ACS, a function of a device that has no other does not. */
function isolates(f: PciFunction): boolean {
  switch (f.portType) {
    case PCI_EXP_TYPE.ROOT_PORT:
      return f.acs || isCaviumRootPort(f);
    case PCI_EXP_TYPE.DOWNSTREAM:
      return f.acs;
    case PCI_EXP_TYPE.ENDPOINT:
    case PCI_EXP_TYPE.LEGACY_ENDPOINT:
    case PCI_EXP_TYPE.UPSTREAM:
    case PCI_EXP_TYPE.RC_ENDPOINT:
      return !f.multifunction || f.acs;
    default:
      return false; // conventional, and bridges to what is
  }
}

/** Linux drivers/pci/quirks.c, pci_quirk_cavium_acs: these ports have no ACS and do what it would. */
function isCaviumRootPort({ vendorId, deviceId }: PciFunction): boolean {
  if (vendorId !== 0x177d) return false;
  return (deviceId >= 0xa000 && deviceId <= 0xa7ff) || deviceId === 0xaf84 || deviceId === 0xb884;
}

function sameDevice(a: Sbdf, b: Sbdf): boolean {
  return busOf(a) === busOf(b) && deviceOf(a) === deviceOf(b);
}
