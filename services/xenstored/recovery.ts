/**
 * Reads a journal back: the tree with its generations, what is known of domains, and the last replies over the bus.
 * Transactions and watches are not in it: they end with the daemon. Bytes behind the last whole record are a write that
 * was never acknowledged; the next record takes their place.
 */
import { assert } from '#shared/core/assert.ts';
import { body } from '#shared/core/core.ts';
import { call, type Op } from '#shared/core/op.ts';
import { NO_CHILDREN } from './children.ts';
import {
  type AnsweredRequest,
  changedChildren,
  type DomainState,
  decodeRecord,
  type JournalRecord,
  type NodeChange,
  PermLists,
} from './journal-format.ts';
import type { Store } from './store.ts';

export interface Recovered {
  /** Bytes of whole records: 0 when there was no journal. */
  readonly offset: number;
  readonly records: number;
  /** Bytes behind them that are none. */
  readonly tornBytes: number;
  readonly domains: ReadonlyMap<number, DomainState>;
  readonly answers: readonly AnsweredRequest[];
  /** Global limits; empty when none were recorded. */
  readonly limits: readonly number[];
}

/** Asks the peer `disk` for the journal and fills `store`, which is as it is at first. */
export function* recover(store: Store): Op<Recovered> {
  const replay = new Replay(store);
  let rest: Uint8Array = new Uint8Array(0);
  let loaded = 0;
  for (;;) {
    const request = body('journalLoadRequest', { offset: loaded });
    const { data, last } = yield* call('disk', request, 'journalLoadReply', { deadlineNs: Infinity });
    loaded += data.length;
    rest = replay.feed(rest.length === 0 ? data : joined(rest, data));
    if (last) break;
  }
  assert(replay.offset > 0 || rest.length === 0, () => `the journal of ${loaded} bytes has no readable start`);
  return {
    offset: replay.offset,
    records: replay.records,
    tornBytes: rest.length,
    domains: replay.domains,
    answers: [...replay.answers.values()],
    limits: replay.limits,
  };
}

export class Replay {
  offset = 0;
  records = 0;
  readonly domains = new Map<number, DomainState>();
  readonly answers = new Map<string, AnsweredRequest>();
  limits: readonly number[] = [];
  readonly #store: Store;
  readonly #perms = new PermLists();
  #position = -1;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Takes the whole records of `bytes` and gives what is behind them. */
  feed(bytes: Uint8Array): Uint8Array {
    let at = 0;
    for (;;) {
      const decoded = decodeRecord(bytes, at, this.#position);
      if (decoded === undefined || (this.records === 0 && !decoded.record.fresh)) break;
      this.#apply(decoded.record);
      this.records++;
      this.offset += decoded.end - at;
      at = decoded.end;
    }
    return bytes.subarray(at);
  }

  #apply({ position, fresh, nodes, domains, answers, limits }: JournalRecord): void {
    this.#position = position;
    if (fresh) this.#store.clear();
    for (const change of nodes) this.#change(change);
    for (const state of domains) {
      if (state.length > 1) this.domains.set(state[0], state);
      else this.#forget(state[0]);
    }
    for (const answer of answers) this.answers.set(`${answer[0]} ${answer[1]}`, answer);
    if (limits.length > 0) this.limits = limits;
    this.#store.passGeneration(position);
  }

  #forget(domid: number): void {
    this.domains.delete(domid);
    for (const key of this.answers.keys()) if (key.startsWith(`${domid} `)) this.answers.delete(key);
  }

  #change(change: NodeChange): void {
    const path = change[0] as string;
    if (change.length === 1) {
      this.#store.delete(path);
      return;
    }
    const before = this.#store.get(path)?.children ?? NO_CHILDREN;
    this.#store.set(path, {
      value: change[2] as Uint8Array,
      perms: this.#perms.of(change[3] as string),
      children: changedChildren(change, before, NO_CHILDREN),
      generation: change[1] as number,
    });
  }
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
