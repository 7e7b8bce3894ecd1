/**
 * Who may do what with a node (docs/misc/xenstore.txt, "Permissions"; perm_for_conn() of xenstored).
 * The first entry names the owner, and its letter is what domains not listed may do.
 */

export interface Perm {
  readonly domid: number;
  readonly read: boolean;
  readonly write: boolean;
}

/** Who asks: a connection, or the store itself. */
export interface Subject {
  readonly domid: number;
  /** A domain whose rights this one has as well (SET_TARGET), or -1. */
  readonly targetDomid: number;
}

export interface Access {
  readonly read: boolean;
  readonly write: boolean;
  readonly owner: boolean;
}

const ALL: Access = { read: true, write: true, owner: true };
const DOMID_LAST = 0x7fff;
/** In an entry: every domain (xen/include/public/xen.h; XENSTORE_SERVER_FEATURE_DOMID_ANY). */
export const DOMID_ANY = 0x7ff5;

/** dom0 passes every check and is under no quota. */
export function isPrivileged(subject: { readonly domid: number }): boolean {
  return subject.domid === 0;
}

export function accessOf(subject: Subject, perms: readonly Perm[]): Access {
  const owner = perms[0]!;
  if (isPrivileged(subject) || means(subject, owner)) return ALL;
  const entry = perms.find((perm, i) => i > 0 && means(subject, perm)) ?? owner;
  return { read: entry.read, write: entry.write, owner: false };
}

/** `n0`, `r5`, `w5`, `b5`; undefined for anything else. */
export function parsePerm(text: string): Perm | undefined {
  const match = /^([nrwb])(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const domid = Number(match[2]);
  if (domid > DOMID_LAST) return undefined;
  const letter = match[1]!;
  return { domid, read: letter === 'r' || letter === 'b', write: letter === 'w' || letter === 'b' };
}

export function formatPerm(perm: Perm): string {
  const letter = perm.read ? (perm.write ? 'b' : 'r') : perm.write ? 'w' : 'n';
  return `${letter}${perm.domid}`;
}

function means(subject: Subject, perm: Perm): boolean {
  return perm.domid === subject.domid || perm.domid === subject.targetDomid || perm.domid === DOMID_ANY;
}
