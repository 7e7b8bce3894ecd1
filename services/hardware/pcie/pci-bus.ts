/**
 * A bus or link with the functions on it: who answers a configuration request, who claims a memory address.
 */
import { deviceOf, functionOf } from '#shared/ids/sbdf.ts';
import type { PciFunction } from './pci-function.ts';
import type { ResetKind } from './reset.ts';

export class PciBus {
  readonly #functions = new Map<number, PciFunction>();

  add(fn: PciFunction): void {
    this.#functions.set(fn.devfn, fn);
    const sameDevice = [...this.#functions.values()].filter((f) => deviceOf(f.devfn) === deviceOf(fn.devfn));
    if (sameDevice.length > 1) for (const f of sameDevice) if (functionOf(f.devfn) === 0) f.markMultifunction();
  }

  at(devfn: number): PciFunction | undefined {
    return this.#functions.get(devfn);
  }

  functions(): Iterable<PciFunction> {
    return this.#functions.values();
  }

  /** The value, or -1 when nobody claims the address. */
  memoryRead(address: number, size: number): number {
    for (const fn of this.#functions.values()) {
      const value = fn.memoryRead(address, size);
      if (value >= 0) return value;
    }
    return -1;
  }

  memoryWrite(address: number, size: number, value: number): boolean {
    for (const fn of this.#functions.values()) if (fn.memoryWrite(address, size, value)) return true;
    return false;
  }

  reset(kind: ResetKind): void {
    for (const fn of this.#functions.values()) fn.reset(kind);
  }
}
