/**
 * Long operations. An `Op` is a generator that reads top to bottom: each `yield*` of a step leaves the core as an
 * effect and comes back with what it brought. No promises, so a run can stop, fail or crash at any step.
 */
import type { Body, BodyCase, Nanos, Payload, Peer } from './core.ts';

export type Step =
  | { readonly step: 'call'; readonly to: Peer; readonly body: Body; readonly options: CallOptions }
  | { readonly step: 'sleep'; readonly ns: Nanos }
  | { readonly step: 'wait'; readonly signal: Signal<unknown>; readonly ns: Nanos }
  | { readonly step: 'lock'; readonly lock: Lock };

export interface CallOptions {
  /** Give up after this long (default `LIMITS.callDeadlineNs`). */
  readonly deadlineNs?: Nanos;
  /** Who may answer, when it is not the one asked (a taker answers as `vacant`). */
  readonly replyFrom?: Peer;
}

export type Op<T> = Generator<Step, T, unknown>;

/** The other side answered that it did not and will not do it. */
export class Refused extends Error {
  override name = 'Refused';
}

/** No answer in time: it may or may not have been done. */
export class Indefinite extends Error {
  override name = 'Indefinite';
}

/** A wait that ran out. */
export class TimedOut extends Error {
  override name = 'TimedOut';
}

/** Sends a request to `to` and gives the payload of its answer, which must be of kind `expect`. Throws Refused or Indefinite. */
export function* call<C extends BodyCase>(
  to: Peer,
  request: Body,
  expect: C,
  options: CallOptions = {},
): Op<Payload<C>> {
  const reply = (yield { step: 'call', to, body: request, options }) as Body;
  if (reply.$case !== expect) throw new Refused(`${to} answered ${request.$case} with ${reply.$case}, not ${expect}`);
  return reply.value as Payload<C>;
}

export function* sleep(ns: Nanos): Op<void> {
  yield { step: 'sleep', ns };
}

/** Waits for the next `fire` of `signal`. Throws TimedOut after `ns` (no limit when it is Infinity). */
export function* wait<T>(signal: Signal<T>, ns: Nanos): Op<T> {
  return (yield { step: 'wait', signal: signal as Signal<unknown>, ns }) as T;
}

/** Runs `op` while holding `lock`; those who wait get it in order. */
export function* withLock<T>(lock: Lock, op: () => Op<T>): Op<T> {
  yield { step: 'lock', lock };
  try {
    return yield* op();
  } finally {
    lock.release();
  }
}

/** Something that happens inside a core and that operations of the same core wait for. Remembers nothing. */
export class Signal<T> {
  readonly #waiting = new Set<(value: T) => void>();

  /** Resumes everybody who waits now. */
  fire(value: T): void {
    const now = [...this.#waiting];
    this.#waiting.clear();
    for (const resume of now) resume(value);
  }

  /** For the runtime: returns how to stop waiting. */
  subscribe(resume: (value: T) => void): () => void {
    this.#waiting.add(resume);
    return () => this.#waiting.delete(resume);
  }
}

/** A queue of values of which each is taken once: `put` never blocks, `take` waits. */
export class Mailbox<T> {
  readonly #items: T[] = [];
  readonly #arrived = new Signal<void>();

  put(item: T): void {
    this.#items.push(item);
    this.#arrived.fire();
  }

  get length(): number {
    return this.#items.length;
  }

  /** The oldest item. Throws TimedOut after `ns`. */
  *take(ns: Nanos): Op<T> {
    while (this.#items.length === 0) yield* wait(this.#arrived, ns);
    return this.#items.shift() as T;
  }
}

/** A lock of one core, named after the one that Xen takes in its place. Fair. */
export class Lock {
  readonly name: string;
  #held = false;
  readonly #waiting: (() => void)[] = [];

  constructor(name: string) {
    this.name = name;
  }

  /** For the runtime: calls `resume` when the lock is the caller's, at once when it is free. Returns whether it was free. */
  acquire(resume: () => void): boolean {
    if (!this.#held) {
      this.#held = true;
      return true;
    }
    this.#waiting.push(resume);
    return false;
  }

  release(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#held = false;
    else next();
  }

  get held(): boolean {
    return this.#held;
  }
}

/** What has to be undone when a later step fails, run backwards. */
export class Undo {
  readonly #steps: { readonly name: string; readonly op: () => Op<void> }[] = [];

  push(name: string, op: () => Op<void>): void {
    this.#steps.push({ name, op });
  }

  /** Runs every undo, last first. One that fails is given to `onFailure`, and the others still run. */
  *run(onFailure: (name: string, error: unknown) => void): Op<void> {
    for (const { name, op } of this.#steps.splice(0).reverse()) {
      try {
        yield* op();
      } catch (error) {
        onFailure(name, error);
      }
    }
  }
}
