/**
 * The hypervisor as a service: who may ask it what. A hypercall is the domain's whose credentials sent it, never one that
 * a field names; traps and interrupts come from the machine, connections from whoever watches the broker.
 */
import { GUEST_RAM0_BASE, XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { type Body, body, type Core, domidOf, type Peer } from '#shared/core/core.ts';
import { inspectReply } from '#shared/core/inspect.ts';
import { type Op, Refused, Signal, wait } from '#shared/core/op.ts';
import { type Answer, Runtime, type RuntimeOptions, type Service } from '#shared/core/runtime.ts';
import { type Booted, boot } from './boot.ts';
import { Counts } from './counts.ts';
import type { Domain } from './domain/domain.ts';
import { Domains } from './domain/domains.ts';
import { El2 } from './el2.ts';
import type { HostGic } from './host-gic/gic.ts';
import { hypercall } from './hypercall/dispatch.ts';
import { dataAbort } from './trap/data-abort.ts';
import { sysregTrap } from './trap/sysreg.ts';

const DOM0_MEMORY_MIB = 128;

export interface XenOptions extends RuntimeOptions {
  /** Memory of dom0, a multiple of 2. Default 128. */
  readonly dom0MemoryMib?: number;
}

export function createXenCore(options: XenOptions): Core {
  const runtime = new Runtime({ ...options, announceTo: ['d0'] });
  runtime.attach(new XenService(runtime, options.dom0MemoryMib ?? DOM0_MEMORY_MIB));
  return runtime;
}

export class XenService implements Service {
  readonly #runtime: Runtime;
  readonly #counts = new Counts();
  readonly #domains = new Domains();
  readonly #el2 = new El2();
  readonly #dom0MemoryMib: number;
  readonly #up = new Signal<void>();
  #gic: HostGic | undefined;
  #booted: Booted | undefined;

  constructor(runtime: Runtime, dom0MemoryMib: number) {
    this.#runtime = runtime;
    this.#dom0MemoryMib = dom0MemoryMib;
  }

  *boot(): Op<void> {
    const parts = {
      runtime: this.#runtime,
      el2: this.#el2,
      counts: this.#counts,
      domains: this.#domains,
      dom0MemoryMib: this.#dom0MemoryMib,
    };
    this.#booted = yield* boot(parts, (gic) => {
      this.#gic = gic;
    });
    this.#runtime.trace('booted', { freeFrames: this.#booted.frames.free });
    this.#up.fire();
    this.#booted.hardwareDomain.wake();
  }

  onRequest(from: Peer, message: Body): Answer {
    switch (message.$case) {
      case 'hypercallRequest': {
        const domid = domidOf(from);
        if (domid < 0) throw new Refused(`${from} is no domain`);
        return this.#hypercall(domid, message.value);
      }
      case 'sysregTrapRequest': {
        const domid = domidOf(from);
        if (domid < 0) throw new Refused(`${from} is no domain`);
        return this.#sysregTrap(domid, message.value);
      }
      case 'trapRequest':
        if (from === 'hardware') return this.#trap(message.value);
        break;
      case 'interruptPending':
        if (from !== 'hardware') break;
        if (this.#gic !== undefined) {
          this.#runtime.spawn('interrupts', this.#gic.onInterruptPending(message.value.pcpu), undefined, (error) =>
            this.#runtime.trace('interrupts_failed', { error: String(error) }),
          );
        }
        return undefined;
      case 'domainConnection':
        if (from === 'broker') return this.#connection(message.value.domid, message.value.connected);
        break;
      case 'inspectRequest':
        if (from === 'operator') return inspectReply('xen', this.#runtime.inspect(), message.value.path);
        break;
    }
    throw new Refused(`${from} may not send ${message.$case}`);
  }

  *#hypercall(domid: number, request: Parameters<typeof hypercall>[3]): Op<Body> {
    const { xen } = yield* this.#whenUp();
    const caller = this.#domains.get(domid);
    if (caller === undefined) throw new Refused(`there is no domain ${domid}`);
    return yield* hypercall(xen, this.#counts, caller, request);
  }

  *#trap(request: Parameters<typeof dataAbort>[1]): Op<Body> {
    yield* this.#whenUp();
    return body('trapReply', yield* dataAbort(this.#domains.get(request.port), request, this.#counts));
  }

  *#sysregTrap(domid: number, request: Parameters<typeof sysregTrap>[1]): Op<Body> {
    yield* this.#whenUp();
    const domain = this.#domains.get(domid);
    if (domain === undefined) throw new Refused(`there is no domain ${domid}`);
    return body('sysregTrapReply', yield* sysregTrap(domain, request, this.#counts));
  }

  *#connection(domid: number, connected: boolean): Op<Body> {
    const { lifecycle } = yield* this.#whenUp();
    const domain = this.#domains.get(domid);
    if (domain !== undefined) yield* lifecycle.onConnection(domain, connected);
    return body('domainConnectionReply', {});
  }

  *#whenUp(): Op<Booted> {
    while (this.#booted === undefined) yield* wait(this.#up, Infinity);
    return this.#booted;
  }

  inspect(): unknown {
    const booted = this.#booted;
    return {
      ready: booted !== undefined,
      domains: this.#domains.all().map(inspectDomain),
      frames: { free: booted?.frames.free ?? 0, total: booted?.frames.total ?? 0 },
      devices: booted?.pciDevices.inspect() ?? [],
      bridges: booted?.hostBridges.inspect() ?? [],
      irqs: booted?.irqs.inspect() ?? [],
      its: this.#gic?.inspect() ?? {},
      smmu: booted?.smmus.inspect((stream) => booted.pciDevices.sbdfOfStream(stream)) ?? {},
      counts: this.#counts.inspect(),
    };
  }
}

function inspectDomain(d: Domain): unknown {
  return {
    domid: d.domid,
    vmid: d.vmid,
    paused: d.pauseCount,
    shutdown: d.shutdownCode ?? null,
    dying: d.dying,
    vcpus: d.vcpus.map((v) => v.state),
    pages: d.totPages,
    maxPages: d.maxPages,
    p2mEntries: d.p2m.entries,
    p2mPages: d.p2m.tablePages,
    p2mRootPa: d.p2m.rootPa,
    p2mViews: d.p2m.views.map(({ vmid, rootPa, gfn, mfn, users }) => ({ vmid, rootPa, gfn, mfn, users })),
    ramPa: machineAddressOf(d, GUEST_RAM0_BASE),
    ports: d.evtchn.ports.size,
    grantMaps: d.grants.mapCount,
    grantsActive: d.grants.activeCount,
    iomemRanges: d.iomem.ranges.map((r) => [r.first, r.last]),
    irqRanges: d.irqs.ranges.map((r) => [r.first, r.last]),
    pdevs: d.pdevs.length,
    vgic: d.vgic?.inspect() ?? null,
  };
}

/** Where the first page of a guest's RAM is in the machine, or null when it has none there. */
function machineAddressOf(d: Domain, ipa: number): number | null {
  const entry = d.p2m.lookup(ipa / XEN_PAGE_SIZE);
  return entry === undefined ? null : entry.mfn * XEN_PAGE_SIZE;
}
