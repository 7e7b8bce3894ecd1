/** The MSI capability (PCIe 5.0, "MSI Capability Structures"). Offsets from its start; the layout depends on FLAGS. */

export const PCI_MSI = {
  FLAGS: 2,
  ADDRESS_LO: 4,
  ADDRESS_HI: 8,
  DATA_32: 8,
  DATA_64: 12,
  MASK_32: 12,
  MASK_64: 16,
  PENDING_32: 16,
  PENDING_64: 20,
} as const;

export const PCI_MSI_FLAGS = {
  ENABLE: 1 << 0,
  /** log2 of the vectors that the function can send, [3:1], and may send, [6:4]. */
  MULTIPLE_CAPABLE_SHIFT: 1,
  MULTIPLE_ENABLE_SHIFT: 4,
  MULTIPLE_MASK: 0x7,
  ADDRESS_64: 1 << 7,
  PER_VECTOR_MASK: 1 << 8,
} as const;

/** Where the parts of an MSI capability stand, by its FLAGS. `mask` and `pending` are -1 when there are none. */
export function msiLayout(flags: number): { data: number; mask: number; pending: number; bytes: number } {
  const wide = (flags & PCI_MSI_FLAGS.ADDRESS_64) !== 0;
  const masked = (flags & PCI_MSI_FLAGS.PER_VECTOR_MASK) !== 0;
  return {
    data: wide ? PCI_MSI.DATA_64 : PCI_MSI.DATA_32,
    mask: !masked ? -1 : wide ? PCI_MSI.MASK_64 : PCI_MSI.MASK_32,
    pending: !masked ? -1 : wide ? PCI_MSI.PENDING_64 : PCI_MSI.PENDING_32,
    bytes: (wide ? 14 : 10) + (masked ? 10 : 0),
  };
}
