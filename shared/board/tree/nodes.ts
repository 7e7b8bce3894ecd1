/** What every reader of a board's device tree needs: register blocks, NUMA nodes, wired interrupts. */
import type { FdtNode } from '../../fdt/node.ts';
import { BoardError, type BoardRegion } from '../parts.ts';

const GIC_SPI = 0;

/** The first register block of a node. Throws BoardError when it has none of at least `bytesMin` bytes, for `what`. */
export function firstRegion(node: FdtNode, bytesMin: number, what: string): BoardRegion {
  const region = node.regions()[0];
  if (region === undefined || region.sizeBytes < bytesMin)
    throw new BoardError(`${node.path} has no register block of 0x${bytesMin.toString(16)} bytes for ${what}`);
  return regionOf(region);
}

export function regionOf(region: { readonly address: number; readonly sizeBytes: number }): BoardRegion {
  return { pa: region.address, sizeBytes: region.sizeBytes };
}

/** `numa-node-id` of a node or of the nearest bus above that has one. */
export function numaNodeOf(node: FdtNode): number | undefined {
  for (let at: FdtNode | undefined = node; at !== undefined; at = at.parent) {
    const id = at.u32('numa-node-id');
    if (id !== undefined) return id;
  }
  return undefined;
}

/** The SPI number of each of a node's interrupts; undefined for one that is no SPI or goes to another controller. */
export function spisOf(node: FdtNode, gicPath: string): (number | undefined)[] {
  if (!node.has('interrupts') || node.interruptParent?.path !== gicPath) return [];
  return node.interrupts().map(([type, number]) => (type === GIC_SPI ? number : undefined));
}
