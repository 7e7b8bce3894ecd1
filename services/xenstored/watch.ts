/**
 * Which watches hear of a change, and under which path (docs/misc/xenstore.txt, "Watches"; watch.c of xenstored).
 * Watches are kept by path: what a change costs depends on the depth of its path and on those who hear of it.
 */
import type { Connection, Watch } from './connection.ts';
import { levelsBelow, parentOf } from './path.ts';
import { accessOf, type Perm } from './permissions.ts';
import type { Node, Tree } from './store.ts';

export interface Change {
  readonly path: string;
  /** Only watches exactly at `path` hear of it: a node inside a subtree that goes. */
  readonly exact: boolean;
  /** The node, where it is known and may be gone from the tree already. */
  readonly node?: Node | undefined;
  readonly oldPerms?: readonly Perm[] | undefined;
}

/** Told of a watch that is to hear of something, with the path that it is told. */
type Deliver = (watch: Watch, path: string) => void;

export class Watches {
  readonly #byPath = new Map<string, Set<Watch>>();

  add(watch: Watch): void {
    const there = this.#byPath.get(watch.path);
    if (there === undefined) this.#byPath.set(watch.path, new Set([watch]));
    else there.add(watch);
  }

  remove(watch: Watch): void {
    const there = this.#byPath.get(watch.path);
    there?.delete(watch);
    if (there?.size === 0) this.#byPath.delete(watch.path);
  }

  /** Calls `deliver` for each watch that is to hear of `change`: those of one client in the order of their registration. */
  match(tree: Tree, change: Change, deliver: Deliver): void {
    if (this.#byPath.size === 0) return;
    const hearing: Watch[] = [];
    this.#collect(change.path, change, hearing);
    if (!change.exact && change.path.startsWith('/')) {
      for (let above = change.path; above !== '/'; ) {
        above = parentOf(above);
        this.#collect(above, change, hearing);
      }
    }
    if (hearing.length === 0) return;
    if (hearing.length === 1) {
      const watch = hearing[0]!;
      if (isPermitted(watch.connection, tree, change)) deliver(watch, change.path.slice(watch.prefixLength));
      return;
    }
    hearing.sort((a, b) => a.seq - b.seq);
    const permitted = new Map<Connection, boolean>();
    for (const watch of hearing) {
      const { connection } = watch;
      let may = permitted.get(connection);
      if (may === undefined) {
        may = isPermitted(connection, tree, change);
        permitted.set(connection, may);
      }
      if (may) deliver(watch, change.path.slice(watch.prefixLength));
    }
  }

  /**
   * Calls `deliver` for each watch on the special `name`, which happened to domain `domid`. A watch with a depth of at
   * least 1 is told the domain as well.
   */
  matchSpecial(tree: Tree, name: '@introduceDomain' | '@releaseDomain', domid: number, deliver: Deliver): void {
    const node = tree.get(name);
    for (const watch of this.#byPath.get(name) ?? []) {
      if (!isPermitted(watch.connection, tree, { path: name, exact: true, node })) continue;
      deliver(watch, watch.depth >= 1 && watch.depth !== Infinity ? `${name}/${domid}` : name);
    }
  }

  #collect(path: string, change: Change, hearing: Watch[]): void {
    const there = this.#byPath.get(path);
    if (there === undefined) return;
    for (const watch of there) {
      if (watch.depth === Infinity || levelsBelow(change.path, path) <= watch.depth) hearing.push(watch);
    }
  }
}

/** The path under which a new watch is told of itself. */
export function initialPath(watch: Watch): string {
  return watch.path.slice(watch.prefixLength);
}

/** The watcher may read the node now, or could before the change, or may read its parent. */
function isPermitted({ domain }: Connection, tree: Tree, change: Change): boolean {
  if (change.oldPerms !== undefined && accessOf(domain, change.oldPerms).read) return true;
  const node = change.node ?? tree.get(change.path);
  if (node === undefined) return false;
  if (accessOf(domain, node.perms).read) return true;
  const parent = tree.get(parentOf(change.path));
  return parent !== undefined && accessOf(domain, parent.perms).read;
}
