import { assert, describe, test } from 'vitest';
import type { BoardDescription, BoardFunction } from '#shared/board/description.ts';
import { requireGicv3 } from '#shared/board/parts.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { loadBoard } from '../../../services/hardware/board/load.ts';
import { BoardError } from '../../../services/hardware/board.ts';
import { barShapesOf } from '../../../services/hardware/pcie/bar.ts';
import { at, exampleBoard, NIC } from './pcie/bench.ts';

/** The example board with its tree changed. */
function withTree(change: (root: FdtNode) => void): BoardDescription {
  const board = exampleBoard();
  const root = parseFdt(board.dtb);
  change(root);
  return { ...board, dtb: buildFdt(root) };
}

function withFunctions(change: (functions: readonly BoardFunction[]) => readonly BoardFunction[]): BoardDescription {
  const board = exampleBoard();
  return { ...board, functions: change(board.functions) };
}

function node(root: FdtNode, path: string): FdtNode {
  const found = root.find(path);
  if (found === undefined) throw new Error(`no node ${path}`);
  return found;
}

function drop(path: string): BoardDescription {
  return withTree((root) => {
    const gone = node(root, path);
    gone.parent?.removeChild(gone);
  });
}

/** A second bridge beside the first one, with its own buses. */
function secondBridge(root: FdtNode, segment: number | undefined): FdtNode {
  const copy = node(root, '/pcie@10000000').copy(root);
  copy.setReg({ address: 0x41_0000_0000, sizeBytes: 0x1000_0000 });
  copy.properties.delete('ranges');
  if (segment === undefined) copy.properties.delete('linux,pci-domain');
  else copy.setCells('linux,pci-domain', segment);
  return copy;
}

describe('loadBoard', () => {
  test('reads the example board', () => {
    const board = loadBoard(exampleBoard());
    assert.deepEqual(board.memory, [{ pa: 0x4000_0000, sizeBytes: 0x4000_0000 }]);
    assert.equal(board.cpus, 2);
    assert.deepEqual(board.gic.distributor, { pa: 0x0800_0000, sizeBytes: 0x1_0000 });
    assert.deepEqual(requireGicv3(board.gic).redistributors, [{ pa: 0x080a_0000, sizeBytes: 0xf6_0000 }]);
    assert.deepEqual(
      board.gic.its.map((i) => [i.registers.pa, i.phandle]),
      [[0x0808_0000, 0x8004]],
    );
    assert.deepInclude(board.smmus[0], { kind: 'v3', spis: { eventq: 74, gerror: 77, cmdqSync: 76, priq: 75 } });
    const bridge = board.bridges[0]!;
    assert.deepEqual(bridge.ecam, { pa: 0x40_1000_0000, sizeBytes: 0x1000_0000 });
    assert.deepEqual(bridge.busRange, { first: 0, last: 255 });
    assert.deepEqual(
      bridge.ranges.map((r) => [r.space, r.cpuBase, r.pciBase, r.sizeBytes]),
      [
        ['io', 0x3eff_0000, 0, 0x1_0000],
        ['mem32', 0x1000_0000, 0x1000_0000, 0x2eff_0000],
        ['mem64', 0x80_0000_0000, 0x80_0000_0000, 0x80_0000_0000],
      ],
    );
  });

  test('a bridge with less ECAM than buses serves the buses that it can reach', () => {
    const board = loadBoard(
      withTree((root) => node(root, '/pcie@10000000').setReg({ address: 0x40_1000_0000, sizeBytes: 16 << 20 })),
    );
    assert.deepEqual(board.bridges[0]!.busRange, { first: 0, last: 15 });
  });

  test('bridges without linux,pci-domain get segments in order', () => {
    const board = loadBoard(
      withTree((root) => {
        node(root, '/pcie@10000000').properties.delete('linux,pci-domain');
        secondBridge(root, undefined);
      }),
    );
    assert.deepEqual(
      board.bridges.map((b) => b.segment),
      [0, 1],
    );
  });

  test.for<[string, BoardDescription]>([
    ['no memory', drop('/memory@40000000')],
    ['no GIC: no node is compatible with arm,gic-v3', drop('/intc@8000000')],
    ['board has no GICv3 ITS: ', drop('/intc@8000000/its@8080000')],
    ['which is no SMMU', drop('/smmuv3@9050000')],
    ['no PCI host bridge', drop('/pcie@10000000')],
    ['no CPU', drop('/cpus')],
    ['has no iommu-map', withTree((root) => node(root, '/pcie@10000000').properties.delete('iommu-map'))],
    ['others without it', withTree((root) => secondBridge(root, undefined))],
    ['serve the same buses', withTree((root) => secondBridge(root, 0))],
    [
      'which is no GICv3 ITS',
      withTree((root) => node(root, '/pcie@10000000').setCells('msi-map', 0, 0x8005, 0, 0x1_0000)),
    ],
    [
      'memory and ECAM of /pcie@10000000 overlap at 0x4010000000',
      withTree((root) => node(root, '/memory@40000000').setReg({ address: 0x4000_0000, sizeBytes: 0x40_0000_0000 })),
    ],
    ['device tree is truncated', { ...exampleBoard(), dtb: exampleBoard().dtb.subarray(0, 500) }],
    ['two functions at 0000:01:00.0', withFunctions((all) => [...all, all.find((f) => f.sbdf === NIC)!])],
    [
      'segment 7, which no host bridge serves',
      exampleBoard((fn) => (fn.sbdf === NIC ? { ...fn, sbdf: at('0007:01:00.0') } : fn)),
    ],
    [
      '0000:09:00.0 is on bus 09, which hangs below no bridge',
      exampleBoard((fn) => (fn.sbdf === NIC ? { ...fn, sbdf: at('09:00.0') } : fn)),
    ],
    ['both lead to bus 01', exampleBoard((fn) => (fn.sbdf === at('00:02.1') ? { ...fn, secondaryBus: 1 } : fn))],
    [
      'BAR 0 cannot have 5000 bytes',
      exampleBoard((fn) => (fn.sbdf === NIC ? { ...fn, barSizes: new Map([[0, 5000]]) } : fn)),
    ],
    [
      'its MSI-X structures end at',
      exampleBoard((fn) => (fn.sbdf === NIC ? { ...fn, barSizes: new Map([[3, 0x1000]]) } : fn)),
    ],
    [
      'there is no BAR 1',
      exampleBoard((fn) => (fn.sbdf === at('02:00.0') ? { ...fn, barSizes: new Map([[1, 0x1000]]) } : fn)),
    ],
    [
      'is a bridge and cannot be a dma-probe',
      exampleBoard((fn) => (fn.sbdf === at('00:02.0') ? { ...fn, model: 'dma-probe' } : fn)),
    ],
    ['cannot be a dma-probe', exampleBoard((fn) => (fn.sbdf === at('00:00.0') ? { ...fn, model: 'dma-probe' } : fn))],
  ])('refuses a board, in one line: %s', ([text, description]) => {
    try {
      loadBoard(description);
    } catch (error) {
      assert.instanceOf(error, BoardError);
      assert.include((error as Error).message, text);
      assert.notInclude((error as Error).message, '\n');
      return;
    }
    assert.fail('the board was taken');
  });

  test('a BAR without a size gets one that its dumped address is aligned to, and that holds MSI-X', () => {
    const sizesOf = (sbdf: number): Record<number, number> => {
      const fn = exampleBoard().functions.find((f) => f.sbdf === sbdf)!;
      return Object.fromEntries(barShapesOf({ ...fn, barSizes: new Map() }).map((s) => [s.index, s.sizeBytes]));
    };
    assert.deepEqual(sizesOf(NIC), { 0: 0x1_0000, 1: 0x1_0000, 2: 32, 3: 0x1_0000 });
    assert.deepEqual(sizesOf(at('00:02.0')), { 0: 0x1000 }, 'dumped at 0x108a1000');
  });
});
