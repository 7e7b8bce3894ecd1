/**
 * A store with clients of its own, in one process and on a clock that is told: what a socket would carry goes in and
 * comes out as packets. For replaying and comparing; no bus, no files.
 */
import { packPacket, parsePacket, type XsPacket } from '#shared/abi/xs-wire.ts';
import type { Effect, Nanos } from '#shared/core/core.ts';
import { createXenstored, type XenstoredService } from '../../services/xenstored/core.ts';

type Attached = ReturnType<XenstoredService['daemon']['attach']>;

/** One client with the rights of a domain. */
export class StoreClient {
  /** It takes what it is sent; otherwise everything waits in the store. */
  listening = true;
  /** The store does not read it at the moment. */
  paused = false;
  closed = false;
  readonly #heard: Uint8Array[] = [];

  get ready(): boolean {
    return this.listening && !this.closed;
  }

  write(packet: Uint8Array): void {
    this.#heard.push(packet);
  }

  setReading(on: boolean): void {
    this.paused = !on;
  }

  close(): void {
    this.closed = true;
  }

  /** What came since the last time, in order. */
  take(): XsPacket[] {
    return this.#heard.splice(0).map(parsePacket);
  }
}

export class StoreWithClients {
  readonly #store = createXenstored({ idBase: 0 });
  readonly #attached = new Map<StoreClient, Attached>();
  #wakeAt: Nanos = Infinity;
  now: Nanos = 0;

  constructor() {
    this.#carryOut(this.#store.runtime.start(0));
  }

  /** From now on Xen is asked about domains, and knows these; its answer takes a millisecond. */
  setExisting(existing: readonly number[]): void {
    const { runtime, service } = this.#store;
    service.daemon.lookUp = (domids, done) => {
      runtime.at(this.now + 1e6, () => done(domids.filter((domid) => existing.includes(domid))));
    };
  }

  /** A client of dom0, or of a domain that was introduced. */
  connect(domid: number): StoreClient {
    const client = new StoreClient();
    this.#enter(() => {
      this.#attached.set(client, this.#store.service.daemon.attach(domid, client));
    });
    return client;
  }

  disconnect(client: StoreClient): void {
    const connection = this.#attached.get(client);
    if (connection !== undefined) this.#enter(() => this.#store.service.daemon.detach(connection));
    this.#attached.delete(client);
  }

  send(client: StoreClient, type: number, payload: Uint8Array, txId = 0, reqId = 0): void {
    const connection = this.#attached.get(client);
    if (connection === undefined) throw new RangeError('not a client of this store');
    const packet = parsePacket(packPacket(type, reqId, txId, payload));
    this.#enter(() => this.#store.service.daemon.receive(connection, packet));
  }

  /** The client reads again what it is sent. */
  listen(client: StoreClient, on: boolean): void {
    client.listening = on;
    const connection = this.#attached.get(client);
    if (on && connection !== undefined) this.#enter(() => this.#store.service.daemon.resume(connection));
  }

  /** The clock goes on. */
  pass(ns: Nanos): void {
    const end = this.now + ns;
    while (this.#wakeAt <= end) {
      this.now = Math.max(this.now, this.#wakeAt);
      this.#wakeAt = Infinity;
      this.#carryOut(this.#store.runtime.wake(this.now));
    }
    this.now = end;
  }

  /** Xen says that a domain has shut down, or that there is none any more. */
  domainExc(domid: number, gone: boolean): void {
    const { daemon } = this.#store.service;
    this.#enter(() => (gone ? daemon.domainGone(domid) : daemon.domainShutdown(domid)));
  }

  /** What is wrong inside: nothing, unless the store has a fault. */
  check(): string[] {
    return this.#store.service.daemon.store.check();
  }

  /** Nodes by path, with their permissions. */
  tree(): Record<string, { value: string; perms: string }> {
    return (this.#store.service.inspect() as { tree: Record<string, { value: string; perms: string }> }).tree;
  }

  #enter(run: () => void): void {
    this.#carryOut(this.#store.runtime.enter(this.now, run));
    this.pass(0);
  }

  /** Domains that speak over the bus have nobody there: what is sent to them is lost. */
  #carryOut(effects: readonly Effect[]): void {
    for (const effect of effects) if (effect.do === 'wake') this.#wakeAt = Math.min(this.#wakeAt, effect.at);
  }
}
