import { assert, describe, test } from 'vitest';
import {
  NVME_ADMIN,
  NVME_CC,
  NVME_EVENT,
  NVME_IO,
  NVME_LOG,
  NVME_SC,
  nvmeCqHead,
  nvmeSqTail,
} from '#shared/arch/nvme.ts';
import { nvmeReady, nvmeRig } from './nvme-rig.ts';

const MS = 1e6;
const DATA = 0x10_0000;
const FLUSH = { opcode: NVME_IO.FLUSH, nsid: 1 };
const PC = 1;
const { CREATE_IO_CQ, CREATE_IO_SQ, DELETE_IO_CQ, DELETE_IO_SQ } = NVME_ADMIN;

describe('NVMe queues', () => {
  test('three times round a queue, phase and head stay in step', () => {
    const { driver, io } = nvmeReady(undefined, 4);
    for (let i = 0; i < 12; i++) {
      const done = driver.run(io, FLUSH);
      assert.deepEqual([done.status, done.sqid, done.sqHead], [0, 1, (i + 1) % 4], `command ${i}`);
    }
    assert.equal(io.phase, 0, 'the tag turned three times');
  });

  test('a full completion queue holds completions back and loses none', () => {
    const { driver, rig } = nvmeReady();
    driver.port.memory.fill(0, 0x4_0000, 0x4_0000 + 64);
    driver.adminCommand({ opcode: CREATE_IO_CQ, prp1: 0x4_0000, cdw10: (3 << 16) | 2, cdw11: PC });
    driver.adminCommand({ opcode: CREATE_IO_SQ, prp1: 0x4_1000, cdw10: (31 << 16) | 2, cdw11: (2 << 16) | PC });
    const pair = { id: 2, sq: 0x4_1000, cq: 0x4_0000, entries: 32, tail: 0, head: 0, phase: 1 };
    const sent = Array.from({ length: 20 }, () => driver.submit(pair, FLUSH));
    driver.ring(pair);
    rig.pass(MS);
    const small = { ...pair, entries: 4 };
    const got: number[] = [];
    for (let i = 0; i < 20 && got.length < 20; i++) {
      const taken = driver.take(small);
      assert.isAtMost(taken.length, 3);
      got.push(...taken.map((one) => one.cid));
      driver.ringHead(small);
      rig.pass(MS);
    }
    assert.deepEqual(got, sent);
  });

  test('while completions wait, more of that queue are not fetched, and another queue goes on', () => {
    const { driver, rig, nvme, io } = nvmeReady();
    driver.port.memory.fill(0, 0x4_0000, 0x4_0000 + 64);
    driver.adminCommand({ opcode: CREATE_IO_CQ, prp1: 0x4_0000, cdw10: (1 << 16) | 2, cdw11: PC });
    driver.adminCommand({ opcode: CREATE_IO_SQ, prp1: 0x4_1000, cdw10: (127 << 16) | 2, cdw11: (2 << 16) | PC });
    const pair = { id: 2, sq: 0x4_1000, cq: 0x4_0000, entries: 128, tail: 0, head: 0, phase: 1 };
    for (let i = 0; i < 100; i++) driver.submit(pair, FLUSH);
    driver.ring(pair);
    rig.pass(MS);
    const state = nvme.inspect() as { submission: { id: number; head: number }[] };
    const { head } = state.submission.find((queue) => queue.id === 2)!;
    assert.isBelow(head, 100);
    assert.equal(driver.run(io, FLUSH).status, 0);
  });

  test('queues take turns, an arbitration burst each', () => {
    const { driver, rig, io } = nvmeReady();
    driver.adminCommand({ opcode: NVME_ADMIN.SET_FEATURES, cdw10: 1, cdw11: 0 });
    const shared = { id: 2, sq: 0x4_1000, cq: io.cq, entries: 16, tail: 0, head: 0, phase: 1 };
    driver.adminCommand({ opcode: CREATE_IO_SQ, prp1: shared.sq, cdw10: (15 << 16) | 2, cdw11: (1 << 16) | PC });
    for (let i = 0; i < 3; i++) driver.submit(io, FLUSH);
    for (let i = 0; i < 3; i++) driver.submit(shared, FLUSH);
    driver.ring(io);
    driver.ring(shared);
    rig.pass(MS);
    const order = driver.take(io).map((one) => one.sqid);
    assert.deepEqual([...order].sort(), [1, 1, 1, 2, 2, 2]);
    assert.isTrue(
      order.every((id, i) => i === 0 || id !== order[i - 1]),
      `${order} alternates`,
    );
  });

  test.each([
    ['queue 0', CREATE_IO_CQ, { cdw10: 15 << 16, cdw11: PC }, NVME_SC.INVALID_QUEUE_ID],
    ['a queue beyond those there are', CREATE_IO_CQ, { cdw10: (15 << 16) | 9, cdw11: PC }, NVME_SC.INVALID_QUEUE_ID],
    ['a queue that exists', CREATE_IO_CQ, { cdw10: (15 << 16) | 1, cdw11: PC }, NVME_SC.INVALID_QUEUE_ID],
    ['one entry', CREATE_IO_CQ, { cdw10: 2, cdw11: PC }, NVME_SC.INVALID_QUEUE_SIZE],
    ['more than MQES', CREATE_IO_CQ, { cdw10: (1024 << 16) | 2, cdw11: PC }, NVME_SC.INVALID_QUEUE_SIZE],
    ['a queue in pieces', CREATE_IO_CQ, { cdw10: (15 << 16) | 2, cdw11: 0 }, NVME_SC.INVALID_FIELD],
    [
      'an unaligned base',
      CREATE_IO_CQ,
      { cdw10: (15 << 16) | 2, cdw11: PC, prp1: 0x4_0200 },
      NVME_SC.PRP_OFFSET_INVALID,
    ],
    [
      'a vector beyond the table',
      CREATE_IO_CQ,
      { cdw10: (15 << 16) | 2, cdw11: (9 << 16) | PC },
      NVME_SC.INVALID_INTERRUPT_VECTOR,
    ],
    [
      'no completion queue',
      CREATE_IO_SQ,
      { cdw10: (15 << 16) | 2, cdw11: (2 << 16) | PC },
      NVME_SC.COMPLETION_QUEUE_INVALID,
    ],
    ['the admin completion queue', CREATE_IO_SQ, { cdw10: (15 << 16) | 2, cdw11: PC }, NVME_SC.INVALID_QUEUE_ID],
    [
      'a submission queue that exists',
      CREATE_IO_SQ,
      { cdw10: (15 << 16) | 1, cdw11: (1 << 16) | PC },
      NVME_SC.INVALID_QUEUE_ID,
    ],
    ['the deletion of a completion queue in use', DELETE_IO_CQ, { cdw10: 1 }, NVME_SC.INVALID_QUEUE_DELETION],
    ['the deletion of an unknown completion queue', DELETE_IO_CQ, { cdw10: 5 }, NVME_SC.INVALID_QUEUE_ID],
    ['the deletion of the admin queue', DELETE_IO_SQ, { cdw10: 0 }, NVME_SC.INVALID_QUEUE_ID],
  ])('%s is refused', (_name, opcode, words, status) => {
    const { driver } = nvmeReady();
    assert.equal(driver.adminCommand({ opcode, prp1: 0x4_0000, ...words }).status, status);
  });

  test('queues with entry sizes that the controller does not have are refused', () => {
    const { driver } = nvmeRig();
    driver.enable({ IOCQES: 5 });
    const status = (): number =>
      driver.adminCommand({ opcode: CREATE_IO_CQ, prp1: 0x4_0000, cdw10: (15 << 16) | 1, cdw11: PC }).status;
    assert.equal(status(), NVME_SC.INVALID_FIELD);
    driver.port.write(NVME_CC.offset, 0x46_0001);
    assert.equal(status(), NVME_SC.SUCCESS);
  });

  test('queues are deleted, submission first, and can be made again', () => {
    const { driver, io } = nvmeReady();
    assert.equal(driver.adminCommand({ opcode: DELETE_IO_SQ, cdw10: 1 }).status, 0);
    assert.equal(driver.adminCommand({ opcode: DELETE_IO_CQ, cdw10: 1 }).status, 0);
    const again = driver.createPair(1, io.sq, 16, 1);
    assert.equal(driver.run(again, FLUSH).status, 0);
  });

  test('what was fetched of a deleted queue ends with Aborted due to SQ Deletion before the deletion does', () => {
    const { driver, rig, io } = nvmeReady();
    driver.submit(driver.admin, { opcode: DELETE_IO_SQ, cdw10: 1 });
    driver.submit(io, FLUSH);
    // One burst fetches both; the admin queue has the first turn after the queues were made.
    driver.ring(driver.admin);
    driver.ring(io);
    rig.pass(MS);
    const ended = driver.take(io);
    assert.deepEqual(
      ended.map((one) => one.status),
      [NVME_SC.ABORTED_SQ_DELETION],
    );
    assert.equal(driver.take(driver.admin)[0]?.status, 0);
  });

  test('Abort ends a command that was fetched and not begun', () => {
    const { driver, rig, io } = nvmeReady();
    driver.submit(io, { ...FLUSH, cid: 7 });
    driver.submit(driver.admin, { opcode: NVME_ADMIN.ABORT, cdw10: (7 << 16) | 1 });
    driver.ring(driver.admin);
    driver.ring(io);
    rig.pass(MS);
    assert.equal(driver.take(driver.admin)[0]?.dw0, 0);
    assert.equal(driver.take(io)[0]?.status, NVME_SC.ABORT_REQUESTED);
    driver.ringHead(driver.admin);
    assert.equal(driver.adminCommand({ opcode: NVME_ADMIN.ABORT, cdw10: (99 << 16) | 1 }).dw0, 1, 'there is none');
  });

  test('one identifier twice in a queue at a time is a conflict', () => {
    const { driver, rig, io } = nvmeReady();
    driver.submit(io, { ...FLUSH, cid: 7 });
    driver.submit(io, { ...FLUSH, cid: 7 });
    driver.ring(io);
    rig.pass(MS);
    assert.deepEqual(
      driver.take(io).map((one) => one.status),
      [NVME_SC.COMMAND_ID_CONFLICT, 0],
    );
  });
});

describe('NVMe asynchronous events', () => {
  const AER = { opcode: NVME_ADMIN.ASYNC_EVENT_REQUEST };

  function errorLogRead(driver: ReturnType<typeof nvmeReady>['driver'], retain = 0): number {
    return driver.adminCommand({
      opcode: NVME_ADMIN.GET_LOG_PAGE,
      prp1: DATA,
      cdw10: NVME_LOG.ERROR | (15 << 16) | retain,
    }).status;
  }

  test.each([
    ['a doorbell of no queue', nvmeSqTail(5), 1, 0],
    ['a tail beyond its queue', nvmeSqTail(1), 16, 1],
    ['a head beyond its queue', nvmeCqHead(1), 16, 1],
    ['a head beyond what was posted', nvmeCqHead(1), 3, 1],
  ])('%s completes a waiting request', (_name, doorbell, value, information) => {
    const { driver, rig } = nvmeReady();
    const cid = driver.submit(driver.admin, AER);
    driver.ring(driver.admin);
    rig.pass(MS);
    assert.deepEqual(driver.take(driver.admin), [], 'the request waits');
    driver.port.write(doorbell, value);
    rig.pass(MS);
    const [event] = driver.take(driver.admin);
    assert.deepEqual([event?.cid, event?.dw0], [cid, NVME_EVENT.ERROR | (information << 8) | (NVME_LOG.ERROR << 16)]);
  });

  test('a type is silent until its log page is read, and not when the event is to be retained', () => {
    const { driver, rig } = nvmeReady();
    for (let i = 0; i < 3; i++) driver.submit(driver.admin, AER);
    driver.ring(driver.admin);
    const told = (): number => {
      driver.port.write(nvmeSqTail(5), 1);
      rig.pass(MS);
      const { length } = driver.take(driver.admin);
      driver.ringHead(driver.admin);
      return length;
    };
    assert.equal(told(), 1);
    assert.equal(told(), 0);
    assert.equal(errorLogRead(driver, 1 << 15), 0);
    assert.equal(told(), 0);
    // The event that was raised meanwhile comes with the completion of the read, or right behind it.
    driver.submit(driver.admin, { opcode: NVME_ADMIN.GET_LOG_PAGE, prp1: DATA, cdw10: NVME_LOG.ERROR | (15 << 16) });
    driver.ring(driver.admin);
    rig.pass(MS);
    assert.equal(driver.take(driver.admin).length, 2);
  });

  test('a fifth request is one too many, and a reset forgets those that wait', () => {
    const { driver, rig } = nvmeReady();
    for (let i = 0; i < 5; i++) driver.submit(driver.admin, AER);
    driver.ring(driver.admin);
    rig.pass(MS);
    assert.deepEqual(
      driver.take(driver.admin).map((one) => one.status),
      [NVME_SC.ASYNC_EVENT_LIMIT_EXCEEDED],
    );
    driver.disable();
    driver.enable();
    driver.port.write(nvmeSqTail(5), 1);
    rig.pass(MS);
    assert.deepEqual(driver.take(driver.admin), []);
  });

  test('Abort takes a request back', () => {
    const { driver, rig } = nvmeReady();
    driver.submit(driver.admin, { ...AER, cid: 3 });
    driver.submit(driver.admin, { opcode: NVME_ADMIN.ABORT, cid: 4, cdw10: 3 << 16 });
    driver.ring(driver.admin);
    rig.pass(MS);
    assert.deepEqual(
      driver.take(driver.admin).map(({ cid, status, dw0 }) => [cid, status, dw0]),
      [
        [3, NVME_SC.ABORT_REQUESTED, 0],
        [4, 0, 0],
      ],
    );
  });

  test('a temperature above the threshold is an event for whoever wants it', () => {
    const { driver, rig } = nvmeReady();
    driver.submit(driver.admin, AER);
    driver.ring(driver.admin);
    rig.pass(MS);
    const threshold = { opcode: NVME_ADMIN.SET_FEATURES, cdw10: 4, cdw11: 300 };
    assert.equal(driver.adminCommand(threshold).status, 0, 'not wanted, so only the command completes');
    driver.adminCommand({ ...threshold, cdw11: 340 });
    driver.adminCommand({ opcode: NVME_ADMIN.SET_FEATURES, cdw10: 11, cdw11: 2 });
    driver.submit(driver.admin, threshold);
    driver.ring(driver.admin);
    rig.pass(MS);
    const done = driver.take(driver.admin);
    assert.deepEqual(
      done.map((one) => one.dw0),
      [0, NVME_EVENT.SMART | (1 << 8) | (NVME_LOG.SMART << 16)],
    );
  });
});
