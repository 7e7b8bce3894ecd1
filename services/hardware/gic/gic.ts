/**
 * The interrupt controller as a whole: one distributor, and a redistributor and a CPU interface for each PE.
 * The ITSs reach it through `LpiSink`, wired sources through `pulseSpi` and `setSpiLine`.
 */
import { LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { CpuInterface, type InterruptSource } from './cpu-interface.ts';
import { Distributor } from './distributor.ts';
import type { LpiSink } from './its/translate.ts';
import type { GicMemory } from './memory.ts';
import { Redistributor, RedistributorRegion } from './redistributor.ts';

export interface GicOptions {
  readonly memory: GicMemory;
  /** Aff3.Aff2.Aff1.Aff0 of each PE, a byte each; the index is GICR_TYPER.Processor_Number. */
  readonly affinities: readonly number[];
  /** How many redistributors each region of the device tree holds; they are filled in order. */
  readonly regionCapacities: readonly number[];
  /** Bytes from one redistributor to the next; 128 KiB when left out. */
  readonly strideBytes?: number | undefined;
  /** A CPU interface has an interrupt to take. May be called again while it still has. */
  signal(pcpu: number): void;
}

export class Gic implements LpiSink {
  readonly distributor: Distributor;
  readonly redistributors: readonly Redistributor[];
  /** One for each region given. */
  readonly regions: readonly RedistributorRegion[];
  readonly cpuInterfaces: readonly CpuInterface[];
  readonly #signal: (pcpu: number) => void;

  constructor(options: GicOptions) {
    const { affinities, memory, regionCapacities } = options;
    this.#signal = options.signal;
    this.distributor = new Distributor(affinities, () => this.#updateAll());
    const redistributors: Redistributor[] = [];
    const regions: RedistributorRegion[] = [];
    for (const capacity of regionCapacities) {
      const first = redistributors.length;
      const end = Math.min(affinities.length, first + capacity);
      for (let n = first; n < end; n++) {
        redistributors.push(new Redistributor(n, affinities[n]!, n === end - 1, memory, () => this.#update(n)));
      }
      regions.push(new RedistributorRegion(redistributors.slice(first, end), options.strideBytes));
    }
    this.redistributors = redistributors;
    this.regions = regions;
    this.cpuInterfaces = redistributors.map(
      (redistributor, n) => new CpuInterface(new Offer(n, this.distributor, redistributor), () => this.#update(n)),
    );
  }

  reset(): void {
    this.distributor.reset();
    for (const redistributor of this.redistributors) redistributor.reset();
    for (const cpuInterface of this.cpuInterfaces) cpuInterface.reset();
  }

  /** An edge on a wired interrupt. */
  pulseSpi(intid: number): void {
    this.setSpiLine(intid, true);
    this.setSpiLine(intid, false);
  }

  /** The level of a wired interrupt; an INTID that is no SPI here is ignored. */
  setSpiLine(intid: number, high: boolean): void {
    if (!this.distributor.spis.has(intid)) return;
    this.distributor.spis.setLine(intid, high);
    if (!high) return;
    const target = this.distributor.targetOf(intid);
    if (target >= 0) this.#update(target);
  }

  hasProcessor(processorNumber: number): boolean {
    return processorNumber < this.redistributors.length;
  }

  setLpiPending(processorNumber: number, lpi: number): boolean {
    const kept = this.redistributors[processorNumber]!.lpis.setPending(lpi);
    this.#update(processorNumber);
    return kept;
  }

  clearLpiPending(processorNumber: number, lpi: number): boolean {
    return this.redistributors[processorNumber]!.lpis.clearPending(lpi);
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

  #update(pcpu: number): void {
    if (this.cpuInterfaces[pcpu]?.hasInterrupt === true) this.#signal(pcpu);
  }

  #updateAll(): void {
    for (let pcpu = 0; pcpu < this.cpuInterfaces.length; pcpu++) this.#update(pcpu);
  }

  inspect(): unknown {
    return {
      distributor: this.distributor.inspect(),
      pcpus: this.redistributors.map((r, n) => ({
        ...(r.inspect() as object),
        hasInterrupt: this.cpuInterfaces[n]!.hasInterrupt,
        acknowledgements: this.cpuInterfaces[n]!.acknowledgements,
      })),
    };
  }
}

/** What one PE is offered: its SGIs and PPIs, the SPIs routed to it, its LPIs. The lowest INTID among equals. */
class Offer implements InterruptSource {
  readonly #pcpu: number;
  readonly #distributor: Distributor;
  readonly #redistributor: Redistributor;
  #priority = 0x100;

  constructor(pcpu: number, distributor: Distributor, redistributor: Redistributor) {
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
    for (let word = 0; word < spis.count / 32; word++) {
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
