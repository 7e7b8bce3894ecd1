/**
 * What the toolstack sees of dom0's PCI functions, as files of /sys/bus/pci: the `resource` lines (T20: BARs are read by
 * ordinary means, not by a hypercall), `irq`, the driver link, the driver's directory.
 */
import type { Sbdf } from '#shared/ids/sbdf.ts';
import type { Drivers } from './drivers.ts';
import type { PciFunction } from './function.ts';

/** Flags in the third column of `resource` (Linux include/linux/ioport.h). */
export const IORESOURCE = { IO: 0x100, MEM: 0x200, PREFETCH: 0x2000, MEM_64: 0x10_0000 } as const;

/** One line of `resource`: the first and last physical address; all zero for a BAR that is absent or not placed. */
export interface ResourceLine {
  readonly start: number;
  readonly end: number;
  readonly flags: number;
}

const NOTHING: ResourceLine = { start: 0, end: 0, flags: 0 };

export class Sysfs {
  readonly #functions: ReadonlyMap<Sbdf, PciFunction>;
  readonly drivers: Drivers;

  constructor(functions: ReadonlyMap<Sbdf, PciFunction>, drivers: Drivers) {
    this.#functions = functions;
    this.drivers = drivers;
  }

  /** Whether /sys/bus/pci/devices has it. */
  exists(sbdf: Sbdf): boolean {
    return this.#functions.has(sbdf);
  }

  /** The interrupt of its pin, an INTID; 0 for none. */
  irq(sbdf: Sbdf): number {
    return this.#functions.get(sbdf)?.irq ?? 0;
  }

  /** The highest `irq` of all; 0 when none has any. */
  get highestIrq(): number {
    return Math.max(0, ...[...this.#functions.values()].map((f) => f.irq));
  }

  /** Seven lines: BAR 0 to 5 and the ROM. The upper half of a 64-bit BAR has an empty line. */
  resource(sbdf: Sbdf): ResourceLine[] {
    const lines = new Array<ResourceLine>(7).fill(NOTHING);
    for (const bar of this.#functions.get(sbdf)?.bars ?? []) {
      if (bar.pa === 0) continue;
      const flags =
        (bar.kind === 'io' ? IORESOURCE.IO : IORESOURCE.MEM) |
        (bar.prefetchable ? IORESOURCE.PREFETCH : 0) |
        (bar.kind === 'mem64' ? IORESOURCE.MEM_64 : 0);
      lines[bar.index] = { start: bar.pa, end: bar.pa + bar.sizeBytes - 1, flags };
    }
    return lines;
  }
}
