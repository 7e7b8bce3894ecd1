import { assert, describe, test } from 'vitest';
import { DFSC, levelShift, stage1StartLevel, stage2Geometry } from '#shared/arch/vmsa.ts';
import { Ram } from '../../../../services/hardware/bus/ram.ts';
import { Stage2Walker, stage2Regime, WANT_READ } from '../../../../services/hardware/mmu/stage2.ts';

const BASE = 0x8000_0000_0000;
const PAGE = 0x4c3; // valid, read and write, AF; bit 1 makes it a page
const BLOCK = 0x4c1;

/** Writes one descriptor of `address` and `bits`. */
function memory() {
  const ram = new Ram([{ pa: BASE, sizeBytes: 64 * 1024 * 1024 }]);
  const put = (at: number, address: number, bits: number): void => {
    ram.write32(at, ((address & 0xffff_f000) | bits) >>> 0);
    ram.write32(at + 4, Math.floor(address / 2 ** 32));
  };
  return { ram, put, walker: new Stage2Walker(ram) };
}

describe('the geometry of stage 2', () => {
  /** T0SZ of the smallest and the largest input, and of the largest without concatenation, by granule and SL0. */
  const table = [
    { granule: 12, sl0: 0, startLevel: 2, smallest: 39, alone: 34, largest: 30 },
    { granule: 12, sl0: 1, startLevel: 1, smallest: 33, alone: 25, largest: 21 },
    { granule: 12, sl0: 2, startLevel: 0, smallest: 24, alone: 16, largest: 16 },
    { granule: 14, sl0: 0, startLevel: 3, smallest: 39, alone: 39, largest: 35 },
    { granule: 14, sl0: 1, startLevel: 2, smallest: 38, alone: 28, largest: 24 },
    { granule: 14, sl0: 2, startLevel: 1, smallest: 27, alone: 17, largest: 16 },
    { granule: 16, sl0: 0, startLevel: 3, smallest: 39, alone: 35, largest: 31 },
    { granule: 16, sl0: 1, startLevel: 2, smallest: 34, alone: 22, largest: 18 },
    { granule: 16, sl0: 2, startLevel: 1, smallest: 21, alone: 16, largest: 16 },
  ];
  for (const { granule, sl0, startLevel, smallest, alone, largest } of table) {
    test(`with pages of 2^${granule} and SL0 ${sl0} starts at level ${startLevel} for T0SZ ${largest} to ${smallest}`, () => {
      for (let t0sz = 0; t0sz < 64; t0sz++) {
        const geometry = stage2Geometry(t0sz, sl0, granule);
        if (t0sz < largest || t0sz > smallest) assert.isUndefined(geometry, `T0SZ ${t0sz}`);
        else {
          const rootTables = t0sz >= alone ? 1 : 2 ** (alone - t0sz);
          assert.deepEqual(geometry, { ipaBits: 64 - t0sz, startLevel, rootTables }, `T0SZ ${t0sz}`);
        }
      }
      assert.isUndefined(stage2Geometry(alone, 3, granule), 'SL0 3');
    });
  }

  test('gives what an entry of each level covers, and where stage 1 starts', () => {
    assert.deepEqual(
      [0, 1, 2, 3].map((l) => levelShift(12, l)),
      [39, 30, 21, 12],
    );
    assert.deepEqual(
      [0, 1, 2, 3].map((l) => levelShift(14, l)),
      [47, 36, 25, 14],
    );
    assert.deepEqual(
      [1, 2, 3].map((l) => levelShift(16, l)),
      [42, 29, 16],
    );
    assert.deepEqual(
      [16, 25, 34, 39].map((tsz) => stage1StartLevel(tsz, 12)),
      [0, 1, 2, 2],
    );
    assert.deepEqual(
      [16, 17, 28, 39].map((tsz) => stage1StartLevel(tsz, 14)),
      [0, 1, 2, 3],
    );
    assert.deepEqual(
      [16, 22, 35].map((tsz) => stage1StartLevel(tsz, 16)),
      [1, 2, 3],
    );
  });
});

describe('the stage-2 walk with larger granules', () => {
  test('of 16 KiB finds a page and a block of 32 MiB through concatenated roots', () => {
    const { put, walker } = memory();
    // 48 bits from level 1: two root tables of 2048 entries, 64 GiB each.
    const regime = stage2Regime(BASE, 16, 2, 48, true, 14);
    const ipa = 4095 * 2 ** 36 + 3 * 2 ** 25;
    put(BASE + 4095 * 8, BASE + 0x1_0000, 3);
    put(BASE + 0x1_0000 + 3 * 8, BASE + 0x1_4000, 3);
    put(BASE + 0x1_4000 + 5 * 8, 0xc000_0000_4000, PAGE);
    put(BASE + 0x1_0000 + 4 * 8, 0xc000_0200_0000, BLOCK);
    assert.equal(walker.walk(regime, ipa + 5 * 0x4000 + 0x3abc, WANT_READ), 0xc000_0000_7abc);
    assert.deepEqual([walker.level, walker.leafBytes], [3, 0x4000]);
    assert.equal(walker.walk(regime, ipa + 2 ** 25 + 0x1ff_fff0, WANT_READ), 0xc000_03ff_fff0);
    assert.deepEqual([walker.level, walker.leafBytes], [2, 2 ** 25]);
    assert.equal(walker.walk(regime, ipa, WANT_READ), ~(DFSC.TRANSLATION | 3));
  });

  test('of 64 KiB finds a page and a block of 512 MiB, and has no blocks above', () => {
    const { put, walker } = memory();
    const regime = stage2Regime(BASE, 16, 2, 48, true, 16);
    put(BASE + 63 * 8, BASE + 0x1_0000, 3);
    put(BASE + 62 * 8, 2 ** 42, BLOCK);
    put(BASE + 0x1_0000 + 8191 * 8, BASE + 0x2_0000, 3);
    put(BASE + 0x2_0000 + 8191 * 8, 0xffff_ffff_0000, PAGE);
    put(BASE + 0x1_0000, 0x6000_0000, BLOCK);
    assert.equal(walker.walk(regime, 2 ** 48 - 1, WANT_READ), 0xffff_ffff_ffff);
    assert.equal(walker.walk(regime, 63 * 2 ** 42 + 0x1fff_1234, WANT_READ), 0x7fff_1234);
    assert.deepEqual([walker.level, walker.leafBytes], [2, 2 ** 29]);
    assert.equal(walker.walk(regime, 62 * 2 ** 42, WANT_READ), ~(DFSC.TRANSLATION | 1));
  });

  test('reports output size, access flag and permission as with 4 KiB', () => {
    const { put, walker } = memory();
    const regime = (paBits: number) => stage2Regime(BASE, 39, 0, paBits, true, 16);
    put(BASE, 2 ** 41, PAGE);
    put(BASE + 8, 0x1_0000, 0xc3);
    put(BASE + 16, 0x1_0000, 0x403);
    assert.equal(walker.walk(regime(48), 0, WANT_READ), 2 ** 41);
    // The root itself lies above 40 bits.
    assert.equal(walker.walk(regime(40), 0, WANT_READ), ~DFSC.ADDRESS_SIZE);
    assert.equal(walker.walk(regime(48), 0x1_0000, WANT_READ), ~(DFSC.ACCESS_FLAG | 3));
    assert.equal(walker.walk(regime(48), 0x2_0000, WANT_READ), ~(DFSC.PERMISSION | 3));
  });

  test('that meets a table outside RAM ends in an external abort there', () => {
    const { put, walker } = memory();
    put(BASE + 8, 0x7000_0000, 3);
    const regime = stage2Regime(BASE, 22, 1, 48, true, 16);
    assert.equal(walker.walk(regime, 2 ** 29 + 0x3_0000, WANT_READ), ~(DFSC.WALK_EXTERNAL_ABORT | 3));
    assert.equal(walker.fetchPa, 0x7000_0018);
  });
});
