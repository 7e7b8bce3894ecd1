import { spawn } from 'node:child_process';
import { copyFileSync, linkSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import { type BoardFunction, mediaOf } from '#shared/board/description.ts';

const BOARDS = resolve(import.meta.dirname, '../../../examples/boards');
let folder = '';

/** The NVMe controller of the example board, with these options. */
function read(...options: readonly string[]): BoardFunction {
  return readBoard(boardOf(options)).functions[0]!;
}

function boardOf(options: readonly string[]): string {
  const file = join(folder, 'board.yaml');
  const head = [`dtb: ${join(BOARDS, 'qemu-virt.dtb')}`, `dump: ${join(BOARDS, 'qemu-virt.lspci')}`, 'functions:'];
  const lines = ['  - at: "0000:02:00.0"', ...options.map((option) => `    ${option}`), ''];
  writeFileSync(file, [...head, ...lines].join('\n'));
  return file;
}

describe('the model of a function in a board file', () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'culvert-models-'));
    writeFileSync(
      join(folder, 'disk.img'),
      Uint8Array.from({ length: 1000 }, (_, i) => i),
    );
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test('an nvme without options leaves them to the model', () => {
    const fn = read('model: nvme');
    assert.deepEqual([fn.model, fn.nvme, fn.nic], ['nvme', undefined, undefined]);
  });

  test('a namespace is as large as it says, or as its file in whole blocks', () => {
    const { nvme } = read(
      'model: nvme',
      'nvme: { queues: 4, namespaces: [{ size: 64M }, { file: disk.img, writes: memory }, { size: 8K, block: 4096, file: disk.img, writes: refused }] }',
    );
    assert.equal(nvme?.queues, 4);
    assert.deepEqual(
      nvme?.namespaces.map(({ sizeBytes, blockBytes, contents }) => [sizeBytes, blockBytes, contents?.[999]]),
      [
        [64 << 20, 512, undefined],
        [1024, 512, 231],
        [8192, 4096, 231],
      ],
    );
  });

  test('a MAC address is a number, its first byte highest', () => {
    const { nic } = read('model: nic', 'nic: { wire: lan, mac: "52:54:00:00:00:0f" }');
    assert.deepEqual(nic, { wire: 'lan', queues: 4, mac: 0x5254_0000_000f });
  });

  test.each([
    ['options of another model', ['model: nic', 'nvme: { queues: 4 }'], /has options of model nvme and is a nic/],
    [
      'a namespace smaller than its file',
      ['model: nvme', 'nvme: { namespaces: [{ size: 512, file: disk.img }] }'],
      /512 bytes/,
    ],
    ['a namespace of nothing', ['model: nvme', 'nvme: { namespaces: [{}] }'], /0 bytes/],
    ['a file that is not there', ['model: nvme', 'nvme: { namespaces: [{ file: none.img }] }'], /none.img/],
    ['a group address', ['model: nic', 'nic: { mac: "01:00:5e:00:00:01" }'], /unicast address/],
    ['too many queues', ['model: nic', 'nic: { queues: 9 }'], /queues/],
  ])('%s is refused', (_name, options, message) => {
    assert.throws(() => read(...options), message);
  });

  describe('with a disk in a file', () => {
    beforeAll(() => {
      writeFileSync(join(folder, 'whole.img'), new Uint8Array(8192).fill(1));
      linkSync(join(folder, 'whole.img'), join(folder, 'same.img'));
      writeFileSync(join(folder, 'empty.img'), '');
    });
    const disks = (...namespaces: string[]) => ['model: nvme', `nvme: { namespaces: [${namespaces.join(', ')}] }`];

    test('writes go into the file, unless the board says otherwise', () => {
      const { nvme } = read(...disks('{ file: whole.img, size: 8K }'));
      const path = join(folder, 'whole.img');
      assert.deepEqual(
        nvme?.namespaces.map(({ medium, readOnly, sizeBytes }) => [medium, readOnly, sizeBytes]),
        [[path, false, 8192]],
      );
      const board = readBoard(boardOf(disks('{ file: whole.img }', '{ size: 1M }')));
      assert.deepEqual(
        mediaOf(board).map(({ medium, contents }) => [medium, contents.length]),
        [[path, 8192]],
      );
      const kept = read(...disks('{ file: whole.img, writes: memory }', '{ file: same.img, writes: refused }'));
      assert.deepEqual(
        kept.nvme?.namespaces.map(({ medium, readOnly }) => [medium, readOnly]),
        [
          [undefined, false],
          [undefined, true],
        ],
      );
    });

    test.each([
      ['is absent', ['{ file: none.img }'], 'cannot use FOLDER/none.img: no such file'],
      ['is a directory', ['{ file: . }'], 'FOLDER is no regular file'],
      ['is a device', ['{ file: /dev/null }'], '/dev/null is no regular file'],
      ['is empty', ['{ file: empty.img }'], 'namespace 1 cannot have 0 bytes in blocks of 512'],
      ['is no multiple of a block', ['{ file: disk.img }'], 'disk.img has 1000 bytes, which is no multiple of 512'],
      [
        'is smaller than it should be',
        ['{ size: 16K, file: whole.img }'],
        'whole.img has 8192 bytes, and namespace 1 has 16384',
      ],
      ['is larger', ['{ size: 4K, file: whole.img }'], 'namespace 1 cannot have 4096 bytes in blocks of 512'],
      [
        'is that of another one, under another name',
        ['{ file: whole.img }', '{ file: same.img }'],
        'FOLDER/same.img is the disk of another namespace, at FOLDER/board.yaml:6',
      ],
      [
        'is only read there, and written here',
        ['{ file: whole.img, writes: memory }', '{ file: whole.img }'],
        'FOLDER/whole.img is the disk of another namespace, at FOLDER/board.yaml:6',
      ],
      ['is not named', ['{ size: 1M, writes: memory }'], '"writes" without a file in functions.0.nvme.namespaces.0'],
    ])('is refused, with its line, when the file %s', (_what, namespaces, message) => {
      const expected = `FOLDER/board.yaml:6: ${message}`.replaceAll('FOLDER', folder);
      assert.throws(() => read(...disks(...namespaces)), expected);
    });

    test('is refused when the file cannot be written, and not when it need not be', async () => {
      // A program that runs cannot be opened for writing, not even by root.
      const busy = join(folder, 'busy.img');
      copyFileSync('/bin/sleep', busy);
      truncateSync(busy, Math.ceil(statSync(busy).size / 512) * 512);
      const child = spawn(busy, ['30']);
      try {
        await new Promise((done, failed) => child.once('spawn', done).once('error', failed));
        assert.throws(() => read(...disks('{ file: busy.img }')), /board\.yaml:6: cannot use .*busy\.img: ETXTBSY/);
        assert.equal(read(...disks('{ file: busy.img, writes: memory }')).nvme?.namespaces.length, 1);
      } finally {
        child.kill();
      }
    });
  });
});
