/**
 * What decides whether a CPU interface takes an interrupt, alike in GICv2 and GICv3 (IHI 0069, "Interrupt prioritization"):
 * the priority mask, a binary point for each group, and the priorities that are active. Five bits of priority, so one
 * register of active priorities for each group. Ending drops the highest active priority of a group, whatever is ended
 * (the book leaves it open what completing out of order does).
 */
import type { Saved } from '../state/saved.ts';
import { PRIORITY_MASK } from './interrupt-bank.ts';

/** The smallest binary point of group 1: it leaves all five bits in the group priority. That of group 0 is one less. */
const BPR1_MIN = 3;
const BPR0_MIN = 2;
const LEVEL_SHIFT = 3;
/** The running priority when nothing is active. */
const IDLE = 0xff;

export type Group = 0 | 1;

export interface SavedPriorities {
  readonly pmr: number;
  readonly bpr0: number;
  readonly bpr1: number;
  readonly cbpr: number;
  readonly ap0r0: number;
  readonly ap1r0: number;
}

export class Priorities implements Saved {
  #pmr = 0;
  #bpr0 = BPR0_MIN;
  #bpr1 = BPR1_MIN;
  /** Bit n: priority 8n is active in group 0, in group 1. */
  #ap0r0 = 0;
  #ap1r0 = 0;
  /** Not 0: the binary point of group 0 is that of both groups. */
  cbpr = 0;

  reset(): void {
    this.#pmr = 0;
    this.#bpr0 = BPR0_MIN;
    this.#bpr1 = BPR1_MIN;
    this.#ap0r0 = 0;
    this.#ap1r0 = 0;
    this.cbpr = 0;
  }

  get pmr(): number {
    return this.#pmr;
  }

  set pmr(value: number) {
    this.#pmr = value & PRIORITY_MASK;
  }

  get bpr0(): number {
    return this.#bpr0;
  }

  set bpr0(value: number) {
    this.#bpr0 = Math.max(value & 7, BPR0_MIN);
  }

  get bpr1(): number {
    return this.#bpr1;
  }

  set bpr1(value: number) {
    this.#bpr1 = Math.max(value & 7, BPR1_MIN);
  }

  /** The active priorities of a group as a register has them. */
  active(group: Group): number {
    return (group === 0 ? this.#ap0r0 : this.#ap1r0) >>> 0;
  }

  setActive(group: Group, bits: number): void {
    if (group === 0) this.#ap0r0 = bits | 0;
    else this.#ap1r0 = bits | 0;
  }

  /** The priority that what is taken next has to be above; IDLE when nothing is active. */
  get running(): number {
    const active = this.#ap0r0 | this.#ap1r0;
    return active === 0 ? IDLE : (31 - Math.clz32(active & -active)) << LEVEL_SHIFT;
  }

  /** What is taken now in `group` has a priority below this: below the mask, in a group priority below the running one. */
  limit(group: Group): number {
    const { running } = this;
    const mask = this.#groupMask(group);
    const level = running & mask;
    const next = level === running ? level : level + (0x100 - mask);
    return Math.min(this.#pmr, next);
  }

  /** An interrupt of this priority was taken. */
  enter(group: Group, priority: number): void {
    this.setActive(group, this.active(group) | (1 << ((priority & this.#groupMask(group)) >>> LEVEL_SHIFT)));
  }

  /** Priority drop. Returns whether there was something to drop. */
  drop(group: Group): boolean {
    const active = this.active(group);
    this.setActive(group, active & (active - 1));
    return active !== 0;
  }

  #groupMask(group: Group): number {
    const bit = group === 1 && this.cbpr === 0 ? this.#bpr1 : this.#bpr0 + 1;
    return (0xff << bit) & 0xff;
  }

  save(): SavedPriorities {
    return {
      pmr: this.#pmr,
      bpr0: this.#bpr0,
      bpr1: this.#bpr1,
      cbpr: this.cbpr,
      ap0r0: this.#ap0r0,
      ap1r0: this.#ap1r0,
    };
  }

  load(state: unknown): void {
    const s = state as SavedPriorities;
    this.#pmr = s.pmr;
    this.#bpr0 = s.bpr0;
    this.#bpr1 = s.bpr1;
    this.cbpr = s.cbpr;
    this.#ap0r0 = s.ap0r0;
    this.#ap1r0 = s.ap1r0;
  }
}
