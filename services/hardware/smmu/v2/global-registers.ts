/**
 * Global register spaces 0 and 1 of an SMMUv2 (IHI 0062, "Global register space 0", "1"): control, stream mapping,
 * which context bank is of what kind, global faults, TLB maintenance.
 * A fault is recorded when nothing is: a further one sets SMMU_sGFSR.MULTI and nothing else. The global interrupt is
 * a level: high while a flag of SMMU_sGFSR stands and SMMU_sCR0.GFIE is 1.
 * SMMU_sCR0.CLIENTPD is 1 after reset, as the book has it: until software programs the part, everything passes.
 * Deviates: TLB maintenance is done when its register is written, so SMMU_sTLBGSTATUS.GSACTIVE is always 0.
 * Not modelled: stalls (STALLD has nothing to disable), VMIDPNE, FB, BSU and PTM (kept, without effect), configuration
 * access faults, 16-bit VMIDs (VMID16EN reads as zero).
 */

import * as v2 from '#shared/arch/smmu/v2.ts';
import { type Address64, highOf, lowOf } from '#shared/ids/address64.ts';
import { RegBank } from '#shared/regs/bank.ts';
import { asWord, get, type Register, wordWith } from '#shared/regs/field.ts';
import type { Saved } from '../../state/saved.ts';
import { idRegisters, type Smmuv2Features } from './features.ts';

export interface GlobalHooks {
  invalidateAll(): void;
  invalidateVmid(vmid: number): void;
  /** SMMU_sTLBGSYNC was written. */
  sync(): void;
  /** The level of the global interrupt. */
  interrupt(high: boolean): void;
}

/** A flag of SMMU_sGFSR. */
export type GlobalFault = 'ICF' | 'USF' | 'SMCF' | 'UCBF';

/** Bits of SMMU_sCR0 that are kept. */
const CR0_RW = 0x0020_fd3f;
const PAGE_BYTES = 0x1000;

export class GlobalRegisters implements Saved {
  readonly features: Smmuv2Features;
  /** Space 0 and space 1; a page of 64 KiB has nothing beyond its first 4 KiB. */
  readonly gr0: RegBank;
  readonly gr1: RegBank;
  readonly #hooks: GlobalHooks;
  readonly #smrs: Register[] = [];
  readonly #s2crs: ReturnType<typeof s2cr>[] = [];
  readonly #cbars: ReturnType<typeof cbar>[] = [];
  readonly #cba2rs: ReturnType<typeof cba2r>[] = [];
  readonly #synras: ReturnType<typeof synra>[] = [];
  readonly #own: Register[];
  #line = false;

  constructor(features: Smmuv2Features, hooks: GlobalHooks) {
    this.features = features;
    this.#hooks = hooks;
    const ids = idRegisters(features);
    for (let n = 0; n < features.streamGroups; n++) {
      if (features.streamMatching) this.#smrs.push(smr(n));
      this.#s2crs.push(s2cr(n));
    }
    for (let n = 0; n < features.contextBanks; n++) {
      this.#cbars.push(cbar(n));
      this.#cba2rs.push(cba2r(n));
      this.#synras.push(synra(n));
    }
    const cr0Mask = features.extendedStreamIds ? CR0_RW : CR0_RW & ~0x8;
    const cr0 = v2.narrowed(v2.SMMU_sCR0, cr0Mask);
    this.#own = [
      { ...cr0, reset: 1 },
      v2.SMMU_sACR,
      { ...v2.SMMU_IDR0, reset: ids.idr0 },
      { ...v2.SMMU_IDR1, reset: ids.idr1 },
      { ...v2.SMMU_IDR2, reset: ids.idr2 },
      { ...v2.SMMU_IDR7, reset: wordWith(v2.SMMU_IDR7, { MAJOR: features.version }) },
      v2.SMMU_sGFAR_LO,
      v2.SMMU_sGFAR_HI,
      v2.SMMU_sGFSR,
      v2.SMMU_sGFSRRESTORE,
      v2.SMMU_sGFSYNR0,
      v2.SMMU_sGFSYNR1,
      v2.SMMU_STLBIALL,
      v2.SMMU_TLBIVMID,
      v2.SMMU_TLBIALLNSNH,
      v2.SMMU_TLBIALLH,
      v2.SMMU_sTLBGSYNC,
      v2.SMMU_sTLBGSTATUS,
    ];
    this.gr0 = new RegBank(PAGE_BYTES, [...this.#own, ...this.#smrs, ...this.#s2crs]);
    this.gr1 = new RegBank(PAGE_BYTES, [...this.#cbars, ...this.#cba2rs, ...this.#synras]);
    const on = (register: Register, run: (value: number) => void): void => {
      const at = this.#own.find((r) => r.offset === register.offset)!;
      this.gr0.onWrite(at, (_now, _before, value) => run(value));
    };
    on(v2.SMMU_sCR0, () => this.#updateLine());
    on(v2.SMMU_sGFSR, () => this.#updateLine());
    on(v2.SMMU_sGFSRRESTORE, (value) => {
      this.gr0.poke(v2.SMMU_sGFSR, (value & v2.SMMU_sGFSR.definedMask) >>> 0);
      this.#updateLine();
    });
    on(v2.SMMU_STLBIALL, () => hooks.invalidateAll());
    on(v2.SMMU_TLBIALLNSNH, () => hooks.invalidateAll());
    on(v2.SMMU_TLBIVMID, (value) => hooks.invalidateVmid(value & 0xff));
    on(v2.SMMU_sTLBGSYNC, () => hooks.sync());
  }

  get clientsPass(): boolean {
    return get(v2.SMMU_sCR0.CLIENTPD, this.gr0.peek(v2.SMMU_sCR0)) === 1;
  }

  /** sCR0.EXIDENABLE. */
  get extended(): boolean {
    return get(v2.SMMU_sCR0.EXIDENABLE, this.gr0.peek(v2.SMMU_sCR0)) === 1;
  }

  get unmatchedFaults(): boolean {
    return get(v2.SMMU_sCR0.USFCFG, this.gr0.peek(v2.SMMU_sCR0)) === 1;
  }

  get conflictsFault(): boolean {
    return get(v2.SMMU_sCR0.SMCFCFG, this.gr0.peek(v2.SMMU_sCR0)) === 1;
  }

  /** Whether a global fault is answered by an abort; else reads are zeros and writes are ignored. */
  get faultsAbort(): boolean {
    return get(v2.SMMU_sCR0.GFRE, this.gr0.peek(v2.SMMU_sCR0)) === 1;
  }

  /** The SMR of a group; 0 without stream matching. */
  smr(n: number): number {
    const register = this.#smrs[n];
    return register === undefined ? 0 : this.gr0.peek(register);
  }

  s2cr(n: number) {
    return asWord(v2.SMMU_S2CR, this.gr0.peek(this.#s2crs[n]!));
  }

  cbar(bank: number) {
    return asWord(v2.SMMU_CBAR, this.gr1.peek(this.#cbars[bank]!));
  }

  cba2r(bank: number) {
    return asWord(v2.SMMU_CBA2R, this.gr1.peek(this.#cba2rs[bank]!));
  }

  /** CBFRSYNRA of a bank, from the StreamID of its first fault. */
  noteStream(bank: number, streamId: number): void {
    this.gr1.poke(this.#synras[bank]!, streamId & 0xffff);
  }

  recordFault(fault: GlobalFault, streamId: number, address: Address64, isWrite: boolean): void {
    const { gr0 } = this;
    const before = gr0.peek(v2.SMMU_sGFSR);
    if (before !== 0) gr0.poke(v2.SMMU_sGFSR, (before | 0x8000_0000) >>> 0);
    else {
      gr0.poke(v2.SMMU_sGFSR, wordWith(v2.SMMU_sGFSR, { [fault]: 1 }));
      gr0.poke(v2.SMMU_sGFAR_LO, lowOf(address));
      gr0.poke(v2.SMMU_sGFAR_HI, highOf(address));
      gr0.poke(v2.SMMU_sGFSYNR0, wordWith(v2.SMMU_sGFSYNR0, { WNR: Number(isWrite), NSSTATE: 1, NSATTR: 1 }));
      gr0.poke(v2.SMMU_sGFSYNR1, streamId & 0xffff);
    }
    this.#updateLine();
  }

  reset(): void {
    this.gr0.reset();
    this.gr1.reset();
    this.#updateLine();
  }

  save(): unknown {
    const words = (bank: RegBank, registers: readonly Register[]): number[] => registers.map((r) => bank.peek(r));
    return { gr0: words(this.gr0, this.#gr0Registers), gr1: words(this.gr1, this.#gr1Registers), line: this.#line };
  }

  load(state: unknown): void {
    const { gr0, gr1, line } = state as { gr0: number[]; gr1: number[]; line: boolean };
    this.#gr0Registers.forEach((r, i) => {
      this.gr0.poke(r, gr0[i]!);
    });
    this.#gr1Registers.forEach((r, i) => {
      this.gr1.poke(r, gr1[i]!);
    });
    this.#line = line;
  }

  get #gr0Registers(): Register[] {
    return [...this.#own, ...this.#smrs, ...this.#s2crs];
  }

  get #gr1Registers(): Register[] {
    return [...this.#cbars, ...this.#cba2rs, ...this.#synras];
  }

  #updateLine(): void {
    const enabled = get(v2.SMMU_sCR0.GFIE, this.gr0.peek(v2.SMMU_sCR0)) === 1;
    const high = enabled && this.gr0.peek(v2.SMMU_sGFSR) !== 0;
    if (high === this.#line) return;
    this.#line = high;
    this.#hooks.interrupt(high);
  }
}

/** An SMR keeps all 32 bits: which of them say what depends on sCR0.EXIDENABLE. */
function smr(n: number): Register {
  const at = v2.indexed(v2.SMMU_SMR, n);
  return { ...at, id: `SMMU_SMR${n}`, rwMask: 0xffff_ffff, definedMask: 0xffff_ffff };
}

function s2cr(n: number) {
  return v2.indexed(v2.SMMU_S2CR, n);
}

function cbar(n: number) {
  return { ...v2.indexed(v2.SMMU_CBAR, n), rwMask: v2.CBAR_RW_MASK };
}

function cba2r(n: number) {
  // VMID16 is not there.
  return v2.narrowed(v2.indexed(v2.SMMU_CBA2R, n), 0x3);
}

function synra(n: number) {
  return v2.indexed(v2.SMMU_CBFRSYNRA, n);
}
