import fc from 'fast-check';
import { assert, test } from 'vitest';
import { Children, NO_CHILDREN } from '../../../services/xenstored/children.ts';

test('any version of a list reads as it was made, whatever was made from it and read between', () => {
  const name = fc.constantFrom('a', 'b', 'c', 'dd', 'e', 'f');
  const step = fc.record({ from: fc.nat(), add: fc.boolean(), name, read: fc.nat() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const versions: Children[] = [NO_CHILDREN];
      const models: string[][] = [[]];
      for (const { from, add, name, read } of steps) {
        const at = from % versions.length;
        const model = models[at]!;
        versions.push(add ? versions[at]!.with(name) : versions[at]!.without(name));
        if (add) models.push(model.includes(name) ? model : [...model, name]);
        else models.push(model.filter((one) => one !== name));
        const i = read % versions.length;
        assert.deepEqual([...versions[i]!], models[i]);
        assert.equal(versions[i]!.has(name), models[i]!.includes(name));
      }
      versions.forEach((version, i) => {
        assert.deepEqual([...version], models[i]);
        assert.equal(version.size, models[i]!.length);
        assert.equal(version.bytes, models[i]!.join(' ').length + (models[i]!.length > 0 ? 1 : 0));
      });
    }),
    { seed: 42, numRuns: 200 },
  );
});

test('a list tells by which steps it was made from another, until that is forgotten', () => {
  const start = Children.of(['a', 'b']);
  const made = start.with('c').without('a');
  assert.deepEqual(made.changesSince(start), [
    { name: 'c', added: true },
    { name: 'a', added: false },
  ]);
  assert.deepEqual(made.changesSince(made), []);
  assert.isUndefined(start.changesSince(made));
  made.forgetOrigin();
  assert.isUndefined(made.changesSince(start));
});

test('names come and go among 100,000 in constant time, with an old version kept', () => {
  const many = Children.of(Array.from({ length: 100_000 }, (_, i) => `n${i}`));
  const started = performance.now();
  let now = many;
  for (let i = 0; i < 20_000; i++) now = now.with(`x${i}`).without(`n${i}`);
  const ms = performance.now() - started;
  assert.equal(now.size, 100_000);
  assert.isFalse(many.has('x0'));
  assert.isTrue(many.has('n0'));
  // A copy of the list for each would take minutes.
  assert.isBelow(ms, 2000);
});
