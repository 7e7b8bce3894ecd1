import { body } from '#shared/core/core.ts';
import type { Runtime } from '#shared/core/runtime.ts';

/** After this an interrupt that nobody acknowledged is told again: the notice may have been lost. */
const NOTICE_REPEAT_NS = 20e6;

/**
 * The notices to EL2: one when a CPU interface has an interrupt to take, and one more every 20 ms while it still has
 * and did not ask for one (ICC_IAR1_EL1, GICC_IAR). What is raised inside one call is looked at when the call is over, so a batch that
 * takes all that it finds is not told of what it has already taken.
 */
export class InterruptNotices {
  sent = 0;
  readonly #runtime: Runtime;
  readonly #hasInterrupt: (pcpu: number) => boolean;
  /** Told and not acknowledged: how to stop the repetition. */
  readonly #told = new Map<number, () => void>();
  readonly #raised = new Set<number>();
  #depth = 0;

  constructor(runtime: Runtime, hasInterrupt: (pcpu: number) => boolean) {
    this.#runtime = runtime;
    this.#hasInterrupt = hasInterrupt;
  }

  raise(pcpu: number): void {
    this.#raised.add(pcpu);
    if (this.#depth === 0) this.#flush();
  }

  /** The CPU asked for an interrupt; what is pending then is told anew. */
  acknowledged(pcpu: number): void {
    this.#told.get(pcpu)?.();
    this.#told.delete(pcpu);
    this.raise(pcpu);
  }

  /** Runs one call into the machine. */
  during<T>(run: () => T): T {
    this.#depth++;
    try {
      return run();
    } finally {
      this.#depth--;
      if (this.#depth === 0) this.#flush();
    }
  }

  #flush(): void {
    if (this.#raised.size === 0) return;
    const raised = [...this.#raised];
    this.#raised.clear();
    for (const pcpu of raised) if (!this.#told.has(pcpu) && this.#hasInterrupt(pcpu)) this.#tell(pcpu);
  }

  #tell(pcpu: number): void {
    this.sent++;
    this.#runtime.post('xen', body('interruptPending', { pcpu }));
    const stop = this.#runtime.at(this.#runtime.now + NOTICE_REPEAT_NS, () => {
      this.#told.delete(pcpu);
      if (this.#hasInterrupt(pcpu)) this.#tell(pcpu);
    });
    this.#told.set(pcpu, stop);
  }
}
