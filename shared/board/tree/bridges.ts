/**
 * The PCI host bridges of a board: driver, windows, segment, and the ways to SMMUs and ITSs.
 * A bridge without a driver is left out; a board of nothing else is refused.
 * Not modelled: that every function on an ECAM bridge of a ThunderX has fixed BARs; those have that were dumped with an
 * Enhanced Allocation capability, and software finds ordinary BARs in all others.
 */
import type { FdtNode } from '../../fdt/node.ts';
import { busRange, interruptMap, pciRanges, type RidMap } from '../../fdt/pci-bindings.ts';
import {
  deviceIdMap,
  PCI_HOST_BUS_SHIFT,
  pciHostDriver,
  pciHostNodes,
  streamMap,
  whyNotDriven,
} from '../../fdt/pci-host.ts';
import {
  type BoardBridge,
  BoardError,
  type BoardGic,
  type BoardRegion,
  type BoardSmmu,
  type LeftOutBridge,
} from '../parts.ts';
import { firstRegion, numaNodeOf, regionOf } from './nodes.ts';

/** Configuration registers of a PEM that are modelled lie in its first 64 KiB. */
const PEM_BYTES = 0x1_0000;

export interface BoardBridges {
  readonly bridges: readonly BoardBridge[];
  readonly leftOut: readonly LeftOutBridge[];
}

/** `mayLackSmmu`: the board file says that DMA may go untranslated. Throws BoardError, FdtError. */
export function bridgesOf(
  tree: FdtNode,
  smmus: readonly BoardSmmu[],
  gic: BoardGic,
  mayLackSmmu: boolean,
): BoardBridges {
  const all = pciHostNodes(tree);
  const nodes = all.filter((node) => pciHostDriver(node) !== undefined);
  const leftOut = all
    .filter((node) => pciHostDriver(node) === undefined)
    .map((node) => ({ path: node.path, compatible: node.string('compatible') ?? '', why: whyNotDriven(node) }));
  if (nodes.length === 0) throw new BoardError(noBridge(tree, leftOut));
  const withDomain = nodes.filter((n) => n.has('linux,pci-domain')).length;
  if (withDomain !== 0 && withDomain !== nodes.length)
    throw new BoardError('board has host bridges with linux,pci-domain and others without it');
  const bridges = nodes.map((node, index) => bridgeOf(node, index, smmus, gic, mayLackSmmu));
  bridges.forEach((bridge, i) => {
    const other = bridges
      .slice(0, i)
      .find(
        (b) =>
          b.segment === bridge.segment &&
          b.busRange.first <= bridge.busRange.last &&
          bridge.busRange.first <= b.busRange.last,
      );
    if (other !== undefined)
      throw new BoardError(`${other.path} and ${bridge.path} serve the same buses of segment ${bridge.segment}`);
  });
  return { bridges, leftOut };
}

function bridgeOf(
  node: FdtNode,
  index: number,
  smmus: readonly BoardSmmu[],
  gic: BoardGic,
  mayLackSmmu: boolean,
): BoardBridge {
  const driver = pciHostDriver(node)!;
  const busShift = PCI_HOST_BUS_SHIFT[driver];
  const ecam = firstRegion(node, 2 ** busShift, 'the configuration space of a bus');
  const declared = busRange(node);
  // Buses beyond the window cannot be reached.
  const last = Math.min(declared.last, declared.first + Math.floor(ecam.sizeBytes / 2 ** busShift) - 1);
  const segment = node.u32('linux,pci-domain') ?? index;
  if (segment > 0xffff) throw new BoardError(`host bridge ${node.path} serves segment ${segment}, above 65535`);
  const iommuMap = checkedStreams(node, smmus, mayLackSmmu);
  return {
    path: node.path,
    segment,
    driver,
    ecam,
    busShift,
    pem: driver === 'thunder-pem' ? pemOf(node) : undefined,
    busRange: { first: declared.first, last },
    ranges: pciRanges(node),
    smmuPhandle: iommuMap.rows[0]?.phandle ?? 0,
    smmuPhandles: [...new Set(iommuMap.rows.map((r) => r.phandle))],
    iommuMap,
    msiMap: checkedDeviceIds(node, gic),
    interruptMap: interruptMap(node),
    numaNode: numaNodeOf(node),
    dmaCoherent: node.has('dma-coherent'),
  };
}

function checkedStreams(node: FdtNode, smmus: readonly BoardSmmu[], mayLackSmmu: boolean): RidMap {
  const map = streamMap(node);
  if (map === undefined) {
    if (mayLackSmmu) return { mask: 0xffff_ffff, rows: [] };
    const lacking = node.has('iommu-map')
      ? 'an iommu-map that names only disabled SMMUs'
      : smmus.length === 0
        ? 'no SMMU (the board has none)'
        : 'no iommu-map and stands in no mmu-masters';
    throw new BoardError(
      `host bridge ${node.path} has ${lacking}: its devices would reach memory past every SMMU ("without: [smmu]" in the board file allows it)`,
    );
  }
  const stray = map.rows.find((r) => !smmus.some((s) => s.phandle === r.phandle));
  if (stray !== undefined)
    throw new BoardError(`iommu-map of ${node.path} names phandle 0x${stray.phandle.toString(16)}, which is no SMMU`);
  return map;
}

function checkedDeviceIds(node: FdtNode, gic: BoardGic): RidMap | undefined {
  // Without any ITS (`without: [msi]`) whatever the map names takes no MSI here.
  if (gic.its.length === 0) return undefined;
  const map = deviceIdMap(node);
  const stray = map?.rows.find((r) => !gic.its.some((i) => i.phandle === r.phandle));
  if (stray !== undefined)
    throw new BoardError(
      `msi-map of ${node.path} names phandle 0x${stray.phandle.toString(16)}, which is no GICv3 ITS`,
    );
  return map;
}

function pemOf(node: FdtNode): BoardRegion {
  const region = node.regions()[1];
  if (region === undefined || region.sizeBytes < PEM_BYTES)
    throw new BoardError(`${node.path} has no second register block of 0x${PEM_BYTES.toString(16)} bytes: its PEM`);
  return { ...regionOf(region), sizeBytes: PEM_BYTES };
}

function noBridge(tree: FdtNode, leftOut: readonly LeftOutBridge[]): string {
  const [first] = leftOut;
  if (first !== undefined) {
    const more = leftOut.length === 1 ? '' : `, and ${leftOut.length - 1} more`;
    return `board has no PCI host bridge that is modelled: ${first.path} is ${first.compatible}: ${first.why}${more}`;
  }
  const [off, ...others] = [...tree.walk()].filter((node) => node.string('device_type') === 'pci' && !node.enabled);
  if (off === undefined) return 'board has no PCI host bridge: no node has device_type pci';
  const disabled = others.length === 0 ? 'is disabled' : `and ${others.length} more are disabled`;
  return `board has no PCI host bridge: ${off.path} ${disabled}; firmware enables what is there`;
}
