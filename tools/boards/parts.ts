/**
 * Nodes that every board of ours has: root, CPUs, GICv3 with ITSs or GICv2, PCI host bridges (Devicetree Specification; Linux
 * bindings arm,gic-v3, host-generic-pci). Phandles are given out in order, so that a tree comes out alike each time.
 */
import { cellsOf, FdtNode } from '#shared/fdt/node.ts';
import { type PciSpace, pciPhysHi } from '#shared/fdt/pci-bindings.ts';

export const SPI = 0;
const PPI = 1;
export const EDGE_RISING = 1;
export const LEVEL_HIGH = 4;

export interface Region {
  readonly address: number;
  readonly sizeBytes: number;
}

/** Gives out phandles from 1. */
export class Phandles {
  #next = 1;

  /** Gives `node` the next one. */
  to(node: FdtNode): number {
    const phandle = this.#next++;
    node.setCells('phandle', phandle);
    return phandle;
  }
}

/** A root with firmware's power interface and the architected timers; `gic` is the phandle of the GIC. */
export function rootNode(model: string, compatible: string, gic: number): FdtNode {
  const root = new FdtNode()
    .setStrings('model', model)
    .setStrings('compatible', compatible)
    .setCells('#address-cells', 2)
    .setCells('#size-cells', 2)
    .setCells('interrupt-parent', gic);
  root.addChild('chosen').setStrings('bootargs', '');
  root.addChild('psci').setStrings('compatible', 'arm,psci-1.0', 'arm,psci-0.2').setStrings('method', 'smc');
  root
    .addChild('timer')
    .setStrings('compatible', 'arm,armv8-timer')
    .setCells('interrupts', ...[13, 14, 11, 10].flatMap((ppi) => [PPI, ppi, LEVEL_HIGH]));
  return root;
}

function setNuma(node: FdtNode, numa: number | undefined): void {
  if (numa !== undefined) node.setCells('numa-node-id', numa);
}

/** CPUs by MPIDR affinity, each with the NUMA node it belongs to. */
export function addCpus(root: FdtNode, compatible: string, cpus: readonly { mpidr: number; numa?: number }[]): void {
  const parent = root.addChild('cpus').setCells('#address-cells', 2).setCells('#size-cells', 0);
  for (const { mpidr, numa } of cpus) {
    const cpu = parent
      .addChild(`cpu@${mpidr.toString(16)}`)
      .setStrings('device_type', 'cpu')
      .setStrings('compatible', compatible)
      .setU64('reg', mpidr)
      .setStrings('enable-method', 'psci');
    setNuma(cpu, numa);
  }
}

export function addMemory(root: FdtNode, bank: Region, numa?: number): void {
  const memory = root
    .addChild(`memory@${bank.address.toString(16)}`)
    .setStrings('device_type', 'memory')
    .setReg(bank);
  setNuma(memory, numa);
}

/** GICD, then one region of redistributors for each node. */
export function addGic(root: FdtNode, phandle: number, gicd: Region, gicr: readonly Region[]): FdtNode {
  return root
    .addChild(`interrupt-controller@${gicd.address.toString(16)}`)
    .setStrings('compatible', 'arm,gic-v3')
    .setFlag('interrupt-controller')
    .setCells('#interrupt-cells', 3)
    .setCells('#address-cells', 2)
    .setCells('#size-cells', 2)
    .setFlag('ranges')
    .setCells('#redistributor-regions', gicr.length)
    .setReg(gicd, ...gicr)
    .setCells('interrupts', PPI, 9, LEVEL_HIGH)
    .setCells('phandle', phandle);
}

/** GICD, GICC, GICH and GICV of a GICv2. */
export function addGicV2(root: FdtNode, phandle: number, regions: readonly [Region, Region, Region, Region]): FdtNode {
  return root
    .addChild(`interrupt-controller@${regions[0].address.toString(16)}`)
    .setStrings('compatible', 'arm,gic-400', 'arm,cortex-a15-gic')
    .setFlag('interrupt-controller')
    .setCells('#interrupt-cells', 3)
    .setCells('#address-cells', 2)
    .setCells('#size-cells', 2)
    .setFlag('ranges')
    .setReg(...regions)
    .setCells('interrupts', PPI, 9, LEVEL_HIGH)
    .setCells('phandle', phandle);
}

export function addIts(gic: FdtNode, registers: Region, numa: number, phandles: Phandles): number {
  const its = gic
    .addChild(`msi-controller@${registers.address.toString(16)}`)
    .setStrings('compatible', 'arm,gic-v3-its')
    .setFlag('msi-controller')
    .setCells('#msi-cells', 1)
    .setReg(registers)
    .setCells('numa-node-id', numa);
  return phandles.to(its);
}

export interface PciWindow {
  readonly space: PciSpace;
  readonly prefetchable?: boolean;
  readonly pciBase: number;
  readonly cpuBase: number;
  readonly sizeBytes: number;
}

/** First id, phandle, first id there, how many. */
export type MapRow = readonly [number, number, number, number];

export interface PciHost {
  readonly compatible: readonly string[];
  /** Configuration window, then a PEM's registers. */
  readonly registers: readonly Region[];
  readonly segment: number;
  readonly buses: readonly [number, number];
  readonly numa?: number;
  readonly windows: readonly PciWindow[];
  readonly iommuMap: readonly MapRow[];
  readonly msiMap?: readonly MapRow[];
  /** SPI of pin A; B, C and D follow. */
  readonly intx?: { readonly gic: number; readonly firstSpi: number };
}

export function addPciHost(root: FdtNode, host: PciHost): void {
  const node = root
    .addChild(`pcie@${host.registers[0]!.address.toString(16)}`)
    .setStrings('compatible', ...host.compatible)
    .setStrings('device_type', 'pci')
    .setCells('#address-cells', 3)
    .setCells('#size-cells', 2)
    .setReg(...host.registers)
    .setCells('linux,pci-domain', host.segment)
    .setCells('bus-range', ...host.buses);
  setNuma(node, host.numa);
  node
    .setFlag('dma-coherent')
    .setCells(
      'ranges',
      ...host.windows.flatMap((w) => [
        pciPhysHi(w.space, w.prefetchable ?? false),
        ...cellsOf(w.pciBase, 2),
        ...cellsOf(w.cpuBase, 2),
        ...cellsOf(w.sizeBytes, 2),
      ]),
    )
    .setCells('iommu-map', ...host.iommuMap.flat());
  if (host.msiMap !== undefined) node.setCells('msi-map', ...host.msiMap.flat());
  const { intx } = host;
  if (intx === undefined) return;
  node
    .setCells('#interrupt-cells', 1)
    .setCells('interrupt-map-mask', 0, 0, 0, 7)
    .setCells(
      'interrupt-map',
      // The two cells of the GIC's unit address stand before its specifier.
      ...[1, 2, 3, 4].flatMap((pin) => [0, 0, 0, pin, intx.gic, 0, 0, SPI, intx.firstSpi + pin - 1, LEVEL_HIGH]),
    );
}

/** Distances between nodes by position; 10 is local. */
export function addDistances(root: FdtNode, distances: readonly (readonly number[])[]): void {
  const cells = distances.flatMap((row, from) => row.flatMap((distance, to) => [from, to, distance]));
  root
    .addChild('distance-map')
    .setStrings('compatible', 'numa-distance-map-v1')
    .setCells('distance-matrix', ...cells);
}
