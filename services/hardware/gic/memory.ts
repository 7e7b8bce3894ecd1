/** What the GIC needs of physical memory: aligned words and bytes; `contains` says whether RAM is there at all. */
export interface GicMemory {
  contains(pa: number, sizeBytes: number): boolean;
  read8(pa: number): number;
  read32(pa: number): number;
  write8(pa: number, value: number): void;
  write32(pa: number, value: number): void;
  readBytes(pa: number, into: Uint8Array): void;
}
