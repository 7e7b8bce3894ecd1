import { assert, describe, test } from 'vitest';
import { stage2Choice } from '#shared/arch/vmsa.ts';
import { Prng } from '#shared/core/prng.ts';
import { XenError } from '../../../../services/xen/error.ts';
import { addressOf } from '../../../../services/xen/mm/frames.ts';
import { P2M, P2m } from '../../../../services/xen/mm/p2m.ts';
import type { P2mView, VmidPool } from '../../../../services/xen/mm/p2m-view.ts';
import { FakeHardware } from '../../../support/fake-hardware.ts';

/** The page that differs: in the middle of a 2 MiB piece. */
const DOORBELL = 0x4030;
const HOME = 0x8_0000;
const OTHER = 0x9_0000;
const MIB2 = 512;
const FIRST = DOORBELL - (DOORBELL % MIB2) - MIB2;
const SPAN = 3 * MIB2;

class Vmids implements VmidPool {
  readonly taken = new Set<number>();
  allocVmid(): number {
    if (this.taken.size === 2) throw new XenError('EBUSY', 'every VMID is in use');
    const vmid = 20 + this.taken.size;
    this.taken.add(vmid);
    return vmid;
  }
  freeVmid(vmid: number): void {
    this.taken.delete(vmid);
  }
}

function bench(bits = 40) {
  const hw = new FakeHardware();
  const p2m = new P2m({ el2: hw.el2, frames: hw.frames, counts: hw.counts }, 7, stage2Choice(bits));
  const vmids = new Vmids();
  hw.run(p2m.clear());
  hw.run(p2m.map(DOORBELL, HOME, 1, P2M.mmio_direct_dev));
  const open = (): P2mView => hw.run(p2m.openView(DOORBELL, OTHER, vmids));
  const at = (tables: P2m | P2mView, gfn: number): number | undefined => {
    const pa = hw.translate(tables, addressOf(gfn));
    return pa < 0 ? undefined : pa / 4096;
  };
  return { hw, p2m, vmids, open, at };
}

describe('a view of a p2m', () => {
  test.each([40, 48])('leads one page elsewhere and everything else where the tables do, with %i bits', (bits) => {
    const { hw, p2m, open, at } = bench(bits);
    hw.run(p2m.map(0x4_0000, 0x4_2000, 3 * MIB2, P2M.ram_rw));
    hw.run(p2m.map(DOORBELL + 1, 0x777, 1, P2M.mmio_direct_dev));
    const view = open();
    assert.equal(at(p2m, DOORBELL), HOME);
    assert.equal(at(view, DOORBELL), OTHER);
    for (const gfn of [DOORBELL + 1, 0x4_0000, 0x4_0000 + 700, DOORBELL + 2, 0x5_0000, FIRST]) {
      assert.equal(at(view, gfn), at(p2m, gfn));
    }
    assert.equal(at(view, 0x4_0000 + 700), 0x4_2000 + 700);
  });

  test('has only the tables on the way to the page: the rest is shared', () => {
    const { hw, p2m, open } = bench();
    hw.run(p2m.map(0x4_0001, 0x4_2001, 100 * MIB2, P2M.ram_rw));
    const before = { free: hw.frames.free, pages: p2m.tablePages };
    const view = open();
    assert.equal(view.tablePages, 4, 'two tables at the root, level 2, level 3');
    assert.equal(hw.frames.free, before.free - 4);
    assert.equal(p2m.tablePages, before.pages + 4);
  });

  test('sees a later mapping and a later removal', () => {
    const { hw, p2m, open, at } = bench();
    const view = open();
    hw.run(p2m.map(0x4_0000, 0x4_2000, 5, P2M.ram_rw));
    hw.run(p2m.map(DOORBELL + 7, 0x888, 1, P2M.mmio_direct_dev));
    assert.equal(at(view, 0x4_0004), 0x4_2004);
    assert.equal(at(view, DOORBELL + 7), 0x888);
    hw.run(p2m.unmap(0x4_0000, 5));
    hw.run(p2m.unmap(DOORBELL + 7, 1));
    assert.isUndefined(at(view, 0x4_0004));
    assert.isUndefined(at(view, DOORBELL + 7));
    assert.equal(at(view, DOORBELL), OTHER);
  });

  test('keeps its page when the tables lose theirs, and follows a block that is put over it', () => {
    const { hw, p2m, open, at } = bench();
    const view = open();
    hw.run(p2m.unmap(DOORBELL, 1));
    assert.isUndefined(at(p2m, DOORBELL));
    assert.equal(at(view, DOORBELL), OTHER);
    hw.run(p2m.map(FIRST + MIB2, 0x4_2000, MIB2, P2M.ram_rw));
    assert.equal(at(p2m, DOORBELL), 0x4_2000 + (DOORBELL % MIB2));
    assert.equal(at(view, DOORBELL), OTHER);
    assert.equal(at(view, DOORBELL + 1), 0x4_2000 + (DOORBELL % MIB2) + 1);
  });

  test('is invalidated under its own VMID together with the tables, when its entries are gone and the new ones not there', () => {
    const { hw, p2m, open, at } = bench();
    const view = open();
    hw.run(p2m.map(DOORBELL + 1, 0x777, 1, P2M.mmio_direct_dev));
    hw.run(p2m.map(0x4_0000, 0x4_2000, 1, P2M.ram_rw));
    let seen: unknown;
    p2m.iommuFlush = function* (vmids) {
      seen = { vmids, near: at(view, DOORBELL + 1), far: at(view, 0x4_0000) };
      yield* hw.el2.batch([]);
    };
    hw.run(
      p2m.mapAll([
        { gfn: DOORBELL + 1, mfn: 0x778, count: 1, type: P2M.mmio_direct_dev },
        { gfn: 0x4_0000, mfn: 0x4_3000, count: 1, type: P2M.ram_rw },
      ]),
    );
    assert.deepEqual(seen, { vmids: [7, view.vmid], near: undefined, far: undefined });
    assert.equal(at(view, DOORBELL + 1), 0x778);
    assert.equal(at(view, 0x4_0000), 0x4_3000);
  });

  test.each([1, 2, 3])(
    'does what the tables do through any history, and sees nothing that was taken away (seed %i)',
    (seed) => {
      const { hw, p2m, vmids, open, at } = bench();
      const prng = new Prng(seed);
      const free = hw.frames.free;
      const view = open();
      const differs = (): number[] => {
        const gfns: number[] = [];
        for (let gfn = FIRST; gfn < FIRST + SPAN; gfn++) {
          if (gfn !== DOORBELL && at(view, gfn) !== at(p2m, gfn)) gfns.push(gfn);
        }
        return gfns;
      };
      const gfns = Array.from({ length: SPAN }, (_, i) => FIRST + i);
      let atFlush: (number | undefined)[] = [];
      p2m.iommuFlush = function* () {
        // What a walk finds now may be cached again: it has to be what stays.
        atFlush = gfns.map((gfn) => at(view, gfn));
        yield* hw.el2.batch([]);
      };
      for (let round = 0; round < 25; round++) {
        const aligned = prng.chance(0.3);
        const first = aligned ? MIB2 * prng.below(3) : prng.below(SPAN);
        const count = aligned ? MIB2 : 1 + prng.below(Math.min(700, SPAN - first));
        const mfn = aligned ? 0x10_0000 + MIB2 * prng.below(8) : 0x10_0000 + prng.below(5000);
        if (prng.chance(0.4)) hw.run(p2m.unmap(FIRST + first, count));
        else hw.run(p2m.map(FIRST + first, mfn, count, P2M.mmio_direct_dev));
        assert.deepEqual(differs(), []);
        atFlush.forEach((mfn, i) => {
          if (mfn !== undefined) assert.equal(mfn, at(view, gfns[i]!));
        });
        atFlush = [];
        assert.equal(at(view, DOORBELL), OTHER);
      }
      p2m.iommuFlush = undefined;
      hw.run(p2m.unmap(FIRST, SPAN));
      hw.run(p2m.closeView(view, vmids));
      assert.equal(hw.frames.free, free + 2, 'the tables of the first doorbell are gone as well');
    },
  );

  test('gives frames and VMID back when it is closed', () => {
    const { hw, p2m, vmids, open, at } = bench();
    const free = hw.frames.free;
    const view = open();
    hw.run(p2m.closeView(view, vmids));
    assert.equal(hw.frames.free, free);
    assert.equal(vmids.taken.size, 0);
    assert.deepEqual(p2m.vmids, [7]);
    assert.isUndefined(at(view, DOORBELL));
    assert.isUndefined(p2m.view(OTHER));
  });

  test('without a VMID or without memory there is no view and nothing is taken', () => {
    const { hw, p2m, vmids, open } = bench();
    vmids.taken.add(20).add(21);
    assert.throws(open, XenError, /EBUSY/);
    vmids.taken.clear();
    const held: number[] = [];
    while (hw.frames.free > 3) held.push(hw.frames.allocPages(0));
    const free = hw.frames.free;
    assert.throws(open, XenError, /ENOMEM/);
    assert.equal(hw.frames.free, free);
    assert.equal(vmids.taken.size, 0);
    assert.deepEqual(p2m.vmids, [7]);
  });
});
