/**
 * Event channels of a kernel: the 2-level ABI over the shared info page (xen/include/public/xen.h, "Event channel
 * endpoints per domain"; Linux drivers/xen/events/events_2l.c). Used by dom0 and by guests, one virtual CPU.
 * An upcall is two CPU messages: look (clear evtchn_upcall_pending, take evtchn_pending_sel by exchange, read the
 * pending and mask words), then take (clear the bits that are served). A masked port stays pending.
 * Not modelled: the FIFO ABI and per-port priorities; ports are served lowest first.
 */
import { EVTCHN_2L_NR_CHANNELS, SHARED_INFO } from '../abi/event-channel.ts';
import { DOMID_SELF } from '../abi/hypercall.ts';
import { assert } from '../core/assert.ts';
import { Lock, type Op, withLock } from '../core/op.ts';
import { type CpuBus, clearBitsOp, le64, readOp, swapOp, word, writeOp } from './cpu-bus.ts';
import type { Hypercalls } from './hypercalls.ts';

/** Runs when the port has an event. It must not wait for another event: handlers run one after another. */
export type EventHandler = () => Op<void> | void;

const WORDS = EVTCHN_2L_NR_CHANNELS / 64;

export class EventChannels {
  readonly #cpu: CpuBus;
  readonly #hypercalls: Hypercalls;
  readonly #sharedInfo: number;
  readonly #vcpu: number;
  readonly #handlers = new Map<number, EventHandler>();
  /** Ports that had an event while nothing was bound to them: a port is pending before its number is known here. */
  readonly #early = new Set<number>();
  #deferred: Op<void>[] = [];
  readonly #lock = new Lock('event channel upcall');
  #upcalls = 0;
  #events = 0;

  /** `sharedInfoIpa` is where the shared info page is mapped. */
  constructor(cpu: CpuBus, hypercalls: Hypercalls, sharedInfoIpa: number, vcpu = 0) {
    this.#cpu = cpu;
    this.#hypercalls = hypercalls;
    this.#sharedInfo = sharedInfoIpa;
    this.#vcpu = vcpu;
  }

  /** Upcalls taken and events served since the start. */
  get counts(): { readonly upcalls: number; readonly events: number; readonly bound: number } {
    return { upcalls: this.#upcalls, events: this.#events, bound: this.#handlers.size };
  }

  /**
   * Runs `handler` at every event of `port`, and once now when one came before it was bound (an operation that the
   * handler gives then runs with the next upcall). One handler a port.
   */
  bind(port: number, handler: EventHandler): void {
    assert(port > 0 && port < EVTCHN_2L_NR_CHANNELS, () => `event channel port ${port}`);
    assert(!this.#handlers.has(port), () => `event channel port ${port} has a handler`);
    this.#handlers.set(port, handler);
    if (!this.#early.delete(port)) return;
    this.#events++;
    const op = handler();
    if (op !== undefined) this.#deferred.push(op);
  }

  unbind(port: number): void {
    this.#handlers.delete(port);
    this.#early.delete(port);
  }

  /** Serves what is pending. For the upcall interrupt; calls that overlap run one after another. */
  onUpcall(): Op<void> {
    return withLock(this.#lock, () => this.#serve());
  }

  *#serve(): Op<void> {
    this.#upcalls++;
    const info = this.#sharedInfo + this.#vcpu * SHARED_INFO.vcpu_info_bytes;
    // Pending is cleared before the selector is taken: an event after that raises the upcall anew.
    const [, taken, pending, mask] = yield* this.#cpu.batch([
      writeOp(info + SHARED_INFO.evtchn_upcall_pending, Uint8Array.of(0)),
      swapOp(info + SHARED_INFO.evtchn_pending_sel, new Uint8Array(8)),
      readOp(this.#sharedInfo + SHARED_INFO.evtchn_pending, WORDS * 8),
      readOp(this.#sharedInfo + SHARED_INFO.evtchn_mask, WORDS * 8),
    ]);
    const ports: number[] = [];
    const takes = [];
    for (let w = 0; w < WORDS; w++) {
      if (((word(taken!, (w >>> 5) * 4) >>> (w & 31)) & 1) === 0) continue;
      const lo = (word(pending!, w * 8) & ~word(mask!, w * 8)) >>> 0;
      const hi = (word(pending!, w * 8 + 4) & ~word(mask!, w * 8 + 4)) >>> 0;
      if (lo === 0 && hi === 0) continue;
      takes.push(clearBitsOp(this.#sharedInfo + SHARED_INFO.evtchn_pending + w * 8, le64(lo, hi)));
      for (let bit = 0; bit < 64; bit++) {
        if ((((bit < 32 ? lo : hi) >>> (bit & 31)) & 1) !== 0) ports.push(w * 64 + bit);
      }
    }
    if (takes.length > 0) yield* this.#cpu.batch(takes);
    for (const op of this.#deferred.splice(0)) yield* op;
    for (const port of ports) yield* this.#run(port);
  }

  *#run(port: number): Op<void> {
    const handler = this.#handlers.get(port);
    if (handler === undefined) {
      this.#early.add(port);
      return;
    }
    this.#events++;
    const op = handler();
    if (op !== undefined) yield* op;
  }

  /** EVTCHNOP_alloc_unbound: a port of ours that `remoteDomid` may bind. */
  *allocUnbound(remoteDomid: number): Op<number> {
    return yield* this.#hypercalls.evtchn_alloc_unbound(DOMID_SELF, remoteDomid);
  }

  /** EVTCHNOP_bind_interdomain: our end of an unbound port that `remoteDomid` offers. It has an event at once. */
  *bindInterdomain(remoteDomid: number, remotePort: number): Op<number> {
    return yield* this.#hypercalls.evtchn_bind_interdomain(remoteDomid, remotePort);
  }

  /** EVTCHNOP_bind_virq on this virtual CPU. */
  *bindVirq(virq: number): Op<number> {
    return yield* this.#hypercalls.evtchn_bind_virq(virq, this.#vcpu);
  }

  /** EVTCHNOP_send. */
  *notify(port: number): Op<void> {
    yield* this.#hypercalls.evtchn_send(port);
  }

  /** Holds events of the port back: they stay pending in the page. */
  *mask(port: number): Op<void> {
    yield* this.#cpu.setBits32(this.#maskWord(port), 1 << (port & 31));
  }

  /** EVTCHNOP_unmask: an event that was held back raises the upcall. */
  *unmask(port: number): Op<void> {
    yield* this.#hypercalls.evtchn_unmask(port);
  }

  /** Unbinds the handler, drops what is pending, and closes the port (EVTCHNOP_close). */
  *close(port: number): Op<void> {
    this.unbind(port);
    // The number may be used again, and must not come with an event of its last life.
    yield* this.#cpu.clearBits32(this.#sharedInfo + SHARED_INFO.evtchn_pending + (port >>> 5) * 4, 1 << (port & 31));
    yield* this.#hypercalls.evtchn_close(port);
  }

  #maskWord(port: number): number {
    return this.#sharedInfo + SHARED_INFO.evtchn_mask + (port >>> 5) * 4;
  }
}
