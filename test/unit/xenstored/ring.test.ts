/** The daemon's side of a store ring, with guests whose every byte and index is a test's. */
import fc from 'fast-check';
import { assert, describe, test } from 'vitest';
import { XENSTORE_ERROR, XENSTORE_RING_SIZE, XS_RING_WORD } from '#shared/abi/xs-ring.ts';
import { packPacket, packStrings, textOf, XS, type XsPacket, xsTypeName } from '#shared/abi/xs-wire.ts';
import { StoreWithClients } from '#tools/sim/xenstore.ts';
import { joined, packetOf, RingWorld, writePacket } from '../../support/ring-world.ts';

const SEED = 20;

/** A guest 1 with a bare ring and a guest 2 that is well behaved. */
function host(): { on: RingWorld; page: ReturnType<RingWorld['bareGuest']> } {
  const on = new RingWorld();
  const page = on.bareGuest(1);
  on.bareGuest(2);
  return { on, page };
}

const answersOther = (on: RingWorld): boolean =>
  on.converse(2, packetOf(XS.GET_DOMAIN_PATH, '2')).join() === 'GET_DOMAIN_PATH /local/domain/2';

const inspected = (on: RingWorld): Record<string, { state: string }> =>
  (on.service.inspect() as { rings: Record<string, { state: string }> }).rings;

describe('INTRODUCE', () => {
  test('maps the page, binds the port, says what the server can and that it is connected, and notifies', () => {
    const { on, page } = host();
    assert.deepInclude(page.words, { server_features: 0b1110, connection: 0, error: 0 });
    assert.deepEqual(on.asked.slice(0, 2), ['map 1', 'bind 1 1']);
    assert.isAtLeast(on.notified.get(1)!, 1);
  });

  test('of a domain whose page names a port binds that one', () => {
    const { on, page } = host();
    page.set('evtchn_port', 9);
    on.introduce(1);
    assert.include(on.asked, 'bind 1 9');
    assert.equal(page.words.evtchn_port, 9);
  });

  test('once more empties the rings, forgets watches and half a message, and clears the error', () => {
    const { on, page } = host();
    assert.deepEqual(on.converse(1, packetOf(XS.WATCH, 'x', 't')), ['WATCH OK', 'WATCH_EVENT x t']);
    on.converse(1, packetOf(XS.READ, 'x').subarray(0, 10));
    page.set('req_prod', 5000);
    on.event(1);
    on.pass(5e6);
    assert.equal(page.words.error, XENSTORE_ERROR.RINGIDX);
    on.introduce(1);
    assert.deepInclude(page.words, { req_cons: 0, req_prod: 0, rsp_cons: 0, rsp_prod: 0, error: 0, connection: 0 });
    assert.deepEqual(on.converse(1, writePacket('x', 'new')), ['WRITE OK']);
  });

  test('of a domain whose page cannot be mapped leaves it its connection over the bus', () => {
    const on = new RingWorld();
    on.refuse = (what) => what === 'map';
    on.bareGuest(1);
    assert.equal(inspected(on)['1']!.state, 'broken');
    assert.isTrue(on.run(0, on.dom0.store.isIntroduced(1)));
  });
});

test('a domain that never uses its ring has no connection there', () => {
  const { on } = host();
  const connections = (): unknown[] => (on.service.inspect() as { connections: unknown[] }).connections;
  assert.lengthOf(connections(), 3);
  on.converse(1, packetOf(XS.READ, 'x'));
  assert.lengthOf(connections(), 4);
});

test('RELEASE unmaps the page', () => {
  const { on } = host();
  on.converse(1, packetOf(XS.WATCH, 'x', 't'));
  on.run(0, on.dom0.store.release(1));
  on.pass(5e6);
  assert.equal(on.asked.at(-1), 'unmap 1');
  assert.hasAllKeys(inspected(on), ['2']);
});

test('a request in pieces around the end of the ring, at indices around 2^32, is one request', () => {
  const { on, page } = host();
  for (const word of ['req_cons', 'req_prod', 'rsp_cons', 'rsp_prod'] as const) page.set(word, 2 ** 32 - 5);
  const bytes = joined(writePacket('name', 'value'), packetOf(XS.READ, 'name'));
  assert.deepEqual(on.converse(1, bytes, [3, 1, 14, 2]), ['WRITE OK', 'READ value']);
  assert.equal(page.words.req_prod, bytes.length - 5);
  assert.equal(page.words.req_cons, page.words.req_prod);
});

test('a reply longer than the ring comes as it is read, and nobody else waits for it', () => {
  const { on, page } = host();
  const value = 'v'.repeat(3000);
  on.run(0, on.dom0.store.write('/local/domain/1/long', value));
  page.put(packetOf(XS.READ, 'long'));
  on.event(1);
  on.pass(5e6);
  assert.equal(page.words.rsp_prod - page.words.rsp_cons, XENSTORE_RING_SIZE);
  assert.isTrue(answersOther(on));
  assert.lengthOf(page.take(), 0);
  assert.deepEqual(on.converse(1, new Uint8Array(0)), [`READ ${value}`]);
});

/** Runs `act` once, right before the daemon stores what it has to say. */
function beforeStore(on: RingWorld, act: () => void): void {
  let accesses = 0;
  on.beforeAccess = () => {
    if (++accesses === 2) act();
  };
}

test('a request that comes while others are taken, without an event, is taken as well', () => {
  const { on, page } = host();
  page.put(writePacket('a', '1'));
  beforeStore(on, () => page.put(writePacket('b', '2')));
  on.event(1);
  on.pass(5e6);
  assert.lengthOf(page.take(), 2);
});

test('room that is made while a reply is stored, without an event, is used as well', () => {
  const { on, page } = host();
  on.run(0, on.dom0.store.write('/local/domain/1/long', 'v'.repeat(3000)));
  page.put(packetOf(XS.READ, 'long'));
  on.event(1);
  on.pass(5e6);
  page.take(500);
  beforeStore(on, () => page.take(300));
  on.event(1);
  on.pass(5e6);
  assert.equal(page.words.rsp_prod, XENSTORE_RING_SIZE + 800);
});

test('a guest that reads nothing is not read for ever either, and goes on where it was when it reads', () => {
  const { on, page } = host();
  const requests = 400;
  const bytes = joined(...Array.from({ length: requests }, (_, i) => writePacket('n', `${i}`)));
  let at = 0;
  for (let turn = 0; turn < 40; turn++) {
    at += page.put(bytes.subarray(at));
    on.event(1);
    on.pass(5e6);
  }
  assert.isBelow(at, bytes.length);
  assert.isTrue(answersOther(on));
  assert.lengthOf(on.converse(1, bytes.subarray(at)), requests);
});

test('an event of another is in the ring without any request', () => {
  const { on, page } = host();
  on.converse(1, packetOf(XS.WATCH, 'state', 'token'));
  const before = on.notified.get(1)!;
  on.run(0, on.dom0.store.write('/local/domain/1/state', '4'));
  on.pass(5e6);
  assert.isAbove(on.notified.get(1)!, before);
  assert.deepEqual(
    page.take().map((p) => textOf(p.payload)),
    ['state\0token\0'],
  );
});

describe('what is not the protocol', () => {
  test.each([
    ['more requests than the ring holds', { req_prod: XENSTORE_RING_SIZE + 1 }],
    ['requests that end before they begin', { req_cons: 1 }],
    ['responses read that were never written', { rsp_cons: 1 }],
    ['more responses than the ring holds', { rsp_prod: 2 ** 31 }],
  ])('%s: error 2, and the ring is dead', (_what, words) => {
    const { on, page } = host();
    on.converse(1, packetOf(XS.WATCH, 'x', 't'));
    for (const word of ['req_cons', 'req_prod', 'rsp_cons', 'rsp_prod'] as const) page.set(word, 0);
    for (const [word, value] of Object.entries(words)) page.set(word as keyof typeof XS_RING_WORD, value);
    on.event(1);
    on.pass(5e6);
    assert.equal(page.words.error, XENSTORE_ERROR.RINGIDX);
    assert.isTrue(answersOther(on));
    const connections = (on.service.inspect() as { connections: { domid: number; watches: number }[] }).connections;
    assert.deepEqual(
      connections.filter((c) => c.domid === 1).map((c) => c.watches),
      [0],
    );
    // Good indices do not bring it back.
    for (const word of ['req_cons', 'req_prod', 'rsp_cons', 'rsp_prod'] as const) page.set(word, 0);
    assert.deepEqual(on.converse(1, packetOf(XS.READ, 'x')), []);
  });

  test('exactly a full ring is good', () => {
    const { on } = host();
    const big = writePacket('p', 'x'.repeat(XENSTORE_RING_SIZE - 18));
    assert.lengthOf(big, XENSTORE_RING_SIZE);
    assert.deepEqual(on.converse(1, big), ['WRITE OK']);
  });

  test('a header that announces more than 4096 bytes: error 3', () => {
    const { on, page } = host();
    const header = packPacket(XS.READ, 1, 0, packStrings('x'));
    new DataView(header.buffer).setUint32(12, 4097, true);
    on.converse(1, header.subarray(0, 15));
    assert.equal(page.words.error, XENSTORE_ERROR.NONE);
    on.converse(1, header.subarray(15));
    assert.equal(page.words.error, XENSTORE_ERROR.PROTO);
    assert.isTrue(answersOther(on));
  });

  test('a guest that leaves its events unread for 20 s: error 1', () => {
    const { on, page } = host();
    on.converse(1, packetOf(XS.WATCH, 'x', 't'));
    const write = (i: number) => on.dom0.store.write(`/local/domain/1/x/${i}${'y'.repeat(200)}`, '');
    for (let i = 0; i < 30; i++) on.run(0, write(i));
    on.pass(19e9);
    assert.equal(page.words.error, XENSTORE_ERROR.NONE);
    on.pass(2e9);
    assert.equal(page.words.error, XENSTORE_ERROR.COMM);
    assert.isTrue(answersOther(on));
  });
});

/** A request of a guest that writes, lists, watches and misspells. */
const request = fc
  .oneof(
    fc.tuple(fc.constantFrom('a', 'a/b', 'c'), fc.string({ maxLength: 1500, size: 'max' })).map(([path, value]) => ({
      type: XS.WRITE as number,
      text: `${path}\0${[...value].map((c) => String.fromCharCode(c.charCodeAt(0) & 0xff)).join('')}`,
    })),
    fc
      .tuple(
        fc.constantFrom(XS.READ, XS.DIRECTORY, XS.MKDIR, XS.RM, XS.GET_PERMS),
        fc.constantFrom('a', 'a/b', 'c', '//'),
      )
      .map(([type, path]) => ({ type: type as number, text: `${path}\0` })),
    fc.constantFrom('a', 'c').map((path) => ({ type: XS.WATCH as number, text: `${path}\0token\0` })),
    fc.nat({ max: 70_000 }).map((type) => ({ type: type === XS.INTRODUCE ? 99 : type, text: '' })),
  )
  .map(({ type, text }) =>
    packPacket(
      type,
      7,
      0,
      Uint8Array.from(text, (c) => c.charCodeAt(0)),
    ),
  );

const text = ({ type, payload }: XsPacket): string => `${xsTypeName(type)} ${textOf(payload)}`;

test('whatever the pieces and wherever the indices start, a guest gets what a client of a socket gets', () => {
  const index = fc.oneof(
    fc.nat({ max: 4096 }),
    fc.nat({ max: 4096 }).map((n) => 2 ** 32 - 1 - n),
  );
  const property = fc.property(
    fc.array(request, { minLength: 1, maxLength: 12 }),
    fc.array(fc.integer({ min: 1, max: 1200 }), { maxLength: 30 }),
    fc.array(fc.integer({ min: 1, max: 1024 }), { minLength: 1, maxLength: 8 }),
    index,
    index,
    (requests, puts, takes, reqStart, rspStart) => {
      const socket = new StoreWithClients();
      const dom0 = socket.connect(0);
      for (const [type, ...strings] of [
        [XS.INTRODUCE, '1', '1', '1'],
        [XS.MKDIR, '/local/domain/1'],
        [XS.SET_PERMS, '/local/domain/1', 'n1'],
      ] as const)
        socket.send(dom0, type, packStrings(...strings));
      const client = socket.connect(1);
      const expected: string[] = [];
      for (const packet of requests) {
        const view = new DataView(packet.buffer);
        socket.send(client, view.getUint32(0, true), packet.subarray(16));
        expected.push(...client.take().map((p) => text(p)));
      }
      const on = new RingWorld();
      const page = on.bareGuest(1);
      page.set('req_cons', reqStart);
      page.set('req_prod', reqStart);
      page.set('rsp_cons', rspStart);
      page.set('rsp_prod', rspStart);
      const heard: string[] = [];
      const bytes = joined(...requests);
      let at = 0;
      for (let turn = 0, idle = 0; idle < 3; turn++) {
        const put = page.put(bytes.subarray(at, at + (puts[turn] ?? bytes.length)));
        at += put;
        on.event(1);
        on.pass(3e6);
        const before = page.words.rsp_cons;
        heard.push(...page.take(takes[turn % takes.length]).map((p) => text(p)));
        idle = put === 0 && page.words.rsp_cons === before ? idle + 1 : 0;
      }
      assert.equal(at, bytes.length);
      // A watch may fire before or after the replies of requests that came with its own in one piece: events merge.
      const replies = (lines: string[]): string[] => lines.filter((line) => !line.startsWith('WATCH_EVENT'));
      const events = (lines: string[]): string[] => lines.filter((line) => line.startsWith('WATCH_EVENT'));
      assert.deepEqual(replies(heard), replies(expected));
      assert.deepEqual(new Set(events(heard)), new Set(events(expected)));
      assert.equal(page.words.error, XENSTORE_ERROR.NONE);
    },
  );
  fc.assert(property, { seed: SEED, numRuns: 60 });
});

test('a guest that rewrites its page between any two looks harms nobody but itself', () => {
  const change = fc.record({
    word: fc.constantFrom(...(Object.keys(XS_RING_WORD) as (keyof typeof XS_RING_WORD)[])),
    value: fc.oneof(fc.nat({ max: 1100 }), fc.nat({ max: 0xffff_ffff })),
    noise: fc.uint8Array({ minLength: 0, maxLength: 64 }),
    at: fc.nat({ max: 4000 }),
    delta: fc.boolean(),
  });
  const property = fc.property(
    fc.array(change, { minLength: 1, maxLength: 60 }),
    fc.nat({ max: 1000 }),
    (changes, seed) => {
      const on = new RingWorld(seed);
      const page = on.bareGuest(1);
      on.bareGuest(2);
      let next = 0;
      let quiet = false;
      on.beforeAccess = () => {
        const now = quiet ? undefined : changes[next++];
        if (now === undefined) return;
        const { word, value, noise, at, delta } = now;
        page.bytes.set(noise, at);
        page.set(word, delta ? page.words[word] + (value % 40) : value);
      };
      while (next < changes.length && page.words.error === XENSTORE_ERROR.NONE) {
        const before = next;
        page.put(packetOf(XS.READ, 'x'));
        on.event(1);
        on.pass(2e6);
        assert.isTrue(answersOther(on));
        if (next === before) break;
      }
      quiet = true;
      assert.deepEqual(on.strays, []);
      assert.isTrue(answersOther(on));
      on.introduce(1);
      page.take();
      for (const word of ['rsp_cons', 'rsp_prod'] as const) page.set(word, 0);
      assert.deepInclude(page.words, { error: XENSTORE_ERROR.NONE, connection: 0 });
      assert.equal(inspected(on)['1']!.state, 'open');
    },
  );
  fc.assert(property, { seed: SEED, numRuns: 60 });
});
