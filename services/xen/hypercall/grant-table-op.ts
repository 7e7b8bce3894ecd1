/**
 * HYPERVISOR_grant_table_op: the argument is an array of as many structures as fit, each with its own status; what it
 * does is grant/grant-table.ts.
 */
import {
  GNTST,
  GNTTABOP,
  gnttab_map_grant_ref,
  gnttab_query_size,
  gnttab_unmap_grant_ref,
} from '#shared/abi/grant-table.ts';
import { DOMID_SELF } from '#shared/abi/hypercall.ts';
import type { Op } from '#shared/core/op.ts';
import type { Domain } from '../domain/domain.ts';
import { check, XenError } from '../error.ts';
import type { XenParts } from './context.ts';

export function* grantTableOp(xen: XenParts, caller: Domain, cmd: number, arg: Uint8Array): Op<number> {
  switch (cmd) {
    case GNTTABOP.map_grant_ref:
      for (const at of entries(arg, gnttab_map_grant_ref.size)) {
        const m = gnttab_map_grant_ref.decode(arg, at);
        const granter = m.dom === DOMID_SELF ? caller : xen.domains.get(m.dom);
        if (granter === undefined) {
          gnttab_map_grant_ref.encodeInto(arg, { status: GNTST.bad_domain }, at);
          continue;
        }
        const done = yield* caller.grants.map(granter, { hostAddr: m.host_addr, flags: m.flags, ref: m.ref });
        const out = { status: done.status, handle: done.handle, dev_bus_addr: done.devBusAddr };
        gnttab_map_grant_ref.encodeInto(arg, out, at);
      }
      return 0;
    case GNTTABOP.unmap_grant_ref:
      for (const at of entries(arg, gnttab_unmap_grant_ref.size)) {
        const u = gnttab_unmap_grant_ref.decode(arg, at);
        const status = yield* caller.grants.unmap(u.host_addr, u.handle);
        gnttab_unmap_grant_ref.encodeInto(arg, { status }, at);
      }
      return 0;
    case GNTTABOP.query_size: {
      const { dom } = gnttab_query_size.decode(arg);
      const target = dom === DOMID_SELF || dom === caller.domid ? caller : xen.domains.get(dom);
      if (target === undefined) {
        gnttab_query_size.encodeInto(arg, { status: GNTST.bad_domain });
        return 0;
      }
      if (target !== caller && !caller.privileged) {
        gnttab_query_size.encodeInto(arg, { status: GNTST.permission_denied });
        return 0;
      }
      const { frameCount, frameMax } = target.grants;
      gnttab_query_size.encodeInto(arg, { nr_frames: frameCount, max_nr_frames: frameMax, status: GNTST.okay });
      return 0;
    }
    default:
      throw new XenError('ENOSYS', `grant_table_op ${cmd}`);
  }
}

function entries(arg: Uint8Array, sizeBytes: number): number[] {
  const count = Math.floor(arg.length / sizeBytes);
  check(count > 0, 'EFAULT', `${arg.length} bytes hold no entry`);
  return Array.from({ length: count }, (_, i) => i * sizeBytes);
}
