/**
 * A small board with a GICv2: QEMU's `virt` of `gic-version=2` in its addresses, with two host bridges where QEMU has
 * one. The first is behind an SMMUv3, whose interrupts are edges, the second behind an MMU-500, whose are levels. A v2m
 * frame stands beside the GIC as it does in QEMU; no model answers there.
 */
import type { FdtNode } from '#shared/fdt/node.ts';
import {
  addCpus,
  addGicV2,
  addMemory,
  addPciHost,
  EDGE_RISING,
  LEVEL_HIGH,
  Phandles,
  type Region,
  rootNode,
  SPI,
} from './parts.ts';

const CPUS = 4;
const BUSES = 16;
const RIDS = BUSES * 256;
const CONTEXT_BANKS = 16;

export function virtGicv2(): FdtNode {
  const phandles = new Phandles();
  const gicPhandle = 0x100;
  const root = rootNode('QEMU virt in spirit, with a GICv2', 'culvert,virt-gicv2', gicPhandle);
  addCpus(
    root,
    'arm,cortex-a53',
    Array.from({ length: CPUS }, (_, mpidr) => ({ mpidr })),
  );
  addMemory(root, { address: 0x4000_0000, sizeBytes: 0x4000_0000 });
  const gic = addGicV2(root, gicPhandle, [
    { address: 0x0800_0000, sizeBytes: 0x1_0000 },
    { address: 0x0801_0000, sizeBytes: 0x1_0000 },
    { address: 0x0803_0000, sizeBytes: 0x1_0000 },
    { address: 0x0804_0000, sizeBytes: 0x1_0000 },
  ]);
  const v2m = gic
    .addChild('v2m@8020000')
    .setStrings('compatible', 'arm,gic-v2m-frame')
    .setFlag('msi-controller')
    .setReg({ address: 0x0802_0000, sizeBytes: 0x1000 });
  phandles.to(v2m);
  addBridge(root, 0, addSmmuV3(root, phandles), gicPhandle, 3);
  addBridge(root, 1, addMmu500(root, phandles), gicPhandle, 7);
  return root;
}

function addSmmuV3(root: FdtNode, phandles: Phandles): number {
  const names = ['eventq', 'priq', 'cmdq-sync', 'gerror'];
  const smmu = root
    .addChild('iommu@9050000')
    .setStrings('compatible', 'arm,smmu-v3')
    .setReg({ address: 0x0905_0000, sizeBytes: 0x2_0000 })
    .setStrings('interrupt-names', ...names)
    .setCells('interrupts', ...names.flatMap((_, i) => [SPI, 74 + i, EDGE_RISING]))
    .setCells('#iommu-cells', 1)
    .setFlag('dma-coherent');
  return phandles.to(smmu);
}

/** One interrupt for global faults, one that its context banks share. */
function addMmu500(root: FdtNode, phandles: Phandles): number {
  const contexts = Array.from({ length: CONTEXT_BANKS }, () => [SPI, 79, LEVEL_HIGH]).flat();
  const smmu = root
    .addChild('iommu@9100000')
    .setStrings('compatible', 'arm,mmu-500')
    .setReg({ address: 0x0910_0000, sizeBytes: 0x2_0000 })
    .setCells('#global-interrupts', 1)
    .setCells('interrupts', SPI, 78, LEVEL_HIGH, ...contexts)
    .setCells('#iommu-cells', 1)
    .setFlag('dma-coherent');
  return phandles.to(smmu);
}

/** Configuration, a window below 4 GiB and one above; segment 1 has those of segment 0 at other addresses. */
function addBridge(root: FdtNode, segment: number, smmu: number, gic: number, firstSpi: number): void {
  const mem32: Region = { address: 0x1000_0000 + segment * 0x1000_0000, sizeBytes: 0x1000_0000 };
  const mem64 = 0x80_0000_0000 + segment * 0x20_0000_0000;
  addPciHost(root, {
    compatible: ['pci-host-ecam-generic'],
    registers: [{ address: 0x40_1000_0000 + segment * 0x1000_0000, sizeBytes: BUSES * 0x10_0000 }],
    segment,
    buses: [0, BUSES - 1],
    windows: [
      { space: 'io', pciBase: 0, cpuBase: 0x3eff_0000 - segment * 0x1_0000, sizeBytes: 0x1_0000 },
      { space: 'mem32', pciBase: mem32.address, cpuBase: mem32.address, sizeBytes: mem32.sizeBytes },
      { space: 'mem64', prefetchable: true, pciBase: mem64, cpuBase: mem64, sizeBytes: 0x20_0000_0000 },
    ],
    iommuMap: [[0, smmu, 0, RIDS]],
    intx: { gic, firstSpi },
  });
}
