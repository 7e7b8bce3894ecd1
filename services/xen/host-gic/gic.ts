/**
 * Xen driving the machine's GICv3 (xen/arch/arm/gic-v3.c): distributor, redistributors, CPU interfaces, and taking
 * interrupts. Every SPI goes to CPU 0. EOImode is 1: an interrupt is acknowledged and its priority dropped in one batch,
 * and what it is for is done afterwards. An SPI stays active till then, Xen's own until its handler is done, a guest's
 * until the guest is (irq.ts): an edge that comes meanwhile is taken again, and so is a level that still stands.
 * Not modelled: SGIs between CPUs, the list registers (an upcall stands for them), multiple redistributor strides.
 */

import type { El2Op } from '#gen/hardware.ts';
import { ICC_CTLR_EL1_EOImode } from '#shared/arch/gic/cpu-interface.ts';
import {
  decodeGicdTyper,
  GICD_CTLR,
  GICD_CTLR_ARE,
  GICD_CTLR_EnableGrp1,
  GICD_CTLR_RWP,
  GICD_ICENABLER,
  GICD_ICFGR,
  GICD_ICPENDR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_IROUTER,
  GICD_ISENABLER,
  GICD_TYPER,
  SPI_FIRST,
} from '#shared/arch/gic/distributor.ts';
import { GIC_CACHE, GIC_PIDR2_ArchRev_GICv3, GIC_PIDR2_ArchRev_MASK, GIC_SHAREABILITY } from '#shared/arch/gic/its.ts';
import { INTID_NONE, LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import {
  decodeGicrTyper,
  encodeGicrPendbaser,
  encodeGicrPropbaser,
  GICR_CTLR,
  GICR_CTLR_EnableLPIs,
  GICR_IGROUPR0,
  GICR_PENDBASER,
  GICR_PIDR2,
  GICR_PROPBASER,
  GICR_SIZE_BYTES,
  GICR_TYPER,
  GICR_WAKER,
  GICR_WAKER_ChildrenAsleep,
} from '#shared/arch/gic/redistributor.ts';
import { type Op, sleep } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { FdtNode, FdtRegion } from '#shared/fdt/node.ts';
import type { Counts } from '../counts.ts';
import { type El2, physWrite32, physWrite64, sysregRead, sysregWrite } from '../el2.ts';
import { check } from '../error.ts';
import type { LineController } from '../irq.ts';
import type { Frames } from '../mm/frames.ts';
import type { LpiTarget } from '../vits/commands.ts';
import { type Collection, HostIts } from './its.ts';
import { HOST_LPI_ID_BITS, HostLpis } from './lpi.ts';

const PRIORITIES_A0 = 0xa0a0_a0a0;
const POLL_NS = 1_000_000;
const POLLS_MAX = 1000;
/** Interrupts taken in one batch. */
const TAKEN_PER_BATCH = 16;
const SPURIOUS_FIRST = 1020;

/** The GIC of the machine is missing or does not do what the architecture says: Xen cannot start. */
export class GicError extends Error {
  override name = 'GicError';
}

export interface HostGicOptions {
  readonly el2: El2;
  readonly frames: Frames;
  readonly runtime: Pick<Runtime, 'spawn' | 'trace'>;
  readonly counts: Counts;
}

interface Description {
  readonly gicdPa: number;
  readonly redistributorRegions: readonly FdtRegion[];
  readonly cpus: number;
  readonly itses: readonly { readonly name: string; readonly phandle: number; readonly basePa: number }[];
}

/** An SPI that is not Xen's own. */
interface Line {
  readonly isEdge: boolean;
  /** Batches that had been sent when it was routed: what those bring was somebody else's. */
  readonly since: number;
  readonly take: () => void;
}

export class HostGic implements LineController {
  readonly itses: readonly HostIts[];
  readonly #o: HostGicOptions;
  readonly #description: Description;
  readonly #lpis: HostLpis;
  readonly #spis = new Map<number, () => Op<void>>();
  readonly #guestLines = new Map<number, Line>();
  #lines = 0;
  #batches = 0;
  readonly #taking = new Set<number>();
  readonly #again = new Set<number>();
  /** Gets every host LPI that leads somewhere. */
  #deliver: (target: LpiTarget) => void = () => undefined;

  /** Reads the `arm,gic-v3` node of the tree. Throws GicError. */
  constructor(options: HostGicOptions, tree: FdtNode) {
    this.#o = options;
    this.#description = describe(tree);
    this.#lpis = new HostLpis(options.el2, options.frames);
    this.itses = this.#description.itses.map((its) => new HostIts({ ...options, ...its, lpis: this.#lpis }));
  }

  /** Where LPIs go: to the domain's `vgic.injectLpi`. */
  onLpi(deliver: (target: LpiTarget) => void): void {
    this.#deliver = deliver;
  }

  *init(): Op<void> {
    yield* this.#initDistributor();
    yield* this.#lpis.init();
    const cpus: Collection[] = [];
    for (const rdFramePa of yield* this.#findRedistributors()) {
      cpus.push(yield* this.#initCpu(cpus.length, rdFramePa));
    }
    for (const its of this.itses) yield* its.init(cpus);
  }

  /** After init. */
  get lines(): number {
    return this.#lines;
  }

  /** Routes an SPI of Xen's own to CPU 0, enables it, and runs `handler` each time it was taken. */
  *onSpi(intid: number, isEdge: boolean, handler: () => Op<void>): Op<void> {
    this.#spis.set(intid, handler);
    yield* this.#setTrigger(intid, isEdge);
    yield* this.enableSpi(intid);
  }

  *routeSpi(intid: number, isEdge: boolean, take: () => void): Op<void> {
    check(!this.#spis.has(intid), 'EBUSY', `INTID ${intid} is used by Xen`);
    yield* this.#setTrigger(intid, isEdge);
    // An edge from before was nobody's.
    yield* this.#o.el2.batch([this.#bitWrite(GICD_ICPENDR, intid)]);
    this.#guestLines.set(intid, { isEdge, since: this.#batches, take });
  }

  *enableSpi(intid: number): Op<void> {
    yield* this.#o.el2.batch([this.#bitWrite(GICD_ISENABLER, intid)]);
  }

  *disableSpi(intid: number): Op<void> {
    yield* this.#o.el2.batch([this.#bitWrite(GICD_ICENABLER, intid)]);
  }

  *deactivate(intid: number): Op<void> {
    yield* this.#o.el2.batch([sysregWrite(0, 'ICC_DIR_EL1', intid)]);
  }

  *releaseSpi(intid: number): Op<void> {
    this.#guestLines.delete(intid);
    // Disabled first: a level that stands would be signalled again between the two.
    yield* this.#o.el2.batch([this.#bitWrite(GICD_ICENABLER, intid), sysregWrite(0, 'ICC_DIR_EL1', intid)]);
  }

  /** A CPU interface of the machine has something to take: takes all there is. */
  *onInterruptPending(pcpu: number): Op<void> {
    if (this.#taking.has(pcpu)) {
      this.#again.add(pcpu);
      return;
    }
    this.#taking.add(pcpu);
    try {
      do {
        this.#again.delete(pcpu);
        yield* this.#takeAll(pcpu);
      } while (this.#again.has(pcpu));
    } finally {
      this.#taking.delete(pcpu);
    }
  }

  inspect(): unknown {
    return {
      lpisUsed: this.#lpis.used,
      spis: [...this.#spis.keys()],
      guestLines: [...this.#guestLines.keys()],
      itses: this.itses.map((its) => its.inspect()),
    };
  }

  *#takeAll(pcpu: number): Op<void> {
    for (;;) {
      const ops = [];
      for (let i = 0; i < TAKEN_PER_BATCH; i++) {
        ops.push(sysregRead(pcpu, 'ICC_IAR1_EL1'), sysregWrite(pcpu, 'ICC_EOIR1_EL1', 0, 2 * i));
      }
      const batch = this.#batches++;
      const results = yield* this.#o.el2.batch(ops);
      let last = INTID_NONE;
      const own: number[] = [];
      for (let i = 0; i < TAKEN_PER_BATCH; i++) {
        last = results[2 * i]!.value;
        if (last >= SPURIOUS_FIRST && last <= INTID_NONE) break;
        if (last >= LPI_FIRST) this.#takeLpi(last);
        else if (!this.#takeLine(last, batch)) own.push(last);
      }
      if (own.length > 0) yield* this.#serve(pcpu, own);
      if (last >= SPURIOUS_FIRST && last <= INTID_NONE) return;
    }
  }

  #takeLpi(intid: number): void {
    const target = this.#lpis.targetOf(intid);
    if (target === undefined) this.#o.counts.add('msisDelivered', 'dropped, host LPI not taken');
    else this.#deliver(target);
  }

  /** False when the SPI is no guest's, or was another's when the batch was sent: a level that stands will come again. */
  #takeLine(intid: number, batch: number): boolean {
    const line = this.#guestLines.get(intid);
    if (line === undefined || (batch < line.since && !line.isEdge)) return false;
    line.take();
    return true;
  }

  /** Runs the handlers of Xen's own interrupts, then deactivates them. */
  *#serve(pcpu: number, intids: readonly number[]): Op<void> {
    try {
      for (const intid of intids) {
        const handler = this.#spis.get(intid);
        if (handler === undefined) this.#o.runtime.trace('gic.unexpected', { intid });
        else yield* handler();
      }
    } finally {
      yield* this.#o.el2.batch(intids.map((intid) => sysregWrite(pcpu, 'ICC_DIR_EL1', intid)));
    }
  }

  *#setTrigger(intid: number, isEdge: boolean): Op<void> {
    const { el2 } = this.#o;
    const icfgrPa = this.#description.gicdPa + GICD_ICFGR + 4 * (intid >>> 4);
    const edge = 2 << (2 * (intid & 15));
    const icfgr = yield* el2.read32(icfgrPa);
    yield* el2.write32(icfgrPa, ((icfgr & ~edge) | (isEdge ? edge : 0)) >>> 0);
  }

  /** A one in the bit of `intid` in a row of registers with a bit for each interrupt. */
  #bitWrite(row: number, intid: number): El2Op {
    return physWrite32(this.#description.gicdPa + row + 4 * (intid >>> 5), (1 << (intid & 31)) >>> 0);
  }

  *#initDistributor(): Op<void> {
    const { el2 } = this.#o;
    const { gicdPa } = this.#description;
    yield* el2.write32(gicdPa + GICD_CTLR, 0);
    yield* this.#waitRwp();
    const { lines, lpis } = decodeGicdTyper(yield* el2.read32(gicdPa + GICD_TYPER));
    if (!lpis) throw new GicError('GICD_TYPER.LPIS is 0: the GIC takes no LPIs');
    this.#lines = lines;
    const ops = [];
    for (let intid = SPI_FIRST; intid < lines; intid += 32) {
      ops.push(physWrite32(gicdPa + GICD_IGROUPR + intid / 8, 0xffff_ffff));
      ops.push(physWrite32(gicdPa + GICD_ICENABLER + intid / 8, 0xffff_ffff));
    }
    for (let intid = SPI_FIRST; intid < lines; intid += 16) ops.push(physWrite32(gicdPa + GICD_ICFGR + intid / 4, 0));
    for (let intid = SPI_FIRST; intid < lines; intid += 4)
      ops.push(physWrite32(gicdPa + GICD_IPRIORITYR + intid, PRIORITIES_A0));
    ops.push(physWrite32(gicdPa + GICD_CTLR, GICD_CTLR_ARE | GICD_CTLR_EnableGrp1));
    yield* el2.batch(ops);
    yield* this.#waitRwp();
    const routers = [];
    // Affinity 0.0.0.0 is CPU 0; an INTID above 1019 is no SPI.
    for (let intid = SPI_FIRST; intid < Math.min(lines, 1020); intid++)
      routers.push(physWrite64(gicdPa + GICD_IROUTER + 8 * intid, 0, 0));
    yield* el2.batch(routers);
  }

  *#waitRwp(): Op<void> {
    yield* this.#poll(
      this.#description.gicdPa + GICD_CTLR,
      (value) => (value & GICD_CTLR_RWP) === 0,
      'GICD_CTLR.RWP stays 1',
    );
  }

  /** Walks each region until GICR_TYPER.Last. The RD frames, by processor number. */
  *#findRedistributors(): Op<number[]> {
    const { el2 } = this.#o;
    const found: { pa: number; number: number }[] = [];
    for (const region of this.#description.redistributorRegions) {
      for (let pa = region.address; pa + GICR_SIZE_BYTES <= region.address + region.sizeBytes; pa += GICR_SIZE_BYTES) {
        const pidr2 = yield* el2.read32(pa + GICR_PIDR2);
        if ((pidr2 & GIC_PIDR2_ArchRev_MASK) !== GIC_PIDR2_ArchRev_GICv3) {
          break; // no redistributor present: the region of a node without CPUs
        }
        const typer = decodeGicrTyper(yield* el2.read64(pa + GICR_TYPER));
        if (!typer.PLPIS) throw new GicError(`the redistributor at 0x${pa.toString(16)} takes no LPIs`);
        found.push({ pa, number: typer.Processor_Number });
        if (typer.Last) break;
      }
    }
    if (found.length < this.#description.cpus) {
      throw new GicError(`${found.length} redistributors for ${this.#description.cpus} CPUs`);
    }
    return found
      .sort((a, b) => a.number - b.number)
      .slice(0, this.#description.cpus)
      .map((f) => f.pa);
  }

  *#initCpu(pcpu: number, rdFramePa: number): Op<Collection> {
    const { el2 } = this.#o;
    yield* el2.write32(rdFramePa + GICR_WAKER, 0);
    yield* this.#poll(
      rdFramePa + GICR_WAKER,
      (value) => (value & GICR_WAKER_ChildrenAsleep) === 0,
      'GICR_WAKER.ChildrenAsleep stays 1',
    );
    if (((yield* el2.read32(rdFramePa + GICR_CTLR)) & GICR_CTLR_EnableLPIs) !== 0) {
      throw new GicError(`LPIs of CPU ${pcpu} are enabled already`);
    }
    const attributes = { InnerCache: GIC_CACHE.RAWAWB, OuterCache: 0, Shareability: GIC_SHAREABILITY.INNER };
    const propbaser = encodeGicrPropbaser({
      idBits: HOST_LPI_ID_BITS,
      pa: this.#lpis.propertyTablePa,
      ...attributes,
    });
    const pendbaser = encodeGicrPendbaser({ pa: yield* this.#lpis.pendingTable(), PTZ: true, ...attributes });
    yield* el2.batch([
      physWrite32(rdFramePa + GICR_IGROUPR0, 0xffff_ffff),
      physWrite64(rdFramePa + GICR_PROPBASER, propbaser.lo, propbaser.hi),
      physWrite64(rdFramePa + GICR_PENDBASER, pendbaser.lo, pendbaser.hi),
      physWrite32(rdFramePa + GICR_CTLR, GICR_CTLR_EnableLPIs),
      sysregWrite(pcpu, 'ICC_SRE_EL1', 1),
      sysregWrite(pcpu, 'ICC_PMR_EL1', 0xff),
      sysregWrite(pcpu, 'ICC_BPR1_EL1', 0),
      sysregWrite(pcpu, 'ICC_CTLR_EL1', ICC_CTLR_EL1_EOImode),
      sysregWrite(pcpu, 'ICC_IGRPEN1_EL1', 1),
    ]);
    const typer = decodeGicrTyper(yield* el2.read64(rdFramePa + GICR_TYPER));
    return { processorNumber: typer.Processor_Number, rdFramePa };
  }

  *#poll(pa: number, done: (value: number) => boolean, what: string): Op<void> {
    for (let polls = 0; !done(yield* this.#o.el2.read32(pa)); polls++) {
      if (polls >= POLLS_MAX) throw new GicError(what);
      yield* sleep(POLL_NS);
    }
  }
}

function describe(tree: FdtNode): Description {
  const gic = tree.compatibleNodes('arm,gic-v3')[0];
  if (gic === undefined) throw new GicError('the device tree has no arm,gic-v3 node');
  const regions = gic.regions();
  const count = gic.u32('#redistributor-regions') ?? 1;
  if (regions.length < 1 + count) throw new GicError(`reg of ${gic.path} lacks redistributor regions`);
  const cpus = tree.find('/cpus')?.children.filter((c) => c.string('device_type') === 'cpu').length ?? 0;
  if (cpus === 0) throw new GicError('the device tree has no CPU');
  return {
    gicdPa: regions[0]!.address,
    redistributorRegions: regions.slice(1, 1 + count),
    cpus,
    itses: gic.compatibleNodes('arm,gic-v3-its').map((node) => ({
      name: node.name,
      phandle: node.phandle ?? 0,
      basePa: node.regions()[0]!.address,
    })),
  };
}
