/**
 * The journal's files, in the process around the core: `journal` in its directory, `journal.next` while a new one is
 * written. A write is acknowledged when fdatasync() says that it is on the medium; a new journal takes the place of the
 * old one by rename(), and the directory is synchronised before that is acknowledged.
 * The core asks for one write at a time, so everything here runs in order.
 */
import { writeSync } from 'node:fs';
import { constants, type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Body, body, type Payload } from '#shared/core/core.ts';
import { Refused } from '#shared/core/op.ts';

/** Bytes of one reply to JournalLoadRequest. */
const PART_BYTES = 4 * 1024 * 1024;
/** Zeros kept ahead of the last record: a write that does not make the file longer is on the medium in half the time. */
const AHEAD_BYTES = 256 * 1024;

const ZEROS = new Uint8Array(AHEAD_BYTES);

export class JournalDisk {
  readonly #dir: string;
  /** False leaves it to the system when a write gets to the medium: it survives the process, not the machine. */
  readonly #sync: boolean;
  #current: FileHandle | undefined;
  #next: FileHandle | undefined;
  #tailCut = false;
  /** Bytes of the current file. */
  #size = 0;
  #underWay: Promise<Body> = Promise.resolve(body('journalAppendReply', {}));
  #underWaySeq = 0;

  private constructor(dir: string, sync: boolean) {
    this.#dir = dir;
    this.#sync = sync;
  }

  /** Makes the directory when it is absent. A new journal that was not finished is removed. Rejects as the file system does. */
  static async open(dir: string, sync = true): Promise<JournalDisk> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await rm(join(dir, 'journal.next'), { force: true });
    const disk = new JournalDisk(dir, sync);
    disk.#current = await open(join(dir, 'journal'), constants.O_RDWR | constants.O_CREAT, 0o600);
    return disk;
  }

  /** A request of the core; rejects with what the file system said. */
  handle(message: Body): Promise<Body> {
    if (message.$case === 'journalLoadRequest') return this.#load(message.value.offset);
    if (message.$case !== 'journalAppendRequest')
      return Promise.reject(new Refused(`the disk does not take ${message.$case}`));
    const { seq } = message.value;
    // The core asks again when an answer takes long.
    if (seq !== this.#underWaySeq) {
      this.#underWaySeq = seq;
      this.#underWay = this.#append(message.value);
    }
    return this.#underWay;
  }

  async close(): Promise<void> {
    await this.#underWay.catch(() => undefined);
    await this.#next?.close();
    await this.#current?.close();
  }

  get #file(): FileHandle {
    if (this.#current === undefined) throw new Error('the journal is not open');
    return this.#current;
  }

  async #load(offset: number): Promise<Body> {
    const { size } = await this.#file.stat();
    const data = new Uint8Array(Math.min(PART_BYTES, Math.max(0, size - offset)));
    let have = 0;
    while (have < data.length) {
      const { bytesRead } = await this.#file.read(data, have, data.length - have, offset + have);
      if (bytesRead === 0) break;
      have += bytesRead;
    }
    return body('journalLoadReply', { data: data.subarray(0, have), last: offset + have >= size });
  }

  async #append(request: Payload<'journalAppendRequest'>): Promise<Body> {
    const { data, offset, nextData, nextOffset, promote } = request;
    const writes: Promise<void>[] = [];
    if (data.length > 0) {
      // What a write that was never acknowledged left behind must not be taken for what follows this one.
      if (!this.#tailCut) await this.#file.truncate(offset);
      this.#tailCut = true;
      this.#goAhead(offset + data.length);
      writes.push(this.#write(this.#file, data, offset));
    }
    if (nextData.length > 0) {
      this.#next ??= await open(
        join(this.#dir, 'journal.next'),
        constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC,
        0o600,
      );
      writes.push(this.#write(this.#next, nextData, nextOffset));
    }
    await Promise.all(writes);
    if (promote) await this.#promote();
    return body('journalAppendReply', {});
  }

  /** Zeros are no record: a journal ends where they start. */
  #goAhead(end: number): void {
    if (end <= this.#size) return;
    this.#size = end + AHEAD_BYTES;
    for (let at = end; at < this.#size; ) at += writeSync(this.#file.fd, ZEROS, 0, this.#size - at, at);
  }

  async #write(file: FileHandle, data: Uint8Array, offset: number): Promise<void> {
    // To the page cache, which takes less time than a thread would to be woken.
    let written = 0;
    while (written < data.length) written += writeSync(file.fd, data, written, data.length - written, offset + written);
    if (this.#sync) await file.datasync();
  }

  async #promote(): Promise<void> {
    const next = this.#next;
    if (next === undefined) throw new Error('there is no new journal');
    await rename(join(this.#dir, 'journal.next'), join(this.#dir, 'journal'));
    if (this.#sync) {
      const dir = await open(this.#dir, constants.O_RDONLY);
      try {
        await dir.sync();
      } finally {
        await dir.close();
      }
    }
    await this.#current?.close();
    this.#current = next;
    this.#tailCut = true;
    this.#size = 0;
    this.#next = undefined;
  }
}
