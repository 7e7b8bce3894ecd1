/**
 * From a stream's entry and a SubstreamID to a context descriptor (IHI 0070, "Context descriptor tables"): one alone,
 * linear, or in two levels with leaves of 4 or 64 KiB. With stage 2 on, all of them lie at intermediate addresses and a
 * fault on the way is one of class CD. Level 1 descriptors are not cached, which the book allows.
 */
import { EVT } from '#shared/arch/smmu/v3-queues.ts';
import { CD_BYTES, CD_WORDS, L1CD, L1CD_BYTES, STE_S1DSS, STE_S1FMT } from '#shared/arch/smmu/v3-structures.ts';
import { bytesOf, load } from '#shared/regs/struct.ts';
import type { Ram } from '../../bus/ram.ts';
import { type Stage2Walker, WANT_READ } from '../../mmu/stage2.ts';
import type { Tlb } from '../../mmu/tlb.ts';
import type { SmmuFeatures } from './features.ts';
import { type ContextConfig, decodeCd, type StreamConfig } from './stream-config.ts';
import { NO_SUBSTREAM } from './stream-table.ts';

export class ContextTable {
  readonly #features: SmmuFeatures;
  readonly #ram: Ram;
  readonly #walker: Stage2Walker;
  readonly #tlb: Tlb;
  /** When `lookup` gives undefined: the event, and the address of what was not readable. */
  failure = 0;
  fetchPa = 0;
  /** Or a fault of stage 2 on the way, as the walk gave it (`~dfsc`), at this address; else 0. */
  stage2Fault = 0;
  faultIpa = 0;

  constructor(features: SmmuFeatures, ram: Ram, walker: Stage2Walker, tlb: Tlb) {
    this.#features = features;
    this.#ram = ram;
    this.#walker = walker;
    this.#tlb = tlb;
  }

  /** Which transactions of a stage-1 stream pass stage 1 untranslated (S1DSS). */
  bypasses(config: StreamConfig, substreamId: number): boolean {
    return substreamId === NO_SUBSTREAM && config.s1CdMax > 0 && config.s1Dss === STE_S1DSS.bypass;
  }

  /** The context descriptor for a transaction; undefined: abort, and the fields say with which event. */
  lookup(config: StreamConfig, substreamId: number): ContextConfig | undefined {
    this.stage2Fault = 0;
    if (substreamId === NO_SUBSTREAM && config.s1CdMax > 0 && config.s1Dss === STE_S1DSS.terminate) {
      this.failure = EVT.F_STREAM_DISABLED;
      return undefined;
    }
    if (substreamId !== NO_SUBSTREAM && !this.#hasSubstream(config, substreamId)) return this.#badSubstream();
    const held = substreamId === NO_SUBSTREAM ? config.context : config.contexts.get(substreamId);
    if (held !== undefined) return held;
    const at = this.#locate(config, Math.max(substreamId, 0));
    if (at < 0) return undefined;
    const words = new Uint32Array(CD_WORDS);
    if (!this.#fetch(config, at, bytesOf(words))) return undefined;
    const context = decodeCd(words, this.#features, config.vmid, this.#tlb);
    if (substreamId === NO_SUBSTREAM) config.context = context;
    else config.contexts.set(substreamId, context);
    return context;
  }

  #hasSubstream(config: StreamConfig, substreamId: number): boolean {
    if (config.s1CdMax === 0 || substreamId >= 2 ** config.s1CdMax) return false;
    return substreamId !== 0 || config.s1Dss !== STE_S1DSS.substream0;
  }

  #badSubstream(): undefined {
    this.failure = EVT.C_BAD_SUBSTREAMID;
    return undefined;
  }

  /** Where the CD lies, or -1. */
  #locate(config: StreamConfig, substreamId: number): number {
    if (config.s1CdMax === 0 || config.s1Fmt === STE_S1FMT.linear) {
      const tableBytes = CD_BYTES * 2 ** config.s1CdMax;
      return config.contextPtr - (config.contextPtr % tableBytes) + substreamId * CD_BYTES;
    }
    const leafBits = config.s1Fmt === STE_S1FMT.twoLevel4K ? 6 : 10;
    const level1 = new Uint32Array(2);
    const at = config.contextPtr + (substreamId >>> leafBits) * L1CD_BYTES;
    if (!this.#fetch(config, at, bytesOf(level1))) return -1;
    if (load(level1, 0, L1CD.V) === 0) {
      this.#badSubstream();
      return -1;
    }
    const l2Ptr = load(level1, 0, L1CD.L2Ptr);
    return l2Ptr - (l2Ptr % (CD_BYTES << leafBits)) + (substreamId & ((1 << leafBits) - 1)) * CD_BYTES;
  }

  /** Reads a structure at a physical or, with stage 2, an intermediate address; none crosses a page. */
  #fetch(config: StreamConfig, at: number, into: Uint8Array): boolean {
    let pa = at;
    if (config.stage2 !== undefined) {
      pa = this.#walker.walk(config.stage2, at, WANT_READ);
      if (pa < 0) {
        this.stage2Fault = pa;
        this.faultIpa = at;
        return false;
      }
    }
    if (!this.#ram.contains(pa, into.length)) {
      this.failure = EVT.F_CD_FETCH;
      this.fetchPa = pa;
      return false;
    }
    this.#ram.readBytes(pa, into);
    return true;
  }
}
