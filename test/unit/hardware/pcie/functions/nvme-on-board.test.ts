/** The NVMe controller where the example board has one: BAR, MSI-X table, bus master and reset of its real function. */
import { assert, describe, test } from 'vitest';
import { NVME_CAP_LO, NVME_IO, NVME_SC } from '#shared/arch/nvme.ts';
import { PCI_EXP } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { NvmeDriver } from '../../../../support/nvme-driver.ts';
import { at, Bench, DOORBELL, exampleBoard } from '../bench.ts';

const MS = 1e6;
const NVME = at('02:00.0');
const BAR = 0x1020_0000;
const MSIX = 0x40;
const EXPRESS = 0x80;
const TABLE = BAR + 0x2000;
const DATA = 0x10_0000;
const INTX_DISABLE = 0x400;

function asNvme(more: Partial<BoardFunction> = {}): (fn: BoardFunction) => BoardFunction {
  return (fn) => (fn.sbdf === NVME ? { ...fn, model: 'nvme', ...more } : fn);
}

function placed(msix = true): { readonly b: Bench; readonly driver: NvmeDriver } {
  const b = new Bench(exampleBoard(asNvme()));
  b.openPort(at('00:02.1'), 2, 0x1020_0000, 0x103f_ffff);
  b.setCfg(NVME, PCI.BASE_ADDRESS_0, 4, BAR);
  b.setCfg(NVME, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER | (msix ? INTX_DISABLE : 0));
  if (msix) b.setCfg(NVME, MSIX + PCI_MSIX.FLAGS, 2, PCI_MSIX_FLAGS.ENABLE);
  for (const vector of [0, 1]) {
    b.setMmio(TABLE + vector * 16, DOORBELL);
    b.setMmio(TABLE + vector * 16 + 8, 0x40 + vector);
    b.setMmio(TABLE + vector * 16 + 12, 0);
  }
  const driver = new NvmeDriver({
    read: (offset) => b.mmio(BAR + offset),
    write: (offset, value) => b.setMmio(BAR + offset, value),
    memory: b.memory.bytes,
    pass: (ns) => b.pass(ns),
  });
  return { b, driver };
}

describe('an NVMe controller on a board', () => {
  test('stores and returns blocks, and its completions arrive as MSI-X messages under its requester id', () => {
    const { b, driver } = placed();
    driver.enable();
    const io = driver.createPair(1, 0x2_0000, 16, 1);
    const data = Uint8Array.from({ length: 4096 }, (_, i) => i ^ (i >>> 4));
    b.memory.bytes.set(data, DATA);
    assert.equal(driver.run(io, { opcode: NVME_IO.WRITE, nsid: 1, prp1: DATA, cdw12: 7 }).status, 0);
    assert.equal(driver.run(io, { opcode: NVME_IO.READ, nsid: 1, prp1: DATA + 4096, cdw12: 7 }).status, 0);
    assert.deepEqual(b.memory.bytes.subarray(DATA + 4096, DATA + 8192), data);
    assert.deepEqual(
      b.memory.messages.map(([rid, , message]) => [rid, message]),
      [
        [NVME, 0x40],
        [NVME, 0x40],
        [NVME, 0x41],
        [NVME, 0x41],
      ],
    );
  });

  test('without MSI-X its pin is a level at the interrupt controller', () => {
    const { b, driver } = placed(false);
    driver.enable();
    const io = driver.createPair(1, 0x2_0000, 16, 1);
    b.lines.length = 0;
    driver.submit(io, { opcode: NVME_IO.FLUSH, nsid: 1 });
    driver.ring(io);
    b.pass(MS);
    assert.equal(b.lines.length, 1);
    assert.isTrue(b.lines[0]![1]);
    driver.take(io);
    driver.ringHead(io);
    assert.deepEqual(b.lines[1], [b.lines[0]![0], false]);
    assert.deepEqual(b.memory.messages, []);
  });

  test('without Bus Master Enable it cannot read its queue, which is fatal', () => {
    const { b, driver } = placed();
    driver.enable();
    b.setCfg(NVME, PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    driver.submit(driver.admin, { opcode: 6, prp1: DATA, cdw10: 1 });
    driver.ring(driver.admin);
    b.pass(MS);
    assert.isTrue(driver.fatal);
  });

  test('a function level reset drops a transfer that is under way and clears Transactions Pending', () => {
    const { b, driver } = placed();
    driver.enable();
    const io = driver.createPair(1, 0x2_0000, 16, 1);
    b.memory.bytes.fill(0x5a, DATA, DATA + 4096);
    driver.submit(io, { opcode: NVME_IO.READ, nsid: 1, prp1: DATA, cdw12: 7 });
    driver.ring(io);
    b.pass(1000);
    assert.equal(b.cfg(NVME, EXPRESS + PCI_EXP.DEVSTA, 2) & 0x20, 0x20);
    b.setCfg(NVME, EXPRESS + PCI_EXP.DEVCTL, 2, 0x8000);
    assert.equal(b.cfg(NVME, EXPRESS + PCI_EXP.DEVSTA, 2) & 0x20, 0);
    b.pass(10 * MS);
    assert.equal(b.memory.bytes[DATA], 0x5a);
  });

  test('addresses that no bus has end in a Data Transfer Error', () => {
    const { driver } = placed();
    driver.enable();
    const io = driver.createPair(1, 0x2_0000, 16, 1);
    for (const prp1 of [2 ** 47, 2 ** 52, 2 ** 64 - 4096])
      assert.equal(driver.run(io, { opcode: NVME_IO.WRITE, nsid: 1, prp1 }).status, NVME_SC.DATA_TRANSFER_ERROR);
  });

  test('doorbells reach up to the MSI-X table, and a board that wants more is refused', () => {
    const { driver } = placed();
    assert.equal(driver.port.read(NVME_CAP_LO.offset) & 0xffff, 1023);
    const nvme = { namespaces: [{ sizeBytes: 4096, blockBytes: 512 }], queues: 512 };
    assert.throws(() => new Bench(exampleBoard(asNvme({ nvme }))), /no memory BAR has 8200 bytes free/);
  });

  test('the whole fabric saved and loaded gives the controller back with its data', () => {
    const one = placed();
    one.driver.enable();
    const io = one.driver.createPair(1, 0x2_0000, 16, 1);
    one.b.memory.bytes.fill(0x77, DATA, DATA + 512);
    one.driver.run(io, { opcode: NVME_IO.WRITE, nsid: 1, prp1: DATA });
    const state = structuredClone(one.b.fabric.save());
    const two = placed();
    two.b.fabric.load(state);
    two.b.memory.bytes.set(one.b.memory.bytes);
    two.b.memory.bytes.fill(0, DATA, DATA + 512);
    two.driver.admin = one.driver.admin;
    assert.equal(two.driver.run(io, { opcode: NVME_IO.READ, nsid: 1, prp1: DATA }).status, 0);
    assert.equal(two.b.memory.bytes[DATA + 511], 0x77);
  });
});
