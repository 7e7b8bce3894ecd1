/**
 * `xl pci-detach`, and what destroy does with every device (libxl_pci.c: libxl__device_pci_remove_common).
 * Deviates from libxl, which takes the function away while the guest's driver still uses it: here the guest is told first
 * and has 10 s; then its BARs are unmapped, the permission goes, the function is deassigned, its line unbound. With force all of that happens
 * whatever the guest does. A guest that does not answer keeps the function, and the exit status says so.
 */

import type { PciSpec } from '#gen/toolstack.ts';
import { XenbusState } from '#shared/abi/xenbus.ts';
import { type Op, withLock } from '#shared/core/op.ts';
import { formatSbdf, functionOf, sbdf as makeSbdf, parseSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { DEVICE_WAIT_NS, type Guest, type Libxl, LibxlFailed, Log, RC, reasonOf } from './context.ts';
import { resolveName } from './pci-assignable.ts';
import { releaseIntx } from './pci-irq.ts';
import {
  bothConnected,
  framesOf,
  isMultiFunction,
  lowestFunction,
  mapBar,
  waitForEnds,
  withdraw,
} from './pci-steps.ts';
import { backendPath, findPciEntry, pciInfoPath, recordPath, removeWithParents } from './xenstore-layout.ts';

/** Detaches what `spec` names. Logs and throws LibxlFailed when it cannot. */
export function* pciRemove(ctx: Libxl, log: Log, guest: Guest, spec: PciSpec, force: boolean): Op<void> {
  try {
    yield* withLock(guest.lock, function* () {
      for (const s of yield* named(ctx, log, guest, spec)) yield* pciRemoveOne(ctx, log, guest, s, force);
    });
  } catch (error) {
    if (!(error instanceof LibxlFailed)) log.error(`Domain ${guest.domid}:${reasonOf(error)}`);
    log.error('unable to remove device');
    throw error instanceof LibxlFailed ? error : new LibxlFailed(RC.FAIL);
  }
}

function* named(ctx: Libxl, log: Log, guest: Guest, spec: PciSpec): Op<Sbdf[]> {
  const listed = yield* listedFunctions(ctx, guest.domid);
  if (listed === undefined) throw new LibxlFailed(RC.FAIL);
  let wanted: Sbdf[];
  if (spec.name !== '') {
    const s = yield* resolveName(ctx, spec.name);
    wanted = s === undefined ? [] : [s];
  } else {
    const first = makeSbdf(spec.segment, spec.bus, spec.device, lowestFunction(spec));
    const inMask = (s: Sbdf): boolean => s >>> 3 === first >>> 3 && (spec.functionMask & (1 << functionOf(s))) !== 0;
    wanted = isMultiFunction(spec) ? listed.filter(inMask) : [first];
  }
  if (wanted.length === 0 || !wanted.every((s) => listed.includes(s))) {
    log.error(`Domain ${guest.domid}:PCI device not attached to this domain`);
    throw new LibxlFailed(RC.INVAL);
  }
  return wanted;
}

/** The functions in a guest's backend directory; undefined without one. */
export function* listedFunctions(ctx: Libxl, domid: number): Op<Sbdf[] | undefined> {
  const { store } = ctx.kernel;
  const back = backendPath(domid);
  const count = yield* store.readOrUndefined(`${back}/num_devs`);
  if (count === undefined) return undefined;
  const listed: Sbdf[] = [];
  for (let i = 0; i < Number(count); i++) {
    const s = parseSbdf((yield* store.readOrUndefined(`${back}/dev-${i}`)) ?? '');
    if (s !== undefined) listed.push(s);
  }
  return listed;
}

/** Detaches one function. The guest's lock is held. With `force` it goes on whatever fails; what failed is logged. */
export function* pciRemoveOne(ctx: Libxl, log: Log, guest: Guest, s: Sbdf, force: boolean): Op<void> {
  const { hypercalls, store } = ctx.kernel;
  const { domid } = guest;
  if (guest.started && !guest.dead) {
    const told = yield* tellGuest(ctx, guest, s);
    if (!told) {
      log.error(`Backend ${backendPath(domid)} not ready`);
      if (!force) throw new LibxlFailed(RC.FAIL);
    }
  }
  const device = guest.devices.get(s);
  for (const bar of device?.bars ?? []) {
    const { mfn, frames } = framesOf(bar);
    yield* attempt(
      log,
      `Domain ${domid}:xc_domain_memory_mapping error removing BAR ${bar.index}`,
      mapBar(ctx, domid, bar, false),
    );
    const revoke = hypercalls.iomem_permission(domid, mfn, frames, false);
    yield* attempt(log, `Domain ${domid}:xc_domain_iomem_permission error`, revoke);
  }
  yield* attempt(log, `Domain ${domid}:xc_deassign_device failed`, hypercalls.deassign_device(domid, s));
  yield* attempt(log, `Domain ${domid}:pciback kept ${formatSbdf(s)}`, withdraw(ctx, guest, s));
  // Not before pciback has reset the function: another guest may have the line next.
  yield* attempt(log, `Domain ${domid}:xc_domain_unbind_pt_irq failed`, releaseIntx(ctx, guest, s));
  if (device !== undefined) {
    guest.holes.give(device.bars.map((b) => framesOf(b).gfn * 4096));
    guest.devices.delete(s);
  }
  yield* attempt(log, `Domain ${domid}:record of ${formatSbdf(s)}`, removeWithParents(store, recordPath(domid, s)));
  yield* attempt(log, `Domain ${domid}:claim of ${formatSbdf(s)}`, store.rm(`${pciInfoPath(s)}/domid`));
}

/** Has the guest let go of a function. False, and the entry as it was before, when it does not in time. */
function* tellGuest(ctx: Libxl, guest: Guest, s: Sbdf): Op<boolean> {
  const { store } = ctx.kernel;
  const back = backendPath(guest.domid);
  if (!(yield* waitForEnds(ctx, guest, DEVICE_WAIT_NS, (e) => e.backend === XenbusState.Connected))) return false;
  yield* store.transaction(function* (tx) {
    const { index } = yield* findPciEntry(tx, guest.domid, s);
    if (index < 0) return;
    yield* tx.write(`${back}/state-${index}`, `${XenbusState.Closing}`);
    yield* tx.write(`${back}/state`, `${XenbusState.Reconfiguring}`);
  });
  if (yield* waitForEnds(ctx, guest, DEVICE_WAIT_NS, bothConnected)) return true;
  yield* store.transaction(function* (tx) {
    const { index } = yield* findPciEntry(tx, guest.domid, s);
    const state = index < 0 ? undefined : yield* tx.readOrUndefined(`${back}/state`);
    if (state !== `${XenbusState.Reconfiguring}`) return;
    yield* tx.write(`${back}/state-${index}`, `${XenbusState.Initialised}`);
    yield* tx.write(`${back}/state`, `${XenbusState.Connected}`);
  });
  return false;
}

function* attempt(log: Log, text: string, op: Op<void>): Op<void> {
  try {
    yield* op;
  } catch (error) {
    log.errorWith(text, error);
  }
}

/** Forces every function of a guest away from it: what destroy does. The guest's lock is not held. */
export function* pciRemoveAll(ctx: Libxl, guest: Guest): Op<void> {
  const log = new Log();
  yield* withLock(guest.lock, () => pciRemoveAllLocked(ctx, log, guest));
}

export function* pciRemoveAllLocked(ctx: Libxl, log: Log, guest: Guest): Op<void> {
  const listed = (yield* listedFunctions(ctx, guest.domid)) ?? [];
  const all = new Set([...listed, ...guest.devices.keys()]);
  for (const s of all) yield* pciRemoveOne(ctx, log, guest, s, true);
}
