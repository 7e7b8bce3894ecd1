/** The parts list of a machine as its device tree gives it (`readBoardTree`, tree/read.ts): numbers and names only. */
import type { FdtNode } from '../fdt/node.ts';
import type { InterruptMap, PciRange, RidMap } from '../fdt/pci-bindings.ts';
import type { PciHostDriver } from '../fdt/pci-host.ts';

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
  readonly numaNode: number | undefined;
}

interface BoardAnyGic {
  readonly path: string;
  readonly phandle: number;
  readonly distributor: BoardRegion;
}

/** It takes wired interrupts only. */
export interface BoardGicV2 extends BoardAnyGic {
  readonly version: 2;
  /** Where each CPU finds its CPU interface. */
  readonly cpuInterface: BoardRegion;
  /** `arm,gic-v2m-frame` children: each would make SPIs of messages. They are not modelled. */
  readonly v2mFrames: readonly { readonly path: string; readonly registers: BoardRegion }[];
  readonly its: readonly [];
}

export interface BoardGicV3 extends BoardAnyGic {
  readonly version: 3;
  readonly redistributors: readonly BoardRegion[];
  /** `redistributor-stride` when the tree gives one; else frames follow one another. */
  readonly redistributorStride: number | undefined;
  /** None on a board that may be without MSI. */
  readonly its: readonly BoardIts[];
}

export type BoardGic = BoardGicV2 | BoardGicV3;

/** For who can do with nothing else. Throws BoardError. */
export function requireGicv3(gic: BoardGic): BoardGicV3 {
  if (gic.version === 3) return gic;
  throw new BoardError(`${gic.path} is a GICv${gic.version}, and a GICv3 is needed here`);
}

interface BoardAnySmmu {
  readonly path: string;
  /** What maps call it: its phandle, or a number of its own when the tree gives it none (shared/fdt/pci-host.ts). */
  readonly phandle: number;
  readonly registers: BoardRegion;
  readonly numaNode: number | undefined;
  /** Its table walks snoop caches. */
  readonly dmaCoherent: boolean;
}

export interface BoardSmmuV3 extends BoardAnySmmu {
  readonly kind: 'v3';
  /** SPI numbers (INTID - 32) of the wired interrupts that the tree names; all alike for a `combined` one. */
  readonly spis: {
    readonly eventq: number | undefined;
    readonly gerror: number | undefined;
    readonly cmdqSync: number | undefined;
    readonly priq: number | undefined;
  };
  /** `msi-parent`: the ITS that takes interrupts which are writes of the SMMU, and its DeviceID there. */
  readonly msiParent: { readonly phandle: number; readonly deviceId: number } | undefined;
}

export type Smmuv2Implementation = 'smmu-v1' | 'smmu-v2' | 'mmu-400' | 'mmu-401' | 'mmu-500' | 'cavium-smmu-v2';

export interface BoardSmmuV2 extends BoardAnySmmu {
  readonly kind: 'v2';
  readonly implementation: Smmuv2Implementation;
  /** SPI numbers: `#global-interrupts` for global faults, then one for each context bank; undefined for one not wired to the GIC. */
  readonly globalSpis: readonly (number | undefined)[];
  readonly contextSpis: readonly (number | undefined)[];
  /** `stream-match-mask`: bits that no stream match may look at; 0 when absent. */
  readonly streamMatchMask: number;
  /** `#iommu-cells`; 1 when absent. */
  readonly iommuCells: number;
}

export type BoardSmmu = BoardSmmuV3 | BoardSmmuV2;

export interface BoardBridge {
  readonly path: string;
  readonly segment: number;
  /** How its configuration space is reached. */
  readonly driver: PciHostDriver;
  /** The configuration window: `busRange.first` starts at its first byte. */
  readonly ecam: BoardRegion;
  /** 20, or 24 for a PEM; device and function stand 8 bits lower. */
  readonly busShift: number;
  /** Registers of a PEM, through which its root port is configured. */
  readonly pem: BoardRegion | undefined;
  readonly busRange: { readonly first: number; readonly last: number };
  /** `ranges`, without the pieces where another part of the board stands. */
  readonly ranges: readonly PciRange[];
  /** The SMMU of the first row of `iommuMap`, 0 when there is none. */
  readonly smmuPhandle: number;
  /** Every SMMU that stands in front of it. */
  readonly smmuPhandles: readonly number[];
  /** No rows: no SMMU is in the way of its DMA. */
  readonly iommuMap: RidMap;
  /** Undefined when no MSI of this bridge reaches an ITS. */
  readonly msiMap: RidMap | undefined;
  readonly interruptMap: InterruptMap | undefined;
  readonly numaNode: number | undefined;
  readonly dmaCoherent: boolean;
}

/** A host bridge of the tree that is not modelled, and why. */
export interface LeftOutBridge {
  readonly path: string;
  readonly compatible: string;
  readonly why: string;
}

export interface NumaNode {
  readonly id: number;
  readonly memory: readonly BoardRegion[];
  /** Indices of its CPUs in `Board.mpidrs`. */
  readonly cpus: readonly number[];
}

export interface BoardNuma {
  /** By id. */
  readonly nodes: readonly NumaNode[];
  /** From node to node by position in `nodes`: 10 is local (numa-distance-map-v1). */
  readonly distances: readonly (readonly number[])[];
}

/** What a device tree says that there is. */
export interface BoardTree {
  readonly dtb: Uint8Array;
  readonly tree: FdtNode;
  readonly memory: readonly BoardRegion[];
  /** How many CPUs there are, and the affinity (`reg`) of each. */
  readonly cpus: number;
  readonly mpidrs: readonly number[];
  readonly gic: BoardGic;
  /** The same as `gic.its`. */
  readonly itses: readonly BoardIts[];
  readonly smmus: readonly BoardSmmu[];
  readonly bridges: readonly BoardBridge[];
  readonly leftOut: readonly LeftOutBridge[];
  /** Undefined when the tree speaks of no NUMA nodes. */
  readonly numa: BoardNuma | undefined;
}
