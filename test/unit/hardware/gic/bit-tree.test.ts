/** The bit trees against plain sets. */
import { assert, describe, test } from 'vitest';
import { Prng } from '#shared/core/prng.ts';
import { BitTrees } from '../../../../services/hardware/gic/bit-tree.ts';

describe('bit trees', () => {
  for (const size of [32, 1024, 16_384, 65_536, 1_048_576]) {
    test(`of ${size} have what was added and not removed, each its own`, () => {
      const random = new Prng(size);
      const trees = new BitTrees(size);
      const sets = [trees.make(), trees.make()];
      const plain = [new Set<number>(), new Set<number>()];
      for (let step = 0; step < 4000; step++) {
        const which = random.below(2);
        const set = sets[which]!;
        const members = plain[which]!;
        const member = random.below(size);
        if (random.chance(0.6)) {
          trees.add(set, member);
          members.add(member);
        } else {
          members.delete(member);
          assert.equal(trees.delete(set, member), members.size > 0);
        }
        assert.equal(trees.has(set, member), members.has(member));
        if (step % 100 === 0) assert.equal(trees.first(set), members.size === 0 ? -1 : Math.min(...members));
      }
      trees.clear(sets[1]!);
      assert.deepEqual([trees.first(sets[1]!), trees.isEmpty(sets[1]!), trees.isEmpty(sets[0]!)], [-1, true, false]);
      for (const member of [...plain[0]!].sort((a, b) => a - b)) {
        assert.equal(trees.first(sets[0]!), member);
        trees.delete(sets[0]!, member);
      }
      assert.deepEqual([trees.isEmpty(sets[0]!), trees.first(sets[0]!)], [true, -1]);
    });
  }

  test('keep their members when another set is made', () => {
    const trees = new BitTrees(65_536);
    const first = trees.make();
    trees.add(first, 40_000);
    const second = trees.make();
    assert.deepEqual([trees.first(first), trees.first(second)], [40_000, -1]);
  });
});
