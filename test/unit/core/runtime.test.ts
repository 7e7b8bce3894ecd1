import { assert, describe, test } from 'vitest';
import type { Envelope } from '#gen/bus.ts';
import { type Body, body, type Effect, type Peer } from '#shared/core/core.ts';
import { LIMITS } from '#shared/core/limits.ts';
import {
  call,
  Indefinite,
  Lock,
  Mailbox,
  type Op,
  Refused,
  Signal,
  sleep,
  TimedOut,
  Undo,
  wait,
  withLock,
} from '#shared/core/op.ts';
import { type Answer, Runtime } from '#shared/core/runtime.ts';

const ask = (path: string): Body => body('inspectRequest', { path });
const tell = (json: string): Body => body('inspectReply', { json, error: '' });

function envelope(id: number, message: Body | undefined, more: Partial<Envelope> = {}): Envelope {
  return { id, inReplyTo: 0, oldestPending: 0, refused: '', body: message, ...more };
}

function sends(effects: readonly Effect[]): { to: Peer; envelope: Envelope }[] {
  return effects.flatMap((e) => (e.do === 'send' ? [{ to: e.to, envelope: e.envelope }] : []));
}

function runtimeWith(onRequest: (from: Peer, message: Body) => Answer, boot?: () => Op<void>): Runtime {
  const runtime = new Runtime({ idBase: 1000 });
  runtime.attach({ onRequest, inspect: () => ({}), ...(boot === undefined ? {} : { boot }) });
  return runtime;
}

/** Starts an operation in a runtime of its own and keeps what became of it. */
function running<T>(op: () => Op<T>): {
  runtime: Runtime;
  first: readonly Effect[];
  outcome: { value?: T; error?: Error };
} {
  const outcome: { value?: T; error?: Error } = {};
  const runtime = runtimeWith(
    () => undefined,
    function* () {
      try {
        outcome.value = yield* op();
      } catch (error) {
        outcome.error = error as Error;
      }
    },
  );
  return { runtime, first: runtime.start(0), outcome };
}

describe('requests that arrive', () => {
  test('a repeated request is answered from memory and not done again', () => {
    let done = 0;
    const runtime = runtimeWith(() => tell(String(++done)));
    runtime.start(0);
    const first = sends(runtime.receive(1, 'd1', envelope(5, ask(''))));
    const second = sends(runtime.receive(2, 'd1', envelope(5, ask(''))));
    assert.equal(done, 1);
    assert.deepEqual(second, first);
  });

  test('a request that still runs is not started a second time', () => {
    const gate = new Signal<void>();
    let started = 0;
    const runtime = runtimeWith(() =>
      (function* () {
        started++;
        yield* wait(gate, Infinity);
        return tell('late');
      })(),
    );
    runtime.start(0);
    runtime.receive(1, 'd1', envelope(5, ask('')));
    assert.deepEqual(sends(runtime.receive(2, 'd1', envelope(5, ask('')))), []);
    assert.equal(started, 1);
  });

  test('the same id of two peers is two requests', () => {
    let done = 0;
    const runtime = runtimeWith(() => tell(String(++done)));
    runtime.start(0);
    runtime.receive(1, 'd1', envelope(5, ask('')));
    runtime.receive(1, 'd2', envelope(5, ask('')));
    assert.equal(done, 2);
  });

  test('an answer is forgotten once the sender waits for nothing older', () => {
    let done = 0;
    const runtime = runtimeWith(() => tell(String(++done)));
    runtime.start(0);
    runtime.receive(1, 'd1', envelope(5, ask('')));
    runtime.receive(2, 'd1', envelope(6, ask(''), { oldestPending: 6 }));
    assert.equal(done, 2);
    const late = sends(runtime.receive(3, 'd1', envelope(5, ask(''), { oldestPending: 5 })));
    assert.equal(done, 2, 'a late copy of what is done with is dropped');
    assert.deepEqual(late, []);
  });

  test('two senders under one name do not make each other late', () => {
    let done = 0;
    const runtime = runtimeWith(() => tell(String(++done)));
    runtime.start(0);
    const operators = [9000, 50].map((idBase) => {
      const operator = new Runtime({ idBase, sharedName: true });
      operator.attach({
        onRequest: () => undefined,
        inspect: () => ({}),
        *boot() {
          yield* call('xen', ask(''), 'inspectReply');
        },
      });
      return sends(operator.start(0))[0]!.envelope;
    });
    for (const request of operators) runtime.receive(1, 'operator', request);
    assert.equal(done, 2);
  });

  test('Refused becomes a definite refusal with its text', () => {
    const runtime = runtimeWith(() => {
      throw new Refused('not yours');
    });
    runtime.start(0);
    const [reply] = sends(runtime.receive(1, 'd1', envelope(5, ask(''))));
    assert.equal(reply?.envelope.refused, 'not yours');
    assert.isUndefined(reply?.envelope.body);
  });

  test('a peer with too many requests running is refused, and the others are not', () => {
    const runtime = runtimeWith((from) =>
      (function* (): Op<Body> {
        if (from === 'd1') yield* sleep(1e9);
        return tell('');
      })(),
    );
    runtime.start(0);
    for (let i = 0; i < LIMITS.requestsRunning; i++) runtime.receive(1, 'd1', envelope(10 + i, ask('')));
    const [over] = sends(runtime.receive(1, 'd1', envelope(9999, ask(''))));
    assert.match(over!.envelope.refused, /requests at once/);
    const [other] = sends(runtime.receive(1, 'd2', envelope(1, ask(''))));
    assert.equal(other?.envelope.refused, '');
  });

  test('the answers kept for one peer are limited', () => {
    let done = 0;
    const runtime = runtimeWith(() => tell(String(++done)));
    runtime.start(0);
    for (let id = 1; id <= LIMITS.answersKept + 1; id++) runtime.receive(1, 'd1', envelope(id, ask('')));
    runtime.receive(2, 'd1', envelope(LIMITS.answersKept + 1, ask('')));
    assert.equal(done, LIMITS.answersKept + 1);
  });
});

describe('requests that are sent', () => {
  test('a request without an answer is sent again with the same id until its deadline, then it is indefinite', () => {
    const { runtime, first, outcome } = running(() => call('xen', ask(''), 'inspectReply', { deadlineNs: 10e9 }));
    const ids = sends(first).map((s) => s.envelope.id);
    let now = 0;
    let effects = first;
    for (let guard = 0; guard < 100 && outcome.error === undefined; guard++) {
      const wake = effects.find((e) => e.do === 'wake');
      if (wake?.do !== 'wake') break;
      now = wake.at;
      effects = runtime.wake(now);
      ids.push(...sends(effects).map((s) => s.envelope.id));
    }
    assert.instanceOf(outcome.error, Indefinite);
    assert.equal(now, 10e9);
    assert.isAbove(ids.length, 2);
    assert.equal(new Set(ids).size, 1);
  });

  test('a peer that says that it listens now is asked again at once, with the same id', () => {
    const { runtime, first } = running(() => call('xen', ask(''), 'inspectReply'));
    const again = sends(runtime.receive(5, 'xen', envelope(1, body('hello', {}))));
    assert.deepEqual(
      again.map((s) => [s.to, s.envelope.id]),
      [['xen', sends(first)[0]!.envelope.id]],
    );
    assert.deepEqual(sends(runtime.receive(6, 'd1', envelope(1, body('hello', {})))), []);
  });

  test('an answer from somebody who was not asked is dropped', () => {
    const { runtime, first, outcome } = running(() => call('xen', ask(''), 'inspectReply'));
    const { id } = sends(first)[0]!.envelope;
    runtime.receive(1, 'd2', envelope(1, tell('forged'), { inReplyTo: id }));
    assert.isUndefined(outcome.value);
    runtime.receive(2, 'xen', envelope(1, tell('true'), { inReplyTo: id }));
    assert.deepEqual(outcome.value, { json: 'true', error: '' });
  });

  test('a refusal is thrown as Refused with its text', () => {
    const { runtime, first, outcome } = running(() => call('xen', ask(''), 'inspectReply'));
    runtime.receive(1, 'xen', envelope(1, undefined, { inReplyTo: sends(first)[0]!.envelope.id, refused: 'no' }));
    assert.instanceOf(outcome.error, Refused);
    assert.equal(outcome.error?.message, 'no');
  });

  test('calls to a peer that is gone fail at once', () => {
    const { runtime, outcome } = running(() => call('d7', ask(''), 'inspectReply'));
    runtime.forget('d7');
    assert.instanceOf(outcome.error, Indefinite);
  });

  test('a restarted service does not use an id again', () => {
    const early = new Runtime({ idBase: 1000 });
    const late = new Runtime({ idBase: 2000 });
    const ids = [early, late].map((runtime) => {
      runtime.attach({
        onRequest: () => undefined,
        inspect: () => ({}),
        *boot() {
          yield* call('xen', ask(''), 'inspectReply');
        },
      });
      return sends(runtime.start(0))[0]!.envelope.id;
    });
    assert.deepEqual(ids, [1001, 2001]);
  });
});

describe('operations', () => {
  test('a lock is given in the order it was asked for, and freed when the holder throws', () => {
    const lock = new Lock('domctl');
    const order: string[] = [];
    const runtime = runtimeWith(() => undefined);
    runtime.start(0);
    const user = (name: string, fails: boolean): Op<void> =>
      withLock(lock, function* () {
        yield* sleep(10);
        order.push(name);
        if (fails) throw new Refused(name);
      });
    runtime.spawn('a', user('a', true), undefined, () => order.push('a failed'));
    runtime.spawn('b', user('b', false));
    runtime.spawn('c', user('c', false));
    for (let now = 10; now <= 40; now += 10) runtime.wake(now);
    assert.deepEqual(order, ['a', 'a failed', 'b', 'c']);
    assert.isFalse(lock.held);
  });

  test('undo runs backwards, goes on after a failure, and tells of it', () => {
    const order: string[] = [];
    const failures: string[] = [];
    const { runtime, outcome } = running(function* () {
      const undo = new Undo();
      for (const name of ['first', 'second', 'third']) {
        undo.push(name, function* () {
          order.push(name);
          if (name === 'second') throw new Error('cannot');
          yield* sleep(0);
        });
      }
      yield* undo.run((name) => failures.push(name));
    });
    for (let i = 0; i < 4; i++) runtime.wake(0);
    assert.isUndefined(outcome.error);
    assert.deepEqual(order, ['third', 'second', 'first']);
    assert.deepEqual(failures, ['second']);
  });

  test('a wait that runs out throws TimedOut, and a later signal does no harm', () => {
    const signal = new Signal<void>();
    const { runtime, outcome } = running(() => wait(signal, 50));
    runtime.wake(50);
    assert.instanceOf(outcome.error, TimedOut);
    signal.fire();
  });

  test('a mailbox keeps what came before anybody took it', () => {
    const box = new Mailbox<number>();
    box.put(1);
    box.put(2);
    const { outcome } = running(function* () {
      return [yield* box.take(1), yield* box.take(1)];
    });
    assert.deepEqual(outcome.value, [1, 2]);
  });
});
