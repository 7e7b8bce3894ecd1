/**
 * Capability lists: ids and the small capabilities (PCI Code and ID Assignment Specification; PCIe 5.0, "PCI Power
 * Management Capability Structure", "Advanced Error Reporting", "Access Control Services"). Offsets from the start of
 * the capability.
 */

export const PCI_CAP_ID = {
  PM: 0x01,
  VPD: 0x03,
  MSI: 0x05,
  VENDOR: 0x09,
  BRIDGE_SUBSYSTEM: 0x0d,
  EXPRESS: 0x10,
  MSIX: 0x11,
  AF: 0x13,
  EA: 0x14,
} as const;

export const PCI_EXT_CAP_ID = {
  AER: 0x0001,
  SERIAL: 0x0003,
  ACS: 0x000d,
  ARI: 0x000e,
  ATS: 0x000f,
  SRIOV: 0x0010,
  PRI: 0x0013,
  LTR: 0x0018,
  PASID: 0x001b,
  DPC: 0x001d,
} as const;

/** The first extended capability stands here: id [15:0], version [19:16], next [31:20]. */
export const PCI_EXT_CAP_BASE = 0x100;
/** No list has more entries: 192 bytes of 4 in conventional space, 3840 bytes of 8 in extended space. */
export const PCI_CAPS_MAX = 48;
export const PCI_EXT_CAPS_MAX = 480;

export const PCI_PM = {
  PMC: 2,
  CTRL: 4,
  /** PMC: D1 and D2 exist; PME can be signalled from [15:11]. */
  PMC_D1: 1 << 9,
  PMC_D2: 1 << 10,
  PMC_PME_MASK: 0xf800,
  CTRL_STATE_MASK: 0x3,
  CTRL_NO_SOFT_RESET: 1 << 3,
  CTRL_PME_ENABLE: 1 << 8,
  CTRL_PME_STATUS: 1 << 15,
} as const;

export const PCI_AF = {
  CAP: 3,
  CTRL: 4,
  STATUS: 5,
  CAP_TP: 1 << 0,
  CAP_FLR: 1 << 1,
  CTRL_FLR: 1 << 0,
  STATUS_TP: 1 << 0,
  BYTES: 6,
} as const;

/** PCIe 5.0, "Advanced Error Reporting Extended Capability". The last three stand in root ports only. */
export const PCI_AER = {
  UNCOR_STATUS: 0x04,
  UNCOR_MASK: 0x08,
  UNCOR_SEVERITY: 0x0c,
  COR_STATUS: 0x10,
  COR_MASK: 0x14,
  /** First Error Pointer [4:0]; ECRC generation and check: capable 5 and 7, enabled 6 and 8. */
  CAP: 0x18,
  CAP_FIRST_ERROR_MASK: 0x1f,
  /** The first four doublewords of the request that the first error is about. */
  HEADER_LOG: 0x1c,
  ROOT_COMMAND: 0x2c,
  ROOT_STATUS: 0x30,
  /** Requester id of the first ERR_COR [15:0] and of the first ERR_NONFATAL or ERR_FATAL [31:16]. */
  ROOT_SOURCE: 0x34,
} as const;

/** Bit numbers in UNCOR_STATUS, UNCOR_MASK and UNCOR_SEVERITY. */
export const PCI_AER_UNCOR = {
  POISONED: 12,
  COMPLETION_TIMEOUT: 14,
  COMPLETER_ABORT: 15,
  UNEXPECTED_COMPLETION: 16,
  MALFORMED: 18,
  UNSUPPORTED_REQUEST: 20,
  ACS_VIOLATION: 21,
} as const;
/** In COR_STATUS and COR_MASK: an uncorrectable error that its detector only advises of. */
export const PCI_AER_COR_ADVISORY_NONFATAL = 1 << 13;

export const PCI_AER_ROOT_COMMAND = { COR: 1 << 0, NONFATAL: 1 << 1, FATAL: 1 << 2 } as const;
export const PCI_AER_ROOT_STATUS = {
  COR_RECEIVED: 1 << 0,
  COR_MULTIPLE: 1 << 1,
  UNCOR_RECEIVED: 1 << 2,
  UNCOR_MULTIPLE: 1 << 3,
  FIRST_FATAL: 1 << 4,
  NONFATAL_RECEIVED: 1 << 5,
  FATAL_RECEIVED: 1 << 6,
  /** Advanced Error Interrupt Message Number, [31:27]. */
  MESSAGE_SHIFT: 27,
} as const;

/** PCIe 5.0, "ACS Extended Capability". The control bits are those of the capability: */
export const PCI_ACS = {
  CAP: 4,
  CTRL: 6,
  /** Bit n: a peer request to port (or function) n is stopped. */
  EGRESS: 8,
  CTRL_MASK: 0x7f,
  /** Source Validation, Translation Blocking, P2P Request Redirect, P2P Completion Redirect. */
  SV: 1 << 0,
  TB: 1 << 1,
  RR: 1 << 2,
  CR: 1 << 3,
  /** Upstream Forwarding, P2P Egress Control, Direct Translated P2P. */
  UF: 1 << 4,
  EC: 1 << 5,
  DT: 1 << 6,
  EGRESS_SIZE_SHIFT: 8,
} as const;

/** PCIe 5.0, "ATS Extended Capability": Smallest Translation Unit [4:0]. */
export const PCI_ATS = { CAP: 4, CTRL: 6, CTRL_STU_MASK: 0x1f, CTRL_ENABLE: 1 << 15, BYTES: 8 } as const;

/** PCIe 5.0, "Page Request Extended Capability". CTRL_RESET reads as zero. */
export const PCI_PRI = {
  CTRL: 4,
  STATUS: 6,
  CAPACITY: 8,
  /** Outstanding page requests that software grants. */
  ALLOCATION: 0xc,
  CTRL_ENABLE: 1 << 0,
  CTRL_RESET: 1 << 1,
  BYTES: 16,
} as const;

/** PCIe 5.0, "PASID Extended Capability". EXECUTE and PRIVILEGED stand at the same bits of CAP and CTRL. */
export const PCI_PASID = {
  CAP: 4,
  CTRL: 6,
  CTRL_ENABLE: 1 << 0,
  EXECUTE: 1 << 1,
  PRIVILEGED: 1 << 2,
  BYTES: 8,
} as const;

/** PCIe 5.0, "Alternative Routing-ID Interpretation Extended Capability". */
export const PCI_ARI = { CAP: 4, CTRL: 6, NEXT_FUNCTION_SHIFT: 8 } as const;
