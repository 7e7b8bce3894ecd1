/**
 * What a stream table entry and a context descriptor say, checked and made ready for translation (IHI 0070, "STE", "CD",
 * and the lists of what makes them ILLEGAL under C_BAD_STE and C_BAD_CD), for a part that terminates faults.
 * Ignored, as the book allows where the feature is absent: EATS, S1STALLD, CONT, MEV, attribute overrides, ASET.
 * Not modelled: ASET.
 */
import { ADDRESS_BITS } from '#shared/arch/smmu/v3.ts';
import { CD, STE, STE_CONFIG, STE_S1DSS, STE_S1FMT } from '#shared/arch/smmu/v3-structures.ts';
import { stage2Geometry, TG0_SHIFT, TG1_SHIFT } from '#shared/arch/vmsa.ts';
import { load } from '#shared/regs/struct.ts';
import { type Stage1Regime, type Stage1Table, stage1Regime } from '../../mmu/stage1.ts';
import { type Stage2Regime, stage2Regime } from '../../mmu/stage2.ts';
import { GLOBAL, type Tlb, type TlbTag } from '../../mmu/tlb.ts';
import { addressBits, granuleOf, type SmmuFeatures } from './features.ts';

/** What happens to the stream's transactions. `bad` aborts with C_BAD_STE. */
export const STREAM = { abort: 0, bypass: 1, stage2: 2, stage1: 3, nested: 4, bad: 5 } as const;

export const STREAM_NAMES = ['abort', 'bypass', 'stage2', 'stage1', 'nested', 'bad'] as const;

/** A decoded STE with the context descriptors that were read through it: an entry of the configuration cache. */
export class StreamConfig {
  declare readonly streamId: number;
  /** The StreamID again when the stream has stage 2 alone, else what no requester has: the hot path compares it. */
  stage2Id = -2;
  /** The entry's words, for what is saved. */
  declare readonly words: Uint32Array;
  /** One of STREAM. */
  kind: number = STREAM.abort;
  vmid = 0;
  /** Of stage 2. */
  declare tag: TlbTag;
  stage2: Stage2Regime | undefined = undefined;
  /** STE.S2R: translation faults of stage 2 are recorded. */
  recordStage2 = false;
  /** STE.S2PTW: tables of stage 1 in device memory are a fault. */
  noDeviceTables = false;
  contextPtr = 0;
  /** One of STE_S1FMT; S1CDMax, 0 when there are no substreams; one of STE_S1DSS. */
  s1Fmt = 0;
  s1CdMax = 0;
  s1Dss = 0;
  /** Context descriptors by SubstreamID; the one that a transaction without any uses is kept apart. */
  context: ContextConfig | undefined = undefined;
  readonly contexts = new Map<number, ContextConfig>();

  constructor(streamId: number, words: Uint32Array, tag: TlbTag) {
    this.streamId = streamId;
    this.words = words;
    this.tag = tag;
  }
}

/** A decoded CD. */
export interface ContextConfig {
  readonly words: Uint32Array;
  /** False: it aborts with C_BAD_CD, and the rest means nothing. */
  readonly good: boolean;
  readonly asid: number;
  readonly regime: Stage1Regime;
  readonly tag: TlbTag;
  readonly globalTag: TlbTag;
  /** CD.R */
  readonly recordFaults: boolean;
}

/** Decodes the 16 words of an STE. `words` are kept. */
export function decodeSte(streamId: number, words: Uint32Array, f: SmmuFeatures, tlb: Tlb): StreamConfig {
  const config = new StreamConfig(streamId, words, tlb.tag(0));
  config.kind = STREAM.bad;
  if (load(words, 0, STE.V) === 0) return config;
  const what = load(words, 0, STE.Config);
  if (what <= STE_CONFIG.bypass) {
    config.kind = what === STE_CONFIG.bypass ? STREAM.bypass : STREAM.abort;
    return config;
  }
  const stage1 = (what & 1) !== 0;
  const stage2 = (what & 2) !== 0;
  if ((stage1 && f.S1P === 0) || (stage2 && f.S2P === 0)) return config;
  if (stage1 && !decodeStage1Fields(config, words, f, stage2)) return config;
  if (f.S2P === 1) {
    config.vmid = load(words, 0, STE.S2VMID);
    if (f.VMID16 === 0 && config.vmid > 0xff) return config;
    config.tag = tlb.tag(config.vmid);
  }
  if (stage2 && !decodeStage2Fields(config, words, f)) return config;
  config.kind = stage1 ? (stage2 ? STREAM.nested : STREAM.stage1) : STREAM.stage2;
  if (config.kind === STREAM.stage2) config.stage2Id = streamId;
  return config;
}

/** False: illegal. */
function decodeStage1Fields(config: StreamConfig, words: Uint32Array, f: SmmuFeatures, stage2: boolean): boolean {
  config.contextPtr = load(words, 0, STE.S1ContextPtr);
  if (!stage2) {
    // STRW other than NS-EL1 needs SMMU_IDR0.Hyp. The structure's own address is a physical one.
    if (load(words, 0, STE.STRW) !== 0 || config.contextPtr >= 2 ** addressBits(f)) return false;
  }
  if (f.SSIDSIZE === 0) return true;
  config.s1CdMax = load(words, 0, STE.S1CDMax);
  if (config.s1CdMax === 0) return true;
  config.s1Fmt = load(words, 0, STE.S1Fmt);
  config.s1Dss = load(words, 0, STE.S1DSS);
  return config.s1CdMax <= f.SSIDSIZE && config.s1Fmt <= STE_S1FMT.twoLevel64K && config.s1Dss <= STE_S1DSS.substream0;
}

function decodeStage2Fields(config: StreamConfig, words: Uint32Array, f: SmmuFeatures): boolean {
  const bits = addressBits(f);
  const t0sz = load(words, 0, STE.S2T0SZ);
  const sl0 = load(words, 0, STE.S2SL0);
  const ttb = load(words, 0, STE.S2TTB);
  const paBits = Math.min(ADDRESS_BITS[load(words, 0, STE.S2PS)] ?? 48, bits);
  const granule = granuleOf(f, TG0_SHIFT, load(words, 0, STE.S2TG));
  if (
    granule === undefined ||
    load(words, 0, STE.S2AA64) !== 1 ||
    load(words, 0, STE.S2ENDI) !== 0 ||
    load(words, 0, STE.S2HA) !== 0 || // SMMU_IDR0.HTTU is 0
    load(words, 0, STE.S2HD) !== 0 ||
    load(words, 0, STE.S2S) !== 0 || // STALL_MODEL 1: nothing can stall
    t0sz < 64 - bits ||
    stage2Geometry(t0sz, sl0, granule) === undefined ||
    ttb >= 2 ** paBits
  ) {
    return false;
  }
  config.stage2 = stage2Regime(ttb, t0sz, sl0, paBits, load(words, 0, STE.S2AFFD) === 0, granule);
  config.recordStage2 = load(words, 0, STE.S2R) === 1;
  config.noDeviceTables = load(words, 0, STE.S2PTW) === 1;
  return true;
}

/** Decodes the 16 words of a CD that was read through the stream's entry. `words` are kept. */
export function decodeCd(words: Uint32Array, f: SmmuFeatures, vmid: number, tlb: Tlb): ContextConfig {
  const asid = load(words, 0, CD.ASID);
  const outputBits = Math.min(ADDRESS_BITS[load(words, 0, CD.IPS)] ?? 48, addressBits(f));
  const lower = load(words, 0, CD.EPD0) === 1 ? 'none' : halfOf(words, f, outputBits, 0);
  const upper = load(words, 0, CD.EPD1) === 1 ? 'none' : halfOf(words, f, outputBits, 1);
  const good =
    load(words, 0, CD.V) === 1 &&
    load(words, 0, CD.AA64) === 1 &&
    load(words, 0, CD.ENDI) === 0 &&
    load(words, 0, CD.HA) === 0 && // SMMU_IDR0.HTTU is 0
    load(words, 0, CD.HD) === 0 &&
    load(words, 0, CD.S) === 0 && // STALL_MODEL 1
    load(words, 0, CD.A) === 1 && // TERM_MODEL 1
    lower !== 'illegal' &&
    upper !== 'illegal';
  const table = (half: Stage1Table | 'none' | 'illegal'): Stage1Table | undefined =>
    typeof half === 'string' ? undefined : half;
  return {
    words,
    good,
    asid,
    regime: stage1Regime(table(lower), table(upper), outputBits, load(words, 0, CD.AFFD) === 0),
    tag: tlb.tag(vmid, asid),
    globalTag: tlb.tag(vmid, GLOBAL),
    recordFaults: load(words, 0, CD.R) === 1,
  };
}

function halfOf(words: Uint32Array, f: SmmuFeatures, outputBits: number, upper: 0 | 1): Stage1Table | 'illegal' {
  const tsz = load(words, 0, upper ? CD.T1SZ : CD.T0SZ);
  const root = load(words, 0, upper ? CD.TTB1 : CD.TTB0);
  const tg = load(words, 0, upper ? CD.TG1 : CD.TG0);
  const granuleShift = granuleOf(f, upper ? TG1_SHIFT : TG0_SHIFT, tg);
  if (granuleShift === undefined || tsz < 16 || tsz > 39 || root >= 2 ** outputBits) return 'illegal';
  return { root, tsz, granuleShift, topByteIgnored: load(words, 0, upper ? CD.TBI1 : CD.TBI0) === 1 };
}
