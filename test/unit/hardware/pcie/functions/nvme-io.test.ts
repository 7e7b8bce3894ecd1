import { assert, describe, test } from 'vitest';
import { NVME_ADMIN, NVME_DSM_AD, NVME_IO, NVME_NSID_ALL, NVME_SC } from '#shared/arch/nvme.ts';
import { NVME_ID_NS } from '#shared/arch/nvme-data.ts';
import { NvmeNamespace } from '../../../../../services/hardware/pcie/functions/nvme-namespace.ts';
import { NVME_CHUNK_BYTES } from '../../../../../services/hardware/pcie/functions/nvme-namespace-shape.ts';
import type { Command, NvmeDriver } from '../../../../support/nvme-driver.ts';
import { type NvmeRig, nvmeReady } from './nvme-rig.ts';

const PAGE = 4096;
const NO_MEDIA = { write: () => assert.fail('nothing goes to a medium') };
const LIST = 0x8_0000;
const DATA = 0x10_0000;
const { READ, WRITE, COMPARE, WRITE_ZEROES, DATASET_MANAGEMENT, FLUSH } = NVME_IO;

function pattern(bytes: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + seed * 17 + (i >>> 8)) & 0xff);
}

/** A read or write of `blocks` blocks. */
function io(opcode: number, lba: number, blocks: number, more: Partial<Command> = {}): Command {
  return {
    opcode,
    nsid: 1,
    prp1: DATA,
    cdw10: lba >>> 0,
    cdw11: Math.floor(lba / 2 ** 32),
    cdw12: blocks - 1,
    ...more,
  };
}

/** Writes PRP entries at `at`. */
function list(driver: NvmeDriver, at: number, entries: readonly number[]): void {
  for (const [i, entry] of entries.entries()) {
    driver.view.setUint32(at + 8 * i, entry, true);
    driver.view.setUint32(at + 8 * i + 4, 0, true);
  }
}

function used({ driver, rig }: NvmeRig): number {
  driver.adminCommand({ opcode: NVME_ADMIN.IDENTIFY, nsid: 1, prp1: 0x20_0000 });
  return new DataView(rig.memory.buffer).getUint32(0x20_0000 + NVME_ID_NS.NUSE, true);
}

describe('NVMe reads and writes', () => {
  test('what was written is read back from its blocks, and the blocks beside it stay zero', () => {
    const { driver, io: queue, rig } = nvmeReady();
    const data = pattern(2 * 512);
    rig.memory.set(data, DATA);
    assert.equal(driver.run(queue, io(WRITE, 5, 2)).status, 0);
    assert.equal(driver.run(queue, io(READ, 4, 4, { prp1: DATA + PAGE })).status, 0);
    const back = rig.memory.subarray(DATA + PAGE, DATA + PAGE + 4 * 512);
    assert.deepEqual(back.subarray(512, 1536), data);
    assert.isTrue([...back.subarray(0, 512), ...back.subarray(1536)].every((byte) => byte === 0));
  });

  test('a namespace starts with its contents and keeps them apart from what is written', () => {
    const contents = pattern(3 * NVME_CHUNK_BYTES + 100);
    const before = contents.slice();
    const { driver, io: queue, rig } = nvmeReady({ namespaces: [{ sizeBytes: 1 << 20, blockBytes: 4096, contents }] });
    driver.run(queue, io(READ, 48, 1));
    assert.deepEqual(rig.memory.subarray(DATA, DATA + 100), contents.subarray(3 * NVME_CHUNK_BYTES));
    assert.equal(rig.memory[DATA + 100], 0);
    driver.run(queue, io(WRITE, 0, 1, { prp1: DATA + PAGE }));
    driver.run(queue, io(READ, 0, 2, { prp2: DATA + PAGE }));
    assert.equal(rig.memory[DATA], 0);
    assert.deepEqual(rig.memory.subarray(DATA + PAGE, DATA + 2 * PAGE), contents.subarray(PAGE, 2 * PAGE));
    assert.deepEqual(contents, before);
  });

  test.each([
    ['the last block', io(READ, 32767, 1), 0],
    ['one block beyond', io(READ, 32767, 2, { prp2: 0 }), NVME_SC.LBA_OUT_OF_RANGE],
    ['an LBA of 2^63', io(READ, 2 ** 63, 1), NVME_SC.LBA_OUT_OF_RANGE],
    ['namespace 0', io(READ, 0, 1, { nsid: 0 }), NVME_SC.INVALID_NAMESPACE],
    ['a namespace that is not there', io(READ, 0, 1, { nsid: 2 }), NVME_SC.INVALID_NAMESPACE],
    ['all namespaces at once', io(READ, 0, 1, { nsid: NVME_NSID_ALL }), NVME_SC.INVALID_NAMESPACE],
    ['more data than MDTS', io(READ, 0, 2049), NVME_SC.INVALID_FIELD],
    ['scatter gather lists', io(READ, 0, 1, { flags: 0x4000 }), NVME_SC.INVALID_FIELD],
    ['a fused command', io(READ, 0, 1, { flags: 0x100 }), NVME_SC.INVALID_FIELD],
    ['an unknown opcode', io(0x7f, 0, 1), NVME_SC.INVALID_OPCODE],
    ['a flush of all namespaces', { opcode: FLUSH, nsid: NVME_NSID_ALL }, 0],
    ['a flush of one that is not there', { opcode: FLUSH, nsid: 7 }, NVME_SC.INVALID_NAMESPACE],
  ])('%s', (_name, command, status) => {
    const { driver, io: queue } = nvmeReady();
    const done = driver.run(queue, command);
    assert.equal(done.status, status);
    assert.deepEqual([done.doNotRetry, done.more], [status !== 0, status !== 0]);
  });
});

describe('NVMe physical region pages', () => {
  test('an offset in PRP1 and a second page in PRP2', () => {
    const { driver, io: queue, rig } = nvmeReady();
    const data = pattern(PAGE);
    rig.memory.set(data.subarray(0, PAGE - 0x404), DATA + 0x404);
    rig.memory.set(data.subarray(PAGE - 0x404), DATA + 5 * PAGE);
    const there = { prp1: DATA + 0x404, prp2: DATA + 5 * PAGE };
    assert.equal(driver.run(queue, io(WRITE, 0, 8, there)).status, 0);
    assert.equal(driver.run(queue, io(READ, 0, 8, { prp1: DATA + 8 * PAGE })).status, 0);
    assert.deepEqual(rig.memory.subarray(DATA + 8 * PAGE, DATA + 9 * PAGE), data);
  });

  test('a list names the pages in any order', () => {
    const { driver, io: queue, rig } = nvmeReady();
    const data = pattern(4 * PAGE);
    const pages = [9, 3, 7].map((n) => DATA + n * PAGE);
    rig.memory.set(data.subarray(0, PAGE), DATA);
    for (const [i, page] of pages.entries()) rig.memory.set(data.subarray((i + 1) * PAGE, (i + 2) * PAGE), page);
    list(driver, LIST, pages);
    assert.equal(driver.run(queue, io(WRITE, 0, 32, { prp2: LIST })).status, 0);
    list(driver, LIST, [DATA + 17 * PAGE, DATA + 18 * PAGE, DATA + 19 * PAGE]);
    assert.equal(driver.run(queue, io(READ, 0, 32, { prp1: DATA + 16 * PAGE, prp2: LIST })).status, 0);
    assert.deepEqual(rig.memory.subarray(DATA + 16 * PAGE, DATA + 20 * PAGE), data);
  });

  test('a list that starts inside its page goes on in the page that its last entry names', () => {
    const { driver, io: queue, rig } = nvmeReady();
    const data = pattern(6 * PAGE, 9);
    rig.memory.set(data, DATA);
    // Room for two entries: one page and the link.
    list(driver, LIST + PAGE - 16, [DATA + PAGE, LIST + 3 * PAGE]);
    list(
      driver,
      LIST + 3 * PAGE,
      [2, 3, 4, 5].map((n) => DATA + n * PAGE),
    );
    assert.equal(driver.run(queue, io(WRITE, 100, 48, { prp2: LIST + PAGE - 16 })).status, 0);
    rig.memory.fill(0, DATA, DATA + 6 * PAGE);
    assert.equal(driver.run(queue, io(READ, 100, 48, { prp2: LIST + PAGE - 16 })).status, 0);
    assert.deepEqual(rig.memory.subarray(DATA, DATA + 6 * PAGE), data);
  });

  test('the last entry of a full list page is a page when no more follow', () => {
    const { driver, io: queue, rig } = nvmeReady();
    list(driver, LIST + PAGE - 16, [DATA + PAGE, DATA + 2 * PAGE]);
    rig.memory.fill(0x77, DATA, DATA + 3 * PAGE);
    assert.equal(driver.run(queue, io(READ, 0, 24, { prp2: LIST + PAGE - 16 })).status, 0);
    assert.isTrue(rig.memory.subarray(DATA, DATA + 3 * PAGE).every((byte) => byte === 0));
  });

  test('1 MiB in pages that follow each other is one piece of memory', () => {
    const { driver, io: queue, rig } = nvmeReady();
    list(
      driver,
      LIST,
      Array.from({ length: 255 }, (_, i) => DATA + (i + 1) * PAGE),
    );
    const data = pattern(1 << 20);
    rig.memory.set(data, DATA);
    rig.dmaCalls = 0;
    assert.equal(driver.run(queue, io(WRITE, 0, 2048, { prp2: LIST })).status, 0);
    assert.equal(rig.dmaCalls, 1 + 1 + 16 + 1, 'the entry, the list, a transfer for each 64 KiB, the completion');
    rig.memory.fill(0, DATA, DATA + (1 << 20));
    driver.run(queue, io(READ, 0, 2048, { prp2: LIST }));
    assert.deepEqual(rig.memory.subarray(DATA, DATA + (1 << 20)), data);
  });

  test('with pages of 16 KiB the same data need fewer entries', () => {
    const { driver, rig } = nvmeReady();
    driver.disable();
    driver.admin = Object.assign(driver.admin, { sq: 0x1_0000, cq: 0x1_4000 });
    driver.enable({ MPS: 2 });
    const queue = driver.createPair(1, 0x2_0000, 256, 1);
    const data = pattern(3 * 0x4000);
    rig.memory.set(data.subarray(0, 0x4000), DATA);
    rig.memory.set(data.subarray(0x4000, 0x8000), DATA + 0x1_0000);
    rig.memory.set(data.subarray(0x8000), DATA + 0x8000);
    list(driver, LIST, [DATA + 0x1_0000, DATA + 0x8000]);
    assert.equal(driver.run(queue, io(WRITE, 0, 96, { prp2: LIST })).status, 0);
    list(driver, LIST, [DATA + 0x2_4000, DATA + 0x2_8000]);
    driver.run(queue, io(READ, 0, 96, { prp1: DATA + 0x2_0000, prp2: LIST }));
    assert.deepEqual(rig.memory.subarray(DATA + 0x2_0000, DATA + 0x2_c000), data);
  });

  test.each([
    ['an odd PRP1', 1, { prp1: DATA + 2 }, []],
    ['an offset in the second page', 16, { prp2: DATA + PAGE + 4 }, []],
    ['a list that is not at a multiple of 8', 32, { prp2: LIST + 4 }, []],
    ['an offset in an entry of a list', 32, { prp2: LIST }, [DATA + PAGE, DATA + 2 * PAGE + 512, DATA]],
    ['an offset in the link of a list', 48, { prp2: LIST + PAGE - 16 }, [DATA + PAGE, LIST + 2 * PAGE + 8]],
  ])('%s is PRP Offset Invalid', (_name, blocks, prps, entries) => {
    const { driver, io: queue } = nvmeReady();
    list(driver, 'prp2' in prps && prps.prp2 >= LIST && prps.prp2 < DATA ? prps.prp2 & ~7 : LIST, entries);
    assert.equal(driver.run(queue, io(READ, 0, blocks, prps)).status, NVME_SC.PRP_OFFSET_INVALID);
  });

  test.each([
    ['data that cannot be read', WRITE, DATA],
    ['data that cannot be written', READ, DATA],
    ['a list that cannot be read', READ, LIST],
  ])('%s are a Data Transfer Error that may be tried again', (_name, opcode, abort) => {
    const { driver, io: queue, rig } = nvmeReady();
    list(driver, LIST, [DATA + PAGE, DATA + 2 * PAGE]);
    rig.abortFrom = abort;
    rig.abortEnd = abort + 8;
    const done = driver.run(queue, io(opcode, 0, 24, { prp2: LIST }));
    assert.deepEqual([done.status, done.doNotRetry], [NVME_SC.DATA_TRANSFER_ERROR, false]);
    assert.isFalse(driver.fatal);
  });

  test('an address beyond any bus is a Data Transfer Error', () => {
    const { driver, io: queue } = nvmeReady();
    assert.equal(driver.run(queue, io(READ, 0, 1, { prp1: 2 ** 63 })).status, NVME_SC.DATA_TRANSFER_ERROR);
  });
});

describe('NVMe compare, zeroes and deallocation', () => {
  test('Compare succeeds on the same data and fails on one other byte', () => {
    const { driver, io: queue, rig } = nvmeReady();
    rig.memory.set(pattern(1024), DATA);
    driver.run(queue, io(WRITE, 0, 2));
    assert.equal(driver.run(queue, io(COMPARE, 0, 2)).status, 0);
    rig.memory[DATA + 1000]! ^= 1;
    assert.equal(driver.run(queue, io(COMPARE, 0, 2)).status, NVME_SC.COMPARE_FAILURE);
  });

  test('Write Zeroes clears its blocks and no other', () => {
    const { driver, io: queue, rig } = nvmeReady();
    rig.memory.fill(0xff, DATA, DATA + 2048);
    driver.run(queue, io(WRITE, 0, 4));
    assert.equal(driver.run(queue, io(WRITE_ZEROES, 1, 2)).status, 0);
    driver.run(queue, io(READ, 0, 4));
    assert.deepEqual(
      [0, 511, 512, 1535, 1536, 2047].map((i) => rig.memory[DATA + i]),
      [0xff, 0xff, 0, 0, 0xff, 0xff],
    );
  });

  test('Dataset Management gives whole chunks back and zeroes the rest', () => {
    const parts = nvmeReady({ namespaces: [{ sizeBytes: 1 << 20, blockBytes: 512, contents: pattern(1 << 18) }] });
    const { driver, io: queue, rig } = parts;
    assert.equal(used(parts), 512);
    const ranges = new Uint32Array([0, 128, 0, 0, 0, 10, 256, 0]);
    rig.memory.set(new Uint8Array(ranges.buffer), LIST);
    const command = { opcode: DATASET_MANAGEMENT, nsid: 1, prp1: LIST, cdw10: 1 };
    assert.equal(driver.run(queue, command).status, 0);
    assert.equal(used(parts), 512, 'without AD it is a hint');
    assert.equal(driver.run(queue, { ...command, cdw11: NVME_DSM_AD }).status, 0);
    assert.equal(used(parts), 384);
    driver.run(queue, io(READ, 256, 11, { prp2: DATA + PAGE }));
    assert.isTrue(rig.memory.subarray(DATA, DATA + 5120).every((byte) => byte === 0));
    assert.notEqual(rig.memory[DATA + 5121], 0);
    driver.run(queue, io(WRITE, 0, 1));
    assert.equal(used(parts), 512);
  });

  test('a range beyond the end leaves the others as they were', () => {
    const { driver, io: queue, rig } = nvmeReady();
    rig.memory.fill(1, DATA, DATA + 512);
    driver.run(queue, io(WRITE, 0, 1));
    rig.memory.set(new Uint8Array(new Uint32Array([0, 1, 0, 0, 0, 1, 32768, 0]).buffer), LIST);
    const command = { opcode: DATASET_MANAGEMENT, nsid: 1, prp1: LIST, cdw10: 1, cdw11: NVME_DSM_AD };
    assert.equal(driver.run(queue, command).status, NVME_SC.LBA_OUT_OF_RANGE);
    rig.memory.fill(0, DATA, DATA + 512);
    driver.run(queue, io(READ, 0, 1));
    assert.equal(rig.memory[DATA], 1);
  });

  test('any sequence of writes and deallocations leaves what an array of bytes would hold', () => {
    const sizeBytes = 6 * NVME_CHUNK_BYTES;
    const contents = pattern(2 * NVME_CHUNK_BYTES + 777);
    let namespace = new NvmeNamespace({ sizeBytes, blockBytes: 512, contents }, NO_MEDIA);
    const model = new Uint8Array(sizeBytes);
    model.set(contents);
    let x = 12345;
    const draw = (below: number): number => {
      x = (Math.imul(x, 1103515245) + 12345) >>> 0;
      return (x >>> 8) % below;
    };
    for (let round = 0; round < 300; round++) {
      const at = draw(sizeBytes / 512) * 512;
      const bytes = Math.min(sizeBytes - at, (1 + draw(300)) * 512);
      if (draw(3) === 0) {
        namespace.deallocate(at, bytes);
        model.fill(0, at, at + bytes);
      } else
        for (let done = 0; done < bytes; ) {
          const piece = namespace.writable(at + done, bytes - done);
          piece.fill(round);
          model.fill(round, at + done, at + done + piece.length);
          done += piece.length;
        }
      if (round % 50 === 0) {
        const copy = new NvmeNamespace({ sizeBytes, blockBytes: 512, contents }, NO_MEDIA);
        copy.load(structuredClone(namespace.save()));
        assert.equal(copy.blocksUsed, namespace.blocksUsed);
        namespace = copy;
      }
    }
    const all = new Uint8Array(sizeBytes);
    for (let at = 0; at < sizeBytes; at += NVME_CHUNK_BYTES) all.set(namespace.view(at, NVME_CHUNK_BYTES), at);
    assert.deepEqual(all, model);
  });
});
