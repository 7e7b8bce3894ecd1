/**
 * Makes the keys of a host in containers, once, and lays out for each service only what that service may hold: a folder
 * (a volume) per service below /keys. The operator's credential also goes to /host, a folder of the checkout, for
 * whoever runs `culvert --url` outside. Keys that are there stay, so that a host that starts again knows its guests'.
 */
import { chownSync, cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { keyFiles, writeHostKeys } from '../host/keys.ts';

const KEYS = '/keys';
const HOST = '/host';
/** A file of the checkout: its owner is who may read the operator's credential. */
const CHECKOUT = '/checkout';
/** Where nats-server keeps account claims, in its container. */
const RESOLVER = '/data/accounts';
/** The user `node` of the image, and root for nats-server. */
const NODE = 1000;
const ROOT = 0;

const work = mkdtempSync('/tmp/keys-');
const files = keyFiles(work);
/** By volume: who reads it, and what is in it. */
const contents: readonly (readonly [volume: string, owner: number, files: readonly string[]])[] = [
  ['nats', ROOT, [files.natsConf]],
  ['hardware', NODE, [files.credsOf('hardware')]],
  ['xen', NODE, [files.credsOf('xen'), files.brokerCreds]],
  ['xenstored', NODE, [files.credsOf('xenstored')]],
  ['dom0', NODE, [files.credsOf('d0'), files.keyRing]],
  ['vacant', NODE, [files.credsOf('vacant')]],
  ['operator', NODE, [files.credsOf('operator'), files.credsOf('observer')]],
];

function put(source: string, folder: string, owner: number, group = owner): void {
  const target = join(folder, source.slice(source.lastIndexOf('/') + 1));
  cpSync(source, target);
  chownSync(target, owner, group);
}

const wanted = contents.flatMap(([volume, , names]) =>
  names.map((name) => join(KEYS, volume, name.slice(name.lastIndexOf('/') + 1))),
);
if (wanted.every((file) => existsSync(file))) {
  process.stdout.write('the keys are there already\n');
} else {
  await writeHostKeys(work, RESOLVER);
  for (const [volume, owner, names] of contents) {
    const folder = join(KEYS, volume);
    mkdirSync(folder, { recursive: true });
    for (const name of names) put(name, folder, owner);
  }
  process.stdout.write('made the keys of the host\n');
}
if (existsSync(HOST)) {
  const { uid, gid } = statSync(CHECKOUT);
  chownSync(HOST, uid, gid);
  for (const name of ['operator', 'observer']) put(join(KEYS, 'operator', `${name}.creds`), HOST, uid, gid);
}
rmSync(work, { recursive: true });
