/** xen/include/public/physdev.h, and the calls of Draft 1 of the passthrough design (T3, T6, T7). */
import { array, s32, struct, u8, u16, u32, u64 } from './layout.ts';

export const PHYSDEVOP = {
  pci_device_add: 25,
  pci_device_remove: 26,
  pci_device_reset: 32,
  /** Draft 1: policy `identity` only. */
  map_mmio: 40,
  unmap_mmio: 41,
  map_sbdf: 43,
  /** T3: binds a segment number of dom0 to the bridge with that configuration window. */
  pci_host_bridge_add: 44,
} as const;

export const physdev_pci_device_add = struct({
  seg: u16,
  bus: u8,
  devfn: u8,
  flags: u32,
  physfn_bus: u8,
  physfn_devfn: u8,
  /** optarr[0], the NUMA node, when XEN_PCI_DEV_PXM is set. */
  optarr: array(u32, 1),
});
export const XEN_PCI_DEV = { extfn: 1, virtfn: 2, pxm: 4 } as const;
export const physdev_pci_device = struct({ seg: u16, bus: u8, devfn: u8 });
export const physdev_pci_device_reset = struct({ seg: u16, bus: u8, devfn: u8, flags: u32 });
export const physdev_pci_host_bridge_add = struct({ seg: u16, cfg_base: u64, cfg_size: u64 });
export const physdev_map_sbdf = struct({
  domain_id: s32,
  sbdf_s: s32,
  sbdf_b: s32,
  sbdf_d: s32,
  sbdf_f: s32,
  gsbdf_s: s32,
  gsbdf_b: s32,
  gsbdf_d: s32,
  gsbdf_f: s32,
});
