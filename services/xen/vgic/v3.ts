/**
 * A domain's GICv3: distributor, redistributors and one ITS at GUEST_GICV3_* and GUEST_VITS_BASE (xen/arch/arm/vgic-v3.c,
 * vgic-v3-its.c).
 * Not modelled: ICC_SGI1R_EL1 (no SGIs between virtual CPUs), priority masking by ICV_PMR_EL1.
 */
import {
  GUEST_GICV3_GICD_BASE,
  GUEST_GICV3_GICD_SIZE,
  GUEST_GICV3_GICR0_BASE,
  GUEST_GICV3_RDIST_STRIDE,
  GUEST_VITS_BASE,
  GUEST_VITS_SIZE,
} from '#shared/abi/arch-arm.ts';
import { GICD_IPRIORITYR, GICD_ITARGETSR } from '#shared/arch/gic/distributor.ts';
import { GICR_SGI_FRAME } from '#shared/arch/gic/redistributor.ts';
import type { Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Counts } from '../counts.ts';
import { byVDeviceId } from '../passthrough/sbdf-map.ts';
import { VIts } from '../vits/registers.ts';
import { type IrqBank, VDistributor } from './distributor.ts';
import { VLpis } from './lpi.ts';
import { VRedistributor, VRedistributorsShared } from './redistributor.ts';
import { load, type MmioAccess, NO_DATA, store, type VGicRegisters } from './registers.ts';
import type { VGicDomain } from './vgic.ts';

/** Something of a virtual CPU, or of all, became deliverable, or no longer is. */
export interface Update {
  vcpu(vcpu: number): void;
  all(): void;
}

export interface VGicV3Deps {
  readonly runtime: Pick<Runtime, 'spawn' | 'trace'>;
  readonly counts: Counts;
  readonly spis: number;
  readonly update: Update;
}

export class VGicV3Registers implements VGicRegisters {
  readonly vits: VIts;
  readonly lpis: VLpis;
  readonly spis: IrqBank;
  readonly privates: readonly IrqBank[];
  readonly #distributor: VDistributor;
  readonly #redistributors: readonly VRedistributor[];
  readonly #changed: Update;

  constructor(domain: VGicDomain, deps: VGicV3Deps) {
    this.#changed = deps.update;
    this.#distributor = new VDistributor(deps.spis);
    this.spis = this.#distributor.spis;
    const shared = new VRedistributorsShared();
    const count = domain.vcpus.length;
    this.#redistributors = domain.vcpus.map((_, v) => new VRedistributor(v, v === count - 1, shared));
    this.privates = this.#redistributors.map((r) => r.private);
    this.lpis = new VLpis(domain, count, {
      propertyTable: () => shared.propertyTable,
      idBits: () => shared.idBits,
      enabledOn: (vcpu) => this.lpisEnabledOn(vcpu),
      update: (vcpu) => deps.update.vcpu(vcpu),
      retract: (vcpu, vIntid) => domain.vcpus[vcpu]?.retract(vIntid),
    });
    this.vits = new VIts({
      domid: domain.domid,
      memory: domain,
      vcpus: count,
      lpis: this.lpis,
      devices: { find: (vDeviceId) => byVDeviceId(domain.pdevs, vDeviceId)?.msi },
      runtime: deps.runtime,
      counts: deps.counts,
    });
  }

  /** GICR_CTLR.EnableLPIs. */
  lpisEnabledOn(vcpu: number): boolean {
    return this.#redistributors[vcpu]?.lpisEnabled ?? false;
  }

  targetOf(intid: number): number {
    return this.#distributor.targetOf(intid);
  }

  takes(): boolean {
    return this.#distributor.enabled;
  }

  *mmio(access: MmioAccess): Op<Uint8Array | undefined> {
    const { ipa } = access;
    const gicd = ipa - GUEST_GICV3_GICD_BASE;
    if (gicd >= 0 && gicd < GUEST_GICV3_GICD_SIZE) return this.#gicd(gicd, access);
    const gicr = ipa - GUEST_GICV3_GICR0_BASE;
    if (gicr >= 0 && gicr < GUEST_GICV3_RDIST_STRIDE * this.#redistributors.length) return this.#gicr(gicr, access);
    const vits = ipa - GUEST_VITS_BASE;
    if (vits >= 0 && vits < GUEST_VITS_SIZE) return yield* this.#its(vits, access);
    return undefined;
  }

  #gicd(offset: number, access: MmioAccess): Uint8Array | undefined {
    const d = this.#distributor;
    if (!widthFits(offset, access.sizeBytes, d.isWide(offset))) return undefined;
    if (!access.isWrite) return load(access.sizeBytes, offset, (o) => d.read(o));
    store(access, offset, (o, size, value) => d.write(o, size, value));
    this.#changed.all();
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
    this.#changed.vcpu(r.vcpu);
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
