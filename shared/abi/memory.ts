/** xen/include/public/memory.h: XENMEM_* and their argument structures. Handles are byte offsets into the argument. */
import { struct, u16, u32, u64 } from './layout.ts';

export const XENMEM = {
  decrease_reservation: 1,
  populate_physmap: 6,
  add_to_physmap: 7,
  remove_from_physmap: 15,
  add_to_physmap_batch: 23,
} as const;

/** Used by populate_physmap (extents are the GFNs wanted) and decrease_reservation. */
export const xen_memory_reservation = struct({
  extent_start: u64,
  nr_extents: u64,
  extent_order: u32,
  mem_flags: u32,
  domid: u16,
});
export const xen_add_to_physmap = struct({ domid: u16, size: u16, space: u32, idx: u64, gpfn: u64 });
export const xen_remove_from_physmap = struct({ domid: u16, gpfn: u64 });
export const xen_add_to_physmap_batch = struct({
  domid: u16,
  space: u16,
  size: u16,
  foreign_domid: u16,
  idxs: u64,
  gpfns: u64,
  errs: u64,
});

export const XENMAPSPACE = {
  shared_info: 0,
  grant_table: 1,
  gmfn: 2,
  gmfn_range: 3,
  gmfn_foreign: 4,
  dev_mmio: 5,
} as const;
