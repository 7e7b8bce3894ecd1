/**
 * A GICv3 as a whole: one distributor, and a redistributor and a CPU interface for each PE.
 * The ITSs reach it through `LpiSink`, wired sources through `setSpiLine`.
 */
import { decodeIccSgi1r } from '#shared/arch/gic/cpu-interface.ts';
import { LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { GICR_SIZE_BYTES } from '#shared/arch/gic/redistributor.ts';
import { SavedStateError } from '../state/saved.ts';
import type { CpuHooks, InterruptController } from './controller.ts';
import { CpuInterface, type InterruptSource } from './cpu-interface.ts';
import { Distributor } from './distributor.ts';
import type { LpiSink } from './its/translate.ts';
import { clearLpi, LpiStore, raiseLpi } from './lpi-store.ts';
import type { GicMemory } from './memory.ts';
import { type GicChoices, gicChoices } from './options.ts';
import { Redistributor, RedistributorRegion } from './redistributor.ts';

// For the hot path: what is imported is no constant to the compiler but a variable of unknown type.
const raise = raiseLpi;
const clear = clearLpi;

export interface GicOptions {
  readonly memory: GicMemory;
  /** Aff3.Aff2.Aff1.Aff0 of each PE, a byte each; the index is GICR_TYPER.Processor_Number. */
  readonly affinities: readonly number[];
  /** How many redistributors each region of the device tree holds; they are filled in order. */
  readonly regionCapacities: readonly number[];
  /** Bytes from one redistributor to the next; 128 KiB when left out. */
  readonly strideBytes?: number | undefined;
  /** Where each region lies, for an ITS whose RDbase is an address (GITS_TYPER.PTA=1). */
  readonly regionPas?: readonly number[];
  readonly choices?: Partial<GicChoices> | undefined;
  readonly hooks: CpuHooks;
}

interface SavedGic {
  readonly distributor: unknown;
  readonly redistributors: readonly unknown[];
  readonly cpuInterfaces: readonly unknown[];
}

export class Gic implements LpiSink, InterruptController {
  readonly choices: GicChoices;
  declare readonly distributor: Distributor;
  declare readonly redistributors: readonly Redistributor[];
  /** One for each region given. */
  readonly regions: readonly RedistributorRegion[];
  declare readonly cpuInterfaces: readonly CpuInterface[];
  declare readonly lpiStore: LpiStore;
  declare readonly signal: (pcpu: number) => void;
  readonly #affinities: readonly number[];
  /** PE by the number of the 64 KiB page of its RD frame. */
  readonly #peByFrame = new Map<number, number>();

  constructor(options: GicOptions) {
    const { affinities, memory, regionCapacities } = options;
    this.choices = gicChoices(options.choices);
    this.#affinities = affinities;
    this.signal = (pcpu) => options.hooks.signal(pcpu);
    this.distributor = new Distributor(
      affinities,
      () => this.#updateAll(),
      () => this.#participant(),
      this.choices.idBits,
    );
    const strideBytes = options.strideBytes ?? GICR_SIZE_BYTES;
    const lpiStore = new LpiStore(affinities.length, this.choices.idBits);
    this.lpiStore = lpiStore;
    const redistributors: Redistributor[] = [];
    const regions: RedistributorRegion[] = [];
    for (const [region, capacity] of regionCapacities.entries()) {
      const regionPa = options.regionPas?.[region];
      const first = redistributors.length;
      const end = Math.min(affinities.length, first + capacity);
      for (let n = first; n < end; n++) {
        const changed = (): void => this.#update(n);
        redistributors.push(
          new Redistributor(n, affinities[n]!, n === end - 1, memory, changed, this.choices, lpiStore),
        );
        if (regionPa !== undefined) this.#peByFrame.set((regionPa + (n - first) * strideBytes) / 0x1_0000, n);
      }
      regions.push(new RedistributorRegion(redistributors.slice(first, end), strideBytes));
    }
    this.redistributors = redistributors;
    this.regions = regions;
    const { idBits } = this.choices;
    this.cpuInterfaces = redistributors.map((redistributor, n) => {
      const source = new Offer(n, this.distributor, redistributor, idBits, (value) => this.#generateSgi(n, value));
      return new CpuInterface(
        source,
        () => (this.distributor.hasAnyRoute ? this.#updateAll() : this.#update(n)),
        () => options.hooks.acknowledged?.(n),
      );
    });
  }

  reset(): void {
    this.distributor.reset();
    for (const redistributor of this.redistributors) redistributor.reset();
    for (const cpuInterface of this.cpuInterfaces) cpuInterface.reset();
  }

  hasInterrupt(pcpu: number): boolean {
    return this.cpuInterfaces[pcpu]?.hasInterrupt === true;
  }

  setSpiLine(intid: number, high: boolean): void {
    if (!this.distributor.spis.has(intid)) return;
    this.distributor.spis.setLine(intid, high);
    if (!high) return;
    const target = this.distributor.targetOf(intid);
    if (target >= 0) this.#update(target);
  }

  get idBits(): number {
    return this.choices.idBits;
  }

  /** The PE whose RD frame is the 64 KiB page of this number, or -1. */
  processorAtFrame(frame: number): number {
    return this.#peByFrame.get(frame) ?? -1;
  }

  hasProcessor(processorNumber: number): boolean {
    return processorNumber < this.redistributors.length;
  }

  setLpiPending(processorNumber: number, lpi: number): boolean {
    const priority = raise(this.lpiStore, processorNumber, lpi);
    // What is taken now does not depend on what else is pending, so nothing has to be looked for.
    if (priority >= 0 && this.distributor.group1Enabled && this.cpuInterfaces[processorNumber]!.takes(priority)) {
      this.signal(processorNumber);
      return true;
    }
    return this.settleLpi.call(undefined, processorNumber, lpi, priority);
  }

  /**
   * The rest of it, when the LPI's byte has to be read, or it is not taken at once. A field for the reason that
   * `raiseUncached` of its/tables.ts is one.
   */
  readonly settleLpi = (processorNumber: number, lpi: number, raised: number): boolean => {
    const priority = raised >= 0 ? raised : this.redistributors[processorNumber]!.lpis.raise(lpi);
    this.#update(processorNumber);
    return priority <= 0x100;
  };

  clearLpiPending(processorNumber: number, lpi: number): boolean {
    return clear(this.lpiStore, processorNumber, lpi);
  }

  invalidateLpi(processorNumber: number, lpi: number): void {
    this.redistributors[processorNumber]!.lpis.invalidate(lpi);
    this.#update(processorNumber);
  }

  invalidateAllLpis(processorNumber: number): void {
    this.redistributors[processorNumber]!.lpis.invalidateAll();
    this.#update(processorNumber);
  }

  moveAllLpis(from: number, to: number): void {
    this.redistributors[from]!.lpis.moveAllTo(this.redistributors[to]!.lpis);
    this.#update(to);
  }

  /** ICC_SGI1R_EL1: sets the SGI pending at each PE it names that has it in group 1. */
  #generateSgi(from: number, value: number): void {
    const { intid, IRM, TargetList, Aff1, Aff2, Aff3 } = decodeIccSgi1r(value);
    if (IRM) {
      for (let pe = 0; pe < this.redistributors.length; pe++) if (pe !== from) this.#raiseSgi(pe, intid);
      return;
    }
    const cluster = ((Aff3 << 24) | (Aff2 << 16) | (Aff1 << 8)) >>> 0;
    for (let bits = TargetList; bits !== 0; bits &= bits - 1) {
      this.#raiseSgi(this.#affinities.indexOf((cluster | (31 - Math.clz32(bits & -bits))) >>> 0), intid);
    }
  }

  #raiseSgi(pe: number, intid: number): void {
    const privates = this.redistributors[pe]?.privates;
    if (privates === undefined || !privates.isGroup1(intid)) return;
    privates.setPending(intid);
    this.#update(pe);
  }

  /** Who takes an SPI that is for any PE. */
  #participant(): number {
    const { cpuInterfaces } = this;
    for (let pe = 0; pe < cpuInterfaces.length; pe++) if (cpuInterfaces[pe]!.participates) return pe;
    return -1;
  }

  #update(pcpu: number): void {
    if (this.hasInterrupt(pcpu)) this.signal(pcpu);
  }

  #updateAll(): void {
    for (let pcpu = 0; pcpu < this.cpuInterfaces.length; pcpu++) this.#update(pcpu);
  }

  save(): SavedGic {
    return {
      distributor: this.distributor.save(),
      redistributors: this.redistributors.map((r) => r.save()),
      cpuInterfaces: this.cpuInterfaces.map((c) => c.save()),
    };
  }

  load(state: unknown): void {
    const s = state as SavedGic;
    if (s.redistributors.length !== this.redistributors.length)
      throw new SavedStateError(
        `a GIC of ${s.redistributors.length} PEs was saved and this one has ${this.redistributors.length}`,
      );
    this.distributor.load(s.distributor);
    for (const [n, r] of this.redistributors.entries()) r.load(s.redistributors[n]);
    for (const [n, c] of this.cpuInterfaces.entries()) c.load(s.cpuInterfaces[n]);
  }

  inspect(): unknown {
    return {
      distributor: this.distributor.inspect(),
      pcpus: this.redistributors.map((r, n) => ({
        ...(r.inspect() as object),
        ...(this.cpuInterfaces[n]!.inspect() as object),
      })),
    };
  }
}

/** What one PE is offered: its SGIs and PPIs, the SPIs routed to it, its LPIs. The lowest INTID among equals. */
class Offer implements InterruptSource {
  readonly #pcpu: number;
  readonly #distributor: Distributor;
  readonly #redistributor: Redistributor;
  readonly idBits: number;
  readonly generateSgi: (value: number) => void;
  #priority = 0x100;

  constructor(
    pcpu: number,
    distributor: Distributor,
    redistributor: Redistributor,
    idBits: number,
    generateSgi: (value: number) => void,
  ) {
    this.idBits = idBits;
    this.generateSgi = generateSgi;
    this.#pcpu = pcpu;
    this.#distributor = distributor;
    this.#redistributor = redistributor;
  }

  best(): number {
    let best = -1;
    let priority = 0x100;
    if (!this.#distributor.group1Enabled) return -1;
    const { spis } = this.#distributor;
    const { privates, lpis } = this.#redistributor;
    for (let bits = privates.candidates(0); bits !== 0; bits &= bits - 1) {
      const intid = 31 - Math.clz32(bits & -bits);
      if (privates.priorityOf(intid) < priority) {
        best = intid;
        priority = privates.priorityOf(intid);
      }
    }
    for (let words = spis.candidateWords; words !== 0; words &= words - 1) {
      const word = 31 - Math.clz32(words & -words);
      for (let bits = spis.candidates(word); bits !== 0; bits &= bits - 1) {
        const intid = spis.first + 32 * word + 31 - Math.clz32(bits & -bits);
        if (spis.priorityOf(intid) < priority && this.#distributor.targetOf(intid) === this.#pcpu) {
          best = intid;
          priority = spis.priorityOf(intid);
        }
      }
    }
    const lpi = lpis.best();
    if (lpi >= 0 && lpis.bestPriority < priority) {
      best = lpi;
      priority = lpis.bestPriority;
    }
    this.#priority = priority;
    return best;
  }

  bestPriority(): number {
    return this.#priority;
  }

  acknowledge(intid: number): void {
    if (intid >= LPI_FIRST) this.#redistributor.lpis.clearPending(intid);
    else this.#bankOf(intid)?.acknowledge(intid);
  }

  deactivate(intid: number): void {
    this.#bankOf(intid)?.deactivate(intid);
  }

  #bankOf(intid: number) {
    const { privates } = this.#redistributor;
    const { spis } = this.#distributor;
    return privates.has(intid) ? privates : spis.has(intid) ? spis : undefined;
  }
}
