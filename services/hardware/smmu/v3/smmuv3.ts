/**
 * An SMMUv3 as a whole (IHI 0070): stage 2 only, 16-bit StreamIDs, 48-bit addresses, 4 KiB granule, terminating
 * faults; see registers.ts for what it says of itself. A DMA is cut where the translation of one TLB entry ends; what
 * goes to RAM is copied as a block, what goes to a register block (an ITS, above all) in aligned words that carry the
 * requester on.
 * A requester whose StreamID is -1 is not behind any SMMU by the device tree; here it is aborted like a bad StreamID.
 * Not modelled: see the parts.
 */
import { SMMU_CMDQ_CONS, SMMU_CMDQ_PROD, SMMU_CR0, SMMU_EVENTQ_CONS, SMMU_EVENTQ_PROD } from '#shared/arch/smmu/v3.ts';
import type { Bus } from '../../bus/bus.ts';
import type { MmioTarget, Requester } from '../../bus/transaction.ts';
import { Stage2Walker, WANT_READ, WANT_WRITE } from '../../mmu/stage2.ts';
import { Tlb } from '../../mmu/tlb.ts';
import type { Smmu, SmmuCounts, SmmuInterrupt } from '../smmu.ts';
import { CommandQueue } from './command-queue.ts';
import { EventQueue } from './event-queue.ts';
import { SmmuRegisters } from './registers.ts';
import { StreamTable } from './stream-table.ts';
import { Translator } from './translate.ts';

export interface Smmuv3Options {
  readonly name: string;
  readonly bus: Bus;
  /** A wired interrupt pulses. */
  readonly irq: (name: SmmuInterrupt) => void;
}

export class Smmuv3 implements Smmu {
  readonly name: string;
  readonly #bus: Bus;
  readonly #registers: SmmuRegisters;
  readonly #streams: StreamTable;
  readonly #tlb = new Tlb();
  readonly #commands: CommandQueue;
  readonly #events: EventQueue;
  readonly #translator: Translator;

  constructor({ name, bus, irq }: Smmuv3Options) {
    this.name = name;
    this.#bus = bus;
    this.#registers = new SmmuRegisters(name, { commandsWaiting: () => this.#commands.run(), irq });
    this.#streams = new StreamTable(this.#registers, bus.ram);
    this.#events = new EventQueue(this.#registers, bus.ram, () => irq('eventq'));
    this.#commands = new CommandQueue(this.#registers, bus.ram, this.#streams, this.#tlb, () => irq('cmdq-sync'));
    const walker = new Stage2Walker(bus.ram);
    this.#translator = new Translator(this.#registers, this.#streams, this.#tlb, walker, this.#events);
  }

  /** The register block, SMMU_BYTES long. */
  get registers(): MmioTarget {
    return this.#registers;
  }

  /** Reads at device address `iova`. Returns the bytes done; fewer than asked: aborted there. */
  dmaRead(requester: Requester, iova: number, into: Uint8Array): number {
    let done = 0;
    while (done < into.length) {
      const pa = this.#translator.translate(requester.streamId, iova + done, WANT_READ);
      if (pa < 0) return done;
      const run = Math.min(this.#translator.runBytes, into.length - done);
      const moved = this.#bus.readBytes(pa, into, done, run, requester);
      done += moved;
      if (moved < run) return done;
    }
    return done;
  }

  /** Writes at device address `iova`. Returns the bytes done; fewer than asked: aborted there. */
  dmaWrite(requester: Requester, iova: number, from: Uint8Array): number {
    let done = 0;
    while (done < from.length) {
      const pa = this.#translator.translate(requester.streamId, iova + done, WANT_WRITE);
      if (pa < 0) return done;
      const run = Math.min(this.#translator.runBytes, from.length - done);
      const moved = this.#bus.writeBytes(pa, from, done, run, requester);
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
      translations: this.#translator.translations,
      aborts: this.#translator.aborts,
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
    this.#translator.translations = 0;
    this.#translator.aborts = 0;
  }

  inspect(): unknown {
    const { bank } = this.#registers;
    return {
      name: this.name,
      cr0: bank.peek(SMMU_CR0),
      gbpaAbort: this.#registers.bypassAborts,
      cmdq: { prod: bank.peek(SMMU_CMDQ_PROD), cons: bank.peek(SMMU_CMDQ_CONS) },
      eventq: { prod: bank.peek(SMMU_EVENTQ_PROD), cons: bank.peek(SMMU_EVENTQ_CONS) },
      streams: Object.fromEntries(
        [...this.#streams.cached].map(([sid, { kind, vmid, regime }]) => [
          sid,
          kind === 'stage2' ? { kind, vmid, root: regime?.root } : { kind },
        ]),
      ),
      tlb: this.#tlb.entries(),
      counts: this.counts,
    };
  }
}
