/** A GIC with two PEs (or more), one ITS and 16 MiB of RAM, set up by hand as a driver would. */

import { GICD_CTLR, GICD_CTLR_EnableGrp1 } from '#shared/arch/gic/distributor.ts';
import {
  encodeGitsBaser,
  encodeGitsCbaser,
  GITS_BASER,
  GITS_CBASER,
  GITS_CTLR,
  GITS_CWRITER,
  GITS_TRANSLATER,
  type RegPair,
} from '#shared/arch/gic/its.ts';
import { itsCommandBytes } from '#shared/arch/gic/its-commands.ts';
import { encodeLpiConfig, lpiConfigAddress } from '#shared/arch/gic/lpi-tables.ts';
import {
  encodeGicrPendbaser,
  encodeGicrPropbaser,
  GICR_CTLR,
  GICR_PENDBASER,
  GICR_PROPBASER,
  GICR_SIZE_BYTES,
} from '#shared/arch/gic/redistributor.ts';
import type { GicChoices, ItsChoices } from '#shared/board/choices.ts';
import { pack, unpack } from '#shared/state/pack.ts';
import { Ram } from '../../../../services/hardware/bus/ram.ts';
import type { MmioTarget, Requester } from '../../../../services/hardware/bus/transaction.ts';
import { Gic } from '../../../../services/hardware/gic/gic.ts';
import { Its } from '../../../../services/hardware/gic/its/its.ts';

export const RAM = 0x4000_0000;
export const ITS_PHANDLE = 0x42;
export const DEVICE_TABLE = RAM + 0x10_0000;
export const COLLECTION_TABLE = RAM + 0x20_0000;
export const QUEUE = RAM + 0x30_0000;
export const ITT = RAM + 0x40_0000;
export const PROP = RAM + 0x50_0000;
export const PEND = RAM + 0x60_0000;
const QUEUE_BYTES = 0x1000;
const ATTRIBUTES = { InnerCache: 7, OuterCache: 0, Shareability: 1 };

export function write64(target: MmioTarget, offset: number, value: RegPair): void {
  target.write(offset, 4, value.lo);
  target.write(offset + 4, 4, value.hi);
}

export const GICR_PA = 0x080a_0000;

export interface BenchOptions {
  readonly affinities?: readonly number[];
  readonly gic?: Partial<GicChoices>;
  readonly its?: Partial<ItsChoices>;
}

export class Bench {
  readonly ram = new Ram([{ pa: RAM, sizeBytes: 0x100_0000 }]);
  readonly signals: number[] = [];
  readonly gic: Gic;
  readonly its: Its;
  readonly pes: readonly number[];
  readonly #options: BenchOptions;
  #writer = 0;

  constructor(options: BenchOptions = {}) {
    this.#options = options;
    const affinities = options.affinities ?? [0, 1];
    this.pes = affinities.map((_, pe) => pe);
    this.gic = new Gic({
      memory: this.ram,
      affinities,
      regionCapacities: [123],
      regionPas: [GICR_PA],
      choices: options.gic,
      hooks: { signal: (pcpu) => this.signals.push(pcpu) },
    });
    this.its = new Its('its', ITS_PHANDLE, this.ram, this.gic, options.its);
  }

  /** A new bench with the state of this one, through the bytes that a saved machine would have. */
  migrated(): Bench {
    const { ram, gic, its } = this;
    const bytes = pack({ ram: ram.save(), gic: gic.save(), its: its.save() });
    const other = new Bench(this.#options);
    const state = unpack(bytes) as { ram: unknown; gic: unknown; its: unknown };
    other.ram.load(state.ram);
    other.its.load(state.its);
    other.gic.load(state.gic);
    other.#writer = this.#writer;
    return other;
  }

  get gicr(): MmioTarget {
    return this.gic.regions[0]!;
  }

  /** Group 1 on, every CPU interface open, LPIs on at both PEs, the ITS enabled with its tables. */
  ready(): this {
    this.gic.distributor.write(GICD_CTLR, 4, GICD_CTLR_EnableGrp1);
    for (const pe of this.pes) {
      this.gic.cpuInterfaces[pe]!.write('ICC_PMR_EL1', 0xf8);
      this.gic.cpuInterfaces[pe]!.write('ICC_IGRPEN1_EL1', 1);
      this.enableLpis(pe);
    }
    const table = { Valid: true, Indirect: false, entryBytes: 8, pageBytes: 0x1_0000, ...ATTRIBUTES };
    write64(this.its, GITS_BASER, encodeGitsBaser({ ...table, Type: 1, pa: DEVICE_TABLE, sizeBytes: 0x8_0000 }));
    write64(
      this.its,
      GITS_BASER + 8,
      encodeGitsBaser({ ...table, Type: 4, pa: COLLECTION_TABLE, sizeBytes: 0x1_0000 }),
    );
    write64(this.its, GITS_CBASER, encodeGitsCbaser({ Valid: true, pa: QUEUE, sizeBytes: QUEUE_BYTES, ...ATTRIBUTES }));
    this.its.write(GITS_CTLR, 4, 1);
    return this;
  }

  enableLpis(pe: number, PTZ = true): void {
    const at = pe * GICR_SIZE_BYTES;
    const prop = encodeGicrPropbaser({ idBits: 16, pa: PROP, ...ATTRIBUTES });
    const pend = encodeGicrPendbaser({ pa: PEND + pe * 0x1_0000, PTZ, ...ATTRIBUTES });
    for (const [offset, value] of [
      [GICR_PROPBASER, prop],
      [GICR_PENDBASER, pend],
    ] as const) {
      write64(this.gicr, at + offset, value);
    }
    this.gicr.write(at + GICR_CTLR, 4, 1);
  }

  configure(lpi: number, priority: number, enabled: boolean): void {
    this.ram.write8(lpiConfigAddress(PROP, lpi), encodeLpiConfig(priority, enabled));
  }

  /** Puts commands into the queue and rings. */
  command(...commands: Uint32Array[]): void {
    for (const words of commands) {
      this.ram.writeBytes(QUEUE + this.#writer, itsCommandBytes([words]));
      this.#writer = (this.#writer + 32) % QUEUE_BYTES;
    }
    this.its.write(GITS_CWRITER, 4, this.#writer);
  }

  /** A device writes its EventID to the doorbell. */
  msi(deviceId: number, eventId: number): void {
    this.its.write(GITS_TRANSLATER, 4, eventId, requester(deviceId));
  }

  iar(pe: number): number {
    return this.gic.cpuInterfaces[pe]!.read('ICC_IAR1_EL1')!;
  }

  eoi(pe: number, intid: number): void {
    this.gic.cpuInterfaces[pe]!.write('ICC_EOIR1_EL1', intid);
  }
}

/** What the fabric says of a function: its DeviceID at the bench's ITS, and none at another. */
export function requester(deviceId: number): Requester {
  return {
    rid: deviceId & 0xffff,
    streamId: deviceId,
    deviceIdAt: (phandle) => (phandle === ITS_PHANDLE ? deviceId : -1),
  };
}
