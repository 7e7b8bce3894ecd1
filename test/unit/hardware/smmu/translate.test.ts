import { assert, describe, test } from 'vitest';
import * as v3 from '#shared/arch/smmu/v3.ts';
import { EVENT_CLASS, EVT, encodeCfgiAll, encodeCfgiSte, eventName } from '#shared/arch/smmu/v3-queues.ts';
import {
  encodeAbortSte,
  encodeBypassSte,
  encodeL1Std,
  encodeStage2Ste,
  STE,
  STE_BYTES,
} from '#shared/arch/smmu/v3-structures.ts';
import { S2AP, writeTable } from '#shared/arch/vmsa.ts';
import { bytesOf, store } from '#shared/regs/struct.ts';
import type { MmioTarget, Requester } from '../../../../services/hardware/bus/transaction.ts';
import { device, LEAF_TABLE, LOW_RAM, RAM, ROOT, STREAM_TABLE, smmuRig, stage2Ste, translatingRig } from './rig.ts';

const names = (rig: ReturnType<typeof smmuRig>): string[] => rig.events().map((e) => eventName(e.code));
const write = (rig: ReturnType<typeof smmuRig>, streamId: number, iova: number): number =>
  rig.smmu.dmaWrite(device(streamId), iova, Uint8Array.of(1, 2, 3, 4));

describe('DMA through stage 2', () => {
  test('lands where the tables say, cut at the pages', () => {
    const rig = translatingRig();
    rig.mapPage(0x2000, RAM + 0x10_0000 * 7);
    const data = Uint8Array.from({ length: 0x1800 }, (_, i) => i * 7);
    assert.equal(rig.smmu.dmaWrite(device(0x10), 0x1400, data), 0x1800);
    const into = new Uint8Array(0x1800);
    rig.ram.readBytes(RAM + 0x50_0400, into, 0, 0xc00);
    rig.ram.readBytes(RAM + 0x70_0000, into, 0xc00);
    assert.deepEqual(into, data);
    const back = new Uint8Array(0x1800);
    assert.equal(rig.smmu.dmaRead(device(0x10), 0x1400, back), 0x1800);
    assert.deepEqual(back, data);
    assert.equal(rig.smmu.counts.translations, 4);
  });

  test('stops at the page that is not mapped, with one F_TRANSLATION that names it', () => {
    const rig = translatingRig();
    assert.equal(rig.smmu.dmaWrite(device(0x10), 0x1ff0, new Uint8Array(0x40)), 0x10);
    assert.deepEqual(rig.events(), [
      {
        code: EVT.F_TRANSLATION,
        streamId: 0x10,
        inputAddress: 0x2000,
        isRead: false,
        stage2: true,
        eventClass: EVENT_CLASS.IN,
        ipa: 0x2000,
        fetchAddress: 0,
      },
    ]);
    assert.deepEqual(rig.irqs, ['eventq']);
  });

  test('reports a missing permission by direction, also out of the TLB', () => {
    const rig = translatingRig();
    rig.mapPage(0x3000, RAM + 0x52_0000, S2AP.read);
    assert.equal(write(rig, 0x10, 0x3000), 0);
    assert.equal(rig.smmu.dmaRead(device(0x10), 0x3000, new Uint8Array(4)), 4);
    assert.equal(write(rig, 0x10, 0x3004), 0);
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.inputAddress, e.isRead]),
      [
        ['F_PERMISSION', 0x3000, false],
        ['F_PERMISSION', 0x3004, false],
      ],
    );
  });

  test('reports access flag, address size, range and walk faults each by its name', () => {
    const rig = translatingRig();
    rig.descriptor(LEAF_TABLE + 8 * 4, (w) => w.set([0x1000_00c3, 0x8000])); // AF 0
    rig.descriptor(ROOT + 0x2000 + 8, (w) => writeTable(w, 0, 0x7000)); // a table where no RAM is
    assert.equal(write(rig, 0x10, 0x4000), 0);
    assert.equal(write(rig, 0x10, 2 ** 40), 0);
    assert.equal(write(rig, 0x10, 2 ** 48), 0);
    assert.equal(write(rig, 0x10, 0x20_1000), 0);
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.stage2, e.ipa, e.fetchAddress]),
      [
        ['F_ACCESS', true, 0x4000, 0],
        ['F_TRANSLATION', true, 2 ** 40, 0],
        ['F_ADDR_SIZE', false, 0, 0],
        ['F_WALK_EABT', true, 0, 0x7008],
      ],
    );
  });

  test('reports an output beyond STE.S2PS as F_ADDR_SIZE of stage 2, and a root there as a bad STE', () => {
    const rig = translatingRig();
    const bits40 = { vmid: 1, t0sz: 24, sl0: 1, ps: 2 };
    rig.writeSte(1, encodeStage2Ste({ ...bits40, ttb: LOW_RAM }));
    rig.descriptor(LOW_RAM + 5 * 8, (w) => w.set([0x4fd, 0x200])); // a 1 GiB block at 2^41
    rig.writeSte(2, encodeStage2Ste({ ...bits40, ttb: ROOT }));
    assert.equal(write(rig, 1, 5 * 2 ** 30 + 0x7123), 0);
    assert.equal(write(rig, 2, 0x1000), 0);
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.stage2, e.ipa]),
      [
        ['F_ADDR_SIZE', true, 5 * 2 ** 30 + 0x7000],
        ['C_BAD_STE', false, 0],
      ],
    );
  });

  test('without S2R aborts in silence', () => {
    const rig = translatingRig();
    const ste = stage2Ste(7);
    store(ste, 0, STE.S2R, 0);
    rig.writeSte(0x12, ste);
    assert.equal(write(rig, 0x12, 0x9000), 0);
    assert.deepEqual(rig.events(), []);
    assert.equal(rig.smmu.counts.aborts, 1);
  });

  test('to a register block goes as aligned words with the requester', () => {
    const rig = translatingRig();
    const seen: [number, number, number, number | undefined][] = [];
    const its: MmioTarget = {
      name: 'its',
      read: () => 0,
      write: (offset: number, size: number, value: number, requester?: Requester) =>
        void seen.push([offset, size, value, requester?.rid]),
    };
    rig.bus.map(0x809_0000, 0x1_0000, its);
    rig.mapPage(0x6000, 0x809_0000);
    assert.equal(rig.smmu.dmaWrite(device(0x10), 0x6040, Uint8Array.of(5, 0, 0, 0)), 4);
    assert.deepEqual(seen, [[0x40, 4, 5, 0x10]]);
  });

  test('to a physical address where nothing is aborts without an event', () => {
    const rig = translatingRig();
    rig.mapPage(0x6000, 0x1000);
    assert.equal(write(rig, 0x10, 0x6000), 0);
    assert.deepEqual(rig.events(), []);
  });
});

describe('the stream table', () => {
  test('bypasses, aborts in silence, and reports what is not valid', () => {
    const rig = translatingRig();
    rig.writeSte(1, encodeBypassSte());
    rig.writeSte(2, encodeAbortSte());
    assert.equal(write(rig, 1, RAM), 4);
    assert.equal(write(rig, 2, RAM), 0);
    assert.deepEqual(rig.events(), []);
    assert.equal(write(rig, 1, 2 ** 48), 0);
    assert.equal(write(rig, 3, RAM), 0);
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.streamId, e.stage2]),
      [
        ['F_ADDR_SIZE', 1, false],
        ['C_BAD_STE', 3, false],
      ],
    );
  });

  test('refuses every entry that asks for what the part lacks', () => {
    const wrong: [string, (ste: Uint32Array) => void][] = [
      ['stage 1', (s) => store(s, 0, STE.Config, 5)],
      ['both stages', (s) => store(s, 0, STE.Config, 7)],
      ['64 KiB granule', (s) => store(s, 0, STE.S2TG, 1)],
      ['the granule that does not exist', (s) => store(s, 0, STE.S2TG, 3)],
      ['hardware access flags', (s) => store(s, 0, STE.S2HA, 1)],
      ['16 bits of VMID', (s) => store(s, 0, STE.S2VMID, 0x107)],
      ['big-endian tables', (s) => store(s, 0, STE.S2ENDI, 1)],
      ['32-bit tables', (s) => store(s, 0, STE.S2AA64, 0)],
      ['stalls', (s) => store(s, 0, STE.S2S, 1)],
      ['T0SZ and SL0 apart', (s) => store(s, 0, STE.S2T0SZ, 16)],
      ['T0SZ out of range', (s) => store(s, 0, STE.S2T0SZ, 40)],
    ];
    for (const [what, spoil] of wrong) {
      const rig = translatingRig({ S1P: 0, GRAN64K: 0, VMID16: 0 });
      const ste = stage2Ste(7);
      spoil(ste);
      rig.writeSte(4, ste);
      assert.equal(write(rig, 4, 0x1000), 0, what);
      assert.deepEqual(names(rig), ['C_BAD_STE'], what);
    }
  });

  test('records C_BAD_STREAMID only with RECINVSID', () => {
    const quiet = translatingRig();
    assert.equal(write(quiet, 512, 0x1000), 0);
    assert.equal(write(quiet, -1, 0x1000), 0);
    assert.deepEqual(quiet.events(), []);
    const loud = smmuRig();
    loud.write(v3.SMMU_CR2, 2);
    loud.enable();
    assert.equal(write(loud, 512, 0x1000), 0);
    assert.deepEqual(
      loud.events().map((e) => [eventName(e.code), e.streamId, e.inputAddress]),
      [['C_BAD_STREAMID', 512, 0]],
    );
  });

  test('outside RAM gives F_STE_FETCH with the address', () => {
    const rig = smmuRig();
    rig.enable();
    rig.write(v3.SMMU_CR0, 0b1100);
    rig.write(v3.SMMU_STRTAB_BASE_HI, 0);
    rig.write(v3.SMMU_CR0, 0b1101);
    assert.equal(write(rig, 5, 0x1000), 0);
    assert.deepEqual(
      rig.events().map((e) => [eventName(e.code), e.fetchAddress]),
      [['F_STE_FETCH', 0x10_0000 + 5 * STE_BYTES]],
    );
  });
});

describe('a two-level stream table', () => {
  const L2 = RAM + 0x60_0000;
  const twoLevel = (): ReturnType<typeof smmuRig> => {
    const rig = smmuRig();
    rig.makeTables();
    rig.mapPage(0x1000, RAM + 0x50_0000);
    rig.write(v3.SMMU_CR2, 2);
    rig.enable((1 << 16) | (8 << 6) | 16);
    return rig;
  };

  test('finds an entry by its level 1 descriptor, one filled in later without any CFGI too', () => {
    const rig = twoLevel();
    assert.equal(write(rig, 0x1234, 0x1000), 0);
    assert.deepEqual(names(rig), ['C_BAD_STREAMID']);
    rig.ram.writeBytes(L2 + 0x34 * STE_BYTES, bytesOf(stage2Ste(7)));
    rig.ram.writeBytes(STREAM_TABLE + 0x12 * 8, bytesOf(encodeL1Std(L2, 8)));
    assert.equal(write(rig, 0x1234, 0x1000), 4);
  });

  test('keeps a valid level 1 descriptor until CFGI_STE with Leaf 0', () => {
    const rig = twoLevel();
    const std = STREAM_TABLE + 0x12 * 8;
    rig.ram.writeBytes(L2 + 0x34 * STE_BYTES, bytesOf(stage2Ste(7)));
    rig.ram.writeBytes(std, bytesOf(encodeL1Std(L2, 8)));
    assert.equal(write(rig, 0x1234, 0x1000), 4);
    rig.ram.fill(std, 8, 0);
    rig.submit(encodeCfgiSte(0x1234, true));
    assert.equal(write(rig, 0x1234, 0x1000), 4, 'Leaf 1 leaves it');
    rig.submit(encodeCfgiSte(0x1234, false));
    assert.equal(write(rig, 0x1234, 0x1000), 0);
  });

  test('has no entry beyond the span of the descriptor', () => {
    const rig = twoLevel();
    rig.ram.writeBytes(L2 + 0x0f * STE_BYTES, bytesOf(stage2Ste(7)));
    rig.ram.writeBytes(STREAM_TABLE, bytesOf(encodeL1Std(L2, 4))); // 16 entries
    assert.equal(write(rig, 0x0f, 0x1000), 4);
    assert.equal(write(rig, 0x10, 0x1000), 0);
    rig.ram.writeBytes(STREAM_TABLE, bytesOf(encodeL1Std(L2, 9))); // more than SPLIT gives
    rig.submit(encodeCfgiAll());
    assert.equal(write(rig, 0x0f, 0x1000), 0);
    assert.deepEqual(names(rig), ['C_BAD_STREAMID', 'C_BAD_STREAMID']);
  });
});

describe('the event queue', () => {
  test('interrupts when it stops being empty, and not for what follows', () => {
    const rig = translatingRig();
    write(rig, 0x10, 0x9000);
    write(rig, 0x10, 0xa000);
    assert.deepEqual(rig.irqs, ['eventq']);
    rig.write(v3.SMMU_EVENTQ_CONS, 2);
    write(rig, 0x10, 0xb000);
    assert.deepEqual(rig.irqs, ['eventq', 'eventq']);
    assert.deepEqual(rig.smmu.counts.events, { F_TRANSLATION: 3 });
  });

  test('uses every slot, then loses records and says so once until it is acknowledged', () => {
    const rig = translatingRig();
    for (let i = 0; i < 6; i++) write(rig, 0x10, 0x9000 + i * 0x1000);
    assert.equal(rig.events().length, 4);
    assert.equal(rig.read(v3.SMMU_EVENTQ_PROD), 0x8000_0004);
    assert.equal(rig.smmu.counts.eventsLost, 2);
    assert.equal(rig.read(v3.SMMU_GERROR), 0);
    rig.write(v3.SMMU_EVENTQ_CONS, 0x8000_0004);
    write(rig, 0x10, 0x9000);
    assert.equal(rig.read(v3.SMMU_EVENTQ_PROD), 0x8000_0005);
    for (let i = 0; i < 4; i++) write(rig, 0x10, 0x9000);
    assert.equal(rig.read(v3.SMMU_EVENTQ_PROD) >>> 31, 0, 'the next overflow toggles back');
  });

  test('that is off takes nothing and never overflows', () => {
    const rig = translatingRig();
    rig.write(v3.SMMU_CR0, 0b1001);
    for (let i = 0; i < 6; i++) write(rig, 0x10, 0x9000);
    assert.equal(rig.read(v3.SMMU_EVENTQ_PROD), 0);
  });

  test('outside RAM raises EVENTQ_ABT', () => {
    const rig = translatingRig();
    rig.write(v3.SMMU_CR0, 0b1001);
    rig.write(v3.SMMU_EVENTQ_BASE_HI, 0);
    rig.write(v3.SMMU_CR0, 0b1101);
    write(rig, 0x10, 0x9000);
    assert.equal(rig.read(v3.SMMU_GERROR), 4);
    assert.deepEqual(rig.irqs, ['gerror']);
  });
});
