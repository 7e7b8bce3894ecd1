/**
 * Moving a device between the hardware domain, guests and quarantine (xen/drivers/passthrough/pci.c).
 * A device that the hardware domain holds is aborted by its SMMU as well: nothing translates before it is assigned.
 * Deviates: a failed assignment is undone in full; Xen gives the errno of a late step and leaves the device translating.
 * Deviates: a guest has one device by one name; a second one with the same requester id is refused with EEXIST.
 */
import { DOMID_IO } from '#shared/abi/hypercall.ts';
import { type Op, Undo } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { check } from '../error.ts';
import { openDoorbell, unmapDoorbell } from './doorbell.ts';
import type { PciDevice, PciOwner } from './pci-device.ts';
import { cutOff, type PciGuest, type QuarantineParts } from './quarantine.ts';
import { byVDeviceId, vDeviceIdOf } from './sbdf-map.ts';

/** A guest that a device can be assigned to. */
export interface AssignableDomain extends PciGuest {
  readonly dying: boolean;
  readonly config: { readonly iommu: boolean };
}

export interface AssignParts extends QuarantineParts {
  readonly runtime: Pick<Runtime, 'trace'>;
  readonly hardwareDomain: PciOwner;
  readonly domIo: PciOwner;
}

export function isGuest(owner: AssignableDomain | PciOwner): owner is AssignableDomain {
  return owner.domid !== DOMID_IO && owner.domid !== 0;
}

/**
 * Gives a device that no guest has to `guest`: its stream is translated by the guest's tables when it returns. Throws
 * XenError ENODEV (behind no SMMU), EEXIST, EINVAL (the guest began to die), ENOMEM, ERANGE, EBUSY (no VMID is free),
 * ENOSPC (its SMMU is full), EIO, ETIMEDOUT.
 */
export function* assignToGuest(
  parts: AssignParts,
  guest: AssignableDomain,
  device: PciDevice,
  guestSbdf: Sbdf | undefined,
): Op<void> {
  const { smmus, runtime } = parts;
  const { stream } = device;
  check(stream !== undefined, 'ENODEV', `${formatSbdf(device.sbdf)} is behind no SMMU`);
  const name = vDeviceIdOf({ guestSbdf });
  check(
    name === undefined || byVDeviceId(guest.pdevs, name) === undefined,
    'EEXIST',
    `d${guest.domid} has a device by that name`,
  );
  const before = { owner: device.owner, guestSbdf: device.guestSbdf };
  const undo = new Undo();
  try {
    if (device.msi !== undefined) {
      const { view, mapped } = yield* openDoorbell(guest.p2m, device.msi.its, parts.vmids);
      // A view is left by cutOff below.
      device.view = view;
      if (mapped) undo.push('doorbell', () => unmapDoorbell(guest.p2m));
    }
    // It is the guest's before it translates for it, and its virtual ITS may have used it when a later step fails.
    device.moveTo(guest, guestSbdf);
    undo.push('owner', function* () {
      yield* cutOff(device, guest, parts);
      device.moveTo(before.owner, before.guestSbdf);
    });
    yield* smmus.attach(stream, guest.p2m, device.view ?? guest.p2m);
  } catch (error) {
    yield* undo.run((step, failure) => {
      device.broken = true;
      runtime.trace('assign.undo_failed', { sbdf: formatSbdf(device.sbdf), step, error: String(failure) });
    });
    throw error;
  }
}

/** Takes a device from whoever has it: out of a guest it reaches nothing when this returns. Throws as cutOff. */
export function* releaseDevice(parts: AssignParts, device: PciDevice): Op<void> {
  const { owner } = device;
  if (!isGuest(owner)) {
    // Out of quarantine: the stream stays aborted, as everything of the hardware domain's.
    device.quarantine = false;
    device.moveTo(parts.hardwareDomain, undefined);
    return;
  }
  yield* cutOff(device, owner, parts);
  device.moveTo(device.quarantine ? parts.domIo : parts.hardwareDomain, undefined);
}
