/**
 * What the broker itself keeps a domain from, with a real nats-server and a hostile client that holds a guest's
 * credential and uses no code of ours to behave.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import jwt from '@nats-io/jwt';
import { connect, credsAuthenticator, type NatsConnection } from 'nats';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import { accountClaims, CLAIMS_UPDATE, createUserKey, type KeyRing, mintUser } from '#shared/bus/credentials.ts';
import { keyFiles, writeHostKeys } from '#tools/host/keys.ts';
import { findNatsServer, startNatsServer } from '#tools/host/nats-server.ts';

let dir: string;
let server: Awaited<ReturnType<typeof startNatsServer>>;
let ring: KeyRing;
const open: NatsConnection[] = [];

async function client(creds: string): Promise<NatsConnection> {
  const nc = await connect({
    servers: server.url,
    authenticator: credsAuthenticator(new TextEncoder().encode(creds)),
    reconnect: false,
    timeout: 3000,
  });
  open.push(nc);
  return nc;
}

async function domainCreds(domid: number): Promise<{ creds: string; publicKey: string }> {
  const key = createUserKey();
  return { creds: key.credsFor(await mintUser(ring, `d${domid}`, key.publicKey)), publicKey: key.publicKey };
}

/** Publishes and gives what the server says about it. */
async function publishRefused(nc: NatsConnection, subject: string): Promise<boolean> {
  const status = nc.status()[Symbol.asyncIterator]();
  const verdict = status.next().then((s) => String((s.value as { data?: unknown } | undefined)?.data ?? ''));
  nc.publish(subject, new TextEncoder().encode('x'));
  await nc.flush();
  const none = new Promise<string>((done) => setTimeout(() => done(''), 100));
  return (await Promise.race([verdict, none])) === 'PERMISSIONS_VIOLATION';
}

async function subscribeRefused(nc: NatsConnection, subject: string): Promise<boolean> {
  const verdict = new Promise<boolean>((done) => {
    nc.subscribe(subject, { callback: (error) => done(error !== null) });
    setTimeout(() => done(false), 150);
  });
  await nc.flush();
  return verdict;
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'culvert-test-'));
  await writeHostKeys(dir, join(dir, 'resolver'));
  const files = keyFiles(dir);
  ring = JSON.parse(readFileSync(files.keyRing, 'utf8')) as KeyRing;
  const binary = await findNatsServer(() => undefined);
  server = await startNatsServer({ binary, confText: readFileSync(files.natsConf, 'utf8'), dir });
}, 120_000);

afterAll(async () => {
  await Promise.all(open.map((nc) => nc.close()));
  await server?.stop();
  rmSync(dir, { recursive: true, force: true });
});

describe("a hostile client with a guest's credential", () => {
  test.each([
    ["another domain's hypercalls", 'cv.xen.hypercall.d2'],
    ["dom0's hypercalls", 'cv.xen.hypercall.d0'],
    ["another domain's CPU bus", 'cv.hardware.cpu.d2'],
    ["another domain's store connection", 'cv.xenstored.store.d0'],
    ["another domain's upcalls", 'cv.d2.upcall.xen'],
    ['the EL2 interface, as Xen', 'cv.hardware.el2.xen'],
    ['the EL2 interface, as itself', 'cv.hardware.el2.d1'],
    ['the machine side of a trap', 'cv.xen.trap.hardware'],
    ['the control subject of dom0', 'cv.d0.toolstack.operator'],
    ['inspection of Xen', 'cv.xen.inspect.operator'],
    ["another guest's console", 'cv.d2.console.operator'],
    ["what xenstored asks of dom0's kernel", 'cv.d0.ring.d1'],
    ["what xenstored asks of dom0's kernel, as xenstored", 'cv.d0.ring.xenstored'],
    ['events of store rings', 'cv.xenstored.ring.d1'],
    ["dom0's CPUs, as xenstored", 'cv.hardware.cpu.xenstored'],
    ['an answer of Xen to another domain', 'cv.d2.reply.xen'],
    ['the hand-over of a new domain', 'cv.vacant.lifecycle.d0'],
    ['the claims of the account', CLAIMS_UPDATE],
  ])('cannot publish on %s', async (_what, subject) => {
    const nc = await client((await domainCreds(1)).creds);
    assert.isTrue(await publishRefused(nc, subject));
  });

  test('can publish on its own hypercall subject (so that the refusals above mean something)', async () => {
    const nc = await client((await domainCreds(1)).creds);
    assert.isFalse(await publishRefused(nc, 'cv.xen.hypercall.d1'));
  });

  test.each(['cv.d2.>', 'cv.*.reply.xen', 'cv.>', '>', 'cv.xen.hypercall.*', 'cv.operator.>', '_INBOX.>', '$SYS.>'])(
    'cannot listen on %s',
    async (subject) => {
      const nc = await client((await domainCreds(1)).creds);
      assert.isTrue(await subscribeRefused(nc, subject));
    },
  );

  test('can listen on its own subjects', async () => {
    const nc = await client((await domainCreds(1)).creds);
    assert.isFalse(await subscribeRefused(nc, 'cv.d1.>'));
  });

  test('does not get in with a credential that it signed itself', async () => {
    const forger = jwt.createAccount();
    const key = createUserKey();
    const forged = await mintUser(
      { ...ring, accountSigningSeed: new TextDecoder().decode(forger.getSeed()) },
      'xen',
      key.publicKey,
    );
    await assertRejected(client(key.credsFor(forged)));
  });

  test("does not get in with another's JWT, since it lacks the secret half", async () => {
    const victim = await domainCreds(2);
    const own = createUserKey();
    const token = /-----BEGIN NATS USER JWT-----\n(.*)\n/.exec(victim.creds)![1]!;
    await assertRejected(client(own.credsFor(token)));
  });
});

test('a credential ends with its domain: who is in is cut off, and nobody gets in again', async () => {
  const { creds, publicKey } = await domainCreds(9);
  const nc = await client(creds);
  const claims = await client(ring.claimsCreds);
  const revoked = new Map([[publicKey, Math.floor(Date.now() / 1000) + 1]]);
  await claims.request(CLAIMS_UPDATE, new TextEncoder().encode(await accountClaims(ring, revoked)), { timeout: 3000 });
  await nc.closed();
  await assertRejected(client(creds));
});

test('a vacant replica can do nothing but be taken', async () => {
  const nc = await client(readFileSync(keyFiles(dir).credsOf('vacant'), 'utf8'));
  assert.isTrue(await publishRefused(nc, 'cv.xen.hypercall.d0'));
  assert.isTrue(await subscribeRefused(nc, 'cv.d0.>'));
});

async function assertRejected(attempt: Promise<unknown>): Promise<void> {
  let got: unknown;
  try {
    got = await attempt;
  } catch (error) {
    assert.match(String(error), /authorization violation/i);
    return;
  }
  assert.fail(`the server let it in: ${String(got)}`);
}
