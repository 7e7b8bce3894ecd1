/** A broker that is there already: NATS_URL, with the host's keys in the folder of CULVERT_KEYS (`culvert keys DIR`). */
import { existsSync } from 'node:fs';
import { keyFiles } from '../host/keys.ts';
import { UsageError } from './session.ts';

export function externalBroker(): { url: string; keysDir: string } | undefined {
  const url = process.env['NATS_URL'];
  if (url === undefined || url === '') return undefined;
  const keysDir = process.env['CULVERT_KEYS'];
  if (keysDir === undefined || !existsSync(keyFiles(keysDir).keyRing)) {
    throw new UsageError(
      `NATS_URL is ${url}, but CULVERT_KEYS names no folder with its keys: make them with "culvert keys DIR" and start that server with DIR/nats.conf`,
    );
  }
  return { url, keysDir };
}
