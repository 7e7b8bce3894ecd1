/**
 * What `xl` may ask of the toolstack: one function a request, each answered with libxl's return code and the lines that
 * libxl would log.
 */

import type { DomainInfo, PciListEntry, PciSpec, ToolstackReply } from '#gen/toolstack.ts';
import { XEN_DOMINF, XEN_DOMINF_shutdownshift } from '#shared/abi/domctl.ts';
import { SHUTDOWN } from '#shared/abi/sched.ts';
import { type Body, body } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf, sbdf as makeSbdf, parseSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { failedWith, type DomainInfo as XenDomainInfo } from '#shared/kernel/hypercalls.ts';
import { type Guest, type Libxl, LibxlFailed, Log, RC, reasonOf } from './libxl/context.ts';
import { domainCreate, formatUuid } from './libxl/domain-create.ts';
import { domainDestroy } from './libxl/domain-destroy.ts';
import { pciAdd } from './libxl/pci-add.ts';
import { pciAssignableAdd, pciAssignableList, pciAssignableRemove, resolveName } from './libxl/pci-assignable.ts';
import { pciRemove } from './libxl/pci-remove.ts';
import { lowestFunction } from './libxl/pci-steps.ts';
import { backendPath } from './libxl/xenstore-layout.ts';

const PAGES_PER_MIB = 256;

/** A toolstack request as an operation; undefined for a message that is none. */
export function serveToolstack(ctx: Libxl, request: Body): Op<Body> | undefined {
  switch (request.$case) {
    case 'createDomainRequest': {
      const { config, paused } = request.value;
      if (config === undefined) return undefined;
      return answer((log) => create(ctx, log, config, paused));
    }
    case 'destroyDomainRequest':
      return answer((log) => domainDestroy(ctx, log, request.value.domid));
    case 'listDomainsRequest':
      return answer(() => listDomains(ctx));
    case 'pauseDomainRequest':
      return answer((log) => pauseDomain(ctx, log, request.value.domid, request.value.unpause));
    case 'pciAttachRequest': {
      const { domid, spec } = request.value;
      return spec === undefined ? undefined : answer((log) => attach(ctx, log, domid, spec));
    }
    case 'pciDetachRequest': {
      const { domid, spec, force } = request.value;
      return spec === undefined ? undefined : answer((log) => detach(ctx, log, domid, spec, force));
    }
    case 'pciListRequest':
      return answer(() => pciList(ctx, request.value.domid));
    case 'pciAssignableAddRequest': {
      const { spec, name } = request.value;
      return spec === undefined ? undefined : answer((log) => pciAssignableAdd(ctx, log, sbdfOf(spec), name, true));
    }
    case 'pciAssignableRemoveRequest': {
      const { spec, name, rebind } = request.value;
      return answer((log) => assignableRemove(ctx, log, spec, name, rebind));
    }
    case 'pciAssignableListRequest':
      return answer(() => assignableList(ctx));
    default:
      return undefined;
  }
}

/** Runs a request and makes its reply; what fails unexpectedly is an error line and ERROR_FAIL. */
function* answer(op: (log: Log) => Op<Partial<ToolstackReply>> | Op<void>): Op<Body> {
  const log = new Log();
  const reply: ToolstackReply = { rc: 0, log: log.lines, domid: 0, domains: [], pci: [] };
  try {
    Object.assign(reply, (yield* op(log)) ?? {});
  } catch (error) {
    if (!(error instanceof LibxlFailed)) log.error(reasonOf(error));
    reply.rc = error instanceof LibxlFailed ? error.rc : RC.FAIL;
  }
  return body('toolstackReply', reply);
}

type Reply = Partial<ToolstackReply>;

function* create(ctx: Libxl, log: Log, config: Parameters<typeof domainCreate>[2], paused: boolean): Op<Reply> {
  return { domid: yield* domainCreate(ctx, log, config, paused) };
}

function guestOf(ctx: Libxl, log: Log, domid: number): Guest {
  const guest = ctx.guests.get(domid);
  if (guest !== undefined) return guest;
  log.error(`Domain ${domid}:Non-existent domain`);
  throw new LibxlFailed(RC.DOMAIN_NOTFOUND);
}

function* attach(ctx: Libxl, log: Log, domid: number, spec: PciSpec): Op<void> {
  yield* pciAdd(ctx, log, guestOf(ctx, log, domid), spec);
}

function* detach(ctx: Libxl, log: Log, domid: number, spec: PciSpec, force: boolean): Op<void> {
  yield* pciRemove(ctx, log, guestOf(ctx, log, domid), spec, force);
}

function* pauseDomain(ctx: Libxl, log: Log, domid: number, unpause: boolean): Op<void> {
  const { hypercalls } = ctx.kernel;
  try {
    yield* unpause ? hypercalls.unpausedomain(domid) : hypercalls.pausedomain(domid);
  } catch (error) {
    log.errorWith(`Domain ${domid}:${unpause ? 'unpausing' : 'pausing'} domain`, error);
    throw new LibxlFailed(RC.FAIL);
  }
  const guest = ctx.guests.get(domid);
  if (unpause && guest !== undefined) guest.started = true;
}

function* listDomains(ctx: Libxl): Op<Reply> {
  const { store, hypercalls } = ctx.kernel;
  const ids = (yield* store.directoryOrEmpty('/local/domain')).map(Number).sort((a, b) => a - b);
  const domains: DomainInfo[] = [];
  for (const domid of ids) {
    try {
      const info = yield* hypercalls.getdomaininfo(domid);
      domains.push({
        domid,
        name: (yield* store.readOrUndefined(`/local/domain/${domid}/name`)) ?? '',
        memoryMib: Math.floor((info.tot_pages + info.outstanding_pages) / PAGES_PER_MIB),
        vcpus: info.nr_online_vcpus,
        state: stateLetters(info),
        cpuSeconds: info.cpu_time / 1e9,
        uuid: formatUuid(info.handle),
      });
    } catch (error) {
      if (!failedWith(error, 'ESRCH')) throw error;
    }
  }
  return { domains };
}

/** `r b p s reason d` as `xl list` shows them. */
function stateLetters(info: XenDomainInfo): string {
  const flag = (bit: number, letter: string): string => ((info.flags & bit) === 0 ? '-' : letter);
  const reason = (info.flags >>> XEN_DOMINF_shutdownshift) & 0xff;
  const reasons: Record<number, string> = {
    [SHUTDOWN.poweroff]: '-',
    [SHUTDOWN.reboot]: 'r',
    [SHUTDOWN.suspend]: 's',
    [SHUTDOWN.crash]: 'c',
    [SHUTDOWN.watchdog]: 'w',
  };
  const why = (info.flags & XEN_DOMINF.shutdown) === 0 ? '-' : (reasons[reason] ?? '?');
  return [
    flag(XEN_DOMINF.running, 'r'),
    flag(XEN_DOMINF.blocked, 'b'),
    flag(XEN_DOMINF.paused, 'p'),
    flag(XEN_DOMINF.shutdown, 's'),
    why,
    flag(XEN_DOMINF.dying, 'd'),
  ].join('');
}

/** From the store only, as xl does: a function without a chosen slot has no vdevfn-N. */
function* pciList(ctx: Libxl, domid: number): Op<Reply> {
  const { store } = ctx.kernel;
  const back = backendPath(domid);
  const count = Number((yield* store.readOrUndefined(`${back}/num_devs`)) ?? 0);
  const pci: PciListEntry[] = [];
  for (let i = 0; i < count; i++) {
    const s = parseSbdf((yield* store.readOrUndefined(`${back}/dev-${i}`)) ?? '');
    if (s === undefined) continue;
    const vdevfn = Number.parseInt((yield* store.readOrUndefined(`${back}/vdevfn-${i}`)) ?? '0', 16);
    pci.push({ sbdf: s, vdevfn, name: (yield* store.readOrUndefined(`${back}/name-${i}`)) ?? '' });
  }
  return { pci };
}

function* assignableList(ctx: Libxl): Op<Reply> {
  const list = yield* pciAssignableList(ctx);
  return { pci: list.map(({ sbdf, name }) => ({ sbdf, name, vdevfn: 0 })) };
}

function* assignableRemove(ctx: Libxl, log: Log, spec: PciSpec | undefined, name: string, rebind: boolean): Op<void> {
  const named = name === '' ? undefined : yield* resolveName(ctx, name);
  const s = named ?? (spec === undefined ? parseSbdf(name) : sbdfOf(spec));
  if (s === undefined) throw new LibxlFailed(RC.NOTFOUND);
  ctx.kernel.runtime.trace('libxl.assignable_remove', { sbdf: formatSbdf(s) });
  yield* pciAssignableRemove(ctx, log, s, rebind);
}

function sbdfOf(spec: PciSpec): Sbdf {
  return makeSbdf(spec.segment, spec.bus, spec.device, lowestFunction(spec));
}
