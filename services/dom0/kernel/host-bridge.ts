/**
 * The PCI host bridges of dom0's device tree, and their binding to segments (T3): dom0 tells Xen which segment number it
 * gave to the bridge with which configuration window, before it reports any function.
 * The SMMU and the ITSs are Xen's, but which functions an ITS serves, and which SPI each pin leads to, stands in the tree.
 * Not modelled: bridges that shared/fdt/pci-host.ts has no driver for; what is behind them does not exist for dom0.
 */
import type { Op } from '#shared/core/op.ts';
import { FdtError, type FdtNode, type FdtRegion } from '#shared/fdt/node.ts';
import {
  busRange,
  type InterruptMap,
  interruptMap,
  lookupRid,
  type PciRange,
  pciRanges,
  type RidMap,
} from '#shared/fdt/pci-bindings.ts';
import { deviceIdMap, PCI_HOST_BUS_SHIFT, pciHostDriver, pciHostNodes } from '#shared/fdt/pci-host.ts';
import { busOf, ridOf, type Sbdf, segmentOf } from '#shared/ids/sbdf.ts';
import type { Hypercalls } from '#shared/kernel/hypercalls.ts';

export interface HostBridge {
  readonly path: string;
  readonly segment: number;
  /** The configuration window; its first byte belongs to bus `firstBus`. */
  readonly ecam: FdtRegion;
  /** Where the bus number stands in a configuration address; device and function stand 8 bits lower. */
  readonly busShift: number;
  /** Registers of a ThunderX PEM: they configure what is on `firstBus`, where the window shows nothing. */
  readonly pem: number | undefined;
  readonly firstBus: number;
  readonly lastBus: number;
  readonly ranges: readonly PciRange[];
  /** Undefined when no pin leads anywhere. */
  readonly interruptMap: InterruptMap | undefined;
  /** Requester ids that an ITS takes messages of; undefined for none. */
  readonly msiMap: RidMap | undefined;
}

/** Whether an ITS takes the messages of a function. */
export function hasMessages(bridges: readonly HostBridge[], sbdf: Sbdf): boolean {
  const bus = busOf(sbdf);
  const bridge = bridges.find((b) => b.segment === segmentOf(sbdf) && bus >= b.firstBus && bus <= b.lastBus);
  return bridge?.msiMap !== undefined && lookupRid(bridge.msiMap, ridOf(sbdf)) !== undefined;
}

/** Every usable host bridge, in the order of the tree. A bridge without `linux,pci-domain` gets the next free segment. */
export function findHostBridges(tree: FdtNode): HostBridge[] {
  const bridges: HostBridge[] = [];
  for (const node of pciHostNodes(tree)) {
    const driver = pciHostDriver(node);
    const [ecam, registers] = node.regions();
    if (driver === undefined || ecam === undefined) continue;
    const busShift = PCI_HOST_BUS_SHIFT[driver];
    const { first, last } = busRange(node);
    let segment = node.u32('linux,pci-domain');
    if (segment === undefined) for (segment = 0; bridges.some((b) => b.segment === segment); segment++);
    bridges.push({
      path: node.path,
      segment,
      ecam,
      busShift,
      pem: driver === 'thunder-pem' ? registers?.address : undefined,
      firstBus: first,
      lastBus: Math.min(last, first + Math.floor(ecam.sizeBytes / 2 ** busShift) - 1),
      ranges: pciRanges(node),
      interruptMap: pinsOf(node),
      msiMap: itsRows(node),
    });
  }
  return bridges;
}

/** Undefined as well when rows lead to a controller that dom0 was not given: no way of those pins is known here. */
function pinsOf(bridge: FdtNode): InterruptMap | undefined {
  try {
    return interruptMap(bridge);
  } catch (error) {
    if (error instanceof FdtError) return undefined;
    throw error;
  }
}

function itsRows(bridge: FdtNode): RidMap | undefined {
  const map = deviceIdMap(bridge);
  const rows = map?.rows.filter((row) => bridge.byPhandle(row.phandle)?.isCompatible('arm,gic-v3-its') === true) ?? [];
  return map === undefined || rows.length === 0 ? undefined : { mask: map.mask, rows };
}

/** PHYSDEVOP_pci_host_bridge_add for each. */
export function* reportHostBridges(hypercalls: Hypercalls, bridges: readonly HostBridge[]): Op<void> {
  for (const b of bridges) yield* hypercalls.pci_host_bridge_add(b.segment, b.ecam.address, b.ecam.sizeBytes);
}
