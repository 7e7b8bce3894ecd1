/**
 * The stage-2 side of one CPU port: HCR_EL2.VM, VTCR_EL2 and VTTBR_EL2 as EL2 loaded them for the domain that runs
 * there, and the translation of that domain's accesses. The TLB is shared by the ports and tagged by VMID.
 * Deviates: a port whose HCR_EL2.VM is 0 answers an external abort; on silicon a guest without stage 2 would see
 * physical addresses, and no domain ever runs so here.
 */
import { ADDRESS_BITS } from '#shared/arch/smmu/v3.ts';
import { DFSC, decodeVtcr } from '#shared/arch/vmsa.ts';
import { type Stage2Regime, type Stage2Walker, stage2Regime, WANT_READ, WANT_WRITE } from './stage2.ts';
import type { Tlb } from './tlb.ts';

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

export class CpuPort {
  readonly #walker: Stage2Walker;
  readonly #tlb: Tlb;
  #regime: Stage2Regime | undefined;
  #vmid = 0;
  #registers: Stage2Registers = { vm: false, vtcr: 0, baddr: 0, vmid: 0 };
  /** Of the last translation: bytes from the address on that lie in the same TLB entry, so at PAs in a row. */
  runBytes = 0;

  constructor(walker: Stage2Walker, tlb: Tlb) {
    this.#walker = walker;
    this.#tlb = tlb;
  }

  /** Loads the stage-2 registers, as EL2 does. No TLB entry goes away by it. */
  load(registers: Stage2Registers): void {
    this.#registers = registers;
    const vtcr = decodeVtcr(registers.vtcr);
    this.#vmid = registers.vmid & (vtcr.vmid16 ? 0xffff : 0xff);
    // Another granule than 4 KiB is one that this CPU does not have: T0SZ 0 is never permitted, so every walk faults.
    const t0sz = vtcr.tg0 === 0 ? vtcr.t0sz : 0;
    this.#regime = registers.vm
      ? stage2Regime(registers.baddr, t0sz, vtcr.sl0, ADDRESS_BITS[vtcr.ps] ?? 48, true)
      : undefined;
  }

  get registers(): Stage2Registers {
    return this.#registers;
  }

  get vmid(): number {
    return this.#vmid;
  }

  /** Physical address, or `~dfsc` (negative; DFSC of shared/arch/vmsa.ts with the level). */
  translate(ipa: number, isWrite: boolean): number {
    const regime = this.#regime;
    if (regime === undefined) return ~DFSC.EXTERNAL_ABORT;
    const want = isWrite ? WANT_WRITE : WANT_READ;
    const cached = this.#tlb.lookup(this.#vmid, ipa, want);
    if (cached !== -Infinity) {
      this.runBytes = this.#tlb.runBytes;
      return cached;
    }
    const walker = this.#walker;
    const pa = walker.walk(regime, ipa, want);
    if (pa < 0) return pa;
    this.#tlb.fill(this.#vmid, ipa, walker.leafPa, walker.leafBytes, walker.s2ap, walker.level);
    this.runBytes = this.#tlb.runBytes;
    return pa;
  }
}
