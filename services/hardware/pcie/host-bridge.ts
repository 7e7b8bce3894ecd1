/**
 * A host bridge: the root of one PCI hierarchy. It turns CPU accesses to its ECAM and memory windows into requests on
 * its root bus, and requests of its functions into DMA at the SMMU, under the ids that the device tree gives them.
 * Not modelled: I/O ports; the I/O window reads as all ones and drops writes.
 * Not modelled: peer-to-peer through the root complex; a device's request that comes back to a window or to ECAM is
 * not claimed: it reads all ones and writes nothing. So no device can drive another's registers, or its own.
 * A requester that `iommu-map` does not cover has no way to memory: its DMA is aborted.
 */
import { lookupRid, lookupRidAt } from '#shared/fdt/pci-bindings.ts';
import type { BoardBridge } from '../board.ts';
import { allOnes, type DmaTranslator, type MmioTarget, type Requester } from '../bus/transaction.ts';
import { Bridge } from './bridge.ts';
import { EcamWindow } from './ecam.ts';
import { PciBus } from './pci-bus.ts';
import type { PciFunction, UpstreamPort } from './pci-function.ts';

export interface HostWindow {
  readonly space: 'io' | 'mem32' | 'mem64';
  readonly cpuBase: number;
  readonly pciBase: number;
  readonly sizeBytes: number;
  readonly target: MmioTarget;
}

export class HostBridge implements UpstreamPort {
  readonly board: BoardBridge;
  readonly root = new PciBus();
  /** For the physical bus, at `board.ecam`. */
  readonly ecamTarget: MmioTarget;
  /** For the physical bus, each at its `cpuBase`. */
  readonly windows: readonly HostWindow[];
  readonly #ecam: EcamWindow;
  readonly #translator: DmaTranslator;
  readonly #requesters = new Map<number, Requester>();
  readonly #counts = { dmaReads: 0, dmaWrites: 0, dmaBytes: 0, dmaAborts: 0 };

  constructor(board: BoardBridge, translator: DmaTranslator) {
    this.board = board;
    this.#translator = translator;
    this.#ecam = new EcamWindow(`${board.path} ECAM`, board.busRange.first, (bus, devfn) => this.find(bus, devfn));
    this.ecamTarget = this.#ecam;
    this.windows = board.ranges.flatMap((range) => {
      const { space, cpuBase, pciBase, sizeBytes } = range;
      if (space === 'config') return [];
      return [{ space, cpuBase, pciBase, sizeBytes, target: this.#windowTarget(space, pciBase) }];
    });
  }

  /** The function that a configuration request for this bus number reaches now, or undefined. */
  find(bus: number, devfn: number): PciFunction | undefined {
    const { first, last } = this.board.busRange;
    if (bus === first) return this.root.at(devfn);
    if (bus > last) return undefined;
    for (const fn of this.root.functions()) {
      const found = fn instanceof Bridge ? fn.find(bus, devfn) : undefined;
      if (found !== undefined) return found;
    }
    return undefined;
  }

  dmaRead(rid: number, iova: number, into: Uint8Array): number {
    const requester = this.requester(rid);
    const done = requester.streamId < 0 ? 0 : this.#translator.dmaRead(requester, iova, into);
    this.#counts.dmaReads++;
    this.#count(done, into.length);
    return done;
  }

  dmaWrite(rid: number, iova: number, from: Uint8Array): number {
    const requester = this.requester(rid);
    const done = requester.streamId < 0 ? 0 : this.#translator.dmaWrite(requester, iova, from);
    this.#counts.dmaWrites++;
    this.#count(done, from.length);
    return done;
  }

  /** The ids under which SMMU and ITSs know a requester id of this bridge. */
  requester(rid: number): Requester {
    let known = this.#requesters.get(rid);
    if (known === undefined) {
      const { iommuMap, msiMap } = this.board;
      known = {
        rid,
        streamId: lookupRid(iommuMap, rid)?.id ?? -1,
        deviceIdAt: (itsPhandle) => (msiMap === undefined ? -1 : lookupRidAt(msiMap, rid, itsPhandle)),
      };
      this.#requesters.set(rid, known);
    }
    return known;
  }

  inspect(): unknown {
    return {
      path: this.board.path,
      segment: this.board.segment,
      configReads: this.#ecam.reads,
      configWrites: this.#ecam.writes,
      ...this.#counts,
      functions: [...this.root.functions()].map((fn) => fn.inspect()),
    };
  }

  #count(done: number, asked: number): void {
    this.#counts.dmaBytes += done;
    if (done < asked) this.#counts.dmaAborts++;
  }

  #windowTarget(space: 'io' | 'mem32' | 'mem64', pciBase: number): MmioTarget {
    const name = `${this.board.path} ${space} window`;
    if (space === 'io') return { name, read: (_offset, size) => allOnes(size), write: () => {} };
    const { root } = this;
    return {
      name,
      read: (offset, size, requester) => {
        if (requester !== undefined) return allOnes(size);
        const value = root.memoryRead(pciBase + offset, size);
        return value < 0 ? allOnes(size) : value;
      },
      write: (offset, size, value, requester) => {
        if (requester === undefined) root.memoryWrite(pciBase + offset, size, value);
      },
    };
  }
}
