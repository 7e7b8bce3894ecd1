/** A device model on its own: memory at bus address 0, time that moves when told, and a record of its interrupts. */
import type { DeviceHost } from '../../services/hardware/pcie/functions/function.ts';

interface Due {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
}

export class DeviceRig implements DeviceHost {
  readonly memory: Uint8Array;
  /** Vectors that were raised, in order. */
  raised: number[] = [];
  pin = false;
  pending = false;
  messagesSent = 0;
  messageSignalled = true;
  /** Bytes from here to `abortEnd` abort. */
  abortFrom = Number.POSITIVE_INFINITY;
  abortEnd = Number.POSITIVE_INFINITY;
  dmaCalls = 0;
  /** Called before every DMA. */
  onDma: () => void = () => {};
  readonly dma: DeviceHost['dma'];
  readonly scheduler: { now: number; after: (ns: number, run: () => void) => void };
  readonly #due: Due[] = [];
  #order = 0;

  constructor(memoryBytes = 4 << 20) {
    this.memory = new Uint8Array(memoryBytes);
    this.dma = {
      read: (at, into) => {
        const iova = Number(at);
        const done = this.#reach(iova, into.length);
        into.set(this.memory.subarray(iova, iova + done));
        return done;
      },
      write: (at, from) => {
        const iova = Number(at);
        const done = this.#reach(iova, from.length);
        if (done > 0) this.memory.set(from.subarray(0, done), iova);
        return done;
      },
    };
    this.scheduler = {
      now: 0,
      after: (ns, run) => {
        this.#due.push({ at: this.scheduler.now + ns, order: this.#order++, run });
      },
    };
  }

  raise(vector: number): void {
    this.raised.push(vector);
  }

  setIntx(asserted: boolean): void {
    this.pin = asserted;
  }

  refuseRead(): void {
    throw new Error('a model refused a read');
  }

  setTransactionsPending(pending: boolean): void {
    this.pending = pending;
  }

  /** Lets `ns` pass. */
  pass(ns: number): void {
    const until = this.scheduler.now + ns;
    for (;;) {
      let next: Due | undefined;
      for (const one of this.#due)
        if (
          one.at <= until &&
          (next === undefined || one.at < next.at || (one.at === next.at && one.order < next.order))
        )
          next = one;
      if (next === undefined) break;
      this.#due.splice(this.#due.indexOf(next), 1);
      this.scheduler.now = next.at;
      next.run();
    }
    this.scheduler.now = until;
  }

  /** Bytes of [iova, iova + length) that are memory and do not abort. */
  #reach(iova: number, length: number): number {
    this.dmaCalls++;
    this.onDma();
    let end = Math.min(iova + length, this.memory.length);
    if (iova < this.abortEnd && end > this.abortFrom) end = Math.max(iova, this.abortFrom);
    return Math.max(0, end - iova);
  }
}
