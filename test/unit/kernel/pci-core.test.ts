import { assert, test } from 'vitest';
import { PCI_CAP_ID, PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { findCapability, findExtendedCapability, readBars, scanBus } from '#shared/kernel/pci-core.ts';
import {
  at,
  Bench,
  benchWithNic,
  configAccess,
  exampleBoard,
  NIC,
  NIC_BAR0,
  NIC_BAR3,
  run,
} from '../hardware/pcie/bench.ts';

test('a scan finds every function of a bus, and those behind function 0 of a multifunction device', () => {
  const b = new Bench();
  const found = run(scanBus(configAccess(b), 0, 0));
  assert.deepEqual(
    found.map((f) => formatSbdf(f.sbdf)),
    ['00:00.0', '00:01.0', '00:02.0', '00:02.1', '00:02.2', '00:02.3', '00:03.0'].map((s) => `0000:${s}`),
  );
  const port = found[2]!;
  assert.deepEqual([port.vendorId, port.deviceId, port.classCode, port.headerType], [0x1b36, 0x000c, 0x0604, 1]);
  assert.deepEqual(run(scanBus(configAccess(b), 0, 1)), []);
});

test('BARs are sized, told by kind, and left as they were with decoding on', () => {
  const b = benchWithNic();
  const bars = run(readBars(configAccess(b), NIC));
  assert.deepEqual(bars, [
    { index: 0, kind: 'mem32', prefetchable: false, address: NIC_BAR0, sizeBytes: 0x2_0000 },
    { index: 1, kind: 'mem32', prefetchable: false, address: 0, sizeBytes: 0x2_0000 },
    { index: 2, kind: 'io', prefetchable: false, address: 0, sizeBytes: 32 },
    { index: 3, kind: 'mem32', prefetchable: false, address: NIC_BAR3, sizeBytes: 0x4000 },
  ]);
  assert.equal(b.cfg(NIC, PCI.COMMAND, 2), PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
});

test('a 64-bit BAR larger than 4 GiB is sized over both of its registers', () => {
  const virtio = at('00:01.0');
  const size = 2 ** 34;
  const b = new Bench(exampleBoard((fn) => (fn.sbdf === virtio ? { ...fn, barSizes: new Map([[4, size]]) } : fn)));
  b.setCfg(virtio, PCI.BASE_ADDRESS_0 + 20, 4, 0x84);
  const bar = run(readBars(configAccess(b), virtio)).find((x) => x.index === 4);
  assert.deepEqual(bar, { index: 4, kind: 'mem64', prefetchable: true, address: 0x84_0000_0000, sizeBytes: size });
});

test('a capability is found at the offset where the dump has it, an absent one is 0', () => {
  const access = configAccess(benchWithNic());
  assert.equal(run(findCapability(access, NIC, PCI_CAP_ID.MSIX)), 0xa0);
  assert.equal(run(findCapability(access, NIC, PCI_CAP_ID.EXPRESS)), 0xe0);
  assert.equal(run(findCapability(access, NIC, PCI_CAP_ID.AF)), 0);
  assert.equal(run(findExtendedCapability(access, NIC, PCI_EXT_CAP_ID.SERIAL)), 0x140);
  assert.equal(run(findExtendedCapability(access, NIC, PCI_EXT_CAP_ID.ACS)), 0);
  assert.equal(run(findCapability(access, at('00:1f.0'), PCI_CAP_ID.MSIX)), 0, 'nobody there');
});

test('a capability list that goes round in a circle ends', () => {
  const b = benchWithNic(
    exampleBoard((fn) => {
      if (fn.sbdf !== NIC) return fn;
      const config = fn.config.slice();
      config[0xd0 + 1] = 0xc8; // MSI points back at power management
      return { ...fn, config };
    }),
  );
  assert.equal(run(findCapability(configAccess(b), NIC, PCI_CAP_ID.MSIX)), 0);
});
