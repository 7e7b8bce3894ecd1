import { assert, beforeAll, describe, test } from 'vitest';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI } from '#shared/arch/pci/header.ts';
import { sbdf } from '#shared/ids/sbdf.ts';
import { XenRig } from './passthrough-rig.ts';

const ROOT_PORT_IDS = 0x000c_1b36;
const NVME_IDS = 0x0010_1b36;
const ALL_ONES = 0xffff_ffff;
/** Segment 4: the PEM of node 0. */
const ROOT_PORT = sbdf(4, 0x1f, 0, 0);
const BELOW = sbdf(4, 0x20, 0, 0);

describe('host bridges of a ThunderX, to Xen', () => {
  let r: XenRig;
  const read = (at: number, reg: number, bytes: number): number => r.run(r.xen.hostBridges.confRead(at, reg, bytes));
  const write = (at: number, reg: number, bytes: number, value: number): void =>
    r.run(r.xen.hostBridges.confWrite(at, reg, bytes, value));

  beforeAll(() => {
    r = new XenRig('examples/boards/thunderx-2015.yaml');
    r.xen.hostBridges.bind(0, 0x8480_0000_0000, 0x200_0000);
    r.xen.hostBridges.bind(4, 0x8800_1f00_0000, 57 * 0x100_0000);
  });

  test('an ECAM bridge is read as any other', () => {
    assert.equal(read(sbdf(0, 0, 2, 0), PCI.VENDOR_ID, 4), ROOT_PORT_IDS);
  });

  test('the root port of a PEM is read and written through its registers, in any width', () => {
    assert.equal(read(ROOT_PORT, PCI.VENDOR_ID, 4), ROOT_PORT_IDS);
    assert.equal(read(ROOT_PORT, PCI.DEVICE_ID, 2), ROOT_PORT_IDS >>> 16);
    write(ROOT_PORT, PCI_BRIDGE.SECONDARY_BUS, 1, 0x20);
    write(ROOT_PORT, PCI_BRIDGE.SUBORDINATE_BUS, 1, 0x21);
    assert.equal(read(ROOT_PORT, PCI_BRIDGE.PRIMARY_BUS, 4) & 0xff_ffff, 0x21_2000);
    assert.equal(read(ROOT_PORT, PCI_BRIDGE.SUBORDINATE_BUS, 1), 0x21);
  });

  test('what is below it is in the window', () => {
    write(ROOT_PORT, PCI_BRIDGE.PRIMARY_BUS, 4, 0x0021_2000);
    assert.equal(read(BELOW, PCI.VENDOR_ID, 4), NVME_IDS);
  });

  test('nothing else is on the first bus of a PEM, and its root port ends at 2 KiB', () => {
    assert.equal(read(sbdf(4, 0x1f, 1, 0), PCI.VENDOR_ID, 4), ALL_ONES);
    assert.equal(read(ROOT_PORT, 0x800, 4), ALL_ONES);
    assert.equal(read(sbdf(4, 0x1e, 0, 0), PCI.VENDOR_ID, 2), 0xffff);
  });

  test('ids come from the maps: neither StreamID nor DeviceID is the requester id', () => {
    assert.equal(r.xen.hostBridges.streamOf(BELOW)?.id, 0x2100);
    assert.equal(r.xen.hostBridges.msiOf(BELOW)?.id, 0xa100);
  });

  test('dom0 has the registers of the PEMs, and nothing of GIC, ITSs and SMMUs', () => {
    const { p2m } = r.xen.hardwareDomain;
    const has = (pa: number): boolean => p2m.lookup(pa / 4096) !== undefined;
    for (const pa of [0x87e0_c000_0000, 0x97e0_c000_0000, 0x8800_1f00_0000, 0x8810_1000_0000]) assert.isTrue(has(pa));
    for (const pa of [0x8010_0000_0000, 0x8010_0002_0000, 0x8010_8000_0000, 0x8300_0000_0000, 0x9310_0000_0000])
      assert.isFalse(has(pa));
  });
});
