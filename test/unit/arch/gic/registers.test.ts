/** 64-bit registers of the GIC as pairs of words: golden values, and back. */
import { assert, describe, test } from 'vitest';
import { decodeGicdTyper, encodeGicdTyper } from '#shared/arch/gic/distributor.ts';
import {
  decodeGitsBaser,
  decodeGitsCbaser,
  decodeGitsTyper,
  encodeGitsBaser,
  encodeGitsCbaser,
  encodeGitsTyper,
} from '#shared/arch/gic/its.ts';
import {
  encodeLpiConfig,
  lpiConfigAddress,
  lpiConfigTableBytes,
  lpiPendingTableBytes,
} from '#shared/arch/gic/lpi-tables.ts';
import {
  decodeGicrPendbaser,
  decodeGicrPropbaser,
  decodeGicrTyper,
  encodeGicrPendbaser,
  encodeGicrPropbaser,
  encodeGicrTyper,
} from '#shared/arch/gic/redistributor.ts';

describe('registers of the GIC', () => {
  test('GITS_TYPER holds sizes less one', () => {
    const typer = {
      Physical: true,
      ittEntryBytes: 8,
      eventIdBits: 16,
      deviceIdBits: 16,
      PTA: false,
      HCC: 0,
      collectionIdBits: 16,
    };
    assert.deepEqual(encodeGitsTyper(typer), { lo: 0x0001_ef71, hi: 0 });
    assert.deepEqual(decodeGitsTyper({ lo: 0x0001_ef71, hi: 0 }), typer);
  });

  test('GITS_TYPER with CIL says how many bits an ICID has', () => {
    assert.equal(decodeGitsTyper({ lo: 1, hi: 0x17 }).collectionIdBits, 8);
  });

  test('GITS_CBASER keeps an address above 4 GiB and its Valid bit', () => {
    const cbaser = {
      Valid: true,
      pa: 0x8000_4001_0000,
      sizeBytes: 0x1_0000,
      InnerCache: 7,
      OuterCache: 0,
      Shareability: 1,
    };
    assert.deepEqual(encodeGitsCbaser(cbaser), { lo: 0x4001_040f, hi: 0xb800_8000 });
    assert.deepEqual(decodeGitsCbaser(encodeGitsCbaser(cbaser)), cbaser);
  });

  test('GITS_BASERn with 64 KiB pages carries address bits 51 to 48 in bits 15 to 12', () => {
    const baser = {
      Valid: true,
      Indirect: false,
      Type: 1,
      entryBytes: 8,
      pa: 0x9_0000_0001_0000,
      pageBytes: 0x1_0000,
      sizeBytes: 0x8_0000,
      InnerCache: 7,
      OuterCache: 0,
      Shareability: 1,
    };
    assert.deepEqual(encodeGitsBaser(baser), { lo: 0x0001_9607, hi: 0xb907_0000 });
    assert.deepEqual(decodeGitsBaser(encodeGitsBaser(baser)), baser);
  });

  test('GITS_BASERn with 4 KiB pages keeps bits 15 to 12 as address', () => {
    const baser = decodeGitsBaser({ lo: 0x4000_3001, hi: 0x8407_0001 });
    assert.equal(baser.pa, 0x1_4000_3000);
    assert.equal(baser.sizeBytes, 0x2000);
    assert.equal(baser.Type, 4);
  });

  test('GICR_PROPBASER and GICR_PENDBASER survive the way there and back', () => {
    const prop = { idBits: 16, pa: 0x1_2345_6000, InnerCache: 7, OuterCache: 0, Shareability: 1 };
    assert.deepEqual(encodeGicrPropbaser(prop), { lo: 0x2345_678f, hi: 1 });
    assert.deepEqual(decodeGicrPropbaser(encodeGicrPropbaser(prop)), prop);
    const pend = { pa: 0x1_2345_0000, PTZ: true, InnerCache: 7, OuterCache: 0, Shareability: 1 };
    assert.deepEqual(encodeGicrPendbaser(pend), { lo: 0x2345_0780, hi: 0x4000_0001 });
    assert.deepEqual(decodeGicrPendbaser(encodeGicrPendbaser(pend)), pend);
  });

  test('GICR_TYPER names the PE by number and by affinity', () => {
    const typer = { PLPIS: true, DirectLPI: true, Last: true, Processor_Number: 5, affinity: 0x0100_0103 };
    assert.deepEqual(encodeGicrTyper(typer), { lo: 0x519, hi: 0x0100_0103 });
    assert.deepEqual(decodeGicrTyper(encodeGicrTyper(typer)), typer);
  });

  test('GICD_TYPER counts interrupts in 32s', () => {
    assert.deepEqual(decodeGicdTyper(encodeGicdTyper({ lines: 992, idBits: 16 })), {
      lines: 992,
      idBits: 16,
      lpis: true,
    });
    assert.equal(encodeGicdTyper({ lines: 992, idBits: 16 }) & 0x1f, 30);
  });

  test('the LPI tables of 16-bit INTIDs have 57344 and 8192 bytes', () => {
    assert.equal(lpiConfigTableBytes(16), 57344);
    assert.equal(lpiPendingTableBytes(16), 8192);
    assert.equal(lpiConfigAddress(0x4000_0000, 8193), 0x4000_0001);
    assert.equal(encodeLpiConfig(0xa0, true), 0xa3);
  });
});
