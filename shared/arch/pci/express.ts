/** The PCI Express capability (PCIe 5.0, "PCI Express Capability Structure"). Offsets from its start. */

export const PCI_EXP = {
  FLAGS: 0x02,
  DEVCAP: 0x04,
  DEVCTL: 0x08,
  DEVSTA: 0x0a,
  LNKCAP: 0x0c,
  LNKCTL: 0x10,
  LNKSTA: 0x12,
  SLTCAP: 0x14,
  SLTCTL: 0x18,
  SLTSTA: 0x1a,
  RTCTL: 0x1c,
  RTCAP: 0x1e,
  RTSTA: 0x20,
  DEVCAP2: 0x24,
  DEVCTL2: 0x28,
  LNKCAP2: 0x2c,
  LNKCTL2: 0x30,
  LNKSTA2: 0x32,
} as const;

/** FLAGS: version [3:0], device or port type [7:4]. */
export const PCI_EXP_FLAGS = { VERSION_MASK: 0xf, TYPE_SHIFT: 4, TYPE_MASK: 0xf0 } as const;

export const PCI_EXP_TYPE = {
  ENDPOINT: 0x0,
  LEGACY_ENDPOINT: 0x1,
  ROOT_PORT: 0x4,
  UPSTREAM: 0x5,
  DOWNSTREAM: 0x6,
  PCIE_TO_PCI: 0x7,
  PCI_TO_PCIE: 0x8,
  RC_ENDPOINT: 0x9,
  RC_EVENT_COLLECTOR: 0xa,
} as const;

export const PCI_EXP_DEVCAP_FLR = 0x1000_0000;
export const PCI_EXP_DEVCTL = {
  /** Correctable, Non-Fatal, Fatal Error and Unsupported Request Reporting Enable. */
  CERE: 1 << 0,
  NFERE: 1 << 1,
  FERE: 1 << 2,
  URRE: 1 << 3,
  RELAXED_ORDERING: 1 << 4,
  /** MPS, [7:5]; 0 is 128 bytes. */
  PAYLOAD_MASK: 7 << 5,
  NO_SNOOP: 1 << 11,
  /** MRRS, [14:12]; 2 is 512 bytes. */
  READRQ_SHIFT: 12,
  /** Starts a Function Level Reset; reads as zero. */
  INITIATE_FLR: 1 << 15,
} as const;
/** After a reset: relaxed ordering and no snoop on, payloads of up to 128 bytes, read requests of up to 512. */
export const PCI_EXP_DEVCTL_DEFAULT =
  PCI_EXP_DEVCTL.RELAXED_ORDERING | PCI_EXP_DEVCTL.NO_SNOOP | (2 << PCI_EXP_DEVCTL.READRQ_SHIFT);
/** The four error bits are W1C; transactions pending is read-only. */
export const PCI_EXP_DEVSTA = {
  CED: 1 << 0,
  NFED: 1 << 1,
  FED: 1 << 2,
  URD: 1 << 3,
  ERRORS_W1C: 0xf,
  TRANSACTIONS_PENDING: 1 << 5,
} as const;
/** RTCTL: a configuration read of the vendor id shows Request Retry Status as 0001 (RRS, formerly CRS, Software Visibility). */
export const PCI_EXP_RTCTL_RRS_SVE = 1 << 4;
/** LNKCTL: Link Disable. LNKCAP: the port's number, [31:24]. */
export const PCI_EXP_LNKCTL_LD = 1 << 4;
export const PCI_EXP_LNKCAP_PORT_SHIFT = 24;
/**
 * LNKCTL: ASPM, RCB, common clock, extended synch, clock power management, autonomous width disable. Like the payload
 * size they are not affected by a Function Level Reset (PCIe 5.0, "Function Level Reset (FLR)").
 */
export const PCI_EXP_LNKCTL_KEPT = 0x03cb;
/** LNKCTL2: Target Link Speed. */
export const PCI_EXP_LNKCTL2_SPEED_MASK = 0xf;
export const PCI_EXP_DEVCAP2_ARI = 1 << 5;
export const PCI_EXP_DEVCTL2_ARI = 1 << 5;
