import fc from 'fast-check';
import { assert, test } from 'vitest';
import { Heap } from '#shared/core/heap.ts';

test('items come out by time, and of equal times in the order they went in, whatever was taken between', () => {
  const steps = fc.array(fc.option(fc.integer({ min: 0, max: 20 }), { nil: undefined }), { maxLength: 200 });
  fc.assert(
    fc.property(steps, (times) => {
      const heap = new Heap<{ at: number; seq: number }>();
      let model: { at: number; seq: number }[] = [];
      times.forEach((at, seq) => {
        if (at !== undefined) {
          heap.push({ at, seq });
          model = [...model, { at, seq }].sort((a, b) => a.at - b.at || a.seq - b.seq);
          return;
        }
        assert.deepEqual(heap.peek(), model[0]);
        assert.deepEqual(heap.pop(), model.shift());
      });
    }),
    { seed: 1 },
  );
});
