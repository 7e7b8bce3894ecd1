/**
 * Host bridges of the machine and their configuration space (T2, T3; xen/arch/arm/pci). A driver is chosen by the
 * `compatible` of the bridge's node; dom0 then binds its segment number to the bridge that has that configuration window.
 * Xen's own accesses go through ECAM like anybody's: reads of nothing are all ones, writes to nothing are dropped.
 * Not modelled: bridges with a child window, and drivers other than the generic ECAM one; such a node is not registered,
 * and PHYSDEVOP_pci_host_bridge_add for its window gives ENODEV.
 * Deviates: a read on a segment that nobody serves gives all ones, as the thread has it (T2); current Xen gives 0.
 */
import type { Op } from '#shared/core/op.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { busRange, lookupRid, type RidMap, ridMap } from '#shared/fdt/pci-bindings.ts';
import { busOf, devfnOf, ridOf, type Sbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { type El2, El2Fault } from '../el2.ts';
import { check } from '../error.ts';

/** Who translates or delivers for a requester id, by device tree phandle, and the id it has there. */
export interface MappedId {
  readonly phandle: number;
  readonly id: number;
}

/** pci_hostbridge_ops: `reg` is a byte offset below 4096, `bytes` 1, 2 or 4, aligned. */
interface HostBridgeOps {
  pciConfRead(bridge: HostBridge, bus: number, devfn: number, reg: number, bytes: number): Op<number>;
  pciConfWrite(bridge: HostBridge, bus: number, devfn: number, reg: number, bytes: number, value: number): Op<void>;
}

/** pci_hostbridge. */
export interface HostBridge {
  readonly path: string;
  readonly cfgBase: number;
  readonly cfgSize: number;
  readonly firstBus: number;
  readonly lastBus: number;
  readonly ops: HostBridgeOps;
  readonly iommuMap: RidMap | undefined;
  readonly msiMap: RidMap | undefined;
  /** `msi-parent`, which counts without an msi-map: DeviceID is the requester id. */
  readonly msiParent: number | undefined;
  /** Undefined until dom0 bound it. */
  segment: number | undefined;
}

const ECAM_BYTES_PER_BUS = 0x10_0000;

export class HostBridges {
  readonly #el2: El2;
  readonly #bridges: HostBridge[] = [];

  constructor(el2: El2) {
    this.#el2 = el2;
  }

  /** Registers a driver for each bridge of the tree that has one. Throws FdtError. */
  probe(tree: FdtNode): void {
    const drivers: Record<string, HostBridgeOps> = { 'pci-host-ecam-generic': this.#ecam() };
    for (const node of tree.compatibleNodes(...Object.keys(drivers))) {
      const ops = node
        .strings('compatible')
        .map((name) => drivers[name])
        .find((o) => o !== undefined)!;
      const window = node.regions()[0];
      if (window === undefined) continue;
      const buses = busRange(node);
      this.#bridges.push({
        path: node.path,
        cfgBase: window.address,
        cfgSize: window.sizeBytes,
        firstBus: buses.first,
        lastBus: buses.last,
        ops,
        iommuMap: ridMap(node, 'iommu-map'),
        msiMap: ridMap(node, 'msi-map'),
        msiParent: node.cells('msi-parent')[0],
        segment: undefined,
      });
    }
  }

  get all(): readonly HostBridge[] {
    return this.#bridges;
  }

  /**
   * PHYSDEVOP_pci_host_bridge_add. Binding a bridge again to its own segment is allowed (dom0 restarts). Throws XenError:
   * ENODEV when no bridge has that window, EBUSY when it serves another segment or another bridge serves this one.
   */
  bind(segment: number, cfgBase: number, cfgSize: number): void {
    const bridge = this.#bridges.find((b) => b.cfgBase === cfgBase && b.cfgSize === cfgSize);
    check(bridge !== undefined, 'ENODEV', `no host bridge has its configuration space at 0x${cfgBase.toString(16)}`);
    if (bridge.segment === segment) return;
    check(bridge.segment === undefined, 'EBUSY', `${bridge.path} serves segment ${bridge.segment}`);
    const other = this.#bridges.find((b) => b.segment === segment && busesOverlap(b, bridge));
    check(other === undefined, 'EBUSY', `segment ${segment} is served by ${other?.path}`);
    bridge.segment = segment;
  }

  /** The bridge that serves a bus of a segment. */
  find(segment: number, bus: number): HostBridge | undefined {
    return this.#bridges.find((b) => b.segment === segment && bus >= b.firstBus && bus <= b.lastBus);
  }

  /** All ones when nobody serves the segment, or nothing answers. */
  *confRead(sbdf: Sbdf, reg: number, bytes: number): Op<number> {
    const bridge = this.find(segmentOf(sbdf), busOf(sbdf));
    if (bridge === undefined) return allOnes(bytes);
    return yield* bridge.ops.pciConfRead(bridge, busOf(sbdf), devfnOf(sbdf), reg, bytes);
  }

  /** Dropped when nobody serves the segment. */
  *confWrite(sbdf: Sbdf, reg: number, bytes: number, value: number): Op<void> {
    const bridge = this.find(segmentOf(sbdf), busOf(sbdf));
    if (bridge !== undefined) yield* bridge.ops.pciConfWrite(bridge, busOf(sbdf), devfnOf(sbdf), reg, bytes, value);
  }

  /** SMMU and StreamID of a function by `iommu-map`; undefined when its bridge is not known or no row covers it. */
  streamOf(sbdf: Sbdf): MappedId | undefined {
    const map = this.find(segmentOf(sbdf), busOf(sbdf))?.iommuMap;
    return map === undefined ? undefined : lookupRid(map, ridOf(sbdf));
  }

  /** ITS and DeviceID of a function: `msi-map`, or `msi-parent` with the requester id itself. */
  msiOf(sbdf: Sbdf): MappedId | undefined {
    const bridge = this.find(segmentOf(sbdf), busOf(sbdf));
    if (bridge?.msiMap !== undefined) return lookupRid(bridge.msiMap, ridOf(sbdf));
    return bridge?.msiParent === undefined ? undefined : { phandle: bridge.msiParent, id: ridOf(sbdf) };
  }

  inspect(): unknown {
    return this.#bridges.map((b) => ({ path: b.path, segment: b.segment ?? null, cfgBase: b.cfgBase }));
  }

  /** `pci-host-ecam-generic`: 1 MiB a bus, 4 KiB a function, from the first bus on. */
  #ecam(): HostBridgeOps {
    const el2 = this.#el2;
    const address = (bridge: HostBridge, bus: number, devfn: number, reg: number, bytes: number): number => {
      const offset = (bus - bridge.firstBus) * ECAM_BYTES_PER_BUS + devfn * 4096 + reg;
      const fits = reg >= 0 && reg + bytes <= 4096 && reg % bytes === 0 && offset + bytes <= bridge.cfgSize;
      return fits ? bridge.cfgBase + offset : -1;
    };
    return {
      *pciConfRead(bridge, bus, devfn, reg, bytes) {
        const pa = address(bridge, bus, devfn, reg, bytes);
        if (pa < 0) return allOnes(bytes);
        try {
          const data = yield* el2.read(pa, bytes);
          return data.reduceRight((value, byte) => value * 256 + byte, 0);
        } catch (error) {
          if (error instanceof El2Fault) return allOnes(bytes);
          throw error;
        }
      },
      *pciConfWrite(bridge, bus, devfn, reg, bytes, value) {
        const pa = address(bridge, bus, devfn, reg, bytes);
        if (pa < 0) return;
        const data = new Uint8Array(4);
        new DataView(data.buffer).setUint32(0, value >>> 0, true);
        yield* el2.write(pa, data.subarray(0, bytes));
      },
    };
  }
}

function busesOverlap(a: HostBridge, b: HostBridge): boolean {
  return a.firstBus <= b.lastBus && b.firstBus <= a.lastBus;
}

function allOnes(bytes: number): number {
  return 2 ** (8 * bytes) - 1;
}
