/**
 * BARs that a function describes by Enhanced Allocation instead of base address registers (PCIe 5.0, "Enhanced
 * Allocation (EA) Capability Structure"): the address is the function's own, the register at the BAR's offset is zero.
 * Not modelled: writable bases, I/O ranges, the fixed bus numbers of a bridge; software reads them as dumped.
 */
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI_EA, PCI_EA_ENTRY, PCI_EA_IS_64, PCI_EA_PROPERTY } from '#shared/arch/pci/enhanced-allocation.ts';
import { PCI, PCI_HEADER_TYPE } from '#shared/arch/pci/header.ts';
import { capabilitiesOf, word } from './capability-list.ts';

export interface EaRange {
  /** 0 to 5: a BAR; 9 to 14: a VF BAR. */
  readonly bei: number;
  readonly prefetchable: boolean;
  readonly address: number;
  readonly sizeBytes: number;
  /** Offset of the entry's first doubleword, where its Enable is. */
  readonly offset: number;
}

/** The memory ranges that the dump's entries give, in their order; what does not fit the capability is left out. */
export function eaRangesOf(config: Uint8Array): EaRange[] {
  const capability = capabilitiesOf(config).find((c) => c.id === PCI_CAP_ID.EA);
  if (capability === undefined) return [];
  const bridge = (config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK) === PCI_HEADER_TYPE.BRIDGE;
  const end = capability.offset + capability.roomBytes;
  const entries = config[capability.offset + PCI_EA.NUM_ENTRIES]! & PCI_EA.NUM_ENTRIES_MASK;
  const ranges: EaRange[] = [];
  let at = capability.offset + (bridge ? PCI_EA.FIRST_ENTRY_BRIDGE : PCI_EA.FIRST_ENTRY);
  for (let i = 0; i < entries && at + 12 <= end; i++) {
    const first = dword(config, at);
    const bytes = 4 + 4 * (first & PCI_EA_ENTRY.SIZE_MASK);
    const range = at + bytes <= end ? rangeOf(config, at, first, bytes) : undefined;
    if (range !== undefined) ranges.push(range);
    at += bytes;
  }
  return ranges;
}

function rangeOf(config: Uint8Array, at: number, first: number, bytes: number): EaRange | undefined {
  const properties = (first >>> PCI_EA_ENTRY.PROPERTIES_SHIFT) & PCI_EA_ENTRY.PROPERTIES_MASK;
  const { MEM, MEM_PREFETCH, VF_MEM, VF_MEM_PREFETCH } = PCI_EA_PROPERTY;
  if (properties !== MEM && properties !== MEM_PREFETCH && properties !== VF_MEM && properties !== VF_MEM_PREFETCH)
    return undefined;
  const base = dword(config, at + 4);
  const maxOffset = dword(config, at + 8);
  let next = at + 12;
  const high = (low: number): number => {
    if ((low & PCI_EA_IS_64) === 0 || next + 4 > at + bytes) return 0;
    next += 4;
    return dword(config, next - 4) * 2 ** 32;
  };
  const address = high(base) + ((base & ~3) >>> 0);
  const sizeBytes = high(maxOffset) + ((maxOffset | 3) >>> 0) + 1;
  return {
    bei: (first >>> PCI_EA_ENTRY.BEI_SHIFT) & PCI_EA_ENTRY.BEI_MASK,
    prefetchable: properties === MEM_PREFETCH || properties === VF_MEM_PREFETCH,
    address,
    sizeBytes,
    offset: at,
  };
}

function dword(config: Uint8Array, at: number): number {
  return (word(config, at) | (word(config, at + 2) << 16)) >>> 0;
}
