/**
 * A virtual CPU as Xen knows it: its start, and the interrupts that it has to take. One upcall is in flight at a time;
 * its reply is the guest taking what is in it, and what arrives meanwhile goes in the next. An INTID that is pending
 * already merges. SPIs are active from the moment they leave until the guest ends them (docs/decisions/0019).
 * Not modelled: secondary virtual CPUs never start (no PSCI CPU_ON); their redistributors are there and stay asleep.
 * A paused domain is told nothing and its hypercalls wait, but a CPU access that it has begun goes on.
 */
import { body, type Peer } from '#shared/core/core.ts';
import { call, type Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Counts } from '../counts.ts';

export interface VcpuContext {
  readonly pc: number;
  /** First argument register: the IPA of the device tree. */
  readonly x0: number;
}

export interface VcpuParts {
  readonly runtime: Runtime;
  readonly counts: Counts;
  readonly peer: Peer;
  /** Whether the domain may run: neither paused nor shut down nor dying. */
  readonly runnable: () => boolean;
  /** These leave in an upcall. */
  readonly taken: (intids: readonly number[]) => void;
}

/** The guest's process may come up long after its domain; only the end of the domain ends a wait for it. */
const FOR_EVER = { deadlineNs: Infinity };

export class Vcpu {
  readonly id: number;
  context: VcpuContext | undefined;
  readonly #parts: VcpuParts;
  #state: 'down' | 'starting' | 'up' = 'down';
  #inFlight = false;
  readonly #pending = new Set<number>();

  constructor(id: number, parts: VcpuParts) {
    this.id = id;
    this.#parts = parts;
  }

  get state(): 'down' | 'starting' | 'up' {
    return this.#state;
  }

  /** INTIDs that wait for the next upcall. */
  get pending(): readonly number[] {
    return [...this.#pending];
  }

  /** An interrupt for this CPU to take: goes out at once when it runs and has none in flight. */
  deliver(intid: number): void {
    this.#pending.add(intid);
    this.kick();
  }

  /** Takes back an interrupt that was not sent yet. */
  retract(intid: number): void {
    this.#pending.delete(intid);
  }

  /** Starts it with its context if it never ran, and sends what is pending. Called whenever it may run again. */
  kick(): void {
    if (this.#inFlight || !this.#parts.runnable()) return;
    if (this.#state === 'down') {
      if (this.context === undefined) return;
      this.#state = 'starting';
    } else if (this.#pending.size === 0) return;
    this.#inFlight = true;
    const { runtime, peer } = this.#parts;
    runtime.spawn(
      `upcalls of ${peer}`,
      this.#run(),
      () => this.#ended(),
      (error) => {
        // The domain stopped and its peer was forgotten, or its process refuses to be a CPU.
        runtime.trace('upcall_failed', { peer, error: String(error) });
        if (this.#state === 'starting') this.#state = 'down';
        this.#inFlight = false;
      },
    );
  }

  /** It is off, as after reset: what was pending is gone, and the next kick starts it anew. The peer was forgotten. */
  reset(): void {
    this.#state = 'down';
    this.#pending.clear();
  }

  #ended(): void {
    this.#inFlight = false;
    if (this.#state === 'up' && this.#pending.size > 0) this.kick();
  }

  *#run(): Op<void> {
    const { counts, peer, runnable, taken } = this.#parts;
    if (this.#state === 'starting') {
      const { x0 } = this.context!;
      counts.add('upcalls', 'vcpu_start');
      const start = body('upcallRequest', { vcpu: this.id, what: { $case: 'vcpuStart', value: { x0 } } });
      yield* call(peer, start, 'upcallReply', FOR_EVER);
      if (this.#state === 'starting') this.#state = 'up';
    }
    while (this.#state === 'up' && this.#pending.size > 0 && runnable()) {
      const intids = [...this.#pending];
      this.#pending.clear();
      taken(intids);
      counts.add('upcalls', 'interrupts');
      const message = body('upcallRequest', {
        vcpu: this.id,
        what: { $case: 'interrupts', value: { intids } },
      });
      yield* call(peer, message, 'upcallReply', FOR_EVER);
    }
  }
}
