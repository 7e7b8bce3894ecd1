/** What every version of the SMMU offers the machine around it. */
import type { DmaTranslator, MmioTarget } from '../bus/transaction.ts';
import type { Saved } from '../state/saved.ts';

/** The wired interrupts, by the names of the device tree binding. All are edges. */
export type SmmuInterrupt = 'eventq' | 'gerror' | 'cmdq-sync';

export interface SmmuCounts {
  /** By name as the book spells it, such as CMD_TLBI_S12_VMALL. */
  readonly commands: Readonly<Record<string, number>>;
  /** Recorded events, by name. */
  readonly events: Readonly<Record<string, number>>;
  /** Events that found the queue full. */
  readonly eventsLost: number;
  /** CMD_TLBI_* done. */
  readonly tlbInvalidations: number;
  /** Pieces of DMA that were translated, and that were aborted. */
  readonly translations: number;
  readonly aborts: number;
  readonly tlbHits: number;
  readonly tlbMisses: number;
}

export interface Smmu extends DmaTranslator, Saved {
  readonly name: string;
  readonly registers: MmioTarget;
  readonly counts: SmmuCounts;
  /** Power-on state: nothing programmed, every cache empty. */
  reset(): void;
  inspect(): unknown;
}
