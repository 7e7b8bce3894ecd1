/**
 * Interrupts as this kernel takes them: what an upcall brought is queued, and one task runs the handlers, one after
 * another, so that the upcall itself is acknowledged at once and a handler may make hypercalls.
 * An INTID without a handler is counted as spurious.
 */
import { AssertionError } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';

/** Runs for one interrupt. */
export type InterruptHandler = () => Op<void> | void;

export class Interrupts {
  readonly #handlers = new Map<number, InterruptHandler>();
  readonly #counts = new Map<number, number>();
  readonly #queue: number[] = [];
  readonly #spawn: (op: Op<void>) => void;
  readonly #onError: (intid: number, error: unknown) => void;
  #running = false;
  #spurious = 0;

  /** `spawn` starts a task; `onError` hears of a handler that failed, the others still run. */
  constructor(spawn: (op: Op<void>) => void, onError: (intid: number, error: unknown) => void) {
    this.#spawn = spawn;
    this.#onError = onError;
  }

  request(intid: number, handler: InterruptHandler): void {
    this.#handlers.set(intid, handler);
  }

  free(intid: number): void {
    this.#handlers.delete(intid);
  }

  /** Takes the INTIDs of one upcall. */
  deliver(intids: readonly number[]): void {
    this.#queue.push(...intids);
    if (this.#running || this.#queue.length === 0) return;
    this.#running = true;
    this.#spawn(this.#run());
  }

  /** Interrupts taken so far, by INTID. */
  counts(): Record<string, number> {
    return Object.fromEntries([...this.#counts].sort(([a], [b]) => a - b));
  }

  get spurious(): number {
    return this.#spurious;
  }

  *#run(): Op<void> {
    for (;;) {
      const intid = this.#queue.shift();
      if (intid === undefined) break;
      this.#counts.set(intid, (this.#counts.get(intid) ?? 0) + 1);
      const handler = this.#handlers.get(intid);
      if (handler === undefined) {
        this.#spurious++;
        continue;
      }
      try {
        const op = handler();
        if (op !== undefined) yield* op;
      } catch (error) {
        if (error instanceof AssertionError) throw error;
        this.#onError(intid, error);
      }
    }
    this.#running = false;
  }
}
