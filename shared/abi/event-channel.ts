/** xen/include/public/event_channel.h and the 2-level part of the shared info page (xen.h, 64-bit layout). */
import { struct, u16, u32 } from './layout.ts';

export const EVTCHNOP = {
  bind_interdomain: 0,
  bind_virq: 1,
  close: 3,
  send: 4,
  status: 5,
  alloc_unbound: 6,
  unmask: 9,
  reset: 10,
} as const;

export const evtchn_bind_interdomain = struct({ remote_dom: u16, remote_port: u32, local_port: u32 });
export const evtchn_bind_virq = struct({ virq: u32, vcpu: u32, port: u32 });
export const evtchn_port_arg = struct({ port: u32 });
export const evtchn_status = struct({ dom: u16, port: u32, status: u32, vcpu: u32, remote_dom: u16, remote_port: u32 });
export const evtchn_alloc_unbound = struct({ dom: u16, remote_dom: u16, port: u32 });

export const EVTCHNSTAT = { closed: 0, unbound: 1, interdomain: 2, pirq: 3, virq: 4, ipi: 5 } as const;

/** Ports of the 2-level ABI with 64-bit words. */
export const EVTCHN_2L_NR_CHANNELS = 4096;

/**
 * Byte offsets in the shared info page: vcpu_info[n] at n * 64 (upcall_pending u8 at 0, upcall_mask u8 at 1,
 * pending_sel u64 at 8), then evtchn_pending[64] and evtchn_mask[64].
 */
export const SHARED_INFO = {
  vcpu_info_bytes: 64,
  evtchn_upcall_pending: 0,
  evtchn_upcall_mask: 1,
  evtchn_pending_sel: 8,
  evtchn_pending: 0x800,
  evtchn_mask: 0xa00,
} as const;
