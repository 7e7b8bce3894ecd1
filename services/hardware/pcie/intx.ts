/**
 * Wired interrupts: pins, their way through bridges, and the inputs of the interrupt controller that they share
 * (PCIe 5.0, "INTx Interrupt Signaling"; PCI-to-PCI Bridge Architecture, "Interrupt Routing").
 * A pin is a level. What shares a pin, or a controller input, is ORed: it falls when the last source has let go.
 */
import { type InterruptMap, lookupInterrupt } from '#shared/fdt/pci-bindings.ts';
import { deviceOf } from '#shared/ids/sbdf.ts';

/** Inputs of the interrupt controller. `spi` counts from 0 as in a device tree (INTID - 32). */
export interface IntxSink {
  set(spi: number, level: boolean): void;
}

/** The pin (1 to 4) on which pin `pin` of device `device` leaves the bus through the bridge above. */
export function swizzle(pin: number, device: number): number {
  return ((pin - 1 + device) % 4) + 1;
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

/** Where `interrupt-map` sends pin `pin` of the device at `devfn` on the root bus: an SPI, or -1 when nowhere known. */
export function spiOf(map: InterruptMap | undefined, devfn: number, pin: number): number {
  // The map counts devices: the function number is outside its mask.
  const found = map === undefined ? undefined : lookupInterrupt(map, deviceOf(devfn) << 3, pin);
  const [type, number] = found?.specifier ?? [];
  // The first cell of a GIC specifier is the kind of interrupt: 0 for an SPI.
  return type === 0 && number !== undefined ? number : -1;
}
