/**
 * A GICv2 as a whole: the distributor and up to eight CPU interfaces, both memory-mapped (IHI 0048B). It takes no
 * messages: there are no LPIs, and v2m frames beside it are not modelled, so nothing answers there.
 */
import { SavedStateError } from '../../state/saved.ts';
import type { CpuHooks, InterruptController } from '../controller.ts';
import { CpuInterface, CpuInterfaceFrame } from './cpu-interface.ts';
import { Distributor } from './distributor.ts';

export interface Gicv2Options {
  /** 1 to 8. */
  readonly cpus: number;
  /** Of the frame of the CPU interfaces. */
  readonly frameBytes: number;
  /** The CPU that makes the access under way. */
  accessing(): number;
  readonly hooks: CpuHooks;
}

interface SavedGicv2 {
  readonly distributor: unknown;
  readonly cpuInterfaces: readonly unknown[];
}

export class Gicv2 implements InterruptController {
  readonly distributor: Distributor;
  /** Where the CPU interfaces are. */
  readonly frame: CpuInterfaceFrame;
  readonly #interfaces: readonly CpuInterface[];
  readonly #hooks: CpuHooks;

  constructor(options: Gicv2Options) {
    const { cpus, frameBytes, hooks } = options;
    const accessing = (): number => options.accessing();
    const changed = (): void => this.#updateAll();
    this.#hooks = hooks;
    this.distributor = new Distributor(cpus, accessing, changed);
    this.#interfaces = Array.from(
      { length: cpus },
      (_, cpu) => new CpuInterface(cpu, this.distributor, () => hooks.acknowledged?.(cpu)),
    );
    this.frame = new CpuInterfaceFrame(this.#interfaces, frameBytes, accessing, changed);
  }

  reset(): void {
    this.distributor.reset();
    for (const cpuInterface of this.#interfaces) cpuInterface.reset();
  }

  setSpiLine(intid: number, high: boolean): void {
    if (this.distributor.setSpiLine(intid, high) && high) this.#updateAll();
  }

  hasInterrupt(pcpu: number): boolean {
    return this.#interfaces[pcpu]?.hasInterrupt === true;
  }

  #updateAll(): void {
    for (const [cpu, { hasInterrupt }] of this.#interfaces.entries()) if (hasInterrupt) this.#hooks.signal(cpu);
  }

  save(): SavedGicv2 {
    return { distributor: this.distributor.save(), cpuInterfaces: this.#interfaces.map((c) => c.save()) };
  }

  load(state: unknown): void {
    const s = state as SavedGicv2;
    if (s.cpuInterfaces.length !== this.#interfaces.length)
      throw new SavedStateError(
        `a GIC of ${s.cpuInterfaces.length} CPUs was saved and this one has ${this.#interfaces.length}`,
      );
    this.distributor.load(s.distributor);
    for (const [cpu, c] of this.#interfaces.entries()) c.load(s.cpuInterfaces[cpu]);
  }

  inspect(): unknown {
    return {
      distributor: this.distributor.inspect(),
      pcpus: this.#interfaces.map((c, cpu) => ({ privates: this.distributor.inspectPrivates(cpu), ...c.inspect() })),
    };
  }
}
