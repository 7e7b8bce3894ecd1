/** What a request works on, and how its arguments are cut. */
import { packStrings, textOf } from '#shared/abi/xs-wire.ts';
import type { Connection, Watch } from './connection.ts';
import type { Domain, Domains } from './domain.ts';
import { XsError } from './error.ts';
import type { Store, Tree } from './store.ts';
import type { Transaction } from './transaction.ts';
import type { Change } from './watch.ts';

/** The daemon, as far as requests need it. */
export interface Daemon {
  readonly store: Store;
  readonly domains: Domains;
  /** Requests and events are traced (CONTROL log). */
  logging: boolean;
  /** The domain of that number, made when it was not known. */
  domainOf(domid: number): Domain;
  /** Xen has just said that there is no such domain. */
  isAbsent(domid: number): boolean;
  /** Opens the connection to a domain, or starts an open one anew. `port` is the one that it offers for its store ring. */
  introduce(domid: number, port: number): void;
  /** Ends all connections of a domain. */
  release(domain: Domain): void;
  /** Registers a watch, and tells it of itself after the reply. */
  watch(connection: Connection, key: string, watch: Omit<Watch, 'connection' | 'seq'>): void;
  /** Returns whether the connection had it. */
  unwatch(connection: Connection, key: string): boolean;
  openTransaction(connection: Connection): Transaction;
  closeTransaction(connection: Connection, transaction: Transaction): void;
  /** Drops the watches and transactions of a connection (RESET_WATCHES). Events that wait are still delivered. */
  resetWatches(connection: Connection): void;
  /** Tells the watches of a change in the store. */
  fire(change: Change): void;
  /** One write more on the account of a domain, or one transaction that wrote. */
  debitWrite(domain: Domain): void;
  /** What is known of a domain has changed, beside its nodes. */
  noteDomain(domid: number): void;
  /** The limits that domains start with have changed. */
  noteLimits(): void;
  print(text: string): void;
  /** A transaction met a conflict. */
  conflict(): void;
}

export class RequestContext {
  readonly daemon: Daemon;
  readonly connection: Connection;
  readonly payload: Uint8Array;
  /** The transaction that the request names, if it does. */
  readonly transaction: Transaction | undefined;
  /** The store, or that transaction's view of it. */
  readonly tree: Tree;

  constructor(daemon: Daemon, connection: Connection, payload: Uint8Array, transaction: Transaction | undefined) {
    this.daemon = daemon;
    this.connection = connection;
    this.payload = payload;
    this.transaction = transaction;
    this.tree = transaction ?? daemon.store;
  }

  /** Notes a change: watches hear of it now, or when the transaction commits. */
  changed(change: Change): void {
    if (this.transaction !== undefined) {
      this.transaction.queueEvent(change.path, change.exact);
      return;
    }
    if (!change.exact) this.daemon.debitWrite(this.connection.domain);
    this.daemon.fire(change);
  }
}

export const OK = packStrings('OK');

/** The only string of a payload: one NUL, at its end. Throws EINVAL. */
export function oneString(payload: Uint8Array): string {
  if (payload.length === 0 || nulOf(payload) !== payload.length - 1) throw new XsError('EINVAL');
  return textOf(payload, payload.length - 1);
}

/** Where the first NUL is; -1 without one. */
export function nulOf(payload: Uint8Array): number {
  for (let i = 0; i < payload.length; i++) if (payload[i] === 0) return i;
  return -1;
}

/** As C's atoi: digits at the start, 0 without any. */
export function integerOf(text: string): number {
  const value = Number.parseInt(text, 10);
  return Number.isNaN(value) ? 0 : value;
}
