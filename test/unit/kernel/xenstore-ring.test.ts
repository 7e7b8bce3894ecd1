/** A kernel's store ring, against the real daemon on the other side of the page. */
import fc from 'fast-check';
import { assert, describe, test } from 'vitest';
import { XENSTORE_RING_SIZE, type XS_RING_WORD } from '#shared/abi/xs-ring.ts';
import { Indefinite, type Op, Refused } from '#shared/core/op.ts';
import { type XenstoreClient, XenstoreError } from '#shared/kernel/xenstore-client.ts';
import type { XenstoreRing } from '#shared/kernel/xenstore-ring.ts';
import { RingWorld } from '../../support/ring-world.ts';

const SEED = 21;
const CONNECT_NS = 30e9;
const INDICES = ['req_cons', 'req_prod', 'rsp_cons', 'rsp_prod'] as const;

interface Bench {
  readonly on: RingWorld;
  readonly store: XenstoreClient;
  readonly ring: XenstoreRing;
  run<T>(op: Op<T>): T;
  words(): Record<keyof typeof XS_RING_WORD, number>;
}

/** A guest that is introduced, whose indices start at `index`, and whose ring is connected. */
function connected(seed = 1, index = 0): Bench {
  const on = new RingWorld(seed);
  const { store, ring } = on.kernelGuest(1);
  on.introduce(1);
  const page = on.pages.get(1)!;
  for (const word of INDICES) page.set(word, index);
  on.run(1, ring.connect(CONNECT_NS));
  return { on, store, ring, run: (op) => on.run(1, op), words: () => page.words };
}

const countsOf = (ring: XenstoreRing): Record<string, number> => ring.inspect() as Record<string, number>;

describe('connecting', () => {
  test('waits until the daemon serves the page', () => {
    const on = new RingWorld();
    const { store, ring } = on.kernelGuest(1);
    const connect = on.start(1, ring.connect(CONNECT_NS));
    on.pass(5e9);
    assert.isFalse(connect.done);
    on.introduce(1);
    on.pass(1e9);
    assert.isTrue(connect.done);
    on.run(1, store.write('x', 'y'));
    assert.equal(on.run(0, on.dom0.store.read('/local/domain/1/x')), 'y');
  });

  test('gives up when nobody does', () => {
    const on = new RingWorld();
    const { ring } = on.kernelGuest(1);
    assert.throws(() => on.run(1, ring.connect(CONNECT_NS)), Indefinite, 'did not serve its ring');
  });
});

test('payloads of all that a packet holds go both ways', () => {
  const { on, store, run } = connected();
  on.run(0, on.dom0.store.write('/local/domain/1/long', 'x'.repeat(4000)));
  assert.lengthOf(run(store.read('long')), 4000);
  run(store.write('mine', 'y'.repeat(2000)));
  assert.equal(on.run(0, on.dom0.store.read('/local/domain/1/mine')), 'y'.repeat(2000));
});

test('requests that are under way together have each its own reply', () => {
  const { on, store } = connected();
  const outcomes = Array.from({ length: 20 }, (_, i) =>
    on.start(
      1,
      (function* () {
        yield* store.write(`n${i}`, `${i}`.repeat(300));
        return yield* store.read(`n${i}`);
      })(),
    ),
  );
  on.pass(2e9);
  assert.deepEqual(
    outcomes.map((outcome) => outcome.value),
    outcomes.map((_outcome, i) => `${i}`.repeat(300)),
  );
});

test('a watch is told of what another writes', () => {
  const { on, store, run, ring } = connected();
  const heard: string[] = [];
  run(store.watch('state', 'token', (path) => heard.push(path)));
  on.run(0, on.dom0.store.write('/local/domain/1/state', '4'));
  on.pass(1e9);
  assert.deepEqual(heard, ['state', 'state']);
  assert.equal(countsOf(ring)['events'], 2);
});

test('a short request costs one notification, and reading its reply none', () => {
  const { store, run, ring } = connected();
  const before = countsOf(ring)['notifies']!;
  for (let i = 0; i < 10; i++) run(store.write('x', `${i}`));
  assert.equal(countsOf(ring)['notifies'], before + 10);
});

test('a daemon that starts again is asked again what it did not answer', () => {
  const { on, store, run, ring } = connected();
  run(store.write('x', 'old'));
  on.world.remove('xenstored');
  const write = on.start(1, store.write('x', 'new'));
  on.pass(3e9);
  assert.isFalse(write.done);
  on.startDaemon();
  on.introduce(1);
  on.pass(1e9);
  assert.isTrue(write.done);
  assert.isUndefined(write.error);
  assert.equal(run(store.read('x')), 'new');
  assert.equal(countsOf(ring)['restarts'], 1);
});

test('whenever the daemon starts again, nothing that the guest says is lost or read wrongly', () => {
  const property = fc.property(
    fc.nat({ max: 10_000 }),
    fc.array(fc.nat({ max: 4e6 }), { minLength: 1, maxLength: 4 }),
    fc.nat({ max: 1500 }),
    (seed, pauses, bytes) => {
      const { on, store, run, ring } = connected(seed);
      const outcomes: { done: boolean; error?: unknown }[] = [];
      for (const pause of pauses) {
        for (let i = 0; i < 5; i++) outcomes.push(on.start(1, store.write(`n${i}`, 'x'.repeat(bytes))));
        on.pass(pause);
        on.restartDaemon(1);
      }
      on.pass(15e9);
      // The new daemon has an empty store, in which the guest may write nothing: that is an answer too.
      for (const { done, error } of outcomes) {
        assert.isTrue(done);
        if (error !== undefined) assert.instanceOf(error, XenstoreError);
      }
      on.run(0, on.dom0.store.mkdir('/local/domain/1'));
      on.run(0, on.dom0.store.setPerms('/local/domain/1', ['n1']));
      run(store.write('x', 'y'));
      assert.equal(run(store.read('x')), 'y');
      assert.isAtLeast(countsOf(ring)['restarts']!, 1);
      assert.deepEqual(on.service.daemon.counts.errors['EINVAL'] ?? 0, 0);
    },
  );
  fc.assert(property, { seed: SEED, numRuns: 100 });
});

test('a daemon that does not answer within 20 s may or may not have done it', () => {
  const { on, store, run } = connected();
  on.world.remove('xenstored');
  assert.throws(() => run(store.write('x', 'y')), Indefinite);
});

test('a ring that the daemon gave up refuses what waits and what comes', () => {
  const { on, store } = connected();
  const page = on.pages.get(1)!;
  on.beforeAccess = (from) => {
    page.set('rsp_cons', from === 'xenstored' ? 1 : 0);
  };
  const waiting = on.start(1, store.read('x'));
  on.pass(1e9);
  assert.instanceOf(waiting.error, Refused);
  assert.throws(() => on.run(1, store.read('x')), Refused, 'error 2');
});

test('indices of the daemon that cannot be are the end of the ring', () => {
  const { on, store } = connected();
  on.pages.get(1)!.set('rsp_prod', XENSTORE_RING_SIZE + 1);
  assert.throws(() => on.run(1, store.read('x')), Refused);
});

test('whatever the order of messages and wherever the indices are, the store is what the guest wrote', () => {
  const step = fc.oneof(
    fc.record({ path: fc.constantFrom('a', 'b', 'c/d'), bytes: fc.nat({ max: 2000 }), at: fc.nat({ max: 3e6 }) }),
    fc.record({ path: fc.constantFrom('a', 'b', 'c/d'), bytes: fc.constant(-1), at: fc.nat({ max: 3e6 }) }),
  );
  const property = fc.property(
    fc.nat({ max: 10_000 }),
    fc.nat({ max: 3000 }).map((n) => 2 ** 32 - n),
    fc.array(step, { minLength: 1, maxLength: 25 }),
    (seed, index, steps) => {
      const { on, store } = connected(seed, index >>> 0);
      const model = new Map<string, string>();
      let lastValue = 0;
      const outcomes = steps.map(({ path, bytes, at }) => {
        const value = `${lastValue++}:${'z'.repeat(Math.max(bytes, 0))}`;
        if (bytes >= 0) model.set(path, value);
        const expected = model.get(path);
        const outcome = on.start<string | undefined>(
          1,
          bytes >= 0
            ? (function* () {
                yield* store.write(path, value);
                return value;
              })()
            : store.readOrUndefined(path),
        );
        on.pass(at);
        return { outcome, expected };
      });
      on.pass(10e9);
      for (const { outcome, expected } of outcomes) {
        assert.isUndefined(outcome.error);
        assert.isTrue(outcome.done);
        assert.equal(outcome.value, expected);
      }
      assert.deepEqual(on.strays, []);
    },
  );
  fc.assert(property, { seed: SEED, numRuns: 100 });
});
