/**
 * From a device's address to a physical one (IHI 0070, "Translation procedure"): the stream's configuration, then for
 * stage 2 the TLB and the walk, and the event for what goes wrong. The hot path of DMA; nothing is allocated unless
 * an access faults.
 * Not modelled: stage 1, substreams, ATS, stalls; faults terminate with an abort.
 */
import { EVENT_CLASS, EVT, type SmmuEvent } from '#shared/arch/smmu/v3-queues.ts';
import { DFSC, dfscKind } from '#shared/arch/vmsa.ts';
import { type Stage2Walker, WANT_READ } from '../../mmu/stage2.ts';
import type { Tlb } from '../../mmu/tlb.ts';
import type { EventQueue } from './event-queue.ts';
import { OAS_BITS, type SmmuRegisters } from './registers.ts';
import type { StreamConfig, StreamTable } from './stream-table.ts';

/** What `translate` answers for an abort. */
export const ABORTED = -1;
/** Input addresses of stage 2 (IAS, the same as OAS) and output addresses end here. */
const ADDRESS_LIMIT = 2 ** OAS_BITS;
/** How much of a bypassed address is known to lie in a row. */
const BYPASS_RUN = 0x20_0000;

export class Translator {
  readonly #registers: SmmuRegisters;
  readonly #streams: StreamTable;
  readonly #tlb: Tlb;
  readonly #walker: Stage2Walker;
  readonly #events: EventQueue;
  /** Of the last translation: bytes from the address on that go to physical addresses in a row. */
  runBytes = 0;
  translations = 0;
  aborts = 0;

  constructor(registers: SmmuRegisters, streams: StreamTable, tlb: Tlb, walker: Stage2Walker, events: EventQueue) {
    this.#registers = registers;
    this.#streams = streams;
    this.#tlb = tlb;
    this.#walker = walker;
    this.#events = events;
  }

  /** The physical address of `iova` for `want` (WANT_READ or WANT_WRITE), or ABORTED once the event is recorded. */
  translate(streamId: number, iova: number, want: number): number {
    this.translations++;
    if (!this.#registers.smmuEnabled) {
      if (this.#registers.bypassAborts || iova >= ADDRESS_LIMIT) return this.#abort();
      return this.#pass(iova);
    }
    const config = this.#streams.lookup(streamId);
    if (config === undefined) return this.#fetchFailed(streamId, iova, want);
    switch (config.kind) {
      case 'stage2':
        return this.#stage2(streamId, config, iova, want);
      case 'bypass':
        if (iova < ADDRESS_LIMIT) return this.#pass(iova);
        return this.#fault(EVT.F_ADDR_SIZE, streamId, iova, want, false);
      case 'abort':
        return this.#abort();
      case 'bad':
        return this.#fault(EVT.C_BAD_STE, streamId, iova, want, false);
      default:
        return config.kind satisfies never;
    }
  }

  #stage2(streamId: number, config: StreamConfig, iova: number, want: number): number {
    // Stage 1 is off, and still it is the one that checks the size of its input.
    if (iova >= ADDRESS_LIMIT) return this.#fault(EVT.F_ADDR_SIZE, streamId, iova, want, false);
    const tlb = this.#tlb;
    let pa = tlb.lookup(config.vmid, iova, want);
    if (pa === -Infinity) {
      const walker = this.#walker;
      pa = walker.walk(config.regime!, iova, want);
      if (pa >= 0) tlb.fill(config.vmid, iova, walker.leafPa, walker.leafBytes, walker.s2ap, walker.level);
    }
    if (pa >= 0) {
      this.runBytes = tlb.runBytes;
      return pa;
    }
    const code = eventOf(~pa);
    if (code === EVT.F_WALK_EABT || config.recordFaults) return this.#fault(code, streamId, iova, want, true);
    return this.#abort();
  }

  #pass(iova: number): number {
    this.runBytes = BYPASS_RUN - (iova % BYPASS_RUN);
    return iova;
  }

  #abort(): number {
    this.aborts++;
    return ABORTED;
  }

  #fetchFailed(streamId: number, iova: number, want: number): number {
    const { failure } = this.#streams;
    return failure === 0 ? this.#abort() : this.#fault(failure, streamId, iova, want, false);
  }

  #fault(code: number, streamId: number, iova: number, want: number, stage2: boolean): number {
    const walkAbort = code === EVT.F_WALK_EABT;
    const event: SmmuEvent = {
      code,
      streamId,
      inputAddress: iova,
      isRead: want === WANT_READ,
      stage2,
      eventClass: EVENT_CLASS.IN,
      ipa: stage2 && !walkAbort ? iova - (iova % 0x1000) : 0,
      fetchAddress: walkAbort ? this.#walker.fetchPa : code === EVT.F_STE_FETCH ? this.#streams.fetchPa : 0,
    };
    this.#events.record(event);
    return this.#abort();
  }
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
