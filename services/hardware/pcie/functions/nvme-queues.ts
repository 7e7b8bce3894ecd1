/**
 * The queues of an NVMe controller: doorbells, phase tags, wrap, and what waits for room (NVM Express 1.4, "Submission
 * Queue & Completion Queue Definition").
 * A completion that finds its queue full waits; until it is written, no submission queue of that completion queue is
 * read. Submission queues take turns (round robin), each with at most an arbitration burst.
 * Not modelled: weighted round robin (CAP.AMS = 0), queues that are not contiguous (CAP.CQR = 1), shadow doorbells.
 */
import { NVME_CQE, NVME_CQE_BYTES, NVME_PHASE, NVME_SQE_BYTES, NVME_STATUS_SHIFT } from '#shared/arch/nvme.ts';
import type { DmaPort } from '../../bus/transaction.ts';

export interface SubmissionQueue {
  readonly id: number;
  readonly cqid: number;
  readonly base: number;
  readonly entries: number;
  head: number;
  tail: number;
}

export interface CompletionQueue {
  readonly id: number;
  readonly base: number;
  readonly entries: number;
  readonly vector: number;
  readonly interrupts: boolean;
  head: number;
  tail: number;
  phase: boolean;
  /** Completions that found no room, in order. */
  readonly waiting: Completion[];
}

export interface Completion {
  readonly sqid: number;
  readonly cid: number;
  /** The status field, 15 bits. */
  readonly status: number;
  readonly dw0: number;
}

/** What became of a doorbell write. */
export type Doorbell = 'taken' | 'no-queue' | 'bad-value';

/** Told of every change between empty and not, and of every entry, of a completion queue. */
export interface CompletionWatch {
  posted(queue: CompletionQueue): void;
  emptied(queue: CompletionQueue): void;
}

export class NvmeQueues {
  readonly submission = new Map<number, SubmissionQueue>();
  readonly completion = new Map<number, CompletionQueue>();
  /** Completion entries whose write was aborted: they are lost, and the queue goes on. */
  lostCompletions = 0;
  readonly #dma: DmaPort;
  readonly #watch: CompletionWatch;
  readonly #entry = new Uint32Array(NVME_CQE_BYTES / 4);
  readonly #entryBytes = new Uint8Array(this.#entry.buffer);
  /** Submission queues in the order of their turns. */
  #turns: SubmissionQueue[] = [];
  #turn = 0;

  constructor(dma: DmaPort, watch: CompletionWatch) {
    this.#dma = dma;
    this.#watch = watch;
  }

  clear(): void {
    for (const queue of this.completion.values()) if (queue.head !== queue.tail) this.#watch.emptied(queue);
    this.submission.clear();
    this.completion.clear();
    this.#turns = [];
    this.#turn = 0;
  }

  addSubmission(id: number, cqid: number, base: number, entries: number): void {
    this.submission.set(id, { id, cqid, base, entries, head: 0, tail: 0 });
    this.#turns = [...this.submission.values()];
  }

  addCompletion(id: number, base: number, entries: number, vector: number, interrupts: boolean): void {
    const fresh = { id, base, entries, vector, interrupts, head: 0, tail: 0, phase: true, waiting: [] };
    this.completion.set(id, fresh);
  }

  deleteSubmission(id: number): void {
    this.submission.delete(id);
    this.#turns = [...this.submission.values()];
    this.#turn = 0;
  }

  deleteCompletion(id: number): void {
    const queue = this.completion.get(id);
    if (queue !== undefined && queue.head !== queue.tail) this.#watch.emptied(queue);
    this.completion.delete(id);
  }

  /** Whether a submission queue still reports to completion queue `cqid`. */
  isUsed(cqid: number): boolean {
    return this.#turns.some((queue) => queue.cqid === cqid);
  }

  /** A write to the doorbell at `index`: even ones are SQ tails, odd ones CQ heads. */
  ring(index: number, value: number): Doorbell {
    const id = index >>> 1;
    return (index & 1) === 0 ? this.#ringTail(id, value) : this.#ringHead(id, value);
  }

  /** Whether any submission queue has a command that may be fetched. */
  get workWaiting(): boolean {
    return this.#turns.some((queue) => this.#fetchable(queue) > 0);
  }

  /**
   * The submission queue whose turn it is, or undefined when none has work. Its next entries are contiguous:
   * `contiguousEntries` of them.
   */
  nextTurn(): SubmissionQueue | undefined {
    for (let i = 0; i < this.#turns.length; i++) {
      const queue = this.#turns[this.#turn]!;
      this.#turn = (this.#turn + 1) % this.#turns.length;
      if (this.#fetchable(queue) > 0) return queue;
    }
    return undefined;
  }

  contiguousEntries(queue: SubmissionQueue): number {
    return queue.tail >= queue.head ? queue.tail - queue.head : queue.entries - queue.head;
  }

  /** Reads the next `count` entries, which have to be contiguous, and takes them off. False when the read is aborted. */
  readEntries(queue: SubmissionQueue, count: number, into: Uint8Array): boolean {
    const bytes = count * NVME_SQE_BYTES;
    if (this.#dma.read(queue.base + queue.head * NVME_SQE_BYTES, into.subarray(0, bytes)) < bytes) return false;
    queue.head = (queue.head + count) % queue.entries;
    return true;
  }

  /** Posts a completion, or keeps it until its queue has room. A queue that was deleted meanwhile drops it. */
  post(completion: Completion): void {
    const cqid = this.submission.get(completion.sqid)?.cqid;
    const queue = cqid === undefined ? undefined : this.completion.get(cqid);
    if (queue === undefined) return;
    if (queue.waiting.length > 0 || isFull(queue)) queue.waiting.push(completion);
    else this.#write(queue, completion);
  }

  save(): unknown {
    return {
      submission: [...this.submission.values()].map((queue) => ({ ...queue })),
      completion: [...this.completion.values()].map((queue) => ({ ...queue, waiting: [...queue.waiting] })),
      turn: this.#turn,
      lost: this.lostCompletions,
    };
  }

  load(state: unknown): void {
    const saved = state as {
      submission: SubmissionQueue[];
      completion: CompletionQueue[];
      turn: number;
      lost: number;
    };
    this.submission.clear();
    this.completion.clear();
    for (const queue of saved.submission) this.submission.set(queue.id, { ...queue });
    for (const queue of saved.completion) this.completion.set(queue.id, { ...queue, waiting: [...queue.waiting] });
    this.#turns = [...this.submission.values()];
    this.#turn = saved.turn;
    this.lostCompletions = saved.lost;
  }

  inspect(): unknown {
    return {
      submission: [...this.submission.values()].map(({ id, cqid, entries, head, tail }) => ({
        id,
        cqid,
        entries,
        head,
        tail,
      })),
      completion: [...this.completion.values()].map(({ id, entries, vector, head, tail, phase, waiting }) => ({
        id,
        entries,
        vector,
        head,
        tail,
        phase,
        waiting: waiting.length,
      })),
      lostCompletions: this.lostCompletions,
    };
  }

  #fetchable(queue: SubmissionQueue): number {
    if (this.completion.get(queue.cqid)!.waiting.length > 0) return 0;
    return this.contiguousEntries(queue);
  }

  #ringTail(id: number, value: number): Doorbell {
    const queue = this.submission.get(id);
    if (queue === undefined) return 'no-queue';
    if (value >= queue.entries) return 'bad-value';
    queue.tail = value;
    return 'taken';
  }

  /** Frees entries up to `head`; more than there are cannot be freed. */
  #ringHead(id: number, head: number): Doorbell {
    const queue = this.completion.get(id);
    if (queue === undefined) return 'no-queue';
    if (head >= queue.entries) return 'bad-value';
    const held = (queue.tail - queue.head + queue.entries) % queue.entries;
    const freed = (head - queue.head + queue.entries) % queue.entries;
    if (freed > held) return 'bad-value';
    queue.head = head;
    if (held > 0 && head === queue.tail) this.#watch.emptied(queue);
    while (queue.waiting.length > 0 && !isFull(queue)) this.#write(queue, queue.waiting.shift()!);
    return 'taken';
  }

  #write(queue: CompletionQueue, { sqid, cid, status, dw0 }: Completion): void {
    const entry = this.#entry;
    entry[NVME_CQE.DW0] = dw0;
    entry[NVME_CQE.SQ] = (sqid << 16) | (this.submission.get(sqid)?.head ?? 0);
    entry[NVME_CQE.STATUS] = cid | (queue.phase ? NVME_PHASE : 0) | (status << NVME_STATUS_SHIFT);
    if (this.#dma.write(queue.base + queue.tail * NVME_CQE_BYTES, this.#entryBytes) < NVME_CQE_BYTES)
      this.lostCompletions++;
    // A reset may have come of the write itself.
    if (this.completion.get(queue.id) !== queue) return;
    queue.tail++;
    if (queue.tail === queue.entries) {
      queue.tail = 0;
      queue.phase = !queue.phase;
    }
    this.#watch.posted(queue);
  }
}

/** One slot stays free, so that full and empty differ. */
function isFull(queue: CompletionQueue): boolean {
  return (queue.tail + 1) % queue.entries === queue.head;
}
