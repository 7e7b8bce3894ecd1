/**
 * From a device's address to a physical one (IHI 0062, "Translation"): the stream's group, its context bank, then the
 * TLB and the walk of stage 2, of stage 1, or of stage 1 over stage 2, and the fault record for what goes wrong. Nothing
 * is allocated unless an access faults. A fault of stage 2 in nested translation is recorded in the bank of stage 2, with
 * the bank of stage 1 in SMMU_CB_FSYNR0.S1CBNDX. What nested translation found is cached as a whole: maintenance of stage
 * 2 by address alone does not take it away.
 * Not modelled: 32-bit table formats (CBA2R.VA64 0): every access through such a bank is a translation fault. Memory
 * attributes: MAIR and the attributes of bypassed stages are kept and mean nothing.
 */

import {
  CBAR_CBNDX,
  CBAR_TYPE,
  type FsrFault,
  S2CR_TYPE,
  SMMU_CBA2R,
  SMMU_CBAR,
  SMMU_S2CR,
} from '#shared/arch/smmu/v2.ts';
import { DFSC, dfscKind } from '#shared/arch/vmsa.ts';
import { type Address64, highOf, lowOf } from '#shared/ids/address64.ts';
import { get } from '#shared/regs/field.ts';
import { isCanonical, type Stage1Walker, walkStage1 } from '../../mmu/stage1.ts';
import { type Stage2Walker, WANT_WRITE, walkStage2 } from '../../mmu/stage2.ts';
import {
  GLOBAL,
  TLB_MISS,
  type Tlb,
  tlbFill,
  tlbIpaHigh,
  tlbIpaLow,
  tlbLookup,
  tlbSetIpa,
  tlbStage1Allows,
} from '../../mmu/tlb.ts';
import type { ContextBank } from './context-bank.ts';
import type { GlobalFault, GlobalRegisters } from './global-registers.ts';
import { CONFLICT, match, NO_MATCH } from './stream-match.ts';

/** What `translate` answers for an abort, and for an access that reads zeros or is ignored. */
export const ABORTED = -1;
export const IGNORED = -2;
/** How much of an address that passes is known to lie in a row. */
const BYPASS_RUN = 0x20_0000;
const FAULT_RUN = 0x1000;
const HIGH = 0x1_0000_0000;

export interface TranslatorParts {
  readonly registers: GlobalRegisters;
  readonly bank: (n: number) => ContextBank;
  readonly tlb: Tlb;
  readonly walker: Stage2Walker;
  readonly stage1: Stage1Walker;
}

/** The bank that translates, and who asks. */
interface Place {
  readonly n: number;
  readonly bank: ContextBank;
  readonly streamId: number;
  readonly iova: Address64;
  readonly want: number;
  /** Of nested translation, when `bank` is the one of stage 2: the one of stage 1. */
  readonly stage1Bank: number | undefined;
}

export class Translator {
  readonly #p: TranslatorParts;
  readonly #addressLimit: number;
  /** Of the last translation: bytes from the address on that fare alike. */
  runBytes = 0;
  translations = 0;
  aborts = 0;
  /** Recorded and counted faults, by flag. */
  readonly faults: Record<string, number> = {};
  /** Faults that found the record taken: they left no syndrome. */
  faultsLost = 0;

  constructor(parts: TranslatorParts) {
    this.#p = parts;
    this.#addressLimit = 2 ** parts.registers.features.addressBits;
  }

  /** The physical address of `iova` for `want` (WANT_READ or WANT_WRITE), ABORTED or IGNORED. */
  translate(streamId: number, iova: Address64, want: number): number {
    this.translations++;
    const { registers } = this.#p;
    if (registers.clientsPass) return this.#pass(iova);
    const group = match(registers, streamId);
    if (group === CONFLICT) return this.#globalFault('SMCF', streamId, iova, want);
    if (group === NO_MATCH) {
      return registers.unmatchedFaults ? this.#globalFault('USF', streamId, iova, want) : this.#pass(iova);
    }
    const s2cr = registers.s2cr(group);
    switch (get(SMMU_S2CR.TYPE, s2cr)) {
      case S2CR_TYPE.TRANSLATE: {
        const bank = get(SMMU_S2CR.CBNDX, s2cr);
        if (bank >= registers.features.contextBanks) return this.#globalFault('UCBF', streamId, iova, want);
        return this.#inBank(bank, streamId, iova, want);
      }
      case S2CR_TYPE.BYPASS:
        return this.#pass(iova);
      default:
        return this.#globalFault('ICF', streamId, iova, want);
    }
  }

  reset(): void {
    this.translations = 0;
    this.aborts = 0;
    this.faultsLost = 0;
    for (const name of Object.keys(this.faults)) delete this.faults[name];
  }

  #inBank(n: number, streamId: number, iova: Address64, want: number): number {
    const { registers } = this.#p;
    const { contextBanks, stage1 } = registers.features;
    const bank = this.#p.bank(n);
    const cbar = registers.cbar(n);
    const vmid = get(SMMU_CBAR.VMID, cbar);
    const type = get(SMMU_CBAR.TYPE, cbar);
    if (type === CBAR_TYPE.S2) {
      return bank.translates ? this.#stage2(n, bank, vmid, streamId, iova, want, undefined) : this.#pass(iova);
    }
    if (type === CBAR_TYPE.S1_S2_FAULT || !stage1) return this.#globalFault('ICF', streamId, iova, want);
    if (type === CBAR_TYPE.S1_S2_BYPASS) {
      return bank.translates ? this.#stage1(n, bank, vmid, -1, streamId, iova, want) : this.#pass(iova);
    }
    const below = (cbar >>> CBAR_CBNDX.lsb) & CBAR_CBNDX.max;
    if (below >= contextBanks) return this.#globalFault('UCBF', streamId, iova, want);
    const lower = this.#p.bank(below);
    if (bank.translates) return this.#stage1(n, bank, vmid, lower.translates ? below : -1, streamId, iova, want);
    return lower.translates ? this.#stage2(below, lower, vmid, streamId, iova, want, n) : this.#pass(iova);
  }

  #stage2(
    n: number,
    bank: ContextBank,
    vmid: number,
    streamId: number,
    iova: Address64,
    want: number,
    stage1Bank: number | undefined,
  ): number {
    const { registers, tlb, walker } = this.#p;
    if (get(SMMU_CBA2R.VA64, registers.cba2r(n)) === 0) {
      return this.#contextFault({ n, bank, streamId, iova, want, stage1Bank }, ~DFSC.TRANSLATION, iova);
    }
    const place: Place = { n, bank, streamId, iova, want, stage1Bank };
    if (typeof iova === 'bigint') return this.#contextFault(place, ~DFSC.TRANSLATION, iova);
    let pa = tlb.lookup(vmid, iova, want);
    if (pa === -Infinity) {
      pa = walker.walk(bank.stage2, iova, want);
      if (pa >= 0) tlb.fill(vmid, iova, walker.leafPa, walker.leafBytes, walker.s2ap, walker.level);
    }
    if (pa >= 0) {
      this.runBytes = tlb.runBytes;
      return pa;
    }
    return this.#contextFault(place, pa, iova);
  }

  /** Stage 1 in bank `n`, over stage 2 in bank `below`, or alone when that is -1. */
  #stage1(
    n: number,
    bank: ContextBank,
    vmid: number,
    below: number,
    streamId: number,
    iova: Address64,
    want: number,
  ): number {
    const { registers, tlb, stage1: s1, walker: s2 } = this.#p;
    const place: Place = { n, bank, streamId, iova, want, stage1Bank: undefined };
    if (get(SMMU_CBA2R.VA64, registers.cba2r(n)) === 0) return this.#contextFault(place, ~DFSC.TRANSLATION, 0);
    const { stage1: regime, asid } = bank;
    const high = highOf(iova) | 0;
    const low = lowOf(iova) | 0;
    const lower = below < 0 ? undefined : this.#p.bank(below);
    const inLower = (): Place => ({ ...place, n: below, bank: lower!, stage1Bank: n });
    if (isCanonical(regime, high)) {
      let paHigh = tlbLookup(tlb, tlb.tag(vmid, asid), high, low, want);
      if (paHigh === TLB_MISS) paHigh = tlbLookup(tlb, tlb.tag(vmid, GLOBAL), high, low, want);
      if (paHigh >= 0) return this.#found(paHigh, tlb.paLow, tlb.mask, low);
      if (paHigh !== TLB_MISS) {
        if (lower === undefined || (tlbStage1Allows(tlb) & want) !== want) return this.#contextFault(place, paHigh, 0);
        return this.#contextFault(inLower(), paHigh, tlbIpaHigh(tlb) * HIGH + (tlbIpaLow(tlb, low) >>> 0));
      }
    }
    tlb.misses++;
    const outHigh = walkStage1(s1, regime, lower?.stage2, false, high, low, want);
    if (outHigh < 0) {
      if (!s1.onTable) return this.#contextFault(place, outHigh, 0);
      return this.#contextFault(inLower(), outHigh, s1.tableHigh * HIGH + (s1.tableLow >>> 0), true);
    }
    const { outputLow, leafShift, allowed, level } = s1;
    const tag = tlb.tag(vmid, s1.notGlobal ? asid : GLOBAL);
    if (lower === undefined) {
      tlbFill(tlb, tag, high, low, outHigh, outputLow, leafShift, leafShift, allowed, allowed, level);
      return this.#found(outHigh, outputLow, tlb.mask, low);
    }
    const paHigh = walkStage2(s2, lower.stage2, outHigh, outputLow, want);
    if (paHigh < 0) return this.#contextFault(inLower(), paHigh, outHigh * HIGH + (outputLow >>> 0));
    const piece = Math.min(leafShift, s2.leafShift);
    tlbFill(tlb, tag, high, low, paHigh, s2.paLow, piece, leafShift, allowed & s2.s2ap, allowed, level);
    tlbSetIpa(tlb, outHigh, outputLow);
    return this.#found(paHigh, s2.paLow, tlb.mask, low);
  }

  #found(paHigh: number, paLow: number, mask: number, low: number): number {
    this.runBytes = mask + 1 - (low & mask);
    return paHigh * HIGH + (paLow >>> 0);
  }

  #pass(iova: Address64): number {
    if (typeof iova === 'bigint' || iova >= this.#addressLimit) {
      this.aborts++;
      return ABORTED;
    }
    this.runBytes = BYPASS_RUN - (iova % BYPASS_RUN);
    return iova;
  }

  #globalFault(fault: GlobalFault, streamId: number, iova: Address64, want: number): number {
    const { registers } = this.#p;
    registers.recordFault(fault, streamId, iova, want === WANT_WRITE);
    return this.#faulted(fault, registers.faultsAbort, iova);
  }

  /** `fromWalk` is `~dfsc`; `ipa` is what stage 2 was asked for. */
  #contextFault(place: Place, fromWalk: number, ipa: Address64, onTable = false): number {
    const { n, bank, streamId, iova, want, stage1Bank } = place;
    const fault = faultOf(~fromWalk);
    const first = bank.recordFault({
      fault,
      level: ~fromWalk & 3,
      address: iova,
      ipa,
      isWrite: want === WANT_WRITE,
      stage1Bank: stage1Bank ?? 0,
      onTable,
    });
    if (first) this.#p.registers.noteStream(n, streamId);
    else this.faultsLost++;
    return this.#faulted(fault, bank.faultsAbort, iova);
  }

  #faulted(name: string, aborts: boolean, iova: Address64): number {
    this.faults[name] = (this.faults[name] ?? 0) + 1;
    this.aborts++;
    this.runBytes = FAULT_RUN - (lowOf(iova) % FAULT_RUN);
    return aborts ? ABORTED : IGNORED;
  }
}

function faultOf(dfsc: number): FsrFault {
  switch (dfscKind(dfsc)) {
    case DFSC.ADDRESS_SIZE:
      return 'ASF';
    case DFSC.ACCESS_FLAG:
      return 'AFF';
    case DFSC.PERMISSION:
      return 'PF';
    case DFSC.WALK_EXTERNAL_ABORT:
      return 'EF';
    default:
      return 'TF';
  }
}
