/**
 * The event queue of an SMMUv3 (IHI 0070, "Event queue"): a record goes to memory, then SMMU_EVENTQ_PROD moves, then
 * the interrupt is raised if the queue was empty. A record that finds the queue full is lost and toggles
 * SMMU_EVENTQ_PROD.OVFLG once until software acknowledges it; a queue outside RAM gives GERROR.EVENTQ_ABT.
 * Not modelled: merging of equal records (each fault has its own), stalled transactions.
 */
import {
  SMMU_EVENTQ_BASE_HI,
  SMMU_EVENTQ_BASE_LO,
  SMMU_EVENTQ_CONS,
  SMMU_EVENTQ_PROD,
  SMMU_GERROR,
  SMMU_IRQ_CTRL,
} from '#shared/arch/smmu/v3.ts';
import {
  EVENT_BYTES,
  EVENT_WORDS,
  encodeEvent,
  eventName,
  queueEmpty,
  queueFull,
  queueIndex,
  queueNext,
  type SmmuEvent,
} from '#shared/arch/smmu/v3-queues.ts';
import { get, put } from '#shared/regs/field.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import type { Ram } from '../../bus/ram.ts';
import type { Saved } from '../../state/saved.ts';
import type { SmmuRegisters } from './registers.ts';

export class EventQueue implements Saved {
  readonly #registers: SmmuRegisters;
  readonly #ram: Ram;
  readonly #interrupt: () => void;
  readonly #words = new Uint32Array(EVENT_WORDS);
  readonly #bytes = bytesOf(this.#words);
  readonly #counts = new Map<number, number>();
  lost = 0;

  constructor(registers: SmmuRegisters, ram: Ram, interrupt: () => void) {
    this.#registers = registers;
    this.#ram = ram;
    this.#interrupt = interrupt;
  }

  /** Records `event` if the queue takes it. */
  record(event: SmmuEvent): void {
    const registers = this.#registers;
    if (!registers.eventsEnabled || registers.errorActive(SMMU_GERROR.EVENTQ_ABT)) return;
    const { bank } = registers;
    const log2size = Math.min(bank.peek(SMMU_EVENTQ_BASE_LO) & 31, registers.features.EVENTQS);
    const prod = bank.peek(SMMU_EVENTQ_PROD);
    const cons = bank.peek(SMMU_EVENTQ_CONS);
    const wr = get(SMMU_EVENTQ_PROD.WR, prod);
    const rd = get(SMMU_EVENTQ_CONS.RD, cons);
    if (queueFull(wr, rd, log2size)) {
      this.lost++;
      // Only an acknowledged overflow can be told again; then the flag takes the other value.
      const flag = get(SMMU_EVENTQ_PROD.OVFLG, prod);
      if (flag === get(SMMU_EVENTQ_CONS.OVACKFLG, cons)) {
        bank.poke(SMMU_EVENTQ_PROD, put(SMMU_EVENTQ_PROD.OVFLG, prod, flag ^ 1));
      }
      return;
    }
    const base = registers.baseAddress(SMMU_EVENTQ_BASE_LO, SMMU_EVENTQ_BASE_HI, 0xffff_ffe0);
    const at = base - (base % (EVENT_BYTES << log2size)) + queueIndex(wr, log2size) * EVENT_BYTES;
    if (!this.#ram.contains(at, EVENT_BYTES)) {
      registers.raiseError(SMMU_GERROR.EVENTQ_ABT);
      return;
    }
    encodeEvent(this.#words, 0, event);
    this.#ram.writeBytes(at, this.#bytes);
    bank.poke(SMMU_EVENTQ_PROD, put(SMMU_EVENTQ_PROD.WR, prod, queueNext(wr, log2size)));
    this.#counts.set(event.code, (this.#counts.get(event.code) ?? 0) + 1);
    if (queueEmpty(wr, rd, log2size) && get(SMMU_IRQ_CTRL.EVENTQ_IRQEN, bank.peek(SMMU_IRQ_CTRL))) this.#interrupt();
  }

  /** Recorded events, by name. */
  get counts(): Record<string, number> {
    return Object.fromEntries([...this.#counts].map(([code, count]) => [eventName(code), count]));
  }

  save(): unknown {
    return { counts: [...this.#counts], lost: this.lost };
  }

  load(state: unknown): void {
    const { counts, lost } = state as { counts: [number, number][]; lost: number };
    this.#counts.clear();
    for (const [code, count] of counts) this.#counts.set(code, count);
    this.lost = lost;
  }

  reset(): void {
    this.#counts.clear();
    this.lost = 0;
  }
}
