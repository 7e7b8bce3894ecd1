import { assert, test } from 'vitest';
import { inspectReply } from '#shared/core/inspect.ts';
import { LIMITS } from '#shared/core/limits.ts';

const TREE = { a: { b: [10, { c: true }] }, 'x.y': { 'x.y': 1 }, x: { y: 'short' }, none: undefined };

function at(path: string): unknown {
  const reply = inspectReply('thing', TREE, path);
  if (reply.$case !== 'inspectReply') throw new Error(reply.$case);
  return reply.value.error === '' ? JSON.parse(reply.value.json) : reply.value.error;
}

test('a path leads through objects and lists, and a key with dots in it wins over a shorter one', () => {
  assert.equal(at('a.b.1.c'), true);
  assert.equal(at('a.b.0'), 10);
  assert.deepEqual(at('x.y'), { 'x.y': 1 });
  assert.equal(at('x.y.x.y'), 1);
  assert.equal(at('none'), null);
});

test('what is not there is said, with the name of who was asked', () => {
  assert.equal(at('a.q'), 'thing has no a.q');
  assert.equal(at('a.b.1.c.d'), 'thing has no a.b.1.c.d');
});

test('an answer that fits into no message names its parts instead', () => {
  const reply = inspectReply('thing', { big: 'x'.repeat(LIMITS.messageBytes), small: 1 }, '');
  assert.match(
    reply.$case === 'inspectReply' ? reply.value.error : '',
    /^thing is \d+ bytes as text; ask for a part of it: big, small$/,
  );
});
