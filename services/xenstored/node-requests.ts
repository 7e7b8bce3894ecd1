/**
 * Requests about nodes: one function per request, with the checks of xenstored in their order (core.c).
 * Each throws XsError for what it refuses, and gives the payload of its reply otherwise.
 */
import { bytesOf, packStrings, stringsOf, textOf, XENSTORE_PAYLOAD_MAX } from '#shared/abi/xs-wire.ts';
import { NO_CHILDREN } from './children.ts';
import { FEATURE_DOMID_ANY } from './domain.ts';
import { XsError } from './error.ts';
import { basenameOf, canonicalPath, parentOf, quotaLength } from './path.ts';
import { type Access, accessOf, DOMID_ANY, formatPerm, type Perm, parsePerm } from './permissions.ts';
import { exceeds } from './quota.ts';
import { integerOf, nulOf, OK, oneString, type RequestContext } from './request-context.ts';
import { type Node, type NodeContent, nodeBytes, removeSubtree } from './store.ts';

type Right = keyof Access;

const NOTHING = new Uint8Array(0);

const READ: readonly Right[] = ['read'];
const WRITE: readonly Right[] = ['write'];
const WRITE_AS_OWNER: readonly Right[] = ['write', 'owner'];

export function onDirectory(context: RequestContext): Uint8Array {
  const { children } = find(context, oneString(context.payload), READ).node;
  if (children.bytes > XENSTORE_PAYLOAD_MAX) throw new XsError('E2BIG');
  return packStrings(...children);
}

/** The children from a byte offset into their list on, as many as fit; an empty name says that it was the last part. */
export function onDirectoryPart(context: RequestContext): Uint8Array {
  const strings = stringsOf(context.payload);
  if (strings.length !== 2) throw new XsError('EINVAL');
  const { node } = find(context, strings[0]!, READ);
  const offset = integerOf(strings[1]!);
  const list = [...node.children, ''].join('\0');
  const generation = `${node.generation}\0`;
  if (offset < 0 || offset >= list.length) return bytesOf(`${generation}\0`);
  const room = XENSTORE_PAYLOAD_MAX - generation.length - 1;
  let end = offset;
  while (end < list.length) {
    const next = list.indexOf('\0', end) + 1;
    if (next - offset > room) break;
    end = next;
  }
  return bytesOf(generation + list.slice(offset, end) + (end === list.length ? '\0' : ''));
}

export function onRead(context: RequestContext): Uint8Array {
  return find(context, oneString(context.payload), READ).node.value;
}

export function onWrite(context: RequestContext): Uint8Array {
  const { payload } = context;
  const nul = nulOf(payload);
  if (nul < 0) throw new XsError('EINVAL');
  // A copy: the payload is a view of what came from the client (and slice() of a Buffer is one as well).
  const value = new Uint8Array(payload.subarray(nul + 1));
  const { path, node } = look(context, textOf(payload, nul), WRITE);
  if (node === undefined) create(context, path, value);
  else replace(context, path, node, { value, perms: node.perms, children: node.children });
  context.changed({ path, exact: false });
  return OK;
}

export function onMkdir(context: RequestContext): Uint8Array {
  const { path, node } = look(context, oneString(context.payload), WRITE);
  if (node === undefined) {
    create(context, path, NOTHING);
    context.changed({ path, exact: false });
  }
  return OK;
}

/** Removing what is absent is no error while its parent is there. */
export function onRm(context: RequestContext): Uint8Array {
  const { path, node } = look(context, oneString(context.payload), WRITE);
  if (node === undefined) {
    if (context.tree.get(parentOf(path)) === undefined) throw new XsError('ENOENT');
    return OK;
  }
  if (path === '/') throw new XsError('EINVAL');
  // Nodes inside the subtree tell only those who watch exactly them: the others hear of its top.
  removeSubtree(context.tree, path, (removed, old) => {
    context.changed({ path: removed, exact: removed !== path, node: old });
  });
  return OK;
}

export function onGetPerms(context: RequestContext): Uint8Array {
  const { node } = find(context, oneString(context.payload), READ, true);
  return packStrings(...node.perms.map(formatPerm));
}

/** The domains that a SET_PERMS names. */
export function domidsNamed(payload: Uint8Array): number[] {
  const [, ...texts] = stringsOf(payload);
  return [...new Set(texts.flatMap((text) => parsePerm(text)?.domid ?? []))];
}

/**
 * An entry of a domain that does not exist is left out (a domain of that number that is made later has no claim to it);
 * the owner's is ENOENT.
 */
export function onSetPerms(context: RequestContext): Uint8Array {
  const { connection, daemon } = context;
  const [name, ...texts] = stringsOf(context.payload);
  if (name === undefined || texts.length === 0) throw new XsError('EINVAL');
  if (exceeds(connection.domain, 'permissions', texts.length)) throw new XsError('ENOSPC');
  const perms = texts.map((text): Perm => {
    const perm = parsePerm(text);
    if (perm === undefined) throw new XsError('EINVAL');
    return perm;
  });
  const mayMeanAll = (connection.domain.features & FEATURE_DOMID_ANY) !== 0;
  const meant = perms.filter(({ domid }) => (domid === DOMID_ANY ? mayMeanAll : !daemon.isAbsent(domid)));
  if (!meant.includes(perms[0]!)) throw new XsError('ENOENT');
  const { path, node } = find(context, name, WRITE_AS_OWNER, true);
  if (!connection.domain.privileged && perms[0]!.domid !== node.perms[0]!.domid) throw new XsError('EPERM');
  replace(context, path, node, { ...node, perms: meant });
  context.changed({ path, exact: false, oldPerms: node.perms });
  return OK;
}

/** The canonical form of a path. Throws EINVAL; the length that counts is the unprivileged domain's. */
export function canonical(context: RequestContext, text: string, allowSpecial: boolean): string {
  const path = canonicalPath(text, context.connection.implicitPath, allowSpecial);
  if (path === undefined) throw new XsError('EINVAL');
  const { domain } = context.connection;
  if (!domain.privileged && exceeds(domain, 'pathLength', quotaLength(path))) throw new XsError('EINVAL');
  return path;
}

/** A node that must be there. */
function find(
  context: RequestContext,
  text: string,
  rights: readonly Right[],
  allowSpecial = false,
): { path: string; node: Node } {
  const { path, node } = look(context, text, rights, allowSpecial);
  if (node === undefined) throw new XsError('ENOENT');
  return { path, node };
}

/**
 * A node if it is there and the caller has `rights` to it. An absent one is told of only to those who have one of the
 * rights to what is above it; the others get EACCES, whatever there is.
 */
function look(
  context: RequestContext,
  text: string,
  rights: readonly Right[],
  allowSpecial = false,
): { path: string; node: Node | undefined } {
  const path = canonical(context, text, allowSpecial);
  const node = context.tree.get(path);
  if (node !== undefined) {
    const access = accessOf(context.connection.domain, node.perms);
    if (rights.every((right) => access[right])) return { path, node };
    throw new XsError('EACCES');
  }
  let above = path;
  let nearest: Node | undefined;
  while (nearest === undefined) {
    above = parentOf(above);
    nearest = context.tree.get(above);
  }
  const access = accessOf(context.connection.domain, nearest.perms);
  if (!rights.some((right) => access[right])) throw new XsError('EACCES');
  return { path, node: undefined };
}

/** Puts a changed node back, if it is not too big for the caller. */
function replace(context: RequestContext, path: string, old: Node, node: NodeContent): void {
  if (exceeds(context.connection.domain, 'nodeBytes', nodeBytes(node))) refuseInside(context, 'ENOSPC');
  takeMemory(context, nodeBytes(node) - nodeBytes(old));
  context.tree.put(path, node);
}

/** Throws ENOMEM when the caller, who is the owner of most that it writes, would have too much memory. */
function takeMemory(context: RequestContext, bytes: number): void {
  const { tree } = context;
  const { domain } = context.connection;
  if (domain.privileged || bytes <= 0) return;
  if (exceeds(domain, 'memory', tree.memory(domain.domid) + domain.bytes + bytes)) refuseInside(context, 'ENOMEM');
}

/**
 * Creates a node and those missing above it. All inherit the permissions of the nearest node above; what an unprivileged
 * domain creates is its own.
 */
function create(context: RequestContext, path: string, value: Uint8Array): void {
  const { connection, tree, transaction } = context;
  const missing = [path];
  let top = parentOf(path);
  let parent = tree.get(top);
  while (parent === undefined) {
    missing.push(top);
    top = parentOf(top);
    parent = tree.get(top);
  }
  if (transaction !== undefined) transaction.nodeCreated = true;

  const [owner, ...others] = parent.perms;
  const perms = connection.domain.privileged ? parent.perms : [{ ...owner!, domid: connection.domid }, ...others];
  const created = missing.map((name, i): [string, NodeContent] => {
    const below = missing[i - 1];
    if (below === undefined) return [name, { value, perms, children: NO_CHILDREN }];
    return [name, { value: NOTHING, perms, children: NO_CHILDREN.with(basenameOf(below)) }];
  });
  const parentNow: NodeContent = { ...parent, children: parent.children.with(basenameOf(missing.at(-1)!)) };

  // Bottom up, as xenstored writes them: a quota that bites half-way spoils a transaction.
  created.forEach(([, node], i) => {
    if (exceeds(connection.domain, 'nodes', tree.owned(connection.domid) + i + 1)) {
      if (i > 0) refuseInside(context, 'ENOSPC');
      throw new XsError('ENOSPC');
    }
    if (exceeds(connection.domain, 'nodeBytes', nodeBytes(node))) refuseInside(context, 'ENOSPC');
  });
  if (exceeds(connection.domain, 'nodeBytes', nodeBytes(parentNow))) refuseInside(context, 'ENOSPC');
  takeMemory(
    context,
    created.reduce((bytes, [name, node]) => bytes + name.length + nodeBytes(node), 0),
  );
  for (const [name, node] of created) tree.put(name, node);
  tree.put(top, parentNow);
}

/** A write is refused; a transaction in which one failed cannot be committed. */
function refuseInside(context: RequestContext, code: 'ENOSPC' | 'ENOMEM'): never {
  if (context.transaction !== undefined) context.transaction.failed = true;
  throw new XsError(code);
}
