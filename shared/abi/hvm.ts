/** xen/include/public/hvm/hvm_op.h and params.h */
import { struct, u16, u32, u64 } from './layout.ts';

export const HVMOP = { set_param: 0, get_param: 1 } as const;
export const xen_hvm_param = struct({ domid: u16, pad0: u16, index: u32, value: u64 });
export const HVM_PARAM = { STORE_PFN: 1, STORE_EVTCHN: 2, CONSOLE_PFN: 17, CONSOLE_EVTCHN: 18 } as const;
