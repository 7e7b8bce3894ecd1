/**
 * One context bank of an SMMUv2 (IHI 0062, "Translation context bank registers"): control, table bases of stage 1 or of
 * stage 2, fault records, TLB maintenance by address and ASID.
 * A fault is recorded when nothing is: a further one sets SMMU_CB_FSR.MULTI and nothing else. The bank's interrupt is a
 * level: high while a flag of SMMU_CB_FSR stands and SMMU_CB_SCTLR.CFIE is 1.
 * Not modelled: stalls, so SMMU_CB_SCTLR.CFCFG reads as zero, SMMU_CB_RESUME is not there and HUPCF changes nothing;
 * big-endian tables (E is kept, and walks are little-endian), TLBSTATUS other than idle.
 */

import * as v2 from '#shared/arch/smmu/v2.ts';
import { type Address64, highOf, lowOf } from '#shared/ids/address64.ts';
import { RegBank } from '#shared/regs/bank.ts';
import { asWord, get, type Register, type Word, wordWith } from '#shared/regs/field.ts';
import { type Stage1Regime, stage1Regime } from '../../mmu/stage1.ts';
import { type Stage2Regime, stage2Regime } from '../../mmu/stage2.ts';
import type { Saved } from '../../state/saved.ts';

export interface BankHooks {
  /** TLB maintenance of stage 2 by address, for the VMID of this bank. */
  invalidateIpa(ipa: number): void;
  /** Of stage 1, for the VMID of this bank; `asid` is undefined for every ASID. The address is `high`:`low`. */
  invalidateVa(asid: number | undefined, high: number, low: number): void;
  invalidateAsid(asid: number): void;
  /** SMMU_CB_TLBIALL: everything of the bank's VMID that this bank's stage has a part in. */
  invalidateBank(): void;
  sync(): void;
  /** The level of the bank's interrupt. */
  interrupt(high: boolean): void;
}

export interface ContextFault {
  readonly fault: v2.FsrFault;
  readonly level: number;
  readonly address: Address64;
  readonly ipa: Address64;
  readonly isWrite: boolean;
  /** Of stage 2 in nested translation: the bank of stage 1, and whether stage 1 was fetching a table. */
  readonly stage1Bank?: number;
  readonly onTable?: boolean;
}

const PAGE_BYTES = 0x1000;
const HIGH = 0x1_0000_0000;
/** What the regimes are made of, beside SCTLR. */
const TABLE_REGISTERS: readonly Register[] = [
  v2.SMMU_CB_TCR,
  v2.SMMU_CB_TCR2,
  v2.SMMU_CB_TTBR0_LO,
  v2.SMMU_CB_TTBR0_HI,
  v2.SMMU_CB_TTBR1_LO,
  v2.SMMU_CB_TTBR1_HI,
];
const PA_BITS: readonly number[] = [32, 36, 40, 42, 44, 48];
/** By TG0, and by TG1 of stage 1; a reserved encoding has none. */
const TG0_SHIFT: readonly (number | undefined)[] = [12, 16, 14];
const TG1_SHIFT: readonly (number | undefined)[] = [undefined, 14, 12, 16];

export class ContextBank implements Saved {
  readonly bank: RegBank;
  readonly #hooks: BankHooks;
  #stage2: Stage2Regime | undefined;
  #stage1: Stage1Regime | undefined;
  #line = false;

  constructor(hooks: BankHooks) {
    this.#hooks = hooks;
    this.bank = new RegBank(PAGE_BYTES, v2.CONTEXT_BANK_REGISTERS);
    const { bank } = this;
    for (const register of TABLE_REGISTERS) bank.onWrite(register, () => this.#forget());
    bank
      .onWrite(v2.SMMU_CB_SCTLR, () => {
        this.#forget();
        this.#updateLine();
      })
      .onWrite(v2.SMMU_CB_FSR, () => this.#updateLine())
      .onWrite(v2.SMMU_CB_FSRRESTORE, (_now, _before, value) => {
        bank.poke(v2.SMMU_CB_FSR, (value & v2.SMMU_CB_FSR.definedMask) >>> 0);
        this.#updateLine();
      })
      .onWrite(v2.SMMU_CB_TLBIALL, () => hooks.invalidateBank())
      .onWrite(v2.SMMU_CB_TLBIASID, (_now, _before, value) => hooks.invalidateAsid(value & 0xffff))
      .onWrite(v2.SMMU_CB_TLBSYNC, () => hooks.sync());
    // A 64-bit write comes as two, and a 32-bit one names an address below 2^44: the low half acts, a high one acts again.
    const byIpa = (lo: Register, hi: Register): void => {
      bank.onWrite(lo, (low) => hooks.invalidateIpa(low * PAGE_BYTES));
      bank.onWrite(hi, (high) => {
        if (high !== 0) hooks.invalidateIpa((high * HIGH + bank.peek(lo)) * PAGE_BYTES);
      });
    };
    byIpa(v2.SMMU_CB_TLBIIPAS2_LO, v2.SMMU_CB_TLBIIPAS2_HI);
    byIpa(v2.SMMU_CB_TLBIIPAS2L_LO, v2.SMMU_CB_TLBIIPAS2L_HI);
    const byVa = (lo: Register, hi: Register, ofAsid: boolean): void => {
      const invalidate = (high: number, low: number): void =>
        // VA[55:12] in [43:0]: what is above [47:0] only says which half it is.
        hooks.invalidateVa(ofAsid ? high >>> 16 : undefined, ((high & 0xfff) << 12) | (low >>> 20), low << 12);
      bank.onWrite(lo, (low) => invalidate(0, low));
      bank.onWrite(hi, (high) => {
        if (high !== 0) invalidate(high, bank.peek(lo));
      });
    };
    byVa(v2.SMMU_CB_TLBIVA_LO, v2.SMMU_CB_TLBIVA_HI, true);
    byVa(v2.SMMU_CB_TLBIVAL_LO, v2.SMMU_CB_TLBIVAL_HI, true);
    byVa(v2.SMMU_CB_TLBIVAA_LO, v2.SMMU_CB_TLBIVAA_HI, false);
    byVa(v2.SMMU_CB_TLBIVAAL_LO, v2.SMMU_CB_TLBIVAAL_HI, false);
  }

  get sctlr(): Word<'SMMU_CB_SCTLR'> {
    return this.bank.peek(v2.SMMU_CB_SCTLR);
  }

  /** SCTLR.M: without it the bank passes addresses on. */
  get translates(): boolean {
    return get(v2.SMMU_CB_SCTLR.M, this.sctlr) === 1;
  }

  /** SCTLR.CFRE: a fault is an abort; else reads are zeros and writes are ignored. */
  get faultsAbort(): boolean {
    return get(v2.SMMU_CB_SCTLR.CFRE, this.sctlr) === 1;
  }

  /** The tables of stage 2, from TCR and TTBR0 as they stand. */
  get stage2(): Stage2Regime {
    if (this.#stage2 === undefined) {
      const tcr = this.bank.peek(v2.SMMU_CB_TCR);
      const granule = TG0_SHIFT[get(v2.SMMU_CB_TCR.TG0, tcr)];
      this.#stage2 = stage2Regime(
        this.ttbr0,
        // T0SZ 0 is never permitted: every walk of a granule that is reserved faults.
        granule === undefined ? 0 : get(v2.SMMU_CB_TCR.T0SZ, tcr),
        get(v2.SMMU_CB_TCR.SL0, tcr),
        PA_BITS[get(v2.SMMU_CB_TCR.PS, tcr)] ?? 48,
        this.#accessFlagFaults,
        granule ?? 12,
      );
    }
    return this.#stage2;
  }

  /** The tables of stage 1, from TCR, TCR2, TTBR0 and TTBR1 as they stand. */
  get stage1(): Stage1Regime {
    if (this.#stage1 === undefined) {
      const tcr = asWord(v2.SMMU_CB_TCR_STAGE1, this.bank.peek(v2.SMMU_CB_TCR));
      const tcr2 = this.bank.peek(v2.SMMU_CB_TCR2);
      const table = (epd: number, root: number, tsz: number, granule: number | undefined, tbi: number) =>
        epd === 1 || granule === undefined || tsz < 16 || tsz > 39
          ? undefined
          : { root, tsz, granuleShift: granule, topByteIgnored: tbi === 1 };
      const T = v2.SMMU_CB_TCR_STAGE1;
      this.#stage1 = stage1Regime(
        table(
          get(T.EPD0, tcr),
          this.ttbr0,
          get(T.T0SZ, tcr),
          TG0_SHIFT[get(T.TG0, tcr)],
          get(v2.SMMU_CB_TCR2.TBI0, tcr2),
        ),
        table(
          get(T.EPD1, tcr),
          this.#address(v2.SMMU_CB_TTBR1_LO, v2.SMMU_CB_TTBR1_HI),
          get(T.T1SZ, tcr),
          TG1_SHIFT[get(T.TG1, tcr)],
          get(v2.SMMU_CB_TCR2.TBI1, tcr2),
        ),
        PA_BITS[get(v2.SMMU_CB_TCR2.PASize, tcr2)] ?? 48,
        this.#accessFlagFaults,
      );
    }
    return this.#stage1;
  }

  /** Where the (lower) tables are, as software wrote it. */
  get ttbr0(): number {
    return this.#address(v2.SMMU_CB_TTBR0_LO, v2.SMMU_CB_TTBR0_HI);
  }

  /** The ASID of stage 1: of TTBR0, or of TTBR1 with TCR.A1; 8 bits of it without TCR2.AS. */
  get asid(): number {
    const ofTtbr1 = get(v2.SMMU_CB_TCR_STAGE1.A1, asWord(v2.SMMU_CB_TCR_STAGE1, this.bank.peek(v2.SMMU_CB_TCR))) === 1;
    const asid = this.bank.peek(ofTtbr1 ? v2.SMMU_CB_TTBR1_HI : v2.SMMU_CB_TTBR0_HI) >>> 16;
    return get(v2.SMMU_CB_TCR2.AS, this.bank.peek(v2.SMMU_CB_TCR2)) === 1 ? asid : asid & 0xff;
  }

  /** Records a fault. Returns whether it was the first, whose syndrome stands now. */
  recordFault({ fault, level, address, ipa, isWrite, stage1Bank = 0, onTable = false }: ContextFault): boolean {
    const { bank } = this;
    const before = bank.peek(v2.SMMU_CB_FSR);
    if (before !== 0) bank.poke(v2.SMMU_CB_FSR, (before | 0x8000_0000) >>> 0);
    else {
      bank.poke(v2.SMMU_CB_FSR, wordWith(v2.SMMU_CB_FSR, { [fault]: 1 }));
      bank.poke(v2.SMMU_CB_FAR_LO, lowOf(address));
      bank.poke(v2.SMMU_CB_FAR_HI, highOf(address));
      bank.poke(v2.SMMU_CB_IPAFAR_LO, (lowOf(ipa) & -PAGE_BYTES) >>> 0);
      bank.poke(v2.SMMU_CB_IPAFAR_HI, highOf(ipa));
      bank.poke(
        v2.SMMU_CB_FSYNR0,
        wordWith(v2.SMMU_CB_FSYNR0, {
          PLVL: level,
          WNR: Number(isWrite),
          NSATTR: 1,
          PTWF: Number(onTable),
          S1CBNDX: stage1Bank,
        }),
      );
    }
    this.#updateLine();
    return before === 0;
  }

  reset(): void {
    this.bank.reset();
    this.#forget();
    this.#updateLine();
  }

  save(): unknown {
    return { words: v2.CONTEXT_BANK_REGISTERS.map((r) => this.bank.peek(r)), line: this.#line };
  }

  load(state: unknown): void {
    const { words, line } = state as { words: number[]; line: boolean };
    v2.CONTEXT_BANK_REGISTERS.forEach((r, i) => {
      this.bank.poke(r, words[i]!);
    });
    this.#forget();
    this.#line = line;
  }

  get #accessFlagFaults(): boolean {
    return get(v2.SMMU_CB_SCTLR.AFFD, this.sctlr) === 0;
  }

  #address(lo: Register, hi: Register): number {
    return (this.bank.peek(hi) & 0xffff) * HIGH + this.bank.peek(lo);
  }

  #forget(): void {
    this.#stage1 = undefined;
    this.#stage2 = undefined;
  }

  #updateLine(): void {
    const enabled = get(v2.SMMU_CB_SCTLR.CFIE, this.sctlr) === 1;
    const high = enabled && this.bank.peek(v2.SMMU_CB_FSR) !== 0;
    if (high === this.#line) return;
    this.#line = high;
    this.#hooks.interrupt(high);
  }
}
