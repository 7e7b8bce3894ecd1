/**
 * The interrupt controller of a domain: which pending interrupts reach its virtual CPUs (xen/arch/arm/vgic.c). What the
 * domain reads and writes is that of the machine's version, as a guest of Xen gets it: v2.ts or v3.ts. An interrupt
 * reaches the guest only when its group, the distributor and the interrupt itself are enabled.
 * Behind an SPI may stand a line of the machine (irq.ts), which is enabled there as the guest has it here, and held
 * active there while the virtual one is pending, on its way or active.
 * The hardware domain has none: it takes event channels only (domain/vcpu.ts).
 * Deviates: an access of a width that the register does not have aborts the guest, as Xen does; the book leaves it open.
 */
import { SPI_FIRST } from '#shared/arch/gic/distributor.ts';
import { assert } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Counts } from '../counts.ts';
import type { GuestDevice } from '../passthrough/sbdf-map.ts';
import type { HostDevice } from '../vits/commands.ts';
import type { VIts } from '../vits/registers.ts';
import type { IrqBank } from './distributor.ts';
import { type InterruptState, updateQueue, type VirtualCpu } from './inject.ts';
import type { GuestMemory } from './lpi.ts';
import type { MmioAccess, VGicRegisters } from './registers.ts';
import { VGicV2Registers } from './v2.ts';
import { VGicV3Registers } from './v3.ts';

/** What the interrupt controller asks of its domain. */
export interface VGicDomain extends GuestMemory {
  readonly domid: number;
  readonly vcpus: readonly VirtualCpu[];
  readonly pdevs: readonly (GuestDevice & { readonly msi: HostDevice | undefined })[];
}

export interface VGicDeps {
  readonly runtime: Pick<Runtime, 'spawn' | 'trace'>;
  readonly counts: Counts;
  /** As the machine's GIC; default 3. */
  readonly version?: 2 | 3;
  /** SPIs of the domain; default 32. */
  readonly spis?: number;
}

/** A line of the machine behind a virtual SPI. Either call does nothing when the line is so already. */
export interface HostLine {
  /** Enabled in the machine. */
  readonly enabled: boolean;
  /** It was taken for this domain, and is active in the machine. */
  readonly inProgress: boolean;
  setEnabled(on: boolean): Op<void>;
  /** The virtual interrupt has ended: it ends in the machine. */
  complete(): Op<void>;
}

export class VGic {
  readonly domid: number;
  readonly #vcpus: readonly VirtualCpu[];
  readonly #states: readonly InterruptState[];
  readonly #registers: VGicRegisters;
  /** The same, when it has LPIs. */
  readonly #v3: VGicV3Registers | undefined;
  readonly #counts: Counts;
  /** By INTID. */
  readonly #lines = new Map<number, HostLine>();

  constructor(domain: VGicDomain, deps: VGicDeps) {
    this.domid = domain.domid;
    this.#vcpus = domain.vcpus;
    this.#counts = deps.counts;
    const spis = deps.spis ?? 32;
    const update = {
      vcpu: (vcpu: number) => this.#update(vcpu),
      all: () => this.#updateAll(),
    };
    const end = (vcpu: number, intid: number): void => this.#end(vcpu, intid);
    if (deps.version === 2) this.#registers = new VGicV2Registers(domain.vcpus.length, spis, { update, end });
    else {
      this.#v3 = new VGicV3Registers(domain, { runtime: deps.runtime, counts: deps.counts, spis, update });
      this.#registers = this.#v3;
    }
    this.#states = domain.vcpus.map((_, v) => this.#stateOf(v));
  }

  /** Undefined when the domain takes no messages. */
  get vits(): VIts | undefined {
    return this.#v3?.vits;
  }

  /**
   * A trapped access. The answer is a load's data (empty for a store), or undefined when nothing of ours is there or the
   * access is one that the register does not take: the guest gets an abort.
   */
  *mmio(access: MmioAccess): Op<Uint8Array | undefined> {
    const { ipa, sizeBytes, vcpu } = access;
    if (![1, 2, 4, 8].includes(sizeBytes) || ipa % sizeBytes !== 0 || vcpu >= this.#vcpus.length) return undefined;
    const answer = yield* this.#registers.mmio(access);
    if (access.isWrite) yield* this.syncLines();
    return answer;
  }

  /** Makes a PPI (of `vcpu`) or an SPI pending. */
  inject(intid: number, vcpu = 0): void {
    const { privates, spis } = this.#registers;
    if (intid < SPI_FIRST) {
      privates[vcpu]?.setPending(intid);
      this.#update(vcpu);
    } else if (spis.has(intid)) {
      spis.setPending(intid);
      this.#update(this.#registers.targetOf(intid));
    }
  }

  /** Whether the domain has that SPI. */
  hasSpi(intid: number): boolean {
    return this.#registers.spis.has(intid);
  }

  /** A line of the machine is behind the SPI from now on; `syncLines` brings it to the state that the guest has set. */
  connect(intid: number, line: HostLine): void {
    assert(this.hasSpi(intid) && !this.#lines.has(intid), `SPI ${intid} of d${this.domid} has a line already`);
    this.#lines.set(intid, line);
  }

  /** The line is gone, and with it what it made pending or active. */
  disconnect(intid: number): void {
    if (!this.#lines.delete(intid)) return;
    const { spis } = this.#registers;
    spis.clearPending(intid);
    spis.setActive(intid, false);
    for (const vcpu of this.#vcpus) vcpu.retract(intid);
  }

  /** These left in an upcall of `vcpu`: its virtual CPU has taken them when it answers. */
  taken(intids: readonly number[]): void {
    const { spis } = this.#registers;
    for (const intid of intids) if (spis.has(intid)) spis.setActive(intid, true);
  }

  /** The guest wrote ICC_EOIR1_EL1: priority drop and deactivation in one (EOImode=0). */
  *endOfInterrupt(vcpu: number, intid: number): Op<void> {
    this.#end(vcpu, intid);
    yield* this.syncLines();
  }

  #end(vcpu: number, intid: number): void {
    const { privates, spis } = this.#registers;
    const bank = intid < SPI_FIRST ? privates[vcpu] : spis;
    // An LPI has no active state, and a number that is none of ours has nothing.
    if (bank?.has(intid) !== true || !bank.isActive(intid)) return;
    bank.setActive(intid, false);
    this.#updateAll();
  }

  /** Brings the lines of the machine to what the guest's registers say by now. */
  *syncLines(): Op<void> {
    const { spis } = this.#registers;
    for (const [intid, line] of [...this.#lines]) {
      const enabled = spis.isEnabled(intid);
      if (line.enabled !== enabled) yield* line.setEnabled(enabled);
      if (line.inProgress && !spis.isPending(intid) && !spis.isActive(intid) && !this.#isQueued(intid)) {
        yield* line.complete();
      }
    }
  }

  #isQueued(intid: number): boolean {
    return this.#vcpus.some((vcpu) => vcpu.pending.includes(intid));
  }

  /** A host LPI that stands for the virtual LPI `vIntid` was taken. */
  injectLpi(vIntid: number): void {
    const delivered = this.#v3?.lpis.setPending(vIntid) === true;
    this.#counts.add('msisDelivered', delivered ? 'delivered' : 'dropped, LPI not mapped or off');
  }

  /** The domain is dying: no command of its vITS is started any more. */
  stop(): void {
    this.vits?.stop();
  }

  inspect(): unknown {
    const { spis } = this.#registers;
    return {
      version: this.#v3 === undefined ? 2 : 3,
      lpis: this.#v3?.lpis.mapped ?? 0,
      spis: [...this.#lines].map(([intid, line]) => ({
        intid,
        enabled: spis.isEnabled(intid),
        pending: spis.isPending(intid) || this.#isQueued(intid),
        active: spis.isActive(intid),
        inProgress: line.inProgress,
      })),
      vits: this.vits?.inspect() ?? null,
    };
  }

  #update(vcpu: number): void {
    const queue = this.#vcpus[vcpu];
    if (queue !== undefined) updateQueue(queue, this.#states[vcpu]!);
  }

  #updateAll(): void {
    for (let vcpu = 0; vcpu < this.#vcpus.length; vcpu++) this.#update(vcpu);
  }

  #stateOf(vcpu: number): InterruptState {
    const registers = this.#registers;
    const { spis } = registers;
    const own = registers.privates[vcpu]!;
    const lpis = this.#v3?.lpis;
    const bankOf = (intid: number): IrqBank | undefined =>
      intid < SPI_FIRST ? own : spis.has(intid) ? spis : undefined;
    return {
      isEnabled: (intid) => {
        const bank = bankOf(intid);
        if (bank === undefined) return registers.takes(vcpu, 0) && lpis?.isEnabled(intid) === true;
        return bank.isEnabled(intid) && registers.takes(vcpu, bank.priorityOf(intid));
      },
      setPending: (intid) => {
        const bank = bankOf(intid);
        if (bank === undefined) lpis?.keepPending(intid);
        else bank.setPending(intid);
      },
      clearPending: (intid) => {
        const bank = bankOf(intid);
        if (bank === undefined) lpis?.taken(intid);
        else bank.clearPending(intid);
      },
      forEachDeliverable: (each) => {
        own.forEachDeliverable((intid, priority) => {
          if (registers.takes(vcpu, priority)) each(intid, priority);
        });
        spis.forEachDeliverable((intid, priority) => {
          if (registers.targetOf(intid) === vcpu && registers.takes(vcpu, priority)) each(intid, priority);
        });
        if (this.#v3?.lpisEnabledOn(vcpu) === true && registers.takes(vcpu, 0)) lpis?.forEachDeliverable(vcpu, each);
      },
    };
  }
}
