/**
 * Interrupts of the machine that guests have (xen/arch/arm/irq.c): which SPI is whose, and what becomes of one that was
 * taken. It is handed to its domain as a virtual SPI of the same number and stays active in the machine, so that a level
 * that still stands is not signalled again, until the guest has completed the virtual one; then it is deactivated, and
 * taken again if the level stands (T12). So a guest that never completes one cannot take the CPU, and one that completes
 * without seeing to the device pays for each round itself.
 * An SPI is one domain's at a time. It is enabled in the machine while the guest has it enabled.
 * Deviates: a domain that lives loses its SPI whatever state that is in; Xen refuses with EBUSY while it is enabled. Here
 * a function is taken from a guest that does not answer.
 * Deviates: the lines of PCI host bridges are not routed to the hardware domain, whose kernel drives no endpoint: it has
 * the right to each of them, which it can give away.
 */
import { SPI_FIRST, SPI_LAST } from '#shared/arch/gic/distributor.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import type { Counts } from './counts.ts';
import { check } from './error.ts';
import type { HostLine, VGic } from './vgic/vgic.ts';

/**
 * What lines of guests need of the machine's interrupt controller, whichever it is (struct gic_hw_operations). All of them
 * return when the machine has done it.
 */
export interface LineController {
  /** INTIDs of SPIs are below this (gic_number_lines). */
  readonly lines: number;
  /**
   * An SPI comes to CPU 0 with this trigger, still disabled. `take` is called each time it was acknowledged: its priority
   * is dropped then, and it is active. Throws XenError EBUSY for one that Xen uses.
   */
  routeSpi(intid: number, isEdge: boolean, take: () => void): Op<void>;
  enableSpi(intid: number): Op<void>;
  disableSpi(intid: number): Op<void>;
  /** Ends what `take` began: a level that stands is signalled again. */
  deactivate(intid: number): Op<void>;
  /** Undoes routeSpi: the SPI is disabled and not active, and `take` is not called any more. */
  releaseSpi(intid: number): Op<void>;
}

/** A domain that SPIs can be routed to. */
export interface IrqDomain {
  readonly domid: number;
  readonly dying: boolean;
  readonly vgic: VGic | undefined;
}

/** struct irq_desc. */
class IrqDesc implements HostLine {
  readonly intid: number;
  readonly isEdge: boolean;
  readonly #gic: LineController;
  /** desc->lock. */
  readonly lock: Lock;
  owner: IrqDomain | undefined;
  enabled = false;
  inProgress = false;

  constructor(intid: number, isEdge: boolean, gic: LineController) {
    this.intid = intid;
    this.isEdge = isEdge;
    this.#gic = gic;
    this.lock = new Lock(`irq_desc of ${intid}`);
  }

  setEnabled(on: boolean): Op<void> {
    return withLock(this.lock, () => this.#setEnabled(on));
  }

  complete(): Op<void> {
    return withLock(this.lock, () => this.#complete());
  }

  *#setEnabled(on: boolean): Op<void> {
    if (this.owner === undefined || this.enabled === on) return;
    yield* on ? this.#gic.enableSpi(this.intid) : this.#gic.disableSpi(this.intid);
    this.enabled = on;
  }

  *#complete(): Op<void> {
    if (!this.inProgress) return;
    this.inProgress = false;
    yield* this.#gic.deactivate(this.intid);
  }
}

export class GuestIrqs {
  readonly #gic: LineController;
  readonly #counts: Counts;
  readonly #descs = new Map<number, IrqDesc>();

  constructor(gic: LineController, counts: Counts) {
    this.#gic = gic;
    this.#counts = counts;
  }

  /** INTIDs of the machine are below this. */
  get lines(): number {
    return this.#gic.lines;
  }

  /** irq_set_spi_type: the device tree says of an SPI what it is; only such a one can be a guest's. */
  configure(intid: number, isEdge: boolean): void {
    if (!this.#descs.has(intid)) this.#descs.set(intid, new IrqDesc(intid, isEdge, this.#gic));
  }

  /**
   * route_irq_to_guest. Throws XenError: EINVAL (no SPI of the machine or of the domain, the domain is dying), EBUSY (the
   * SPI is Xen's, or a domain's already, this one's too), EIO (nothing says what it is).
   */
  *route(domain: IrqDomain, intid: number): Op<void> {
    const { vgic } = domain;
    check(isSpi(intid) && intid < this.#gic.lines, 'EINVAL', `INTID ${intid} is no SPI of the machine`);
    check(vgic?.hasSpi(intid) === true, 'EINVAL', `d${domain.domid} has no SPI ${intid}`);
    check(!domain.dying, 'EINVAL', `d${domain.domid} is dying`);
    const desc = this.#descs.get(intid);
    check(desc !== undefined, 'EIO', `INTID ${intid} was not configured`);
    yield* withLock(desc.lock, () => this.#route(desc, domain, vgic));
    // The guest may have it enabled from an earlier time.
    yield* vgic.syncLines();
  }

  *#route(desc: IrqDesc, domain: IrqDomain, vgic: VGic): Op<void> {
    const { intid, isEdge, owner } = desc;
    check(owner === undefined, 'EBUSY', `INTID ${intid} is d${owner?.domid}'s`);
    desc.owner = domain;
    try {
      yield* this.#gic.routeSpi(intid, isEdge, () => {
        desc.inProgress = true;
        this.#counts.add('spisDelivered', countOf(domain, intid));
        vgic.inject(intid);
      });
    } catch (error) {
      desc.owner = undefined;
      throw error;
    }
    vgic.connect(intid, desc);
  }

  /** release_guest_irq. Throws XenError EINVAL when the SPI is not the domain's. */
  *release(domain: IrqDomain, intid: number): Op<void> {
    const desc = this.#descs.get(intid);
    check(desc?.owner === domain, 'EINVAL', `INTID ${intid} is not d${domain.domid}'s`);
    yield* withLock(desc.lock, () => this.#release(desc, domain));
  }

  *#release(desc: IrqDesc, domain: IrqDomain): Op<void> {
    if (desc.owner !== domain) return;
    domain.vgic?.disconnect(desc.intid);
    yield* this.#gic.releaseSpi(desc.intid);
    desc.enabled = false;
    desc.inProgress = false;
    desc.owner = undefined;
  }

  /** The domain ends. */
  *releaseAll(domain: IrqDomain): Op<void> {
    for (const desc of this.#descs.values()) {
      if (desc.owner === domain) yield* withLock(desc.lock, () => this.#release(desc, domain));
    }
  }

  /** SPIs that a domain has. */
  inspect(): unknown {
    return [...this.#descs.values()]
      .filter((d) => d.owner !== undefined)
      .map(({ intid, isEdge, owner, enabled, inProgress }) => ({
        intid,
        domid: owner!.domid,
        trigger: isEdge ? 'edge' : 'level',
        enabled,
        inProgress,
        taken: this.#counts.get('spisDelivered', countOf(owner!, intid)),
      }));
  }
}

function countOf(domain: IrqDomain, intid: number): string {
  return `d${domain.domid} ${intid}`;
}

export function isSpi(intid: number): boolean {
  return intid >= SPI_FIRST && intid <= SPI_LAST;
}
