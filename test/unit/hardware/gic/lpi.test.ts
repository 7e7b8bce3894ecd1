/** LPIs at redistributors that share their arrays, against a plain model of each. */
import { assert, describe, test } from 'vitest';
import { encodeLpiConfig, LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { Prng } from '#shared/core/prng.ts';
import { Ram } from '../../../../services/hardware/bus/ram.ts';
import { LpiState } from '../../../../services/hardware/gic/lpi.ts';
import { LpiStore } from '../../../../services/hardware/gic/lpi-store.ts';

const ID_BITS = 14;
const COUNT = 2 ** ID_BITS - LPI_FIRST;
const RAM = 0x8000_0000_0000;
const TABLE = RAM + 0x1_0000;
const PENDING = RAM + 0x10_0000;
const PES = 3;

/** What is known of one PE: bytes as they were read, and what is pending. */
class Model {
  readonly ram: Ram;
  readonly config = new Map<number, number>();
  pending = new Set<number>();

  constructor(ram: Ram) {
    this.ram = ram;
  }

  configOf(lpi: number): number {
    let byte = this.config.get(lpi);
    if (byte === undefined) {
      byte = this.ram.read8(TABLE + lpi - LPI_FIRST);
      this.config.set(lpi, byte);
    }
    return byte;
  }

  best(): [intid: number, priority: number] {
    let best: [number, number] = [-1, 0x100];
    for (const lpi of [...this.pending].sort((a, b) => a - b)) {
      const byte = this.configOf(lpi);
      if ((byte & 1) !== 0 && (byte & 0xf8) < best[1]) best = [lpi, byte & 0xf8];
    }
    return best;
  }
}

function setUp(seed: number) {
  const random = new Prng(seed);
  const ram = new Ram([{ pa: RAM, sizeBytes: 0x40_0000 }]);
  const configure = (lpi: number): void =>
    ram.write8(TABLE + lpi - LPI_FIRST, encodeLpiConfig(random.below(32) << 3, random.chance(0.8)));
  for (let i = 0; i < COUNT; i++) configure(LPI_FIRST + i);
  const store = new LpiStore(PES, ID_BITS);
  const states = Array.from({ length: PES }, (_, pe) => {
    const state = new LpiState(ram, ID_BITS, store, pe);
    state.enable(TABLE, ID_BITS, PENDING + pe * 0x1_0000, true);
    return state;
  });
  return { random, ram, configure, states, models: states.map(() => new Model(ram)) };
}

describe('the LPIs of several PEs', () => {
  // Few at a time as while the PEs keep up, and many.
  for (const clearing of [0.65, 0.45, 0.2]) {
    test(`are offered by priority and INTID, each at its own PE, ${clearing * 100} of 100 steps taking one away`, () => {
      const { random, configure, states, models } = setUp(clearing * 100);
      for (let step = 0; step < 6000; step++) {
        const pe = random.below(PES);
        const state = states[pe]!;
        const model = models[pe]!;
        // Few LPIs, so that the same ones are met again.
        const lpi = LPI_FIRST + ((random.below(40) * 0x155) % COUNT);
        if (random.chance(clearing)) {
          const which = model.pending.size > 0 && random.chance(0.8) ? [...model.pending][0]! : lpi;
          assert.equal(state.clearPending(which), model.pending.delete(which));
        } else if (random.chance(0.03)) {
          configure(lpi);
          state.invalidate(lpi);
          model.config.delete(lpi);
          model.configOf(lpi);
        } else if (random.chance(0.01)) {
          state.invalidateAll();
          model.config.clear();
          for (const held of model.pending) model.configOf(held);
        } else if (random.chance(0.011)) {
          const to = (pe + 1) % PES;
          state.moveAllTo(states[to]!);
          for (const moved of model.pending) {
            models[to]!.configOf(moved);
            models[to]!.pending.add(moved);
          }
          model.pending.clear();
        } else {
          const isNew = !model.pending.has(lpi);
          const byte = model.configOf(lpi);
          model.pending.add(lpi);
          assert.equal(state.raise(lpi), isNew && (byte & 1) !== 0 ? byte & 0xf8 : 0x100);
        }
        if (step % 7 === 0) {
          states.forEach((s, n) => {
            const expected = [...models[n]!.best(), models[n]!.pending.size];
            assert.deepEqual([s.best(), s.bestPriority, s.pendingCount], expected, `step ${step}, PE ${n}`);
          });
        }
      }
    });
  }

  test('go through the pending table, and through a saved state', () => {
    const { ram, states } = setUp(5);
    const [first, second, third] = states as [LpiState, LpiState, LpiState];
    const lpis = [LPI_FIRST, LPI_FIRST + 33, LPI_FIRST + COUNT - 1];
    for (const lpi of lpis) first.setPending(lpi);
    third.setPending(LPI_FIRST + 7);
    const [best, priority] = [first.best(), first.bestPriority];
    second.load(structuredClone(first.save()));
    assert.deepEqual([second.best(), second.bestPriority, second.pendingCount], [best, priority, 3]);
    first.disable();
    assert.deepEqual([first.best(), first.pendingCount, first.raise(LPI_FIRST)], [-1, 0, 0x200]);
    assert.equal(ram.read8(PENDING + LPI_FIRST / 8), 1);
    first.enable(TABLE, ID_BITS, PENDING, false);
    assert.deepEqual([first.best(), first.bestPriority, first.pendingCount], [best, priority, 3]);
    assert.deepEqual([third.pendingCount, third.clearPending(LPI_FIRST + 7)], [1, true]);
    assert.deepEqual([first.raise(LPI_FIRST + COUNT), first.raise(5)], [0x200, 0x200], 'no LPIs');
  });
});
