/**
 * The store ring of one domain, from the daemon's side (tools/xenstored/domain.c): the page is mapped and its channel
 * bound through dom0's kernel, and every look at it and every change of it is an access of dom0's CPUs
 * (docs/decisions/0017). A turn is one batch that reads both index pairs and the request ring, and one that writes what
 * was answered; then the domain is notified.
 * Indices are taken from the page at each turn and checked: a guest that rewrites them misleads itself only. Bad indices
 * set the word `error` to 2, a header that is none to 3, a client that does not read to 1, and the ring is dead until
 * the domain is introduced again. What does not fit waits here, and nobody else waits for it.
 * The connection is made with the first byte of a request: a domain that speaks over the bus has no second one.
 * A daemon that has started again empties the rings too, and starts their indices half of 2^32 away from where they were:
 * an index that the guest was about to store when that happened is bad, and the rings are emptied once more.
 * Deviates: a turn takes all that is in the request ring, where xenstored takes one message at a time; INTRODUCE is
 * answered before the page is mapped, and `connection` says 1 until it is; a page that cannot be mapped is traced, and
 * the domain has its connection over the bus only.
 * Not modelled: XENSTORE_SERVER_FEATURE_RECONNECTION (not offered, as in C xenstored): a guest that sets `connection` to
 * 1 is served on; dom0's own ring.
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
} from '#shared/abi/xs-ring.ts';
import { PacketReader, XsProtocolError } from '#shared/abi/xs-wire.ts';
import { AssertionError } from '#shared/core/assert.ts';
import { body, type Nanos, type Payload } from '#shared/core/core.ts';
import { call, type Op, Refused } from '#shared/core/op.ts';
import { CpuBus, readOp, write32Op, writeOp } from '#shared/kernel/cpu-bus.ts';
import type { ClientPort, Connection } from './connection.ts';
import type { StoreDaemon } from './daemon.ts';

/** What runs a ring: the service's runtime. */
export interface RingRunner {
  readonly now: Nanos;
  at(at: Nanos, run: () => void): () => void;
  spawn(name: string, op: Op<void>): void;
  trace(event: string, detail: unknown): void;
}

export type RingDaemon = Pick<StoreDaemon, 'attach' | 'detach' | 'receive' | 'resume' | 'ignore' | 'domains'>;

type What = NonNullable<Payload<'storeRingRequest'>['what']>;
type Words = ReturnType<typeof xs_ring_words.decode>;

const WORDS_BYTES = xs_ring_words.size;
const INDICES_BYTES = 16;
const HALF = 2 ** 31;
/** How often the rings of a guest that has not seen the restart yet are emptied. */
const RESTARTS_SEEN_LATE_MAX = 8;

export class StoreRing implements ClientPort {
  readonly domid: number;
  readonly #runner: RingRunner;
  readonly #daemon: RingDaemon;
  readonly #cpu = new CpuBus();
  readonly #gone: () => void;
  #state: 'closed' | 'opening' | 'open' | 'broken' = 'closed';
  /** The port that the domain offers, when it is to be opened (again). */
  #openWith: number | undefined;
  #mapped = false;
  #page = -1;
  /** dom0's end of the channel; 0 while there is none. */
  #port = 0;
  #connection: Connection | undefined;
  #reader = new PacketReader();
  readonly #out = new RingOutput();
  #reading = true;
  /** Says why, once it is to be written into the page. */
  #error: number = XENSTORE_ERROR.NONE;
  /** Bad indices may still be those of before the daemon's restart, so many times. */
  #lateLeft = 0;
  #feeding = false;
  #kicked = false;
  #running = false;
  readonly #counts = { turns: 0, requestBytes: 0, responseBytes: 0, notifies: 0 };

  /** `gone` is called when the page is unmapped after `release`. */
  constructor(runner: RingRunner, daemon: RingDaemon, domid: number, gone: () => void) {
    this.#runner = runner;
    this.#daemon = daemon;
    this.domid = domid;
    this.#gone = gone;
  }

  get port(): number {
    return this.#port;
  }

  inspect(): object {
    return { state: this.#state, error: this.#error, waitingBytes: this.#out.bytes, ...this.#counts };
  }

  /**
   * The domain was introduced, perhaps again: maps its page, binds the port that it offers, and starts from nothing. A
   * port of 0 is one that the daemon does not know any more since it has started again: dom0's kernel asks Xen for it.
   */
  open(remotePort: number): void {
    this.#endConnection('opening');
    this.#openWith = remotePort;
    this.kick();
  }

  /** The domain was released. */
  release(): void {
    this.#endConnection('closed');
    this.#openWith = undefined;
    this.kick();
  }

  /** The channel had an event, or something else changed. */
  kick(): void {
    if (this.#kicked) return;
    this.#kicked = true;
    // What one step of the daemon says goes out together.
    if (!this.#running) this.#runner.at(this.#runner.now, () => this.#start());
  }

  // The connection's way out

  get ready(): boolean {
    return this.#state === 'open' && this.#error === XENSTORE_ERROR.NONE && this.#out.bytes < XENSTORE_RING_SIZE;
  }

  write(packet: Uint8Array): void {
    this.#out.push(packet);
    // What a turn causes it takes along itself.
    if (!this.#feeding) this.kick();
  }

  setReading(on: boolean): void {
    this.#reading = on;
    if (on) this.kick();
  }

  /** The daemon gave the connection up. */
  close(): void {
    if (this.#state === 'open') this.#fail(XENSTORE_ERROR.COMM);
  }

  // Turns

  #start(): void {
    if (this.#running || !this.#kicked) return;
    this.#running = true;
    this.#runner.spawn(`store ring of d${this.domid}`, this.#run());
  }

  *#run(): Op<void> {
    while (this.#kicked) {
      this.#kicked = false;
      try {
        yield* this.#step();
      } catch (error) {
        if (error instanceof AssertionError) throw error;
        // dom0's kernel or its CPUs do not do it: nothing can be said in the page any more.
        this.#runner.trace('xenstored.ring', { domid: this.domid, error: String(error) });
        if (this.#openWith === undefined && this.#state !== 'closed') {
          this.#endConnection('broken');
          this.#error = XENSTORE_ERROR.COMM;
        }
      }
    }
    this.#running = false;
    if (this.#state === 'closed') this.#gone();
  }

  *#step(): Op<void> {
    if (this.#openWith !== undefined) {
      const port = this.#openWith;
      this.#openWith = undefined;
      yield* this.#open(port);
      return;
    }
    if (this.#state === 'closed') {
      if (!this.#mapped) return;
      this.#mapped = false;
      this.#port = 0;
      yield* this.#ask({ $case: 'unmap', value: { domid: this.domid } });
      return;
    }
    if (this.#state !== 'open') return;
    if (this.#error === XENSTORE_ERROR.NONE) yield* this.#turn();
    if (this.#error !== XENSTORE_ERROR.NONE && this.#isOpen) yield* this.#writeError();
  }

  *#open(remotePort: number): Op<void> {
    const { domid } = this;
    this.#mapped = true;
    const { ipa } = yield* this.#ask({ $case: 'map', value: { domid } });
    const before = xs_ring_words.decode(yield* this.#cpu.read(ipa + XS_RING.words, WORDS_BYTES));
    // The page may name the port itself (dom0less); it goes before the one of INTRODUCE.
    const offered = before.evtchn_port || remotePort;
    const { port } = yield* this.#ask({ $case: 'bind', value: { domid, remotePort: offered } });
    if (!this.#isOpening) return;
    const restarted = remotePort === 0;
    const start = restarted ? before.req_prod + HALF : 0;
    this.#lateLeft = restarted ? RESTARTS_SEEN_LATE_MAX : 0;
    const words = xs_ring_words.encode({
      ...indicesAt(start),
      server_features: this.#daemon.domains.get(domid)?.features ?? 0,
      connection: XENSTORE_CONNECTION.CONNECTED,
      error: XENSTORE_ERROR.NONE,
    });
    // All but evtchn_port, which is not the daemon's.
    yield* this.#cpu.batch([writeOp(ipa + XS_RING.words, words.subarray(0, WORDS_BYTES - 4))]);
    if (!this.#isOpening) return;
    this.#page = ipa;
    this.#port = port;
    this.#reader = new PacketReader();
    this.#out.clear();
    this.#reading = true;
    this.#error = XENSTORE_ERROR.NONE;
    this.#state = 'open';
    this.#kicked = true;
    this.#runner.trace('xenstored.ring_open', { domid, port });
    yield* this.#notify();
  }

  *#turn(): Op<void> {
    const page = this.#page;
    this.#counts.turns++;
    const [head, requests] = yield* this.#cpu.batch([
      readOp(page + XS_RING.words, WORDS_BYTES),
      readOp(page + XS_RING.req, XENSTORE_RING_SIZE),
    ]);
    if (!this.#isOpen) return;
    const seen = xs_ring_words.decode(head!);
    if (!indicesGood(seen) && this.#lateLeft > 0) {
      this.#lateLeft--;
      const words = xs_ring_words.encode(indicesAt(seen.req_prod + HALF));
      yield* this.#cpu.batch([writeOp(page + XS_RING.words, words.subarray(0, INDICES_BYTES))]);
      if (this.#isOpen) yield* this.#notify();
      return;
    }
    if (!indicesGood(seen)) {
      this.#runner.trace('xenstored.ring_indices', { domid: this.domid, ...seen });
      this.#fail(XENSTORE_ERROR.RINGIDX);
      return;
    }
    const taken = this.#reading ? ringUsed(seen.req_prod, seen.req_cons) : 0;
    if (taken > 0) this.#lateLeft = 0;
    if (taken > 0 && !this.#feed(ringBytes(requests!, seen.req_cons, taken))) return;
    const wasReady = this.ready;
    const data = this.#out.take(XENSTORE_RING_SIZE - ringUsed(seen.rsp_prod, seen.rsp_cons));
    if (taken === 0 && data.length === 0) return;
    const ops = ringPieces(seen.rsp_prod, data).map((p) => writeOp(page + XS_RING.rsp + p.at, p.data));
    const results = yield* this.#cpu.batch([
      write32Op(page + XS_RING_WORD.req_cons, seen.req_cons + taken),
      ...(data.length > 0 ? [...ops, write32Op(page + XS_RING_WORD.rsp_prod, seen.rsp_prod + data.length)] : []),
      readOp(page + XS_RING.words, WORDS_BYTES),
    ]);
    this.#counts.requestBytes += taken;
    this.#counts.responseBytes += data.length;
    if (!this.#isOpen) return;
    // The guest may have seen the indices as they were, and not have notified of what it did since.
    const after = xs_ring_words.decode(results.at(-1)!);
    const requestsThere = this.#reading && after.req_prod !== after.req_cons;
    const roomThere = ringUsed(after.rsp_prod, after.rsp_cons) !== XENSTORE_RING_SIZE;
    if (requestsThere || (this.#out.bytes > 0 && roomThere)) this.#kicked = true;
    yield* this.#notify();
    if (!wasReady && this.ready && this.#connection !== undefined) this.#daemon.resume(this.#connection);
  }

  /** Gives bytes of requests to the daemon. False when the ring is of no further use. */
  #feed(bytes: Uint8Array): boolean {
    this.#connection ??= this.#daemon.attach(this.domid, this);
    const connection = this.#connection;
    this.#feeding = true;
    try {
      this.#reader.feed(bytes, (packet) => this.#daemon.receive(connection, packet));
    } catch (error) {
      if (!(error instanceof XsProtocolError)) throw error;
      this.#runner.trace('xenstored.ring_protocol', { domid: this.domid, error: error.message });
      this.#fail(XENSTORE_ERROR.PROTO);
    } finally {
      this.#feeding = false;
    }
    return this.#isOpen && this.#error === XENSTORE_ERROR.NONE;
  }

  /** Bad input, or a client that is given up: the error word is written in the next step. */
  #fail(error: number): void {
    if (this.#error !== XENSTORE_ERROR.NONE) return;
    this.#error = error;
    const connection = this.#connection;
    this.#connection = undefined;
    this.#out.clear();
    if (connection !== undefined && !connection.closed) this.#daemon.ignore(connection, `store ring error ${error}`);
    this.kick();
  }

  *#writeError(): Op<void> {
    yield* this.#cpu.batch([write32Op(this.#page + XS_RING_WORD.error, this.#error)]);
    if (!this.#isOpen) return;
    this.#state = 'broken';
    yield* this.#notify();
  }

  #endConnection(next: 'closed' | 'opening' | 'broken'): void {
    this.#state = next;
    this.#out.clear();
    const connection = this.#connection;
    this.#connection = undefined;
    if (connection !== undefined && !connection.closed) this.#daemon.detach(connection);
  }

  /** The state may have changed while an operation waited. */
  get #isOpen(): boolean {
    return this.#state === 'open' && this.#openWith === undefined;
  }

  get #isOpening(): boolean {
    return this.#state === 'opening' && this.#openWith === undefined;
  }

  /** A domain that is gone, or whose end is closed, hears nothing; that is no failure of the ring. */
  *#notify(): Op<void> {
    this.#counts.notifies++;
    try {
      yield* this.#ask({ $case: 'notify', value: { port: this.#port } });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#runner.trace('xenstored.ring_notify', { domid: this.domid, error: error.message });
    }
  }

  #ask(what: What): Op<Payload<'storeRingReply'>> {
    return call('d0', body('storeRingRequest', { what }), 'storeRingReply');
  }
}

function indicesAt(start: number): Pick<Words, 'req_cons' | 'req_prod' | 'rsp_cons' | 'rsp_prod'> {
  const at = start >>> 0;
  return { req_cons: at, req_prod: at, rsp_cons: at, rsp_prod: at };
}

function indicesGood({ req_prod, req_cons, rsp_prod, rsp_cons }: Words): boolean {
  return ringUsed(req_prod, req_cons) <= XENSTORE_RING_SIZE && ringUsed(rsp_prod, rsp_cons) <= XENSTORE_RING_SIZE;
}
