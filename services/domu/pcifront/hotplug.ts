/**
 * The virtual bus as this kernel knows it: functions come by a scan of the roots and go one by one, and drivers are
 * bound and unbound with them (Linux drivers/pci/xen-pcifront.c, pcifront_rescan_root, pcifront_detach_devices).
 * Not modelled: bridges on the virtual bus; pciback puts functions on root buses only. Moving a BAR: a guest takes
 * the addresses that it reads (T16).
 */
import { AssertionError } from '#shared/core/assert.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { readBars, scanBus } from '#shared/kernel/pci-core.ts';
import {
  type BoundDriver,
  type Driver,
  type DriverKit,
  irqsOf,
  type PciFunction,
  readIntx,
  readMsix,
} from '../drivers/driver.ts';

/** A root of the virtual bus, as `root-N` names it. */
export interface PciRoot {
  readonly segment: number;
  readonly bus: number;
}

export interface KnownFunction {
  readonly fn: PciFunction;
  readonly driver: BoundDriver | undefined;
}

export class GuestBus {
  readonly kit: DriverKit;
  readonly #drivers: readonly Driver[];
  /** Whether drivers may have message interrupts. */
  readonly #msi: boolean;
  readonly #functions = new Map<Sbdf, KnownFunction>();
  readonly #lock = new Lock('pci_rescan_remove_lock');

  constructor(kit: DriverKit, drivers: readonly Driver[], msi: boolean) {
    this.kit = kit;
    this.#drivers = drivers;
    this.#msi = msi;
  }

  /** In the order of their addresses. */
  get functions(): readonly KnownFunction[] {
    return [...this.#functions.values()].sort((a, b) => a.fn.sbdf - b.fn.sbdf);
  }

  /**
   * Adds what is new on the roots. `lines` has the INTIDs of functions whose pin leads somewhere. A function whose driver
   * fails stays without one.
   */
  scan(roots: readonly PciRoot[], lines: ReadonlyMap<Sbdf, number>): Op<void> {
    const self = this;
    return withLock(this.#lock, function* () {
      for (const { segment, bus } of roots) {
        for (const found of yield* scanBus(self.kit.config, segment, bus)) {
          if (self.#functions.has(found.sbdf)) continue;
          const bars = yield* readBars(self.kit.config, found.sbdf);
          const msix = yield* readMsix(self.kit.config, found.sbdf);
          const intx = yield* readIntx(self.kit.config, found.sbdf, lines.get(found.sbdf));
          const fn: PciFunction = { ...found, bars, msix, intx, irqs: irqsOf(msix, intx, self.#msi) };
          self.#functions.set(found.sbdf, { fn, driver: undefined });
          self.#functions.set(found.sbdf, { fn, driver: yield* self.#probe(fn) });
          self.kit.trace('pci-function-added', { sbdf: formatSbdf(found.sbdf) });
        }
      }
    });
  }

  /** Binds the driver of a function again, with message interrupts if it may have them (`msi`), or else with INTx. */
  rebind(sbdf: Sbdf, msi: boolean): Op<BoundDriver | undefined> {
    const self = this;
    return withLock(this.#lock, function* () {
      const known = self.#functions.get(sbdf);
      if (known === undefined) return undefined;
      const irqs = irqsOf(known.fn.msix, known.fn.intx, msi && self.kit.irqDomain !== undefined);
      if (irqs === known.fn.irqs) return known.driver;
      const fn: PciFunction = { ...known.fn, irqs };
      self.#functions.set(sbdf, { fn, driver: undefined });
      if (known.driver !== undefined) yield* known.driver.remove();
      const driver = yield* self.#probe(fn);
      self.#functions.set(sbdf, { fn, driver });
      return driver;
    });
  }

  /** Unbinds the driver and forgets the function. Nothing to do for one that is not known. */
  remove(sbdf: Sbdf): Op<void> {
    return withLock(this.#lock, () => this.#removeLocked(sbdf));
  }

  removeAll(): Op<void> {
    const self = this;
    return withLock(this.#lock, function* () {
      for (const sbdf of [...self.#functions.keys()]) yield* self.#removeLocked(sbdf);
    });
  }

  *#removeLocked(sbdf: Sbdf): Op<void> {
    const known = this.#functions.get(sbdf);
    if (known === undefined) return;
    this.#functions.delete(sbdf);
    try {
      if (known.driver !== undefined) yield* known.driver.remove();
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      this.kit.trace('driver-remove-failed', { sbdf: formatSbdf(sbdf), error: `${error}` });
    }
    this.kit.trace('pci-function-removed', { sbdf: formatSbdf(sbdf) });
  }

  *#probe(fn: PciFunction): Op<BoundDriver | undefined> {
    for (const driver of this.#drivers) {
      try {
        const bound = yield* driver.probe(fn, this.kit);
        if (bound !== undefined) return bound;
      } catch (error) {
        if (error instanceof AssertionError) throw error;
        this.kit.trace('driver-probe-failed', { sbdf: formatSbdf(fn.sbdf), driver: driver.name, error: `${error}` });
      }
    }
    return undefined;
  }
}
