/**
 * A two-node ThunderX of 2015 in spirit: everything of node 1 is that of node 0 with address bit 44 set. On each node an
 * ECAM bridge and a PEM, each behind an SMMUv2 of its own, and one ITS for both. Configuration and most windows lie above
 * 2^47. DeviceIDs and StreamIDs are not requester ids: both bridges of a node share the ITS, and their ids may not meet.
 * Differs from the silicon where a model has a reason to: RAM starts at 1 GiB, so that the 32-bit bus addresses of PCI
 * are not RAM as well; an ECAM bridge has 32 buses and a 32-bit window, since its functions have ordinary BARs.
 */
import type { FdtNode } from '#shared/fdt/node.ts';
import {
  addCpus,
  addDistances,
  addGic,
  addIts,
  addMemory,
  addPciHost,
  LEVEL_HIGH,
  Phandles,
  type Region,
  rootNode,
  SPI,
} from './parts.ts';

const NODE_BIT = 2 ** 44;
const RAM_NODE_BIT = 2 ** 40;
const CONTEXT_BANKS = 128;

/** Global and context fault SPIs of the two SMMUs of each node, as firmware numbered those of node 0 and 7. */
const SMMU_SPIS = [
  [68, 70],
  [82, 84],
] as const;

export function thunderx2015(): FdtNode {
  const phandles = new Phandles();
  const gicPhandle = 0x100;
  const root = rootNode('Two-node ThunderX, 2015', 'cavium,thunder-88xx', gicPhandle);
  addCpus(
    root,
    'cavium,thunder',
    [0, 1].flatMap((numa) => [0, 1].map((core) => ({ mpidr: numa * 0x1_0000 + core, numa }))),
  );
  for (const numa of [0, 1])
    addMemory(root, { address: numa * RAM_NODE_BIT + 0x4000_0000, sizeBytes: 0x4000_0000 }, numa);
  const gic = addGic(
    root,
    gicPhandle,
    { address: 0x8010_0000_0000, sizeBytes: 0x1_0000 },
    // Two redistributors of two frames each: a node's CPUs are in its own region.
    [0, 1].map((numa) => ({ address: numa * NODE_BIT + 0x8010_8000_0000, sizeBytes: 0x4_0000 })),
  );
  for (const numa of [0, 1]) {
    const its = addIts(gic, { address: numa * NODE_BIT + 0x8010_0002_0000, sizeBytes: 0x20_0000 }, numa, phandles);
    addNode(root, numa, its, gicPhandle, phandles);
  }
  addDistances(root, [
    [10, 20],
    [20, 10],
  ]);
  return root;
}

function addNode(root: FdtNode, numa: number, its: number, gic: number, phandles: Phandles): void {
  const base = numa * NODE_BIT;
  const smmus = [0, 1].map((quadrant) =>
    addSmmu(
      root,
      { address: base + 0x8300_0000_0000 + quadrant * 0x10_0000_0000, sizeBytes: 0x200_0000 },
      SMMU_SPIS[numa]![quadrant]!,
      numa,
      phandles,
    ),
  );
  addPciHost(root, {
    compatible: ['cavium,pci-host-thunder-ecam'],
    registers: [{ address: base + 0x8480_0000_0000, sizeBytes: 0x200_0000 }],
    segment: numa * 10,
    buses: [0, 31],
    numa,
    windows: [
      { space: 'mem32', pciBase: 0x1000_0000, cpuBase: base + 0x8410_1000_0000, sizeBytes: 0x3000_0000 },
      {
        space: 'mem64',
        prefetchable: true,
        pciBase: base + 0x8430_0000_0000,
        cpuBase: base + 0x8430_0000_0000,
        sizeBytes: 0x10_0000_0000,
      },
    ],
    iommuMap: [[0, smmus[0]!, 0x400, 0x2000]],
    msiMap: [[0, its, 0x8000, 0x2000]],
  });
  addPciHost(root, {
    compatible: ['cavium,pci-host-thunder-pem'],
    registers: [
      { address: base + 0x8800_1f00_0000, sizeBytes: 57 * 0x100_0000 },
      { address: base + 0x87e0_c000_0000, sizeBytes: 0x100_0000 },
    ],
    segment: numa * 10 + 4,
    buses: [0x1f, 0x57],
    numa,
    windows: [
      { space: 'io', pciBase: 0, cpuBase: base + 0x8830_0000_0000, sizeBytes: 0x1_0000 },
      { space: 'mem32', pciBase: 0x1000_0000, cpuBase: base + 0x8810_1000_0000, sizeBytes: 0x3000_0000 },
      {
        space: 'mem64',
        prefetchable: true,
        pciBase: 0x10_0000_0000,
        cpuBase: base + 0x8820_0000_0000,
        sizeBytes: 0x10_0000_0000,
      },
    ],
    iommuMap: [[0x1f00, smmus[1]!, 0x2000, 0x3900]],
    msiMap: [[0x1f00, its, 0xa000, 0x3900]],
    intx: { gic, firstSpi: 24 + numa * 4 },
  });
}

/** 128 context banks that share one interrupt, beside one for global faults. */
function addSmmu(root: FdtNode, registers: Region, firstSpi: number, numa: number, phandles: Phandles): number {
  const contexts = Array.from({ length: CONTEXT_BANKS }, () => [SPI, firstSpi + 1, LEVEL_HIGH]).flat();
  const smmu = root
    .addChild(`iommu@${registers.address.toString(16)}`)
    .setStrings('compatible', 'cavium,smmu-v2', 'arm,smmu-v2')
    .setReg(registers)
    .setCells('#global-interrupts', 1)
    .setCells('interrupts', SPI, firstSpi, LEVEL_HIGH, ...contexts)
    .setCells('#iommu-cells', 1)
    .setFlag('dma-coherent')
    .setCells('numa-node-id', numa);
  return phandles.to(smmu);
}
