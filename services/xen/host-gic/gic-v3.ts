/**
 * Xen driving a GICv3 with its ITSs (xen/arch/arm/gic-v3.c): distributor, redistributors and CPU interfaces, which are
 * system registers.
 * Not modelled: SGIs between CPUs, the list registers (an upcall stands for them), multiple redistributor strides.
 */
import type { El2Op, El2Result } from '#gen/hardware.ts';
import { ICC_CTLR_EL1_EOImode } from '#shared/arch/gic/cpu-interface.ts';
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
  GICD_TYPER,
  SPI_FIRST,
} from '#shared/arch/gic/distributor.ts';
import { GIC_CACHE, GIC_PIDR2_ArchRev_GICv3, GIC_PIDR2_ArchRev_MASK, GIC_SHAREABILITY } from '#shared/arch/gic/its.ts';
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
import type { Op } from '#shared/core/op.ts';
import type { FdtNode, FdtRegion } from '#shared/fdt/node.ts';
import { type El2, physWrite32, physWrite64, sysregRead, sysregWrite } from '../el2.ts';
import { type GicDriver, GicError, type HostGicParts, poll } from './driver.ts';
import { type Collection, HostIts } from './its.ts';
import { HOST_LPI_ID_BITS, HostLpis } from './lpi.ts';

const PRIORITIES_A0 = 0xa0a0_a0a0;

interface Description {
  readonly gicdPa: number;
  readonly redistributorRegions: readonly FdtRegion[];
  readonly cpus: number;
  readonly itses: readonly { readonly name: string; readonly phandle: number; readonly basePa: number }[];
}

export class GicV3 implements GicDriver {
  readonly version = 3;
  readonly gicdPa: number;
  readonly itses: readonly HostIts[];
  readonly lpis: HostLpis;
  readonly #el2: El2;
  readonly #description: Description;

  /** Throws GicError for a node that lacks what it needs. */
  constructor(parts: HostGicParts, node: FdtNode, cpus: number) {
    this.#el2 = parts.el2;
    this.#description = describe(node, cpus);
    this.gicdPa = this.#description.gicdPa;
    this.lpis = new HostLpis(parts.el2, parts.frames);
    this.itses = this.#description.itses.map((its) => new HostIts({ ...parts, ...its, lpis: this.lpis }));
  }

  *init(): Op<number> {
    const lines = yield* this.#initDistributor();
    yield* this.lpis.init();
    const cpus: Collection[] = [];
    for (const rdFramePa of yield* this.#findRedistributors()) {
      cpus.push(yield* this.#initCpu(cpus.length, rdFramePa));
    }
    for (const its of this.itses) yield* its.init(cpus);
    return lines;
  }

  acknowledgeOps(pcpu: number, at: number): readonly [El2Op, El2Op] {
    return [sysregRead(pcpu, 'ICC_IAR1_EL1'), sysregWrite(pcpu, 'ICC_EOIR1_EL1', 0, at)];
  }

  deactivateOp(pcpu: number, intid: number): El2Op {
    return sysregWrite(pcpu, 'ICC_DIR_EL1', intid);
  }

  intidOf(result: El2Result): number {
    return result.value;
  }

  *#initDistributor(): Op<number> {
    const el2 = this.#el2;
    const { gicdPa } = this;
    yield* el2.write32(gicdPa + GICD_CTLR, 0);
    yield* this.#waitRwp();
    const { lines, lpis } = decodeGicdTyper(yield* el2.read32(gicdPa + GICD_TYPER));
    if (!lpis) throw new GicError('GICD_TYPER.LPIS is 0: the GIC takes no LPIs');
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
    return lines;
  }

  *#waitRwp(): Op<void> {
    yield* poll(this.#el2, this.gicdPa + GICD_CTLR, (value) => (value & GICD_CTLR_RWP) === 0, 'GICD_CTLR.RWP stays 1');
  }

  /** Walks each region until GICR_TYPER.Last. The RD frames, by processor number. */
  *#findRedistributors(): Op<number[]> {
    const el2 = this.#el2;
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
    const el2 = this.#el2;
    yield* el2.write32(rdFramePa + GICR_WAKER, 0);
    yield* poll(
      el2,
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
      pa: this.lpis.propertyTablePa,
      ...attributes,
    });
    const pendbaser = encodeGicrPendbaser({ pa: yield* this.lpis.pendingTable(), PTZ: true, ...attributes });
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
}

function describe(gic: FdtNode, cpus: number): Description {
  const regions = gic.regions();
  const count = gic.u32('#redistributor-regions') ?? 1;
  if (regions.length < 1 + count) throw new GicError(`reg of ${gic.path} lacks redistributor regions`);
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
