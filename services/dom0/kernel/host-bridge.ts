/**
 * The PCI host bridges of dom0's device tree, and their binding to segments (T3): dom0 tells Xen which segment number it
 * gave to the bridge with which configuration window, before it reports any function.
 * Not modelled: bridges other than `pci-host-ecam-generic`; what is behind them does not exist for dom0.
 */
import type { Op } from '#shared/core/op.ts';
import type { FdtNode, FdtRegion } from '#shared/fdt/node.ts';
import { busRange, type PciRange, pciRanges } from '#shared/fdt/pci-bindings.ts';
import type { Hypercalls } from '#shared/kernel/hypercalls.ts';

/** Bytes of ECAM for one bus. */
const ECAM_BUS_BYTES = 0x10_0000;

export interface HostBridge {
  readonly path: string;
  readonly segment: number;
  /** The configuration window; its first byte belongs to bus `firstBus`. */
  readonly ecam: FdtRegion;
  readonly firstBus: number;
  readonly lastBus: number;
  readonly ranges: readonly PciRange[];
}

/** Every usable host bridge, in the order of the tree. A bridge without `linux,pci-domain` gets the next free segment. */
export function findHostBridges(tree: FdtNode): HostBridge[] {
  const bridges: HostBridge[] = [];
  for (const node of tree.compatibleNodes('pci-host-ecam-generic')) {
    const ecam = node.regions()[0];
    if (ecam === undefined) continue;
    const { first, last } = busRange(node);
    let segment = node.u32('linux,pci-domain');
    if (segment === undefined) for (segment = 0; bridges.some((b) => b.segment === segment); segment++);
    bridges.push({
      path: node.path,
      segment,
      ecam,
      firstBus: first,
      lastBus: Math.min(last, first + Math.floor(ecam.sizeBytes / ECAM_BUS_BYTES) - 1),
      ranges: pciRanges(node),
    });
  }
  return bridges;
}

/** PHYSDEVOP_pci_host_bridge_add for each. */
export function* reportHostBridges(hypercalls: Hypercalls, bridges: readonly HostBridge[]): Op<void> {
  for (const b of bridges) yield* hypercalls.pci_host_bridge_add(b.segment, b.ecam.address, b.ecam.sizeBytes);
}
