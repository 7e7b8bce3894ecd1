import { assert, describe, test } from 'vitest';
import type { Envelope } from '#gen/bus.ts';
import { type Body, body, type Core, type Effect, type Nanos, type Peer } from '#shared/core/core.ts';
import { Stuck, World } from '#shared/sim/world.ts';

/** Keeps what it hears, and sends what it is told to at the start. */
class Ear implements Core {
  readonly heard: { at: Nanos; from: Peer; path: string }[] = [];
  readonly #first: readonly Effect[];

  constructor(first: readonly Effect[] = []) {
    this.#first = first;
  }

  start(): readonly Effect[] {
    return this.#first;
  }

  receive(at: Nanos, from: Peer, envelope: Envelope): readonly Effect[] {
    const message = envelope.body;
    this.heard.push({
      at,
      from,
      path: message?.$case === 'inspectRequest' ? message.value.path : (message?.$case ?? ''),
    });
    return [];
  }

  wake(at: Nanos): readonly Effect[] {
    this.heard.push({ at, from: 'operator', path: 'wake' });
    return [];
  }

  inspect(): unknown {
    return {};
  }
}

function send(to: Peer, id: number, message: Body): Effect {
  return { do: 'send', to, envelope: { id, inReplyTo: 0, oldestPending: 0, refused: '', body: message } };
}

const ask = (path: string): Body => body('inspectRequest', { path });

function spoken(seed: number): { ear: Ear; world: World } {
  const world = new World({ seed, lateOdds: 0.3 });
  const ear = new Ear();
  world.add('xen', ear);
  const talk = Array.from({ length: 50 }, (_, i) => [
    send('xen', 2 * i, ask(`i${i}`)),
    send('xen', 2 * i + 1, body('listDomainsRequest', {})),
  ]);
  world.add('d1', new Ear(talk.flat()));
  world.run(() => ear.heard.length === 100, 1e9);
  return { ear, world };
}

describe('the order of messages', () => {
  test('on one subject it is kept', () => {
    const { ear } = spoken(3);
    const asked = ear.heard.filter((h) => h.path.startsWith('i')).map((h) => h.path);
    assert.deepEqual(
      asked,
      Array.from({ length: 50 }, (_, i) => `i${i}`),
    );
  });

  test('between two subjects it is not', () => {
    const { ear } = spoken(3);
    const kinds = ear.heard.map((h) => (h.path.startsWith('i') ? 'i' : 'l')).join('');
    assert.notEqual(kinds, 'il'.repeat(50));
  });
});

describe('a seed', () => {
  test('gives the same times and the same trace hash every time', () => {
    const [a, b] = [spoken(5), spoken(5)];
    assert.deepEqual(a.ear.heard, b.ear.heard);
    assert.equal(a.world.traceHash, b.world.traceHash);
  });

  test('gives others than another seed', () => {
    assert.notEqual(spoken(5).world.traceHash, spoken(6).world.traceHash);
  });
});

test('the trace hash covers what a message says', () => {
  const hashOf = (path: string): string => {
    const world = new World({ seed: 1 });
    const ear = new Ear();
    world.add('xen', ear);
    world.add('d1', new Ear([send('xen', 1, ask(path))]));
    world.run(() => ear.heard.length === 1, 1e9);
    return world.traceHash;
  };
  assert.notEqual(hashOf('a'), hashOf('b'));
});

describe('waiting for what does not come', () => {
  test('ends when nothing is left to happen', () => {
    const world = new World({ seed: 1 });
    assert.throws(() => world.run(() => false, 1e9), Stuck, /nothing is left/);
  });

  test('ends when its time is over', () => {
    const world = new World({ seed: 1 });
    world.add('xen', new Ear([{ do: 'wake', at: 5e9 }]));
    assert.throws(() => world.run(() => false, 1e9), Stuck, /within 1 s/);
  });
});

test('a peer that was removed hears nothing, and its timers are gone in its next life', () => {
  const world = new World({ seed: 1 });
  world.add('xen', new Ear([{ do: 'wake', at: 1e6 }]));
  world.remove('xen');
  const next = new Ear([{ do: 'wake', at: 2e6 }]);
  world.add('xen', next);
  world.run(() => next.heard.length > 0, 1e9);
  assert.deepEqual(next.heard, [{ at: 2e6, from: 'operator', path: 'wake' }]);
});
