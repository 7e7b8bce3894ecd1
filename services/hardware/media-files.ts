/**
 * The files behind the machine's disks, in the process around the core. Pieces go to the system in the order of the
 * requests; fdatasync() says when they are on the medium. A file that refuses something refuses that request and no
 * other; the machine tells the guest.
 * Not modelled: a hole in place of zeroes. Nobody else is kept from opening the file.
 */
import { writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { type Body, body, type Payload } from '#shared/core/core.ts';
import { Refused } from '#shared/core/op.ts';

const ZEROES = new Uint8Array(256 * 1024);

interface MediaFile {
  readonly handle: FileHandle;
  /** The request that came last. */
  seq: number;
  answer: Promise<Body>;
}

export class MediaFiles {
  readonly #files = new Map<string, MediaFile>();
  readonly #onProblem: (path: string, error: unknown) => void;

  private constructor(onProblem: (path: string, error: unknown) => void) {
    this.#onProblem = onProblem;
  }

  /** Opens files that exist. Rejects as the file system does; `onProblem` hears of what is refused later. */
  static async open(
    paths: readonly string[],
    onProblem: (path: string, error: unknown) => void = () => undefined,
  ): Promise<MediaFiles> {
    const files = new MediaFiles(onProblem);
    for (const path of paths)
      files.#files.set(path, { handle: await open(path, 'r+'), seq: 0, answer: Promise.resolve(done()) });
    return files;
  }

  /** A request of the core; rejects with what the file system said. */
  handle(message: Body): Promise<Body> {
    if (message.$case !== 'mediaWriteRequest')
      return Promise.reject(new Refused(`the media do not take ${message.$case}`));
    const { medium, seq } = message.value;
    const file = this.#files.get(medium);
    if (file === undefined) return Promise.reject(new Refused(`there is no medium ${medium}`));
    // The core asks again when an answer takes long.
    if (seq !== file.seq) {
      file.seq = seq;
      file.answer = this.#write(file.handle, message.value);
      file.answer.catch((error: unknown) => this.#onProblem(medium, error));
    }
    return file.answer;
  }

  /** Everything that was asked for is on the medium then, unless a file refused it. */
  async close(): Promise<void> {
    for (const { handle, answer } of this.#files.values()) {
      await answer.catch(() => undefined);
      await handle.datasync().catch(() => undefined);
      await handle.close();
    }
    this.#files.clear();
  }

  async #write(file: FileHandle, request: Payload<'mediaWriteRequest'>): Promise<Body> {
    for (const { offset, data, zeroes } of request.pieces) {
      writeAll(file.fd, data, offset);
      for (let left = zeroes; left > 0; left -= ZEROES.length)
        writeAll(file.fd, ZEROES.subarray(0, left), offset + zeroes - left);
    }
    if (request.sync) await file.datasync();
    return done();
  }
}

function done(): Body {
  return body('mediaWriteReply', {});
}

/** To the page cache, which takes less time than a thread would to be woken. */
function writeAll(fd: number, data: Uint8Array, offset: number): void {
  for (let at = 0; at < data.length; ) at += writeSync(fd, data, at, data.length - at, offset + at);
}
