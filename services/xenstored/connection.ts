/** One client: its watches, its transactions and the events that wait for it. */
import { bytesOf, packPacket, XENSTORE_PAYLOAD_MAX, XS, XS_HEADER_BYTES } from '#shared/abi/xs-wire.ts';
import { domainPath } from './path.ts';
import type { Subject } from './permissions.ts';
import { exceeds } from './quota.ts';
import type { Transaction } from './transaction.ts';

export interface Watch {
  /** Absolute, or a special name. */
  readonly path: string;
  readonly token: string;
  /** How many characters of an event's path are left out, since the watch was given a relative path. */
  readonly prefixLength: number;
  /** How many levels below `path` still count; Infinity without a limit. */
  readonly depth: number;
}

export class Connection implements Subject {
  readonly domid: number;
  targetDomid = -1;
  /** Something was wrong with it: nothing is answered any more until it is released and introduced again. */
  ignored = '';
  /** Released: a connection of the same domain after it is another one. */
  closed = false;
  /** Events are being delivered. */
  delivering = false;
  watches: Watch[] = [];
  readonly transactions = new Map<number, Transaction>();
  #nextTransactionId = 1;
  readonly #events = new Map<string, Uint8Array>();
  #eventBytes = 0;
  #specialEvents = 0;

  constructor(domid: number) {
    this.domid = domid;
  }

  get implicitPath(): string {
    return domainPath(this.domid);
  }

  get eventsWaiting(): number {
    return this.#events.size;
  }

  /** An id that no open transaction has; never 0. */
  newTransactionId(): number {
    let id = this.#nextTransactionId;
    while (id === 0 || this.transactions.has(id)) id = (id + 1) >>> 0;
    this.#nextTransactionId = (id + 1) >>> 0;
    return id;
  }

  /**
   * Queues an event. One that says the same as an event that still waits is merged with it, but for special names.
   * Dropped when it is too long for a packet, or an unprivileged domain has too many waiting. Returns whether it was queued.
   */
  queueEvent(path: string, token: string): boolean {
    const text = `${path}\0${token}\0`;
    if (text.length > XENSTORE_PAYLOAD_MAX) return false;
    const key = path.startsWith('@') ? `${text}${this.#specialEvents++}` : text;
    if (this.#events.has(key)) return false;
    const bytes = text.length + XS_HEADER_BYTES;
    if (exceeds(this, 'eventBytes', this.#eventBytes + bytes)) return false;
    this.#events.set(key, packPacket(XS.WATCH_EVENT, 0, 0, bytesOf(text)));
    this.#eventBytes += bytes;
    return true;
  }

  /** The oldest event's packet, taken off the queue. */
  takeEvent(): Uint8Array | undefined {
    const first = this.#events.entries().next();
    if (first.done) return undefined;
    const [key, packet] = first.value;
    this.#events.delete(key);
    this.#eventBytes -= packet.length;
    return packet;
  }

  /** Drops watches and transactions (RESET_WATCHES). Events that wait are still delivered. */
  resetWatches(): void {
    this.watches = [];
    this.transactions.clear();
  }

  /** Drops all that belongs to the connection's life so far (a repeated INTRODUCE). */
  reset(): void {
    this.resetWatches();
    this.#events.clear();
    this.#eventBytes = 0;
  }
}
