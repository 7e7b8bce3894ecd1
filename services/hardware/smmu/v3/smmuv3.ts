/**
 * An SMMUv3 as a whole (IHI 0070): stage 1, stage 2 and both, terminating faults; see features.ts for what a board may
 * choose. A DMA is cut where the translation of one TLB entry ends; what goes to RAM is copied as a block, what goes to a
 * register block (an ITS, above all) in aligned words that carry the requester on.
 * A requester whose StreamID is -1 is not behind any SMMU by the device tree; here it is aborted like a bad StreamID.
 * Not modelled: see the parts.
 */

import * as v3 from '#shared/arch/smmu/v3.ts';
import { addressPlus, highOf, lowOf } from '#shared/ids/address64.ts';
import type { Register } from '#shared/regs/field.ts';
import type { Bus } from '../../bus/bus.ts';
import type { MmioTarget, Requester } from '../../bus/transaction.ts';
import { Stage1Walker } from '../../mmu/stage1.ts';
import { Stage2Walker, WANT_READ, WANT_WRITE } from '../../mmu/stage2.ts';
import { Tlb } from '../../mmu/tlb.ts';
import type { Saved } from '../../state/saved.ts';
import type { Smmu, SmmuCounts, SmmuInterrupt } from '../smmu.ts';
import { CommandQueue } from './command-queue.ts';
import { ContextTable } from './context-table.ts';
import { EventQueue } from './event-queue.ts';
import { featuresOf, type SmmuFeatures } from './features.ts';
import { SmmuInterrupts } from './interrupts.ts';
import { SmmuRegisters } from './registers.ts';
import { NO_SUBSTREAM, StreamTable } from './stream-table.ts';
import { viewStreams } from './stream-view.ts';
import { Translator, translate } from './translate.ts';

const PER_HIGH = 1 / 0x1_0000_0000;
// For the hot path: what is imported is no constant to the compiler but a variable of unknown type.
const READ = WANT_READ;
const WRITE = WANT_WRITE;
const NONE = NO_SUBSTREAM;
const translateOne = translate;

export interface Smmuv3Options {
  readonly name: string;
  readonly bus: Bus;
  /** A wired interrupt pulses. */
  readonly irq: (name: SmmuInterrupt) => void;
  /** What the part is, where that is not the default. */
  readonly features?: Partial<SmmuFeatures>;
  /** Who the SMMU is when its interrupts are writes (features.MSI). */
  readonly requester?: Requester;
}

export class Smmuv3 implements Smmu, Saved {
  readonly name: string;
  declare readonly bus: Bus;
  readonly #registers: SmmuRegisters;
  readonly #streams: StreamTable;
  readonly #tlb = new Tlb();
  readonly #commands: CommandQueue;
  readonly #events: EventQueue;
  /** For `translate` of translate.ts, which is the hot path. */
  declare readonly translator: Translator;

  constructor({ name, bus, irq, features, requester }: Smmuv3Options) {
    this.name = name;
    this.bus = bus;
    const { ram } = bus;
    const registers = new SmmuRegisters(name, featuresOf(features), {
      commandsWaiting: () => this.#commands.run(),
      enabled: (smmuEnabled) => this.#streams?.enable(smmuEnabled),
      gerror: () => interrupts.gerror(),
    });
    const interrupts = new SmmuInterrupts(registers, bus, irq, requester);
    this.#registers = registers;
    this.#streams = new StreamTable(registers, ram, this.#tlb);
    this.#events = new EventQueue(registers, ram, () => interrupts.eventq());
    this.#commands = new CommandQueue(registers, ram, this.#streams, this.#tlb, (address, data) =>
      interrupts.sync(address, data),
    );
    const stage2 = new Stage2Walker(ram);
    this.translator = new Translator({
      registers,
      streams: this.#streams,
      contexts: new ContextTable(registers.features, ram, stage2, this.#tlb),
      tlb: this.#tlb,
      stage1: new Stage1Walker(ram, stage2),
      stage2,
      events: this.#events,
    });
  }

  /** The register block, SMMU_BYTES long. */
  get registers(): MmioTarget {
    return this.#registers;
  }

  /** Reads at device address `iova`. Returns the bytes done; fewer than asked: aborted there. */
  dmaRead(requester: Requester, iova: number, into: Uint8Array): number {
    const { bus, translator: t } = this;
    const { tlb } = t;
    const { streamId } = requester;
    const substreamId = requester.substreamId ?? NONE;
    const sizeBytes = into.length;
    let high = (iova * PER_HIGH) | 0;
    let low = iova | 0;
    let done = 0;
    while (done < sizeBytes) {
      const paHigh = translateOne(t, streamId, substreamId, high, low, READ);
      if (paHigh < 0) return done;
      const run = Math.min(tlb.mask + 1 - (low & tlb.mask), sizeBytes - done);
      const moved = bus.readPiece(paHigh, tlb.paLow, into, done, run, requester);
      done += moved;
      if (moved < run) return done;
      low = (low + run) | 0;
      if (low === 0) high = (high + 1) | 0; // a piece ends at a multiple of its size at the latest
    }
    return done;
  }

  /** Writes at device address `iova`. Returns the bytes done; fewer than asked: aborted there. */
  dmaWrite(requester: Requester, iova: number, from: Uint8Array): number {
    const { bus, translator: t } = this;
    const { tlb } = t;
    const { streamId } = requester;
    const substreamId = requester.substreamId ?? NONE;
    const sizeBytes = from.length;
    let high = (iova * PER_HIGH) | 0;
    let low = iova | 0;
    let done = 0;
    while (done < sizeBytes) {
      const paHigh = translateOne(t, streamId, substreamId, high, low, WRITE);
      if (paHigh < 0) return done;
      const run = Math.min(tlb.mask + 1 - (low & tlb.mask), sizeBytes - done);
      const moved = bus.writePiece(paHigh, tlb.paLow, from, done, run, requester);
      done += moved;
      if (moved < run) return done;
      low = (low + run) | 0;
      if (low === 0) high = (high + 1) | 0;
    }
    return done;
  }

  dmaWide(requester: Requester, iova: bigint, data: Uint8Array, write: boolean): number {
    const { bus, translator: t } = this;
    const { tlb } = t;
    let done = 0;
    while (done < data.length) {
      const at = addressPlus(iova, done);
      const low = lowOf(at) | 0;
      const want = write ? WRITE : READ;
      const paHigh = translateOne(t, requester.streamId, requester.substreamId ?? NONE, highOf(at) | 0, low, want);
      if (paHigh < 0) return done;
      const run = Math.min(tlb.mask + 1 - (low & tlb.mask), data.length - done);
      const moved = write
        ? bus.writePiece(paHigh, tlb.paLow, data, done, run, requester)
        : bus.readPiece(paHigh, tlb.paLow, data, done, run, requester);
      done += moved;
      if (moved < run) return done;
    }
    return done;
  }

  get counts(): SmmuCounts {
    return {
      commands: this.#commands.counts,
      events: this.#events.counts,
      eventsLost: this.#events.lost,
      tlbInvalidations: this.#commands.tlbInvalidations,
      translations: this.translator.translations,
      aborts: this.translator.aborts,
      tlbHits: this.#tlb.hits,
      tlbMisses: this.#tlb.misses,
    };
  }

  reset(): void {
    this.#registers.reset();
    this.#streams.invalidateAll();
    this.#tlb.reset();
    this.#commands.reset();
    this.#events.reset();
    this.translator.others = 0;
    this.translator.aborts = 0;
  }

  save(): unknown {
    const { others, aborts } = this.translator;
    return {
      registers: this.#registers.save(),
      streams: this.#streams.save(),
      tlb: this.#tlb.save(),
      commands: this.#commands.save(),
      events: this.#events.save(),
      others,
      aborts,
    };
  }

  load(state: unknown): void {
    const saved = state as Record<'registers' | 'streams' | 'tlb' | 'commands' | 'events', unknown> & {
      others: number;
      aborts: number;
    };
    this.#registers.load(saved.registers);
    this.#tlb.load(saved.tlb);
    this.#streams.load(saved.streams);
    this.#commands.load(saved.commands);
    this.#events.load(saved.events);
    this.translator.others = saved.others;
    this.translator.aborts = saved.aborts;
  }

  inspect(): unknown {
    const registers = this.#registers;
    const { bank, features } = registers;
    const queue = (lo: Register, hi: Register): { base: number; log2size: number } => ({
      base: registers.baseAddress(lo, hi, 0xffff_ffe0),
      log2size: bank.peek(lo) & 31,
    });
    return {
      name: this.name,
      features,
      cr0: bank.peek(v3.SMMU_CR0),
      gbpaAbort: registers.bypassAborts,
      cmdq: {
        ...queue(v3.SMMU_CMDQ_BASE_LO, v3.SMMU_CMDQ_BASE_HI),
        prod: bank.peek(v3.SMMU_CMDQ_PROD),
        cons: bank.peek(v3.SMMU_CMDQ_CONS),
      },
      eventq: {
        ...queue(v3.SMMU_EVENTQ_BASE_LO, v3.SMMU_EVENTQ_BASE_HI),
        prod: bank.peek(v3.SMMU_EVENTQ_PROD),
        cons: bank.peek(v3.SMMU_EVENTQ_CONS),
      },
      ...viewStreams(registers, this.#streams, this.bus.ram),
      tlb: this.#tlb.entries(),
      counts: this.counts,
    };
  }
}
