/**
 * The SMMUs of a board, of both kinds (Linux bindings arm,smmu-v3 and arm,smmu).
 * Not modelled: other IOMMUs (rockchip,iommu, ...); what stands behind one is left out with it.
 */
import type { FdtNode } from '../../fdt/node.ts';
import { handleOf } from '../../fdt/pci-host.ts';
import { BoardError, type BoardGic, type BoardSmmu, type BoardSmmuV3, type Smmuv2Implementation } from '../parts.ts';
import { firstRegion, numaNodeOf, spisOf } from './nodes.ts';

/** The most specific name first: a node lists it beside the architecture's. */
const V2: readonly (readonly [string, Smmuv2Implementation])[] = [
  ['cavium,smmu-v2', 'cavium-smmu-v2'],
  ['arm,mmu-500', 'mmu-500'],
  ['arm,mmu-401', 'mmu-401'],
  ['arm,mmu-400', 'mmu-400'],
  ['arm,smmu-v2', 'smmu-v2'],
  ['arm,smmu-v1', 'smmu-v1'],
];
const V3_BYTES = 0x2_0000;
/** A global page, its neighbour and as many for context banks, of 4 KiB. */
const V2_BYTES = 0x4000;

/** Every enabled SMMU, in the order of the tree. Throws BoardError. */
export function smmusOf(tree: FdtNode, gic: BoardGic): BoardSmmu[] {
  const nodes = tree.compatibleNodes('arm,smmu-v3', ...V2.map(([name]) => name));
  return nodes.map((node) => (node.isCompatible('arm,smmu-v3') ? v3Of(node, gic) : v2Of(node, gic)));
}

function v3Of(node: FdtNode, gic: BoardGic): BoardSmmu {
  const names = node.strings('interrupt-names');
  const wired = spisOf(node, gic.path);
  const spi = (name: string): number | undefined =>
    wired[names.includes(name) ? names.indexOf(name) : names.indexOf('combined')];
  return {
    kind: 'v3',
    path: node.path,
    phandle: handleOf(node),
    registers: firstRegion(node, V3_BYTES, 'two pages of SMMUv3 registers'),
    spis: { eventq: spi('eventq'), gerror: spi('gerror'), cmdqSync: spi('cmdq-sync'), priq: spi('priq') },
    msiParent: msiParentOf(node),
    numaNode: numaNodeOf(node),
    dmaCoherent: node.has('dma-coherent'),
  };
}

/** The ITS and DeviceID that `msi-parent` names; undefined without it, or when it is no ITS. */
function msiParentOf(node: FdtNode): BoardSmmuV3['msiParent'] {
  const [phandle, deviceId] = node.cells('msi-parent');
  if (phandle === undefined || deviceId === undefined) return undefined;
  return node.root.byPhandle(phandle)?.isCompatible('arm,gic-v3-its') ? { phandle, deviceId } : undefined;
}

function v2Of(node: FdtNode, gic: BoardGic): BoardSmmu {
  const globals = node.u32('#global-interrupts') ?? 1;
  const spis = spisOf(node, gic.path);
  if (spis.length > 0 && spis.length <= globals)
    throw new BoardError(
      `${node.path} has ${spis.length} interrupts and ${globals} of them for global faults: none is left for context banks`,
    );
  return {
    kind: 'v2',
    implementation: V2.find(([name]) => node.isCompatible(name))![1],
    path: node.path,
    phandle: handleOf(node),
    registers: firstRegion(node, V2_BYTES, 'SMMUv2 registers'),
    globalSpis: spis.slice(0, globals),
    contextSpis: spis.slice(globals),
    streamMatchMask: node.u32('stream-match-mask') ?? 0,
    iommuCells: node.u32('#iommu-cells') ?? 1,
    numaNode: numaNodeOf(node),
    dmaCoherent: node.has('dma-coherent'),
  };
}
