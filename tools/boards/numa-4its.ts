/**
 * A server of two sockets with two dies each: four NUMA nodes, and on each a CPU, RAM, an ITS, an SMMUv3 and a PCI host
 * bridge of 64 buses. Everything of node n is that of node 0 with n in address bits [41:40].
 * No two bridges map alike: node 0 one to one; on node 1 the halves of the StreamIDs are swapped; on node 2 DeviceIDs are
 * offset; on node 3 the upper half of the buses delivers to the ITS of node 2. No machine that was built has this map.
 */
import type { FdtNode } from '#shared/fdt/node.ts';
import {
  addCpus,
  addDistances,
  addGic,
  addIts,
  addMemory,
  addPciHost,
  EDGE_RISING,
  type MapRow,
  Phandles,
  rootNode,
  SPI,
} from './parts.ts';

const NODES = [0, 1, 2, 3];
const NODE_BYTES = 2 ** 40;
const GICR_FRAMES_BYTES = 0x2_0000;
const RIDS = 64 * 256;

export function numa4its(): FdtNode {
  const phandles = new Phandles();
  const gicPhandle = 0x100;
  const root = rootNode('Four nodes, four ITSs', 'culvert,numa-4its', gicPhandle);
  addCpus(
    root,
    'arm,cortex-a72',
    NODES.map((numa) => ({ mpidr: numa * 0x1_0000, numa })),
  );
  for (const numa of NODES) {
    const sizeBytes = numa === 0 ? 0x4000_0000 : 0x2000_0000;
    addMemory(root, { address: numa * NODE_BYTES + 0x8000_0000, sizeBytes }, numa);
  }
  const gic = addGic(
    root,
    gicPhandle,
    { address: 0x2f00_0000, sizeBytes: 0x1_0000 },
    NODES.map((numa) => ({ address: numa * NODE_BYTES + 0x2f10_0000, sizeBytes: GICR_FRAMES_BYTES })),
  );
  const itses = NODES.map((numa) =>
    addIts(gic, { address: numa * NODE_BYTES + 0x2f20_0000, sizeBytes: 0x2_0000 }, numa, phandles),
  );
  const smmus = NODES.map((numa) => addSmmu(root, numa, phandles));
  for (const numa of NODES) addBridge(root, numa, smmus[numa]!, itses, gicPhandle);
  addDistances(
    root,
    NODES.map((from) => NODES.map((to) => (from === to ? 10 : from >> 1 === to >> 1 ? 15 : 30))),
  );
  return root;
}

function addBridge(root: FdtNode, numa: number, smmu: number, itses: readonly number[], gic: number): void {
  const base = numa * NODE_BYTES;
  const its = itses[numa]!;
  const iommuMap: MapRow[] =
    numa === 1
      ? [
          [0, smmu, RIDS / 2, RIDS / 2],
          [RIDS / 2, smmu, 0, RIDS / 2],
        ]
      : [[0, smmu, 0, RIDS]];
  const msiMaps: Record<number, MapRow[]> = {
    2: [[0, its, 0x4000, RIDS]],
    3: [
      [0, its, 0, RIDS / 2],
      [RIDS / 2, itses[2]!, 0xa000, RIDS / 2],
    ],
  };
  addPciHost(root, {
    compatible: ['pci-host-ecam-generic'],
    registers: [{ address: base + 0x10_0000_0000, sizeBytes: 64 * 0x10_0000 }],
    segment: numa,
    buses: [0, 63],
    numa,
    windows: [
      { space: 'io', pciBase: 0, cpuBase: base + 0x1f_0000_0000, sizeBytes: 0x1_0000 },
      { space: 'mem32', pciBase: 0x3000_0000, cpuBase: base + 0x20_3000_0000, sizeBytes: 0x1000_0000 },
      {
        space: 'mem64',
        prefetchable: true,
        pciBase: base + 0x80_0000_0000,
        cpuBase: base + 0x80_0000_0000,
        sizeBytes: 0x10_0000_0000,
      },
    ],
    iommuMap,
    msiMap: msiMaps[numa] ?? [[0, its, 0, RIDS]],
    intx: { gic, firstSpi: 160 + numa * 4 },
  });
}

function addSmmu(root: FdtNode, numa: number, phandles: Phandles): number {
  const names = ['eventq', 'gerror', 'priq', 'cmdq-sync'];
  const address = numa * NODE_BYTES + 0x2b40_0000;
  const smmu = root
    .addChild(`iommu@${address.toString(16)}`)
    .setStrings('compatible', 'arm,smmu-v3')
    .setReg({ address, sizeBytes: 0x2_0000 })
    .setStrings('interrupt-names', ...names)
    .setCells('interrupts', ...names.flatMap((_, i) => [SPI, 96 + numa * 4 + i, EDGE_RISING]))
    .setCells('#iommu-cells', 1)
    .setFlag('dma-coherent')
    .setCells('numa-node-id', numa);
  return phandles.to(smmu);
}
