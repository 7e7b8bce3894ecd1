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
import { type BoundDriver, type Driver, type DriverKit, type PciFunction, readMsix } from '../drivers/driver.ts';

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
  readonly #functions = new Map<Sbdf, KnownFunction>();
  readonly #lock = new Lock('pci_rescan_remove_lock');

  constructor(kit: DriverKit, drivers: readonly Driver[]) {
    this.kit = kit;
    this.#drivers = drivers;
  }

  /** In the order of their addresses. */
  get functions(): readonly KnownFunction[] {
    return [...this.#functions.values()].sort((a, b) => a.fn.sbdf - b.fn.sbdf);
  }

  /** Adds what is new on the roots. A function whose driver fails stays without one. */
  scan(roots: readonly PciRoot[]): Op<void> {
    const self = this;
    return withLock(this.#lock, function* () {
      for (const { segment, bus } of roots) {
        for (const found of yield* scanBus(self.kit.config, segment, bus)) {
          if (self.#functions.has(found.sbdf)) continue;
          const bars = yield* readBars(self.kit.config, found.sbdf);
          const msix = yield* readMsix(self.kit.config, found.sbdf);
          const fn: PciFunction = { ...found, bars, msix };
          self.#functions.set(found.sbdf, { fn, driver: undefined });
          self.#functions.set(found.sbdf, { fn, driver: yield* self.#probe(fn) });
          self.kit.trace('pci-function-added', { sbdf: formatSbdf(found.sbdf) });
        }
      }
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
