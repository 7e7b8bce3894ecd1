/** Simulated media as one device sees them, on the clock of its rig. */
import { Prng } from '#shared/core/prng.ts';
import { SimulatedMedium } from '#tools/sim/media.ts';
import type { MediaPiece, MediaPort } from '../../services/hardware/bus/media.ts';
import type { Scheduler } from '../../services/hardware/bus/transaction.ts';

const WRITE_NS = 100_000;

export class MediumPort implements MediaPort {
  readonly media = new Map<string, SimulatedMedium>();
  /** Requests in the order in which they came: bytes, and whether they were to be durable. */
  readonly requests: { readonly bytes: number; readonly sync: boolean }[] = [];
  /** Nothing is answered. */
  holds = false;
  readonly #prng: Prng;
  readonly #scheduler: Scheduler;
  readonly #busy = new Set<string>();
  #life = 0;
  #kept: (() => void)[] = [];

  constructor(scheduler: Scheduler, seed = 1) {
    this.#scheduler = scheduler;
    this.#prng = new Prng(seed);
  }

  add(name: string, contents: Uint8Array): SimulatedMedium {
    const medium = new SimulatedMedium(contents, this.#prng);
    this.media.set(name, medium);
    return medium;
  }

  write(name: string, pieces: readonly MediaPiece[], sync: boolean, done: (ok: boolean) => void): void {
    if (this.#busy.has(name)) throw new Error(`${name} has a request under way`);
    this.#busy.add(name);
    this.requests.push({ bytes: pieces.reduce((sum, p) => sum + p.data.length + p.zeroes, 0), sync });
    const life = this.#life;
    const run = (): void => {
      if (life !== this.#life) return;
      this.#busy.delete(name);
      done(this.media.get(name)!.write(pieces, sync));
    };
    if (this.holds) this.#kept.push(run);
    else this.#scheduler.after(WRITE_NS, run);
  }

  /** Answers what was held back. */
  release(): void {
    this.holds = false;
    for (const run of this.#kept.splice(0)) run();
  }

  /** The power fails: what was under way is gone. */
  cutPower(): void {
    this.#life++;
    this.#busy.clear();
    this.#kept = [];
    for (const medium of this.media.values()) medium.cutPower();
  }
}
