/**
 * LPIs at one redistributor: configuration and pending state (IHI 0069, "LPIs").
 * A configuration byte is read from the table once, when its LPI first arrives, and kept: INV reads it anew, INVALL and
 * enabling LPIs forget all bytes (and read those of pending LPIs at once). Software that changes the table and forgets
 * INV keeps the old behaviour.
 * A pending LPI is kept here while LPIs are enabled and written to the pending table when they are disabled.
 * A disabled LPI that arrives stays pending. An LPI has no active state.
 */
import { LPI_CONFIG_Enable, LPI_CONFIG_RES1, LPI_FIRST, lpiPendingTableBytes } from '#shared/arch/gic/lpi-tables.ts';
import { loadArray, type Saved } from '../state/saved.ts';
import { PRIORITY_MASK } from './interrupt-bank.ts';
import { clearLpi, LPI_CONFIG_KEPT, LPI_PENDING, LpiStore, raiseLpi } from './lpi-store.ts';
import type { GicMemory } from './memory.ts';

/** Four bytes at once. */
const PENDING_IN_WORD = LPI_PENDING * 0x0101_0101;
/** What `raise` gives for an LPI that is lost, and what is less it kept. */
const LOST = 0x200;
/** Pending LPIs that `inspect` names. */
const SHOWN_MAX = 64;

interface SavedLpis {
  readonly enabled: boolean;
  readonly propPa: number;
  readonly pendPa: number;
  readonly limit: number;
  readonly config: Uint8Array;
  readonly pending: Uint32Array;
}

export class LpiState implements Saved {
  readonly #memory: GicMemory;
  readonly #store: LpiStore;
  readonly #pe: number;
  readonly #idBitsMax: number;
  /** This PE's part of the store, by INTID - 8192; and four of them at once. */
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  #enabled = false;
  #propPa = 0;
  #pendPa = 0;
  /** INTIDs below this are LPIs here. */
  #limit = LPI_FIRST;

  /** `store` is the GIC's, of PEs with `idBitsMax` bits of INTID, and `pe` the place there. */
  constructor(memory: GicMemory, idBitsMax: number, store: LpiStore = new LpiStore(1, idBitsMax), pe = 0) {
    this.#memory = memory;
    this.#store = store;
    this.#pe = pe;
    this.#idBitsMax = idBitsMax;
    const { perPe } = store;
    this.#bytes = store.bytes.subarray(pe * perPe, (pe + 1) * perPe);
    this.#words = new Int32Array(this.#bytes.buffer, this.#bytes.byteOffset, perPe / 4);
  }

  reset(): void {
    this.#enabled = false;
    this.#limit = LPI_FIRST;
    this.#store.accept(this.#pe, 0);
    this.#forgetAll();
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  get pendingCount(): number {
    return this.#store.pendingCount(this.#pe);
  }

  /** GICR_CTLR.EnableLPIs 0 to 1. With `startEmpty` (GICR_PENDBASER.PTZ) the pending table is not read. */
  enable(propPa: number, idBits: number, pendPa: number, startEmpty: boolean): void {
    this.#enabled = true;
    this.#propPa = propPa;
    this.#pendPa = pendPa;
    const bits = Math.min(idBits, this.#idBitsMax);
    this.#limit = bits < 14 ? LPI_FIRST : 2 ** bits;
    this.#store.accept(this.#pe, this.#limit - LPI_FIRST);
    this.#forgetAll();
    if (!startEmpty) this.#readPendingTable(bits);
  }

  /** EnableLPIs 1 to 0: what is pending goes to the pending table. */
  disable(): void {
    this.#enabled = false;
    this.#store.accept(this.#pe, 0);
    const bytes = lpiPendingTableBytes(Math.log2(this.#limit));
    if (this.#limit > LPI_FIRST && this.#memory.contains(this.#pendPa, bytes)) {
      const bitmap = this.#bitmap();
      for (let at = LPI_FIRST / 8; at < bytes; at += 4) this.#memory.write32(this.#pendPa + at, bitmap[at / 4]!);
    }
    this.#forgetPending();
  }

  /**
   * Makes `lpi` pending. Returns its priority when it is offered from now on; 0x100 when it is disabled or was pending
   * before; 0x200 when it is lost, because LPIs are disabled here or it is beyond the table.
   */
  raise(lpi: number): number {
    const priority = raiseLpi(this.#store, this.#pe, lpi);
    if (priority >= 0) return priority;
    this.#read(lpi - LPI_FIRST);
    return raiseLpi(this.#store, this.#pe, lpi);
  }

  /** The same; false when it is lost. */
  setPending(lpi: number): boolean {
    return this.raise(lpi) < LOST;
  }

  /** Takes the pending state away; returns whether it was there. */
  clearPending(lpi: number): boolean {
    return clearLpi(this.#store, this.#pe, lpi);
  }

  /** INV: the configuration byte is read again. */
  invalidate(lpi: number): void {
    const i = lpi - LPI_FIRST;
    if (i < 0 || i >= this.#bytes.length) return;
    const before = this.#bytes[i]!;
    const now = this.#read(i);
    if ((before & LPI_PENDING) === 0) return;
    this.#store.withdraw(this.#pe, lpi, before);
    this.#store.offer(this.#pe, lpi, now);
  }

  /** INVALL: every LPI of this redistributor, which is more than the collection and is allowed. */
  invalidateAll(): void {
    for (let n = 0; n < this.#words.length; n++) this.#words[n]! &= PENDING_IN_WORD;
    this.#offerAll();
  }

  /** MOVALL: everything pending here becomes pending at `target`. */
  moveAllTo(target: LpiState): void {
    for (let lpi = this.#nextPending(0); lpi >= 0; lpi = this.#nextPending(lpi + 1)) target.setPending(lpi);
    this.#forgetPending();
  }

  /** The pending enabled LPI of highest priority, the lowest INTID among equals, or -1. */
  best(): number {
    return this.#store.best(this.#pe);
  }

  /** Priority of what `best` gives; 0x100 when it gives nothing. */
  get bestPriority(): number {
    return this.#store.bestPriority(this.#pe);
  }

  /** What is pending is offered anew, as its configuration is now. */
  #offerAll(): void {
    this.#store.withdrawAll(this.#pe);
    for (let lpi = this.#nextPending(0); lpi >= 0; lpi = this.#nextPending(lpi + 1)) {
      const i = lpi - LPI_FIRST;
      const byte = this.#bytes[i]!;
      this.#store.offer(this.#pe, lpi, byte === LPI_PENDING ? this.#read(i) : byte);
    }
  }

  /** Reads a byte of the configuration table and keeps it, beside the pending state. Returns it. */
  #read(i: number): number {
    const pa = this.#propPa + i;
    const inTable = this.#memory.contains(pa, 1) ? this.#memory.read8(pa) : 0;
    const byte = (inTable & LPI_CONFIG_KEPT) | LPI_CONFIG_RES1;
    this.#store.prepare(this.#pe, byte);
    this.#bytes[i] = byte | (this.#bytes[i]! & LPI_PENDING);
    return byte;
  }

  /** The pending LPI of lowest INTID from `from` on, or -1. */
  #nextPending(from: number): number {
    if (this.pendingCount === 0) return -1;
    const bytes = this.#bytes;
    const words = this.#words;
    for (let i = Math.max(from - LPI_FIRST, 0); i < bytes.length; ) {
      if ((i & 3) === 0 && (words[i >>> 2]! & PENDING_IN_WORD) === 0) i += 4;
      else if ((bytes[i]! & LPI_PENDING) !== 0) return i + LPI_FIRST;
      else i++;
    }
    return -1;
  }

  /** What is pending, a bit for each INTID from 0 on. */
  #bitmap(): Uint32Array {
    const bitmap = new Uint32Array(2 ** this.#idBitsMax / 32);
    for (let lpi = this.#nextPending(0); lpi >= 0; lpi = this.#nextPending(lpi + 1)) {
      bitmap[lpi >>> 5]! |= 1 << (lpi & 31);
    }
    return bitmap;
  }

  #readPendingTable(bits: number): void {
    const bytes = lpiPendingTableBytes(bits);
    if (bits < 14 || !this.#memory.contains(this.#pendPa, bytes)) return;
    const table = new Uint8Array(bytes);
    this.#memory.readBytes(this.#pendPa, table);
    for (let lpi = LPI_FIRST; lpi < this.#limit; lpi++) {
      if (((table[lpi >>> 3]! >>> (lpi & 7)) & 1) !== 0) this.setPending(lpi);
    }
  }

  #forgetPending(): void {
    for (let n = 0; n < this.#words.length; n++) this.#words[n]! &= ~PENDING_IN_WORD;
    this.#store.setPendingCount(this.#pe, 0);
    this.#store.withdrawAll(this.#pe);
  }

  #forgetAll(): void {
    this.#bytes.fill(0);
    this.#store.setPendingCount(this.#pe, 0);
    this.#store.withdrawAll(this.#pe);
  }

  save(): SavedLpis {
    return {
      enabled: this.#enabled,
      propPa: this.#propPa,
      pendPa: this.#pendPa,
      limit: this.#limit,
      config: this.#bytes.map((byte) => byte & LPI_CONFIG_KEPT),
      pending: this.#bitmap(),
    };
  }

  load(state: unknown): void {
    const s = state as SavedLpis;
    loadArray(this.#bytes, s.config, 'LPI configuration');
    this.#enabled = s.enabled;
    this.#propPa = s.propPa;
    this.#pendPa = s.pendPa;
    this.#limit = s.limit;
    this.#store.accept(this.#pe, s.enabled ? s.limit - LPI_FIRST : 0);
    let count = 0;
    for (let i = 0; i < this.#bytes.length; i++) {
      const lpi = i + LPI_FIRST;
      const pending = (s.pending[lpi >>> 5]! >>> (lpi & 31)) & 1;
      const config = this.#bytes[i]! & LPI_CONFIG_KEPT;
      if (config !== 0) this.#store.prepare(this.#pe, config);
      this.#bytes[i] = config | (pending * LPI_PENDING);
      count += pending;
    }
    this.#store.setPendingCount(this.#pe, count);
    // The bytes of what is pending are cached, so no table is read.
    this.#offerAll();
  }

  /** The first pending LPIs, with their configuration as it is cached here. */
  inspect(): { lpi: number; priority: number; enabled: boolean }[] {
    const rows: { lpi: number; priority: number; enabled: boolean }[] = [];
    for (let lpi = this.#nextPending(0); lpi >= 0 && rows.length < SHOWN_MAX; lpi = this.#nextPending(lpi + 1)) {
      const byte = this.#bytes[lpi - LPI_FIRST]!;
      rows.push({ lpi, priority: byte & PRIORITY_MASK, enabled: (byte & LPI_CONFIG_Enable) !== 0 });
    }
    return rows;
  }
}
