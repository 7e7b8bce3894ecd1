/** xen/include/public/grant_table.h, version 1 entries. */
import { s16, struct, u16, u32, u64 } from './layout.ts';

export const GNTTABOP = { map_grant_ref: 0, unmap_grant_ref: 1, setup_table: 2, query_size: 6 } as const;

/** One shared entry, 8 bytes; 512 to a frame. */
export const grant_entry_v1 = struct({ flags: u16, domid: u16, frame: u32 });
export const GRANT_ENTRIES_PER_FRAME = 512;
export const GTF = {
  type_mask: 3,
  invalid: 0,
  permit_access: 1,
  readonly: 1 << 2,
  reading: 1 << 3,
  writing: 1 << 4,
} as const;

/** Entries that the toolstack keeps for console and xenstore. */
export const GNTTAB_RESERVED = { console: 0, xenstore: 1, count: 8 } as const;

/** The argument is an array of these, `count` of them as many as fit. */
export const gnttab_map_grant_ref = struct({
  host_addr: u64,
  flags: u32,
  ref: u32,
  dom: u16,
  status: s16,
  handle: u32,
  dev_bus_addr: u64,
});
export const GNTMAP = { device_map: 1, host_map: 2, readonly: 4 } as const;
export const gnttab_unmap_grant_ref = struct({ host_addr: u64, dev_bus_addr: u64, handle: u32, status: s16 });
export const gnttab_query_size = struct({ dom: u16, pad0: u16, nr_frames: u32, max_nr_frames: u32, status: s16 });

export const GNTST = {
  okay: 0,
  general_error: -1,
  bad_domain: -2,
  bad_gntref: -3,
  bad_handle: -4,
  bad_virt_addr: -5,
  bad_dev_addr: -6,
  no_device_space: -7,
  permission_denied: -8,
  bad_page: -9,
  bad_copy_arg: -10,
  address_too_big: -11,
  eagain: -12,
  no_space: -13,
} as const;
