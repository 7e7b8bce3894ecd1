import { assert, describe, test } from 'vitest';
import { DMA_PROBE } from '#shared/arch/dma-probe.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSI } from '#shared/arch/pci/msi.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import {
  type Bench,
  benchWithNic,
  DOORBELL,
  exampleBoard,
  NIC,
  NIC_BAR0,
  NIC_BAR3,
  NIC_MSIX,
  NIC_PORT,
  setVector,
} from './bench.ts';
import { barOf, bench, MSI as MSI_AT, open, place } from './topology.ts';

const PBA = NIC_BAR3 + 0x2000;

function raise(b: Bench, vector: number): void {
  b.setMmio(NIC_BAR0 + DMA_PROBE.RAISE_ONE, vector);
}

describe('MSI-X', () => {
  test('a raised vector is a memory write of its data with the requester id of the function', () => {
    const b = benchWithNic();
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0x8000);
    setVector(b, 3, DOORBELL, 0x55);
    b.setMmio(NIC_BAR0 + DMA_PROBE.RAISE, 1 << 3);
    assert.deepEqual(b.memory.messages, [[0x0100, DOORBELL, 0x55]]);
    assert.equal(b.mmio(NIC_BAR0 + DMA_PROBE.MESSAGES), 1);
  });

  test('a masked vector is delivered once when it is unmasked', () => {
    const b = benchWithNic();
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0x8000);
    setVector(b, 1, DOORBELL, 9, 1);
    raise(b, 1);
    raise(b, 1);
    assert.equal(b.mmio(PBA), 1 << 1);
    assert.deepEqual(b.memory.messages, []);
    b.setMmio(NIC_BAR3 + 16 + 12, 0);
    assert.equal(b.mmio(PBA), 0);
    assert.deepEqual(b.memory.messages, [[0x0100, DOORBELL, 9]]);
  });

  test('the function mask holds every vector back', () => {
    const b = benchWithNic();
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0xc000);
    setVector(b, 0, DOORBELL, 10);
    setVector(b, 4, DOORBELL, 14);
    raise(b, 4);
    raise(b, 0);
    assert.deepEqual(b.memory.messages, []);
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0x8000);
    assert.deepEqual(
      b.memory.messages.map((m) => m[2]),
      [10, 14],
    );
  });

  test('without Enable nothing is sent and nothing is remembered', () => {
    const b = benchWithNic();
    setVector(b, 0, DOORBELL, 10);
    raise(b, 0);
    assert.equal(b.mmio(PBA), 0);
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0x8000);
    assert.deepEqual(b.memory.messages, []);
  });

  test.for([
    ['the function', NIC],
    ['the port above it', NIC_PORT],
  ] as const)('without Bus Master Enable of %s no message arrives', ([, sbdf]) => {
    const b = benchWithNic();
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0x8000);
    setVector(b, 0, DOORBELL, 10);
    b.setCfg(sbdf, PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    raise(b, 0);
    assert.deepEqual(b.memory.messages, []);
  });

  test('the pending bits are read-only, address bits [1:0] are zero, and half words do not write the table', () => {
    const b = benchWithNic();
    b.setMmio(PBA, 0xff);
    b.setMmio(NIC_BAR3, 0x1003);
    b.setMmio(NIC_BAR3 + 8, 0x1234, 2);
    assert.deepEqual([b.mmio(PBA), b.mmio(NIC_BAR3), b.mmio(NIC_BAR3 + 8)], [0, 0x1000, 0]);
  });

  test('a vector that the table does not have is not raised', () => {
    const b = benchWithNic();
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0x8000);
    raise(b, 5);
    raise(b, 0xffff_ffff);
    assert.deepEqual(b.memory.messages, []);
  });
});

describe('MSI', () => {
  /** The NIC with its MSI capability (at 0xd0) made to offer four maskable vectors. */
  function maskable(): BoardDescription {
    return exampleBoard((fn) => {
      if (fn.sbdf !== NIC) return fn;
      const config = fn.config.slice();
      // Its Express capability at 0xe0 leaves 16 bytes: unlink it, so that mask and pending fit.
      config[0xd1] = 0xa0;
      config[0xd2] = 0x84;
      config[0xd3] = 0x01;
      config.fill(0, 0xe0, 0xe8);
      return { ...fn, config };
    });
  }

  test('sends its one vector with the data as programmed', () => {
    const b = benchWithNic();
    b.setCfg(NIC, 0xd0 + PCI_MSI.ADDRESS_LO, 4, DOORBELL);
    b.setCfg(NIC, 0xd0 + PCI_MSI.DATA_64, 2, 0x77);
    b.setCfg(NIC, 0xd0 + PCI_MSI.FLAGS, 2, 1);
    raise(b, 2);
    assert.deepEqual(b.memory.messages, [[0x0100, DOORBELL, 0x77]]);
  });

  test('puts the vector into the low bits of the data and keeps masked ones pending', () => {
    const b = benchWithNic(maskable());
    b.setCfg(NIC, 0xd0 + PCI_MSI.ADDRESS_LO, 4, DOORBELL);
    b.setCfg(NIC, 0xd0 + PCI_MSI.DATA_64, 2, 0x43);
    b.setCfg(NIC, 0xd0 + PCI_MSI.MASK_64, 4, 0xffff_fff4);
    assert.equal(b.cfg(NIC, 0xd0 + PCI_MSI.MASK_64), 4, 'four vectors have four mask bits');
    b.setCfg(NIC, 0xd0 + PCI_MSI.FLAGS, 2, (2 << 4) | 1);
    raise(b, 1);
    raise(b, 2);
    assert.equal(b.cfg(NIC, 0xd0 + PCI_MSI.PENDING_64), 4);
    b.setCfg(NIC, 0xd0 + PCI_MSI.MASK_64, 4, 0);
    assert.deepEqual(
      b.memory.messages.map((m) => m[2]),
      [0x41, 0x42],
    );
    assert.equal(b.cfg(NIC, 0xd0 + PCI_MSI.PENDING_64), 0);
  });

  test.for([
    ['32-bit', 0x000, 8, 0],
    ['64-bit', 0x080, 12, 1],
  ] as const)('of %s address takes its data where that layout has it', ([, flags, data, high]) => {
    const b = bench(['00:01.0', { type: 4, bridge: true }, '1'], ['01:00.0', { msi: flags }]);
    open(b, '00:01.0', 1);
    place(b, '01:00.0');
    const fn = 0x0100;
    b.setCfg(fn, MSI_AT + PCI_MSI.ADDRESS_LO, 4, 0x4000_0041);
    if (high !== 0) b.setCfg(fn, MSI_AT + PCI_MSI.ADDRESS_HI, 4, high);
    b.setCfg(fn, MSI_AT + data, 2, 0xabcd);
    b.setCfg(fn, MSI_AT + PCI_MSI.FLAGS, 2, 1);
    b.setMmio(barOf('01:00.0') + DMA_PROBE.RAISE_ONE, 0);
    assert.deepEqual(b.memory.messages, [[fn, high * 2 ** 32 + 0x4000_0040, 0xabcd]]);
  });

  test('a function is granted no more vectors than it has, and folds what it would send beyond', () => {
    const b = bench(['00:01.0', { type: 4, bridge: true }, '1'], ['01:00.0', { msi: 0x80 | (2 << 1) }]);
    open(b, '00:01.0', 1);
    place(b, '01:00.0');
    b.setCfg(0x0100, MSI_AT + PCI_MSI.ADDRESS_LO, 4, DOORBELL);
    b.setCfg(0x0100, MSI_AT + PCI_MSI.DATA_64, 2, 0x80);
    b.setCfg(0x0100, MSI_AT + PCI_MSI.FLAGS, 2, (5 << 4) | 1);
    for (const vector of [3, 4, 7]) b.setMmio(barOf('01:00.0') + DMA_PROBE.RAISE_ONE, vector);
    assert.deepEqual(
      b.memory.messages.map((m) => m[2]),
      [0x83, 0x80, 0x83],
    );
  });
});
