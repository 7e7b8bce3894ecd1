/** The ITS as its implementer may choose it: sizes, formats, two-level tables, errors and what they do. */
import { assert, describe, test } from 'vitest';
import {
  decodeGitsBaser,
  decodeGitsTyper,
  encodeGitsBaser,
  encodeGitsCbaser,
  GITS_BASER,
  GITS_CBASER,
  GITS_CREADR,
  GITS_CTLR,
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
  itsCommandBytes,
} from '#shared/arch/gic/its-commands.ts';
import { BoardError } from '../../../../services/hardware/board.ts';
import { Its } from '../../../../services/hardware/gic/its/its.ts';
import { LOOK_LIMITS } from '../../../../services/hardware/look.ts';
import { Bench, type BenchOptions, DEVICE_TABLE, GICR_PA, ITT, QUEUE, RAM, requester, write64 } from './bench.ts';

const NOTHING = 1023;
const DEVICE = 0x108;
const LPI = 8200;
const PAGE = RAM + 0x80_0000;

function mapped(options: BenchOptions = {}): Bench {
  const b = new Bench(options).ready();
  b.configure(LPI, 0xa0, true);
  const rdbase = (pe: number): number => (options.its?.PTA === true ? GICR_PA / 0x1_0000 + 2 * pe : pe);
  b.command(
    encodeMapc({ icid: 0, rdbase: rdbase(0), valid: true }),
    encodeMapc({ icid: 1, rdbase: rdbase(1), valid: true }),
    encodeMapd({ deviceId: DEVICE, size: 4, ittAddress: ITT, valid: true }),
    encodeMapti({ deviceId: DEVICE, eventId: 3, pIntid: LPI, icid: 1 }),
  );
  return b;
}

function typerOf(b: Bench) {
  return decodeGitsTyper({ lo: b.its.read(GITS_TYPER, 4), hi: b.its.read(GITS_TYPER + 4, 4) });
}

function inspected(b: Bench) {
  return b.its.inspect() as {
    errors: Record<string, number>;
    lastError: string;
    registers: { stalled: boolean };
    devices: Record<string, { ittPa: number; events: number; mapped: unknown[] }>;
    collections: Record<string, number>;
    incomplete: string;
  };
}

describe('an ITS by choice', () => {
  for (const ittEntryBytes of [4, 8, 12] as const) {
    test(`keeps its interrupts in entries of ${ittEntryBytes} bytes, in RAM at the address of the MAPD`, () => {
      const b = mapped({ its: { ittEntryBytes, collectionIdBits: 12 } });
      const typer = typerOf(b);
      assert.deepEqual([typer.ittEntryBytes, typer.collectionIdBits], [ittEntryBytes, 12]);
      b.msi(DEVICE, 3);
      assert.equal(b.iar(1), LPI);
      const at = ITT + 3 * ittEntryBytes;
      const words = [b.ram.read32(at), ittEntryBytes === 4 ? 0 : b.ram.read32(at + 4)];
      assert.deepEqual(words, ittEntryBytes === 4 ? [(0x8001_0000 | LPI) >>> 0, 0] : [LPI, 0x8000_0001]);
      // Entries around it are untouched.
      assert.deepEqual([b.ram.read32(at - 4), b.ram.read32(at + ittEntryBytes)], [0, 0]);
    });
  }

  test('refuses what its registers cannot say', () => {
    const choices = [{ deviceIdBits: 7 }, { eventIdBits: 33 }, { ittEntryBytes: 4 as const }, { collectionIdBits: 17 }];
    for (const its of choices) assert.throws(() => new Bench({ its }), BoardError);
    assert.throws(() => new Bench({ gic: { idBits: 13 } }), BoardError);
  });

  test('names redistributors by address when GITS_TYPER.PTA is 1', () => {
    const b = mapped({ its: { PTA: true } });
    assert.isTrue(typerOf(b).PTA);
    b.msi(DEVICE, 3);
    assert.deepEqual([b.iar(0), b.iar(1)], [NOTHING, LPI]);
    b.command(encodeSync({ rdbase: GICR_PA / 0x1_0000 }), encodeSync({ rdbase: 1 }));
    assert.deepEqual(b.its.counts.commandProblems, { 'SYNC: procnum-oor': 1 });
  });

  test('takes DeviceIDs of 32 bits through a two-level table, whose pages software adds when it needs them', () => {
    const b = new Bench({ its: { deviceIdBits: 32, eventIdBits: 32 } }).ready();
    assert.deepEqual([typerOf(b).deviceIdBits, typerOf(b).eventIdBits], [32, 32]);
    b.configure(LPI, 0xa0, true);
    b.its.write(GITS_CTLR, 4, 0);
    const attributes = { InnerCache: 7, OuterCache: 0, Shareability: 1 };
    const level1 = { Valid: true, Indirect: true, Type: 1, entryBytes: 8, pa: DEVICE_TABLE, pageBytes: 0x1_0000 };
    write64(b.its, GITS_BASER, encodeGitsBaser({ ...level1, sizeBytes: 0x1_0000, ...attributes }));
    b.its.write(GITS_CTLR, 4, 1);
    // 8192 level 1 entries of 8192 devices each.
    const deviceId = 8192 * 5000 + 77;
    b.command(
      encodeMapc({ icid: 0, rdbase: 0, valid: true }),
      encodeMapd({ deviceId, size: 4, ittAddress: ITT, valid: true }),
    );
    assert.deepEqual(inspected(b).errors, { '0x010801': 1 });
    b.msi(deviceId, 3);
    assert.deepEqual(b.its.counts.msisDropped, { 'unmapped-device': 1 });
    b.ram.write32(DEVICE_TABLE + 8 * 5000, PAGE);
    b.ram.write32(DEVICE_TABLE + 8 * 5000 + 4, 0x8000_0000);
    b.command(
      encodeMapd({ deviceId, size: 31, ittAddress: ITT, valid: true }),
      encodeMapti({ deviceId, eventId: 3, pIntid: LPI, icid: 0 }),
      encodeMapd({ deviceId: 8192 * 8192, size: 4, ittAddress: ITT, valid: true }),
    );
    assert.equal(b.ram.read32(PAGE + 8 * 77), (ITT | 31) >>> 0);
    b.msi(deviceId, 3);
    assert.equal(b.iar(0), LPI);
    assert.deepEqual(inspected(b).errors, { '0x010801': 2, '0x010304': 1 });
    const [[shownId, shown] = [], ...others] = Object.entries(inspected(b).devices);
    assert.deepEqual(
      [shownId, shown?.events, shown?.mapped[0]],
      [String(deviceId), 2 ** 32, { eventId: 3, pIntid: LPI, icid: 0 }],
    );
    assert.deepEqual(others, []);
  });

  test('shows the page sizes that it has, and Indirect only when it can', () => {
    const b = new Bench({ its: { pageBytes: [0x1000], indirect: false } });
    const ask = (pageBytes: number) => {
      const base = { Valid: true, Indirect: true, Type: 1, entryBytes: 8, pa: DEVICE_TABLE, pageBytes };
      const attributes = { InnerCache: 7, OuterCache: 0, Shareability: 1 };
      write64(b.its, GITS_BASER, encodeGitsBaser({ ...base, sizeBytes: pageBytes, ...attributes }));
      const got = decodeGitsBaser({ lo: b.its.read(GITS_BASER, 4), hi: b.its.read(GITS_BASER + 4, 4) });
      return [got.pageBytes, got.Indirect];
    };
    assert.deepEqual(ask(0x1_0000), [0x1000, false]);
    assert.deepEqual(ask(0x4000), [0x1000, false]);
    const wide = new Bench({ its: { pageBytes: [0x1000, 0x4000] } });
    for (const [code, kept] of [
      [0, 0],
      [1, 1],
      [2, 0],
      [3, 0],
    ] as const) {
      wide.its.write(GITS_BASER, 4, code << 8);
      assert.equal((wide.its.read(GITS_BASER, 4) >>> 8) & 3, kept);
    }
  });

  test('has a code of the architecture for every bad parameter', () => {
    const b = mapped();
    const unmappedCollection = encodeMapti({ deviceId: DEVICE, eventId: 9, pIntid: 8300, icid: 5 });
    const far = { deviceId: 0x1_0000, eventId: 0 };
    const other = { deviceId: 7, eventId: 0 };
    const beyond = { deviceId: DEVICE, eventId: 32 };
    const empty = { deviceId: DEVICE, eventId: 4 };
    const lost = { deviceId: DEVICE, eventId: 9 };
    b.command(unmappedCollection);
    for (const [command, code] of [
      [encodeMovi({ ...far, icid: 0 }), '0x010101'],
      [encodeMovi({ deviceId: DEVICE, eventId: 3, icid: 0x2000 }), '0x010103'],
      [encodeMovi({ ...other, icid: 0 }), '0x010104'],
      [encodeMovi({ ...beyond, icid: 0 }), '0x010105'],
      [encodeMovi({ ...empty, icid: 0 }), '0x010107'],
      [encodeMovi({ deviceId: DEVICE, eventId: 3, icid: 5 }), '0x010109'],
      [encodeInt(far), '0x010301'],
      [encodeInt(other), '0x010304'],
      [encodeInt(beyond), '0x010305'],
      [encodeInt(empty), '0x010307'],
      [encodeInt(lost), '0x010309'],
      [encodeClear(far), '0x010501'],
      [encodeClear(other), '0x010504'],
      [encodeClear(beyond), '0x010505'],
      [encodeClear(empty), '0x010507'],
      [encodeMapd({ deviceId: 0x1_0000, size: 4, ittAddress: ITT, valid: true }), '0x010801'],
      [encodeMapd({ deviceId: 1, size: 16, ittAddress: ITT, valid: true }), '0x010802'],
      [encodeMapc({ icid: 2, rdbase: 9, valid: true }), '0x010902'],
      [encodeMapc({ icid: 0x2000, rdbase: 0, valid: true }), '0x010903'],
      [encodeMapti({ ...far, pIntid: 8192, icid: 0 }), '0x010a01'],
      [encodeMapti({ deviceId: DEVICE, eventId: 0, pIntid: 8192, icid: 0x2000 }), '0x010a03'],
      [encodeMapti({ ...other, pIntid: 8192, icid: 0 }), '0x010a04'],
      [encodeMapti({ ...beyond, pIntid: 8192, icid: 0 }), '0x010a05'],
      [encodeMapti({ deviceId: DEVICE, eventId: 0, pIntid: 8191, icid: 0 }), '0x010a06'],
      [encodeMapi({ deviceId: DEVICE, eventId: 0, icid: 0 }), '0x010b05'],
      [encodeInv(empty), '0x010c07'],
      [encodeInvall({ icid: 0x2000 }), '0x010d03'],
      [encodeInvall({ icid: 5 }), '0x010d09'],
      [encodeMovall({ rdbase1: 0, rdbase2: 7 }), '0x010e01'],
      [encodeDiscard(far), '0x010f01'],
      [encodeDiscard(empty), '0x010f07'],
    ] as const) {
      b.command(command);
      assert.equal(inspected(b).lastError.slice(0, 8), code);
    }
    b.msi(0x1_0000, 3);
    assert.equal(inspected(b).lastError, '0x010301 message deviceId=0x10000 eventId=0x3');
    // An entry that the ITS did not write.
    b.ram.write32(ITT + 8 * 10, 100);
    b.ram.write32(ITT + 8 * 10 + 4, 0x8000_0000);
    b.command(encodeInt({ deviceId: DEVICE, eventId: 10 }));
    assert.equal(inspected(b).lastError.slice(0, 8), '0x010310');
    assert.isFalse(inspected(b).registers.stalled);
  });

  test('that stalls stands at the bad command until it is mended and GITS_CWRITER.Retry is written', () => {
    const b = mapped({ its: { onError: 'stall' } });
    const at = b.its.read(GITS_CREADR, 4);
    b.command(encodeInt({ deviceId: DEVICE, eventId: 4 }), encodeMapc({ icid: 2, rdbase: 0, valid: true }));
    assert.equal(b.its.read(GITS_CREADR, 4), at | 1);
    assert.deepEqual(inspected(b).errors, { '0x010307': 1 });
    const writer = b.its.read(GITS_CWRITER, 4);
    b.its.write(GITS_CWRITER, 4, writer);
    assert.equal(b.its.read(GITS_CREADR, 4), at | 1);
    b.its.write(GITS_CWRITER, 4, writer | 1);
    assert.equal(b.its.read(GITS_CREADR, 4), at | 1);
    b.ram.writeBytes(QUEUE + at, itsCommandBytes([encodeInt({ deviceId: DEVICE, eventId: 3 })]));
    b.its.write(GITS_CWRITER, 4, writer | 1);
    assert.deepEqual([b.its.read(GITS_CREADR, 4), b.its.read(GITS_CWRITER, 4)], [writer, writer]);
    assert.equal(b.iar(1), LPI);
    assert.equal(inspected(b).collections['2'], 0);
  });

  test('that stalls goes on after a command without an architected code', () => {
    const b = mapped({ its: { onError: 'stall' } });
    b.command(Uint32Array.of(0x21, 0, 0, 0, 0, 0, 0, 0), encodeSync({ rdbase: 99 }));
    assert.equal(b.its.read(GITS_CREADR, 4), b.its.read(GITS_CWRITER, 4));
  });

  test('a queue that lies in no RAM stalls, whatever the choice', () => {
    const b = new Bench().ready();
    b.its.write(GITS_CTLR, 4, 0);
    const attributes = { InnerCache: 7, OuterCache: 0, Shareability: 1 };
    write64(b.its, GITS_CBASER, encodeGitsCbaser({ Valid: true, pa: 0x1000_0000, sizeBytes: 0x1000, ...attributes }));
    b.its.write(GITS_CTLR, 4, 1);
    b.its.write(GITS_CWRITER, 4, 32);
    assert.equal(b.its.read(GITS_CREADR, 4), 1);
  });

  test('MAPD gives the device a new table, and what was cached of the old one is forgotten', () => {
    const b = mapped();
    b.msi(DEVICE, 3);
    b.eoi(1, b.iar(1));
    b.command(encodeMapd({ deviceId: DEVICE, size: 4, ittAddress: ITT + 0x1000, valid: true }));
    b.msi(DEVICE, 3);
    assert.deepEqual(b.its.counts.msisDropped, { 'unmapped-interrupt': 1 });
  });

  test('MAPTI onto an event, DISCARD, MOVI and MAPC change what a cached event does', () => {
    const b = mapped();
    b.configure(LPI + 1, 0xa0, true);
    const take = (): number[] => {
      b.msi(DEVICE, 3);
      const taken = [b.iar(0), b.iar(1)];
      taken.forEach((intid, pe) => void b.eoi(pe, intid));
      return taken;
    };
    assert.deepEqual(take(), [NOTHING, LPI]);
    b.command(encodeMapti({ deviceId: DEVICE, eventId: 3, pIntid: LPI + 1, icid: 1 }));
    assert.deepEqual(take(), [NOTHING, LPI + 1]);
    b.command(encodeMovi({ deviceId: DEVICE, eventId: 3, icid: 0 }));
    assert.deepEqual(take(), [LPI + 1, NOTHING]);
    b.command(encodeMapc({ icid: 0, rdbase: 1, valid: true }));
    assert.deepEqual(take(), [NOTHING, LPI + 1]);
    b.command(encodeMapc({ icid: 0, rdbase: 0, valid: false }));
    assert.deepEqual(take(), [NOTHING, NOTHING]);
    b.command(encodeMapc({ icid: 0, rdbase: 0, valid: true }));
    assert.deepEqual(take(), [LPI + 1, NOTHING]);
    b.command(encodeDiscard({ deviceId: DEVICE, eventId: 3 }));
    assert.deepEqual(take(), [NOTHING, NOTHING]);
  });

  test('two ITSs have DeviceIDs and collections of their own, and one set of LPIs', () => {
    const b = mapped();
    const second = new Its('second', 0x43, b.ram, b.gic);
    const attributes = { InnerCache: 7, OuterCache: 0, Shareability: 1 };
    const table = { Valid: true, Indirect: false, entryBytes: 8, pageBytes: 0x1_0000, ...attributes };
    write64(second, GITS_BASER, encodeGitsBaser({ ...table, Type: 1, pa: RAM + 0x90_0000, sizeBytes: 0x1_0000 }));
    write64(second, GITS_BASER + 8, encodeGitsBaser({ ...table, Type: 4, pa: RAM + 0x92_0000, sizeBytes: 0x1_0000 }));
    const queue = RAM + 0x94_0000;
    write64(second, GITS_CBASER, encodeGitsCbaser({ Valid: true, pa: queue, sizeBytes: 0x1000, ...attributes }));
    second.write(GITS_CTLR, 4, 1);
    let writer = 0;
    const run = (...commands: Uint32Array[]): void => {
      b.ram.writeBytes(queue + writer, itsCommandBytes(commands));
      writer += 32 * commands.length;
      second.write(GITS_CWRITER, 4, writer);
    };
    const message = (): void =>
      second.write(GITS_TRANSLATER, 4, 3, {
        ...requester(DEVICE),
        deviceIdAt: (phandle) => (phandle === 0x43 ? DEVICE : -1),
      });
    run(
      encodeMapd({ deviceId: DEVICE, size: 4, ittAddress: ITT + 0x2000, valid: true }),
      encodeMapti({ deviceId: DEVICE, eventId: 3, pIntid: LPI + 1, icid: 1 }),
    );
    b.configure(LPI + 1, 0xa0, true);
    message();
    assert.deepEqual(second.counts.msisDropped, { 'unmapped-collection': 1 });
    run(encodeMapc({ icid: 1, rdbase: 0, valid: true }));
    message();
    b.msi(DEVICE, 3);
    assert.deepEqual([b.iar(0), b.iar(1)], [LPI + 1, LPI]);
    run(encodeMapd({ deviceId: DEVICE, size: 0, ittAddress: 0, valid: false }));
    b.eoi(1, LPI);
    b.msi(DEVICE, 3);
    assert.equal(b.iar(1), LPI);
  });

  test('shows its tables decoded, as RAM holds them whoever wrote that', () => {
    const b = mapped();
    const known = { ittPa: ITT, events: 32, mapped: [{ eventId: 3, pIntid: LPI, icid: 1 }] };
    assert.deepEqual(inspected(b).devices, { [DEVICE]: known });
    assert.deepEqual(inspected(b).collections, { 0: 0, 1: 1 });
    const entry = new Uint8Array(8);
    b.ram.readBytes(DEVICE_TABLE + 8 * DEVICE, entry);
    b.ram.writeBytes(DEVICE_TABLE + 8 * 9, entry);
    b.ram.writeBytes(DEVICE_TABLE + 8 * DEVICE, new Uint8Array(8));
    assert.deepEqual(inspected(b).devices, { 9: known });
  });

  test('looks at tables of any size for a limited time, and says that there is more', () => {
    const b = mapped({ its: { eventIdBits: 32 } });
    b.command(
      encodeMapd({ deviceId: 1, size: 31, ittAddress: ITT, valid: true }),
      encodeMapd({ deviceId: 2, size: 31, ittAddress: ITT, valid: true }),
    );
    const { devices, incomplete } = inspected(b);
    assert.deepEqual(Object.keys(devices), ['1', '2', String(DEVICE)], 'every device all the same');
    assert.match(incomplete, new RegExp(`^more than ${LOOK_LIMITS.read} entries to read or ${LOOK_LIMITS.shown}`));
  });
});
