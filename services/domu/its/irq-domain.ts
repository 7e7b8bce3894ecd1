/**
 * Vectors of PCI functions as LPIs of this kernel: the virtual bus has the guest's ITS as msi-parent, so a function's
 * DeviceID is its requester id on the virtual bus and its message address is GITS_TRANSLATER of that ITS (T9;
 * Linux drivers/irqchip/irq-gic-v3-its.c, irq-gic-v3-its-pci-msi.c).
 * Not modelled: MSI with several messages, affinity; every LPI goes to virtual CPU 0.
 */
import { encodeDiscard, encodeInv, encodeMapd, encodeMapti, encodeSync } from '#shared/arch/gic/its-commands.ts';
import { assert } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';
import type { ItsDriver } from '#shared/kernel/its-driver.ts';
import type { GuestGic } from '../kernel/gic.ts';
import type { Interrupts } from '../kernel/interrupts.ts';
import { ICID_CPU0, rdbaseOf } from '../kernel/its.ts';
import type { Pages } from '../kernel/pages.ts';

/** The vectors of one function. EventID n is vector n. */
export interface Vectors {
  readonly deviceId: number;
  readonly count: number;
  readonly firstLpi: number;
  /** What the function has to write its EventID to. */
  readonly messageAddress: number;
  readonly ittIpa: number;
  readonly ittBytes: number;
}

/** No run of free LPIs, or a DeviceID that the ITS has no room for. */
export class NoVectors extends Error {
  override name = 'NoVectors';
}

export class IrqDomain {
  readonly #its: ItsDriver;
  readonly #gic: GuestGic;
  readonly #pages: Pages;
  readonly #interrupts: Interrupts;
  readonly #taken = new Set<number>();

  constructor(its: ItsDriver, gic: GuestGic, pages: Pages, interrupts: Interrupts) {
    this.#its = its;
    this.#gic = gic;
    this.#pages = pages;
    this.#interrupts = interrupts;
  }

  /** LPIs that functions hold. */
  get lpisTaken(): number {
    return this.#taken.size;
  }

  /**
   * Maps `count` events of `deviceId` to enabled LPIs; `onVector` runs at every interrupt with the vector's number.
   * When a step fails, nothing stays taken here. Throws NoVectors, OutOfMemory, ItsError.
   */
  *allocate(deviceId: number, count: number, onVector: (vector: number) => void): Op<Vectors> {
    if (deviceId >= this.#its.deviceIds) throw new NoVectors(`DeviceID 0x${deviceId.toString(16)} is out of range`);
    const size = Math.max(0, Math.ceil(Math.log2(count)) - 1);
    if (size + 1 > this.#its.typer.eventIdBits) throw new NoVectors(`${count} events are more than the ITS has`);
    const firstLpi = this.#takeLpis(count);
    const ittBytes = this.#its.ittBytes(size);
    let ittIpa = -1;
    try {
      ittIpa = yield* this.#pages.allocate(ittBytes);
      for (let v = 0; v < count; v++) this.#interrupts.request(firstLpi + v, () => onVector(v));
      yield* this.#gic.configureLpis(firstLpi, count, true);
      const commands = [encodeMapd({ deviceId, size, ittAddress: ittIpa, valid: true })];
      for (let eventId = 0; eventId < count; eventId++) {
        commands.push(
          encodeMapti({ deviceId, eventId, pIntid: firstLpi + eventId, icid: ICID_CPU0 }),
          encodeInv({ deviceId, eventId }),
        );
      }
      commands.push(encodeSync({ rdbase: rdbaseOf(this.#its, this.#gic) }));
      yield* this.#its.submit(commands);
    } catch (error) {
      this.#giveBack(firstLpi, count);
      if (ittIpa >= 0) this.#pages.free(ittIpa, ittBytes);
      throw error;
    }
    return { deviceId, count, firstLpi, messageAddress: this.#its.doorbell, ittIpa, ittBytes };
  }

  /** Unmaps what `allocate` mapped; the function must not send any more. */
  *release(vectors: Vectors): Op<void> {
    const { deviceId, count, firstLpi } = vectors;
    yield* this.#gic.configureLpis(firstLpi, count, false);
    const commands = [];
    for (let eventId = 0; eventId < count; eventId++) commands.push(encodeDiscard({ deviceId, eventId }));
    commands.push(
      encodeMapd({ deviceId, size: 0, ittAddress: 0, valid: false }),
      encodeSync({ rdbase: rdbaseOf(this.#its, this.#gic) }),
    );
    yield* this.#its.submit(commands);
    this.#giveBack(firstLpi, count);
    this.#pages.free(vectors.ittIpa, vectors.ittBytes);
  }

  #takeLpis(count: number): number {
    let run = 0;
    for (let lpi = this.#gic.lpiFirst; lpi < this.#gic.intidEnd; lpi++) {
      run = this.#taken.has(lpi) ? 0 : run + 1;
      if (run < count) continue;
      const first = lpi - count + 1;
      for (let i = first; i <= lpi; i++) this.#taken.add(i);
      return first;
    }
    throw new NoVectors(`no ${count} LPIs in a row are free`);
  }

  #giveBack(firstLpi: number, count: number): void {
    for (let lpi = firstLpi; lpi < firstLpi + count; lpi++) {
      assert(this.#taken.delete(lpi), () => `LPI ${lpi} is given back twice`);
      this.#interrupts.free(lpi);
    }
  }
}
