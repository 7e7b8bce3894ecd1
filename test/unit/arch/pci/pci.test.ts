import { readFileSync } from 'node:fs';
import { assert, test } from 'vitest';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXP, PCI_EXP_DEVCAP_FLR, PCI_EXP_FLAGS, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_CLASS_BRIDGE_PCI } from '#shared/arch/pci/header.ts';
import { msiLayout } from '#shared/arch/pci/msi.ts';
import {
  msixPbaBytes,
  PCI_MSIX,
  PCI_MSIX_BIR_MASK,
  PCI_MSIX_FLAGS,
  PCI_MSIX_OFFSET_MASK,
} from '#shared/arch/pci/msix.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { parseLspci } from '#shared/lspci/dump.ts';

// Offsets are checked against configuration space of real functions and what lspci -vv says of it.
const FUNCTIONS = parseLspci(
  readFileSync(new URL('../../../../examples/boards/qemu-virt.lspci', import.meta.url), 'utf8'),
  'qemu-virt.lspci',
);

function viewOf(address: string): DataView {
  const found = FUNCTIONS.find((f) => f.sbdf === parseSbdf(address));
  return new DataView(found!.config.buffer);
}

test('a root port reads as one: class, bus numbers, windows, port type', () => {
  const port = viewOf('00:02.1');
  assert.equal(port.getUint16(PCI.CLASS_DEVICE, true), PCI_CLASS_BRIDGE_PCI);
  assert.deepEqual([port.getUint8(PCI_BRIDGE.SECONDARY_BUS), port.getUint8(PCI_BRIDGE.SUBORDINATE_BUS)], [2, 2]);
  assert.equal(port.getUint16(PCI_BRIDGE.MEMORY_BASE, true), 0x1020);
  assert.equal(port.getUint32(PCI_BRIDGE.PREF_BASE_UPPER32, true), 0x80);
  const flags = port.getUint16(0x54 + PCI_EXP.FLAGS, true);
  assert.equal((flags & PCI_EXP_FLAGS.TYPE_MASK) >>> PCI_EXP_FLAGS.TYPE_SHIFT, PCI_EXP_TYPE.ROOT_PORT);
});

test('FLR is advertised by the NVMe and not by the e1000e', () => {
  assert.notEqual(viewOf('02:00.0').getUint32(0x80 + PCI_EXP.DEVCAP, true) & PCI_EXP_DEVCAP_FLR, 0);
  assert.equal(viewOf('01:00.0').getUint32(0xe0 + PCI_EXP.DEVCAP, true) & PCI_EXP_DEVCAP_FLR, 0);
});

test('the MSI-X capability of the e1000e says 5 vectors, table and PBA in BAR 3 at 0 and 0x2000', () => {
  const nic = viewOf('01:00.0');
  const at = 0xa0;
  assert.equal((nic.getUint16(at + PCI_MSIX.FLAGS, true) & PCI_MSIX_FLAGS.SIZE_MASK) + 1, 5);
  const pba = nic.getUint32(at + PCI_MSIX.PBA, true);
  assert.deepEqual(
    [nic.getUint32(at + PCI_MSIX.TABLE, true), pba & PCI_MSIX_BIR_MASK, pba & PCI_MSIX_OFFSET_MASK],
    [3, 3, 0x2000],
  );
});

test('the pending bits fill whole quadwords', () => {
  assert.deepEqual([1, 64, 65, 2048].map(msixPbaBytes), [8, 8, 16, 256]);
});

test('the four layouts of an MSI capability', () => {
  assert.deepEqual(msiLayout(0x000), { data: 8, mask: -1, pending: -1, bytes: 10 });
  assert.deepEqual(msiLayout(0x080), { data: 12, mask: -1, pending: -1, bytes: 14 });
  assert.deepEqual(msiLayout(0x100), { data: 8, mask: 12, pending: 16, bytes: 20 });
  assert.deepEqual(msiLayout(0x180), { data: 12, mask: 16, pending: 20, bytes: 24 });
});
