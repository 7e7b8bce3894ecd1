/**
 * Event channels of one domain, 2-level ABI (xen/common/event_channel.c, event_2l.c). The pending, mask and selector
 * words are in the domain's shared info page in the machine's memory and are changed by atomics only, since the guest
 * changes them too.
 * Not modelled: FIFO event channels, bind_ipi, bind_vcpu, bind_pirq (ENOSYS); every port notifies vCPU 0.
 */
import { GUEST_EVTCHN_PPI } from '#shared/abi/arch-arm.ts';
import { EVTCHN_2L_NR_CHANNELS, EVTCHNSTAT, SHARED_INFO } from '#shared/abi/event-channel.ts';
import { VIRQ_DOM_EXC } from '#shared/abi/hypercall.ts';
import { assert } from '#shared/core/assert.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import type { Domain } from '../domain/domain.ts';
import { bytes32, bytes64, type El2, physClearBits, physRead, physSetBits, word } from '../el2.ts';
import { check } from '../error.ts';
import { addressOf } from '../mm/frames.ts';

export type Port =
  | { readonly state: 'unbound'; readonly remoteDomid: number }
  | { readonly state: 'interdomain'; readonly remote: Domain; readonly remotePort: number }
  | { readonly state: 'virq'; readonly virq: number };

export interface PortStatus {
  readonly status: number;
  readonly vcpu: number;
  readonly remoteDomid: number;
  readonly remotePort: number;
}

/** Highest VIRQ + 1 (NR_VIRQS). */
const NR_VIRQS = 24;

export class EventChannels {
  readonly #domain: Domain;
  readonly #el2: El2;
  readonly #ports = new Map<number, Port>();
  readonly #virqs = new Map<number, number>();
  /** d->event_lock: held over changes of the shared page, so that the page does not go away under one. */
  readonly #lock: Lock;
  #closed = false;

  constructor(domain: Domain, el2: El2) {
    this.#domain = domain;
    this.#el2 = el2;
    this.#lock = new Lock(`events of d${domain.domid}`);
  }

  get ports(): ReadonlyMap<number, Port> {
    return this.#ports;
  }

  /** A new port that `remoteDomid` may bind. Throws XenError ENOSPC. */
  allocUnbound(remoteDomid: number): number {
    const port = this.#freePort();
    this.#ports.set(port, { state: 'unbound', remoteDomid });
    return port;
  }

  /**
   * Binds a new local port to an unbound port of `remote` that was offered to this domain, and sets it pending once:
   * what the other end sent before is not lost. Throws XenError EINVAL, ENOSPC.
   */
  *bindInterdomain(remote: Domain, remotePort: number): Op<number> {
    const there = remote.evtchn.#ports.get(remotePort);
    check(
      there?.state === 'unbound' && there.remoteDomid === this.#domain.domid,
      'EINVAL',
      `port ${remotePort} of d${remote.domid} is not offered to d${this.#domain.domid}`,
    );
    const port = this.#freePort();
    this.#ports.set(port, { state: 'interdomain', remote, remotePort });
    remote.evtchn.#ports.set(remotePort, { state: 'interdomain', remote: this.#domain, remotePort: port });
    yield* this.#setPending(port);
    return port;
  }

  /** Throws XenError EINVAL, ENOENT (no such vCPU), EEXIST, EBUSY (a global VIRQ is the hardware domain's), ENOSPC. */
  bindVirq(virq: number, vcpu: number): number {
    check(virq < NR_VIRQS, 'EINVAL', `VIRQ ${virq}`);
    check(virq !== VIRQ_DOM_EXC || vcpu === 0, 'EINVAL', 'a global VIRQ goes to vCPU 0');
    check(vcpu < this.#domain.vcpus.length, 'ENOENT', `vCPU ${vcpu}`);
    check(virq !== VIRQ_DOM_EXC || this.#domain.privileged, 'EBUSY', 'VIRQ_DOM_EXC is the hardware domain’s');
    check(!this.#virqs.has(virq), 'EEXIST', `VIRQ ${virq} is bound`);
    const port = this.#freePort();
    this.#ports.set(port, { state: 'virq', virq });
    this.#virqs.set(virq, port);
    return port;
  }

  /** Frees a port; the other end of an interdomain one becomes unbound again. Throws XenError EINVAL. */
  *close(port: number): Op<void> {
    const entry = this.#ports.get(port);
    check(entry !== undefined, 'EINVAL', `port ${port} is free`);
    this.#forget(port, entry);
    yield* withLock(this.#lock, () => this.#clearPending(port));
  }

  /** Notifies the other end; on an unbound port nothing happens, as in Xen. Throws XenError EINVAL. */
  *send(port: number): Op<void> {
    const entry = this.#ports.get(port);
    check(entry !== undefined && entry.state !== 'virq', 'EINVAL', `port ${port} cannot send`);
    if (entry.state === 'interdomain') yield* entry.remote.evtchn.#setPending(entry.remotePort);
  }

  /** Throws XenError EINVAL beyond the table. */
  status(port: number): PortStatus {
    check(port >= 0 && port < EVTCHN_2L_NR_CHANNELS, 'EINVAL', `port ${port}`);
    const entry = this.#ports.get(port);
    const none = { vcpu: 0, remoteDomid: 0, remotePort: 0 };
    switch (entry?.state) {
      case undefined:
        return { ...none, status: EVTCHNSTAT.closed };
      case 'unbound':
        return { ...none, status: EVTCHNSTAT.unbound, remoteDomid: entry.remoteDomid };
      case 'interdomain':
        return {
          ...none,
          status: EVTCHNSTAT.interdomain,
          remoteDomid: entry.remote.domid,
          remotePort: entry.remotePort,
        };
      case 'virq':
        return { ...none, status: EVTCHNSTAT.virq, remotePort: entry.virq };
      default:
        return entry satisfies never;
    }
  }

  /** Clears the mask bit; what was pending behind it is delivered. Throws XenError EINVAL. */
  *unmask(port: number): Op<void> {
    check(this.#ports.has(port), 'EINVAL', `port ${port} is free`);
    yield* withLock(this.#lock, () => this.#unmaskLocked(port));
  }

  /** Closes every port. */
  *reset(): Op<void> {
    for (const port of [...this.#ports.keys()]) yield* this.close(port);
  }

  /** Raises a VIRQ; false when nobody has bound it. */
  *raiseVirq(virq: number): Op<boolean> {
    const port = this.#virqs.get(virq);
    if (port === undefined) return false;
    yield* this.#setPending(port);
    return true;
  }

  /** The domain ends: all ports close, and the shared page is not touched any more when this returns. */
  *destroy(): Op<void> {
    this.#closed = true;
    for (const [port, entry] of [...this.#ports]) this.#forget(port, entry);
    yield* withLock(this.#lock, () => this.#el2.batch([]));
  }

  #forget(port: number, entry: Port): void {
    if (entry.state === 'interdomain') {
      const back = entry.remote.evtchn.#ports.get(entry.remotePort);
      assert(
        back?.state === 'interdomain' && back.remotePort === port,
        `port ${port} of d${this.#domain.domid} is bound on one side only`,
      );
      entry.remote.evtchn.#ports.set(entry.remotePort, { state: 'unbound', remoteDomid: this.#domain.domid });
    }
    if (entry.state === 'virq') this.#virqs.delete(entry.virq);
    this.#ports.delete(port);
  }

  #freePort(): number {
    const max = Math.min(this.#domain.config.eventPortsMax, EVTCHN_2L_NR_CHANNELS - 1);
    for (let port = 1; port <= max; port++) if (!this.#ports.has(port)) return port;
    check(false, 'ENOSPC', `d${this.#domain.domid} has ${this.#ports.size} ports`);
  }

  *#setPending(port: number): Op<void> {
    yield* withLock(this.#lock, () => this.#setPendingLocked(port));
  }

  /** evtchn_2l_set_pending */
  *#setPendingLocked(port: number): Op<void> {
    if (this.#closed || !this.#ports.has(port)) return;
    const at = this.#page + 8 * Math.floor(port / 64);
    const [pending, mask] = yield* this.#el2.batch([
      physSetBits(at + SHARED_INFO.evtchn_pending, bit64(port % 64)),
      physRead(at + SHARED_INFO.evtchn_mask, 8),
    ]);
    if (hasBit(pending!.data, port % 64) || hasBit(mask!.data, port % 64)) return;
    yield* this.#select(port);
  }

  *#unmaskLocked(port: number): Op<void> {
    if (this.#closed) return;
    const at = this.#page + 8 * Math.floor(port / 64);
    const [mask, pending] = yield* this.#el2.batch([
      physClearBits(at + SHARED_INFO.evtchn_mask, bit64(port % 64)),
      physRead(at + SHARED_INFO.evtchn_pending, 8),
    ]);
    if (hasBit(mask!.data, port % 64) && hasBit(pending!.data, port % 64)) yield* this.#select(port);
  }

  *#clearPending(port: number): Op<void> {
    if (this.#closed) return;
    const at = this.#page + SHARED_INFO.evtchn_pending + 8 * Math.floor(port / 64);
    yield* this.#el2.batch([physClearBits(at, bit64(port % 64))]);
  }

  /** vcpu_mark_events_pending: the selector bit, then the upcall flag, then the PPI when the flag was clear. */
  *#select(port: number): Op<void> {
    const [, flag] = yield* this.#el2.batch([
      physSetBits(this.#page + SHARED_INFO.evtchn_pending_sel, bit64(Math.floor(port / 64))),
      physSetBits(this.#page + SHARED_INFO.evtchn_upcall_pending, bytes32(1)),
    ]);
    if ((word(flag!.data) & 0xff) === 0) this.#domain.inject(GUEST_EVTCHN_PPI);
  }

  get #page(): number {
    return addressOf(this.#domain.sharedInfoMfn);
  }
}

function bit64(bit: number): Uint8Array {
  return bit < 32 ? bytes64(1 << bit, 0) : bytes64(0, 1 << (bit - 32));
}

function hasBit(data: Uint8Array, bit: number): boolean {
  return ((data[bit >> 3]! >> (bit & 7)) & 1) === 1;
}
