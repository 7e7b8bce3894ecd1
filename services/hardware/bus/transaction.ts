/**
 * What passes between the parts of the machine: CPU accesses to register blocks, DMA of devices, and who asks.
 * Plain calls, no messages. Addresses are numbers; an access of a CPU has no requester.
 */
import type { Address64 } from '#shared/ids/address64.ts';

/** Who a device-side access comes from: carried beside the address to the SMMU and the ITS. */
export interface Requester {
  /** Bus, device and function as the request carries them. */
  readonly rid: number;
  /** StreamID at the SMMU in front of the host bridge, -1 when `iommu-map` does not cover the rid. */
  readonly streamId: number;
  /** SubstreamID (PASID) of the request, for a function that puts one out. */
  readonly substreamId?: number;
  /** The DeviceID at the ITS with this device tree phandle, or -1. */
  deviceIdAt(itsPhandle: number): number;
}

/**
 * A register block on the physical bus. Aligned 1, 2 or 4 byte accesses only: the bus splits 8-byte ones, low half
 * first. `requester` is set for accesses of devices (DMA), undefined for a CPU.
 */
export interface MmioTarget {
  readonly name: string;
  read(offset: number, size: number, requester?: Requester): number;
  write(offset: number, size: number, value: number, requester?: Requester): void;
}

/** A device's way to memory. The result is the number of bytes done; less than asked = aborted at that byte. */
export interface DmaPort {
  /** Reads `into.length` bytes at bus address `iova`. */
  read(iova: Address64, into: Uint8Array): number;
  write(iova: Address64, from: Uint8Array): number;
}

/** What the SMMU offers the root complex: device DMA by requester. Returns bytes done; fewer = aborted there. */
export interface DmaTranslator {
  dmaRead(requester: Requester, iova: number, into: Uint8Array): number;
  dmaWrite(requester: Requester, iova: number, from: Uint8Array): number;
  /** The same at an address of 2^53 or more, which is read into or written from `data`. Not for the hot path. */
  dmaWide(requester: Requester, iova: bigint, data: Uint8Array, write: boolean): number;
}

/** Runs `run` once, `ns` nanoseconds from now. There is no cancelling: what has become stale checks for itself. */
export interface Scheduler {
  after(ns: number, run: () => void): void;
  /** Nanoseconds on the clock of `after`; a scheduler without it says nothing about when something saved is due. */
  readonly now?: number;
}

/** All ones in `size` bytes: what an access that nobody claims reads (PCIe 5.0, "Unsupported Request"). */
export function allOnes(size: number): number {
  return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
}
