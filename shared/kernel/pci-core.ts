/**
 * What every kernel does with configuration space, over any way to reach it: find functions and capabilities, size
 * BARs, wait for a function that is not ready (PCIe 5.0, "Base Address Registers", "Configuration Request Retry
 * Status", "Alternative Routing-ID Interpretation"; Linux drivers/pci/probe.c, drivers/pci/pci.c pci_dev_wait).
 * Not modelled: ARI function groups and MFVC; only the chain of functions is followed.
 */
import {
  PCI_ARI,
  PCI_CAP_ID,
  PCI_CAPS_MAX,
  PCI_EXT_CAP_BASE,
  PCI_EXT_CAP_ID,
  PCI_EXT_CAPS_MAX,
} from '#shared/arch/pci/capability.ts';
import {
  PCI,
  PCI_BAR,
  PCI_BRIDGE_BARS,
  PCI_COMMAND,
  PCI_HEADER_TYPE,
  PCI_STATUS,
  PCI_STD_BARS,
  PCI_VENDOR_ABSENT,
  PCI_VENDOR_NOT_READY,
} from '#shared/arch/pci/header.ts';
import { LIMITS } from '#shared/core/limits.ts';
import { type Op, sleep } from '#shared/core/op.ts';
import { sbdf as makeSbdf, type Sbdf } from '#shared/ids/sbdf.ts';

/** Configuration accesses of 1, 2 or 4 aligned bytes. An absent function reads as all ones. */
export interface ConfigAccess {
  read(sbdf: Sbdf, offset: number, size: number): Op<number>;
  write(sbdf: Sbdf, offset: number, size: number, value: number): Op<void>;
}

export interface FoundFunction {
  readonly sbdf: Sbdf;
  readonly vendorId: number;
  readonly deviceId: number;
  /** Base class and sub-class, 16 bits. */
  readonly classCode: number;
  /** Without the multifunction bit: 0 endpoint, 1 bridge. */
  readonly headerType: number;
  /** One of several functions of a device. */
  readonly multifunction: boolean;
}

export interface BarInfo {
  /** Of the (lower) BAR register, from 0. */
  readonly index: number;
  readonly kind: 'mem32' | 'mem64' | 'io';
  readonly prefetchable: boolean;
  /** Where it stands now, a bus address. */
  readonly address: number;
  readonly sizeBytes: number;
}

/** The offset of the first capability `id` of a function, or 0. */
export function* findCapability(access: ConfigAccess, sbdf: Sbdf, id: number): Op<number> {
  const status = yield* access.read(sbdf, PCI.STATUS, 2);
  if ((status & PCI_STATUS.CAP_LIST) === 0) return 0;
  let at = (yield* access.read(sbdf, PCI.CAPABILITY_LIST, 1)) & 0xfc;
  for (let i = 0; at >= 0x40 && i < PCI_CAPS_MAX; i++) {
    const entry = yield* access.read(sbdf, at, 2);
    if ((entry & 0xff) === 0xff) return 0;
    if ((entry & 0xff) === id) return at;
    at = (entry >>> 8) & 0xfc;
  }
  return 0;
}

/** The offset of the first extended capability `id`, or 0. Only a PCI Express function has any. */
export function* findExtendedCapability(access: ConfigAccess, sbdf: Sbdf, id: number): Op<number> {
  if ((yield* findCapability(access, sbdf, PCI_CAP_ID.EXPRESS)) === 0) return 0;
  let at: number = PCI_EXT_CAP_BASE;
  for (let i = 0; at >= PCI_EXT_CAP_BASE && i < PCI_EXT_CAPS_MAX; i++) {
    const entry = yield* access.read(sbdf, at, 4);
    if (entry === 0 || entry === 0xffff_ffff) return 0;
    if ((entry & 0xffff) === id) return at;
    at = (entry >>> 20) & 0xffc;
  }
  return 0;
}

/**
 * Sizes and reads every BAR that a function implements, with decoding off meanwhile: writes all ones, reads, restores.
 * Only this may run on the function at that time.
 */
export function* readBars(access: ConfigAccess, sbdf: Sbdf): Op<BarInfo[]> {
  const headerType = (yield* access.read(sbdf, PCI.HEADER_TYPE, 1)) & PCI_HEADER_TYPE.MASK;
  const count = headerType === PCI_HEADER_TYPE.BRIDGE ? PCI_BRIDGE_BARS : PCI_STD_BARS;
  const command = yield* access.read(sbdf, PCI.COMMAND, 2);
  const decoding = command & (PCI_COMMAND.IO | PCI_COMMAND.MEMORY);
  if (decoding !== 0) yield* access.write(sbdf, PCI.COMMAND, 2, command & ~decoding);
  const bars = yield* sizeBars(access, sbdf, PCI.BASE_ADDRESS_0, count);
  if (decoding !== 0) yield* access.write(sbdf, PCI.COMMAND, 2, command);
  return bars;
}

/** As `readBars`, for `count` BAR registers at offset `base`, VF BARs too; what they decode must be switched off. */
export function* sizeBars(access: ConfigAccess, sbdf: Sbdf, base: number, count: number): Op<BarInfo[]> {
  const bars: BarInfo[] = [];
  for (let index = 0; index < count; index++) {
    const offset = base + index * 4;
    const { before, sizing } = yield* sizeRegister(access, sbdf, offset);
    if (sizing === 0) continue;
    if ((sizing & PCI_BAR.SPACE_IO) !== 0) {
      // An I/O BAR may implement only the lower 16 bits.
      const mask = ((sizing & PCI_BAR.IO_ADDRESS_MASK) | ((sizing & 0xffff_0000) === 0 ? 0xffff_0000 : 0)) >>> 0;
      const address = (before & PCI_BAR.IO_ADDRESS_MASK) >>> 0;
      bars.push({ index, kind: 'io', prefetchable: false, address, sizeBytes: (~mask >>> 0) + 1 });
      continue;
    }
    const prefetchable = (sizing & PCI_BAR.PREFETCH) !== 0;
    const lowMask = (sizing & PCI_BAR.MEM_ADDRESS_MASK) >>> 0;
    const low = (before & PCI_BAR.MEM_ADDRESS_MASK) >>> 0;
    if ((sizing & PCI_BAR.MEM_TYPE_MASK) !== PCI_BAR.MEM_TYPE_64) {
      bars.push({ index, kind: 'mem32', prefetchable, address: low, sizeBytes: (~lowMask >>> 0) + 1 });
      continue;
    }
    if (index + 1 >= count) continue; // a 64-bit BAR without room for its upper half is a broken one
    const high = yield* sizeRegister(access, sbdf, offset + 4);
    index++;
    // Not -(mask): the difference to 2^64 would not fit a double, the one below does.
    const sizeBytes = (~high.sizing >>> 0) * 2 ** 32 + (~lowMask >>> 0) + 1;
    bars.push({ index: index - 1, kind: 'mem64', prefetchable, address: high.before * 2 ** 32 + low, sizeBytes });
  }
  return bars;
}

/** What a port says of the bus below it. */
export interface Link {
  /** Only device 0 can be there. */
  readonly oneDevice: boolean;
  /**
   * Called once, with function 0 of device 0: whether the functions of that device have 8-bit numbers, which the port
   * then lets through.
   */
  readonly forwardsAri: (function0: Sbdf) => Op<boolean>;
}

/**
 * The functions on one bus: 32 slots, and functions 1 to 7 where function 0 says that there are more; below a `link`
 * that forwards ARI the functions that the chain of Next Function Numbers names. A function that answers with Request
 * Retry Status is waited for.
 */
export function* scanBus(access: ConfigAccess, segment: number, bus: number, link?: Link): Op<FoundFunction[]> {
  const found: FoundFunction[] = [];
  for (let slot = 0; slot < (link?.oneDevice === true ? 1 : 32); slot++) {
    const first = yield* probeFunction(access, makeSbdf(segment, bus, slot, 0));
    if (first === undefined) continue;
    found.push(first);
    if (slot === 0 && link !== undefined && (yield* link.forwardsAri(first.sbdf))) {
      yield* followAri(access, first, found);
      continue;
    }
    for (let fn = 1; fn < 8 && first.multifunction; fn++) {
      const next = yield* probeFunction(access, makeSbdf(segment, bus, slot, fn));
      if (next !== undefined) found.push({ ...next, multifunction: true });
    }
  }
  return found;
}

/** PCIe 5.0, "ARI Capability Register": each function names the next one, a larger number, and the last one 0. */
function* followAri(access: ConfigAccess, first: FoundFunction, found: FoundFunction[]): Op<void> {
  for (let at = first.sbdf; ; ) {
    const ari = yield* findExtendedCapability(access, at, PCI_EXT_CAP_ID.ARI);
    if (ari === 0) return;
    const next = (yield* access.read(at, ari + PCI_ARI.CAP, 2)) >>> PCI_ARI.NEXT_FUNCTION_SHIFT;
    if (next <= (at & 0xff)) return; // the end, or a chain that does not rise
    at = first.sbdf + next;
    const fn = yield* probeFunction(access, at);
    if (fn !== undefined) found.push({ ...fn, multifunction: true });
  }
}

function* probeFunction(access: ConfigAccess, sbdf: Sbdf): Op<FoundFunction | undefined> {
  let ids = yield* access.read(sbdf, PCI.VENDOR_ID, 4);
  if ((ids & 0xffff) === PCI_VENDOR_NOT_READY) {
    yield* waitUntilReady(access, sbdf);
    ids = yield* access.read(sbdf, PCI.VENDOR_ID, 4);
  }
  const vendorId = ids & 0xffff;
  if (vendorId === PCI_VENDOR_ABSENT || vendorId === PCI_VENDOR_NOT_READY || vendorId === 0) return undefined;
  const headerType = yield* access.read(sbdf, PCI.HEADER_TYPE, 1);
  const classCode = yield* access.read(sbdf, PCI.CLASS_DEVICE, 2);
  return {
    sbdf,
    vendorId,
    deviceId: ids >>> 16,
    classCode,
    headerType: headerType & PCI_HEADER_TYPE.MASK,
    multifunction: (headerType & PCI_HEADER_TYPE.MULTIFUNCTION) !== 0,
  };
}

/**
 * Waits for a function that says Request Retry Status, or nothing at all, to answer: 1 ms, then twice as long each
 * time, until one wait would be longer than LIMITS.pciReadyMaxNs. `onSlow` is called once, when it takes longer than
 * LIMITS.pciReadySlowNs. Gives the nanoseconds waited, and whether it answers now. `probeAt` is what is read: the
 * vendor id, or for a virtual function, which has none, the command register.
 */
export function* waitUntilReady(
  access: ConfigAccess,
  sbdf: Sbdf,
  onSlow: () => void = () => {},
  probeAt: typeof PCI.VENDOR_ID | typeof PCI.COMMAND = PCI.VENDOR_ID,
): Op<{ readonly ready: boolean; readonly waitedNs: number }> {
  let waitedNs = 0;
  let slow = false;
  for (let ns = 1e6; ; ns *= 2) {
    const word = yield* access.read(sbdf, probeAt, 2);
    const silent = word === PCI_VENDOR_ABSENT || (probeAt === PCI.VENDOR_ID && word === PCI_VENDOR_NOT_READY);
    if (!silent) return { ready: true, waitedNs };
    if (ns > LIMITS.pciReadyMaxNs) return { ready: false, waitedNs };
    if (ns > LIMITS.pciReadySlowNs && !slow) {
      slow = true;
      onSlow();
    }
    yield* sleep(ns);
    waitedNs += ns;
  }
}

function* sizeRegister(access: ConfigAccess, sbdf: Sbdf, offset: number): Op<{ before: number; sizing: number }> {
  const before = yield* access.read(sbdf, offset, 4);
  yield* access.write(sbdf, offset, 4, 0xffff_ffff);
  const sizing = yield* access.read(sbdf, offset, 4);
  yield* access.write(sbdf, offset, 4, before);
  return { before, sizing };
}
