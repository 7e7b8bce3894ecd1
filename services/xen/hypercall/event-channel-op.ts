/** HYPERVISOR_event_channel_op: arguments in and out; what it does is evtchn/event-channel.ts. */
import {
  EVTCHNOP,
  evtchn_alloc_unbound,
  evtchn_bind_interdomain,
  evtchn_bind_virq,
  evtchn_port_arg,
  evtchn_status,
} from '#shared/abi/event-channel.ts';
import { DOMID_SELF } from '#shared/abi/hypercall.ts';
import { u16 } from '#shared/abi/layout.ts';
import type { Op } from '#shared/core/op.ts';
import type { Domain } from '../domain/domain.ts';
import { check, XenError } from '../error.ts';
import { targetOf, type XenParts } from './context.ts';

export function* eventChannelOp(xen: XenParts, caller: Domain, cmd: number, arg: Uint8Array): Op<number> {
  const { evtchn } = caller;
  switch (cmd) {
    case EVTCHNOP.alloc_unbound: {
      const a = evtchn_alloc_unbound.decode(arg);
      const target = targetOf(xen, caller, a.dom);
      check(!target.dying, 'EINVAL', `d${target.domid} is dying`);
      const remoteDomid = a.remote_dom === DOMID_SELF ? caller.domid : a.remote_dom;
      evtchn_alloc_unbound.encodeInto(arg, { port: target.evtchn.allocUnbound(remoteDomid) });
      return 0;
    }
    case EVTCHNOP.bind_interdomain: {
      const a = evtchn_bind_interdomain.decode(arg);
      const remote = a.remote_dom === DOMID_SELF ? caller : xen.domains.get(a.remote_dom);
      check(remote !== undefined && !remote.dying, 'ESRCH', `d${a.remote_dom}`);
      const port = yield* evtchn.bindInterdomain(remote, a.remote_port);
      evtchn_bind_interdomain.encodeInto(arg, { local_port: port });
      return 0;
    }
    case EVTCHNOP.bind_virq: {
      const a = evtchn_bind_virq.decode(arg);
      evtchn_bind_virq.encodeInto(arg, { port: evtchn.bindVirq(a.virq, a.vcpu) });
      return 0;
    }
    case EVTCHNOP.close:
      yield* evtchn.close(evtchn_port_arg.decode(arg).port);
      return 0;
    case EVTCHNOP.send:
      yield* evtchn.send(evtchn_port_arg.decode(arg).port);
      return 0;
    case EVTCHNOP.unmask:
      yield* evtchn.unmask(evtchn_port_arg.decode(arg).port);
      return 0;
    case EVTCHNOP.status: {
      const a = evtchn_status.decode(arg);
      const s = targetOf(xen, caller, a.dom).evtchn.status(a.port);
      evtchn_status.encodeInto(arg, {
        status: s.status,
        vcpu: s.vcpu,
        remote_dom: s.remoteDomid,
        remote_port: s.remotePort,
      });
      return 0;
    }
    case EVTCHNOP.reset: {
      const domid = u16.get(new DataView(arg.buffer, arg.byteOffset, arg.byteLength), 0);
      yield* targetOf(xen, caller, domid).evtchn.reset();
      return 0;
    }
    default:
      throw new XenError('ENOSYS', `event_channel_op ${cmd}`);
  }
}
