/**
 * The backend end of the PCI device of one guest (Linux drivers/xen/xen-pciback/xenbus.c): /local/domain/0/backend/pci/N/0.
 * The toolstack writes the devices, pciback exports them on a virtual bus and answers with vdev-N and state-N; the
 * frontend grants a page and offers an event channel; later changes go through Reconfiguring and Reconfigured.
 * Deviates: a device whose entry is gone from the directory is taken back at once, whatever the states are, so that a guest
 * that does not answer cannot keep it.
 * Not modelled: a frontend that closes and starts over; guests that reconnect after a restart of dom0.
 */

import { ERRNO } from '#shared/abi/errno.ts';
import { XEN_PCI_MAGIC } from '#shared/abi/pciif.ts';
import { XenbusState } from '#shared/abi/xenbus.ts';
import { type Op, sleep, withLock } from '#shared/core/op.ts';
import { busOf, devfnOf, deviceOf, formatSbdf, functionOf, parseSbdf, type Sbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { type Transitions, transition, XenbusDevice } from '#shared/kernel/xenbus.ts';
import { Changes } from '#shared/kernel/xenstore-client.ts';
import type { Kernel } from '../kernel/boot.ts';
import { hasMessages } from '../kernel/host-bridge.ts';
import { VirtualConfig } from './config-fields.ts';
import { readDeviceNodes } from './nodes.ts';
import type { Pool, Stub } from './pool.ts';
import { SharedPage } from './shared-page.ts';
import { chooseVdevfn } from './slots.ts';

const BACKENDS = '/local/domain/0/backend/pci';
/** What fails for no fault of the guest is tried again, so often and so much later. */
const TRIES_MAX = 5;
const RETRY_NS = 1000 * 1e6;

type Action = 'probe' | 'setup' | 'export' | 'connect' | 'nothing' | 'reconfigure' | 'resume' | 'disconnect' | 'close';

/** In every state: the frontend closes. */
const CLOSING = { Closing: ['disconnect', 'Closing'], Closed: ['close', 'Closed'] } as const;

/** Our state, what the frontend is, what we do, the state that follows. What is not in it waits. */
const HANDSHAKE: Transitions<Action> = {
  Initialising: { Initialising: ['probe', 'InitWait'], Initialised: ['probe', 'InitWait'] },
  InitWait: { Initialising: ['setup', 'Initialised'], Initialised: ['setup', 'Initialised'], ...CLOSING },
  Initialised: {
    Initialising: ['export', 'Initialised'],
    Initialised: ['connect', 'Connected'],
    ...CLOSING,
  },
  Connected: { Connected: ['nothing', 'Connected'], ...CLOSING },
  Reconfiguring: { Reconfiguring: ['reconfigure', 'Reconfigured'], ...CLOSING },
  Reconfigured: { Connected: ['resume', 'Connected'], ...CLOSING },
  Closing: { Closed: ['close', 'Closed'] },
};

interface Exported {
  readonly stub: Stub;
  readonly vdevfn: number;
  readonly config: VirtualConfig;
}

interface Entry {
  readonly index: number;
  readonly bdf: string;
  readonly sbdf: Sbdf | undefined;
  readonly state: string | undefined;
}

/** The device cannot go on: an errno and a text for the error node. */
class Fatal extends Error {
  readonly errno: number;

  constructor(errno: number, text: string) {
    super(text);
    this.errno = errno;
  }
}

/** Every backend device: found by a watch on the backend directory. */
export class Backends {
  readonly #kernel: Kernel;
  readonly #pool: Pool;
  readonly #devices = new Map<number, PciBackend>();
  readonly #changes = new Changes();

  constructor(kernel: Kernel, pool: Pool) {
    this.#kernel = kernel;
    this.#pool = pool;
  }

  *start(): Op<void> {
    yield* this.#kernel.store.watch(BACKENDS, 'pciback', (path) => {
      const domid = Number(path.slice(BACKENDS.length + 1).split('/')[0]);
      if (path.length > BACKENDS.length && Number.isInteger(domid)) this.#kick(domid);
      else for (const device of this.#devices.values()) device.kick();
    });
  }

  #kick(domid: number): void {
    let device = this.#devices.get(domid);
    if (device === undefined) {
      device = new PciBackend(this.#kernel, this.#pool, domid, () => {
        this.#devices.delete(domid);
        this.#changes.note();
      });
      this.#devices.set(domid, device);
    }
    device.kick();
  }

  /** Waits until a guest has no backend device. Throws TimedOut after `ns`. */
  *waitGone(domid: number, ns: number): Op<void> {
    const deadline = this.#kernel.runtime.now + ns;
    for (;;) {
      const seen = this.#changes.count;
      if (!this.#devices.has(domid)) return;
      yield* this.#changes.since(seen, deadline - this.#kernel.runtime.now);
    }
  }

  inspect(): unknown {
    return Object.fromEntries([...this.#devices].map(([domid, device]) => [domid, device.inspect()]));
  }
}

class PciBackend {
  readonly #kernel: Kernel;
  readonly #pool: Pool;
  readonly #domid: number;
  readonly #path: string;
  readonly #gone: () => void;
  readonly #device: XenbusDevice;
  readonly #exported = new Map<Sbdf, Exported>();
  readonly #page: SharedPage;
  #opened = false;
  /** The nodes were gone at the last look. */
  #ended = false;
  #running = false;
  #dirty = false;
  /** Looks in a row that failed for no fault of the guest. */
  #failures = 0;

  constructor(kernel: Kernel, pool: Pool, domid: number, gone: () => void) {
    this.#kernel = kernel;
    this.#pool = pool;
    this.#domid = domid;
    this.#path = `${BACKENDS}/${domid}/0`;
    this.#gone = gone;
    this.#device = new XenbusDevice(kernel.store, this.#path, 'frontend');
    this.#page = new SharedPage(kernel, domid, (vdevfn) => this.#find(vdevfn));
  }

  /** Something may have changed: look at the nodes again. */
  kick(): void {
    this.#dirty = true;
    if (this.#running) return;
    this.#running = true;
    this.#kernel.runtime.spawn(`pciback d${this.#domid}`, this.#run());
  }

  inspect(): unknown {
    return {
      exported: [...this.#exported.values()].map((e) => ({
        sbdf: formatSbdf(e.stub.fn.sbdf),
        vdev: formatSbdf(e.vdevfn),
      })),
      connected: this.#page.connected,
      state: this.#device.state,
      ...this.#page.counts,
    };
  }

  *#run(): Op<void> {
    try {
      while (this.#dirty) {
        this.#dirty = false;
        this.#ended = false;
        try {
          yield* this.#step();
          this.#failures = 0;
        } catch (error) {
          yield* this.#failed(error);
        }
      }
    } finally {
      this.#running = false;
    }
    if (this.#ended) this.#gone();
  }

  *#failed(error: unknown): Op<void> {
    const text = error instanceof Error ? error.message : String(error);
    this.#kernel.runtime.trace('pciback.failed', { domid: this.#domid, text });
    if (!(error instanceof Fatal) && ++this.#failures < TRIES_MAX) {
      // The store or Xen did not answer as they should: not a reason to end the device.
      yield* sleep(RETRY_NS);
      this.#dirty = true;
      return;
    }
    const errno = error instanceof Fatal ? error.errno : ERRNO.EIO;
    try {
      yield* this.#device.fatal(errno, text);
    } catch (again) {
      this.#kernel.runtime.trace('pciback.failed', { domid: this.#domid, text: String(again) });
    }
  }

  *#step(): Op<void> {
    const { store } = this.#kernel;
    if (!this.#opened) {
      if ((yield* store.readOrUndefined(`${this.#path}/frontend`)) === undefined) return yield* this.#unregister();
      yield* this.#device.open(() => this.kick());
      this.#opened = true;
    }
    const own = yield* this.#device.ownState();
    const other = own === XenbusState.Unknown ? own : yield* this.#device.otherendState();
    if (other === XenbusState.Unknown) return yield* this.#unregister();
    const row = transition(HANDSHAKE, own, other);
    if (own !== XenbusState.Initialising && own !== XenbusState.InitWait) yield* this.#dropUnlisted();
    if (row === undefined) return;
    const stays = yield* this.#act(row.action);
    if (!stays) return;
    if (row.next !== own && (yield* this.#device.switchState(row.next))) this.#dirty = true;
  }

  /** Gives false when the device is gone. */
  *#act(action: Action): Op<boolean> {
    switch (action) {
      case 'probe':
      case 'nothing':
      case 'resume':
        return true;
      case 'setup':
        for (const entry of yield* this.#entries()) yield* this.#export(entry);
        yield* this.#publishRoots();
        return true;
      case 'export':
        yield* this.#exportNew();
        return true;
      case 'connect':
        yield* this.#exportNew();
        yield* this.#connect();
        return true;
      case 'reconfigure':
        yield* this.#reconfigure();
        return true;
      case 'disconnect':
        yield* this.#page.disconnect();
        return true;
      case 'close':
        yield* this.#page.disconnect();
        if ((yield* this.#kernel.store.readOrUndefined(`${this.#path}/online`)) === '1') return true;
        yield* this.#device.switchState(XenbusState.Closed);
        yield* this.#unregister();
        return false;
      default:
        return action satisfies never;
    }
  }

  /** The devices that the toolstack lists, as one moment has them. */
  *#entries(): Op<Entry[]> {
    const path = this.#path;
    return yield* this.#kernel.store.transaction(function* (tx) {
      const text = yield* tx.readOrUndefined(`${path}/num_devs`);
      if (text === undefined && (yield* tx.readOrUndefined(`${path}/frontend`)) === undefined) return [];
      if (text === undefined || !/^\d+$/.test(text)) throw new Fatal(ERRNO.EINVAL, 'Error reading number of devices');
      const entries: Entry[] = [];
      for (let index = 0; index < Number(text); index++) {
        const bdf = (yield* tx.readOrUndefined(`${path}/dev-${index}`)) ?? '';
        const state = yield* tx.readOrUndefined(`${path}/state-${index}`);
        entries.push({ index, bdf, sbdf: parseSbdf(bdf), state });
      }
      return entries;
    });
  }

  /** Takes back what is listed no more. */
  *#dropUnlisted(): Op<void> {
    if (this.#exported.size === 0) return;
    const listed = new Set((yield* this.#entries()).map((e) => e.sbdf));
    for (const sbdf of [...this.#exported.keys()]) if (!listed.has(sbdf)) yield* this.#unexport(sbdf);
  }

  *#export(entry: Entry): Op<void> {
    const { sbdf, index } = entry;
    if (sbdf === undefined) throw new Fatal(ERRNO.EINVAL, `Error parsing pci device "${entry.bdf}"`);
    if (!this.#exported.has(sbdf)) {
      const stub = this.#pool.take(sbdf, this.#domid);
      if (stub === undefined) {
        throw new Fatal(ERRNO.EINVAL, `Couldn't locate PCI device (${entry.bdf})! perhaps already in-use?`);
      }
      try {
        const { guestSbdf, bars, intx } = yield* readDeviceNodes(this.#kernel.store, this.#path, index);
        const isVirtfn = stub.fn.physfn !== undefined;
        const taken = [...this.#exported].map(([s, e]) => ({ sbdf: s, vdevfn: e.vdevfn }));
        const vdevfn = chooseVdevfn(taken, sbdf, guestSbdf === undefined ? undefined : devfnOf(guestSbdf), isVirtfn);
        if (vdevfn === undefined) throw new Fatal(ERRNO.ENOMEM, 'No more space on root virtual PCI bus');
        const config = yield* VirtualConfig.open(this.#kernel.access, sbdf, stub.fn.configBytes, {
          bars,
          ids: isVirtfn ? stub.fn : undefined,
          intx,
          messages: hasMessages(this.#kernel.bridges, sbdf),
        });
        this.#exported.set(sbdf, { stub, vdevfn, config });
      } catch (error) {
        yield* this.#pool.put(stub);
        throw error;
      }
    }
    const { vdevfn } = this.#exported.get(sbdf)!;
    yield* this.#answer(entry, [
      [`vdev-${index}`, formatVdev(vdevfn)],
      [`state-${index}`, `${XenbusState.Initialised}`],
    ]);
  }

  /** Writes nodes of an entry, unless the toolstack moved it meanwhile. */
  *#answer(entry: Entry, nodes: readonly (readonly [string, string])[]): Op<void> {
    const path = this.#path;
    yield* this.#kernel.store.transaction(function* (tx) {
      if ((yield* tx.readOrUndefined(`${path}/dev-${entry.index}`)) !== entry.bdf) return;
      for (const [name, value] of nodes) yield* tx.write(`${path}/${name}`, value);
    });
  }

  *#publishRoots(): Op<void> {
    const path = this.#path;
    yield* this.#kernel.store.transaction(function* (tx) {
      if ((yield* tx.readOrUndefined(`${path}/state`)) === undefined) return;
      yield* tx.write(`${path}/root_num`, '1');
      yield* tx.write(`${path}/root-0`, '0000:00');
    });
  }

  /** Exports what the toolstack added; a device that cannot be exported is logged and left out. */
  *#exportNew(): Op<void> {
    for (const entry of yield* this.#entries()) {
      if (entry.state !== `${XenbusState.Initialising}`) continue;
      try {
        yield* this.#export(entry);
      } catch (error) {
        if (!(error instanceof Fatal)) throw error;
        yield* this.#device.error(error.errno, error.message);
      }
    }
  }

  *#reconfigure(): Op<void> {
    for (const entry of yield* this.#entries()) {
      if (entry.state === `${XenbusState.Closing}` && entry.sbdf !== undefined) yield* this.#unexport(entry.sbdf);
    }
    yield* this.#exportNew();
  }

  *#unexport(sbdf: Sbdf): Op<void> {
    const exported = this.#exported.get(sbdf);
    if (exported === undefined) return;
    const all = this.#exported;
    // biome-ignore lint/correctness/useYield: the lock's body is an operation, and this one has nothing to wait for
    yield* withLock(this.#page.lock, function* () {
      all.delete(sbdf);
    });
    yield* this.#pool.put(exported.stub);
  }

  *#connect(): Op<void> {
    const ref = yield* this.#device.readOther('pci-op-ref');
    const port = yield* this.#device.readOther('event-channel');
    const magic = yield* this.#device.readOther('magic');
    if (!isDecimal(ref) || !isDecimal(port)) {
      throw new Fatal(ERRNO.EINVAL, 'Error reading configuration from frontend');
    }
    if (magic !== XEN_PCI_MAGIC) {
      const versions = `${magic ?? ''}/${XEN_PCI_MAGIC}`;
      throw new Fatal(ERRNO.EFAULT, `version mismatch (${versions}) with pcifront - halting xen-pciback`);
    }
    try {
      yield* this.#page.connect(Number(ref), Number(port));
    } catch (error) {
      throw new Fatal(ERRNO.EINVAL, `Error connecting to the frontend: ${(error as Error).message}`);
    }
  }

  /** The nodes are gone: everything goes back to where it was. */
  *#unregister(): Op<void> {
    for (const sbdf of [...this.#exported.keys()]) yield* this.#unexport(sbdf);
    yield* this.#page.disconnect();
    if (this.#opened) yield* this.#device.close();
    this.#opened = false;
    this.#ended = true;
  }

  #find(vdevfn: number): VirtualConfig | undefined {
    for (const exported of this.#exported.values()) if (exported.vdevfn === vdevfn) return exported.config;
    return undefined;
  }
}

/** The address that a guest sees, with the function in two digits as Linux prints it. */
function formatVdev(vdevfn: number): string {
  const hex = (n: number, digits: number): string => n.toString(16).padStart(digits, '0');
  return `${hex(segmentOf(vdevfn), 4)}:${hex(busOf(vdevfn), 2)}:${hex(deviceOf(vdevfn), 2)}.${hex(functionOf(vdevfn), 2)}`;
}

function isDecimal(text: string | undefined): text is string {
  return text !== undefined && /^\d{1,10}$/.test(text);
}
