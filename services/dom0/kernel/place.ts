/**
 * Where enumeration puts BARs and bridge windows (Linux drivers/pci/setup-bus.c, in short): inside the host bridge's
 * `ranges`, largest alignment first.
 * A memory BAR is placed on whole pages of its own, so that two functions never share a page that stage 2 could not divide
 * (the question left by T16). What a bridge does not need is closed, base above limit: a window at its reset value would
 * take in the first MiB.
 * Not modelled: I/O space and expansion ROMs; their registers stay 0 and windows for I/O stay closed.
 */
import { PCI_BRIDGE, PCI_BRIDGE_MEMORY_GRANULE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_COMMAND, PCI_HEADER_TYPE } from '#shared/arch/pci/header.ts';
import { PCI_SRIOV } from '#shared/arch/pci/sriov.ts';
import type { Op } from '#shared/core/op.ts';
import type { Sbdf } from '#shared/ids/sbdf.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';
import type { Bar, PciFunction } from './function.ts';
import type { HostBridge } from './host-bridge.ts';
import { apertureOf, type VfPlan } from './sriov.ts';

/** A bus as it was scanned. */
export interface Bus {
  readonly number: number;
  readonly functions: PciFunction[];
  /** VFs that functions of this bus shall have, on whichever bus they will be. */
  readonly vfs: VfPlan[];
  /** `wide`: the bridge has a 64-bit prefetchable window. */
  readonly children: { readonly bridge: PciFunction; readonly wide: boolean; readonly bus: Bus }[];
}

/** Something that wants a place in a window. */
interface Item {
  readonly sizeBytes: number;
  readonly align: number;
  /** May stand above 4 GiB though it would rather not. */
  readonly wide: boolean;
  readonly place: (busAddress: number) => void;
}

/**
 * Places every BAR and window below a host bridge and writes them; then bridges decode and forward, endpoints do not
 * yet. What has no room is traced and stays at 0.
 */
export function* placeAll(
  access: ConfigAccess,
  host: HostBridge,
  root: Bus,
  trace: (event: string, detail: unknown) => void,
): Op<void> {
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
  for (const bus of busesBelow(root)) {
    for (const fn of bus.functions) {
      for (const bar of fn.bars) {
        bar.pa = bar.address === 0 ? 0 : toCpu(host, bar.address);
        yield* writeBar(access, fn.sbdf, PCI.BASE_ADDRESS_0, bar);
      }
      if (fn.headerType !== PCI_HEADER_TYPE.BRIDGE) continue;
      const window = windows.get(fn.sbdf) ?? {};
      yield* programWindows(access, fn.sbdf, window.low, window.high);
      yield* access.write(fn.sbdf, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    }
    for (const { pf, at, bars } of bus.vfs)
      for (const bar of bars) yield* writeBar(access, pf.sbdf, at + PCI_SRIOV.BAR, bar);
  }
}

function* writeBar(access: ConfigAccess, sbdf: Sbdf, base: number, { index, kind, address }: Bar): Op<void> {
  if (address === 0) return;
  yield* access.write(sbdf, base + index * 4, 4, address >>> 0);
  if (kind === 'mem64') yield* access.write(sbdf, base + index * 4 + 4, 4, Math.floor(address / 2 ** 32));
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
  const want = (bars: Bar[], i: number, unit: number, count: number): void => {
    const bar = bars[i]!;
    const place = (busAddress: number): void => {
      bars[i] = { ...bar, address: busAddress };
    };
    const wide = bar.kind === 'mem64' && bar.prefetchable && wideAbove;
    const item = { sizeBytes: unit * count, align: unit, wide: bar.kind === 'mem64' && isRoot, place };
    (wide ? high : low).push(item);
  };
  for (const { bars } of bus.functions)
    for (const [i, bar] of bars.entries())
      if (bar.kind !== 'io') want(bars, i, Math.ceil(bar.sizeBytes / 4096) * 4096, 1);
  for (const { bars, count } of bus.vfs) for (const [i, bar] of bars.entries()) want(bars, i, apertureOf(bar), count);
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
  yield* access.write(bridge, PCI_BRIDGE.IO_BASE_UPPER16, 4, 0);
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

/** The largest window below 4 GiB, or that much of one as is below, rather not a prefetchable one; and the largest above. */
function windowsOf(host: HostBridge): { low: Window | undefined; high: Window | undefined } {
  const memory = host.ranges.filter((r) => r.space === 'mem32' || r.space === 'mem64');
  const bySize = [...memory].sort((a, b) => b.sizeBytes - a.sizeBytes);
  const below = bySize
    .filter((r) => r.pciBase < 2 ** 32)
    .map((r) => ({ ...r, sizeBytes: Math.min(r.sizeBytes, 2 ** 32 - r.pciBase) }));
  const low = below.find((r) => !r.prefetchable) ?? below[0];
  const high = bySize.find((r) => r.space === 'mem64' && r.pciBase >= 2 ** 32);
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

/** The physical address at which the CPU reaches a bus address; 0 where no range of the bridge leads. */
export function toCpu(host: HostBridge, busAddress: number): number {
  const range = host.ranges.find(
    (r) => r.space !== 'io' && busAddress >= r.pciBase && busAddress < r.pciBase + r.sizeBytes,
  );
  return range === undefined ? 0 : busAddress - range.pciBase + range.cpuBase;
}

function sorted(items: readonly Item[]): Item[] {
  return [...items].sort((a, b) => b.align - a.align || b.sizeBytes - a.sizeBytes);
}

function* busesBelow(bus: Bus): Generator<Bus, void> {
  yield bus;
  for (const child of bus.children) yield* busesBelow(child.bus);
}

function alignUp(value: number, align: number): number {
  return Math.ceil(value / align) * align;
}
