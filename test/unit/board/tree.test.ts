import { assert, describe, test } from 'vitest';
import type { BoardLack } from '#shared/board/description.ts';
import { BoardError, type BoardTree, requireGicv3 } from '#shared/board/parts.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import { buildFdt } from '#shared/fdt/blob.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { lookupRid } from '#shared/fdt/pci-bindings.ts';
import { numa4its } from '#tools/boards/numa-4its.ts';
import { thunderx2015 } from '#tools/boards/thunderx-2015.ts';

function read(root: FdtNode, without: readonly BoardLack[] = []): BoardTree {
  return readBoardTree({ dtb: buildFdt(root), without });
}

function changed(make: () => FdtNode, change: (root: FdtNode) => void): FdtNode {
  const root = make();
  change(root);
  return root;
}

function node(root: FdtNode, path: string): FdtNode {
  const found = root.find(path);
  if (found === undefined) throw new Error(`no node ${path}`);
  return found;
}

const GIC = '/interrupt-controller@801000000000';
const ECAM = '/pcie@848000000000';
const PEM = '/pcie@88001f000000';

describe('a two-node ThunderX', () => {
  const board = read(thunderx2015());

  test('has four segments, each bridge behind an SMMUv2 of its own', () => {
    assert.deepEqual(
      board.bridges.map((b) => [b.segment, b.driver, b.busShift, b.busRange.first, b.busRange.last]),
      [
        [0, 'thunder-ecam', 20, 0, 31],
        [4, 'thunder-pem', 24, 0x1f, 0x57],
        [10, 'thunder-ecam', 20, 0, 31],
        [14, 'thunder-pem', 24, 0x1f, 0x57],
      ],
    );
    assert.equal(new Set(board.bridges.map((b) => b.smmuPhandle)).size, 4);
    assert.isTrue(board.smmus.every((s) => s.kind === 'v2' && s.implementation === 'cavium-smmu-v2'));
  });

  test('has configuration and windows above 2^47, which are exact', () => {
    const [ecam, pem, , far] = board.bridges;
    assert.isTrue(board.bridges.every((b) => b.ecam.pa > 2 ** 47));
    assert.equal(ecam!.ecam.pa, 0x8480_0000_0000);
    assert.equal(far!.ecam.pa, 0x8800_1f00_0000 + 2 ** 44);
    assert.deepEqual(pem!.pem, { pa: 0x87e0_c000_0000, sizeBytes: 0x1_0000 });
  });

  test('has one ITS a node, where the DeviceIDs of its two bridges do not meet and are no requester ids', () => {
    for (const [first, second] of [
      [0, 1],
      [2, 3],
    ] as const) {
      const a = board.bridges[first]!;
      const b = board.bridges[second]!;
      const inEcam = lookupRid(a.msiMap!, 0x0100)!;
      const inPem = lookupRid(b.msiMap!, 0x2000)!;
      assert.equal(inEcam.phandle, inPem.phandle);
      assert.deepEqual([inEcam.id, inPem.id], [0x8100, 0xa100]);
      const ids = [a, b].flatMap(({ msiMap }) => msiMap!.rows.map((r) => [r.outBase, r.outBase + r.length] as const));
      assert.isTrue(ids[0]![1] <= ids[1]![0]);
    }
    assert.notEqual(board.bridges[0]!.msiMap!.rows[0]!.phandle, board.bridges[2]!.msiMap!.rows[0]!.phandle);
  });

  test('has the CPUs of each node in the redistributor region of that node', () => {
    assert.deepEqual(board.mpidrs, [0, 1, 0x1_0000, 0x1_0001]);
    assert.deepEqual(
      requireGicv3(board.gic).redistributors.map((r) => r.sizeBytes),
      [0x4_0000, 0x4_0000],
    );
    assert.deepEqual(
      board.numa!.nodes.map((n) => n.cpus),
      [
        [0, 1],
        [2, 3],
      ],
    );
  });
});

describe('a board of four nodes', () => {
  const board = read(numa4its());

  test('has an ITS, an SMMUv3 and a bridge on each', () => {
    const nodes = [0, 1, 2, 3];
    assert.deepEqual(
      board.itses.map((i) => i.numaNode),
      nodes,
    );
    assert.deepEqual(
      board.smmus.map((s) => [s.kind, s.numaNode]),
      nodes.map((n) => ['v3' as const, n]),
    );
    assert.deepEqual(
      board.bridges.map((b) => [b.segment, b.numaNode]),
      nodes.map((n) => [n, n]),
    );
    assert.deepEqual(board.numa!.distances[1], [15, 10, 30, 30]);
  });

  test('the bridge of node 3 reaches two ITSs, by bus', () => {
    const { msiMap } = board.bridges[3]!;
    assert.deepEqual(lookupRid(msiMap!, 0x0100), { phandle: board.itses[3]!.phandle, id: 0x0100 });
    assert.deepEqual(lookupRid(msiMap!, 0x2100), { phandle: board.itses[2]!.phandle, id: 0xa100 });
  });

  test('the StreamIDs of node 1 have their halves swapped', () => {
    const { iommuMap } = board.bridges[1]!;
    assert.equal(lookupRid(iommuMap, 0x0100)?.id, 0x2100);
    assert.equal(lookupRid(iommuMap, 0x2100)?.id, 0x0100);
  });

  test('SMMUs have their four interrupts by name', () => {
    const [smmu] = board.smmus;
    assert.deepEqual(smmu!.kind === 'v3' && smmu!.spis, { eventq: 96, gerror: 97, priq: 98, cmdqSync: 99 });
  });
});

describe('what a board may lack', () => {
  const noIts = (): FdtNode =>
    changed(thunderx2015, (root) => {
      for (const its of [...node(root, GIC).children]) node(root, GIC).removeChild(its);
    });

  test('an ITS, when its file says so: no bridge has MSIs then', () => {
    assert.throws(() => read(noIts()), BoardError, /no GICv3 ITS.*"without: \[msi\]"/);
    const board = read(noIts(), ['msi']);
    assert.isEmpty(board.itses);
    assert.isTrue(board.bridges.every((b) => b.msiMap === undefined));
  });

  test('an SMMU before a bridge, when its file says so', () => {
    const bare = changed(thunderx2015, (root) => node(root, PEM).properties.delete('iommu-map'));
    assert.throws(() => read(bare), BoardError, /no iommu-map and stands in no mmu-masters.*"without: \[smmu\]"/);
    const board = read(bare, ['smmu']);
    assert.deepEqual(
      board.bridges.map((b) => b.smmuPhandles.length),
      [1, 0, 1, 1],
    );
  });

  test('an SMMU that is disabled is one that is not there', () => {
    const off = changed(thunderx2015, (root) => node(root, '/iommu@831000000000').setStrings('status', 'disabled'));
    assert.throws(() => read(off), BoardError, /names only disabled SMMUs/);
    assert.isEmpty(read(off, ['smmu']).bridges[1]!.iommuMap.rows);
  });

  test('a bridge that nothing can drive, beside others', () => {
    const board = read(changed(thunderx2015, (root) => node(root, PEM).setStrings('compatible', 'fsl,ls2080a-pcie')));
    assert.equal(board.bridges.length, 3);
    assert.deepEqual(
      board.leftOut.map((b) => [b.path, b.compatible]),
      [[PEM, 'fsl,ls2080a-pcie']],
    );
  });
});

describe('the address map', () => {
  test('a window goes on around what stands in it, at the bus addresses it had', () => {
    const board = read(
      changed(thunderx2015, (root) => {
        // One window over SMMUs, ECAM and PEM registers of node 0, as ThunderX firmware declares it.
        node(root, ECAM).setCells('ranges', 0x0300_0000, 0x1, 0, 0x8300, 0, 0x500, 0);
      }),
    );
    const pieces = board.bridges[0]!.ranges;
    assert.deepEqual(
      pieces.map((r) => [r.cpuBase, r.cpuBase + r.sizeBytes]),
      [
        [0x8300_0200_0000, 0x8310_0000_0000],
        [0x8310_0200_0000, 0x8480_0000_0000],
        [0x8480_0200_0000, 0x87e0_c000_0000],
        [0x87e0_c001_0000, 0x8800_0000_0000],
      ],
    );
    for (const r of pieces) assert.equal(r.pciBase - 0x1_0000_0000, r.cpuBase - 0x8300_0000_0000);
  });

  test('a window inside that of another bridge is the other one there', () => {
    const board = read(
      changed(thunderx2015, (root) => {
        node(root, ECAM).setCells('ranges', 0x0300_0000, 0x8820, 0, 0x8820, 0, 0x20, 0);
      }),
    );
    // The prefetchable window of the PEM takes the first half; its I/O window lies at 0x8830_0000_0000.
    assert.deepEqual(
      board.bridges[0]!.ranges.map((r) => [r.cpuBase, r.sizeBytes]),
      [[0x8830_0001_0000, 0x10_0000_0000 - 0x1_0000]],
    );
    assert.equal(board.bridges[1]!.ranges.length, 3);
  });

  test.for<[string, string, (root: FdtNode) => void]>([
    [
      'two bridges with one window',
      'overlap at 0x883000000000',
      (root) => node(root, ECAM).setCells('ranges', 0x0100_0000, 0, 0, 0x8830, 0, 0, 0x1_0000),
    ],
    [
      'a window across the edge of an SMMU',
      'overlap at 0x830001000000',
      (root) => node(root, ECAM).setCells('ranges', 0x0300_0000, 0, 0, 0x8300, 0x0100_0000, 0, 0x0200_0000),
    ],
    [
      'two register blocks in one place',
      'overlap at 0x830000000000',
      (root) => node(root, '/iommu@831000000000').setReg({ address: 0x8300_0000_0000, sizeBytes: 0x1_0000 }),
    ],
    [
      'RAM inside a window',
      'overlap at 0x40000000',
      (root) => node(root, ECAM).setCells('ranges', 0x0300_0000, 0, 0, 0, 0x1000_0000, 0, 0x7000_0000),
    ],
    ['an empty window', 'is empty', (root) => node(root, ECAM).setCells('ranges', 0x0300_0000, 0, 0, 0, 0, 0, 0)],
  ])('%s is refused', ([, text, change]) => {
    assert.throws(() => read(changed(thunderx2015, change)), BoardError, text);
  });
});

describe('a tree that is refused', () => {
  test.for<[string, (root: FdtNode) => void]>([
    [
      'is a GICv2, its v2m frame makes SPIs of messages and translates nothing through an ITS ("without: [msi]" in the',
      (root) => {
        const gic = node(root, GIC).setStrings('compatible', 'arm,gic-400');
        gic
          .addChild('v2m@0')
          .setStrings('compatible', 'arm,gic-v2m-frame')
          .setReg({ address: 0x8010_1000_0000, sizeBytes: 0x1000 });
      },
    ],
    [
      '/memory@40000000 has size 0; firmware fills it in',
      (root) => {
        root.removeChild(node(root, '/memory@10040000000'));
        node(root, '/memory@40000000').setReg({ address: 0x4000_0000, sizeBytes: 0 });
      },
    ],
    [
      'no second register block',
      (root) => node(root, PEM).setReg({ address: 0x8800_1f00_0000, sizeBytes: 0x3900_0000 }),
    ],
    ['serves segment 65536, above 65535', (root) => node(root, PEM).setCells('linux,pci-domain', 0x1_0000)],
    ['says 10 from node 0 to node 1', (root) => node(root, '/distance-map').setCells('distance-matrix', 0, 1, 10)],
    [
      'not made of whole pages',
      (root) => node(root, '/memory@40000000').setReg({ address: 0x4000_0000, sizeBytes: 5000 }),
    ],
    ['none is left for context banks', (root) => node(root, '/iommu@830000000000').setCells('#global-interrupts', 129)],
    ['which is no SMMU', (root) => node(root, PEM).setCells('iommu-map', 0, 1, 0, 0x100)],
    ['which is no GICv3 ITS', (root) => node(root, PEM).setCells('msi-map', 0, 2, 0, 0x100)],
    ['outside its mask', (root) => node(root, PEM).setCells('iommu-map-mask', 0xff)],
  ])('in one line: %s', ([text, change]) => {
    try {
      read(changed(thunderx2015, change));
    } catch (error) {
      assert.instanceOf(error, BoardError);
      assert.include((error as Error).message, text);
      assert.notInclude((error as Error).message, '\n');
      return;
    }
    assert.fail('the tree was taken');
  });
});
