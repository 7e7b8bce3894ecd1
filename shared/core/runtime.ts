/**
 * Runs the operations of one core: request ids, answers remembered, retries, deadlines, timers, locks.
 * Pure: it is told the time and returns effects. Every service's core is a thin switch on top of it.
 */
import type { Envelope } from '#gen/bus.ts';
import { AssertionError } from './assert.ts';
import { type Body, type BodyCase, body, type Core, type Effect, type Nanos, type Peer } from './core.ts';
import { Heap } from './heap.ts';
import { LIMITS } from './limits.ts';
import { Indefinite, type Op, Refused, type Step, TimedOut } from './op.ts';

/** What a service does with a request: an answer now, an operation that ends in one, or nothing (a notice). */
export type Answer = Body | Op<Body> | undefined;

export interface Service {
  /** Runs once at the start. */
  boot?(): Op<void>;
  /** One request or notice, with its id. Throw Refused for what the sender may not ask. */
  onRequest(from: Peer, body: Body, id: number): Answer;
  /** Runs at the end of every step, before its effects leave. */
  endStep?(): void;
  inspect(): unknown;
}

interface Pending {
  readonly to: Peer;
  readonly replyFrom: Peer;
  readonly envelope: Envelope;
  readonly deadline: Nanos;
  retryNs: Nanos;
  readonly resume: (reply: Body) => void;
  readonly fail: (error: Error) => void;
}

interface Timer {
  readonly at: Nanos;
  readonly seq: number;
  /** Undefined once cancelled. */
  run: (() => void) | undefined;
}

class Timers {
  readonly #heap = new Heap<Timer>();
  #seq = 0;

  add(at: Nanos, run: () => void): Timer {
    const timer: Timer = { at, seq: this.#seq++, run };
    this.#heap.push(timer);
    return timer;
  }

  /** The time of the next timer that was not cancelled, or Infinity. */
  next(): Nanos {
    let first = this.#heap.peek();
    for (; first !== undefined && first.run === undefined; first = this.#heap.peek()) this.#heap.pop();
    return first?.at ?? Infinity;
  }

  runDue(now: Nanos): void {
    while (this.next() <= now) this.#heap.pop()?.run?.();
  }
}

/** Requests of one peer: what was answered, and what still runs. */
interface Inbox {
  readonly answers: Map<number, Envelope>;
  readonly running: Set<number>;
  /** Ids below it are done with on the other side: a late copy is dropped. */
  floor: number;
}

export interface RuntimeOptions {
  /** The first request id is above this; a restarted service gets a higher one than any before. */
  readonly idBase: number;
  /**
   * Others speak under the same name (operators): then what this one waits for says nothing of theirs, and receivers
   * keep answers only up to their limit.
   */
  readonly sharedName?: boolean;
  /** Who is told at the start that this one listens now (those that may have asked it something before). */
  readonly announceTo?: readonly Peer[];
}

export class Runtime implements Core {
  #service: Service | undefined;
  #now: Nanos = 0;
  #effects: Effect[] = [];
  #wakeAt: Nanos = Infinity;
  readonly #sharedName: boolean;
  readonly #announceTo: readonly Peer[];
  #nextId: number;
  readonly #pending = new Map<number, Pending>();
  readonly #pendingByPeer = new Map<Peer, Set<number>>();
  readonly #inboxes = new Map<Peer, Inbox>();
  readonly #timers = new Timers();
  readonly #tasks = new Map<number, string>();
  #nextTask = 1;
  readonly #sent = new Map<BodyCase, number>();
  readonly #received = new Map<BodyCase, number>();
  #retries = 0;

  constructor(options: RuntimeOptions) {
    this.#nextId = options.idBase + 1;
    this.#sharedName = options.sharedName === true;
    this.#announceTo = options.announceTo ?? [];
  }

  /** The service on top; once, before `start`. */
  attach(service: Service): void {
    this.#service = service;
  }

  get now(): Nanos {
    return this.#now;
  }

  start(now: Nanos): readonly Effect[] {
    this.#now = now;
    const service = this.#service;
    if (service === undefined) throw new AssertionError('a runtime without a service was started');
    for (const peer of this.#announceTo) this.post(peer, body('hello', {}));
    if (service.boot !== undefined) this.spawn('boot', service.boot());
    return this.#flush();
  }

  receive(now: Nanos, from: Peer, envelope: Envelope): readonly Effect[] {
    this.#now = now;
    if (envelope.inReplyTo !== 0) this.#onReply(from, envelope);
    else if (envelope.body?.$case === 'hello') this.#askAgain(from);
    else this.#onRequest(from, envelope);
    return this.#flush();
  }

  wake(now: Nanos): readonly Effect[] {
    this.#now = now;
    if (now >= this.#wakeAt) this.#wakeAt = Infinity;
    this.#timers.runDue(now);
    return this.#flush();
  }

  /** Runs `run` as if a message had brought it: for what reaches a core another way than by messages. */
  enter(now: Nanos, run: () => void): readonly Effect[] {
    this.#now = now;
    run();
    return this.#flush();
  }

  inspect(): unknown {
    return {
      ...(this.#service?.inspect() as object),
      runtime: {
        tasks: [...this.#tasks.values()],
        waitingFor: [...this.#pending.values()].map((p) => `${p.envelope.body?.$case} of ${p.to}`),
        sent: Object.fromEntries(this.#sent),
        received: Object.fromEntries(this.#received),
        retries: this.#retries,
      },
    };
  }

  /** Starts an operation of its own. An error that it lets out stops the service, unless `onError` takes it. */
  spawn<T>(name: string, op: Op<T>, onDone?: (value: T) => void, onError?: (error: unknown) => void): void {
    const task = this.#nextTask++;
    this.#tasks.set(task, name);
    this.#drive(
      op,
      (value) => {
        this.#tasks.delete(task);
        onDone?.(value);
      },
      (error) => {
        this.#tasks.delete(task);
        if (onError === undefined || error instanceof AssertionError) throw error;
        onError(error);
      },
    );
  }

  /** Sends a notice: nobody answers it, and it may be lost. */
  post(to: Peer, message: Body): void {
    this.#send(to, { id: this.#nextId++, inReplyTo: 0, oldestPending: 0, refused: '', body: message });
  }

  /** Runs `run` at `at`; returns how to cancel it. */
  at(at: Nanos, run: () => void): () => void {
    const timer = this.#timers.add(at, run);
    return () => {
      timer.run = undefined;
    };
  }

  trace(event: string, detail: unknown): void {
    this.#effects.push({ do: 'trace', event, detail });
  }

  /** What an earlier life of this service answered to a request of `peer`: it is answered so again if it comes again. */
  remember(peer: Peer, id: number, answer: Body): void {
    this.#inboxOf(peer).answers.set(id, reply(id, this.#nextId++, answer));
  }

  /** A peer is gone for good (its domain died): calls to it fail at once, what it asked is forgotten. */
  forget(peer: Peer): void {
    for (const id of [...(this.#pendingByPeer.get(peer) ?? [])]) {
      const pending = this.#take(id);
      pending?.fail(new Indefinite(`${peer} is gone`));
    }
    this.#inboxes.delete(peer);
  }

  #drive<T>(op: Op<T>, done: (value: T) => void, failed: (error: unknown) => void): void {
    const advance = (take: () => IteratorResult<Step, T>): void => {
      let next: IteratorResult<Step, T>;
      try {
        next = take();
        // A step that is ready at once (a free lock) goes on in this loop instead of recursing.
        while (!next.done && this.#perform(next.value, resume, reject)) next = op.next(undefined);
      } catch (error) {
        failed(error);
        return;
      }
      if (next.done) done(next.value);
    };
    const resume = (value: unknown): void => advance(() => op.next(value));
    const reject = (error: Error): void => advance(() => op.throw(error));
    resume(undefined);
  }

  /** Starts one step. Returns true when the operation can go on at once. */
  #perform(step: Step, resume: (value: unknown) => void, reject: (error: Error) => void): boolean {
    switch (step.step) {
      case 'lock':
        return step.lock.acquire(() => resume(undefined));
      case 'sleep':
        this.#timers.add(this.#now + step.ns, () => resume(undefined));
        return false;
      case 'wait': {
        let timer: Timer | undefined;
        const stop = step.signal.subscribe((value) => {
          if (timer !== undefined) timer.run = undefined;
          resume(value);
        });
        if (step.ns !== Infinity) {
          timer = this.#timers.add(this.#now + step.ns, () => {
            stop();
            reject(new TimedOut(`nothing happened within ${step.ns / 1e6} ms`));
          });
        }
        return false;
      }
      case 'call':
        this.#call(step, resume, reject);
        return false;
      default:
        return step satisfies never;
    }
  }

  #call(step: Extract<Step, { step: 'call' }>, resume: (value: unknown) => void, fail: (error: Error) => void): void {
    const id = this.#nextId++;
    let mine = this.#pendingByPeer.get(step.to);
    if (mine === undefined) {
      mine = new Set();
      this.#pendingByPeer.set(step.to, mine);
    }
    mine.add(id);
    const envelope: Envelope = {
      id,
      inReplyTo: 0,
      oldestPending: this.#oldestPending(step.to),
      refused: '',
      body: step.body,
    };
    const pending: Pending = {
      to: step.to,
      replyFrom: step.options.replyFrom ?? step.to,
      envelope,
      deadline: this.#now + (step.options.deadlineNs ?? LIMITS.callDeadlineNs),
      retryNs: LIMITS.retryNs,
      resume,
      fail,
    };
    this.#pending.set(id, pending);
    this.#send(step.to, envelope);
    this.#armRetry(id, pending);
  }

  #armRetry(id: number, pending: Pending): void {
    const at = Math.min(this.#now + pending.retryNs, pending.deadline);
    this.#timers.add(at, () => {
      if (!this.#pending.has(id)) return;
      if (this.#now >= pending.deadline) {
        this.#take(id);
        pending.fail(new Indefinite(`${pending.to} did not answer ${pending.envelope.body?.$case}`));
        return;
      }
      this.#retries++;
      this.#send(pending.to, { ...pending.envelope, oldestPending: this.#oldestPending(pending.to) });
      pending.retryNs = Math.min(pending.retryNs * 2, LIMITS.retryMaxNs);
      this.#armRetry(id, pending);
    });
  }

  /** The peer listens only now: what it was asked before may have been lost. */
  #askAgain(peer: Peer): void {
    for (const id of this.#pendingByPeer.get(peer) ?? []) {
      const { envelope } = this.#pending.get(id)!;
      this.#send(peer, { ...envelope, oldestPending: this.#oldestPending(peer) });
    }
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (pending === undefined) return undefined;
    this.#pending.delete(id);
    this.#pendingByPeer.get(pending.to)?.delete(id);
    return pending;
  }

  #oldestPending(to: Peer): number {
    if (this.#sharedName) return 0;
    // Ids only grow and a Set keeps the order of insertion, so the first is the oldest.
    const first = this.#pendingByPeer.get(to)?.values().next();
    return first === undefined || first.done ? this.#nextId : first.value;
  }

  #onReply(from: Peer, envelope: Envelope): void {
    const pending = this.#pending.get(envelope.inReplyTo);
    if (pending === undefined || pending.replyFrom !== from) return; // a second answer, or not from the one asked
    this.#take(envelope.inReplyTo);
    if (envelope.body === undefined) pending.fail(new Refused(envelope.refused || `${from} refused`));
    else {
      count(this.#received, envelope.body.$case);
      pending.resume(envelope.body);
    }
  }

  #onRequest(from: Peer, envelope: Envelope): void {
    const message = envelope.body;
    const service = this.#service;
    if (message === undefined || service === undefined) return;
    const inbox = this.#inboxOf(from);
    if (envelope.oldestPending > inbox.floor) {
      inbox.floor = envelope.oldestPending;
      for (const id of inbox.answers.keys()) {
        if (id >= inbox.floor) break;
        inbox.answers.delete(id);
      }
    }
    const { id } = envelope;
    const known = inbox.answers.get(id);
    if (known !== undefined) {
      this.#send(from, known);
      return;
    }
    // Notices say nothing of what is pending (0); a request below the floor is a late copy of what is done with.
    if (inbox.running.has(id) || (envelope.oldestPending !== 0 && id < inbox.floor)) return;
    count(this.#received, message.$case);
    if (inbox.running.size >= LIMITS.requestsRunning) {
      this.#send(from, refusal(id, this.#nextId++, `more than ${LIMITS.requestsRunning} requests at once`));
      return;
    }
    let answer: Answer;
    try {
      answer = service.onRequest(from, message, id);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#answer(inbox, from, refusal(id, this.#nextId++, error.message));
      return;
    }
    if (answer === undefined) return;
    if ('$case' in answer) {
      this.#answer(inbox, from, reply(id, this.#nextId++, answer));
      return;
    }
    inbox.running.add(id);
    this.spawn(
      `${message.$case} of ${from}`,
      answer,
      (value) => {
        inbox.running.delete(id);
        this.#answer(inbox, from, reply(id, this.#nextId++, value));
      },
      (error) => {
        inbox.running.delete(id);
        const text = error instanceof Error ? error.message : String(error);
        this.#answer(inbox, from, refusal(id, this.#nextId++, text));
      },
    );
  }

  #inboxOf(peer: Peer): Inbox {
    let inbox = this.#inboxes.get(peer);
    if (inbox === undefined) {
      inbox = { answers: new Map(), running: new Set(), floor: 0 };
      this.#inboxes.set(peer, inbox);
    }
    return inbox;
  }

  #answer(inbox: Inbox, to: Peer, envelope: Envelope): void {
    inbox.answers.set(envelope.inReplyTo, envelope);
    if (inbox.answers.size > LIMITS.answersKept) {
      const oldest = inbox.answers.keys().next();
      if (!oldest.done) inbox.answers.delete(oldest.value);
    }
    this.#send(to, envelope);
  }

  #send(to: Peer, envelope: Envelope): void {
    if (envelope.body !== undefined) count(this.#sent, envelope.body.$case);
    this.#effects.push({ do: 'send', to, envelope });
  }

  #flush(): readonly Effect[] {
    this.#service?.endStep?.();
    const next = this.#timers.next();
    if (next < this.#wakeAt) {
      this.#wakeAt = next;
      this.#effects.push({ do: 'wake', at: next });
    }
    const effects = this.#effects;
    this.#effects = [];
    return effects;
  }
}

function reply(inReplyTo: number, id: number, message: Body): Envelope {
  return { id, inReplyTo, oldestPending: 0, refused: '', body: message };
}

function refusal(inReplyTo: number, id: number, text: string): Envelope {
  return { id, inReplyTo, oldestPending: 0, refused: text || 'refused', body: undefined };
}

function count(counts: Map<BodyCase, number>, key: BodyCase): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}
