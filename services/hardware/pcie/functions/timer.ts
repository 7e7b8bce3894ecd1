/** One thing that a device does later: armed at most once at a time, and it can be taken back, saved and loaded. */
import type { Scheduler } from '../../bus/transaction.ts';

export interface SavedTimer {
  readonly armed: boolean;
  /** On the clock of the scheduler; 0 when that has none, or nothing is armed. */
  readonly dueNs: number;
}

export class Timer {
  readonly #scheduler: Scheduler;
  readonly #run: () => void;
  #round = 0;
  #armed = false;
  #dueNs = 0;

  constructor(scheduler: Scheduler, run: () => void) {
    this.#scheduler = scheduler;
    this.#run = run;
  }

  get armed(): boolean {
    return this.#armed;
  }

  /** Runs once, `ns` from now, in place of whatever was armed before. */
  arm(ns: number): void {
    const round = ++this.#round;
    this.#armed = true;
    this.#dueNs = (this.#scheduler.now ?? 0) + ns;
    this.#scheduler.after(ns, () => {
      if (round !== this.#round) return;
      this.#armed = false;
      this.#run();
    });
  }

  cancel(): void {
    this.#round++;
    this.#armed = false;
  }

  save(): SavedTimer {
    return { armed: this.#armed, dueNs: this.#armed ? this.#dueNs : 0 };
  }

  /** What is overdue, or was saved without a clock, runs at once. */
  load({ armed, dueNs }: SavedTimer): void {
    this.cancel();
    if (armed) this.arm(Math.max(0, dueNs - (this.#scheduler.now ?? dueNs)));
  }
}
