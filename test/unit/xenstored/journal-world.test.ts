/** A store in the simulated world that is killed at random moments under clients that write; seeds are printed. */
import { assert, test } from 'vitest';
import { type Body, body, type Peer } from '#shared/core/core.ts';
import { type Op, sleep } from '#shared/core/op.ts';
import { Prng } from '#shared/core/prng.ts';
import { Runtime, type Service } from '#shared/core/runtime.ts';
import { XenstoreClient } from '#shared/kernel/xenstore-client.ts';
import { World } from '#shared/sim/world.ts';

import { createXenstored, type XenstoredService } from '../../../services/xenstored/core.ts';
import { SimulatedDisk } from '../../support/simulated-disk.ts';

const SEEDS = Number(process.env['XENSTORE_CRASH_SEEDS'] ?? 12);
const ROUNDS = 12;
const LIFE = 2 ** 32;

class Kernel implements Service {
  readonly runtime = new Runtime({ idBase: 0 });
  readonly store = new XenstoreClient(this.runtime);
  readonly told: string[] = [];

  constructor(run: (kernel: Kernel) => Op<void>) {
    this.#run = run;
    this.runtime.attach(this);
  }
  readonly #run: (kernel: Kernel) => Op<void>;

  *boot(): Op<void> {
    yield* this.#run(this);
  }

  onRequest(_from: Peer, message: Body): Body | Op<Body> | undefined {
    if (message.$case === 'xenstoreRestarted') return this.store.onRestarted();
    if (message.$case !== 'xenstoreWatchEvent') return undefined;
    this.store.onWatchEvent(message.value.packet);
    return body('xenstoreWatchEventReply', {});
  }

  inspect(): unknown {
    return {};
  }
}

class Rig {
  readonly prng: Prng;
  readonly world: World;
  readonly disk: SimulatedDisk;
  service!: XenstoredService;
  #lives = 0;

  constructor(seed: number) {
    this.prng = new Prng(seed);
    this.world = new World({ seed });
    this.disk = new SimulatedDisk(this.prng);
    this.world.add('disk', this.disk);
    this.start();
  }

  start(): void {
    const { runtime, service } = createXenstored({
      idBase: ++this.#lives * LIFE,
      durable: true,
      // Small, so that the store is killed while it writes snapshots as well.
      journalLimits: { logBytesMin: 2000, sliceBytes: 200 },
    });
    this.service = service;
    this.world.add('xenstored', runtime);
  }

  kill(): void {
    this.world.remove('xenstored');
    this.disk.crash((this.#lives + 1) * LIFE);
  }

  /** Virtual time passes. */
  pass(ns: number): void {
    const end = this.world.now + ns;
    const clock = new Runtime({ idBase: 0 });
    clock.attach({ onRequest: () => undefined, inspect: () => ({}) });
    let due = false;
    clock.at(end, () => {
      due = true;
    });
    this.world.add('operator', clock);
    this.world.run(() => due, ns + 1);
  }

  /** Nodes with their permissions, children in order and generations. */
  tree(): string[] {
    return [...this.service.daemon.store.entries()]
      .map(([path, { value, perms, children, generation }]) =>
        JSON.stringify([path, [...value], perms, [...children], generation]),
      )
      .sort();
  }
}

for (let seed = 1; seed <= SEEDS; seed++) {
  test(`killed at random moments the store keeps what it acknowledged and no half of a transaction (seed ${seed})`, () => {
    const rig = new Rig(seed);
    const { world, prng } = rig;
    /** By node: the last value that was acknowledged, and the last that was asked for. */
    const acknowledged = new Map<string, number>();
    const asked = new Map<string, number>();
    let done = false;
    let writes = 0;
    const d0 = new Kernel(function* ({ store }) {
      yield* store.introduce(1, 1, 1);
      yield* store.mkdir('/local/domain/1');
      yield* store.setPerms('/local/domain/1', ['n1']);
      yield* store.watch('/t', 'w', (path) => d0.told.push(path));
      for (let n = 1; !done; n++) {
        const node = `/t/${n % 5}`;
        const kind = n % 4;
        asked.set(node, n);
        asked.set(`${node}/twin`, n);
        if (kind === 0) yield* store.write(node, `${n}`);
        else if (kind === 3 && n % 3 === 0) yield* store.rm(node);
        else
          yield* store.transaction(function* (tx) {
            yield* tx.write(node, `${n}`);
            yield* tx.write(`${node}/twin`, `${n}`);
          });
        acknowledged.set(node, n);
        writes++;
        if (n % 7 === 0) yield* sleep(1e6);
      }
    });
    const d1 = new Kernel(function* ({ store }) {
      for (let n = 1; !done; n++) {
        asked.set('own', n);
        yield* store.write('own', `${n}`);
        acknowledged.set('own', n);
      }
    });
    world.add('d0', d0.runtime);
    world.run(() => writes > 0, 1e9);
    world.add('d1', d1.runtime);
    rig.pass(20e6);
    const valueAt = (path: string): number => {
      const node = rig.service.daemon.store.get(path === 'own' ? '/local/domain/1/own' : path);
      return node === undefined ? 0 : Number(new TextDecoder().decode(node.value));
    };
    const acknowledgedBefore = writes;
    for (let round = 0; round < ROUNDS; round++) {
      rig.pass(prng.below(30e6) + 1);
      rig.kill();
      rig.pass(prng.below(5e6) + 1);
      rig.start();
      world.run(() => (rig.service.inspect() as { ready: boolean }).ready, 1e9);
      assert.deepEqual(rig.service.daemon.store.check(), []);
      for (const [node, n] of acknowledged) {
        const value = valueAt(node);
        const removed = value === 0 && [n, asked.get(node)!].some((one) => one % 4 === 3 && one % 3 === 0);
        assert.isTrue(value === n || value === asked.get(node) || removed, `${node}: ${value}, acknowledged ${n}`);
        const kind = value % 4;
        if (node !== 'own' && value !== 0 && kind !== 0)
          assert.equal(valueAt(`${node}/twin`), value, `${node} is half`);
      }
      assert.isTrue(rig.service.daemon.domains.get(1)?.introduced);
    }
    const told = d0.told.length;
    rig.pass(300e6);
    assert.isAbove(writes, acknowledgedBefore + 50, 'clients go on after the last restart');
    assert.isAbove(d0.told.length, told + 10, 'watches are registered again');
    done = true;
    rig.pass(100e6);

    // What is on the disk is what the store has: tree, order of children, generations.
    const before = rig.tree();
    rig.kill();
    rig.start();
    world.run(() => (rig.service.inspect() as { ready: boolean }).ready, 1e9);
    assert.deepEqual(rig.tree(), before);
  });
}
