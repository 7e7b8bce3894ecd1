/**
 * The PCI host bridges of dom0's device tree, and their binding to segments (T3): dom0 tells Xen which segment number it
 * gave to the bridge with which configuration window, before it reports any function.
 * Not modelled: bridges that shared/fdt/pci-host.ts has no driver for; what is behind them does not exist for dom0.
 */
import type { Op } from '#shared/core/op.ts';
import type { FdtNode, FdtRegion } from '#shared/fdt/node.ts';
import { busRange, type PciRange, pciRanges } from '#shared/fdt/pci-bindings.ts';
import { PCI_HOST_BUS_SHIFT, pciHostDriver, pciHostNodes } from '#shared/fdt/pci-host.ts';
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
    });
  }
  return bridges;
}

/** PHYSDEVOP_pci_host_bridge_add for each. */
export function* reportHostBridges(hypercalls: Hypercalls, bridges: readonly HostBridge[]): Op<void> {
  for (const b of bridges) yield* hypercalls.pci_host_bridge_add(b.segment, b.ecam.address, b.ecam.sizeBytes);
}
