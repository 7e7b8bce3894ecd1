/** Where the toolstack and pciback put things: holes for BARs, slots of the virtual bus, the guest's device tree. */
import { assert, describe, test } from 'vitest';
import { GUEST_VITS_BASE } from '#shared/abi/arch-arm.ts';
import { parseFdt } from '#shared/fdt/blob.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { chooseVdevfn } from '../../../services/dom0/pciback/slots.ts';
import { devicetreeIpa, guestDevicetree, ramBanks } from '../../../services/dom0/toolstack/libxl/guest-devicetree.ts';
import { MmioHoles } from '../../../services/dom0/toolstack/libxl/mmio-holes.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const bar32 = (sizeBytes: number) => ({ sizeBytes, wide: false, prefetchable: false });
const bar64 = (sizeBytes: number) => ({ sizeBytes, wide: true, prefetchable: false });
const pref64 = (sizeBytes: number) => ({ sizeBytes, wide: true, prefetchable: true });

describe('MMIO holes', () => {
  test('64-bit prefetchable BARs go above 4 GiB, the others below, larger ones first', () => {
    const holes = new MmioHoles();
    assert.deepEqual(
      holes.take([bar32(4096), pref64(16 * MIB), bar32(MIB)]),
      [0x2310_0000, 0x1_0000_0000, 0x2300_0000],
    );
  });

  test('a BAR is aligned to its size, and one below a page takes a page', () => {
    const holes = new MmioHoles();
    assert.deepEqual(holes.take([bar32(256)]), [0x2300_0000]);
    assert.deepEqual(holes.take([bar32(128 * MIB)]), [0x2800_0000]);
    assert.deepEqual(holes.take([bar32(16)]), [0x2300_1000]);
  });

  test('a function whose BARs do not all fit takes nothing', () => {
    const holes = new MmioHoles();
    assert.isUndefined(holes.take([bar32(128 * MIB), bar32(128 * MIB)]));
    assert.deepEqual(holes.inspect(), []);
    assert.isUndefined(holes.take([pref64(8 * GIB)]));
  });

  test('a 64-bit BAR goes above when the lower hole is full', () => {
    const holes = new MmioHoles();
    assert.deepEqual(holes.take([bar32(128 * MIB), bar64(128 * MIB)]), [0x2800_0000, 0x1_0000_0000]);
  });

  test('what is given back is taken again', () => {
    const holes = new MmioHoles();
    const [first] = holes.take([bar32(MIB)])!;
    holes.take([bar32(MIB)]);
    holes.give([first!]);
    assert.deepEqual(holes.take([bar32(MIB)]), [first]);
  });
});

describe('virtual slots', () => {
  const at = (bdf: string, vdevfn: number) => ({ sbdf: parseSbdf(bdf)!, vdevfn });

  test('the first free slot, keeping the function number', () => {
    assert.equal(chooseVdevfn([at('01:00.0', 0)], parseSbdf('02:00.3')!), (1 << 3) | 3);
  });

  test('functions of one device share a slot', () => {
    assert.equal(chooseVdevfn([at('01:00.0', 2 << 3)], parseSbdf('01:00.1')!), (2 << 3) | 1);
  });

  test('a virtual function is function 0 of a slot of its own, beside others of its device', () => {
    assert.equal(chooseVdevfn([at('01:10.0', 0)], parseSbdf('01:10.2')!, undefined, true), 1 << 3);
  });

  test('a slot that was asked for is taken as it is, or refused', () => {
    assert.equal(chooseVdevfn([], parseSbdf('01:00.1')!, 8 << 3), 8 << 3);
    assert.isUndefined(chooseVdevfn([at('01:00.0', 8 << 3)], parseSbdf('02:00.0')!, 8 << 3));
  });

  test('a full bus has no slot', () => {
    const full = Array.from({ length: 32 }, (_, slot) => at(`${(slot + 1).toString(16)}:00.0`, slot << 3));
    assert.isUndefined(chooseVdevfn(full, parseSbdf('40:00.0')!));
  });
});

describe('the device tree of a guest', () => {
  const tree = parseFdt(guestDevicetree({ memoryBytes: 256 * MIB, vcpus: 2, cmdline: 'console=hvc0', gicVersion: 3 }));

  test('has its memory, CPUs and command line', () => {
    assert.deepEqual(tree.find('/memory@40000000')!.reg(), [{ address: 0x4000_0000, sizeBytes: 256 * MIB }]);
    assert.lengthOf(tree.find('/cpus')!.children, 2);
    assert.equal(tree.find('/chosen')!.string('bootargs'), 'console=hvc0');
  });

  test('has an ITS that is the msi-parent of what pcifront finds', () => {
    const its = tree.compatibleNodes('arm,gic-v3-its')[0]!;
    assert.deepEqual(its.regions(), [{ address: GUEST_VITS_BASE, sizeBytes: 0x2_0000 }]);
    const hypervisor = tree.compatibleNodes('xen,xen')[0]!;
    assert.equal(hypervisor.u32('msi-parent'), its.phandle);
    assert.deepEqual(hypervisor.interrupts(), [[1, 15, 0xf08]]);
    assert.deepEqual(hypervisor.reg()[0], { address: 0x3800_0000, sizeBytes: 0x100_0000 });
  });

  test('has a GICv2 without an ITS on a machine with a GICv2', () => {
    const v2 = parseFdt(guestDevicetree({ memoryBytes: 256 * MIB, vcpus: 2, cmdline: '', gicVersion: 2 }));
    const [gic, ...others] = v2.compatibleNodes('arm,gic-400', 'arm,gic-v3', 'arm,gic-v3-its');
    assert.isEmpty(others);
    assert.deepEqual(gic!.regions(), [
      { address: 0x0300_1000, sizeBytes: 0x1000 },
      { address: 0x0300_2000, sizeBytes: 0x2000 },
    ]);
    const hypervisor = v2.compatibleNodes('xen,xen')[0]!;
    assert.isFalse(hypervisor.has('msi-parent'));
    assert.equal(hypervisor.u32('interrupt-parent'), gic!.phandle);
    assert.equal(v2.find('/timer')!.u32('interrupt-parent'), gic!.phandle);
  });

  test('memory beyond 3 GiB goes into the second bank', () => {
    assert.deepEqual(ramBanks(4 * GIB), [
      { address: 0x4000_0000, sizeBytes: 3 * GIB },
      { address: 0x2_0000_0000, sizeBytes: GIB },
    ]);
  });

  test('stands 128 MiB into memory, or at the end of a smaller one', () => {
    assert.equal(devicetreeIpa(GIB, 3000), 0x4800_0000);
    assert.equal(devicetreeIpa(32 * MIB, 3000), 0x4000_0000 + 30 * MIB);
  });
});
