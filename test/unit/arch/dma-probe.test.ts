import fc from 'fast-check';
import { assert, test } from 'vitest';
import {
  DMA_PROBE_CHECKSUM_START,
  dmaProbeChecksum,
  dmaProbeFill,
  dmaProbeMismatches,
  dmaProbeSum,
  dmaProbeWord,
} from '#shared/arch/dma-probe.ts';

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });

test('the bulk forms say what the definitions say word by word', () => {
  fc.assert(
    fc.property(u32, u32, fc.integer({ min: 0, max: 40 }), (seed, first, count) => {
      const words = new Int32Array(count);
      dmaProbeFill(words, seed, first);
      let sum = DMA_PROBE_CHECKSUM_START;
      words.forEach((word, i) => {
        assert.equal(word >>> 0, dmaProbeWord(seed, first + i));
        sum = dmaProbeChecksum(sum, word >>> 0);
      });
      assert.equal(dmaProbeSum(words, DMA_PROBE_CHECKSUM_START), sum);
      assert.equal(dmaProbeMismatches(words, seed, first), 0);
    }),
    { seed: 2 },
  );
});

test('a sum can be taken in pieces, and depends on every word and on their order', () => {
  const words = Int32Array.of(5, -7, 0x7fffffff, 1, 0, 3, 9);
  const whole = dmaProbeSum(words, 1);
  assert.equal(dmaProbeSum(words.subarray(3), dmaProbeSum(words.subarray(0, 3), 1)), whole);
  assert.notEqual(dmaProbeSum(Int32Array.of(-7, 5, 0x7fffffff, 1, 0, 3, 9), 1), whole);
  assert.notEqual(dmaProbeSum(Int32Array.of(5, -7, 0x7fffffff, 1, 1, 3, 9), 1), whole);
});

test('mismatches are counted', () => {
  const words = new Int32Array(10);
  dmaProbeFill(words, 3, 100);
  words[4]! ^= 1;
  words[9]! ^= 0x80000000;
  assert.equal(dmaProbeMismatches(words, 3, 100), 2);
});
