import { assert, describe, test } from 'vitest';
import {
  DFSC,
  decodeDataAbort,
  decodeVtcr,
  descriptorAddress,
  descriptorKind,
  encodeDataAbort,
  encodeVtcr,
  formatDfsc,
  MEM_ATTR,
  S2AP,
  SHAREABILITY,
  stage2Choice,
  stage2Geometry,
  writeLeaf,
  writeTable,
} from '#shared/arch/vmsa.ts';

const RAM_RW = { s2ap: S2AP.readWrite, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: false };

describe('stage-2 descriptors', () => {
  test('have the bits of the book', () => {
    const words = new Uint32Array(6);
    writeTable(words, 0, 0xabcd_1234_5000);
    writeLeaf(words, 1, 3, 0x8000_0000_1000, { ...RAM_RW, xn: true, software: 5 });
    writeLeaf(words, 2, 2, 0x4020_0000, RAM_RW);
    assert.deepEqual([...words], [0x1234_5003, 0xabcd, 0x0000_17ff, 0x02c0_8000, 0x4020_07fd, 0]);
    assert.equal(descriptorAddress(words[2]!, words[3]!), 0x8000_0000_1000);
  });

  test('are tables, leaves or invalid by their level', () => {
    assert.equal(descriptorKind(0b11, 0), 'table');
    assert.equal(descriptorKind(0b01, 0), 'invalid');
    assert.equal(descriptorKind(0b01, 1), 'leaf');
    assert.equal(descriptorKind(0b11, 3), 'leaf');
    assert.equal(descriptorKind(0b01, 3), 'invalid');
    assert.equal(descriptorKind(0b10, 2), 'invalid');
  });
});

describe('the geometry of stage 2', () => {
  test('permits exactly the T0SZ range of each start level', () => {
    const permitted = (sl0: number): (number | undefined)[] => {
      const all: number[] = [];
      for (let t0sz = 0; t0sz < 64; t0sz++) if (stage2Geometry(t0sz, sl0) !== undefined) all.push(t0sz);
      return [all[0], all.at(-1), all.length];
    };
    assert.deepEqual(permitted(2), [16, 24, 9]);
    assert.deepEqual(permitted(1), [21, 33, 13]);
    assert.deepEqual(permitted(0), [30, 39, 10]);
    assert.deepEqual(permitted(3), [undefined, undefined, 0]);
  });

  test('is what Xen takes for each width of physical addresses', () => {
    const rows = [32, 36, 40, 42, 44, 48].map((bits) => {
      const { t0sz, sl0, rootTables } = stage2Choice(bits);
      return [bits, t0sz, sl0, rootTables];
    });
    assert.deepEqual(rows, [
      [32, 32, 1, 1],
      [36, 28, 1, 1],
      [40, 24, 1, 2],
      [42, 22, 1, 8],
      [44, 20, 2, 1],
      [48, 16, 2, 1],
    ]);
  });

  test('goes through VTCR_EL2 and back', () => {
    const raw = encodeVtcr({ t0sz: 24, sl0: 1, ps: 2, vmid16: true });
    assert.equal(raw, 0x800a_3558);
    assert.deepEqual(decodeVtcr(raw), { t0sz: 24, sl0: 1, tg0: 0, ps: 2, vmid16: true });
  });
});

describe('the syndrome of a data abort', () => {
  test('of a 32-bit store has ISV, SAS, WnR and the level of the fault', () => {
    const esr = encodeDataAbort({ dfsc: DFSC.TRANSLATION | 2, isWrite: true, sizeBytes: 4 });
    assert.equal(esr, 0x9380_0046);
    assert.deepEqual(decodeDataAbort(esr), { dfsc: 0b000110, isWrite: true, sizeBytes: 4 });
    assert.equal(formatDfsc(0b000110), 'translation fault, level 2');
  });

  test('of a block of bytes has no valid syndrome', () => {
    assert.equal(
      decodeDataAbort(encodeDataAbort({ dfsc: DFSC.PERMISSION | 3, isWrite: false, sizeBytes: 64 }))?.sizeBytes,
      0,
    );
  });

  test('is not found in another exception', () => {
    assert.equal(decodeDataAbort(0x5600_0000), undefined);
  });
});
