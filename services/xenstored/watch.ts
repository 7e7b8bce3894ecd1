/**
 * Which watches hear of a change, and under which path (docs/misc/xenstore.txt, "Watches"; watch.c of xenstored).
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

/** Calls `deliver` for each watch that is to hear of `change`, with the path that it is told. */
export function matchWatches(
  connections: Iterable<Connection>,
  tree: Tree,
  change: Change,
  deliver: (connection: Connection, path: string, token: string) => void,
): void {
  for (const connection of connections) {
    if (connection.watches.length === 0 || !isPermitted(connection, tree, change)) continue;
    for (const watch of connection.watches) {
      const levels = levelsBelow(change.path, watch.path);
      if (change.exact ? levels !== 0 : levels < 0 || levels > watch.depth) continue;
      deliver(connection, change.path.slice(watch.prefixLength), watch.token);
    }
  }
}

/**
 * Calls `deliver` for each watch on the special `name`, which happened to domain `domid`. A watch with a depth of at
 * least 1 is told the domain as well.
 */
export function matchSpecialWatches(
  connections: Iterable<Connection>,
  tree: Tree,
  name: '@introduceDomain' | '@releaseDomain',
  domid: number,
  deliver: (connection: Connection, path: string, token: string) => void,
): void {
  const node = tree.get(name);
  for (const connection of connections) {
    if (connection.watches.length === 0 || !isPermitted(connection, tree, { path: name, exact: true, node })) continue;
    for (const watch of connection.watches) {
      if (watch.path !== name) continue;
      const told = watch.depth >= 1 && watch.depth !== Infinity ? `${name}/${domid}` : name;
      deliver(connection, told, watch.token);
    }
  }
}

/** The path under which a new watch is told of itself. */
export function initialPath(watch: Watch): string {
  return watch.path.slice(watch.prefixLength);
}

/** The watcher may read the node now, or could before the change, or may read its parent. */
function isPermitted(connection: Connection, tree: Tree, change: Change): boolean {
  if (change.oldPerms !== undefined && accessOf(connection, change.oldPerms).read) return true;
  const node = change.node ?? tree.get(change.path);
  if (node === undefined) return false;
  if (accessOf(connection, node.perms).read) return true;
  const parent = tree.get(parentOf(change.path));
  return parent !== undefined && accessOf(connection, parent.perms).read;
}
