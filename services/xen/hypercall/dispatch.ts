/** A hypercall's number to its handler, its errors to an errno, and its name in the counts. */

import type { HypercallRequest } from '#gen/xen.ts';
import { XEN_DOMCTL, xen_domctl } from '#shared/abi/domctl.ts';
import { ERRNO } from '#shared/abi/errno.ts';
import { EVTCHNOP } from '#shared/abi/event-channel.ts';
import { GNTTABOP } from '#shared/abi/grant-table.ts';
import { HVMOP } from '#shared/abi/hvm.ts';
import { HYPERCALL } from '#shared/abi/hypercall.ts';
import { XENMEM } from '#shared/abi/memory.ts';
import { PHYSDEVOP } from '#shared/abi/physdev.ts';
import { SCHEDOP } from '#shared/abi/sched.ts';
import { type Body, body } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { ItsError } from '#shared/kernel/its-driver.ts';
import type { Counts } from '../counts.ts';
import type { Domain } from '../domain/domain.ts';
import { El2Fault } from '../el2.ts';
import { XenError } from '../error.ts';
import type { Handler, XenParts } from './context.ts';
import { domctl } from './domctl.ts';
import { eventChannelOp } from './event-channel-op.ts';
import { grantTableOp } from './grant-table-op.ts';
import { memoryOp } from './memory-op.ts';
import { physdevOp } from './physdev-op.ts';
import { hvmOp, schedOp, xenVersion } from './small-ops.ts';

interface Entry {
  readonly name: string;
  readonly commands: Readonly<Record<string, number>>;
  readonly handler: Handler;
}

const TABLE: ReadonlyMap<number, Entry> = new Map([
  [HYPERCALL.memory_op, { name: 'memory_op', commands: XENMEM, handler: memoryOp }],
  [HYPERCALL.xen_version, { name: 'xen_version', commands: { version: 0 }, handler: xenVersion }],
  [HYPERCALL.grant_table_op, { name: 'grant_table_op', commands: GNTTABOP, handler: grantTableOp }],
  [HYPERCALL.sched_op, { name: 'sched_op', commands: SCHEDOP, handler: schedOp }],
  [HYPERCALL.event_channel_op, { name: 'event_channel_op', commands: EVTCHNOP, handler: eventChannelOp }],
  [HYPERCALL.physdev_op, { name: 'physdev_op', commands: PHYSDEVOP, handler: physdevOp }],
  [HYPERCALL.hvm_op, { name: 'hvm_op', commands: HVMOP, handler: hvmOp }],
  [HYPERCALL.domctl, { name: 'domctl', commands: XEN_DOMCTL, handler: domctl }],
]);

/** `domctl.assign_device`, or the numbers where we have no name. */
export function hypercallName(request: HypercallRequest): string {
  const entry = TABLE.get(request.number);
  if (entry === undefined) return `hypercall ${request.number}`;
  let { cmd } = request;
  // A domctl names its command inside the structure.
  if (entry.handler === domctl && request.arg.length >= xen_domctl.size) cmd = xen_domctl.decode(request.arg).cmd;
  const name = Object.entries(entry.commands).find(([, number]) => number === cmd)?.[0];
  return `${entry.name}.${name ?? cmd}`;
}

/** One hypercall of `caller`. A caller that is paused waits; one that stopped is Refused. */
export function* hypercall(xen: XenParts, counts: Counts, caller: Domain, request: HypercallRequest): Op<Body> {
  yield* caller.running();
  const name = hypercallName(request);
  counts.add('hypercalls', name);
  const arg = request.arg.slice();
  let result: number;
  try {
    const entry = TABLE.get(request.number);
    if (entry === undefined) throw new XenError('ENOSYS', name);
    const answer = entry.handler(xen, caller, request.cmd, arg);
    result = typeof answer === 'number' ? answer : yield* answer;
  } catch (error) {
    if (error instanceof XenError) result = -error.errno;
    else if (error instanceof RangeError) result = -ERRNO.EFAULT;
    else if (error instanceof El2Fault || error instanceof ItsError) result = -ERRNO.EIO;
    else throw error;
    xen.runtime.trace('hypercall_failed', { caller: caller.domid, name, result, error: String(error) });
  }
  return body('hypercallReply', { result, arg });
}
