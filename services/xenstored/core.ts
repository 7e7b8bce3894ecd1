/**
 * The store daemon as a service: who is connected over the bus, and what else reaches it. A domain is known by the name
 * under which it speaks, which the broker vouches for; dom0 is connected from the start. Xen says when a domain has shut
 * down or is gone, as it raises VIRQ_DOM_EXC for xenstored. With a journal the daemon comes back after its end as it was,
 * and tells the domains that it has, so that they register their watches again; nothing is answered before.
 * A domain has two ways here: packets that travel whole in messages of the bus, and its ring page (ring.ts).
 */
import { parsePacket, textOf, XsProtocolError } from '#shared/abi/xs-wire.ts';
import { type Body, body, type Core, domidOf, type Peer, peerOf } from '#shared/core/core.ts';
import { inspectReply } from '#shared/core/inspect.ts';
import { call, Indefinite, type Op, Refused, Signal, wait } from '#shared/core/op.ts';
import { type Answer, Runtime, type RuntimeOptions, type Service } from '#shared/core/runtime.ts';
import { BusPort } from './bus-port.ts';
import type { Connection } from './connection.ts';
import { StoreDaemon } from './daemon.ts';
import { DaemonState } from './daemon-state.ts';
import { DomainRings } from './domain-rings.ts';
import { Journal, type JournalLimits } from './journal.ts';
import { formatPerm } from './permissions.ts';
import { recover } from './recovery.ts';

export interface XenstoredOptions extends RuntimeOptions {
  /** The peer `disk` keeps a journal, and the store outlives the process. */
  readonly durable?: boolean;
  readonly journalLimits?: JournalLimits;
  /** There is a dom0, whose kernel can ask Xen which domains exist. Without one every domain that is named does. */
  readonly dom0?: boolean;
}

export class XenstoredService implements Service {
  readonly daemon: StoreDaemon;
  readonly #runtime: Runtime;
  /** The connection of each introduced domain over the bus. */
  readonly #rings = new Map<number, Connection>();
  readonly #journal: Journal | undefined;
  #recovering: boolean;
  readonly #recovered = new Signal<void>();
  /** What was answered before the start, for requests that came again before all was recovered. */
  readonly #answered = new Map<string, Body>();
  /** Their store rings. */
  readonly #pages: DomainRings;
  /** Told of domains that come (true) and go. */
  onDomain: ((domid: number, introduced: boolean) => void) | undefined;

  constructor(runtime: Runtime, { durable = false, dom0 = false, journalLimits: limits }: XenstoredOptions) {
    this.#runtime = runtime;
    this.#recovering = durable;
    this.daemon = new StoreDaemon(runtime, {
      connect: (domid, port) => this.#connect(domid, port),
      reconnect: (domid, port) => this.#pages.open(domid, port),
      released: (domid) => {
        this.#rings.delete(domid);
        this.#pages.release(domid);
        runtime.forget(peerOf(domid));
        this.onDomain?.(domid, false);
      },
    });
    this.#pages = new DomainRings(runtime, this.daemon);
    if (dom0) this.daemon.lookUp = (domids, done) => runtime.spawn('which domains exist', existing(domids), done);
    this.daemon.start();
    if (!durable) return;
    const journal = new Journal(runtime, this.daemon.store, new DaemonState(this.daemon), limits);
    this.#journal = journal;
    this.daemon.journal = journal;
    this.daemon.delivery.hold = (connection, run) => journal.show(connection, run);
  }

  *boot(): Op<void> {
    if (this.#journal === undefined) return;
    const { daemon } = this;
    const recovered = yield* recover(daemon.store);
    const { offset, answers, records, tornBytes } = recovered;
    new DaemonState(daemon).restore(recovered);
    for (const [domid, id, packet] of answers) {
      const reply = body('xenstoreReply', { packet });
      this.#answered.set(`${peerOf(domid)} ${id}`, reply);
      this.#runtime.remember(peerOf(domid), id, reply);
    }
    this.#journal.open(offset, answers);
    this.#recovering = false;
    this.#recovered.fire();
    this.#answered.clear();
    this.#runtime.trace('xenstored.recovered', { nodes: daemon.store.size, records, bytes: offset, tornBytes });
    if (offset === 0) return;
    for (const domid of this.#rings.keys()) this.#tellRestarted(peerOf(domid));
  }

  /** Resolves as an operation when requests are answered. */
  *ready(): Op<void> {
    while (this.#recovering) yield* wait(this.#recovered, Infinity);
  }

  endStep(): void {
    this.#journal?.endStep();
  }

  onRequest(from: Peer, message: Body, id: number): Answer {
    return this.#recovering ? this.#onceRecovered(from, message, id) : this.#onRequest(from, message, id);
  }

  #onRequest(from: Peer, message: Body, id: number): Answer {
    if (message.$case === 'inspectRequest' && from === 'operator') {
      return inspectReply('xenstored', this.#runtime.inspect(), message.value.path);
    }
    if (message.$case === 'domainExcRequest' && from === 'xen') {
      const { domid, gone } = message.value;
      if (gone) this.daemon.domainGone(domid);
      else this.daemon.domainShutdown(domid);
      return this.#onceShown(body('domainExcReply', {}));
    }
    if (message.$case === 'storeRingEvent' && from === 'd0') {
      this.#pages.onEvent(message.value.port);
      return body('storeRingEventReply', {});
    }
    const domid = domidOf(from);
    if (message.$case !== 'xenstoreRequest' || domid < 0)
      throw new Refused(`xenstored does not take ${message.$case} of ${from}`);
    const connection = this.#rings.get(domid);
    if (connection === undefined) throw new Refused(`domain ${domid} is not introduced`);
    if (connection.ignored !== '') throw new Refused(`domain ${domid} is ignored: ${connection.ignored}`);
    return this.#ask(connection, message.value.packet, id);
  }

  inspect(): object {
    const { store, connections, counts } = this.daemon;
    const tree: Record<string, { value: string; perms: string }> = {};
    const special: Record<string, string> = {};
    for (const [path, node] of store.entries()) {
      const perms = node.perms.map(formatPerm).join(',');
      if (path.startsWith('@')) special[path] = perms;
      else tree[path] = { value: textOf(node.value), perms };
    }
    return {
      ready: !this.#recovering,
      tree,
      special,
      connections: [...connections].map((connection) => ({
        domid: connection.domid,
        watches: connection.watches.size,
        transactions: connection.transactions.size,
        eventsWaiting: connection.eventsWaiting,
        nodesOwned: store.owned(connection.domid),
        ignored: connection.ignored,
      })),
      counts,
      rings: this.#pages.inspect(),
      journal: this.#journal?.inspect() ?? {},
    };
  }

  *#onceRecovered(from: Peer, message: Body, id: number): Op<Body> {
    yield* this.ready();
    const answer = this.#answered.get(`${from} ${id}`) ?? this.#onRequest(from, message, id);
    if (answer === undefined) throw new Refused(`${message.$case} has no answer`);
    return '$case' in answer ? answer : yield* answer;
  }

  /** The answer, when what was changed for it is safe: nobody will ask again. */
  #onceShown(answer: Body): Answer {
    let shown = false;
    const done = new Signal<void>();
    this.daemon.delivery.show(undefined, () => {
      shown = true;
      done.fire();
    });
    if (shown) return answer;
    const waitForIt = function* (): Op<Body> {
      while (!shown) yield* wait(done, Infinity);
      return answer;
    };
    return waitForIt();
  }

  /** A domain that does not hear of it within the usual time is dead, or has no use for it. */
  #tellRestarted(peer: Peer): void {
    this.#runtime.post(peer, body('hello', {}));
    const told = call(peer, body('xenstoreRestarted', {}), 'xenstoreRestartedReply');
    this.#runtime.spawn(`restarted for ${peer}`, told, undefined, (error) => {
      if (!(error instanceof Refused || error instanceof Indefinite)) throw error;
    });
  }

  /** A reply that is there at once is the answer; one that has to wait is waited for. */
  #ask(connection: Connection, bytes: Uint8Array, id: number): Answer {
    let reply: Uint8Array | undefined;
    let dropped = false;
    const done = new Signal<void>();
    const gone = (): Refused => new Refused(`domain ${connection.domid} is ignored: ${connection.ignored}`);
    const onReply = (packet: Uint8Array): void => {
      reply = packet;
      done.fire();
    };
    const onDropped = (): void => {
      dropped = true;
      done.fire();
    };
    try {
      this.daemon.submit(connection, parsePacket(bytes), onReply, onDropped, id);
    } catch (error) {
      if (!(error instanceof XsProtocolError)) throw error;
      this.daemon.ignore(connection, error.message);
      throw gone();
    }
    if (reply !== undefined) return body('xenstoreReply', { packet: reply });
    const waitForIt = function* (): Op<Body> {
      while (reply === undefined) {
        if (dropped) throw gone();
        yield* wait(done, Infinity);
      }
      return body('xenstoreReply', { packet: reply });
    };
    return waitForIt();
  }

  #connect(domid: number, ringPort: number): void {
    const port = new BusPort(
      this.#runtime,
      domid,
      () => this.daemon.resume(connection),
      () => this.daemon.ignore(connection, 'a watch event was not read within 20 s'),
    );
    const connection = this.daemon.attach(domid, port);
    connection.overBus = true;
    this.#rings.set(domid, connection);
    this.#pages.open(domid, ringPort);
    this.onDomain?.(domid, true);
  }
}

/** Those of the domains that Xen knows. One that it could not be asked about is taken for none. */
function* existing(domids: readonly number[]): Op<number[]> {
  const found: number[] = [];
  for (const domid of domids) {
    const what = { $case: 'exists' as const, value: { domid } };
    try {
      const reply = yield* call('d0', body('storeRingRequest', { what }), 'storeRingReply');
      if (reply.exists) found.push(domid);
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Indefinite)) throw error;
    }
  }
  return found;
}

/** The service with what runs it, for whoever connects clients of its own. */
export function createXenstored(options: XenstoredOptions): { runtime: Runtime; service: XenstoredService } {
  const runtime = new Runtime({ ...options, announceTo: ['d0'] });
  const service = new XenstoredService(runtime, options);
  runtime.attach(service);
  return { runtime, service };
}

export function createXenstoredCore(options: XenstoredOptions): Core {
  return createXenstored(options).runtime;
}
