/**
 * HYPERVISOR_memory_op (xen/common/memory.c, xen/arch/arm/mm.c).
 * Not modelled: increase_reservation, XENMAPSPACE_gmfn, gmfn_range and dev_mmio (the policy `guest`), mem_flags; they
 * give ENOSYS or EOPNOTSUPP. Extents have the orders 0, 9 and 18 (4 KiB, 2 MiB, 1 GiB), any other is EINVAL.
 */

import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { ERRNO } from '#shared/abi/errno.ts';
import { s32, u64 } from '#shared/abi/layout.ts';
import {
  XENMAPSPACE,
  XENMEM,
  xen_add_to_physmap,
  xen_add_to_physmap_batch,
  xen_memory_reservation,
  xen_remove_from_physmap,
} from '#shared/abi/memory.ts';
import type { Op } from '#shared/core/op.ts';
import type { Domain } from '../domain/domain.ts';
import { physFill } from '../el2.ts';
import { check, XenError } from '../error.ts';
import { addressOf } from '../mm/frames.ts';
import { isRam, type Mapping, P2M } from '../mm/p2m.ts';
import { needPrivilege, targetOf, type XenParts } from './context.ts';

const ORDERS = [0, 9, 18];
/** Extents or entries of one call. */
const EXTENTS_MAX = 65_536;

export function* memoryOp(xen: XenParts, caller: Domain, cmd: number, arg: Uint8Array): Op<number> {
  switch (cmd) {
    case XENMEM.populate_physmap:
      return yield* populatePhysmap(xen, caller, arg);
    case XENMEM.decrease_reservation:
      return yield* decreaseReservation(xen, caller, arg);
    case XENMEM.add_to_physmap:
      return yield* addToPhysmap(xen, caller, arg);
    case XENMEM.add_to_physmap_batch:
      return yield* addToPhysmapBatch(xen, caller, arg);
    case XENMEM.remove_from_physmap:
      return yield* removeFromPhysmap(xen, caller, arg);
    default:
      throw new XenError('ENOSYS', `memory_op ${cmd}`);
  }
}

function reservation(
  xen: XenParts,
  caller: Domain,
  arg: Uint8Array,
): { target: Domain; gfns: number[]; order: number } {
  const r = xen_memory_reservation.decode(arg);
  const target = targetOf(xen, caller, r.domid);
  check(ORDERS.includes(r.extent_order), 'EINVAL', `order ${r.extent_order}`);
  check(r.nr_extents <= EXTENTS_MAX, 'E2BIG', `${r.nr_extents} extents`);
  return { target, gfns: u64s(arg, r.extent_start, r.nr_extents), order: r.extent_order };
}

/** Fresh memory at the GFNs given. The result is the number of extents done: fewer than asked is how it fails. */
function* populatePhysmap(xen: XenParts, caller: Domain, arg: Uint8Array): Op<number> {
  const { frames } = xen;
  const { target, gfns, order } = reservation(xen, caller, arg);
  check(!target.dying, 'EINVAL', `d${target.domid} is dying`);
  const count = 2 ** order;
  const mappings: Mapping[] = [];
  for (const gfn of gfns) {
    if (!target.p2m.inRange(gfn, count) || gfn % count !== 0 || target.totPages + count > target.maxPages) break;
    const mfn = frames.tryAllocPages(order);
    if (mfn === undefined) break;
    frames.assign(mfn, count, target.domid);
    target.pages.add(mfn, count);
    target.totPages += count;
    mappings.push({ gfn, mfn, count, type: P2M.ram_rw });
  }
  try {
    if (mappings.length > 0) yield* target.p2m.mapAll(mappings);
  } catch (error) {
    // No frame for a table, or the domain went meanwhile and took the pages along: none of them counts as done.
    if (!(error instanceof XenError)) throw error;
    if (target.dying) return 0;
    for (const m of mappings) {
      yield* target.p2m.unmap(m.gfn, m.count);
      for (let i = 0; i < m.count; i++) yield* freePage(xen, target, m.mfn + i);
    }
    return 0;
  }
  return mappings.length;
}

/** The memory at the GFNs given goes back to Xen. The result is the number of extents done. */
function* decreaseReservation(xen: XenParts, caller: Domain, arg: Uint8Array): Op<number> {
  const { target, gfns, order } = reservation(xen, caller, arg);
  const count = 2 ** order;
  let done = 0;
  for (const gfn of gfns) {
    const mfns: number[] = [];
    for (let i = 0; i < count; i++) {
      const entry = target.p2m.lookup(gfn + i);
      if (entry === undefined || !isRam(entry.type) || xen.frames.ownerOf(entry.mfn) !== target.domid) break;
      mfns.push(entry.mfn);
    }
    if (mfns.length < count) break;
    yield* target.p2m.unmap(gfn, count);
    for (const mfn of mfns) yield* freePage(xen, target, mfn);
    done++;
  }
  return done;
}

/** Drops the reference of a page's allocation. It is scrubbed and free when nobody else has it mapped. */
function* freePage(xen: XenParts, domain: Domain, mfn: number): Op<void> {
  if (!domain.pages.contains(mfn, 1)) return;
  domain.pages.remove(mfn, 1);
  domain.totPages--;
  if (!xen.frames.putPage(mfn)) return;
  yield* xen.el2.batch([physFill(addressOf(mfn), XEN_PAGE_SIZE, 0)]);
  xen.frames.freePages(mfn, 0);
}

function* addToPhysmap(xen: XenParts, caller: Domain, arg: Uint8Array): Op<number> {
  const { domid, space, idx, gpfn } = xen_add_to_physmap.decode(arg);
  const target = targetOf(xen, caller, domid);
  yield* addOne(target, space, idx, gpfn);
  return 0;
}

/** Maps one of Xen's own pages of `target` at `gpfn`. */
function* addOne(target: Domain, space: number, idx: number, gpfn: number): Op<void> {
  check(!target.dying, 'EINVAL', `d${target.domid} is dying`);
  let mfn: number;
  switch (space) {
    case XENMAPSPACE.shared_info:
      check(idx === 0, 'EINVAL', `shared info page ${idx}`);
      mfn = target.sharedInfoMfn;
      break;
    case XENMAPSPACE.grant_table:
      mfn = yield* target.grants.frame(idx);
      break;
    case XENMAPSPACE.gmfn_foreign:
      throw new XenError('ENOSYS', 'gmfn_foreign outside a batch');
    default:
      throw new XenError('EOPNOTSUPP', `space ${space}`);
  }
  const before = target.xenPages.get(mfn);
  const mapped = before !== undefined && before !== gpfn && target.p2m.lookup(before)?.mfn === mfn;
  check(!mapped, 'EBUSY', `the page stands at gfn 0x${before?.toString(16)}`);
  yield* target.p2m.map(gpfn, mfn, 1, P2M.ram_rw);
  target.xenPages.set(mfn, gpfn);
}

/** Each entry has its own errno in `errs`; the call itself succeeds. */
function* addToPhysmapBatch(xen: XenParts, caller: Domain, arg: Uint8Array): Op<number> {
  const b = xen_add_to_physmap_batch.decode(arg);
  const target = targetOf(xen, caller, b.domid);
  const idxs = u64s(arg, b.idxs, b.size);
  const gpfns = u64s(arg, b.gpfns, b.size);
  const view = new DataView(arg.buffer, arg.byteOffset, arg.byteLength);
  const setError = (i: number, errno: number): void => s32.put(view, b.errs + 4 * i, errno);
  for (let i = 0; i < b.size; i++) setError(i, 0);
  if (b.space !== XENMAPSPACE.gmfn_foreign) {
    for (let i = 0; i < b.size; i++) {
      try {
        yield* addOne(target, b.space, idxs[i]!, gpfns[i]!);
      } catch (error) {
        if (!(error instanceof XenError)) throw error;
        setError(i, -error.errno);
      }
    }
    return 0;
  }
  needPrivilege(caller, 'XENMAPSPACE_gmfn_foreign');
  const foreign = xen.domains.get(b.foreign_domid);
  check(foreign !== undefined && !foreign.dying, 'ESRCH', `d${b.foreign_domid}`);
  check(foreign !== target, 'EINVAL', 'a domain is not foreign to itself');
  const mappings: Mapping[] = [];
  idxs.forEach((idx, i) => {
    const entry = foreign.p2m.lookup(idx);
    // The reference is the mapping's; it drops it when it goes.
    const held = entry !== undefined && isRam(entry.type) && xen.frames.getPage(entry.mfn, foreign.domid);
    if (!held || !target.p2m.inRange(gpfns[i]!, 1)) {
      if (held) xen.frames.putPage(entry.mfn);
      setError(i, -ERRNO.EINVAL);
      return;
    }
    const type = entry.type === P2M.ram_ro ? P2M.map_foreign_ro : P2M.map_foreign_rw;
    mappings.push({ gfn: gpfns[i]!, mfn: entry.mfn, count: 1, type });
  });
  try {
    if (mappings.length > 0) yield* target.p2m.mapAll(mappings);
  } catch (error) {
    // No frame for a table: the references of what was not mapped have no owner.
    for (const m of mappings) if (target.p2m.lookup(m.gfn)?.mfn !== m.mfn) xen.frames.putPage(m.mfn);
    throw error;
  }
  return 0;
}

function* removeFromPhysmap(xen: XenParts, caller: Domain, arg: Uint8Array): Op<number> {
  const { domid, gpfn } = xen_remove_from_physmap.decode(arg);
  const target = targetOf(xen, caller, domid);
  check(target.p2m.lookup(gpfn) !== undefined, 'EINVAL', `nothing at gfn 0x${gpfn.toString(16)}`);
  yield* target.p2m.unmap(gpfn, 1);
  return 0;
}

/** `count` 64-bit numbers at byte `offset` of the argument. Throws RangeError when they do not fit. */
function u64s(arg: Uint8Array, offset: number, count: number): number[] {
  const view = new DataView(arg.buffer, arg.byteOffset, arg.byteLength);
  return Array.from({ length: count }, (_, i) => u64.get(view, offset + 8 * i));
}
