/**
 * Taking a device away from a guest, whoever has it next: its stream is aborted and no translation of it is left, then
 * its events and its table in the machine's ITS go. What it still does to memory or to an interrupt after that is
 * aborted: quarantine is the "basic" kind, a fault for every access.
 * Not modelled: resetting the function; pciback does that before and after.
 */
import type { Op } from '#shared/core/op.ts';
import type { P2m } from '../mm/p2m.ts';
import type { VmidPool } from '../mm/p2m-view.ts';
import type { VGic } from '../vgic/vgic.ts';
import { leaveView } from './doorbell.ts';
import type { PciDevice, PciOwner } from './pci-device.ts';
import { vDeviceIdOf } from './sbdf-map.ts';
import type { Smmus } from './smmus.ts';

/** What a guest has that a device of its uses. */
export interface PciGuest extends PciOwner {
  readonly p2m: P2m;
  readonly vgic: VGic | undefined;
}

export interface QuarantineParts {
  readonly smmus: Smmus;
  readonly vmids: VmidPool;
}

/** `device` belongs to `guest` and does so afterwards: the caller moves it. Throws XenError EIO, ETIMEDOUT. */
export function* cutOff(device: PciDevice, guest: PciGuest, { smmus, vmids }: QuarantineParts): Op<void> {
  if (device.stream !== undefined) yield* smmus.detach(device.stream, guest.p2m);
  const { view } = device;
  device.view = undefined;
  if (view !== undefined) yield* leaveView(guest.p2m, view, vmids);
  const { guestSbdf } = device;
  const vDeviceId = vDeviceIdOf(device);
  const vits = guest.vgic?.vits;
  if (vDeviceId === undefined || vits === undefined) return;
  // The name goes first: a command that waits for the vITS could map the device again.
  device.guestSbdf = undefined;
  try {
    yield* vits.release(vDeviceId);
  } catch (error) {
    device.guestSbdf = guestSbdf;
    throw error;
  }
}
