/**
 * The store ring of a kernel: packets to and from xenstored through the page that both see (Linux
 * drivers/xen/xenbus/xenbus_comms.c, xenbus_xs.c; docs/misc/xenstore-ring.txt). A turn is one batch that reads the words
 * and the response ring, and one that stores what there is to say; the other end is notified when it may be waiting.
 * The kernel knows the two indices that are its own. When the page has others, the daemon has started again and emptied
 * the ring: everything that has no reply yet is said again. A transaction of before is gone then (ENOENT).
 * Errors: Refused when the daemon has given the ring up (the word `error`); Indefinite when it
 * does not answer in time; BusAbort when there is no such page.
 * Not modelled: asking for a reconnection (the server does not offer it), the `reset_devices` case of a crash kernel.
 */

import {
  RingOutput,
  ringBytes,
  ringPieces,
  ringUsed,
  XENSTORE_CONNECTION,
  XENSTORE_ERROR,
  XENSTORE_RING_SIZE,
  XS_RING,
  XS_RING_WORD,
  xs_ring_words,
} from '../abi/xs-ring.ts';
import { PacketReader, packPacket, XS, type XsPacket, XsProtocolError } from '../abi/xs-wire.ts';
import { AssertionError } from '../core/assert.ts';
import type { Nanos } from '../core/core.ts';
import { LIMITS } from '../core/limits.ts';
import { Indefinite, type Op, Refused, Signal, TimedOut, wait } from '../core/op.ts';
import { type CpuBus, readOp, word, write32Op, writeOp } from './cpu-bus.ts';
import type { XenstoreTransport } from './xenstore-client.ts';

export interface XenstoreRingParts {
  readonly cpu: CpuBus;
  /** IPA of the page (HVM_PARAM_STORE_PFN). */
  readonly pageIpa: number;
  /** Sends on the ring's channel (HVM_PARAM_STORE_EVTCHN). */
  readonly notify: () => Op<void>;
  /** Starts a task of its own. */
  readonly spawn: (op: Op<void>) => void;
  readonly onWatchEvent: (packet: Uint8Array) => void;
  readonly trace: (event: string, detail: unknown) => void;
}

interface Waiting {
  readonly packet: Uint8Array;
  reply: Uint8Array | undefined;
  error: Error | undefined;
  readonly done: Signal<void>;
}

const WORDS_BYTES = xs_ring_words.size;

export class XenstoreRing implements XenstoreTransport {
  readonly #parts: XenstoreRingParts;
  /** By req_id, in the order in which they were said. */
  readonly #waiting = new Map<number, Waiting>();
  readonly #out = new RingOutput();
  #reader = new PacketReader();
  /** The indices that are ours; undefined until the ring was seen connected. */
  #own: { reqProd: number; rspCons: number } | undefined;
  readonly #connected = new Signal<void>();
  #broken: Error | undefined;
  #kicked = false;
  #running = false;
  readonly #counts = { turns: 0, requests: 0, events: 0, notifies: 0, restarts: 0 };

  constructor(parts: XenstoreRingParts) {
    this.#parts = parts;
  }

  inspect(): object {
    return { connected: this.#own !== undefined, broken: this.#broken?.message ?? '', ...this.#counts };
  }

  /** The ring's channel had an event. */
  onEvent(): void {
    this.#kick();
  }

  /** Waits until the daemon serves the ring. Throws Indefinite after `ns`, Refused, BusAbort. */
  *connect(ns: Nanos): Op<void> {
    this.#kick();
    while (this.#own === undefined) {
      if (this.#broken !== undefined) throw this.#broken;
      yield* inTime(wait(this.#connected, ns), 'serve its ring');
    }
  }

  /** Says one packet and gives the reply to it. */
  *exchange(packet: Uint8Array): Op<Uint8Array> {
    if (this.#broken !== undefined) throw this.#broken;
    const reqId = word(packet, 4);
    const waiting: Waiting = { packet, reply: undefined, error: undefined, done: new Signal() };
    this.#waiting.set(reqId, waiting);
    this.#counts.requests++;
    this.#out.push(packet);
    this.#kick();
    try {
      while (waiting.reply === undefined) {
        if (waiting.error !== undefined) throw waiting.error;
        yield* inTime(wait(waiting.done, LIMITS.callDeadlineNs), 'answer on its ring');
      }
      return waiting.reply;
    } finally {
      this.#waiting.delete(reqId);
    }
  }

  #kick(): void {
    this.#kicked = true;
    if (this.#running || this.#broken !== undefined) return;
    this.#running = true;
    this.#parts.spawn(this.#run());
  }

  *#run(): Op<void> {
    try {
      while (this.#kicked && this.#broken === undefined) {
        this.#kicked = false;
        yield* this.#turn();
      }
    } catch (error) {
      if (error instanceof AssertionError || !(error instanceof Error)) throw error;
      this.#break(error);
    } finally {
      this.#running = false;
    }
  }

  *#turn(): Op<void> {
    const { cpu, pageIpa: page } = this.#parts;
    this.#counts.turns++;
    const [head, responses] = yield* cpu.batch([
      readOp(page + XS_RING.words, WORDS_BYTES),
      readOp(page + XS_RING.rsp, XENSTORE_RING_SIZE),
    ]);
    const seen = xs_ring_words.decode(head!);
    if (seen.error !== XENSTORE_ERROR.NONE) throw new Refused(`xenstored gave the ring up with error ${seen.error}`);
    // The daemon notifies when it is there.
    if (seen.connection !== XENSTORE_CONNECTION.CONNECTED) return;
    const toRead = ringUsed(seen.rsp_prod, seen.rsp_cons);
    const toSend = ringUsed(seen.req_prod, seen.req_cons);
    if (toRead > XENSTORE_RING_SIZE || toSend > XENSTORE_RING_SIZE) {
      // Ours were stored while the daemon emptied the ring: it empties it again, or gives it up.
      yield* this.#notify();
      return;
    }
    const own = this.#agree(seen);
    const data = this.#out.take(XENSTORE_RING_SIZE - toSend);
    if (toRead > 0) this.#feed(ringBytes(responses!, own.rspCons, toRead));
    if (toRead === 0 && data.length === 0) return;
    const stores = ringPieces(own.reqProd, data).map((p) => writeOp(page + XS_RING.req + p.at, p.data));
    own.reqProd = (own.reqProd + data.length) >>> 0;
    own.rspCons = (own.rspCons + toRead) >>> 0;
    const results = yield* cpu.batch([
      ...(data.length > 0 ? [...stores, write32Op(page + XS_RING_WORD.req_prod, own.reqProd)] : []),
      write32Op(page + XS_RING_WORD.rsp_cons, own.rspCons),
      readOp(page + XS_RING.words, WORDS_BYTES),
    ]);
    const after = xs_ring_words.decode(results.at(-1)!);
    // The daemon waits for requests, or for room in a ring that it has filled.
    const wasFull = toRead > 0 && ringUsed(after.rsp_prod, seen.rsp_cons) >= XENSTORE_RING_SIZE;
    if (data.length === 0 && !wasFull) return;
    yield* this.#notify();
  }

  *#notify(): Op<void> {
    this.#counts.notifies++;
    yield* this.#parts.notify();
  }

  /** Makes our indices and the page's the same: at first, and when the daemon has started again. */
  #agree({ req_prod, rsp_cons }: { req_prod: number; rsp_cons: number }): { reqProd: number; rspCons: number } {
    const own = this.#own;
    if (own !== undefined && own.reqProd === req_prod && own.rspCons === rsp_cons) return own;
    if (own !== undefined) {
      this.#counts.restarts++;
      this.#parts.trace('xenstore-ring.restarted', { waiting: this.#waiting.size });
      this.#reader = new PacketReader();
      this.#out.clear();
      for (const { packet } of this.#waiting.values()) this.#out.push(packet);
    }
    this.#own = { reqProd: req_prod, rspCons: rsp_cons };
    this.#connected.fire();
    return this.#own;
  }

  #feed(bytes: Uint8Array): void {
    try {
      this.#reader.feed(bytes, (packet) => this.#onPacket(packet));
    } catch (error) {
      if (!(error instanceof XsProtocolError)) throw error;
      throw new Refused(`xenstored does not speak the protocol: ${error.message}`);
    }
  }

  #onPacket({ type, reqId, txId, payload }: XsPacket): void {
    if (type === XS.WATCH_EVENT) {
      this.#counts.events++;
      this.#parts.onWatchEvent(packPacket(type, reqId, txId, payload));
      return;
    }
    // One that nobody waits for any more was given up.
    const waiting = this.#waiting.get(reqId);
    if (waiting === undefined) return;
    waiting.reply = packPacket(type, reqId, txId, payload);
    waiting.done.fire();
  }

  #break(error: Error): void {
    this.#broken = error;
    this.#parts.trace('xenstore-ring.broken', { error: error.message });
    this.#connected.fire();
    for (const waiting of this.#waiting.values()) {
      waiting.error = error;
      waiting.done.fire();
    }
  }
}

function* inTime<T>(op: Op<T>, what: string): Op<T> {
  try {
    return yield* op;
  } catch (error) {
    if (error instanceof TimedOut) throw new Indefinite(`xenstored did not ${what}`);
    throw error;
  }
}
