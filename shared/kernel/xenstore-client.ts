/**
 * The xenstore client of a kernel or a toolstack, as operations over the bus (docs/misc/xenstore.txt).
 * Values are text in UTF-8; `readBytes` gives them raw. A path without a leading `/` is relative to the
 * caller's own `/local/domain/N`.
 * Errors of the store are `XenstoreError`; a store that refuses or does not answer is `Refused` or `Indefinite`.
 * A store that ends and starts again has lost watches and transactions: the client registers its watches anew, whose
 * callbacks are called as at first, and runs a transaction that was open again.
 */

import {
  packPacket,
  packStrings,
  parsePacket,
  parseXsError,
  stringsOf,
  XS,
  type XsErrorName,
  type XsType,
  xsTypeName,
} from '../abi/xs-wire.ts';
import { type Body, body, type Nanos } from '../core/core.ts';
import { call, type Op, Signal, TimedOut, wait } from '../core/op.ts';

/** A transaction that meets a conflict is run again at most so many times. */
const TRANSACTION_TRIES = 64;

/** The store answered with an error. */
export class XenstoreError extends Error {
  override name = 'XenstoreError';
  /** The error as it stands on the wire. */
  readonly code: XsErrorName;

  constructor(code: XsErrorName, request: string) {
    super(`${request}: ${code}`);
    this.code = code;
  }
}

type Send = (type: XsType, txId: number, payload: Uint8Array, about: string) => Op<Uint8Array>;

/** How packets get to the store and their replies back. Watch events come another way. */
export interface XenstoreTransport {
  /** Says one request and gives the reply to it. Throws Refused or Indefinite. */
  exchange(packet: Uint8Array): Op<Uint8Array>;
}

/** The nodes as one transaction sees them, or as they are outside of any. */
export class XenstoreView {
  readonly #txId: number;
  readonly #send: Send;

  constructor(send: Send, txId: number) {
    this.#send = send;
    this.#txId = txId;
  }

  /** The value of a node. Throws ENOENT when it is absent, EACCES when the caller may not know. */
  *read(path: string): Op<string> {
    return new TextDecoder().decode(yield* this.readBytes(path));
  }

  *readBytes(path: string): Op<Uint8Array> {
    return yield* this.request(XS.READ, packStrings(path), path);
  }

  /** Like `read`; undefined for an absent node. */
  *readOrUndefined(path: string): Op<string | undefined> {
    return yield* unlessAbsent(this.read(path));
  }

  /** Writes a node; absent parents are created. */
  *write(path: string, value: string | Uint8Array): Op<void> {
    const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value;
    yield* this.request(XS.WRITE, concat(packStrings(path), bytes), path);
  }

  /** Creates an empty node unless it is there. */
  *mkdir(path: string): Op<void> {
    yield* this.request(XS.MKDIR, packStrings(path), path);
  }

  /** Removes a node and all below it. An absent node below a present parent is no error. */
  *rm(path: string): Op<void> {
    yield* this.request(XS.RM, packStrings(path), path);
  }

  /** The names of a node's children. A list too long for one packet is read in parts. */
  *directory(path: string): Op<string[]> {
    try {
      return stringsOf(yield* this.request(XS.DIRECTORY, packStrings(path), path));
    } catch (error) {
      if (!(error instanceof XenstoreError && error.code === 'E2BIG')) throw error;
    }
    return yield* this.#directoryInParts(path);
  }

  /** Like `directory`; empty for an absent node. */
  *directoryOrEmpty(path: string): Op<string[]> {
    return (yield* unlessAbsent(this.directory(path))) ?? [];
  }

  /** Entries like `n0`, `r5`: the first names the owner and what everybody else may do. */
  *getPerms(path: string): Op<string[]> {
    return stringsOf(yield* this.request(XS.GET_PERMS, packStrings(path), path));
  }

  *setPerms(path: string, perms: readonly string[]): Op<void> {
    yield* this.request(XS.SET_PERMS, packStrings(path, ...perms), path);
  }

  /** One request of any type; gives the payload of its reply. `about` is for the error's text. */
  *request(type: XsType, payload: Uint8Array, about: string): Op<Uint8Array> {
    return yield* this.#send(type, this.#txId, payload, about);
  }

  *#directoryInParts(path: string): Op<string[]> {
    let names: string[] = [];
    let offset = 0;
    let generation: string | undefined;
    for (;;) {
      const payload = yield* this.request(XS.DIRECTORY_PART, packStrings(path, `${offset}`), path);
      const [now, ...part] = stringsOf(payload);
      if (generation !== undefined && now !== generation) {
        // The list changed between two parts: offsets into the old one mean nothing.
        names = [];
        offset = 0;
        generation = undefined;
        continue;
      }
      generation = now;
      const last = part.at(-1) === '';
      if (last) part.pop();
      names.push(...part);
      if (last) return names;
      offset += part.reduce((bytes, name) => bytes + name.length + 1, 0);
    }
  }
}

interface Registration {
  readonly path: string;
  readonly depth: number | undefined;
  readonly callback: (path: string) => void;
}

export class XenstoreClient extends XenstoreView {
  readonly #clock: { readonly now: Nanos };
  readonly #watches = new Map<string, Registration>();
  readonly #send: Send;
  readonly #setTransport: (transport: XenstoreTransport) => void;
  #nextToken = 1;

  /** `clock` is the core's runtime: waits are bounded by its time. */
  constructor(clock: { readonly now: Nanos }) {
    let transport: XenstoreTransport = BUS;
    const send = sender(() => transport);
    super(send, 0);
    this.#send = send;
    this.#clock = clock;
    this.#setTransport = (other) => {
      transport = other;
    };
  }

  /** From now on requests go another way than over the bus. */
  useTransport(transport: XenstoreTransport): void {
    this.#setTransport(transport);
  }

  get now(): Nanos {
    return this.#clock.now;
  }

  /** A watch event from the store: call it with the packet of every `xenstoreWatchEvent`, then answer. */
  onWatchEvent(packet: Uint8Array): void {
    const { payload } = parsePacket(packet);
    const [path, token] = stringsOf(payload);
    if (path === undefined || token === undefined) return;
    // An event may be under way when its watch goes, or be one of an earlier life of this kernel.
    this.#watches.get(token)?.callback(path);
  }

  /**
   * Calls `callback` with the path that changed, once at first and then for every change at or below `path` (with
   * `depth`, at most so many levels below). Tokens are unique in this client. Events merge: read what is there now.
   */
  *watch(path: string, token: string, callback: (path: string) => void, depth?: number): Op<void> {
    if (this.#watches.has(token)) throw new XenstoreError('EEXIST', `WATCH ${path} ${token}`);
    this.#watches.set(token, { path, depth, callback });
    try {
      yield* this.#register(token, path, depth);
    } catch (error) {
      this.#watches.delete(token);
      throw error;
    }
  }

  *unwatch(path: string, token: string): Op<void> {
    this.#watches.delete(token);
    // A store that started again has forgotten it already.
    yield* unlessAbsent(this.request(XS.UNWATCH, packStrings(path, token), path));
  }

  /** The store has started again: call it for `xenstoreRestarted`, and give what it gives as the answer. */
  *onRestarted(): Op<Body> {
    for (const [token, { path, depth }] of [...this.#watches]) {
      yield* this.#register(token, path, depth);
      if (!this.#watches.has(token)) yield* this.unwatch(path, token);
    }
    return body('xenstoreRestartedReply', {});
  }

  /** What a kernel does first: forgets the watches and transactions that an earlier life left behind. */
  *resetWatches(): Op<void> {
    this.#watches.clear();
    yield* this.request(XS.RESET_WATCHES, packStrings(''), '');
  }

  /** Makes the store talk to a domain. Privileged. `gfn` and `port` are those of its store page and channel. */
  *introduce(domid: number, gfn: number, port: number): Op<void> {
    yield* this.request(XS.INTRODUCE, packStrings(`${domid}`, `${gfn}`, `${port}`), `${domid}`);
  }

  /** Ends the connection of a domain; what it owned is removed. Privileged. */
  *release(domid: number): Op<void> {
    yield* this.request(XS.RELEASE, packStrings(`${domid}`), `${domid}`);
  }

  *isIntroduced(domid: number): Op<boolean> {
    return stringsOf(yield* this.request(XS.IS_DOMAIN_INTRODUCED, packStrings(`${domid}`), `${domid}`))[0] === 'T';
  }

  *getDomainPath(domid: number): Op<string> {
    return stringsOf(yield* this.request(XS.GET_DOMAIN_PATH, packStrings(`${domid}`), `${domid}`))[0] ?? '';
  }

  /**
   * Runs `op` in a transaction and commits. What it did is seen whole or not at all. On a conflict it runs again from
   * the start, so it must not keep anything from a run but its result; EAGAIN after 64 conflicts. When it
   * throws, nothing is committed. It also runs again when the store ended and started again meanwhile.
   */
  *transaction<T>(op: (tx: XenstoreView) => Op<T>): Op<T> {
    for (let tries = 1; ; tries++) {
      const id = Number(stringsOf(yield* this.request(XS.TRANSACTION_START, packStrings(''), ''))[0]);
      let result: T;
      try {
        result = yield* op(new XenstoreView(this.#send, id));
      } catch (error) {
        // In a transaction that the store has lost nodes only seemed to be absent.
        const lost = yield* this.#abandon(id);
        if (!lost || tries === TRANSACTION_TRIES) throw error;
        continue;
      }
      try {
        yield* this.#end(id, 'T');
        return result;
      } catch (error) {
        const again = error instanceof XenstoreError && (error.code === 'EAGAIN' || error.code === 'ENOENT');
        if (!again || tries === TRANSACTION_TRIES) throw error;
      }
    }
  }

  /**
   * Waits until `predicate` holds for the value of `path` (undefined while absent), and gives that value.
   * Throws TimedOut when it does not within `ns`.
   */
  *waitFor(path: string, predicate: (value: string | undefined) => boolean, ns: Nanos): Op<string | undefined> {
    const deadline = this.#clock.now + ns;
    const changes = new Changes();
    const token = `wait:${this.#nextToken++}`;
    yield* this.watch(path, token, () => changes.note(), 0);
    try {
      for (;;) {
        const seen = changes.count;
        const value = yield* this.readOrUndefined(path);
        if (predicate(value)) return value;
        yield* changes.since(seen, deadline - this.#clock.now);
      }
    } finally {
      yield* this.unwatch(path, token);
    }
  }

  *#register(token: string, path: string, depth: number | undefined): Op<void> {
    const strings = depth === undefined ? [path, token] : [path, token, `${depth}`];
    try {
      yield* this.request(XS.WATCH, packStrings(...strings), path);
    } catch (error) {
      // Asked again after the store's restart it may be there already: tokens are the client's own.
      if (!(error instanceof XenstoreError && error.code === 'EEXIST')) throw error;
    }
  }

  /**
   * Returns whether the store did not know the transaction any more. A store that cannot be reached drops it by itself;
   * the error that led here says more.
   */
  *#abandon(txId: number): Op<boolean> {
    try {
      yield* this.#end(txId, 'F');
      return false;
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      return error instanceof XenstoreError && error.code === 'ENOENT';
    }
  }

  *#end(txId: number, how: 'T' | 'F'): Op<void> {
    yield* this.#send(XS.TRANSACTION_END, txId, packStrings(how), how);
  }
}

/** Counts what happened, so that what happens between a look and a wait is not missed. */
export class Changes {
  #count = 0;
  readonly #signal = new Signal<void>();

  get count(): number {
    return this.#count;
  }

  note(): void {
    this.#count++;
    this.#signal.fire();
  }

  /** Goes on at once when there was a change after `seen`, else with the next one. Throws TimedOut after `ns`. */
  *since(seen: number, ns: Nanos): Op<void> {
    if (this.#count !== seen) return;
    if (ns <= 0) throw new TimedOut('no change in time');
    yield* wait(this.#signal, ns);
  }
}

const BUS: XenstoreTransport = {
  *exchange(packet) {
    return (yield* call('xenstored', body('xenstoreRequest', { packet }), 'xenstoreReply')).packet;
  },
};

function sender(transport: () => XenstoreTransport): Send {
  let reqId = 0;
  return function* (type, txId, payload, about) {
    reqId = (reqId + 1) >>> 0;
    const packet = packPacket(type, reqId, txId, payload);
    const answer = parsePacket(yield* transport().exchange(packet));
    if (answer.type === XS.ERROR) throw new XenstoreError(parseXsError(answer.payload), `${xsTypeName(type)} ${about}`);
    return answer.payload;
  };
}

function* unlessAbsent<T>(op: Op<T>): Op<T | undefined> {
  try {
    return yield* op;
  } catch (error) {
    if (error instanceof XenstoreError && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
