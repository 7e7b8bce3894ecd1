/** The ITS through its registers, its queue and its doorbell, against two redistributors. */
import { assert, describe, test } from 'vitest';
import {
  decodeGitsBaser,
  decodeGitsTyper,
  GITS_BASER,
  GITS_CREADR,
  GITS_CTLR,
  GITS_CTLR_Quiescent,
  GITS_CWRITER,
  GITS_TRANSLATER,
  GITS_TYPER,
} from '#shared/arch/gic/its.ts';
import {
  encodeClear,
  encodeDiscard,
  encodeInt,
  encodeInv,
  encodeInvall,
  encodeMapc,
  encodeMapd,
  encodeMapi,
  encodeMapti,
  encodeMovall,
  encodeMovi,
  encodeSync,
} from '#shared/arch/gic/its-commands.ts';
import { Bench, COLLECTION_TABLE, DEVICE_TABLE, ITT, requester } from './bench.ts';

const NOTHING = 1023;
const DEVICE = 0x108;
const LPI = 8200;

/** Device 0x108 with 32 events; event 3 is LPI 8200 in collection 0, at PE 0; collection 1 is at PE 1. */
function mapped(): Bench {
  const b = new Bench().ready();
  b.configure(LPI, 0xa0, true);
  b.command(
    encodeMapc({ icid: 0, rdbase: 0, valid: true }),
    encodeMapc({ icid: 1, rdbase: 1, valid: true }),
    encodeMapd({ deviceId: DEVICE, size: 4, ittAddress: ITT, valid: true }),
    encodeMapti({ deviceId: DEVICE, eventId: 3, pIntid: LPI, icid: 0 }),
    encodeInv({ deviceId: DEVICE, eventId: 3 }),
    encodeSync({ rdbase: 0 }),
  );
  return b;
}

describe('an ITS', () => {
  test('a message of a device becomes the LPI that was mapped, at the PE of its collection', () => {
    const b = mapped();
    b.msi(DEVICE, 3);
    assert.deepEqual(b.signals, [0]);
    assert.equal(b.iar(0), LPI);
    assert.equal(b.iar(1), NOTHING);
    assert.equal(b.its.counts.msisDelivered, 1);
    assert.deepEqual(b.its.counts.commands, { MAPC: 2, MAPD: 1, MAPTI: 1, INV: 1, SYNC: 1 });
    assert.deepEqual(b.its.counts.commandProblems, {});
  });

  test('a store of a CPU to the doorbell raises nothing', () => {
    const b = mapped();
    b.its.write(GITS_TRANSLATER, 4, 3);
    assert.equal(b.iar(0), NOTHING);
    assert.deepEqual(b.its.counts.msisDropped, { 'not-from-a-device': 1 });
  });

  test('a device that msi-map sends to another ITS raises nothing here', () => {
    const b = mapped();
    b.its.write(GITS_TRANSLATER, 4, 3, {
      ...requester(DEVICE),
      deviceIdAt: (phandle) => (phandle === 1 ? DEVICE : -1),
    });
    assert.equal(b.iar(0), NOTHING);
    assert.deepEqual(b.its.counts.msisDropped, { 'no-device-id': 1 });
  });

  test('a message is dropped for another device, an event beyond the table, and an event without an entry', () => {
    const b = mapped();
    b.msi(DEVICE + 1, 3);
    b.msi(0x1_0000, 3);
    b.msi(DEVICE, 32);
    b.msi(DEVICE, 4);
    assert.equal(b.iar(0), NOTHING);
    assert.deepEqual(b.its.counts.msisDropped, {
      'unmapped-device': 1,
      'device-oor': 1,
      'id-oor': 1,
      'unmapped-interrupt': 1,
    });
  });

  test('a message is dropped while the ITS is disabled', () => {
    const b = mapped();
    b.its.write(GITS_CTLR, 4, 0);
    assert.equal(b.its.read(GITS_CTLR, 4), GITS_CTLR_Quiescent);
    b.msi(DEVICE, 3);
    assert.deepEqual(b.its.counts.msisDropped, { 'its-disabled': 1 });
  });

  test('MAPC after MAPTI moves the target of what comes later', () => {
    const b = mapped();
    b.command(encodeMapc({ icid: 0, rdbase: 1, valid: true }));
    b.msi(DEVICE, 3);
    assert.equal(b.iar(0), NOTHING);
    assert.equal(b.iar(1), LPI);
  });

  test('an unmapped collection drops messages', () => {
    const b = mapped();
    b.command(encodeMapc({ icid: 0, rdbase: 0, valid: false }));
    b.msi(DEVICE, 3);
    assert.deepEqual(b.its.counts.msisDropped, { 'unmapped-collection': 1 });
  });

  test('MOVI takes the pending LPI along', () => {
    const b = mapped();
    b.msi(DEVICE, 3);
    b.command(encodeMovi({ deviceId: DEVICE, eventId: 3, icid: 1 }));
    assert.equal(b.iar(0), NOTHING);
    assert.equal(b.iar(1), LPI);
  });

  test('MOVALL takes every pending LPI along, and later ones still follow the collection', () => {
    const b = mapped();
    b.msi(DEVICE, 3);
    b.command(encodeMovall({ rdbase1: 0, rdbase2: 1 }));
    assert.equal(b.iar(1), LPI);
    b.eoi(1, LPI);
    b.msi(DEVICE, 3);
    assert.equal(b.iar(0), LPI);
  });

  test('CLEAR and DISCARD take the pending state away, and DISCARD the entry too', () => {
    const b = mapped();
    b.msi(DEVICE, 3);
    b.command(encodeClear({ deviceId: DEVICE, eventId: 3 }));
    assert.equal(b.iar(0), NOTHING);
    b.msi(DEVICE, 3);
    b.command(encodeDiscard({ deviceId: DEVICE, eventId: 3 }));
    assert.equal(b.iar(0), NOTHING);
    b.msi(DEVICE, 3);
    assert.deepEqual(b.its.counts.msisDropped, { 'unmapped-interrupt': 1 });
  });

  test('INT does what a message does, and MAPI makes the EventID the LPI', () => {
    const b = mapped();
    b.command(encodeInt({ deviceId: DEVICE, eventId: 3 }));
    assert.equal(b.iar(0), LPI);
    b.configure(8195, 0xa0, true);
    b.command(
      encodeMapd({ deviceId: 9, size: 15, ittAddress: ITT + 0x1_0000, valid: true }),
      encodeMapi({ deviceId: 9, eventId: 8195, icid: 1 }),
    );
    b.msi(9, 8195);
    assert.equal(b.iar(1), 8195);
  });

  test('MAPD with V=0 ends the device, and its neighbours go on', () => {
    const b = mapped();
    b.command(encodeMapd({ deviceId: DEVICE, size: 0, ittAddress: 0, valid: false }));
    b.msi(DEVICE, 3);
    assert.deepEqual(b.its.counts.msisDropped, { 'unmapped-device': 1 });
  });

  test('an LPI that is enabled in the table takes effect at INV, not before', () => {
    const b = mapped();
    b.configure(LPI, 0xa0, false);
    b.command(encodeInv({ deviceId: DEVICE, eventId: 3 }));
    b.msi(DEVICE, 3);
    assert.equal(b.iar(0), NOTHING);
    b.configure(LPI, 0xa0, true);
    b.msi(DEVICE, 3);
    assert.equal(b.iar(0), NOTHING);
    b.command(encodeInv({ deviceId: DEVICE, eventId: 3 }));
    assert.equal(b.iar(0), LPI);
  });

  test('INVALL reads the configuration of all LPIs of the collection again', () => {
    const b = mapped();
    b.msi(DEVICE, 3);
    b.eoi(0, b.iar(0));
    b.configure(LPI, 0xa0, false);
    b.msi(DEVICE, 3);
    assert.equal(b.iar(0), LPI);
    b.eoi(0, LPI);
    b.command(encodeInvall({ icid: 0 }));
    b.msi(DEVICE, 3);
    assert.equal(b.iar(0), NOTHING);
  });

  test('a bad command is counted by reason and the next one runs', () => {
    const b = mapped();
    b.command(
      encodeMapd({ deviceId: 0x1_0000, size: 4, ittAddress: ITT, valid: true }),
      encodeMapd({ deviceId: 1, size: 16, ittAddress: ITT, valid: true }),
      encodeMapc({ icid: 2, rdbase: 2, valid: true }),
      encodeMapti({ deviceId: 7, eventId: 0, pIntid: 8192, icid: 0 }),
      encodeMapti({ deviceId: DEVICE, eventId: 32, pIntid: 8192, icid: 0 }),
      encodeMapti({ deviceId: DEVICE, eventId: 0, pIntid: 8191, icid: 0 }),
      encodeMapti({ deviceId: DEVICE, eventId: 0, pIntid: 0x1_0000, icid: 0 }),
      encodeMapti({ deviceId: DEVICE, eventId: 0, pIntid: 8192, icid: 0x2000 }),
      Uint32Array.of(0x21, 0, 0, 0, 0, 0, 0, 0),
      encodeMapti({ deviceId: DEVICE, eventId: 0, pIntid: 8192, icid: 0 }),
    );
    assert.deepEqual(b.its.counts.commandProblems, {
      'MAPD: device-oor': 1,
      'MAPD: itt-size-oor': 1,
      'MAPC: procnum-oor': 1,
      'MAPTI: unmapped-device': 1,
      'MAPTI: id-oor': 1,
      'MAPTI: physical-id-oor': 2,
      'MAPTI: collection-oor': 1,
      'unknown: unknown-command': 1,
    });
    b.configure(8192, 0xa0, true);
    b.msi(DEVICE, 0);
    assert.equal(b.iar(0), 8192);
  });

  test.each([
    ['to', 1],
    ['from', 0],
  ] as const)('MOVI %s a collection that names no PE, as only software writes it, moves nothing', (_way, icid) => {
    const b = mapped();
    b.msi(DEVICE, 3);
    b.command(encodeMapc({ icid, rdbase: icid, valid: true }));
    b.ram.write32(COLLECTION_TABLE + 8 * icid, 0xffff);
    b.command(encodeMovi({ deviceId: DEVICE, eventId: 3, icid: 1 }));
    assert.deepEqual(b.its.counts.commandProblems, { 'MOVI: procnum-oor': 1 });
    assert.equal(b.ram.read32(ITT + 28) & 0xffff, 0);
    assert.equal(b.iar(0), LPI);
    assert.equal(b.iar(1), NOTHING);
  });

  test('the tables lie in RAM in the format that is written down', () => {
    const b = mapped();
    assert.equal(b.ram.read32(DEVICE_TABLE + 8 * DEVICE), (ITT | 4) >>> 0);
    assert.equal(b.ram.read32(DEVICE_TABLE + 8 * DEVICE + 4), 0x8000_0000);
    assert.equal(b.ram.read32(COLLECTION_TABLE + 8), 1);
    assert.equal(b.ram.read32(ITT + 24), LPI);
    assert.equal(b.ram.read32(ITT + 28), 0x8000_0000);
  });

  test('the queue wraps, and commands queued while disabled run when the ITS is enabled', () => {
    const b = mapped();
    for (let i = 0; i < 150; i++) b.command(encodeInv({ deviceId: DEVICE, eventId: 3 }));
    assert.equal(b.its.read(GITS_CREADR, 4), (156 * 32) % 0x1000);
    b.its.write(GITS_CTLR, 4, 0);
    b.command(encodeInt({ deviceId: DEVICE, eventId: 3 }));
    assert.equal(b.iar(0), NOTHING);
    b.its.write(GITS_CTLR, 4, 1);
    assert.equal(b.iar(0), LPI);
  });

  test('a GITS_CWRITER beyond the queue is ignored', () => {
    const b = mapped();
    const before = b.its.read(GITS_CWRITER, 4);
    b.its.write(GITS_CWRITER, 4, 0x1000);
    assert.equal(b.its.read(GITS_CWRITER, 4), before);
  });

  test('GITS_BASERn keeps its type and entry size and is read-only while enabled', () => {
    const b = new Bench();
    b.its.write(GITS_BASER, 4, 0xffff_ffff);
    b.its.write(GITS_BASER + 4, 4, 0xffff_ffff);
    const baser = decodeGitsBaser({ lo: b.its.read(GITS_BASER, 4), hi: b.its.read(GITS_BASER + 4, 4) });
    assert.deepEqual([baser.Type, baser.entryBytes, baser.Indirect, baser.pageBytes], [1, 8, true, 0x1_0000]);
    assert.equal(b.its.read(GITS_BASER + 0x14, 4), 0);
    b.ready();
    const enabled = b.its.read(GITS_BASER, 4);
    b.its.write(GITS_BASER, 4, 0);
    assert.equal(b.its.read(GITS_BASER, 4), enabled);
  });

  test('GITS_TYPER says 8-byte entries, 16-bit DeviceIDs and EventIDs, targets by processor number', () => {
    const { its } = new Bench();
    const typer = decodeGitsTyper({ lo: its.read(GITS_TYPER, 4), hi: its.read(GITS_TYPER + 4, 4) });
    assert.deepEqual(
      [typer.ittEntryBytes, typer.deviceIdBits, typer.eventIdBits, typer.PTA, typer.collectionIdBits],
      [8, 16, 16, false, 16],
    );
  });
});
