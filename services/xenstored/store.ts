/**
 * The tree: nodes by absolute path, each with the generation of its last change. Nodes are replaced, never changed,
 * so that a transaction may keep what it saw. A node is file and directory at once. What a request costs does not
 * depend on how many nodes there are, nor on how many children one has.
 */

import { type Children, NO_CHILDREN } from './children.ts';
import { basenameOf, childOf, parentOf } from './path.ts';
import type { Perm } from './permissions.ts';

export interface Node {
  readonly value: Uint8Array;
  /** At least one: the owner's. */
  readonly perms: readonly Perm[];
  /** Names, in the order of creation. */
  readonly children: Children;
  readonly generation: number;
}

export type NodeContent = Omit<Node, 'generation'>;

/** Nodes as a request sees them: the store, or a transaction on top of it. */
export interface Tree {
  get(path: string): Node | undefined;
  /** Stores a node under a new generation. Keeping the parent's list of children right is the caller's part. */
  put(path: string, node: NodeContent): void;
  delete(path: string): void;
  /** Nodes owned by a domain. */
  owned(domid: number): number;
  /** Bytes that they take: names, values, permissions, lists of children. */
  memory(domid: number): number;
}

/** Hears of every change of the tree: the node that is there now, and the one before. */
export type ChangeListener = (path: string, node: Node | undefined, old: Node | undefined) => void;

const NOTHING = new Uint8Array(0);
/** struct node_hdr and struct xs_permissions of xenstored. */
const NODE_HEADER_BYTES = 16;
const PERM_BYTES = 8;

/** What the node size quota counts. */
export function nodeBytes(node: NodeContent): number {
  return NODE_HEADER_BYTES + node.perms.length * PERM_BYTES + node.value.length + node.children.bytes;
}

/** What a domain has in the tree. */
interface Account {
  nodes: number;
  bytes: number;
  /** Nodes that name it in their permissions, as owner or not; not kept for dom0, which never goes. */
  readonly named: Set<string>;
}

export class Store implements Tree {
  /** The highest generation among the nodes that were looked at since it was last set. */
  seen = 0;
  onChange: ChangeListener | undefined;
  readonly #nodes = new Map<string, Node>();
  readonly #accounts = new Map<number, Account>();
  #generation = 0;

  /** The nodes that the daemon itself makes (setup_structure() of xenstored), all of dom0 and closed to others. */
  constructor() {
    const perms: readonly Perm[] = [{ domid: 0, read: false, write: false }];
    this.put('/', { value: NOTHING, perms, children: NO_CHILDREN.with('tool') });
    this.put('/tool', { value: NOTHING, perms, children: NO_CHILDREN.with('xenstored') });
    this.put('/tool/xenstored', { value: NOTHING, perms, children: NO_CHILDREN });
    this.put('@releaseDomain', { value: NOTHING, perms, children: NO_CHILDREN });
    this.put('@introduceDomain', { value: NOTHING, perms, children: NO_CHILDREN });
  }

  get(path: string): Node | undefined {
    const node = this.#nodes.get(path);
    if (node !== undefined && node.generation > this.seen) this.seen = node.generation;
    return node;
  }

  put(path: string, { value, perms, children }: NodeContent): void {
    this.set(path, { value, perms, children, generation: ++this.#generation });
  }

  delete(path: string): void {
    const old = this.#nodes.get(path);
    if (old === undefined) return;
    this.#nodes.delete(path);
    this.#unname(path, old);
    const account = this.#account(old.perms[0]!.domid);
    account.nodes--;
    account.bytes -= path.length + nodeBytes(old);
    // What is not there has no generation; the list that it left will have a later one.
    this.onChange?.(path, undefined, old);
  }

  /** Stores a node with its generation, as it comes back from a journal. */
  set(path: string, node: Node): void {
    const old = this.#nodes.get(path);
    this.#nodes.set(path, node);
    if (node.generation > this.#generation) this.#generation = node.generation;
    const account = this.#account(node.perms[0]!.domid);
    if (old?.perms === node.perms) {
      account.bytes += nodeBytes(node) - nodeBytes(old);
    } else if (old === undefined) {
      account.nodes++;
      account.bytes += path.length + nodeBytes(node);
      this.#name(path, node);
    } else {
      const before = this.#account(old.perms[0]!.domid);
      before.nodes--;
      before.bytes -= path.length + nodeBytes(old);
      account.nodes++;
      account.bytes += path.length + nodeBytes(node);
      this.#unname(path, old);
      this.#name(path, node);
    }
    this.onChange?.(path, node, old);
    node.children.forgetOrigin();
  }

  owned(domid: number): number {
    return this.#accounts.get(domid)?.nodes ?? 0;
  }

  memory(domid: number): number {
    return this.#accounts.get(domid)?.bytes ?? 0;
  }

  /** The paths of nodes whose permissions name the domain, which is not dom0; sorted, so those above come first. */
  naming(domid: number): string[] {
    return [...(this.#accounts.get(domid)?.named ?? [])].sort();
  }

  /** The last generation that was given out. */
  get generation(): number {
    return this.#generation;
  }

  /** Every change has a generation of its own, those inside transactions too. */
  nextGeneration(): number {
    return ++this.#generation;
  }

  /** No generation up to this one is given out again. */
  passGeneration(generation: number): void {
    this.#generation = Math.max(this.#generation, generation);
  }

  /** Also those that come while it is gone through; in an order of their own. */
  entries(): IterableIterator<[string, Node]> {
    return this.#nodes.entries();
  }

  get size(): number {
    return this.#nodes.size;
  }

  /** Leaves nothing, not even the nodes of the daemon itself. */
  clear(): void {
    this.#nodes.clear();
    this.#accounts.clear();
  }

  /** What is wrong with the tree, one line each: nothing, unless the daemon has a fault. */
  check(): string[] {
    const wrong: string[] = [];
    const counted = new Map<number, number>();
    for (const [path, node] of this.#nodes) {
      for (const name of node.children) {
        if (!this.#nodes.has(childOf(path, name))) wrong.push(`${path} lists ${name}, which is absent`);
      }
      const listed =
        path === '/' ||
        path.startsWith('@') ||
        this.#nodes.get(parentOf(path))?.children.has(basenameOf(path)) === true;
      if (!listed) wrong.push(`${path} is not listed in its parent`);
      const { domid } = node.perms[0]!;
      counted.set(domid, (counted.get(domid) ?? 0) + 1);
    }
    for (const [domid, { nodes }] of this.#accounts) {
      if (nodes !== (counted.get(domid) ?? 0)) wrong.push(`domain ${domid} has ${nodes} nodes in its account`);
    }
    return wrong;
  }

  #account(domid: number): Account {
    let account = this.#accounts.get(domid);
    if (account === undefined) {
      account = { nodes: 0, bytes: 0, named: new Set() };
      this.#accounts.set(domid, account);
    }
    return account;
  }

  #name(path: string, { perms }: Node): void {
    for (const { domid } of perms) if (domid !== 0) this.#account(domid).named.add(path);
  }

  #unname(path: string, { perms }: Node): void {
    for (const { domid } of perms) if (domid !== 0) this.#account(domid).named.delete(path);
  }
}

/** The paths of a subtree, children before their parents: the order in which it is removed. */
function subtreeUpwards(tree: Tree, top: string): string[] {
  const paths: string[] = [];
  const visit = (path: string): void => {
    for (const name of tree.get(path)?.children ?? []) visit(childOf(path, name));
    paths.push(path);
  };
  visit(top);
  return paths;
}

/**
 * Removes a subtree and its entry in its parent. `onRemoved` hears of each node right after it went, children first, so
 * that the nodes above it are still there.
 */
export function removeSubtree(tree: Tree, top: string, onRemoved: (path: string, node: Node) => void): void {
  for (const path of subtreeUpwards(tree, top)) {
    const node = tree.get(path);
    if (node === undefined) continue;
    tree.delete(path);
    onRemoved(path, node);
  }
  const parent = tree.get(parentOf(top));
  if (parent === undefined) return;
  tree.put(parentOf(top), { ...parent, children: parent.children.without(basenameOf(top)) });
}
