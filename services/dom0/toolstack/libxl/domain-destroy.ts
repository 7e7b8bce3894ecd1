/**
 * `xl destroy`, and the end of a domain that crashed or shut down (libxl_domain.c: libxl__destroy_domid). Pauses the domain,
 * takes its functions, ends it in Xen and in the store, revokes its credential. Each step goes on when an earlier one
 * failed: what is left is always less.
 * Deviates from libxl: pciback has let go of the guest's page before the domain ends, so that no page outlives it.
 */
import { type Op, withLock } from '#shared/core/op.ts';
import { failedWith } from '#shared/kernel/hypercalls.ts';
import { type XenstoreClient, XenstoreError } from '#shared/kernel/xenstore-client.ts';
import { DEVICE_WAIT_NS, type Guest, type Libxl, LibxlFailed, Log, RC, reasonOf } from './context.ts';
import { revokeCredential } from './domain-create.ts';
import { pciRemoveAllLocked } from './pci-remove.ts';
import { removeDomainNodes } from './xenstore-layout.ts';

/** Ends a domain. Logs and throws LibxlFailed for one that does not exist. */
export function* domainDestroy(ctx: Libxl, log: Log, domid: number): Op<void> {
  const guest = ctx.guests.get(domid);
  if (guest === undefined || domid === 0) {
    log.error(`Domain ${domid}:Non-existent domain`);
    throw new LibxlFailed(domid === 0 ? RC.INVAL : RC.DOMAIN_NOTFOUND);
  }
  const was = guest.dead;
  // Whoever waits for the guest inside the lock gives up now.
  guest.died();
  yield* withLock(guest.lock, () => destroyLocked(ctx, log, guest, was));
}

function* destroyLocked(ctx: Libxl, log: Log, guest: Guest, crashed: boolean): Op<void> {
  const { hypercalls, store } = ctx.kernel;
  const { domid } = guest;
  // Somebody else destroyed it while this one waited.
  if (ctx.guests.get(domid) !== guest) return;
  if (!crashed) yield* attempt(log, `Domain ${domid}:xc_domain_pause failed`, hypercalls.pausedomain(domid));
  // A function whose guest is gone has much that cannot be told to anybody.
  yield* pciRemoveAllLocked(ctx, new Log(), guest);
  yield* attempt(log, `Domain ${domid}:pciback`, ctx.backends.waitGone(domid, DEVICE_WAIT_NS));
  let kept: unknown;
  try {
    yield* hypercalls.destroydomain(domid);
  } catch (error) {
    if (!failedWith(error, 'ESRCH')) kept = error;
  }
  if (kept !== undefined) log.errorWith(`Domain ${domid}:xc_domain_destroy failed`, kept);
  yield* attempt(log, `Domain ${domid}:release in xenstore`, released(store, domid));
  // xenstored lets go of the store page: it is freed with its last mapping.
  yield* attempt(log, `Domain ${domid}:store ring`, ctx.storeRings.waitGone(domid, DEVICE_WAIT_NS));
  const nodes = store.transaction((tx) => removeDomainNodes(tx, domid, guest.uuid));
  yield* attempt(log, `Domain ${domid}:xenstore nodes`, nodes);
  yield* attempt(log, `Domain ${domid}:credential`, revokeCredential(ctx, domid));
  if (kept !== undefined) throw new LibxlFailed(RC.FAIL);
  ctx.guests.delete(domid);
}

/** xenstored hears of the end of a domain from Xen as well: one that it has let go of already is released. */
function* released(store: XenstoreClient, domid: number): Op<void> {
  try {
    yield* store.release(domid);
  } catch (error) {
    if (!(error instanceof XenstoreError && error.code === 'ENOENT')) throw error;
  }
}

function* attempt(log: Log, text: string, op: Op<void>): Op<void> {
  try {
    yield* op;
  } catch (error) {
    log.error(`${text}: ${reasonOf(error)}`);
  }
}
