/**
 * From a StreamID to its configuration (IHI 0070, "Stream table"): linear and two-level tables, and the configuration
 * cache. A cached entry, valid or not, serves until a CMD_CFGI_* drops it, so an STE or CD that is changed without one
 * keeps its old meaning; the cache knows nothing of the TLB. Level 1 descriptors are cached apart, valid ones only.
 * What could not be fetched is not cached.
 */
import {
  SMMU_CR2,
  SMMU_STRTAB_BASE_CFG,
  SMMU_STRTAB_BASE_HI,
  SMMU_STRTAB_BASE_LO,
  STRTAB_FMT,
} from '#shared/arch/smmu/v3.ts';
import { EVT } from '#shared/arch/smmu/v3-queues.ts';
import { L1STD, L1STD_BYTES, STE_BYTES, STE_WORDS } from '#shared/arch/smmu/v3-structures.ts';
import { get } from '#shared/regs/field.ts';
import { bytesOf, load } from '#shared/regs/struct.ts';
import type { Ram } from '../../bus/ram.ts';
import type { Tlb } from '../../mmu/tlb.ts';
import type { Saved } from '../../state/saved.ts';
import type { SmmuRegisters } from './registers.ts';
import { decodeCd, decodeSte, StreamConfig } from './stream-config.ts';

/** A level 1 descriptor: 2^(span - 1) entries at `l2Ptr`. */
export interface Level1 {
  readonly span: number;
  readonly l2Ptr: number;
}

export interface StreamTableShape {
  /** Aligned as the SMMU does. */
  readonly base: number;
  readonly log2size: number;
  readonly twoLevel: boolean;
  /** log2 of the StreamIDs below one level 1 descriptor. */
  readonly split: number;
}

interface SavedStreams {
  readonly streams: readonly {
    readonly streamId: number;
    readonly words: Uint32Array;
    readonly contexts: readonly (readonly [substreamId: number, words: Uint32Array])[];
  }[];
  readonly level1: readonly (readonly [index: number, span: number, l2Ptr: number])[];
}

/** Streams that are found without a look into the map. */
const FRONT = 4096;
export const FRONT_MASK = FRONT - 1;
/** What no requester has. */
const NO_STREAM = -2;
/** The SubstreamID of a transaction that has none. */
export const NO_SUBSTREAM = -1;

export class StreamTable implements Saved {
  readonly #registers: SmmuRegisters;
  readonly #ram: Ram;
  readonly #tlb: Tlb;
  readonly #cache = new Map<number, StreamConfig>();
  /**
   * Configurations by the low bits of the StreamID, where a translation looks first; a stand-in where there is none.
   * While the SMMU is off there are stand-ins only, so that who finds its stream here need not ask for SMMUEN.
   */
  declare front: StreamConfig[];
  readonly #front: StreamConfig[];
  readonly #off: StreamConfig[];
  readonly #nobody: StreamConfig;
  readonly #level1 = new Map<number, Level1>();
  readonly #words = new Uint32Array(2);
  readonly #bytes = bytesOf(this.#words);
  /** When `lookup` gives undefined: the event, 0 when none is to be recorded, and the address that was not readable. */
  failure = 0;
  fetchPa = 0;

  constructor(registers: SmmuRegisters, ram: Ram, tlb: Tlb) {
    this.#registers = registers;
    this.#ram = ram;
    this.#tlb = tlb;
    this.#nobody = new StreamConfig(NO_STREAM, new Uint32Array(0), tlb.tag(0));
    this.#front = Array.from({ length: FRONT }, () => this.#nobody);
    this.#off = this.#front.slice();
    this.front = this.#off;
  }

  /** Follows SMMU_CR0.SMMUEN. */
  enable(enabled: boolean): void {
    this.front = enabled ? this.#front : this.#off;
  }

  /** The configuration of a stream; undefined: abort, and `failure` says with which event. */
  lookup(streamId: number): StreamConfig | undefined {
    let config = this.#cache.get(streamId);
    if (config === undefined) {
      const at = this.#locate(streamId);
      if (at < 0) return undefined;
      if (!this.#ram.contains(at, STE_BYTES)) {
        this.failure = EVT.F_STE_FETCH;
        this.fetchPa = at;
        return undefined;
      }
      const words = new Uint32Array(STE_WORDS);
      this.#ram.readBytes(at, bytesOf(words));
      config = decodeSte(streamId, words, this.#registers.features, this.#tlb);
      this.#cache.set(streamId, config);
    }
    this.#front[streamId & (FRONT - 1)] = config;
    return config;
  }

  /** CMD_CFGI_STE. Without `leaf` the level 1 descriptor goes too. */
  invalidate(streamId: number, leaf: boolean): void {
    this.#drop(streamId);
    if (!leaf) this.#level1.delete(streamId >>> splitOf(this.#registers));
  }

  /** CMD_CFGI_STE_RANGE: 2^(range + 1) streams, `streamId` aligned down. */
  invalidateRange(streamId: number, range: number): void {
    const count = 2 ** (range + 1);
    const first = streamId - (streamId % count);
    for (const cached of [...this.#cache.keys()]) {
      if (cached >= first && cached < first + count) this.#drop(cached);
    }
    this.#level1.clear();
  }

  /** CMD_CFGI_ALL. */
  invalidateAll(): void {
    this.#cache.clear();
    this.#front.fill(this.#nobody);
    this.#level1.clear();
  }

  /** CMD_CFGI_CD. */
  invalidateContext(streamId: number, substreamId: number): void {
    const config = this.#cache.get(streamId);
    if (config === undefined) return;
    config.contexts.delete(substreamId);
    if (substreamId === 0) config.context = undefined;
  }

  /** CMD_CFGI_CD_ALL. */
  invalidateContexts(streamId: number): void {
    const config = this.#cache.get(streamId);
    if (config === undefined) return;
    config.contexts.clear();
    config.context = undefined;
  }

  /** What is cached now, by StreamID. */
  get cached(): ReadonlyMap<number, StreamConfig> {
    return this.#cache;
  }

  /** Level 1 descriptors that are cached now, by their index. */
  get cachedLevel1(): ReadonlyMap<number, Level1> {
    return this.#level1;
  }

  save(): SavedStreams {
    return {
      streams: [...this.#cache.values()].map(({ streamId, words, context, contexts }) => ({
        streamId,
        words,
        contexts: [
          ...(context === undefined ? [] : [[NO_SUBSTREAM, context.words] as const]),
          ...[...contexts].map(([substreamId, held]) => [substreamId, held.words] as const),
        ],
      })),
      level1: [...this.#level1].map(([index, { span, l2Ptr }]) => [index, span, l2Ptr] as const),
    };
  }

  load(state: unknown): void {
    const { streams, level1 } = state as SavedStreams;
    this.invalidateAll();
    const { features } = this.#registers;
    for (const { streamId, words, contexts } of streams) {
      const config = decodeSte(streamId, words.slice(), features, this.#tlb);
      for (const [substreamId, held] of contexts) {
        const context = decodeCd(held.slice(), features, config.vmid, this.#tlb);
        if (substreamId === NO_SUBSTREAM) config.context = context;
        else config.contexts.set(substreamId, context);
      }
      this.#cache.set(streamId, config);
    }
    for (const [index, span, l2Ptr] of level1) this.#level1.set(index, { span, l2Ptr });
  }

  #drop(streamId: number): void {
    this.#cache.delete(streamId);
    this.#front[streamId & (FRONT - 1)] = this.#nobody;
  }

  /** Where the STE lies, or -1. */
  #locate(streamId: number): number {
    const { base, log2size, twoLevel, split } = streamTableShape(this.#registers);
    if (streamId < 0 || streamId >= 2 ** log2size) return this.#badStreamId();
    if (!twoLevel) return base + streamId * STE_BYTES;
    const index = streamId >>> split;
    let level1 = this.#level1.get(index);
    if (level1 === undefined) {
      const at = base + index * L1STD_BYTES;
      if (!this.#ram.contains(at, L1STD_BYTES)) {
        this.failure = EVT.F_STE_FETCH;
        this.fetchPa = at;
        return -1;
      }
      this.#ram.readBytes(at, this.#bytes);
      level1 = decodeLevel1(this.#words, split);
      if (level1 === undefined) return this.#badStreamId();
      this.#level1.set(index, level1);
    }
    const within = streamId & ((1 << split) - 1);
    if (within >= 2 ** (level1.span - 1)) return this.#badStreamId();
    return level1.l2Ptr + within * STE_BYTES;
  }

  /** C_BAD_STREAMID is recorded only while SMMU_CR2.RECINVSID is set. */
  #badStreamId(): number {
    const recorded = get(SMMU_CR2.RECINVSID, this.#registers.bank.peek(SMMU_CR2)) === 1;
    this.failure = recorded ? EVT.C_BAD_STREAMID : 0;
    return -1;
  }
}

/** What the SMMU_STRTAB_BASE registers say. */
export function streamTableShape(registers: SmmuRegisters): StreamTableShape {
  const { bank, features } = registers;
  const cfg = bank.peek(SMMU_STRTAB_BASE_CFG);
  const log2size = Math.min(get(SMMU_STRTAB_BASE_CFG.LOG2SIZE, cfg), features.SIDSIZE);
  const twoLevel = features.ST_LEVEL === 1 && get(SMMU_STRTAB_BASE_CFG.FMT, cfg) === STRTAB_FMT.twoLevel;
  const split = splitOf(registers);
  const base = registers.baseAddress(SMMU_STRTAB_BASE_LO, SMMU_STRTAB_BASE_HI, 0xffff_ffc0);
  const tableBytes = twoLevel
    ? Math.max(L1STD_BYTES * 2 ** Math.max(log2size - split, 0), 64)
    : STE_BYTES * 2 ** log2size;
  return { base: base - (base % tableBytes), log2size, twoLevel, split };
}

/** Undefined: not valid. */
export function decodeLevel1(words: Uint32Array, split: number): Level1 | undefined {
  const span = load(words, 0, L1STD.Span);
  if (span === 0 || span > 11 || span > split + 1) return undefined;
  const l2Ptr = load(words, 0, L1STD.L2Ptr);
  return { span, l2Ptr: l2Ptr - (l2Ptr % (STE_BYTES * 2 ** (span - 1))) };
}

function splitOf({ bank }: SmmuRegisters): number {
  const split = get(SMMU_STRTAB_BASE_CFG.SPLIT, bank.peek(SMMU_STRTAB_BASE_CFG));
  return split === 8 || split === 10 ? split : 6;
}
