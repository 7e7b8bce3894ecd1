import { readFileSync } from 'node:fs';
import { assert, describe, test } from 'vitest';
import { parseFdt } from '#shared/fdt/blob.ts';
import { FdtNode } from '#shared/fdt/node.ts';
import {
  busRange,
  interruptMap,
  lookupInterrupt,
  lookupRid,
  lookupRidAt,
  lookupSpi,
  pciPhysHi,
  pciRanges,
  ridMap,
} from '#shared/fdt/pci-bindings.ts';

const DTB = new Uint8Array(readFileSync(new URL('../../../examples/boards/qemu-virt.dtb', import.meta.url)));
const ITS0 = 0x10;
const ITS1 = 0x11;

/** What `rid` becomes under these rows; [] when no row covers it. */
function mapped(rows: readonly number[], rid: number, mask?: number): number[] {
  const bridge = new FdtNode().addChild('pcie').setCells('msi-map', ...rows);
  if (mask !== undefined) bridge.setCells('msi-map-mask', mask);
  const found = lookupRid(ridMap(bridge, 'msi-map')!, rid);
  return found === undefined ? [] : [found.phandle, found.id];
}

describe('msi-map and iommu-map', () => {
  test('identity', () => {
    assert.deepEqual(mapped([0, ITS0, 0, 0x1_0000], 0x0101), [ITS0, 0x0101]);
  });

  test('a mask makes the functions of a device share an id', () => {
    assert.deepEqual(mapped([0, ITS0, 0, 0x1_0000], 0x0107, 0xfff8), [ITS0, 0x0100]);
  });

  test('halves swapped', () => {
    const rows = [0, ITS0, 0x8000, 0x8000, 0x8000, ITS0, 0, 0x8000];
    assert.deepEqual(mapped(rows, 0x0101), [ITS0, 0x8101]);
    assert.deepEqual(mapped(rows, 0x8101), [ITS0, 0x0101]);
  });

  test('a second segment behind the same ITS starts above 16 bits', () => {
    assert.deepEqual(mapped([0, ITS0, 0x1_0000, 0x1_0000], 0x0100), [ITS0, 0x1_0100]);
  });

  test('two ITSs by bus, and the same number may exist at both', () => {
    const rows = [0, ITS0, 0, 0x8000, 0x8000, ITS1, 0, 0x8000];
    assert.deepEqual(mapped(rows, 0x8010), [ITS1, 0x0010]);
    assert.deepEqual(mapped(rows, 0x0010), [ITS0, 0x0010]);
  });

  test('a rid outside every row is not mapped; the first of two rows wins', () => {
    assert.deepEqual(mapped([0x100, ITS0, 0, 0x100], 0x00ff), []);
    assert.deepEqual(mapped([0x100, ITS0, 0, 0x100], 0x0200), []);
    assert.deepEqual(mapped([0, ITS0, 5, 1, 0, ITS1, 6, 1], 0), [ITS0, 5]);
  });

  test('one rid may have an id at each of two controllers', () => {
    const bridge = new FdtNode().addChild('pcie').setCells('msi-map', 0, ITS0, 5, 1, 0, ITS1, 6, 1);
    const map = ridMap(bridge, 'msi-map')!;
    assert.deepEqual([lookupRidAt(map, 0, ITS0), lookupRidAt(map, 0, ITS1), lookupRidAt(map, 0, 0x99)], [5, 6, -1]);
  });

  test('a row that starts outside the mask, and half a row, are refused', () => {
    assert.throws(() => mapped([1, ITS0, 0, 8], 0, 0xfff8), 'outside its mask');
    assert.throws(() => mapped([1, ITS0, 0], 0), 'not a multiple of 4');
  });
});

describe('a host bridge node', () => {
  const bridge = parseFdt(DTB).find('/pcie@10000000')!;

  test('ranges are windows with their space and both addresses', () => {
    assert.deepEqual(pciRanges(bridge)[1], {
      space: 'mem32',
      prefetchable: false,
      pciBase: 0x1000_0000,
      cpuBase: 0x1000_0000,
      sizeBytes: 0x2eff_0000,
    });
  });

  test('the prefetch bit of a window is read and written', () => {
    const root = new FdtNode().setCells('#address-cells', 2).setCells('#size-cells', 2);
    const node = root.addChild('pcie').setCells('#address-cells', 3).setCells('#size-cells', 2);
    node.setCells('ranges', pciPhysHi('mem64', true), 1, 0, 2, 0, 4, 0);
    assert.equal(pciPhysHi('mem64', true), 0x4300_0000);
    assert.deepEqual(pciRanges(node), [
      { space: 'mem64', prefetchable: true, pciBase: 2 ** 32, cpuBase: 2 ** 33, sizeBytes: 2 ** 34 },
    ]);
  });

  test('an absent bus-range is 0 to 255, one out of order is refused', () => {
    const node = new FdtNode().addChild('pcie');
    assert.deepEqual(busRange(node), { first: 0, last: 255 });
    assert.throws(() => busRange(node.setCells('bus-range', 5, 4)), 'bus-range of /pcie');
  });

  test('pins are swizzled by interrupt-map over the masked slot', () => {
    const map = interruptMap(bridge)!;
    const spi = (devfn: number, pin: number): number => lookupInterrupt(map, devfn, pin)!.specifier[1]!;
    assert.deepEqual([spi(0x00, 1), spi(0x08, 1), spi(0x10, 1), spi(0x18, 1)], [3, 4, 5, 6]);
    assert.deepEqual([spi(0x10, 2), spi(0x10, 3), spi(0x20, 1)], [6, 3, 3]);
    assert.equal(lookupInterrupt(map, 0, 5), undefined);
  });

  test('the mask says whether the function of a device counts', () => {
    // An AMD Overdrive: the root ports are functions 1 to 3 of device 2.
    const rows = [0x11, 0x12].map((devfn, i) => ({
      match: [devfn << 8, 0, 0, 1],
      phandle: 1,
      specifier: [0, 288 + i, 1],
    }));
    const map = { mask: [0xff00, 0, 0, 7], rows };
    const spis = [0x10, 0x11, 0x12].map((devfn) => lookupSpi(map, devfn, 1));
    assert.deepEqual(spis, [-1, 288, 289]);
    assert.equal(lookupSpi({ ...map, mask: [0xf800, 0, 0, 7] }, 0x10, 1), 288);
  });
});
