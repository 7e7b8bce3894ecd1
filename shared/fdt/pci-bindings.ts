/**
 * What a PCI host bridge node says: windows, buses, and how requester ids and pins reach SMMU, ITS and GIC
 * (IEEE 1275 PCI binding; Linux bindings pci-iommu.txt, pci-msi.txt; Devicetree Specification, "interrupt-map").
 */
import { FdtError, type FdtNode } from './node.ts';

export type PciSpace = 'config' | 'io' | 'mem32' | 'mem64';

/** One window of a bridge: PCI addresses from `pciBase` on appear to the CPU from `cpuBase` on. */
export interface PciRange {
  readonly space: PciSpace;
  readonly prefetchable: boolean;
  readonly pciBase: number;
  readonly cpuBase: number;
  readonly sizeBytes: number;
}

const SPACES = ['config', 'io', 'mem32', 'mem64'] as const;

/** `phys.hi` of a PCI address for use in `ranges` and `reg`: space [25:24], prefetch bit 30. */
export function pciPhysHi(space: PciSpace, prefetchable: boolean): number {
  return ((SPACES.indexOf(space) << 24) | (prefetchable ? 0x4000_0000 : 0)) >>> 0;
}

/** The `ranges` of a bridge, with CPU addresses as the CPU sees them. Throws FdtError. */
export function pciRanges(bridge: FdtNode): PciRange[] {
  const parentCells = bridge.parent?.addressCells ?? 2;
  const sizeCells = bridge.sizeCells;
  const each = 3 + parentCells + sizeCells;
  const cells = tuples(bridge, 'ranges', each);
  return cells.map((tuple) => {
    const hi = tuple[0]!;
    return {
      space: SPACES[(hi >>> 24) & 3]!,
      prefetchable: (hi & 0x4000_0000) !== 0,
      pciBase: bridge.joinCells('ranges', tuple, 1, 2),
      cpuBase: bridge.cpuAddress(bridge.joinCells('ranges', tuple, 3, parentCells)),
      sizeBytes: bridge.joinCells('ranges', tuple, 3 + parentCells, sizeCells),
    };
  });
}

/** `bus-range`; 0 to 255 when absent. Throws FdtError. */
export function busRange(bridge: FdtNode): { readonly first: number; readonly last: number } {
  const cells = bridge.cells('bus-range');
  if (cells.length === 0) return { first: 0, last: 255 };
  const [first, last] = cells;
  if (cells.length !== 2 || first! > last! || last! > 255)
    throw new FdtError(
      `device tree: bus-range of ${bridge.path} is <${cells.join(' ')}>, not two bus numbers in order`,
    );
  return { first: first!, last: last! };
}

/** Rows of `iommu-map` or `msi-map`, with the mask that is put on a requester id first. */
export interface RidMap {
  readonly mask: number;
  readonly rows: readonly RidMapRow[];
}

export interface RidMapRow {
  readonly ridBase: number;
  readonly phandle: number;
  readonly outBase: number;
  readonly length: number;
}

/** `iommu-map` or `msi-map` of a bridge; undefined when it has none. Throws FdtError. */
export function ridMap(bridge: FdtNode, name: 'iommu-map' | 'msi-map'): RidMap | undefined {
  if (!bridge.has(name)) return undefined;
  const mask = bridge.u32(`${name}-mask`) ?? 0xffff_ffff;
  const rows = tuples(bridge, name, 4).map(([ridBase, phandle, outBase, length]) => ({
    ridBase: ridBase!,
    phandle: phandle!,
    outBase: outBase!,
    length: length!,
  }));
  for (const row of rows) {
    if ((row.ridBase & ~mask) !== 0)
      throw new FdtError(
        `device tree: ${name} of ${bridge.path} starts a row at 0x${row.ridBase.toString(16)}, outside its mask 0x${mask.toString(16)}`,
      );
  }
  return { mask, rows };
}

/** What the first row that covers `rid` says: whose id, and which; undefined when no row does. */
export function lookupRid(map: RidMap, rid: number): { readonly phandle: number; readonly id: number } | undefined {
  const id = (rid & map.mask) >>> 0;
  for (const row of map.rows) {
    if (id >= row.ridBase && id < row.ridBase + row.length)
      return { phandle: row.phandle, id: id - row.ridBase + row.outBase };
  }
  return undefined;
}

/** The id of `rid` at the controller `phandle` (first row of that controller that covers it), or -1. */
export function lookupRidAt(map: RidMap, rid: number, phandle: number): number {
  const id = (rid & map.mask) >>> 0;
  for (const row of map.rows) {
    if (row.phandle === phandle && id >= row.ridBase && id < row.ridBase + row.length)
      return id - row.ridBase + row.outBase;
  }
  return -1;
}

/** `interrupt-map` of a bridge: legacy pins to inputs of an interrupt controller. */
export interface InterruptMap {
  /** Three cells for the address, one for the pin. */
  readonly mask: readonly number[];
  readonly rows: readonly {
    readonly match: readonly number[];
    readonly phandle: number;
    /** As many cells as the controller's `#interrupt-cells`; for a GIC: type, number, flags. */
    readonly specifier: readonly number[];
  }[];
}

/** `interrupt-map`; undefined when the bridge has none. Throws FdtError. */
export function interruptMap(bridge: FdtNode): InterruptMap | undefined {
  if (!bridge.has('interrupt-map')) return undefined;
  const cells = bridge.cells('interrupt-map');
  const own = 3 + (bridge.u32('#interrupt-cells') ?? 1);
  const masked = bridge.cells('interrupt-map-mask');
  const mask = masked.length === 0 ? new Array<number>(own).fill(0xffff_ffff) : masked;
  const rows: { match: number[]; phandle: number; specifier: number[] }[] = [];
  let at = 0;
  while (at < cells.length) {
    const phandle = cells[at + own];
    const controller = phandle === undefined ? undefined : bridge.byPhandle(phandle);
    if (phandle === undefined || controller === undefined)
      throw new FdtError(
        `device tree: interrupt-map of ${bridge.path} names no interrupt controller in cell ${at + own}`,
      );
    // The parent's unit address has no default width here: absent means none.
    const addressCells = controller.u32('#address-cells') ?? 0;
    const specifierCells = controller.u32('#interrupt-cells') ?? 1;
    const next = at + own + 1 + addressCells + specifierCells;
    if (next > cells.length) throw new FdtError(`device tree: interrupt-map of ${bridge.path} ends inside a row`);
    rows.push({
      match: cells.slice(at, at + own),
      phandle,
      specifier: cells.slice(next - specifierCells, next),
    });
    at = next;
  }
  return { mask, rows };
}

/** Where pin 1 to 4 of the function `devfn` on the root bus goes (first match), or undefined. */
export function lookupInterrupt(
  map: InterruptMap,
  devfn: number,
  pin: number,
): { readonly phandle: number; readonly specifier: readonly number[] } | undefined {
  const child = [devfn << 8, 0, 0, pin];
  const m = (cell: number | undefined, i: number): number => ((cell ?? 0) & (map.mask[i] ?? 0)) >>> 0;
  return map.rows.find((row) => row.match.every((cell, i) => m(cell, i) === m(child[i], i)));
}

/** Where pin `pin` of the device at `devfn` on the root bus goes: an SPI of a GIC, or -1 when nowhere known. */
export function lookupSpi(map: InterruptMap | undefined, devfn: number, pin: number): number {
  const found = map === undefined ? undefined : lookupInterrupt(map, devfn, pin);
  return spiOfSpecifier(found?.specifier)?.spi ?? -1;
}

/** Every SPI that the map leads to, once, in ascending order, and whether it is an edge. */
export function spisOf(map: InterruptMap): { readonly spi: number; readonly isEdge: boolean }[] {
  const found = new Map<number, boolean>();
  for (const { specifier } of map.rows) {
    const { spi, isEdge } = spiOfSpecifier(specifier) ?? { spi: -1, isEdge: false };
    if (spi >= 0 && !found.has(spi)) found.set(spi, isEdge);
  }
  return [...found].map(([spi, isEdge]) => ({ spi, isEdge })).sort((a, b) => a.spi - b.spi);
}

/** What a specifier of a GIC says (Linux bindings, arm,gic-v3): kind (0 is an SPI), number, trigger (1 rising, 2 falling edge). */
function spiOfSpecifier(specifier: readonly number[] | undefined): { spi: number; isEdge: boolean } | undefined {
  const [kind, number, trigger] = specifier ?? [];
  if (kind !== 0 || number === undefined || trigger === undefined) return undefined;
  return { spi: number, isEdge: (trigger & 3) !== 0 };
}

function tuples(node: FdtNode, name: string, each: number): number[][] {
  const cells = node.cells(name);
  if (cells.length % each !== 0)
    throw new FdtError(`device tree: ${name} of ${node.path} is ${cells.length} cells long, not a multiple of ${each}`);
  return Array.from({ length: cells.length / each }, (_, i) => cells.slice(i * each, (i + 1) * each));
}
