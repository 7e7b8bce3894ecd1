/**
 * Tables of the guest's that the trace tells of while QEMU's SMMU reads them: level 1 stream table descriptors, STEs and
 * CDs from the lines of a configuration cache miss, page table descriptors from the steps of a walk. They are written to
 * RAM right before the question that QEMU read them for, and at no other time: what a cache of ours holds from earlier
 * stays as it is until a command takes it away.
 * The trace does not print an STE or a CD, but what QEMU took from it; fields that it says nothing of are as Linux
 * writes them (faults recorded and aborted, one CD, no substreams).
 * Not modelled: streams with stage 2; their questions are counted and not asked.
 */

import { ADDRESS_BITS } from '#shared/arch/smmu/v3.ts';
import {
  CD,
  CD_WORDS,
  encodeL1Std,
  STE,
  STE_CONFIG,
  STE_SHCFG_INCOMING,
  STE_WORDS,
} from '#shared/arch/smmu/v3-structures.ts';
import { TG0_SHIFT, TG1_SHIFT } from '#shared/arch/vmsa.ts';
import { bytesOf, store, storeFields } from '#shared/regs/struct.ts';
import type { Ram } from '../../services/hardware/bus/ram.ts';
import { field, fieldMaybe, numberOf, type TraceLine, wideField } from './trace.ts';

interface Half {
  readonly tsz: number;
  readonly ttb: number;
  readonly granuleShift: number;
}

/** What one access made QEMU read, from its first line to its outcome. */
export class Reads {
  l1: { readonly at: number; readonly l2Ptr: number; readonly span: number } | undefined;
  stePa: number | undefined;
  cdPa: number | undefined;
  oas = 44;
  readonly halves: (Half | undefined)[] = [undefined, undefined];
  asid = 0;
  vmid = 0;
  /** What QEMU's TLB said. */
  lookup: 'hit' | 'miss' | undefined;
  /** The page that it was asked for. */
  page: TraceLine | undefined;
  readonly steps: TraceLine[] = [];
  usesStage2 = false;

  /** Takes a line in; false: it is not about what is read. */
  note(line: TraceLine): boolean {
    switch (line.event) {
      case 'smmuv3_config_cache_hit':
      case 'smmuv3_config_cache_miss':
      case 'smmuv3_find_ste':
      case 'smmu_iotlb_insert':
      case 'smmu_ptw_page_pte':
      case 'smmu_ptw_block_pte':
      case 'smmu_ptw_invalid_pte':
        return true;
      case 'smmuv3_find_ste_2lvl':
        this.l1 = {
          at: field(line, 'l1ptr'),
          l2Ptr: field(line, 'l2ptr'),
          span: Math.round(Math.log2(field(line, 'max_l2_ste') + 1)),
        };
        return true;
      case 'smmuv3_get_ste':
        this.stePa = field(line, 'addr');
        return true;
      case 'smmuv3_get_cd':
        this.cdPa = field(line, 'addr');
        return true;
      case 'smmuv3_decode_cd':
        this.oas = field(line, 'oas');
        return true;
      case 'smmuv3_decode_cd_tt': {
        const half = /TT\[(\d)\]/.exec(line.text)?.[1] === '1' ? 1 : 0;
        this.halves[half] = {
          tsz: field(line, 'tsz'),
          ttb: field(line, 'ttb'),
          granuleShift: field(line, 'granule_sz'),
        };
        return true;
      }
      case 'smmu_iotlb_lookup_hit':
      case 'smmu_iotlb_lookup_miss':
        this.lookup = line.event === 'smmu_iotlb_lookup_hit' ? 'hit' : 'miss';
        this.asid = Math.max(fieldMaybe(line, 'asid') ?? 0, 0);
        this.vmid = Math.max(fieldMaybe(line, 'vmid') ?? 0, 0);
        if ((fieldMaybe(line, 'asid') ?? 0) < 0) this.usesStage2 = true;
        this.page = line;
        return true;
      case 'smmu_ptw_level':
        if (fieldMaybe(line, 'stage') === 2) this.usesStage2 = true;
        this.steps.push(line);
        return true;
      default:
        return false;
    }
  }

  /** Writes it all to RAM. `config` is what the outcome says of the STE, when one was read. */
  write(ram: Ram, config: 's1' | 'bypass' | 'abort' | 'invalid' | undefined): void {
    const put = (at: number, words: Uint32Array): void => {
      if (ram.contains(at, words.length * 4)) ram.writeBytes(at, bytesOf(words));
    };
    if (this.l1 !== undefined) put(this.l1.at, encodeL1Std(this.l1.l2Ptr, this.l1.span - 1));
    if (this.stePa !== undefined && config !== undefined) put(this.stePa, this.#ste(config));
    if (this.cdPa !== undefined && this.halves.some((half) => half !== undefined)) put(this.cdPa, this.#cd());
    for (const step of this.steps) {
      const { hi, lo } = wideField(step, 'pte');
      put(numberOf(wideField(step, 'baseaddr')) + field(step, 'offset') * 8, Uint32Array.of(lo, hi));
    }
  }

  #ste(config: 's1' | 'bypass' | 'abort' | 'invalid'): Uint32Array {
    const words = new Uint32Array(STE_WORDS);
    if (config === 'invalid') return words;
    storeFields(words, 0, STE, { V: 1, Config: STE_CONFIG[config], SHCFG: STE_SHCFG_INCOMING });
    if (this.cdPa !== undefined) store(words, 0, STE.S1ContextPtr, this.cdPa);
    return words;
  }

  #cd(): Uint32Array {
    const words = new Uint32Array(CD_WORDS);
    const [lower, upper] = this.halves;
    storeFields(words, 0, CD, {
      V: 1,
      AA64: 1,
      A: 1,
      R: 1,
      ASET: 1,
      IPS: ADDRESS_BITS.indexOf(this.oas),
      ASID: this.asid,
      EPD0: lower === undefined ? 1 : 0,
      EPD1: upper === undefined ? 1 : 0,
    });
    if (lower !== undefined)
      storeFields(words, 0, CD, { T0SZ: lower.tsz, TG0: TG0_SHIFT.indexOf(lower.granuleShift), TTB0: lower.ttb });
    if (upper !== undefined)
      storeFields(words, 0, CD, { T1SZ: upper.tsz, TG1: TG1_SHIFT.indexOf(upper.granuleShift), TTB1: upper.ttb });
    return words;
  }
}
