/**
 * The write rate limit (wrl_* of xenstored's domain.c). While a transaction is open anywhere, each write of an
 * unprivileged domain costs one credit; a domain earns 200 a second, keeps at most 10, and what it earns beyond that
 * goes to a reserve of at most 1000 which any domain that is short draws from. A domain below zero is not read until
 * it has earned that back: its writes are late, they do not fail.
 */
import type { Nanos } from '#shared/core/core.ts';

const WRL_RATE = 200;
const WRL_DBURST = 10;
const WRL_GBURST = 1000;
const SECOND = 1e9;

/** The account of one domain. */
export interface Credit {
  amount: number;
  at: Nanos;
}

export function fullCredit(now: Nanos): Credit {
  return { amount: WRL_DBURST, at: now };
}

export class WriteRate {
  #reserve = 0;

  /** One write, or one transaction that wrote. */
  debit(credit: Credit, now: Nanos): void {
    this.#update(credit, now);
    credit.amount -= 1;
  }

  /** When the domain may be read again: `now` unless it is below zero. */
  readableAt(credit: Credit, now: Nanos): Nanos {
    this.#update(credit, now);
    return credit.amount >= 0 ? now : now + Math.ceil((-credit.amount * SECOND) / WRL_RATE);
  }

  #update(credit: Credit, now: Nanos): void {
    credit.amount += ((now - credit.at) * WRL_RATE) / SECOND;
    credit.at = now;
    const surplus = credit.amount - WRL_DBURST;
    if (surplus > 0) {
      this.#reserve = Math.min(WRL_GBURST, this.#reserve + surplus);
      credit.amount = WRL_DBURST;
    } else if (credit.amount < 0) {
      const drawn = Math.min(this.#reserve, -credit.amount);
      this.#reserve -= drawn;
      credit.amount += drawn;
    }
  }
}
