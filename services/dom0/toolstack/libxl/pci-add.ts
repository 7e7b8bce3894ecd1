/**
 * `xl pci-attach`, and the devices of `xl create` (libxl_pci.c: libxl__device_pci_add, do_pci_add, pci_add_dm_done).
 * Option 1 of the thread (T22): the toolstack reads the physical BARs, chooses the virtual ones, permits and maps them,
 * binds the line of its pin, assigns the function together with the address that the guest will see, and tells pciback
 * through the store.
 * Deviates from libxl: every step has its undo; all functions of `.*` are attached, not the last one only; an attach to a
 * running guest ends when both ends are Connected.
 * Not modelled: I/O BARs and ROMs (never placed by dom0). permissive, msitranslate and power_mgmt: recorded in opts-N and without effect, as on ARM.
 */

import type { PciSpec } from '#gen/toolstack.ts';
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { XEN_DOMCTL_DEV_RDM_RELAXED } from '#shared/abi/domctl.ts';
import { XenbusState } from '#shared/abi/xenbus.ts';
import { type Op, Undo, withLock } from '#shared/core/op.ts';
import { formatSbdf, functionOf, sbdf as makeSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { IORESOURCE } from '../../kernel/sysfs.ts';
import type { PlacedBar } from '../../pciback/nodes.ts';
import { chooseVdevfn } from '../../pciback/slots.ts';
import {
  type Attached,
  DEVICE_WAIT_NS,
  type Guest,
  type Libxl,
  LibxlFailed,
  type Log,
  logged,
  looseBdf,
  plain,
  RC,
  reasonOf,
  undoFailed,
} from './context.ts';
import { isAssignable, pciAssignableAdd, resolveName } from './pci-assignable.ts';
import { bindIntx } from './pci-irq.ts';
import { pciRemoveOne } from './pci-remove.ts';
import {
  bothConnected,
  framesOf,
  isMultiFunction,
  lowestFunction,
  mapBar,
  pageOf,
  waitForEnds,
  withdraw,
} from './pci-steps.ts';
import {
  backendPath,
  findPciEntry,
  pciDeviceNodes,
  pciEntryNodes,
  pciInfoPath,
  recordNodes,
  recordPath,
  removeWithParents,
  writeNodes,
} from './xenstore-layout.ts';

/** Attaches what `spec` names. Logs and throws LibxlFailed, with nothing left behind, when it cannot. */
export function* pciAdd(ctx: Libxl, log: Log, guest: Guest, spec: PciSpec): Op<void> {
  let what = `'${spec.name}'`;
  try {
    yield* withLock(guest.lock, function* () {
      const first = yield* resolve(ctx, spec);
      what = looseBdf(first);
      yield* addAll(ctx, log, guest, spec, first);
    });
  } catch (error) {
    const rc = error instanceof LibxlFailed ? error.rc : RC.FAIL;
    if (!(error instanceof LibxlFailed)) log.error(`Domain ${guest.domid}:${reasonOf(error)}`);
    log.error(`Domain ${guest.domid}:libxl__device_pci_add failed for PCI device ${what} (rc ${rc})`);
    log.error('unable to add device');
    throw new LibxlFailed(rc);
  }
}

/** The function that a spec names; the lowest one when it names several. */
function* resolve(ctx: Libxl, spec: PciSpec): Op<Sbdf> {
  if (spec.name !== '') {
    const named = yield* resolveName(ctx, spec.name);
    if (named === undefined) throw new LibxlFailed(RC.NOTFOUND);
    return named;
  }
  return makeSbdf(spec.segment, spec.bus, spec.device, lowestFunction(spec));
}

function* addAll(ctx: Libxl, log: Log, guest: Guest, spec: PciSpec, first: Sbdf): Op<void> {
  if (guest.dead) throw new LibxlFailed(RC.DOMAIN_NOTFOUND);
  if (spec.name !== '' || !isMultiFunction(spec)) {
    return yield* addOne(ctx, log, guest, spec, first, spec.vslot >= 0 ? spec.vslot << 3 : undefined);
  }
  if (spec.vslot < 0) {
    log.error(`Domain ${guest.domid}:Must specify a v-slot for multi-function devices`);
    throw new LibxlFailed(RC.INVAL);
  }
  const undo = new Undo();
  // Function 0 comes last: a guest looks at the others only when it is there.
  const functions = [7, 6, 5, 4, 3, 2, 1, 0].map((fn) => ((first & ~7) | fn) >>> 0);
  const present = functions.filter(
    (s) => (spec.functionMask & (1 << functionOf(s))) !== 0 && ctx.kernel.sysfs.exists(s),
  );
  try {
    if (present.length === 0) notAssignable(log, guest, first);
    for (const s of present) {
      yield* addOne(ctx, log, guest, spec, s, (spec.vslot << 3) | functionOf(s));
      undo.push('pci remove', () => pciRemoveOne(ctx, log, guest, s, true));
    }
  } catch (error) {
    yield* undo.run(undoFailed(ctx));
    throw error;
  }
}

function notAssignable(log: Log, guest: Guest, s: Sbdf): never {
  log.error(`Domain ${guest.domid}:PCI device ${looseBdf(s)} is not assignable`);
  throw new LibxlFailed(RC.FAIL);
}

function* addOne(ctx: Libxl, log: Log, guest: Guest, spec: PciSpec, s: Sbdf, wanted: number | undefined): Op<void> {
  const { domid } = guest;
  const { hypercalls, sysfs, store } = ctx.kernel;
  const undo = new Undo();
  try {
    if (spec.seize && sysfs.drivers.driverOf(s) !== 'pciback') yield* pciAssignableAdd(ctx, log, s, '', true);
    if (!(yield* isAssignable(ctx, s))) notAssignable(log, guest, s);

    const claim = `${pciInfoPath(s)}/domid`;
    yield* store.write(claim, `${domid}`);
    undo.push('claim', () => store.rm(claim));
    yield* ctx.pool.reset(s);

    const taken = [...guest.devices.values()];
    const isVirtfn = ctx.kernel.functions.get(s)?.physfn !== undefined;
    const vdevfn = chooseVdevfn(taken, s, wanted, isVirtfn);
    if (vdevfn === undefined) {
      const why =
        wanted === undefined ? 'no free slot on the virtual bus' : `v-slot ${(wanted >>> 3).toString(16)} is in use`;
      log.error(`Domain ${domid}:PCI device ${looseBdf(s)} cannot be assigned - ${why}`);
      throw new LibxlFailed(RC.FAIL);
    }
    const bars = placeBars(ctx, log, guest, s);
    undo.push(
      'holes',
      plain(() => guest.holes.give(bars.map((b) => pageOf(b.ipa)))),
    );

    for (const bar of bars) {
      const { mfn, frames } = framesOf(bar);
      yield* logged(
        log,
        `Domain ${domid}:xc_domain_iomem_permission 0x${(mfn * XEN_PAGE_SIZE).toString(16)}/0x${bar.sizeBytes.toString(16)} (error -1)`,
        () => hypercalls.iomem_permission(domid, mfn, frames, true),
      );
      undo.push('iomem_permission', () => hypercalls.iomem_permission(domid, mfn, frames, false));
    }
    for (const bar of bars) {
      undo.push('memory_mapping', () => mapBar(ctx, domid, bar, false));
      yield* logged(
        log,
        `Domain ${domid}:xc_domain_memory_mapping BAR ${bar.index} at 0x${bar.ipa.toString(16)} failed`,
        () => mapBar(ctx, domid, bar, true),
      );
    }
    const intx = yield* bindIntx(ctx, log, guest, s, undo);
    const flags = spec.rdmPolicy === 'relaxed' ? XEN_DOMCTL_DEV_RDM_RELAXED : 0;
    yield* logged(log, `Domain ${domid}:xc_assign_device failed`, () =>
      hypercalls.assign_device(domid, s, vdevfn, flags),
    );
    undo.push('assign_device', () => hypercalls.deassign_device(domid, s));

    const device: Attached = { sbdf: s, vdevfn, bars, intx };
    yield* writeNodes(store, recordNodes(domid, device));
    undo.push('record', () => removeWithParents(store, recordPath(domid, s)));
    guest.devices.set(s, device);
    undo.push(
      'device',
      plain(() => guest.devices.delete(s)),
    );
    yield* announce(ctx, log, guest, device, spec, undo);
  } catch (error) {
    yield* undo.run(undoFailed(ctx));
    throw error;
  }
}

/** Writes the entry and waits for pciback and the guest, when the guest runs. */
function* announce(ctx: Libxl, log: Log, guest: Guest, device: Attached, spec: PciSpec, undo: Undo): Op<void> {
  const { store } = ctx.kernel;
  const { domid } = guest;
  const back = backendPath(domid);
  const notReady = (): never => {
    log.error(`Backend ${back} not ready`);
    throw new LibxlFailed(RC.FAIL);
  };
  const exists = (yield* store.readOrUndefined(`${back}/num_devs`)) !== undefined;
  if (exists && guest.started) {
    const ready = yield* waitForEnds(ctx, guest, DEVICE_WAIT_NS, (e) => e.backend === XenbusState.Connected);
    if (!ready) notReady();
  }
  undo.push('backend nodes', () => withdraw(ctx, guest, device.sbdf));
  yield* store.transaction(function* (tx) {
    const before = yield* tx.readOrUndefined(`${back}/num_devs`);
    if (before === undefined) yield* writeNodes(tx, pciDeviceNodes(domid, guest.name));
    yield* writeNodes(tx, pciEntryNodes(domid, Number(before ?? 0), device, spec));
    if (before !== undefined && guest.started) yield* tx.write(`${back}/state`, `${XenbusState.Reconfiguring}`);
  });
  if (!guest.started) return;
  if (!(yield* waitForEnds(ctx, guest, DEVICE_WAIT_NS, bothConnected))) notReady();
  const { index } = yield* findPciEntry(store, domid, device.sbdf);
  const state = yield* store.readOrUndefined(`${back}/state-${index}`);
  if (state !== `${XenbusState.Initialised}`) {
    log.error(`Domain ${domid}:pciback did not export PCI device ${looseBdf(device.sbdf)}`);
    throw new LibxlFailed(RC.FAIL);
  }
}

/** Chooses where the memory BARs of a function go in the guest. */
function placeBars(ctx: Libxl, log: Log, guest: Guest, s: Sbdf): PlacedBar[] {
  const physical: Omit<PlacedBar, 'ipa'>[] = [];
  for (const [index, line] of ctx.kernel.sysfs.resource(s).entries()) {
    if (index >= 6 || (line.flags & IORESOURCE.MEM) === 0) continue;
    const wide = (line.flags & IORESOURCE.MEM_64) !== 0;
    const prefetchable = (line.flags & IORESOURCE.PREFETCH) !== 0;
    physical.push({ index, pa: line.start, sizeBytes: line.end - line.start + 1, wide, prefetchable });
  }
  const places = guest.holes.take(physical);
  if (places === undefined) {
    const sizes = physical.map((b) => `0x${b.sizeBytes.toString(16)}`).join(', ');
    log.error(`Domain ${guest.domid}:no room in the guest's MMIO holes for the BARs of ${formatSbdf(s)} (${sizes})`);
    throw new LibxlFailed(RC.NOMEM);
  }
  // A BAR below a page keeps its place in the page.
  return physical.map((bar, i) => ({ ...bar, ipa: places[i]! + (bar.pa % XEN_PAGE_SIZE) }));
}
