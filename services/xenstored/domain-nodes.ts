/** What becomes of a domain's nodes when it is gone (domain_tree_remove() of xenstored's domain.c). */
import { removeSubtree, type Store } from './store.ts';
import type { Change } from './watch.ts';

/**
 * Removes what the domain owned, with all below it, and its entries elsewhere: a later domain of that number has no claim
 * to them. Takes as long as there are nodes that name it. `fire` hears of each removal, in the order of paths.
 */
export function forgetDomain(store: Store, domid: number, fire: (change: Change) => void): void {
  const naming = store.naming(domid);
  for (const path of naming) {
    const owner = store.get(path)?.perms[0]?.domid; // undefined: it went with a node above it
    if (owner !== domid || path === '/' || path.startsWith('@')) continue;
    removeSubtree(store, path, (removed, old) => fire({ path: removed, exact: removed !== path, node: old }));
  }
  for (const path of naming) {
    const node = store.get(path);
    if (node === undefined) continue;
    const perms = node.perms.filter((perm, i) => i === 0 || perm.domid !== domid);
    if (perms.length !== node.perms.length) store.put(path, { ...node, perms });
  }
}
