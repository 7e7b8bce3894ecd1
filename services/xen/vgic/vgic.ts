/**
 * The interrupt controller of a domain: which pending interrupts reach its virtual CPUs (xen/arch/arm/vgic.c). What the
 * domain reads and writes is that of the machine's version, as a guest of Xen gets it: v2.ts or v3.ts. An interrupt
 * reaches the guest only when its group, the distributor and the interrupt itself are enabled.
 * The hardware domain has none: it takes event channels only (domain/vcpu.ts).
 * Deviates: an access of a width that the register does not have aborts the guest, as Xen does; the book leaves it open.
 */
import { SPI_FIRST } from '#shared/arch/gic/distributor.ts';
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

export class VGic {
  readonly domid: number;
  readonly #vcpus: readonly VirtualCpu[];
  readonly #states: readonly InterruptState[];
  readonly #registers: VGicRegisters;
  /** The same, when it has LPIs. */
  readonly #v3: VGicV3Registers | undefined;
  readonly #counts: Counts;

  constructor(domain: VGicDomain, deps: VGicDeps) {
    this.domid = domain.domid;
    this.#vcpus = domain.vcpus;
    this.#counts = deps.counts;
    const spis = deps.spis ?? 32;
    const update = {
      vcpu: (vcpu: number) => this.#update(vcpu),
      all: () => this.#updateAll(),
    };
    if (deps.version === 2) this.#registers = new VGicV2Registers(domain.vcpus.length, spis, update);
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
    return yield* this.#registers.mmio(access);
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
    return {
      version: this.#v3 === undefined ? 2 : 3,
      lpis: this.#v3?.lpis.mapped ?? 0,
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
