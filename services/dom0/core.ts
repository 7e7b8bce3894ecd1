/**
 * dom0: a kernel (boot, enumeration, pciback) with the toolstack on top. It starts when Xen starts its virtual CPU; requests
 * of the operator wait until it has booted.
 * Not modelled: a restart of dom0 that finds guests of an earlier life; it boots the machine anew.
 */

import { GUEST_EVTCHN_PPI } from '#shared/abi/arch-arm.ts';
import { type Body, body, type Core, type Payload, type Peer } from '#shared/core/core.ts';
import { inspectReply } from '#shared/core/inspect.ts';
import { Lock, type Op, Refused, Signal, wait } from '#shared/core/op.ts';
import { type Answer, Runtime, type RuntimeOptions, type Service } from '#shared/core/runtime.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import type { EventChannels } from '#shared/kernel/event-channels.ts';
import { Hypercalls } from '#shared/kernel/hypercalls.ts';
import { XenstoreClient } from '#shared/kernel/xenstore-client.ts';
import { bootKernel, type Kernel } from './kernel/boot.ts';
import { StoreRings } from './kernel/store-rings.ts';
import { Backends } from './pciback/backend.ts';
import { Pool } from './pciback/pool.ts';
import type { Libxl } from './toolstack/libxl/context.ts';
import { DomainEvents } from './toolstack/libxl/domain-events.ts';
import { dom0Nodes, writeNodes } from './toolstack/libxl/xenstore-layout.ts';
import { serveToolstack } from './toolstack/server.ts';

/** What a request waits for a boot that is under way. */
const BOOT_WAIT_NS = 60_000 * 1e6;

export class Dom0Service implements Service {
  readonly #runtime: Runtime;
  readonly #store: XenstoreClient;
  #events: EventChannels | undefined;
  #starting = false;
  #libxl: Libxl | undefined;
  #storeRings: StoreRings | undefined;
  readonly #booted = new Signal<Libxl>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#store = new XenstoreClient(runtime);
  }

  onRequest(from: Peer, request: Body): Answer {
    switch (request.$case) {
      case 'upcallRequest':
        only(from, 'xen', request);
        return this.#onUpcall(request.value);
      case 'xenstoreWatchEvent':
        only(from, 'xenstored', request);
        this.#store.onWatchEvent(request.value.packet);
        return body('xenstoreWatchEventReply', {});
      case 'xenstoreRestarted':
        only(from, 'xenstored', request);
        return this.#store.onRestarted();
      case 'storeRingRequest':
        only(from, 'xenstored', request);
        if (this.#storeRings === undefined) throw new Refused('dom0 has not booted');
        return this.#storeRings.serve(request.value);
      case 'inspectRequest':
        only(from, 'operator', request);
        return inspectReply('dom0', this.#runtime.inspect(), request.value.path);
      default:
        only(from, 'operator', request);
        return this.#forOperator(request);
    }
  }

  inspect(): unknown {
    const libxl = this.#libxl;
    if (libxl === undefined) return { ready: false, booted: false };
    const { kernel, guests, backends, pool } = libxl;
    const functions = [...kernel.functions.values()].map((f) => ({
      sbdf: formatSbdf(f.sbdf),
      driver: kernel.drivers.driverOf(f.sbdf),
      irq: f.irq,
      bars: f.bars.map(({ index, kind, prefetchable, pa, sizeBytes }) => ({
        index,
        kind,
        prefetchable,
        pa,
        sizeBytes,
      })),
    }));
    const claimed = new Set([...guests.values()].flatMap((g) => [...g.devices.keys()]));
    const held = kernel.drivers.boundTo('pciback');
    return {
      ready: true,
      booted: true,
      functions,
      assignable: held.filter((s) => !claimed.has(s) && pool.holderOf(s) < 0).map(formatSbdf),
      domains: [...guests.values()].map((g) => ({
        domid: g.domid,
        name: g.name,
        started: g.started,
        dead: g.dead,
        devices: [...g.devices.values()].map((d) => ({
          sbdf: formatSbdf(d.sbdf),
          guestSbdf: formatSbdf(d.vdevfn),
          bars: d.bars,
          intx: d.intx,
        })),
      })),
      holes: Object.fromEntries([...guests.values()].map((g) => [g.domid, g.holes.inspect()])),
      backends: backends.inspect(),
      storeRings: this.#storeRings?.inspect() ?? {},
      counts: { ...kernel.events.counts, foreignPages: kernel.region.used },
    };
  }

  #onUpcall({ what }: Payload<'upcallRequest'>): Body {
    if (what?.$case === 'vcpuStart' && !this.#starting) {
      this.#starting = true;
      this.#runtime.spawn('boot', this.#bootAt(what.value.x0), undefined, (error) => {
        this.#starting = false;
        this.#runtime.trace('dom0.boot_failed', { error: error instanceof Error ? error.message : String(error) });
      });
    }
    const events = this.#events;
    if (what?.$case === 'interrupts' && what.value.intids.includes(GUEST_EVTCHN_PPI) && events !== undefined) {
      this.#runtime.spawn('event channels', events.onUpcall(), undefined, (error) =>
        this.#runtime.trace('dom0.upcall_failed', { error: String(error) }),
      );
    }
    return body('upcallReply', {});
  }

  *#bootAt(dtbIpa: number): Op<void> {
    const machine = { runtime: this.#runtime, cpu: new CpuBus(), hypercalls: new Hypercalls(), store: this.#store };
    const kernel: Kernel = yield* bootKernel(machine, dtbIpa, (events) => {
      this.#events = events;
    });
    const storeRings = new StoreRings(kernel);
    this.#storeRings = storeRings;
    yield* this.#store.transaction((tx) => writeNodes(tx, dom0Nodes()));
    const pool = new Pool(kernel);
    kernel.drivers.register(pool);
    const backends = new Backends(kernel, pool);
    yield* backends.start();
    const nameLock = new Lock('libxl domain names');
    const libxl: Libxl = { kernel, storeRings, pool, backends, guests: new Map(), nameLock };
    yield* new DomainEvents(libxl).start();
    this.#libxl = libxl;
    this.#booted.fire(libxl);
    this.#runtime.trace('dom0.booted', { functions: kernel.functions.size });
  }

  *#forOperator(request: Body): Op<Body> {
    const libxl = this.#libxl ?? (yield* wait(this.#booted, BOOT_WAIT_NS));
    if (request.$case === 'lspciRequest') return body('lspciReply', yield* lspci(libxl));
    const op = serveToolstack(libxl, request);
    if (op === undefined) throw new Refused(`dom0 does not answer ${request.$case}`);
    return yield* op;
  }
}

export function createDom0Core(options: RuntimeOptions): Core {
  const runtime = new Runtime({ ...options, announceTo: ['xen'] });
  runtime.attach(new Dom0Service(runtime));
  return runtime;
}

function* lspci({ kernel }: Libxl): Op<Payload<'lspciReply'>> {
  const functions: Payload<'lspciReply'>['functions'] = [];
  try {
    for (const f of kernel.functions.values()) {
      const config = yield* kernel.access.readAll(f.sbdf, f.configBytes);
      functions.push({ sbdf: f.sbdf, config, driver: kernel.drivers.driverOf(f.sbdf) });
    }
  } catch (error) {
    return { functions: [], error: error instanceof Error ? error.message : String(error) };
  }
  return { functions, error: '' };
}

function only(from: Peer, wanted: Peer, request: Body): void {
  if (from !== wanted) throw new Refused(`${from} may not send ${request.$case} to dom0`);
}
