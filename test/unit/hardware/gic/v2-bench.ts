/** A GICv2 by itself; accesses are those of the CPU that a test names. */
import { GICD_CTLR, GICD_ISENABLER, GICD_ITARGETSR } from '#shared/arch/gic/distributor.ts';
import {
  encodeGicdSgir,
  GICC_CTLR,
  GICC_EOIR,
  GICC_IAR,
  GICC_PMR,
  GICD_SGIR,
  SGI_FILTER,
} from '#shared/arch/gic/v2.ts';
import { pack, unpack } from '#shared/state/pack.ts';
import { Gicv2 } from '../../../../services/hardware/gic/v2/gicv2.ts';

export const NOTHING = 1023;
export const OTHER_GROUP = 1022;

export class V2Bench {
  readonly cpus: number;
  readonly frameBytes: number;
  /** CPUs that were told of an interrupt. */
  readonly signals: number[] = [];
  readonly gic: Gicv2;
  #cpu = 0;

  constructor(cpus = 2, frameBytes = 0x2000) {
    this.cpus = cpus;
    this.frameBytes = frameBytes;
    this.gic = new Gicv2({
      cpus,
      frameBytes,
      accessing: () => this.#cpu,
      hooks: { signal: (cpu) => this.signals.push(cpu) },
    });
  }

  /** A new bench with the state of this one, through the bytes that a saved machine would have. */
  migrated(): V2Bench {
    const other = new V2Bench(this.cpus, this.frameBytes);
    other.gic.load(unpack(pack(this.gic.save())));
    return other;
  }

  /** Both enables of the distributor, every CPU interface open, the SPIs of `spis` enabled and sent to CPU 0. */
  ready(ctlr = 1, ...spis: number[]): this {
    this.gicd(GICD_CTLR, 3);
    for (let cpu = 0; cpu < this.cpus; cpu++) {
      this.gicc(GICC_PMR, 0xff, cpu);
      this.gicc(GICC_CTLR, ctlr, cpu);
    }
    for (const spi of spis) {
      this.gicd(GICD_ISENABLER + 4 * (spi >>> 5), 2 ** (spi & 31));
      this.gicd(GICD_ITARGETSR + spi, 1, 0, 1);
    }
    return this;
  }

  gicd(offset: number, value: number, cpu = 0, sizeBytes = 4): void {
    this.#cpu = cpu;
    this.gic.distributor.write(offset, sizeBytes, value >>> 0);
  }

  readGicd(offset: number, cpu = 0, sizeBytes = 4): number {
    this.#cpu = cpu;
    return this.gic.distributor.read(offset, sizeBytes);
  }

  gicc(offset: number, value: number, cpu = 0): void {
    this.#cpu = cpu;
    this.gic.frame.write(offset, 4, value >>> 0);
  }

  readGicc(offset: number, cpu = 0): number {
    this.#cpu = cpu;
    return this.gic.frame.read(offset, 4);
  }

  iar(cpu = 0): number {
    return this.readGicc(GICC_IAR, cpu);
  }

  eoi(value: number, cpu = 0): void {
    this.gicc(GICC_EOIR, value, cpu);
  }

  sgi(from: number, intid: number, CPUTargetList: number, filter: number = SGI_FILTER.LIST): void {
    this.gicd(GICD_SGIR, encodeGicdSgir({ filter, CPUTargetList, intid }), from);
  }

  /** What each CPU takes and ends until there is no more. */
  taken(): number[][] {
    return Array.from({ length: this.cpus }, (_, cpu) => {
      const values: number[] = [];
      for (let value = this.iar(cpu); value !== NOTHING; value = this.iar(cpu)) {
        values.push(value);
        this.eoi(value, cpu);
      }
      return values;
    });
  }
}
