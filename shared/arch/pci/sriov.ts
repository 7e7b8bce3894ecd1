/**
 * The SR-IOV extended capability (PCIe 5.0, "Single Root I/O Virtualization and Sharing"). Offsets from its start.
 * VF n, from 1, has the requester id of its PF + VF_OFFSET + (n - 1) * VF_STRIDE, in 16 bits: it may lie on a later bus.
 */
export const PCI_SRIOV = {
  CAP: 0x04,
  CTRL: 0x08,
  STATUS: 0x0a,
  INITIAL_VF: 0x0c,
  TOTAL_VF: 0x0e,
  NUM_VF: 0x10,
  FUNC_LINK: 0x12,
  VF_OFFSET: 0x14,
  VF_STRIDE: 0x16,
  VF_DID: 0x1a,
  SUP_PGSIZE: 0x1c,
  SYS_PGSIZE: 0x20,
  /** VF BAR n at BAR + 4 n, six of them. */
  BAR: 0x24,
  VFM: 0x3c,
  BYTES: 0x40,
} as const;

export const PCI_SRIOV_CTRL = {
  VFE: 1 << 0,
  /** Memory Space Enable of all VFs. */
  MSE: 1 << 3,
  ARI: 1 << 4,
} as const;

export const PCI_SRIOV_BARS = 6;
/** SUP_PGSIZE and SYS_PGSIZE: bit n stands for pages of 2^(n + 12) bytes. */
export const PCI_SRIOV_PAGE_SHIFT = 12;
/** What a VF has for a vendor and a device id: its own are in the PF. */
export const PCI_SRIOV_VF_ID = 0xffff;
