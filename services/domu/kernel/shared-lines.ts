/**
 * Lines that functions share (Linux request_irq with IRQF_SHARED, handle_fasteoi_irq): every handler of a line runs at
 * every interrupt, says whether its device was the cause, and has made it let go of the line when it returns. Then the
 * interrupt is ended; a line that still stands comes again.
 * A line that nobody cares for is disabled, after fewer times than in Linux (99,900 of 100,000): each costs messages here.
 */
import type { Op } from '#shared/core/op.ts';
import type { Interrupts } from './interrupts.ts';

const UNHANDLED_MAX = 1000;

/** Whether the device was the cause. */
export type LineHandler = () => Op<boolean>;

/** What of the interrupt controller lines need. */
export interface LineChip {
  /** The SPI is a level for this CPU, and enabled. */
  enableSpi(intid: number): Op<void>;
  disableSpi(intid: number): Op<void>;
  endOfInterrupt(intid: number): Op<void>;
}

interface Line {
  readonly handlers: Set<LineHandler>;
  /** Interrupts in a row that no handler knew the cause of. */
  unhandled: number;
}

export class SharedLines {
  readonly #chip: LineChip;
  readonly #interrupts: Interrupts;
  readonly #trace: (event: string, detail: unknown) => void;
  readonly #lines = new Map<number, Line>();

  constructor(chip: LineChip, interrupts: Interrupts, trace: (event: string, detail: unknown) => void) {
    this.#chip = chip;
    this.#interrupts = interrupts;
    this.#trace = trace;
  }

  *request(intid: number, handler: LineHandler): Op<void> {
    let line = this.#lines.get(intid);
    if (line === undefined) {
      const fresh: Line = { handlers: new Set(), unhandled: 0 };
      this.#lines.set(intid, fresh);
      this.#interrupts.request(intid, () => this.#run(intid, fresh));
      line = fresh;
    }
    line.handlers.add(handler);
    if (line.handlers.size > 1) return;
    line.unhandled = 0;
    yield* this.#chip.enableSpi(intid);
  }

  /** With its last handler a line is disabled. One more interrupt may be on its way; it is ended like any. */
  *free(intid: number, handler: LineHandler): Op<void> {
    const line = this.#lines.get(intid);
    if (line?.handlers.delete(handler) === true && line.handlers.size === 0) yield* this.#chip.disableSpi(intid);
  }

  inspect(): unknown {
    return Object.fromEntries(
      [...this.#lines].map(([intid, { handlers, unhandled }]) => [intid, { handlers: handlers.size, unhandled }]),
    );
  }

  *#run(intid: number, line: Line): Op<void> {
    let handled = false;
    try {
      for (const handler of [...line.handlers]) if (yield* handler()) handled = true;
    } finally {
      line.unhandled = handled ? 0 : line.unhandled + 1;
      if (line.unhandled === UNHANDLED_MAX) {
        this.#trace('irq-nobody-cared', { intid });
        yield* this.#chip.disableSpi(intid);
      }
      yield* this.#chip.endOfInterrupt(intid);
    }
  }
}
