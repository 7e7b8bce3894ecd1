/**
 * Cases of Arm's SystemReady architecture compliance suite (sysarch-acs, test_pool/exerciser and test_pool/gic) about
 * messages and ITSs, on the whole machine with four ITSs, played with dma-probe as the exerciser. An "ITS group" is the
 * ITSs that msi-map names for the functions of a segment.
 */
import { assert, describe, test } from 'vitest';
import { DMA_PROBE } from '#shared/arch/dma-probe.ts';
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import { lookupRid, lookupRidAt } from '#shared/fdt/pci-bindings.ts';
import { le } from '../../unit/hardware/machine-rig.ts';
import { at, NUMA, Platform, VIRT } from './platform.ts';

const A = at('0000:01:00.0');
const B = at('0000:02:00.0');
const LPI = 8192;

describe('sysarch-acs exerciser: messages', () => {
  test('[arm-acs/e004] ITS_DEV_6: a PE that writes an EventID to GITS_TRANSLATER raises nothing', () => {
    const p = new Platform(NUMA);
    const { its, deviceId } = p.itsOf(A);
    p.mapEvent(its, deviceId, 5, LPI + 5);
    p.write(p.doorbell(its), le(5));
    assert.deepEqual(p.taken().flat(), []);
    p.setVector(A, 0, p.doorbell(its), 5);
    p.exerciser(A)(DMA_PROBE.RAISE_ONE, 0);
    assert.deepEqual(p.taken().flat(), [LPI + 5], 'while the device itself does');
  });

  test('[arm-acs/e011] ITS_03: a message to the ITS of the device is taken as its LPI, on each of four segments', () => {
    const p = new Platform(NUMA);
    for (const segment of [0, 1, 2, 3]) {
      const sbdf = at(`000${segment}:01:00.0`);
      const { its, deviceId } = p.itsOf(sbdf);
      p.mapEvent(its, deviceId, segment, LPI + segment);
      p.setVector(sbdf, 0, p.doorbell(its), segment);
      p.exerciser(sbdf)(DMA_PROBE.RAISE_ONE, 0);
      const taken = p.taken();
      assert.deepEqual(taken[its], [LPI + segment], `segment ${segment}`);
      assert.equal(taken.flat().length, 1);
    }
  });

  test('[arm-acs/e012] ITS_05: a message aimed at an ITS of another group raises nothing, whatever is mapped there', () => {
    const p = new Platform(NUMA);
    const own = p.itsOf(A);
    const other = (own.its + 1) % p.machine.its.length;
    for (const its of [own.its, other]) p.mapEvent(its, own.deviceId, 5, LPI + its);
    p.setVector(A, 0, p.doorbell(other), 5);
    p.exerciser(A)(DMA_PROBE.RAISE_ONE, 0);
    assert.deepEqual(p.taken().flat(), []);
    assert.deepEqual(p.machine.its[other]!.counts.msisDropped, { 'no-device-id': 1 });
  });

  test('[arm-acs/e013] ITS_DEV_4: an EventID that is mapped for one device and sent by another raises nothing', () => {
    const p = new Platform(NUMA);
    const [a, b] = [p.itsOf(A), p.itsOf(B)];
    assert.equal(a.its, b.its);
    p.mapEvent(a.its, a.deviceId, 5, LPI + 5);
    p.mapEvent(b.its, b.deviceId, 6, LPI + 6);
    p.setVector(B, 0, p.doorbell(b.its), 5);
    p.exerciser(B)(DMA_PROBE.RAISE_ONE, 0);
    assert.deepEqual(p.taken().flat(), []);
  });

  test('[arm-acs/e033] [arm-acs/p097] every vector of a function is an INTID of its own', () => {
    const p = new Platform(NUMA);
    const { its, deviceId } = p.itsOf(A);
    const vectors = [0, 1, 2, 3, 4];
    for (const vector of vectors) {
      p.mapEvent(its, deviceId, vector, LPI + 10 + vector);
      p.setVector(A, vector, p.doorbell(its), vector);
    }
    for (const vector of vectors) {
      p.exerciser(A)(DMA_PROBE.RAISE_ONE, vector);
      assert.deepEqual(p.taken().flat(), [LPI + 10 + vector]);
    }
  });

  test('[arm-acs/e035] ITS_04: a device that msi-map gives two ITSs of its group is served by either', () => {
    const description = readBoard(NUMA);
    const tree = parseFdt(description.dtb);
    const host = tree.children.find((node) => node.u32('linux,pci-domain') === 0)!;
    const [, first] = host.cells('msi-map')!;
    const second = p2phandle(description.dtb);
    host.setCells('msi-map', 0, first!, 0, 0x4000, 0, second, 0x100, 0x4000);
    const p = new Platform({ ...description, dtb: buildFdt(tree) });
    const map = p.bridgeOf(A).msiMap!;
    for (const its of [0, 1]) {
      const deviceId = lookupRidAt(map, A & 0xffff, p.machine.board.itses[its]!.phandle);
      p.mapEvent(its, deviceId, 5, LPI + its);
      p.setVector(A, 0, p.doorbell(its), 5);
      p.exerciser(A)(DMA_PROBE.RAISE_ONE, 0);
      assert.deepEqual(p.taken()[its], [LPI + its], `ITS ${its}`);
    }
  });
});

/** The handle of the second ITS of a tree. */
function p2phandle(dtb: Uint8Array): number {
  return new Platform({ ...readBoard(NUMA), dtb }).machine.board.itses[1]!.phandle;
}

describe('sysarch-acs gic: ITSs', () => {
  test('[arm-acs/its001] every ITS is in one group: no segment shares one but by msi-map, and each has frames of its own', () => {
    const p = new Platform(NUMA);
    const { itses, bridges } = p.machine.board;
    const handles = new Set(itses.map(({ phandle }) => phandle));
    const frames = itses.map(({ registers }) => registers.pa);
    assert.equal(new Set(frames).size, itses.length);
    for (const { msiMap } of bridges) for (const row of msiMap!.rows) assert(handles.has(row.phandle));
    for (const { pa } of itses.map(({ registers }) => registers)) assert.notEqual(p.read(pa + 0xffe8) & 0xf0, 0);
  });

  test('[arm-acs/its002] [arm-acs/its003] within a group no two functions have a StreamID, or a DeviceID, in common', () => {
    const p = new Platform(NUMA);
    for (const { iommuMap, msiMap } of p.machine.board.bridges) {
      const streams = new Set<string>();
      const devices = new Set<string>();
      const rids = Array.from({ length: 64 * 256 }, (_, rid) => rid);
      for (const rid of rids) {
        const stream = lookupRid(iommuMap, rid)!;
        const device = lookupRid(msiMap!, rid)!;
        streams.add(`${stream.phandle}/${stream.id}`);
        devices.add(`${device.phandle}/${device.id}`);
      }
      assert.deepEqual([streams.size, devices.size], [rids.length, rids.length]);
    }
  });

  test.for([
    ['with an SMMU', VIRT, [] as const],
    ['without an SMMU', VIRT, ['smmu'] as const],
  ] as const)(
    '[arm-acs/its004] [arm-acs/its005] StreamID and DeviceID are the RID and a constant, %s',
    ([, board, without]) => {
      const description = readBoard(board);
      const p = new Platform({ ...description, without: [...without] });
      const { iommuMap, msiMap } = p.machine.board.bridges[0]!;
      const offsets = new Set<string>();
      for (const sbdf of p.functions.keys()) {
        const rid = sbdf & 0xffff;
        offsets.add(`${(lookupRid(iommuMap, rid)?.id ?? rid) - rid} ${lookupRid(msiMap!, rid)!.id - rid}`);
      }
      assert.deepEqual([...offsets], ['0 0']);
      const { its, deviceId } = p.itsOf(A);
      p.mapEvent(its, deviceId, 5, LPI + 5);
      p.setVector(A, 0, p.doorbell(its), 5);
      p.exerciser(A)(DMA_PROBE.RAISE_ONE, 0);
      assert.deepEqual(p.taken().flat(), [LPI + 5]);
    },
  );

  test.for([VIRT, NUMA])(
    '[arm-acs/its006] [arm-acs/p039] [arm-acs/p046] every function that can send messages has a DeviceID (%s)',
    (board) => {
      const p = new Platform(board);
      let able = 0;
      for (const sbdf of p.functions.keys()) {
        if (p.cap(sbdf, PCI_CAP_ID.MSIX) === 0 && p.cap(sbdf, PCI_CAP_ID.MSI) === 0) continue;
        able++;
        assert.isDefined(lookupRid(p.bridgeOf(sbdf).msiMap!, sbdf & 0xffff));
      }
      assert.isAtLeast(able, 8);
    },
  );

  test('[arm-acs/p069] what a message raises is an LPI, never an INTID below 8192', () => {
    const p = new Platform(VIRT);
    const { its, deviceId } = p.itsOf(A);
    p.mapEvent(its, deviceId, 5, 100);
    p.setVector(A, 0, p.doorbell(its), 5);
    p.exerciser(A)(DMA_PROBE.RAISE_ONE, 0);
    assert.deepEqual(p.taken().flat(), []);
    assert.equal(p.machine.its[its]!.counts.commandProblems['MAPTI: physical-id-oor'], 1);
  });
});
