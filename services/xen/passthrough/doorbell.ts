/**
 * The page of GITS_TRANSLATER in a guest's address space (T5, T10): a device's MSI is a write like any other, so what the
 * device is translated by has to lead the virtual ITS's translation page to the machine's. A guest has one virtual ITS and
 * so one doorbell address, and each ITS of the machine has a page of its own.
 * The first ITS that a guest's device is behind is mapped in the domain's own tables, which CPU and devices share; it
 * stays until the domain ends. The guest's CPU can store there too: the machine drops that, for want of a DeviceID.
 * Devices behind another ITS walk a view of these tables that differs in this page alone (mm/p2m-view.ts); it is there
 * while one of them is assigned. Why so: docs/decisions/0016-one-doorbell-several-its.md.
 */
import { GUEST_VITS_BASE } from '#shared/abi/arch-arm.ts';
import { ITS_FRAME_BYTES } from '#shared/arch/gic/its.ts';
import type { Op } from '#shared/core/op.ts';
import type { HostIts } from '../host-gic/its.ts';
import { frameOf } from '../mm/frames.ts';
import { P2M, type P2m } from '../mm/p2m.ts';
import type { P2mView, VmidPool } from '../mm/p2m-view.ts';

/** Guest frame of the doorbell. */
export const DOORBELL_GFN = frameOf(GUEST_VITS_BASE + ITS_FRAME_BYTES);

export interface Doorbell {
  /** What a device walks that is not served by the domain's own tables. */
  readonly view: P2mView | undefined;
  /** The domain's own tables got their doorbell just now. */
  readonly mapped: boolean;
}

/**
 * Lets the doorbell address lead to `its` for one more device. Throws XenError ENOMEM, EBUSY (no VMID is free for a view).
 */
export function* openDoorbell(p2m: P2m, its: HostIts, vmids: VmidPool): Op<Doorbell> {
  const mfn = frameOf(its.doorbellPa);
  const entry = p2m.lookup(DOORBELL_GFN);
  if (entry === undefined) {
    yield* p2m.map(DOORBELL_GFN, mfn, 1, P2M.mmio_direct_dev);
    return { view: undefined, mapped: true };
  }
  if (entry.mfn === mfn) return { view: undefined, mapped: false };
  const view = p2m.view(mfn) ?? (yield* p2m.openView(DOORBELL_GFN, mfn, vmids));
  view.users++;
  return { view, mapped: false };
}

/** A device that walked `view` does so no longer. */
export function* leaveView(p2m: P2m, view: P2mView, vmids: VmidPool): Op<void> {
  view.users--;
  if (view.users === 0) yield* p2m.closeView(view, vmids);
}

/** The domain's own tables lose their doorbell. */
export function* unmapDoorbell(p2m: P2m): Op<void> {
  yield* p2m.unmap(DOORBELL_GFN, 1);
}
