/**
 * Which bits of a configuration space software may write, from its header and its capabilities
 * (PCIe 5.0, "Configuration Space"). All the rest replays the dump.
 * A dump was taken from a running system, whose software wrote the controls. Of those, what steers something here (bus
 * numbers, Command, power state, MSI, MSI-X, ACS, ARI Forwarding, Link Disable, resets, Request Retry visibility, AER's
 * root command, SR-IOV, ATS, PRI, PASID) is at power-on as the book says, off. The rest, and errors that were logged,
 * is as dumped, as though firmware had left it so. After any other reset all of it is as the book says.
 * A control bit that was dumped set exists: software can write it.
 * Not modelled: VPD, hot plug (slot registers), DPC, LTR, L1 substates, PTM; their registers read as dumped and drop
 * writes.
 * Not modelled: ATS, PRI, PASID; software can enable them, and no function ever asks for a translation or a page.
 * Not modelled: CardBus bridges (header type 2) beyond their BAR and bus numbers; their windows drop writes.
 */
import { PCI_BRIDGE, PCI_BRIDGE_CTL, PCI_BRIDGE_RANGE_TYPE_MASK } from '#shared/arch/pci/bridge-header.ts';
import {
  PCI_ACS,
  PCI_AER,
  PCI_AF,
  PCI_ATS,
  PCI_CAP_ID,
  PCI_EXT_CAP_ID,
  PCI_PASID,
  PCI_PM,
  PCI_PRI,
} from '#shared/arch/pci/capability.ts';
import { PCI_EA_ENTRY } from '#shared/arch/pci/enhanced-allocation.ts';
import {
  PCI_EXP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCAP2_ARI,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_DEFAULT,
  PCI_EXP_DEVCTL2_ARI,
  PCI_EXP_DEVSTA,
  PCI_EXP_FLAGS,
  PCI_EXP_LNKCTL_KEPT,
  PCI_EXP_LNKCTL_LD,
  PCI_EXP_LNKCTL2_SPEED_MASK,
  PCI_EXP_RTCTL_RRS_SVE,
  PCI_EXP_TYPE,
} from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND, PCI_HEADER_TYPE, PCI_ROM, PCI_STATUS } from '#shared/arch/pci/header.ts';
import { msiLayout, PCI_MSI, PCI_MSI_FLAGS } from '#shared/arch/pci/msi.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { PCI_SRIOV, PCI_SRIOV_CTRL } from '#shared/arch/pci/sriov.ts';
import type { BarShape } from './bar.ts';
import { type Capability, capabilitiesOf, extendedCapabilitiesOf } from './capability-list.ts';
import type { ConfigSpace } from './config-space.ts';

/** Offsets of the capabilities that have a behaviour; -1 where the function has none. */
export interface ConfigFields {
  readonly pm: number;
  /** Bit n: the function can be in power state Dn. */
  readonly powerStates: number;
  readonly msi: number;
  readonly express: number;
  /** Device or port type of the PCI Express capability, -1 without one. */
  readonly expressType: number;
  readonly af: number;
  /** ARI Forwarding Enable is in DEVCTL2 here, or -1. */
  readonly devctl2: number;
  /** Advanced Error Reporting; `aerRoot` is the same where it has a root port's part. */
  readonly aer: number;
  readonly aerRoot: number;
  readonly acs: number;
  readonly sriov: number;
  /** Root Control and Link Control of a port, or -1. */
  readonly rootControl: number;
  readonly linkControl: number;
}

type Found = { -readonly [K in keyof ConfigFields]: number };

/**
 * Declares what is writable, and says where the capabilities are. `dump` is what `space` was made from, `vfBars` are
 * the BARs of its VFs, `flr` false takes the offers of a Function Level Reset out of it.
 */
export function declareFields(
  space: ConfigSpace,
  dump: Uint8Array,
  bars: readonly BarShape[],
  vfBars: readonly BarShape[] = [],
  flr = true,
): ConfigFields {
  const found: Found = {
    pm: -1,
    powerStates: 1,
    msi: -1,
    express: -1,
    expressType: -1,
    af: -1,
    devctl2: -1,
    aer: -1,
    aerRoot: -1,
    acs: -1,
    sriov: -1,
    rootControl: -1,
    linkControl: -1,
  };
  if (space.u16(PCI.VENDOR_ID) === 0xffff && space.u32(PCI.CLASS_PROG - 1) === 0xffff_ffff) return found; // nobody there
  declareHeader(space, bars, space.u8(PCI.HEADER_TYPE) & PCI_HEADER_TYPE.MASK);
  for (const { id, offset, roomBytes } of capabilitiesOf(dump)) {
    if (id === PCI_CAP_ID.PM && roomBytes >= 8) {
      found.pm = offset;
      found.powerStates = declarePm(space, offset);
    } else if (id === PCI_CAP_ID.MSI && roomBytes >= msiLayout(space.u16(offset + PCI_MSI.FLAGS)).bytes) {
      found.msi = offset;
      declareMsi(space, offset);
    } else if (id === PCI_CAP_ID.MSIX && roomBytes >= PCI_MSIX.BYTES) {
      space.allow(offset + PCI_MSIX.FLAGS, 2, PCI_MSIX_FLAGS.MASKALL | PCI_MSIX_FLAGS.ENABLE);
    } else if (id === PCI_CAP_ID.EXPRESS && roomBytes >= 12) {
      found.express = offset;
      found.expressType = (space.u16(offset + PCI_EXP.FLAGS) & PCI_EXP_FLAGS.TYPE_MASK) >>> PCI_EXP_FLAGS.TYPE_SHIFT;
      if (!flr) space.poke(offset + PCI_EXP.DEVCAP, 4, PCI_EXP_DEVCAP_FLR, 0);
      declareExpress(space, offset, roomBytes, found);
    } else if (id === PCI_CAP_ID.AF && roomBytes >= PCI_AF.BYTES) {
      found.af = offset; // its FLR bit reads as zero, so nothing is stored
      if (!flr) space.poke(offset + PCI_AF.CAP, 1, PCI_AF.CAP_FLR, 0);
    }
  }
  for (const capability of extendedCapabilitiesOf(dump)) declareExtended(space, capability, found, vfBars);
  return found;
}

function declareHeader(space: ConfigSpace, bars: readonly BarShape[], headerType: number): void {
  const command =
    PCI_COMMAND.IO |
    PCI_COMMAND.MEMORY |
    PCI_COMMAND.MASTER |
    PCI_COMMAND.PARITY |
    PCI_COMMAND.SERR |
    PCI_COMMAND.INTX_DISABLE;
  // Special cycles, memory write and invalidate, palette snoop: where the dump has them.
  space.allow(PCI.COMMAND, 2, command | space.u16(PCI.COMMAND));
  space.allowW1c(PCI.STATUS, 2, PCI_STATUS.ERRORS_W1C);
  space.poke(PCI.STATUS, 2, PCI_STATUS.INTERRUPT, 0);
  space.adopt(PCI.CACHE_LINE_SIZE, 1, 0xff);
  space.adopt(PCI.INTERRUPT_LINE, 1, 0xff);
  for (const bar of bars) declareBar(space, bar);
  if (headerType === PCI_HEADER_TYPE.NORMAL || headerType > PCI_HEADER_TYPE.CARDBUS) return;
  // The three bus numbers of a CardBus bridge stand where those of a PCI-to-PCI bridge do.
  space.allow(PCI_BRIDGE.PRIMARY_BUS, 1, 0xff);
  space.allow(PCI_BRIDGE.SECONDARY_BUS, 1, 0xff);
  space.allow(PCI_BRIDGE.SUBORDINATE_BUS, 1, 0xff);
  if (headerType === PCI_HEADER_TYPE.CARDBUS) return;
  space.allow(PCI_BRIDGE.IO_BASE, 1, 0xf0);
  space.allow(PCI_BRIDGE.IO_LIMIT, 1, 0xf0);
  space.allowW1c(PCI_BRIDGE.SEC_STATUS, 2, PCI_STATUS.ERRORS_W1C);
  space.allow(PCI_BRIDGE.MEMORY_BASE, 2, 0xfff0);
  space.allow(PCI_BRIDGE.MEMORY_LIMIT, 2, 0xfff0);
  space.allow(PCI_BRIDGE.PREF_MEMORY_BASE, 2, 0xfff0);
  space.allow(PCI_BRIDGE.PREF_MEMORY_LIMIT, 2, 0xfff0);
  if ((space.u16(PCI_BRIDGE.PREF_MEMORY_BASE) & PCI_BRIDGE_RANGE_TYPE_MASK) !== 0) {
    space.allow(PCI_BRIDGE.PREF_BASE_UPPER32, 4, 0xffff_ffff);
    space.allow(PCI_BRIDGE.PREF_LIMIT_UPPER32, 4, 0xffff_ffff);
  }
  if ((space.u8(PCI_BRIDGE.IO_BASE) & PCI_BRIDGE_RANGE_TYPE_MASK) !== 0) {
    space.allow(PCI_BRIDGE.IO_BASE_UPPER16, 2, 0xffff);
    space.allow(PCI_BRIDGE.IO_LIMIT_UPPER16, 2, 0xffff);
  }
  const { PARITY, SERR, ISA, VGA, VGA16, BUS_RESET } = PCI_BRIDGE_CTL;
  space.adopt(PCI_BRIDGE.CONTROL, 2, PARITY | SERR | ISA | VGA | VGA16);
  space.allow(PCI_BRIDGE.CONTROL, 2, BUS_RESET);
}

function declareBar(space: ConfigSpace, bar: BarShape): void {
  if (bar.fixed !== undefined) {
    // The register at its offset is no BAR; the entry keeps its address and can be switched off.
    space.poke(bar.offset, 4, 0xffff_ffff, 0);
    space.allow(bar.fixed.entry, 4, PCI_EA_ENTRY.ENABLE, space.u32(bar.fixed.entry));
    return;
  }
  // Bits below the size are constants; in a 64-bit BAR the size may reach into the upper half.
  const low = bar.sizeBytes >= 2 ** 32 ? 0 : (0xffff_ffff << Math.log2(bar.sizeBytes)) >>> 0;
  const address = (mask: number): void => {
    space.poke(bar.offset, 4, ~low & mask, 0);
    space.allow(bar.offset, 4, low & mask);
  };
  if (bar.kind === 'io') {
    address(0xffff_fffc);
    return;
  }
  if (bar.kind === 'rom') {
    address(PCI_ROM.ADDRESS_MASK);
    space.allow(bar.offset, 4, PCI_ROM.ENABLE);
    return;
  }
  address(0xffff_fff0);
  if (bar.kind === 'mem32') return;
  const high = bar.sizeBytes > 2 ** 32 ? (0xffff_ffff << (Math.log2(bar.sizeBytes) - 32)) >>> 0 : 0xffff_ffff;
  space.poke(bar.offset + 4, 4, ~high, 0);
  space.allow(bar.offset + 4, 4, high);
}

/** Returns the power states that there are: D0, D3hot, those of the capability, and the one that was dumped. */
function declarePm(space: ConfigSpace, at: number): number {
  const capabilities = space.u16(at + PCI_PM.PMC);
  const canPme = (capabilities & PCI_PM.PMC_PME_MASK) !== 0;
  const dumped = space.u16(at + PCI_PM.CTRL) & PCI_PM.CTRL_STATE_MASK;
  space.allow(at + PCI_PM.CTRL, 2, PCI_PM.CTRL_STATE_MASK);
  if (canPme) space.adopt(at + PCI_PM.CTRL, 2, PCI_PM.CTRL_PME_ENABLE);
  space.allowW1c(at + PCI_PM.CTRL, 2, PCI_PM.CTRL_PME_STATUS);
  const optional =
    ((capabilities & PCI_PM.PMC_D1) !== 0 ? 0b0010 : 0) | ((capabilities & PCI_PM.PMC_D2) !== 0 ? 0b0100 : 0);
  return 0b1001 | optional | (1 << dumped);
}

function declareMsi(space: ConfigSpace, at: number): void {
  const flags = space.u16(at + PCI_MSI.FLAGS);
  const { data, mask, pending } = msiLayout(flags);
  space.allow(
    at + PCI_MSI.FLAGS,
    2,
    PCI_MSI_FLAGS.ENABLE | (PCI_MSI_FLAGS.MULTIPLE_MASK << PCI_MSI_FLAGS.MULTIPLE_ENABLE_SHIFT),
  );
  space.allow(at + PCI_MSI.ADDRESS_LO, 4, 0xffff_fffc);
  if ((flags & PCI_MSI_FLAGS.ADDRESS_64) !== 0) space.allow(at + PCI_MSI.ADDRESS_HI, 4, 0xffff_ffff);
  space.allow(at + data, 2, 0xffff);
  if (mask < 0) return;
  const vectors = 1 << ((flags >>> PCI_MSI_FLAGS.MULTIPLE_CAPABLE_SHIFT) & PCI_MSI_FLAGS.MULTIPLE_MASK);
  const dumpedMask = space.u32(at + mask);
  space.allow(at + mask, 4, (vectors >= 32 ? 0xffff_ffff : 2 ** vectors - 1) | dumpedMask);
  space.poke(at + pending, 4, 0xffff_ffff, 0);
}

function declareExpress(space: ConfigSpace, at: number, roomBytes: number, found: Found): void {
  const type = found.expressType;
  const version = space.u16(at + PCI_EXP.FLAGS) & PCI_EXP_FLAGS.VERSION_MASK;
  const hasLink = type !== PCI_EXP_TYPE.RC_ENDPOINT && type !== PCI_EXP_TYPE.RC_EVENT_COLLECTOR;
  const port = type === PCI_EXP_TYPE.ROOT_PORT || type === PCI_EXP_TYPE.DOWNSTREAM;
  // Bit 15 of a bridge to PCI is Bridge Configuration Retry Enable; of all others it reads as zero.
  const devctl = type === PCI_EXP_TYPE.PCIE_TO_PCI ? 0xffff : 0x7fff;
  space.poke(at + PCI_EXP.DEVCTL, 2, 0xffff & ~devctl, 0);
  space.adopt(at + PCI_EXP.DEVCTL, 2, devctl, PCI_EXP_DEVCTL_DEFAULT);
  space.keepThroughFlr(at + PCI_EXP.DEVCTL, 2, PCI_EXP_DEVCTL.PAYLOAD_MASK);
  space.allowW1c(at + PCI_EXP.DEVSTA, 2, PCI_EXP_DEVSTA.ERRORS_W1C);
  space.poke(at + PCI_EXP.DEVSTA, 2, PCI_EXP_DEVSTA.TRANSACTIONS_PENDING, 0);
  if (hasLink && roomBytes >= 0x14) declareLinkControl(space, at + PCI_EXP.LNKCTL, port, found);
  if ((type === PCI_EXP_TYPE.ROOT_PORT || type === PCI_EXP_TYPE.RC_EVENT_COLLECTOR) && roomBytes >= 0x24) {
    const visible = (space.u16(at + PCI_EXP.RTCAP) & 1) !== 0 ? PCI_EXP_RTCTL_RRS_SVE : 0;
    const dumped = space.u16(at + PCI_EXP.RTCTL);
    space.adopt(at + PCI_EXP.RTCTL, 2, 0x000f | (dumped & ~PCI_EXP_RTCTL_RRS_SVE));
    space.allow(at + PCI_EXP.RTCTL, 2, visible | (dumped & PCI_EXP_RTCTL_RRS_SVE));
    if (type === PCI_EXP_TYPE.ROOT_PORT) found.rootControl = at + PCI_EXP.RTCTL;
  }
  if (version < 2 || roomBytes < 0x2c) return;
  // ARI forwarding where the port can; completion timeout and its disable.
  const forwards = port && (space.u32(at + PCI_EXP.DEVCAP2) & PCI_EXP_DEVCAP2_ARI) !== 0 ? PCI_EXP_DEVCTL2_ARI : 0;
  space.allow(at + PCI_EXP.DEVCTL2, 2, forwards);
  space.adopt(at + PCI_EXP.DEVCTL2, 2, (0x001f | space.u16(at + PCI_EXP.DEVCTL2)) & ~forwards);
  if (forwards !== 0) found.devctl2 = at + PCI_EXP.DEVCTL2;
  if (!hasLink || roomBytes < 0x34) return;
  space.adopt(at + PCI_EXP.LNKCTL2, 2, PCI_EXP_LNKCTL2_SPEED_MASK);
  space.keep(at + PCI_EXP.LNKCTL2, 2);
}

/** ASPM, RCB, common clock, extended synch, clock power management, and what the dump has; Link Disable of a port. */
function declareLinkControl(space: ConfigSpace, at: number, port: boolean, found: Found): void {
  const disable = port ? PCI_EXP_LNKCTL_LD : 0;
  space.allow(at, 2, disable);
  space.adopt(at, 2, (0x01cb | space.u16(at)) & ~disable);
  space.keepThroughFlr(at, 2, PCI_EXP_LNKCTL_KEPT);
  if (port) found.linkControl = at;
}

function declareExtended(space: ConfigSpace, capability: Capability, found: Found, vfBars: readonly BarShape[]): void {
  const { id, offset: at, roomBytes } = capability;
  if (id === PCI_EXT_CAP_ID.AER && roomBytes >= 0x2c) {
    found.aer = at;
    declareAer(space, at, found.expressType === PCI_EXP_TYPE.ROOT_PORT && roomBytes >= 0x38);
    if (found.expressType === PCI_EXP_TYPE.ROOT_PORT && roomBytes >= 0x38) found.aerRoot = at;
  } else if (id === PCI_EXT_CAP_ID.ACS && roomBytes >= 8) {
    found.acs = at;
    // A control bit exists where the capability bit does.
    const capabilities = space.u16(at + PCI_ACS.CAP);
    space.poke(at + PCI_ACS.CTRL, 2, 0xffff & ~PCI_ACS.CTRL_MASK, 0);
    space.allow(at + PCI_ACS.CTRL, 2, capabilities & PCI_ACS.CTRL_MASK);
    if ((capabilities & PCI_ACS.EC) === 0) return;
    const ports = capabilities >>> PCI_ACS.EGRESS_SIZE_SHIFT || 256;
    for (let i = 0; i < Math.min(ports >>> 3, roomBytes - PCI_ACS.EGRESS); i++)
      space.allow(at + PCI_ACS.EGRESS + i, 1, 0xff);
  } else if (id === PCI_EXT_CAP_ID.SRIOV && roomBytes >= PCI_SRIOV.BYTES) {
    found.sriov = at;
    space.poke(at + PCI_SRIOV.CTRL, 2, 0xffff, 0);
    space.allow(at + PCI_SRIOV.CTRL, 2, PCI_SRIOV_CTRL.VFE | PCI_SRIOV_CTRL.MSE | PCI_SRIOV_CTRL.ARI);
    space.allow(at + PCI_SRIOV.NUM_VF, 2, 0xffff);
    space.allow(at + PCI_SRIOV.SYS_PGSIZE, 4, space.u32(at + PCI_SRIOV.SUP_PGSIZE), 1);
    for (const bar of vfBars) declareBar(space, bar);
  } else if (id === PCI_EXT_CAP_ID.ATS && roomBytes >= PCI_ATS.BYTES) {
    space.allow(at + PCI_ATS.CTRL, 2, PCI_ATS.CTRL_ENABLE | PCI_ATS.CTRL_STU_MASK);
  } else if (id === PCI_EXT_CAP_ID.PRI && roomBytes >= PCI_PRI.CAPACITY) {
    space.poke(at + PCI_PRI.CTRL, 2, PCI_PRI.CTRL_RESET, 0);
    space.allow(at + PCI_PRI.CTRL, 2, PCI_PRI.CTRL_ENABLE);
    if (roomBytes >= PCI_PRI.BYTES) space.adopt(at + PCI_PRI.ALLOCATION, 4, 0xffff_ffff);
  } else if (id === PCI_EXT_CAP_ID.PASID && roomBytes >= PCI_PASID.BYTES) {
    // Execute and privileged can be enabled where the capability has them, at the same bits.
    const offered = space.u16(at + PCI_PASID.CAP) & (PCI_PASID.EXECUTE | PCI_PASID.PRIVILEGED);
    space.allow(at + PCI_PASID.CTRL, 2, PCI_PASID.CTRL_ENABLE | offered);
  }
}

function declareAer(space: ConfigSpace, at: number, root: boolean): void {
  for (const status of [PCI_AER.UNCOR_STATUS, PCI_AER.COR_STATUS]) {
    space.allowW1c(at + status, 4, 0xffff_ffff);
    space.keep(at + status, 4);
  }
  for (const register of [PCI_AER.UNCOR_MASK, PCI_AER.UNCOR_SEVERITY, PCI_AER.COR_MASK]) {
    // Which error bits a function implements is not in a dump: those that are set there, and the usual ones.
    const usual = register === PCI_AER.COR_MASK ? 0x0000_31c1 : 0x0037_f030;
    const dumped = space.u32(at + register);
    space.allow(at + register, 4, usual | dumped, dumped);
    space.keep(at + register, 4);
  }
  space.keep(at + PCI_AER.CAP, 4);
  space.log(at + PCI_AER.CAP, 4);
  space.log(at + PCI_AER.HEADER_LOG, 16);
  if (!root) return;
  space.log(at + PCI_AER.ROOT_SOURCE, 4);
  space.allow(at + PCI_AER.ROOT_COMMAND, 4, 0x7);
  space.allowW1c(at + PCI_AER.ROOT_STATUS, 4, 0x7f);
  space.keep(at + PCI_AER.ROOT_STATUS, 4);
}
