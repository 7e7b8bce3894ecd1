/**
 * A transaction: a private copy of each node from its first touch on. It commits when none of the nodes it touched,
 * read or written, present or absent, has changed since (transaction.c of current xenstored). A node's list of children
 * is part of the node, so two transactions that create different children of one node are in conflict.
 */
import type { Domain, Domains } from './domain.ts';
import { XsError } from './error.ts';
import type { Perm } from './permissions.ts';
import { exceeds } from './quota.ts';
import { type Node, type NodeContent, nodeBytes, type Store, type Tree } from './store.ts';

/** The generation of a node that is not there. */
const NO_GENERATION = 0;

interface Touched {
  /** At the first touch. */
  readonly generation: number;
  readonly perms: readonly Perm[] | undefined;
  node: Node | undefined;
  modified: boolean;
  /** Which watches hear of it after the commit: those exactly here, or those above as well. */
  event: 'none' | 'exact' | 'here-and-above';
}

/** A change that watches have to hear of. */
export interface CommittedChange {
  readonly path: string;
  readonly exact: boolean;
  /** The permissions before, for watchers that have lost theirs. */
  readonly oldPerms: readonly Perm[] | undefined;
}

export class Transaction implements Tree {
  readonly id: number;
  readonly #store: Store;
  readonly #domain: Domain;
  readonly #touched = new Map<string, Touched>();
  readonly #ownedChange = new Map<number, number>();
  readonly #memoryChange = new Map<number, number>();
  /** What the copies take, on the account of whose transaction it is. */
  #bytes = 0;
  /** A node was created: the quota of nodes is checked at the commit. */
  nodeCreated = false;
  /** A request failed half-way: what is here is not whole and must not be committed. */
  failed = false;
  #outdated = false;
  #wrote = false;

  constructor(id: number, store: Store, domain: Domain) {
    this.id = id;
    this.#store = store;
    this.#domain = domain;
  }

  /** Something was changed in it. */
  get wrote(): boolean {
    return this.#wrote;
  }

  /** Throws ENOSPC, and the transaction cannot be committed any more, when it touches too many nodes. */
  get(path: string): Node | undefined {
    return this.#touch(path).node;
  }

  put(path: string, node: NodeContent): void {
    const touched = this.#touch(path);
    this.#count(path, touched, -1);
    touched.node = { ...node, generation: this.#store.nextGeneration() };
    touched.modified = true;
    this.#wrote = true;
    this.#count(path, touched, 1);
  }

  delete(path: string): void {
    const touched = this.#touch(path);
    this.#count(path, touched, -1);
    touched.node = undefined;
    touched.modified = true;
    this.#wrote = true;
  }

  owned(domid: number): number {
    return this.#store.owned(domid) + (this.#ownedChange.get(domid) ?? 0);
  }

  memory(domid: number): number {
    return this.#store.memory(domid) + (this.#memoryChange.get(domid) ?? 0);
  }

  /** Its copies are of no further use. */
  drop(): void {
    this.#domain.transactionBytes -= this.#bytes;
    this.#bytes = 0;
  }

  /** Remembers that watches are to be told of `path`, which was touched before. */
  queueEvent(path: string, exact: boolean): void {
    const touched = this.#touch(path);
    if (!exact) touched.event = 'here-and-above';
    else if (touched.event === 'none') touched.event = 'exact';
  }

  /** A domain is gone: a transaction that holds nodes which name it would bring its rights back. */
  forgetDomain(domid: number): void {
    for (const { node } of this.#touched.values()) {
      if (node?.perms.some((perm) => perm.domid === domid)) this.#outdated = true;
    }
  }

  /** Makes the changes visible and gives them in the order of their first touch. Throws ENOMEM, ENOSPC or EAGAIN: nothing changes then. */
  commit(domains: Domains): CommittedChange[] {
    if (this.failed) throw new XsError('ENOMEM');
    if (this.nodeCreated && !this.#domain.privileged) {
      for (const domid of this.#ownedChange.keys()) {
        if (domains.nodesExceed(domid, this.owned(domid))) throw new XsError('ENOSPC');
      }
    }
    if (this.#outdated) throw new XsError('EAGAIN');
    for (const [path, { generation }] of this.#touched) {
      if ((this.#store.get(path)?.generation ?? NO_GENERATION) !== generation) throw new XsError('EAGAIN');
    }
    const changes: CommittedChange[] = [];
    for (const [path, { node, modified, event, perms }] of this.#touched) {
      if (!modified) continue;
      if (node !== undefined) this.#store.put(path, node);
      else this.#store.delete(path);
      if (event !== 'none') changes.push({ path, exact: event === 'exact', oldPerms: perms });
    }
    return changes;
  }

  #touch(path: string): Touched {
    let touched = this.#touched.get(path);
    if (touched === undefined) {
      if (exceeds(this.#domain, 'transactionNodes', this.#touched.size + 1)) {
        this.failed = true;
        throw new XsError('ENOSPC');
      }
      const node = this.#store.get(path);
      const generation = node?.generation ?? NO_GENERATION;
      touched = { generation, perms: node?.perms, node, modified: false, event: 'none' };
      this.#touched.set(path, touched);
      this.#take(path.length);
    }
    return touched;
  }

  #count(path: string, { node, modified }: Touched, change: number): void {
    if (node === undefined) return;
    const { domid } = node.perms[0]!;
    const bytes = change * (path.length + nodeBytes(node));
    this.#ownedChange.set(domid, (this.#ownedChange.get(domid) ?? 0) + change);
    this.#memoryChange.set(domid, (this.#memoryChange.get(domid) ?? 0) + bytes);
    if (modified) this.#take(bytes);
  }

  #take(bytes: number): void {
    this.#bytes += bytes;
    this.#domain.transactionBytes += bytes;
  }
}
