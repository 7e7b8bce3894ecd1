/**
 * The tree: nodes by absolute path, each with the generation of its last change. Nodes are replaced, never changed,
 * so that a transaction may keep what it saw. A node is file and directory at once.
 * Not modelled: a store that outlives the process; a restarted daemon starts with the initial tree.
 */

import { basenameOf, childOf, parentOf } from './path.ts';
import type { Perm } from './permissions.ts';

export interface Node {
  readonly value: Uint8Array;
  /** At least one: the owner's. */
  readonly perms: readonly Perm[];
  /** Names, in the order of creation. */
  readonly children: readonly string[];
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
}

const NOTHING = new Uint8Array(0);
/** struct node_hdr and struct xs_permissions of xenstored. */
const NODE_HEADER_BYTES = 16;
const PERM_BYTES = 8;

/** What the node size quota counts. */
export function nodeBytes(node: NodeContent): number {
  const names = node.children.reduce((bytes, name) => bytes + name.length + 1, 0);
  return NODE_HEADER_BYTES + node.perms.length * PERM_BYTES + node.value.length + names;
}

export class Store implements Tree {
  readonly #nodes = new Map<string, Node>();
  readonly #owned = new Map<number, number>();
  #generation = 0;

  /** The nodes that the daemon itself makes (setup_structure() of xenstored), all of dom0 and closed to others. */
  constructor() {
    const perms: readonly Perm[] = [{ domid: 0, read: false, write: false }];
    this.put('/', { value: NOTHING, perms, children: ['tool'] });
    this.put('/tool', { value: NOTHING, perms, children: ['xenstored'] });
    this.put('/tool/xenstored', { value: NOTHING, perms, children: [] });
    this.put('@releaseDomain', { value: NOTHING, perms, children: [] });
    this.put('@introduceDomain', { value: NOTHING, perms, children: [] });
  }

  get(path: string): Node | undefined {
    return this.#nodes.get(path);
  }

  put(path: string, node: NodeContent): void {
    this.#count(this.#nodes.get(path), -1);
    const stored: Node = { ...node, generation: this.nextGeneration() };
    this.#nodes.set(path, stored);
    this.#count(stored, 1);
  }

  delete(path: string): void {
    this.#count(this.#nodes.get(path), -1);
    this.#nodes.delete(path);
  }

  owned(domid: number): number {
    return this.#owned.get(domid) ?? 0;
  }

  /** Every change has a generation of its own, those inside transactions too. */
  nextGeneration(): number {
    return ++this.#generation;
  }

  entries(): IterableIterator<[string, Node]> {
    return this.#nodes.entries();
  }

  /** What is wrong with the tree, one line each: nothing, unless the daemon has a fault. */
  check(): string[] {
    const wrong: string[] = [];
    for (const [path, node] of this.#nodes) {
      for (const name of node.children) {
        if (!this.#nodes.has(childOf(path, name))) wrong.push(`${path} lists ${name}, which is absent`);
      }
      if (new Set(node.children).size !== node.children.length) wrong.push(`${path} lists a child twice`);
      const listed = path === '/' || path.startsWith('@') || this.#lists(parentOf(path), basenameOf(path));
      if (!listed) wrong.push(`${path} is not listed in its parent`);
    }
    return wrong;
  }

  #lists(parent: string, name: string): boolean {
    return this.#nodes.get(parent)?.children.includes(name) ?? false;
  }

  #count(node: Node | undefined, change: number): void {
    const domid = node?.perms[0]?.domid;
    if (domid !== undefined) this.#owned.set(domid, this.owned(domid) + change);
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
  const name = basenameOf(top);
  tree.put(parentOf(top), { ...parent, children: parent.children.filter((child) => child !== name) });
}
