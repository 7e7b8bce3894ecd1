/**
 * Base address registers: which a function has and how large, and what its decoders claim now
 * (PCIe 5.0, "Base Address Registers").
 * A dump says address and type of a BAR, not its size: the board says it, or a default is taken (`defaultBytes`).
 * Not modelled: what an expansion ROM holds; the ROM can be sized and placed, and reads as all ones. I/O ports; an
 * I/O BAR can be sized and placed, and nobody answers there.
 */
import { PCI_CAP_ID, PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI_EA_ENTRY } from '#shared/arch/pci/enhanced-allocation.ts';
import {
  PCI,
  PCI_BAR,
  PCI_BRIDGE_BARS,
  PCI_HEADER_TYPE,
  PCI_ROM_INDEX,
  PCI_STD_BARS,
} from '#shared/arch/pci/header.ts';
import {
  msixPbaBytes,
  PCI_MSIX,
  PCI_MSIX_BIR_MASK,
  PCI_MSIX_ENTRY,
  PCI_MSIX_FLAGS,
  PCI_MSIX_OFFSET_MASK,
} from '#shared/arch/pci/msix.ts';
import { PCI_SRIOV, PCI_SRIOV_BARS, PCI_SRIOV_PAGE_SHIFT } from '#shared/arch/pci/sriov.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { capabilitiesOf, extendedCapabilitiesOf, word } from './capability-list.ts';
import { type EaRange, eaRangesOf } from './enhanced-allocation.ts';

export interface BarShape {
  readonly index: number;
  /** Offset of its (lower) register. */
  readonly offset: number;
  readonly kind: 'mem32' | 'mem64' | 'io' | 'rom';
  readonly prefetchable: boolean;
  /** A power of two, but for a fixed one. */
  readonly sizeBytes: number;
  /** Given by Enhanced Allocation: it stands at `address` while the entry at `entry` is enabled; there is no register. */
  readonly fixed?: { readonly address: number; readonly entry: number };
}

/** Where a function's MSI-X table and pending bits stand. */
export interface MsixShape {
  readonly capability: number;
  readonly vectors: number;
  readonly tableBar: number;
  readonly tableOffset: number;
  readonly pbaBar: number;
  readonly pbaOffset: number;
}

/** A board gives the size of VF BAR n under this index plus n (as Linux numbers resources: PCI_IOV_RESOURCES). */
export const PCI_VF_BAR_INDEX = 7;

const MEMORY_MIN = 0x1000;
const MEMORY_DEFAULT_MAX = 0x1_0000;
const CARDBUS_BARS = 1;
const IO_DEFAULT = 32;
const ROM_DEFAULT = 0x1_0000;

/** The MSI-X structure that a dump describes, or undefined. */
export function msixShapeOf(config: Uint8Array): MsixShape | undefined {
  const at = capabilitiesOf(config).find((c) => c.id === PCI_CAP_ID.MSIX)?.offset;
  if (at === undefined || at + PCI_MSIX.BYTES > config.length) return undefined;
  const table = dword(config, at + PCI_MSIX.TABLE);
  const pba = dword(config, at + PCI_MSIX.PBA);
  return {
    capability: at,
    vectors: (word(config, at + PCI_MSIX.FLAGS) & PCI_MSIX_FLAGS.SIZE_MASK) + 1,
    tableBar: table & PCI_MSIX_BIR_MASK,
    tableOffset: (table & PCI_MSIX_OFFSET_MASK) >>> 0,
    pbaBar: pba & PCI_MSIX_BIR_MASK,
    pbaOffset: (pba & PCI_MSIX_OFFSET_MASK) >>> 0,
  };
}

/**
 * The BARs of a function, the ROM last. A register that was dumped as zero is a BAR only when the board sizes it or
 * MSI-X lives in it. Throws RangeError with a text for the board's author when sizes and dump contradict each other.
 */
export function barShapesOf(fn: BoardFunction): BarShape[] {
  const { config, barSizes } = fn;
  const type = config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK;
  const bridge = type === PCI_HEADER_TYPE.BRIDGE;
  const count = bridge ? PCI_BRIDGE_BARS : type === PCI_HEADER_TYPE.NORMAL ? PCI_STD_BARS : CARDBUS_BARS;
  const msix = msixShapeOf(config);
  const shapes: BarShape[] = [];
  const known = new Set<number>();
  const fixed = eaRangesOf(config);
  for (let index = 0; index < count; index++) {
    const offset = PCI.BASE_ADDRESS_0 + index * 4;
    const range = fixed.find((r) => r.bei === index);
    if (range !== undefined) {
      known.add(index);
      shapes.push(fixedShape(index, offset, range));
      continue;
    }
    const raw = dword(config, offset);
    const inside = msix === undefined ? 0 : msixEnd(msix, index);
    const given = barSizes.get(index);
    known.add(index);
    if (raw === 0 && given === undefined && inside === 0) continue;
    if ((raw & PCI_BAR.SPACE_IO) !== 0) {
      shapes.push({
        index,
        offset,
        kind: 'io',
        prefetchable: false,
        sizeBytes: checked(given ?? IO_DEFAULT, index, 4, 256),
      });
      continue;
    }
    const wide = (raw & PCI_BAR.MEM_TYPE_MASK) === PCI_BAR.MEM_TYPE_64;
    if (wide && index + 1 >= count)
      throw new RangeError(`BAR ${index} is a 64-bit one without a register for its upper half`);
    const address = (raw & PCI_BAR.MEM_ADDRESS_MASK) >>> 0;
    const high = wide ? dword(config, offset + 4) : 0;
    const sizeBytes = checked(
      given ?? defaultBytes(high * 2 ** 32 + address, inside),
      index,
      16,
      wide ? 2 ** 40 : 2 ** 31,
    );
    if (sizeBytes < inside)
      throw new RangeError(`BAR ${index} has ${sizeBytes} bytes and its MSI-X structures end at ${inside}`);
    shapes.push({
      index,
      offset,
      kind: wide ? 'mem64' : 'mem32',
      prefetchable: (raw & PCI_BAR.PREFETCH) !== 0,
      sizeBytes,
    });
    if (wide) index++;
  }
  const rom = bridge ? 0x38 : PCI.ROM_ADDRESS;
  const romGiven = barSizes.get(PCI_ROM_INDEX);
  known.add(PCI_ROM_INDEX);
  if (count !== CARDBUS_BARS && (romGiven !== undefined || dword(config, rom) !== 0)) {
    const sizeBytes = checked(romGiven ?? ROM_DEFAULT, PCI_ROM_INDEX, 2048, 2 ** 24);
    shapes.push({ index: PCI_ROM_INDEX, offset: rom, kind: 'rom', prefetchable: false, sizeBytes });
  }
  const vfBars = vfBarShapesOf(fn).map((s) => PCI_VF_BAR_INDEX + s.index);
  for (const index of barSizes.keys()) {
    if (vfBars.includes(index)) continue;
    if (!known.has(index) || !shapes.some((s) => s.index === index))
      throw new RangeError(`there is no BAR ${index} to give a size to`);
  }
  return shapes;
}

/**
 * The VF BARs of a function with SR-IOV, all of memory; `index` counts from 0. The size is one VF's, and at least the
 * smallest page that the function supports. Throws RangeError like `barShapesOf`.
 */
export function vfBarShapesOf(fn: BoardFunction): BarShape[] {
  const { config, barSizes } = fn;
  const at = extendedCapabilitiesOf(config).find((c) => c.id === PCI_EXT_CAP_ID.SRIOV)?.offset ?? -1;
  if (at < 0 || at + PCI_SRIOV.BYTES > config.length) return [];
  const pages = dword(config, at + PCI_SRIOV.SUP_PGSIZE);
  const pageBytes = pages === 0 ? MEMORY_MIN : (pages & -pages) * 2 ** PCI_SRIOV_PAGE_SHIFT;
  const shapes: BarShape[] = [];
  const fixed = eaRangesOf(config);
  for (let index = 0; index < PCI_SRIOV_BARS; index++) {
    const offset = at + PCI_SRIOV.BAR + index * 4;
    const range = fixed.find((r) => r.bei === PCI_EA_ENTRY.BEI_VF_BAR0 + index);
    if (range !== undefined) {
      shapes.push(fixedShape(index, offset, range));
      continue;
    }
    const raw = dword(config, offset);
    const given = barSizes.get(PCI_VF_BAR_INDEX + index);
    if ((raw === 0 && given === undefined) || (raw & PCI_BAR.SPACE_IO) !== 0) continue;
    const wide = (raw & PCI_BAR.MEM_TYPE_MASK) === PCI_BAR.MEM_TYPE_64 && index + 1 < PCI_SRIOV_BARS;
    const address = (wide ? dword(config, offset + 4) : 0) * 2 ** 32 + ((raw & PCI_BAR.MEM_ADDRESS_MASK) >>> 0);
    const sizeBytes = checked(
      given ?? defaultBytes(address, 0),
      PCI_VF_BAR_INDEX + index,
      16,
      wide ? 2 ** 40 : 2 ** 31,
    );
    shapes.push({
      index,
      offset,
      kind: wide ? 'mem64' : 'mem32',
      prefetchable: (raw & PCI_BAR.PREFETCH) !== 0,
      sizeBytes: Math.max(sizeBytes, pageBytes),
    });
    if (wide) index++;
  }
  return shapes;
}

/** The BAR that a model with `bytes` of registers at offset 0 can use: the first one of memory with no MSI-X there. */
export function registerBarOf(
  shapes: readonly BarShape[],
  msix: MsixShape | undefined,
  bytes: number,
): BarShape | undefined {
  const free = (bar: number, offset: number, index: number): boolean => bar !== index || offset >= bytes;
  return shapes.find(
    (s) =>
      (s.kind === 'mem32' || s.kind === 'mem64') &&
      s.sizeBytes >= bytes &&
      (msix === undefined ||
        (free(msix.tableBar, msix.tableOffset, s.index) && free(msix.pbaBar, msix.pbaOffset, s.index))),
  );
}

function fixedShape(index: number, offset: number, range: EaRange): BarShape {
  const { prefetchable, sizeBytes, address } = range;
  return { index, offset, kind: 'mem64', prefetchable, sizeBytes, fixed: { address, entry: range.offset } };
}

/** A power of two that the dumped address is aligned to, 4 KiB to 64 KiB, or more where MSI-X needs it. */
function defaultBytes(address: number, inside: number): number {
  let size = MEMORY_MIN;
  while (size < MEMORY_DEFAULT_MAX && address % (size * 2) === 0) size *= 2;
  while (size < inside) size *= 2;
  return size;
}

function msixEnd(msix: MsixShape, index: number): number {
  const table = msix.tableBar === index ? msix.tableOffset + msix.vectors * PCI_MSIX_ENTRY.BYTES : 0;
  const pba = msix.pbaBar === index ? msix.pbaOffset + msixPbaBytes(msix.vectors) : 0;
  return Math.max(table, pba);
}

function checked(size: number, index: number, min: number, max: number): number {
  if (size < min || size > max || 2 ** Math.round(Math.log2(size)) !== size)
    throw new RangeError(`BAR ${index} cannot have ${size} bytes: a power of two from ${min} to ${max} is needed`);
  return size;
}

function dword(config: Uint8Array, at: number): number {
  return (word(config, at) | (word(config, at + 2) << 16)) >>> 0;
}
