import { assert, describe, test } from 'vitest';
import { bytesOf, packPacket, packStrings, parsePacket, textOf, XS } from '#shared/abi/xs-wire.ts';
import { type Body, body, type Effect, type Peer } from '#shared/core/core.ts';
import { NO_CHILDREN } from '../../../services/xenstored/children.ts';
import { createXenstored, type XenstoredService } from '../../../services/xenstored/core.ts';
import { crc32c, decodeRecord, encodeRecord, nodeWhole } from '../../../services/xenstored/journal-format.ts';
import { Replay } from '../../../services/xenstored/recovery.ts';
import { Store } from '../../../services/xenstored/store.ts';

/** A store with a journal in memory; a write is on the medium when the test says so. */
class Bench {
  service: XenstoredService;
  journal: Uint8Array;
  /** Packets that reached a peer, in order. */
  readonly heard: { to: Peer; text: string }[] = [];
  readonly restarted: Peer[] = [];
  writes = 0;
  #runtime: ReturnType<typeof createXenstored>['runtime'];
  #next: Uint8Array = new Uint8Array(0);
  #waiting: { id: number; message: Extract<Body, { $case: 'journalAppendRequest' }> } | undefined;
  #wake = false;
  #id: number;

  constructor(journal: Uint8Array = new Uint8Array(0), firstId = 1) {
    this.journal = journal;
    this.#id = firstId;
    const { runtime, service } = createXenstored({ idBase: firstId, durable: true });
    this.#runtime = runtime;
    this.service = service;
    this.#carryOut(runtime.start(0));
  }

  /** The id under which it was asked. */
  ask(who: Peer, type: number, payload: Uint8Array, again?: number): number {
    return this.send(who, body('xenstoreRequest', { packet: packPacket(type, 1, 0, payload) }), again);
  }

  send(who: Peer, message: Body, again?: number): number {
    const id = again ?? this.#id++;
    const envelope = { id, inReplyTo: 0, oldestPending: 0, refused: '', body: message };
    this.#carryOut(this.#runtime.receive(0, who, envelope));
    return id;
  }

  write(path: string, value: string): number {
    return this.ask('d0', XS.WRITE, bytesOf(`${path}\0${value}`));
  }

  read(path: string, who: Peer = 'd0'): number {
    return this.ask(who, XS.READ, packStrings(path));
  }

  /** The write that is under way is on the medium. False when none is. */
  sync(): boolean {
    const waiting = this.#waiting;
    if (waiting === undefined) return false;
    this.#waiting = undefined;
    const { data, offset, nextData, nextOffset, promote } = waiting.message.value;
    if (data.length > 0) this.journal = put(this.journal, offset, data);
    if (nextData.length > 0) this.#next = put(this.#next, nextOffset, nextData);
    if (promote) this.journal = this.#next;
    this.writes++;
    this.#answer(waiting.id, body('journalAppendReply', {}));
    return true;
  }

  syncAll(): void {
    while (this.sync());
  }

  /** Bytes of the write that is under way. */
  get underWay(): Uint8Array {
    return this.#waiting?.message.value.data ?? new Uint8Array(0);
  }

  texts(): string[] {
    return this.heard.splice(0).map(({ text }) => text);
  }

  tree(): string[] {
    return treeOf(this.service.daemon.store);
  }

  #answer(inReplyTo: number, answer: Body): void {
    const envelope = { id: this.#id++, inReplyTo, oldestPending: 0, refused: '', body: answer };
    this.#carryOut(this.#runtime.receive(0, 'disk', envelope));
  }

  #carryOut(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.do === 'wake' && effect.at === 0) this.#wake = true;
      if (effect.do !== 'send') continue;
      const { to, envelope } = effect;
      const message = envelope.body;
      if (message?.$case === 'journalLoadRequest') {
        const data = this.journal.slice(message.value.offset, message.value.offset + 1000);
        const last = message.value.offset + data.length >= this.journal.length;
        this.#answer(envelope.id, body('journalLoadReply', { data, last }));
      } else if (message?.$case === 'journalAppendRequest') this.#waiting = { id: envelope.id, message };
      else if (message?.$case === 'xenstoreReply') this.heard.push({ to, text: textIn(message.value.packet) });
      else if (message?.$case === 'domainExcReply') this.heard.push({ to, text: message.$case });
      else if (message?.$case === 'xenstoreRestarted') this.restarted.push(to);
      else if (message?.$case === 'xenstoreWatchEvent') {
        this.heard.push({ to, text: `event ${textIn(message.value.packet)}` });
        const ack = { id: this.#id++, inReplyTo: envelope.id, oldestPending: 0, refused: '' };
        this.#carryOut(this.#runtime.receive(0, to, { ...ack, body: body('xenstoreWatchEventReply', {}) }));
      }
    }
    if (!this.#wake) return;
    this.#wake = false;
    this.#carryOut(this.#runtime.wake(0));
  }
}

function textIn(packet: Uint8Array): string {
  return textOf(parsePacket(packet).payload).replace(/\0$/, '').replaceAll('\0', ' ');
}

function put(bytes: Uint8Array, offset: number, data: Uint8Array): Uint8Array {
  const all = new Uint8Array(offset + data.length);
  all.set(bytes.subarray(0, offset));
  all.set(data, offset);
  return all;
}

function treeOf(store: Store): string[] {
  return [...store.entries()]
    .map(([path, { value, perms, children, generation }]) =>
      JSON.stringify([path, [...value], perms, [...children], generation]),
    )
    .sort();
}

describe('what is shown', () => {
  test('a write is acknowledged, and its event sent, when it is on the medium and not before', () => {
    const bench = new Bench();
    bench.ask('d0', XS.WATCH, packStrings('/a', 't'));
    assert.deepEqual(bench.texts(), ['OK', 'event /a t']);
    bench.write('/a/b', '1');
    assert.deepEqual(bench.texts(), []);
    bench.syncAll();
    assert.deepEqual(bench.texts().sort(), ['OK', 'event /a/b t']);
  });

  test('a read of what is not on the medium yet waits for it; one of what is there does not', () => {
    const bench = new Bench();
    bench.ask('d0', XS.INTRODUCE, packStrings('1', '1', '1'));
    bench.write('/old', 'o');
    bench.ask('d0', XS.SET_PERMS, packStrings('/old', 'b0'));
    bench.syncAll();
    bench.texts();
    bench.write('/new', 'n');
    bench.read('/new');
    assert.deepEqual(bench.texts(), []);
    bench.read('/old', 'd1');
    assert.deepEqual(bench.texts(), ['o'], 'another client is not held up');
    bench.read('/old');
    assert.deepEqual(bench.texts(), [], 'the same client hears in order');
    bench.syncAll();
    assert.deepEqual(bench.texts(), ['OK', 'n', 'o']);
  });

  test('that a node is absent is told when its removal is on the medium', () => {
    const bench = new Bench();
    bench.write('/a/b/c', '1');
    bench.syncAll();
    bench.texts();
    bench.ask('d0', XS.RM, packStrings('/a/b'));
    bench.read('/a/b/c');
    assert.deepEqual(bench.texts(), []);
    bench.syncAll();
    assert.deepEqual(bench.texts(), ['OK', 'ENOENT']);
  });

  test('that a domain is introduced is told when that is on the medium', () => {
    const bench = new Bench();
    bench.syncAll();
    bench.ask('d0', XS.INTRODUCE, packStrings('4', '1', '1'));
    bench.ask('d0', XS.IS_DOMAIN_INTRODUCED, packStrings('4'));
    assert.deepEqual(bench.texts(), []);
    bench.syncAll();
    assert.deepEqual(bench.texts(), ['OK', 'T']);
  });

  test('that a domain is gone is acknowledged to Xen, which says it once, when that is on the medium', () => {
    const bench = new Bench();
    bench.ask('d0', XS.INTRODUCE, packStrings('4', '1', '1'));
    bench.syncAll();
    bench.texts();
    bench.send('xen', body('domainExcRequest', { domid: 4, gone: true }));
    assert.deepEqual(bench.texts(), []);
    bench.syncAll();
    assert.deepEqual(bench.texts(), ['domainExcReply']);
    assert.isUndefined(new Bench(bench.journal, 1000).service.daemon.domains.get(4));
  });

  test('what comes while a write is under way goes together in the next', () => {
    const bench = new Bench();
    bench.syncAll();
    const { writes } = bench;
    for (let i = 0; i < 50; i++) bench.write(`/n${i}`, 'v');
    bench.syncAll();
    assert.equal(bench.writes - writes, 2);
    assert.equal(bench.texts().length, 50);
  });
});

describe('recovery', () => {
  /** A store with nodes, permissions, limits, a removal, a transaction and two domains, all on the medium. */
  function used(): Bench {
    const bench = new Bench();
    for (const domid of [1, 2]) bench.ask('d0', XS.INTRODUCE, packStrings(`${domid}`, '1', '1'));
    bench.ask('d0', XS.SET_TARGET, packStrings('1', '2'));
    bench.ask('d0', XS.SET_QUOTA, packStrings('nodes', '77'));
    bench.ask('d0', XS.SET_QUOTA, packStrings('2', 'watches', '5'));
    for (const name of ['x', 'y', 'z', 'x/deep/er']) bench.write(`/t/${name}`, `value of ${name}`);
    bench.ask('d0', XS.SET_PERMS, packStrings('/t/y', 'n1', 'r2', 'b3'));
    bench.ask('d0', XS.RM, packStrings('/t/x'));
    bench.write('/t/x', Array.from({ length: 256 }, (_, i) => String.fromCharCode(i)).join(''));
    bench.syncAll();
    return bench;
  }

  test('all is there again: nodes, permissions, the order of children, generations, domains and limits', () => {
    const before = used();
    const after = new Bench(before.journal, 1000);
    assert.deepEqual(after.tree(), before.tree());
    assert.deepEqual([...after.service.daemon.store.get('/t')!.children], ['y', 'z', 'x']);
    assert.deepEqual(after.service.daemon.store.check(), []);
    const { domains, store } = after.service.daemon;
    assert.deepEqual(
      [1, 2, 3].map((domid) => domains.get(domid)?.introduced ?? false),
      [true, true, false],
    );
    assert.equal(domains.get(1)?.targetDomid, 2);
    assert.equal(domains.limits.nodes, 77);
    assert.equal(domains.get(2)?.limits.watches, 5);
    assert.equal(store.owned(1), 1);
    assert.deepEqual(after.restarted, ['d0', 'd1', 'd2']);
  });

  test('a domain that was released stays so, and what named it does too', () => {
    const before = used();
    before.ask('d0', XS.RELEASE, packStrings('1'));
    before.syncAll();
    const after = new Bench(before.journal, 1000);
    assert.deepEqual(after.tree(), before.tree());
    assert.isUndefined(after.service.daemon.store.get('/t/y'));
    assert.deepEqual(after.restarted, ['d0', 'd2']);
  });

  test('a write cut off after any number of bytes leaves what was before, and what follows takes its place', () => {
    const bench = used();
    const before = bench.tree();
    bench.write('/t/torn', 'a value of some length');
    const { journal } = bench;
    const torn = bench.underWay;
    bench.syncAll();
    const whole = bench.tree();
    for (let bytes = 0; bytes <= torn.length; bytes++) {
      const after = new Bench(put(journal, journal.length, torn.subarray(0, bytes)), 1000);
      assert.deepEqual(after.tree(), bytes < torn.length ? before : whole, `${bytes} bytes`);
      after.write('/t/next', '1');
      after.syncAll();
      assert.deepEqual(new Bench(after.journal, 2000).tree(), after.tree());
    }
  });

  test('one wrong bit ends the journal there', () => {
    const bench = used();
    const before = bench.tree();
    const { length } = bench.journal;
    bench.write('/t/wrong', 'a value');
    bench.syncAll();
    for (let at = length; at < bench.journal.length; at++) {
      const journal = bench.journal.slice();
      journal[at]! ^= 1 << (at % 8);
      assert.deepEqual(new Bench(journal, 1000).tree(), before);
    }
  });

  test('a journal whose start cannot be read stops the daemon', () => {
    const { journal } = used();
    journal[20]! ^= 1;
    assert.throws(() => new Bench(journal, 1000), /no readable start/);
  });

  test('a request that was done but not answered is answered, not done again', () => {
    const bench = used();
    const id = bench.ask('d0', XS.WRITE, bytesOf('/t/once\x001'));
    bench.syncAll();
    bench.write('/t/once', '2');
    bench.syncAll();
    const after = new Bench(bench.journal, 100_000);
    after.ask('d0', XS.WRITE, bytesOf('/t/once\x001'), id);
    after.syncAll();
    assert.deepEqual(after.texts(), ['OK']);
    assert.equal(textOf(after.service.daemon.store.get('/t/once')!.value), '2');
  });

  test('a log that has grown is replaced by a snapshot, under writes, and recovers to the same', () => {
    const bench = new Bench();
    for (let i = 0; i < 12_000; i++) {
      bench.write(`/dir${i % 7}/n${i % 300}`, `${i}`.repeat(60));
      if (i % 11 === 0) bench.ask('d0', XS.RM, packStrings(`/dir${i % 7}/n${(i * 13) % 300}`));
      if (i % 40 === 0) bench.sync();
    }
    bench.syncAll();
    const { journal } = bench.service.inspect() as { journal: { snapshots: number; bytesWritten: number } };
    const { snapshots, bytesWritten } = journal;
    assert.isAbove(snapshots, 1, 'the first and another');
    // Without snapshots the journal would be as long as all that was written.
    assert.isBelow(bench.journal.length, bytesWritten / 2);
    const after = new Bench(bench.journal, 1_000_000);
    assert.deepEqual(after.tree(), bench.tree());
    assert.deepEqual(after.service.daemon.store.check(), []);
  });

  test('100,000 nodes are read back in less than 2 s', () => {
    const store = new Store();
    const perms = [{ domid: 0, read: false, write: false }];
    const value = new Uint8Array(32);
    let top = NO_CHILDREN;
    for (let d = 0; d < 1000; d++) {
      let names = NO_CHILDREN;
      for (let i = 0; i < 100; i++) {
        store.put(`/b/${d}/${i}`, { value, perms, children: NO_CHILDREN });
        names = names.with(`${i}`);
      }
      store.put(`/b/${d}`, { value, perms, children: names });
      top = top.with(`${d}`);
    }
    store.put('/b', { value, perms, children: top });
    store.put('/', { ...store.get('/')!, children: store.get('/')!.children.with('b') });
    const nodes = [...store.entries()].map(([path, node]) => nodeWhole(path, node));
    const bytes = encodeRecord({
      position: store.generation,
      fresh: true,
      nodes,
      domains: [],
      answers: [],
      limits: [],
    });
    const again = new Store();
    const started = performance.now();
    assert.equal(new Replay(again).feed(bytes).length, 0);
    const ms = performance.now() - started;
    assert.equal(again.size, store.size);
    assert.deepEqual(again.check(), []);
    assert.isBelow(ms, 2000);
  });
});

describe('records', () => {
  test('the checksum is CRC-32C', () => {
    // RFC 3720, B.4, and the check value of the catalogue.
    assert.equal(crc32c(bytesOf('123456789'), 0, 9), 0xe306_9283);
    assert.equal(crc32c(new Uint8Array(32), 0, 32), 0x8a91_36aa);
    assert.equal(crc32c(new Uint8Array(32).fill(0xff), 0, 32), 0x62a8_ab43);
  });

  test('a record of an earlier position than the one before is none, and neither are zeros', () => {
    const record = {
      position: 2 ** 40 + 7,
      fresh: false,
      nodes: [['/x']],
      domains: [],
      answers: [],
      limits: [],
    } as const;
    const bytes = encodeRecord(record);
    assert.deepEqual(decodeRecord(bytes, 0, 2 ** 40 + 7)?.record, record as never);
    assert.isUndefined(decodeRecord(bytes, 0, 2 ** 40 + 8));
    assert.isUndefined(decodeRecord(new Uint8Array(64), 0, -1));
  });
});
