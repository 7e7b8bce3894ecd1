/**
 * Interrupts of an NVMe controller (NVM Express 1.4, "Interrupts"): bit v of the interrupt status is set while a
 * completion queue that interrupts by vector v holds entries the host has not taken.
 * A message goes out once for what one burst posts to a vector. By INTMS masked vectors say nothing; the message
 * follows when INTMC clears the mask and entries are still there. The pin is the OR of the unmasked status bits.
 * Deviates: INTMS also masks under MSI-X, where the specification leaves its use undefined.
 * Not modelled: coalescing over time; the feature is accepted, and a message never waits for more entries.
 */
import type { CompletionQueue, CompletionWatch } from './nvme-queues.ts';

export interface InterruptPort {
  raise(vector: number): void;
  /** Level of the interrupt pin, before Interrupt Disable and the like. */
  setIntx(level: boolean): void;
}

const MASKABLE = 32;

export class NvmeInterrupts implements CompletionWatch {
  readonly #port: InterruptPort;
  /** Completion queues with entries, by vector. */
  readonly #busy: Uint16Array;
  /** Vectors with new entries since the last flush. */
  readonly #fresh = new Set<number>();
  #mask = 0;
  #pin = false;

  constructor(port: InterruptPort, vectors: number) {
    this.#port = port;
    this.#busy = new Uint16Array(vectors);
  }

  get mask(): number {
    return this.#mask >>> 0;
  }

  /** Interrupt status of vectors 0 to 31, unmasked ones and others. */
  get status(): number {
    let bits = 0;
    const count = Math.min(MASKABLE, this.#busy.length);
    for (let v = 0; v < count; v++) if (this.#busy[v]! > 0) bits |= 1 << v;
    return bits >>> 0;
  }

  reset(): void {
    this.#busy.fill(0);
    this.#fresh.clear();
    this.#mask = 0;
    this.#updatePin();
  }

  posted(queue: CompletionQueue): void {
    if (!queue.interrupts) return;
    // The first entry of an empty queue: it is now one behind the head.
    const held = (queue.tail - queue.head + queue.entries) % queue.entries;
    if (held === 1) this.#busy[queue.vector]!++;
    this.#fresh.add(queue.vector);
  }

  emptied(queue: CompletionQueue): void {
    if (!queue.interrupts) return;
    this.#busy[queue.vector]!--;
    if (this.#busy[queue.vector] === 0) this.#fresh.delete(queue.vector);
  }

  /** Tells the host of what was posted and taken since the last time. */
  flush(): void {
    for (const vector of this.#fresh) {
      this.#fresh.delete(vector);
      if (!this.#isMasked(vector)) this.#port.raise(vector);
    }
    this.#updatePin();
  }

  setMask(bits: number): void {
    this.#mask |= bits;
    this.#updatePin();
  }

  clearMask(bits: number): void {
    const opened = this.#mask & bits & this.status;
    this.#mask &= ~bits;
    for (let v = 0; v < MASKABLE; v++) if ((opened & (1 << v)) !== 0) this.#port.raise(v);
    this.#updatePin();
  }

  save(): unknown {
    return { busy: this.#busy.slice(), fresh: [...this.#fresh], mask: this.#mask, pin: this.#pin };
  }

  load(state: unknown): void {
    const saved = state as { busy: Uint16Array; fresh: number[]; mask: number; pin: boolean };
    this.#busy.set(saved.busy);
    this.#fresh.clear();
    for (const vector of saved.fresh) this.#fresh.add(vector);
    this.#mask = saved.mask;
    this.#pin = saved.pin;
  }

  #isMasked(vector: number): boolean {
    return vector < MASKABLE && (this.#mask & (1 << vector)) !== 0;
  }

  #updatePin(): void {
    const level = (this.status & ~this.#mask) !== 0;
    if (level === this.#pin) return;
    this.#pin = level;
    this.#port.setIntx(level);
  }
}
