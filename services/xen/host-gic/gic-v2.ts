/**
 * Xen driving a GICv2 (xen/arch/arm/gic-v2.c): distributor and CPU interfaces, both memory-mapped, of which each CPU has
 * registers of its own at the same addresses. Xen is in the Non-secure state of a GIC that has one, so it knows one
 * enable and leaves groups as firmware has them. There are no LPIs.
 * Not modelled: SGIs between CPUs, the list registers of GICH (an upcall stands for them), v2m frames.
 */
import type { El2Op, El2Result } from '#gen/hardware.ts';
import {
  GICD_CTLR,
  GICD_ICACTIVER,
  GICD_ICENABLER,
  GICD_ICFGR,
  GICD_IPRIORITYR,
  GICD_ISENABLER,
  GICD_ITARGETSR,
  GICD_TYPER,
  SPI_FIRST,
} from '#shared/arch/gic/distributor.ts';
import {
  decodeGicv2Typer,
  GIC400_GICC_IIDR,
  GICC_BPR,
  GICC_CTLR,
  GICC_CTLR_EOImode,
  GICC_DIR,
  GICC_EOIR,
  GICC_IAR,
  GICC_IAR_INTID_MASK,
  GICC_IIDR,
  GICC_PMR,
  GICV2_GICC_ALIASED_BYTES,
} from '#shared/arch/gic/v2.ts';
import type { Op } from '#shared/core/op.ts';
import type { FdtNode, FdtRegion } from '#shared/fdt/node.ts';
import { type El2, physRead, physWrite32, physWriteFrom, word } from '../el2.ts';
import { type GicDriver, GicError, type HostGicParts } from './driver.ts';

/** GICD_CTLR and GICC_CTLR alike. */
const ENABLE = 1;
const PRIORITIES_IRQ = 0xa0a0_a0a0;
const PRIORITIES_IPI = 0x9090_9090;
const SGIS = 0x0000_ffff;
const PPIS = 0xffff_0000;
/** Part and implementer of GICC_IIDR, without variants and revisions. */
const IIDR_MASK = 0x0fff_0fff;
/** In a frame of 128 KiB the first page repeats up to 64 KiB: this far in, both pages stand side by side. */
const ALIASED_OFFSET = 0xf000;

export class GicV2 implements GicDriver {
  readonly version = 2;
  readonly gicdPa: number;
  readonly itses = [];
  readonly lpis = undefined;
  readonly #el2: El2;
  readonly #cpus: number;
  readonly #gicc: FdtRegion;
  #giccPa: number;

  /** Throws GicError for a node that lacks a region. */
  constructor(parts: HostGicParts, node: FdtNode, cpus: number) {
    const [gicd, gicc] = node.regions();
    if (gicd === undefined || gicc === undefined) throw new GicError(`reg of ${node.path} lacks a CPU interface`);
    this.#el2 = parts.el2;
    this.#cpus = cpus;
    this.gicdPa = gicd.address;
    this.#gicc = gicc;
    this.#giccPa = gicc.address;
  }

  *init(): Op<number> {
    if (yield* this.#isAliased()) this.#giccPa = this.#gicc.address + ALIASED_OFFSET;
    const lines = yield* this.#initDistributor();
    for (let pcpu = 0; pcpu < this.#cpus; pcpu++) yield* this.#initCpu(pcpu);
    return lines;
  }

  acknowledgeOps(pcpu: number, at: number): readonly [El2Op, El2Op] {
    return [physRead(this.#giccPa + GICC_IAR, 4, pcpu), physWriteFrom(this.#giccPa + GICC_EOIR, at, pcpu)];
  }

  deactivateOp(pcpu: number, intid: number): El2Op {
    return physWrite32(this.#giccPa + GICC_DIR, intid, pcpu);
  }

  intidOf(result: El2Result): number {
    return word(result.data) & GICC_IAR_INTID_MASK;
  }

  /** gicv2_is_aliased: the same identification at both ends of 128 KiB. */
  *#isAliased(): Op<boolean> {
    const { address, sizeBytes } = this.#gicc;
    if (sizeBytes < GICV2_GICC_ALIASED_BYTES) return false;
    const low = yield* this.#el2.read32(address + GICC_IIDR);
    const high = yield* this.#el2.read32(address + ALIASED_OFFSET + GICC_IIDR);
    return (low & IIDR_MASK) === (GIC400_GICC_IIDR & IIDR_MASK) && low === high;
  }

  *#initDistributor(): Op<number> {
    const { gicdPa } = this;
    const el2 = this.#el2;
    // What a private interrupt of this CPU goes to is this CPU.
    const targets = (yield* el2.read32(gicdPa + GICD_ITARGETSR)) & 0xff;
    yield* el2.write32(gicdPa + GICD_CTLR, 0);
    const { lines, cpus } = decodeGicv2Typer(yield* el2.read32(gicdPa + GICD_TYPER));
    if (cpus < this.#cpus) throw new GicError(`${cpus} CPU interfaces for ${this.#cpus} CPUs`);
    const ops = [];
    for (let intid = SPI_FIRST; intid < lines; intid += 16) ops.push(physWrite32(gicdPa + GICD_ICFGR + intid / 4, 0));
    for (let intid = SPI_FIRST; intid < lines; intid += 4) {
      ops.push(physWrite32(gicdPa + GICD_ITARGETSR + intid, targets * 0x0101_0101));
      ops.push(physWrite32(gicdPa + GICD_IPRIORITYR + intid, PRIORITIES_IRQ));
    }
    for (let intid = SPI_FIRST; intid < lines; intid += 32)
      ops.push(physWrite32(gicdPa + GICD_ICENABLER + intid / 8, 0xffff_ffff));
    ops.push(physWrite32(gicdPa + GICD_CTLR, ENABLE));
    yield* el2.batch(ops);
    return lines;
  }

  /** What is banked can only be set up by its CPU. */
  *#initCpu(pcpu: number): Op<void> {
    const ops: El2Op[] = [];
    const write = (pa: number, value: number): void => void ops.push(physWrite32(pa, value, pcpu));
    write(this.gicdPa + GICD_ICACTIVER, 0xffff_ffff);
    write(this.gicdPa + GICD_ICENABLER, PPIS);
    write(this.gicdPa + GICD_ISENABLER, SGIS);
    for (let intid = 0; intid < SPI_FIRST; intid += 4)
      write(this.gicdPa + GICD_IPRIORITYR + intid, intid < 16 ? PRIORITIES_IPI : PRIORITIES_IRQ);
    write(this.#giccPa + GICC_PMR, 0xff);
    write(this.#giccPa + GICC_BPR, 0);
    write(this.#giccPa + GICC_CTLR, ENABLE | GICC_CTLR_EOImode);
    yield* this.#el2.batch(ops);
  }
}
