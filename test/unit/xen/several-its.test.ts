/** Devices of one guest behind several ITSs, on the board with four NUMA nodes. */
import { assert, describe, test } from 'vitest';
import { ERRNO } from '#shared/abi/errno.ts';
import { DOORBELL_GFN } from '../../../services/xen/passthrough/doorbell.ts';
import { XenRig } from './passthrough-rig.ts';

/** 0000:01:00.0 and so on: the ITS of each node's segment is another one. */
const DEVICES = [0x0_0100, 0x1_0100, 0x2_0100, 0x3_0100] as const;
const guestSbdf = (n: number): number => n * 8;

function bench() {
  const r = new XenRig('examples/boards/numa-4its.yaml');
  const { hostBridges, pciDevices, smmus } = r.xen;
  for (const [segment, bridge] of hostBridges.all.entries()) hostBridges.bind(segment, bridge.cfgBase, bridge.cfgSize);
  for (const sbdf of DEVICES) r.run(pciDevices.add(sbdf));
  const guest = r.guest(1);
  const assign = (n: number): void => r.run(pciDevices.assign(guest, DEVICES[n]!, guestSbdf(n), 0));
  const deassign = (n: number): void => r.run(pciDevices.deassign(guest, DEVICES[n]!));
  const vmids = (): number[] => {
    const { streams } = smmus.inspect(() => undefined) as { streams: { vmid: number }[] };
    return streams.map((s) => s.vmid);
  };
  /** What the doorbell address leads to for a device: the base of its ITS and 64 KiB. */
  const doorbellOf = (n: number): number => {
    const { view } = pciDevices.find(DEVICES[n]!)!;
    return (view?.mfn ?? guest.p2m.lookup(DOORBELL_GFN)!.mfn) * 4096;
  };
  return { r, guest, assign, deassign, vmids, doorbellOf };
}

describe('a guest with devices behind several ITSs', () => {
  test('has one doorbell address that leads each device to its own ITS', () => {
    const { guest, assign, doorbellOf, vmids } = bench();
    for (const n of [0, 1, 2, 3]) assign(n);
    assert.deepEqual(
      [0, 1, 2, 3].map(doorbellOf),
      [0, 1, 2, 3].map((node) => node * 2 ** 40 + 0x2f21_0000),
    );
    assert.equal(new Set(vmids()).size, 4, 'one VMID for each set of tables');
    assert.include(vmids(), guest.p2m.vmid);
    assert.sameMembers(vmids(), [...guest.p2m.vmids]);
  });

  test('has no view for the first ITS, and one for all devices behind another', () => {
    const { r, guest, assign, vmids } = bench();
    assign(2);
    assert.deepEqual(vmids(), [guest.p2m.vmid]);
    assign(1);
    const second = 0x1_0200;
    r.run(r.xen.pciDevices.add(second));
    r.run(r.xen.pciDevices.assign(guest, second, guestSbdf(5), 0));
    assert.lengthOf(guest.p2m.vmids, 2);
    assert.equal(guest.p2m.view(guest.p2m.lookup(DOORBELL_GFN)!.mfn), undefined);
  });

  test('gives a view back with the last device behind its ITS, and not before', () => {
    const { r, guest, assign, deassign } = bench();
    r.run(r.xen.pciDevices.add(0x1_0200));
    assign(0);
    const before = { free: r.xen.frames.free, pages: guest.p2m.tablePages };
    assign(1);
    r.run(r.xen.pciDevices.assign(guest, 0x1_0200, guestSbdf(5), 0));
    deassign(1);
    assert.lengthOf(guest.p2m.vmids, 2);
    r.run(r.xen.pciDevices.deassign(guest, 0x1_0200));
    assert.deepEqual(guest.p2m.vmids, [guest.p2m.vmid]);
    assert.equal(guest.p2m.tablePages, before.pages);
    assert.equal(r.xen.frames.free, before.free);
  });

  test('loses a page in all views at once: every SMMU forgets every VMID before unmap returns', () => {
    const { r, guest, assign } = bench();
    assign(0);
    assign(1);
    const count = (): number => r.counts.get('smmuCommands', 'CMD_TLBI_S12_VMALL');
    const before = count();
    r.run(guest.p2m.unmap(0x4_0000, 1));
    assert.equal(count(), before + 2);
  });

  test('keeps nothing of an assignment that fails at the SMMU', () => {
    const { r, guest, assign } = bench();
    assign(0);
    const before = { free: r.xen.frames.free, vmids: [...guest.p2m.vmids] };
    for (const driver of r.xen.smmus.drivers) {
      driver.attach = () => {
        throw new Error('injected');
      };
    }
    assert.throws(() => assign(1), 'injected');
    assert.deepEqual({ free: r.xen.frames.free, vmids: [...guest.p2m.vmids] }, before);
    assert.isUndefined(r.xen.pciDevices.find(DEVICES[1])!.view);
  });

  test('without a free VMID the device stays where it was', () => {
    const { r, guest, assign } = bench();
    assign(0);
    const taken: number[] = [];
    while (r.errno(() => takeVmid(r, taken)) === 0);
    const { free } = r.xen.frames;
    assert.equal(
      r.errno(() => r.xen.pciDevices.assign(guest, DEVICES[1], guestSbdf(1), 0)),
      ERRNO.EBUSY,
    );
    assert.equal(r.xen.frames.free, free);
    assert.equal(r.xen.pciDevices.find(DEVICES[1])!.owner.domid, 0);
    r.domains.freeVmid(taken[0]!);
    assign(1);
    assert.lengthOf(guest.p2m.vmids, 2);
  });

  test('ends with everything given back', () => {
    const { r, guest, assign } = bench();
    for (const n of [0, 1, 2, 3]) assign(n);
    r.run(r.xen.lifecycle.destroy(guest));
    assert.deepEqual(
      r.xen.smmus.inspect(() => undefined),
      { events: [], streams: [] },
    );
    assert.equal(r.domains.allocVmid(), guest.p2m.vmid, 'the lowest VMID is free again');
  });
});

// biome-ignore lint/correctness/useYield: it takes one
function* takeVmid(r: XenRig, taken: number[]) {
  taken.push(r.domains.allocVmid());
}
