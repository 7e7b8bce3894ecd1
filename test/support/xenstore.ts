/** A store that is spoken to by hand, and a store with kernels on it: both on one queue and one clock. */

import { bytesOf, packPacket, packStrings, parsePacket, textOf, XS } from '#shared/abi/xs-wire.ts';
import { type Body, body, type Core, type Effect, type Nanos, type Peer } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { Runtime, type Service } from '#shared/core/runtime.ts';
import { XenstoreClient } from '#shared/kernel/xenstore-client.ts';
import { createXenstoredCore } from '../../services/xenstored/core.ts';

/** One request, as a conversation says it. */
export interface Saying {
  readonly type: number;
  readonly payload: Uint8Array;
  readonly txId: number;
}

const say = (type: number, payload: Uint8Array, txId = 0): Saying => ({ type, payload, txId });
export const read = (path: string, tx = 0) => say(XS.READ, packStrings(path), tx);
export const write = (path: string, value: string, tx = 0) => say(XS.WRITE, bytesOf(`${path}\0${value}`), tx);
export const mkdir = (path: string, tx = 0) => say(XS.MKDIR, packStrings(path), tx);
export const rm = (path: string, tx = 0) => say(XS.RM, packStrings(path), tx);
export const directory = (path: string, tx = 0) => say(XS.DIRECTORY, packStrings(path), tx);
export const getPerms = (path: string, tx = 0) => say(XS.GET_PERMS, packStrings(path), tx);
export const setPerms = (path: string, perms: string, tx = 0) =>
  say(XS.SET_PERMS, packStrings(path, ...perms.split(',')), tx);
export const watch = (path: string, token: string, ...depth: string[]) =>
  say(XS.WATCH, packStrings(path, token, ...depth));
export const unwatch = (path: string, token: string) => say(XS.UNWATCH, packStrings(path, token));
export const start = () => say(XS.TRANSACTION_START, packStrings(''));
export const end = (tx: number, how: string) => say(XS.TRANSACTION_END, packStrings(how), tx);
export const raw = (type: number, text: string, tx = 0) => say(type, bytesOf(text), tx);
export const introduce = (domid: number) => say(XS.INTRODUCE, packStrings(`${domid}`, '1', '1'));
export const release = (domid: number) => say(XS.RELEASE, packStrings(`${domid}`));

/** What comes back: a reply's strings with commas between, an error's name, or `refused: why`. */
type Heard = string;

/** Whoever speaks here is a script; events are kept until they are asked for. */
export class StoreBench {
  readonly core: Core = createXenstoredCore({ idBase: 0 });
  /** Peers that do not acknowledge their events. */
  readonly deaf = new Set<Peer>();
  now: Nanos = 0;
  #nextId = 1;
  readonly #events = new Map<Peer, string[]>();
  #reply: Heard = '';

  constructor() {
    this.#carryOut(this.core.start(0));
  }

  say(who: Peer, saying: Saying): Heard {
    return this.sayBytes(who, packPacket(saying.type, 7, saying.txId, saying.payload));
  }

  sayBytes(who: Peer, packet: Uint8Array): Heard {
    return this.ask(who, body('xenstoreRequest', { packet }));
  }

  ask(who: Peer, message: Body): Heard {
    this.#reply = 'no answer';
    const envelope = { id: this.#nextId++, inReplyTo: 0, oldestPending: 0, refused: '', body: message };
    this.#carryOut(this.core.receive(this.now, who, envelope));
    return this.#reply;
  }

  /** The events since the last time, as `path token`. */
  hear(who: Peer): string[] {
    const heard = this.#events.get(who) ?? [];
    this.#events.delete(who);
    return heard;
  }

  /** The store's clock goes on; nothing else happens. */
  pass(ns: Nanos): void {
    for (const until = this.now + ns; this.now < until; ) {
      this.now = Math.min(this.now + 1e9, until);
      this.#carryOut(this.core.wake(this.now));
    }
  }

  #carryOut(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.do === 'send') this.#onSent(effect);
      else if (effect.do === 'wake' && effect.at <= this.now) this.#carryOut(this.core.wake(this.now));
    }
  }

  #onSent({ to, envelope }: Extract<Effect, { do: 'send' }>): void {
    const message = envelope.body;
    if (message === undefined) this.#reply = `refused: ${envelope.refused}`;
    else if (message.$case === 'xenstoreReply') this.#reply = heardIn(message.value.packet);
    else if (message.$case === 'inspectReply') this.#reply = message.value.json;
    else if (message.$case === 'xenstoreWatchEvent' && !this.deaf.has(to)) {
      this.#events.set(to, [...(this.#events.get(to) ?? []), eventIn(message.value.packet)]);
      const ack = { id: this.#nextId++, inReplyTo: envelope.id, oldestPending: 0, refused: '' };
      this.#carryOut(this.core.receive(this.now, to, { ...ack, body: body('xenstoreWatchEventReply', {}) }));
    }
  }
}

/** Rows of who, what it says, and what it hears. */
export type Row = readonly [Peer, Saying, Heard] | readonly [Peer, 'hears', readonly string[]];

/** Plays the rows and gives them with what was heard in place of what was expected. */
export function converse(bench: StoreBench, rows: readonly Row[]): Row[] {
  return rows.map((row): Row => {
    const [who, saying] = row;
    if (saying === 'hears') return [who, 'hears', bench.hear(who)];
    return [who, saying, bench.say(who, saying)];
  });
}

/** A kernel that does nothing but what a test spawns on it. */
export class TestKernel implements Service {
  readonly peer: Peer;
  readonly runtime = new Runtime({ idBase: 0 });
  readonly store = new XenstoreClient(this.runtime);

  constructor(peer: Peer) {
    this.peer = peer;
    this.runtime.attach(this);
  }

  onRequest(_from: Peer, message: Body): Body | undefined {
    if (message.$case !== 'xenstoreWatchEvent') return undefined;
    this.store.onWatchEvent(message.value.packet);
    return body('xenstoreWatchEventReply', {});
  }

  inspect(): unknown {
    return {};
  }
}

/** A store and kernels; a message takes 1 ms. */
export class StoreWorld {
  now: Nanos = 0;
  readonly #cores = new Map<Peer, Core>();
  #due: { readonly at: Nanos; readonly run: () => void }[] = [];

  constructor(kernels: readonly TestKernel[]) {
    this.#add('xenstored', createXenstoredCore({ idBase: 0 }));
    for (const kernel of kernels) this.#add(kernel.peer, kernel.runtime);
    this.settle();
  }

  /** Runs an operation of `kernel` to its end and gives what it brought, or throws what it threw. */
  run<T>(kernel: TestKernel, op: Op<T>): T {
    const outcome = this.spawn(kernel, op);
    this.settle();
    if (outcome.error !== undefined) throw outcome.error;
    if (!outcome.done) throw new Error('the operation did not end');
    return outcome.value as T;
  }

  /** Starts an operation of `kernel`; `settle` lets it go on. */
  spawn<T>(kernel: TestKernel, op: Op<T>): { done: boolean; value?: T; error?: unknown } {
    const outcome: { done: boolean; value?: T; error?: unknown } = { done: false };
    const onDone = (value: T): void => {
      outcome.done = true;
      outcome.value = value;
    };
    // The runtime learns what time it is when it is woken.
    this.#carryOut(kernel.peer, kernel.runtime.wake(this.now));
    kernel.runtime.spawn('test', op, onDone, (error) => {
      outcome.error = error;
    });
    this.#carryOut(kernel.peer, kernel.runtime.wake(this.now));
    return outcome;
  }

  /** Goes on until nothing is due any more, or until `until`. */
  settle(until: Nanos = Infinity): void {
    for (;;) {
      this.#due.sort((a, b) => a.at - b.at);
      const next = this.#due[0];
      if (next === undefined || next.at > until) break;
      this.#due.shift();
      this.now = Math.max(this.now, next.at);
      next.run();
    }
    if (until !== Infinity) this.now = until;
  }

  #add(peer: Peer, core: Core): void {
    this.#cores.set(peer, core);
    this.#carryOut(peer, core.start(this.now));
  }

  #carryOut(from: Peer, effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.do === 'wake') this.#later(effect.at, from, (core) => core.wake(this.now));
      else if (effect.do === 'send') {
        const { envelope } = effect;
        this.#later(this.now + 1e6, effect.to, (core) => core.receive(this.now, from, envelope));
      }
    }
  }

  #later(at: Nanos, peer: Peer, what: (core: Core) => readonly Effect[]): void {
    const core = this.#cores.get(peer);
    if (core === undefined) return;
    this.#due.push({ at, run: () => this.#carryOut(peer, what(core)) });
  }
}

function heardIn(packet: Uint8Array): Heard {
  return textOf(parsePacket(packet).payload).replace(/\0$/, '').replaceAll('\0', ',');
}

function eventIn(packet: Uint8Array): string {
  return textOf(parsePacket(packet).payload).replace(/\0$/, '').replaceAll('\0', ' ');
}
