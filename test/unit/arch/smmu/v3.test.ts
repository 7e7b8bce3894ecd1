import { assert, describe, test } from 'vitest';
import {
  decodeEvent,
  EVENT_CLASS,
  EVT,
  encodeCfgiAll,
  encodeCfgiSte,
  encodeEvent,
  encodePrefetchConfig,
  encodeSync,
  encodeTlbiNsnhAll,
  encodeTlbiS2Ipa,
  encodeTlbiS12Vmall,
  queueEmpty,
  queueFull,
  queueNext,
  queueUsed,
  SYNC_CS,
} from '#shared/arch/smmu/v3-queues.ts';
import { encodeAbortSte, encodeBypassSte, encodeL1Std, encodeStage2Ste } from '#shared/arch/smmu/v3-structures.ts';
import { bytesOf } from '#shared/regs/struct.ts';

const hex = (words: Uint32Array): string[] => [...words].map((w) => w.toString(16));

describe('SMMUv3 commands', () => {
  test('have the words of the book', () => {
    assert.deepEqual(hex(encodeCfgiSte(0x0102, true)), ['3', '102', '1', '0']);
    assert.deepEqual(hex(encodeCfgiAll()), ['4', '0', '1f', '0']);
    assert.deepEqual(hex(encodeTlbiS12Vmall(0xbeef)), ['28', 'beef', '0', '0']);
    assert.deepEqual(hex(encodeTlbiS2Ipa(3, 0x12_3456_7000, true)), ['2a', '3', '34567001', '12']);
    assert.deepEqual(hex(encodeTlbiNsnhAll()), ['30', '0', '0', '0']);
    assert.deepEqual(hex(encodePrefetchConfig(0x100)), ['1', '100', '0', '0']);
    assert.deepEqual(hex(encodeSync(SYNC_CS.SIG_IRQ)), ['1046', '0', '0', '0']);
  });
});

describe('stream table entries', () => {
  test('of stage 2 have S2R and S2AA64 set and nothing of stage 1', () => {
    const ste = encodeStage2Ste({ vmid: 7, t0sz: 24, sl0: 1, ps: 5, ttb: 0x8000_1234_2000 });
    assert.deepEqual(hex(ste).slice(0, 8), ['d', '0', '0', '1000', '7', '44d3558', '12342000', '8000']);
    assert.equal(bytesOf(ste).length, 64);
  });

  test('that abort or bypass are one word each', () => {
    assert.equal(encodeAbortSte()[0], 1);
    assert.equal(encodeBypassSte()[0], 9);
    assert.deepEqual(hex(encodeL1Std(0x1_0000_4000, 8)), ['4009', '1']);
  });
});

describe('event records', () => {
  test('of a translation fault carry stream, address, direction and stage', () => {
    const event = {
      code: EVT.F_TRANSLATION,
      streamId: 0x100,
      inputAddress: 0x8000_0000_1234,
      isRead: true,
      stage2: true,
      eventClass: EVENT_CLASS.IN,
      ipa: 0x8000_0000_1000,
      fetchAddress: 0,
    };
    const words = new Uint32Array(16);
    encodeEvent(words, 8, event);
    assert.deepEqual(hex(words.subarray(8)), ['10', '100', '0', '288', '1234', '8000', '1000', '8000']);
    assert.deepEqual(decodeEvent(words, 8), event);
  });

  test('of a bad STE say nothing but the stream', () => {
    const words = new Uint32Array(8).fill(0xffff_ffff);
    encodeEvent(words, 0, {
      code: EVT.C_BAD_STE,
      streamId: 9,
      inputAddress: 1,
      isRead: true,
      stage2: true,
      eventClass: 2,
      ipa: 0,
      fetchAddress: 0,
    });
    assert.deepEqual(hex(words), ['4', '9', '0', '0', '0', '0', '0', '0']);
  });

  test('of an aborted fetch carry the address of the fetch', () => {
    const words = new Uint32Array(8);
    encodeEvent(words, 0, {
      code: EVT.F_STE_FETCH,
      streamId: 9,
      inputAddress: 0,
      isRead: false,
      stage2: false,
      eventClass: 2,
      ipa: 0,
      fetchAddress: 0x40_0000_0240,
    });
    assert.deepEqual(hex(words), ['3', '9', '0', '0', '0', '0', '240', '40']);
    assert.equal(decodeEvent(words, 0).fetchAddress, 0x40_0000_0240);
  });
});

describe('queue pointers', () => {
  test('use every slot: four entries fill a queue of four', () => {
    let prod = 0;
    for (let i = 0; i < 4; i++) {
      assert.isFalse(queueFull(prod, 0, 2));
      prod = queueNext(prod, 2);
    }
    assert.isTrue(queueFull(prod, 0, 2));
    assert.isFalse(queueEmpty(prod, 0, 2));
    assert.equal(queueUsed(prod, 0, 2), 4);
    assert.isTrue(queueEmpty(queueNext(7, 2), 0, 2));
  });
});
