import { assert, test } from 'vitest';
import { bytesOf, packPacket, packStrings, XS } from '#shared/abi/xs-wire.ts';
import { body } from '#shared/core/core.ts';
import {
  directory,
  end,
  introduce,
  raw,
  read,
  release,
  StoreBench,
  setPerms,
  start,
  watch,
  write,
} from '../../support/xenstore.ts';

test('a domain that sends what is no packet is not answered any more, until it is introduced anew', () => {
  const bench = new StoreBench();
  bench.say('d0', introduce(1));
  const packet = packPacket(XS.READ, 1, 0, packStrings('name'));
  packet[13] = 0x20; // 8 KiB of payload
  assert.match(bench.sayBytes('d1', packet), /^refused: domain 1 is ignored/);
  assert.match(bench.say('d1', read('name')), /^refused: domain 1 is ignored/);
  bench.say('d0', release(1));
  bench.say('d0', introduce(1));
  assert.equal(bench.say('d1', read('name')), 'EACCES');
});

test('only the operator may inspect, and only domains may speak the wire', () => {
  const bench = new StoreBench();
  assert.equal(
    bench.ask('operator', body('inspectRequest', { path: 'tree./tool/xenstored' })),
    '{"value":"","perms":"n0"}',
  );
  assert.equal(bench.ask('operator', body('inspectRequest', { path: 'tree./nothing' })), '');
  assert.match(bench.ask('d0', body('inspectRequest', { path: '' })), /^refused/);
  assert.match(bench.ask('xen', body('xenstoreRequest', { packet: new Uint8Array(16) })), /^refused/);
});

test('a list of children that fits no packet is E2BIG and comes in parts', () => {
  const bench = new StoreBench();
  const names = Array.from({ length: 300 }, (_, i) => `name-of-a-long-child-${i}`);
  for (const name of names) bench.say('d0', write(`/big/${name}`, ''));
  assert.equal(bench.say('d0', directory('/big')), 'E2BIG');

  const [generation, ...first] = bench.say('d0', raw(XS.DIRECTORY_PART, '/big\0' + '0\0')).split(',');
  assert.notEqual(first.at(-1), '');
  const offset = first.join('\0').length + 1;
  const [again, ...second] = bench.say('d0', raw(XS.DIRECTORY_PART, `/big\0${offset}\0`)).split(',');
  assert.equal(again, generation);
  assert.equal(second.pop(), '');
  assert.deepEqual([...first, ...second], names);

  bench.say('d0', write('/big/one-more', ''));
  const [changed] = bench.say('d0', raw(XS.DIRECTORY_PART, `/big\0${offset}\0`)).split(',');
  assert.notEqual(changed, generation);
});

test('events that wait and say the same are merged, special ones are not', () => {
  const bench = new StoreBench();
  bench.say('d0', watch('/w', 't'));
  bench.say('d0', watch('@introduceDomain', 's'));
  bench.hear('d0');
  bench.deaf.add('d0');
  bench.say('d0', write('/w/sent', '')); // on its way, never acknowledged
  for (let i = 0; i < 3; i++) bench.say('d0', write('/w', `${i}`));
  bench.say('d0', introduce(1));
  bench.say('d0', introduce(2));
  bench.deaf.delete('d0');
  bench.pass(5e9);
  assert.deepEqual(bench.hear('d0'), ['/w/sent t', '/w t', '@introduceDomain s', '@introduceDomain s']);
});

test('a domain that leaves an event unread for 20 s is ignored; dom0 is waited for', () => {
  const bench = new StoreBench();
  bench.say('d0', introduce(1));
  bench.say('d0', write('/w', ''));
  bench.say('d0', setPerms('/w', 'r0'));
  bench.deaf.add('d1');
  bench.deaf.add('d0');
  bench.say('d1', watch('/w', 't'));
  bench.say('d0', watch('/w', 't'));
  bench.pass(19e9);
  assert.equal(bench.say('d1', read('/w')), '');
  bench.pass(2e9);
  assert.match(bench.say('d1', read('/w')), /^refused: domain 1 is ignored/);
  bench.deaf.delete('d0');
  bench.pass(10e9);
  assert.deepEqual(bench.hear('d0'), ['/w t']);
});

test('a transaction that names a released domain is not committed', () => {
  const bench = new StoreBench();
  bench.say('d0', introduce(1));
  bench.say('d0', start());
  bench.say('d0', write('/for-1', '', 1));
  bench.say('d0', setPerms('/for-1', 'n0,r1', 1));
  bench.say('d0', release(1));
  assert.equal(bench.say('d0', end(1, 'T')), 'EAGAIN');
});

test('a repeated introduce drops watches and transactions of the domain and keeps its nodes', () => {
  const bench = new StoreBench();
  bench.say('d0', introduce(1));
  bench.say('d0', write('/w', 'kept'));
  bench.say('d0', setPerms('/w', 'b1'));
  bench.say('d1', watch('/w', 't'));
  bench.say('d1', start());
  bench.hear('d1');
  bench.say('d0', introduce(1));
  bench.say('d0', write('/w', 'kept'));
  assert.deepEqual(bench.hear('d1'), []);
  assert.equal(bench.say('d1', end(1, 'F')), 'ENOENT');
  assert.equal(bench.say('d1', read('/w')), 'kept');
});

test('what was asked, refused and told is counted', () => {
  const bench = new StoreBench();
  bench.say('d0', write('/a', ''));
  bench.say('d0', read('/b'));
  bench.say('d0', watch('/a', 't'));
  bench.say('d0', start());
  bench.say('d0', read('/a', 1));
  bench.say('d0', write('/a', '1'));
  bench.say('d0', end(1, 'T'));
  const counts = JSON.parse(bench.ask('operator', body('inspectRequest', { path: 'counts' })));
  assert.deepEqual(counts, {
    operations: { WRITE: 2, READ: 2, WATCH: 1, TRANSACTION_START: 1, TRANSACTION_END: 1 },
    errors: { ENOENT: 1, EAGAIN: 1 },
    transactions: 1,
    conflicts: 1,
    watchEvents: 2,
  });
});

test('a value may be any bytes', () => {
  const bench = new StoreBench();
  const value = String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i));
  bench.sayBytes('d0', packPacket(XS.WRITE, 1, 0, bytesOf(`/v\0${value}`)));
  const tree = JSON.parse(bench.ask('operator', body('inspectRequest', { path: 'tree./v' })));
  assert.equal(tree.value, value);
});

test('a domain that does not read its events waits with its 21st request, and is refused when it is released', () => {
  const bench = new StoreBench();
  bench.say('d0', introduce(1));
  bench.say('d0', write('/local/domain/1', ''));
  bench.say('d0', setPerms('/local/domain/1', 'n1'));
  bench.say('d1', watch('/local/domain/1', 't'));
  bench.hear('d1');
  bench.deaf.add('d1');
  for (let i = 0; i < 20; i++) assert.equal(bench.say('d1', write(`n${i}`, '')), 'OK');
  assert.equal(bench.say('d1', read('n0')), 'no answer');
  bench.deaf.delete('d1');
  bench.pass(5e9); // what was sent is sent again
  assert.equal(bench.say('d1', read('n0')), '');

  bench.deaf.add('d1');
  for (let i = 0; i < 21; i++) bench.say('d1', write(`n${i}`, ''));
  bench.say('d0', release(1));
  assert.match(bench.say('d1', read('n0')), /^refused: domain 1 is not introduced/);
});
