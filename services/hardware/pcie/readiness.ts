/**
 * Whether a function has come out of its reset (PCIe 5.0, "Configuration Request Retry Status"). A function of a
 * healthy board is ready at once; the board can give one a time, also for ever, during which it answers nothing.
 */
import type { FunctionQuirks } from '#shared/board/description.ts';
import type { Scheduler } from '../bus/transaction.ts';

export class Readiness {
  readonly #scheduler: Scheduler;
  readonly #resetNs: number;
  /** Says RRS meanwhile; else it is as if nobody were there. */
  readonly retries: boolean;
  #ready = true;
  #resets = 0;
  #dueNs = -1;

  constructor(scheduler: Scheduler, quirks: FunctionQuirks | undefined) {
    this.#scheduler = scheduler;
    this.#resetNs = quirks?.resetNs ?? 0;
    this.retries = quirks?.notReady !== 'all-ones';
  }

  get ready(): boolean {
    return this.#ready;
  }

  /** A reset other than power-on begins; `whenReady` runs at its end, unless another one came between. */
  begin(whenReady: () => void): void {
    if (this.#resetNs === 0) return;
    this.#ready = false;
    this.#dueNs = (this.#scheduler.now ?? 0) + this.#resetNs;
    this.#arm(this.#resetNs, whenReady);
  }

  /** Power-on: ready at once, and what was under way is forgotten. */
  powerOn(): void {
    this.#ready = true;
    this.#resets++;
  }

  save(): unknown {
    return { ready: this.#ready, dueNs: this.#dueNs };
  }

  load(state: unknown, whenReady: () => void): void {
    const { ready, dueNs } = state as { ready: boolean; dueNs: number };
    this.#resets++;
    this.#ready = ready;
    this.#dueNs = dueNs;
    if (!ready) this.#arm(Math.max(0, dueNs - (this.#scheduler.now ?? 0)), whenReady);
  }

  #arm(ns: number, whenReady: () => void): void {
    const reset = ++this.#resets;
    if (!Number.isFinite(ns)) return;
    this.#scheduler.after(ns, () => {
      if (reset !== this.#resets) return;
      this.#ready = true;
      whenReady();
    });
  }
}
