/**
 * The configuration header that every PCI function has, and type 0's part (PCIe 5.0, "PCI-Compatible Configuration
 * Registers"; names as in Linux's pci_regs.h). Offsets in bytes.
 */

export const PCI = {
  VENDOR_ID: 0x00,
  DEVICE_ID: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION_ID: 0x08,
  CLASS_PROG: 0x09,
  /** 16 bits: base class in the upper byte, sub-class in the lower. */
  CLASS_DEVICE: 0x0a,
  CACHE_LINE_SIZE: 0x0c,
  LATENCY_TIMER: 0x0d,
  HEADER_TYPE: 0x0e,
  BIST: 0x0f,
  /** BAR n at BASE_ADDRESS_0 + 4 n. */
  BASE_ADDRESS_0: 0x10,
  CARDBUS_CIS: 0x28,
  SUBSYSTEM_VENDOR_ID: 0x2c,
  SUBSYSTEM_ID: 0x2e,
  ROM_ADDRESS: 0x30,
  CAPABILITY_LIST: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
} as const;

export const PCI_COMMAND = {
  IO: 1 << 0,
  MEMORY: 1 << 1,
  MASTER: 1 << 2,
  PARITY: 1 << 6,
  SERR: 1 << 8,
  INTX_DISABLE: 1 << 10,
} as const;

export const PCI_STATUS = {
  INTERRUPT: 1 << 3,
  CAP_LIST: 1 << 4,
  SIG_TARGET_ABORT: 1 << 11,
  REC_TARGET_ABORT: 1 << 12,
  REC_MASTER_ABORT: 1 << 13,
  SIG_SYSTEM_ERROR: 1 << 14,
  /** The error bits, which a one clears: 8 and 11 to 15. */
  ERRORS_W1C: 0xf900,
} as const;

export const PCI_HEADER_TYPE = { NORMAL: 0, BRIDGE: 1, CARDBUS: 2, MASK: 0x7f, MULTIFUNCTION: 0x80 } as const;

export const PCI_BAR = {
  /** Bit 0: the BAR is for I/O ports. */
  SPACE_IO: 1 << 0,
  /** Bits [2:1] of a memory BAR; 2 is 64-bit. */
  MEM_TYPE_MASK: 0x6,
  MEM_TYPE_64: 0x4,
  PREFETCH: 1 << 3,
  MEM_ADDRESS_MASK: 0xffff_fff0,
  IO_ADDRESS_MASK: 0xffff_fffc,
} as const;

export const PCI_ROM = { ENABLE: 1 << 0, ADDRESS_MASK: 0xffff_f800 } as const;

/** BARs of a header: six of an endpoint, two of a bridge. Index 6 names the expansion ROM. */
export const PCI_STD_BARS = 6;
export const PCI_BRIDGE_BARS = 2;
export const PCI_ROM_INDEX = 6;

/** Bytes of configuration space: conventional, and PCI Express. */
export const PCI_CFG_SPACE_BYTES = 256;
export const PCI_CFG_SPACE_EXP_BYTES = 4096;

/** What a read of the vendor id gives where no function is, and while one is still coming out of reset (RRS). */
export const PCI_VENDOR_ABSENT = 0xffff;
export const PCI_VENDOR_NOT_READY = 0x0001;

/** Class and sub-class of a PCI-to-PCI bridge. */
export const PCI_CLASS_BRIDGE_PCI = 0x0604;
