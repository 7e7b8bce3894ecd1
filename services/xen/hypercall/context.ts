/** What the hypercall handlers work on, and checks that several of them share. */
import { DOMID_SELF } from '#shared/abi/hypercall.ts';
import type { Lock, Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Domain } from '../domain/domain.ts';
import type { Domains } from '../domain/domains.ts';
import type { Lifecycle } from '../domain/lifecycle.ts';
import type { El2 } from '../el2.ts';
import { check, XenError } from '../error.ts';
import type { GuestIrqs } from '../irq.ts';
import type { Frames } from '../mm/frames.ts';
import type { PciDevices } from '../passthrough/assign.ts';
import type { HostBridges } from '../passthrough/host-bridge.ts';

export interface XenParts {
  readonly runtime: Runtime;
  readonly el2: El2;
  readonly frames: Frames;
  readonly domains: Domains;
  readonly lifecycle: Lifecycle;
  readonly pciDevices: PciDevices;
  readonly hostBridges: HostBridges;
  readonly irqs: GuestIrqs;
  /** Xen's domctl_lock. */
  readonly domctlLock: Lock;
}

/**
 * A handler of one hypercall: `cmd` as the caller gave it, `arg` its own copy of the argument, which goes back as the
 * handler leaves it. Returns x0; throws XenError for a negative errno. A RangeError (an argument that is too short)
 * is EFAULT.
 */
export type Handler = (xen: XenParts, caller: Domain, cmd: number, arg: Uint8Array) => Op<number> | number;

/** XSM_PRIV. Throws XenError EPERM. */
export function needPrivilege(caller: Domain, what: string): void {
  check(caller.privileged, 'EPERM', `${what} by d${caller.domid}`);
}

/**
 * XSM_TARGET: the domain that `domid` names, which is the caller or one that the caller is privileged over.
 * Throws XenError ESRCH (to a privileged caller), EPERM (to everybody else: it learns nothing of who exists).
 */
export function targetOf(xen: XenParts, caller: Domain, domid: number): Domain {
  if (domid === DOMID_SELF || domid === caller.domid) return caller;
  needPrivilege(caller, `a call on d${domid}`);
  const target = xen.domains.get(domid);
  if (target === undefined) throw new XenError('ESRCH', `d${domid}`);
  return target;
}
