/**
 * The simulated world: every core in one process, on one queue and one clock that jumps. When a message arrives, in
 * which order those of different subjects do, and everything else that could differ between two runs comes from the
 * seed. The order on one subject is kept, as the broker keeps it; nothing else is.
 */
import type { Envelope } from '#gen/bus.ts';
import { decodeEnvelope, encodeEnvelope } from '../bus/codec.ts';
import { INTERFACE_OF, subjectOf } from '../bus/subjects.ts';
import { assert } from '../core/assert.ts';
import type { Core, Effect, Nanos, Peer } from '../core/core.ts';
import { Heap } from '../core/heap.ts';
import { Prng } from '../core/prng.ts';

export interface WorldOptions {
  readonly seed: number;
  /** Shortest and longest ordinary delay of a message (default 20 and 200 µs). */
  readonly delayNs?: readonly [number, number];
  /** Odds that a message takes up to ten times as long, so that others overtake it (default 0.02). */
  readonly lateOdds?: number;
  /** Every message goes through the codec, as on the bus. Slower; without it a core must not keep what it sent. */
  readonly codec?: boolean;
  /** Each thing that happens, for a trace file or a test. */
  onEvent?(at: Nanos, what: string, detail: unknown): void;
}

interface Event {
  readonly at: Nanos;
  readonly seq: number;
  readonly to: Peer;
  /** Which life of the receiver it is for; a wake of an earlier life is dropped. */
  readonly life: number;
  readonly message: { readonly from: Peer; readonly envelope: Envelope } | undefined;
}

interface Resident {
  readonly core: Core;
  readonly life: number;
}

/** Nobody was left to do anything, and what was waited for had not happened. */
export class Stuck extends Error {
  override name = 'Stuck';
}

export class World {
  readonly #options: WorldOptions;
  readonly #prng: Prng;
  readonly #residents = new Map<Peer, Resident>();
  readonly #lastOnSubject = new Map<string, Nanos>();
  readonly #heap = new Heap<Event>();
  #seq = 0;
  #lives = 0;
  #now: Nanos = 0;
  #hashA = 0x811c9dc5;
  #hashB = 0x9747b28c;
  #messages = 0;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.#prng = new Prng(options.seed);
  }

  get now(): Nanos {
    return this.#now;
  }

  get messages(): number {
    return this.#messages;
  }

  /** Sixteen hexadecimal digits over all that happened so far: times, subjects and contents. */
  get traceHash(): string {
    return hex8(this.#hashA) + hex8(this.#hashB);
  }

  /** Starts `core` as `peer`; whoever was there before is gone. */
  add(peer: Peer, core: Core): void {
    this.#residents.set(peer, { core, life: ++this.#lives });
    this.#mix(`start ${peer}`);
    this.#carryOut(peer, core.start(this.#now));
  }

  /** Ends a peer at once, as SIGKILL would. What was on its way to it is lost. */
  remove(peer: Peer): void {
    this.#residents.delete(peer);
    this.#mix(`end ${peer}`);
  }

  has(peer: Peer): boolean {
    return this.#residents.has(peer);
  }

  core(peer: Peer): Core {
    const resident = this.#residents.get(peer);
    assert(resident !== undefined, () => `${peer} is not there`);
    return resident.core;
  }

  peers(): Peer[] {
    return [...this.#residents.keys()];
  }

  /** Runs until `done` says so. Throws Stuck when nothing is left to happen, or when `withinNs` of virtual time passed. */
  run(done: () => boolean, withinNs: Nanos): void {
    const end = this.#now + withinNs;
    while (!done()) {
      const next = this.#heap.peek();
      if (next === undefined) throw new Stuck('nothing is left to happen');
      if (next.at > end) throw new Stuck(`not done within ${withinNs / 1e9} s of virtual time`);
      this.#heap.pop();
      this.#step(next);
    }
  }

  #step(event: Event): void {
    this.#now = event.at;
    const resident = this.#residents.get(event.to);
    if (resident === undefined) return;
    if (event.message === undefined) {
      if (event.life === resident.life) this.#carryOut(event.to, resident.core.wake(this.#now));
      return;
    }
    const { from, envelope } = event.message;
    this.#mixMessage(event.at, from, event.to, envelope);
    this.#options.onEvent?.(this.#now, 'deliver', { from, to: event.to, envelope });
    this.#carryOut(event.to, resident.core.receive(this.#now, from, envelope));
  }

  #carryOut(self: Peer, effects: readonly Effect[]): void {
    for (const effect of effects) {
      switch (effect.do) {
        case 'send':
          this.post(effect.as ?? self, effect.to, effect.envelope);
          break;
        case 'wake':
          this.#push(Math.max(effect.at, this.#now), self, this.#residents.get(self)?.life ?? 0, undefined);
          break;
        case 'trace':
          this.#options.onEvent?.(this.#now, effect.event, effect.detail);
          break;
        default:
          effect satisfies never;
      }
    }
  }

  /** Puts a message on its way, as if `from` had sent it. */
  post(from: Peer, to: Peer, envelope: Envelope): void {
    this.#messages++;
    const isReply = envelope.inReplyTo !== 0 || envelope.body === undefined;
    const subject = subjectOf(to, isReply ? 'reply' : INTERFACE_OF[envelope.body!.$case], from);
    const [least, most] = this.#options.delayNs ?? [20_000, 200_000];
    let delay = least + this.#prng.below(most - least + 1);
    if (this.#prng.chance(this.#options.lateOdds ?? 0.02)) delay *= 1 + this.#prng.below(10);
    const at = Math.max(this.#now + delay, this.#lastOnSubject.get(subject) ?? 0);
    this.#lastOnSubject.set(subject, at);
    const carried = this.#options.codec === true ? decodeEnvelope(encodeEnvelope(envelope)) : envelope;
    this.#push(at, to, 0, { from, envelope: carried });
  }

  #push(at: Nanos, to: Peer, life: number, message: Event['message']): void {
    const event: Event = { at, seq: this.#seq++, to, life, message };
    this.#heap.push(event);
  }

  #mixMessage(at: Nanos, from: Peer, to: Peer, envelope: Envelope): void {
    this.#mixWord(at >>> 0);
    this.#mix(`${from}>${to} ${envelope.body?.$case ?? envelope.refused}`);
    this.#mixWord(envelope.id >>> 0);
    this.#mixWord(envelope.inReplyTo >>> 0);
    const bulk = bulkBytes(envelope);
    if (bulk > BULK_LIMIT) this.#mixWord(bulk);
    else this.#mixBytes(encodeEnvelope(envelope));
  }

  #mixBytes(bytes: Uint8Array): void {
    let a = this.#hashA;
    let b = this.#hashB;
    const whole = bytes.length & ~3;
    for (let i = 0; i < whole; i += 4) {
      const word = bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
      a = Math.imul(a ^ word, 0x01000193);
      b = (Math.imul(b ^ word, 0x85ebca6b) + 0x27d4eb2f) | 0;
    }
    this.#hashA = a >>> 0;
    this.#hashB = b >>> 0;
    for (let i = whole; i < bytes.length; i++) this.#mixWord(bytes[i]!);
    this.#mixWord(bytes.length);
  }

  #mix(text: string): void {
    for (let i = 0; i < text.length; i++) this.#mixWord(text.charCodeAt(i));
  }

  #mixWord(word: number): void {
    this.#hashA = Math.imul(this.#hashA ^ word, 0x01000193) >>> 0;
    this.#hashB = (Math.imul(this.#hashB ^ word, 0x85ebca6b) + 0x27d4eb2f) >>> 0;
  }
}

/** Contents of messages with more data than this are left out of the trace hash; their sizes are in it. */
const BULK_LIMIT = 8192;

function bulkBytes(envelope: Envelope): number {
  const message = envelope.body;
  switch (message?.$case) {
    case 'cpuAccessRequest':
      return message.value.ops.reduce((sum, op) => sum + op.data.length, 0);
    case 'cpuAccessReply':
      return message.value.results.reduce((sum, result) => sum + result.data.length, 0);
    case 'el2Reply':
      return message.value.results.reduce((sum, result) => sum + result.data.length, 0);
    case 'mediaWriteRequest':
      return message.value.pieces.reduce((sum, piece) => sum + piece.data.length, 0);
    default:
      return 0;
  }
}

function hex8(n: number): string {
  return n.toString(16).padStart(8, '0');
}
