import { assert, describe, test } from 'vitest';
import * as v3 from '#shared/arch/smmu/v3.ts';
import {
  EVENT_CLASS,
  EVT,
  encodeCfgiCd,
  encodeCfgiCdAll,
  encodeCfgiSte,
  encodeTlbiNhAll,
  encodeTlbiNhAsid,
  encodeTlbiNhVa,
  encodeTlbiNhVaa,
  encodeTlbiNsnhAll,
  encodeTlbiS2Ipa,
  encodeTlbiS12Vmall,
  eventName,
} from '#shared/arch/smmu/v3-queues.ts';
import {
  CD_BYTES,
  CD as CD_FIELDS,
  encodeCd,
  encodeL1Cd,
  encodeStage1Ste,
  STE,
} from '#shared/arch/smmu/v3-structures.ts';
import { MEM_ATTR, S1_AP, S1_TABLE_HI, S2AP, SHAREABILITY, writeLeaf, writeTable } from '#shared/arch/vmsa.ts';
import { bytesOf, store } from '#shared/regs/struct.ts';
import type { Requester } from '../../../../services/hardware/bus/transaction.ts';
import type { SmmuFeatures } from '../../../../services/hardware/smmu/v3/features.ts';
import { device, LEAF_TABLE, RAM, type smmuRig, stage2Ste } from './rig.ts';
import { ASID, CD, IPA, nested, S1_L2, S1_L3, S1_ROOT, S1_UPPER, stage1Only, TOP, VMID } from './stage1-rig.ts';

type Rig = ReturnType<typeof smmuRig>;
const reads = (rig: Rig, iova: number, requester: Requester = device(0x10)): boolean =>
  rig.smmu.dmaRead(requester, iova, new Uint8Array(4)) === 4;
const writes = (rig: Rig, iova: number, requester: Requester = device(0x10)): boolean =>
  rig.smmu.dmaWrite(requester, iova, Uint8Array.of(1, 2, 3, 4)) === 4;
const names = (rig: Rig): string[] => rig.events().map((e) => eventName(e.code));
const withSubstream = (substreamId: number): Requester => ({ ...device(0x10), substreamId });

describe('stage 1 alone', () => {
  test('lands where the tables say, and cuts at pages and blocks', () => {
    const rig = stage1Only();
    rig.mapVa(0x2000, RAM + 0x70_0000);
    const data = Uint8Array.from({ length: 0x1800 }, (_, i) => i * 5);
    assert.equal(rig.smmu.dmaWrite(device(0x10), 0x1400, data), 0x1800);
    assert.equal(rig.ram.read8(RAM + 0x50_0400), 0);
    assert.equal(rig.ram.read8(RAM + 0x50_0401), 5);
    assert.equal(rig.ram.read8(RAM + 0x70_0000), (0xc00 * 5) & 0xff);
    rig.leaf(S1_L2 + 8, RAM + 0x20_0000, { level: 2 });
    assert.isTrue(writes(rig, 0x20_0000 + 0x12_3458));
    assert.equal(rig.ram.read32(RAM + 0x20_0000 + 0x12_3458), 0x0403_0201);
  });

  test('has an upper half with its own tables, and nothing between the halves', () => {
    const rig = stage1Only();
    rig.writeCd(encodeCd({ asid: ASID, t0sz: 25, ips: 5, ttb0: S1_ROOT, upper: { t1sz: 34, ttb1: S1_UPPER } }));
    // 30 bits: the root is a table of level 2, and its last entry covers the last 2 MiB.
    rig.leaf(S1_UPPER + 511 * 8, RAM + 0x40_0000, { level: 2 });
    assert.isTrue(writes(rig, TOP - 0x10_0000));
    assert.equal(rig.ram.read32(RAM + 0x50_0000), 0x0403_0201);
    assert.isFalse(writes(rig, 2 ** 39), 'above the lower half');
    assert.isFalse(writes(rig, TOP - 2 ** 30 - 0x1000), 'below the upper half');
    assert.isFalse(writes(rig, 2 ** 48 - 0x10_0000), 'the same low bits without the sign');
    assert.deepEqual(names(rig), ['F_TRANSLATION', 'F_TRANSLATION', 'F_TRANSLATION']);
  });

  test('takes addresses of 64 bits to the last of them, across pages, and names them so', () => {
    const rig = stage1Only();
    rig.writeCd(encodeCd({ asid: ASID, t0sz: 25, ips: 5, ttb0: S1_ROOT, upper: { t1sz: 34, ttb1: S1_UPPER } }));
    rig.leaf(S1_UPPER + 511 * 8, RAM + 0x40_0000, { level: 2 });
    const at = 0xffff_ffff_fff0_0123n;
    assert.equal(rig.smmu.dmaWide(device(0x10), at, Uint8Array.of(1, 2, 3, 4), true), 4);
    assert.equal(rig.ram.read8(RAM + 0x50_0123), 1);
    assert.equal(rig.ram.read8(RAM + 0x50_0126), 4);
    const back = new Uint8Array(4);
    assert.equal(rig.smmu.dmaWide(device(0x10), at, back, false), 4);
    assert.deepEqual([...back], [1, 2, 3, 4]);
    // The last eight bytes are mapped. What follows is address 0, whose page lacks the access flag.
    assert.equal(rig.smmu.dmaWide(device(0x10), 0xffff_ffff_ffff_fff8n, new Uint8Array(16), true), 8);
    assert.equal(rig.smmu.dmaWide(device(0x10), 0xffff_8000_1234_5679n, new Uint8Array(4), false), 0);
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.inputAddress, e.isRead]),
      [
        ['F_ACCESS', 0, false],
        ['F_TRANSLATION', 0xffff_8000_1234_5679n, true],
      ],
    );
  });

  test('faults everywhere in a half that EPD turns off', () => {
    const rig = stage1Only();
    assert.isFalse(reads(rig, TOP - 0x1000), 'the default has no upper half');
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.stage2, e.eventClass]),
      [['F_TRANSLATION', false, EVENT_CLASS.IN]],
    );
  });

  test('lets a device do what AP allows to unprivileged accesses', () => {
    const rig = stage1Only();
    rig.mapVa(0x2000, RAM + 0x51_0000, { ap: S1_AP.readOnly });
    rig.mapVa(0x3000, RAM + 0x52_0000, { ap: S1_AP.privileged });
    assert.isTrue(reads(rig, 0x2000));
    assert.isFalse(writes(rig, 0x2000), 'from the TLB');
    assert.isFalse(reads(rig, 0x3000));
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.isRead, e.stage2, e.inputAddress]),
      [
        ['F_PERMISSION', false, false, 0x2000],
        ['F_PERMISSION', true, false, 0x3000],
      ],
    );
  });

  test('takes away below a table what APTable says', () => {
    const rig = stage1Only();
    rig.descriptor(S1_L2, (w) => {
      writeTable(w, 0, S1_L3);
      w[1]! |= S1_TABLE_HI.READ_ONLY;
    });
    assert.isTrue(reads(rig, 0x1000));
    assert.isFalse(writes(rig, 0x1000));
    rig.descriptor(S1_L2, (w) => {
      writeTable(w, 0, S1_L3);
      w[1]! |= S1_TABLE_HI.NO_EL0;
    });
    rig.submit(encodeTlbiNhAll(VMID));
    assert.isFalse(reads(rig, 0x1000));
  });

  test('reports access flag, output size and an aborted walk by their names', () => {
    const rig = stage1Only();
    rig.descriptor(S1_L3 + 4 * 8, (w) => w.set([0x50_0043, 0x8000])); // AF 0
    rig.descriptor(S1_L2 + 8, (w) => writeTable(w, 0, 0x7000));
    assert.isFalse(reads(rig, 0x4000));
    assert.isFalse(reads(rig, 0x20_3000));
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.eventClass, e.fetchAddress]),
      [
        ['F_ACCESS', EVENT_CLASS.IN, 0],
        ['F_WALK_EABT', EVENT_CLASS.TT, 0x7018],
      ],
    );
    const small = stage1Only({ OAS: 5 });
    const cd = encodeCd({ asid: ASID, t0sz: 16, ips: 2, ttb0: 0x4000_0000 });
    small.descriptor(0x4000_0000, (w) => writeTable(w, 0, S1_L2)); // above 40 bits
    small.writeCd(cd);
    assert.isFalse(reads(small, 0x1000));
    assert.deepEqual(names(small), ['F_ADDR_SIZE']);
  });

  test('without CD.R aborts in silence', () => {
    const rig = stage1Only();
    const cd = rig.defaultCd();
    store(cd, 0, CD_FIELDS.R, 0);
    rig.writeCd(cd);
    assert.isFalse(reads(rig, 0x9000));
    assert.deepEqual(rig.events(), []);
  });

  test('ignores the top byte where TBI says so', () => {
    const rig = stage1Only();
    assert.isFalse(reads(rig, 0x5a * 2 ** 56 + 0x1000));
    const cd = rig.defaultCd();
    store(cd, 0, CD_FIELDS.TBI0, 1);
    rig.writeCd(cd);
    rig.submit(encodeCfgiCd(0x10, 0, true));
    assert.isTrue(reads(rig, 0x5a * 2 ** 56 + 0x1000));
  });

  test('does not find a translation under an address that only looks like it in the low 48 bits', () => {
    const rig = stage1Only();
    assert.isTrue(reads(rig, 0x1000));
    assert.isFalse(reads(rig, 2 ** 52 + 0x1000));
    assert.deepEqual(names(rig), ['F_TRANSLATION']);
  });
});

describe('a context descriptor', () => {
  test('that is not valid or asks for what the part lacks ends in C_BAD_CD', () => {
    const wrong: [string, (cd: Uint32Array) => void][] = [
      ['not valid', (c) => store(c, 0, CD_FIELDS.V, 0)],
      ['32-bit tables', (c) => store(c, 0, CD_FIELDS.AA64, 0)],
      ['stalls', (c) => store(c, 0, CD_FIELDS.S, 1)],
      ['termination without an abort', (c) => store(c, 0, CD_FIELDS.A, 0)],
      ['hardware access flags', (c) => store(c, 0, CD_FIELDS.HA, 1)],
      ['big-endian tables', (c) => store(c, 0, CD_FIELDS.ENDI, 1)],
      ['T0SZ out of range', (c) => store(c, 0, CD_FIELDS.T0SZ, 15)],
      ['a granule that does not exist', (c) => store(c, 0, CD_FIELDS.TG0, 3)],
      ['TTB0 beyond IPS', (c) => store(c, 0, CD_FIELDS.IPS, 2)],
    ];
    for (const [what, spoil] of wrong) {
      const rig = stage1Only();
      const cd = rig.defaultCd();
      spoil(cd);
      rig.writeCd(cd);
      assert.isFalse(reads(rig, 0x1000), what);
      assert.deepEqual(names(rig), ['C_BAD_CD'], what);
    }
  });

  test('outside RAM ends in F_CD_FETCH with its address', () => {
    const rig = stage1Only();
    rig.writeSte(0x11, encodeStage1Ste(0x6000));
    assert.isFalse(reads(rig, 0x1000, device(0x11)));
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.fetchAddress]),
      [['F_CD_FETCH', 0x6000]],
    );
  });

  test('that was changed keeps its meaning until CFGI_CD, CFGI_CD_ALL or CFGI_STE of its stream', () => {
    for (const command of [encodeCfgiCd(0x10, 0, true), encodeCfgiCdAll(0x10), encodeCfgiSte(0x10, true)]) {
      const rig = stage1Only();
      assert.isTrue(reads(rig, 0x1000));
      rig.writeCd(encodeCd({ asid: 6, t0sz: 16, ips: 5, ttb0: S1_UPPER })); // empty tables
      assert.isTrue(reads(rig, 0x1000), 'stale');
      rig.submit(encodeCfgiCd(0x11, 0, true), encodeTlbiNsnhAll());
      assert.isTrue(reads(rig, 0x1000), 'another stream, and a TLBI');
      rig.submit(command);
      assert.isFalse(reads(rig, 0x1000));
    }
  });
});

describe('invalidation of stage 1', () => {
  test('TLBI_NH_VA drops the page of its ASID, and one of another ASID stays', () => {
    const rig = stage1Only();
    rig.writeCd(encodeCd({ asid: 9, t0sz: 16, ips: 5, ttb0: S1_ROOT }), CD + CD_BYTES);
    rig.writeSte(0x11, encodeStage1Ste(CD + CD_BYTES, VMID));
    assert.isTrue(reads(rig, 0x1000) && reads(rig, 0x1000, device(0x11)));
    rig.unmapVa(0x1000);
    rig.submit(encodeTlbiNhVa(VMID, 9, 0x2000, true), encodeTlbiNhVa(VMID + 1, 9, 0x1000, true));
    assert.isTrue(reads(rig, 0x1000, device(0x11)), 'another page, another VMID');
    rig.submit(encodeTlbiNhVa(VMID, 9, 0x1000, true));
    assert.isFalse(reads(rig, 0x1000, device(0x11)));
    assert.isTrue(reads(rig, 0x1000), 'stale under the other ASID');
    rig.submit(encodeTlbiNhVaa(VMID, 0x1000, true));
    assert.isFalse(reads(rig, 0x1000));
  });

  test('TLBI_NH_ASID leaves global entries and other ASIDs, TLBI_NH_ALL nothing of stage 1', () => {
    const rig = stage1Only();
    rig.mapVa(0x2000, RAM + 0x51_0000, { notGlobal: false });
    assert.isTrue(reads(rig, 0x1000) && reads(rig, 0x2000));
    rig.unmapVa(0x1000);
    rig.unmapVa(0x2000);
    rig.submit(encodeTlbiNhAsid(VMID, 4));
    assert.isTrue(reads(rig, 0x1000));
    rig.submit(encodeTlbiNhAsid(VMID, ASID));
    assert.isFalse(reads(rig, 0x1000));
    assert.isTrue(reads(rig, 0x2000), 'global');
    rig.submit(encodeTlbiNhAll(VMID));
    assert.isFalse(reads(rig, 0x2000));
  });

  test('TLBI_NH_VA of any address of a block drops what was made of the block', () => {
    const rig = stage1Only();
    rig.leaf(S1_L2 + 8, RAM + 0x20_0000, { level: 2 });
    assert.isTrue(reads(rig, 0x20_0000) && reads(rig, 0x3f_f000));
    rig.descriptor(S1_L2 + 8, (w) => w.fill(0));
    rig.submit(encodeTlbiNhVa(VMID, ASID, 0x2a_5000, true));
    assert.isFalse(reads(rig, 0x20_0000) || reads(rig, 0x3f_f000));
  });

  test('a range drops as many pages as NUM and SCALE say, also of the upper half', () => {
    const dropped = (features: Partial<SmmuFeatures>): number[] => {
      const rig = stage1Only(features);
      rig.writeCd(encodeCd({ asid: ASID, t0sz: 16, ips: 5, ttb0: S1_ROOT, upper: { t1sz: 34, ttb1: S1_UPPER } }));
      rig.descriptor(S1_UPPER + 511 * 8, (w) => writeTable(w, 0, S1_L3));
      const pages = [0, 1, 2, 3].map((n) => TOP - 0x20_0000 + n * 0x1000);
      for (let n = 0; n < 4; n++) rig.mapVa(n * 0x1000, RAM + 0x50_0000 + n * 0x1000);
      for (const page of pages) assert.isTrue(reads(rig, page));
      for (let n = 0; n < 4; n++) rig.unmapVa(n * 0x1000);
      rig.submit(encodeTlbiNhVa(VMID, ASID, pages[1]!, true, { granuleShift: 12, num: 1, scale: 0, ttl: 3 }));
      return pages.flatMap((page, n) => (reads(rig, page) ? [] : [n]));
    };
    assert.deepEqual(dropped({ RIL: 1 }), [1, 2]);
    assert.deepEqual(dropped({ RIL: 0 }), [1]);
  });

  test('VMIDs do not exist without stage 2', () => {
    const rig = stage1Only({ S2P: 0 });
    assert.isTrue(reads(rig, 0x1000));
    rig.unmapVa(0x1000);
    rig.submit(encodeTlbiNhAsid(99, ASID));
    assert.isFalse(reads(rig, 0x1000));
  });
});

describe('nested translation', () => {
  test('reads the descriptor and every table through stage 2, and the data too', () => {
    const rig = nested();
    assert.isTrue(writes(rig, 0x1008));
    assert.equal(rig.ram.read32(RAM + 0x50_0008), 0x0403_0201);
  });

  test('names the intermediate page and class IN when stage 2 does not map the data', () => {
    const rig = nested();
    rig.unmapPage(IPA.DATA);
    assert.isFalse(writes(rig, 0x1008));
    assert.deepEqual(rig.events(), [
      {
        code: EVT.F_TRANSLATION,
        streamId: 0x10,
        inputAddress: 0x1008,
        isRead: false,
        stage2: true,
        eventClass: EVENT_CLASS.IN,
        ipa: IPA.DATA,
        fetchAddress: 0,
      },
    ]);
  });

  test('names the table and class TT when stage 2 does not map a table of stage 1', () => {
    const rig = nested();
    rig.unmapPage(IPA.L2);
    assert.isFalse(reads(rig, 0x1000));
    const [event] = rig.events();
    assert.deepEqual(
      [eventName(event!.code), event!.stage2, event!.eventClass, event!.ipa, event!.inputAddress],
      ['F_TRANSLATION', true, EVENT_CLASS.TT, IPA.L2, 0x1000],
    );
  });

  test('names the descriptor and class CD when stage 2 does not map the context descriptor', () => {
    const rig = nested();
    rig.unmapPage(IPA.CD);
    assert.isFalse(reads(rig, 0x1000));
    const [event] = rig.events();
    assert.deepEqual(
      [eventName(event!.code), event!.stage2, event!.eventClass, event!.ipa],
      ['F_TRANSLATION', true, EVENT_CLASS.CD, IPA.CD],
    );
  });

  test('faults at stage 2 for a table of stage 1 in device memory (S2PTW)', () => {
    const rig = nested();
    rig.descriptor(LEAF_TABLE + (IPA.L3 / 0x1000) * 8, (w) =>
      writeLeaf(w, 0, 3, S1_L3, {
        s2ap: S2AP.readWrite,
        memAttr: MEM_ATTR.device_nGnRE,
        sh: SHAREABILITY.outer,
        xn: true,
      }),
    );
    assert.isFalse(reads(rig, 0x1000));
    const [event] = rig.events();
    assert.deepEqual(
      [eventName(event!.code), event!.stage2, event!.eventClass, event!.ipa],
      ['F_PERMISSION', true, EVENT_CLASS.TT, IPA.L3],
    );
  });

  test('says which stage denied it, from the walk and from the TLB alike', () => {
    const rig = nested();
    rig.mapPage(IPA.DATA, RAM + 0x50_0000, S2AP.read);
    assert.isFalse(writes(rig, 0x1008));
    assert.isTrue(reads(rig, 0x1008));
    assert.isFalse(writes(rig, 0x1010));
    rig.mapVa(0x2000, IPA.DATA, { ap: S1_AP.readOnly });
    assert.isTrue(reads(rig, 0x2000));
    assert.isFalse(writes(rig, 0x2004));
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.stage2, e.ipa, e.inputAddress]),
      [
        ['F_PERMISSION', true, IPA.DATA, 0x1008],
        ['F_PERMISSION', true, IPA.DATA, 0x1010],
        ['F_PERMISSION', false, 0, 0x2004],
      ],
    );
  });

  test('keeps the combined result until its VMID goes; TLBI_S2_IPA alone does not reach it', () => {
    const rig = nested();
    assert.isTrue(reads(rig, 0x1000));
    rig.unmapPage(IPA.DATA);
    rig.submit(encodeTlbiS2Ipa(VMID, IPA.DATA, true));
    assert.isTrue(reads(rig, 0x1000), 'combined');
    rig.submit(encodeTlbiNhAll(VMID));
    assert.isFalse(reads(rig, 0x1000));
    rig.mapPage(IPA.DATA, RAM + 0x50_0000);
    assert.isTrue(reads(rig, 0x1000));
    rig.unmapPage(IPA.DATA);
    rig.submit(encodeTlbiS12Vmall(VMID));
    assert.isFalse(reads(rig, 0x1000));
  });

  test('is not mixed up with the stage-2 entries of the same VMID', () => {
    const rig = nested();
    rig.mapPage(0x1000, RAM + 0x60_0000);
    rig.writeSte(0x11, stage2Ste(VMID));
    assert.isTrue(writes(rig, 0x1000, device(0x11)));
    assert.isTrue(reads(rig, 0x1000));
    assert.equal(rig.ram.read32(RAM + 0x60_0000), 0x0403_0201);
    assert.equal(rig.ram.read32(RAM + 0x50_0000), 0);
  });
});

describe('substreams', () => {
  test('do not exist without stage 1, and none without S1CDMax', () => {
    const rig = stage1Only();
    rig.makeTables();
    rig.writeSte(0x11, stage2Ste(7));
    assert.isFalse(reads(rig, 0x1000, { ...device(0x11), substreamId: 3 }));
    assert.isFalse(reads(rig, 0x1000, withSubstream(0)));
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.streamId, e.substreamId]),
      [
        ['C_BAD_SUBSTREAMID', 0x11, 3],
        ['C_BAD_SUBSTREAMID', 0x10, 0],
      ],
    );
  });

  const linear = (s1dss: number) => {
    const rig = stage1Only({ SSIDSIZE: 4 });
    const ste = encodeStage1Ste(CD, VMID);
    store(ste, 0, STE.S1CDMax, 2);
    store(ste, 0, STE.S1DSS, s1dss);
    rig.writeSte(0x10, ste);
    rig.writeCd(encodeCd({ asid: 8, t0sz: 16, ips: 5, ttb0: S1_ROOT }), CD + CD_BYTES);
    return rig;
  };

  test('each have a descriptor; S1DSS says what a transaction without one meets', () => {
    const terminate = linear(0);
    assert.isTrue(reads(terminate, 0x1000, withSubstream(1)));
    assert.isFalse(reads(terminate, 0x1000));
    assert.isFalse(reads(terminate, 0x1000, withSubstream(4)), 'beyond S1CDMax');
    assert.deepEqual(names(terminate), ['F_STREAM_DISABLED', 'C_BAD_SUBSTREAMID']);
    const bypass = linear(1);
    assert.isTrue(writes(bypass, RAM + 0x55_0000));
    assert.equal(bypass.ram.read32(RAM + 0x55_0000), 0x0403_0201);
    const first = linear(2);
    assert.isTrue(reads(first, 0x1000));
    assert.isFalse(reads(first, 0x1000, withSubstream(0)));
    assert.deepEqual(names(first), ['C_BAD_SUBSTREAMID']);
  });

  test('are found through a level 1 table, and do not exist where it is not valid', () => {
    const rig = stage1Only({ SSIDSIZE: 8 });
    const ste = encodeStage1Ste(RAM + 0x90_0000, VMID);
    store(ste, 0, STE.S1CDMax, 7);
    store(ste, 0, STE.S1Fmt, 1);
    rig.writeSte(0x10, ste);
    rig.ram.writeBytes(RAM + 0x90_0008, bytesOf(encodeL1Cd(RAM + 0x91_0000)));
    rig.writeCd(encodeCd({ asid: 8, t0sz: 16, ips: 5, ttb0: S1_ROOT }), RAM + 0x91_0000 + 3 * CD_BYTES);
    assert.isTrue(reads(rig, 0x1000, withSubstream(64 + 3)));
    assert.isFalse(reads(rig, 0x1000, withSubstream(3)));
    assert.deepEqual(names(rig), ['C_BAD_SUBSTREAMID']);
    assert.equal(rig.read(v3.SMMU_IDR0) & (1 << 19), 1 << 19);
  });
});
