/**
 * Enumeration (Linux drivers/pci/probe.c, in short): bus numbers depth first, BARs sized and placed (place.ts), ACS and ARI
 * switched on, virtual functions enabled, every function reported to Xen.
 * Memory decoding and bus mastering are switched on for bridges; endpoints keep both off. A pin is followed to its SPI.
 * Not modelled: what a firmware placed or numbered; everything is placed anew. CardBus bridges; nothing behind one is found.
 * Enhanced Allocation: a BAR that it fixes is not among a function's.
 */

import { XEN_PCI_DEV } from '#shared/abi/physdev.ts';
import { SPI_FIRST } from '#shared/arch/gic/distributor.ts';
import { PCI_BRIDGE, PCI_BRIDGE_RANGE_TYPE_MASK } from '#shared/arch/pci/bridge-header.ts';
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_FLAGS } from '#shared/arch/pci/express.ts';
import { PCI, PCI_CFG_SPACE_BYTES, PCI_CFG_SPACE_EXP_BYTES, PCI_HEADER_TYPE } from '#shared/arch/pci/header.ts';
import { PCI_PIN, swizzle } from '#shared/arch/pci/intx.ts';
import type { Op } from '#shared/core/op.ts';
import { lookupSpi } from '#shared/fdt/pci-bindings.ts';
import { devfnOf, deviceOf, formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import type { Hypercalls } from '#shared/kernel/hypercalls.ts';
import { type ConfigAccess, type FoundFunction, findCapability, readBars, scanBus } from '#shared/kernel/pci-core.ts';
import { enableAcs } from './acs.ts';
import type { PciFunction } from './function.ts';
import type { HostBridge } from './host-bridge.ts';
import { type Bus, placeAll, toCpu } from './place.ts';
import { isDownstreamPort, linkBelow, showRetries } from './ports.ts';
import { enableVfs, planVfs, type VfPlan } from './sriov.ts';

type Trace = (event: string, detail: unknown) => void;

/** One host bridge while it is enumerated. */
interface Scan {
  readonly access: ConfigAccess;
  readonly host: HostBridge;
  readonly trace: Trace;
  readonly all: PciFunction[];
  readonly plans: VfPlan[];
  /** The next bus number that is free. */
  nextBus: number;
}

/** Enumerates what is below one host bridge. Functions come in order of bus number and devfn. */
export function* enumerate(access: ConfigAccess, host: HostBridge, trace: Trace): Op<PciFunction[]> {
  const scan: Scan = { access, host, trace, all: [], plans: [], nextBus: host.firstBus + 1 };
  const root = yield* scanFrom(scan, host.firstBus, undefined);
  yield* placeAll(access, host, root, trace);
  for (const plan of scan.plans) scan.all.push(...(yield* enableVfs(access, plan, (at) => toCpu(host, at), trace)));
  return scan.all.sort((a, b) => a.sbdf - b.sbdf);
}

/**
 * PHYSDEVOP_pci_device_add for each, physical functions before their virtual ones. One that Xen refuses is traced;
 * assigning it fails later (Linux drivers/xen/pci.c).
 */
export function* reportFunctions(hypercalls: Hypercalls, functions: readonly PciFunction[], trace: Trace): Op<void> {
  const ports = new Set(functions.filter(isDownstreamPort).map((f) => f.sbdf));
  for (const f of [...functions].sort((a, b) => Number(a.physfn !== undefined) - Number(b.physfn !== undefined))) {
    // Below a link a device number other than 0 is the upper part of an ARI function number.
    const extended = f.parent !== undefined && ports.has(f.parent) && deviceOf(f.sbdf) !== 0;
    const flags = f.physfn !== undefined ? XEN_PCI_DEV.virtfn : extended ? XEN_PCI_DEV.extfn : 0;
    try {
      yield* hypercalls.pci_device_add(f.sbdf, flags, f.physfn);
    } catch (error) {
      trace('dom0.pci_device_add.failed', { sbdf: formatSbdf(f.sbdf), error: String(error) });
    }
  }
}

function* scanFrom(scan: Scan, number: number, above: PciFunction | undefined): Op<Bus> {
  const { access, host, trace } = scan;
  const bus: Bus = { number, functions: [], vfs: [], children: [] };
  const link = above === undefined ? undefined : linkBelow(access, above);
  for (const found of yield* scanBus(access, host.segment, number, link)) {
    const fn = yield* setUp(scan, found, above);
    bus.functions.push(fn);
    scan.all.push(fn);
    const plan = yield* planVfs(access, fn, link?.ari ?? false, trace);
    if (plan === undefined) continue;
    if (plan.lastBus > host.lastBus) {
      trace('dom0.pci.no_vfs', { sbdf: formatSbdf(fn.sbdf), count: plan.count, why: 'their buses do not exist' });
      continue;
    }
    bus.vfs.push(plan);
    scan.plans.push(plan);
    // Bus numbers of VFs come before those of the bridges here (Linux pci_iov_bus_range).
    scan.nextBus = Math.max(scan.nextBus, plan.lastBus + 1);
  }
  for (const bridge of bus.functions.filter((f) => f.headerType === PCI_HEADER_TYPE.BRIDGE)) {
    if (scan.nextBus > host.lastBus) {
      trace('dom0.pci.out_of_buses', { bridge: formatSbdf(bridge.sbdf) });
      continue;
    }
    const secondary = scan.nextBus++;
    yield* access.write(bridge.sbdf, PCI_BRIDGE.PRIMARY_BUS, 1, number);
    yield* access.write(bridge.sbdf, PCI_BRIDGE.SECONDARY_BUS, 1, secondary);
    yield* access.write(bridge.sbdf, PCI_BRIDGE.SUBORDINATE_BUS, 1, host.lastBus);
    yield* showRetries(access, bridge);
    const below = yield* scanFrom(scan, secondary, bridge);
    yield* access.write(bridge.sbdf, PCI_BRIDGE.SUBORDINATE_BUS, 1, scan.nextBus - 1);
    const type = (yield* access.read(bridge.sbdf, PCI_BRIDGE.PREF_MEMORY_BASE, 2)) & PCI_BRIDGE_RANGE_TYPE_MASK;
    bus.children.push({ bridge, wide: type === 1, bus: below });
  }
  return bus;
}

/** Everything off, ACS on, BARs sized. */
function* setUp(scan: Scan, found: FoundFunction, above: PciFunction | undefined): Op<PciFunction> {
  const { access } = scan;
  const { sbdf } = found;
  const express = yield* findCapability(access, sbdf, PCI_CAP_ID.EXPRESS);
  yield* access.write(sbdf, PCI.COMMAND, 2, 0);
  const flags = express === 0 ? 0 : yield* access.read(sbdf, express + PCI_EXP.FLAGS, 2);
  return {
    ...found,
    portType: express === 0 ? -1 : (flags & PCI_EXP_FLAGS.TYPE_MASK) >>> PCI_EXP_FLAGS.TYPE_SHIFT,
    acs: yield* enableAcs(access, sbdf),
    configBytes: express === 0 ? PCI_CFG_SPACE_BYTES : PCI_CFG_SPACE_EXP_BYTES,
    parent: above?.sbdf,
    physfn: undefined,
    irq: yield* irqOf(scan, sbdf, above),
    bars: (yield* readBars(access, sbdf)).map((bar) => ({ ...bar, address: 0, pa: 0 })),
  };
}

/** The SPI of a function's pin, as an INTID (Linux pci_common_swizzle, of_irq_parse_and_map_pci); 0 for none. */
function* irqOf(scan: Scan, sbdf: Sbdf, above: PciFunction | undefined): Op<number> {
  let pin = yield* scan.access.read(sbdf, PCI.INTERRUPT_PIN, 1);
  if (pin < PCI_PIN.A || pin > PCI_PIN.D) return 0;
  let at = sbdf;
  for (let port = above; port !== undefined; ) {
    const { parent } = port;
    pin = swizzle(pin, isDownstreamPort(port) ? 0 : deviceOf(at));
    at = port.sbdf;
    port = parent === undefined ? undefined : scan.all.find((f) => f.sbdf === parent);
  }
  const spi = lookupSpi(scan.host.interruptMap, devfnOf(at), pin);
  return spi < 0 ? 0 : SPI_FIRST + spi;
}
