/** What a request works on, and how its arguments are cut. */
import { packStrings, stringsOf } from '#shared/abi/xs-wire.ts';
import type { Connection, Watch } from './connection.ts';
import { XsError } from './error.ts';
import type { Store, Tree } from './store.ts';
import type { Transaction } from './transaction.ts';
import type { Change } from './watch.ts';

/** The daemon, as far as requests need it. */
export interface Daemon {
  readonly store: Store;
  /** By domain: those introduced, and dom0. */
  readonly connections: ReadonlyMap<number, Connection>;
  /** Opens a connection to a domain, or starts an open one anew. */
  introduce(domid: number): void;
  release(connection: Connection): void;
  /** Tells the watches of a change in the store. */
  fire(change: Change): void;
  /** Tells a new watch of itself, after the reply. */
  fireInitial(connection: Connection, watch: Watch): void;
  print(text: string): void;
  readonly counts: { transactions: number; conflicts: number };
}

export interface RequestContext {
  readonly daemon: Daemon;
  readonly connection: Connection;
  readonly payload: Uint8Array;
  /** The transaction that the request names, if it does. */
  readonly transaction: Transaction | undefined;
  /** The store, or that transaction's view of it. */
  readonly tree: Tree;
  /** Notes a change: watches hear of it now, or when the transaction commits. */
  changed(change: Change): void;
}

export const OK = packStrings('OK');

/** The only string of a payload: one NUL, at its end. Throws EINVAL. */
export function oneString(payload: Uint8Array): string {
  if (payload.length === 0 || payload.indexOf(0) !== payload.length - 1) throw new XsError('EINVAL');
  return stringsOf(payload)[0]!;
}

/** As C's atoi: digits at the start, 0 without any. */
export function integerOf(text: string): number {
  const value = Number.parseInt(text, 10);
  return Number.isNaN(value) ? 0 : value;
}
