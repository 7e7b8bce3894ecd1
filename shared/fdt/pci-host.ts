/**
 * PCI host bridges in a device tree: which driver a node asks for, and where its requests go (Linux bindings
 * host-generic-pci, pci-thunder-ecam, pci-thunder-pem, pci-iommu, pci-msi, arm,smmu). Whoever models a bridge or drives
 * one decides by these tables, so that the machine, Xen and dom0 speak of the same bridges and segments.
 * Not modelled: controllers whose configuration space lies behind a translation window or registers of their own
 * (DesignWare, Cadence, X-Gene, Rockchip, HiSilicon); `whyNotDriven` says why.
 */
import type { FdtNode } from './node.ts';
import { type RidMap, ridMap } from './pci-bindings.ts';

export type PciHostDriver = 'ecam' | 'thunder-ecam' | 'thunder-pem';

/** `compatible` to driver. `cavium,thunder-pcie` is how a ThunderX's firmware of 2015 called its ECAM bridges. */
export const PCI_HOST_DRIVERS: Readonly<Record<string, PciHostDriver>> = {
  'pci-host-ecam-generic': 'ecam',
  'cavium,pci-host-thunder-ecam': 'thunder-ecam',
  'cavium,thunder-pcie': 'thunder-ecam',
  'cavium,pci-host-thunder-pem': 'thunder-pem',
};

/** Bits of a configuration address above which the bus number stands; device and function stand 8 bits lower. */
export const PCI_HOST_BUS_SHIFT: Readonly<Record<PciHostDriver, number>> = {
  ecam: 20,
  'thunder-ecam': 20,
  'thunder-pem': 24,
};

const WHY_NOT: readonly (readonly [RegExp, string])[] = [
  [/dw-pcie|^fsl,.*-pcie$|^marvell,armada8k-pcie/, 'configuration space is behind a DesignWare translation window'],
  [/^ti,j721e-pcie/, 'configuration space is behind a Cadence translation window'],
  [/^apm,xgene/, 'configuration space shows one function at a time, chosen by a register'],
  [/^rockchip,/, 'configuration space is reached through registers of the controller'],
  [/^hisilicon,hip0\d-pcie/, 'the root port is configured through registers of its own, outside ECAM'],
];

/** The driver for a bridge's node, by the first `compatible` that has one. */
export function pciHostDriver(node: FdtNode): PciHostDriver | undefined {
  for (const name of node.strings('compatible')) {
    const driver = PCI_HOST_DRIVERS[name];
    if (driver !== undefined) return driver;
  }
  return undefined;
}

/** Why a bridge without a driver has none: half a sentence. */
export function whyNotDriven(node: FdtNode): string {
  const names = node.strings('compatible');
  return WHY_NOT.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1] ?? 'no driver knows it';
}

/** Every enabled host bridge, driven or not, in the order of the tree: a node of type `pci` that hangs below none. */
export function pciHostNodes(tree: FdtNode): FdtNode[] {
  return [...tree.walk()].filter(
    (node) =>
      (node.string('device_type') === 'pci' || pciHostDriver(node) !== undefined) &&
      node.parent?.string('device_type') !== 'pci' &&
      isReachable(node),
  );
}

/**
 * A name for a controller that maps can speak of: its phandle; for one that nothing points to (an SMMU with
 * `mmu-masters` needs none) a number above every phandle, by its place in the tree.
 */
export function handleOf(node: FdtNode): number {
  const phandle = node.phandle;
  if (phandle !== undefined) return phandle;
  let place = 0;
  for (const other of node.root.walk()) {
    if (other === node) break;
    place++;
  }
  return 0xf000_0000 + place;
}

/**
 * How requester ids of a bridge become StreamIDs. `iommu-map`; without it `mmu-masters` of an SMMU that names the bridge:
 * there the StreamID is the requester id, whatever id stands in the list, as Linux has it for PCI
 * (drivers/iommu/arm/arm-smmu: "mmu-masters" assumes Stream ID == Requester ID). A row for an SMMU that is disabled is
 * left out. Undefined when no SMMU is in the way. Throws FdtError.
 */
export function streamMap(bridge: FdtNode): RidMap | undefined {
  const map = ridMap(bridge, 'iommu-map');
  if (map !== undefined) {
    const rows = map.rows.filter((row) => bridge.byPhandle(row.phandle)?.enabled !== false);
    return rows.length === 0 ? undefined : { mask: map.mask, rows };
  }
  const phandle = bridge.phandle;
  if (phandle === undefined) return undefined;
  const masters = [...bridge.root.walk()].filter((node) => node.enabled && mastersOf(node).includes(phandle));
  if (masters.length === 0) return undefined;
  return {
    mask: 0xffff,
    rows: masters.map((smmu) => ({ ridBase: 0, phandle: handleOf(smmu), outBase: 0, length: 0x1_0000 })),
  };
}

/** How requester ids become DeviceIDs: `msi-map`, or `msi-parent` with the requester id itself. Throws FdtError. */
export function deviceIdMap(bridge: FdtNode): RidMap | undefined {
  const map = ridMap(bridge, 'msi-map');
  if (map !== undefined) return map.rows.length === 0 ? undefined : map;
  const parent = bridge.cells('msi-parent')[0];
  if (parent === undefined) return undefined;
  return { mask: 0xffff, rows: [{ ridBase: 0, phandle: parent, outBase: 0, length: 0x1_0000 }] };
}

/** Phandles that `mmu-masters` of an SMMU lists; each is followed by as many ids as its `#stream-id-cells`. */
export function mastersOf(smmu: FdtNode): number[] {
  const cells = smmu.cells('mmu-masters');
  const masters: number[] = [];
  for (let at = 0; at < cells.length; ) {
    masters.push(cells[at]!);
    at += 1 + (smmu.byPhandle(cells[at]!)?.u32('#stream-id-cells') ?? 0);
  }
  return masters;
}

/** Whether a node and every bus above it are enabled. */
function isReachable(node: FdtNode): boolean {
  for (let at: FdtNode | undefined = node; at !== undefined; at = at.parent) if (!at.enabled) return false;
  return true;
}
