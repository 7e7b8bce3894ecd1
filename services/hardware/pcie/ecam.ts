/**
 * The ECAM window of a host bridge: configuration space as memory, 1 MiB a bus from the bridge's first bus, 4 KiB a
 * function (PCIe 5.0, "Enhanced Configuration Access Mechanism"; binding host-generic-pci).
 * An absent function reads as all ones and takes no write; there is no abort.
 */
import { allOnes, type MmioTarget, type Requester } from '../bus/transaction.ts';
import type { PciFunction } from './pci-function.ts';

export class EcamWindow implements MmioTarget {
  readonly name: string;
  readonly #firstBus: number;
  readonly #find: (bus: number, devfn: number) => PciFunction | undefined;
  reads = 0;
  writes = 0;

  constructor(name: string, firstBus: number, find: (bus: number, devfn: number) => PciFunction | undefined) {
    this.name = name;
    this.#firstBus = firstBus;
    this.#find = find;
  }

  /** Only CPUs configure: a device's request is not claimed. */
  read(offset: number, size: number, requester?: Requester): number {
    if (requester !== undefined) return allOnes(size);
    this.reads++;
    const fn = this.#find(this.#busAt(offset), (offset >>> 12) & 0xff);
    return fn === undefined ? allOnes(size) : fn.configRead(offset & 0xfff, size);
  }

  write(offset: number, size: number, value: number, requester?: Requester): void {
    if (requester !== undefined) return;
    this.writes++;
    const bus = this.#busAt(offset);
    this.#find(bus, (offset >>> 12) & 0xff)?.configWrite(offset & 0xfff, size, value, bus);
  }

  save(): unknown {
    return { reads: this.reads, writes: this.writes };
  }

  load(state: unknown): void {
    const { reads, writes } = state as { reads: number; writes: number };
    this.reads = reads;
    this.writes = writes;
  }

  #busAt(offset: number): number {
    return this.#firstBus + Math.floor(offset / 0x10_0000);
  }
}
