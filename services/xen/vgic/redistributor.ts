/**
 * A redistributor that a guest sees, one a virtual CPU (IHI 0069, "Redistributor registers"; xen/arch/arm/vgic-v3.c).
 * GICR_PROPBASER is one register for the whole domain, as in Xen; EnableLPIs stays set once it is (CES is 0), and while
 * it is set the tables cannot be moved.
 * Not modelled: GICR_WAKER's power states (reads 0: awake), the pending table (never read: a guest gives a zeroed one;
 * never written), DirectLPI registers, SGIs sent by ICC_SGI1R_EL1.
 */
import type { RegPair } from '#shared/arch/gic/its.ts';
import {
  decodeGicrPropbaser,
  encodeGicrTyper,
  GICR_CTLR,
  GICR_CTLR_EnableLPIs,
  GICR_IIDR,
  GICR_PENDBASER,
  GICR_PIDR2,
  GICR_PROPBASER,
  GICR_SGI_FRAME,
  GICR_TYPER,
  GICR_WAKER,
} from '#shared/arch/gic/redistributor.ts';
import { IrqBank, VGIC_ID_BITS, VGIC_IIDR, VGIC_PIDR2 } from './distributor.ts';

/** What all redistributors of a domain share. */
export class VRedistributorsShared {
  propbaserLo = 0;
  propbaserHi = 0;
  /** Some redistributor has EnableLPIs set. */
  lpisEnabled = false;

  /** IPA of the LPI configuration table. */
  get propertyTable(): number {
    return decodeGicrPropbaser(this.#pair()).pa;
  }

  /** INTIDs of LPIs are below 2^idBits; 0 while there is no table for LPIs (less than 14 bits hold none). */
  get idBits(): number {
    const { idBits } = decodeGicrPropbaser(this.#pair());
    return this.lpisEnabled && idBits >= 14 ? Math.min(idBits, VGIC_ID_BITS) : 0;
  }

  #pair(): RegPair {
    return { lo: this.propbaserLo, hi: this.propbaserHi };
  }
}

export class VRedistributor {
  readonly vcpu: number;
  /** SGIs and PPIs. */
  readonly private: IrqBank = new IrqBank(0, 1);
  readonly #shared: VRedistributorsShared;
  readonly #typer: RegPair;
  #enableLpis = false;
  #pendbaserLo = 0;
  #pendbaserHi = 0;

  constructor(vcpu: number, last: boolean, shared: VRedistributorsShared) {
    this.vcpu = vcpu;
    this.#shared = shared;
    this.#typer = encodeGicrTyper({
      PLPIS: true,
      Last: last,
      Processor_Number: vcpu,
      affinity: (vcpu & 0xf) | ((vcpu >>> 4) << 8),
    });
  }

  get lpisEnabled(): boolean {
    return this.#enableLpis;
  }

  /** Whether the register at `offset` is 64 bits wide. */
  isWide(offset: number): boolean {
    const register = offset & ~7;
    return register === GICR_TYPER || register === GICR_PROPBASER || register === GICR_PENDBASER;
  }

  /** A 32-bit read at an offset from the start of the redistributor. */
  read(offset: number): number {
    if (offset >= GICR_SGI_FRAME) return this.private.read(offset - GICR_SGI_FRAME) ?? 0;
    switch (offset) {
      case GICR_CTLR:
        return this.#enableLpis ? GICR_CTLR_EnableLPIs : 0;
      case GICR_IIDR:
        return VGIC_IIDR;
      case GICR_TYPER:
        return this.#typer.lo;
      case GICR_TYPER + 4:
        return this.#typer.hi;
      case GICR_WAKER:
        return 0;
      case GICR_PROPBASER:
        return this.#shared.propbaserLo;
      case GICR_PROPBASER + 4:
        return this.#shared.propbaserHi;
      case GICR_PENDBASER:
        return this.#pendbaserLo;
      case GICR_PENDBASER + 4:
        return this.#pendbaserHi;
      case GICR_PIDR2:
        return VGIC_PIDR2;
      default:
        return 0;
    }
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (offset >= GICR_SGI_FRAME) {
      this.private.write(offset - GICR_SGI_FRAME, sizeBytes, value);
      return;
    }
    switch (offset) {
      case GICR_CTLR:
        if ((value & GICR_CTLR_EnableLPIs) !== 0 && !this.#enableLpis) {
          this.#enableLpis = true;
          this.#shared.lpisEnabled = true;
        }
        return;
      case GICR_PROPBASER:
        if (!this.#shared.lpisEnabled) this.#shared.propbaserLo = (value & 0xffff_ff9f) >>> 0;
        return;
      case GICR_PROPBASER + 4:
        if (!this.#shared.lpisEnabled) this.#shared.propbaserHi = (value & 0x070f_ffff) >>> 0;
        return;
      case GICR_PENDBASER:
        if (!this.#enableLpis) this.#pendbaserLo = (value & 0xffff_0f80) >>> 0;
        return;
      case GICR_PENDBASER + 4:
        // PTZ (bit 62) is write-only.
        if (!this.#enableLpis) this.#pendbaserHi = (value & 0x070f_ffff) >>> 0;
        return;
      default:
        return;
    }
  }
}
