/**
 * LPIs at one redistributor: configuration and pending state (IHI 0069, "LPIs").
 * A configuration byte is read from the table once, when its LPI first arrives, and kept until INV or INVALL (or until
 * LPIs are enabled again): software that changes the table and forgets INV keeps the old behaviour.
 * A pending LPI is kept here while LPIs are enabled and written to the pending table when they are disabled.
 * A disabled LPI that arrives stays pending. An LPI has no active state.
 */
import { LPI_CONFIG_Enable, LPI_FIRST, lpiPendingTableBytes } from '#shared/arch/gic/lpi-tables.ts';
import { PRIORITY_MASK } from './interrupt-bank.ts';
import type { GicMemory } from './memory.ts';

const NOT_CACHED = -1;

export class LpiState {
  readonly #memory: GicMemory;
  readonly #idBitsMax: number;
  readonly #config: Int16Array;
  readonly #pending = new Set<number>();
  #enabled = false;
  #propPa = 0;
  #pendPa = 0;
  /** INTIDs below this are LPIs here. */
  #limit = LPI_FIRST;
  /** The LPI to offer, or -1; only trusted while not stale. */
  #best = -1;
  #bestPriority = 0x100;
  #stale = false;

  constructor(memory: GicMemory, idBitsMax: number) {
    this.#memory = memory;
    this.#idBitsMax = idBitsMax;
    this.#config = new Int16Array(2 ** idBitsMax - LPI_FIRST).fill(NOT_CACHED);
  }

  reset(): void {
    this.#enabled = false;
    this.#limit = LPI_FIRST;
    this.#forget();
    this.#config.fill(NOT_CACHED);
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  /** GICR_CTLR.EnableLPIs 0 to 1. With `startEmpty` (GICR_PENDBASER.PTZ) the pending table is not read. */
  enable(propPa: number, idBits: number, pendPa: number, startEmpty: boolean): void {
    this.#enabled = true;
    this.#propPa = propPa;
    this.#pendPa = pendPa;
    const bits = Math.min(idBits, this.#idBitsMax);
    this.#limit = bits < 14 ? LPI_FIRST : 2 ** bits;
    this.#config.fill(NOT_CACHED);
    this.#forget();
    if (!startEmpty) this.#readPendingTable(bits);
  }

  /** EnableLPIs 1 to 0: what is pending goes to the pending table. */
  disable(): void {
    this.#enabled = false;
    const bytes = lpiPendingTableBytes(Math.log2(this.#limit));
    if (this.#limit > LPI_FIRST && this.#memory.contains(this.#pendPa, bytes)) {
      for (let at = LPI_FIRST / 8; at < bytes; at += 4) this.#memory.write32(this.#pendPa + at, 0);
      for (const lpi of this.#pending) {
        const pa = this.#pendPa + (lpi >>> 3);
        this.#memory.write8(pa, this.#memory.read8(pa) | (1 << (lpi & 7)));
      }
    }
    this.#forget();
  }

  /** Makes `lpi` pending. False when LPIs are disabled here or `lpi` is beyond the table: it is lost then. */
  setPending(lpi: number): boolean {
    if (!this.#enabled || lpi < LPI_FIRST || lpi >= this.#limit) return false;
    this.#pending.add(lpi);
    if (!this.#stale) this.#offer(lpi);
    return true;
  }

  /** Takes the pending state away; returns whether it was there. */
  clearPending(lpi: number): boolean {
    const was = this.#pending.delete(lpi);
    if (lpi === this.#best) this.#stale = true;
    return was;
  }

  /** INV: the configuration byte is read again when it is next needed. */
  invalidate(lpi: number): void {
    const i = lpi - LPI_FIRST;
    if (i < 0 || i >= this.#config.length) return;
    this.#config[i] = NOT_CACHED;
    this.#stale = true;
  }

  /** INVALL: every LPI of this redistributor, which is more than the collection and is allowed. */
  invalidateAll(): void {
    this.#config.fill(NOT_CACHED);
    this.#stale = true;
  }

  /** MOVALL: everything pending here becomes pending at `target`. */
  moveAllTo(target: LpiState): void {
    for (const lpi of this.#pending) target.setPending(lpi);
    this.#forget();
  }

  /** The pending enabled LPI of highest priority, the lowest INTID among equals, or -1. */
  best(): number {
    if (this.#stale) {
      this.#best = -1;
      this.#bestPriority = 0x100;
      this.#stale = false;
      for (const lpi of this.#pending) this.#offer(lpi);
    }
    return this.#best;
  }

  /** Priority of what `best` gave. */
  get bestPriority(): number {
    return this.#bestPriority;
  }

  #offer(lpi: number): void {
    const config = this.#configOf(lpi);
    if ((config & LPI_CONFIG_Enable) === 0) return;
    const priority = config & PRIORITY_MASK;
    if (priority < this.#bestPriority || (priority === this.#bestPriority && lpi < this.#best)) {
      this.#best = lpi;
      this.#bestPriority = priority;
    }
  }

  #configOf(lpi: number): number {
    const i = lpi - LPI_FIRST;
    let config = this.#config[i]!;
    if (config === NOT_CACHED) {
      const pa = this.#propPa + i;
      config = this.#memory.contains(pa, 1) ? this.#memory.read8(pa) : 0;
      this.#config[i] = config;
    }
    return config;
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

  #forget(): void {
    this.#pending.clear();
    this.#best = -1;
    this.#bestPriority = 0x100;
    this.#stale = false;
  }
}
