/**
 * The distributor (IHI 0069, "Distributor registers"): SPIs, their configuration and routing, with affinity routing
 * always on and a single security state (GICD_CTLR.DS=1, ARE=1, both read-only).
 * Not modelled: message-based SPIs (GICD_TYPER.MBIS=0), extended SPIs, GICD_SGIR and GICD_ITARGETSR (RES0 with
 * affinity routing), group 0 (an interrupt left in group 0 is never offered). GICD_IROUTER.IRM=1
 * picks the PE of lowest number whose CPU interface takes group 1 interrupts.
 */
import {
  encodeGicdTyper,
  GICD_CTLR,
  GICD_CTLR_ARE,
  GICD_CTLR_DS,
  GICD_CTLR_EnableGrp0,
  GICD_CTLR_EnableGrp1,
  GICD_IIDR,
  GICD_IROUTER,
  GICD_IROUTER_IRM,
  GICD_PIDR2,
  GICD_TYPER,
} from '#shared/arch/gic/distributor.ts';
import type { MmioTarget } from '../bus/transaction.ts';
import { loadArray, type Saved } from '../state/saved.ts';
import { InterruptBank } from './interrupt-bank.ts';
import { GIC_CHOICES } from './options.ts';

/** INTIDs 0 to 991 have a place; SPIs are 32 to 991. */
export const GIC_LINES = 992;
/** Implementer Arm (0x43b), product and revision zero. */
export const GIC_IIDR_VALUE = 0x0000_043b;
export const GIC_PIDR2_VALUE = 0x3b;

const SPI_FIRST = 32;
const ENABLES = GICD_CTLR_EnableGrp0 | GICD_CTLR_EnableGrp1;

/** In place of a PE's index: whichever takes it. */
const ANY_PE = -2;

interface SavedDistributor {
  readonly ctlr: number;
  readonly route: Uint32Array;
  readonly anyPe: Uint8Array;
  readonly spis: unknown;
}

export class Distributor implements MmioTarget, Saved {
  readonly name = 'GICD';
  readonly spis = new InterruptBank(SPI_FIRST, GIC_LINES - SPI_FIRST);
  readonly #affinities: readonly number[];
  readonly #changed: () => void;
  readonly #idBits: number;
  /** The PE that takes an interrupt for any PE now, or -1. */
  readonly #participant: () => number;
  /** Affinity as Aff3.Aff2.Aff1.Aff0 in 32 bits. */
  readonly #route = new Uint32Array(GIC_LINES);
  readonly #anyPe = new Uint8Array(GIC_LINES);
  /** Index of the PE that an SPI goes to, ANY_PE, or -1 when no PE has its affinity. */
  readonly #target = new Int16Array(GIC_LINES);
  #ctlr = 0;
  #anyCount = 0;

  /**
   * `affinities` by PE; `changed` is called when an SPI may have become or stopped being one to take; `participant`
   * gives the PE that takes an interrupt for any PE now, or -1.
   */
  constructor(
    affinities: readonly number[],
    changed: () => void,
    participant: () => number = () => 0,
    idBits: number = GIC_CHOICES.idBits,
  ) {
    this.#affinities = affinities;
    this.#changed = changed;
    this.#participant = participant;
    this.#idBits = idBits;
    this.reset();
  }

  reset(): void {
    this.#ctlr = 0;
    this.spis.reset();
    this.#route.fill(0);
    this.#anyPe.fill(0);
    this.#anyCount = 0;
    this.#target.fill(this.#affinities.indexOf(0));
  }

  get group1Enabled(): boolean {
    return (this.#ctlr & GICD_CTLR_EnableGrp1) !== 0;
  }

  /** The PE that `intid` goes to now, or -1. */
  targetOf(intid: number): number {
    const target = this.#target[intid]!;
    return target === ANY_PE ? this.#participant() : target;
  }

  /** Whether an SPI is for any PE: then a change at one PE concerns the others. */
  get hasAnyRoute(): boolean {
    return this.#anyCount > 0;
  }

  read(offset: number, size: number): number {
    if (size === 4) {
      switch (offset) {
        case GICD_CTLR:
          return this.#ctlr | GICD_CTLR_ARE | GICD_CTLR_DS;
        case GICD_TYPER:
          return encodeGicdTyper({ lines: GIC_LINES, idBits: this.#idBits });
        case GICD_IIDR:
          return GIC_IIDR_VALUE;
        case GICD_PIDR2:
          return GIC_PIDR2_VALUE;
      }
      const intid = routedIntid(offset);
      if (intid >= 0) {
        if ((offset & 4) !== 0) return this.#route[intid]! >>> 24;
        return ((this.#route[intid]! & 0x00ff_ffff) | (this.#anyPe[intid] ? GICD_IROUTER_IRM : 0)) >>> 0;
      }
    }
    return this.spis.read(offset, size);
  }

  write(offset: number, size: number, value: number): void {
    const intid = size === 4 ? routedIntid(offset) : -1;
    if (offset === GICD_CTLR && size === 4) this.#ctlr = value & ENABLES;
    else if (intid >= 0) this.#writeRoute(intid, (offset & 4) !== 0, value);
    else this.spis.write(offset, size, value);
    this.#changed();
  }

  #writeRoute(intid: number, isHigh: boolean, value: number): void {
    const before = this.#route[intid]!;
    if (isHigh) this.#route[intid] = (before & 0x00ff_ffff) | ((value & 0xff) << 24);
    else {
      this.#route[intid] = (before & 0xff00_0000) | (value & 0x00ff_ffff);
      this.#anyPe[intid] = value >>> 31;
    }
    this.#resolve(intid);
  }

  #resolve(intid: number): void {
    const was = this.#target[intid];
    const now = this.#anyPe[intid] ? ANY_PE : this.#affinities.indexOf(this.#route[intid]!);
    this.#target[intid] = now;
    this.#anyCount += (now === ANY_PE ? 1 : 0) - (was === ANY_PE ? 1 : 0);
  }

  save(): SavedDistributor {
    return {
      ctlr: this.#ctlr,
      route: this.#route.slice(),
      anyPe: this.#anyPe.slice(),
      spis: this.spis.save(),
    };
  }

  load(state: unknown): void {
    const s = state as SavedDistributor;
    loadArray(this.#route, s.route, 'GICD_IROUTER');
    loadArray(this.#anyPe, s.anyPe, 'GICD_IROUTER.IRM');
    this.#ctlr = s.ctlr;
    this.spis.load(s.spis);
    for (let intid = SPI_FIRST; intid < GIC_LINES; intid++) this.#resolve(intid);
  }

  inspect(): unknown {
    return { enableGrp1: this.group1Enabled, spis: this.spis.inspect() };
  }
}

/** The SPI that a GICD_IROUTER word belongs to, or -1. */
function routedIntid(offset: number): number {
  const intid = (offset - GICD_IROUTER) >> 3;
  return intid >= SPI_FIRST && intid < GIC_LINES ? intid : -1;
}
