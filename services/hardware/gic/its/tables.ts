/**
 * The ITS's tables in RAM (IHI 0069, "The ITS tables"). Their format is the implementation's own; here each entry is
 * 8 bytes, two little-endian words:
 *
 *   device table, by DeviceID    lo [31:8] ITT address [31:8], [4:0] Size    hi [31] Valid, [19:0] ITT address [51:32]
 *   collection table, by ICID    lo [15:0] Processor_Number                  hi [31] Valid
 *   ITT, by EventID              lo [31:0] pINTID                            hi [31] Valid, [15:0] ICID
 *
 * Nothing is cached: what lies in RAM decides. MAPD does not clear the ITT it is given, so software that lends a table
 * with old contents gets old translations, as IHI 0069 warns ("MAPD": the memory must be zero).
 * Not modelled: two-level tables (GITS_BASERn.Indirect reads 0).
 */
import type { GicMemory } from '../memory.ts';

export const ENTRY_BYTES = 8;

const VALID = 0x8000_0000;

/** A table as GITS_BASERn describes it. */
export class Table {
  readonly #memory: GicMemory;
  #valid = false;
  #pa = 0;
  #entries = 0;

  constructor(memory: GicMemory) {
    this.#memory = memory;
  }

  set(valid: boolean, pa: number, sizeBytes: number, idBits: number): void {
    this.#valid = valid;
    this.#pa = pa;
    this.#entries = valid ? Math.min(Math.floor(sizeBytes / ENTRY_BYTES), 2 ** idBits) : 0;
  }

  get valid(): boolean {
    return this.#valid;
  }

  /** How many ids have an entry. */
  get entries(): number {
    return this.#entries;
  }

  /** Address of an entry; -1 when it is outside the table or there is no RAM. */
  at(index: number): number {
    if (index >= this.#entries) return -1;
    const pa = this.#pa + ENTRY_BYTES * index;
    return this.#memory.contains(pa, ENTRY_BYTES) ? pa : -1;
  }
}

/** Reads and writes of the entries. A reader returns false, and leaves its fields alone, when the entry is not valid. */
export class ItsTables {
  readonly #memory: GicMemory;
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

  constructor(memory: GicMemory) {
    this.#memory = memory;
    this.devices = new Table(memory);
    this.collections = new Table(memory);
  }

  readDevice(deviceId: number): boolean {
    const pa = this.devices.at(deviceId);
    if (pa < 0) return false;
    const hi = this.#memory.read32(pa + 4);
    if ((hi & VALID) === 0) return false;
    const lo = this.#memory.read32(pa);
    this.ittPa = (hi & 0x000f_ffff) * 0x1_0000_0000 + ((lo & 0xffff_ff00) >>> 0);
    this.events = 2 ** ((lo & 0x1f) + 1);
    return true;
  }

  writeDevice(deviceId: number, valid: boolean, ittPa: number, size: number): boolean {
    const lo = ((ittPa & 0xffff_ff00) | size) >>> 0;
    return this.#write(this.devices.at(deviceId), valid, lo, Math.floor(ittPa / 0x1_0000_0000) & 0x000f_ffff);
  }

  /** Reads the entry of an event of the device that was read last; the caller has checked `eventId < events`. */
  readEvent(eventId: number): boolean {
    const pa = this.ittPa + ENTRY_BYTES * eventId;
    if (!this.#memory.contains(pa, ENTRY_BYTES)) return false;
    const hi = this.#memory.read32(pa + 4);
    if ((hi & VALID) === 0) return false;
    this.pIntid = this.#memory.read32(pa) >>> 0;
    this.icid = hi & 0xffff;
    return true;
  }

  writeEvent(eventId: number, valid: boolean, pIntid: number, icid: number): boolean {
    const pa = this.ittPa + ENTRY_BYTES * eventId;
    return this.#write(this.#memory.contains(pa, ENTRY_BYTES) ? pa : -1, valid, pIntid, icid);
  }

  readCollection(icid: number): boolean {
    const pa = this.collections.at(icid);
    if (pa < 0 || (this.#memory.read32(pa + 4) & VALID) === 0) return false;
    this.processorNumber = this.#memory.read32(pa) & 0xffff;
    return true;
  }

  writeCollection(icid: number, valid: boolean, processorNumber: number): boolean {
    return this.#write(this.collections.at(icid), valid, processorNumber, 0);
  }

  #write(pa: number, valid: boolean, lo: number, hi: number): boolean {
    if (pa < 0) return false;
    this.#memory.write32(pa, valid ? lo : 0);
    this.#memory.write32(pa + 4, valid ? (hi | VALID) >>> 0 : 0);
    return true;
  }
}
