/** Real input that does not come with the project: tests run over it when it is there. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';

const BESIDE = resolve(import.meta.dirname, '../../../shared/data');

/** The folder (CULVERT_DATA, or `shared/data` beside the checkout), or undefined when there is none. */
export function sharedData(): string | undefined {
  const given = process.env['CULVERT_DATA'];
  if (given !== undefined && given !== '') return given;
  return existsSync(BESIDE) ? BESIDE : undefined;
}
