/**
 * Enumeration (Linux drivers/pci/probe.c and setup-bus.c, in short): bus numbers depth first, BARs sized, BARs and bridge
 * windows placed inside the host bridge's `ranges`, every function reported to Xen.
 * A memory BAR is placed on whole pages of its own, so that two functions never share a page that stage 2 could not divide
 * (the question left by T16). Memory decoding and bus mastering are switched on for bridges; endpoints keep both off.
 * Not modelled: I/O space and expansion ROMs; their registers stay 0 and windows for I/O stay closed. SR-IOV: virtual
 * functions are never enabled. ARI. What a firmware placed: everything is placed anew.
 */
import { PCI_BRIDGE, PCI_BRIDGE_MEMORY_GRANULE, PCI_BRIDGE_RANGE_TYPE_MASK } from '#shared/arch/pci/bridge-header.ts';
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import {
  PCI,
  PCI_CFG_SPACE_BYTES,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_COMMAND,
  PCI_HEADER_TYPE,
} from '#shared/arch/pci/header.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import type { Hypercalls } from '#shared/kernel/hypercalls.ts';
import { type BarInfo, type ConfigAccess, findCapability, readBars, scanBus } from '#shared/kernel/pci-core.ts';
import type { HostBridge } from './host-bridge.ts';

export interface PciFunction {
  readonly sbdf: Sbdf;
  readonly vendorId: number;
  readonly deviceId: number;
  /** Base class and sub-class. */
  readonly classCode: number;
  /** 0 endpoint, 1 bridge. */
  readonly headerType: number;
  /** Bytes of configuration space: 256, or 4096 for PCI Express. */
  readonly configBytes: number;
  /** The bridge above; undefined on a root bus. */
  readonly parent: Sbdf | undefined;
  readonly bars: Bar[];
}

export interface Bar extends BarInfo {
  /** The physical address that the CPU uses; 0 while not placed. */
  pa: number;
}

/** Something that wants a place in a window. */
interface Item {
  readonly sizeBytes: number;
  readonly align: number;
  /** May stand above 4 GiB though it would rather not. */
  readonly wide: boolean;
  readonly place: (busAddress: number) => void;
}

interface Bus {
  readonly number: number;
  readonly functions: PciFunction[];
  readonly children: { readonly bridge: PciFunction; readonly wide: boolean; readonly bus: Bus }[];
}

type Trace = (event: string, detail: unknown) => void;

/** Enumerates what is below one host bridge. Functions come in order of bus number and devfn. */
export function* enumerate(access: ConfigAccess, host: HostBridge, trace: Trace): Op<PciFunction[]> {
  const all: PciFunction[] = [];
  const counter = { next: host.firstBus + 1 };
  const root = yield* scan(access, host, host.firstBus, undefined, counter, all, trace);
  yield* placeAll(access, host, root, trace);
  return all.sort((a, b) => a.sbdf - b.sbdf);
}

/** PHYSDEVOP_pci_device_add for each. One that Xen refuses is traced; assigning it fails later (Linux drivers/xen/pci.c). */
export function* reportFunctions(hypercalls: Hypercalls, functions: readonly PciFunction[], trace: Trace): Op<void> {
  for (const f of functions) {
    try {
      yield* hypercalls.pci_device_add(f.sbdf);
    } catch (error) {
      trace('dom0.pci_device_add.failed', { sbdf: formatSbdf(f.sbdf), error: String(error) });
    }
  }
}

function* scan(
  access: ConfigAccess,
  host: HostBridge,
  number: number,
  parent: Sbdf | undefined,
  counter: { next: number },
  all: PciFunction[],
  trace: Trace,
): Op<Bus> {
  const bus: Bus = { number, functions: [], children: [] };
  for (const found of yield* scanBus(access, host.segment, number)) {
    const express = yield* findCapability(access, found.sbdf, PCI_CAP_ID.EXPRESS);
    yield* access.write(found.sbdf, PCI.COMMAND, 2, 0);
    const bars = (yield* readBars(access, found.sbdf)).map((bar) => ({ ...bar, address: 0, pa: 0 }));
    const configBytes = express === 0 ? PCI_CFG_SPACE_BYTES : PCI_CFG_SPACE_EXP_BYTES;
    const fn: PciFunction = { ...found, configBytes, parent, bars };
    bus.functions.push(fn);
    all.push(fn);
  }
  for (const bridge of bus.functions.filter((f) => f.headerType === PCI_HEADER_TYPE.BRIDGE)) {
    if (counter.next > host.lastBus) {
      trace('dom0.pci.out_of_buses', { bridge: formatSbdf(bridge.sbdf) });
      continue;
    }
    const secondary = counter.next++;
    yield* access.write(bridge.sbdf, PCI_BRIDGE.PRIMARY_BUS, 1, number);
    yield* access.write(bridge.sbdf, PCI_BRIDGE.SECONDARY_BUS, 1, secondary);
    yield* access.write(bridge.sbdf, PCI_BRIDGE.SUBORDINATE_BUS, 1, host.lastBus);
    const below = yield* scan(access, host, secondary, bridge.sbdf, counter, all, trace);
    yield* access.write(bridge.sbdf, PCI_BRIDGE.SUBORDINATE_BUS, 1, counter.next - 1);
    const type = (yield* access.read(bridge.sbdf, PCI_BRIDGE.PREF_MEMORY_BASE, 2)) & PCI_BRIDGE_RANGE_TYPE_MASK;
    bus.children.push({ bridge, wide: type === 1, bus: below });
  }
  return bus;
}

function* placeAll(access: ConfigAccess, host: HostBridge, root: Bus, trace: Trace): Op<void> {
  const { low, high } = windowsOf(host);
  const windows = new Map<Sbdf, { low?: Window; high?: Window }>();
  const lost = (item: Item): void => trace('dom0.pci.no_room', { segment: host.segment, sizeBytes: item.sizeBytes });
  const lowLeft = new Cursor(low);
  const highLeft = new Cursor(high);
  const wants = wantsOf(root, high !== undefined, true, windows);
  for (const item of sorted(wants.high)) if (!highLeft.take(item)) lost(item);
  for (const item of sorted(wants.low)) {
    if (!lowLeft.take(item) && !(item.wide && highLeft.take(item))) lost(item);
  }
  for (const fn of functionsBelow(root)) {
    for (const bar of fn.bars) {
      if (bar.address === 0) continue;
      bar.pa = toCpu(host, bar.address);
      yield* access.write(fn.sbdf, PCI.BASE_ADDRESS_0 + bar.index * 4, 4, bar.address >>> 0);
      if (bar.kind === 'mem64') {
        const upper = Math.floor(bar.address / 2 ** 32);
        yield* access.write(fn.sbdf, PCI.BASE_ADDRESS_0 + bar.index * 4 + 4, 4, upper);
      }
    }
    if (fn.headerType !== PCI_HEADER_TYPE.BRIDGE) continue;
    const window = windows.get(fn.sbdf) ?? {};
    yield* programWindows(access, fn.sbdf, window.low, window.high);
    yield* access.write(fn.sbdf, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
  }
}

interface Window {
  readonly base: number;
  readonly sizeBytes: number;
}

/** What the functions and bridges of a bus want from a window below 4 GiB and from a 64-bit prefetchable one. */
function wantsOf(
  bus: Bus,
  wideAbove: boolean,
  isRoot: boolean,
  windows: Map<Sbdf, { low?: Window; high?: Window }>,
): { low: Item[]; high: Item[] } {
  const low: Item[] = [];
  const high: Item[] = [];
  for (const fn of bus.functions) {
    for (const [i, bar] of fn.bars.entries()) {
      if (bar.kind === 'io') continue;
      const pages = Math.ceil(bar.sizeBytes / 4096) * 4096;
      const place = (busAddress: number): void => {
        fn.bars[i] = { ...bar, address: busAddress };
      };
      const wide = bar.kind === 'mem64' && bar.prefetchable && wideAbove;
      const item = { sizeBytes: pages, align: pages, wide: bar.kind === 'mem64' && isRoot, place };
      (wide ? high : low).push(item);
    }
  }
  for (const { bridge, wide, bus: below } of bus.children) {
    const window: { low?: Window; high?: Window } = {};
    windows.set(bridge.sbdf, window);
    const wants = wantsOf(below, wideAbove && wide, false, windows);
    if (wants.low.length > 0) low.push(windowItem(wants.low, (w) => void Object.assign(window, { low: w })));
    if (wants.high.length > 0) high.push(windowItem(wants.high, (w) => void Object.assign(window, { high: w })));
  }
  return { low, high };
}

/** A bridge window around `items`: as large as they need when packed, in the granule of bridges. */
function windowItem(items: Item[], opened: (window: Window) => void): Item {
  const order = sorted(items);
  const align = Math.max(PCI_BRIDGE_MEMORY_GRANULE, order[0]!.align);
  let end = 0;
  const offsets = order.map((item) => {
    const offset = alignUp(end, item.align);
    end = offset + item.sizeBytes;
    return offset;
  });
  const sizeBytes = alignUp(end, PCI_BRIDGE_MEMORY_GRANULE);
  return {
    sizeBytes,
    align,
    wide: false,
    place: (busAddress) => {
      opened({ base: busAddress, sizeBytes });
      order.forEach((item, i) => {
        item.place(busAddress + offsets[i]!);
      });
    },
  };
}

function* programWindows(access: ConfigAccess, bridge: Sbdf, low?: Window, high?: Window): Op<void> {
  yield* access.write(bridge, PCI_BRIDGE.IO_BASE, 1, 0xf0);
  yield* access.write(bridge, PCI_BRIDGE.IO_LIMIT, 1, 0);
  const [base, limit] = low === undefined ? [0xfff0, 0] : [bits(low.base), bits(low.base + low.sizeBytes - 1)];
  yield* access.write(bridge, PCI_BRIDGE.MEMORY_BASE, 2, base);
  yield* access.write(bridge, PCI_BRIDGE.MEMORY_LIMIT, 2, limit);
  const end = high === undefined ? 0 : high.base + high.sizeBytes - 1;
  yield* access.write(bridge, PCI_BRIDGE.PREF_MEMORY_BASE, 2, high === undefined ? 0xfff0 : bits(high.base));
  yield* access.write(bridge, PCI_BRIDGE.PREF_MEMORY_LIMIT, 2, high === undefined ? 0 : bits(end));
  yield* access.write(bridge, PCI_BRIDGE.PREF_BASE_UPPER32, 4, Math.floor((high?.base ?? 0) / 2 ** 32));
  yield* access.write(bridge, PCI_BRIDGE.PREF_LIMIT_UPPER32, 4, Math.floor(end / 2 ** 32));
}

/** A[31:20] where the window registers of a bridge keep it. */
function bits(address: number): number {
  return ((address >>> 0) >>> 16) & 0xfff0;
}

/** The largest window below 4 GiB, rather not a prefetchable one, and the largest one above. */
function windowsOf(host: HostBridge): { low: Window | undefined; high: Window | undefined } {
  const memory = host.ranges.filter((r) => r.space === 'mem32' || r.space === 'mem64');
  const bySize = [...memory].sort((a, b) => b.sizeBytes - a.sizeBytes);
  const below = bySize.filter((r) => r.pciBase + r.sizeBytes <= 2 ** 32);
  const low = below.find((r) => !r.prefetchable) ?? below[0];
  const high = bySize.find((r) => r !== low && r.space === 'mem64' && r.pciBase >= 2 ** 32);
  return { low: windowOf(low), high: windowOf(high) };
}

function windowOf(range: { pciBase: number; sizeBytes: number } | undefined): Window | undefined {
  if (range === undefined) return undefined;
  // Address 0 in a BAR means that it is not placed.
  const skip = range.pciBase === 0 ? PCI_BRIDGE_MEMORY_GRANULE : 0;
  return { base: range.pciBase + skip, sizeBytes: range.sizeBytes - skip };
}

/** Fills a window from its start. */
class Cursor {
  readonly #end: number;
  #at: number;

  constructor(window: Window | undefined) {
    this.#at = window?.base ?? 0;
    this.#end = window === undefined ? 0 : window.base + window.sizeBytes;
  }

  take(item: Item): boolean {
    const base = alignUp(this.#at, item.align);
    if (base + item.sizeBytes > this.#end) return false;
    this.#at = base + item.sizeBytes;
    item.place(base);
    return true;
  }
}

function toCpu(host: HostBridge, busAddress: number): number {
  const range = host.ranges.find(
    (r) => r.space !== 'io' && busAddress >= r.pciBase && busAddress < r.pciBase + r.sizeBytes,
  );
  return range === undefined ? 0 : busAddress - range.pciBase + range.cpuBase;
}

function sorted(items: readonly Item[]): Item[] {
  return [...items].sort((a, b) => b.align - a.align || b.sizeBytes - a.sizeBytes);
}

function* functionsBelow(bus: Bus): Generator<PciFunction, void> {
  yield* bus.functions;
  for (const child of bus.children) yield* functionsBelow(child.bus);
}

function alignUp(value: number, align: number): number {
  return Math.ceil(value / align) * align;
}

/** The functions on the buses below a bridge, from a list of all. */
export function functionsUnder(functions: readonly PciFunction[], bridge: Sbdf): PciFunction[] {
  const direct = functions.filter((f) => f.parent === bridge);
  return direct.flatMap((f) => [f, ...functionsUnder(functions, f.sbdf)]);
}
