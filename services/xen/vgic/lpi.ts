/**
 * Virtual LPIs of a domain: configuration as last read from the guest's table, pending state, target (IHI 0069, "LPIs";
 * xen/arch/arm/vgic-v3-its.c). The configuration byte is read when an LPI is mapped and on INV and INVALL, never else.
 * A disabled LPI stays pending. An LPI that arrives at a redistributor with EnableLPIs=0 is dropped.
 */
import {
  LPI_CONFIG_Enable,
  LPI_CONFIG_Priority_MASK,
  LPI_FIRST,
  lpiConfigAddress,
} from '#shared/arch/gic/lpi-tables.ts';
import type { Op } from '#shared/core/op.ts';

/** A guest's memory by IPA. Throws XenError(EFAULT) where nothing is mapped. */
export interface GuestMemory {
  readGuest(ipa: number, sizeBytes: number): Op<Uint8Array>;
  writeGuest(ipa: number, data: Uint8Array): Op<void>;
}

interface VLpi {
  readonly vIntid: number;
  vcpu: number;
  enabled: boolean;
  priority: number;
  pending: boolean;
}

export interface VLpiPort {
  /** IPA of the guest's LPI configuration table. */
  propertyTable(): number;
  /** LPI INTIDs are below 2^idBits(); 0 when LPIs are off. */
  idBits(): number;
  /** EnableLPIs of the virtual CPU's redistributor. */
  enabledOn(vcpu: number): boolean;
  /** Something of the virtual CPU became deliverable, or no longer is. */
  update(vcpu: number): void;
  /** Takes an LPI out of the queue of the virtual CPU if it has not gone out. */
  retract(vcpu: number, vIntid: number): void;
}

export class VLpis {
  readonly #memory: GuestMemory;
  readonly #port: VLpiPort;
  readonly #lpis = new Map<number, VLpi>();
  /** Pending ones, by virtual CPU. */
  readonly #pending: Set<VLpi>[];

  constructor(memory: GuestMemory, vcpus: number, port: VLpiPort) {
    this.#memory = memory;
    this.#port = port;
    this.#pending = Array.from({ length: vcpus }, () => new Set<VLpi>());
  }

  get mapped(): number {
    return this.#lpis.size;
  }

  /** Whether the INTID is an LPI that the guest's table has room for: 8192 to 2^idBits - 1. */
  isLpi(intid: number): boolean {
    return intid >= LPI_FIRST && intid < 2 ** this.#port.idBits();
  }

  isMapped(vIntid: number): boolean {
    return this.#lpis.has(vIntid);
  }

  /** An event leads to this LPI from now on; its configuration byte is read. */
  *map(vIntid: number, vcpu: number): Op<void> {
    const lpi: VLpi = { vIntid, vcpu, enabled: false, priority: 0xff, pending: false };
    this.#lpis.set(vIntid, lpi);
    yield* this.reload(vIntid);
  }

  unmap(vIntid: number): void {
    const lpi = this.#lpis.get(vIntid);
    if (lpi === undefined) return;
    this.clearPending(vIntid);
    this.#lpis.delete(vIntid);
  }

  /** MOVI: the pending state goes with it. */
  move(vIntid: number, vcpu: number): void {
    const lpi = this.#lpis.get(vIntid);
    if (lpi === undefined || lpi.vcpu === vcpu) return;
    this.#pending[lpi.vcpu]!.delete(lpi);
    lpi.vcpu = vcpu;
    if (!lpi.pending) return;
    this.#pending[vcpu]!.add(lpi);
    this.#port.update(vcpu);
  }

  /** INV: reads the configuration byte again. */
  *reload(vIntid: number): Op<void> {
    const bytes = yield* this.#memory.readGuest(lpiConfigAddress(this.#port.propertyTable(), vIntid), 1);
    const lpi = this.#lpis.get(vIntid);
    if (lpi !== undefined) this.#configure(lpi, bytes[0]!);
  }

  /** INVALL of a collection: the bytes of all LPIs that target `vcpu`, in one read. */
  *reloadAll(vcpu: number): Op<void> {
    let first = Infinity;
    let last = -1;
    for (const lpi of this.#lpis.values()) {
      if (lpi.vcpu !== vcpu) continue;
      first = Math.min(first, lpi.vIntid);
      last = Math.max(last, lpi.vIntid);
    }
    if (last < 0) return;
    const table = this.#port.propertyTable();
    const bytes = yield* this.#memory.readGuest(lpiConfigAddress(table, first), last - first + 1);
    for (const lpi of [...this.#lpis.values()]) {
      if (lpi.vcpu === vcpu && lpi.vIntid >= first && lpi.vIntid <= last)
        this.#configure(lpi, bytes[lpi.vIntid - first]!);
    }
  }

  /** An event arrived. Returns false when it is dropped: not mapped, or LPIs are off at its target. */
  setPending(vIntid: number): boolean {
    const lpi = this.#lpis.get(vIntid);
    if (lpi === undefined || !this.#port.enabledOn(lpi.vcpu)) return false;
    lpi.pending = true;
    this.#pending[lpi.vcpu]!.add(lpi);
    if (lpi.enabled) this.#port.update(lpi.vcpu);
    return true;
  }

  /** CLEAR, DISCARD: the event did not happen, unless the guest has it already. */
  clearPending(vIntid: number): void {
    const lpi = this.#lpis.get(vIntid);
    if (lpi === undefined) return;
    this.taken(vIntid);
    this.#port.retract(lpi.vcpu, vIntid);
  }

  /** It moved into the queue of its virtual CPU. */
  taken(vIntid: number): void {
    const lpi = this.#lpis.get(vIntid);
    if (lpi === undefined) return;
    lpi.pending = false;
    this.#pending[lpi.vcpu]!.delete(lpi);
  }

  /** It moved back out of the queue, as it may not be taken now. */
  keepPending(vIntid: number): void {
    const lpi = this.#lpis.get(vIntid);
    if (lpi === undefined) return;
    lpi.pending = true;
    this.#pending[lpi.vcpu]!.add(lpi);
  }

  isEnabled(vIntid: number): boolean {
    return this.#lpis.get(vIntid)?.enabled ?? false;
  }

  /** Calls `each` for the LPIs of `vcpu` that are pending and enabled. */
  forEachDeliverable(vcpu: number, each: (intid: number, priority: number) => void): void {
    for (const lpi of this.#pending[vcpu]!) if (lpi.enabled) each(lpi.vIntid, lpi.priority);
  }

  #configure(lpi: VLpi, config: number): void {
    lpi.enabled = (config & LPI_CONFIG_Enable) !== 0;
    lpi.priority = config & LPI_CONFIG_Priority_MASK;
    this.#port.update(lpi.vcpu);
  }
}
