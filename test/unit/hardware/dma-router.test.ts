/** Where a bridge's DMA goes, and who shares a wire. */
import { assert, describe, test } from 'vitest';
import type { RidMap } from '#shared/fdt/pci-bindings.ts';
import { Bus } from '../../../services/hardware/bus/bus.ts';
import { Ram } from '../../../services/hardware/bus/ram.ts';
import type { DmaTranslator, Requester } from '../../../services/hardware/bus/transaction.ts';
import { DmaRouter } from '../../../services/hardware/dma-router.ts';
import { SpiLines } from '../../../services/hardware/spi-lines.ts';

const RAM = 0x4000_0000;
const MAP: RidMap = {
  mask: 0xffff,
  rows: [
    { ridBase: 0, phandle: 1, outBase: 0, length: 0x100 },
    { ridBase: 0x100, phandle: 2, outBase: 0, length: 0x100 },
  ],
};

function bench(map: RidMap) {
  const went: string[] = [];
  const smmu = (phandle: number): DmaTranslator => ({
    dmaRead: ({ rid }, iova, into) => {
      went.push(`read of ${rid} at ${iova} through ${phandle}`);
      return into.length;
    },
    dmaWrite: ({ rid }, iova) => {
      went.push(`write of ${rid} at ${iova} through ${phandle}`);
      return 0;
    },
    dmaWide: ({ rid }, iova) => {
      went.push(`request of ${rid} at ${iova} through ${phandle}`);
      return 0;
    },
  });
  const bus = new Bus(new Ram([{ pa: RAM, sizeBytes: 0x20_0000 }]));
  const messages: [number, number, number | undefined][] = [];
  bus.map(0x1000, 0x1000, {
    name: 'doorbell',
    read: () => 0,
    write: (offset, _size, value, requester) => void messages.push([offset, value, requester?.rid]),
  });
  return { router: new DmaRouter(bus, map, smmu), went, bus, messages };
}

const of = (rid: number): Requester => ({ rid, streamId: rid, deviceIdAt: () => -1 });

describe('the way of DMA', () => {
  test('leads through the SMMU that iommu-map names for the requester', () => {
    const { router, went } = bench(MAP);
    const data = new Uint8Array(4);
    assert.deepEqual(
      [router.dmaRead(of(0x08), 16, data), router.dmaWrite(of(0x108), 32, data), router.dmaRead(of(0x108), 48, data)],
      [4, 0, 4],
    );
    assert.deepEqual(went, [
      'read of 8 at 16 through 1',
      'write of 264 at 32 through 2',
      'read of 264 at 48 through 2',
    ]);
  });

  test('leads straight to the bus where no SMMU is named, to RAM and to registers with the requester', () => {
    const { router, went, bus, messages } = bench({ mask: 0xffff, rows: [] });
    assert.equal(router.dmaWrite(of(5), RAM + 2, Uint8Array.of(1, 2, 3)), 3);
    assert.equal(bus.ram.read32(RAM), 0x0201_0000);
    assert.equal(router.dmaWrite(of(5), 0x1040, Uint8Array.of(7, 0, 0, 0)), 4);
    assert.deepEqual(messages, [[0x40, 7, 5]]);
    const read = new Uint8Array(4);
    assert.equal(router.dmaRead(of(5), RAM, read), 4);
    assert.deepEqual([...read], [0, 0, 1, 2]);
    assert.equal(router.dmaWrite(of(5), 0x9000_0000, read), 0);
    assert.deepEqual(went, []);
  });
});

describe('wires that share an input', () => {
  test('hold it high until the last of them lets go', () => {
    const levels: [number, boolean][] = [];
    const lines = new SpiLines((spi, high) => void levels.push([spi, high]));
    lines.set('a', 7, true);
    lines.set('a', 7, true);
    lines.set('b', 7, true);
    lines.set('a', 7, false);
    assert.deepEqual(levels, [[7, true]]);
    const copy = new SpiLines((spi, high) => void levels.push([spi, high]));
    copy.load(structuredClone(lines.save()));
    copy.set('b', 7, false);
    copy.set('c', 8, false);
    assert.deepEqual(levels, [
      [7, true],
      [7, false],
    ]);
    assert.deepEqual(lines.inspect(), { 7: ['b'] });
  });
});
