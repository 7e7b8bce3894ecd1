import { assert, test } from 'vitest';
import { defaultLimits } from '../../../services/xenstored/quota.ts';
import {
  directory,
  end,
  introduce,
  read,
  rm,
  StoreBench,
  setPerms,
  start,
  watch,
  write,
} from '../../support/xenstore.ts';

const QUOTA = defaultLimits();

/** Domain 1, which owns `/local/domain/1/data`. */
function guest(): StoreBench {
  const bench = new StoreBench();
  bench.say('d0', introduce(1));
  bench.say('d0', write('/local/domain/1/data', ''));
  bench.say('d0', setPerms('/local/domain/1/data', 'n1'));
  return bench;
}

/** How often `ask` is answered with anything but an error before it is refused, and with what. */
function until(limit: number, ask: (i: number) => string): { done: number; error: string } {
  for (let i = 0; i < limit; i++) {
    const heard = ask(i);
    if (/^E[A-Z0-9]+$/.test(heard)) return { done: i, error: heard };
  }
  return { done: limit, error: '' };
}

test('a domain may own 999 nodes, whichever way they are nested, and has room again when some go', () => {
  const bench = guest();
  // One is its `data` already; directories of 20 keep each node below the size quota.
  const made = until(2000, (i) => bench.say('d1', write(`data/${i % 50}/${i}`, '')));
  assert.equal(made.error, 'ENOSPC');
  assert.equal(1 + 50 + made.done, QUOTA.nodes - 1);
  assert.equal(bench.say('d1', rm('data/0')), 'OK');
  assert.equal(bench.say('d1', write('data/0/again', '')), 'OK');
});

test('dom0 is under no quota', () => {
  const bench = new StoreBench();
  assert.equal(until(1200, (i) => bench.say('d0', write(`/many/${i}`, ''))).error, '');
  assert.equal(until(200, (i) => bench.say('d0', watch('/many', `${i}`))).error, '');
  assert.equal(until(20, () => bench.say('d0', start())).error, '');
});

test('a domain may have 127 watches', () => {
  const bench = guest();
  assert.deepEqual(
    until(200, (i) => bench.say('d1', watch('data', `${i}`))),
    { done: 127, error: 'E2BIG' },
  );
});

test('a domain may have nine transactions open', () => {
  const bench = guest();
  assert.deepEqual(
    until(20, () => bench.say('d1', start())),
    { done: 9, error: 'ENOSPC' },
  );
  assert.equal(bench.say('d1', end(3, 'F')), 'OK');
  assert.equal(bench.say('d1', start()), '10');
});

test('a domain may set four permission entries', () => {
  const bench = guest();
  assert.equal(bench.say('d1', setPerms('data', 'n1,r2,r3,r4')), 'OK');
  assert.equal(bench.say('d1', setPerms('data', 'n1,r2,r3,r4,r5')), 'ENOSPC');
  assert.equal(bench.say('d0', setPerms('/local/domain/1/data', 'n1,r2,r3,r4,r5,r6')), 'OK');
});

test('a node of a domain stays below 2048 bytes, value, entries and names of children together', () => {
  const bench = guest();
  const room = QUOTA.nodeBytes - 1 - 16 - 8;
  assert.equal(bench.say('d1', write('data', 'v'.repeat(room))), 'OK');
  assert.equal(bench.say('d1', write('data', 'v'.repeat(room + 1))), 'ENOSPC');
  assert.equal(bench.say('d1', write('data/x', '')), 'ENOSPC');
  assert.equal(bench.say('d1', directory('data')), '');
});

test('the part of a path that is a domain’s own is shorter than 2048 characters', () => {
  const bench = guest();
  assert.equal(bench.say('d1', read(`data/${'x'.repeat(2048 - 6)}`)), 'ENOENT');
  assert.equal(bench.say('d1', read(`data/${'x'.repeat(2048 - 5)}`)), 'EINVAL');
});

test('a transaction in which a write failed is not committed', () => {
  const bench = guest();
  bench.say('d1', start());
  assert.equal(bench.say('d1', write('data/good', '', 1)), 'OK');
  assert.equal(bench.say('d1', write('data/bad', 'v'.repeat(2048), 1)), 'ENOSPC');
  assert.equal(bench.say('d1', end(1, 'T')), 'ENOMEM');
  assert.equal(bench.say('d1', read('data/good')), 'ENOENT');
});

test('a transaction touches fewer than 1024 nodes', () => {
  const bench = guest();
  bench.say('d1', start());
  const touched = until(2000, (i) => {
    const heard = bench.say('d1', read(`data/${i}`, 1));
    return heard === 'ENOENT' ? 'absent' : heard;
  });
  // Each absent node is one, and the node above, which says who may know, another once.
  assert.deepEqual(touched, { done: 1022, error: 'ENOSPC' });
  assert.equal(bench.say('d1', end(1, 'T')), 'ENOMEM');
});
