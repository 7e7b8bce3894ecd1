/**
 * The interrupt controller of a board (Linux bindings arm,gic-v3, arm,gic): GICv3 with any number of ITSs, or GICv2.
 * Not modelled: message frames of a GICv2 (arm,gic-v2m-frame, GICP and their like). They would make SPIs of messages, which
 * no ITS translates: a board with a GICv2 is taken for its wired interrupts alone, `without: [msi]`.
 */
import { GICV2_COMPATIBLE, GICV2_CPUS_MAX, GICV2_GICC_BYTES, GICV2_GICD_BYTES } from '../../arch/gic/v2.ts';
import type { FdtNode } from '../../fdt/node.ts';
import { BoardError, type BoardGic, type BoardGicV2, type BoardIts } from '../parts.ts';
import { firstRegion, numaNodeOf, regionOf } from './nodes.ts';

/** GITS control frame and translation frame. */
const ITS_BYTES = 0x2_0000;
/** What firmware says at least of the CPU interface; the second page, with GICC_DIR, is there whether it is named or not. */
const GICC_NAMED_BYTES = 0x1000;

/** `mayLackIts`: the board file says that the board may be without MSI. Throws BoardError. */
export function gicOf(tree: FdtNode, cpus: number, mayLackIts: boolean): BoardGic {
  const nodes = tree.compatibleNodes('arm,gic-v3', ...GICV2_COMPATIBLE);
  const [node, second] = nodes;
  if (node === undefined)
    throw new BoardError('board has no GIC: no node is compatible with arm,gic-v3 or with a GICv2 (arm,gic-400, ...)');
  if (second !== undefined) throw new BoardError(`board has two GICs: ${node.path} and ${second.path}`);
  return node.isCompatible('arm,gic-v3') ? gicv3Of(node, mayLackIts) : gicv2Of(node, cpus, mayLackIts);
}

function gicv3Of(node: FdtNode, mayLackIts: boolean): BoardGic {
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

function gicv2Of(node: FdtNode, cpus: number, mayLackIts: boolean): BoardGicV2 {
  const v2mFrames = node.compatibleNodes('arm,gic-v2m-frame').map((frame) => ({
    path: frame.path,
    registers: firstRegion(frame, 0x1000, 'a v2m frame'),
  }));
  if (!mayLackIts) {
    const { length } = v2mFrames;
    const what =
      length === 0
        ? 'nothing beside it translates messages'
        : `${length === 1 ? 'its v2m frame makes' : `its ${length} v2m frames make`} SPIs of messages and translate${length === 1 ? 's' : ''} nothing through an ITS`;
    throw new BoardError(
      `board has no GICv3 ITS: ${node.path} is a GICv2, ${what} ("without: [msi]" in the board file allows it: INTx only)`,
    );
  }
  const [distributor, cpuInterface] = node.regions().map(regionOf);
  if (distributor === undefined || distributor.sizeBytes < GICV2_GICD_BYTES)
    throw new BoardError(`GICv2 ${node.path} has no distributor of 0x${GICV2_GICD_BYTES.toString(16)} bytes`);
  if (cpuInterface === undefined || cpuInterface.sizeBytes < GICC_NAMED_BYTES)
    throw new BoardError(`GICv2 ${node.path} has no CPU interface of 0x${GICC_NAMED_BYTES.toString(16)} bytes`);
  if (cpus > GICV2_CPUS_MAX)
    throw new BoardError(`board has ${cpus} CPUs, and a GICv2 has interfaces for ${GICV2_CPUS_MAX} at most`);
  return {
    version: 2,
    path: node.path,
    phandle: node.phandle ?? 0,
    distributor,
    cpuInterface: { pa: cpuInterface.pa, sizeBytes: Math.max(cpuInterface.sizeBytes, GICV2_GICC_BYTES) },
    v2mFrames,
    its: [],
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
