/** What a journal keeps of the daemon beside its tree: domains with their limits, and the global limits. */
import type { StoreDaemon } from './daemon.ts';
import { type Domain, SERVER_FEATURES } from './domain.ts';
import type { JournalSource } from './journal.ts';
import type { DomainState } from './journal-format.ts';
import { type Limits, QUOTA_KINDS } from './quota.ts';
import type { Recovered } from './recovery.ts';

export class DaemonState implements JournalSource {
  readonly #daemon: StoreDaemon;

  constructor(daemon: StoreDaemon) {
    this.#daemon = daemon;
  }

  domainState(domid: number): DomainState {
    const domain = this.#daemon.domains.get(domid);
    if (domain === undefined) return [domid];
    const { introduced, shutdown, targetDomid, features, limits } = domain;
    return [domid, introduced, shutdown, targetDomid, features, values(limits)];
  }

  *domains(): Iterable<number> {
    for (const domain of this.#daemon.domains.all()) if (!this.#isAsAtFirst(domain)) yield domain.domid;
  }

  limits(): readonly number[] {
    return values(this.#daemon.domains.limits);
  }

  /** Domains are as they were; those that were introduced are connected. Nobody watches yet, so nothing is told. */
  restore({ domains, limits }: Pick<Recovered, 'domains' | 'limits'>): void {
    const daemon = this.#daemon;
    setValues(daemon.domains.limits, limits);
    for (const [domid, [, introduced, shutdown, targetDomid, features, own]] of domains) {
      const domain = daemon.domainOf(domid);
      setValues(domain.limits, own ?? []);
      domain.features = features ?? SERVER_FEATURES;
      domain.targetDomid = targetDomid ?? -1;
      if (introduced === true) daemon.reconnect(domain);
      domain.shutdown = shutdown === true;
    }
  }

  #isAsAtFirst({ domid, limits }: Domain): boolean {
    return domid === 0 && QUOTA_KINDS.every(([kind]) => limits[kind] === this.#daemon.domains.limits[kind]);
  }
}

function values(limits: Limits): number[] {
  return QUOTA_KINDS.map(([kind]) => limits[kind]);
}

function setValues(limits: Limits, given: readonly number[]): void {
  QUOTA_KINDS.forEach(([kind], i) => {
    limits[kind] = given[i] ?? limits[kind];
  });
}
