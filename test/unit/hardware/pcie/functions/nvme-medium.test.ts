/** A namespace with a medium: what gets there, when, in which order, and what the host hears when it does not. */
import { assert, describe, test } from 'vitest';
import {
  NVME_ADMIN,
  NVME_CC,
  NVME_CNS,
  NVME_DSM_AD,
  NVME_FEATURE,
  NVME_FUA,
  NVME_IO,
  NVME_LOG,
  NVME_NSID_ALL,
  NVME_SC,
  NVME_SHN,
  NVME_SHST,
} from '#shared/arch/nvme.ts';
import { NVME_ID_CTRL, NVME_ID_NS, NVME_SMART } from '#shared/arch/nvme-data.ts';
import { Prng } from '#shared/core/prng.ts';
import { wordWith } from '#shared/regs/field.ts';
import type { SimulatedMedium } from '#tools/sim/media.ts';
import { DeviceRig } from '../../../../support/device-rig.ts';
import { MediumPort } from '../../../../support/medium-port.ts';
import type { Command } from '../../../../support/nvme-driver.ts';
import { nvmeReady, nvmeRig } from './nvme-rig.ts';

const DATA = 0x10_0000;
const IDENTITY = 0x20_0000;
const BYTES = 1 << 20;
const MS = 1e6;
const { READ, WRITE, WRITE_ZEROES, DATASET_MANAGEMENT, FLUSH } = NVME_IO;
const flush = { opcode: FLUSH, nsid: 1 };

function io(opcode: number, lba: number, blocks: number, flags = 0): Command {
  return { opcode, nsid: 1, prp1: DATA, cdw10: lba, cdw12: (blocks - 1) | flags };
}

/** Namespace 1 on the medium `disk`, which starts with `contents`. */
function onDisk(contents = new Uint8Array(BYTES), seed = 1) {
  const rig = new DeviceRig();
  const media = new MediumPort(rig.scheduler, seed);
  const disk = media.add('disk', contents);
  const shape = { sizeBytes: contents.length, blockBytes: 512, contents, medium: 'disk' };
  const parts = nvmeReady({ namespaces: [shape], rig, media });
  const fill = (value: number): void => void rig.memory.fill(value, DATA, DATA + 4096);
  /** Rings for a command, lets 10 ms pass and gives the completions. */
  const start = (command: Command) => {
    const cid = parts.driver.submit(parts.io, command);
    parts.driver.ring(parts.io);
    rig.pass(10 * MS);
    return { cid, completed: taken() };
  };
  const taken = () => {
    const all = parts.driver.take(parts.io);
    parts.driver.ringHead(parts.io);
    return all;
  };
  return { ...parts, shape, disk, fill, start, taken };
}

/** What would be left of the medium now. */
function afterPowerCut(media: MediumPort, disk: SimulatedMedium): Uint8Array {
  media.cutPower();
  return disk.contents;
}

describe('NVMe namespace on a medium', () => {
  test('a Flush completes when what was written before it is durable, and not before', () => {
    const { driver, io: queue, media, disk, fill, start, taken } = onDisk();
    fill(7);
    media.holds = true;
    assert.equal(driver.run(queue, io(WRITE, 3, 2)).status, 0, 'a write is in the cache');
    const { cid, completed } = start(flush);
    assert.deepEqual(completed, []);
    media.release();
    assert.deepEqual(taken(), [], 'it was written, and has to be made durable');
    driver.port.pass(10 * MS);
    assert.deepEqual(
      taken().map((one) => [one.cid, one.status]),
      [[cid, 0]],
    );
    const left = afterPowerCut(media, disk);
    assert.deepEqual([left[3 * 512 - 1], left[3 * 512], left[5 * 512 - 1], left[5 * 512]], [0, 7, 7, 0]);
  });

  test('what is written gets to the medium without a Flush too, but nobody says that it is durable', () => {
    const { driver, io: queue, media, disk, fill } = onDisk();
    fill(7);
    driver.run(queue, io(WRITE, 0, 1));
    assert.equal(disk.contents[0], 7);
    assert.deepEqual(media.requests, [{ bytes: 4096, sync: false }]);
  });

  test('a Flush with nothing to do asks nothing of the medium', () => {
    const { driver, io: queue, media } = onDisk();
    assert.equal(driver.run(queue, flush).status, 0);
    assert.equal(driver.run(queue, { ...flush, nsid: NVME_NSID_ALL }).status, 0);
    assert.deepEqual(media.requests, []);
  });

  test('a Flush waits for nothing that is written after it', () => {
    const { driver, io: queue, media, fill } = onDisk();
    media.holds = true;
    fill(1);
    driver.run(queue, io(WRITE, 0, 1));
    const before = driver.submit(queue, flush);
    driver.ring(queue);
    driver.port.pass(10 * MS);
    fill(2);
    driver.run(queue, io(WRITE, 1000, 1));
    const after = driver.submit(queue, flush);
    driver.ring(queue);
    driver.port.pass(10 * MS);
    media.holds = false;
    media.release();
    const order: number[] = [];
    for (let i = 0; i < 100; i++) {
      driver.port.pass(20_000);
      order.push(...driver.take(queue).map(({ cid }) => cid));
    }
    assert.deepEqual(order, [before, after]);
    // What was written under the first request went out with the synchronisation of the first Flush or later.
    assert.equal(media.requests[0]?.sync, false);
    assert.isTrue(media.requests.at(-1)?.sync);
  });

  test.each([
    ['a Write with FUA', io(WRITE, 0, 1, NVME_FUA), 7],
    ['Write Zeroes with FUA', io(WRITE_ZEROES, 0, 1, NVME_FUA), 0],
    ['a Read with FUA of what is in the cache', io(READ, 0, 1, NVME_FUA), 9],
  ])('%s completes when it is durable', (_name, command, value) => {
    const { driver, io: queue, media, disk, fill, start } = onDisk();
    fill(9);
    driver.run(queue, io(WRITE, 0, 1));
    fill(7);
    media.holds = true;
    assert.deepEqual(start(command).completed, []);
    media.release();
    driver.port.pass(10 * MS);
    assert.deepEqual(
      driver.take(queue).map(({ status }) => status),
      [0],
    );
    assert.equal(afterPowerCut(media, disk)[0], value);
  });

  test('deallocated blocks are zeroes on the medium, whole chunks of them too', () => {
    const { driver, io: queue, rig, media, disk } = onDisk(new Uint8Array(BYTES).fill(0x5a));
    rig.memory.set(new Uint8Array(new Uint32Array([0, 128 * 3, 128, 0, 0, 3, 1500, 0]).buffer), IDENTITY);
    const command = { opcode: DATASET_MANAGEMENT, nsid: 1, prp1: IDENTITY, cdw10: 1, cdw11: NVME_DSM_AD };
    assert.equal(driver.run(queue, command).status, 0);
    assert.equal(driver.run(queue, flush).status, 0);
    const expected = new Uint8Array(BYTES).fill(0x5a);
    expected.fill(0, 128 * 512, 128 * 4 * 512);
    expected.fill(0, 1500 * 512, 1503 * 512);
    assert.deepEqual(afterPowerCut(media, disk), expected);
  });

  test('more than one request holds goes in several, and the last of them makes all durable', () => {
    const { driver, io: queue, rig, media, disk } = onDisk(new Uint8Array(12 << 20).fill(1));
    rig.memory.set(new Uint8Array(new Uint32Array([0, 24576, 0, 0]).buffer), IDENTITY);
    media.holds = true;
    driver.run(queue, { opcode: DATASET_MANAGEMENT, nsid: 1, prp1: IDENTITY, cdw11: NVME_DSM_AD });
    media.release();
    assert.equal(driver.run(queue, flush).status, 0);
    assert.deepEqual(
      media.requests.map(({ bytes, sync }) => [bytes, sync]),
      [
        [4 << 20, false],
        [4 << 20, false],
        [4 << 20, true],
      ],
    );
    assert.isTrue(afterPowerCut(media, disk).every((byte) => byte === 0));
  });
});

describe('NVMe volatile write cache', () => {
  function identify(parts: ReturnType<typeof nvmeReady>, cns: number, offset: number): number {
    parts.driver.adminCommand({ opcode: NVME_ADMIN.IDENTIFY, nsid: cns === 0 ? 1 : 0, prp1: IDENTITY, cdw10: cns });
    return parts.rig.memory[IDENTITY + offset]!;
  }
  const set = (value: number) => ({
    opcode: NVME_ADMIN.SET_FEATURES,
    cdw10: NVME_FEATURE.VOLATILE_WRITE_CACHE,
    cdw11: value,
  });
  const get = { opcode: NVME_ADMIN.GET_FEATURES, cdw10: NVME_FEATURE.VOLATILE_WRITE_CACHE };

  test('there is one when a namespace has a medium, and it is on', () => {
    const parts = onDisk();
    assert.equal(identify(parts, NVME_CNS.CONTROLLER, NVME_ID_CTRL.VWC), 7);
    assert.equal(parts.driver.adminCommand(get).dw0, 1);
  });

  test('there is none when all are in memory only, and its feature is an Invalid Field', () => {
    const parts = nvmeReady();
    assert.equal(identify(parts, NVME_CNS.CONTROLLER, NVME_ID_CTRL.VWC), 6);
    assert.equal(parts.driver.adminCommand(get).status, NVME_SC.INVALID_FIELD);
    assert.equal(parts.driver.adminCommand(set(0)).status, NVME_SC.INVALID_FIELD);
  });

  test('it is empty when the command that turns it off completes, and then each write is durable', () => {
    const { driver, io: queue, media, disk, fill, start } = onDisk();
    fill(7);
    media.holds = true;
    driver.run(queue, io(WRITE, 0, 1));
    driver.submit(driver.admin, set(0));
    driver.ring(driver.admin);
    driver.port.pass(10 * MS);
    assert.deepEqual(driver.take(driver.admin), []);
    media.release();
    driver.port.pass(10 * MS);
    assert.deepEqual(
      driver.take(driver.admin).map(({ status, dw0 }) => [status, dw0]),
      [[0, 0]],
    );
    driver.ringHead(driver.admin);
    assert.equal(driver.adminCommand(get).dw0, 0);
    media.holds = true;
    fill(8);
    assert.deepEqual(start(io(WRITE, 1, 1)).completed, []);
    media.release();
    driver.port.pass(10 * MS);
    assert.equal(driver.take(queue)[0]?.status, 0);
    assert.deepEqual([...afterPowerCut(media, disk).subarray(511, 513)], [7, 8]);
  });

  test('a namespace that refuses writes says so, and does', () => {
    const contents = new Uint8Array(BYTES).fill(3);
    const parts = nvmeReady({ namespaces: [{ sizeBytes: BYTES, blockBytes: 512, contents, readOnly: true }] });
    const { driver, io: queue, rig } = parts;
    assert.equal(identify(parts, NVME_CNS.NAMESPACE, NVME_ID_NS.NSATTR), 1);
    rig.memory.set(new Uint8Array(new Uint32Array([0, 1, 0, 0]).buffer), IDENTITY);
    for (const command of [
      io(WRITE, 0, 1),
      io(WRITE_ZEROES, 0, 1),
      { opcode: DATASET_MANAGEMENT, nsid: 1, prp1: IDENTITY, cdw11: NVME_DSM_AD },
    ]) {
      const { status, doNotRetry } = driver.run(queue, command);
      assert.deepEqual([status, doNotRetry], [NVME_SC.NAMESPACE_WRITE_PROTECTED, true]);
    }
    assert.equal(driver.run(queue, flush).status, 0);
    assert.equal(driver.run(queue, io(READ, 0, 1)).status, 0);
    assert.equal(rig.memory[DATA], 3);
  });
});

describe('NVMe medium that fails', () => {
  test.each(['writes', 'synchronisation'] as const)(
    '%s: Flush is a Write Fault, and one that works makes up for it',
    (what) => {
      const { driver, io: queue, media, disk, fill, rig } = onDisk();
      fill(7);
      driver.run(queue, io(WRITE, 0, 8));
      disk.refuses = what;
      fill(8);
      driver.run(queue, io(WRITE, 100, 8));
      const fault = driver.run(queue, flush);
      assert.deepEqual([fault.status, fault.doNotRetry], [NVME_SC.WRITE_FAULT, false]);
      assert.isFalse(driver.fatal);
      assert.equal(driver.run(queue, io(READ, 100, 1)).status, 0);
      assert.equal(rig.memory[DATA], 8, 'reads see what was written');
      driver.adminCommand({
        opcode: NVME_ADMIN.GET_LOG_PAGE,
        nsid: NVME_NSID_ALL,
        prp1: IDENTITY,
        cdw10: NVME_LOG.SMART | (127 << 16),
      });
      assert.equal(rig.memory[IDENTITY + NVME_SMART.MEDIA_ERRORS], 1);
      disk.refuses = 'nothing';
      assert.equal(driver.run(queue, flush).status, 0);
      const left = afterPowerCut(media, disk);
      assert.deepEqual([left[0], left[8 * 512 - 1], left[100 * 512], left[108 * 512 - 1]], [7, 7, 8, 8]);
    },
  );

  test('after a fault a write is told what became of it, until the medium takes it', () => {
    const { driver, io: queue, disk, fill, media } = onDisk();
    fill(1);
    disk.refuses = 'writes';
    assert.equal(driver.run(queue, io(WRITE, 0, 1)).status, 0, 'in the cache');
    driver.port.pass(1000 * MS);
    assert.equal(media.requests.length, 1, 'it is not tried again and again');
    assert.equal(driver.run(queue, io(WRITE, 1, 1)).status, NVME_SC.WRITE_FAULT);
    assert.equal(driver.run(queue, io(WRITE, 2, 1, NVME_FUA)).status, NVME_SC.WRITE_FAULT);
    disk.refuses = 'nothing';
    assert.equal(driver.run(queue, io(WRITE, 3, 1)).status, 0);
    assert.deepEqual(
      [0, 1, 2, 3].map((block) => disk.contents[block * 512]),
      [1, 1, 1, 1],
    );
  });

  test('a flush of all namespaces fails when one of them does', () => {
    const rig = new DeviceRig();
    const media = new MediumPort(rig.scheduler);
    const contents = new Uint8Array(BYTES);
    const shape = (medium: string) => ({ sizeBytes: BYTES, blockBytes: 512, contents, medium });
    const good = media.add('good', contents);
    media.add('bad', contents).refuses = 'writes';
    const { driver, io: queue } = nvmeReady({ namespaces: [shape('good'), shape('bad')], rig, media });
    rig.memory.fill(5, DATA, DATA + 512);
    driver.run(queue, io(WRITE, 0, 1));
    driver.run(queue, { ...io(WRITE, 0, 1), nsid: 2 });
    assert.equal(driver.run(queue, { ...flush, nsid: NVME_NSID_ALL }).status, NVME_SC.WRITE_FAULT);
    assert.equal(driver.run(queue, flush).status, 0);
    assert.equal(good.contents[0], 5);
  });
});

describe('NVMe commands that wait for a medium', () => {
  const shutDown = wordWith(NVME_CC, { EN: 1, IOSQES: 6, IOCQES: 4, SHN: NVME_SHN.NORMAL });

  test('a shutdown is complete when all is durable', () => {
    const { driver, io: queue, media, disk, fill } = onDisk();
    fill(7);
    driver.run(queue, io(WRITE, 0, 1));
    media.holds = true;
    driver.port.write(NVME_CC.offset, shutDown);
    driver.port.pass(100 * MS);
    assert.equal(driver.shutdownStatus, NVME_SHST.OCCURRING);
    media.release();
    assert.equal(driver.shutdownStatus, NVME_SHST.COMPLETE);
    assert.equal(afterPowerCut(media, disk)[0], 7);
  });

  test('a shutdown that cannot save all is not complete, and fatal until the next reset', () => {
    const { driver, io: queue, disk, fill } = onDisk();
    fill(7);
    disk.refuses = 'writes';
    driver.run(queue, io(WRITE, 0, 1));
    driver.port.write(NVME_CC.offset, shutDown);
    driver.port.pass(100 * MS);
    assert.deepEqual([driver.shutdownStatus, driver.fatal], [NVME_SHST.OCCURRING, true]);
    driver.disable();
    driver.enable();
    assert.deepEqual([driver.ready, driver.fatal, driver.shutdownStatus], [true, false, NVME_SHST.NORMAL]);
  });

  test('a reset drops a Flush, and what was written still gets to the medium', () => {
    const { driver, io: queue, media, disk, fill, start, rig } = onDisk();
    fill(7);
    driver.run(queue, io(WRITE, 0, 1));
    media.holds = true;
    start(flush);
    driver.disable();
    driver.enable();
    const fresh = driver.createPair(1, 0x2_0000, 16, 1);
    rig.raised = [];
    media.release();
    driver.port.pass(10 * MS);
    assert.deepEqual([driver.take(fresh), rig.raised], [[], []]);
    assert.equal(afterPowerCut(media, disk)[0], 7);
  });

  test('Abort ends a Flush that waits, and the deletion of its queue does', () => {
    const { driver, io: queue, media, fill, start, taken } = onDisk();
    fill(7);
    media.holds = true;
    driver.run(queue, io(WRITE, 0, 1));
    const first = start(flush);
    const { dw0 } = driver.adminCommand({ opcode: NVME_ADMIN.ABORT, cdw10: (first.cid << 16) | 1 });
    assert.equal(dw0 & 1, 0);
    assert.deepEqual(
      taken().map(({ cid, status }) => [cid, status]),
      [[first.cid, NVME_SC.ABORT_REQUESTED]],
    );
    const second = start(flush);
    assert.equal(driver.adminCommand({ opcode: NVME_ADMIN.DELETE_IO_SQ, cdw10: 1 }).status, 0);
    assert.deepEqual(
      taken().map(({ cid, status }) => [cid, status]),
      [[second.cid, NVME_SC.ABORTED_SQ_DELETION]],
    );
    media.release();
    driver.port.pass(10 * MS);
    assert.deepEqual(taken(), []);
  });

  test('its identifier is taken as long as it waits', () => {
    const { driver, io: queue, media, fill, start } = onDisk();
    fill(7);
    media.holds = true;
    driver.run(queue, io(WRITE, 0, 1));
    const { cid } = start(flush);
    assert.deepEqual(
      start({ ...flush, cid }).completed.map(({ status }) => status),
      [NVME_SC.COMMAND_ID_CONFLICT],
    );
  });

  test('1024 of them at once; what comes beyond is fetched when some have completed', () => {
    const { driver, io: queue, media, fill, nvme, rig } = onDisk();
    fill(7);
    media.holds = true;
    driver.run(queue, io(WRITE, 0, 1));
    const pairs = [2, 3].map((id) => driver.createPair(id, 0x4_0000 + (id - 2) * 0x2_0000, 1024, 1));
    for (const pair of pairs) {
      for (let cid = 0; cid < 700; cid++) driver.submit(pair, { ...flush, cid });
      driver.ring(pair);
    }
    rig.pass(1000 * MS);
    assert.equal((nvme.inspect() as { held: number }).held, 1024);
    media.release();
    rig.pass(1000 * MS);
    assert.deepEqual(
      pairs.map((pair) => driver.take(pair).filter(({ status }) => status === 0).length),
      [700, 700],
    );
  });

  test('saved half-way and restored on the same medium, the Flush completes and all is there', () => {
    const one = onDisk();
    one.fill(7);
    one.media.holds = true;
    one.driver.run(one.io, io(WRITE, 0, 1));
    const { cid } = one.start(flush);
    const state = structuredClone(one.nvme.save());
    const left = afterPowerCut(one.media, one.disk);
    assert.equal(left[0], 0);
    const rig = new DeviceRig();
    rig.memory.set(one.rig.memory);
    const media = new MediumPort(rig.scheduler);
    const disk = media.add('disk', left);
    const two = nvmeRig({ namespaces: [{ ...one.shape, contents: left.slice() }], rig, media });
    two.nvme.load(state);
    rig.pass(10 * MS);
    two.driver.admin = one.driver.admin;
    assert.deepEqual(
      two.driver.take(one.io).map((done) => [done.cid, done.status]),
      [[cid, 0]],
    );
    assert.equal(afterPowerCut(media, disk)[0], 7);
  });

  test('a state is not restored on a medium with something else on it', () => {
    const one = onDisk();
    const state = structuredClone(one.nvme.save());
    const other = onDisk(new Uint8Array(BYTES).fill(1));
    assert.throws(() => other.nvme.load(state), /not as it was/);
    assert.throws(() => nvmeReady().nvme.load(state), /another kind of medium/);
  });
});

test.each([1, 2, 3, 4, 5, 6])(
  'with power cuts and faults at any time a block is what the last Flush covered, or newer, seed %i',
  (seed) => {
    const prng = new Prng(seed);
    const blocks = 512;
    let contents = new Uint8Array(blocks * 512);
    let [flushes, faults] = [0, 0];
    for (let life = 0; life < 25; life++) {
      const { driver, io: queue, media, disk, fill, rig } = onDisk(contents, prng.below(1e6));
      /** By block: what may be found there after a power cut, the newest last. */
      const may = Array.from({ length: blocks }, (_, block) => [contents[block * 512]!]);
      const pending = new Map<number, number[]>();
      for (let round = 0; round < 40; round++) {
        disk.refuses = prng.chance(0.1) ? (prng.chance(0.5) ? 'writes' : 'synchronisation') : 'nothing';
        const value = prng.below(256);
        const lba = prng.below(blocks - 8);
        const count = 1 + prng.below(8);
        if (prng.chance(0.3)) {
          const cid = driver.submit(queue, flush);
          pending.set(
            cid,
            may.map((values) => values.length - 1),
          );
        } else {
          fill(value);
          const zeroes = prng.chance(0.3);
          driver.submit(queue, io(zeroes ? WRITE_ZEROES : WRITE, lba, count));
          for (let block = lba; block < lba + count; block++) may[block]!.push(zeroes ? 0 : value);
        }
        driver.ring(queue);
        // Long enough for a write to be carried out, not for the medium.
        rig.pass(20_000 + prng.below(250_000));
        for (const { cid, status } of driver.take(queue)) {
          const covered = pending.get(cid);
          if (covered === undefined) continue;
          pending.delete(cid);
          if (status !== 0) {
            assert.equal(status, NVME_SC.WRITE_FAULT);
            faults++;
            continue;
          }
          flushes++;
          for (const [block, index] of covered.entries()) may[block]!.fill(may[block]![index]!, 0, index);
        }
        driver.ringHead(queue);
      }
      contents = new Uint8Array(afterPowerCut(media, disk));
      for (let block = 0; block < blocks; block++) {
        const found = contents[block * 512]!;
        assert.include(may[block]!, found, `block ${block} in life ${life}`);
        assert.isTrue(contents.subarray(block * 512, (block + 1) * 512).every((byte) => byte === found));
      }
    }
    assert.isAbove(flushes, 50);
    assert.isAbove(faults, 5);
  },
);
