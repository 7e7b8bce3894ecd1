/**
 * Register reads of the guest's, asked of our machine. Bits where the parts differ by choice of their makers are left
 * out, and only those: they are the table below.
 */
import type { Models } from './models.ts';
import type { Tally } from './tally.ts';
import { field, hex, type TraceLine, wideField } from './trace.ts';

/** By offset: bits that do not count, low and high word. */
type Excuses = ReadonlyMap<number, readonly [low: number, high: number]>;

export const SMMU_EXCUSED: Excuses = new Map([
  // IDR3: HAD and BBML, which ours does not have.
  [0x0c, [0x0000_1804, 0]],
]);

export const ITS_EXCUSED: Excuses = new Map([
  // GITS_CTLR.Quiescent while the ITS is enabled is UNKNOWN before GICv4.1.
  [0x0000, [0x8000_0000, 0]],
  // GITS_IIDR: who made it.
  [0x0004, [0xffff_ffff, 0]],
  // GITS_TYPER: CIL with CIDbits 15 says the same as neither.
  [0x0008, [0, 0x0000_001f]],
  // GITS_PIDR0 to 7 and CIDR, but for ArchRev in PIDR2.
  [0xffe8, [0xffff_ff0f, 0]],
]);

/** The page-0 offsets by which QEMU prints SMMU_EVENTQ_PROD and _CONS. */
export function smmuOffset(addr: number): number {
  return addr === 0xa8 || addr === 0xac ? addr + 0x1_0000 : addr;
}

/** Asks our machine for a register that the guest read: `addr` is its place in the block at `pa`. */
export function compareRead(
  { bus }: Models,
  tally: Tally,
  kind: string,
  line: TraceLine,
  pa: number,
  names: { readonly offset: string; readonly value: string },
  excused: Excuses,
): void {
  const offset = field(line, names.offset);
  const sizeBytes = field(line, 'size');
  const traced = wideField(line, names.value);
  bus.read(pa + offset, sizeBytes);
  const [low, high] = excused.get(offset) ?? [0, 0];
  const text = (lo: number, hi: number): string =>
    sizeBytes === 8
      ? `${hex((hi & ~high) >>> 0)}_${((lo & ~low) >>> 0).toString(16).padStart(8, '0')}`
      : hex((lo & ~low) >>> 0);
  tally.compare(kind, line.number, () => `read of ${hex(offset)}`, text(traced.lo, traced.hi), text(bus.low, bus.high));
}

/** Does a traced register write: low half first when it has 8 bytes. */
export function doWrite({ bus }: Models, line: TraceLine, pa: number, offset: number, value: string): void {
  const { lo, hi } = wideField(line, value);
  const sizeBytes = field(line, 'size');
  bus.write(pa + offset, sizeBytes, lo, hi);
}
