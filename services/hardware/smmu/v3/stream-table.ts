/**
 * From a StreamID to its configuration (IHI 0070, "Stream table"): linear and two-level tables, and the configuration
 * cache. A cached entry, valid or not, serves until a CMD_CFGI_* drops it, so an STE that is changed without one keeps
 * its old meaning; the cache knows nothing of the TLB. Level 1 descriptors are cached apart, valid ones only.
 * What could not be fetched is not cached.
 */
import {
  ADDRESS_BITS,
  SMMU_CR2,
  SMMU_STRTAB_BASE_CFG,
  SMMU_STRTAB_BASE_HI,
  SMMU_STRTAB_BASE_LO,
  STRTAB_FMT,
} from '#shared/arch/smmu/v3.ts';
import { EVT } from '#shared/arch/smmu/v3-queues.ts';
import {
  L1STD,
  L1STD_BYTES,
  STE,
  STE_BYTES,
  STE_CONFIG,
  STE_S2TG,
  STE_WORDS,
} from '#shared/arch/smmu/v3-structures.ts';
import { stage2Geometry } from '#shared/arch/vmsa.ts';
import { get } from '#shared/regs/field.ts';
import { bytesOf, load } from '#shared/regs/struct.ts';
import type { Ram } from '../../bus/ram.ts';
import { type Stage2Regime, stage2Regime } from '../../mmu/stage2.ts';
import { OAS_BITS, SIDSIZE, type SmmuRegisters } from './registers.ts';

/** What an STE says to do. `bad` aborts with C_BAD_STE. */
export interface StreamConfig {
  readonly kind: 'abort' | 'bypass' | 'stage2' | 'bad';
  /** Of stage2. */
  readonly vmid: number;
  readonly regime: Stage2Regime | undefined;
  /** STE.S2R: translation faults are recorded. */
  readonly recordFaults: boolean;
}

interface Level1 {
  readonly span: number;
  readonly l2Ptr: number;
}

const ABORT: StreamConfig = { kind: 'abort', vmid: 0, regime: undefined, recordFaults: false };
const BYPASS: StreamConfig = { ...ABORT, kind: 'bypass' };
const BAD: StreamConfig = { ...ABORT, kind: 'bad' };

export class StreamTable {
  readonly #registers: SmmuRegisters;
  readonly #ram: Ram;
  readonly #cache = new Map<number, StreamConfig>();
  readonly #level1 = new Map<number, Level1>();
  readonly #words = new Uint32Array(STE_WORDS);
  readonly #bytes = bytesOf(this.#words);
  /** When `lookup` gives undefined: the event, 0 when none is to be recorded, and the address that was not readable. */
  failure = 0;
  fetchPa = 0;

  constructor(registers: SmmuRegisters, ram: Ram) {
    this.#registers = registers;
    this.#ram = ram;
  }

  /** The configuration of a stream; undefined: abort, and `failure` says with which event. */
  lookup(streamId: number): StreamConfig | undefined {
    const cached = this.#cache.get(streamId);
    if (cached !== undefined) return cached;
    const at = this.#locate(streamId);
    if (at < 0) return undefined;
    if (!this.#ram.contains(at, STE_BYTES)) {
      this.failure = EVT.F_STE_FETCH;
      this.fetchPa = at;
      return undefined;
    }
    this.#ram.readBytes(at, this.#bytes);
    const config = decodeSte(this.#words);
    this.#cache.set(streamId, config);
    return config;
  }

  /** CMD_CFGI_STE. Without `leaf` the level 1 descriptor goes too. */
  invalidate(streamId: number, leaf: boolean): void {
    this.#cache.delete(streamId);
    if (!leaf) this.#level1.delete(this.#level1Index(streamId));
  }

  /** CMD_CFGI_STE_RANGE: 2^(range + 1) streams, `streamId` aligned down. */
  invalidateRange(streamId: number, range: number): void {
    const count = 2 ** (range + 1);
    const first = streamId - (streamId % count);
    for (const cached of this.#cache.keys()) {
      if (cached >= first && cached < first + count) this.#cache.delete(cached);
    }
    this.#level1.clear();
  }

  /** CMD_CFGI_ALL. */
  invalidateAll(): void {
    this.#cache.clear();
    this.#level1.clear();
  }

  /** What is cached now, by StreamID. */
  get cached(): ReadonlyMap<number, StreamConfig> {
    return this.#cache;
  }

  /** Where the STE lies, or -1. */
  #locate(streamId: number): number {
    const { bank } = this.#registers;
    const cfg = bank.peek(SMMU_STRTAB_BASE_CFG);
    const log2size = Math.min(get(SMMU_STRTAB_BASE_CFG.LOG2SIZE, cfg), SIDSIZE);
    if (streamId < 0 || streamId >= 2 ** log2size) return this.#badStreamId();
    const base = this.#registers.baseAddress(SMMU_STRTAB_BASE_LO, SMMU_STRTAB_BASE_HI, 0xffff_ffc0);
    if (get(SMMU_STRTAB_BASE_CFG.FMT, cfg) !== STRTAB_FMT.twoLevel) {
      return base - (base % (STE_BYTES * 2 ** log2size)) + streamId * STE_BYTES;
    }
    const split = this.#split();
    const index = streamId >>> split;
    let level1 = this.#level1.get(index);
    if (level1 === undefined) {
      const tableBytes = Math.max(L1STD_BYTES * 2 ** Math.max(log2size - split, 0), 64);
      const at = base - (base % tableBytes) + index * L1STD_BYTES;
      if (!this.#ram.contains(at, L1STD_BYTES)) {
        this.failure = EVT.F_STE_FETCH;
        this.fetchPa = at;
        return -1;
      }
      this.#ram.readBytes(at, this.#bytes, 0, L1STD_BYTES);
      const span = load(this.#words, 0, L1STD.Span);
      if (span === 0 || span > 11 || span > split + 1) return this.#badStreamId();
      const l2Ptr = load(this.#words, 0, L1STD.L2Ptr);
      level1 = { span, l2Ptr: l2Ptr - (l2Ptr % (STE_BYTES * 2 ** (span - 1))) };
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

  #level1Index(streamId: number): number {
    return streamId >>> this.#split();
  }

  #split(): number {
    const split = get(SMMU_STRTAB_BASE_CFG.SPLIT, this.#registers.bank.peek(SMMU_STRTAB_BASE_CFG));
    return split === 8 || split === 10 ? split : 6;
  }
}

/** The checks of IHI 0070, "STE" and "C_BAD_STE", for a part with stage 2 only and the 4 KiB granule. */
function decodeSte(words: Uint32Array): StreamConfig {
  if (load(words, 0, STE.V) === 0) return BAD;
  const config = load(words, 0, STE.Config);
  if (config < STE_CONFIG.bypass) return ABORT;
  if (config === STE_CONFIG.bypass) return BYPASS;
  if (config !== STE_CONFIG.s2) return BAD; // stage 1 is not implemented (IDR0.S1P)
  const t0sz = load(words, 0, STE.S2T0SZ);
  const sl0 = load(words, 0, STE.S2SL0);
  const ps = load(words, 0, STE.S2PS);
  const ttb = load(words, 0, STE.S2TTB);
  const paBits = Math.min(ADDRESS_BITS[ps] ?? 48, OAS_BITS);
  const illegal =
    load(words, 0, STE.S2AA64) !== 1 ||
    load(words, 0, STE.S2TG) !== STE_S2TG.granule4K ||
    load(words, 0, STE.S2ENDI) !== 0 ||
    load(words, 0, STE.S2S) !== 0 || // STALL_MODEL 1: nothing can stall
    t0sz < 64 - OAS_BITS ||
    stage2Geometry(t0sz, sl0) === undefined ||
    ttb >= 2 ** paBits;
  if (illegal) return BAD;
  return {
    kind: 'stage2',
    vmid: load(words, 0, STE.S2VMID),
    regime: stage2Regime(ttb, t0sz, sl0, paBits, load(words, 0, STE.S2AFFD) === 0),
    recordFaults: load(words, 0, STE.S2R) === 1,
  };
}
