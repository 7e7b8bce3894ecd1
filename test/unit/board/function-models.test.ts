import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardFunction } from '#shared/board/description.ts';

const BOARDS = resolve(import.meta.dirname, '../../../examples/boards');
let folder = '';

/** The NVMe controller of the example board, with these options. */
function read(...options: readonly string[]): BoardFunction {
  const file = join(folder, 'board.yaml');
  const head = [`dtb: ${join(BOARDS, 'qemu-virt.dtb')}`, `dump: ${join(BOARDS, 'qemu-virt.lspci')}`, 'functions:'];
  const lines = ['  - at: "0000:02:00.0"', ...options.map((option) => `    ${option}`), ''];
  writeFileSync(file, [...head, ...lines].join('\n'));
  return readBoard(file).functions[0]!;
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
      'nvme: { queues: 4, namespaces: [{ size: 64M }, { file: disk.img }, { size: 8K, block: 4096, file: disk.img }] }',
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
});
