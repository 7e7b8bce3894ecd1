/**
 * The interrupt controller of a board (Linux bindings arm,gic-v3, arm,gic): GICv3 with any number of ITSs.
 * Not modelled: GICv2, with or without v2m frames; a board with one is refused.
 */
import type { FdtNode } from '../../fdt/node.ts';
import { BoardError, type BoardGic, type BoardIts } from '../parts.ts';
import { firstRegion, numaNodeOf, regionOf } from './nodes.ts';

const GICV2 = ['arm,gic-400', 'arm,cortex-a15-gic', 'arm,cortex-a9-gic', 'arm,cortex-a7-gic', 'arm,pl390'];
/** GITS control frame and translation frame. */
const ITS_BYTES = 0x2_0000;

/** `mayLackIts`: the board file says that the board may be without MSI. Throws BoardError. */
export function gicOf(tree: FdtNode, mayLackIts: boolean): BoardGic {
  const [node, second] = tree.compatibleNodes('arm,gic-v3');
  if (node === undefined) throw new BoardError(noGicv3(tree));
  if (second !== undefined) throw new BoardError(`board has two GICs: ${node.path} and ${second.path}`);
  const regions = node.regions().map(regionOf);
  const count = node.u32('#redistributor-regions') ?? 1;
  const distributor = regions[0];
  if (distributor === undefined || regions.length < 1 + count)
    throw new BoardError(
      `GICv3 ${node.path} has ${regions.length} regions: a distributor and ${count} for redistributors are needed`,
    );
  const its = node.compatibleNodes('arm,gic-v3-its').map(itsOf);
  if (its.length === 0 && !mayLackIts)
    throw new BoardError(
      'board has no GICv3 ITS: no node is compatible with arm,gic-v3-its ("without: [msi]" in the board file allows it: INTx only)',
    );
  return {
    version: 3,
    path: node.path,
    phandle: node.phandle ?? 0,
    distributor,
    redistributors: regions.slice(1, 1 + count),
    redistributorStride: node.u64('redistributor-stride'),
    its,
  };
}

function itsOf(node: FdtNode): BoardIts {
  return {
    path: node.path,
    phandle: node.phandle ?? 0,
    registers: firstRegion(node, ITS_BYTES, 'control and translation frame'),
    numaNode: numaNodeOf(node),
  };
}

function noGicv3(tree: FdtNode): string {
  const [old] = tree.compatibleNodes(...GICV2);
  if (old === undefined) return 'board has no GICv3: no node is compatible with arm,gic-v3';
  const frames = tree.compatibleNodes('arm,gic-v2m-frame').length;
  const with2m = frames === 0 ? '' : ` with ${frames} v2m frame${frames === 1 ? '' : 's'}`;
  return `board has no GICv3: ${old.path} is a GICv2${with2m}, and MSI needs GICv3 with an ITS`;
}
