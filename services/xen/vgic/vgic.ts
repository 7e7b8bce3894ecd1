/**
 * The interrupt controller of a domain: what it reads and writes at GUEST_GICV3_* and GUEST_VITS_BASE, and which pending
 * interrupts reach its virtual CPUs (xen/arch/arm/vgic-v3.c, vgic-v3-its.c). An interrupt reaches the guest only when
 * its group, the distributor and the interrupt itself are enabled.
 * Behind an SPI may stand a line of the machine (irq.ts), which is enabled there as the guest has it here, and held
 * active there while the virtual one is pending, on its way or active.
 * The hardware domain has none: it takes event channels only (domain/vcpu.ts).
 * Not modelled: ICC_SGI1R_EL1 (no SGIs between virtual CPUs), priority masking by ICV_PMR_EL1.
 * Deviates: an access of a width that the register does not have aborts the guest, as Xen does; IHI 0069 leaves it open.
 */
import {
  GUEST_GICV3_GICD_BASE,
  GUEST_GICV3_GICD_SIZE,
  GUEST_GICV3_GICR0_BASE,
  GUEST_GICV3_RDIST_STRIDE,
  GUEST_VITS_BASE,
  GUEST_VITS_SIZE,
} from '#shared/abi/arch-arm.ts';
import { GICD_IPRIORITYR, GICD_ITARGETSR, SPI_FIRST } from '#shared/arch/gic/distributor.ts';
import { GICR_SGI_FRAME } from '#shared/arch/gic/redistributor.ts';
import { assert } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Counts } from '../counts.ts';
import { byVDeviceId, type GuestDevice } from '../passthrough/sbdf-map.ts';
import type { HostDevice } from '../vits/commands.ts';
import { VIts } from '../vits/registers.ts';
import { type IrqBank, VDistributor } from './distributor.ts';
import { type InterruptState, updateQueue, type VirtualCpu } from './inject.ts';
import { type GuestMemory, VLpis } from './lpi.ts';
import { VRedistributor, VRedistributorsShared } from './redistributor.ts';

/** What the interrupt controller asks of its domain. */
export interface VGicDomain extends GuestMemory {
  readonly domid: number;
  readonly vcpus: readonly VirtualCpu[];
  readonly pdevs: readonly (GuestDevice & { readonly msi: HostDevice | undefined })[];
}

export interface VGicDeps {
  readonly runtime: Pick<Runtime, 'spawn' | 'trace'>;
  readonly counts: Counts;
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

/** One trapped access. `value` has the bytes of a store, lowest first. */
export interface MmioAccess {
  readonly ipa: number;
  readonly sizeBytes: number;
  readonly isWrite: boolean;
  readonly value: Uint8Array;
}

const NO_DATA = new Uint8Array(0);

export class VGic {
  readonly domid: number;
  readonly vits: VIts;
  readonly #vcpus: readonly VirtualCpu[];
  readonly #states: readonly InterruptState[];
  readonly #distributor: VDistributor;
  readonly #redistributors: readonly VRedistributor[];
  readonly #lpis: VLpis;
  readonly #counts: Counts;
  /** By INTID. */
  readonly #lines = new Map<number, HostLine>();

  constructor(domain: VGicDomain, deps: VGicDeps) {
    this.domid = domain.domid;
    this.#vcpus = domain.vcpus;
    this.#counts = deps.counts;
    this.#distributor = new VDistributor(deps.spis ?? 32);
    const shared = new VRedistributorsShared();
    const count = domain.vcpus.length;
    this.#redistributors = domain.vcpus.map((_, v) => new VRedistributor(v, v === count - 1, shared));
    this.#lpis = new VLpis(domain, count, {
      propertyTable: () => shared.propertyTable,
      idBits: () => shared.idBits,
      enabledOn: (vcpu) => this.#redistributors[vcpu]?.lpisEnabled ?? false,
      update: (vcpu) => this.#update(vcpu),
      retract: (vcpu, vIntid) => this.#vcpus[vcpu]?.retract(vIntid),
    });
    this.#states = domain.vcpus.map((_, v) => this.#stateOf(v));
    this.vits = new VIts({
      domid: domain.domid,
      memory: domain,
      vcpus: count,
      lpis: this.#lpis,
      devices: { find: (vDeviceId) => byVDeviceId(domain.pdevs, vDeviceId)?.msi },
      runtime: deps.runtime,
      counts: deps.counts,
    });
  }

  /**
   * A trapped access. The answer is a load's data (empty for a store), or undefined when nothing of ours is there or the
   * access is one that the register does not take: the guest gets an abort.
   */
  *mmio(access: MmioAccess): Op<Uint8Array | undefined> {
    const { ipa, sizeBytes } = access;
    if (![1, 2, 4, 8].includes(sizeBytes) || ipa % sizeBytes !== 0) return undefined;
    const gicd = ipa - GUEST_GICV3_GICD_BASE;
    if (gicd >= 0 && gicd < GUEST_GICV3_GICD_SIZE) return yield* this.#gicd(gicd, access);
    const gicr = ipa - GUEST_GICV3_GICR0_BASE;
    if (gicr >= 0 && gicr < GUEST_GICV3_RDIST_STRIDE * this.#redistributors.length) return this.#gicr(gicr, access);
    const vits = ipa - GUEST_VITS_BASE;
    if (vits >= 0 && vits < GUEST_VITS_SIZE) return yield* this.#its(vits, access);
    return undefined;
  }

  /** Makes a PPI (of `vcpu`) or an SPI pending. */
  inject(intid: number, vcpu = 0): void {
    if (intid < SPI_FIRST) {
      this.#redistributors[vcpu]?.private.setPending(intid);
      this.#update(vcpu);
    } else if (this.#distributor.spis.has(intid)) {
      this.#distributor.spis.setPending(intid);
      this.#update(this.#distributor.targetOf(intid));
    }
  }

  /** Whether the domain has that SPI. */
  hasSpi(intid: number): boolean {
    return this.#distributor.spis.has(intid);
  }

  /** A line of the machine is behind the SPI from now on; `syncLines` brings it to the state that the guest has set. */
  connect(intid: number, line: HostLine): void {
    assert(this.hasSpi(intid) && !this.#lines.has(intid), `SPI ${intid} of d${this.domid} has a line already`);
    this.#lines.set(intid, line);
  }

  /** The line is gone, and with it what it made pending or active. */
  disconnect(intid: number): void {
    if (!this.#lines.delete(intid)) return;
    const { spis } = this.#distributor;
    spis.clearPending(intid);
    spis.setActive(intid, false);
    for (const vcpu of this.#vcpus) vcpu.retract(intid);
  }

  /** These left in an upcall of `vcpu`: its virtual CPU has taken them when it answers. */
  taken(intids: readonly number[]): void {
    const { spis } = this.#distributor;
    for (const intid of intids) if (spis.has(intid)) spis.setActive(intid, true);
  }

  /** The guest wrote ICC_EOIR1_EL1: priority drop and deactivation in one (EOImode=0). */
  *endOfInterrupt(vcpu: number, intid: number): Op<void> {
    const bank = intid < SPI_FIRST ? this.#redistributors[vcpu]?.private : this.#distributor.spis;
    // An LPI has no active state, and a number that is none of ours has nothing.
    if (bank?.has(intid) !== true || !bank.isActive(intid)) return;
    bank.setActive(intid, false);
    this.#updateAll();
    yield* this.syncLines();
  }

  /** Brings the lines of the machine to what the guest's registers say by now. */
  *syncLines(): Op<void> {
    const { spis } = this.#distributor;
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
    this.#counts.add('msisDelivered', this.#lpis.setPending(vIntid) ? 'delivered' : 'dropped, LPI not mapped or off');
  }

  /** The domain is dying: no command of its vITS is started any more. */
  stop(): void {
    this.vits.stop();
  }

  inspect(): unknown {
    const { spis } = this.#distributor;
    return {
      enabled: this.#distributor.enabled,
      lpis: this.#lpis.mapped,
      spis: [...this.#lines].map(([intid, line]) => ({
        intid,
        enabled: spis.isEnabled(intid),
        pending: spis.isPending(intid) || this.#isQueued(intid),
        active: spis.isActive(intid),
        inProgress: line.inProgress,
      })),
      vits: this.vits.inspect(),
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
    const { spis } = this.#distributor;
    const redistributor = this.#redistributors[vcpu]!;
    const bankOf = (intid: number): IrqBank | undefined =>
      intid < SPI_FIRST ? redistributor.private : spis.has(intid) ? spis : undefined;
    return {
      isEnabled: (intid) =>
        this.#distributor.enabled && (bankOf(intid)?.isEnabled(intid) ?? this.#lpis.isEnabled(intid)),
      setPending: (intid) => {
        const bank = bankOf(intid);
        if (bank === undefined) this.#lpis.keepPending(intid);
        else bank.setPending(intid);
      },
      clearPending: (intid) => {
        const bank = bankOf(intid);
        if (bank === undefined) this.#lpis.taken(intid);
        else bank.clearPending(intid);
      },
      forEachDeliverable: (each) => {
        if (!this.#distributor.enabled) return;
        redistributor.private.forEachDeliverable(each);
        spis.forEachDeliverable((intid, priority) => {
          if (this.#distributor.targetOf(intid) === vcpu) each(intid, priority);
        });
        if (redistributor.lpisEnabled) this.#lpis.forEachDeliverable(vcpu, each);
      },
    };
  }

  *#gicd(offset: number, access: MmioAccess): Op<Uint8Array | undefined> {
    const d = this.#distributor;
    if (!widthFits(offset, access.sizeBytes, d.isWide(offset))) return undefined;
    if (!access.isWrite) return load(access.sizeBytes, offset, (o) => d.read(o));
    store(access, offset, (o, size, value) => d.write(o, size, value));
    this.#updateAll();
    yield* this.syncLines();
    return NO_DATA;
  }

  #gicr(at: number, access: MmioAccess): Uint8Array | undefined {
    const r = this.#redistributors[Math.floor(at / GUEST_GICV3_RDIST_STRIDE)]!;
    const offset = at % GUEST_GICV3_RDIST_STRIDE;
    const inSgiFrame = offset >= GICR_SGI_FRAME;
    const isWide = !inSgiFrame && r.isWide(offset);
    if (!widthFits(inSgiFrame ? offset - GICR_SGI_FRAME : 0, access.sizeBytes, isWide)) return undefined;
    if (!access.isWrite) return load(access.sizeBytes, offset, (o) => r.read(o));
    store(access, offset, (o, size, value) => r.write(o, size, value));
    this.#update(r.vcpu);
    return NO_DATA;
  }

  *#its(offset: number, access: MmioAccess): Op<Uint8Array | undefined> {
    if (!widthFits(0, access.sizeBytes, this.vits.isWide(offset))) return undefined;
    if (!access.isWrite) return load(access.sizeBytes, offset, (o) => this.vits.read(o));
    const writes: { offset: number; value: number }[] = [];
    store(access, offset, (o, _size, value) => writes.push({ offset: o, value }));
    yield* this.vits.write(writes);
    return NO_DATA;
  }
}

/** 4 bytes always, 8 on 64-bit registers, 1 and 2 on priorities. */
function widthFits(offset: number, sizeBytes: number, isWide: boolean): boolean {
  if (sizeBytes === 4) return true;
  if (sizeBytes === 8) return isWide;
  return offset >= GICD_IPRIORITYR && offset < GICD_ITARGETSR;
}

function load(sizeBytes: number, offset: number, read: (offset: number) => number | undefined): Uint8Array | undefined {
  const aligned = offset & ~3;
  const lo = read(aligned);
  if (lo === undefined) return undefined;
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint32(0, lo, true);
  if (sizeBytes === 8) view.setUint32(4, read(aligned + 4) ?? 0, true);
  const from = offset - aligned;
  return data.slice(from, from + sizeBytes);
}

function store(
  access: MmioAccess,
  offset: number,
  write: (offset: number, sizeBytes: number, value: number) => void,
): void {
  const data = new Uint8Array(8);
  data.set(access.value.subarray(0, access.sizeBytes));
  const view = new DataView(data.buffer);
  write(offset, Math.min(4, access.sizeBytes), view.getUint32(0, true));
  if (access.sizeBytes === 8) write(offset + 4, 4, view.getUint32(4, true));
}
