/** The type 1 header's own part (PCIe 5.0, "Type 1 Configuration Space Header"). Offsets in bytes. */

export const PCI_BRIDGE = {
  PRIMARY_BUS: 0x18,
  SECONDARY_BUS: 0x19,
  SUBORDINATE_BUS: 0x1a,
  SEC_LATENCY_TIMER: 0x1b,
  /** [7:4] = A[15:12]; [3:0] 1 = the upper 16 bits exist. */
  IO_BASE: 0x1c,
  IO_LIMIT: 0x1d,
  SEC_STATUS: 0x1e,
  /** [15:4] = A[31:20]. */
  MEMORY_BASE: 0x20,
  MEMORY_LIMIT: 0x22,
  /** [15:4] = A[31:20]; [3:0] 1 = the upper 32 bits exist. */
  PREF_MEMORY_BASE: 0x24,
  PREF_MEMORY_LIMIT: 0x26,
  PREF_BASE_UPPER32: 0x28,
  PREF_LIMIT_UPPER32: 0x2c,
  IO_BASE_UPPER16: 0x30,
  IO_LIMIT_UPPER16: 0x32,
  ROM_ADDRESS: 0x38,
  CONTROL: 0x3e,
} as const;

export const PCI_BRIDGE_CTL = {
  PARITY: 1 << 0,
  SERR: 1 << 1,
  ISA: 1 << 2,
  VGA: 1 << 3,
  VGA16: 1 << 4,
  MASTER_ABORT: 1 << 5,
  /** Secondary Bus Reset: everything below is in reset while it is set. */
  BUS_RESET: 1 << 6,
} as const;

/** Granules of the windows: what the registers cannot say reads as zeros in the base and as ones in the limit. */
export const PCI_BRIDGE_MEMORY_GRANULE = 0x10_0000;
export const PCI_BRIDGE_IO_GRANULE = 0x1000;
/** Low four bits of an I/O or prefetchable base: the upper half exists. */
export const PCI_BRIDGE_RANGE_TYPE_MASK = 0xf;
export const PCI_BRIDGE_RANGE_TYPE_WIDE = 0x1;
