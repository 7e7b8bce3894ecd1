/** xen/include/public/io/pciif.h: the page that pcifront and pciback share, and its operations. */
import { array, s32, struct, u16, u32 } from './layout.ts';

export const XEN_PCI_MAGIC = '7';

export const xen_pci_op = struct({
  cmd: u32,
  err: s32,
  domain: u32,
  bus: u32,
  devfn: u32,
  offset: s32,
  size: s32,
  value: u32,
  info: u32,
  msix_entries: array(struct({ vector: u16, entry: u16 }), 128),
});

/** The first 36 bytes of xen_pci_op: all that a configuration access uses. */
export const xen_pci_op_head = struct({
  cmd: u32,
  err: s32,
  domain: u32,
  bus: u32,
  devfn: u32,
  offset: s32,
  size: s32,
  value: u32,
  info: u32,
});

/** Byte offsets in the shared page. */
export const XEN_PCI_SHAREDINFO = { flags: 0, op: 4, aer_op: 552 } as const;
export const XEN_PCIF_active = 1 << 0;
export const XEN_PCIB_AERHANDLER = 1 << 1;
export const XEN_PCIB_active = 1 << 2;

export const XEN_PCI_OP = {
  conf_read: 0,
  conf_write: 1,
  enable_msi: 2,
  disable_msi: 3,
  enable_msix: 4,
  disable_msix: 5,
  aer_detected: 6,
  aer_resume: 7,
  aer_mmio: 8,
  aer_slotreset: 9,
  enable_multi_msi: 10,
} as const;

export const XEN_PCI_ERR = {
  success: 0,
  dev_not_found: -1,
  invalid_offset: -2,
  access_denied: -3,
  not_implemented: -4,
  op_failed: -5,
} as const;
