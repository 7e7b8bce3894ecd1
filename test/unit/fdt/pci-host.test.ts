import { assert, describe, test } from 'vitest';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import { FdtNode } from '#shared/fdt/node.ts';
import {
  deviceIdMap,
  handleOf,
  mastersOf,
  pciHostDriver,
  pciHostNodes,
  streamMap,
  whyNotDriven,
} from '#shared/fdt/pci-host.ts';

const BRIDGE = 1;
const ITS = 2;

/** A tree with one host bridge of phandle BRIDGE, changed, and read from its blob. */
function tree(change: (root: FdtNode, bridge: FdtNode) => void, ...compatible: string[]): FdtNode {
  const root = new FdtNode().setCells('#address-cells', 2).setCells('#size-cells', 2);
  const bridge = root
    .addChild('pcie@0')
    .setStrings('device_type', 'pci')
    .setStrings('compatible', ...compatible)
    .setCells('phandle', BRIDGE);
  change(root, bridge);
  return parseFdt(buildFdt(root));
}

describe('a host bridge of a device tree', () => {
  test.for([
    ['pci-host-ecam-generic', 'ecam'],
    ['cavium,pci-host-thunder-ecam', 'thunder-ecam'],
    ['cavium,thunder-pcie', 'thunder-ecam'],
    ['cavium,pci-host-thunder-pem', 'thunder-pem'],
  ])('%s is driven by %s', ([compatible, driver]) => {
    const [node] = pciHostNodes(tree(() => {}, compatible!));
    assert.equal(pciHostDriver(node!), driver as never);
  });

  test('takes the first name that has a driver', () => {
    const [node] = pciHostNodes(tree(() => {}, 'arm,juno-r1-pcie', 'plda,xpressrich3-axi', 'pci-host-ecam-generic'));
    assert.equal(pciHostDriver(node!), 'ecam');
  });

  test.for([
    ['fsl,ls2080a-pcie', 'DesignWare'],
    ['marvell,armada8k-pcie', 'DesignWare'],
    ['ti,j721e-pcie-host', 'Cadence'],
    ['apm,xgene-pcie', 'one function at a time'],
    ['rockchip,rk3399-pcie', 'registers of the controller'],
    ['hisilicon,hip07-pcie-ecam', 'outside ECAM'],
    ['acme,pcie', 'no driver knows it'],
  ])('%s has none, and it is said why', ([compatible, why]) => {
    const [node] = pciHostNodes(tree(() => {}, compatible!));
    assert.isUndefined(pciHostDriver(node!));
    assert.include(whyNotDriven(node!), why!);
  });

  test('one that is disabled, or below a disabled bus, or below another bridge, is no host bridge', () => {
    const found = pciHostNodes(
      tree((root, bridge) => {
        bridge.addChild('pci@1,0').setStrings('device_type', 'pci');
        root.addChild('pcie@1').setStrings('device_type', 'pci').setStrings('status', 'disabled');
        const bus = root.addChild('soc').setStrings('status', 'disabled');
        bus.addChild('pcie@2').setStrings('device_type', 'pci');
      }, 'pci-host-ecam-generic'),
    );
    assert.deepEqual(
      found.map((n) => n.path),
      ['/pcie@0'],
    );
  });
});

describe('the way of a requester id to an SMMU', () => {
  test('iommu-map says it, with its mask', () => {
    const [node] = pciHostNodes(
      tree((root, bridge) => {
        root.addChild('iommu@0').setCells('phandle', 7);
        bridge.setCells('iommu-map', 0, 7, 0x100, 0x1000).setCells('iommu-map-mask', 0xfff8);
      }, 'pci-host-ecam-generic'),
    );
    assert.deepEqual(streamMap(node!), {
      mask: 0xfff8,
      rows: [{ ridBase: 0, phandle: 7, outBase: 0x100, length: 0x1000 }],
    });
  });

  test('a row for a disabled SMMU counts for nothing', () => {
    const [node] = pciHostNodes(
      tree((root, bridge) => {
        root.addChild('iommu@0').setCells('phandle', 7).setStrings('status', 'disabled');
        root.addChild('iommu@1').setCells('phandle', 8);
        bridge.setCells('iommu-map', 0, 7, 0, 0x100, 0x100, 8, 0, 0x100);
      }, 'pci-host-ecam-generic'),
    );
    assert.deepEqual(
      streamMap(node!)?.rows.map((r) => r.phandle),
      [8],
    );
  });

  test('mmu-masters names the bridge: the StreamID is the requester id, not the id in the list', () => {
    const root = tree((r, bridge) => {
      bridge.setCells('#stream-id-cells', 1);
      r.addChild('other@0').setCells('phandle', 9).setCells('#stream-id-cells', 2);
      r.addChild('iommu@0').setCells('mmu-masters', 9, 0x10, 0x11, BRIDGE, 0x100);
    }, 'cavium,thunder-pcie');
    const smmu = root.find('/iommu@0')!;
    assert.deepEqual(mastersOf(smmu), [9, BRIDGE]);
    const [node] = pciHostNodes(root);
    assert.deepEqual(streamMap(node!), {
      mask: 0xffff,
      rows: [{ ridBase: 0, phandle: handleOf(smmu), outBase: 0, length: 0x1_0000 }],
    });
  });

  test('two SMMUs without phandles have different names', () => {
    const root = tree((r) => {
      r.addChild('iommu@0');
      r.addChild('iommu@1');
    }, 'cavium,thunder-pcie');
    assert.notEqual(handleOf(root.find('/iommu@0')!), handleOf(root.find('/iommu@1')!));
  });

  test('a bridge that no SMMU knows has none', () => {
    assert.isUndefined(streamMap(pciHostNodes(tree(() => {}, 'pci-host-ecam-generic'))[0]!));
  });
});

describe('the way of a requester id to an ITS', () => {
  test('msi-map goes before msi-parent', () => {
    const [node] = pciHostNodes(
      tree((_, bridge) => {
        bridge.setCells('msi-parent', ITS).setCells('msi-map', 0, ITS, 0x1_0000, 0x1_0000);
      }, 'cavium,pci-host-thunder-pem'),
    );
    assert.equal(deviceIdMap(node!)?.rows[0]?.outBase, 0x1_0000);
  });

  test('msi-parent alone: the DeviceID is the requester id', () => {
    const [node] = pciHostNodes(tree((_, bridge) => bridge.setCells('msi-parent', ITS), 'pci-host-ecam-generic'));
    assert.deepEqual(deviceIdMap(node!)?.rows, [{ ridBase: 0, phandle: ITS, outBase: 0, length: 0x1_0000 }]);
  });
});
