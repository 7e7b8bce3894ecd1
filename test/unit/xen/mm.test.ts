import { assert, describe, test } from 'vitest';
import { stage2Choice } from '#shared/arch/vmsa.ts';
import { Prng } from '#shared/core/prng.ts';
import { XenError } from '../../../services/xen/error.ts';
import { addressOf, OWNER_FREE, OWNER_XEN } from '../../../services/xen/mm/frames.ts';
import { P2M, P2m } from '../../../services/xen/mm/p2m.ts';
import { FakeHardware } from '../../support/fake-hardware.ts';

const GFN = 0x4_0000;
const MIB2 = 512;

function bench(bits = 40) {
  const hw = new FakeHardware();
  const p2m = new P2m({ el2: hw.el2, frames: hw.frames, counts: hw.counts }, 7, stage2Choice(bits));
  hw.run(p2m.clear());
  hw.done.length = 0;
  return { hw, p2m };
}

const names = (hw: FakeHardware): (string | undefined)[] => hw.done.map((o) => o.op?.$case);

describe('frames', () => {
  test('what was split for small allocations is one block again when all are back', () => {
    const { frames } = new FakeHardware();
    const before = frames.free;
    const mfns = Array.from({ length: 1000 }, () => frames.allocPages(0));
    assert.equal(new Set(mfns).size, 1000);
    assert.equal(frames.free, before - 1000);
    for (const mfn of mfns) frames.freePages(mfn, 0);
    assert.equal(frames.free, before);
    assert.doesNotThrow(() => frames.allocPages(13));
  });

  test('an allocation that is no power of two gives the rest back and keeps its alignment', () => {
    const { frames } = new FakeHardware();
    const before = frames.free;
    const pa = frames.allocAligned(3 * 4096, 0x1_0000);
    assert.equal(pa % 0x1_0000, 0);
    assert.equal(frames.free, before - 3);
    frames.freeAligned(pa, 3 * 4096);
    assert.equal(frames.free, before);
  });

  test('a frame of a dead owner stays as long as somebody has it mapped', () => {
    const { frames } = new FakeHardware();
    const mfn = frames.allocPages(0);
    frames.assign(mfn, 1, 5);
    assert.isTrue(frames.getPage(mfn, 5));
    assert.isFalse(frames.getPage(mfn, 6));
    assert.isFalse(frames.putPage(mfn));
    assert.equal(frames.ownerOf(mfn), 5);
    assert.isTrue(frames.putPage(mfn));
    assert.equal(frames.ownerOf(mfn), OWNER_XEN);
    frames.freePages(mfn, 0);
    assert.equal(frames.ownerOf(mfn), OWNER_FREE);
  });

  test('without memory the error is ENOMEM', () => {
    const { frames } = new FakeHardware();
    assert.throws(() => frames.allocPages(20), XenError, /ENOMEM/);
  });
});

describe('p2m', () => {
  test.each([40, 48])('the machine walks to what Xen looks up, with %i bits', (bits) => {
    const { hw, p2m } = bench(bits);
    hw.run(p2m.map(GFN, 0x4_2000, 3 * MIB2 + 5, P2M.ram_rw));
    for (const offset of [0, 1, 511, 512, 3 * MIB2, 3 * MIB2 + 4]) {
      const pa = hw.translate(p2m, addressOf(GFN + offset) + 0x123);
      assert.equal(pa, addressOf(0x4_2000 + offset) + 0x123);
      assert.equal(p2m.lookup(GFN + offset)?.mfn, 0x4_2000 + offset);
    }
    assert.isBelow(hw.translate(p2m, addressOf(GFN + 3 * MIB2 + 5)), 0);
    assert.equal(p2m.entries, 3 * MIB2 + 5);
  });

  test('aligned memory is mapped by blocks', () => {
    const { p2m, hw } = bench();
    hw.run(p2m.map(0x40_0000, 0x80_0000, 2 ** 18, P2M.mmio_direct_dev));
    assert.equal(p2m.lookup(0x40_0000)?.run, 2 ** 18);
    assert.equal(p2m.tablePages, 2);
  });

  test('a new mapping needs no invalidation, its removal does before it returns', () => {
    const { hw, p2m } = bench();
    hw.run(p2m.map(GFN, 0x1000, 1, P2M.mmio_direct_dev));
    assert.notInclude(names(hw), 'tlbi');
    hw.done.length = 0;
    hw.run(p2m.unmap(GFN, 1));
    assert.deepEqual([...new Set(names(hw))], ['physWrite', 'tlbi', 'physFill']);
    assert.isBelow(hw.translate(p2m, addressOf(GFN)), 0);
  });

  test('replacing a live entry goes through an invalid one and an invalidation', () => {
    const { hw, p2m } = bench();
    hw.run(p2m.map(GFN, 0x1000, 1, P2M.mmio_direct_dev));
    hw.done.length = 0;
    hw.run(p2m.map(GFN, 0x2000, 1, P2M.mmio_direct_dev));
    assert.deepEqual(names(hw), ['physWrite', 'tlbi', 'physWrite']);
    const first = hw.done[0]!.op;
    assert.deepEqual(first?.$case === 'physWrite' ? [...first.value.data] : [], [0, 0, 0, 0, 0, 0, 0, 0]);
    assert.equal(hw.translate(p2m, addressOf(GFN)), addressOf(0x2000));
  });

  test('while a device uses the tables its SMMU forgets the old entry before the new one is there', () => {
    const { hw, p2m } = bench();
    hw.run(p2m.map(GFN, 0x1000, 1, P2M.mmio_direct_dev));
    let duringFlush = 0;
    p2m.iommuFlush = function* () {
      duringFlush = hw.translate(p2m, addressOf(GFN));
      yield* hw.el2.batch([]);
    };
    hw.run(p2m.map(GFN, 0x2000, 1, P2M.mmio_direct_dev));
    assert.isBelow(duringFlush, 0);
    assert.equal(hw.translate(p2m, addressOf(GFN)), addressOf(0x2000));
  });

  test('unmapping a page out of a block leaves the other 511', () => {
    const { hw, p2m } = bench();
    hw.run(p2m.map(GFN, 0x4_2000, MIB2, P2M.ram_rw));
    assert.equal(p2m.lookup(GFN)?.run, MIB2);
    hw.run(p2m.unmap(GFN + 100, 1));
    assert.equal(p2m.entries, 511);
    assert.isUndefined(p2m.lookup(GFN + 100));
    assert.isBelow(hw.translate(p2m, addressOf(GFN + 100)), 0);
    assert.equal(hw.translate(p2m, addressOf(GFN + 99)), addressOf(0x4_2000 + 99));
    assert.equal(hw.translate(p2m, addressOf(GFN + 101)), addressOf(0x4_2000 + 101));
  });

  test('a table that became empty is free again', () => {
    const { hw, p2m } = bench();
    const before = hw.frames.free;
    hw.run(p2m.map(GFN, 0x1000, 3, P2M.mmio_direct_dev));
    assert.isBelow(hw.frames.free, before);
    hw.run(p2m.unmap(GFN, 3));
    assert.equal(hw.frames.free, before);
    assert.equal(p2m.entries, 0);
  });

  test('a block over a table of pages takes the table out of use', () => {
    const { hw, p2m } = bench();
    hw.run(p2m.map(GFN, 0x1000, 3, P2M.mmio_direct_dev));
    const tables = p2m.tablePages;
    hw.run(p2m.map(GFN, 0x4_2000, MIB2, P2M.ram_rw));
    assert.equal(p2m.tablePages, tables - 1);
    assert.equal(hw.translate(p2m, addressOf(GFN + 2)), addressOf(0x4_2002));
  });

  test('read-only types can be read and not written', () => {
    const { hw, p2m } = bench();
    hw.run(p2m.map(GFN, 0x4_2000, 1, P2M.ram_ro));
    assert.isAtLeast(hw.translate(p2m, addressOf(GFN), 'read'), 0);
    assert.isBelow(hw.translate(p2m, addressOf(GFN), 'write'), 0);
  });

  test('a foreign mapping holds the frame until it is unmapped, and then it is scrubbed', () => {
    const { hw, p2m } = bench();
    const mfn = hw.frames.allocPages(0);
    hw.frames.assign(mfn, 1, 3);
    hw.ram.fill(addressOf(mfn), 4096, 0xaa);
    assert.isTrue(hw.frames.getPage(mfn, 3));
    hw.run(p2m.map(GFN, mfn, 1, P2M.map_foreign_rw));
    assert.isFalse(hw.frames.putPage(mfn));
    assert.equal(hw.frames.ownerOf(mfn), 3);
    hw.run(p2m.unmap(GFN, 1));
    assert.equal(hw.frames.ownerOf(mfn), OWNER_FREE);
    assert.isTrue(hw.bytes(addressOf(mfn), 4096).every((byte) => byte === 0));
  });

  test('without a frame for a table nothing is mapped half', () => {
    const { hw, p2m } = bench();
    const held: number[] = [];
    while (hw.frames.free > 1) held.push(hw.frames.allocPages(0));
    assert.throws(() => hw.run(p2m.map(GFN, 0x1000, 1, P2M.mmio_direct_dev)), XenError, /ENOMEM/);
    assert.isUndefined(p2m.lookup(GFN));
    assert.isBelow(hw.translate(p2m, addressOf(GFN)), 0);
    for (const mfn of held) hw.frames.freePages(mfn, 0);
    hw.run(p2m.map(GFN, 0x1000, 1, P2M.mmio_direct_dev));
    assert.equal(hw.translate(p2m, addressOf(GFN)), addressOf(0x1000));
  });

  test.each([1, 2, 3, 4])('any history of mapping and unmapping ends as a plain list of it does (seed %i)', (seed) => {
    const { hw, p2m } = bench();
    const prng = new Prng(seed);
    const before = hw.frames.free;
    const model = new Map<number, number>();
    const span = 3 * MIB2;
    for (let round = 0; round < 60; round++) {
      const aligned = prng.chance(0.3);
      const first = aligned ? MIB2 * prng.below(3) : prng.below(span);
      const count = aligned ? MIB2 : 1 + prng.below(Math.min(700, span - first));
      const mfn = aligned ? 0x10_0000 + MIB2 * prng.below(8) : 0x10_0000 + prng.below(5000);
      if (prng.chance(0.4)) {
        hw.run(p2m.unmap(GFN + first, count));
        for (let i = 0; i < count; i++) model.delete(first + i);
      } else {
        hw.run(p2m.map(GFN + first, mfn, count, P2M.mmio_direct_dev));
        for (let i = 0; i < count; i++) model.set(first + i, mfn + i);
      }
      assert.equal(p2m.entries, model.size);
    }
    for (let i = 0; i < span; i++) {
      const pa = hw.translate(p2m, addressOf(GFN + i));
      assert.equal(pa < 0 ? undefined : pa / 4096, model.get(i));
      assert.equal(p2m.lookup(GFN + i)?.mfn, model.get(i));
    }
    hw.run(p2m.unmap(GFN, span));
    assert.equal(hw.frames.free, before);
  });

  test('after teardown every frame is back and the walk finds nothing', () => {
    const hw = new FakeHardware();
    const before = hw.frames.free;
    const p2m = new P2m({ el2: hw.el2, frames: hw.frames, counts: hw.counts }, 7, stage2Choice(40));
    hw.run(p2m.clear());
    hw.run(p2m.map(GFN + 3, 0x4_2000, 700, P2M.ram_rw));
    hw.run(p2m.map(0x10_0000, 0x1000, 64, P2M.mmio_direct_dev));
    hw.run(p2m.teardown());
    assert.equal(hw.frames.free, before);
    assert.equal(p2m.entries, 0);
    assert.equal(p2m.tablePages, 0);
  });
});
