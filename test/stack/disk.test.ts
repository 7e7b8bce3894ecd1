/**
 * A guest's disk in a file: what was written and flushed is there after the machine's process was killed, and after the
 * host was taken down; the next host's guest reads it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, assert, beforeAll, expect, test } from 'vitest';
import { dmaProbeFill } from '#shared/arch/dma-probe.ts';
import { EXAMPLES } from '../support/culvert.ts';
import { HostUp } from '../support/host-up.ts';

const MIB = 1 << 20;
const DISK_BYTES = 64 * MIB;
const BDF = '0000:02:00.0';

const host = new HostUp();
const disk = host.place.path('disk.img');
const board = host.place.path('board.yaml');

function pattern(bytes: number, seed: number): Uint8Array {
  const words = new Int32Array(bytes / 4);
  dmaProbeFill(words, seed, 0);
  return new Uint8Array(words.buffer);
}

function assertDisk(at: number, expected: Uint8Array, what: string): void {
  assert.isTrue(
    readFileSync(disk)
      .subarray(at, at + expected.length)
      .equals(expected),
    what,
  );
}

/** A host on the board, with a guest that has the disk. */
async function begin(): Promise<number> {
  await host.start('board.yaml', [BDF]);
  writeFileSync(host.place.path('disk.cfg'), `name = "disk"\nmemory = 96\nvcpus = 1\npci = [ "${BDF}" ]\n`);
  return host.create('disk');
}

beforeAll(() => {
  const devices = readFileSync(`${EXAMPLES}/boards/qemu-virt-devices.yaml`, 'utf8');
  const own = devices
    .replace(/^(dtb|dump): /gm, `$1: ${EXAMPLES}/boards/`)
    .replace('namespaces: [{ size: 256M }]', 'namespaces: [{ file: disk.img }]');
  writeFileSync(board, own);
  writeFileSync(disk, new Uint8Array(DISK_BYTES).fill(0xc3));
});

afterAll(() => host.stop(), 30_000);

test('what a Flush covered survives the end of the machine by SIGKILL, and of the host', {
  timeout: 120_000,
}, async () => {
  const first = await begin();
  const { bytesWritten } = await host.guest(first, 'nvme-check', { bytes: 4 * MIB, lba: 8, seed: 5, only: 'write' });
  assert.equal(bytesWritten, 4 * MIB);
  const cut = host.guest(first, 'nvme-check', { bytes: 32 * MIB, lba: 32768, seed: 6, only: 'write' }, 5e9);
  const ended = cut.then(
    () => 'completed',
    () => 'lost',
  );
  await expect.poll(() => readFileSync(disk)[32768 * 512], { timeout: 20_000 }).not.toBe(0xc3);
  process.kill(host.hardwarePid, 'SIGKILL');
  await expect.poll(async () => (await host.place.culvert(['status'])).status, { timeout: 20_000 }).not.toBe(0);
  await host.place.culvert(['down']);
  assertDisk(0, new Uint8Array(8 * 512).fill(0xc3), 'before what was written');
  assertDisk(8 * 512, pattern(4 * MIB, 5), 'what the Flush covered');
  assertDisk(8 * 512 + 4 * MIB, new Uint8Array(32768 * 512 - 8 * 512 - 4 * MIB).fill(0xc3), 'behind it');
  assertDisk(48 * MIB, new Uint8Array(16 * MIB).fill(0xc3), 'the rest');
  assert.equal(readFileSync(disk).length, DISK_BYTES);

  const second = await begin();
  const read = await host.guest(second, 'nvme-check', { bytes: 4 * MIB, lba: 8, seed: 5, only: 'read' });
  assert.deepEqual([read['mismatches'], read['bytesRead'], read['bytesWritten']], [0, 4 * MIB, 0]);
  const both = await host.guest(second, 'nvme-check', { bytes: MIB, lba: 98304, seed: 7 });
  assert.equal(both['mismatches'], 0);
  await host.must('down');
  assertDisk(8 * 512, pattern(4 * MIB, 5), 'what was there before');
  assertDisk(98304 * 512, pattern(MIB, 7), 'what the second guest wrote');
  assert.include(['completed', 'lost'], await ended);
});

test('a disk that is absent is told with its line before anything starts', async () => {
  writeFileSync(host.place.path('none.yaml'), readFileSync(board, 'utf8').replace('disk.img', 'none.img'));
  const { status, stderr } = await host.place.culvert(['up', '--board', 'none.yaml']);
  assert.notEqual(status, 0);
  assert.match(stderr, /^culvert: none\.yaml:24: cannot use .*none\.img: no such file\n$/);
  assert.deepEqual(host.place.processes(), []);
});
