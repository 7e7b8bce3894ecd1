/** Steps that attach and detach share. Waiting for the two ends is by watches where libxl polls (libxl__wait_for_backend). */

import type { PciSpec } from '#gen/toolstack.ts';
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { MEMORY_MAPPING_MAX_FRAMES } from '#shared/abi/domctl.ts';
import { parseXenbusState, XenbusState } from '#shared/abi/xenbus.ts';
import { type Op, TimedOut } from '#shared/core/op.ts';
import type { Sbdf } from '#shared/ids/sbdf.ts';
import type { PlacedBar } from '../../pciback/nodes.ts';
import { DEVICE_WAIT_NS, type Guest, type Libxl } from './context.ts';
import { backendPath, findPciEntry, frontendPath, removePciEntry } from './xenstore-layout.ts';

export interface Ends {
  readonly backend: XenbusState;
  readonly frontend: XenbusState;
}

/** Waits until both ends are in a state that `wanted` takes. False when they are not in time, or the guest dies. */
export function* waitForEnds(ctx: Libxl, guest: Guest, ns: number, wanted: (ends: Ends) => boolean): Op<boolean> {
  const { store, runtime } = ctx.kernel;
  const deadline = runtime.now + ns;
  const paths = [`${backendPath(guest.domid)}/state`, `${frontendPath(guest.domid)}/state`] as const;
  // The lock of the guest is held: there is one wait a guest.
  const token = (path: string): string => `libxl:${path}`;
  for (const path of paths) yield* store.watch(path, token(path), () => guest.changes.note());
  try {
    for (;;) {
      const seen = guest.changes.count;
      if (guest.dead) return false;
      const backend = parseXenbusState(yield* store.readOrUndefined(paths[0]));
      const frontend = parseXenbusState(yield* store.readOrUndefined(paths[1]));
      if (wanted({ backend, frontend })) return true;
      if (backend === XenbusState.Closing || backend === XenbusState.Closed) return false;
      yield* guest.changes.since(seen, deadline - runtime.now);
    }
  } catch (error) {
    if (error instanceof TimedOut) return false;
    throw error;
  } finally {
    for (const path of paths) yield* store.unwatch(path, token(path));
  }
}

export function bothConnected(ends: Ends): boolean {
  return ends.backend === XenbusState.Connected && ends.frontend === XenbusState.Connected;
}

export function lowestFunction(spec: PciSpec): number {
  return spec.functionMask === 0 ? 0 : 31 - Math.clz32(spec.functionMask & -spec.functionMask);
}

export function isMultiFunction(spec: PciSpec): boolean {
  return (spec.functionMask & (spec.functionMask - 1)) !== 0;
}

/** Takes an entry out of the store; pciback lets go of the function when it sees that. */
export function* withdraw(ctx: Libxl, guest: Guest, s: Sbdf): Op<void> {
  yield* ctx.kernel.store.transaction(function* (tx) {
    const { index, count } = yield* findPciEntry(tx, guest.domid, s);
    if (index < 0) return;
    yield* removePciEntry(tx, guest.domid, index, count);
    const state = `${backendPath(guest.domid)}/state`;
    // Nobody will finish what was announced for this entry.
    const reconfiguring = (yield* tx.readOrUndefined(state)) === `${XenbusState.Reconfiguring}`;
    if (reconfiguring) yield* tx.write(state, `${XenbusState.Connected}`);
  });
  yield* ctx.pool.waitReleased(s, DEVICE_WAIT_NS);
}

export function pageOf(address: number): number {
  return address - (address % XEN_PAGE_SIZE);
}

/** The page frames that a BAR touches. */
export function framesOf(bar: PlacedBar): { gfn: number; mfn: number; frames: number } {
  const inPage = bar.pa % XEN_PAGE_SIZE;
  return {
    gfn: pageOf(bar.ipa) / XEN_PAGE_SIZE,
    mfn: pageOf(bar.pa) / XEN_PAGE_SIZE,
    frames: Math.ceil((inPage + bar.sizeBytes) / XEN_PAGE_SIZE),
  };
}

/** Maps or unmaps a BAR in the guest's stage 2, at most 64 frames a call (XSA-125). */
export function* mapBar(ctx: Libxl, domid: number, bar: PlacedBar, add: boolean): Op<void> {
  const { gfn, mfn, frames } = framesOf(bar);
  for (let at = 0; at < frames; at += MEMORY_MAPPING_MAX_FRAMES) {
    const n = Math.min(MEMORY_MAPPING_MAX_FRAMES, frames - at);
    yield* ctx.kernel.hypercalls.memory_mapping(domid, gfn + at, mfn + at, n, add);
  }
}
