/**
 * One client: its watches, its transactions, the requests that wait to be read and what waits for it. A domain has one
 * connection over the bus and may have more over sockets; its limits count over all of them.
 */
import { bytesOf, packPacket, XENSTORE_PAYLOAD_MAX, XS, XS_HEADER_BYTES, type XsPacket } from '#shared/abi/xs-wire.ts';
import type { Nanos } from '#shared/core/core.ts';
import type { Domain } from './domain.ts';
import { domainPath } from './path.ts';
import { exceeds } from './quota.ts';
import type { Transaction } from './transaction.ts';

/** How packets get to a client. */
export interface ClientPort {
  /** It takes a packet now; when it does again, the daemon is told. */
  readonly ready: boolean;
  write(packet: Uint8Array): void;
  /** Requests have to wait, or need not any more. */
  setReading(on: boolean): void;
  /** Nothing more will be said. */
  close(): void;
}

export interface Watch {
  readonly connection: Connection;
  /** Absolute, or a special name. */
  readonly path: string;
  readonly token: string;
  /** How many characters of an event's path are left out, since the watch was given a relative path. */
  readonly prefixLength: number;
  /** How many levels below `path` still count; Infinity without a limit. */
  readonly depth: number;
  /** Later ones have higher numbers. */
  readonly seq: number;
}

/** A request that is outstanding until its client has read its reply, and the events that it caused there. */
export interface Ticket {
  readonly connection: Connection;
  unread: number;
}

export interface Waiting {
  readonly packet: Uint8Array;
  readonly ticket: Ticket | undefined;
  readonly since: Nanos;
  /** Of an event that may be merged with the same one; '' otherwise. */
  readonly key: string;
  readonly isReply: boolean;
}

export interface Submitted {
  readonly packet: XsPacket;
  readonly answer: (reply: Uint8Array) => void;
  /** It will not be answered: the connection was dropped before it was read. */
  readonly dropped: (() => void) | undefined;
  /** Of the message on the bus that it came in; 0 otherwise. */
  readonly requestId: number;
}

export class Connection {
  readonly id: number;
  readonly domain: Domain;
  readonly port: ClientPort;
  /** Takes replies that go in order with its events. */
  readonly onReply: (reply: Uint8Array) => void;
  /** Something was wrong with it: nothing is answered any more until it is released and introduced again. */
  ignored = '';
  /** Released: a connection of the same domain after it is another one. */
  closed = false;
  /** It is a domain's own, over the bus: replies leave as answers, an event is read when it was acknowledged. */
  overBus = false;
  /** The ticket of the reply that is being answered, and of the event that is on its way over the bus. */
  replyTicket: Ticket | undefined;
  inFlight: Ticket | undefined;
  /** Requests that came while it is not read. */
  readonly submitted: Submitted[] = [];
  /** Xen is being asked about what its request names; it is not read until there is an answer. */
  asking = false;
  /** A timer is set to read it again. */
  waitsForCredit = false;
  /** A timer is set to look whether it has read its events. */
  unreadChecked = false;
  readonly watches = new Map<string, Watch>();
  readonly transactions = new Map<number, Transaction>();
  #nextTransactionId = 1;
  #nextSpecial = 0;
  #waiting: Waiting[] = [];
  #head = 0;
  readonly #eventKeys = new Set<string>();
  repliesWaiting = 0;
  waitingBytes = 0;
  /** What it is shown next has to wait until this generation is on the medium. */
  shownAt = 0;

  constructor(id: number, domain: Domain, port: ClientPort, onReply: (reply: Uint8Array) => void) {
    this.id = id;
    this.domain = domain;
    this.port = port;
    this.onReply = onReply;
  }

  get domid(): number {
    return this.domain.domid;
  }

  get implicitPath(): string {
    return domainPath(this.domid);
  }

  get eventsWaiting(): number {
    return this.#waiting.length - this.#head - this.repliesWaiting;
  }

  /** What waits longest, or undefined. */
  get oldest(): Waiting | undefined {
    return this.#waiting[this.#head];
  }

  /** An id that no open transaction has; never 0. */
  newTransactionId(): number {
    let id = this.#nextTransactionId;
    while (id === 0 || this.transactions.has(id)) id = (id + 1) >>> 0;
    this.#nextTransactionId = (id + 1) >>> 0;
    return id;
  }

  addWatch(key: string, watch: Watch): void {
    this.watches.set(key, watch);
    this.domain.watches++;
    this.domain.watchBytes += watchBytes(watch);
  }

  removeWatch(key: string): Watch | undefined {
    const watch = this.watches.get(key);
    if (watch === undefined) return undefined;
    this.watches.delete(key);
    this.domain.watches--;
    this.domain.watchBytes -= watchBytes(watch);
    return watch;
  }

  addTransaction(transaction: Transaction): void {
    this.transactions.set(transaction.id, transaction);
    this.domain.transactions++;
  }

  removeTransaction(transaction: Transaction): void {
    this.transactions.delete(transaction.id);
    this.domain.transactions--;
    transaction.drop();
  }

  queueReply(packet: Uint8Array, ticket: Ticket | undefined, since: Nanos): void {
    this.repliesWaiting++;
    this.#push({ packet, ticket, since, key: '', isReply: true });
  }

  /**
   * Queues an event. One that says the same as an event that still waits is merged with it, but for special names.
   * Dropped when it is too long for a packet, or an unprivileged domain has too much memory. Returns its packet if it was queued.
   */
  queueEvent(
    path: string,
    token: string,
    ticket: Ticket | undefined,
    since: Nanos,
    memory: number,
  ): Uint8Array | undefined {
    const text = `${path}\0${token}\0`;
    if (text.length > XENSTORE_PAYLOAD_MAX) return undefined;
    const key = path.startsWith('@') ? `@${this.#nextSpecial++}` : text;
    if (this.#eventKeys.has(key)) return undefined;
    if (exceeds(this.domain, 'memory', memory + text.length + XS_HEADER_BYTES)) return undefined;
    this.#eventKeys.add(key);
    const packet = packPacket(XS.WATCH_EVENT, 0, 0, bytesOf(text));
    this.#push({ packet, ticket, since, key, isReply: false });
    return packet;
  }

  /** The oldest of what waits, taken off the queue. */
  take(): Waiting | undefined {
    const first = this.#waiting[this.#head];
    if (first === undefined) return undefined;
    this.#head++;
    if (this.#head > 64 && this.#head * 2 > this.#waiting.length) {
      this.#waiting = this.#waiting.slice(this.#head);
      this.#head = 0;
    }
    if (first.isReply) this.repliesWaiting--;
    else this.#eventKeys.delete(first.key);
    this.waitingBytes -= first.packet.length;
    this.domain.waitingBytes -= first.packet.length;
    return first;
  }

  #push(waiting: Waiting): void {
    this.#waiting.push(waiting);
    this.waitingBytes += waiting.packet.length;
    this.domain.waitingBytes += waiting.packet.length;
  }
}

/** What a watch is known by on its connection. */
export function watchKey(path: string, token: string): string {
  return `${path}\0${token}`;
}

function watchBytes(watch: Watch): number {
  return watch.path.length + watch.token.length + 2;
}
