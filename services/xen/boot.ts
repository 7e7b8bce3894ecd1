/**
 * Xen's start (xen/arch/arm/setup.c): the device tree that firmware left, memory, the interrupt controller with its ITSs,
 * the SMMUs (every stream aborts), host bridges by `compatible` (T2), then dom0.
 * Not modelled: Xen's own image and boot modules (it lives in its process, and takes machine memory only for what the
 * machine reads: tables, queues, shared pages); ACPI; a command line.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { type Stage2Choice, stage2Choice } from '#shared/arch/vmsa.ts';
import { Lock, type Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import { parseFdt, parseFdtReservations } from '#shared/fdt/blob.ts';
import type { FdtNode, FdtRegion } from '#shared/fdt/node.ts';
import { pciRanges } from '#shared/fdt/pci-bindings.ts';
import { pciHostDriver, pciHostNodes } from '#shared/fdt/pci-host.ts';
import type { Counts } from './counts.ts';
import type { Domain } from './domain/domain.ts';
import type { Domains } from './domain/domains.ts';
import { memoryBanks } from './domain/hardware-devicetree.ts';
import { buildHardwareDomain } from './domain/hardware-domain.ts';
import { Lifecycle } from './domain/lifecycle.ts';
import type { El2 } from './el2.ts';
import { HostGic } from './host-gic/gic.ts';
import type { XenParts } from './hypercall/context.ts';
import { GuestIrqs } from './irq.ts';
import { Frames } from './mm/frames.ts';
import { PciDevices } from './passthrough/assign.ts';
import { HostBridges } from './passthrough/host-bridge.ts';
import { Smmus } from './passthrough/smmus.ts';

const MIB = 2 ** 20;

export interface BootParts {
  readonly runtime: Runtime;
  readonly el2: El2;
  readonly counts: Counts;
  readonly domains: Domains;
  readonly dom0MemoryMib: number;
}

/** Everything that runs once the machine is up. */
export interface Booted {
  readonly xen: XenParts;
  readonly gic: HostGic;
  readonly smmus: Smmus;
  readonly frames: Frames;
  readonly pciDevices: PciDevices;
  readonly hostBridges: HostBridges;
  readonly irqs: GuestIrqs;
  readonly lifecycle: Lifecycle;
  readonly hardwareDomain: Domain;
}

/**
 * Brings the machine up and builds dom0, which the caller wakes. `onGic` is called as soon as interrupts can be taken.
 * Throws FdtError, GicError, SmmuError, El2Fault, XenError: there is no host then.
 */
export function* boot(parts: BootParts, onGic: (gic: HostGic) => void): Op<Booted> {
  const { runtime, el2, counts, domains } = parts;
  const { dtbPa, dtbSizeBytes } = yield* el2.bootInfo();
  const dtb = yield* el2.read(dtbPa, dtbSizeBytes);
  const host = parseFdt(dtb);
  const frames = new Frames();
  const reserved = [{ address: dtbPa, sizeBytes: dtbSizeBytes }, ...parseFdtReservations(dtb)];
  for (const bank of memoryBanks(host)) addWithout(frames, bank, reserved);
  const drivers = { el2, frames, counts, runtime };
  const gic = new HostGic(drivers, host);
  onGic(gic);
  yield* gic.init();
  const stage2 = stage2For(host);
  const smmus = new Smmus({ ...drivers, ipaBits: stage2.ipaBits }, host, gic);
  yield* smmus.init();
  const hostBridges = new HostBridges(el2);
  hostBridges.probe(host);
  const irqs = new GuestIrqs(gic, counts);
  for (const { intxSpis } of hostBridges.all) for (const spi of intxSpis) irqs.configure(spi.intid, spi.isEdge);
  // It needs dom0 to be, and whoever destroys a domain needs it: dom0 itself has no devices yet.
  let pciDevices: PciDevices | undefined;
  const lifecycle = new Lifecycle({
    ...drivers,
    domains,
    stage2,
    gicVersion: gic.version,
    releaseIrqs: (domain) => irqs.releaseAll(domain),
    *releaseDevices(domain) {
      if (pciDevices !== undefined) yield* pciDevices.releaseAll(domain);
    },
  });
  const hardwareDomain = yield* buildHardwareDomain({
    el2,
    frames,
    lifecycle,
    host,
    bridges: hostBridges.all,
    memoryBytes: parts.dom0MemoryMib * MIB,
  });
  const { domIo } = domains;
  pciDevices = new PciDevices({
    runtime,
    bridges: hostBridges,
    smmus,
    vmids: domains,
    itses: gic.itses,
    hardwareDomain,
    domIo,
  });
  gic.onLpi(({ domid, vIntid }) => domains.get(domid)?.vgic?.injectLpi(vIntid));
  const domctlLock = new Lock('domctl_lock');
  const xen = { runtime, el2, frames, domains, lifecycle, pciDevices, hostBridges, irqs, domctlLock };
  return { xen, gic, smmus, frames, pciDevices, hostBridges, irqs, lifecycle, hardwareDomain };
}

/** A bank's memory without what is in use already, in whole pages. */
function addWithout(frames: Frames, bank: FdtRegion, reserved: readonly FdtRegion[]): void {
  let from = bank.address;
  const end = bank.address + bank.sizeBytes;
  for (const r of [...reserved].sort((a, b) => a.address - b.address)) {
    const first = Math.floor(r.address / XEN_PAGE_SIZE) * XEN_PAGE_SIZE;
    const last = Math.ceil((r.address + r.sizeBytes) / XEN_PAGE_SIZE) * XEN_PAGE_SIZE;
    if (last <= from || first >= end) continue;
    if (first > from) frames.addRange(from, first - from);
    from = last;
  }
  if (end > from) frames.addRange(from, end - from);
}

/** 40 bits as long as everything that dom0 has 1:1 lies below, else 48. */
function stage2For(host: FdtNode): Stage2Choice {
  let top = 0;
  const reach = (address: number, sizeBytes: number): void => {
    top = Math.max(top, address + sizeBytes);
  };
  for (const bank of memoryBanks(host)) reach(bank.address, bank.sizeBytes);
  for (const node of pciHostNodes(host)) {
    if (pciHostDriver(node) === undefined) continue;
    for (const r of node.regions()) reach(r.address, r.sizeBytes);
    for (const r of pciRanges(node)) if (r.space !== 'io') reach(r.cpuBase, r.sizeBytes);
  }
  return stage2Choice(top <= 2 ** 40 ? 40 : 48);
}
