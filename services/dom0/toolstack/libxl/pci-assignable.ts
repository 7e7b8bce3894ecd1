/**
 * `xl pci-assignable-add`, `-remove` and `-list` (libxl_pci.c): functions that pciback holds, quarantined with DOMID_IO until
 * a guest gets them.
 * Deviates from libxl: what cannot be quarantined is not left bound to pciback.
 */
import { XEN_DOMCTL_DEV_RDM_RELAXED } from '#shared/abi/domctl.ts';
import { DOMID_IO } from '#shared/abi/hypercall.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf, parseSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { sharingOf } from '../../kernel/acs.ts';
import { type Libxl, LibxlFailed, type Log, RC } from './context.ts';
import { pciInfoPath } from './xenstore-layout.ts';

const NAME_BYTES_MAX = 64;

/** Whether pciback holds a function and no guest has it. */
export function* isAssignable(ctx: Libxl, s: Sbdf): Op<boolean> {
  if (ctx.kernel.sysfs.drivers.driverOf(s) !== 'pciback') return false;
  return (yield* ctx.kernel.store.readOrUndefined(`${pciInfoPath(s)}/domid`)) === undefined;
}

/** The function with that name, from what assignable-add recorded. */
export function* resolveName(ctx: Libxl, name: string): Op<Sbdf | undefined> {
  const { store } = ctx.kernel;
  for (const node of yield* store.directoryOrEmpty('/libxl/pci')) {
    if ((yield* store.readOrUndefined(`/libxl/pci/${node}/name`)) !== name) continue;
    return parseSbdf(node.replace(/^(.{4})-(..)-(..)-(.)$/, '$1:$2:$3.$4'));
  }
  return undefined;
}

export function* assignableName(ctx: Libxl, s: Sbdf): Op<string> {
  return (yield* ctx.kernel.store.readOrUndefined(`${pciInfoPath(s)}/name`)) ?? '';
}

/** Assignable functions in ascending order. */
export function* pciAssignableList(ctx: Libxl): Op<{ sbdf: Sbdf; name: string }[]> {
  const list: { sbdf: Sbdf; name: string }[] = [];
  for (const s of ctx.kernel.sysfs.drivers.boundTo('pciback')) {
    if (yield* isAssignable(ctx, s)) list.push({ sbdf: s, name: yield* assignableName(ctx, s) });
  }
  return list;
}

/** `rebind` remembers the driver that had it. */
export function* pciAssignableAdd(ctx: Libxl, log: Log, s: Sbdf, name: string, rebind: boolean): Op<void> {
  const { sysfs, store, hypercalls } = ctx.kernel;
  const { drivers } = sysfs;
  const bdf = formatSbdf(s);
  checkName(log, name);
  if (!sysfs.exists(s)) {
    log.error(`Couldn't lstat /sys/bus/pci/devices/${bdf}: No such file or directory`);
    throw new LibxlFailed(RC.FAIL);
  }
  const before = drivers.driverOf(s);
  if (before === 'pciback') log.warning(`${bdf} already assigned to pciback`);
  else {
    yield* drivers.unbind(s);
    if (rebind && before !== '') yield* store.write(`${pciInfoPath(s)}/driver_path`, `/sys/bus/pci/drivers/${before}`);
    if (before === '') log.warning(`${bdf} not bound to a driver, will not be rebound.`);
    try {
      yield* drivers.bind('pciback', s);
    } catch (error) {
      ctx.kernel.runtime.trace('libxl.bind_failed', { sbdf: bdf, error: String(error) });
      log.error("Couldn't bind device to pciback!");
      if (before !== '') yield* drivers.bind(before, s);
      throw new LibxlFailed(RC.FAIL);
    }
  }
  warn(ctx, log, s);
  // What a guest has is not dom0's to quarantine again.
  const held = (yield* store.readOrUndefined(`${pciInfoPath(s)}/domid`)) !== undefined;
  try {
    if (!held) yield* hypercalls.assign_device(DOMID_IO, s, undefined, XEN_DOMCTL_DEV_RDM_RELAXED);
  } catch (error) {
    ctx.kernel.runtime.trace('libxl.quarantine_failed', { sbdf: bdf, error: String(error) });
    log.error(`failed to quarantine ${bdf}`);
    if (before !== 'pciback') yield* giveBack(ctx, s, before);
    throw new LibxlFailed(RC.FAIL);
  }
  // The directory that claims of it will stand in; it stays until pci-assignable-remove.
  yield* store.mkdir(pciInfoPath(s));
  if (name !== '') yield* store.write(`${pciInfoPath(s)}/name`, name);
}

/** What whoever gives it to a guest should know; none of it keeps it from being assignable. */
function warn({ kernel, pool }: Libxl, log: Log, s: Sbdf): void {
  const bdf = formatSbdf(s);
  if (!pool.isReady(s)) log.warning(`${bdf} did not come out of its reset`);
  const fn = kernel.functions.get(s);
  const sharing = fn === undefined ? undefined : sharingOf(kernel.functions, fn);
  if (sharing === undefined) return;
  const peers = sharing.peers.map(formatSbdf).join(', ');
  const missing = `no ACS at ${formatSbdf(sharing.missingAt)}`;
  log.warning(`${bdf} is not isolated from ${peers}: ${missing}; DMA between them need not pass the SMMU`);
}

function* giveBack(ctx: Libxl, s: Sbdf, driver: string): Op<void> {
  const { drivers } = ctx.kernel.sysfs;
  yield* drivers.unbind(s);
  if (driver !== '') yield* drivers.bind(driver, s);
}

/** `rebind` gives it back to the driver that had it. */
export function* pciAssignableRemove(ctx: Libxl, log: Log, s: Sbdf, rebind: boolean): Op<void> {
  const { sysfs, store, hypercalls } = ctx.kernel;
  const bdf = formatSbdf(s);
  const bound = sysfs.drivers.driverOf(s) === 'pciback';
  if (bound) {
    try {
      yield* hypercalls.deassign_device(DOMID_IO, s);
    } catch (error) {
      ctx.kernel.runtime.trace('libxl.dequarantine_failed', { sbdf: bdf, error: String(error) });
      log.error(`failed to de-quarantine ${bdf}`);
      throw new LibxlFailed(RC.FAIL);
    }
    yield* sysfs.drivers.unbind(s);
  } else log.warning('Not bound to pciback');
  const driver = (yield* store.readOrUndefined(`${pciInfoPath(s)}/driver_path`))?.split('/').at(-1);
  if (rebind && driver === undefined) log.warning("Couldn't find path for original driver; not rebinding");
  if (rebind && driver !== undefined && sysfs.drivers.driverOf(s) === '') yield* sysfs.drivers.bind(driver, s);
  if ((yield* store.readOrUndefined(pciInfoPath(s))) !== undefined) yield* store.rm(pciInfoPath(s));
}

function checkName(log: Log, name: string): void {
  if (name.length > NAME_BYTES_MAX) {
    log.error('Name too long');
    throw new LibxlFailed(RC.INVAL);
  }
  if (!/^[!-~]*$/.test(name)) {
    log.error('Names may only include printable characters');
    throw new LibxlFailed(RC.INVAL);
  }
}
