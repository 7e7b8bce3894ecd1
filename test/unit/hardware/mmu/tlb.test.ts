import { assert, describe, test } from 'vitest';
import { WANT_READ, WANT_WRITE } from '../../../../services/hardware/mmu/stage2.ts';
import {
  GLOBAL,
  TLB_MISS,
  Tlb,
  type TlbTag,
  tlbFill,
  tlbHit,
  tlbLookup,
} from '../../../../services/hardware/mmu/tlb.ts';

const lookup = (tlb: Tlb, tag: TlbTag, high: number, low: number): number => tlbLookup(tlb, tag, high, low, WANT_READ);
/** A stage-1 entry of 4 KiB for `high`:`low` at 0x9000, made of a leaf of 2^leafShift bytes. */
const fill = (tlb: Tlb, tag: TlbTag, high: number, low: number, leafShift = 12): void =>
  tlbFill(tlb, tag, high, low, 0, 0x9000, Math.min(leafShift, 12), leafShift, 3, 3, 3);

describe('tags of a TLB', () => {
  test('keep the ASIDs of a VMID, the global entries and the stage-2 ones apart', () => {
    const tlb = new Tlb();
    const tags = [tlb.tag(1), tlb.tag(1, GLOBAL), tlb.tag(1, 0), tlb.tag(1, 7), tlb.tag(2, 7)];
    for (const tag of tags) {
      assert.equal(lookup(tlb, tag, 0, 0x5000), TLB_MISS);
      fill(tlb, tag, 0, 0x5000);
      assert.equal(lookup(tlb, tag, 0, 0x5000), 0);
    }
    assert.equal(tlb.entries().length, 5);
    tlb.invalidateAsid(1, 7);
    assert.deepEqual(
      tags.map((tag) => lookup(tlb, tag, 0, 0x5000)),
      [0, 0, 0, TLB_MISS, 0],
    );
    tlb.invalidateStage1(1);
    assert.deepEqual(
      tags.map((tag) => lookup(tlb, tag, 0, 0x5000)),
      [0, TLB_MISS, TLB_MISS, TLB_MISS, 0],
    );
    tlb.invalidateVmid(1);
    assert.deepEqual(
      tags.map((tag) => lookup(tlb, tag, 0, 0x5000)),
      [TLB_MISS, TLB_MISS, TLB_MISS, TLB_MISS, 0],
    );
  });

  test('tell addresses apart that differ in bits 44 to 48 only', () => {
    const tlb = new Tlb();
    const tag = tlb.tag(1, 3);
    fill(tlb, tag, 0, 0x5000);
    for (const high of [0x1000, 0x2000, 0x8000, 0x1_0000]) assert.equal(lookup(tlb, tag, high, 0x5000), TLB_MISS);
  });

  test('show an address of the upper half with its sign', () => {
    const tlb = new Tlb();
    fill(tlb, tlb.tag(1, 3), -1, -0x1000);
    assert.deepEqual(tlb.entries(), [{ vmid: 1, asid: 3, ipa: 2 ** 64 - 0x1000, pa: 0x9000, bytes: 0x1000, s2ap: 3 }]);
  });
});

describe('invalidation by address', () => {
  test('takes away every page that was made of the leaf around it, and no other', () => {
    const tlb = new Tlb();
    const tag = tlb.tag(1, 3);
    fill(tlb, tag, 0, 0x1_0000, 16); // pieces of one 64 KiB page
    fill(tlb, tag, 0, 0x1_f000, 16);
    fill(tlb, tag, 0, 0x2_0000, 16);
    tlb.invalidateVa(1, 3, 0, 0x1_8000, 1);
    const held = [0x1_0000, 0x1_f000, 0x2_0000].map((low) => lookup(tlb, tag, 0, low) === 0);
    assert.deepEqual(held, [false, false, true]);
  });

  test('takes global entries with those of an ASID, and all ASIDs when asked', () => {
    const tlb = new Tlb();
    const [a, b, global] = [tlb.tag(1, 3), tlb.tag(1, 4), tlb.tag(1, GLOBAL)];
    for (const tag of [a, b, global]) fill(tlb, tag, 0, 0x5000);
    tlb.invalidateVa(1, 3, 0, 0x5000, 1);
    assert.deepEqual(
      [a, b, global].map((tag) => lookup(tlb, tag, 0, 0x5000)),
      [TLB_MISS, 0, TLB_MISS],
    );
    fill(tlb, a, 0, 0x5000);
    tlb.invalidateVaAllAsids(1, 0, 0x5000, 1);
    assert.deepEqual(
      [a, b].map((tag) => lookup(tlb, tag, 0, 0x5000)),
      [TLB_MISS, TLB_MISS],
    );
  });

  test('of a long range crosses 4 GiB', () => {
    const tlb = new Tlb();
    const tag = tlb.tag(1);
    fill(tlb, tag, 0, 0xffff_f000 | 0);
    fill(tlb, tag, 1, 0);
    fill(tlb, tag, 1, 0x40_0000);
    for (const pages of [2, 0x200]) {
      fill(tlb, tag, 0, 0xffff_f000 | 0);
      fill(tlb, tag, 1, 0);
      tlb.invalidateIpaRange(1, 0, 0xffff_f000 | 0, pages);
      assert.equal(lookup(tlb, tag, 0, 0xffff_f000 | 0), TLB_MISS);
      assert.equal(lookup(tlb, tag, 1, 0), TLB_MISS);
      assert.equal(lookup(tlb, tag, 1, 0x40_0000), 0);
    }
  });
});

describe('the quick half of a lookup', () => {
  test('answers for a page that allows the access, and leaves the rest to the whole one', () => {
    const tlb = new Tlb();
    const tag = tlb.tag(9);
    tlbFill(tlb, tag, 0x7f00, 0x1000, 0x8000, 0xabcd_e000 | 0, 12, 12, WANT_READ, 3, 3);
    tlbFill(tlb, tag, 0x7f00, 0x40_0000, 0x8000, 0, 21, 21, 3, 3, 2);
    assert.equal(tlbHit(tlb, tag, 0x7f00, 0x1234, WANT_READ), 0x8000);
    assert.equal(tlb.paLow >>> 0, 0xabcd_e234);
    assert.equal(tlbHit(tlb, tag, 0x7f00, 0x1234, WANT_WRITE), TLB_MISS);
    assert.isBelow(tlbLookup(tlb, tag, 0x7f00, 0x1234, WANT_WRITE), 0);
    assert.notEqual(tlbLookup(tlb, tag, 0x7f00, 0x1234, WANT_WRITE), TLB_MISS);
    assert.equal(tlbHit(tlb, tag, 0x7f00, 0x41_0000, WANT_READ), TLB_MISS);
    assert.equal(tlbLookup(tlb, tag, 0x7f00, 0x41_0000, WANT_READ), 0x8000);
    assert.equal(tlb.mask, 0x1f_ffff);
  });
});

describe('a saved TLB', () => {
  test('goes on with what it held, and with what it had forgotten', () => {
    const tlb = new Tlb();
    fill(tlb, tlb.tag(1), 0, 0x5000);
    fill(tlb, tlb.tag(2), 0, 0x6000);
    tlb.invalidateVmid(2);
    const other = new Tlb();
    const early = other.tag(77);
    other.load(structuredClone(tlb.save()));
    assert.deepEqual(other.entries(), tlb.entries());
    assert.equal(lookup(other, other.tag(1), 0, 0x5000), 0);
    assert.equal(lookup(other, other.tag(2), 0, 0x6000), TLB_MISS);
    assert.equal(lookup(other, early, 0, 0x5000), TLB_MISS);
  });
});
