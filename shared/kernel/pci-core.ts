/**
 * What every kernel does with configuration space, over any way to reach it: find functions and capabilities, size
 * BARs (PCIe 5.0, "Base Address Registers"; Linux drivers/pci/probe.c).
 * Not modelled: ARI; a kernel here looks at eight functions of a device.
 */
import { PCI_CAP_ID, PCI_CAPS_MAX, PCI_EXT_CAP_BASE, PCI_EXT_CAPS_MAX } from '#shared/arch/pci/capability.ts';
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
import type { Op } from '#shared/core/op.ts';
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
  const bars: BarInfo[] = [];
  for (let index = 0; index < count; index++) {
    const offset = PCI.BASE_ADDRESS_0 + index * 4;
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
  if (decoding !== 0) yield* access.write(sbdf, PCI.COMMAND, 2, command);
  return bars;
}

/** The functions on one bus: 32 slots, and functions 1 to 7 where function 0 says that there are more. */
export function* scanBus(access: ConfigAccess, segment: number, bus: number): Op<FoundFunction[]> {
  const found: FoundFunction[] = [];
  for (let slot = 0; slot < 32; slot++) {
    for (let fn = 0; fn < 8; fn++) {
      const sbdf = makeSbdf(segment, bus, slot, fn);
      const ids = yield* access.read(sbdf, PCI.VENDOR_ID, 4);
      const vendorId = ids & 0xffff;
      const present = vendorId !== PCI_VENDOR_ABSENT && vendorId !== PCI_VENDOR_NOT_READY && vendorId !== 0;
      if (!present && fn === 0) break;
      if (!present) continue;
      const headerType = yield* access.read(sbdf, PCI.HEADER_TYPE, 1);
      const classCode = yield* access.read(sbdf, PCI.CLASS_DEVICE, 2);
      found.push({
        sbdf,
        vendorId,
        deviceId: ids >>> 16,
        classCode,
        headerType: headerType & PCI_HEADER_TYPE.MASK,
      });
      if (fn === 0 && (headerType & PCI_HEADER_TYPE.MULTIFUNCTION) === 0) break;
    }
  }
  return found;
}

function* sizeRegister(access: ConfigAccess, sbdf: Sbdf, offset: number): Op<{ before: number; sizing: number }> {
  const before = yield* access.read(sbdf, offset, 4);
  yield* access.write(sbdf, offset, 4, 0xffff_ffff);
  const sizing = yield* access.read(sbdf, offset, 4);
  yield* access.write(sbdf, offset, 4, before);
  return { before, sizing };
}
