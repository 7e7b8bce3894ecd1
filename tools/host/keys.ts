/** Writes the keys and credentials of a new host as files (`culvert keys DIR`). */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createHostKeys } from '#shared/bus/credentials.ts';

export interface KeyFiles {
  readonly natsConf: string;
  readonly keyRing: string;
  readonly brokerCreds: string;
  /** creds/<peer>.creds */
  credsOf(peer: string): string;
}

export function keyFiles(dir: string): KeyFiles {
  return {
    natsConf: join(dir, 'nats.conf'),
    keyRing: join(dir, 'key-ring.json'),
    brokerCreds: join(dir, 'broker.creds'),
    credsOf: (peer) => join(dir, 'creds', `${peer}.creds`),
  };
}

/**
 * Makes a host's keys below `dir`, readable by nobody else. The server keeps account claims in `resolverDir`, as it is
 * called where the server runs.
 */
export async function writeHostKeys(dir: string, resolverDir: string): Promise<KeyFiles> {
  const files = keyFiles(dir);
  const keys = await createHostKeys();
  mkdirSync(join(dir, 'creds'), { recursive: true, mode: 0o700 });
  const secret = (path: string, text: string): void => {
    writeFileSync(path, text, { mode: 0o600 });
    chmodSync(path, 0o600);
  };
  secret(
    files.natsConf,
    `${keys.natsConf}resolver: { type: full, dir: ${JSON.stringify(resolverDir)}, allow_delete: true }\n`,
  );
  secret(files.keyRing, JSON.stringify(keys.keyRing));
  secret(files.brokerCreds, keys.brokerCreds);
  for (const [peer, creds] of keys.creds) secret(files.credsOf(peer), creds);
  return files;
}
