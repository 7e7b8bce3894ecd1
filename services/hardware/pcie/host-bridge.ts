/**
 * A host bridge: the root of one PCI hierarchy. It turns CPU accesses to its ECAM and memory windows into requests on
 * its root bus, requests of its functions into DMA at the SMMU, under the ids that the device tree gives them, and
 * pins into inputs of the interrupt controller, as `interrupt-map` says.
 * Requests between root ports go through the SMMU like all others: what it lets through to a window of this or another
 * bridge reaches the function there. No device reaches configuration space.
 * A requester that `iommu-map` does not cover has no way to memory: its DMA is aborted.
 * Not modelled: I/O ports; the I/O window reads as all ones and drops writes.
 * Not modelled: ATS; a translation request, or a request that says it is translated, is aborted here without an event
 * at the SMMU.
 */
import { lookupRid, lookupRidAt, lookupSpi } from '#shared/fdt/pci-bindings.ts';
import type { BoardBridge } from '../board.ts';
import { allOnes, type DmaTranslator, type MmioTarget, type Requester, type Scheduler } from '../bus/transaction.ts';
import type { Saved } from '../state/saved.ts';
import { Bridge } from './bridge.ts';
import { EcamWindow } from './ecam.ts';
import { type IntxSink, WiredOr } from './intx.ts';
import { PciBus, type UpstreamPort } from './pci-bus.ts';
import type { PciFunction } from './pci-function.ts';
import { ADDRESS_TYPE, COMPLETION, type Route } from './route.ts';
import { PemConfigWindow, PemRegisters } from './thunder-pem.ts';

export interface HostWindow {
  readonly space: 'io' | 'mem32' | 'mem64';
  readonly cpuBase: number;
  readonly pciBase: number;
  readonly sizeBytes: number;
  readonly target: MmioTarget;
}

interface Counts {
  dmaReads: number;
  dmaWrites: number;
  dmaBytes: number;
  dmaAborts: number;
  /** CPU and device accesses to a window that nobody below answered. */
  unclaimedReads: number;
  unclaimedWrites: number;
}

export class HostBridge implements UpstreamPort, Saved {
  readonly board: BoardBridge;
  readonly root: PciBus;
  /** For the physical bus, at `board.ecam`. */
  readonly ecamTarget: MmioTarget;
  /** For the physical bus, at `board.pem`; undefined but for a PEM. */
  readonly pem: PemRegisters | undefined;
  /** For the physical bus, each at its `cpuBase`. */
  readonly windows: readonly HostWindow[];
  /** No root port is above functions of the root bus: they never show that they want a retry. */
  readonly showsRetries = false;
  readonly #ecam: EcamWindow | PemConfigWindow;
  readonly #translator: DmaTranslator;
  readonly #route: Route;
  readonly #requesters: Requester[][] = Array.from({ length: 256 }, () => []);
  readonly #pins: WiredOr;
  /** What configuration requests of each bus number found since the topology last changed; null: nobody. */
  readonly #found: (PciFunction | null | undefined)[][] = Array.from({ length: 256 }, () => []);
  #foundAt = -1;
  #counts: Counts = { dmaReads: 0, dmaWrites: 0, dmaBytes: 0, dmaAborts: 0, unclaimedReads: 0, unclaimedWrites: 0 };

  constructor(board: BoardBridge, translator: DmaTranslator, route: Route, scheduler: Scheduler, intx: IntxSink) {
    this.board = board;
    this.#translator = translator;
    this.#route = route;
    this.root = new PciBus('root', this, route, scheduler);
    this.#pins = new WiredOr((line, level) => {
      const spi = lookupSpi(board.interruptMap, line >>> 3, line & 7);
      if (spi >= 0) intx.set(spi, level);
    });
    const find = (bus: number, devfn: number): PciFunction | undefined => this.find(bus, devfn);
    const { first } = board.busRange;
    this.pem = board.pem === undefined ? undefined : new PemRegisters(`${board.path} PEM`, first, find);
    this.#ecam =
      this.pem === undefined
        ? new EcamWindow(`${board.path} ECAM`, first, find)
        : new PemConfigWindow(`${board.path} configuration`, first, find);
    this.ecamTarget = this.#ecam;
    this.windows = board.ranges.flatMap((range) => {
      const { space, cpuBase, pciBase, sizeBytes } = range;
      if (space === 'config') return [];
      return [{ space, cpuBase, pciBase, sizeBytes, target: this.#windowTarget(space, pciBase) }];
    });
  }

  /** The function that a configuration request for this bus number reaches now, or undefined. */
  find(bus: number, devfn: number): PciFunction | undefined {
    if (this.#foundAt !== this.#route.topology) {
      for (const known of this.#found) known.length = 0;
      this.#foundAt = this.#route.topology;
    }
    const known = this.#found[bus & 0xff]!;
    let fn = known[devfn];
    if (fn === undefined) {
      fn = this.#walk(bus, devfn) ?? null;
      known[devfn] = fn;
    }
    return fn ?? undefined;
  }

  request(_from: PciFunction, rid: number, at: number, address: number, data: Uint8Array, write: boolean): number {
    const requester = this.requester(rid);
    const covered = requester.streamId >= 0 || this.board.iommuMap.rows.length === 0;
    let done = 0;
    const { wide } = this.#route;
    // What it reaches may send requests of its own.
    this.#route.wide = undefined;
    if (covered && at === ADDRESS_TYPE.UNTRANSLATED) {
      if (wide !== undefined) done = this.#translator.dmaWide(requester, wide, data, write);
      else if (write) done = this.#translator.dmaWrite(requester, address, data);
      else done = this.#translator.dmaRead(requester, address, data);
    }
    if (write) this.#counts.dmaWrites++;
    else this.#counts.dmaReads++;
    this.#counts.dmaBytes += done;
    if (done < data.length) {
      this.#counts.dmaAborts++;
      this.#route.status = COMPLETION.ABORT;
    }
    return done;
  }

  setPin(devfn: number, pin: number, level: boolean): void {
    this.#pins.change((devfn << 3) | pin, level);
  }

  /** Of a function of the root bus: no event collector hears it. */
  errorMessage(): void {}

  /** The ids under which SMMU and ITSs know a requester id of this bridge. */
  requester(rid: number): Requester {
    const ofBus = this.#requesters[(rid >>> 8) & 0xff]!;
    let known = ofBus[rid & 0xff];
    if (known === undefined) {
      const { iommuMap, msiMap } = this.board;
      let phandle = -1;
      let deviceId = -1;
      known = {
        rid,
        streamId: lookupRid(iommuMap, rid)?.id ?? -1,
        // A function's messages go to one ITS, so the answer is looked for once.
        deviceIdAt: (itsPhandle) => {
          if (itsPhandle !== phandle) {
            phandle = itsPhandle;
            deviceId = msiMap === undefined ? -1 : lookupRidAt(msiMap, rid, itsPhandle);
          }
          return deviceId;
        },
      };
      ofBus[rid & 0xff] = known;
    }
    return known;
  }

  save(): unknown {
    return {
      pins: this.#pins.save(),
      counts: { ...this.#counts },
      ecam: this.#ecam.save(),
      pem: this.pem?.save(),
      root: this.root.save(),
    };
  }

  load(state: unknown): void {
    const saved = state as { pins: unknown; counts: Counts; ecam: unknown; pem: unknown; root: unknown };
    this.#pins.load(saved.pins);
    this.#counts = { ...saved.counts };
    this.#ecam.load(saved.ecam);
    this.pem?.load(saved.pem);
    this.root.load(saved.root);
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

  #walk(bus: number, devfn: number): PciFunction | undefined {
    const { first, last } = this.board.busRange;
    if (bus < first || bus > last) return undefined;
    const here = bus === first ? this.root.at(devfn) : undefined;
    if (here !== undefined) return here;
    const virtual = this.root.virtualAt((bus << 8) | devfn);
    if (virtual !== undefined || bus === first) return virtual;
    for (const fn of this.root.functions()) {
      const found = fn instanceof Bridge ? fn.find(bus, devfn) : undefined;
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #windowTarget(space: 'io' | 'mem32' | 'mem64', pciBase: number): MmioTarget {
    const name = `${this.board.path} ${space} window`;
    if (space === 'io') return { name, read: (_offset, size) => allOnes(size), write: () => {} };
    return {
      name,
      read: (offset, size, requester) => this.#windowRead(pciBase + offset, size, requester),
      write: (offset, size, value, requester) => this.#windowWrite(pciBase + offset, size, value, requester),
    };
  }

  #windowRead(address: number, size: number, requester: Requester | undefined): number {
    const route = this.#route;
    if (requester !== undefined && !this.#enterFrom(route)) return allOnes(size);
    route.rid = requester?.rid ?? this.board.busRange.first << 8;
    route.addressType = ADDRESS_TYPE.UNTRANSLATED;
    route.address = address;
    try {
      const value = this.root.memoryRead(address, size);
      if (value >= 0) return value;
      this.#counts.unclaimedReads++;
      if (requester === undefined && route.status === COMPLETION.TIMEOUT) this.#timedOut(address, size);
      return allOnes(size);
    } finally {
      if (requester !== undefined) route.leave();
    }
  }

  #windowWrite(address: number, size: number, value: number, requester: Requester | undefined): void {
    const route = this.#route;
    if (requester !== undefined && !this.#enterFrom(route)) return;
    route.rid = requester?.rid ?? this.board.busRange.first << 8;
    route.addressType = ADDRESS_TYPE.UNTRANSLATED;
    route.address = address;
    try {
      if (!this.root.memoryWrite(address, size, value)) this.#counts.unclaimedWrites++;
    } finally {
      if (requester !== undefined) route.leave();
    }
  }

  #enterFrom(route: Route): boolean {
    if (!route.enter()) return false;
    route.redirectedRequests++;
    return true;
  }

  /** The root port is the requester of what a CPU reads below it. */
  #timedOut(address: number, size: number): void {
    const port = this.root.table.find(address)?.owner;
    if (port instanceof Bridge) port.errors.completed(COMPLETION.TIMEOUT, port.rid, address, size);
  }
}
