/**
 * The Enhanced Allocation capability: resources at addresses that the function has by itself (PCIe 5.0, "Enhanced
 * Allocation (EA) Capability Structure"). Offsets from its start, in bytes.
 */
export const PCI_EA = {
  /** [5:0]. */
  NUM_ENTRIES: 2,
  NUM_ENTRIES_MASK: 0x3f,
  /** The first entry; a bridge has a doubleword with its bus numbers before it. */
  FIRST_ENTRY: 4,
  FIRST_ENTRY_BRIDGE: 8,
} as const;

/** The first doubleword of an entry; behind it Base, MaxOffset, and the upper halves of those that have one. */
export const PCI_EA_ENTRY = {
  /** Doublewords that follow, [2:0]. */
  SIZE_MASK: 0x7,
  /** BAR Equivalent Indicator, [7:4]: 0 to 5 BARs, 8 the ROM, 9 to 14 VF BARs. */
  BEI_SHIFT: 4,
  BEI_MASK: 0xf,
  BEI_ROM: 8,
  BEI_VF_BAR0: 9,
  /** Primary Properties, [15:8]. */
  PROPERTIES_SHIFT: 8,
  PROPERTIES_MASK: 0xff,
  ENABLE: 0x8000_0000,
} as const;

export const PCI_EA_PROPERTY = { MEM: 0, MEM_PREFETCH: 1, IO: 2, VF_MEM_PREFETCH: 3, VF_MEM: 4 } as const;
/** Base and MaxOffset: [31:2] and, when this is set, 32 bits more. */
export const PCI_EA_IS_64 = 1 << 1;
