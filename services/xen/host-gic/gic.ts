/**
 * The machine's interrupt controller as the rest of Xen knows it, whatever its version (xen/arch/arm/gic.c): taking
 * interrupts. Every SPI goes to CPU 0. EOImode is 1: an interrupt is acknowledged and its priority dropped in one batch,
 * and what it is for is done afterwards. An SPI stays active till then, Xen's own until its handler is done, a guest's
 * until the guest is (irq.ts): an edge that comes meanwhile is taken again, and so is a level that still stands.
 * The drivers beside this file know the registers; `compatible` chooses.
 */
import type { El2Op } from '#gen/hardware.ts';
import { GICD_ICENABLER, GICD_ICFGR, GICD_ICPENDR, GICD_ISENABLER } from '#shared/arch/gic/distributor.ts';
import { INTID_NONE, LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { GICV2_COMPATIBLE } from '#shared/arch/gic/v2.ts';
import type { Op } from '#shared/core/op.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { physWrite32 } from '../el2.ts';
import { check } from '../error.ts';
import type { LineController } from '../irq.ts';
import type { LpiTarget } from '../vits/commands.ts';
import { cpusOf, type GicDriver, GicError, type HostGicParts } from './driver.ts';
import { GicV2 } from './gic-v2.ts';
import { GicV3 } from './gic-v3.ts';
import type { HostIts } from './its.ts';

/** Interrupts taken in one batch. */
const TAKEN_PER_BATCH = 16;
const SPURIOUS_FIRST = 1020;

/** An SPI that is not Xen's own. */
interface Line {
  readonly isEdge: boolean;
  /** Batches that had been sent when it was routed: what those bring was somebody else's. */
  readonly since: number;
  readonly take: () => void;
}

export class HostGic implements LineController {
  readonly #o: HostGicParts;
  readonly #driver: GicDriver;
  readonly #spis = new Map<number, () => Op<void>>();
  readonly #guestLines = new Map<number, Line>();
  #lines = 0;
  #batches = 0;
  readonly #taking = new Set<number>();
  readonly #again = new Set<number>();
  /** Gets every host LPI that leads somewhere. */
  #deliver: (target: LpiTarget) => void = () => undefined;

  /** Reads the GIC's node of the tree. Throws GicError. */
  constructor(options: HostGicParts, tree: FdtNode) {
    this.#o = options;
    this.#driver = driverOf(options, tree);
  }

  get version(): 2 | 3 {
    return this.#driver.version;
  }

  /** None on a machine that takes no messages. */
  get itses(): readonly HostIts[] {
    return this.#driver.itses;
  }

  /** Where LPIs go: to the domain's `vgic.injectLpi`. */
  onLpi(deliver: (target: LpiTarget) => void): void {
    this.#deliver = deliver;
  }

  *init(): Op<void> {
    this.#lines = yield* this.#driver.init();
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
    yield* this.#o.el2.batch([this.#driver.deactivateOp(0, intid)]);
  }

  *releaseSpi(intid: number): Op<void> {
    this.#guestLines.delete(intid);
    // Disabled first: a level that stands would be signalled again between the two.
    yield* this.#o.el2.batch([this.#bitWrite(GICD_ICENABLER, intid), this.#driver.deactivateOp(0, intid)]);
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
      version: this.version,
      lpisUsed: this.#driver.lpis?.used ?? 0,
      spis: [...this.#spis.keys()],
      guestLines: [...this.#guestLines.keys()],
      itses: this.itses.map((its) => its.inspect()),
    };
  }

  *#takeAll(pcpu: number): Op<void> {
    const driver = this.#driver;
    for (;;) {
      const ops = [];
      for (let i = 0; i < TAKEN_PER_BATCH; i++) ops.push(...driver.acknowledgeOps(pcpu, 2 * i));
      const batch = this.#batches++;
      const results = yield* this.#o.el2.batch(ops);
      let last = INTID_NONE;
      const own: number[] = [];
      for (let i = 0; i < TAKEN_PER_BATCH; i++) {
        last = driver.intidOf(results[2 * i]!);
        if (last >= SPURIOUS_FIRST && last <= INTID_NONE) break;
        if (last >= LPI_FIRST) this.#takeLpi(last);
        else if (!this.#takeLine(last, batch)) own.push(last);
      }
      if (own.length > 0) yield* this.#serve(pcpu, own);
      if (last >= SPURIOUS_FIRST && last <= INTID_NONE) return;
    }
  }

  #takeLpi(intid: number): void {
    const target = this.#driver.lpis?.targetOf(intid);
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
      yield* this.#o.el2.batch(intids.map((intid) => this.#driver.deactivateOp(pcpu, intid)));
    }
  }

  *#setTrigger(intid: number, isEdge: boolean): Op<void> {
    const { el2 } = this.#o;
    const icfgrPa = this.#driver.gicdPa + GICD_ICFGR + 4 * (intid >>> 4);
    const edge = 2 << (2 * (intid & 15));
    const icfgr = yield* el2.read32(icfgrPa);
    yield* el2.write32(icfgrPa, ((icfgr & ~edge) | (isEdge ? edge : 0)) >>> 0);
  }

  /** A one in the bit of `intid` in a row of registers with a bit for each interrupt. */
  #bitWrite(row: number, intid: number): El2Op {
    return physWrite32(this.#driver.gicdPa + row + 4 * (intid >>> 5), (1 << (intid & 31)) >>> 0);
  }
}

/** The driver for the GIC of the tree. Throws GicError. */
function driverOf(parts: HostGicParts, tree: FdtNode): GicDriver {
  const [node] = tree.compatibleNodes('arm,gic-v3', ...GICV2_COMPATIBLE);
  if (node === undefined) throw new GicError('the device tree has neither an arm,gic-v3 node nor a GICv2');
  const cpus = cpusOf(tree);
  return node.isCompatible('arm,gic-v3') ? new GicV3(parts, node, cpus) : new GicV2(parts, node, cpus);
}
