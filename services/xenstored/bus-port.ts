/**
 * The way to a domain over the bus: replies go as answers, events one at a time, the next when the last was
 * acknowledged, so that their order holds.
 */
import { body, peerOf } from '#shared/core/core.ts';
import { call, Indefinite, type Op, Refused } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { ClientPort } from './connection.ts';

export const EVENT_TIMEOUT_NS = 20e9;

export class BusPort implements ClientPort {
  readonly #runtime: Runtime;
  readonly #domid: number;
  readonly #read: () => void;
  readonly #unread: () => void;
  #delivering = false;
  #closed = false;

  /** `read` is called when an event was read, `unread` when an unprivileged domain left one unread for 20 s. */
  constructor(runtime: Runtime, domid: number, read: () => void, unread: () => void) {
    this.#runtime = runtime;
    this.#domid = domid;
    this.#read = read;
    this.#unread = unread;
  }

  get ready(): boolean {
    return !this.#delivering && !this.#closed;
  }

  write(packet: Uint8Array): void {
    this.#delivering = true;
    this.#runtime.spawn(`event of d${this.#domid}`, this.#deliver(packet));
  }

  /** Requests that wait are held by the daemon: a domain has at most so many running as the runtime allows. */
  setReading(): void {}

  close(): void {
    this.#closed = true;
  }

  *#deliver(packet: Uint8Array): Op<void> {
    const event = body('xenstoreWatchEvent', { packet });
    for (;;) {
      try {
        yield* call(peerOf(this.#domid), event, 'xenstoreWatchEventReply', { deadlineNs: EVENT_TIMEOUT_NS });
        break;
      } catch (error) {
        if (error instanceof Refused) break; // it has no use for it
        if (!(error instanceof Indefinite)) throw error;
        if (this.#closed) return;
        // dom0 may be starting again: what it has not read waits for it.
        if (this.#domid === 0) continue;
        this.#unread();
        return;
      }
    }
    this.#delivering = false;
    this.#read();
  }
}
