/**
 * The tables of a virtual ITS, all flat and all in the guest's own memory (xen/arch/arm/vgic-v3-its.c): device table
 * (8 bytes: ITT address [51:8], Size [4:0]), collection table (2 bytes: virtual CPU, 0xffff unmapped), ITT (8 bytes:
 * virtual LPI, collection). The guest can rewrite them at any time, so every use reads and checks them again.
 */
import type { Op } from '#shared/core/op.ts';
import type { GuestMemory } from '../vgic/lpi.ts';

export const VITS_DTE_BYTES = 8;
export const VITS_CTE_BYTES = 2;
export const VITS_ITE_BYTES = 8;
const UNMAPPED_COLLECTION = 0xffff;

/** A table that the guest gave by GITS_BASERn; zero bytes when it is not valid. */
export interface VItsTable {
  readonly ipa: number;
  readonly sizeBytes: number;
}

export interface DeviceEntry {
  /** IPA of the ITT. */
  readonly itt: number;
  /** EventIDs are below 2^eventIdBits. */
  readonly eventIdBits: number;
}

export interface EventEntry {
  /** 0: not mapped. */
  readonly vIntid: number;
  readonly icid: number;
}

export class VItsTables {
  readonly #memory: GuestMemory;
  readonly #devices: () => VItsTable;
  readonly #collections: () => VItsTable;

  constructor(memory: GuestMemory, devices: () => VItsTable, collections: () => VItsTable) {
    this.#memory = memory;
    this.#devices = devices;
    this.#collections = collections;
  }

  hasDevice(vDeviceId: number): boolean {
    return (vDeviceId + 1) * VITS_DTE_BYTES <= this.#devices().sizeBytes;
  }

  hasCollection(icid: number): boolean {
    return (icid + 1) * VITS_CTE_BYTES <= this.#collections().sizeBytes;
  }

  *device(vDeviceId: number): Op<DeviceEntry> {
    const data = yield* this.#memory.readGuest(this.#devices().ipa + vDeviceId * VITS_DTE_BYTES, VITS_DTE_BYTES);
    const view = viewOf(data);
    const lo = view.getUint32(0, true);
    const hi = view.getUint32(4, true) & 0x000f_ffff;
    return { itt: hi * 0x1_0000_0000 + ((lo & 0xffff_ff00) >>> 0), eventIdBits: (lo & 0x1f) + 1 };
  }

  /** `undefined` clears the entry. */
  *setDevice(vDeviceId: number, entry: DeviceEntry | undefined): Op<void> {
    const data = new Uint8Array(VITS_DTE_BYTES);
    if (entry !== undefined) {
      const view = viewOf(data);
      view.setUint32(0, (((entry.itt >>> 0) & 0xffff_ff00) | (entry.eventIdBits - 1)) >>> 0, true);
      view.setUint32(4, Math.floor(entry.itt / 0x1_0000_0000), true);
    }
    yield* this.#memory.writeGuest(this.#devices().ipa + vDeviceId * VITS_DTE_BYTES, data);
  }

  /** The virtual CPU of a collection; undefined when it is unmapped. */
  *collection(icid: number): Op<number | undefined> {
    const data = yield* this.#memory.readGuest(this.#collections().ipa + icid * VITS_CTE_BYTES, VITS_CTE_BYTES);
    const vcpu = viewOf(data).getUint16(0, true);
    return vcpu === UNMAPPED_COLLECTION ? undefined : vcpu;
  }

  *setCollection(icid: number, vcpu: number | undefined): Op<void> {
    const data = new Uint8Array(VITS_CTE_BYTES);
    viewOf(data).setUint16(0, vcpu ?? UNMAPPED_COLLECTION, true);
    yield* this.#memory.writeGuest(this.#collections().ipa + icid * VITS_CTE_BYTES, data);
  }

  *event(itt: number, eventId: number): Op<EventEntry> {
    const view = viewOf(yield* this.#memory.readGuest(itt + eventId * VITS_ITE_BYTES, VITS_ITE_BYTES));
    return { vIntid: view.getUint32(0, true), icid: view.getUint16(4, true) };
  }

  /** `undefined` clears the entry. */
  *setEvent(itt: number, eventId: number, entry: EventEntry | undefined): Op<void> {
    const data = new Uint8Array(VITS_ITE_BYTES);
    if (entry !== undefined) {
      const view = viewOf(data);
      view.setUint32(0, entry.vIntid, true);
      view.setUint16(4, entry.icid, true);
    }
    yield* this.#memory.writeGuest(itt + eventId * VITS_ITE_BYTES, data);
  }
}

function viewOf(data: Uint8Array): DataView {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}
