/**
 * The guest's GICv3 driver for one virtual CPU (IHI 0069, "Initialization"; Linux drivers/irqchip/irq-gic-v3.c):
 * distributor, redistributor, the LPI tables. Every register access here faults in stage 2 and is emulated by Xen.
 * Of the CPU interface it needs ICC_EOIR1_EL1, for SPIs: Xen delivers INTIDs already acknowledged.
 * Not modelled: SGIs, more than one virtual CPU.
 */
import {
  decodeGicdTyper,
  GICD_CTLR,
  GICD_CTLR_ARE,
  GICD_CTLR_EnableGrp1,
  GICD_CTLR_RWP,
  GICD_ICENABLER,
  GICD_ICFGR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_IROUTER,
  GICD_ISENABLER,
  GICD_PIDR2,
  GICD_TYPER,
  SPI_FIRST,
} from '#shared/arch/gic/distributor.ts';
import { GIC_CACHE, GIC_PIDR2_ArchRev_GICv3, GIC_PIDR2_ArchRev_MASK, GIC_SHAREABILITY } from '#shared/arch/gic/its.ts';
import { encodeLpiConfig, LPI_FIRST, lpiConfigAddress, lpiConfigTableBytes } from '#shared/arch/gic/lpi-tables.ts';
import {
  decodeGicrTyper,
  encodeGicrPendbaser,
  encodeGicrPropbaser,
  GICR_CTLR,
  GICR_CTLR_EnableLPIs,
  GICR_IGROUPR0,
  GICR_ISENABLER0,
  GICR_PENDBASER,
  GICR_PROPBASER,
  GICR_SIZE_BYTES,
  GICR_TYPER,
  GICR_WAKER,
  GICR_WAKER_ChildrenAsleep,
  GICR_WAKER_ProcessorSleep,
} from '#shared/arch/gic/redistributor.ts';
import { body } from '#shared/core/core.ts';
import { call, type Op, sleep } from '#shared/core/op.ts';
import { type CpuBus, readOp, word, write32Op, write64Op, writeOp } from '#shared/kernel/cpu-bus.ts';
import type { Pages } from './pages.ts';
import type { LineChip } from './shared-lines.ts';

export interface GicRegions {
  readonly distributor: number;
  readonly redistributors: { readonly base: number; readonly sizeBytes: number };
}

/** The interrupt controller is not what the device tree says, or does not answer. */
export class GicError extends Error {
  override name = 'GicError';
}

const LPI_ID_BITS = 16;
/** Priority of every LPI and SPI, as Linux has it. */
const PRIORITY = 0xa0;
const PENDING_TABLE_BYTES = 0x1_0000;
const POLL_NS = 1_000_000;
const POLLS_MAX = 100;

export class GuestGic implements LineChip {
  readonly #cpu: CpuBus;
  readonly #pages: Pages;
  readonly #regions: GicRegions;
  #frame = -1;
  #processorNumber = 0;
  #propertyTable = -1;
  #lines = 0;

  constructor(cpu: CpuBus, pages: Pages, regions: GicRegions) {
    this.#cpu = cpu;
    this.#pages = pages;
    this.#regions = regions;
  }

  /** The RD frame of this virtual CPU and its GICR_TYPER.Processor_Number: what an ITS calls RDbase. */
  get redistributor(): { readonly frame: number; readonly processorNumber: number } {
    return { frame: this.#frame, processorNumber: this.#processorNumber };
  }

  /** LPI INTIDs are below this. */
  get intidEnd(): number {
    return 2 ** LPI_ID_BITS;
  }

  /** Brings all up with the PPIs in `ppis` (INTIDs) enabled and no LPI enabled. Throws GicError. */
  *start(ppis: readonly number[]): Op<void> {
    yield* this.#startDistributor();
    yield* this.#findFrame();
    yield* this.#wake();
    yield* this.#startLpis();
    const enable = ppis.reduce((bits, intid) => bits | (1 << intid), 0);
    yield* this.#cpu.batch([
      write32Op(this.#frame + GICR_IGROUPR0, 0xffff_ffff),
      write32Op(this.#frame + GICR_ISENABLER0, enable),
    ]);
  }

  *#startDistributor(): Op<void> {
    const gicd = this.#regions.distributor;
    const [pidr2, typer] = yield* this.#cpu.batch([
      readOp(gicd + GICD_PIDR2, 4),
      readOp(gicd + GICD_TYPER, 4),
      write32Op(gicd + GICD_CTLR, 0),
    ]);
    if ((word(pidr2!) & GIC_PIDR2_ArchRev_MASK) !== GIC_PIDR2_ArchRev_GICv3) {
      throw new GicError(`no GICv3 distributor at 0x${gicd.toString(16)}`);
    }
    const { lines, idBits, lpis } = decodeGicdTyper(word(typer!));
    if (!lpis || idBits < LPI_ID_BITS) throw new GicError(`the distributor has no LPIs of ${LPI_ID_BITS} bits`);
    this.#lines = lines;
    yield* this.#poll(gicd + GICD_CTLR, GICD_CTLR_RWP, 'GICD_CTLR.RWP');
    const ops = [];
    for (let n = 1; n < lines / 32; n++) {
      ops.push(
        write32Op(gicd + GICD_IGROUPR + 4 * n, 0xffff_ffff),
        write32Op(gicd + GICD_ICENABLER + 4 * n, 0xffff_ffff),
      );
    }
    ops.push(write32Op(gicd + GICD_CTLR, GICD_CTLR_ARE | GICD_CTLR_EnableGrp1));
    yield* this.#cpu.batch(ops);
    yield* this.#poll(gicd + GICD_CTLR, GICD_CTLR_RWP, 'GICD_CTLR.RWP');
  }

  /** Virtual CPU 0 has affinity 0. */
  *#findFrame(): Op<void> {
    const { base, sizeBytes } = this.#regions.redistributors;
    for (let frame = base; frame < base + sizeBytes; frame += GICR_SIZE_BYTES) {
      const { lo, hi } = yield* this.#cpu.read64(frame + GICR_TYPER);
      const typer = decodeGicrTyper({ lo, hi });
      if (typer.affinity === 0) {
        if (!typer.PLPIS) throw new GicError('the redistributor has no LPIs');
        this.#frame = frame;
        this.#processorNumber = typer.Processor_Number;
        return;
      }
      if (typer.Last) break;
    }
    throw new GicError('no redistributor has the affinity of CPU 0');
  }

  *#wake(): Op<void> {
    const at = this.#frame + GICR_WAKER;
    const waker = yield* this.#cpu.read32(at);
    yield* this.#cpu.write32(at, (waker & ~GICR_WAKER_ProcessorSleep) >>> 0);
    yield* this.#poll(at, GICR_WAKER_ChildrenAsleep, 'GICR_WAKER.ChildrenAsleep');
  }

  *#startLpis(): Op<void> {
    const tableBytes = lpiConfigTableBytes(LPI_ID_BITS);
    this.#propertyTable = this.#pages.take(tableBytes, 0x1_0000);
    const off = new Uint8Array(tableBytes).fill(encodeLpiConfig(PRIORITY, false));
    yield* this.#cpu.write(this.#propertyTable, off);
    const pendingTable = yield* this.#pages.allocate(PENDING_TABLE_BYTES, 0x1_0000);
    const attributes = { InnerCache: GIC_CACHE.RAWAWB, OuterCache: 0, Shareability: GIC_SHAREABILITY.INNER };
    const prop = encodeGicrPropbaser({ idBits: LPI_ID_BITS, pa: this.#propertyTable, ...attributes });
    const pend = encodeGicrPendbaser({ pa: pendingTable, PTZ: true, ...attributes });
    const [, , , ctlr] = yield* this.#cpu.batch([
      write64Op(this.#frame + GICR_PROPBASER, prop.lo, prop.hi),
      write64Op(this.#frame + GICR_PENDBASER, pend.lo, pend.hi),
      write32Op(this.#frame + GICR_CTLR, GICR_CTLR_EnableLPIs),
      readOp(this.#frame + GICR_CTLR, 4),
    ]);
    if ((word(ctlr!) & GICR_CTLR_EnableLPIs) === 0) throw new GicError('GICR_CTLR.EnableLPIs stays 0');
  }

  /** Throws GicError for an INTID that the distributor does not have. */
  *enableSpi(intid: number): Op<void> {
    if (intid < SPI_FIRST || intid >= this.#lines) throw new GicError(`the distributor has no SPI ${intid}`);
    const gicd = this.#regions.distributor;
    const icfgr = gicd + GICD_ICFGR + 4 * (intid >>> 4);
    const config = yield* this.#cpu.read32(icfgr);
    yield* this.#cpu.batch([
      write32Op(icfgr, (config & ~(2 << (2 * (intid & 15)))) >>> 0),
      writeOp(gicd + GICD_IPRIORITYR + intid, Uint8Array.of(PRIORITY)),
      write64Op(gicd + GICD_IROUTER + 8 * intid, 0, 0),
      write32Op(gicd + GICD_ISENABLER + 4 * (intid >>> 5), (1 << (intid & 31)) >>> 0),
    ]);
  }

  *disableSpi(intid: number): Op<void> {
    yield* this.#cpu.write32(this.#regions.distributor + GICD_ICENABLER + 4 * (intid >>> 5), (1 << (intid & 31)) >>> 0);
  }

  /** EOImode is 0: priority drop and deactivation. The write traps; while this domain is paused it takes as long. */
  *endOfInterrupt(intid: number): Op<void> {
    const trap = body('sysregTrapRequest', { vcpu: 0, name: 'ICC_EOIR1_EL1', value: intid });
    const { undefined: refused } = yield* call('xen', trap, 'sysregTrapReply', { deadlineNs: Infinity });
    if (refused) throw new GicError('ICC_EOIR1_EL1 is undefined');
  }

  /** Writes the configuration bytes of `count` LPIs from `first`. An INV has to follow for each. */
  *configureLpis(first: number, count: number, enabled: boolean): Op<void> {
    const bytes = new Uint8Array(count).fill(encodeLpiConfig(PRIORITY, enabled));
    yield* this.#cpu.batch([writeOp(lpiConfigAddress(this.#propertyTable, first), bytes)]);
  }

  /** The first LPI. */
  get lpiFirst(): number {
    return LPI_FIRST;
  }

  *#poll(at: number, bit: number, name: string): Op<void> {
    for (let polls = 0; ((yield* this.#cpu.read32(at)) & bit) !== 0; polls++) {
      if (polls >= POLLS_MAX) throw new GicError(`${name} stays 1`);
      yield* sleep(POLL_NS);
    }
  }
}
