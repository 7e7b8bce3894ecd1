/**
 * SIGKILL again and again under clients that write: one over the Unix socket, which sends several requests at a time
 * and opens transactions, and dom0's kernel over the broker. `XENSTORE_KILLS=200` sets how often.
 */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, assert, beforeAll, test } from 'vitest';
import { bytesOf, packStrings, XS } from '#shared/abi/xs-wire.ts';
import { idBaseNow, Shell } from '#shared/bus/shell.ts';
import { type Body, body, type Peer } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { Prng } from '#shared/core/prng.ts';
import { Runtime, type Service } from '#shared/core/runtime.ts';
import { XenstoreClient } from '#shared/kernel/xenstore-client.ts';
import { type StoreProcess, startStoreProcess } from '#tools/host/store-process.ts';
import { StoreSocket } from '../support/xenstored-process.ts';

const KILLS = Number(process.env['XENSTORE_KILLS'] ?? 5);
const SEED = Number(process.env['XENSTORE_SEED'] ?? Math.floor(Date.now() / 1000) % 1_000_000);
const NODES = 8;

let store: StoreProcess;
beforeAll(async () => {
  store = await startStoreProcess({ durable: true });
});
afterAll(() => store.stop());

/** Counts up in nodes until it is told to stop, over as many connections as it takes. */
class Writer {
  /** By node: the last that was acknowledged, and the last that was sent. */
  readonly acknowledged = new Map<string, number>();
  readonly sent = new Map<string, number>();
  writes = 0;
  transactions = 0;
  stopped = false;
  #count = 0;

  async run(): Promise<void> {
    while (!this.stopped) {
      let client: StoreSocket;
      try {
        client = await StoreSocket.connect(join(store.rundir, 'socket'));
      } catch {
        await delay(5);
        continue;
      }
      while (!this.stopped && !client.socket.destroyed) {
        if (this.#count % 2 === 0) await this.#writeAtOnce(client);
        else await this.#transact(client);
      }
      client.end();
    }
  }

  /** All nodes at once, without waiting for one reply. */
  async #writeAtOnce(client: StoreSocket): Promise<void> {
    const count = ++this.#count;
    const writes = Array.from({ length: NODES }, async (_, i) => {
      const node = `/kill/at-once/${i}`;
      this.sent.set(node, count);
      if ((await client.ask(XS.WRITE, bytesOf(`${node}\0${count}`))) !== 'OK') return;
      this.acknowledged.set(node, count);
      this.writes++;
    });
    await Promise.all(writes);
  }

  /** All nodes in one transaction: they always have the same value. */
  async #transact(client: StoreSocket): Promise<void> {
    const count = ++this.#count;
    const id = Number(await client.strings(XS.TRANSACTION_START, ''));
    if (!(id > 0)) return;
    const asked = Array.from({ length: NODES }, (_, i) =>
      client.ask(XS.WRITE, bytesOf(`/kill/together/${i}\0${count}`), id),
    );
    this.sent.set('/kill/together/0', count);
    const ended = client.ask(XS.TRANSACTION_END, packStrings('T'), id);
    await Promise.all(asked);
    if ((await ended) !== 'OK') return;
    this.acknowledged.set('/kill/together/0', count);
    this.transactions++;
  }
}

/** Writes over the broker, and watches what it writes. */
class Kernel implements Service {
  readonly runtime = new Runtime({ idBase: idBaseNow() });
  readonly store = new XenstoreClient(this.runtime);
  acknowledged = 0;
  sent = 0;
  transactions = 0;
  restarts = 0;
  stopped = false;
  told = 0;
  fatal: Error | undefined;

  constructor() {
    this.runtime.attach(this);
  }

  *boot(): Op<void> {
    yield* this.store.watch('/kill/bus', 'bus', () => {
      this.told++;
    });
    while (!this.stopped) {
      const count = ++this.sent;
      if (count % 3 === 0) {
        // What it reads is what it wrote last: a request that came twice was done once.
        const before = yield* this.store.transaction(function* (tx) {
          const now = yield* tx.readOrUndefined('/kill/bus');
          yield* tx.write('/kill/bus', `${count}`);
          return now;
        });
        assert.equal(before, `${count - 1}`);
        this.transactions++;
      } else yield* this.store.write('/kill/bus', `${count}`);
      this.acknowledged = count;
    }
  }

  onRequest(_from: Peer, message: Body): Body | Op<Body> | undefined {
    if (message.$case === 'xenstoreRestarted') {
      this.restarts++;
      return this.store.onRestarted();
    }
    if (message.$case !== 'xenstoreWatchEvent') return undefined;
    this.store.onWatchEvent(message.value.packet);
    return body('xenstoreWatchEventReply', {});
  }

  inspect(): unknown {
    return {};
  }
}

test(`killed ${KILLS} times under writing clients it loses nothing that it acknowledged (seed ${SEED})`, {
  timeout: 60_000 + KILLS * 5000,
}, async () => {
  const prng = new Prng(SEED);
  const writer = new Writer();
  const kernel = new Kernel();
  const shell = new Shell('d0', kernel.runtime, {
    url: store.natsUrl,
    creds: store.dom0Creds,
    waitMs: 5000,
    onFatal: (error) => {
      kernel.fatal = error;
    },
  });
  await shell.start();
  const writing = writer.run();
  for (let kill = 1; kill <= KILLS; kill++) {
    await delay(20 + prng.below(150));
    await store.kill();
    await store.start();
    await compare(writer, kernel, `after kill ${kill}`);
    assert.isUndefined(kernel.fatal);
  }
  const { told } = kernel;
  const { writes } = writer;
  await until(() => kernel.told > told && writer.writes > writes, 'clients that go on');
  writer.stopped = true;
  kernel.stopped = true;
  await writing;
  await shell.stop();
  assert.isAbove(writer.transactions, 0);
  assert.isAbove(kernel.transactions, 0);
  assert.equal(kernel.restarts, KILLS, 'dom0 hears of every restart');
  console.log(
    `${KILLS} kills: ${writer.writes} writes and ${writer.transactions} transactions over the socket, ${kernel.acknowledged} over the broker`,
  );
});

async function compare(writer: Writer, kernel: Kernel, when: string): Promise<void> {
  await until(() => kernel.restarts > 0 || kernel.fatal !== undefined, 'news of the restart');
  if (kernel.fatal !== undefined) throw kernel.fatal;
  // Sampled before the store is asked: what is acknowledged later can only be newer.
  const acknowledged = new Map(writer.acknowledged);
  const overBus = kernel.acknowledged;
  const client = await StoreSocket.connect(join(store.rundir, 'socket'));
  try {
    const read = async (path: string): Promise<number> => Number(await client.strings(XS.READ, path));
    for (const [node, count] of acknowledged) {
      const value = await read(node);
      assert.isTrue(
        value >= count && value <= writer.sent.get(node)!,
        `${when}: ${node} is ${value}, ${count} was acknowledged`,
      );
    }
    const bus = await read('/kill/bus');
    assert.isTrue(bus >= overBus && bus <= kernel.sent, `${when}: /kill/bus is ${bus}, ${overBus} was acknowledged`);
    if (!acknowledged.has('/kill/together/0')) return;
    const id = Number(await client.strings(XS.TRANSACTION_START, ''));
    const values: string[] = [];
    for (let i = 0; i < NODES; i++) values.push(await client.ask(XS.READ, packStrings(`/kill/together/${i}`), id));
    // Without a conflict the reads saw one state.
    if ((await client.ask(XS.TRANSACTION_END, packStrings('T'), id)) === 'OK')
      assert.equal(new Set(values).size, 1, `${when}: half of a transaction: ${values}`);
  } finally {
    client.end();
  }
}

async function until(done: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 15_000; !done(); await delay(5)) {
    if (Date.now() > end) throw new Error(`waited in vain for ${what}; the store said: ${store.output().slice(-2000)}`);
  }
}
