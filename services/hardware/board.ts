/**
 * A machine's parts list, read from its device tree and its functions: RAM, CPUs, GICv3 with its ITSs, SMMUv3s and PCI
 * host bridges (Linux bindings arm,gic-v3.yaml, arm,smmu-v3.yaml, host-generic-pci.yaml). Nothing is built here.
 * Not modelled: GICv2 and SMMUv2, other host bridges than generic ECAM, several SMMUs behind one bridge, virtual
 * functions; a board without what is needed, or with those, is refused with a line of text.
 */
import { DMA_PROBE_BYTES } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_HEADER_TYPE } from '#shared/arch/pci/header.ts';
import type { BoardDescription, BoardFunction } from '#shared/board/description.ts';
import { parseFdt } from '#shared/fdt/blob.ts';
import { FdtError, type FdtNode } from '#shared/fdt/node.ts';
import {
  busRange,
  type InterruptMap,
  interruptMap,
  type PciRange,
  pciRanges,
  type RidMap,
  ridMap,
} from '#shared/fdt/pci-bindings.ts';
import { busOf, formatSbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { barShapesOf, msixShapeOf, registerBarOf } from './pcie/bar.ts';

/** A board that cannot be built. One line. */
export class BoardError extends Error {
  override name = 'BoardError';
}

/** Physical memory, or a register block. */
export interface BoardRegion {
  readonly pa: number;
  readonly sizeBytes: number;
}

export interface BoardIts {
  readonly path: string;
  readonly phandle: number;
  readonly registers: BoardRegion;
}

export interface BoardGic {
  readonly path: string;
  readonly phandle: number;
  readonly distributor: BoardRegion;
  readonly redistributors: readonly BoardRegion[];
  /** `redistributor-stride` when the tree gives one; else frames follow one another. */
  readonly redistributorStride: number | undefined;
  readonly its: readonly BoardIts[];
}

export interface BoardSmmu {
  readonly path: string;
  readonly phandle: number;
  readonly registers: BoardRegion;
  /** SPI numbers (INTID - 32) of the wired interrupts that the tree names; all alike for a `combined` one. */
  readonly spis: {
    readonly eventq: number | undefined;
    readonly gerror: number | undefined;
    readonly cmdqSync: number | undefined;
    readonly priq: number | undefined;
  };
}

export interface BoardBridge {
  readonly path: string;
  readonly segment: number;
  readonly ecam: BoardRegion;
  readonly busRange: { readonly first: number; readonly last: number };
  readonly ranges: readonly PciRange[];
  /** The one SMMU that stands in front of it. */
  readonly smmuPhandle: number;
  readonly iommuMap: RidMap;
  /** Undefined when no MSI of this bridge reaches an ITS. */
  readonly msiMap: RidMap | undefined;
  readonly interruptMap: InterruptMap | undefined;
}

export interface Board {
  readonly dtb: Uint8Array;
  readonly tree: FdtNode;
  readonly memory: readonly BoardRegion[];
  /** How many CPUs there are, and the affinity (`reg`) of each. */
  readonly cpus: number;
  readonly mpidrs: readonly number[];
  readonly gic: BoardGic;
  readonly smmus: readonly BoardSmmu[];
  readonly bridges: readonly BoardBridge[];
  readonly functions: readonly BoardFunction[];
}

/** The board's bus below a bridge: what the description says, or what its dump says. */
export function secondaryBusOf(fn: BoardFunction): number {
  return fn.secondaryBus ?? fn.config[PCI_BRIDGE.SECONDARY_BUS]!;
}

export function isBridge(fn: BoardFunction): boolean {
  return (fn.config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK) === PCI_HEADER_TYPE.BRIDGE;
}

/** The bridge that serves a bus of a segment, or undefined. */
export function bridgeServing(bridges: readonly BoardBridge[], segment: number, bus: number): BoardBridge | undefined {
  return bridges.find((b) => b.segment === segment && bus >= b.busRange.first && bus <= b.busRange.last);
}

/** Reads and checks a description. Throws BoardError. */
export function loadBoard(description: BoardDescription): Board {
  try {
    const tree = parseFdt(description.dtb);
    const memory = memoryOf(tree);
    const mpidrs = (tree.child('cpus')?.children ?? [])
      .filter((n) => n.string('device_type') === 'cpu' && n.enabled)
      .map((n) => n.reg()[0]?.address ?? 0);
    if (mpidrs.length === 0) throw new BoardError('board has no CPU: the device tree has no cpu nodes below /cpus');
    const gic = gicOf(tree);
    const smmus = smmusOf(tree);
    const bridges = bridgesOf(tree, smmus, gic);
    checkFunctions(description.functions, bridges);
    checkMap(memory, gic, smmus, bridges);
    const { dtb, functions } = description;
    return { dtb, tree, memory, cpus: mpidrs.length, mpidrs, gic, smmus, bridges, functions };
  } catch (error) {
    if (error instanceof FdtError) throw new BoardError(error.message, { cause: error });
    throw error;
  }
}

function memoryOf(tree: FdtNode): BoardRegion[] {
  const banks = tree.children
    .filter((n) => n.string('device_type') === 'memory' && n.enabled)
    .flatMap((n) => n.reg())
    .filter((r) => r.sizeBytes > 0)
    .map((r) => ({ pa: r.address, sizeBytes: r.sizeBytes }))
    .sort((a, b) => a.pa - b.pa);
  if (banks.length === 0) throw new BoardError('board has no memory: the device tree has no memory node with a size');
  banks.forEach((bank, i) => {
    const before = banks[i - 1];
    if (before !== undefined && before.pa + before.sizeBytes > bank.pa)
      throw new BoardError(`board has memory twice at 0x${bank.pa.toString(16)}`);
  });
  return banks;
}

function gicOf(tree: FdtNode): BoardGic {
  const [node, second] = tree.compatibleNodes('arm,gic-v3');
  if (node === undefined) throw new BoardError('board has no GICv3: no node is compatible with arm,gic-v3');
  if (second !== undefined) throw new BoardError(`board has two GICs: ${node.path} and ${second.path}`);
  const regions = node.regions().map(regionOf);
  const count = node.u32('#redistributor-regions') ?? 1;
  const distributor = regions[0];
  if (distributor === undefined || regions.length < 1 + count)
    throw new BoardError(
      `GICv3 ${node.path} has ${regions.length} regions: a distributor and ${count} for redistributors are needed`,
    );
  const its = node.compatibleNodes('arm,gic-v3-its').map((n) => ({
    path: n.path,
    phandle: phandleOf(n),
    registers: firstRegion(n, 0x2_0000),
  }));
  if (its.length === 0) throw new BoardError('board has no GICv3 ITS: no node is compatible with arm,gic-v3-its');
  return {
    path: node.path,
    phandle: phandleOf(node),
    distributor,
    redistributors: regions.slice(1, 1 + count),
    redistributorStride: node.u64('redistributor-stride'),
    its,
  };
}

function smmusOf(tree: FdtNode): BoardSmmu[] {
  const smmus = tree.compatibleNodes('arm,smmu-v3').map((node) => {
    const names = node.strings('interrupt-names');
    const interrupts = node.interrupts();
    const spi = (name: string): number | undefined => {
      const at = names.includes(name) ? names.indexOf(name) : names.indexOf('combined');
      const [type, number] = interrupts[at] ?? [];
      return type === 0 ? number : undefined;
    };
    return {
      path: node.path,
      phandle: phandleOf(node),
      registers: firstRegion(node, 0x2_0000),
      spis: { eventq: spi('eventq'), gerror: spi('gerror'), cmdqSync: spi('cmdq-sync'), priq: spi('priq') },
    };
  });
  if (smmus.length === 0) throw new BoardError('board has no SMMUv3: no node is compatible with arm,smmu-v3');
  return smmus;
}

function bridgesOf(tree: FdtNode, smmus: readonly BoardSmmu[], gic: BoardGic): BoardBridge[] {
  const nodes = tree.compatibleNodes('pci-host-ecam-generic');
  if (nodes.length === 0)
    throw new BoardError('board has no PCI host bridge: no node is compatible with pci-host-ecam-generic');
  const withDomain = nodes.filter((n) => n.has('linux,pci-domain')).length;
  if (withDomain !== 0 && withDomain !== nodes.length)
    throw new BoardError('board has host bridges with linux,pci-domain and others without it');
  const bridges = nodes.map((node, index) => bridgeOf(node, index, smmus, gic));
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
  return bridges;
}

function bridgeOf(node: FdtNode, index: number, smmus: readonly BoardSmmu[], gic: BoardGic): BoardBridge {
  const ecam = firstRegion(node, 0x10_0000);
  const declared = busRange(node);
  // ECAM gives each bus 1 MiB; buses beyond the window cannot be reached.
  const last = Math.min(declared.last, declared.first + Math.floor(ecam.sizeBytes / 0x10_0000) - 1);
  const iommuMap = ridMap(node, 'iommu-map');
  if (iommuMap === undefined || iommuMap.rows.length === 0)
    throw new BoardError(`host bridge ${node.path} has no iommu-map: its devices would reach memory past every SMMU`);
  const phandles = [...new Set(iommuMap.rows.map((r) => r.phandle))];
  const smmuPhandle = phandles[0]!;
  if (phandles.length > 1)
    throw new BoardError(`host bridge ${node.path} has an iommu-map with ${phandles.length} SMMUs; one is modelled`);
  if (!smmus.some((s) => s.phandle === smmuPhandle))
    throw new BoardError(`iommu-map of ${node.path} names phandle 0x${smmuPhandle.toString(16)}, which is no SMMUv3`);
  const msiParent = node.u32('msi-parent');
  const msiMap =
    ridMap(node, 'msi-map') ??
    (msiParent === undefined
      ? undefined
      : { mask: 0xffff, rows: [{ ridBase: 0, phandle: msiParent, outBase: 0, length: 0x1_0000 }] });
  const stray = msiMap?.rows.find((r) => !gic.its.some((i) => i.phandle === r.phandle));
  if (stray !== undefined)
    throw new BoardError(
      `msi-map of ${node.path} names phandle 0x${stray.phandle.toString(16)}, which is no GICv3 ITS`,
    );
  return {
    path: node.path,
    segment: node.u32('linux,pci-domain') ?? index,
    ecam,
    busRange: { first: declared.first, last },
    ranges: pciRanges(node),
    smmuPhandle,
    iommuMap,
    msiMap,
    interruptMap: interruptMap(node),
  };
}

/** Every address of the physical bus belongs to one part. */
function checkMap(
  memory: readonly BoardRegion[],
  gic: BoardGic,
  smmus: readonly BoardSmmu[],
  bridges: readonly BoardBridge[],
): void {
  const parts = [
    ...memory.map((r) => ({ name: 'memory', ...r })),
    { name: gic.path, ...gic.distributor },
    ...gic.redistributors.map((r) => ({ name: gic.path, ...r })),
    ...[...gic.its, ...smmus].map(({ path, registers }) => ({ name: path, ...registers })),
    ...bridges.flatMap((b) => [
      { name: `ECAM of ${b.path}`, ...b.ecam },
      ...b.ranges
        .filter((r) => r.space !== 'config')
        .map((r) => ({ name: `${r.space} window of ${b.path}`, pa: r.cpuBase, sizeBytes: r.sizeBytes })),
    ]),
  ].sort((a, b) => a.pa - b.pa);
  parts.forEach((part, i) => {
    const below = parts[i - 1];
    if (below !== undefined && below.pa + below.sizeBytes > part.pa)
      throw new BoardError(`${below.name} and ${part.name} overlap at 0x${part.pa.toString(16)}`);
    if (part.sizeBytes === 0) throw new BoardError(`${part.name} is empty at 0x${part.pa.toString(16)}`);
  });
}

function checkFunctions(functions: readonly BoardFunction[], bridges: readonly BoardBridge[]): void {
  const at = new Map<number, BoardFunction>();
  for (const fn of functions) {
    const name = formatSbdf(fn.sbdf);
    if (at.has(fn.sbdf)) throw new BoardError(`board has two functions at ${name}`);
    at.set(fn.sbdf, fn);
    checkDump(fn, name);
    if (!bridges.some((b) => b.segment === segmentOf(fn.sbdf)))
      throw new BoardError(`function ${name} is on segment ${segmentOf(fn.sbdf)}, which no host bridge serves`);
    if (bridgeServing(bridges, segmentOf(fn.sbdf), busOf(fn.sbdf)) === undefined)
      throw new BoardError(
        `function ${name} is on bus ${hexBus(busOf(fn.sbdf))}, which no host bridge of its segment serves`,
      );
  }
  const above = new Map<number, BoardFunction>();
  for (const fn of functions.filter(isBridge)) {
    const below = secondaryBusOf(fn);
    const key = segmentOf(fn.sbdf) * 256 + below;
    const other = above.get(key);
    if (below === 0) continue; // a port with no bus of its own in this board: nothing hangs below it
    if (other !== undefined)
      throw new BoardError(
        `bridges ${formatSbdf(other.sbdf)} and ${formatSbdf(fn.sbdf)} both lead to bus ${hexBus(below)}`,
      );
    above.set(key, fn);
  }
  for (const fn of functions) checkPath(fn, above, bridges);
}

/** Follows the bridges above a function up to its root bus. */
function checkPath(
  fn: BoardFunction,
  above: ReadonlyMap<number, BoardFunction>,
  bridges: readonly BoardBridge[],
): void {
  const segment = segmentOf(fn.sbdf);
  const root = bridgeServing(bridges, segment, busOf(fn.sbdf))!.busRange.first;
  let bus = busOf(fn.sbdf);
  for (let hops = 0; bus !== root; hops++) {
    const bridge = above.get(segment * 256 + bus);
    if (bridge === undefined || hops > 255)
      throw new BoardError(`function ${formatSbdf(fn.sbdf)} is on bus ${hexBus(bus)}, which hangs below no bridge`);
    bus = busOf(bridge.sbdf);
  }
}

function checkDump(fn: BoardFunction, name: string): void {
  const { config } = fn;
  if (![64, 256, 4096].includes(config.length))
    throw new BoardError(`function ${name} has ${config.length} bytes of configuration space, not 64, 256 or 4096`);
  const vendor = config[PCI.VENDOR_ID]! | (config[PCI.VENDOR_ID + 1]! << 8);
  if (vendor === 0xffff || vendor === 0)
    throw new BoardError(
      `function ${name} has no vendor id: the dump is empty or of a virtual function, which is not modelled`,
    );
  const type = config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK;
  if (type > PCI_HEADER_TYPE.BRIDGE)
    throw new BoardError(`function ${name} has header type ${type}; 0 and 1 are modelled`);
  let shapes: ReturnType<typeof barShapesOf>;
  try {
    shapes = barShapesOf(fn);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new BoardError(`function ${name}: ${error.message}`, { cause: error });
  }
  const msix = msixShapeOf(config);
  for (const bar of msix === undefined ? [] : [msix.tableBar, msix.pbaBar]) {
    if (!shapes.some((s) => s.index === bar && s.kind.startsWith('mem')))
      throw new BoardError(`function ${name} has its MSI-X structures in BAR ${bar}, which is no memory BAR`);
  }
  if (fn.model === 'dma-probe') {
    if (type === PCI_HEADER_TYPE.BRIDGE) throw new BoardError(`function ${name} is a bridge and cannot be a dma-probe`);
    if (registerBarOf(shapes, msix, DMA_PROBE_BYTES) === undefined)
      throw new BoardError(
        `function ${name} cannot be a dma-probe: no memory BAR has ${DMA_PROBE_BYTES} bytes free at its start`,
      );
  }
}

function phandleOf(node: FdtNode): number {
  return node.phandle ?? 0;
}

function firstRegion(node: FdtNode, bytesMin: number): BoardRegion {
  const region = node.regions()[0];
  if (region === undefined || region.sizeBytes < bytesMin)
    throw new BoardError(`${node.path} has no register block of 0x${bytesMin.toString(16)} bytes`);
  return regionOf(region);
}

function regionOf(region: { readonly address: number; readonly sizeBytes: number }): BoardRegion {
  return { pa: region.address, sizeBytes: region.sizeBytes };
}

function hexBus(bus: number): string {
  return bus.toString(16).padStart(2, '0');
}
