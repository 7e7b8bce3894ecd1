/**
 * A domain's GICv2: the distributor at GUEST_GICV2_GICD_BASE (xen/arch/arm/vgic-v2.c), and the CPU interface at
 * GUEST_GICV2_GICC_BASE. A virtual CPU takes what GICC_CTLR and GICC_PMR let it. There are no groups and no LPIs.
 * Real Xen maps the page of the machine's virtual CPU interface (GICV) where the guest has GICC; here an upcall stands
 * for it (docs/decisions/0004), so what is acknowledged has left GICC_IAR before the guest could read it: it reads 1023.
 * An SPI is active from then on until the guest writes GICC_EOIR, or GICC_DIR with GICC_CTLR.EOImode.
 * Not modelled: GICD_CPENDSGIR and GICD_SPENDSGIR (RAZ/WI; Xen aborts), who sent an SGI, preemption by GICC_BPR, which
 * keeps what is written.
 */
import {
  GUEST_GICV2_GICC_BASE,
  GUEST_GICV2_GICC_SIZE,
  GUEST_GICV2_GICD_BASE,
  GUEST_GICV2_GICD_SIZE,
} from '#shared/abi/arch-arm.ts';
import {
  GICD_CTLR,
  GICD_ICFGR,
  GICD_IGROUPR,
  GICD_IIDR,
  GICD_IPRIORITYR,
  GICD_ISENABLER,
  GICD_ITARGETSR,
  GICD_TYPER,
  SPI_FIRST,
} from '#shared/arch/gic/distributor.ts';
import {
  decodeGicdSgir,
  encodeGicv2Typer,
  GIC400_GICC_IIDR,
  GICC_BPR,
  GICC_CTLR,
  GICC_CTLR_EnableGrp0,
  GICC_CTLR_EOImode,
  GICC_DIR,
  GICC_EOIR,
  GICC_HPPIR,
  GICC_IAR,
  GICC_IAR_INTID_MASK,
  GICC_IAR_NONE,
  GICC_IIDR,
  GICC_PMR,
  GICC_RPR,
  GICD_SGIR,
  GICV2_CPUS_MAX,
  GICV2_GICD_CTLR_EnableGrp0,
  sgiTargets,
} from '#shared/arch/gic/v2.ts';
import { assert } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';
import { IrqBank } from './distributor.ts';
import { load, type MmioAccess, NO_DATA, store, type VGicRegisters } from './registers.ts';
import type { Update } from './v3.ts';

/** Implementer Arm. */
const GICD_IIDR_VALUE = 0x0000_043b;
const PRIORITY_MASK = 0xf8;
const BPR_MIN = 2;
const RPR_IDLE = 0xff;

/** What a virtual CPU has written of its CPU interface. */
interface CpuInterface {
  ctlr: number;
  pmr: number;
  bpr: number;
}

export class VGicV2Registers implements VGicRegisters {
  readonly spis: IrqBank;
  readonly privates: readonly IrqBank[];
  readonly #vcpus: number;
  readonly #lines: number;
  readonly #changed: Update;
  readonly #end: (vcpu: number, intid: number) => void;
  readonly #interfaces: readonly CpuInterface[];
  /** Virtual CPU of each SPI. */
  readonly #targets: Uint8Array;
  #ctlr = 0;

  /** `spis` is rounded up to a multiple of 32; `end` is called when a virtual CPU deactivates an interrupt. */
  constructor(
    vcpus: number,
    spis: number,
    { update, end }: { readonly update: Update; readonly end: (vcpu: number, intid: number) => void },
  ) {
    assert(vcpus <= GICV2_CPUS_MAX, `a GICv2 has ${GICV2_CPUS_MAX} CPU interfaces at most, not ${vcpus}`);
    const words = Math.ceil(spis / 32);
    this.#vcpus = vcpus;
    this.#changed = update;
    this.#end = end;
    this.#lines = SPI_FIRST + 32 * words;
    this.spis = new IrqBank(1, words);
    this.privates = Array.from({ length: vcpus }, () => new IrqBank(0, 1));
    this.#interfaces = this.privates.map(() => ({ ctlr: 0, pmr: 0, bpr: BPR_MIN }));
    this.#targets = new Uint8Array(this.#lines);
    // SGIs are always enabled.
    for (const bank of this.privates) bank.write(GICD_ISENABLER, 4, 0xffff);
  }

  targetOf(intid: number): number {
    return this.#targets[intid]!;
  }

  takes(vcpu: number, priority: number): boolean {
    const { ctlr, pmr } = this.#interfaces[vcpu]!;
    return this.#ctlr !== 0 && (ctlr & GICC_CTLR_EnableGrp0) !== 0 && priority < pmr;
  }

  // biome-ignore lint/correctness/useYield: nothing of it waits
  *mmio(access: MmioAccess): Op<Uint8Array | undefined> {
    const { ipa, sizeBytes } = access;
    const gicd = ipa - GUEST_GICV2_GICD_BASE;
    const gicc = ipa - GUEST_GICV2_GICC_BASE;
    if (gicd >= 0 && gicd < GUEST_GICV2_GICD_SIZE) {
      if (sizeBytes === 4 || (sizeBytes === 1 && hasBytes(gicd))) return this.#gicd(gicd, access);
    } else if (gicc >= 0 && gicc < GUEST_GICV2_GICC_SIZE && sizeBytes === 4) return this.#gicc(gicc, access);
    return undefined;
  }

  #gicd(offset: number, access: MmioAccess): Uint8Array | undefined {
    if (!access.isWrite) return load(access.sizeBytes, offset, (o) => this.#read(access.vcpu, o));
    store(access, offset, (o, size, value) => this.#write(access.vcpu, o, size, value));
    this.#changed.all();
    return NO_DATA;
  }

  #gicc(offset: number, access: MmioAccess): Uint8Array | undefined {
    const cpu = this.#interfaces[access.vcpu]!;
    if (!access.isWrite) return load(4, offset, (o) => readCpuInterface(cpu, o));
    store(access, offset, (o, _size, value) => this.#writeCpuInterface(access.vcpu, o, value));
    this.#changed.vcpu(access.vcpu);
    return NO_DATA;
  }

  #writeCpuInterface(vcpu: number, offset: number, value: number): void {
    const cpu = this.#interfaces[vcpu]!;
    const split = (cpu.ctlr & GICC_CTLR_EOImode) !== 0;
    switch (offset) {
      case GICC_CTLR:
        cpu.ctlr = value & (GICC_CTLR_EnableGrp0 | GICC_CTLR_EOImode);
        return;
      case GICC_PMR:
        cpu.pmr = value & PRIORITY_MASK;
        return;
      case GICC_BPR:
        cpu.bpr = Math.max(value & 7, BPR_MIN);
        return;
      case GICC_EOIR:
        if (!split) this.#end(vcpu, value & GICC_IAR_INTID_MASK);
        return;
      case GICC_DIR:
        if (split) this.#end(vcpu, value & GICC_IAR_INTID_MASK);
        return;
    }
  }

  /** What is reserved or not implemented reads as zero. */
  #read(vcpu: number, offset: number): number {
    switch (offset) {
      case GICD_CTLR:
        return this.#ctlr;
      case GICD_TYPER:
        return encodeGicv2Typer({ lines: this.#lines, cpus: this.#vcpus });
      case GICD_IIDR:
        return GICD_IIDR_VALUE;
    }
    if (isTarget(offset)) return this.#readTargets(vcpu, offset - GICD_ITARGETSR);
    if (isGroup(offset)) return 0;
    return ((this.privates[vcpu]!.read(offset) ?? 0) | (this.spis.read(offset) ?? 0)) >>> 0;
  }

  #write(vcpu: number, offset: number, sizeBytes: number, value: number): void {
    if (offset === GICD_CTLR) this.#ctlr = value & GICV2_GICD_CTLR_EnableGrp0;
    else if (offset === GICD_SGIR) this.#generateSgi(vcpu, value);
    else if (isTarget(offset)) this.#writeTargets(offset - GICD_ITARGETSR, sizeBytes, value);
    else if (!isGroup(offset)) {
      const own = this.privates[vcpu]!;
      own.write(offset, sizeBytes, value);
      own.write(GICD_ISENABLER, 4, 0xffff);
      this.spis.write(offset, sizeBytes, value);
    }
  }

  #generateSgi(from: number, value: number): void {
    const sgir = decodeGicdSgir(value);
    for (let list = sgiTargets(sgir, from, this.#vcpus); list !== 0; list &= list - 1)
      this.privates[31 - Math.clz32(list & -list)]!.setPending(sgir.intid);
  }

  #readTargets(vcpu: number, first: number): number {
    let value = 0;
    for (let i = 3; i >= 0; i--) {
      const intid = first + i;
      const target = intid < SPI_FIRST ? vcpu : this.#targets[intid];
      value = value * 256 + (target === undefined ? 0 : 1 << target);
    }
    return value;
  }

  /** An SPI goes to one virtual CPU: the lowest that is named. With none it stays where it was. */
  #writeTargets(first: number, sizeBytes: number, value: number): void {
    for (let i = 0; i < sizeBytes; i++) {
      const intid = first + i;
      const named = (value >>> (8 * i)) & (2 ** this.#vcpus - 1);
      if (intid >= SPI_FIRST && intid < this.#lines && named !== 0)
        this.#targets[intid] = 31 - Math.clz32(named & -named);
    }
  }
}

function readCpuInterface(cpu: CpuInterface, offset: number): number {
  switch (offset) {
    case GICC_CTLR:
      return cpu.ctlr;
    case GICC_PMR:
      return cpu.pmr;
    case GICC_BPR:
      return cpu.bpr;
    case GICC_IAR:
    case GICC_HPPIR:
      return GICC_IAR_NONE;
    case GICC_RPR:
      return RPR_IDLE;
    case GICC_IIDR:
      return GIC400_GICC_IIDR;
    default:
      return 0;
  }
}

function isTarget(offset: number): boolean {
  return offset >= GICD_ITARGETSR && offset < GICD_ICFGR;
}

/** Without Security Extensions a guest has no groups. */
function isGroup(offset: number): boolean {
  return offset >= GICD_IGROUPR && offset < GICD_ISENABLER;
}

/** Priorities and targets take bytes. */
function hasBytes(offset: number): boolean {
  return offset >= GICD_IPRIORITYR && offset < GICD_ICFGR;
}
