/**
 * Wired interrupts: pins, their way through bridges, and the inputs of the interrupt controller that they share
 * (PCIe 5.0, "INTx Interrupt Signaling"; PCI-to-PCI Bridge Architecture, "Interrupt Routing").
 * A pin is a level. What shares a pin, or a controller input, is ORed: it falls when the last source has let go.
 */
/** Inputs of the interrupt controller. `spi` counts from 0 as in a device tree (INTID - 32). */
export interface IntxSink {
  set(spi: number, level: boolean): void;
}

/** Counts sources of lines by number and tells of each change of a line. */
export class WiredOr {
  readonly #sources = new Map<number, number>();
  readonly #changed: (line: number, level: boolean) => void;

  constructor(changed: (line: number, level: boolean) => void) {
    this.#changed = changed;
  }

  /** One source rises or falls. Each must alternate. */
  change(line: number, level: boolean): void {
    const before = this.#sources.get(line) ?? 0;
    const now = before + (level ? 1 : -1);
    this.#sources.set(line, now);
    if (now === 0 || before === 0) this.#changed(line, level);
  }

  level(line: number): boolean {
    return (this.#sources.get(line) ?? 0) > 0;
  }

  /** Lines that are high. */
  high(): number[] {
    return [...this.#sources].filter(([, n]) => n > 0).map(([line]) => line);
  }

  save(): unknown {
    return [...this.#sources];
  }

  load(state: unknown): void {
    this.#sources.clear();
    for (const [line, n] of state as [number, number][]) this.#sources.set(line, n);
  }
}
