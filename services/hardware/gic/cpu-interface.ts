/**
 * The CPU interface of one PE: what is acknowledged and completed (IHI 0069, "CPU interface").
 * Group 1, five priority bits, one active priorities register. An interrupt is taken when its priority is above
 * (numerically below) ICC_PMR_EL1 and its group priority above the running priority. ICC_EOIR1_EL1 drops the highest
 * active priority whatever INTID it is given, as long as that INTID can be one (completing out of order is
 * UNPREDICTABLE in the book). An LPI is acknowledged by losing its pending state: it has no active state, and only
 * ICC_AP1R0_EL1 remembers it until it is completed.
 * Not modelled: taking group 0 interrupts (ICC_IAR0_EL1 and its like), ICC_ASGI1R_EL1 and ICC_SGI0R_EL1, the range
 * selector of ICC_SGI1R_EL1 (ICC_CTLR_EL1.RSS reads 0), the virtual interface; they read as unknown names.
 */
import {
  ICC_CTLR_EL1_A3V,
  ICC_CTLR_EL1_CBPR,
  ICC_CTLR_EL1_EOImode,
  ICC_CTLR_EL1_IDbits_24,
  ICC_IGRPEN1_EL1_Enable,
  ICC_SRE_EL1_DFB,
  ICC_SRE_EL1_DIB,
  ICC_SRE_EL1_SRE,
} from '#shared/arch/gic/cpu-interface.ts';
import { INTID_NONE, LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import type { Saved } from '../state/saved.ts';
import { Priorities, type SavedPriorities } from './priorities.ts';

const PRI_BITS = 4 << 8;
/** INTIDs 1020 to 1023 mean something other than an interrupt. */
const SPECIAL_FIRST = 1020;

/** What is offered to one CPU interface, and what becomes of it. */
export interface InterruptSource {
  /** Bits of the widest INTID. */
  readonly idBits: number;
  /** The INTID of highest priority that could be taken, or -1. */
  best(): number;
  /** Priority of what `best` gave. */
  bestPriority(): number;
  acknowledge(intid: number): void;
  deactivate(intid: number): void;
  /** A write to ICC_SGI1R_EL1. */
  generateSgi(value: number): void;
}

interface SavedCpuInterface {
  readonly priorities: SavedPriorities;
  readonly enabled: boolean;
  readonly eoiMode: number;
  readonly acknowledged: number;
}

export class CpuInterface implements Saved {
  readonly #source: InterruptSource;
  readonly #changed: () => void;
  readonly #taken: () => void;
  readonly #priorities = new Priorities();
  #enabled = false;
  #eoiMode = 0;
  #acknowledged = 0;

  /** What is taken now has a priority below this. Follows from the registers: see #settle. */
  #limit = 0;

  /** `changed` is called when an interrupt may have become one to take, `taken` when ICC_IAR1_EL1 was read. */
  constructor(source: InterruptSource, changed: () => void, taken: () => void = () => {}) {
    this.#source = source;
    this.#changed = changed;
    this.#taken = taken;
  }

  reset(): void {
    this.#priorities.reset();
    this.#enabled = false;
    this.#eoiMode = 0;
    this.#settle();
  }

  /** Whether ICC_IAR1_EL1 would give an interrupt now. */
  get hasInterrupt(): boolean {
    return this.#takeable() >= 0;
  }

  /** Whether an interrupt of group 1 with this priority would be taken now, whatever else is offered. */
  takes(priority: number): boolean {
    return priority < this.#limit;
  }

  /** ICC_IGRPEN1_EL1.Enable: whether this PE takes group 1 interrupts at all. */
  get participates(): boolean {
    return this.#enabled;
  }

  /** Times that ICC_IAR1_EL1 was read. */
  get acknowledgements(): number {
    return this.#acknowledged;
  }

  /** Reads a system register by name; undefined when there is none of that name, or it is write-only. */
  read(name: string): number | undefined {
    switch (name) {
      case 'ICC_PMR_EL1':
        return this.#priorities.pmr;
      case 'ICC_IGRPEN1_EL1':
        return this.#enabled ? ICC_IGRPEN1_EL1_Enable : 0;
      case 'ICC_IAR1_EL1':
        return this.#acknowledge();
      case 'ICC_HPPIR1_EL1': {
        const intid = this.#enabled ? this.#source.best() : -1;
        return intid < 0 ? INTID_NONE : intid;
      }
      case 'ICC_RPR_EL1':
        return this.#priorities.running;
      case 'ICC_CTLR_EL1': {
        const idBits = this.#source.idBits > 16 ? ICC_CTLR_EL1_IDbits_24 : 0;
        return this.#priorities.cbpr | this.#eoiMode | PRI_BITS | idBits | ICC_CTLR_EL1_A3V;
      }
      case 'ICC_SRE_EL1':
        return ICC_SRE_EL1_SRE | ICC_SRE_EL1_DFB | ICC_SRE_EL1_DIB;
      case 'ICC_BPR0_EL1':
        return this.#priorities.bpr0;
      case 'ICC_BPR1_EL1':
        return this.#binaryPoint();
      case 'ICC_AP1R0_EL1':
        return this.#priorities.active(1);
      default:
        return undefined;
    }
  }

  /** Writes a system register by name; false when there is none of that name, or it is read-only. */
  write(name: string, value: number): boolean {
    switch (name) {
      case 'ICC_PMR_EL1':
        this.#priorities.pmr = value;
        break;
      case 'ICC_IGRPEN1_EL1':
        this.#enabled = (value & ICC_IGRPEN1_EL1_Enable) !== 0;
        break;
      case 'ICC_EOIR1_EL1':
        this.#end(value & 0x00ff_ffff);
        break;
      case 'ICC_DIR_EL1':
        // Ignored for an LPI, and without EOImode the write has no meaning.
        if (this.#eoiMode !== 0 && (value & 0x00ff_ffff) < SPECIAL_FIRST) this.#source.deactivate(value & 0x00ff_ffff);
        break;
      case 'ICC_CTLR_EL1':
        this.#eoiMode = value & ICC_CTLR_EL1_EOImode;
        this.#priorities.cbpr = value & ICC_CTLR_EL1_CBPR;
        break;
      case 'ICC_SRE_EL1':
        break; // the system register interface is the only one: RAO/WI
      case 'ICC_BPR0_EL1':
        this.#priorities.bpr0 = value;
        break;
      case 'ICC_BPR1_EL1':
        if (this.#priorities.cbpr === 0) this.#priorities.bpr1 = value;
        break;
      case 'ICC_AP1R0_EL1':
        this.#priorities.setActive(1, value);
        break;
      case 'ICC_SGI1R_EL1':
        this.#source.generateSgi(value);
        break;
      default:
        return false;
    }
    this.#settle();
    this.#changed();
    return true;
  }

  #acknowledge(): number {
    this.#acknowledged++;
    this.#taken();
    const intid = this.#takeable();
    if (intid < 0) return INTID_NONE;
    this.#priorities.enter(1, this.#source.bestPriority());
    this.#settle();
    this.#source.acknowledge(intid);
    return intid;
  }

  /** Priority drop, and deactivation unless EOImode leaves it to ICC_DIR_EL1. */
  #end(intid: number): void {
    if (intid >= 2 ** this.#source.idBits || (intid >= SPECIAL_FIRST && intid < LPI_FIRST)) return;
    if (!this.#priorities.drop(1)) return;
    if (intid < LPI_FIRST && this.#eoiMode === 0) this.#source.deactivate(intid);
  }

  #takeable(): number {
    if (!this.#enabled) return -1;
    const intid = this.#source.best();
    if (intid < 0) return -1;
    return this.takes(this.#source.bestPriority()) ? intid : -1;
  }

  /** With CBPR, ICC_BPR1_EL1 is ICC_BPR0_EL1 plus one, and read-only. */
  #binaryPoint(): number {
    const { cbpr, bpr0, bpr1 } = this.#priorities;
    return cbpr === 0 ? bpr1 : Math.min(bpr0 + 1, 7);
  }

  /** After a change of a register. */
  #settle(): void {
    this.#limit = this.#enabled ? this.#priorities.limit(1) : 0;
  }

  save(): SavedCpuInterface {
    return {
      priorities: this.#priorities.save(),
      enabled: this.#enabled,
      eoiMode: this.#eoiMode,
      acknowledged: this.#acknowledged,
    };
  }

  load(state: unknown): void {
    const s = state as SavedCpuInterface;
    this.#priorities.load(s.priorities);
    this.#enabled = s.enabled;
    this.#eoiMode = s.eoiMode;
    this.#acknowledged = s.acknowledged;
    this.#settle();
  }

  inspect(): unknown {
    return {
      pmr: this.#priorities.pmr,
      enableGrp1: this.#enabled,
      runningPriority: this.#priorities.running,
      ap1r0: this.#priorities.active(1),
      eoiMode: this.#eoiMode === 0 ? 0 : 1,
      acknowledgements: this.#acknowledged,
      hasInterrupt: this.hasInterrupt,
    };
  }
}
