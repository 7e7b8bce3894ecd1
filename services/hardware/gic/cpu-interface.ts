/**
 * The CPU interface of one PE: what is acknowledged and completed (IHI 0069, "CPU interface").
 * Group 1 only, five priority bits. An interrupt is taken when its priority is above (numerically below) ICC_PMR_EL1
 * and its group priority above the running priority. An LPI is acknowledged by losing its pending state: it has no
 * active state, and only the running priority remembers it until ICC_EOIR1_EL1.
 * Not modelled: group 0 and its registers, ICC_SGI1R_EL1, ICC_AP1R0_EL1, the virtual interface; they read as unknown names.
 */
import {
  ICC_CTLR_EL1_A3V,
  ICC_CTLR_EL1_CBPR,
  ICC_CTLR_EL1_EOImode,
  ICC_IGRPEN1_EL1_Enable,
  ICC_RPR_EL1_IDLE,
  ICC_SRE_EL1_DFB,
  ICC_SRE_EL1_DIB,
  ICC_SRE_EL1_SRE,
} from '#shared/arch/gic/cpu-interface.ts';
import { INTID_NONE, LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { PRIORITY_MASK } from './interrupt-bank.ts';

/** Five bits: the smallest binary point leaves all of them in the group priority. */
const BPR_MIN = 3;
const PRI_BITS = 4 << 8;

/** What is offered to one CPU interface, and what becomes of it. */
export interface InterruptSource {
  /** The INTID of highest priority that could be taken, or -1. */
  best(): number;
  /** Priority of what `best` gave. */
  bestPriority(): number;
  acknowledge(intid: number): void;
  deactivate(intid: number): void;
}

export class CpuInterface {
  readonly #source: InterruptSource;
  readonly #changed: () => void;
  #pmr = 0;
  #enabled = false;
  #bpr = BPR_MIN;
  #eoiMode = 0;
  #cbpr = 0;
  /** Acknowledged and not yet dropped, the latest last. */
  #running: { readonly intid: number; readonly groupPriority: number }[] = [];
  #acknowledged = 0;

  /** `changed` is called when an interrupt may have become one to take. */
  constructor(source: InterruptSource, changed: () => void) {
    this.#source = source;
    this.#changed = changed;
  }

  reset(): void {
    this.#pmr = 0;
    this.#enabled = false;
    this.#bpr = BPR_MIN;
    this.#eoiMode = 0;
    this.#cbpr = 0;
    this.#running = [];
  }

  /** Whether ICC_IAR1_EL1 would give an interrupt now. */
  get hasInterrupt(): boolean {
    return this.#takeable() >= 0;
  }

  /** Times that ICC_IAR1_EL1 was read. */
  get acknowledgements(): number {
    return this.#acknowledged;
  }

  /** Reads a system register by name; undefined when there is none of that name, or it is write-only. */
  read(name: string): number | undefined {
    switch (name) {
      case 'ICC_PMR_EL1':
        return this.#pmr;
      case 'ICC_IGRPEN1_EL1':
        return this.#enabled ? ICC_IGRPEN1_EL1_Enable : 0;
      case 'ICC_IAR1_EL1':
        return this.#acknowledge();
      case 'ICC_HPPIR1_EL1': {
        const intid = this.#enabled ? this.#source.best() : -1;
        return intid < 0 ? INTID_NONE : intid;
      }
      case 'ICC_RPR_EL1':
        return this.#runningPriority();
      case 'ICC_CTLR_EL1':
        return this.#cbpr | this.#eoiMode | PRI_BITS | ICC_CTLR_EL1_A3V;
      case 'ICC_SRE_EL1':
        return ICC_SRE_EL1_SRE | ICC_SRE_EL1_DFB | ICC_SRE_EL1_DIB;
      case 'ICC_BPR1_EL1':
        return this.#bpr;
      default:
        return undefined;
    }
  }

  /** Writes a system register by name; false when there is none of that name, or it is read-only. */
  write(name: string, value: number): boolean {
    switch (name) {
      case 'ICC_PMR_EL1':
        this.#pmr = value & PRIORITY_MASK;
        break;
      case 'ICC_IGRPEN1_EL1':
        this.#enabled = (value & ICC_IGRPEN1_EL1_Enable) !== 0;
        break;
      case 'ICC_EOIR1_EL1':
        this.#end(value & 0x00ff_ffff);
        break;
      case 'ICC_DIR_EL1':
        // Ignored for an LPI, and without EOImode the write has no meaning.
        if (this.#eoiMode !== 0 && (value & 0x00ff_ffff) < LPI_FIRST) this.#source.deactivate(value & 0x00ff_ffff);
        break;
      case 'ICC_CTLR_EL1':
        this.#eoiMode = value & ICC_CTLR_EL1_EOImode;
        this.#cbpr = value & ICC_CTLR_EL1_CBPR;
        break;
      case 'ICC_SRE_EL1':
        break; // the system register interface is the only one: RAO/WI
      case 'ICC_BPR1_EL1':
        this.#bpr = Math.max(value & 7, BPR_MIN);
        break;
      default:
        return false;
    }
    this.#changed();
    return true;
  }

  #acknowledge(): number {
    this.#acknowledged++;
    const intid = this.#takeable();
    if (intid < 0) return INTID_NONE;
    const groupPriority = this.#groupPriority(this.#source.bestPriority());
    this.#source.acknowledge(intid);
    this.#running.push({ intid, groupPriority });
    return intid;
  }

  /** Priority drop, and deactivation unless EOImode leaves it to ICC_DIR_EL1. What was not acknowledged is ignored. */
  #end(intid: number): void {
    const at = this.#running.findLastIndex((r) => r.intid === intid);
    if (at < 0) return;
    this.#running.splice(at, 1);
    if (intid < LPI_FIRST && this.#eoiMode === 0) this.#source.deactivate(intid);
  }

  #takeable(): number {
    if (!this.#enabled) return -1;
    const intid = this.#source.best();
    if (intid < 0) return -1;
    const priority = this.#source.bestPriority();
    return priority < this.#pmr && this.#groupPriority(priority) < this.#runningPriority() ? intid : -1;
  }

  #groupPriority(priority: number): number {
    return priority & (0xff << this.#bpr) & 0xff;
  }

  #runningPriority(): number {
    return this.#running.at(-1)?.groupPriority ?? ICC_RPR_EL1_IDLE;
  }
}
