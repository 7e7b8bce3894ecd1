/**
 * The stage-2 side of one CPU port: HCR_EL2.VM, VTCR_EL2 and VTTBR_EL2 as EL2 loaded them for the domain that runs
 * there, and the translation of that domain's accesses. The TLB is shared by the ports and tagged by VMID. The CPU has
 * the 4 KiB granule only.
 * Deviates: a port whose HCR_EL2.VM is 0 answers an external abort; on silicon a guest without stage 2 would see
 * physical addresses, and no domain ever runs so here.
 */
import { ADDRESS_BITS } from '#shared/arch/smmu/v3.ts';
import { DFSC, decodeVtcr } from '#shared/arch/vmsa.ts';
import type { Saved } from '../state/saved.ts';
import { type Stage2Regime, type Stage2Walker, stage2Regime, WANT_READ, WANT_WRITE, walkStage2 } from './stage2.ts';
import { TLB_MISS, type Tlb, type TlbTag, tlbFill, tlbLookup } from './tlb.ts';

const HIGH = 0x1_0000_0000;

export interface Stage2Registers {
  /** HCR_EL2.VM */
  readonly vm: boolean;
  /** VTCR_EL2 */
  readonly vtcr: number;
  /** VTTBR_EL2.BADDR */
  readonly baddr: number;
  /** VTTBR_EL2.VMID; only its low 8 bits count while VTCR_EL2.VS is 0. */
  readonly vmid: number;
}

export class CpuPort implements Saved {
  readonly #walker: Stage2Walker;
  readonly #tlb: Tlb;
  #tag: TlbTag;
  #regime: Stage2Regime | undefined;
  #registers: Stage2Registers = { vm: false, vtcr: 0, baddr: 0, vmid: 0 };
  /** Of the last translation: bytes from the address on that lie in the same TLB entry, so at PAs in a row. */
  runBytes = 0;

  constructor(walker: Stage2Walker, tlb: Tlb) {
    this.#walker = walker;
    this.#tlb = tlb;
    this.#tag = tlb.tag(0);
  }

  /** Loads the stage-2 registers, as EL2 does. No TLB entry goes away by it. */
  load(registers: Stage2Registers): void {
    this.#registers = registers;
    const vtcr = decodeVtcr(registers.vtcr);
    this.#tag = this.#tlb.tag(registers.vmid & (vtcr.vmid16 ? 0xffff : 0xff));
    // Another granule than 4 KiB is one that this CPU does not have: T0SZ 0 is never permitted, so every walk faults.
    const t0sz = vtcr.tg0 === 0 ? vtcr.t0sz : 0;
    this.#regime = registers.vm
      ? stage2Regime(registers.baddr, t0sz, vtcr.sl0, ADDRESS_BITS[vtcr.ps] ?? 48, true)
      : undefined;
  }

  save(): Stage2Registers {
    return { ...this.#registers };
  }

  get registers(): Stage2Registers {
    return this.#registers;
  }

  get vmid(): number {
    return this.#tag.vmid;
  }

  /** Physical address, or `~dfsc` (negative; DFSC of shared/arch/vmsa.ts with the level). */
  translate(ipa: number, isWrite: boolean): number {
    const regime = this.#regime;
    if (regime === undefined) return ~DFSC.EXTERNAL_ABORT;
    const want = isWrite ? WANT_WRITE : WANT_READ;
    const tlb = this.#tlb;
    const walker = this.#walker;
    const high = Math.floor(ipa / HIGH) | 0;
    const low = ipa | 0;
    let paHigh = tlbLookup(tlb, this.#tag, high, low, want);
    let { paLow } = tlb;
    if (paHigh === TLB_MISS) {
      tlb.misses++;
      paHigh = walkStage2(walker, regime, high, low, want);
      if (paHigh < 0) return paHigh;
      paLow = walker.paLow;
      const { leafShift, s2ap, level } = walker;
      tlbFill(tlb, this.#tag, high, low, paHigh, paLow, leafShift, leafShift, s2ap, 3, level);
    } else if (paHigh < 0) return paHigh;
    this.runBytes = tlb.mask + 1 - (low & tlb.mask);
    return paHigh * HIGH + (paLow >>> 0);
  }
}
