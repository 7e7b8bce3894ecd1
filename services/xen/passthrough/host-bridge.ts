/**
 * Host bridges of the machine and their configuration space (T2, T3; xen/arch/arm/pci). A driver is chosen by the
 * `compatible` of the bridge's node; dom0 then binds its segment number to the bridge that has that configuration window.
 * Xen's own accesses go through ECAM like anybody's: reads of nothing are all ones, writes to nothing are dropped.
 * Drivers: ECAM, generic or a ThunderX's, and ThunderX PEM (shared/fdt/pci-host.ts). PEM registers write whole dwords: a
 * 16-bit write to Device Control of a PEM's root port also clears what Device Status beside it had recorded.
 * Not modelled: other bridges; such a node is not registered, and PHYSDEVOP_pci_host_bridge_add for its window gives
 * ENODEV.
 * Deviates: a read on a segment that nobody serves gives all ones, as the thread has it (T2); current Xen gives 0.
 */
import { SPI_FIRST } from '#shared/arch/gic/distributor.ts';
import { PEM_CFG_RD, PEM_CFG_WR, PEM_ROOT_PORT_BYTES, pemMerged } from '#shared/arch/pci/thunder-pem.ts';
import type { Op } from '#shared/core/op.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { busRange, interruptMap, lookupRid, type RidMap, spisOf } from '#shared/fdt/pci-bindings.ts';
import {
  deviceIdMap,
  PCI_HOST_BUS_SHIFT,
  type PciHostDriver,
  pciHostDriver,
  pciHostNodes,
  streamMap,
} from '#shared/fdt/pci-host.ts';
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
  /** Registers of a PEM, and how many bytes there are of them. */
  readonly pem: { readonly address: number; readonly sizeBytes: number } | undefined;
  readonly firstBus: number;
  readonly lastBus: number;
  readonly ops: HostBridgeOps;
  readonly iommuMap: RidMap | undefined;
  readonly msiMap: RidMap | undefined;
  /** SPIs that `interrupt-map` leads its pins to. */
  readonly intxSpis: readonly { readonly intid: number; readonly isEdge: boolean }[];
  /** Undefined until dom0 bound it. */
  segment: number | undefined;
}

export class HostBridges {
  readonly #el2: El2;
  readonly #bridges: HostBridge[] = [];

  constructor(el2: El2) {
    this.#el2 = el2;
  }

  /** Registers a driver for each bridge of the tree that has one. Throws FdtError. */
  probe(tree: FdtNode): void {
    const drivers: Record<PciHostDriver, HostBridgeOps> = {
      ecam: this.#ecam(PCI_HOST_BUS_SHIFT.ecam),
      'thunder-ecam': this.#ecam(PCI_HOST_BUS_SHIFT['thunder-ecam']),
      'thunder-pem': this.#pem(),
    };
    for (const node of pciHostNodes(tree)) {
      const driver = pciHostDriver(node);
      const [window, registers] = node.regions();
      if (driver === undefined || window === undefined) continue;
      const buses = busRange(node);
      this.#bridges.push({
        path: node.path,
        cfgBase: window.address,
        cfgSize: window.sizeBytes,
        pem: driver === 'thunder-pem' ? registers : undefined,
        firstBus: buses.first,
        lastBus: buses.last,
        ops: drivers[driver],
        iommuMap: streamMap(node),
        msiMap: deviceIdMap(node),
        intxSpis: intxSpisOf(node),
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
    const map = this.find(segmentOf(sbdf), busOf(sbdf))?.msiMap;
    return map === undefined ? undefined : lookupRid(map, ridOf(sbdf));
  }

  inspect(): unknown {
    return this.#bridges.map((b) => ({ path: b.path, segment: b.segment ?? null, cfgBase: b.cfgBase }));
  }

  /** From the first bus on, 2^busShift bytes a bus and a 256th of them a function. */
  #ecam(busShift: number): HostBridgeOps {
    const el2 = this.#el2;
    const address = (bridge: HostBridge, bus: number, devfn: number, reg: number, bytes: number): number => {
      const offset = (bus - bridge.firstBus) * 2 ** busShift + devfn * 2 ** (busShift - 8) + reg;
      const fits = reg >= 0 && reg + bytes <= 4096 && reg % bytes === 0 && offset + bytes <= bridge.cfgSize;
      return fits ? bridge.cfgBase + offset : -1;
    };
    return {
      *pciConfRead(bridge, bus, devfn, reg, bytes) {
        const pa = address(bridge, bus, devfn, reg, bytes);
        if (pa < 0) return allOnes(bytes);
        try {
          return numberOf(yield* el2.read(pa, bytes));
        } catch (error) {
          if (error instanceof El2Fault) return allOnes(bytes);
          throw error;
        }
      },
      *pciConfWrite(bridge, bus, devfn, reg, bytes, value) {
        const pa = address(bridge, bus, devfn, reg, bytes);
        if (pa >= 0) yield* el2.write(pa, words(value).subarray(0, bytes));
      },
    };
  }

  /** A window for what is below the root port, and registers for the root port itself, on the first bus. */
  #pem(): HostBridgeOps {
    const el2 = this.#el2;
    const below = this.#ecam(PCI_HOST_BUS_SHIFT['thunder-pem']);
    /** Where the registers for this function are; -1: nobody answers there. */
    const registers = ({ pem }: HostBridge, devfn: number, reg: number): number =>
      pem !== undefined && devfn === 0 && reg >= 0 && reg < PEM_ROOT_PORT_BYTES ? pem.address : -1;
    const rootRead = function* (pem: number, reg: number): Op<number> {
      yield* el2.write(pem + PEM_CFG_RD, words(reg & ~3, 0));
      return numberOf((yield* el2.read(pem + PEM_CFG_RD, 8)).subarray(4));
    };
    return {
      *pciConfRead(bridge, bus, devfn, reg, bytes) {
        if (bus !== bridge.firstBus) return yield* below.pciConfRead(bridge, bus, devfn, reg, bytes);
        const pem = registers(bridge, devfn, reg);
        if (pem < 0) return allOnes(bytes);
        const whole = yield* rootRead(pem, reg);
        return ((whole >>> ((reg & 3) * 8)) & allOnes(bytes)) >>> 0;
      },
      *pciConfWrite(bridge, bus, devfn, reg, bytes, value) {
        if (bus !== bridge.firstBus) return yield* below.pciConfWrite(bridge, bus, devfn, reg, bytes, value);
        const pem = registers(bridge, devfn, reg);
        if (pem < 0) return;
        const whole = bytes === 4 ? 0 : yield* rootRead(pem, reg);
        yield* el2.write(pem + PEM_CFG_WR, words(reg & ~3, pemMerged(whole, reg, bytes, value)));
      },
    };
  }
}

function intxSpisOf(node: FdtNode): { intid: number; isEdge: boolean }[] {
  const map = interruptMap(node);
  return map === undefined ? [] : spisOf(map).map(({ spi, isEdge }) => ({ intid: SPI_FIRST + spi, isEdge }));
}

function numberOf(data: Uint8Array): number {
  return data.reduceRight((value, byte) => value * 256 + byte, 0);
}

function words(...values: readonly number[]): Uint8Array {
  const data = new Uint8Array(values.length * 4);
  const view = new DataView(data.buffer);
  values.forEach((value, i) => {
    view.setUint32(i * 4, value >>> 0, true);
  });
  return data;
}

function busesOverlap(a: HostBridge, b: HostBridge): boolean {
  return a.firstBus <= b.lastBus && b.firstBus <= a.lastBus;
}

function allOnes(bytes: number): number {
  return 2 ** (8 * bytes) - 1;
}
