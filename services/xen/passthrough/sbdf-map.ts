/**
 * What a guest calls a function and what the machine calls it (T7, T8): every device of a domain's list carries both,
 * and a trap or an assignment goes from one to the other through that list. The DeviceID that a guest uses is the
 * requester id of the SBDF that it sees; the machine's DeviceID comes from `msi-map` and is never the guest's to name.
 * Not modelled: a device that was assigned without a guest SBDF is nobody's DeviceID in the virtual ITS: no MSIs.
 */
import { ridOf, type Sbdf } from '#shared/ids/sbdf.ts';

export interface GuestDevice {
  /** Undefined when the toolstack chose none (GUEST_SBDF_NONE). */
  readonly guestSbdf: Sbdf | undefined;
}

/** The device behind the DeviceID that a guest puts into a command; undefined when it holds none of that name. */
export function byVDeviceId<D extends GuestDevice>(devices: readonly D[], vDeviceId: number): D | undefined {
  return devices.find((d) => d.guestSbdf !== undefined && ridOf(d.guestSbdf) === vDeviceId);
}

/** The DeviceID that the guest uses for a device; undefined when it has no name in the guest. */
export function vDeviceIdOf(device: GuestDevice): number | undefined {
  return device.guestSbdf === undefined ? undefined : ridOf(device.guestSbdf);
}
