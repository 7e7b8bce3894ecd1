/**
 * Registers of a ThunderX PEM through which its root port is configured (Linux drivers/pci/controller/pci-thunder-pem.c):
 * 64 bits each, the address in the low half and the data in the high one.
 */

export const PEM_CFG_WR = 0x28;
/** A store of the address, then a load: the data is in its high half. */
export const PEM_CFG_RD = 0x30;
/** How far into the root port's configuration space they reach. */
export const PEM_ROOT_PORT_BYTES = 2048;

/** Status registers that share a dword with a control register: bits that a one clears, by the dword's offset. */
const W1C = new Map([
  [0x04, 0xffff_0000],
  [0x1c, 0xffff_0000],
]);

/**
 * What to store for a write of `size` bytes at `offset`, when the dword around it reads as `whole`: PEM_CFG_WR takes
 * nothing less, and bits that are written as they were read must not clear a status.
 */
export function pemMerged(whole: number, offset: number, size: number, value: number): number {
  const shift = (offset & 3) * 8;
  const mask = size === 4 ? 0xffff_ffff : ((2 ** (8 * size) - 1) << shift) >>> 0;
  const kept = whole & ~mask & ~(W1C.get(offset & ~3) ?? 0);
  return (kept | ((value << shift) & mask)) >>> 0;
}
