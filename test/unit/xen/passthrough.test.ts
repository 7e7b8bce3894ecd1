import { assert, describe, test } from 'vitest';
import { GUEST_RAM0_BASE, GUEST_VITS_BASE } from '#shared/abi/arch-arm.ts';
import { ERRNO } from '#shared/abi/errno.ts';
import { DMA_PROBE, DMA_PROBE_OP, DMA_PROBE_STATUS, dmaProbeWord } from '#shared/arch/dma-probe.ts';
import { DEVICE, ECAM, GUEST_SBDF, number, OTHER, XenRig } from './passthrough-rig.ts';

const { DONE, ERROR } = DMA_PROBE_STATUS;

/** The device of a guest writes four words to `iova`; returns its status. */
function dmaWrite(r: XenRig, domid: number, iova: number): number {
  r.probe(domid, DMA_PROBE.STATUS, DONE | ERROR);
  r.probe(domid, DMA_PROBE.DST_LO, iova);
  r.probe(domid, DMA_PROBE.LENGTH_LO, 16);
  r.probe(domid, DMA_PROBE.PATTERN, 7);
  r.probe(domid, DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
  r.pass(1e9);
  return r.probeStatus(domid);
}

interface Smmu {
  events: {
    smmu: string;
    sequence: number;
    type: string;
    streamId: number;
    address: number;
    isWrite: boolean;
    sbdf: string | null;
  }[];
  streams: { streamId: number; vmid: number }[];
}

function smmu(r: XenRig): Smmu {
  return r.xen.smmus.inspect((stream) => r.xen.pciDevices.sbdfOfStream(stream)) as Smmu;
}

function deviceOf(r: XenRig, sbdf: number): { owner: number; quarantine: boolean } {
  const device = r.xen.pciDevices.find(sbdf)!;
  return { owner: device.owner.domid, quarantine: device.quarantine };
}

describe('device assignment', () => {
  test('gives the device the memory of its guest, at the guest addresses, and nothing else', () => {
    const r = new XenRig();
    r.enumerate();
    const guest = r.guest(1);
    r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE + 0x100), DONE);
    assert.equal(r.load(1, GUEST_RAM0_BASE + 0x104), dmaProbeWord(7, 1));
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE + 0x100_0000), DONE | ERROR);
    assert.deepEqual(smmu(r).events.at(-1), {
      smmu: 'smmuv3@9050000',
      type: 'F_TRANSLATION',
      streamId: DEVICE,
      address: GUEST_RAM0_BASE + 0x100_0000,
      isWrite: true,
      sbdf: '0000:01:00.0',
      sequence: 1,
    });
    assert.equal(r.counts.get('smmuEvents', 'F_TRANSLATION'), 1);
  });

  test('aborts a device that dom0 holds, without an event', () => {
    const r = new XenRig();
    r.enumerate();
    r.guest(1);
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE), DONE | ERROR);
    assert.deepEqual(smmu(r).events, []);
  });

  test('records the traffic of a bus of which nobody reported a function to Xen', () => {
    const r = new XenRig();
    r.enumerate([]);
    r.guest(1);
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE), DONE | ERROR);
    const { events } = smmu(r);
    assert.deepEqual(
      events.map((e) => [e.type, e.streamId, e.sbdf]),
      [['C_BAD_STREAMID', DEVICE, null]],
    );
  });

  test('takes an event queue that overflowed while nobody looked, and hears of what comes after', () => {
    const r = new XenRig();
    r.enumerate();
    const guest = r.guest(1);
    r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
    r.deaf = true;
    for (let i = 0; i < 300; i++) dmaWrite(r, 1, 0x1000);
    r.deaf = false;
    r.pass(1e9);
    const kept = r.counts.get('smmuEvents', 'F_TRANSLATION');
    assert.isBelow(kept, 300);
    assert.equal(r.counts.get('smmuEvents', 'overflow'), 1);
    for (let i = 0; i < 300; i++) dmaWrite(r, 1, 0x1000);
    assert.equal(r.counts.get('smmuEvents', 'F_TRANSLATION'), kept + 300);
    assert.equal(r.counts.get('smmuEvents', 'overflow'), 1);
    assert.lengthOf(smmu(r).events, 256);
  });

  test('is over for the device when deassign returns: its translation is gone from STE and TLB', () => {
    const r = new XenRig();
    r.enumerate();
    const guest = r.guest(1);
    r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE), DONE);
    assert.isDefined(guest.p2m.iommuFlush);
    const flushes = r.counts.get('smmuCommands', 'CMD_TLBI_S12_VMALL');
    r.run(r.xen.pciDevices.deassign(guest, DEVICE));
    assert.equal(r.counts.get('smmuCommands', 'CMD_TLBI_S12_VMALL'), flushes + 1);
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE), DONE | ERROR);
    assert.deepEqual(smmu(r).streams, []);
    assert.isUndefined(guest.p2m.iommuFlush);
    assert.deepEqual(deviceOf(r, DEVICE), { owner: 0, quarantine: false });
  });

  test('invalidates the SMMU before an unmapping of guest memory returns', () => {
    const r = new XenRig();
    r.enumerate();
    const guest = r.guest(1);
    r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE + 0x3000), DONE);
    r.run(guest.p2m.unmap(GUEST_RAM0_BASE / 4096 + 3, 1));
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE + 0x3000), DONE | ERROR);
    assert.isAbove(r.counts.get('smmuCommands', 'CMD_TLBI_S12_VMALL'), 0);
  });

  test('returns a device that came through quarantine to quarantine, and from there to dom0', () => {
    const r = new XenRig();
    r.enumerate();
    const guest = r.guest(1);
    const { pciDevices } = r.xen;
    const { domIo } = r.domains;
    r.run(pciDevices.assign(domIo, DEVICE, undefined, 0));
    assert.deepEqual(deviceOf(r, DEVICE), { owner: domIo.domid, quarantine: true });
    r.run(pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
    assert.equal(deviceOf(r, DEVICE).owner, 1);
    r.run(pciDevices.releaseAll(guest));
    assert.deepEqual(deviceOf(r, DEVICE), { owner: domIo.domid, quarantine: true });
    assert.equal(dmaWrite(r, 1, GUEST_RAM0_BASE), DONE | ERROR);
    r.run(pciDevices.deassign(domIo, DEVICE));
    assert.deepEqual(deviceOf(r, DEVICE), { owner: 0, quarantine: false });
  });

  test('is refused with the errno of each check', () => {
    const r = new XenRig();
    r.enumerate();
    const guest = r.guest(1);
    const second = r.guest(2);
    const { pciDevices, hardwareDomain } = r.xen;
    const assign = (to: typeof guest, sbdf: number, flags = 0): number =>
      r.errno(() => pciDevices.assign(to, sbdf, GUEST_SBDF, flags));
    assert.equal(assign(hardwareDomain, DEVICE), ERRNO.EINVAL);
    assert.equal(assign(guest, DEVICE, 2), ERRNO.EINVAL);
    assert.equal(assign(guest, 0x0500), ERRNO.ENODEV);
    assert.equal(assign(guest, DEVICE), 0);
    assert.equal(assign(guest, DEVICE), ERRNO.EBUSY);
    assert.equal(assign(second, DEVICE), ERRNO.EBUSY);
    assert.equal(assign(guest, OTHER), ERRNO.EEXIST);
    assert.equal(
      r.errno(() => pciDevices.deassign(second, DEVICE)),
      ERRNO.ENODEV,
    );
    assert.equal(
      r.errno(() => pciDevices.deassign(hardwareDomain, DEVICE)),
      ERRNO.EINVAL,
    );
    assert.throws(() => pciDevices.testAssign(DEVICE), 'EINVAL');
    assert.throws(() => pciDevices.testAssign(0x0500), 'EINVAL');
    pciDevices.testAssign(OTHER);
    second.dying = true;
    assert.equal(assign(second, OTHER), ERRNO.EINVAL);
  });

  test('of a function whose virtual functions were lost is refused as broken', () => {
    const r = new XenRig();
    r.enumerate();
    const { pciDevices } = r.xen;
    assert.equal(
      r.errno(() => pciDevices.add(0x0110, 0x0108)),
      ERRNO.ENODEV,
    );
    r.run(pciDevices.add(0x0110, DEVICE));
    assert.equal(
      r.errno(() => pciDevices.remove(DEVICE)),
      ERRNO.EBUSY,
    );
    assert.equal(
      r.errno(() => pciDevices.assign(r.guest(1), 0x0110, GUEST_SBDF, 0)),
      ERRNO.EBADF,
    );
  });

  test('that fails at the SMMU leaves the device where it was, and no doorbell', () => {
    const r = new XenRig();
    r.enumerate();
    const guest = r.guest(1);
    const entries = guest.p2m.entries;
    const [driver] = r.xen.smmus.drivers;
    driver!.attach = () => {
      throw new Error('injected');
    };
    assert.throws(() => r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0)), 'injected');
    assert.deepEqual(deviceOf(r, DEVICE), { owner: 0, quarantine: false });
    assert.equal(guest.p2m.entries, entries);
    assert.isUndefined(guest.p2m.iommuFlush);
    assert.lengthOf(guest.pdevs, 0);
  });

  test('maps the page of GITS_TRANSLATER at the virtual doorbell', () => {
    const r = new XenRig();
    r.enumerate();
    const guest = r.guest(1);
    r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
    assert.equal(guest.p2m.lookup((GUEST_VITS_BASE + 0x1_0000) / 4096)?.mfn, 0x0809_0000 / 4096);
  });
});

describe('host bridges', () => {
  test('answer configuration reads of Xen through ECAM once their segment is bound, and all ones before', () => {
    const r = new XenRig();
    const { hostBridges } = r.xen;
    assert.equal(r.run(hostBridges.confRead(0, 0, 4)), 0xffff_ffff);
    hostBridges.bind(0, ECAM, 0x1000_0000);
    assert.equal(r.run(hostBridges.confRead(0, 0, 4)), 0x0008_1b36);
    assert.equal(r.run(hostBridges.confRead(0, 2, 2)), 0x0008);
    assert.equal(r.run(hostBridges.confRead(0x1f << 3, 0, 2)), 0xffff);
    r.run(hostBridges.confWrite(2 << 3, 0x19, 1, 5));
    assert.equal(number(r.run(r.el2.read(ECAM + (2 << 15) + 0x19, 1))), 5);
  });

  test('are bound by their configuration window and to one segment', () => {
    const r = new XenRig();
    const { hostBridges } = r.xen;
    assert.throws(() => hostBridges.bind(0, ECAM + 0x1000, 0x1000_0000), 'ENODEV');
    hostBridges.bind(3, ECAM, 0x1000_0000);
    hostBridges.bind(3, ECAM, 0x1000_0000);
    assert.throws(() => hostBridges.bind(0, ECAM, 0x1000_0000), 'EBUSY');
    assert.equal(
      r.errno(() => r.xen.pciDevices.add(DEVICE)),
      ERRNO.ENODEV,
    );
  });
});
