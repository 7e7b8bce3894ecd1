/**
 * A redistributor's register file (IHI 0069, "Redistributor registers"): the RD frame and, 64 KiB above it, the
 * SGI frame. Offsets, fields, and the 64-bit registers as values. No behaviour.
 * Not modelled: the VLPI and reserved frames of GICv4.
 */
import { addressHigh, addressLow, type RegPair } from './its.ts';

/** Bytes of one redistributor: RD frame and SGI frame. */
export const GICR_SIZE_BYTES = 0x2_0000;
export const GICR_SGI_FRAME = 0x1_0000;

export const GICR_CTLR = 0x0000;
export const GICR_IIDR = 0x0004;
export const GICR_TYPER = 0x0008;
export const GICR_WAKER = 0x0014;
/** With GICR_TYPER.DirectLPI only; the INTID is in the low word of a 64-bit register. */
export const GICR_SETLPIR = 0x0040;
export const GICR_CLRLPIR = 0x0048;
export const GICR_INVLPIR = 0x00a0;
export const GICR_INVALLR = 0x00b0;
/** Bit 0 is Busy. */
export const GICR_SYNCR = 0x00c0;
export const GICR_PROPBASER = 0x0070;
export const GICR_PENDBASER = 0x0078;
export const GICR_PIDR2 = 0xffe8;
/** In the SGI frame; offsets from the start of the redistributor. */
export const GICR_IGROUPR0 = GICR_SGI_FRAME + 0x0080;
export const GICR_ISENABLER0 = GICR_SGI_FRAME + 0x0100;
export const GICR_ICENABLER0 = GICR_SGI_FRAME + 0x0180;
export const GICR_ISPENDR0 = GICR_SGI_FRAME + 0x0200;
export const GICR_ICPENDR0 = GICR_SGI_FRAME + 0x0280;
export const GICR_ISACTIVER0 = GICR_SGI_FRAME + 0x0300;
export const GICR_ICACTIVER0 = GICR_SGI_FRAME + 0x0380;
export const GICR_IPRIORITYR = GICR_SGI_FRAME + 0x0400;
export const GICR_ICFGR0 = GICR_SGI_FRAME + 0x0c00;
export const GICR_ICFGR1 = GICR_SGI_FRAME + 0x0c04;
export const GICR_IGRPMODR0 = GICR_SGI_FRAME + 0x0d00;

export const GICR_CTLR_EnableLPIs = 1 << 0;
/** Clearing EnableLPIs is supported. */
export const GICR_CTLR_CES = 1 << 1;
export const GICR_CTLR_RWP = 1 << 3;

export const GICR_WAKER_ProcessorSleep = 1 << 1;
export const GICR_WAKER_ChildrenAsleep = 1 << 2;

export interface GicrTyper {
  readonly PLPIS: boolean;
  /** LPIs can be raised and invalidated by registers, without an ITS. */
  readonly DirectLPI?: boolean;
  /** The last frame of its region. */
  readonly Last: boolean;
  readonly Processor_Number: number;
  /** Aff3.Aff2.Aff1.Aff0, a byte each. */
  readonly affinity: number;
}

export function encodeGicrTyper(t: GicrTyper): RegPair {
  return {
    lo:
      ((t.PLPIS ? 1 : 0) |
        (t.DirectLPI === true ? 1 << 3 : 0) |
        ((t.Last ? 1 : 0) << 4) |
        (t.Processor_Number << 8)) >>>
      0,
    hi: t.affinity >>> 0,
  };
}

export function decodeGicrTyper(r: RegPair): GicrTyper {
  return {
    PLPIS: (r.lo & 1) !== 0,
    ...(((r.lo >>> 3) & 1) !== 0 ? { DirectLPI: true } : {}),
    Last: ((r.lo >>> 4) & 1) !== 0,
    Processor_Number: (r.lo >>> 8) & 0xffff,
    affinity: r.hi >>> 0,
  };
}

export interface GicrPropbaser {
  /** Bits of an INTID (the field holds one less). */
  readonly idBits: number;
  readonly pa: number;
  readonly InnerCache: number;
  readonly OuterCache: number;
  readonly Shareability: number;
}

export function encodeGicrPropbaser(p: GicrPropbaser): RegPair {
  return {
    lo: ((addressLow(p.pa) & 0xffff_f000) | (p.Shareability << 10) | (p.InnerCache << 7) | (p.idBits - 1)) >>> 0,
    hi: ((addressHigh(p.pa) & 0x000f_ffff) | (p.OuterCache << 24)) >>> 0,
  };
}

export function decodeGicrPropbaser(r: RegPair): GicrPropbaser {
  return {
    idBits: (r.lo & 0x1f) + 1,
    pa: (r.hi & 0x000f_ffff) * 0x1_0000_0000 + ((r.lo & 0xffff_f000) >>> 0),
    InnerCache: (r.lo >>> 7) & 7,
    OuterCache: (r.hi >>> 24) & 7,
    Shareability: (r.lo >>> 10) & 3,
  };
}

export interface GicrPendbaser {
  /** 64 KiB aligned. */
  readonly pa: number;
  /** The table is all zero: write-only, reads as 0. */
  readonly PTZ: boolean;
  readonly InnerCache: number;
  readonly OuterCache: number;
  readonly Shareability: number;
}

export function encodeGicrPendbaser(p: GicrPendbaser): RegPair {
  return {
    lo: ((addressLow(p.pa) & 0xffff_0000) | (p.Shareability << 10) | (p.InnerCache << 7)) >>> 0,
    hi: ((addressHigh(p.pa) & 0x000f_ffff) | (p.OuterCache << 24) | ((p.PTZ ? 1 : 0) << 30)) >>> 0,
  };
}

export function decodeGicrPendbaser(r: RegPair): GicrPendbaser {
  return {
    pa: (r.hi & 0x000f_ffff) * 0x1_0000_0000 + ((r.lo & 0xffff_0000) >>> 0),
    PTZ: ((r.hi >>> 30) & 1) !== 0,
    InnerCache: (r.lo >>> 7) & 7,
    OuterCache: (r.hi >>> 24) & 7,
    Shareability: (r.lo >>> 10) & 3,
  };
}
