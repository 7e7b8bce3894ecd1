/**
 * The page of GITS_TRANSLATER in a guest's address space (T5): a device's MSI is a write like any other, so the guest's
 * stage 2 has to lead the virtual ITS's translation page to the machine's. It is mapped when the first device with an
 * ITS is assigned, because which ITS it has to be is known only then, and it stays until the domain ends.
 * As CPU and device share the tables, the guest's CPU can store there too: the machine drops that, for want of a DeviceID.
 * Not modelled: a second page. A guest has one virtual ITS and so one doorbell address (T10); MSIs of a device behind
 * another ITS than the first one's arrive at the wrong ITS, which does not know the requester, and are lost. Xen traces
 * `doorbell.other_its` when such a device is assigned.
 */
import { GUEST_VITS_BASE } from '#shared/abi/arch-arm.ts';
import { ITS_FRAME_BYTES } from '#shared/arch/gic/its.ts';
import type { Op } from '#shared/core/op.ts';
import type { HostIts } from '../host-gic/its.ts';
import { frameOf } from '../mm/frames.ts';
import { P2M, type P2m } from '../mm/p2m.ts';

/** Guest frame of the doorbell. */
const DOORBELL_GFN = frameOf(GUEST_VITS_BASE + ITS_FRAME_BYTES);

type DoorbellOutcome = 'mapped' | 'there already' | 'of another ITS';

/** Maps the doorbell of `its` unless a doorbell is mapped. Throws XenError ENOMEM. */
export function* mapDoorbell(p2m: P2m, its: HostIts): Op<DoorbellOutcome> {
  const mfn = frameOf(its.doorbellPa);
  const entry = p2m.lookup(DOORBELL_GFN);
  if (entry !== undefined) return entry.mfn === mfn ? 'there already' : 'of another ITS';
  yield* p2m.map(DOORBELL_GFN, mfn, 1, P2M.mmio_direct_dev);
  return 'mapped';
}

export function* unmapDoorbell(p2m: P2m): Op<void> {
  yield* p2m.unmap(DOORBELL_GFN, 1);
}
