/**
 * The store as a process on its Unix sockets: Debian's own xenstore tools, guests' rights, and clients that send
 * nonsense or do not read.
 */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import { bytesOf, packPacket, packStrings, XS } from '#shared/abi/xs-wire.ts';
import { Prng } from '#shared/core/prng.ts';
import { type StoreProcess, startStoreProcess } from '#tools/host/store-process.ts';
import { StoreSocket } from '../support/xenstored-process.ts';

const TOOLS = ['ls', 'read', 'write', 'list', 'exists', 'rm', 'chmod', 'watch'].map((name) => `xenstore-${name}`);
const missing = TOOLS.filter((tool) => spawnSync('which', [tool]).status !== 0);
const skipped = missing.length > 0 && process.env['CI'] === undefined;
const ENOUGH_MS = 5000;

let store: StoreProcess;
let dom0: StoreSocket;

beforeAll(async () => {
  store = await startStoreProcess();
  dom0 = await StoreSocket.connect(join(store.rundir, 'socket'));
}, 120_000);

afterAll(async () => {
  dom0?.end();
  await store?.stop();
});

/** What a tool prints; its exit status and what it complains of when that is not 0. */
async function tool(name: string, ...args: string[]): Promise<string> {
  return run(name, args, { XENSTORED_RUNDIR: store.rundir });
}

async function asDomain(domid: number, name: string, ...args: string[]): Promise<string> {
  return run(name, args, { XENSTORED_PATH: join(store.rundir, `dom${domid}.sock`) });
}

async function run(name: string, args: string[], env: Record<string, string>): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(name, args, {
      env: { PATH: process.env['PATH'], ...env },
      timeout: ENOUGH_MS,
    });
    return stdout.trimEnd();
  } catch (error) {
    const { code, stderr } = error as { code?: number; stderr?: string };
    return `status ${code}: ${stderr?.trimEnd()}`;
  }
}

async function introduce(domid: number): Promise<void> {
  assert.equal(await dom0.strings(XS.INTRODUCE, `${domid}`, '1', '1'), 'OK');
  await dom0.strings(XS.MKDIR, `/local/domain/${domid}`);
  await dom0.strings(XS.SET_PERMS, `/local/domain/${domid}`, `n${domid}`);
}

const title = skipped ? `Debian's tools (skipped: ${missing[0]} is not installed)` : "Debian's tools";
describe.skipIf(skipped)(title, () => {
  test('are all there', () => {
    assert.deepEqual(missing, [], 'apt-get install xenstore-utils');
  });

  test('write, read, list, remove, and ask whether a node exists', async () => {
    assert.equal(await tool('xenstore-write', '/t/a', 'one', '/t/b/c', 'two words'), '');
    assert.equal(await tool('xenstore-read', '/t/a', '/t/b/c'), 'one\ntwo words');
    assert.equal(await tool('xenstore-list', '/t'), 'a\nb');
    assert.equal(await tool('xenstore-exists', '/t/b/c'), '');
    assert.match(await tool('xenstore-exists', '/t/b/d'), /^status 1/);
    assert.equal(await tool('xenstore-rm', '/t/b'), '');
    assert.match(await tool('xenstore-read', '/t/b/c'), /status 1: xenstore-read: couldn't read path \/t\/b\/c/);
  });

  test('show the tree with permissions as xenstored keeps it', async () => {
    await introduce(1);
    await tool('xenstore-write', '/local/domain/1/device/pci/0/state', '1');
    await tool('xenstore-chmod', '/local/domain/1/device/pci/0', 'n1', 'r0');
    const lines = (await tool('xenstore-ls', '-f', '-p', '/local/domain/1')).split('\n');
    assert.deepEqual(lines, [
      '/local/domain/1/device = ""   (n1)',
      '/local/domain/1/device/pci = ""   (n1)',
      '/local/domain/1/device/pci/0 = ""   (n1,r0)',
      '/local/domain/1/device/pci/0/state = "1"   (n1)',
    ]);
  });

  test('list a thousand nodes of one directory, in parts', async () => {
    const names = Array.from({ length: 1000 }, (_, i) => `child-${i}`);
    for (const name of names) await dom0.ask(XS.WRITE, bytesOf(`/many/${name}\0`));
    assert.deepEqual((await tool('xenstore-list', '/many')).split('\n'), names);
    await tool('xenstore-rm', '/many');
  });

  test('hear of what changes below a path', async () => {
    const child = spawn('xenstore-watch', ['-n', '3', '/w'], {
      env: { PATH: process.env['PATH'], XENSTORED_RUNDIR: store.rundir },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let heard = '';
    child.stdout.on('data', (chunk) => (heard += chunk));
    const ended = new Promise((done) => child.once('exit', done));
    for (const end = Date.now() + ENOUGH_MS; heard === '' && Date.now() < end; ) await delay(10);
    await tool('xenstore-write', '/w/x', '1');
    await tool('xenstore-rm', '/w');
    await ended;
    assert.deepEqual(heard.trimEnd().split('\n'), ['/w', '/w/x', '/w']);
  });

  test('have a guest’s rights on the guest’s socket, and lose them with it', async () => {
    await introduce(2);
    assert.equal(await asDomain(2, 'xenstore-write', 'mine', 'x'), '');
    assert.equal(await tool('xenstore-read', '/local/domain/2/mine'), 'x');
    assert.match(await asDomain(2, 'xenstore-read', '/tool'), /^status 1/);
    assert.match(await asDomain(2, 'xenstore-write', '/local/domain/1/x', 'y'), /^status 1/);
    assert.match(await asDomain(2, 'xenstore-chmod', 'mine', 'n1'), /^status 1/);
    assert.equal(await dom0.strings(XS.RELEASE, '2'), 'OK');
    assert.match(await asDomain(2, 'xenstore-read', 'mine'), /^status 1/);
    assert.match(await tool('xenstore-exists', '/local/domain/2'), /^status 1/);
  });
});

describe('clients that mean no good', () => {
  /** A request of another client is answered, and soon. */
  async function servesOthers(): Promise<void> {
    const started = performance.now();
    const other = await StoreSocket.connect(join(store.rundir, 'socket'));
    assert.equal(await other.strings(XS.DIRECTORY, '/tool'), 'xenstored');
    other.end();
    assert.isBelow(performance.now() - started, 1000);
  }

  test('random bytes on forty connections end those connections at most', async () => {
    await introduce(3);
    const seed = 20_26;
    const prng = new Prng(seed);
    const clients = await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        StoreSocket.connect(join(store.rundir, i % 2 === 0 ? 'socket' : 'dom3.sock')),
      ),
    );
    for (let round = 0; round < 20; round++) {
      for (const { socket } of clients) {
        if (socket.destroyed) continue;
        const bytes = Uint8Array.from({ length: 1 + prng.below(300) }, () => prng.below(256));
        // Half of it with a header that could be one.
        if (prng.chance(0.5))
          bytes.set(packPacket(prng.below(30), 0, prng.below(3), new Uint8Array(0)).subarray(0, bytes.length));
        socket.write(bytes);
      }
      await servesOthers();
    }
    for (const client of clients) client.end();
    await servesOthers();
  });

  test('a client that asks and asks and never reads is not read any more, and the others are', async () => {
    await dom0.ask(XS.WRITE, bytesOf(`/big\0${'v'.repeat(4000)}`));
    const deaf = await StoreSocket.connect(join(store.rundir, 'socket'));
    deaf.socket.pause();
    const request = packPacket(XS.READ, 1, 0, packStrings('/big'));
    let sent = 0;
    while (deaf.socket.write(request) || deaf.socket.writableLength < 4 * 1024 * 1024) sent++;
    await servesOthers();
    await delay(200);
    // Megabytes of requests would have made gigabytes of replies.
    assert.isAbove(deaf.socket.writableLength, 1024 * 1024);
    await servesOthers();
    deaf.end();
    assert.isAbove(sent, 10_000);
  });

  test('a guest that leaves its events unread does not stop the one that writes', async () => {
    await introduce(4);
    await introduce(5);
    await dom0.strings(XS.MKDIR, '/shared');
    await dom0.strings(XS.SET_PERMS, '/shared', 'b0');
    const deaf = await StoreSocket.connect(join(store.rundir, 'dom5.sock'));
    assert.equal(await deaf.strings(XS.WATCH, '/shared', 't'), 'OK');
    deaf.socket.pause();
    const writer = await StoreSocket.connect(join(store.rundir, 'dom4.sock'));
    const replies = await Promise.all(
      Array.from({ length: 3000 }, (_, i) =>
        writer.ask(XS.WRITE, bytesOf(`/shared/${'n'.repeat(200)}-${i % 8}\0${i}`)),
      ),
    );
    assert.deepEqual([...new Set(replies)], ['OK']);
    deaf.end();
    writer.end();
  });

  test('a client of dom0 that hears of all and reads nothing stops no guest', async () => {
    const deaf = await StoreSocket.connect(join(store.rundir, 'socket'));
    await dom0.strings(XS.MKDIR, '/unheard');
    await dom0.strings(XS.SET_PERMS, '/unheard', 'b0');
    assert.equal(await deaf.strings(XS.WATCH, '/unheard', 't'), 'OK');
    deaf.socket.pause();
    const guest = await StoreSocket.connect(join(store.rundir, 'dom4.sock'));
    // Three megabytes of events that are not the same: far more than the buffers of a socket hold.
    const replies: string[] = [];
    for (let i = 0; i < 1000; i++) {
      const path = `/unheard/${'n'.repeat(1500)}${i}`;
      replies.push(await guest.ask(XS.WRITE, bytesOf(`${path}\0`)), await guest.strings(XS.RM, path));
    }
    assert.deepEqual([...new Set(replies)], ['OK']);
    deaf.end();
    guest.end();
  });

  test('a socket takes 1,024 clients, and the others are served beside them', async () => {
    await introduce(6);
    const path = join(store.rundir, 'dom6.sock');
    const clients: StoreSocket[] = [];
    for (let i = 0; i < 1024; i++) clients.push(await StoreSocket.connect(path));
    assert.equal(await clients[1023]!.strings(XS.GET_DOMAIN_PATH, '6'), '/local/domain/6');
    const more = await StoreSocket.connect(path);
    await new Promise((done) => more.socket.once('close', done));
    await servesOthers();
    for (const client of clients) client.end();
    await delay(100);
    const again = await StoreSocket.connect(path);
    assert.equal(await again.strings(XS.GET_DOMAIN_PATH, '6'), '/local/domain/6');
    again.end();
  });

  test('and the process said nothing but that it started', () => {
    const lines = store.output().trimEnd().split('\n');
    assert.deepEqual(
      lines.map((line) => (JSON.parse(line) as { msg: string }).msg),
      ['started'],
    );
  });
});
