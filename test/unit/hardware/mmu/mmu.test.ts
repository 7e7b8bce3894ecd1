import { assert, describe, test } from 'vitest';
import {
  DFSC,
  encodeVtcr,
  MEM_ATTR,
  S2AP,
  SHAREABILITY,
  writeInvalid,
  writeLeaf,
  writeTable,
} from '#shared/arch/vmsa.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { Ram } from '../../../../services/hardware/bus/ram.ts';
import { CpuPort } from '../../../../services/hardware/mmu/cpu-port.ts';
import { Stage2Walker, stage2Regime, WANT_READ, WANT_WRITE } from '../../../../services/hardware/mmu/stage2.ts';
import { Tlb } from '../../../../services/hardware/mmu/tlb.ts';

const BASE = 0xc000_0000_0000; // above 2^47: no 32-bit or signed arithmetic may creep in
const attributes = (s2ap: number) => ({ s2ap, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: false });

/** A machine of 8 MiB whose tables are written one descriptor at a time. */
function rig() {
  const ram = new Ram([{ pa: BASE, sizeBytes: 8 * 1024 * 1024 }]);
  const put = (table: number, index: number, write: (words: Uint32Array) => void): void => {
    const words = new Uint32Array(2);
    write(words);
    ram.writeBytes(table + 8 * index, bytesOf(words));
  };
  return {
    ram,
    walker: new Stage2Walker(ram),
    table: (at: number, index: number, next: number) => put(at, index, (w) => writeTable(w, 0, next)),
    leaf: (at: number, index: number, level: number, pa: number, s2ap: number = S2AP.readWrite) =>
      put(at, index, (w) => writeLeaf(w, 0, level, pa, attributes(s2ap))),
    invalid: (at: number, index: number) => put(at, index, (w) => writeInvalid(w, 0)),
    raw: (at: number, index: number, lo: number, hi: number) =>
      put(at, index, (w) => {
        w[0] = lo;
        w[1] = hi;
      }),
  };
}

const L0 = BASE;
const L1 = BASE + 0x1000;
const L2 = BASE + 0x2000;
const L3 = BASE + 0x3000;
/** Four levels, 48 bits of IPA, for addresses below 2 MiB of index 511, 510, 3. */
const IPA = 511 * 2 ** 39 + 510 * 2 ** 30 + 3 * 2 ** 21;
const regime48 = stage2Regime(L0, 16, 2, 48, true);

function fourLevels() {
  const r = rig();
  r.table(L0, 511, L1);
  r.table(L1, 510, L2);
  r.table(L2, 3, L3);
  r.leaf(L3, 5, 3, 0xffff_ffff_f000);
  return r;
}

describe('the stage-2 walk', () => {
  test('finds a page through four levels at the top of 48 bits', () => {
    const { walker } = fourLevels();
    assert.equal(walker.walk(regime48, IPA + 0x5abc, WANT_READ), 0xffff_ffff_fabc);
    assert.deepEqual([walker.level, walker.leafBytes, walker.s2ap], [3, 0x1000, 3]);
  });

  test('finds blocks of 1 GiB and 2 MiB', () => {
    const r = fourLevels();
    r.leaf(L1, 7, 1, 0x7fc0_0000_0000);
    r.leaf(L2, 4, 2, 0x4020_0000);
    assert.equal(r.walker.walk(regime48, 511 * 2 ** 39 + 7 * 2 ** 30 + 0x3fff_ffff, WANT_WRITE), 0x7fc0_3fff_ffff);
    assert.equal(r.walker.leafBytes, 0x4000_0000);
    assert.equal(r.walker.walk(regime48, IPA + 2 ** 21 + 0x12_3456, WANT_WRITE), 0x4032_3456);
    assert.deepEqual([r.walker.level, r.walker.leafBytes], [2, 0x20_0000]);
  });

  test('indexes concatenated root tables at level 1 and at level 2', () => {
    const r = rig();
    const ipa40 = 1023 * 2 ** 30;
    r.leaf(BASE, 1023, 1, 0x1_0000_0000);
    assert.equal(r.walker.walk(stage2Regime(BASE, 24, 1, 48, true), ipa40 + 9, WANT_READ), 0x1_0000_0009);
    r.leaf(BASE, 8191, 2, 0x60_0000);
    assert.equal(r.walker.walk(stage2Regime(BASE, 30, 0, 48, true), 2 ** 34 - 1, WANT_READ), 0x7f_ffff);
  });

  test('ignores root bits below the alignment of the concatenated tables', () => {
    assert.equal(stage2Regime(BASE + 0x1000, 24, 1, 48, true).root, BASE);
    assert.equal(stage2Regime(BASE + 0x1000, 25, 1, 48, true).root, BASE + 0x1000);
  });

  test('names the level of a translation fault', () => {
    const r = fourLevels();
    const at = (ipa: number): number => r.walker.walk(regime48, ipa, WANT_READ);
    assert.equal(at(0), ~(DFSC.TRANSLATION | 0));
    assert.equal(at(511 * 2 ** 39), ~(DFSC.TRANSLATION | 1));
    assert.equal(at(511 * 2 ** 39 + 510 * 2 ** 30), ~(DFSC.TRANSLATION | 2));
    assert.equal(at(IPA), ~(DFSC.TRANSLATION | 3));
    assert.equal(at(2 ** 48), ~(DFSC.TRANSLATION | 0), 'out of range');
    r.raw(L3, 6, 0x401, 0);
    assert.equal(at(IPA + 0x6000), ~(DFSC.TRANSLATION | 3), 'a level 3 entry with bit 1 clear');
    r.raw(L0, 1, 0x401, 0);
    assert.equal(at(2 ** 39), ~(DFSC.TRANSLATION | 0), 'a block at level 0');
  });

  test('faults at level 0 when T0SZ and SL0 do not fit together', () => {
    const r = fourLevels();
    assert.equal(r.walker.walk(stage2Regime(L0, 16, 1, 48, true), 0, WANT_READ), ~DFSC.TRANSLATION);
  });

  test('reports an output beyond the physical size at its level, and a root there at level 0', () => {
    const ram = new Ram([{ pa: 0, sizeBytes: 0x10_0000 }]);
    const walker = new Stage2Walker(ram);
    const put = (at: number, write: (words: Uint32Array) => void): void => {
      const words = new Uint32Array(2);
      write(words);
      ram.writeBytes(at, bytesOf(words));
    };
    const regime = stage2Regime(0x1000, 16, 2, 40, true);
    put(0x1000, (w) => writeTable(w, 0, 0x2000));
    put(0x2000, (w) => writeLeaf(w, 0, 1, 2 ** 40, attributes(S2AP.readWrite)));
    put(0x2008, (w) => writeTable(w, 0, 2 ** 41));
    assert.equal(walker.walk(regime, 0x123, WANT_READ), ~(DFSC.ADDRESS_SIZE | 1), 'a block');
    assert.equal(walker.walk(regime, 2 ** 30, WANT_READ), ~(DFSC.ADDRESS_SIZE | 1), 'a table');
    assert.equal(walker.walk(stage2Regime(2 ** 40, 16, 2, 40, true), 0, WANT_READ), ~DFSC.ADDRESS_SIZE, 'the root');
  });

  test('puts the access flag before the permission, and both after the address', () => {
    const r = fourLevels();
    r.raw(L3, 0, 0x0000_0003, 0); // AF 0, S2AP none
    assert.equal(r.walker.walk(regime48, IPA, WANT_READ), ~(DFSC.ACCESS_FLAG | 3));
    assert.equal(r.walker.walk(stage2Regime(L0, 16, 2, 48, false), IPA, WANT_READ), ~(DFSC.PERMISSION | 3));
  });

  test('checks read and write apart', () => {
    const r = fourLevels();
    r.leaf(L3, 1, 3, 0x1000, S2AP.read);
    r.leaf(L3, 2, 3, 0x2000, S2AP.write);
    assert.equal(r.walker.walk(regime48, IPA + 0x1000, WANT_READ), 0x1000);
    assert.equal(r.walker.walk(regime48, IPA + 0x1000, WANT_WRITE), ~(DFSC.PERMISSION | 3));
    assert.equal(r.walker.walk(regime48, IPA + 0x2000, WANT_READ), ~(DFSC.PERMISSION | 3));
    assert.equal(r.walker.walk(regime48, IPA + 0x2000, WANT_WRITE), 0x2000);
  });

  test('that meets a table outside RAM ends in an external abort', () => {
    const r = fourLevels();
    r.table(L2, 8, 0x1000);
    assert.equal(r.walker.walk(regime48, IPA + 5 * 2 ** 21 + 0x3000, WANT_READ), ~(DFSC.WALK_EXTERNAL_ABORT | 3));
    assert.equal(r.walker.fetchPa, 0x1018);
  });
});

describe('the TLB', () => {
  test('keeps VMIDs apart and answers with the offset and the rest of the entry', () => {
    const tlb = new Tlb();
    tlb.fill(1, 0x5000, 0x9000, 0x1000, S2AP.readWrite, 3);
    assert.equal(tlb.lookup(1, 0x5123, WANT_READ), 0x9123);
    assert.equal(tlb.runBytes, 0xedd);
    assert.equal(tlb.lookup(2, 0x5123, WANT_READ), -Infinity);
    assert.equal(tlb.lookup(1, 0x6000, WANT_READ), -Infinity);
  });

  test('answers a missing permission from the entry', () => {
    const tlb = new Tlb();
    tlb.fill(1, 0x20_0000, 0x40_0000, 0x20_0000, S2AP.read, 2);
    assert.equal(tlb.lookup(1, 0x3f_ffff, WANT_READ), 0x5f_ffff);
    assert.equal(tlb.lookup(1, 0x20_0000, WANT_WRITE), ~(DFSC.PERMISSION | 2));
  });

  test('forgets one VMID and no other', () => {
    const tlb = new Tlb();
    tlb.fill(1, 0x5000, 0x9000, 0x1000, 3, 3);
    tlb.fill(2, 0x5000, 0xa000, 0x1000, 3, 3);
    tlb.invalidateVmid(1);
    assert.equal(tlb.lookup(1, 0x5000, WANT_READ), -Infinity);
    assert.equal(tlb.lookup(2, 0x5000, WANT_READ), 0xa000);
    assert.deepEqual(tlb.entries(), [{ vmid: 2, ipa: 0x5000, pa: 0xa000, bytes: 0x1000, s2ap: 3 }]);
    tlb.invalidateAll();
    assert.equal(tlb.lookup(2, 0x5000, WANT_READ), -Infinity);
  });

  test('forgets by address the page, the block, and every piece of a 1 GiB leaf', () => {
    const tlb = new Tlb();
    tlb.fill(1, 0x5000, 0x9000, 0x1000, 3, 3);
    tlb.fill(1, 0x6000, 0xa000, 0x1000, 3, 3);
    tlb.fill(1, 0x4000_0000, 0x8000_0000, 0x4000_0000, 3, 1);
    tlb.fill(1, 0x7fe0_0000, 0x8000_0000, 0x4000_0000, 3, 1);
    tlb.fill(1, 0x8000_0000, 0x20_0000, 0x20_0000, 3, 2);
    assert.equal(tlb.lookup(1, 0x7ff0_0000, WANT_READ), 0xbff0_0000);
    tlb.invalidateIpa(1, 0x5000);
    assert.equal(tlb.lookup(1, 0x5000, WANT_READ), -Infinity);
    assert.equal(tlb.lookup(1, 0x6000, WANT_READ), 0xa000);
    tlb.invalidateIpa(1, 0x4000_3000);
    assert.equal(tlb.lookup(1, 0x7ff0_0000, WANT_READ), -Infinity);
    assert.equal(tlb.lookup(1, 0x4000_0000, WANT_READ), -Infinity);
    assert.equal(tlb.lookup(1, 0x8000_0000, WANT_READ), 0x20_0000);
    tlb.invalidateIpa(2, 0x8000_0000);
    assert.equal(tlb.lookup(1, 0x8000_0000, WANT_READ), 0x20_0000);
  });
});

describe('a CPU port', () => {
  function port() {
    const r = fourLevels();
    const tlb = new Tlb();
    const cpu = new CpuPort(r.walker, tlb);
    cpu.load({ vm: true, vtcr: encodeVtcr({ t0sz: 16, sl0: 2, ps: 5, vmid16: true }), baddr: L0, vmid: 0x1234 });
    return { ...r, tlb, cpu };
  }

  test('that was never programmed reaches nothing', () => {
    const cpu = new CpuPort(rig().walker, new Tlb());
    assert.equal(cpu.translate(0, false), ~DFSC.EXTERNAL_ABORT);
  });

  test('keeps a stale translation until its VMID is invalidated', () => {
    const { cpu, leaf, tlb } = port();
    assert.equal(cpu.translate(IPA + 0x5008, true), 0xffff_ffff_f008);
    assert.equal(cpu.runBytes, 0xff8);
    leaf(L3, 5, 3, 0x7000);
    assert.equal(cpu.translate(IPA + 0x5008, true), 0xffff_ffff_f008, 'stale');
    tlb.invalidateVmid(0x9999);
    assert.equal(cpu.translate(IPA + 0x5008, true), 0xffff_ffff_f008, 'still stale');
    tlb.invalidateVmid(0x1234);
    assert.equal(cpu.translate(IPA + 0x5008, true), 0x7008);
  });

  test('sees a new mapping at once: a fault is never cached', () => {
    const { cpu, leaf } = port();
    assert.equal(cpu.translate(IPA, false), ~(DFSC.TRANSLATION | 3));
    leaf(L3, 0, 3, 0x3000);
    assert.equal(cpu.translate(IPA, false), 0x3000);
  });

  test('uses 8 bits of VMID without VTCR_EL2.VS', () => {
    const { cpu } = port();
    cpu.load({ vm: true, vtcr: encodeVtcr({ t0sz: 16, sl0: 2, ps: 5, vmid16: false }), baddr: L0, vmid: 0x1234 });
    assert.equal(cpu.vmid, 0x34);
  });

  test('faults at level 0 for a granule that the CPU does not have', () => {
    const { cpu } = port();
    const granule64K = 1 << 14;
    cpu.load({
      vm: true,
      vtcr: encodeVtcr({ t0sz: 16, sl0: 2, ps: 5, vmid16: true }) | granule64K,
      baddr: L0,
      vmid: 1,
    });
    assert.equal(cpu.translate(IPA + 0x5000, false), ~DFSC.TRANSLATION);
  });
});
