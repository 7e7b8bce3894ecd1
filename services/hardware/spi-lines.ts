/**
 * The wires into the GIC's shared inputs. What shares an input is ORed: it falls when the last source has let go.
 */
import type { Saved } from './state/saved.ts';

export class SpiLines implements Saved {
  readonly #set: (spi: number, high: boolean) => void;
  /** By SPI: the sources that hold it high. */
  readonly #high = new Map<number, Set<string>>();

  /** `set` drives an input; SPIs count from 0 as in a device tree (INTID - 32). */
  constructor(set: (spi: number, high: boolean) => void) {
    this.#set = set;
  }

  /** The level of one source. Saying the same again changes nothing. */
  set(source: string, spi: number, high: boolean): void {
    let sources = this.#high.get(spi);
    if (sources === undefined) {
      sources = new Set();
      this.#high.set(spi, sources);
    }
    const before = sources.size;
    if (high) sources.add(source);
    else sources.delete(source);
    if (sources.size > 0 !== before > 0) this.#set(spi, high);
  }

  save(): (readonly [number, readonly string[]])[] {
    return [...this.#high].filter(([, s]) => s.size > 0).map(([spi, sources]) => [spi, [...sources]] as const);
  }

  /** The inputs themselves are the GIC's state. */
  load(state: unknown): void {
    this.#high.clear();
    for (const [spi, sources] of state as [number, string[]][]) this.#high.set(spi, new Set(sources));
  }

  /** Who holds which SPI high. */
  inspect(): unknown {
    return Object.fromEntries(this.save());
  }
}
