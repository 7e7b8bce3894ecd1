/** Hypercall numbers and reserved domain ids (xen/include/public/xen.h). */
export const HYPERCALL = {
  memory_op: 12,
  xen_version: 17,
  grant_table_op: 20,
  sched_op: 29,
  event_channel_op: 32,
  physdev_op: 33,
  hvm_op: 34,
  sysctl: 35,
  domctl: 36,
} as const;

export const DOMID_FIRST_RESERVED = 0x7ff0;
export const DOMID_SELF = 0x7ff0;
export const DOMID_IO = 0x7ff1;
export const DOMID_XEN = 0x7ff2;
export const DOMID_INVALID = 0x7ff4;

/** Virtual interrupts of Xen (xen.h, VIRQ_*). */
export const VIRQ_DOM_EXC = 3;
