/**
 * What goes to clients: replies and events of one client in order, as its port takes them. Events leave when the request
 * that caused them is done, before its reply, so that those which say the same are merged (send_event() of xenstored).
 * An unprivileged client of a socket that leaves something unread for 20 s is cut off, any that lets 16 MiB pile up too.
 * Deviates: an event that waits for another client does not count as outstanding for the domain that caused it, so that a
 * client which reads nothing does not stop one that writes (in xenstored it does: for 20 s, or as long as a client of
 * dom0 likes). Only dom0's own connection cannot be cut off: with 4 MiB waiting there, who writes waits for it.
 */
import type { Nanos } from '#shared/core/core.ts';
import type { Connection, Ticket, Watch } from './connection.ts';
import type { Domain } from './domain.ts';
import { initialPath } from './watch.ts';

const UNREAD_MAX_NS = 20e9;
const WAITING_BYTES_MAX = 16 * 1024 * 1024;
/** From here on what waits for dom0 over the bus is charged to those who cause it. */
const DOM0_WAITING_BYTES = 4 * 1024 * 1024;

/** What the daemon needs of whoever runs it. */
export interface Clock {
  readonly now: Nanos;
  at(at: Nanos, run: () => void): () => void;
  trace(event: string, detail: unknown): void;
}

export interface DeliveryOwner {
  /** Bytes that a domain takes. */
  memory(domain: Domain): number;
  /** An event was queued. */
  queued(connection: Connection, packet: Uint8Array): void;
  /** A domain has fewer requests outstanding. */
  readAgain(): void;
  cutOff(connection: Connection, why: string): void;
}

/** What there is at the end of a request. */
export interface Answered {
  readonly reply: Uint8Array;
  readonly answer: (reply: Uint8Array) => void;
  readonly ticket: Ticket | undefined;
  /** New ones, which are told of themselves. */
  readonly watches: readonly Watch[];
}

export class Delivery {
  /** Events that were queued. */
  events = 0;
  readonly #clock: Clock;
  readonly #owner: DeliveryOwner;
  readonly #unsent = new Set<Connection>();
  /**
   * What becomes visible goes through here, replies and events alike, in order for each client: whoever makes the store
   * durable holds it back until what it shows is safe. Without this it is shown at once.
   */
  hold: ((connection: Connection | undefined, run: () => void) => void) | undefined;

  constructor(clock: Clock, owner: DeliveryOwner) {
    this.#clock = clock;
    this.#owner = owner;
  }

  /** The end of a request: its events, its reply, and what new watches are told of themselves. */
  answer(connection: Connection, { reply, answer, ticket, watches }: Answered): void {
    if (this.hold === undefined) this.#answer(connection, reply, answer, ticket, watches);
    else this.hold(connection, () => this.#answer(connection, reply, answer, ticket, watches));
  }

  /** Runs `run` when what was changed so far is safe. */
  show(connection: Connection | undefined, run: () => void): void {
    if (this.hold === undefined) run();
    else this.hold(connection, run);
  }

  /** A reply in its place among the events of a client. */
  reply(connection: Connection, reply: Uint8Array): void {
    if (connection.closed) return;
    if (connection.oldest === undefined && connection.port.ready) {
      connection.port.write(reply);
      return;
    }
    connection.queueReply(reply, connection.replyTicket, this.#clock.now);
    connection.replyTicket = undefined;
    this.#unsent.add(connection);
  }

  /** Queues an event; it leaves with the end of the request, or with `flush`. */
  tell(watch: Watch, path: string, ticket: Ticket | undefined): void {
    const { connection } = watch;
    const counted = ticket !== undefined && (connection === ticket.connection || isFullDom0(connection));
    if (counted) ticket.unread++;
    this.show(undefined, () => {
      if (this.#queue(watch, path, counted ? ticket : undefined)) this.#unsent.add(connection);
      else if (counted) this.#read(ticket);
    });
  }

  /** Sends what was told outside of any request. */
  flush(): void {
    this.show(undefined, () => this.#pumpAll());
  }

  /** The client's port is ready again. */
  resume(connection: Connection): void {
    const { inFlight } = connection;
    connection.inFlight = undefined;
    this.#read(inFlight);
    this.#pump(connection);
  }

  /** Nothing that waits will be sent. */
  drop(connection: Connection): void {
    for (let next = connection.take(); next !== undefined; next = connection.take()) this.#read(next.ticket);
    this.#read(connection.inFlight);
    connection.inFlight = undefined;
  }

  #answer(
    connection: Connection,
    reply: Uint8Array,
    answer: (reply: Uint8Array) => void,
    ticket: Ticket | undefined,
    watches: readonly Watch[],
  ): void {
    connection.replyTicket = ticket;
    answer(reply);
    // Over the bus a reply is read when it was sent; a socket took it over, or it waits with its ticket.
    if (connection.replyTicket !== undefined) {
      connection.replyTicket = undefined;
      this.#read(ticket);
    }
    if (this.#unsent.size > 0) this.#pumpAll();
    if (watches.length === 0) return;
    for (const watch of watches) this.#queue(watch, initialPath(watch), undefined);
    // An answer over the bus leaves when this request is done.
    if (connection.overBus) this.#clock.at(this.#clock.now, () => this.#pump(connection));
    else this.#pump(connection);
  }

  #queue({ connection, token }: Watch, path: string, ticket: Ticket | undefined): boolean {
    if (connection.closed || connection.ignored !== '') return false;
    const packet = connection.queueEvent(path, token, ticket, this.#clock.now, this.#owner.memory(connection.domain));
    if (packet === undefined) return false;
    this.events++;
    this.#owner.queued(connection, packet);
    return true;
  }

  #pumpAll(): void {
    for (const connection of this.#unsent) {
      this.#unsent.delete(connection);
      this.#pump(connection);
    }
  }

  #pump(connection: Connection): void {
    const { port } = connection;
    while (port.ready && !connection.closed) {
      const next = connection.take();
      if (next === undefined) return;
      if (connection.overBus) connection.inFlight = next.ticket;
      port.write(next.packet);
      if (!connection.overBus) this.#read(next.ticket);
    }
    if (!connection.overBus && connection.oldest !== undefined) this.#checkUnread(connection);
  }

  #checkUnread(connection: Connection): void {
    const { domain, oldest } = connection;
    if (connection.waitingBytes > WAITING_BYTES_MAX) {
      this.#owner.cutOff(connection, 'too much waits unread');
      return;
    }
    if (domain.privileged || oldest === undefined || connection.unreadChecked) return;
    connection.unreadChecked = true;
    this.#clock.at(oldest.since + UNREAD_MAX_NS, () => {
      connection.unreadChecked = false;
      const unread = connection.oldest;
      if (connection.closed || unread === undefined) return;
      if (this.#clock.now - unread.since >= UNREAD_MAX_NS) this.#owner.cutOff(connection, 'unread for 20 s');
      else this.#checkUnread(connection);
    });
  }

  /** The reply of a request, or an event that it caused, was read. */
  #read(ticket: Ticket | undefined): void {
    if (ticket === undefined || --ticket.unread > 0) return;
    ticket.connection.domain.outstanding--;
    this.#owner.readAgain();
  }
}

function isFullDom0(connection: Connection): boolean {
  return connection.overBus && connection.domain.privileged && connection.waitingBytes > DOM0_WAITING_BYTES;
}
