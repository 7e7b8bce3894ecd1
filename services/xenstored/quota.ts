/**
 * What an unprivileged domain may use up (quotas of xenstored with their defaults). A count that reaches its quota is
 * refused, as in current xenstored: nine transactions may be open, not ten. 0 means without a limit. Each domain has
 * its own limits, which start as the global ones (SET_QUOTA).
 */
import type { Domain } from './domain.ts';

interface QuotaKind {
  /** As GET_QUOTA and CONTROL quota name it. */
  readonly name: string;
  readonly limit: number;
  /** For CONTROL quota. */
  readonly text: string;
}

const KINDS = {
  nodes: { name: 'nodes', limit: 1000, text: 'Nodes per domain' },
  watches: { name: 'watches', limit: 128, text: 'Watches per domain' },
  /** Open at once. */
  transactions: { name: 'transactions', limit: 10, text: 'Transactions per domain' },
  /** Requests that the domain, or who hears of them, has not read to the end. Beyond it requests wait. */
  outstanding: { name: 'outstanding', limit: 20, text: 'Outstanding requests per domain' },
  transactionNodes: {
    name: 'transaction-nodes',
    limit: 1024,
    text: 'Max. number of accessed nodes per transaction',
  },
  /** Bytes of nodes, watches, transactions and of what waits to be read. */
  memory: { name: 'memory', limit: 2621440, text: 'Total Xenstore memory per domain (error level)' },
  memorySoft: { name: 'soft-memory', limit: 2097152, text: 'Total Xenstore memory per domain (warning level)' },
  /** Bytes of one node: header, entries, value and names of its children. */
  nodeBytes: { name: 'node-size', limit: 2048, text: 'Max. size of a node' },
  /** Characters of a path, a leading /local/domain/N/ not counted. */
  pathLength: { name: 'path-max', limit: 2048, text: 'Max. length of a node path' },
  permissions: { name: 'permissions', limit: 5, text: 'Max. number of permissions per node' },
} satisfies Record<string, QuotaKind>;

export type Quota = keyof typeof KINDS;
export type Limits = Record<Quota, number>;

/** The quotas with what names and explains them, in the order of CONTROL quota. */
export const QUOTA_KINDS = Object.entries(KINDS) as readonly (readonly [Quota, QuotaKind])[];

export function defaultLimits(): Limits {
  return Object.fromEntries(QUOTA_KINDS.map(([quota, { limit }]) => [quota, limit])) as Limits;
}

/** The quota of that name on the wire, or undefined. */
export function quotaNamed(name: string): Quota | undefined {
  return QUOTA_KINDS.find(([, kind]) => kind.name === name)?.[0];
}

/** Whether `count`, reached by what the domain asks for, is more than it may have. */
export function exceeds(domain: Domain, quota: Quota, count: number): boolean {
  if (domain.privileged) return false;
  const limit = domain.limits[quota];
  return limit !== 0 && count >= limit;
}
