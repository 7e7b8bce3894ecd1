/**
 * What the redistributors of a GIC know of their LPIs, for all PEs together: the hot path of an interrupt works on three
 * arrays, whichever PE it is for. What the state means, and everything that is rare, is in lpi.ts.
 * Of each LPI at each PE there is one byte: its configuration as it was read, with the pending state in a bit that
 * priorities of five bits leave free; 0 when it was not read. Pending LPIs that are enabled lie in one set for each PE
 * and priority, so the one to offer is found in a few steps however many are pending; as long as a PE has but one, which
 * is what there is while it keeps up, it is in a word of its own.
 */
import { LPI_CONFIG_Enable, LPI_CONFIG_RES1, LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { BitTrees } from './bit-tree.ts';
import { PRIORITY_MASK } from './interrupt-bank.ts';

// For the hot paths: what is imported is no constant to the compiler but a variable of unknown type.
const FIRST = LPI_FIRST;
const ENABLE = LPI_CONFIG_Enable;
const PRIORITY = PRIORITY_MASK;
const PENDING = 4;

/** In the byte of an LPI that is pending. */
export const LPI_PENDING = PENDING;
/** What of a byte of the configuration table is kept; RES1 is set in it whatever the table holds. */
export const LPI_CONFIG_KEPT = PRIORITY_MASK | LPI_CONFIG_Enable | LPI_CONFIG_RES1;

/**
 * Words of a PE in `pes`: how many LPIs it takes; how many are pending; which priorities have one on offer; the one on
 * offer when it is alone and in no set, else 0; the sets by priority.
 */
const PE_SHIFT = 6;
const PENDING_COUNT = 1;
const LEVELS = 2;
const ONLY = 3;
const SETS = 32;
const LEVEL_SHIFT = 3;
const PRIORITIES = 32;
const NOT_MADE = -1;

/** What `raiseLpi` answers when there is no priority to answer: more than any. */
const NOT_OFFERED = 0x100;
const LOST = 0x200;

export class LpiStore {
  /** LPIs of a PE. */
  declare readonly perPe: number;
  /** By PE and INTID - 8192. */
  declare readonly bytes: Uint8Array;
  declare readonly pes: Int32Array;
  declare readonly offered: BitTrees;

  constructor(processors: number, idBits: number) {
    this.perPe = (1 << idBits) - LPI_FIRST;
    this.bytes = new Uint8Array(processors * this.perPe);
    this.pes = new Int32Array(processors << PE_SHIFT);
    for (let pe = 0; pe < processors; pe++) this.pes.fill(NOT_MADE, (pe << PE_SHIFT) + SETS, (pe + 1) << PE_SHIFT);
    this.offered = new BitTrees(1 << idBits);
  }

  /** How many LPIs a PE takes, from 8192 on; 0 while they are disabled. */
  accept(pe: number, count: number): void {
    this.pes[pe << PE_SHIFT] = count;
  }

  pendingCount(pe: number): number {
    return this.pes[(pe << PE_SHIFT) + PENDING_COUNT]!;
  }

  setPendingCount(pe: number, count: number): void {
    this.pes[(pe << PE_SHIFT) + PENDING_COUNT] = count;
  }

  /** To be called with every byte before it is kept: there is a set for its priority then. */
  prepare(pe: number, byte: number): void {
    const at = (pe << PE_SHIFT) + SETS + (byte >>> LEVEL_SHIFT);
    if (this.pes[at] === NOT_MADE) this.pes[at] = this.offered.make();
  }

  /** The pending enabled LPI of highest priority, the lowest INTID among equals, or -1. */
  best(pe: number): number {
    const at = pe << PE_SHIFT;
    const levels = this.pes[at + LEVELS]!;
    if (levels === 0) return -1;
    const only = this.pes[at + ONLY]!;
    return only !== 0 ? only : this.offered.first(this.pes[at + SETS + lowest(levels)]!);
  }

  /** Priority of what `best` gives; 0x100 when it gives nothing. */
  bestPriority(pe: number): number {
    const levels = this.pes[(pe << PE_SHIFT) + LEVELS]!;
    return levels === 0 ? 0x100 : lowest(levels) << LEVEL_SHIFT;
  }

  /** Nothing of this PE is offered. */
  withdrawAll(pe: number): void {
    const at = pe << PE_SHIFT;
    for (let n = 0; n < PRIORITIES; n++) {
      const set = this.pes[at + SETS + n]!;
      if (set !== NOT_MADE) this.offered.clear(set);
    }
    this.pes[at + LEVELS] = 0;
    this.pes[at + ONLY] = 0;
  }

  /** Offers an LPI that is pending, if its byte says that it is enabled. */
  offer(pe: number, lpi: number, byte: number): void {
    if ((byte & LPI_CONFIG_Enable) === 0) return;
    const { pes } = this;
    const at = pe << PE_SHIFT;
    const levels = pes[at + LEVELS]!;
    pes[at + LEVELS] = levels | (1 << (byte >>> LEVEL_SHIFT));
    if (levels === 0) {
      pes[at + ONLY] = lpi;
      return;
    }
    const only = pes[at + ONLY]!;
    if (only !== 0) this.offered.add(pes[at + SETS + lowest(levels)]!, only);
    pes[at + ONLY] = 0;
    this.offered.add(pes[at + SETS + (byte >>> LEVEL_SHIFT)]!, lpi);
  }

  /** The reverse. */
  withdraw(pe: number, lpi: number, byte: number): void {
    if ((byte & LPI_CONFIG_Enable) === 0) return;
    const { pes } = this;
    const at = pe << PE_SHIFT;
    if (pes[at + ONLY] === lpi) {
      pes[at + ONLY] = 0;
      pes[at + LEVELS] = 0;
    } else if (!this.offered.delete(pes[at + SETS + (byte >>> LEVEL_SHIFT)]!, lpi)) {
      pes[at + LEVELS]! &= ~(1 << (byte >>> LEVEL_SHIFT));
    }
  }
}

/**
 * Makes `lpi` pending at a PE. Returns its priority when it is offered from now on; 0x100 when it is disabled or was
 * pending before; 0x200 when it is lost, because LPIs are disabled there or it is beyond the table; -1 when its byte has
 * to be read first, and nothing was done.
 */
export function raiseLpi(store: LpiStore, pe: number, lpi: number): number {
  const { pes, bytes } = store;
  const at = pe << PE_SHIFT;
  const i = (lpi - FIRST) | 0;
  if (i < 0 || i >= pes[at]!) return LOST;
  const place = (Math.imul(pe, store.perPe) + i) | 0;
  const byte = bytes[place]!;
  if (byte === 0) return -1;
  if ((byte & PENDING) !== 0) return NOT_OFFERED;
  bytes[place] = byte | PENDING;
  pes[at | PENDING_COUNT] = (pes[at | PENDING_COUNT]! + 1) | 0;
  if ((byte & ENABLE) === 0) return NOT_OFFERED;
  if (pes[at | LEVELS] === 0) {
    pes[at | LEVELS] = 1 << (byte >>> LEVEL_SHIFT);
    pes[at | ONLY] = lpi;
  } else store.offer(pe, lpi, byte);
  return byte & PRIORITY;
}

/** Takes the pending state away; returns whether it was there. */
export function clearLpi(store: LpiStore, pe: number, lpi: number): boolean {
  const { pes, bytes } = store;
  const i = (lpi - FIRST) | 0;
  if (i < 0 || i >= store.perPe) return false;
  const place = (Math.imul(pe, store.perPe) + i) | 0;
  const byte = bytes[place]!;
  if ((byte & PENDING) === 0) return false;
  bytes[place] = byte & ~PENDING;
  const at = pe << PE_SHIFT;
  pes[at | PENDING_COUNT] = (pes[at | PENDING_COUNT]! - 1) | 0;
  if (pes[at | ONLY] === lpi) {
    pes[at | LEVELS] = 0;
    pes[at | ONLY] = 0;
  } else store.withdraw(pe, lpi, byte);
  return true;
}

/** Position of the lowest bit that is set. */
function lowest(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}
