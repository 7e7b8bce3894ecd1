/**
 * What an unprivileged domain may use up (hard quotas of xenstored with their defaults). A count that reaches its quota
 * is refused, as in current xenstored: nine transactions may be open, not ten.
 * Not modelled: the memory quota but for watch events that wait, the limit of outstanding requests (a domain's
 * requests are answered as they come), the write rate limit; software is never delayed by the store.
 */
import { isPrivileged } from './permissions.ts';

export const QUOTA = {
  /** Nodes owned by one domain. */
  nodes: 1000,
  watches: 128,
  /** Transactions open at once on one connection. */
  transactions: 10,
  /** Nodes touched in one transaction. */
  transactionNodes: 1024,
  /** Entries in a node's permissions. */
  permissions: 5,
  /** Bytes of one node: header, entries, value and names of its children. */
  nodeBytes: 2048,
  /** Characters of a path, a leading /local/domain/N/ not counted. */
  pathLength: 2048,
  /** Bytes of watch events that wait for one domain; more are dropped. */
  eventBytes: 2.5 * 1024 * 1024,
} as const;

/** Whether `count`, reached by what the domain asks for, is more than it may have. */
export function exceeds(subject: { readonly domid: number }, quota: keyof typeof QUOTA, count: number): boolean {
  return !isPrivileged(subject) && count >= QUOTA[quota];
}
