/**
 * The PCI functions of the machine as hypercalls report, move and test them (xen/drivers/pci/physdev.c,
 * xen/drivers/passthrough/pci.c), with their errnos, in the order of their checks.
 * Not modelled: device groups; the global iommu=quarantine option: what came through DOMID_IO goes back there, everything
 * else to the hardware domain, and both are aborted.
 */
import { XEN_DOMCTL_DEV_RDM_RELAXED } from '#shared/abi/domctl.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import { busOf, formatSbdf, type Sbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { check, XenError } from '../error.ts';
import type { HostIts } from '../host-gic/its.ts';
import type { VmidPool } from '../mm/p2m-view.ts';
import type { HostBridges, MappedId } from './host-bridge.ts';
import { type AssignableDomain, assignToGuest, isGuest, releaseDevice } from './move.ts';
import { PciDevice, type PciOwner } from './pci-device.ts';
import { cutOff } from './quarantine.ts';
import type { Smmus } from './smmus.ts';

/** Mask of physdev_pci_device_reset.flags: COLD, WARM, HOT, FLR. */
const RESET_FLAGS_MASK = 3;

export interface PciDevicesParts {
  readonly runtime: Pick<Runtime, 'trace'>;
  readonly bridges: HostBridges;
  readonly smmus: Smmus;
  /** For views of a guest's tables. */
  readonly vmids: VmidPool;
  readonly itses: readonly HostIts[];
  /** The hardware domain and DOMID_IO. */
  readonly hardwareDomain: PciOwner;
  readonly domIo: PciOwner;
}

export class PciDevices {
  readonly #p: PciDevicesParts;
  readonly #devices = new Map<Sbdf, PciDevice>();
  /** pcidevs_lock. */
  readonly #lock = new Lock('pcidevs_lock');

  constructor(parts: PciDevicesParts) {
    this.#p = parts;
  }

  find(sbdf: Sbdf): PciDevice | undefined {
    return this.#devices.get(sbdf);
  }

  /**
   * PHYSDEVOP_pci_device_add: the device is the hardware domain's and its stream aborts. `physfn` is given for a virtual
   * function. A known device only gets its stream again. Throws XenError ENODEV (no bridge serves it; the physical
   * function is not known), ERANGE, ENOMEM.
   */
  add(sbdf: Sbdf, physfn?: Sbdf): Op<void> {
    return withLock(this.#lock, () => this.#add(sbdf, physfn));
  }

  /** PHYSDEVOP_pci_device_remove. Throws XenError ENODEV, EBUSY (it has virtual functions; all are broken then). */
  remove(sbdf: Sbdf): Op<void> {
    return withLock(this.#lock, () => this.#remove(sbdf));
  }

  /** PHYSDEVOP_pci_device_reset: checks only, as without virtual PCI nothing of Xen's depends on it. EINVAL, ENODEV. */
  reset(sbdf: Sbdf, flags: number): void {
    check((flags & ~RESET_FLAGS_MASK) === 0, 'EINVAL', `reset flags 0x${flags.toString(16)}`);
    this.#known(sbdf);
  }

  /**
   * XEN_DOMCTL_assign_device. `guestSbdf` is undefined when the toolstack chose none; `flags` are the call's.
   * Throws XenError: EOPNOTSUPP, EINVAL, ENODEV, EBUSY, EBADF, EEXIST, ENOMEM, ENOSPC, ERANGE, EIO, ETIMEDOUT.
   */
  assign(target: AssignableDomain | PciOwner, sbdf: Sbdf, guestSbdf: Sbdf | undefined, flags: number): Op<void> {
    return withLock(this.#lock, () => this.#assign(target, sbdf, guestSbdf, flags));
  }

  /**
   * XEN_DOMCTL_deassign_device: when it returns the device reaches no memory and raises no interrupt. It is then
   * DOMID_IO's if it came through it, else the hardware domain's. Throws XenError EINVAL, ENODEV, EIO, ETIMEDOUT.
   */
  deassign(target: AssignableDomain | PciOwner, sbdf: Sbdf): Op<void> {
    return withLock(this.#lock, () => this.#deassign(target, sbdf));
  }

  /** XEN_DOMCTL_test_assign_device: every problem is EINVAL, an unknown device as well. */
  testAssign(sbdf: Sbdf): void {
    const device = this.#devices.get(sbdf);
    check(device !== undefined && this.#isAssignable(device), 'EINVAL', `${formatSbdf(sbdf)} is not assignable`);
  }

  /** The domain ends: every device is taken away; one that fails is broken, and the first error is thrown in the end. */
  releaseAll(domain: AssignableDomain): Op<void> {
    return withLock(this.#lock, () => this.#releaseAll(domain));
  }

  /** `0000:01:00.0`, of a stream that an SMMU names. */
  sbdfOfStream(stream: MappedId): string | undefined {
    for (const device of this.#devices.values()) {
      const its = device.stream;
      if (its !== undefined && its.phandle === stream.phandle && its.id === stream.id) return formatSbdf(device.sbdf);
    }
    return undefined;
  }

  inspect(): unknown {
    return [...this.#devices.values()].map((d) => ({
      sbdf: formatSbdf(d.sbdf),
      owner: d.owner.domid,
      guestSbdf: d.guestSbdf === undefined ? null : formatSbdf(d.guestSbdf),
      streamId: d.stream?.id ?? null,
      deviceId: d.msi?.deviceId ?? null,
      its: d.msi?.its.name ?? null,
      quarantine: d.quarantine,
      broken: d.broken,
    }));
  }

  *#add(sbdf: Sbdf, physfn: Sbdf | undefined): Op<void> {
    const { bridges, smmus, hardwareDomain } = this.#p;
    const pf = physfn === undefined ? undefined : this.#known(physfn);
    const known = this.#devices.get(sbdf);
    if (known !== undefined) {
      if (known.stream !== undefined) yield* smmus.addStream(known.stream);
      return;
    }
    const bridge = bridges.find(segmentOf(sbdf), busOf(sbdf));
    check(bridge !== undefined, 'ENODEV', `no host bridge serves ${formatSbdf(sbdf)}`);
    const stream = bridges.streamOf(sbdf);
    if (stream !== undefined) yield* smmus.addStream(stream);
    const msi = bridges.msiOf(sbdf);
    const its = msi === undefined ? undefined : this.#p.itses.find((i) => i.phandle === msi.phandle);
    if (msi !== undefined && its !== undefined) yield* its.prepareDevice(msi.id);
    const facts = {
      sbdf,
      stream,
      msi: msi === undefined || its === undefined ? undefined : { its, deviceId: msi.id },
      physfn: pf,
    };
    this.#devices.set(sbdf, new PciDevice(facts, hardwareDomain));
  }

  *#remove(sbdf: Sbdf): Op<void> {
    const device = this.#known(sbdf);
    if (device.vfs.size > 0) {
      for (const d of [device, ...device.vfs]) d.broken = true;
      throw new XenError('EBUSY', `${formatSbdf(sbdf)} has virtual functions`);
    }
    // Even a guest's device goes, and the guest is not told.
    if (isGuest(device.owner)) yield* cutOff(device, device.owner, this.#p);
    device.dispose();
    this.#devices.delete(sbdf);
  }

  *#assign(target: AssignableDomain | PciOwner, sbdf: Sbdf, guestSbdf: Sbdf | undefined, flags: number): Op<void> {
    const guest = isGuest(target) ? target : undefined;
    check(guest?.config.iommu !== false, 'EOPNOTSUPP', `d${target.domid} was made without XEN_DOMCTL_CDF_iommu`);
    check(target !== this.#p.hardwareDomain, 'EINVAL', 'a device is not assigned to the caller');
    check(guest?.dying !== true, 'EINVAL', `d${target.domid} is dying`);
    check((flags & ~XEN_DOMCTL_DEV_RDM_RELAXED) === 0, 'EINVAL', `assign flags 0x${flags.toString(16)}`);
    const device = this.#known(sbdf);
    check(this.#isAssignable(device), 'EBUSY', `${formatSbdf(sbdf)} is held by d${device.owner.domid}`);
    if (guest === undefined) {
      device.quarantine = true;
      if (device.owner !== target) device.moveTo(target, undefined);
      return;
    }
    check(!device.broken, 'EBADF', `${formatSbdf(sbdf)} is broken`);
    yield* assignToGuest(this.#p, guest, device, guestSbdf);
  }

  *#deassign(target: AssignableDomain | PciOwner, sbdf: Sbdf): Op<void> {
    check(target !== this.#p.hardwareDomain, 'EINVAL', 'a device is not taken from the caller');
    const device = this.#known(sbdf);
    check(device.owner === target, 'ENODEV', `${formatSbdf(sbdf)} is not held by d${target.domid}`);
    yield* releaseDevice(this.#p, device);
  }

  *#releaseAll(domain: AssignableDomain): Op<void> {
    let first: unknown;
    for (const device of [...domain.pdevs]) {
      try {
        yield* releaseDevice(this.#p, device);
      } catch (error) {
        device.broken = true;
        first ??= error;
      }
    }
    if (first !== undefined) throw first;
  }

  #isAssignable(device: PciDevice): boolean {
    return !isGuest(device.owner);
  }

  #known(sbdf: Sbdf): PciDevice {
    const device = this.#devices.get(sbdf);
    check(device !== undefined, 'ENODEV', `${formatSbdf(sbdf)} is not known`);
    return device;
  }
}
