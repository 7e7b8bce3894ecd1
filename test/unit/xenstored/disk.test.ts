/** The journal's files, in a directory of the real file system. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, assert, beforeEach, test } from 'vitest';
import { bytesOf, textOf } from '#shared/abi/xs-wire.ts';
import { type Body, body } from '#shared/core/core.ts';
import { JournalDisk } from '../../../services/xenstored/disk.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'culvert-disk-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const nothing = new Uint8Array(0);
const append = (seq: number, more: object): Body =>
  body('journalAppendRequest', {
    seq,
    offset: 0,
    data: nothing,
    nextOffset: 0,
    nextData: nothing,
    promote: false,
    ...more,
  });

async function load(): Promise<string> {
  const disk = await JournalDisk.open(dir);
  const reply = await disk.handle(body('journalLoadRequest', { offset: 0 }));
  await disk.close();
  return reply.$case === 'journalLoadReply' ? textOf(reply.value.data).replace(/\0+$/, '') : '';
}

test('what was written is there after the end, and a repeated request is not done again', async () => {
  const disk = await JournalDisk.open(dir);
  await disk.handle(append(1, { data: bytesOf('one') }));
  await disk.handle(append(2, { offset: 3, data: bytesOf('two') }));
  await disk.handle(append(2, { offset: 0, data: bytesOf('XXX') }));
  await disk.close();
  assert.equal(await load(), 'onetwo');
});

test('bytes behind the offset of the first write are gone, whatever they were', async () => {
  writeFileSync(join(dir, 'journal'), 'good,torn and some more');
  const disk = await JournalDisk.open(dir);
  await disk.handle(append(1, { offset: 5, data: bytesOf('new') }));
  await disk.close();
  assert.equal(await load(), 'good,new');
});

test('a new journal takes the place of the old one when it is whole; one that is not is dropped', async () => {
  const disk = await JournalDisk.open(dir);
  await disk.handle(append(1, { data: bytesOf('old') }));
  await disk.handle(append(2, { nextData: bytesOf('ne') }));
  assert.equal(readFileSync(join(dir, 'journal.next'), 'utf8'), 'ne');
  assert.equal(await load(), 'old');
  const again = await JournalDisk.open(dir);
  await again.handle(append(1, { offset: 3, data: bytesOf('er'), nextData: bytesOf('newer'), promote: true }));
  await again.handle(append(2, { offset: 5, data: bytesOf('!') }));
  await again.close();
  assert.equal(await load(), 'newer!');
  assert.isAbove(statSync(join(dir, 'journal')).size, 6);
  await disk.close();
});

test('a disk that cannot be written refuses', async () => {
  const disk = await JournalDisk.open(dir);
  await disk.close();
  let refused = '';
  await disk.handle(append(1, { data: bytesOf('x') })).catch((error: Error) => {
    refused = error.message;
  });
  assert.notEqual(refused, '');
});
