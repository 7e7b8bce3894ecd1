/**
 * The ITS's tables in RAM (IHI 0069, "The ITS tables"), at the addresses that software programmed and nowhere else.
 * Their format is the implementation's own. Little-endian words:
 *
 *   level 1 table, if Indirect   lo [31:12] level 2 page [31:12]             hi [31] Valid, [19:0] page [51:32]
 *   device table, by DeviceID    lo [31:8] ITT address [31:8], [4:0] Size    hi [31] Valid, [19:0] ITT address [51:32]
 *   collection table, by ICID    lo [15:0] Processor_Number                  hi [31] Valid
 *   ITT of 4-byte entries        [15:0] pINTID, [30:16] ICID, [31] Valid
 *   ITT of 8-byte entries        lo pINTID                                   hi [31] Valid, [15:0] ICID
 *   ITT of 12-byte entries       the same, and a word that stays 0 (the doorbell of a vPE in GICv4)
 *
 * What was decoded is cached (device entries, events with their collection, collections) until a command or register of this ITS changes it,
 * as an ITS may; entries that are not valid are never cached. MAPD does not clear the ITT it is given, so software that
 * lends a table with old contents gets old translations, as IHI 0069 warns ("MAPD": the memory must be zero).
 * A level 1 entry that is not valid makes its DeviceIDs unmapped; MAPD of one is out of range.
 */
import { LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { Look } from '../../look.ts';
import { loadArray, type Saved } from '../../state/saved.ts';
import type { GicMemory } from '../memory.ts';
import type { ItsChoices } from '../options.ts';
import type { ItsProblem } from './errors.ts';
import type { LpiSink } from './translate.ts';

export const ENTRY_BYTES = 8;

const VALID = 0x8000_0000;
const DEVICES_CACHED = 256;
const EVENTS_CACHED = 4096;
const EVENT_MASK = EVENTS_CACHED - 1;
const NOT_CACHED = -1;

/** The words of a cached event. pINTID 0: none is cached here. */
export const CACHED_EVENT = { DEVICE: 0, EVENT: 1, PINTID: 2, PROCESSOR: 3 } as const;
const { EVENT, PINTID, PROCESSOR } = CACHED_EVENT;
const STRIDE = 4;

/** A table as GITS_BASERn describes it. */
export class Table {
  readonly #memory: GicMemory;
  #valid = false;
  #indirect = false;
  #pa = 0;
  #entries = 0;
  #pageBytes = 0x1000;

  constructor(memory: GicMemory) {
    this.#memory = memory;
  }

  set(valid: boolean, pa: number, sizeBytes: number, idBits: number, indirect = false, pageBytes = 0x1000): void {
    this.#valid = valid;
    this.#pa = pa;
    this.#indirect = indirect;
    this.#pageBytes = pageBytes;
    const room = indirect ? Math.floor(sizeBytes / 8) * (pageBytes / ENTRY_BYTES) : Math.floor(sizeBytes / ENTRY_BYTES);
    this.#entries = valid ? Math.min(room, 2 ** idBits) : 0;
  }

  get valid(): boolean {
    return this.#valid;
  }

  /** How many ids have an entry, or can have one. */
  get entries(): number {
    return this.#entries;
  }

  /** Address of an entry; -1 when it is outside the table, its page is not there, or there is no RAM. */
  at(index: number): number {
    if (index >= this.#entries) return -1;
    let pa = this.#pa + ENTRY_BYTES * index;
    if (this.#indirect) {
      const perPage = this.#pageBytes / ENTRY_BYTES;
      const page = Math.floor(index / perPage);
      const level1 = this.#pa + 8 * page;
      if (!this.#memory.contains(level1, 8)) return -1;
      const hi = this.#memory.read32(level1 + 4);
      if ((hi & VALID) === 0) return -1;
      const lo = this.#memory.read32(level1);
      const pagePa = (hi & 0x000f_ffff) * 0x1_0000_0000 + ((lo & ~(this.#pageBytes - 1)) >>> 0);
      pa = pagePa + ENTRY_BYTES * (index - page * perPage);
    }
    return this.#memory.contains(pa, ENTRY_BYTES) ? pa : -1;
  }

  /** Calls `visit` with the words of every valid entry, as far as the look goes. */
  eachValid(look: Look, visit: (index: number, lo: number, hi: number) => void): void {
    const perPage = this.#indirect ? this.#pageBytes / ENTRY_BYTES : this.#entries;
    for (let first = 0; first < this.#entries && look.read(); first += perPage) {
      const page = this.at(first);
      if (page < 0) continue;
      const count = Math.min(perPage, this.#entries - first);
      for (let i = 0; i < count && look.read(); i++) {
        const pa = page + ENTRY_BYTES * i;
        if (!this.#memory.contains(pa, ENTRY_BYTES)) break;
        const hi = this.#memory.read32(pa + 4);
        if ((hi & VALID) !== 0) visit(first + i, this.#memory.read32(pa), hi);
      }
    }
  }
}

interface SavedTables {
  readonly generation: number;
  readonly deviceIds: Float64Array;
  readonly deviceGenerations: Uint32Array;
  readonly ittPas: Float64Array;
  readonly deviceEvents: Float64Array;
  readonly cachedEvents: Int32Array;
  readonly processors: Int32Array;
}

/** Reads and writes of the entries. A reader returns false, and leaves its fields alone, when the entry is not valid. */
export class ItsTables implements Saved {
  readonly #memory: GicMemory;
  readonly #ittEntryBytes: number;
  readonly devices: Table;
  readonly collections: Table;
  /** Of the device read last. */
  ittPa = 0;
  /** Of the device read last: how many EventIDs its ITT holds. */
  events = 0;
  /** Of the event read last. */
  pIntid = 0;
  icid = 0;
  /** Of the collection read last. */
  processorNumber = 0;

  /** What a message looks at first: see CACHED_EVENT. An event is here with the collection that it had; MAPC empties this. */
  readonly cachedEvents = new Int32Array(EVENTS_CACHED * STRIDE);
  #hasEvents = false;
  /** Cached devices of another generation do not count. */
  #generation = 1;
  readonly #deviceIds = new Float64Array(DEVICES_CACHED);
  readonly #deviceGenerations = new Uint32Array(DEVICES_CACHED);
  readonly #ittPas = new Float64Array(DEVICES_CACHED);
  readonly #deviceEvents = new Float64Array(DEVICES_CACHED);
  /** By ICID: Processor_Number, or NOT_CACHED. */
  readonly #processors: Int32Array;

  constructor(memory: GicMemory, choices: ItsChoices) {
    this.#memory = memory;
    this.#ittEntryBytes = choices.ittEntryBytes;
    this.devices = new Table(memory);
    this.collections = new Table(memory);
    this.#processors = new Int32Array(2 ** choices.collectionIdBits).fill(NOT_CACHED);
  }

  /** Power-on: nothing cached. */
  reset(): void {
    this.dropCaches();
  }

  /** Everything is read from RAM again. */
  dropCaches(): void {
    this.#dropDevices();
    this.#processors.fill(NOT_CACHED);
  }

  /**
   * Looks up an event: the fields then hold its device, entry and collection. Returns what is missing, or undefined. The
   * checks are in the order of the INT command's.
   */
  lookUp(lpis: LpiSink, deviceId: number, eventId: number): ItsProblem | undefined {
    if (deviceId >= this.devices.entries) return 'device-oor';
    if (!this.readDevice(deviceId)) return 'unmapped-device';
    if (eventId >= this.events) return 'id-oor';
    if (!this.readEvent(eventId)) return 'unmapped-interrupt';
    // The ITS wrote no such entry: software did.
    if (this.pIntid < LPI_FIRST || this.pIntid >= 2 ** lpis.idBits) return 'ite-invalid';
    if (!this.readCollection(this.icid)) return 'unmapped-collection';
    return undefined;
  }

  /**
   * What `raiseEvent` does with an event that is not cached. Only an event that could be delivered is kept, so one in the
   * cache needs no check. A field that is called through `call`: of that the compiler knows the function only where it
   * knows the object. A method it would inline into the path of the events that are cached.
   */
  readonly raiseUncached = (lpis: LpiSink, deviceId: number, eventId: number): ItsProblem | undefined => {
    const problem = this.lookUp(lpis, deviceId, eventId);
    if (problem !== undefined) return problem;
    if (!lpis.hasProcessor(this.processorNumber)) return 'procnum-oor';
    this.#keep(deviceId, eventId);
    return lpis.setLpiPending(this.processorNumber, this.pIntid) ? undefined : 'lpi-not-accepted';
  };

  /** Caches the event and the collection that were read last as this one's. */
  #keep(deviceId: number, eventId: number): void {
    const events = this.cachedEvents;
    const at = placeOfEvent(deviceId, eventId);
    events[at] = deviceId;
    events[at + EVENT] = eventId;
    events[at + PINTID] = this.pIntid;
    events[at + PROCESSOR] = this.processorNumber;
    this.#hasEvents = true;
  }

  readDevice(deviceId: number): boolean {
    const i = deviceIndex(deviceId);
    if (this.#deviceGenerations[i] === this.#generation && this.#deviceIds[i] === deviceId) {
      this.ittPa = this.#ittPas[i]!;
      this.events = this.#deviceEvents[i]!;
      return true;
    }
    const pa = this.devices.at(deviceId);
    if (pa < 0) return false;
    const hi = this.#memory.read32(pa + 4);
    if ((hi & VALID) === 0) return false;
    const lo = this.#memory.read32(pa);
    this.ittPa = (hi & 0x000f_ffff) * 0x1_0000_0000 + ((lo & 0xffff_ff00) >>> 0);
    this.events = 2 ** ((lo & 0x1f) + 1);
    this.#deviceGenerations[i] = this.#generation;
    this.#deviceIds[i] = deviceId;
    this.#ittPas[i] = this.ittPa;
    this.#deviceEvents[i] = this.events;
    return true;
  }

  writeDevice(deviceId: number, valid: boolean, ittPa: number, size: number): boolean {
    const lo = ((ittPa & 0xffff_ff00) | size) >>> 0;
    const done = this.#write(this.devices.at(deviceId), valid, lo, Math.floor(ittPa / 0x1_0000_0000) & 0x000f_ffff);
    this.#dropDevices();
    return done;
  }

  /** Reads the entry of an event of the device that was read last; the caller has checked `eventId < events`. */
  readEvent(eventId: number): boolean {
    const pa = this.ittPa + this.#ittEntryBytes * eventId;
    if (!this.#memory.contains(pa, this.#ittEntryBytes)) return false;
    const lo = this.#memory.read32(pa);
    if (this.#ittEntryBytes === 4) {
      if ((lo & VALID) === 0) return false;
      this.pIntid = lo & 0xffff;
      this.icid = (lo >>> 16) & 0x7fff;
      return true;
    }
    const hi = this.#memory.read32(pa + 4);
    if ((hi & VALID) === 0) return false;
    this.pIntid = lo;
    this.icid = hi & 0xffff;
    return true;
  }

  /** Writes the entry of an event of the device that was read last. False: there is no RAM. */
  writeEvent(deviceId: number, eventId: number, valid: boolean, pIntid: number, icid: number): boolean {
    const events = this.cachedEvents;
    const at = placeOfEvent(deviceId, eventId);
    if (events[at] === (deviceId | 0) && events[at + EVENT] === (eventId | 0)) events[at + PINTID] = 0;
    const pa = this.ittPa + this.#ittEntryBytes * eventId;
    if (!this.#memory.contains(pa, this.#ittEntryBytes)) return false;
    if (this.#ittEntryBytes === 4) {
      this.#memory.write32(pa, valid ? ((pIntid & 0xffff) | (icid << 16) | VALID) >>> 0 : 0);
      return true;
    }
    if (this.#ittEntryBytes === 12) this.#memory.write32(pa + 8, 0);
    return this.#write(pa, valid, pIntid, icid);
  }

  readCollection(icid: number): boolean {
    const cached = icid < this.#processors.length ? this.#processors[icid]! : NOT_CACHED;
    if (cached !== NOT_CACHED) {
      this.processorNumber = cached;
      return true;
    }
    const pa = this.collections.at(icid);
    if (pa < 0 || (this.#memory.read32(pa + 4) & VALID) === 0) return false;
    this.processorNumber = this.#memory.read32(pa) & 0xffff;
    this.#processors[icid] = this.processorNumber;
    return true;
  }

  writeCollection(icid: number, valid: boolean, processorNumber: number): boolean {
    this.#processors[icid] = NOT_CACHED;
    this.#dropEvents();
    return this.#write(this.collections.at(icid), valid, processorNumber, 0);
  }

  #write(pa: number, valid: boolean, lo: number, hi: number): boolean {
    if (pa < 0) return false;
    this.#memory.write32(pa, valid ? lo : 0);
    this.#memory.write32(pa + 4, valid ? (hi | VALID) >>> 0 : 0);
    return true;
  }

  #dropEvents(): void {
    if (this.#hasEvents) this.cachedEvents.fill(0);
    this.#hasEvents = false;
  }

  #dropDevices(): void {
    this.#dropEvents();
    if (++this.#generation <= 0xffff_ffff) return;
    this.#generation = 1;
    this.#deviceGenerations.fill(0);
  }

  save(): SavedTables {
    return {
      generation: this.#generation,
      deviceIds: this.#deviceIds.slice(),
      deviceGenerations: this.#deviceGenerations.slice(),
      ittPas: this.#ittPas.slice(),
      deviceEvents: this.#deviceEvents.slice(),
      cachedEvents: this.cachedEvents.slice(),
      processors: this.#processors.slice(),
    };
  }

  /** Takes the caches; the tables themselves are RAM, and where they lie is in the registers. */
  load(state: unknown): void {
    const s = state as SavedTables;
    const what = 'the caches of an ITS';
    loadArray(this.#deviceIds, s.deviceIds, what);
    loadArray(this.#deviceGenerations, s.deviceGenerations, what);
    loadArray(this.#ittPas, s.ittPas, what);
    loadArray(this.#deviceEvents, s.deviceEvents, what);
    loadArray(this.cachedEvents, s.cachedEvents, what);
    this.#hasEvents = true;
    loadArray(this.#processors, s.processors, what);
    this.#generation = s.generation;
  }

  /** The device table, its ITTs and the collection table as RAM holds them, decoded, as far as a look goes. */
  inspect(): unknown {
    const look = new Look();
    const devices: Record<string, { ittPa: number; events: number; mapped: unknown[] }> = {};
    const collections: Record<string, number> = {};
    this.collections.eachValid(look, (icid, lo) => {
      if (look.show()) collections[icid] = lo & 0xffff;
    });
    this.devices.eachValid(look, (deviceId, lo, hi) => {
      const ittPa = (hi & 0x000f_ffff) * 0x1_0000_0000 + ((lo & 0xffff_ff00) >>> 0);
      if (look.show()) devices[deviceId] = { ittPa, events: 2 ** ((lo & 0x1f) + 1), mapped: [] };
    });
    // Every device comes first: the table of one may be larger than all that a look reads.
    for (const device of Object.values(devices))
      device.mapped.push(...this.#inspectItt(device.ittPa, device.events, look));
    return { devices, collections, ...look.incomplete };
  }

  #inspectItt(ittPa: number, events: number, look: Look): unknown[] {
    const { pIntid, icid } = this;
    const before = this.ittPa;
    this.ittPa = ittPa;
    const rows: unknown[] = [];
    for (let eventId = 0; eventId < events && look.read(); eventId++) {
      if (this.readEvent(eventId) && look.show()) rows.push({ eventId, pIntid: this.pIntid, icid: this.icid });
    }
    this.ittPa = before;
    this.pIntid = pIntid;
    this.icid = icid;
    return rows;
  }
}

function deviceIndex(deviceId: number): number {
  return (deviceId ^ (deviceId >>> 8)) & (DEVICES_CACHED - 1);
}

/** Where an event is in `cachedEvents` if it is cached: see CACHED_EVENT. */
export function placeOfEvent(deviceId: number, eventId: number): number {
  return ((Math.imul(deviceId, 0x9e5) ^ eventId) & EVENT_MASK) * STRIDE;
}
