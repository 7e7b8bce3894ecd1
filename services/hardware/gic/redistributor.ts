/**
 * One redistributor: RD frame and SGI frame (IHI 0069, "Redistributor registers").
 * GICR_CTLR.EnableLPIs can be cleared (CES=1); the change is complete at once, so RWP reads 0, and GICR_SYNCR.Busy too.
 * Not modelled: DPG bits (GICR_TYPER.DPGS=0), power states behind GICR_WAKER (ChildrenAsleep follows at once;
 * a sleeping redistributor still keeps and offers interrupts).
 */
import {
  decodeGicrPendbaser,
  decodeGicrPropbaser,
  encodeGicrTyper,
  GICR_CLRLPIR,
  GICR_CTLR,
  GICR_CTLR_CES,
  GICR_CTLR_EnableLPIs,
  GICR_IIDR,
  GICR_INVALLR,
  GICR_INVLPIR,
  GICR_PENDBASER,
  GICR_PIDR2,
  GICR_PROPBASER,
  GICR_SETLPIR,
  GICR_SGI_FRAME,
  GICR_SIZE_BYTES,
  GICR_TYPER,
  GICR_WAKER,
  GICR_WAKER_ChildrenAsleep,
  GICR_WAKER_ProcessorSleep,
} from '#shared/arch/gic/redistributor.ts';
import type { MmioTarget } from '../bus/transaction.ts';
import type { Saved } from '../state/saved.ts';
import { GIC_IIDR_VALUE, GIC_PIDR2_VALUE } from './distributor.ts';
import { InterruptBank } from './interrupt-bank.ts';
import { LpiState } from './lpi.ts';
import type { LpiStore } from './lpi-store.ts';
import type { GicMemory } from './memory.ts';
import { GIC_CHOICES, type GicChoices } from './options.ts';

/** Bits of GICR_PROPBASER and GICR_PENDBASER that keep what is written. */
const PROPBASER_LOW = 0xffff_ff9f;
const PENDBASER_LOW = 0xffff_0f80;
const BASE_HIGH = 0x070f_ffff;
const PENDBASER_PTZ_HIGH = 1 << 30;
/** SGIs are edge-triggered whatever is written. */
const SGIS = 0x0000_ffff;

interface SavedRedistributor {
  readonly waker: number;
  readonly propLow: number;
  readonly propHigh: number;
  readonly pendLow: number;
  readonly pendHigh: number;
  readonly startEmpty: boolean;
  readonly privates: unknown;
  readonly lpis: unknown;
}

export class Redistributor implements Saved {
  readonly processorNumber: number;
  readonly lpis: LpiState;
  readonly privates = new InterruptBank(0, 32, SGIS);
  readonly #typerLow: number;
  readonly #typerHigh: number;
  readonly #directLpi: boolean;
  readonly #changed: () => void;
  #waker = 0;
  #propLow = 0;
  #propHigh = 0;
  #pendLow = 0;
  #pendHigh = 0;
  #startEmpty = false;

  constructor(
    processorNumber: number,
    affinity: number,
    isLast: boolean,
    memory: GicMemory,
    changed: () => void,
    choices: GicChoices = GIC_CHOICES,
    lpiStore?: LpiStore,
  ) {
    this.processorNumber = processorNumber;
    this.lpis =
      lpiStore === undefined
        ? new LpiState(memory, choices.idBits)
        : new LpiState(memory, choices.idBits, lpiStore, processorNumber);
    this.#directLpi = choices.directLpi;
    const typer = encodeGicrTyper({
      PLPIS: true,
      DirectLPI: choices.directLpi,
      Last: isLast,
      Processor_Number: processorNumber,
      affinity,
    });
    this.#typerLow = typer.lo;
    this.#typerHigh = typer.hi;
    this.#changed = changed;
    this.reset();
  }

  reset(): void {
    this.#waker = GICR_WAKER_ProcessorSleep | GICR_WAKER_ChildrenAsleep;
    this.#propLow = 0;
    this.#propHigh = 0;
    this.#pendLow = 0;
    this.#pendHigh = 0;
    this.#startEmpty = false;
    this.privates.reset();
    this.lpis.reset();
  }

  /** Offsets from the start of the RD frame. */
  read(offset: number, size: number): number {
    if (offset >= GICR_SGI_FRAME) return this.privates.read(offset - GICR_SGI_FRAME, size);
    if (size !== 4) return 0;
    switch (offset) {
      case GICR_CTLR:
        return (this.lpis.enabled ? GICR_CTLR_EnableLPIs : 0) | GICR_CTLR_CES;
      case GICR_IIDR:
        return GIC_IIDR_VALUE;
      case GICR_TYPER:
        return this.#typerLow;
      case GICR_TYPER + 4:
        return this.#typerHigh;
      case GICR_WAKER:
        return this.#waker;
      case GICR_PROPBASER:
        return this.#propLow;
      case GICR_PROPBASER + 4:
        return this.#propHigh;
      case GICR_PENDBASER:
        return this.#pendLow;
      case GICR_PENDBASER + 4:
        return this.#pendHigh;
      case GICR_PIDR2:
        return GIC_PIDR2_VALUE;
      default:
        return 0;
    }
  }

  write(offset: number, size: number, value: number): void {
    if (offset >= GICR_SGI_FRAME) this.privates.write(offset - GICR_SGI_FRAME, size, value);
    else if (size === 4) this.#writeRdFrame(offset, value);
    this.#changed();
  }

  #writeRdFrame(offset: number, value: number): void {
    switch (offset) {
      case GICR_CTLR:
        this.#writeCtlr((value & GICR_CTLR_EnableLPIs) !== 0);
        return;
      case GICR_WAKER:
        this.#waker = value & GICR_WAKER_ProcessorSleep ? GICR_WAKER_ProcessorSleep | GICR_WAKER_ChildrenAsleep : 0;
        return;
    }
    if (this.#directLpi && this.#writeDirectLpi(offset, value)) return;
    // The table bases are read-only while LPIs are enabled.
    if (this.lpis.enabled) return;
    switch (offset) {
      case GICR_PROPBASER:
        this.#propLow = (value & PROPBASER_LOW) >>> 0;
        return;
      case GICR_PROPBASER + 4:
        this.#propHigh = (value & BASE_HIGH) >>> 0;
        return;
      case GICR_PENDBASER:
        this.#pendLow = (value & PENDBASER_LOW) >>> 0;
        return;
      case GICR_PENDBASER + 4:
        this.#pendHigh = (value & BASE_HIGH) >>> 0;
        this.#startEmpty = (value & PENDBASER_PTZ_HIGH) !== 0;
        return;
    }
  }

  /** The registers that stand in for ITS commands. GICR_SYNCR has nothing to wait for. */
  #writeDirectLpi(offset: number, value: number): boolean {
    switch (offset) {
      case GICR_SETLPIR:
        this.lpis.setPending(value >>> 0);
        return true;
      case GICR_CLRLPIR:
        this.lpis.clearPending(value >>> 0);
        return true;
      case GICR_INVLPIR:
        this.lpis.invalidate(value >>> 0);
        return true;
      case GICR_INVALLR:
        this.lpis.invalidateAll();
        return true;
      default:
        return false;
    }
  }

  #writeCtlr(enable: boolean): void {
    if (enable === this.lpis.enabled) return;
    if (!enable) {
      this.lpis.disable();
      return;
    }
    const prop = decodeGicrPropbaser({ lo: this.#propLow, hi: this.#propHigh });
    const pend = decodeGicrPendbaser({ lo: this.#pendLow, hi: this.#pendHigh });
    this.lpis.enable(prop.pa, prop.idBits, pend.pa, this.#startEmpty);
    // A later enable without a new GICR_PENDBASER finds in the table what was written back to it.
    this.#startEmpty = false;
  }

  save(): SavedRedistributor {
    return {
      waker: this.#waker,
      propLow: this.#propLow,
      propHigh: this.#propHigh,
      pendLow: this.#pendLow,
      pendHigh: this.#pendHigh,
      startEmpty: this.#startEmpty,
      privates: this.privates.save(),
      lpis: this.lpis.save(),
    };
  }

  load(state: unknown): void {
    const s = state as SavedRedistributor;
    this.#waker = s.waker;
    this.#propLow = s.propLow;
    this.#propHigh = s.propHigh;
    this.#pendLow = s.pendLow;
    this.#pendHigh = s.pendHigh;
    this.#startEmpty = s.startEmpty;
    this.privates.load(s.privates);
    this.lpis.load(s.lpis);
  }

  inspect(): unknown {
    const { pa: configurationTable, idBits } = decodeGicrPropbaser({ lo: this.#propLow, hi: this.#propHigh });
    const { pa: pendingTable } = decodeGicrPendbaser({ lo: this.#pendLow, hi: this.#pendHigh });
    return {
      enableLpis: this.lpis.enabled,
      asleep: this.#waker !== 0,
      ...(this.lpis.enabled ? { configurationTable, idBits, pendingTable } : {}),
      pendingLpis: this.lpis.pendingCount,
      pending: this.lpis.inspect(),
      privates: this.privates.inspect(),
    };
  }
}

/** Redistributors one after another, as one region of the device tree holds them. Beyond the last one: reads 0, writes dropped. */
export class RedistributorRegion implements MmioTarget {
  readonly name = 'GICR';
  readonly #frames: readonly Redistributor[];
  readonly #strideBytes: number;

  /** `strideBytes` from one redistributor to the next: 128 KiB unless the device tree says otherwise. */
  constructor(frames: readonly Redistributor[], strideBytes: number = GICR_SIZE_BYTES) {
    this.#frames = frames;
    this.#strideBytes = strideBytes;
  }

  read(offset: number, size: number): number {
    const within = offset % this.#strideBytes;
    if (within >= GICR_SIZE_BYTES) return 0;
    return this.#frames[Math.floor(offset / this.#strideBytes)]?.read(within, size) ?? 0;
  }

  write(offset: number, size: number, value: number): void {
    const within = offset % this.#strideBytes;
    if (within < GICR_SIZE_BYTES) this.#frames[Math.floor(offset / this.#strideBytes)]?.write(within, size, value);
  }
}
