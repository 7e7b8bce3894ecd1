/**
 * Which driver of dom0's kernel holds which function (the bind and unbind files of Linux's sysfs).
 * Not modelled: dom0's own drivers for endpoints, whose DMA would be aborted anyway; such a function is bound to nothing
 * until pciback takes it. driver_override and new_id: a bind names the driver.
 */
import type { Op } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';

export interface Driver {
  readonly name: string;
  /** Throws when the driver does not want the function. */
  probe(sbdf: Sbdf): Op<void>;
  remove(sbdf: Sbdf): Op<void>;
}

export class Drivers {
  readonly #drivers = new Map<string, Driver>();
  readonly #bound = new Map<Sbdf, Driver>();

  register(driver: Driver): void {
    this.#drivers.set(driver.name, driver);
  }

  has(name: string): boolean {
    return this.#drivers.has(name);
  }

  /** The name of the driver that holds a function, or empty. */
  driverOf(sbdf: Sbdf): string {
    return this.#bound.get(sbdf)?.name ?? '';
  }

  /** What a driver holds, as its directory lists it: in ascending order. */
  boundTo(name: string): Sbdf[] {
    return [...this.#bound]
      .filter(([, driver]) => driver.name === name)
      .map(([sbdf]) => sbdf)
      .sort((a, b) => a - b);
  }

  *bind(name: string, sbdf: Sbdf): Op<void> {
    const driver = this.#drivers.get(name);
    if (driver === undefined) throw new Error(`no driver ${name}`);
    const holder = this.#bound.get(sbdf);
    if (holder !== undefined) throw new Error(`${formatSbdf(sbdf)} is bound to ${holder.name}`);
    this.#bound.set(sbdf, driver);
    try {
      yield* driver.probe(sbdf);
    } catch (error) {
      this.#bound.delete(sbdf);
      throw error;
    }
  }

  *unbind(sbdf: Sbdf): Op<void> {
    const driver = this.#bound.get(sbdf);
    if (driver === undefined) return;
    yield* driver.remove(sbdf);
    this.#bound.delete(sbdf);
  }
}

/** The driver that Linux binds to PCI-to-PCI bridges. It leaves them as enumeration set them up. */
export const pcieport: Driver = {
  name: 'pcieport',
  *probe() {},
  *remove() {},
};
