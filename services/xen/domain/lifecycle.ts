/**
 * How a domain comes, stops and goes (xen/common/domain.c, xen/arch/arm/domain.c). Destruction follows the order of
 * domain_relinquish_resources: ports, grants, interrupts, devices, then mappings and memory; a device that cannot be released ends
 * it with that errno, and it is done again from there.
 * Not modelled: suspend, domain saving, the shutdown of the machine when dom0 shuts down: dom0's virtual CPU stops and
 * starts again when its process is back.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { VIRQ_DOM_EXC } from '#shared/abi/hypercall.ts';
import { SHUTDOWN } from '#shared/abi/sched.ts';
import type { Stage2Choice } from '#shared/arch/vmsa.ts';
import { assert } from '#shared/core/assert.ts';
import { body } from '#shared/core/core.ts';
import { call, type Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Counts } from '../counts.ts';
import { type El2, physFill, portWrite } from '../el2.ts';
import { EventChannels } from '../evtchn/event-channel.ts';
import { GrantTable } from '../grant/grant-table.ts';
import { addressOf, type Frames } from '../mm/frames.ts';
import { P2m } from '../mm/p2m.ts';
import { VGic } from '../vgic/vgic.ts';
import { Domain, type DomainConfig, type ShutdownCode } from './domain.ts';
import type { Domains } from './domains.ts';

export interface LifecycleParts {
  readonly runtime: Runtime;
  readonly el2: El2;
  readonly frames: Frames;
  readonly counts: Counts;
  readonly domains: Domains;
  readonly stage2: Stage2Choice;
  /** Of the machine's GIC, and so of every guest's. */
  readonly gicVersion: 2 | 3;
  /** Takes every SPI away from a domain. */
  readonly releaseIrqs: (domain: Domain) => Op<void>;
  /** Takes every device away from a domain. Throws the error of one that could not be released. */
  readonly releaseDevices: (domain: Domain) => Op<void>;
}

export class Lifecycle {
  readonly #parts: LifecycleParts;

  constructor(parts: LifecycleParts) {
    this.#parts = parts;
  }

  /** Of the GIC that a guest gets. */
  get gicVersion(): 2 | 3 {
    return this.#parts.gicVersion;
  }

  /**
   * A new domain, paused, with an empty p2m that its CPU port walks. Throws XenError ENOMEM or EBUSY, and nothing is
   * left then.
   */
  *create(config: DomainConfig): Op<Domain> {
    const { runtime, el2, frames, counts, domains, gicVersion, stage2 } = this.#parts;
    const vmid = domains.allocVmid();
    let p2m: P2m | undefined;
    let sharedInfoMfn: number;
    try {
      p2m = new P2m({ el2, frames, counts }, vmid, stage2);
      sharedInfoMfn = frames.allocPages(0);
    } catch (error) {
      if (p2m !== undefined) yield* p2m.teardown();
      domains.freeVmid(vmid);
      throw error;
    }
    const domain = new Domain(config, { runtime, el2, counts, p2m });
    domain.sharedInfoMfn = sharedInfoMfn;
    domain.pauseCount = 1;
    domain.evtchn = new EventChannels(domain, el2);
    domain.grants = new GrantTable(domain, el2, frames);
    if (!config.privileged) domain.vgic = new VGic(domain, { runtime, counts, version: gicVersion, spis: config.spis });
    domains.add(domain);
    yield* p2m.clear();
    yield* el2.batch([physFill(addressOf(sharedInfoMfn), XEN_PAGE_SIZE, 0), this.#port(domain, true)]);
    runtime.trace('domain_created', { domid: config.domid, vmid });
    return domain;
  }

  /** The domain stops for good: it gets no upcall and its CPU port does no access any more, and dom0 hears of it. */
  *shutdown(domain: Domain, code: ShutdownCode): Op<void> {
    if (domain.shutdownCode !== undefined || domain.dying) return;
    domain.shutdownCode = code;
    this.#stopWatchdogs(domain);
    this.#parts.runtime.trace('domain_shutdown', { domid: domain.domid, code });
    if (domain.domid === 0) {
      yield* this.#stopHardwareDomain(domain);
      return;
    }
    domain.resumed.fire();
    yield* this.#parts.el2.batch([this.#port(domain, false)]);
    yield* this.#raiseDomExc(domain, false);
  }

  /** The broker saw the domain's connection come or go. */
  *onConnection(domain: Domain, connected: boolean): Op<void> {
    if (!connected) yield* this.shutdown(domain, SHUTDOWN.crash);
    else if (domain.domid === 0 && domain.shutdownCode !== undefined) yield* this.#restartHardwareDomain(domain);
  }

  /**
   * destroydomain. Throws the XenError of a device that could not be released; the domain is dying then, and the call
   * can be made again. The caller holds the domctl lock.
   */
  *destroy(domain: Domain): Op<void> {
    const { runtime, el2, frames, domains, releaseDevices, releaseIrqs } = this.#parts;
    domain.dying = true;
    this.#stopWatchdogs(domain);
    domain.vgic?.stop();
    runtime.forget(domain.peer);
    for (const vcpu of domain.vcpus) vcpu.reset();
    domain.resumed.fire();
    yield* el2.batch([this.#port(domain, false)]);
    yield* domain.evtchn.destroy();
    yield* domain.grants.releaseMappings();
    yield* releaseIrqs(domain);
    yield* releaseDevices(domain);
    assert(domain.pdevs.length === 0, `d${domain.domid} ends and holds devices`);
    domain.iomem.clear();
    domain.irqs.clear();
    yield* domain.p2m.teardown();
    yield* domain.grants.destroy();
    yield* this.#freePages(domain);
    yield* el2.batch([physFill(addressOf(domain.sharedInfoMfn), XEN_PAGE_SIZE, 0)]);
    frames.freePages(domain.sharedInfoMfn, 0);
    domains.remove(domain);
    runtime.forget(domain.peer);
    runtime.trace('domain_destroyed', { domid: domain.domid });
    yield* this.#raiseDomExc(domain, true);
  }

  /** Drops the allocation's reference of every page. One that a foreign or grant mapping still holds stays until then. */
  *#freePages(domain: Domain): Op<void> {
    const { el2, frames } = this.#parts;
    const free: [number, number][] = [];
    for (const { first, last } of domain.pages.ranges) {
      let from = first;
      for (let mfn = first; mfn <= last + 1; mfn++) {
        if (mfn <= last && frames.putPage(mfn)) continue;
        if (mfn > from) free.push([from, mfn - from]);
        from = mfn + 1;
      }
    }
    domain.pages.clear();
    domain.totPages = 0;
    yield* el2.batch(free.map(([mfn, count]) => physFill(addressOf(mfn), count * XEN_PAGE_SIZE, 0)));
    for (const [mfn, count] of free) frames.freeRun(mfn, count);
  }

  /** dom0 hears of it, and xenstored, which has no virtual CPU to be interrupted, by a message that it answers. */
  *#raiseDomExc({ domid }: Domain, gone: boolean): Op<void> {
    const { runtime } = this.#parts;
    const { hardwareDomain } = this.#parts.domains;
    const tell = call('xenstored', body('domainExcRequest', { domid, gone }), 'domainExcReply');
    runtime.spawn(`tell xenstored of d${domid}`, tell, undefined, (error) =>
      runtime.trace('xenstored_not_told', { domid, error: String(error) }),
    );
    if (hardwareDomain !== undefined) yield* hardwareDomain.evtchn.raiseVirq(VIRQ_DOM_EXC);
  }

  /** dom0's kernel is gone: what it held of others goes, what guests have stays. */
  *#stopHardwareDomain(domain: Domain): Op<void> {
    this.#parts.runtime.forget(domain.peer);
    for (const vcpu of domain.vcpus) vcpu.reset();
    domain.resumed.fire();
    yield* domain.evtchn.reset();
    yield* domain.grants.releaseMappings();
  }

  *#restartHardwareDomain(domain: Domain): Op<void> {
    yield* this.#parts.el2.batch([physFill(addressOf(domain.sharedInfoMfn), XEN_PAGE_SIZE, 0)]);
    if (domain.onRestart !== undefined) yield* domain.onRestart();
    domain.shutdownCode = undefined;
    this.#parts.runtime.trace('hardware_domain_restarted', {});
    domain.wake();
  }

  #port(domain: Domain, vm: boolean): ReturnType<typeof portWrite> {
    const { vtcr, rootPa, vmid } = domain.p2m;
    return portWrite(domain.domid, vm ? { vm, vtcr, baddr: rootPa, vmid } : { vm, vtcr: 0, baddr: 0, vmid: 0 });
  }

  #stopWatchdogs(domain: Domain): void {
    domain.watchdogs.forEach((cancel, i) => {
      cancel?.();
      domain.watchdogs[i] = undefined;
    });
  }
}
