import { assert, describe, test } from 'vitest';
import { NVME_ADMIN, NVME_CNS, NVME_FEATURE, NVME_IO, NVME_LOG, NVME_NSID_ALL, NVME_SC } from '#shared/arch/nvme.ts';
import { NVME_ERROR_LOG, NVME_ID_CTRL, NVME_ID_NS, NVME_SMART } from '#shared/arch/nvme-data.ts';
import { nvmeReady } from './nvme-rig.ts';

const DATA = 0x10_0000;
const TWO = [
  { sizeBytes: 1 << 24, blockBytes: 512 },
  { sizeBytes: 1 << 26, blockBytes: 4096 },
];

function ready() {
  const parts = nvmeReady({ namespaces: TWO });
  const { driver, rig } = parts;
  const view = new DataView(rig.memory.buffer, DATA, 4096);
  const identify = (cns: number, nsid = 0): number =>
    driver.adminCommand({ opcode: NVME_ADMIN.IDENTIFY, nsid, prp1: DATA, cdw10: cns }).status;
  const log = (id: number, dwords: number, more: { nsid?: number; offset?: number } = {}): number =>
    driver.adminCommand({
      opcode: NVME_ADMIN.GET_LOG_PAGE,
      nsid: more.nsid ?? NVME_NSID_ALL,
      prp1: DATA,
      cdw10: id | ((dwords - 1) << 16),
      cdw12: more.offset ?? 0,
    }).status;
  const text = (at: number, bytes: number): string =>
    String.fromCharCode(...rig.memory.subarray(DATA + at, DATA + at + bytes));
  return { ...parts, view, identify, log, text };
}

describe('NVMe Identify', () => {
  test('the controller says who it is and what it can', () => {
    const { view, identify, text } = ready();
    assert.equal(identify(NVME_CNS.CONTROLLER), 0);
    assert.deepEqual([view.getUint16(0, true), view.getUint16(2, true)], [0x1b36, 0x1af4]);
    assert.deepEqual([text(4, 20), text(24, 40)], ['CV0001'.padEnd(20), 'Model'.padEnd(40)]);
    assert.deepEqual(
      [view.getUint8(512), view.getUint8(513), view.getUint32(NVME_ID_CTRL.NN, true), view.getUint8(77)],
      [0x66, 0x44, 2, 8],
    );
    assert.equal(view.getUint32(80, true), 0x0001_0400);
    assert.equal(view.getUint16(256, true), 0, 'no optional admin command');
  });

  test('a namespace says its size and its format', () => {
    const { view, identify } = ready();
    assert.equal(identify(NVME_CNS.NAMESPACE, 2), 0);
    assert.deepEqual([view.getUint32(0, true), view.getUint32(8, true), view.getUint32(16, true)], [16384, 16384, 0]);
    assert.equal(view.getUint8(NVME_ID_NS.LBAF + 2), 12, 'blocks of 2^12 bytes');
  });

  test('active namespaces are listed from the one after the given', () => {
    const { view, identify } = ready();
    identify(NVME_CNS.ACTIVE_NAMESPACES);
    assert.deepEqual(
      [0, 4, 8].map((at) => view.getUint32(at, true)),
      [1, 2, 0],
    );
    identify(NVME_CNS.ACTIVE_NAMESPACES, 1);
    assert.deepEqual(
      [0, 4].map((at) => view.getUint32(at, true)),
      [2, 0],
    );
  });

  test('namespaces have EUI-64s of their own, the same in both places', () => {
    const { rig, view, identify } = ready();
    const euis = [1, 2].map((nsid) => {
      identify(NVME_CNS.NAMESPACE_DESCRIPTORS, nsid);
      assert.deepEqual([view.getUint8(0), view.getUint8(1), view.getUint8(12)], [1, 8, 0]);
      const eui = [...rig.memory.subarray(DATA + 4, DATA + 12)];
      identify(NVME_CNS.NAMESPACE, nsid);
      assert.deepEqual([...rig.memory.subarray(DATA + 120, DATA + 128)], eui);
      return eui;
    });
    assert.notDeepEqual(euis[0], euis[1]);
  });

  test.each([
    ['an unknown structure', 0x20, 1, NVME_SC.INVALID_FIELD],
    ['namespace 0', NVME_CNS.NAMESPACE, 0, NVME_SC.INVALID_NAMESPACE],
    ['namespace 3', NVME_CNS.NAMESPACE_DESCRIPTORS, 3, NVME_SC.INVALID_NAMESPACE],
    ['a list after the last possible namespace', NVME_CNS.ACTIVE_NAMESPACES, 0xffff_fffe, NVME_SC.INVALID_NAMESPACE],
  ])('%s is refused', (_name, cns, nsid, status) => {
    assert.equal(ready().identify(cns, nsid), status);
  });
});

describe('NVMe log pages', () => {
  test('a command that failed is in the error log with its queue, identifier, status and place', () => {
    const { driver, io, log, view } = ready();
    driver.run(io, { opcode: NVME_IO.READ, nsid: 1, cid: 0x77, prp1: DATA, cdw10: 0x9000 });
    assert.equal(log(NVME_LOG.ERROR, 16), 0);
    assert.deepEqual(
      [
        view.getUint32(NVME_ERROR_LOG.COUNT, true),
        view.getUint16(NVME_ERROR_LOG.SQID, true),
        view.getUint16(NVME_ERROR_LOG.CID, true),
        (view.getUint16(NVME_ERROR_LOG.STATUS, true) >>> 1) & 0x7ff,
        view.getUint32(NVME_ERROR_LOG.LBA, true),
        view.getUint32(NVME_ERROR_LOG.NSID, true),
      ],
      [1, 1, 0x77, NVME_SC.LBA_OUT_OF_RANGE, 0x9000, 1],
    );
  });

  test('the error log keeps the last 64, newest first', () => {
    const { driver, io, log, view } = ready();
    for (let i = 0; i < 70; i++) driver.run(io, { opcode: 0x7f, nsid: 1 });
    log(NVME_LOG.ERROR, 1024);
    assert.equal(view.getUint32(0, true), 70);
    assert.equal(view.getUint32(63 * 64, true), 7);
  });

  test('SMART counts what was read and written, in thousands of 512 bytes', () => {
    const { driver, io, log, view } = ready();
    for (let i = 0; i < 3; i++)
      driver.run(io, { opcode: NVME_IO.READ, nsid: 2, prp1: DATA, prp2: DATA + 4096, cdw12: 1 });
    driver.run(io, { opcode: NVME_IO.WRITE, nsid: 2, prp1: DATA });
    driver.run(io, { opcode: NVME_IO.WRITE, nsid: 9, prp1: DATA });
    log(NVME_LOG.SMART, 128);
    assert.deepEqual(
      [NVME_SMART.HOST_READS, NVME_SMART.HOST_WRITES, NVME_SMART.DATA_UNITS_READ, NVME_SMART.ERROR_LOG_ENTRIES].map(
        (at) => view.getUint32(at, true),
      ),
      [3, 1, 1, 1],
    );
    assert.equal(view.getUint16(NVME_SMART.TEMPERATURE, true), 310);
  });

  test('a page can be read from an offset, and what lies behind its end is zero', () => {
    const { log, rig, text } = ready();
    assert.equal(log(NVME_LOG.FIRMWARE, 2, { offset: 8 }), 0);
    assert.equal(text(0, 8), 'CULVERT1');
    rig.memory.fill(0xee, DATA, DATA + 16);
    assert.equal(log(NVME_LOG.FIRMWARE, 2, { offset: 508 }), 0);
    assert.deepEqual([...rig.memory.subarray(DATA, DATA + 9)], [0, 0, 0, 0, 0, 0, 0, 0, 0xee]);
    assert.equal(log(NVME_LOG.CHANGED_NAMESPACES, 1), 0);
  });

  test.each([
    ['an unknown page', 0x80, {}, NVME_SC.INVALID_LOG_PAGE],
    ['SMART of one namespace', NVME_LOG.SMART, { nsid: 1 }, NVME_SC.INVALID_FIELD],
    ['an odd offset', NVME_LOG.SMART, { offset: 6 }, NVME_SC.INVALID_FIELD],
    ['an offset behind the end', NVME_LOG.SMART, { offset: 516 }, NVME_SC.INVALID_FIELD],
  ])('%s is refused', (_name, id, more, status) => {
    assert.equal(ready().log(id, 1, more), status);
  });
});

describe('NVMe features', () => {
  function features() {
    const parts = nvmeReady({ queues: 8 });
    const { driver } = parts;
    return {
      ...parts,
      set: (id: number, value: number, save = 0) =>
        driver.adminCommand({ opcode: NVME_ADMIN.SET_FEATURES, cdw10: (id | save) >>> 0, cdw11: value }),
      get: (id: number, select = 0, argument = 0) =>
        driver.adminCommand({ opcode: NVME_ADMIN.GET_FEATURES, cdw10: id | (select << 8), cdw11: argument }),
    };
  }

  test('a request for queues is granted up to what there is, before any was made', () => {
    const { driver, set } = features();
    assert.equal(set(NVME_FEATURE.NUMBER_OF_QUEUES, 0).status, NVME_SC.COMMAND_SEQUENCE_ERROR);
    driver.disable();
    driver.enable();
    assert.equal(set(NVME_FEATURE.NUMBER_OF_QUEUES, 0x0003_000f).dw0, 0x0003_0007);
    assert.equal(set(NVME_FEATURE.NUMBER_OF_QUEUES, 0xffff).status, NVME_SC.INVALID_FIELD);
    const cq = { opcode: NVME_ADMIN.CREATE_IO_CQ, prp1: 0x4_0000, cdw11: 1 };
    assert.equal(driver.adminCommand({ ...cq, cdw10: (3 << 16) | 5 }).status, NVME_SC.INVALID_QUEUE_ID);
    assert.equal(driver.adminCommand({ ...cq, cdw10: (3 << 16) | 4 }).status, 0);
  });

  test('a value is kept until a reset gives the default back', () => {
    const { driver, set, get } = features();
    set(NVME_FEATURE.WRITE_ATOMICITY, 1);
    set(NVME_FEATURE.INTERRUPT_COALESCING, 0x0a05);
    assert.deepEqual([get(NVME_FEATURE.WRITE_ATOMICITY).dw0, get(NVME_FEATURE.WRITE_ATOMICITY, 1).dw0], [1, 0]);
    assert.equal(get(NVME_FEATURE.INTERRUPT_COALESCING).dw0, 0x0a05);
    driver.disable();
    driver.enable();
    assert.equal(get(NVME_FEATURE.WRITE_ATOMICITY).dw0, 0);
    assert.equal(get(NVME_FEATURE.INTERRUPT_COALESCING).dw0, 0);
  });

  test('coalescing can be turned off for each vector that there is', () => {
    const { set, get } = features();
    set(NVME_FEATURE.INTERRUPT_VECTOR_CONFIG, 0x1_0003);
    assert.deepEqual(
      [3, 4].map((vector) => get(NVME_FEATURE.INTERRUPT_VECTOR_CONFIG, 0, vector).dw0),
      [0x1_0003, 4],
    );
    assert.equal(set(NVME_FEATURE.INTERRUPT_VECTOR_CONFIG, 9).status, NVME_SC.INVALID_FIELD);
  });

  test('capabilities say changeable and not saveable, and saving is refused', () => {
    const { set, get } = features();
    assert.equal(get(NVME_FEATURE.ARBITRATION, 3).dw0, 4);
    assert.equal(set(NVME_FEATURE.ARBITRATION, 1, 0x8000_0000).status, NVME_SC.FEATURE_NOT_SAVEABLE);
    assert.equal(get(0x7f).status, NVME_SC.INVALID_FIELD);
    assert.equal(set(NVME_FEATURE.POWER_MANAGEMENT, 1).status, NVME_SC.INVALID_FIELD);
  });

  test('thresholds for over and under stand side by side', () => {
    const { set, get } = features();
    set(NVME_FEATURE.TEMPERATURE_THRESHOLD, 350);
    set(NVME_FEATURE.TEMPERATURE_THRESHOLD, 270 | (1 << 20));
    assert.equal(get(NVME_FEATURE.TEMPERATURE_THRESHOLD).dw0, 350);
    assert.equal(get(NVME_FEATURE.TEMPERATURE_THRESHOLD, 0, 1 << 20).dw0, 270);
  });

  test.each([
    ['Format', NVME_ADMIN.FORMAT_NVM],
    ['Firmware Commit', 0x10],
    ['Namespace Management', 0x0d],
  ])('%s is no command of this controller', (_name, opcode) => {
    assert.equal(features().driver.adminCommand({ opcode, nsid: 1 }).status, NVME_SC.INVALID_OPCODE);
  });
});
