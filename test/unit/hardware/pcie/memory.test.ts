import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { at, Bench, benchWithNic, exampleBoard, NIC, NIC_BAR0, NIC_BAR3, NIC_PORT } from './bench.ts';
import { bench, EA } from './topology.ts';

describe('memory requests', () => {
  test('reach the BAR that decodes them, through the window of the port above', () => {
    const b = benchWithNic();
    assert.equal(b.mmio(NIC_BAR0 + DMA_PROBE.ID), DMA_PROBE_MAGIC);
    b.setMmio(NIC_BAR0 + DMA_PROBE.PATTERN, 0x1234_5678);
    assert.equal(b.mmio(NIC_BAR0 + DMA_PROBE.PATTERN), 0x1234_5678);
  });

  test.for([
    ['the function does not decode memory', NIC, PCI.COMMAND, 2, PCI_COMMAND.MASTER],
    ['the port does not decode memory', NIC_PORT, PCI.COMMAND, 2, PCI_COMMAND.MASTER],
    ['the window of the port is closed', NIC_PORT, PCI_BRIDGE.MEMORY_BASE, 2, 0xfff0],
    ['the BAR was moved away', NIC, PCI.BASE_ADDRESS_0, 4, 0x1010_0000],
  ] as const)('read as all ones when %s', ([, sbdf, offset, size, value]) => {
    const b = benchWithNic();
    b.setCfg(sbdf, offset, size, value);
    assert.equal(b.mmio(NIC_BAR0 + DMA_PROBE.ID), 0xffff_ffff);
    assert.equal(b.mmio(NIC_BAR0 + DMA_PROBE.ID, 1), 0xff);
  });

  test('go through the 64-bit prefetchable window to a 64-bit BAR above 4 GiB', () => {
    const port = at('00:02.1');
    const nvme = at('02:00.0');
    const b = new Bench();
    b.openPort(port, 2, 0xfff0_0000, 0);
    b.setCfg(port, PCI_BRIDGE.PREF_MEMORY_BASE, 2, 0x0020);
    b.setCfg(port, PCI_BRIDGE.PREF_MEMORY_LIMIT, 2, 0x0030);
    b.setCfg(port, PCI_BRIDGE.PREF_BASE_UPPER32, 4, 0x80);
    b.setCfg(port, PCI_BRIDGE.PREF_LIMIT_UPPER32, 4, 0x80);
    b.setCfg(nvme, PCI.BASE_ADDRESS_0, 4, 0x0020_0000);
    b.setCfg(nvme, PCI.BASE_ADDRESS_0 + 4, 4, 0x80);
    b.setCfg(nvme, PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    assert.equal(b.mmio(0x80_0020_0000 + DMA_PROBE.ID), DMA_PROBE_MAGIC);
    assert.equal(b.mmio(0x80_0020_0000 + 0x2000 + 12), 1, 'MSI-X table at 0x2000 of the same BAR');
  });

  test('what the SMMU lets a device do at a window reaches the function there; configuration space is out of reach', () => {
    const b = benchWithNic();
    const device = b.host.requester(0x0300);
    const window = b.host.windows.find((w) => w.space === 'mem32')!;
    const offset = NIC_BAR0 - window.cpuBase + DMA_PROBE.PATTERN;
    window.target.write(offset, 4, 5, device);
    assert.equal(window.target.read(offset, 4, device), 5);
    b.host.ecamTarget.write(0x10_0000 + PCI.COMMAND, 2, 0, device);
    assert.equal(b.host.ecamTarget.read(0x10_0000, 4, device), 0xffff_ffff);
    assert.equal(b.cfg(NIC, PCI.COMMAND, 2), PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
  });

  test('a BAR of Enhanced Allocation answers at its own address, has no register, and can be switched off', () => {
    const fixed = 0x80_0040_0000;
    const fn = at('00:05.0');
    const b = bench(['00:05.0', { type: 9, fixedBar: fixed }]);
    b.setCfg(fn, PCI.BASE_ADDRESS_0, 4, 0xffff_ffff);
    assert.equal(b.cfg(fn, PCI.BASE_ADDRESS_0), 0);
    assert.equal(b.mmio(fixed), 0xffff_ffff, 'Memory Space Enable is off');
    b.setCfg(fn, PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    assert.equal(b.mmio(fixed), DMA_PROBE_MAGIC);
    assert.equal(b.mmio(fixed + 0x1_0000), 0xffff_ffff);
    b.setCfg(fn, EA + 4, 4, 0);
    assert.equal(b.mmio(fixed), 0xffff_ffff);
  });

  test('nobody claims the I/O window', () => {
    const b = benchWithNic();
    assert.equal(b.mmio(0x3eff_1000, 2), 0xffff);
  });

  test('a model takes 32-bit accesses only where its data sheet says so', () => {
    const b = benchWithNic();
    assert.equal(b.mmio(NIC_BAR0 + DMA_PROBE.ID, 2), 0);
    b.setMmio(NIC_BAR0 + DMA_PROBE.PATTERN, 0xff, 1);
    assert.equal(b.mmio(NIC_BAR0 + DMA_PROBE.PATTERN), 0);
  });

  test('an inert function reads as zero behind its BARs and keeps its MSI-X table', () => {
    const b = benchWithNic(exampleBoard((fn) => (fn.sbdf === NIC ? { ...fn, model: 'inert' } : fn)));
    b.setMmio(NIC_BAR0, 1);
    assert.equal(b.mmio(NIC_BAR0), 0);
    b.setMmio(NIC_BAR3 + 8, 77);
    assert.equal(b.mmio(NIC_BAR3 + 8), 77);
  });
});
