/**
 * The CPU interfaces of a GICv2 (IHI 0048B, "CPU interface register descriptions"): every CPU finds its own at the same
 * address. GICC_IAR takes interrupts of group 0, and of group 1 with GICC_CTLR.AckCtl; GICC_AIAR those of group 1.
 * Both groups raise the one interrupt request of the CPU. GICC_EOIR drops the highest active priority of the group of the
 * INTID that it is given; the CPUID of an SGI does not matter to it.
 * A frame of 128 KiB or more has its two pages 64 KiB apart, and repeats each of them up to the next.
 * Not modelled: FIQs and the bypass of both signals (GICC_CTLR.FIQEn and the four bypass bits are RAZ/WI), the virtual
 * interface (GICH, GICV: nothing answers there).
 */
import {
  GIC400_GICC_IIDR,
  GICC_ABPR,
  GICC_AEOIR,
  GICC_AHPPIR,
  GICC_AIAR,
  GICC_APR0,
  GICC_BPR,
  GICC_CTLR,
  GICC_CTLR_AckCtl,
  GICC_CTLR_CBPR,
  GICC_CTLR_EnableGrp0,
  GICC_CTLR_EnableGrp1,
  GICC_CTLR_EOImode,
  GICC_DIR,
  GICC_EOIR,
  GICC_HPPIR,
  GICC_IAR,
  GICC_IAR_CPUID_SHIFT,
  GICC_IAR_INTID_MASK,
  GICC_IAR_NONE,
  GICC_IAR_OTHER_GROUP,
  GICC_IIDR,
  GICC_NSAPR0,
  GICC_PMR,
  GICC_RPR,
  GICV2_GICC_ALIASED_BYTES,
} from '#shared/arch/gic/v2.ts';
import type { MmioTarget, Requester } from '../../bus/transaction.ts';
import type { Saved } from '../../state/saved.ts';
import { type Group, Priorities, type SavedPriorities } from '../priorities.ts';
import type { Distributor } from './distributor.ts';

const CTLR_KEPT = GICC_CTLR_EnableGrp0 | GICC_CTLR_EnableGrp1 | GICC_CTLR_AckCtl | GICC_CTLR_CBPR | GICC_CTLR_EOImode;
const BOTH_GROUPS = 0b11;
const SPECIAL_FIRST = 1020;

interface SavedCpuInterface {
  readonly priorities: SavedPriorities;
  readonly ctlr: number;
  readonly acknowledged: number;
}

export class CpuInterface implements Saved {
  readonly #cpu: number;
  readonly #distributor: Distributor;
  readonly #taken: () => void;
  readonly #priorities = new Priorities();
  #ctlr = 0;
  #acknowledged = 0;

  /** `taken` is called when an interrupt was asked for. */
  constructor(cpu: number, distributor: Distributor, taken: () => void) {
    this.#cpu = cpu;
    this.#distributor = distributor;
    this.#taken = taken;
  }

  reset(): void {
    this.#priorities.reset();
    this.#ctlr = 0;
  }

  /** Whether this CPU has its interrupt request raised. */
  get hasInterrupt(): boolean {
    const groups = this.#ctlr & BOTH_GROUPS;
    return groups !== 0 && this.#takes(this.#distributor.best(this.#cpu, groups));
  }

  read(offset: number): number {
    switch (offset) {
      case GICC_CTLR:
        return this.#ctlr;
      case GICC_PMR:
        return this.#priorities.pmr;
      case GICC_BPR:
        return this.#priorities.bpr0;
      case GICC_ABPR:
        return this.#priorities.bpr1;
      case GICC_IAR:
        return this.#acknowledge(false);
      case GICC_AIAR:
        return this.#acknowledge(true);
      case GICC_RPR:
        return this.#priorities.running;
      case GICC_HPPIR:
        return this.#highest(false);
      case GICC_AHPPIR:
        return this.#highest(true);
      case GICC_APR0:
        return this.#priorities.active(0);
      case GICC_NSAPR0:
        return this.#priorities.active(1);
      case GICC_IIDR:
        return GIC400_GICC_IIDR;
      default:
        return 0;
    }
  }

  write(offset: number, value: number): void {
    switch (offset) {
      case GICC_CTLR:
        this.#ctlr = value & CTLR_KEPT;
        this.#priorities.cbpr = value & GICC_CTLR_CBPR;
        return;
      case GICC_PMR:
        this.#priorities.pmr = value;
        return;
      case GICC_BPR:
        this.#priorities.bpr0 = value;
        return;
      case GICC_ABPR:
        this.#priorities.bpr1 = value;
        return;
      case GICC_EOIR:
        this.#end(value & GICC_IAR_INTID_MASK, false);
        return;
      case GICC_AEOIR:
        this.#end(value & GICC_IAR_INTID_MASK, true);
        return;
      case GICC_APR0:
        this.#priorities.setActive(0, value);
        return;
      case GICC_NSAPR0:
        this.#priorities.setActive(1, value);
        return;
      case GICC_DIR:
        // Without EOImode the write has no meaning.
        if ((this.#ctlr & GICC_CTLR_EOImode) !== 0)
          this.#distributor.deactivate(this.#cpu, value & GICC_IAR_INTID_MASK);
        return;
    }
  }

  /** What GICC_HPPIR reads: what is pending in an enabled group, whatever its priority. `alias`: the register of group 1. */
  #highest(alias: boolean): number {
    return this.#shown(this.#distributor.best(this.#cpu, this.#ctlr & BOTH_GROUPS), alias);
  }

  #acknowledge(alias: boolean): number {
    this.#acknowledged++;
    this.#taken();
    const intid = this.#distributor.best(this.#cpu, this.#ctlr & BOTH_GROUPS);
    if (!this.#takes(intid)) return GICC_IAR_NONE;
    const shown = this.#shown(intid, alias);
    if ((shown & GICC_IAR_INTID_MASK) >= SPECIAL_FIRST) return shown;
    this.#priorities.enter(this.#distributor.groupOf(this.#cpu, intid), this.#distributor.priorityOf(this.#cpu, intid));
    this.#distributor.acknowledge(this.#cpu, intid);
    return shown;
  }

  /** An INTID as a register of acknowledgement shows it, with the CPU that sent an SGI; 1022 and 1023 for the other group. */
  #shown(intid: number, alias: boolean): number {
    if (intid < 0) return GICC_IAR_NONE;
    const group = this.#distributor.groupOf(this.#cpu, intid);
    if (alias && group === 0) return GICC_IAR_NONE;
    if (!alias && !this.#reaches(group)) return GICC_IAR_OTHER_GROUP;
    return intid | (this.#distributor.senderOf(this.#cpu, intid) << GICC_IAR_CPUID_SHIFT);
  }

  #end(intid: number, alias: boolean): void {
    if (intid >= SPECIAL_FIRST) return;
    const group = this.#distributor.groupOf(this.#cpu, intid);
    if (alias ? group === 0 : !this.#reaches(group)) return;
    if (this.#priorities.drop(group) && (this.#ctlr & GICC_CTLR_EOImode) === 0)
      this.#distributor.deactivate(this.#cpu, intid);
  }

  /** Whether GICC_IAR and GICC_EOIR are for this group. */
  #reaches(group: Group): boolean {
    return group === 0 || (this.#ctlr & GICC_CTLR_AckCtl) !== 0;
  }

  #takes(intid: number): boolean {
    if (intid < 0) return false;
    const priority = this.#distributor.priorityOf(this.#cpu, intid);
    return priority < this.#priorities.limit(this.#distributor.groupOf(this.#cpu, intid));
  }

  save(): SavedCpuInterface {
    return { priorities: this.#priorities.save(), ctlr: this.#ctlr, acknowledged: this.#acknowledged };
  }

  load(state: unknown): void {
    const s = state as SavedCpuInterface;
    this.#priorities.load(s.priorities);
    this.#ctlr = s.ctlr;
    this.#acknowledged = s.acknowledged;
  }

  inspect(): object {
    const ctlr = this.#ctlr;
    return {
      pmr: this.#priorities.pmr,
      enableGrp0: (ctlr & GICC_CTLR_EnableGrp0) !== 0,
      enableGrp1: (ctlr & GICC_CTLR_EnableGrp1) !== 0,
      runningPriority: this.#priorities.running,
      apr0: this.#priorities.active(0),
      nsapr0: this.#priorities.active(1),
      eoiMode: (ctlr & GICC_CTLR_EOImode) === 0 ? 0 : 1,
      acknowledgements: this.#acknowledged,
      hasInterrupt: this.hasInterrupt,
    };
  }
}

/** The address where each CPU finds its own interface. A device finds nothing: it reads 0, and its writes are dropped. */
export class CpuInterfaceFrame implements MmioTarget {
  readonly name = 'GICC';
  readonly #interfaces: readonly CpuInterface[];
  readonly #accessing: () => number;
  readonly #changed: () => void;
  readonly #pageStride: number;

  constructor(interfaces: readonly CpuInterface[], sizeBytes: number, accessing: () => number, changed: () => void) {
    this.#interfaces = interfaces;
    this.#accessing = accessing;
    this.#changed = changed;
    this.#pageStride = sizeBytes >= GICV2_GICC_ALIASED_BYTES ? 0x1_0000 : 0x1000;
  }

  read(offset: number, size: number, requester?: Requester): number {
    if (requester !== undefined || size !== 4) return 0;
    return this.#interfaces[this.#accessing()]!.read(this.#registerOf(offset));
  }

  write(offset: number, size: number, value: number, requester?: Requester): void {
    if (requester !== undefined || size !== 4) return;
    this.#interfaces[this.#accessing()]!.write(this.#registerOf(offset), value);
    this.#changed();
  }

  #registerOf(offset: number): number {
    return Math.floor(offset / this.#pageStride) * 0x1000 + (offset & 0xfff);
  }
}
