/**
 * The machine's interrupt controller as the rest of Xen knows it, whatever its version (xen/arch/arm/gic.c, irq.c): whose
 * each interrupt is, and taking them. Every SPI goes to CPU 0. An interrupt is acknowledged and completed in one batch,
 * and what it is for is done afterwards: an edge that comes meanwhile is taken again, and so is a level that still
 * stands. The drivers beside this file know the registers; `compatible` chooses.
 */
import { GICD_ICFGR, GICD_ISENABLER } from '#shared/arch/gic/distributor.ts';
import { INTID_NONE, LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { GICV2_COMPATIBLE } from '#shared/arch/gic/v2.ts';
import type { Op } from '#shared/core/op.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { physWrite32 } from '../el2.ts';
import type { LpiTarget } from '../vits/commands.ts';
import { cpusOf, type GicDriver, GicError, type HostGicParts } from './driver.ts';
import { GicV2 } from './gic-v2.ts';
import { GicV3 } from './gic-v3.ts';
import type { HostIts } from './its.ts';

/** Interrupts taken in one batch. */
const TAKEN_PER_BATCH = 16;
const SPURIOUS_FIRST = 1020;

export class HostGic {
  readonly #o: HostGicParts;
  readonly #driver: GicDriver;
  readonly #spis = new Map<number, () => Op<void>>();
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
    yield* this.#driver.init();
  }

  /** Routes an SPI to CPU 0, enables it, and runs `handler` each time it was taken. */
  *onSpi(intid: number, isEdge: boolean, handler: () => Op<void>): Op<void> {
    this.#spis.set(intid, handler);
    const { el2 } = this.#o;
    const { gicdPa } = this.#driver;
    const icfgrPa = gicdPa + GICD_ICFGR + 4 * (intid >>> 4);
    const shift = 2 * (intid & 15) + 1;
    const icfgr = yield* el2.read32(icfgrPa);
    yield* el2.batch([
      physWrite32(icfgrPa, ((icfgr & ~(1 << shift)) | (isEdge ? 1 << shift : 0)) >>> 0),
      physWrite32(gicdPa + GICD_ISENABLER + 4 * (intid >>> 5), (1 << (intid & 31)) >>> 0),
    ]);
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
      itses: this.itses.map((its) => its.inspect()),
    };
  }

  *#takeAll(pcpu: number): Op<void> {
    const driver = this.#driver;
    for (;;) {
      const ops = [];
      for (let i = 0; i < TAKEN_PER_BATCH; i++) ops.push(...driver.acknowledgeOps(pcpu, 2 * i));
      const results = yield* this.#o.el2.batch(ops);
      let last = INTID_NONE;
      // A level that stands comes again with every acknowledgement until its handler has seen to the device.
      const served = new Set<number>();
      for (let i = 0; i < TAKEN_PER_BATCH; i++) {
        last = driver.intidOf(results[2 * i]!);
        if (last >= SPURIOUS_FIRST && last <= INTID_NONE) break;
        if (last < LPI_FIRST && served.has(last)) continue;
        served.add(last);
        yield* this.#dispatch(last);
      }
      if (last >= SPURIOUS_FIRST && last <= INTID_NONE) return;
    }
  }

  *#dispatch(intid: number): Op<void> {
    if (intid >= LPI_FIRST) {
      const target = this.#driver.lpis?.targetOf(intid);
      if (target === undefined) this.#o.counts.add('msisDelivered', 'dropped, host LPI not taken');
      else this.#deliver(target);
      return;
    }
    const handler = this.#spis.get(intid);
    if (handler === undefined) this.#o.runtime.trace('gic.unexpected', { intid });
    else yield* handler();
  }
}

/** The driver for the GIC of the tree. Throws GicError. */
function driverOf(parts: HostGicParts, tree: FdtNode): GicDriver {
  const [node] = tree.compatibleNodes('arm,gic-v3', ...GICV2_COMPATIBLE);
  if (node === undefined) throw new GicError('the device tree has neither an arm,gic-v3 node nor a GICv2');
  const cpus = cpusOf(tree);
  return node.isCompatible('arm,gic-v3') ? new GicV3(parts, node, cpus) : new GicV2(parts, node, cpus);
}
