/**
 * What dom0's kernel does for xenstored, which runs as a process above it: maps the store page of a domain as
 * /dev/xen/gntdev does, binds and tells of event channels as /dev/xen/evtchn does, and asks Xen about a domain as
 * /dev/xen/privcmd lets it (Linux drivers/xen/gntdev.c, evtchn.c, privcmd.c). An event is told once until it is
 * answered, and those that come meanwhile are told of together.
 * A domain that is mapped again (xenstored has started anew, and its files were closed) loses what it had before.
 * Not modelled: the mask that evtchn.c puts on a port until its event was read; the port stays open, and one message
 * waits in its place. Grants other than the reserved one of the store.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { ERRNO } from '#shared/abi/errno.ts';
import { GNTTAB_RESERVED } from '#shared/abi/grant-table.ts';
import { HVM_PARAM } from '#shared/abi/hvm.ts';
import { AssertionError } from '#shared/core/assert.ts';
import { type Body, body, type Nanos, type Payload } from '#shared/core/core.ts';
import { call, Indefinite, Lock, type Op, Refused, withLock } from '#shared/core/op.ts';
import { mapGrant, unmapGrant } from '#shared/kernel/grants.ts';
import { HypercallFailed } from '#shared/kernel/hypercalls.ts';
import { Changes } from '#shared/kernel/xenstore-client.ts';
import type { Kernel } from './boot.ts';

const NOTHING = { ipa: 0, port: 0, exists: false };

interface Ring {
  readonly domid: number;
  readonly gfn: number;
  readonly handle: number;
  port: number;
  eventPending: boolean;
  telling: boolean;
}

export class StoreRings {
  readonly #kernel: Kernel;
  readonly #rings = new Map<number, Ring>();
  readonly #changes = new Changes();
  readonly #lock = new Lock('gntdev');

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  /** Rings by domid: dom0's port, 0 before it is bound. */
  inspect(): Record<string, { port: number }> {
    return Object.fromEntries([...this.#rings.values()].map(({ domid, port }) => [domid, { port }]));
  }

  /** One request of xenstored. Throws Refused, HypercallFailed or GrantFailed. */
  *serve({ what }: Payload<'storeRingRequest'>): Op<Body> {
    switch (what?.$case) {
      case 'map': {
        const { domid } = what.value;
        const gfn = yield* withLock(this.#lock, () => this.#map(domid));
        return body('storeRingReply', { ...NOTHING, ipa: gfn * XEN_PAGE_SIZE });
      }
      case 'bind': {
        const { domid, remotePort } = what.value;
        const port = yield* withLock(this.#lock, () => this.#bind(domid, remotePort));
        return body('storeRingReply', { ...NOTHING, port });
      }
      case 'notify': {
        const { port } = what.value;
        if (![...this.#rings.values()].some((r) => r.port === port && port !== 0))
          throw new Refused(`port ${port} is not xenstored's`);
        yield* this.#kernel.events.notify(port);
        return body('storeRingReply', { ...NOTHING, port });
      }
      case 'unmap': {
        const { domid } = what.value;
        yield* withLock(this.#lock, () => this.#drop(domid));
        return body('storeRingReply', NOTHING);
      }
      case 'exists':
        return body('storeRingReply', { ...NOTHING, exists: yield* this.#exists(what.value.domid) });
      default:
        throw new Refused('dom0 has no such device');
    }
  }

  /** Waits until nothing of the domain is mapped for xenstored. Throws TimedOut. */
  *waitGone(domid: number, ns: Nanos): Op<void> {
    const { runtime } = this.#kernel;
    const deadline = runtime.now + ns;
    for (;;) {
      const seen = this.#changes.count;
      if (!this.#rings.has(domid)) return;
      yield* this.#changes.since(seen, deadline - runtime.now);
    }
  }

  *#exists(domid: number): Op<boolean> {
    try {
      yield* this.#kernel.hypercalls.getdomaininfo(domid);
      return true;
    } catch (error) {
      if (error instanceof HypercallFailed && error.errno === ERRNO.ESRCH) return false;
      throw error;
    }
  }

  *#map(domid: number): Op<number> {
    const { hypercalls, region } = this.#kernel;
    yield* this.#drop(domid);
    const gfn = region.take();
    try {
      const handle = yield* mapGrant(hypercalls, domid, GNTTAB_RESERVED.xenstore, gfn * XEN_PAGE_SIZE);
      this.#rings.set(domid, { domid, gfn, handle, port: 0, eventPending: false, telling: false });
    } catch (error) {
      region.give(gfn);
      throw error;
    }
    return gfn;
  }

  *#bind(domid: number, remotePort: number): Op<number> {
    const { events, hypercalls } = this.#kernel;
    const ring = this.#rings.get(domid);
    if (ring === undefined) throw new Refused(`no page of domain ${domid} is mapped`);
    if (ring.port !== 0) {
      const { port } = ring;
      ring.port = 0;
      yield* this.#quietly(domid, events.close(port));
    }
    const offered = remotePort || (yield* hypercalls.hvm_get_param(HVM_PARAM.STORE_EVTCHN, domid));
    const port = yield* events.bindInterdomain(domid, offered);
    ring.port = port;
    events.bind(port, () => this.#onEvent(ring));
    return port;
  }

  *#drop(domid: number): Op<void> {
    const { events, hypercalls, region } = this.#kernel;
    const ring = this.#rings.get(domid);
    if (ring === undefined) return;
    const { port, gfn, handle } = ring;
    ring.port = 0;
    if (port !== 0) yield* this.#quietly(domid, events.close(port));
    yield* this.#quietly(domid, unmapGrant(hypercalls, gfn * XEN_PAGE_SIZE, handle));
    this.#rings.delete(domid);
    region.give(gfn);
    this.#changes.note();
  }

  /** The domain may be gone already. */
  *#quietly(domid: number, op: Op<void>): Op<void> {
    try {
      yield* op;
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      this.#kernel.runtime.trace('dom0.store_ring', { domid, error: String(error) });
    }
  }

  #onEvent(ring: Ring): void {
    ring.eventPending = true;
    if (ring.telling) return;
    ring.telling = true;
    this.#kernel.runtime.spawn(`event of d${ring.domid}'s store ring`, this.#tell(ring));
  }

  *#tell(ring: Ring): Op<void> {
    while (ring.eventPending && ring.port !== 0) {
      ring.eventPending = false;
      try {
        yield* call('xenstored', body('storeRingEvent', { port: ring.port }), 'storeRingEventReply');
      } catch (error) {
        if (error instanceof Indefinite) ring.eventPending = true;
        else if (!(error instanceof Refused)) throw error;
      }
    }
    ring.telling = false;
  }
}
