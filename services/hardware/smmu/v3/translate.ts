/**
 * From a device's address to a physical one (IHI 0070, "Translation procedure"): the stream's configuration, then stage
 * 1, stage 2 or both by TLB and walk, and the event for what goes wrong. The hot path of DMA: addresses are two 32-bit
 * integers, and nothing is allocated unless an access faults or a configuration is read.
 * With both stages the TLB holds the combined result by virtual address, with the intermediate page beside it.
 * Not modelled: ATS, stalls, caching of intermediate steps; faults terminate with an abort.
 */

import { EVENT_CLASS, EVT, type SmmuEvent } from '#shared/arch/smmu/v3-queues.ts';
import { DFSC, dfscKind } from '#shared/arch/vmsa.ts';
import { address64 } from '#shared/ids/address64.ts';
import { isCanonical, type Stage1Walker, walkStage1 } from '../../mmu/stage1.ts';
import { type Stage2Walker, WANT_READ, walkStage2 } from '../../mmu/stage2.ts';
import {
  TLB_MISS,
  type Tlb,
  tlbFill,
  tlbHit,
  tlbIpaHigh,
  tlbIpaLow,
  tlbLookup,
  tlbSetIpa,
  tlbStage1Allows,
} from '../../mmu/tlb.ts';
import type { ContextTable } from './context-table.ts';
import type { EventQueue } from './event-queue.ts';
import { addressBits } from './features.ts';
import type { SmmuRegisters } from './registers.ts';
import { type ContextConfig, STREAM, type StreamConfig } from './stream-config.ts';
import { FRONT_MASK, NO_SUBSTREAM, type StreamTable } from './stream-table.ts';

/** What `translate` answers for an abort. */
export const ABORTED = -1;
/** How much of a bypassed address is known to lie in a row. */
const BYPASS_MASK = 0x1f_ffff;
const HIGH = 0x1_0000_0000;
// For the hot path: what is imported is no constant to the compiler but a variable of unknown type.
const NONE = NO_SUBSTREAM;
const MASK = FRONT_MASK;
const MISS = TLB_MISS;
const hit = tlbHit;
const lookup = tlbLookup;
const fill = tlbFill;
const walk = walkStage2;

export interface TranslatorParts {
  readonly registers: SmmuRegisters;
  readonly streams: StreamTable;
  readonly contexts: ContextTable;
  readonly tlb: Tlb;
  readonly stage1: Stage1Walker;
  readonly stage2: Stage2Walker;
  readonly events: EventQueue;
}

export class Translator {
  declare readonly registers: SmmuRegisters;
  declare readonly streams: StreamTable;
  declare readonly tlb: Tlb;
  declare readonly walker: Stage2Walker;
  readonly #contexts: ContextTable;
  readonly #stage1: Stage1Walker;
  readonly #events: EventQueue;
  /** Bits of an input's high word that have to be 0 where stage 1 does not look at it; output is the same. */
  declare readonly inputZero: number;
  /** Translations that no TLB entry answered, and those of them that were aborted. */
  others = 0;
  aborts = 0;
  /** Of the transaction that `slow` has. */
  #streamId = 0;
  #substreamId = NO_SUBSTREAM;
  #high = 0;
  #low = 0;
  #isRead = false;

  constructor(parts: TranslatorParts) {
    this.registers = parts.registers;
    this.streams = parts.streams;
    this.tlb = parts.tlb;
    this.walker = parts.stage2;
    this.#contexts = parts.contexts;
    this.#stage1 = parts.stage1;
    this.#events = parts.events;
    const bits = addressBits(parts.registers.features);
    this.inputZero = bits === 32 ? -1 : -1 << (bits - 32);
  }

  /**
   * What `translate` does not do itself: all but what a TLB entry of 4 KiB answers for a stream of stage 2 alone. `config`
   * is what it found; when that is of this transaction, it is of stage 2 alone, or passes stage 1, in an SMMU that is on.
   * A field that is called through `call`: of that the compiler knows the function only where it knows the object. A method
   * it would inline, and a hit would pay for it.
   */
  readonly onMiss = (
    config: StreamConfig,
    streamId: number,
    substreamId: number,
    high: number,
    low: number,
    want: number,
  ): number => {
    if (config.stage2Id !== streamId || substreamId !== NONE) {
      return this.#other(streamId, substreamId, high, low, want);
    }
    const { walker, tlb } = this;
    // Stage 1 is off, and still it is the one that checks the size of its input.
    if ((high & this.inputZero) !== 0) {
      this.#note(config.streamId, NONE, high, low, want);
      return this.#record({ code: EVT.F_ADDR_SIZE });
    }
    let paHigh = lookup(tlb, config.tag, high, low, want);
    if (paHigh >= 0) return paHigh;
    if (paHigh === MISS) {
      tlb.misses++;
      paHigh = walk(walker, config.stage2!, high, low, want);
    }
    if (paHigh < 0) {
      this.#note(config.streamId, NONE, high, low, want);
      return this.#stage2Fault(config, EVENT_CLASS.IN, high, low, paHigh);
    }
    const { paLow, leafShift } = walker;
    fill(tlb, config.tag, high, low, paHigh, paLow, leafShift, leafShift, walker.s2ap, 3, walker.level);
    this.others++;
    tlb.paLow = paLow;
    return paHigh;
  };

  /** A transaction whose stream has not stage 2 alone, or not its configuration where it is looked for first. */
  #other(streamId: number, substreamId: number, high: number, low: number, want: number): number {
    this.#note(streamId, substreamId, high, low, want);
    const inRange = (high & this.inputZero) === 0;
    if (!this.registers.smmuEnabled) {
      return this.registers.bypassAborts || !inRange ? this.#abort() : this.#pass(high, low);
    }
    const held = this.streams.front[streamId & FRONT_MASK]!;
    const config = held.streamId === streamId ? held : this.streams.lookup(streamId);
    if (config === undefined) {
      const { failure, fetchPa } = this.streams;
      return failure === 0 ? this.#abort() : this.#record({ code: failure, fetchAddress: fetchPa });
    }
    switch (config.kind) {
      case STREAM.abort:
        return this.#abort();
      case STREAM.bad:
        return this.#record({ code: EVT.C_BAD_STE });
      case STREAM.stage1:
      case STREAM.nested:
        if (!this.#contexts.bypasses(config, substreamId)) {
          return this.#withStage1(config, substreamId, high, low, want);
        }
        break;
      default:
        if (substreamId !== NO_SUBSTREAM) return this.#record({ code: EVT.C_BAD_SUBSTREAMID });
    }
    if (config.stage2 !== undefined) return this.onMiss(config, config.stage2Id, NONE, high, low, want);
    return inRange ? this.#pass(high, low) : this.#record({ code: EVT.F_ADDR_SIZE });
  }

  /** How often `translate` was called. */
  get translations(): number {
    return this.others + this.tlb.hits;
  }

  #pass(high: number, low: number): number {
    this.others++;
    this.tlb.paLow = low;
    this.tlb.mask = BYPASS_MASK;
    return high;
  }

  #withStage1(config: StreamConfig, substreamId: number, high: number, low: number, want: number): number {
    const contexts = this.#contexts;
    const context = contexts.lookup(config, substreamId);
    if (context === undefined) {
      if (contexts.stage2Fault === 0) return this.#record({ code: contexts.failure, fetchAddress: contexts.fetchPa });
      const { faultIpa, stage2Fault } = contexts;
      return this.#stage2Fault(config, EVENT_CLASS.CD, Math.floor(faultIpa / HIGH), faultIpa | 0, stage2Fault);
    }
    if (!context.good) return this.#record({ code: EVT.C_BAD_CD });
    const paHigh = stage1Lookup(this, context, high, low, want);
    if (paHigh >= 0) return paHigh;
    if (paHigh === TLB_MISS) return this.#walkStage1(config, context, high, low, want);
    // An entry that does not allow it: whose permission is missing decides which stage faults.
    if ((tlbStage1Allows(this.tlb) & want) !== want) return this.#stage1Fault(context, paHigh);
    return this.#stage2Fault(config, EVENT_CLASS.IN, tlbIpaHigh(this.tlb), tlbIpaLow(this.tlb, low), paHigh);
  }

  #walkStage1(config: StreamConfig, context: ContextConfig, high: number, low: number, want: number): number {
    const s1 = this.#stage1;
    const { tlb } = this;
    tlb.misses++;
    const outHigh = walkStage1(s1, context.regime, config.stage2, config.noDeviceTables, high, low, want);
    if (outHigh < 0) {
      if (s1.onTable) return this.#stage2Fault(config, EVENT_CLASS.TT, s1.tableHigh, s1.tableLow, outHigh);
      return this.#stage1Fault(context, outHigh);
    }
    const { outputLow, leafShift, allowed, level } = s1;
    const tag = s1.notGlobal ? context.tag : context.globalTag;
    let paHigh = outHigh;
    if (config.stage2 === undefined) {
      tlb.paLow = outputLow;
      tlbFill(tlb, tag, high, low, outHigh, outputLow, leafShift, leafShift, allowed, allowed, level);
    } else {
      const s2 = this.walker;
      paHigh = walkStage2(s2, config.stage2, outHigh, outputLow, want);
      if (paHigh < 0) return this.#stage2Fault(config, EVENT_CLASS.IN, outHigh, outputLow, paHigh);
      tlb.paLow = s2.paLow;
      const piece = Math.min(leafShift, s2.leafShift);
      tlbFill(tlb, tag, high, low, paHigh, s2.paLow, piece, leafShift, allowed & s2.s2ap, allowed, level);
      tlbSetIpa(tlb, outHigh, outputLow);
    }
    this.others++;
    return paHigh;
  }

  #stage1Fault(context: ContextConfig, fromWalk: number): number {
    const code = eventOf(~fromWalk);
    if (code === EVT.F_WALK_EABT) {
      return this.#record({ code, eventClass: EVENT_CLASS.TT, fetchAddress: this.#stage1.fetchPa });
    }
    return context.recordFaults ? this.#record({ code }) : this.#abort();
  }

  /** A fault of stage 2 while it translated `ipaHigh`:`ipaLow`. */
  #stage2Fault(config: StreamConfig, eventClass: number, ipaHigh: number, ipaLow: number, fromWalk: number): number {
    const code = eventOf(~fromWalk);
    if (code === EVT.F_WALK_EABT) {
      return this.#record({ code, eventClass, stage2: true, fetchAddress: this.walker.fetchPa });
    }
    if (!config.recordStage2) return this.#abort();
    return this.#record({ code, eventClass, stage2: true, ipa: ipaHigh * HIGH + ((ipaLow & ~0xfff) >>> 0) });
  }

  /** Keeps what every record of the transaction says. */
  #note(streamId: number, substreamId: number, high: number, low: number, want: number): void {
    this.#streamId = streamId;
    this.#substreamId = substreamId;
    this.#high = high;
    this.#low = low;
    this.#isRead = want === WANT_READ;
  }

  #record(what: Pick<SmmuEvent, 'code'> & Partial<SmmuEvent>): number {
    this.#events.record({
      streamId: this.#streamId,
      ...(this.#substreamId === NO_SUBSTREAM ? {} : { substreamId: this.#substreamId }),
      inputAddress: address64(this.#high, this.#low),
      isRead: this.#isRead,
      stage2: false,
      eventClass: EVENT_CLASS.IN,
      ipa: 0,
      fetchAddress: 0,
      ...what,
    });
    return this.#abort();
  }

  #abort(): number {
    this.others++;
    this.aborts++;
    return ABORTED;
  }
}

/**
 * Translates the address `high`:`low` of a device for `want` (WANT_READ or WANT_WRITE). Returns bits [47:32] of the
 * physical address, with the rest in `t.tlb.paLow` and what lies around it in a row in `t.tlb.mask`; or ABORTED, once the event
 * is recorded. `substreamId` is NO_SUBSTREAM for a transaction without one.
 */
export function translate(
  t: Translator,
  streamId: number,
  substreamId: number,
  high: number,
  low: number,
  want: number,
): number {
  const config = t.streams.front[streamId & MASK]!;
  // Who finds its stream here has an SMMU that is on. Bits [63:48] are not in a TLB's key.
  if (config.stage2Id === streamId && substreamId === NONE && high >>> 16 === 0) {
    const paHigh = hit(t.tlb, config.tag, high, low, want);
    if (paHigh >= 0) return paHigh;
  }
  return t.onMiss.call(undefined, config, streamId, substreamId, high, low, want);
}

/** The entry of the context's ASID, else a global one; MISS also for an address that no entry can be for. */
function stage1Lookup(t: Translator, context: ContextConfig, high: number, low: number, want: number): number {
  if (!isCanonical(context.regime, high)) return MISS;
  let paHigh = tlbLookup(t.tlb, context.tag, high, low, want);
  if (paHigh === MISS) paHigh = tlbLookup(t.tlb, context.globalTag, high, low, want);
  return paHigh;
}

function eventOf(dfsc: number): number {
  switch (dfscKind(dfsc)) {
    case DFSC.ADDRESS_SIZE:
      return EVT.F_ADDR_SIZE;
    case DFSC.ACCESS_FLAG:
      return EVT.F_ACCESS;
    case DFSC.PERMISSION:
      return EVT.F_PERMISSION;
    case DFSC.WALK_EXTERNAL_ABORT:
      return EVT.F_WALK_EABT;
    default:
      return EVT.F_TRANSLATION;
  }
}
