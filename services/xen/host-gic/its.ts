/**
 * One ITS of the machine as Xen drives it (xen/arch/arm/gic-v3-its.c): devices with translation tables in Xen's memory,
 * events that lead to host LPIs, all LPIs at collection 0, which is CPU 0.
 * Not modelled: affinity; MOVI is never queued, every host LPI is taken by CPU 0.
 */
import type { El2Op } from '#gen/hardware.ts';
import { ITS_FRAME_BYTES } from '#shared/arch/gic/its.ts';
import {
  decodeItsCommand,
  encodeDiscard,
  encodeInv,
  encodeMapc,
  encodeMapd,
  encodeMapti,
  encodeSync,
} from '#shared/arch/gic/its-commands.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import { type BusAccess, ItsDriver, ItsError } from '#shared/kernel/its-driver.ts';
import type { Counts } from '../counts.ts';
import { type El2, physRead, physWrite } from '../el2.ts';
import { check, XenError } from '../error.ts';
import type { Frames } from '../mm/frames.ts';
import type { HostItsPort, LpiTarget } from '../vits/commands.ts';
import type { HostLpis } from './lpi.ts';

/** EventIDs that a device gets at least, as in Xen. */
const EVENTS_MIN = 32;
const COLLECTION = 0;

/** A CPU's redistributor as an ITS names it. */
export interface Collection {
  readonly processorNumber: number;
  readonly rdFramePa: number;
}

interface Device {
  readonly ittPa: number;
  readonly ittBytes: number;
  readonly eventCount: number;
  /** EventID to host LPI. */
  readonly events: Map<number, number>;
}

export interface HostItsOptions {
  readonly el2: El2;
  readonly frames: Frames;
  readonly lpis: HostLpis;
  readonly counts: Counts;
  readonly name: string;
  /** Of its device tree node; 0 when it has none. */
  readonly phandle: number;
  readonly basePa: number;
}

export class HostIts implements HostItsPort {
  readonly name: string;
  readonly phandle: number;
  readonly basePa: number;
  readonly #o: HostItsOptions;
  readonly #driver: ItsDriver;
  readonly #devices = new Map<number, Device>();
  /** its_devices_lock: a device's entry and its events change together. */
  readonly #lock: Lock;
  #target: Collection = { processorNumber: 0, rdFramePa: 0 };

  constructor(options: HostItsOptions) {
    this.#o = options;
    this.name = options.name;
    this.phandle = options.phandle;
    this.basePa = options.basePa;
    this.#lock = new Lock(`its_devices_lock of ${options.name}`);
    this.#driver = new ItsDriver({
      name: options.name,
      base: options.basePa,
      io: { run: (accesses) => this.#run(accesses) },
      allocate: (sizeBytes, alignBytes) => this.#allocate(sizeBytes, alignBytes),
      deviceIdBitsMax: 32,
    });
  }

  /** The page that holds GITS_TRANSLATER. */
  get doorbellPa(): number {
    return this.basePa + ITS_FRAME_BYTES;
  }

  /** Brings the ITS up and maps collection n to the n-th CPU. Throws ItsError. */
  *init(cpus: readonly Collection[]): Op<void> {
    yield* this.#driver.start();
    const commands: Uint32Array[] = [];
    cpus.forEach((cpu, icid) => {
      const rdbase = this.#driver.rdbase(cpu.processorNumber, cpu.rdFramePa);
      commands.push(encodeMapc({ icid, rdbase, valid: true }), encodeSync({ rdbase }));
    });
    this.#target = cpus[0]!;
    yield* this.#submit(commands);
  }

  /** Sees that the device table has an entry for a DeviceID: it stays, whether the device is mapped or not. */
  *prepareDevice(deviceId: number): Op<void> {
    if (deviceId < this.#driver.deviceIds) yield* this.#driver.prepareDevice(deviceId);
  }

  /**
   * Gives a device room for `eventCount` EventIDs. Throws XenError: EINVAL for a DeviceID or a count that the ITS does not
   * take, EBUSY when it is mapped, ENOMEM.
   */
  mapDevice(deviceId: number, eventCount: number): Op<void> {
    return withLock(this.#lock, () => this.#mapDevice(deviceId, eventCount));
  }

  /** Unmaps a device and all its events; their LPIs and the table are free afterwards. Nothing happens when it is not mapped. */
  unmapDevice(deviceId: number): Op<void> {
    return withLock(this.#lock, () => this.#unmapDevice(deviceId));
  }

  /** Leads an event of a mapped device to `target`. Throws XenError: ENODEV, EINVAL, EEXIST, ENOSPC (no LPI is free). */
  mapEvent(deviceId: number, eventId: number, target: LpiTarget): Op<void> {
    return withLock(this.#lock, () => this.#mapEvent(deviceId, eventId, target));
  }

  /** Nothing happens when the event is not mapped. */
  unmapEvent(deviceId: number, eventId: number): Op<void> {
    return withLock(this.#lock, () => this.#unmapEvent(deviceId, eventId));
  }

  inspect(): unknown {
    return {
      name: this.name,
      basePa: this.basePa,
      devices: [...this.#devices].map(([deviceId, d]) => ({ deviceId, eventCount: d.eventCount, lpis: d.events.size })),
    };
  }

  *#mapDevice(deviceId: number, eventCount: number): Op<void> {
    const { typer, deviceIds } = this.#driver;
    check(deviceId < deviceIds, 'EINVAL', `${this.name} has no entry for DeviceID 0x${deviceId.toString(16)}`);
    yield* this.prepareDevice(deviceId);
    check(!this.#devices.has(deviceId), 'EBUSY', `DeviceID 0x${deviceId.toString(16)} is mapped`);
    let bits = Math.log2(EVENTS_MIN);
    while (2 ** bits < eventCount) bits++;
    check(bits <= typer.eventIdBits, 'EINVAL', `${this.name} takes no ${eventCount} EventIDs`);
    const ittBytes = this.#driver.ittBytes(bits - 1);
    const ittPa = this.#o.frames.allocAligned(ittBytes, 256);
    try {
      yield* this.#o.el2.fill(ittPa, ittBytes, 0);
      yield* this.#submit([
        encodeMapd({ deviceId, size: bits - 1, ittAddress: ittPa, valid: true }),
        encodeSync({ rdbase: this.#rdbase() }),
      ]);
    } catch (error) {
      this.#o.frames.freeAligned(ittPa, ittBytes);
      throw error;
    }
    this.#devices.set(deviceId, { ittPa, ittBytes, eventCount: 2 ** bits, events: new Map() });
  }

  *#unmapDevice(deviceId: number): Op<void> {
    const device = this.#devices.get(deviceId);
    if (device === undefined) return;
    // DISCARD first: it takes the pending state with it, which MAPD V=0 need not do.
    const commands = [...device.events.keys()].map((eventId) => encodeDiscard({ deviceId, eventId }));
    commands.push(encodeMapd({ deviceId, size: 0, ittAddress: 0, valid: false }));
    commands.push(encodeSync({ rdbase: this.#rdbase() }));
    yield* this.#submit(commands);
    this.#devices.delete(deviceId);
    for (const lpi of device.events.values()) this.#o.lpis.free(lpi);
    this.#o.frames.freeAligned(device.ittPa, device.ittBytes);
  }

  *#mapEvent(deviceId: number, eventId: number, target: LpiTarget): Op<void> {
    const device = this.#devices.get(deviceId);
    check(device !== undefined, 'ENODEV', `DeviceID 0x${deviceId.toString(16)} is not mapped`);
    check(eventId < device.eventCount, 'EINVAL', `EventID ${eventId} is beyond the table`);
    check(!device.events.has(eventId), 'EEXIST', `EventID ${eventId} is mapped`);
    // The target is known before the first interrupt can come.
    const lpi = this.#o.lpis.allocate(target);
    try {
      yield* this.#submit([
        encodeMapti({ deviceId, eventId, pIntid: lpi, icid: COLLECTION }),
        encodeInv({ deviceId, eventId }),
        encodeSync({ rdbase: this.#rdbase() }),
      ]);
    } catch (error) {
      this.#o.lpis.free(lpi);
      throw error;
    }
    device.events.set(eventId, lpi);
  }

  *#unmapEvent(deviceId: number, eventId: number): Op<void> {
    const device = this.#devices.get(deviceId);
    const lpi = device?.events.get(eventId);
    if (device === undefined || lpi === undefined) return;
    yield* this.#submit([encodeDiscard({ deviceId, eventId }), encodeSync({ rdbase: this.#rdbase() })]);
    device.events.delete(eventId);
    this.#o.lpis.free(lpi);
  }

  #rdbase(): number {
    return this.#driver.rdbase(this.#target.processorNumber, this.#target.rdFramePa);
  }

  *#submit(commands: readonly Uint32Array[]): Op<void> {
    for (const words of commands) this.#o.counts.add('itsCommands', decodeItsCommand(words).name);
    try {
      yield* this.#driver.submit(commands);
    } catch (error) {
      if (error instanceof ItsError) throw new XenError('ETIMEDOUT', error.message, { cause: error });
      throw error;
    }
  }

  *#run(accesses: readonly BusAccess[]): Op<readonly Uint8Array[]> {
    const ops: El2Op[] = accesses.map((a) =>
      a.kind === 'read' ? physRead(a.address, a.sizeBytes) : physWrite(a.address, a.data),
    );
    return (yield* this.#o.el2.batch(ops)).map((result) => result.data);
  }

  *#allocate(sizeBytes: number, alignBytes: number): Op<number> {
    const pa = this.#o.frames.allocAligned(sizeBytes, alignBytes);
    yield* this.#o.el2.fill(pa, sizeBytes, 0);
    return pa;
  }
}
