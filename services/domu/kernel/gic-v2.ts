/**
 * The guest's GICv2 driver for one virtual CPU (IHI 0048B; Linux drivers/irqchip/irq-gic.c): distributor and CPU
 * interface. Every register access here faults in stage 2 and is emulated by Xen. GICC_IAR is never read: Xen delivers
 * INTIDs already acknowledged.
 * Not modelled: SGIs, more than one virtual CPU.
 */
import {
  GICD_CTLR,
  GICD_ICENABLER,
  GICD_ICFGR,
  GICD_IPRIORITYR,
  GICD_ISENABLER,
  GICD_ITARGETSR,
  GICD_TYPER,
  SPI_FIRST,
} from '#shared/arch/gic/distributor.ts';
import { decodeGicv2Typer, GICC_CTLR, GICC_EOIR, GICC_IIDR, GICC_PMR } from '#shared/arch/gic/v2.ts';
import type { Op } from '#shared/core/op.ts';
import { type CpuBus, readOp, word, write32Op } from '#shared/kernel/cpu-bus.ts';
import { GicError } from './gic.ts';
import type { LineChip } from './shared-lines.ts';

export interface GicV2Regions {
  readonly distributor: number;
  readonly cpuInterface: number;
}

/** GICD_CTLR and GICC_CTLR alike. */
const ENABLE = 1;
/** GICINT_DEF_PRI_X4: the priority of everything, as Linux has it. */
const PRIORITIES = 0xa0a0_a0a0;
const PRIORITY_MASK = 0xf0;
const PPIS = 0xffff_0000;
/** Architecture version in GICC_IIDR[19:16]. */
const IIDR_VERSION_SHIFT = 16;

export class GuestGicV2 implements LineChip {
  readonly #cpu: CpuBus;
  readonly #regions: GicV2Regions;
  #lines = 0;

  constructor(cpu: CpuBus, regions: GicV2Regions) {
    this.#cpu = cpu;
    this.#regions = regions;
  }

  /** Brings all up with the PPIs in `ppis` (INTIDs) enabled. Throws GicError. */
  *start(ppis: readonly number[]): Op<void> {
    yield* this.#startDistributor();
    const { distributor, cpuInterface } = this.#regions;
    const ops = [write32Op(distributor + GICD_ICENABLER, PPIS)];
    for (let intid = 0; intid < SPI_FIRST; intid += 4)
      ops.push(write32Op(distributor + GICD_IPRIORITYR + intid, PRIORITIES));
    const enable = ppis.reduce((bits, intid) => bits | (1 << intid), 0) >>> 0;
    ops.push(
      write32Op(distributor + GICD_ISENABLER, enable),
      write32Op(cpuInterface + GICC_PMR, PRIORITY_MASK),
      write32Op(cpuInterface + GICC_CTLR, ENABLE),
    );
    yield* this.#cpu.batch(ops);
  }

  /** A level, to this CPU. Throws GicError for an INTID that the distributor does not have. */
  *enableSpi(intid: number): Op<void> {
    if (intid < SPI_FIRST || intid >= this.#lines) throw new GicError(`the distributor has no SPI ${intid}`);
    const { distributor } = this.#regions;
    const icfgr = distributor + GICD_ICFGR + 4 * (intid >>> 4);
    const config = yield* this.#cpu.read32(icfgr);
    yield* this.#cpu.batch([
      write32Op(icfgr, (config & ~(2 << (2 * (intid & 15)))) >>> 0),
      write32Op(distributor + GICD_ISENABLER + 4 * (intid >>> 5), (1 << (intid & 31)) >>> 0),
    ]);
  }

  *disableSpi(intid: number): Op<void> {
    yield* this.#cpu.write32(this.#regions.distributor + GICD_ICENABLER + 4 * (intid >>> 5), (1 << (intid & 31)) >>> 0);
  }

  /** EOImode is 0: priority drop and deactivation. */
  *endOfInterrupt(intid: number): Op<void> {
    yield* this.#cpu.write32(this.#regions.cpuInterface + GICC_EOIR, intid);
  }

  *#startDistributor(): Op<void> {
    const { distributor, cpuInterface } = this.#regions;
    const [typer, targets, iidr] = yield* this.#cpu.batch([
      readOp(distributor + GICD_TYPER, 4),
      readOp(distributor + GICD_ITARGETSR, 4),
      readOp(cpuInterface + GICC_IIDR, 4),
      write32Op(distributor + GICD_CTLR, 0),
    ]);
    if (((word(iidr!) >>> IIDR_VERSION_SHIFT) & 0xf) !== 2)
      throw new GicError(`no GICv2 CPU interface at 0x${cpuInterface.toString(16)}`);
    const { lines } = decodeGicv2Typer(word(typer!));
    this.#lines = lines;
    // What SGIs go to, for this CPU, is this CPU.
    const self = word(targets!) & 0xff;
    const ops = [];
    for (let intid = SPI_FIRST; intid < lines; intid += 16)
      ops.push(write32Op(distributor + GICD_ICFGR + intid / 4, 0));
    for (let intid = SPI_FIRST; intid < lines; intid += 4) {
      ops.push(
        write32Op(distributor + GICD_ITARGETSR + intid, self * 0x0101_0101),
        write32Op(distributor + GICD_IPRIORITYR + intid, PRIORITIES),
      );
    }
    for (let intid = SPI_FIRST; intid < lines; intid += 32)
      ops.push(write32Op(distributor + GICD_ICENABLER + intid / 8, 0xffff_ffff));
    ops.push(write32Op(distributor + GICD_CTLR, ENABLE));
    yield* this.#cpu.batch(ops);
  }
}
