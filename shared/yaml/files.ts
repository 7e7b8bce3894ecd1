/** Files that a user names: what cannot be read is told in one line, with the name and why. */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { FileError } from './document.ts';

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file',
  EISDIR: 'is a folder, a file was expected',
  ENOTDIR: 'a part of its path is a file, a folder was expected',
  EACCES: 'not permitted',
  EPERM: 'not permitted',
  EEXIST: 'is there already',
};

/** What the operating system refused to do with a file, in words; undefined: the error is of another kind. */
export function fileProblem(error: unknown): { readonly file: string; readonly reason: string } | undefined {
  if (!(error instanceof Error) || !('syscall' in error) || !('path' in error)) return undefined;
  const { code, path } = error as NodeJS.ErrnoException;
  return { file: path ?? '', reason: REASONS[code ?? ''] ?? error.message };
}

/** Throws FileError: `FILE: why`. */
export function readBytes(file: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(file));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new FileError(`${file}: ${REASONS[code ?? ''] ?? message}`);
  }
}

/** Throws FileError. */
export function readText(file: string): string {
  return new TextDecoder().decode(readBytes(file));
}

/** The bytes of a file, unpacked when it is one of gzip. Throws FileError. */
export function readUnpacked(file: string): Uint8Array {
  const bytes = readBytes(file);
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  try {
    return new Uint8Array(gunzipSync(bytes));
  } catch (error) {
    throw new FileError(`${file}: a whole file of gzip was expected: ${(error as Error).message}`);
  }
}
