/** What clients of a domain may use up and how they are slowed, with clients whose every packet is seen. */
import fc from 'fast-check';
import { assert, test } from 'vitest';
import {
  bytesOf,
  PacketReader,
  packPacket,
  packStrings,
  textOf,
  XS,
  XsProtocolError,
  xsTypeName,
} from '#shared/abi/xs-wire.ts';
import { type StoreClient, StoreWithClients } from '#tools/sim/xenstore.ts';

const SEED = 4;

class Bench extends StoreWithClients {
  readonly dom0 = this.connect(0);

  /** Sends and gives what has come since, as `READ value`. */
  say(client: StoreClient, type: number, ...strings: string[]): string[] {
    return this.raw(client, type, strings.map((s) => `${s}\0`).join(''));
  }

  raw(client: StoreClient, type: number, text: string, tx = 0): string[] {
    this.send(client, type, bytesOf(text), tx);
    return this.heard(client);
  }

  heard(client: StoreClient): string[] {
    return client
      .take()
      .map((packet) => `${xsTypeName(packet.type)} ${textOf(packet.payload).replace(/\0$/, '').replaceAll('\0', ' ')}`);
  }

  /** A client of a new domain, which owns its /local/domain/N. */
  guest(domid: number): StoreClient {
    this.say(this.dom0, XS.INTRODUCE, `${domid}`, '1', '1');
    this.say(this.dom0, XS.MKDIR, `/local/domain/${domid}`);
    this.say(this.dom0, XS.SET_PERMS, `/local/domain/${domid}`, `n${domid}`);
    return this.connect(domid);
  }
}

test('an event that a write causes goes before its reply, and the one of a new watch after it', () => {
  const bench = new Bench();
  assert.deepEqual(bench.say(bench.dom0, XS.WATCH, '/a', 't'), ['WATCH OK', 'WATCH_EVENT /a t']);
  assert.deepEqual(bench.raw(bench.dom0, XS.WRITE, '/a/b\0x'), ['WATCH_EVENT /a/b t', 'WRITE OK']);
});

test('what is created and removed in one transaction is not told', () => {
  const bench = new Bench();
  bench.say(bench.dom0, XS.WATCH, '/', 't');
  bench.raw(bench.dom0, XS.TRANSACTION_START, '\0');
  bench.raw(bench.dom0, XS.WRITE, '/gone\0', 1);
  bench.raw(bench.dom0, XS.WRITE, '/kept\0', 1);
  bench.raw(bench.dom0, XS.RM, '/gone\0', 1);
  assert.deepEqual(bench.raw(bench.dom0, XS.TRANSACTION_END, 'T\0', 1), ['WATCH_EVENT /kept t', 'TRANSACTION_END OK']);
});

test('a guest that does not read has 20 requests outstanding, and the rest waits for it to read', () => {
  const bench = new Bench();
  const guest = bench.guest(1);
  bench.listen(guest, false);
  for (let i = 0; i < 50; i++) bench.raw(guest, XS.WRITE, `n\0${i}`);
  assert.equal(guest.paused, true);
  assert.equal(bench.tree()['/local/domain/1/n']?.value, '19');
  bench.listen(guest, true);
  assert.equal(bench.heard(guest).length, 50);
  assert.equal(bench.tree()['/local/domain/1/n']?.value, '49');
  assert.equal(guest.paused, false);
});

test('a client that reads nothing stops no other, be it of dom0 or of the domain itself', () => {
  const bench = new Bench();
  const guest = bench.guest(1);
  const deaf = [bench.connect(0), bench.connect(1)];
  for (const client of deaf) {
    bench.say(client, XS.WATCH, '/local/domain/1', 't');
    bench.listen(client, false);
  }
  for (let i = 0; i < 300; i++) assert.deepEqual(bench.raw(guest, XS.WRITE, `n${i}\0`), ['WRITE OK']);
  const dom0 = deaf[0]!;
  bench.listen(dom0, true);
  assert.equal(bench.heard(dom0).length, 300);
});

test('a client that lets 16 MiB pile up is cut off, of dom0 too, and the others go on', () => {
  const bench = new Bench();
  const deaf = bench.connect(0);
  const writer = bench.connect(0);
  // An event names its path, so long paths fill it soonest; they differ, or they would be merged.
  const long = `/${'p'.repeat(2000)}`;
  bench.say(deaf, XS.WATCH, '/', 't'.repeat(1000));
  bench.listen(deaf, false);
  let written = 0;
  for (; !deaf.closed && written < 10_000; written++) {
    assert.deepEqual(bench.raw(writer, XS.WRITE, `${long}${written}\0`), ['WRITE OK']);
    bench.raw(writer, XS.RM, `${long}${written}\0`);
  }
  assert.equal(deaf.closed, true);
  assert.closeTo(written * (16 + 2000 + 1000), 16 * 1024 * 1024, 1024 * 1024);
  assert.deepEqual(bench.raw(writer, XS.WRITE, '/after\0x'), ['WRITE OK']);
});

test('a guest that writes in a rush is held to 200 writes a second while a transaction is open, and only then', () => {
  const bench = new Bench();
  const guest = bench.guest(1);
  const written = (count: number): number => {
    for (let i = 0; i < count; i++) bench.raw(guest, XS.WRITE, `r${i % 5}\0x`);
    return bench.heard(guest).length;
  };
  for (let i = 0; i < 100; i++) assert.deepEqual(bench.raw(guest, XS.WRITE, 'free\0x'), ['WRITE OK']);
  bench.raw(bench.dom0, XS.TRANSACTION_START, '\0');
  const before = bench.now;
  let replies = 0;
  for (let i = 0; i < 100; i++) replies += bench.raw(guest, XS.WRITE, `r${i % 5}\0x`).length;
  assert.equal(replies, 11); // ten, and the one that goes below zero
  assert.equal(written(0), 0);
  bench.pass(1e9 / 200 - 1);
  assert.equal(bench.heard(guest).length, 0);
  bench.pass(1e9);
  const more = bench.heard(guest).length;
  assert.closeTo(more, 89, 0);
  assert.isAtMost(more, ((bench.now - before) / 1e9) * 200 + 1);
});

test('a guest that leaves an event unread for 20 s is cut off, dom0 is not', () => {
  const bench = new Bench();
  const guest = bench.guest(1);
  bench.say(guest, XS.WATCH, 'x', 't');
  bench.say(bench.dom0, XS.WATCH, '/local/domain/1', 't');
  bench.listen(guest, false);
  bench.listen(bench.dom0, false);
  bench.raw(guest, XS.WRITE, 'x\0');
  bench.pass(19e9);
  assert.equal(guest.closed, false);
  bench.pass(2e9);
  assert.equal(guest.closed, true);
  assert.equal(bench.dom0.closed, false);
});

test('events that wait and say the same are merged', () => {
  const bench = new Bench();
  bench.say(bench.dom0, XS.WATCH, '/w', 't');
  const writer = bench.connect(0);
  bench.listen(bench.dom0, false);
  for (let i = 0; i < 5; i++) bench.raw(writer, XS.WRITE, '/w\0');
  bench.raw(writer, XS.WRITE, '/w/x\0');
  bench.raw(writer, XS.WRITE, '/w\0');
  bench.listen(bench.dom0, true);
  assert.deepEqual(bench.heard(bench.dom0), ['WATCH_EVENT /w t', 'WATCH_EVENT /w/x t']);
});

test('memory is refused at the hard quota, and the quota of a domain is its own', () => {
  const bench = new Bench();
  const one = bench.guest(1);
  const two = bench.guest(2);
  assert.deepEqual(bench.say(bench.dom0, XS.SET_QUOTA, '1', 'memory', '3000'), ['SET_QUOTA OK']);
  assert.deepEqual(bench.say(bench.dom0, XS.GET_QUOTA, '1', 'memory'), ['GET_QUOTA 3000']);
  assert.deepEqual(bench.say(bench.dom0, XS.GET_QUOTA, 'memory'), ['GET_QUOTA 2621440']);
  const fill = (client: StoreClient): string[] =>
    Array.from({ length: 6 }, (_, i) => bench.raw(client, XS.WRITE, `m${i}\0${'x'.repeat(600)}`)[0] ?? '');
  assert.deepEqual([...new Set(fill(one))], ['WRITE OK', 'ERROR ENOMEM']);
  assert.deepEqual([...new Set(fill(two))], ['WRITE OK']);
  assert.deepEqual(bench.raw(one, XS.RM, 'm0\0'), ['RM OK']);
  assert.deepEqual(bench.raw(one, XS.WRITE, `m0\0${'x'.repeat(600)}`), ['WRITE OK']);
});

test('a guest that others brought over its memory is not read until there is room again', () => {
  const bench = new Bench();
  const guest = bench.guest(1);
  bench.say(bench.dom0, XS.SET_QUOTA, '1', 'memory', '1000');
  bench.raw(bench.dom0, XS.WRITE, `/local/domain/1/big\0${'x'.repeat(1000)}`);
  assert.deepEqual(bench.raw(guest, XS.READ, 'nothing\0'), []);
  assert.equal(guest.paused, true);
  bench.raw(bench.dom0, XS.RM, '/local/domain/1/big\0');
  assert.deepEqual(bench.heard(guest), ['ERROR ENOENT']);
  assert.equal(guest.paused, false);
});

test('quotas have names, 0 means none, and nobody but dom0 sets them', () => {
  const bench = new Bench();
  const guest = bench.guest(1);
  assert.deepEqual(bench.raw(bench.dom0, XS.GET_QUOTA, ''), [
    'GET_QUOTA nodes watches transactions outstanding transaction-nodes memory soft-memory node-size path-max permissions',
  ]);
  assert.deepEqual(bench.say(bench.dom0, XS.GET_QUOTA, 'beer'), ['ERROR EINVAL']);
  assert.deepEqual(bench.say(bench.dom0, XS.SET_QUOTA, 'nodes'), ['ERROR EINVAL']);
  assert.deepEqual(bench.say(guest, XS.SET_QUOTA, 'nodes', '0'), ['ERROR EACCES']);
  bench.say(bench.dom0, XS.SET_QUOTA, '1', 'transactions', '0');
  for (let i = 1; i < 20; i++)
    assert.deepEqual(bench.raw(guest, XS.TRANSACTION_START, '\0'), [`TRANSACTION_START ${i}`]);
});

test('features are set before a domain is introduced, and WATCHDEPTH is what lets it limit a watch', () => {
  const bench = new Bench();
  assert.deepEqual(bench.raw(bench.dom0, XS.GET_FEATURE, ''), ['GET_FEATURE 14']);
  assert.deepEqual(bench.say(bench.dom0, XS.SET_FEATURE, '1', '10'), ['SET_FEATURE OK']);
  assert.deepEqual(bench.say(bench.dom0, XS.SET_FEATURE, '1', '1'), ['ERROR EINVAL']);
  const limited = bench.guest(1);
  const full = bench.guest(2);
  assert.deepEqual(bench.say(bench.dom0, XS.SET_FEATURE, '1', '14'), ['ERROR EBUSY']);
  assert.deepEqual(bench.say(bench.dom0, XS.GET_FEATURE, '1'), ['GET_FEATURE 10']);
  assert.deepEqual(bench.raw(limited, XS.GET_FEATURE, ''), ['GET_FEATURE 10']);
  assert.deepEqual(bench.say(limited, XS.GET_FEATURE, '2'), ['ERROR EACCES']);
  assert.deepEqual(bench.say(limited, XS.WATCH, 'x', 't', '1'), ['ERROR EINVAL']);
  assert.deepEqual(bench.say(full, XS.WATCH, 'x', 't', '1'), ['WATCH OK', 'WATCH_EVENT x t']);
});

test('a shutdown is told once until RESUME; a domain that is gone takes its nodes, rights and connections along', () => {
  const bench = new Bench();
  const guest = bench.guest(1);
  bench.say(bench.dom0, XS.WATCH, '@releaseDomain', 't');
  bench.raw(bench.dom0, XS.WRITE, '/for-1\0');
  bench.say(bench.dom0, XS.SET_PERMS, '/for-1', 'n0', 'r1');
  bench.domainExc(1, false);
  bench.domainExc(1, false);
  assert.deepEqual(bench.heard(bench.dom0), ['WATCH_EVENT @releaseDomain t']);
  assert.deepEqual(bench.say(bench.dom0, XS.IS_DOMAIN_INTRODUCED, '1'), ['IS_DOMAIN_INTRODUCED T']);
  bench.say(bench.dom0, XS.RESUME, '1');
  bench.domainExc(1, false);
  assert.deepEqual(bench.heard(bench.dom0), ['WATCH_EVENT @releaseDomain t']);
  bench.domainExc(1, true);
  bench.domainExc(1, true);
  assert.deepEqual(bench.heard(bench.dom0), ['WATCH_EVENT @releaseDomain t']);
  assert.equal(guest.closed, true);
  assert.deepEqual(bench.say(bench.dom0, XS.IS_DOMAIN_INTRODUCED, '1'), ['IS_DOMAIN_INTRODUCED F']);
  assert.isUndefined(bench.tree()['/local/domain/1']);
  assert.equal(bench.tree()['/for-1']?.perms, 'n0');
  bench.domainExc(0, true);
  assert.deepEqual(bench.say(bench.dom0, XS.IS_DOMAIN_INTRODUCED, '0'), ['IS_DOMAIN_INTRODUCED T']);
});

test('CONTROL says what it can and what is used, as xenstored prints it', () => {
  const bench = new Bench();
  const guest = bench.guest(1);
  bench.say(guest, XS.WATCH, 'x', 't');
  const control = (...words: string[]): string => bench.say(bench.dom0, XS.CONTROL, ...words)[0] ?? '';
  assert.match(control('help'), /^CONTROL check\t\nlog\ton\|off\nprint\t<string>\nquota\t/);
  assert.match(control('quota'), /^CONTROL Quota settings:\nnodes {12}: {5}1000 Nodes per domain\nwatches {10}:/);
  assert.match(control('quota', '1'), /^CONTROL Domain 1:\nnodes {11}: {8}1\nwatches {9}: {8}1\n/);
  assert.equal(control('quota', '9'), 'ERROR ENOENT');
  assert.equal(control('quota', 'set', 'watches', '2'), 'CONTROL OK');
  assert.deepEqual(bench.say(guest, XS.WATCH, 'y', 't'), ['ERROR E2BIG']);
  assert.equal(control('quota', 'set', 'memory', '0'), 'ERROR EINVAL');
  assert.equal(
    control('quota-soft'),
    'CONTROL Quota settings:\nmemory           :  2097152 Total Xenstore memory per domain (warning level)\n',
  );
  assert.equal(control('check'), 'CONTROL OK');
  assert.equal(control('log', 'maybe'), 'ERROR EINVAL');
  assert.equal(control('live-update'), 'ERROR EINVAL');
  assert.deepEqual(bench.say(guest, XS.CONTROL, 'help'), ['ERROR EACCES']);
});

test('a stream is the same packets in any chunks', () => {
  const packet = fc.record({
    type: fc.nat({ max: 0xffff_ffff }),
    txId: fc.nat({ max: 0xffff_ffff }),
    payload: fc.uint8Array({ maxLength: 60 }),
  });
  fc.assert(
    fc.property(
      fc.array(packet, { maxLength: 12 }),
      fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1 }),
      (packets, cuts) => {
        const stream = packets.flatMap(({ type, txId, payload }) => [...packPacket(type, 7, txId, payload)]);
        const reader = new PacketReader();
        const got: object[] = [];
        for (let at = 0, i = 0; at < stream.length; i++) {
          const end = at + cuts[i % cuts.length]!;
          reader.feed(Uint8Array.from(stream.slice(at, end)), (one) =>
            got.push({ ...one, payload: one.payload.slice() }),
          );
          at = end;
        }
        assert.deepEqual(
          got,
          packets.map((one) => ({ ...one, reqId: 7 })),
        );
      },
    ),
    { seed: SEED, numRuns: 300 },
  );
});

test('whatever bytes a guest sends, each packet has one reply, and the store stays whole and serves dom0', () => {
  const requests = fc.array(
    fc.record({
      type: fc.nat({ max: 30 }),
      tx: fc.constantFrom(0, 0, 1, 2, 99),
      text: fc.oneof(
        fc.string({ maxLength: 40, unit: 'binary-ascii' }),
        fc.constantFrom('x\0', 'x\0v', '/\0', 'T\0', '@releaseDomain\0t\0', 'x\0n1\0r2\0'),
      ),
    }),
    { minLength: 1, maxLength: 30 },
  );
  fc.assert(
    fc.property(requests, (all) => {
      const bench = new Bench();
      const guest = bench.guest(1);
      let replies = 0;
      for (const { type, tx, text } of all) {
        replies += bench.raw(guest, type, text, tx).filter((line) => !line.startsWith('WATCH_EVENT ')).length;
        bench.pass(6e6);
      }
      assert.equal(replies, all.length);
      assert.deepEqual(bench.check(), []);
      assert.deepEqual(bench.say(bench.dom0, XS.DIRECTORY, '/tool'), ['DIRECTORY xenstored']);
    }),
    { seed: SEED, numRuns: 200 },
  );
});

test('a header that announces too much ends the stream', () => {
  const reader = new PacketReader();
  const bad = packPacket(XS.READ, 0, 0, packStrings('/'));
  bad[14] = 1;
  assert.throws(() => reader.feed(bad, () => assert.fail('no packet came')), XsProtocolError);
});

test('an entry of a domain that does not exist is left out, and one that is made later has no claim to it', () => {
  const bench = new Bench();
  bench.setExisting([5]);
  const guest = bench.guest(1);
  const perms = (...texts: string[]): string[] => {
    bench.say(bench.dom0, XS.SET_PERMS, '/n', ...texts);
    bench.pass(1e6);
    return [...bench.heard(bench.dom0), ...bench.say(bench.dom0, XS.GET_PERMS, '/n')];
  };
  bench.raw(bench.dom0, XS.WRITE, '/n\0');
  assert.deepEqual(perms('n0', 'r5', 'w6', 'b1'), ['SET_PERMS OK', 'GET_PERMS n0 r5 b1']);
  assert.deepEqual(perms('n6', 'r5'), ['ERROR ENOENT', 'GET_PERMS n0 r5 b1']);
  // What was asked meanwhile waits for its turn, and only that client's.
  bench.say(bench.dom0, XS.SET_PERMS, '/n', 'n0', 'r7');
  assert.deepEqual(bench.raw(bench.dom0, XS.READ, '/n\0'), []);
  assert.deepEqual(bench.raw(guest, XS.WRITE, 'own\0x'), ['WRITE OK']);
  bench.pass(1e6);
  assert.deepEqual(bench.heard(bench.dom0), ['SET_PERMS OK', 'READ ']);
  assert.deepEqual(bench.say(bench.dom0, XS.GET_PERMS, '/n'), ['GET_PERMS n0']);
});

test('a client that goes while Xen is asked for it is let go', () => {
  const bench = new Bench();
  bench.setExisting([]);
  const client = bench.connect(0);
  bench.say(client, XS.SET_PERMS, '/tool', 'n0', 'r9');
  bench.disconnect(client);
  bench.pass(1e6);
  assert.deepEqual(bench.heard(client), []);
  assert.deepEqual(bench.say(bench.dom0, XS.GET_PERMS, '/tool'), ['GET_PERMS n0']);
});

test('DOMID_ANY in an entry means every domain, if whoever sets it has that feature', () => {
  const bench = new Bench();
  bench.say(bench.dom0, XS.SET_FEATURE, '2', '6');
  const [one, two] = [bench.guest(1), bench.guest(2)];
  bench.raw(bench.dom0, XS.WRITE, '/n\0x');
  assert.deepEqual(bench.raw(one, XS.READ, '/n\0'), ['ERROR EACCES']);
  assert.deepEqual(bench.say(bench.dom0, XS.SET_PERMS, '/n', 'n0', 'r32757'), ['SET_PERMS OK']);
  assert.deepEqual(bench.raw(one, XS.READ, '/n\0'), ['READ x']);
  assert.deepEqual(bench.raw(one, XS.WRITE, '/n\0y'), ['ERROR EACCES']);
  bench.raw(two, XS.WRITE, 'n\0');
  assert.deepEqual(bench.say(two, XS.SET_PERMS, 'n', 'n2', 'r32757'), ['SET_PERMS OK']);
  assert.deepEqual(bench.say(two, XS.GET_PERMS, 'n'), ['GET_PERMS n2']);
});
