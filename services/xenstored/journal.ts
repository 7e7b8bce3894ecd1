/**
 * What makes the store durable. All changes of one step of the daemon become one record of the journal
 * (journal-format.ts), written by a disk beside the core: requests to the peer `disk`, one at a time, and what comes
 * meanwhile goes together in the next (group commit). Replies and events are held back until what they show is on the
 * medium: a change's own, and those of a read that saw a change which is not yet there. A read of what is there already
 * does not wait, unless the same client waits for something before it.
 * When the log behind the last snapshot has grown to twice its size a new journal is begun: nodes are written there
 * slice by slice, between them every new record, and the whole takes the place of the old one at once. Nobody waits for
 * that longer than for a slice.
 * A disk that refuses stops the daemon: nothing is acknowledged that is not written.
 * Not modelled: damage to the middle of a journal; a record that cannot be read ends it, and what follows is dropped.
 */
import { assert } from '#shared/core/assert.ts';
import { body } from '#shared/core/core.ts';
import { call, type Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Connection } from './connection.ts';
import {
  type AnsweredRequest,
  type DomainState,
  encodeRecord,
  type JournalRecord,
  type NodeChange,
  nodeGone,
  nodePut,
  nodeWhole,
} from './journal-format.ts';
import type { Node, Store } from './store.ts';

export interface JournalLimits {
  /** A snapshot is not worth its while before the log is this long. */
  readonly logBytesMin: number;
  /** Of a snapshot, between two writes. */
  readonly sliceBytes: number;
}

const DEFAULT_LIMITS: JournalLimits = { logBytesMin: 1024 * 1024, sliceBytes: 128 * 1024 };
/** Of each domain, for requests that come again after a restart. */
const ANSWERS_KEPT = 64;

/** What is in the daemon beside the tree. */
export interface JournalSource {
  domainState(domid: number): DomainState;
  /** Those that are not as any domain is at first. */
  domains(): Iterable<number>;
  limits(): readonly number[];
}

/** A journal that is being written, to take the place of the present one. */
interface Next {
  offset: number;
  readonly entries: Iterator<[string, Node]>;
}

interface Held {
  readonly gate: number;
  readonly run: () => void;
}

export class Journal {
  readonly #runtime: Runtime;
  readonly #store: Store;
  readonly #source: JournalSource;
  readonly #limits: JournalLimits;
  /** Changes up to this generation are on the medium; Infinity when they need not be. */
  #durable = Number.POSITIVE_INFINITY;
  /** Of the record that was closed last. */
  #position = 0;
  /** What the step that runs has changed. */
  #nodes: NodeChange[] = [];
  readonly #domains = new Set<number>();
  #newAnswers: AnsweredRequest[] = [];
  #limitsChanged = false;
  #changed = false;
  readonly #answers = new Map<number, Map<number, Uint8Array>>();
  /** Closed records that are not under way yet. */
  #pending: Uint8Array[] = [];
  #writing = false;
  #seq = 0;
  #offset = 0;
  #snapshotBytes = 0;
  #next: Next | undefined;
  /** In the order of their gates. */
  #held: Held[] = [];
  #heldHead = 0;
  #lastGate = 0;
  readonly counts = { records: 0, writes: 0, bytesWritten: 0, snapshots: 0 };

  constructor(runtime: Runtime, store: Store, source: JournalSource, limits: JournalLimits = DEFAULT_LIMITS) {
    this.#limits = limits;
    this.#runtime = runtime;
    this.#store = store;
    this.#source = source;
  }

  get on(): boolean {
    return this.#durable !== Number.POSITIVE_INFINITY;
  }

  /** Changes are journalled from here on, behind the first `offset` bytes, which were recovered; 0 starts a new one. */
  open(offset: number, answers: Iterable<AnsweredRequest>): void {
    const store = this.#store;
    this.#offset = offset;
    this.#snapshotBytes = offset;
    this.#position = store.generation;
    this.#durable = this.#position;
    for (const answer of answers) this.#keep(answer);
    if (offset === 0) this.#begin();
    store.onChange = (path, node, old) => {
      this.#changed = true;
      this.#nodes.push(node === undefined ? nodeGone(path) : nodePut(path, node, old?.children));
    };
  }

  /** The state of a domain beside its nodes has changed. */
  noteDomain(domid: number): void {
    if (!this.on) return;
    this.#store.nextGeneration();
    this.#changed = true;
    this.#domains.add(domid);
  }

  /** The global limits have changed. */
  noteLimits(): void {
    if (!this.on) return;
    this.#store.nextGeneration();
    this.#changed = true;
    this.#limitsChanged = true;
  }

  /** The reply of a request that came over the bus: if it changed something it is not done again after a restart. */
  noteAnswer(domid: number, requestId: number, reply: Uint8Array): void {
    if (!this.#changed || requestId === 0) return;
    const answer: AnsweredRequest = [domid, requestId, reply];
    this.#newAnswers.push(answer);
    this.#keep(answer);
  }

  /** Until what was closed so far is on the medium, nothing that shows the state of domains may be shown. */
  get position(): number {
    return this.on ? this.#position : 0;
  }

  /** Runs `run`, which shows what the step did or saw, as soon as that is on the medium; in order for each client. */
  show(connection: Connection | undefined, run: () => void): void {
    if (this.#durable === Number.POSITIVE_INFINITY) {
      run();
      return;
    }
    let gate = this.#changed ? this.#store.generation : this.#store.seen;
    if (connection !== undefined && connection.shownAt > gate) gate = connection.shownAt;
    if (gate <= this.#durable) {
      run();
      return;
    }
    if (gate < this.#lastGate) gate = this.#lastGate;
    this.#lastGate = gate;
    if (connection !== undefined) connection.shownAt = gate;
    this.#held.push({ gate, run });
  }

  /** The end of a step: what it changed goes to the disk. */
  endStep(): void {
    this.#close();
    if (this.#writing || (this.#pending.length === 0 && this.#next === undefined)) return;
    this.#writing = true;
    this.#runtime.spawn('journal', this.#write());
  }

  inspect(): object {
    return {
      on: this.on,
      durable: this.on ? this.#durable : 0,
      position: this.#position,
      bytes: this.#offset,
      held: this.#held.length - this.#heldHead,
      ...this.counts,
    };
  }

  #keep([domid, id, reply]: AnsweredRequest): void {
    let kept = this.#answers.get(domid);
    if (kept === undefined) {
      kept = new Map();
      this.#answers.set(domid, kept);
    }
    kept.set(id, reply);
    if (kept.size > ANSWERS_KEPT) kept.delete(kept.keys().next().value as number);
  }

  #close(): void {
    if (!this.#changed) return;
    this.#changed = false;
    this.#position = this.#store.generation;
    const domains = [...this.#domains].map((domid) => this.#source.domainState(domid));
    for (const state of domains) if (state.length === 1) this.#answers.delete(state[0]);
    this.#domains.clear();
    this.#pending.push(
      this.#record({
        fresh: false,
        nodes: this.#nodes,
        domains,
        answers: this.#newAnswers,
        limits: this.#limitsChanged ? this.#source.limits() : [],
      }),
    );
    this.#nodes = [];
    this.#newAnswers = [];
    this.#limitsChanged = false;
  }

  #record(record: Omit<JournalRecord, 'position'>): Uint8Array {
    this.counts.records++;
    return encodeRecord({ ...record, position: this.#position });
  }

  *#write(): Op<void> {
    for (;;) {
      this.#close();
      if (this.#next === undefined && this.#offset > this.#snapshotBytes + this.#logBytesMax()) this.#begin();
      if (this.#pending.length === 0 && this.#next === undefined) break;
      const records = this.#pending;
      this.#pending = [];
      const position = this.#position;
      const next = this.#next;
      // A journal that is just begun has no older one whose records would be worth writing.
      const data = this.#offset === 0 ? NOTHING : concat(records);
      let nextData: Uint8Array = NOTHING;
      let promote = false;
      if (next !== undefined) {
        const slice = this.#slice(next);
        promote = slice.last;
        // The slice is of after the records: read back in this order they lead to the same lists, order included.
        nextData = concat([...(next.offset === 0 ? [this.#first()] : []), ...records, slice.record]);
      }
      this.counts.writes++;
      this.counts.bytesWritten += data.length + nextData.length;
      const request = {
        seq: ++this.#seq,
        offset: this.#offset,
        data,
        nextOffset: next?.offset ?? 0,
        nextData,
        promote,
      };
      yield* call('disk', body('journalAppendRequest', request), 'journalAppendReply', { deadlineNs: Infinity });
      this.#offset += data.length;
      if (next !== undefined) {
        next.offset += nextData.length;
        if (promote) {
          this.#offset = next.offset;
          this.#snapshotBytes = next.offset;
          this.#next = undefined;
          this.counts.snapshots++;
        }
      }
      if (this.#offset > 0) this.#durable = position;
      this.#release();
    }
    this.#writing = false;
  }

  #logBytesMax(): number {
    return Math.max(this.#limits.logBytesMin, 2 * this.#snapshotBytes);
  }

  #begin(): void {
    this.#next = { offset: 0, entries: this.#store.entries() };
  }

  /** More of the nodes; what changes behind the iterator is in a record of its own. */
  #slice(next: Next): { record: Uint8Array; last: boolean } {
    const nodes: NodeChange[] = [];
    let bytes = 0;
    let last = false;
    while (bytes < this.#limits.sliceBytes) {
      const entry = next.entries.next();
      if (entry.done === true) {
        last = true;
        break;
      }
      const [path, node] = entry.value;
      nodes.push(nodeWhole(path, node));
      bytes += path.length + node.value.length + node.children.bytes + 16;
    }
    return { record: this.#record({ fresh: false, nodes, domains: [], answers: [], limits: [] }), last };
  }

  /** Says that nothing was before it, and all that is not in the tree. */
  #first(): Uint8Array {
    const domains = [...this.#source.domains()].map((domid) => this.#source.domainState(domid));
    const answers = [...this.#answers].flatMap(([domid, kept]) => answersOf(domid, kept));
    return encodeRecord({ position: 0, fresh: true, nodes: [], domains, answers, limits: this.#source.limits() });
  }

  #release(): void {
    while (this.#heldHead < this.#held.length) {
      const { gate, run } = this.#held[this.#heldHead]!;
      if (gate > this.#durable) break;
      this.#heldHead++;
      run();
    }
    assert(this.#heldHead <= this.#held.length, 'more was shown than was held back');
    if (this.#heldHead === this.#held.length) {
      this.#held = [];
      this.#heldHead = 0;
    }
  }
}

const NOTHING = new Uint8Array(0);

function answersOf(domid: number, kept: ReadonlyMap<number, Uint8Array>): AnsweredRequest[] {
  return [...kept].map(([id, reply]): AnsweredRequest => [domid, id, reply]);
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Uint8Array(parts.reduce((bytes, part) => bytes + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
