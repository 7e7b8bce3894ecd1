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
  BYTES: 6,
} as const;

export const PCI_AER = {
  UNCOR_STATUS: 0x04,
  UNCOR_MASK: 0x08,
  UNCOR_SEVERITY: 0x0c,
  COR_STATUS: 0x10,
  COR_MASK: 0x14,
  CAP: 0x18,
  ROOT_COMMAND: 0x2c,
  ROOT_STATUS: 0x30,
} as const;

export const PCI_ACS = { CAP: 4, CTRL: 6, CTRL_MASK: 0x7f } as const;
