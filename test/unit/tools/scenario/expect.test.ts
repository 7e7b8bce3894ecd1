import { assert, describe, test } from 'vitest';
import { changes, differences } from '#tools/scenario/expect.ts';

describe('what a scenario expects', () => {
  test.each([
    [{ a: 1, b: 2 }, { a: 1 }],
    [{ n: 1000 }, { n: '>= 1000' }],
    [{ n: 3 }, { n: '< 4' }],
    [{ text: 'one\ntwo' }, { text: '/^two$/' }],
    [{ deep: { list: [1, 2] } }, { deep: { list: [1, 2] } }],
    [{ text: '>= 1000 things' }, { text: '>= 1000 things' }],
  ])('%j is as expected by %j', (actual, expected) => {
    assert.deepEqual(differences(actual, expected), []);
  });

  test.each([
    [{ a: 2 }, { a: 1 }, 'a: is 2, expected 1'],
    [{}, { a: 1 }, 'a: is absent, expected 1'],
    [{ n: 999 }, { n: '>= 1000' }, 'n: is 999, expected ">= 1000"'],
    [{ d: { x: 1 } }, { d: { x: 2 } }, 'd.x: is 1, expected 2'],
    [{ n: Number.NaN }, { n: '>= 1' }, 'n: is null, expected ">= 1"'],
    [3, { a: 1 }, 'result: is 3, expected {"a":1}'],
  ])('%j differs from %j', (actual, expected, line) => {
    assert.deepEqual(differences(actual, expected), [line]);
  });
});

test('changes names what was added, removed and changed, and nothing else', () => {
  const before = { same: 1, gone: 2, nested: { a: 1 }, list: [1] };
  const after = { same: 1, nested: { a: 2 }, list: [1, 5], fresh: null };
  assert.deepEqual(changes(before, after).sort(), [
    'fresh: was absent, is null',
    'gone: was 2, is absent',
    'list.1: was absent, is 5',
    'nested.a: was 1, is 2',
  ]);
  assert.deepEqual(changes(before, before), []);
});
