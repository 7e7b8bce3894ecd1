/**
 * The ITS's control frame (IHI 0069, "ITS registers"): control, table bases, queue pointers.
 * GITS_CBASER and GITS_BASERn are read-only while the ITS is enabled. A GITS_CWRITER outside the queue is ignored.
 * Writing GITS_CBASER sets GITS_CREADR to 0. What the ITS does not have in GITS_BASERn reads back as what it has: a page
 * size, Indirect. Registers take whole 32-bit words; other widths read 0 and are dropped.
 * Not modelled: GITS_BASER2 to 7 (Type 0, RAZ/WI), GITS_MPIDR, GITS_SGIR, UMSI.
 */
import {
  decodeGitsBaser,
  decodeGitsCbaser,
  encodeGitsTyper,
  GITS_BASER,
  GITS_BASER_TYPE,
  GITS_C_Offset_MASK,
  GITS_CBASER,
  GITS_CIDR0,
  GITS_CREADR,
  GITS_CREADR_Stalled,
  GITS_CTLR,
  GITS_CTLR_Enabled,
  GITS_CTLR_Quiescent,
  GITS_CWRITER,
  GITS_CWRITER_Retry,
  GITS_IIDR,
  GITS_PIDR2,
  GITS_PIDR4,
  GITS_TYPER,
  type RegPair,
} from '#shared/arch/gic/its.ts';
import type { Saved } from '../../state/saved.ts';
import { GIC_IIDR_VALUE, GIC_PIDR2_VALUE } from '../distributor.ts';
import type { ItsChoices } from '../options.ts';
import { ENTRY_BYTES, type ItsTables } from './tables.ts';

const CBASER_LOW = 0xffff_fcff;
const CBASER_HIGH = 0xb8ef_ffff;
/** Everything but Indirect, Type and Entry_Size. */
const BASER_HIGH_RW = 0xb8e0_ffff;
const PIDR4_VALUE = 0x44;
/** CIDR0 to 3, a byte each. */
const CIDR = 0xb105_f00d;

const BASER_HIGH_Indirect = 1 << 30;
/** GITS_BASERn.Page_Size by the bytes of a page. */
const PAGE_SIZE = { 4096: 0, 16384: 1, 65536: 2 } as const;

interface SavedItsRegisters {
  readonly enabled: boolean;
  readonly baserLow: readonly number[];
  readonly baserHigh: readonly number[];
  readonly cbaserLow: number;
  readonly cbaserHigh: number;
  readonly creadr: number;
  readonly cwriter: number;
  readonly stalled: boolean;
}

export class ItsRegisters implements Saved {
  readonly #choices: ItsChoices;
  readonly #typer: RegPair;
  readonly #tables: ItsTables;
  readonly #drain: () => void;
  /** GITS_BASER0 is the device table, GITS_BASER1 the collection table. */
  readonly #baserLow = new Uint32Array(2);
  readonly #baserHigh = new Uint32Array(2);
  #enabled = false;
  #cbaserLow = 0;
  #cbaserHigh = 0;
  #creadr = 0;
  #cwriter = 0;
  #stalled = false;

  /** `drain` runs the commands between `creadr` and `cwriter`. */
  constructor(tables: ItsTables, choices: ItsChoices, drain: () => void) {
    this.#tables = tables;
    this.#choices = choices;
    this.#typer = encodeGitsTyper({ Physical: true, HCC: 0, ...choices });
    this.#drain = drain;
    this.reset();
  }

  reset(): void {
    this.#enabled = false;
    this.#cbaserLow = 0;
    this.#cbaserHigh = 0;
    this.#creadr = 0;
    this.#cwriter = 0;
    this.#stalled = false;
    this.#baserLow.fill(PAGE_SIZE[this.#choices.pageBytes[0]!] << 8);
    this.#baserHigh[0] = (GITS_BASER_TYPE.DEVICE << 24) | ((ENTRY_BYTES - 1) << 16);
    this.#baserHigh[1] = (GITS_BASER_TYPE.COLLECTION << 24) | ((ENTRY_BYTES - 1) << 16);
    this.#updateTables();
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Whether there is a command to run: enabled, a valid queue, not stalled, and not yet at the writer. */
  get hasCommand(): boolean {
    return this.#enabled && !this.#stalled && this.#cbaserHigh >>> 31 === 1 && this.#creadr !== this.#cwriter;
  }

  /** Address of the next command. */
  get commandPa(): number {
    return decodeGitsCbaser({ lo: this.#cbaserLow, hi: this.#cbaserHigh }).pa + this.#creadr;
  }

  /** The next command is done with. */
  advance(): void {
    this.#creadr = (this.#creadr + 32) % this.#queueBytes();
  }

  /** The queue cannot be read: GITS_CREADR stays where it is, until GITS_CWRITER.Retry. */
  stall(): void {
    this.#stalled = true;
  }

  read(offset: number, size: number): number {
    if (size !== 4) return 0;
    switch (offset) {
      case GITS_CTLR:
        return this.#enabled ? GITS_CTLR_Enabled : GITS_CTLR_Quiescent;
      case GITS_IIDR:
        return GIC_IIDR_VALUE;
      case GITS_TYPER:
        return this.#typer.lo;
      case GITS_TYPER + 4:
        return this.#typer.hi;
      case GITS_CBASER:
        return this.#cbaserLow;
      case GITS_CBASER + 4:
        return this.#cbaserHigh;
      case GITS_CWRITER:
        return this.#cwriter;
      case GITS_CREADR:
        return this.#creadr | (this.#stalled ? GITS_CREADR_Stalled : 0);
      case GITS_PIDR2:
        return GIC_PIDR2_VALUE;
      case GITS_PIDR4:
        return PIDR4_VALUE;
    }
    if (offset >= GITS_CIDR0 && offset < GITS_CIDR0 + 16) return (CIDR >>> (2 * (offset - GITS_CIDR0))) & 0xff;
    const n = (offset - GITS_BASER) >> 3;
    if (n === 0 || n === 1) return (offset & 4) !== 0 ? this.#baserHigh[n]! : this.#baserLow[n]!;
    return 0;
  }

  write(offset: number, size: number, value: number): void {
    if (size !== 4) return;
    switch (offset) {
      case GITS_CTLR:
        this.#writeCtlr((value & GITS_CTLR_Enabled) !== 0);
        return;
      case GITS_CWRITER:
        this.#writeCwriter(value);
        return;
    }
    if (this.#enabled) return;
    if (offset === GITS_CBASER) {
      this.#cbaserLow = (value & CBASER_LOW) >>> 0;
      this.#restartQueue();
    } else if (offset === GITS_CBASER + 4) {
      this.#cbaserHigh = (value & CBASER_HIGH) >>> 0;
      this.#restartQueue();
    } else this.#writeBaser(offset, value);
  }

  #writeCtlr(enable: boolean): void {
    const was = this.#enabled;
    this.#enabled = enable;
    if (enable === was) return;
    // What software wrote into the tables while the ITS was off is seen when it is on.
    this.#tables.dropCaches();
    if (enable) this.#drain();
  }

  #writeCwriter(value: number): void {
    const at = value & GITS_C_Offset_MASK;
    if (at >= this.#queueBytes()) return;
    this.#cwriter = at;
    if ((value & GITS_CWRITER_Retry) !== 0) this.#stalled = false;
    this.#drain();
  }

  #writeBaser(offset: number, value: number): void {
    const n = (offset - GITS_BASER) >> 3;
    if (n !== 0 && n !== 1) return;
    if ((offset & 4) !== 0) {
      const rw = this.#choices.indirect ? BASER_HIGH_RW | BASER_HIGH_Indirect : BASER_HIGH_RW;
      this.#baserHigh[n] = (this.#baserHigh[n]! & ~rw) | (value & rw);
    } else {
      // The reserved page size 3 is 64 KiB.
      const asked = ([0x1000, 0x4000, 0x1_0000, 0x1_0000] as const)[(value >>> 8) & 3]!;
      const { pageBytes } = this.#choices;
      const kept = pageBytes.includes(asked) ? asked : pageBytes[0]!;
      this.#baserLow[n] = (value & ~0x300) | (PAGE_SIZE[kept] << 8);
    }
    this.#updateTables();
    this.#tables.dropCaches();
  }

  #updateTables(): void {
    for (let n = 0; n < 2; n++) {
      const b = decodeGitsBaser({ lo: this.#baserLow[n]!, hi: this.#baserHigh[n]! });
      const table = n === 0 ? this.#tables.devices : this.#tables.collections;
      const idBits = n === 0 ? this.#choices.deviceIdBits : this.#choices.collectionIdBits;
      table.set(b.Valid, b.pa, b.sizeBytes, idBits, b.Indirect, b.pageBytes);
    }
  }

  #restartQueue(): void {
    this.#creadr = 0;
    this.#stalled = false;
  }

  #queueBytes(): number {
    return ((this.#cbaserLow & 0xff) + 1) * 4096;
  }

  save(): SavedItsRegisters {
    return {
      enabled: this.#enabled,
      baserLow: [...this.#baserLow],
      baserHigh: [...this.#baserHigh],
      cbaserLow: this.#cbaserLow,
      cbaserHigh: this.#cbaserHigh,
      creadr: this.#creadr,
      cwriter: this.#cwriter,
      stalled: this.#stalled,
    };
  }

  load(state: unknown): void {
    const s = state as SavedItsRegisters;
    this.#enabled = s.enabled;
    this.#baserLow.set(s.baserLow);
    this.#baserHigh.set(s.baserHigh);
    this.#cbaserLow = s.cbaserLow;
    this.#cbaserHigh = s.cbaserHigh;
    this.#creadr = s.creadr;
    this.#cwriter = s.cwriter;
    this.#stalled = s.stalled;
    this.#updateTables();
  }

  inspect(): unknown {
    const queue = decodeGitsCbaser({ lo: this.#cbaserLow, hi: this.#cbaserHigh });
    const tables = [0, 1].map((n) => {
      const b = decodeGitsBaser({ lo: this.#baserLow[n]!, hi: this.#baserHigh[n]! });
      const { Valid, Indirect, pa, pageBytes, sizeBytes } = b;
      return { Valid, Indirect, pa, pageBytes, sizeBytes };
    });
    return {
      enabled: this.#enabled,
      queue: { Valid: queue.Valid, pa: queue.pa, sizeBytes: queue.sizeBytes },
      creadr: this.#creadr,
      cwriter: this.#cwriter,
      stalled: this.#stalled,
      deviceTable: tables[0],
      collectionTable: tables[1],
    };
  }
}
