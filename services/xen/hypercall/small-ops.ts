/**
 * sched_op, hvm_op and xen_version (xen/common/sched/core.c, xen/arch/arm/hvm.c, xen/common/kernel.c).
 * Not modelled: SCHEDOP_poll and remote_shutdown, other HVM operations, other xen_version queries: ENOSYS.
 */
import { HVMOP, xen_hvm_param } from '#shared/abi/hvm.ts';
import { SCHEDOP, SHUTDOWN, sched_shutdown, sched_watchdog } from '#shared/abi/sched.ts';
import type { Op } from '#shared/core/op.ts';
import type { Domain, ShutdownCode } from '../domain/domain.ts';
import { check, XenError } from '../error.ts';
import { needPrivilege, targetOf, type XenParts } from './context.ts';

const SECOND_NS = 1e9;
/** HVM_NR_PARAMS */
const HVM_PARAMS = 39;
const XENVER_version = 0;

export function* schedOp(xen: XenParts, caller: Domain, cmd: number, arg: Uint8Array): Op<number> {
  switch (cmd) {
    case SCHEDOP.yield:
    case SCHEDOP.block:
      return 0;
    case SCHEDOP.shutdown: {
      const { reason } = sched_shutdown.decode(arg);
      check(reason <= SHUTDOWN.watchdog, 'EINVAL', `shutdown reason ${reason}`);
      yield* xen.lifecycle.shutdown(caller, reason as ShutdownCode);
      return 0;
    }
    case SCHEDOP.watchdog: {
      const { id, timeout } = sched_watchdog.decode(arg);
      return watchdog(xen, caller, id, timeout);
    }
    default:
      throw new XenError('ENOSYS', `sched_op ${cmd}`);
  }
}

/** domain_watchdog: id 0 takes a free timer and answers its id, an id with 0 ends it, with a time starts it again. */
function watchdog(xen: XenParts, domain: Domain, id: number, timeoutSeconds: number): number {
  const { watchdogs } = domain;
  check(id <= watchdogs.length, 'EINVAL', `watchdog ${id}`);
  let slot = id - 1;
  if (id === 0) {
    if (timeoutSeconds === 0) return 0;
    slot = watchdogs.indexOf(undefined);
    check(slot >= 0, 'ENOSPC', `d${domain.domid} has ${watchdogs.length} watchdogs`);
  } else {
    check(watchdogs[slot] !== undefined, 'EINVAL', `watchdog ${id} does not run`);
    watchdogs[slot]?.();
    watchdogs[slot] = undefined;
    if (timeoutSeconds === 0) return 0;
  }
  watchdogs[slot] = xen.runtime.at(xen.runtime.now + timeoutSeconds * SECOND_NS, () => {
    watchdogs[slot] = undefined;
    xen.runtime.spawn(`watchdog of d${domain.domid}`, xen.lifecycle.shutdown(domain, SHUTDOWN.watchdog));
  });
  return id === 0 ? slot + 1 : 0;
}

export function hvmOp(xen: XenParts, caller: Domain, cmd: number, arg: Uint8Array): number {
  check(cmd === HVMOP.set_param || cmd === HVMOP.get_param, 'ENOSYS', `hvm_op ${cmd}`);
  const { domid, index, value } = xen_hvm_param.decode(arg);
  const target = targetOf(xen, caller, domid);
  check(index < HVM_PARAMS, 'EINVAL', `HVM parameter ${index}`);
  if (cmd === HVMOP.set_param) {
    needPrivilege(caller, 'HVMOP_set_param');
    target.hvmParams.set(index, value);
  } else xen_hvm_param.encodeInto(arg, { value: target.hvmParams.get(index) ?? 0 });
  return 0;
}

export function xenVersion(_xen: XenParts, _caller: Domain, cmd: number): number {
  check(cmd === XENVER_version, 'ENOSYS', `xen_version ${cmd}`);
  return (4 << 16) | 23;
}
