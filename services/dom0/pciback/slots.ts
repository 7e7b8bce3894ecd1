/**
 * The virtual bus of a guest: 0000:00 with 32 slots (Linux drivers/xen/xen-pciback/vpci.c). Functions of one physical
 * slot share a virtual slot; each keeps its function number. A virtual function has a slot to itself, as function 0,
 * since a guest looks at others of a slot only where that one is. A devfn that the toolstack asked for is taken as it is.
 */
import { functionOf, type Sbdf } from '#shared/ids/sbdf.ts';

export interface OnVirtualBus {
  readonly sbdf: Sbdf;
  readonly vdevfn: number;
}

/**
 * A free device and function number for `sbdf`, which `isVirtfn` says to be a virtual function; undefined when `wanted`
 * is taken or the bus is full.
 */
export function chooseVdevfn(
  taken: readonly OnVirtualBus[],
  sbdf: Sbdf,
  wanted?: number,
  isVirtfn = false,
): number | undefined {
  const isFree = (vdevfn: number): boolean => !taken.some((t) => t.vdevfn === vdevfn);
  if (wanted !== undefined) return isFree(wanted) ? wanted : undefined;
  const fn = isVirtfn ? 0 : functionOf(sbdf);
  const sibling = isVirtfn
    ? undefined
    : taken.find((t) => t.sbdf >>> 3 === sbdf >>> 3 && (t.vdevfn & 7) === functionOf(t.sbdf));
  if (sibling !== undefined) {
    const shared = (sibling.vdevfn & ~7) | fn;
    if (isFree(shared)) return shared;
  }
  for (let slot = 0; slot < 32; slot++) {
    if (!taken.some((t) => t.vdevfn >>> 3 === slot)) return (slot << 3) | fn;
  }
  return undefined;
}
