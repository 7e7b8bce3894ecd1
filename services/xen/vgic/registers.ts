/**
 * What a domain reads and writes of its interrupt controller, one implementation for each version of the architecture
 * (v2.ts, v3.ts), and trapped accesses taken apart into words.
 */
import type { Op } from '#shared/core/op.ts';
import type { IrqBank } from './distributor.ts';

/** One trapped access. `value` has the bytes of a store, lowest first. */
export interface MmioAccess {
  /** The virtual CPU that made it. */
  readonly vcpu: number;
  readonly ipa: number;
  readonly sizeBytes: number;
  readonly isWrite: boolean;
  readonly value: Uint8Array;
}

/** The registers of one version, and the state of what they are about. */
export interface VGicRegisters {
  readonly spis: IrqBank;
  /** SGIs and PPIs of each virtual CPU. */
  readonly privates: readonly IrqBank[];
  /** The virtual CPU that an SPI goes to. */
  targetOf(intid: number): number;
  /** Whether `vcpu` takes an interrupt of this priority that is itself enabled. */
  takes(vcpu: number, priority: number): boolean;
  /** As VGic.mmio, for an aligned access of 1, 2, 4 or 8 bytes. */
  mmio(access: MmioAccess): Op<Uint8Array | undefined>;
}

export const NO_DATA = new Uint8Array(0);

/** The answer to a load out of registers of 32 bits; undefined when the first of them has no answer. */
export function load(
  sizeBytes: number,
  offset: number,
  read: (offset: number) => number | undefined,
): Uint8Array | undefined {
  const aligned = offset & ~3;
  const lo = read(aligned);
  if (lo === undefined) return undefined;
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint32(0, lo, true);
  if (sizeBytes === 8) view.setUint32(4, read(aligned + 4) ?? 0, true);
  const from = offset - aligned;
  return data.slice(from, from + sizeBytes);
}

/** Hands a store on in pieces of 4 bytes at most. */
export function store(
  access: MmioAccess,
  offset: number,
  write: (offset: number, sizeBytes: number, value: number) => void,
): void {
  const data = new Uint8Array(8);
  data.set(access.value.subarray(0, access.sizeBytes));
  const view = new DataView(data.buffer);
  write(offset, Math.min(4, access.sizeBytes), view.getUint32(0, true));
  if (access.sizeBytes === 8) write(offset + 4, 4, view.getUint32(4, true));
}
