/** The files behind disks, in the real file system. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, assert, beforeEach, expect, test, vi } from 'vitest';
import { type Body, body } from '#shared/core/core.ts';
import { MediaFiles } from '../../../services/hardware/media-files.ts';

let dir: string;
let disk: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'culvert-media-'));
  disk = join(dir, 'disk.img');
  writeFileSync(disk, new Uint8Array(1 << 20).fill(1));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const nothing = new Uint8Array(0);
function write(seq: number, offset: number, data: Uint8Array, zeroes = 0, medium = disk, sync = true): Body {
  return body('mediaWriteRequest', { medium, seq, pieces: [{ offset, data, zeroes }], sync });
}

test('data and zeroes get to their places, and the file stays as long as it is', async () => {
  const files = await MediaFiles.open([disk]);
  await files.handle(write(1, 4096, new Uint8Array(512).fill(7)));
  await files.handle(write(2, 8192, nothing, 600 * 1024));
  const expected = new Uint8Array(1 << 20).fill(1);
  expected.fill(7, 4096, 4608);
  expected.fill(0, 8192, 8192 + 600 * 1024);
  assert.isTrue(readFileSync(disk).equals(expected), 'before the files are closed');
  await files.close();
});

test('a request that is to be durable is answered when fdatasync has returned, and is refused when that fails', async () => {
  const some = await open(disk);
  const handles = Object.getPrototypeOf(some) as FileHandle;
  await some.close();
  let finish: (error?: Error) => void = () => undefined;
  const synced = new Uint8Array(1);
  const datasync = vi.spyOn(handles, 'datasync').mockImplementation(() => {
    synced[0] = readFileSync(disk)[0]!;
    return new Promise((done, failed) => {
      finish = (error) => (error === undefined ? done() : failed(error));
    });
  });
  try {
    const files = await MediaFiles.open([disk]);
    await files.handle(write(1, 0, Uint8Array.of(2), 0, disk, false));
    expect(datasync).not.toHaveBeenCalled();
    let answered = false;
    const second = files.handle(write(2, 0, Uint8Array.of(3)));
    const noted = second.then(() => {
      answered = true;
    });
    await new Promise((done) => setImmediate(done));
    assert.deepEqual([answered, synced[0]], [false, 3], 'it was written before');
    finish();
    await noted;
    const third = files.handle(write(3, 0, Uint8Array.of(4)));
    finish(new Error('EIO'));
    await expect(third).rejects.toThrow('EIO');
    datasync.mockRestore();
    await files.close();
  } finally {
    datasync.mockRestore();
  }
});

test('a request that comes again is answered and not done again', async () => {
  const files = await MediaFiles.open([disk]);
  const first = files.handle(write(1, 0, Uint8Array.of(2)));
  assert.equal(files.handle(write(1, 0, Uint8Array.of(3))), first);
  await first;
  await files.handle(write(2, 0, Uint8Array.of(4)));
  await files.close();
  assert.equal(readFileSync(disk)[0], 4);
});

test('what one file refuses is told, and the others take theirs', async () => {
  const problems: string[] = [];
  const files = await MediaFiles.open(['/dev/full', disk], (path) => problems.push(path));
  for (const seq of [1, 2])
    await expect(files.handle(write(seq, 0, Uint8Array.of(2), 0, '/dev/full'))).rejects.toThrow('ENOSPC');
  await files.handle(write(1, 0, Uint8Array.of(4)));
  assert.deepEqual(problems, ['/dev/full', '/dev/full']);
  await expect(files.handle(write(1, 0, nothing, 0, '/another'))).rejects.toThrow('no medium');
  await files.close();
  await expect(files.handle(write(2, 0, nothing))).rejects.toThrow('no medium');
});

test('a file that is not there is not made', async () => {
  await expect(MediaFiles.open([join(dir, 'none.img')])).rejects.toThrow('ENOENT');
});
