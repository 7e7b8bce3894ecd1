/**
 * The machine's LPIs: the configuration table that all redistributors share, which LPIs are taken, and where each leads
 * (xen/arch/arm/gic-v3-lpi.c). Every host LPI stays enabled for ever: a guest's enable bit is state of its virtual one.
 * Not modelled: allocation in blocks of 32; LPIs are taken one by one, lowest first.
 */
import { encodeLpiConfig, LPI_FIRST, lpiConfigTableBytes, lpiPendingTableBytes } from '#shared/arch/gic/lpi-tables.ts';
import { assert } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';
import type { El2 } from '../el2.ts';
import { XenError } from '../error.ts';
import type { Frames } from '../mm/frames.ts';
import type { LpiTarget } from '../vits/commands.ts';

/** INTID bits of the machine's tables: LPIs 8192 to 65535. */
export const HOST_LPI_ID_BITS = 16;
const PRIORITY = 0xa0;
const TABLE_ALIGN_BYTES = 0x1_0000;

export class HostLpis {
  readonly #el2: El2;
  readonly #frames: Frames;
  readonly #targets = new Map<number, LpiTarget>();
  readonly #freed: number[] = [];
  #next = LPI_FIRST;
  #propertyTablePa = -1;

  constructor(el2: El2, frames: Frames) {
    this.#el2 = el2;
    this.#frames = frames;
  }

  get used(): number {
    return this.#targets.size;
  }

  /** Physical address of the configuration table; after init. */
  get propertyTablePa(): number {
    assert(this.#propertyTablePa >= 0, 'the LPI configuration table was asked for before it was made');
    return this.#propertyTablePa;
  }

  /** Makes the configuration table, every LPI enabled. */
  *init(): Op<void> {
    const sizeBytes = lpiConfigTableBytes(HOST_LPI_ID_BITS);
    this.#propertyTablePa = this.#frames.allocAligned(sizeBytes, TABLE_ALIGN_BYTES);
    yield* this.#el2.fill(this.#propertyTablePa, sizeBytes, encodeLpiConfig(PRIORITY, true));
  }

  /** A zeroed pending table for one redistributor. */
  *pendingTable(): Op<number> {
    const sizeBytes = lpiPendingTableBytes(HOST_LPI_ID_BITS);
    const pa = this.#frames.allocAligned(sizeBytes, TABLE_ALIGN_BYTES);
    yield* this.#el2.fill(pa, sizeBytes, 0);
    return pa;
  }

  /** Takes an LPI that leads to `target`. Throws XenError ENOSPC. */
  allocate(target: LpiTarget): number {
    const lpi = this.#freed.pop() ?? this.#next;
    if (lpi >= 2 ** HOST_LPI_ID_BITS) throw new XenError('ENOSPC', 'all LPIs are taken');
    if (lpi === this.#next) this.#next++;
    this.#targets.set(lpi, target);
    return lpi;
  }

  free(lpi: number): void {
    assert(this.#targets.delete(lpi), `LPI ${lpi} was freed and is not taken`);
    this.#freed.push(lpi);
  }

  /** Where an LPI leads; undefined for one that is not taken (a late one of a device that has gone). */
  targetOf(lpi: number): LpiTarget | undefined {
    return this.#targets.get(lpi);
  }
}
