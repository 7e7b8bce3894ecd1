/**
 * The daemon: takes the requests of its connections in order, answers them, and queues the events that they cause.
 * An unprivileged domain is not read while it writes too fast, has too many requests outstanding or too much memory
 * (conn_can_read() of xenstored's domain.c); no client is read while 64 replies wait for it.
 */
import {
  packPacket,
  packStrings,
  textOf,
  XENSTORE_PAYLOAD_MAX,
  XS,
  XS_HEADER_BYTES,
  type XsErrorName,
  type XsPacket,
  xsTypeName,
} from '#shared/abi/xs-wire.ts';
import { type ClientPort, Connection, type Ticket, type Watch } from './connection.ts';
import { type Clock, Delivery } from './delivery.ts';
import { type Domain, Domains } from './domain.ts';
import { forgetDomain } from './domain-nodes.ts';
import { XsError } from './error.ts';
import type { Journal } from './journal.ts';
import { domidsNamed } from './node-requests.ts';
import { DOMID_ANY } from './permissions.ts';
import { exceeds } from './quota.ts';
import { type Daemon, RequestContext } from './request-context.ts';
import { REQUESTS, type RequestKind } from './requests.ts';
import { Store } from './store.ts';
import { Transaction } from './transaction.ts';
import { type Change, Watches } from './watch.ts';
import { WriteRate } from './write-rate.ts';

const REPLIES_WAITING_MAX = 64;
const NO_WATCHES: readonly Watch[] = [];

/** The connections that domains have by being introduced. */
export interface Rings {
  /** Connects a domain that is introduced now. `port`: its end of the store's channel; 0 when it is not known. */
  connect(domid: number, port: number): void;
  /** A domain that is connected was introduced again. */
  reconnect(domid: number, port: number): void;
  /** All connections of the domain were closed. */
  released(domid: number): void;
}

export class StoreDaemon implements Daemon {
  readonly store = new Store();
  readonly domains = new Domains();
  readonly connections = new Set<Connection>();
  logging = false;
  /** By type of request. */
  readonly #operations = new Map<number, number>();
  readonly #errors = new Map<XsErrorName, number>();
  readonly #totals = { transactions: 0, conflicts: 0 };
  readonly #clock: Clock;
  readonly #rings: Rings;
  readonly #watches = new Watches();
  readonly #writeRate = new WriteRate();
  #transactionsOpen = 0;
  /** Clients that are not read at the moment. */
  readonly #stalled = new Set<Connection>();
  #retrySet = false;
  /** What Xen has just said of domains that the request names which is taken now: there are none of these numbers. */
  readonly #absent = new Set<number>();
  #nextConnection = 1;
  #nextWatch = 1;
  /** Of the request that is being worked on. */
  #ticket: Ticket | undefined;
  /** Those that the request made: told of themselves after its reply. */
  #newWatches: Watch[] = [];
  /** What goes to clients. */
  readonly delivery: Delivery;
  /** What is told of changes that outlive the daemon. */
  journal: Journal | undefined;
  /** Asks Xen which of some domains exist. Without it all that are named do. */
  lookUp: ((domids: readonly number[], done: (existing: readonly number[]) => void) => void) | undefined;

  constructor(clock: Clock, rings: Rings) {
    this.#clock = clock;
    this.#rings = rings;
    this.delivery = new Delivery(clock, {
      memory: (domain) => this.#memory(domain),
      queued: (connection, packet) => {
        if (this.logging) this.#log('OUT', connection, 'WATCH_EVENT', packet.subarray(XS_HEADER_BYTES));
      },
      readAgain: () => this.#readStalled(),
      cutOff: (connection, why) => this.ignore(connection, why),
    });
  }

  /** Connects dom0. */
  start(): void {
    this.domainOf(0).introduced = true;
    this.#rings.connect(0, 0);
  }

  get counts() {
    return {
      operations: Object.fromEntries([...this.#operations].map(([type, n]) => [xsTypeName(type), n])),
      errors: Object.fromEntries(this.#errors),
      ...this.#totals,
      watchEvents: this.delivery.events,
    };
  }

  domainOf(domid: number): Domain {
    return this.domains.of(domid, this.#clock.now);
  }

  /** A new client with the rights of a domain. */
  attach(domid: number, port: ClientPort): Connection {
    const onReply = (reply: Uint8Array): void => this.delivery.reply(connection, reply);
    const connection: Connection = new Connection(this.#nextConnection++, this.domainOf(domid), port, onReply);
    this.connections.add(connection);
    return connection;
  }

  /** A client is gone. */
  detach(connection: Connection): void {
    if (connection.closed) return;
    connection.closed = true;
    this.connections.delete(connection);
    this.#drop(connection);
    connection.port.close();
    this.#readStalled();
  }

  /**
   * One request; `answer` is given its reply, now or when the client is read again. `dropped` is called instead when
   * the connection ends before.
   */
  submit(
    connection: Connection,
    packet: XsPacket,
    answer: (reply: Uint8Array) => void,
    dropped?: () => void,
    requestId = 0,
  ): void {
    if (connection.submitted.length === 0 && this.#readable(connection) && !this.#hasToAsk(connection, packet)) {
      this.#process(connection, packet, answer, requestId);
      return;
    }
    const kept = { ...packet, payload: new Uint8Array(packet.payload) };
    connection.submitted.push({ packet: kept, answer, dropped, requestId });
    if (connection.submitted.length === 1) {
      this.#stalled.add(connection);
      connection.port.setReading(false);
    }
    this.#readLater(connection);
  }

  /** One request of a client whose replies go in order with its events. */
  receive(connection: Connection, packet: XsPacket): void {
    if (connection.closed) return;
    this.submit(connection, packet, connection.onReply);
  }

  /** The client's port is ready again. */
  resume(connection: Connection): void {
    this.delivery.resume(connection);
    this.#readSubmitted(connection);
  }

  /** Nothing is answered any more: what the client sent is not the protocol, or it does not read. */
  ignore(connection: Connection, why: string): void {
    this.#clock.trace('xenstored.ignored', { domid: connection.domid, why });
    if (!connection.overBus) {
      this.detach(connection);
      return;
    }
    connection.ignored = why;
    this.#drop(connection);
  }

  introduce(domid: number, port: number): void {
    const domain = this.domainOf(domid);
    if (domain.introduced) {
      for (const connection of this.connections) {
        if (connection.domain === domain && connection.overBus) this.#drop(connection);
      }
      this.#rings.reconnect(domid, port);
      return;
    }
    domain.introduced = true;
    this.noteDomain(domid);
    this.#rings.connect(domid, port);
    this.#fireSpecial('@introduceDomain', domid);
  }

  /** The connection of a domain that was introduced before the daemon started. */
  reconnect(domain: Domain): void {
    if (domain.introduced) return;
    domain.introduced = true;
    this.#rings.connect(domain.domid, 0);
  }

  /** What the domain owns goes, and its rights to other nodes; then @releaseDomain fires. */
  release(domain: Domain): void {
    const { domid } = domain;
    for (const connection of [...this.connections]) if (connection.domain === domain) this.detach(connection);
    this.#deleteDomain(domid);
    this.#rings.released(domid);
    for (const { transactions } of this.connections)
      for (const transaction of transactions.values()) transaction.forgetDomain(domid);
    forgetDomain(this.store, domid, (change) => this.fire(change));
    this.#fireSpecial('@releaseDomain', domid);
  }

  /** Xen: the domain has shut down, or crashed. It is told of once, until RESUME. */
  domainShutdown(domid: number): void {
    const domain = this.domains.get(domid);
    if (domain === undefined || !domain.introduced || domain.shutdown || domain.privileged) return;
    domain.shutdown = true;
    this.noteDomain(domid);
    this.#fireSpecial('@releaseDomain', domid);
    this.delivery.flush();
  }

  /** Xen: there is no such domain any more. */
  domainGone(domid: number): void {
    const domain = this.domains.get(domid);
    if (domain === undefined || domain.privileged) return;
    if (domain.introduced) this.release(domain);
    else this.#deleteDomain(domid);
    this.delivery.flush();
  }

  noteDomain(domid: number): void {
    this.journal?.noteDomain(domid);
  }

  noteLimits(): void {
    this.journal?.noteLimits();
  }

  watch(connection: Connection, key: string, given: Omit<Watch, 'connection' | 'seq'>): void {
    const watch = { ...given, connection, seq: this.#nextWatch++ };
    connection.addWatch(key, watch);
    this.#watches.add(watch);
    this.#newWatches.push(watch);
  }

  unwatch(connection: Connection, key: string): boolean {
    const watch = connection.removeWatch(key);
    if (watch !== undefined) this.#watches.remove(watch);
    return watch !== undefined;
  }

  openTransaction(connection: Connection): Transaction {
    const transaction = new Transaction(connection.newTransactionId(), this.store, connection.domain);
    connection.addTransaction(transaction);
    this.#transactionsOpen++;
    this.#totals.transactions++;
    return transaction;
  }

  closeTransaction(connection: Connection, transaction: Transaction): void {
    connection.removeTransaction(transaction);
    this.#transactionsOpen--;
  }

  conflict(): void {
    this.#totals.conflicts++;
  }

  resetWatches(connection: Connection): void {
    for (const key of connection.watches.keys()) this.unwatch(connection, key);
    for (const transaction of connection.transactions.values()) this.closeTransaction(connection, transaction);
  }

  fire(change: Change): void {
    const ticket = this.#ticket;
    this.#watches.match(this.store, change, (watch, path) => this.delivery.tell(watch, path, ticket));
  }

  debitWrite(domain: Domain): void {
    // Without a transaction there is nobody whom a write can bring into conflict.
    if (!domain.privileged && this.#transactionsOpen > 0) this.#writeRate.debit(domain.credit, this.#clock.now);
  }

  print(text: string): void {
    this.#clock.trace('xenstored.print', text);
  }

  // Requests

  /** Whether the client's next request may be taken. */
  #readable(connection: Connection): boolean {
    const { domain } = connection;
    if (connection.repliesWaiting >= REPLIES_WAITING_MAX || connection.asking) return false;
    if (domain.privileged) return true;
    const { outstanding } = domain.limits;
    if (outstanding !== 0 && domain.outstanding >= outstanding) return false;
    if (exceeds(domain, 'memory', this.#memory(domain))) return false;
    const { now } = this.#clock;
    return this.#writeRate.readableAt(domain.credit, now) <= now;
  }

  /** A client that waits for credit only is read again by the clock; the others when something was read. */
  #readLater(connection: Connection): void {
    if (connection.waitsForCredit || connection.domain.privileged) return;
    const at = this.#writeRate.readableAt(connection.domain.credit, this.#clock.now);
    if (at <= this.#clock.now) return;
    connection.waitsForCredit = true;
    this.#clock.at(at, () => {
      connection.waitsForCredit = false;
      this.#readSubmitted(connection);
    });
  }

  #readSubmitted(connection: Connection): void {
    const { submitted } = connection;
    if (submitted.length === 0) return;
    while (submitted.length > 0 && this.#readable(connection) && !this.#hasToAsk(connection, submitted[0]!.packet)) {
      const { packet, answer, requestId } = submitted.shift()!;
      this.#process(connection, packet, answer, requestId);
    }
    if (submitted.length > 0) {
      this.#readLater(connection);
      return;
    }
    this.#stalled.delete(connection);
    connection.port.setReading(true);
  }

  /** Whether Xen has to be asked about domains that a request names, and is asked now; the request is taken after that. */
  #hasToAsk(connection: Connection, packet: XsPacket): boolean {
    if (packet.type !== XS.SET_PERMS || this.lookUp === undefined) return false;
    const unknown = domidsNamed(packet.payload).filter((domid) => !this.#isKnown(domid));
    if (unknown.length === 0) return false;
    connection.asking = true;
    this.lookUp(unknown, (existing) => {
      connection.asking = false;
      for (const domid of existing) this.domainOf(domid).exists = true;
      for (const domid of unknown) if (!existing.includes(domid)) this.#absent.add(domid);
      this.#readSubmitted(connection);
      this.#absent.clear();
    });
    return true;
  }

  /** It is known whether there is such a domain. */
  #isKnown(domid: number): boolean {
    const domain = this.domains.get(domid);
    return domid === DOMID_ANY || this.#absent.has(domid) || domain?.exists === true || domain?.introduced === true;
  }

  isAbsent(domid: number): boolean {
    return this.#absent.has(domid);
  }

  #process(connection: Connection, packet: XsPacket, answer: (reply: Uint8Array) => void, requestId: number): void {
    const { domain } = connection;
    const { journal } = this;
    this.store.seen = journal !== undefined && REQUESTS.get(packet.type)?.ofDomains === true ? journal.position : 0;
    const before = this.#ticket;
    const ticket = domain.privileged ? undefined : { connection, unread: 1 };
    if (ticket !== undefined) domain.outstanding++;
    this.#ticket = ticket;
    const reply = this.#reply(connection, packet);
    journal?.noteAnswer(domain.domid, requestId, reply);
    this.#ticket = before;
    let watches = NO_WATCHES;
    if (this.#newWatches.length > 0) {
      watches = this.#newWatches;
      this.#newWatches = [];
    }
    this.delivery.answer(connection, { reply, answer, ticket, watches });
    this.#readStalled();
  }

  #reply(connection: Connection, packet: XsPacket): Uint8Array {
    const { type, reqId, txId } = packet;
    this.#operations.set(type, (this.#operations.get(type) ?? 0) + 1);
    if (this.logging) this.#log('IN', connection, xsTypeName(type), packet.payload);
    try {
      const payload = this.#run(connection, packet);
      if (payload.length > XENSTORE_PAYLOAD_MAX) throw new XsError('E2BIG');
      if (this.logging) this.#log('OUT', connection, xsTypeName(type), payload);
      return packPacket(type, reqId, txId, payload);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      this.#errors.set(error.code, (this.#errors.get(error.code) ?? 0) + 1);
      if (this.logging) this.#log('OUT', connection, 'ERROR', packStrings(error.code));
      return packPacket(XS.ERROR, reqId, txId, packStrings(error.code));
    }
  }

  #run(connection: Connection, packet: XsPacket): Uint8Array {
    const kind = REQUESTS.get(packet.type);
    if (kind === undefined) throw new XsError('ENOSYS');
    if (kind.privileged && !connection.domain.privileged) throw new XsError('EACCES');
    return kind.run(this.#contextOf(connection, packet, kind));
  }

  #contextOf(connection: Connection, packet: XsPacket, kind: RequestKind): RequestContext {
    const txId = kind.ignoresTransaction ? 0 : packet.txId;
    if (txId === 0) return new RequestContext(this, connection, packet.payload, undefined);
    const transaction = connection.transactions.get(txId);
    if (transaction === undefined) throw new XsError('ENOENT');
    return new RequestContext(this, connection, packet.payload, transaction);
  }

  /** Something changed: those who are not read may be now. */
  #readStalled(): void {
    if (this.#stalled.size === 0 || this.#retrySet) return;
    this.#retrySet = true;
    this.#clock.at(this.#clock.now, () => {
      this.#retrySet = false;
      for (const connection of this.#stalled) this.#readSubmitted(connection);
    });
  }

  // Domains

  /** Drops all that belongs to the connection's life so far. */
  #drop(connection: Connection): void {
    this.resetWatches(connection);
    for (const { dropped } of connection.submitted.splice(0)) dropped?.();
    this.#stalled.delete(connection);
    this.delivery.drop(connection);
  }

  #deleteDomain(domid: number): void {
    for (const other of this.domains.delete(domid)) this.noteDomain(other);
    this.noteDomain(domid);
  }

  #fireSpecial(name: '@introduceDomain' | '@releaseDomain', domid: number): void {
    const ticket = this.#ticket;
    this.#watches.matchSpecial(this.store, name, domid, (watch, path) => this.delivery.tell(watch, path, ticket));
  }

  #memory(domain: Domain): number {
    const bytes = this.store.memory(domain.domid) + domain.bytes;
    const soft = exceeds(domain, 'memorySoft', bytes);
    if (soft && !domain.warned) this.#clock.trace('xenstored.memory', { domid: domain.domid, bytes });
    domain.warned = soft;
    return bytes;
  }

  #log(way: 'IN' | 'OUT', connection: Connection, name: string, payload: Uint8Array): void {
    const text = textOf(payload).replaceAll('\0', ' ');
    this.#clock.trace('xenstored.io', `${way} ${connection.id} d${connection.domid} ${name} (${text})`);
  }
}
