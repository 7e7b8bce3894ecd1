/** The driver against the model of the ITS, and against one that misbehaves. */
import { assert, describe, test } from 'vitest';
import {
  decodeGitsBaser,
  decodeGitsCbaser,
  GITS_BASER,
  GITS_CBASER,
  GITS_CREADR,
  GITS_CTLR,
  GITS_CWRITER,
  GITS_PIDR2,
} from '#shared/arch/gic/its.ts';
import { encodeInv, encodeMapc, encodeMapd, encodeMapti } from '#shared/arch/gic/its-commands.ts';
import type { ItsChoices } from '#shared/board/choices.ts';
import type { Op } from '#shared/core/op.ts';
import { type BusAccess, ItsDriver, type ItsDriverOptions, ItsError } from '#shared/kernel/its-driver.ts';
import { Bus } from '../../../services/hardware/bus/bus.ts';
import { Ram } from '../../../services/hardware/bus/ram.ts';
import type { MmioTarget } from '../../../services/hardware/bus/transaction.ts';
import { Gic } from '../../../services/hardware/gic/gic.ts';
import { Its } from '../../../services/hardware/gic/its/its.ts';

const ITS = 0x0808_0000;
const RAM = 0x4000_0000;

/** Runs an operation whose waits are over at once; gives what it slept in all. */
function drive<T>(op: Op<T>): { value: T; sleptNs: number } {
  let sleptNs = 0;
  let next = op.next();
  while (!next.done) {
    if (next.value.step === 'lock') next.value.lock.acquire(() => {});
    if (next.value.step === 'sleep') sleptNs += next.value.ns;
    next = op.next();
  }
  return { value: next.value, sleptNs };
}

function bench(
  wrap: (its: Its) => MmioTarget = (its) => its,
  options: Partial<ItsDriverOptions> = {},
  choices: Partial<ItsChoices> = {},
) {
  const ram = new Ram([{ pa: RAM, sizeBytes: 0x400_0000 }]);
  const bus = new Bus(ram);
  const gic = new Gic({ memory: ram, affinities: [0, 1], regionCapacities: [2], hooks: { signal: () => {} } });
  const its = new Its('its', 1, ram, gic, choices);
  bus.map(ITS, 0x2_0000, wrap(its));
  const batches: (readonly BusAccess[])[] = [];
  let free = RAM + 0x1_0000;
  const driver = new ItsDriver({
    name: 'its@8080000',
    base: ITS,
    // biome-ignore lint/correctness/useYield: this bus answers at once
    *allocate(sizeBytes, alignBytes) {
      free = Math.ceil(free / alignBytes) * alignBytes;
      const pa = free;
      free += sizeBytes;
      return pa;
    },
    io: {
      *run(accesses) {
        batches.push(accesses);
        return accesses.map(({ kind, address, sizeBytes, data }) => {
          if (kind === 'read') {
            const out = new Uint8Array(sizeBytes);
            assert.equal(bus.readBytes(address, out), sizeBytes);
            return out;
          }
          assert.equal(bus.writeBytes(address, data), sizeBytes);
          return new Uint8Array(0);
        });
      },
    },
    ...options,
  });
  return { driver, its, ram, batches };
}

function override(read: (its: Its, offset: number, size: number) => number) {
  return (its: Its): MmioTarget => ({
    name: 'its',
    read: (offset, size) => read(its, offset, size),
    write: (offset, size, value) => its.write(offset, size, value),
  });
}

describe('an ITS driver', () => {
  test('gives the ITS flat tables of the types it asks for, a queue, and enables it', () => {
    const { driver, its } = bench();
    drive(driver.start());
    const read = (offset: number) => ({ lo: its.read(offset, 4), hi: its.read(offset + 4, 4) });
    const devices = decodeGitsBaser(read(GITS_BASER));
    assert.deepEqual(
      [devices.Valid, devices.Type, devices.pageBytes, devices.sizeBytes],
      [true, 1, 0x1_0000, 0x8_0000],
    );
    assert.deepEqual(
      [decodeGitsBaser(read(GITS_BASER + 8)).Valid, decodeGitsBaser(read(GITS_BASER + 8)).Type],
      [true, 4],
    );
    assert.deepEqual([decodeGitsCbaser(read(GITS_CBASER)).Valid, its.read(GITS_CTLR, 4)], [true, 1]);
    assert.deepEqual([driver.deviceIds, driver.doorbell, driver.ittBytes(4)], [0x1_0000, ITS + 0x1_0040, 256]);
    assert.equal(driver.rdbase(1, 0x80c_0000), 1);
  });

  test('gives an ITS with many DeviceIDs a table of two levels, and a page of it when a device needs one', () => {
    const { driver, its, ram } = bench(undefined, { deviceIdBitsMax: 32 }, { deviceIdBits: 24 });
    drive(driver.start());
    const baser = decodeGitsBaser({ lo: its.read(GITS_BASER, 4), hi: its.read(GITS_BASER + 4, 4) });
    assert.deepEqual([baser.Indirect, baser.pageBytes, baser.sizeBytes], [true, 0x1_0000, 0x1_0000]);
    assert.equal(driver.deviceIds, 2 ** 24);
    const deviceId = 8192 * 100 + 5;
    drive(driver.prepareDevice(deviceId));
    drive(driver.prepareDevice(deviceId + 1));
    drive(driver.submit([encodeMapd({ deviceId, size: 4, ittAddress: RAM, valid: true })]));
    assert.deepEqual(its.counts.commandProblems, {});
    const page = ram.read32(baser.pa + 8 * 100);
    assert.equal(ram.read32(page + 8 * 5), (RAM | 4) >>> 0);
    assert.equal(ram.read32(baser.pa + 8 * 101 + 4), 0);
  });

  test('cuts the device table of an ITS that takes no two levels at 256 pages', () => {
    const choices = { deviceIdBits: 24, indirect: false, pageBytes: [0x1000] as const };
    const { driver, its } = bench(undefined, { deviceIdBitsMax: 32 }, choices);
    drive(driver.start());
    const baser = decodeGitsBaser({ lo: its.read(GITS_BASER, 4), hi: its.read(GITS_BASER + 4, 4) });
    assert.deepEqual([baser.Indirect, baser.sizeBytes, driver.deviceIds], [false, 0x10_0000, 0x2_0000]);
  });

  test('says where a queue stalled', () => {
    const { driver } = bench(undefined, {}, { onError: 'stall' });
    drive(driver.start());
    const bad = encodeMapd({ deviceId: 1, size: 31, ittAddress: RAM, valid: true });
    assert.throws(() => drive(driver.submit([bad])), ItsError, /stands at MAPD deviceId=0x1 .*stalled/);
  });

  test('submits a batch as one write of memory, one ring and one look', () => {
    const { driver, its, batches } = bench();
    drive(driver.start());
    batches.length = 0;
    drive(
      driver.submit([
        encodeMapc({ icid: 0, rdbase: 0, valid: true }),
        encodeMapd({ deviceId: 8, size: 4, ittAddress: RAM, valid: true }),
        encodeMapti({ deviceId: 8, eventId: 0, pIntid: 8192, icid: 0 }),
      ]),
    );
    assert.equal(batches.length, 1);
    assert.deepEqual(
      batches[0]!.map((a) => [a.kind, a.sizeBytes]),
      [
        ['write', 96],
        ['write', 8],
        ['read', 8],
      ],
    );
    assert.deepEqual(its.counts.commands, { MAPC: 1, MAPD: 1, MAPTI: 1 });
    assert.equal(driver.submitted, 3);
  });

  test('wraps at the end of the queue and never fills it', () => {
    const { driver, its } = bench(undefined, { queueBytes: 4096 });
    drive(driver.start());
    const inv = encodeInv({ deviceId: 8, eventId: 0 });
    drive(driver.submit(new Array(100).fill(inv)));
    drive(driver.submit(new Array(300).fill(inv)));
    assert.equal(its.counts.commands['INV'], 400);
    assert.equal(its.read(GITS_CREADR, 4), (400 * 32) % 4096);
    assert.equal(its.read(GITS_CWRITER, 4), (400 * 32) % 4096);
  });

  test('disables an ITS that was left enabled before it touches the tables', () => {
    const { driver, its } = bench();
    drive(driver.start());
    drive(driver.start());
    assert.equal(its.read(GITS_CTLR, 4), 1);
  });

  test('names the command at which a stuck queue stands, after 100 ms', () => {
    const wrap = override((its, offset, size) => (offset === GITS_CREADR ? 32 : its.read(offset, size)));
    const { driver } = bench(wrap);
    drive(driver.start());
    const op = driver.submit([
      encodeMapc({ icid: 0, rdbase: 0, valid: true }),
      encodeMapd({ deviceId: 8, size: 4, ittAddress: RAM, valid: true }),
    ]);
    assert.throws(
      () => drive(op),
      ItsError,
      'its@8080000: the command queue stands at MAPD deviceId=0x8 size=0x4 ittAddress=0x40000000 valid=true (GITS_CREADR 0x20, GITS_CWRITER 0x40)',
    );
  });

  test('says at once that a queue has stalled', () => {
    const wrap = override((its, offset, size) => (offset === GITS_CREADR ? 1 : its.read(offset, size)));
    const { driver } = bench(wrap);
    drive(driver.start());
    assert.throws(() => drive(driver.submit([encodeInv({ deviceId: 1, eventId: 0 })])), ItsError, 'stalled');
  });

  test('takes the cacheability and the page size that the ITS insists on', () => {
    // Attributes read as 0 and only 4 KiB pages stick: bits [9:8] read as 0.
    const wrap = override((its, offset, size) => {
      const value = its.read(offset, size);
      if (offset === GITS_BASER || offset === GITS_BASER + 8) return value & ~0xf00;
      if (offset === GITS_BASER + 4 || offset === GITS_BASER + 12) return value & ~0x38e0_0000;
      return value;
    });
    const { driver, its } = bench(wrap);
    drive(driver.start());
    assert.equal(decodeGitsBaser({ lo: its.read(GITS_BASER, 4), hi: 0 }).pageBytes, 0x1000);
    assert.equal(driver.deviceIds, 0x1_0000);
  });

  test('refuses what is no GICv3 ITS', () => {
    const wrap = override((its, offset, size) => (offset === GITS_PIDR2 ? 0x20 : its.read(offset, size)));
    const { driver } = bench(wrap);
    assert.throws(() => drive(driver.start()), ItsError, 'its@8080000: no GICv3 ITS (GITS_PIDR2 is 0x20)');
  });

  test('gives up on an ITS that never becomes quiescent', () => {
    const wrap = override((its, offset, size) => (offset === GITS_CTLR ? 1 : its.read(offset, size)));
    const { driver } = bench(wrap);
    assert.throws(() => drive(driver.start()), ItsError, 'Quiescent');
  });
});
