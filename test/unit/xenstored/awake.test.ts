import { assert, describe, test } from 'vitest';
import { Awake } from '../../../services/xenstored/awake.ts';

/** A loop and a client: the next chunk comes `awakeMs` after an answer while the process is awake, else `asleepMs` after it. */
class Machine {
  asleepMs: number;
  awakeMs: number;
  #now = 0;
  #look: (() => void) | undefined;
  readonly awake = new Awake({
    now: () => this.#now,
    next: (look) => {
      this.#look = look;
    },
  });

  constructor(asleepMs: number, awakeMs: number) {
    this.asleepMs = asleepMs;
    this.awakeMs = awakeMs;
  }

  /** Chunks that found the process awake, of `count`. */
  ask(count: number): number {
    let found = 0;
    for (let i = 0; i < count; i++) {
      const isAwake = this.#look !== undefined;
      if (isAwake) found++;
      this.#pass(isAwake ? this.awakeMs : this.asleepMs);
      this.awake.onChunk();
      this.awake.onDone();
    }
    return found;
  }

  /** Looks of the loop until it sleeps. */
  rest(): number {
    let looks = 0;
    for (; this.#look !== undefined; looks++) this.#pass(0.01);
    return looks;
  }

  #pass(ms: number): void {
    this.#now += ms;
    const look = this.#look;
    this.#look = undefined;
    look?.();
  }
}

describe('after a chunk of requests the process', () => {
  test('stays awake where to be woken takes longer', () => {
    assert.isAbove(new Machine(0.04, 0.01).ask(1000), 900);
  });

  test('sleeps where the client needs the processor', () => {
    assert.isBelow(new Machine(0.012, 0.04).ask(1000), 100);
  });

  test('goes over to the other when the machine has changed', () => {
    const machine = new Machine(0.04, 0.01);
    machine.ask(1000);
    Object.assign(machine, { asleepMs: 0.005, awakeMs: 0.02 });
    assert.isBelow(machine.ask(5000), 1500);
    Object.assign(machine, { asleepMs: 0.04, awakeMs: 0.01 });
    assert.isAbove(machine.ask(5000), 3500);
  });

  test('sleeps when nobody asks, within 0.05 ms', () => {
    const machine = new Machine(0.04, 0.01);
    machine.ask(1000);
    assert.isAtMost(machine.rest(), 6);
  });

  test('learns nothing from a time in which nobody asked', () => {
    const machine = new Machine(0.04, 0.01);
    machine.ask(1000);
    for (let i = 0; i < 100; i++) {
      machine.rest();
      Object.assign(machine, { asleepMs: 50 });
      machine.ask(1);
      Object.assign(machine, { asleepMs: 0.04 });
      machine.ask(10);
    }
    assert.isAbove(machine.ask(1000), 900);
  });
});
