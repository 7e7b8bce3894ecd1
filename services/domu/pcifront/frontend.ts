/**
 * The frontend's side of the handshake (Linux drivers/pci/xen-pcifront.c; xen/include/public/io/xenbus.h): publish a
 * page and a port, connect, follow the backend through hot add and hot remove, close.
 * One task looks at both states whenever either may have changed and acts on what it sees, so a notification that
 * was merged with another one loses nothing. A backend that starts over (2 or 3 while we are connected) is given a new
 * page and port.
 * Not modelled: suspend and resume; AER.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { ERRNO } from '#shared/abi/errno.ts';
import { XEN_PCI_MAGIC } from '#shared/abi/pciif.ts';
import { XenbusState, xenbusStateName } from '#shared/abi/xenbus.ts';
import { AssertionError } from '#shared/core/assert.ts';
import { Indefinite, type Op, Refused, TimedOut } from '#shared/core/op.ts';
import { sbdf as makeSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import type { EventChannels } from '#shared/kernel/event-channels.ts';
import type { GrantTable } from '#shared/kernel/grants.ts';
import { type Transitions, transition, XenbusDevice } from '#shared/kernel/xenbus.ts';
import { Changes, type XenstoreClient } from '#shared/kernel/xenstore-client.ts';
import type { Pages } from '../kernel/pages.ts';
import type { GuestBus, PciRoot } from './hotplug.ts';
import type { PciifRequests } from './requests.ts';

export const FRONTEND_PATH = 'device/pci/0';

type Action = 'publish' | 'republish' | 'connect' | 'detach' | 'attach' | 'disconnect';

/** Our state, what the backend became, what we do, the state that follows. What is not here is waited out. */
export const FRONTEND: Transitions<Action> = {
  Initialising: {
    Unknown: ['publish', 'Initialised'],
    Initialising: ['publish', 'Initialised'],
    InitWait: ['publish', 'Initialised'],
    Initialised: ['publish', 'Initialised'],
    Connected: ['publish', 'Initialised'],
    Reconfiguring: ['publish', 'Initialised'],
    Reconfigured: ['publish', 'Initialised'],
    Closing: ['disconnect', 'Closed'],
    Closed: ['disconnect', 'Closed'],
  },
  Initialised: {
    Connected: ['connect', 'Connected'],
    Closing: ['disconnect', 'Closed'],
    Closed: ['disconnect', 'Closed'],
  },
  Connected: {
    InitWait: ['republish', 'Initialised'],
    Initialised: ['republish', 'Initialised'],
    Reconfiguring: ['detach', 'Reconfiguring'],
    Closing: ['disconnect', 'Closed'],
    Closed: ['disconnect', 'Closed'],
  },
  Reconfiguring: {
    InitWait: ['republish', 'Initialised'],
    Initialised: ['republish', 'Initialised'],
    // Reconfigured was missed: the backend is back already.
    Connected: ['attach', 'Connected'],
    Reconfigured: ['attach', 'Connected'],
    Closing: ['disconnect', 'Closed'],
    Closed: ['disconnect', 'Closed'],
  },
  Closing: {
    Unknown: ['disconnect', 'Closed'],
    Closing: ['disconnect', 'Closed'],
    Closed: ['disconnect', 'Closed'],
  },
};

export interface FrontendParts {
  readonly store: XenstoreClient;
  readonly pages: Pages;
  readonly grants: GrantTable;
  readonly events: EventChannels;
  readonly requests: PciifRequests;
  readonly bus: GuestBus;
  trace(event: string, detail: unknown): void;
}

/** What one connection shares with the backend. */
interface Shared {
  readonly pageIpa: number;
  readonly ref: number;
  readonly port: number;
}

const RETRY_NS = 1e9;
/** Indices that a broken `num_devs` or `root_num` may make us read. */
const INDEX_MAX = 256;

export class PciFrontend {
  readonly #p: FrontendParts;
  readonly #changes = new Changes();
  #device: XenbusDevice | undefined;
  #shared: Shared | undefined;
  /** Pages that the backend still had mapped when their grant ended. */
  readonly #kept: Shared[] = [];
  #otherState: XenbusState = XenbusState.Unknown;

  constructor(parts: FrontendParts) {
    this.#p = parts;
  }

  /** Something below our device's directory may have changed. */
  note(): void {
    this.#changes.note();
  }

  inspect(): unknown {
    return {
      state: this.#device === undefined ? 'absent' : xenbusStateName(this.#device.state),
      backendState: xenbusStateName(this.#otherState),
      ref: this.#shared?.ref ?? -1,
      port: this.#shared?.port ?? -1,
      pagesKept: this.#kept.length,
    };
  }

  /** Follows the device for ever: looks, acts, waits for the next change. */
  *run(): Op<void> {
    for (;;) {
      const seen = this.#changes.count;
      let again = false;
      try {
        again = yield* this.#look();
      } catch (error) {
        again = yield* this.#failed(error);
      }
      if (again) continue;
      yield* this.#changes.since(seen, Infinity);
    }
  }

  /** One look at both states. Returns whether to look again at once. */
  *#look(): Op<boolean> {
    const present = (yield* this.#p.store.readOrUndefined(`${FRONTEND_PATH}/state`)) !== undefined;
    if (!present) {
      if (this.#device !== undefined) yield* this.#gone();
      return false;
    }
    if (this.#device === undefined) {
      const device = new XenbusDevice(this.#p.store, FRONTEND_PATH, 'backend');
      yield* device.open(() => this.note());
      this.#device = device;
    }
    const device = this.#device;
    const own = yield* device.ownState();
    this.#otherState = yield* device.otherendState();
    const step = transition(FRONTEND, own, this.#otherState);
    if (step === undefined) return false;
    yield* this.#act(device, step.action);
    if (!(yield* device.switchState(step.next))) return true;
    this.#p.trace('pcifront-state', { state: xenbusStateName(step.next), backend: xenbusStateName(this.#otherState) });
    return true;
  }

  *#act(device: XenbusDevice, action: Action): Op<void> {
    switch (action) {
      case 'publish':
        // Connected before, and now Initialising: the toolstack took the device away and made a new one.
        yield* this.#leave();
        yield* this.#publish(device);
        return;
      case 'republish':
        yield* this.#unshare();
        yield* this.#publish(device);
        return;
      case 'connect':
      case 'attach':
        yield* this.#p.bus.scan(yield* this.#roots(device), yield* this.#lines(device));
        return;
      case 'detach':
        for (const sbdf of yield* this.#marked(device)) yield* this.#p.bus.remove(sbdf);
        return;
      case 'disconnect':
        yield* this.#leave();
        return;
      default:
        action satisfies never;
    }
  }

  /** A fresh page and port, and the nodes that name them. */
  *#publish(device: XenbusDevice): Op<void> {
    const { pages, grants, events, requests, store } = this.#p;
    const pageIpa = yield* pages.allocate(XEN_PAGE_SIZE);
    let ref = -1;
    let port = -1;
    try {
      ref = yield* grants.grant(device.otherendId, pageIpa / XEN_PAGE_SIZE, false);
      port = yield* events.allocUnbound(device.otherendId);
    } catch (error) {
      if (ref < 0 || (yield* grants.revoke(ref))) pages.free(pageIpa, XEN_PAGE_SIZE);
      throw error;
    }
    this.#shared = { pageIpa, ref, port };
    requests.connect({ pageIpa, port });
    yield* store.transaction(function* (tx) {
      yield* tx.write(`${FRONTEND_PATH}/pci-op-ref`, `${ref}`);
      yield* tx.write(`${FRONTEND_PATH}/event-channel`, `${port}`);
      yield* tx.write(`${FRONTEND_PATH}/magic`, XEN_PCI_MAGIC);
    });
  }

  /** No backend any more: what is shared ends first, so that drivers do not wait 2 s for each of their accesses. */
  *#leave(): Op<void> {
    yield* this.#unshare();
    yield* this.#p.bus.removeAll();
  }

  /** Ends what is shared. A page that the backend still maps is kept aside until it lets go. */
  *#unshare(): Op<void> {
    const shared = this.#shared;
    this.#shared = undefined;
    if (shared !== undefined) {
      this.#p.requests.disconnect();
      this.#kept.push(shared);
      yield* this.#p.events.close(shared.port);
    }
    for (const kept of [...this.#kept]) {
      if (!(yield* this.#p.grants.revoke(kept.ref))) continue;
      this.#kept.splice(this.#kept.indexOf(kept), 1);
      this.#p.pages.free(kept.pageIpa, XEN_PAGE_SIZE);
    }
  }

  /** The toolstack removed the device's directory. */
  *#gone(): Op<void> {
    yield* this.#leave();
    const device = this.#device;
    this.#device = undefined;
    if (device !== undefined) yield* device.close();
    this.#p.trace('pcifront-state', { state: 'absent' });
  }

  /** The roots that the backend published; bus 0000:00 when it published none. */
  *#roots(device: XenbusDevice): Op<PciRoot[]> {
    const count = yield* this.#count(device, 'root_num');
    if (count === undefined) {
      this.#p.trace('pcifront-no-roots', { scanning: '0000:00' });
      return [{ segment: 0, bus: 0 }];
    }
    const roots: PciRoot[] = [];
    for (let i = 0; i < count; i++) {
      const text = yield* device.readOther(`root-${i}`);
      const m = /^([0-9a-f]{1,4}):([0-9a-f]{1,2})$/i.exec(text ?? '');
      if (m === null) throw new ProtocolError(ERRNO.EINVAL, `reading root ${i}`);
      roots.push({ segment: Number.parseInt(m[1]!, 16), bus: Number.parseInt(m[2]!, 16) });
    }
    return roots;
  }

  /** The INTID that each function's pin leads to: `intx-N`, of those that have one, by their `vdev-N`. */
  *#lines(device: XenbusDevice): Op<Map<Sbdf, number>> {
    const count = (yield* this.#count(device, 'num_devs')) ?? 0;
    const lines = new Map<Sbdf, number>();
    for (let i = 0; i < count; i++) {
      const intid = Number((yield* device.readOther(`intx-${i}`)) ?? 0);
      if (!Number.isInteger(intid) || intid <= 0) continue;
      const sbdf = parseVdev((yield* device.readOther(`vdev-${i}`)) ?? '');
      if (sbdf !== undefined) lines.set(sbdf, intid);
    }
    return lines;
  }

  /** The functions that the toolstack marked for removal: those with `state-N` = 5, by their `vdev-N`. */
  *#marked(device: XenbusDevice): Op<Sbdf[]> {
    const count = (yield* this.#count(device, 'num_devs')) ?? 0;
    const marked: Sbdf[] = [];
    for (let i = 0; i < count; i++) {
      if ((yield* device.readOther(`state-${i}`)) !== `${XenbusState.Closing}`) continue;
      const sbdf = parseVdev((yield* device.readOther(`vdev-${i}`)) ?? '');
      // A device that was never published is not known here either.
      if (sbdf !== undefined) marked.push(sbdf);
    }
    return marked;
  }

  *#count(device: XenbusDevice, node: string): Op<number | undefined> {
    const text = yield* device.readOther(node);
    if (text === undefined) return undefined;
    const count = Number(text);
    if (!Number.isInteger(count) || count < 0 || count > INDEX_MAX)
      throw new ProtocolError(ERRNO.EINVAL, `reading ${node}`);
    return count;
  }

  /** Lost answers are tried again; anything else ends the device. Returns whether to look again at once. */
  *#failed(error: unknown): Op<boolean> {
    if (error instanceof AssertionError) throw error;
    this.#p.trace('pcifront-failed', { error: `${error}` });
    const lost = error instanceof Indefinite || error instanceof TimedOut || error instanceof Refused;
    try {
      if (!lost && this.#device !== undefined) {
        const errno = error instanceof ProtocolError ? error.errno : ERRNO.EIO;
        yield* this.#device.fatal(errno, error instanceof Error ? error.message : `${error}`);
        return this.#device.state === XenbusState.Closing;
      }
    } catch (second) {
      if (second instanceof AssertionError) throw second;
      this.#p.trace('pcifront-failed', { error: `${second}` });
    }
    const seen = this.#changes.count;
    try {
      yield* this.#changes.since(seen, RETRY_NS);
    } catch (timeout) {
      if (!(timeout instanceof TimedOut)) throw timeout;
    }
    return true;
  }
}

/** The backend published something that cannot be. */
class ProtocolError extends Error {
  override name = 'ProtocolError';
  readonly errno: number;

  constructor(errno: number, text: string) {
    super(text);
    this.errno = errno;
  }
}

/** `dddd:bb:ss.ff`: the function with two digits, as Linux prints it. */
export function parseVdev(text: string): Sbdf | undefined {
  const m = /^([0-9a-f]{1,4}):([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-9a-f]{1,2})$/i.exec(text);
  if (m === null) return undefined;
  const [segment, bus, device, fn] = m.slice(1).map((part) => Number.parseInt(part, 16)) as [
    number,
    number,
    number,
    number,
  ];
  return device > 0x1f || fn > 7 ? undefined : makeSbdf(segment, bus, device, fn);
}
