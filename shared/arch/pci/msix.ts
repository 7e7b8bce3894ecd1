/** The MSI-X capability and its tables (PCIe 5.0, "MSI-X Capability and Table Structure"). */

/** Offsets from the start of the capability. */
export const PCI_MSIX = { FLAGS: 2, TABLE: 4, PBA: 8, BYTES: 12 } as const;

/** FLAGS: table size - 1 [10:0], function mask 14, enable 15. */
export const PCI_MSIX_FLAGS = { SIZE_MASK: 0x7ff, MASKALL: 1 << 14, ENABLE: 1 << 15 } as const;

/** TABLE and PBA: which BAR [2:0], offset in it [31:3]. */
export const PCI_MSIX_BIR_MASK = 0x7;
export const PCI_MSIX_OFFSET_MASK = 0xffff_fff8;

/** One table entry, 16 bytes. */
export const PCI_MSIX_ENTRY = { ADDRESS_LO: 0, ADDRESS_HI: 4, DATA: 8, VECTOR_CTRL: 12, BYTES: 16 } as const;
export const PCI_MSIX_ENTRY_MASKED = 1 << 0;

export const PCI_MSIX_VECTORS_MAX = 2048;

/** Bytes of the pending bit array of `vectors` vectors: whole quadwords. */
export function msixPbaBytes(vectors: number): number {
  return Math.ceil(vectors / 64) * 8;
}
