import { assert, describe, test } from 'vitest';
import {
  NVME_ADMIN,
  NVME_AQA,
  NVME_ASQ_LO,
  NVME_CAP_HI,
  NVME_CAP_LO,
  NVME_CC,
  NVME_CSTS,
  NVME_INTMC,
  NVME_INTMS,
  NVME_IO,
  NVME_NSSR,
  NVME_SC,
  NVME_VS,
  nvmeSqTail,
} from '#shared/arch/nvme.ts';
import { asWord, get } from '#shared/regs/field.ts';
import { nvmeReady, nvmeRig } from './nvme-rig.ts';

const MS = 1e6;
const DATA = 0x10_0000;
const READ = { opcode: NVME_IO.READ, nsid: 1, prp1: DATA };

describe('NVMe registers', () => {
  test('CAP and VS say what the specification wants of a 1.4 controller with contiguous queues', () => {
    const { driver } = nvmeRig();
    const low = asWord(NVME_CAP_LO, driver.port.read(NVME_CAP_LO.offset));
    const high = asWord(NVME_CAP_HI, driver.port.read(NVME_CAP_HI.offset));
    assert.deepEqual([get(NVME_CAP_LO.MQES, low), get(NVME_CAP_LO.CQR, low), get(NVME_CAP_LO.AMS, low)], [1023, 1, 0]);
    assert.deepEqual(
      [get(NVME_CAP_HI.DSTRD, high), get(NVME_CAP_HI.CSS, high), get(NVME_CAP_HI.MPSMIN, high)],
      [0, 1, 0],
    );
    assert.equal(driver.port.read(NVME_VS.offset), 0x0001_0400);
  });

  test('a register is read in parts, and only whole words are written', () => {
    const { nvme, driver } = nvmeRig();
    assert.deepEqual([nvme.readBar(0, 8, 2), nvme.readBar(0, 10, 2), nvme.readBar(0, 9, 1)], [0x400, 1, 4]);
    nvme.writeBar(0, NVME_CC.offset, 1, 1);
    assert.equal(driver.port.read(NVME_CC.offset), 0);
  });

  test('RDY rises some time after EN and falls with it', () => {
    const { driver } = nvmeRig();
    driver.enable();
    assert.isTrue(driver.ready);
    driver.disable();
    assert.equal(driver.csts, 0);
    driver.port.write(NVME_CC.offset, 1);
    assert.isFalse(driver.ready, 'not at once');
  });

  test.each([
    ['a page size beyond MPSMAX', { MPS: 5 }],
    ['a command set that is not there', { CSS: 1 }],
    ['an arbitration that is not there', { AMS: 1 }],
  ])('%s is fatal until the controller is disabled', (_name, cc) => {
    const { driver } = nvmeRig();
    driver.enable(cc);
    assert.deepEqual([driver.ready, driver.fatal], [false, true]);
    driver.disable();
    driver.enable();
    assert.deepEqual([driver.ready, driver.fatal], [true, false]);
  });

  test('admin queues of one entry, or beside a page of the chosen size, are fatal', () => {
    const { driver } = nvmeRig();
    driver.port.write(NVME_AQA.offset, 0);
    driver.port.write(NVME_CC.offset, 1);
    assert.isTrue(driver.fatal);
    driver.disable();
    driver.admin = Object.assign(driver.admin, { sq: 0x1_1000, cq: 0x1_0000 });
    driver.enable({ MPS: 1 });
    assert.isTrue(driver.fatal, 'ASQ is aligned to 4 KiB and pages have 8');
  });

  test('page size and command set hold while the controller is enabled', () => {
    const { driver } = nvmeRig();
    driver.enable();
    driver.port.write(NVME_CC.offset, 0x46_0581);
    assert.equal(driver.port.read(NVME_CC.offset), 0x46_0001);
  });

  test('a shutdown goes through "occurring" and takes no more commands', () => {
    const { driver, io, rig } = nvmeReady();
    driver.port.write(NVME_CC.offset, driver.port.read(NVME_CC.offset) | (1 << 14));
    assert.equal(driver.shutdownStatus, 1);
    rig.pass(MS);
    assert.equal(driver.shutdownStatus, 2);
    driver.submit(io, READ);
    driver.ring(io);
    rig.pass(10 * MS);
    assert.deepEqual(driver.take(io), []);
    driver.disable();
    driver.enable();
    assert.deepEqual([driver.ready, driver.shutdownStatus], [true, 0]);
  });

  test('a controller reset keeps AQA, ASQ and ACQ, a function reset does not', () => {
    const { driver, nvme } = nvmeRig();
    driver.enable();
    driver.disable();
    assert.equal(driver.port.read(NVME_ASQ_LO.offset), driver.admin.sq);
    nvme.reset();
    assert.equal(driver.port.read(NVME_ASQ_LO.offset), 0);
    assert.equal(driver.port.read(NVME_CC.offset), 0);
  });

  test('there is no NVM subsystem reset: NSSR reads 0 and does nothing', () => {
    const { driver } = nvmeRig();
    driver.enable();
    driver.port.write(NVME_NSSR.offset, 0x4e56_4d65);
    assert.equal(driver.port.read(NVME_NSSR.offset), 0);
    assert.isTrue(driver.ready);
  });

  test('INTMS and INTMC read as the mask; doorbells read 0', () => {
    const { driver } = nvmeRig();
    driver.port.write(NVME_INTMS.offset, 0xf0);
    driver.port.write(NVME_INTMC.offset, 0x10);
    assert.equal(driver.port.read(NVME_INTMS.offset), 0xe0);
    assert.equal(driver.port.read(NVME_INTMC.offset), 0xe0);
    assert.equal(driver.port.read(nvmeSqTail(0)), 0);
  });
});

describe('NVMe interrupts', () => {
  test('what one burst posts to a vector is told once, on the vector of its queue', () => {
    const { driver, io, rig } = nvmeReady();
    rig.raised = [];
    for (let i = 0; i < 5; i++) driver.submit(io, { ...READ, cdw10: i });
    driver.ring(io);
    rig.pass(MS);
    assert.equal(driver.take(io).length, 5);
    assert.deepEqual(rig.raised, [1]);
  });

  test('a queue without interrupts posts in silence', () => {
    const { driver, rig } = nvmeReady();
    const quiet = driver.createPair(2, 0x3_0000, 4, 2, false);
    rig.raised = [];
    assert.equal(driver.run(quiet, READ).status, NVME_SC.SUCCESS);
    assert.deepEqual(rig.raised, []);
    assert.isFalse(rig.pin);
  });

  test('the pin is high while an unmasked vector has entries that the host has not taken', () => {
    const { driver, io, rig } = nvmeReady();
    assert.isFalse(rig.pin);
    driver.submit(io, READ);
    driver.submit(io, READ);
    driver.ring(io);
    rig.pass(MS);
    assert.isTrue(rig.pin);
    driver.port.write(NVME_INTMS.offset, 1 << 1);
    assert.isFalse(rig.pin);
    driver.port.write(NVME_INTMC.offset, 1 << 1);
    driver.take(io, 1);
    driver.ringHead(io);
    assert.isTrue(rig.pin, 'one entry is left');
    driver.take(io);
    driver.ringHead(io);
    assert.isFalse(rig.pin);
  });

  test('a masked vector speaks when its mask goes and entries are still there', () => {
    const { driver, io, rig } = nvmeReady();
    rig.raised = [];
    driver.port.write(NVME_INTMS.offset, 1 << 1);
    driver.submit(io, READ);
    driver.ring(io);
    rig.pass(MS);
    assert.deepEqual(rig.raised, []);
    driver.port.write(NVME_INTMC.offset, 1 << 1);
    assert.deepEqual(rig.raised, [1]);
    driver.take(io);
    driver.ringHead(io);
    driver.port.write(NVME_INTMS.offset, 1 << 1);
    driver.port.write(NVME_INTMC.offset, 1 << 1);
    assert.deepEqual(rig.raised, [1], 'nothing is left to tell');
  });
});

describe('NVMe resets', () => {
  test.each([
    ['CC.EN = 0', (r: ReturnType<typeof nvmeReady>) => r.driver.disable()],
    ['a function reset', (r: ReturnType<typeof nvmeReady>) => r.nvme.reset()],
  ])('%s drops what is under way: no data, no completion, no interrupt', (_name, reset) => {
    const r = nvmeReady();
    const { driver, io, rig } = r;
    driver.submit(io, { ...READ, cdw12: 7 });
    driver.ring(io);
    rig.memory.fill(0x5a, DATA, DATA + 4096);
    rig.pass(2000);
    assert.isTrue(rig.pending, 'the command was fetched');
    rig.raised = [];
    reset(r);
    assert.isFalse(rig.pending);
    rig.pass(10 * MS);
    assert.equal(rig.memory[DATA], 0x5a);
    assert.deepEqual([driver.take(io).length, rig.raised.length, rig.pin], [0, 0, false]);
  });

  test('a reset from inside a transfer of the controller ends the burst there', () => {
    const { driver, io, rig, nvme } = nvmeReady();
    driver.submit(io, { ...READ, prp2: DATA + 0x5000, cdw12: 15 });
    driver.submit(io, READ);
    driver.ring(io);
    rig.pass(900);
    let calls = 0;
    rig.onDma = () => {
      if (++calls === 1) nvme.reset();
    };
    rig.pass(10 * MS);
    assert.equal(calls, 1);
    assert.equal(driver.csts, 0);
  });

  test('a reset from inside the write of a completion leaves no interrupt behind', () => {
    const { driver, io, rig, nvme } = nvmeReady();
    driver.submit(io, { opcode: NVME_IO.FLUSH, nsid: 1 });
    driver.ring(io);
    rig.pass(900);
    rig.raised = [];
    rig.onDma = () => nvme.reset();
    rig.pass(MS);
    rig.onDma = () => {};
    driver.enable();
    assert.deepEqual([rig.raised, rig.pin], [[], false]);
  });

  test('queue entries that cannot be read are fatal', () => {
    const { driver, io, rig } = nvmeReady();
    rig.abortFrom = io.sq;
    rig.abortEnd = io.sq + 4096;
    driver.submit(io, READ);
    driver.ring(io);
    rig.pass(MS);
    assert.isTrue(driver.fatal);
    rig.abortFrom = Number.POSITIVE_INFINITY;
    driver.disable();
    driver.enable();
    assert.equal(driver.adminCommand({ opcode: NVME_ADMIN.GET_FEATURES, cdw10: 7 }).status, NVME_SC.SUCCESS);
  });

  test('a completion entry that cannot be written is lost, and the controller goes on', () => {
    const { driver, io, rig } = nvmeReady();
    rig.abortFrom = io.cq;
    rig.abortEnd = io.cq + 16;
    driver.submit(io, READ);
    driver.submit(io, READ);
    driver.ring(io);
    rig.pass(MS);
    assert.deepEqual(driver.take(io), []);
    assert.equal(driver.view.getUint32(io.cq + 16 + 12, true) >>> 17, 0, 'the second entry is there');
    assert.equal((driver.view.getUint32(io.cq + 16 + 12, true) >>> 16) & 1, 1);
    assert.isFalse(driver.fatal);
  });

  test('saved in the middle of a burst and loaded elsewhere, it goes on where it was', () => {
    const one = nvmeReady();
    const pattern = Uint8Array.from({ length: 4096 }, (_, i) => i * 7);
    one.rig.memory.set(pattern, DATA);
    assert.equal(one.driver.run(one.io, { opcode: NVME_IO.WRITE, nsid: 1, prp1: DATA, cdw12: 7 }).status, 0);
    one.driver.submit(one.io, { ...READ, prp1: DATA + 4096, cdw12: 7 });
    one.driver.ring(one.io);
    one.rig.pass(1000);
    const state = structuredClone(one.nvme.save());
    const memory = one.rig.memory.slice();

    const two = nvmeRig();
    two.rig.memory.set(memory);
    two.rig.scheduler.now = one.rig.scheduler.now;
    two.nvme.load(state);
    assert.deepEqual(two.nvme.inspect(), one.nvme.inspect());
    assert.deepEqual(two.rig.raised, []);
    two.rig.pass(MS);
    one.rig.pass(MS);
    assert.deepEqual(two.rig.memory, one.rig.memory);
    assert.deepEqual(two.rig.memory.subarray(DATA + 4096, DATA + 8192), pattern);
    assert.deepEqual(two.nvme.inspect(), one.nvme.inspect());
    assert.deepEqual(two.rig.raised, [1]);
    assert.deepEqual(two.nvme.save(), one.nvme.save());
    assert.equal(get(NVME_CSTS.RDY, asWord(NVME_CSTS, two.driver.csts)), 1);
  });
});
