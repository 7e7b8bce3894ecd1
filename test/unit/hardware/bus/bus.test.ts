import { assert, describe, test } from 'vitest';
import { Bus } from '../../../../services/hardware/bus/bus.ts';
import { CHUNK_BYTES, chunkBase, Ram } from '../../../../services/hardware/bus/ram.ts';
import type { MmioTarget, Requester } from '../../../../services/hardware/bus/transaction.ts';

const LOW = 0x4000_0000;
const HIGH = 0x8000_0000_0000;

function ram(): Ram {
  return new Ram([
    { pa: HIGH, sizeBytes: 16 * 1024 * 1024 },
    { pa: LOW, sizeBytes: 4 * 1024 * 1024 },
  ]);
}

/** Remembers what it is asked; reads give the offset. */
class Recorder implements MmioTarget {
  readonly name = 'recorder';
  readonly log: (string | number | undefined)[][] = [];
  read(offset: number, size: number, requester?: Requester): number {
    this.log.push(['r', offset, size, requester?.rid]);
    return offset;
  }
  write(offset: number, size: number, value: number, requester?: Requester): void {
    this.log.push(['w', offset, size, value, requester?.rid]);
  }
}

describe('RAM', () => {
  test('reads zero until it is written, and costs nothing until then', () => {
    const r = ram();
    const into = new Uint8Array(64).fill(0xff);
    r.readBytes(HIGH + 100, into);
    assert.isTrue(into.every((b) => b === 0));
    r.fill(LOW, 4 * 1024 * 1024, 0);
    assert.equal(r.residentBytes, 0);
  });

  test('keeps bytes across the edge of a chunk, above 2^47 too', () => {
    const r = ram();
    const data = Uint8Array.from({ length: 300 }, (_, i) => i);
    r.writeBytes(HIGH + CHUNK_BYTES - 100, data);
    const into = new Uint8Array(302);
    r.readBytes(HIGH + CHUNK_BYTES - 101, into);
    assert.deepEqual([...into], [0, ...data, 0]);
    assert.equal(r.residentBytes, 2 * CHUNK_BYTES);
  });

  test('shows the same bytes at every width, little-endian and unsigned', () => {
    const r = ram();
    r.write32(LOW + 8, 0xfedc_ba98);
    assert.equal(r.read8(LOW + 11), 0xfe);
    assert.equal(r.read16(LOW + 8), 0xba98);
    r.write8(LOW + 8, 0x11);
    r.write16(LOW + 10, 0x2233);
    assert.equal(r.read32(LOW + 8), 0x2233_ba11);
    assert.equal(r.chunkWords(LOW)?.[2], 0x2233_ba11);
  });

  test('gives memory back when a whole chunk is zeroed, and reads zero afterwards', () => {
    const r = ram();
    r.fill(LOW + 1, 3 * 1024 * 1024, 0xaa);
    assert.equal(r.read8(LOW + 3 * 1024 * 1024), 0xaa);
    assert.equal(r.read8(LOW + 3 * 1024 * 1024 + 1), 0);
    r.fill(LOW, CHUNK_BYTES, 0);
    assert.equal(r.residentBytes, CHUNK_BYTES);
    assert.equal(r.read8(LOW + 5), 0);
  });

  test('ends where its banks end', () => {
    const r = ram();
    assert.isTrue(r.contains(LOW + 4 * 1024 * 1024 - 4, 4));
    assert.isFalse(r.contains(LOW + 4 * 1024 * 1024 - 4, 8));
    assert.isFalse(r.contains(LOW - 1, 1));
    assert.equal(r.chunkWords(0x1000), undefined);
    assert.throws(() => r.writeBytes(LOW + 4 * 1024 * 1024 - 1, new Uint8Array(2)), /not RAM/);
    assert.throws(
      () =>
        new Ram([
          { pa: 0, sizeBytes: 8192 },
          { pa: 4096, sizeBytes: 4096 },
        ]),
      /overlap/,
    );
  });
});

describe('the physical bus', () => {
  test('cuts a long access to a register block into aligned words in rising order', () => {
    const bus = new Bus(ram());
    const target = new Recorder();
    bus.map(0x1000, 0x1000, target);
    assert.isTrue(bus.write(0x1008, 8, 0x1111_1111, 0x2222_2222));
    assert.isTrue(bus.read(0x1010, 8));
    assert.deepEqual([bus.low, bus.high], [0x10, 0x14]);
    assert.equal(bus.writeBytes(0x1001, Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8])), 8);
    assert.deepEqual(target.log, [
      ['w', 8, 4, 0x1111_1111, undefined],
      ['w', 12, 4, 0x2222_2222, undefined],
      ['r', 0x10, 4, undefined],
      ['r', 0x14, 4, undefined],
      ['w', 1, 1, 1, undefined],
      ['w', 2, 2, 0x302, undefined],
      ['w', 4, 4, 0x0706_0504, undefined],
      ['w', 8, 1, 8, undefined],
    ]);
  });

  test('passes the requester of a device on', () => {
    const bus = new Bus(ram());
    const target = new Recorder();
    bus.map(0x1000, 0x1000, target);
    bus.writeBytes(0x1040, Uint8Array.from([5, 0, 0, 0]), 0, 4, { rid: 0x100, streamId: 0, deviceIdAt: () => 0 });
    assert.deepEqual(target.log, [['w', 0x40, 4, 5, 0x100]]);
  });

  test('takes a piece of a device to the block that it names, beside the one before and across 4 GiB too', () => {
    const bus = new Bus(ram());
    const device: Requester = { rid: 0x100, streamId: 0, deviceIdAt: () => 0 };
    const [low, high, across] = [new Recorder(), new Recorder(), new Recorder()];
    bus.map(0x1000, 0x1000, low);
    bus.map(0x7_0000_1000, 0x1000, high);
    bus.map(0x8_ffff_f000, 0x2000, across);
    const write = (pa: number, ...bytes: number[]): number =>
      bus.writePiece(Math.floor(pa / 2 ** 32), pa | 0, Uint8Array.from([9, ...bytes]), 1, bytes.length, device);
    for (const base of [0x1000, 0x7_0000_1000, 0x8_ffff_f000]) {
      // The second access finds the block of the first.
      for (const offset of [0x40, 0xffc]) assert.equal(write(base + offset, 1, 2, 3, 0x84), 4);
      assert.equal(write(base + 0x42, 1, 2, 3), 3);
    }
    assert.equal(write(0x9_0000_0004, 7), 1);
    assert.deepEqual([write(0xffc, 1, 2, 3, 4), write(0x2000, 1, 2, 3, 4), write(0x7_0000_0ffe, 1, 2)], [0, 0, 0]);
    const four = (offset: number) => ['w', offset, 4, 0x8403_0201, 0x100];
    const log = [four(0x40), four(0xffc), ['w', 0x42, 2, 0x201, 0x100], ['w', 0x44, 1, 3, 0x100]];
    assert.deepEqual(low.log, log);
    assert.deepEqual(high.log, log);
    assert.deepEqual(across.log, [...log, ['w', 0x1004, 1, 7, 0x100]]);
  });

  test('says where nothing is, and how far an access got', () => {
    const bus = new Bus(ram());
    bus.map(0x1000, 0x1000, new Recorder());
    assert.isFalse(bus.read(0x2000, 4));
    assert.isFalse(bus.write(0x800, 4, 1));
    assert.isFalse(bus.read(LOW + 2, 4), 'misaligned');
    assert.equal(bus.readBytes(0x1ffc, new Uint8Array(8)), 4);
    assert.equal(bus.writeBytes(LOW + 4 * 1024 * 1024 - 3, new Uint8Array(8)), 3);
    assert.equal(bus.find(LOW), undefined);
  });

  test('finds the right one of many blocks', () => {
    const bus = new Bus(ram());
    const targets = Array.from({ length: 20 }, () => new Recorder());
    for (const [i, target] of targets.entries()) bus.map(HIGH / 2 + (19 - i) * 0x3000, 0x1000, target);
    for (let i = 0; i < 20; i++) {
      assert.equal(bus.find(HIGH / 2 + (19 - i) * 0x3000 + 0xfff)?.target, targets[i]);
      assert.equal(bus.find(HIGH / 2 + (19 - i) * 0x3000 + 0x1000), undefined);
    }
  });

  test('has no two things at one address', () => {
    const bus = new Bus(ram());
    bus.map(0x1000, 0x1000, new Recorder());
    assert.throws(() => bus.map(0x1ffc, 0x1000, new Recorder()), /lies over recorder/);
    assert.throws(() => bus.map(LOW - 0x1000, 0x2000, new Recorder()), /lies over RAM/);
  });

  test('reads and writes RAM at every width', () => {
    const bus = new Bus(ram());
    bus.write(HIGH, 8, 0x89ab_cdef, 0x0123_4567);
    bus.read(HIGH, 8);
    assert.deepEqual([bus.low, bus.high], [0x89ab_cdef, 0x0123_4567]);
    bus.read(HIGH + 6, 2);
    assert.deepEqual([bus.low, bus.high], [0x0123, 0]);
    bus.write(HIGH + 1, 1, 0xff);
    bus.read(HIGH, 4);
    assert.equal(bus.low, 0x89ab_ffef);
  });
});

describe('chunks of RAM', () => {
  test('are found by number, zero until one is claimed', () => {
    const r = ram();
    const chunk = HIGH / CHUNK_BYTES + 3;
    assert.equal(chunkBase(r, chunk, 0), 0);
    const base = r.claim(chunk, 0);
    assert.isAbove(base, 0);
    r.words[base + 5] = 0x1234;
    assert.equal(r.read32(HIGH + 3 * CHUNK_BYTES + 20), 0x1234);
    assert.equal(chunkBase(r, chunk, 0), base);
    assert.equal(chunkBase(r, 0, 0), -1);
  });

  test('at the edge of a bank have RAM where the bank has, and two banks may share one', () => {
    const r = new Ram([
      { pa: LOW + 0x1000, sizeBytes: 0x2000 },
      { pa: LOW + 0x10_0000, sizeBytes: CHUNK_BYTES },
    ]);
    const chunk = LOW / CHUNK_BYTES;
    assert.equal(chunkBase(r, chunk, 0), -1);
    assert.equal(chunkBase(r, chunk, 0x1000), 0);
    assert.equal(chunkBase(r, chunk, 0x3000), -1);
    r.write32(LOW + 0x1000, 7);
    r.write32(LOW + 0x10_0000, 8);
    r.write32(LOW + CHUNK_BYTES, 9);
    assert.deepEqual([r.read32(LOW + 0x1000), r.read32(LOW + 0x10_0000), r.read32(LOW + CHUNK_BYTES)], [7, 8, 9]);
    assert.equal(r.residentBytes, 2 * CHUNK_BYTES);
    assert.equal(r.chunkWords(LOW + 0x4000), undefined);
    const other = new Ram(r.banks);
    other.write32(LOW + 0x2000, 1);
    other.load(structuredClone(r.save()));
    assert.deepEqual(
      [other.read32(LOW + 0x1000), other.read32(LOW + CHUNK_BYTES), other.read32(LOW + 0x2000)],
      [7, 9, 0],
    );
  });

  test('that was zeroed as a whole is used again, all zero', () => {
    const r = ram();
    r.write32(LOW, 5);
    r.fill(LOW, CHUNK_BYTES, 0);
    r.write32(HIGH + 4, 6);
    assert.equal(r.read32(HIGH), 0);
    assert.equal(r.residentBytes, CHUNK_BYTES);
    assert.equal(r.read32(LOW), 0);
  });
});
