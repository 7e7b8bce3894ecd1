/**
 * A ThunderX PEM (PCI Express Interface) as a host bridge: a configuration window with 16 MiB a bus and 64 KiB a function,
 * and PEM_CFG_WR and PEM_CFG_RD, through which alone its root port is configured: device 0 on the bridge's first bus
 * (Linux drivers/pci/controller/pci-thunder-pem.c).
 * Both registers take 64 bits: the address in the low half, the data in the high one. The bus brings the low half first:
 * writing the high half of PEM_CFG_WR does the write, reading the high half of PEM_CFG_RD does the read.
 * Not modelled: the PEM's other registers; they read as zero and take nothing. The root port's MSI-X table at PEM base +
 * 0xf00000 and the Enhanced Allocation entry for it; the root port has the capabilities of its dump.
 */
import { PEM_CFG_RD, PEM_CFG_WR, PEM_ROOT_PORT_BYTES } from '#shared/arch/pci/thunder-pem.ts';
import { allOnes, type MmioTarget, type Requester } from '../bus/transaction.ts';
import type { PciFunction } from './pci-function.ts';

const BUS_BYTES = 0x100_0000;
const FUNCTION_SHIFT = 16;
const CONFIG_BYTES = 4096;

export type FindFunction = (bus: number, devfn: number) => PciFunction | undefined;

/** Everything below the root port, as memory. The first bus, where the root port is, reads as all ones. */
export class PemConfigWindow implements MmioTarget {
  readonly name: string;
  readonly #firstBus: number;
  readonly #find: FindFunction;
  reads = 0;
  writes = 0;

  constructor(name: string, firstBus: number, find: FindFunction) {
    this.name = name;
    this.#firstBus = firstBus;
    this.#find = find;
  }

  /** Only CPUs configure: a device's request is not claimed. */
  read(offset: number, size: number, requester?: Requester): number {
    if (requester !== undefined) return allOnes(size);
    this.reads++;
    return this.#at(offset)?.configRead(offset & (CONFIG_BYTES - 1), size) ?? allOnes(size);
  }

  write(offset: number, size: number, value: number, requester?: Requester): void {
    if (requester !== undefined) return;
    this.writes++;
    this.#at(offset)?.configWrite(offset & (CONFIG_BYTES - 1), size, value, this.#busAt(offset));
  }

  save(): unknown {
    return { reads: this.reads, writes: this.writes };
  }

  load(state: unknown): void {
    const { reads, writes } = state as { reads: number; writes: number };
    this.reads = reads;
    this.writes = writes;
  }

  #at(offset: number): PciFunction | undefined {
    const bus = this.#busAt(offset);
    if (bus === this.#firstBus || (offset & 0xffff) >= CONFIG_BYTES) return undefined;
    return this.#find(bus, (offset >>> FUNCTION_SHIFT) & 0xff);
  }

  #busAt(offset: number): number {
    return this.#firstBus + Math.floor(offset / BUS_BYTES);
  }
}

/** The PEM's own registers. */
export class PemRegisters implements MmioTarget {
  readonly name: string;
  readonly #firstBus: number;
  readonly #find: FindFunction;
  #writeAddress = 0;
  #readAddress = 0;

  constructor(name: string, firstBus: number, find: FindFunction) {
    this.name = name;
    this.#firstBus = firstBus;
    this.#find = find;
  }

  /** Accesses of 32 bits, and of 64 as two of them; narrower ones get a part of the 32 bits that they lie in. */
  read(offset: number, size: number, requester?: Requester): number {
    if (requester !== undefined) return allOnes(size);
    const whole = this.#read32(offset & ~3);
    return size === 4 ? whole : ((whole >>> ((offset & 3) * 8)) & allOnes(size)) >>> 0;
  }

  /** Narrower writes than 32 bits are dropped. */
  write(offset: number, size: number, value: number, requester?: Requester): void {
    if (requester !== undefined || size !== 4) return;
    if (offset === PEM_CFG_WR) this.#writeAddress = value >>> 0;
    else if (offset === PEM_CFG_RD) this.#readAddress = value >>> 0;
    else if (offset === PEM_CFG_WR + 4) {
      const at = configOffset(this.#writeAddress);
      if (at >= 0) this.#rootPort()?.configWrite(at, 4, value, this.#firstBus);
    }
  }

  save(): unknown {
    return [this.#writeAddress, this.#readAddress];
  }

  load(state: unknown): void {
    [this.#writeAddress, this.#readAddress] = state as [number, number];
  }

  reset(): void {
    this.#writeAddress = 0;
    this.#readAddress = 0;
  }

  #read32(offset: number): number {
    if (offset === PEM_CFG_WR) return this.#writeAddress;
    if (offset === PEM_CFG_RD) return this.#readAddress;
    if (offset !== PEM_CFG_RD + 4) return 0;
    const at = configOffset(this.#readAddress);
    return at < 0 ? allOnes(4) : (this.#rootPort()?.configRead(at, 4) ?? allOnes(4));
  }

  #rootPort(): PciFunction | undefined {
    return this.#find(this.#firstBus, 0);
  }
}

/** The dword that an address names, or -1 beyond what the registers reach. */
function configOffset(address: number): number {
  return address < PEM_ROOT_PORT_BYTES ? address & ~3 : -1;
}
