/**
 * The commands of a virtual ITS, one function a command (IHI 0069, "ITS commands"; xen/arch/arm/vgic-v3-its.c).
 * A command is checked against what the domain owns: its DeviceID is the requester id of the SBDF that the guest sees
 * (T7, T8), and only a device that is assigned to the domain has a machine's DeviceID and ITS behind it. A command that
 * fails is counted and traced, and the next one runs.
 * Deviates: Xen maps every event of a device once, when it is added, and answers commands from software alone; here a
 * guest's MAPD, MAPTI and DISCARD make Xen's ITS driver queue the physical command (bounded a trap, see registers.ts).
 * Deviates: an LPI's INTID must be an LPI (8192 and up) below 2^IDbits, as the architecture says; Xen compares otherwise.
 * Not modelled: MOVALL; the guest sees it accepted and nothing moves.
 */
import { decodeItsCommand, formatItsCommand, type ItsCommand } from '#shared/arch/gic/its-commands.ts';
import type { Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Counts } from '../counts.ts';
import { XenError } from '../error.ts';
import type { VLpis } from '../vgic/lpi.ts';
import type { DeviceEntry, VItsTables } from './tables.ts';

/** Bits of an EventID: MSI-X has at most 2048 vectors, and a host ITT is as large as the guest's. */
export const VITS_EVENT_ID_BITS = 11;

/** Where a host LPI leads. */
export interface LpiTarget {
  readonly domid: number;
  readonly vIntid: number;
}

/** What a virtual ITS asks of the machine's. Throws XenError. */
export interface HostItsPort {
  mapDevice(deviceId: number, eventCount: number): Op<void>;
  /** Undoes mapDevice and every mapEvent of the device. */
  unmapDevice(deviceId: number): Op<void>;
  mapEvent(deviceId: number, eventId: number, target: LpiTarget): Op<void>;
  unmapEvent(deviceId: number, eventId: number): Op<void>;
}

/** An assigned device as the machine's ITS knows it. */
export interface HostDevice {
  readonly its: HostItsPort;
  readonly deviceId: number;
}

/** The devices that the domain holds now, by the DeviceID that the guest uses. */
export interface VItsDevices {
  find(vDeviceId: number): HostDevice | undefined;
}

class CommandError extends Error {
  override name = 'CommandError';
}

interface MappedDevice extends HostDevice {
  readonly eventIdBits: number;
  /** EventID to virtual LPI. */
  readonly events: Map<number, number>;
}

export interface VItsCommandsOptions {
  readonly domid: number;
  readonly vcpus: number;
  readonly tables: VItsTables;
  readonly lpis: VLpis;
  readonly devices: VItsDevices;
  readonly runtime: Pick<Runtime, 'trace'>;
  readonly counts: Counts;
}

export class VItsCommands {
  readonly #o: VItsCommandsOptions;
  readonly #mapped = new Map<number, MappedDevice>();

  constructor(options: VItsCommandsOptions) {
    this.#o = options;
  }

  /** vDeviceIDs that the guest mapped, with their events. */
  inspect(): { vDeviceId: number; deviceId: number; events: number[] }[] {
    return [...this.#mapped].map(([vDeviceId, d]) => ({
      vDeviceId,
      deviceId: d.deviceId,
      events: [...d.events.keys()],
    }));
  }

  /** Runs the command in eight words at `at`. What is wrong with a command stays with it. */
  *run(words: ArrayLike<number>, at: number): Op<void> {
    const command = decodeItsCommand(words, at);
    this.#o.counts.add('itsCommands', `vits.${command.name}`);
    try {
      yield* this.#dispatch(command);
    } catch (error) {
      if (!(error instanceof CommandError || error instanceof XenError)) throw error;
      this.#o.counts.add('itsCommands', 'vits.errors');
      this.#o.runtime.trace('vits.command_error', {
        domid: this.#o.domid,
        command: formatItsCommand(command),
        error: error.message,
      });
    }
  }

  /** The device leaves the domain: its events and its entry in the machine's ITS go, whatever the guest's tables say. */
  *release(vDeviceId: number): Op<void> {
    const device = this.#mapped.get(vDeviceId);
    if (device === undefined) return;
    for (const vIntid of device.events.values()) this.#o.lpis.unmap(vIntid);
    yield* device.its.unmapDevice(device.deviceId);
    this.#mapped.delete(vDeviceId);
  }

  *#dispatch(command: ItsCommand): Op<void> {
    switch (command.name) {
      case 'MAPD':
        return yield* this.#mapd(command.deviceId, command.size + 1, command.ittAddress, command.valid);
      case 'MAPC':
        return yield* this.#mapc(command.icid, command.rdbase, command.valid);
      case 'MAPTI':
        return yield* this.#mapti(command.deviceId, command.eventId, command.pIntid, command.icid);
      case 'MAPI':
        return yield* this.#mapti(command.deviceId, command.eventId, command.eventId, command.icid);
      case 'MOVI':
        return yield* this.#movi(command.deviceId, command.eventId, command.icid);
      case 'DISCARD':
        return yield* this.#discard(command.deviceId, command.eventId);
      case 'INT':
        this.#o.lpis.setPending((yield* this.#event(command.deviceId, command.eventId)).vIntid);
        return;
      case 'CLEAR':
        this.#o.lpis.clearPending((yield* this.#event(command.deviceId, command.eventId)).vIntid);
        return;
      case 'INV':
        return yield* this.#o.lpis.reload((yield* this.#event(command.deviceId, command.eventId)).vIntid);
      case 'INVALL':
        return yield* this.#o.lpis.reloadAll(yield* this.#collection(command.icid));
      case 'SYNC':
      case 'MOVALL':
      case 'unknown':
        return;
      default:
        command satisfies never;
    }
  }

  *#mapd(vDeviceId: number, eventIdBits: number, itt: number, valid: boolean): Op<void> {
    const { tables, devices, counts } = this.#o;
    if (!tables.hasDevice(vDeviceId)) throw new CommandError('DeviceID beyond the device table');
    const host = devices.find(vDeviceId);
    if (host === undefined) {
      counts.add('itsCommands', 'vits.unknown_device');
      throw new CommandError(`no device 0x${vDeviceId.toString(16)} is assigned`);
    }
    if (valid && eventIdBits > VITS_EVENT_ID_BITS) throw new CommandError('Size beyond GITS_TYPER.ID_bits');
    yield* this.release(vDeviceId);
    if (!valid) {
      yield* tables.setDevice(vDeviceId, undefined);
      return;
    }
    yield* host.its.mapDevice(host.deviceId, 2 ** eventIdBits);
    this.#mapped.set(vDeviceId, { ...host, eventIdBits, events: new Map() });
    yield* tables.setDevice(vDeviceId, { itt, eventIdBits });
  }

  *#mapc(icid: number, vcpu: number, valid: boolean): Op<void> {
    if (!this.#o.tables.hasCollection(icid)) throw new CommandError('ICID beyond the collection table');
    if (valid && vcpu >= this.#o.vcpus) throw new CommandError(`no virtual CPU ${vcpu}`);
    yield* this.#o.tables.setCollection(icid, valid ? vcpu : undefined);
  }

  *#mapti(vDeviceId: number, eventId: number, vIntid: number, icid: number): Op<void> {
    const { lpis, tables, domid } = this.#o;
    const { device, entry } = yield* this.#device(vDeviceId, eventId);
    const vcpu = yield* this.#collection(icid);
    if (!lpis.isLpi(vIntid)) throw new CommandError(`INTID ${vIntid} is no LPI of the guest`);
    if (device.events.has(eventId)) throw new CommandError('the event is mapped already');
    if (lpis.isMapped(vIntid)) throw new CommandError(`LPI ${vIntid} is mapped already`);
    yield* tables.setEvent(entry.itt, eventId, { vIntid, icid });
    device.events.set(eventId, vIntid);
    try {
      yield* lpis.map(vIntid, vcpu);
      yield* device.its.mapEvent(device.deviceId, eventId, { domid, vIntid });
    } catch (error) {
      device.events.delete(eventId);
      lpis.unmap(vIntid);
      yield* tables.setEvent(entry.itt, eventId, undefined);
      throw error;
    }
  }

  *#movi(vDeviceId: number, eventId: number, icid: number): Op<void> {
    const { vIntid, itt } = yield* this.#event(vDeviceId, eventId);
    const vcpu = yield* this.#collection(icid);
    yield* this.#o.tables.setEvent(itt, eventId, { vIntid, icid });
    this.#o.lpis.move(vIntid, vcpu);
  }

  *#discard(vDeviceId: number, eventId: number): Op<void> {
    const { device, vIntid, itt } = yield* this.#event(vDeviceId, eventId);
    device.events.delete(eventId);
    this.#o.lpis.unmap(vIntid);
    yield* device.its.unmapEvent(device.deviceId, eventId);
    yield* this.#o.tables.setEvent(itt, eventId, undefined);
  }

  /** The device and its table entry as it stands in guest memory now, checked again. */
  *#device(vDeviceId: number, eventId: number): Op<{ device: MappedDevice; entry: DeviceEntry }> {
    const device = this.#mapped.get(vDeviceId);
    if (device === undefined || !this.#o.tables.hasDevice(vDeviceId))
      throw new CommandError('the device is not mapped');
    const entry = yield* this.#o.tables.device(vDeviceId);
    if (eventId >= 2 ** Math.min(entry.eventIdBits, device.eventIdBits))
      throw new CommandError('EventID beyond the ITT');
    return { device, entry };
  }

  /** A mapped event. Its LPI is the one that MAPTI gave it: an entry that says another one since is an error. */
  *#event(vDeviceId: number, eventId: number): Op<{ device: MappedDevice; vIntid: number; itt: number }> {
    const { device, entry } = yield* this.#device(vDeviceId, eventId);
    const { vIntid } = yield* this.#o.tables.event(entry.itt, eventId);
    if (!device.events.has(eventId)) throw new CommandError('the event is not mapped');
    if (device.events.get(eventId) !== vIntid) throw new CommandError('the ITT was changed behind the ITS');
    return { device, vIntid, itt: entry.itt };
  }

  *#collection(icid: number): Op<number> {
    if (!this.#o.tables.hasCollection(icid)) throw new CommandError('ICID beyond the collection table');
    const vcpu = yield* this.#o.tables.collection(icid);
    if (vcpu === undefined || vcpu >= this.#o.vcpus) throw new CommandError('the collection is not mapped');
    return vcpu;
  }
}
