/**
 * What a GICv2 has of its own (IHI 0048B): distributor registers beside those it shares with later versions
 * (distributor.ts), and the CPU interface, which is memory-mapped. The view of a GIC without Security Extensions.
 * Offsets and fields, no behaviour.
 */

/** The distributor is one page, the CPU interface two. */
export const GICV2_GICD_BYTES = 0x1000;
export const GICV2_GICC_BYTES = 0x2000;
/** From this size on the frames are 64 KiB apart, and each of their pages repeats in its 64 KiB. */
export const GICV2_GICC_ALIASED_BYTES = 0x2_0000;
export const GICV2_CPUS_MAX = 8;

/** `compatible` of every GIC of architecture version 1 or 2 that Xen's GICv2 driver takes, and Linux's beside it. */
export const GICV2_COMPATIBLE = [
  'arm,gic-400',
  'arm,cortex-a15-gic',
  'arm,cortex-a9-gic',
  'arm,cortex-a7-gic',
  'arm,pl390',
] as const;

/** Write-only: raises an SGI. */
export const GICD_SGIR = 0x0f00;
/** A byte an SGI, a bit for each CPU that sent it. */
export const GICD_CPENDSGIR = 0x0f10;
export const GICD_SPENDSGIR = 0x0f20;
export const GICV2_GICD_ICPIDR2 = 0x0fe8;
export const GICD_ICPIDR2_ArchRev_MASK = 0xf0;
export const GICD_ICPIDR2_ArchRev_GICv2 = 0x20;

export const SGI_COUNT = 16;

/** GICD_SGIR.TargetListFilter. */
export const SGI_FILTER = { LIST: 0, ALL_OTHERS: 1, SELF: 2 } as const;

export interface GicdSgir {
  readonly filter: number;
  /** A bit for each CPU; of filter LIST. */
  readonly CPUTargetList: number;
  readonly intid: number;
}

export function encodeGicdSgir(s: GicdSgir): number {
  return ((s.filter << 24) | ((s.CPUTargetList & 0xff) << 16) | (s.intid & 0xf)) >>> 0;
}

export function decodeGicdSgir(value: number): GicdSgir {
  return { filter: (value >>> 24) & 3, CPUTargetList: (value >>> 16) & 0xff, intid: value & 0xf };
}

/** The CPUs that a GICD_SGIR from `cpu` names, a bit each, out of `cpus`. */
export function sgiTargets(s: GicdSgir, cpu: number, cpus: number): number {
  const all = 2 ** cpus - 1;
  switch (s.filter) {
    case SGI_FILTER.LIST:
      return s.CPUTargetList & all;
    case SGI_FILTER.ALL_OTHERS:
      return all & ~(1 << cpu);
    case SGI_FILTER.SELF:
      return 1 << cpu;
    default:
      return 0;
  }
}

/** GICD_TYPER for `lines` interrupts (a multiple of 32) and `cpus` CPU interfaces. */
export function encodeGicv2Typer(t: { readonly lines: number; readonly cpus: number }): number {
  return (t.lines / 32 - 1) | ((t.cpus - 1) << 5);
}

export function decodeGicv2Typer(value: number): { lines: number; cpus: number } {
  return { lines: 32 * ((value & 0x1f) + 1), cpus: ((value >>> 5) & 7) + 1 };
}

/** GICD_CTLR: both groups have an enable. Software that knows of no groups writes the first alone. */
export const GICV2_GICD_CTLR_EnableGrp0 = 1 << 0;
export const GICV2_GICD_CTLR_EnableGrp1 = 1 << 1;

export const GICC_CTLR = 0x0000;
export const GICC_PMR = 0x0004;
export const GICC_BPR = 0x0008;
export const GICC_IAR = 0x000c;
export const GICC_EOIR = 0x0010;
export const GICC_RPR = 0x0014;
export const GICC_HPPIR = 0x0018;
/** Of group 1, whatever GICC_CTLR.AckCtl says. */
export const GICC_ABPR = 0x001c;
export const GICC_AIAR = 0x0020;
export const GICC_AEOIR = 0x0024;
export const GICC_AHPPIR = 0x0028;
/** Active priorities of group 0, and of group 1. */
export const GICC_APR0 = 0x00d0;
export const GICC_NSAPR0 = 0x00e0;
export const GICC_IIDR = 0x00fc;
/** In the second page. */
export const GICC_DIR = 0x1000;

export const GICC_CTLR_EnableGrp0 = 1 << 0;
export const GICC_CTLR_EnableGrp1 = 1 << 1;
/** Reads of GICC_IAR take interrupts of group 1 too. */
export const GICC_CTLR_AckCtl = 1 << 2;
export const GICC_CTLR_CBPR = 1 << 4;
/** GICC_EOIR drops the priority only, GICC_DIR deactivates. EOImodeNS in the Non-secure view, at the same place. */
export const GICC_CTLR_EOImode = 1 << 9;

/** GICC_IAR when nothing can be taken, and when only the other group's registers can take it. */
export const GICC_IAR_NONE = 1023;
export const GICC_IAR_OTHER_GROUP = 1022;
/** GICC_IAR: the INTID, and of an SGI the CPU that sent it. */
export const GICC_IAR_INTID_MASK = 0x3ff;
export const GICC_IAR_CPUID_SHIFT = 10;

/** GICD_IIDR and GICC_IIDR of a GIC-400. */
export const GIC400_GICD_IIDR = 0x0200_043b;
export const GIC400_GICC_IIDR = 0x0202_043b;
