/** Files of the caller's, with errors in the words of the C library, as xl prints them. */
import { readFileSync } from 'node:fs';
import type { ConfigText } from './commands.ts';

const STRERROR: Readonly<Record<string, string>> = {
  ENOENT: 'No such file or directory',
  EISDIR: 'Is a directory',
  ENOTDIR: 'Not a directory',
  EACCES: 'Permission denied',
};

export function readConfig(path: string): ConfigText {
  try {
    return { text: readFileSync(path, 'utf8') };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return { error: STRERROR[code ?? ''] ?? message };
  }
}
