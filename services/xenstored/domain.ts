/** What the store knows of a domain, whatever its connections: its rights, its limits and what it has used of them. */
import type { Nanos } from '#shared/core/core.ts';
import { isPrivileged, type Subject } from './permissions.ts';
import { defaultLimits, exceeds, type Limits } from './quota.ts';
import { type Credit, fullCredit } from './write-rate.ts';

/** XENSTORE_SERVER_FEATURE_*: ERROR, WATCHDEPTH and DOMID_ANY; reconnection is not offered, as in C xenstored. */
export const SERVER_FEATURES = 0b1110;
export const FEATURE_WATCHDEPTH = 4;
export const FEATURE_DOMID_ANY = 8;

export class Domain implements Subject {
  readonly domid: number;
  readonly privileged: boolean;
  targetDomid = -1;
  introduced = false;
  /** Xen has said that there is such a domain. */
  exists = false;
  /** @releaseDomain has fired for its shutdown. */
  shutdown = false;
  features = SERVER_FEATURES;
  readonly limits: Limits;
  watches = 0;
  transactions = 0;
  /** Requests of it that it, or who hears of them, has not read to the end. */
  outstanding = 0;
  /** Bytes of its watches, of its transactions, and of replies and events that wait for it. */
  watchBytes = 0;
  transactionBytes = 0;
  waitingBytes = 0;
  readonly credit: Credit;
  /** It has been warned of (soft quota of memory). */
  warned = false;

  constructor(domid: number, limits: Limits, now: Nanos) {
    this.domid = domid;
    this.privileged = isPrivileged({ domid });
    this.limits = { ...limits };
    this.credit = fullCredit(now);
  }

  /** Bytes beside those of its nodes. */
  get bytes(): number {
    return this.watchBytes + this.transactionBytes + this.waitingBytes;
  }
}

/** Domains by number: those introduced, and those that limits or features were set for. */
export class Domains {
  readonly #domains = new Map<number, Domain>();
  /** What a domain starts with. */
  readonly limits = defaultLimits();

  get(domid: number): Domain | undefined {
    return this.#domains.get(domid);
  }

  /** The domain, made when it was not known. */
  of(domid: number, now: Nanos): Domain {
    let domain = this.#domains.get(domid);
    if (domain === undefined) {
      domain = new Domain(domid, this.limits, now);
      this.#domains.set(domid, domain);
    }
    return domain;
  }

  /** Gives those that had it as their target, and have it no more. */
  delete(domid: number): number[] {
    this.#domains.delete(domid);
    const others = [...this.#domains.values()].filter((other) => other.targetDomid === domid);
    for (const other of others) other.targetDomid = -1;
    return others.map((other) => other.domid);
  }

  all(): IterableIterator<Domain> {
    return this.#domains.values();
  }

  /** Whether a domain that owns `count` nodes owns too many. */
  nodesExceed(domid: number, count: number): boolean {
    const domain = this.#domains.get(domid);
    if (domain !== undefined) return exceeds(domain, 'nodes', count);
    return !isPrivileged({ domid }) && this.limits.nodes !== 0 && count >= this.limits.nodes;
  }
}
