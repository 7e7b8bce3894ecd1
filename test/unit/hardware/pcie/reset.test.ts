import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC, DMA_PROBE_OP, DMA_PROBE_STATUS } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXP, PCI_EXP_RTCTL_RRS_SVE, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import type { FunctionQuirks } from '#shared/board/description.ts';
import { at, type Bench, DOORBELL } from './bench.ts';
import { barOf, bench, EXPRESS, MSIX, open, PM, place, type Shape } from './topology.ts';

const PORT = at('00:01.0');
const FN = at('01:00.0');
const BAR = barOf('01:00.0');
const IDS = 0x1234_1b36;

function one(shape: Shape = {}, quirks?: FunctionQuirks): Bench {
  const b = bench(
    ['00:01.0', { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true }, '1'],
    quirks === undefined ? ['01:00.0', shape] : ['01:00.0', shape, quirks],
  );
  open(b, '00:01.0', 1);
  place(b, '01:00.0');
  return b;
}

function flr(b: Bench): void {
  b.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL, 2, 0x8000);
}

function power(b: Bench, sbdf: number, state: number): void {
  b.setCfg(sbdf, PM + 4, 2, state);
}

describe('power states', () => {
  test('in D3hot a function has its configuration space and nothing else', () => {
    const b = one({ noSoftReset: true, vectors: 2 });
    b.setMmio(BAR + 0x8000, DOORBELL);
    b.setMmio(BAR + 0x800c, 0);
    b.setCfg(FN, MSIX + 2, 2, 0x8000);
    b.setMmio(BAR + DMA_PROBE.LENGTH_LO, 4);
    b.setMmio(BAR + DMA_PROBE.COMMAND, 0x8000_0000 + DMA_PROBE_OP.WRITE);
    power(b, FN, 3);
    b.pass(1e6);
    assert.equal(b.cfg(FN, 0), IDS);
    assert.equal(b.mmio(BAR), 0xffff_ffff);
    assert.equal(b.memory.requesters.length + b.memory.messages.length, 0);
  });

  test('with No_Soft_Reset it comes back as it was, without as after a reset', () => {
    for (const noSoftReset of [true, false]) {
      const b = one({ noSoftReset });
      b.setMmio(BAR + DMA_PROBE.PATTERN, 7);
      power(b, FN, 3);
      power(b, FN, 0);
      assert.equal(b.cfg(FN, PCI.BASE_ADDRESS_0), noSoftReset ? BAR : 0);
      if (noSoftReset) assert.equal(b.mmio(BAR + DMA_PROBE.PATTERN), 7);
    }
  });

  test('D1 and D2 do not stick in a function that does not have them', () => {
    const b = one();
    power(b, FN, 1);
    assert.equal(b.cfg(FN, PM + 4, 2) & 3, 0);
    power(b, FN, 3);
    power(b, FN, 2);
    assert.equal(b.cfg(FN, PM + 4, 2) & 3, 3);
  });

  test('nothing passes a port in D3hot, in either direction', () => {
    const b = one();
    b.setMmio(BAR + DMA_PROBE.LENGTH_LO, 4);
    b.setMmio(BAR + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    power(b, PORT, 3);
    assert.equal(b.cfg(FN, 0), 0xffff_ffff);
    assert.equal(b.mmio(BAR), 0xffff_ffff);
    b.pass(1e6);
    assert.equal(b.memory.requesters.length, 0);
  });
});

describe('a function that takes its time after a reset', () => {
  const LATE: FunctionQuirks = { resetNs: 300e6 };

  test('shows Request Retry Status in its vendor id where the root port makes it visible, else all ones', () => {
    const b = one({}, LATE);
    assert.equal(b.cfg(FN, 0), IDS, 'power-on is behind it');
    flr(b);
    assert.equal(b.cfg(FN, 0), 0xffff_ffff);
    b.setCfg(PORT, EXPRESS + PCI_EXP.RTCTL, 2, PCI_EXP_RTCTL_RRS_SVE);
    assert.deepEqual([b.cfg(FN, 0), b.cfg(FN, 0, 2), b.cfg(FN, 0, 1)], [0xffff_0001, 0x0001, 0xff]);
    assert.equal(b.cfg(FN, PCI.COMMAND, 2), 0xffff);
    b.pass(299e6);
    assert.equal(b.cfg(FN, 0, 2), 1);
    b.pass(1e6);
    assert.equal(b.cfg(FN, 0), IDS);
  });

  test('loses what is written meanwhile, and starts anew with another reset', () => {
    const b = one({}, LATE);
    flr(b);
    place(b, '01:00.0');
    b.pass(200e6);
    b.setCfg(PORT, PCI_BRIDGE.CONTROL, 2, 0x40);
    b.setCfg(PORT, PCI_BRIDGE.CONTROL, 2, 0);
    b.pass(200e6);
    assert.equal(b.cfg(FN, 0), 0xffff_ffff);
    b.pass(100e6);
    assert.deepEqual([b.cfg(FN, 0), b.cfg(FN, PCI.COMMAND, 2)], [IDS, 0]);
  });

  test('may say nothing at all, and may never come back before power-on', () => {
    const b = one({}, { resetNs: Number.POSITIVE_INFINITY, notReady: 'all-ones' });
    b.setCfg(PORT, EXPRESS + PCI_EXP.RTCTL, 2, PCI_EXP_RTCTL_RRS_SVE);
    flr(b);
    b.pass(1e15);
    assert.equal(b.cfg(FN, 0), 0xffff_ffff);
    b.fabric.reset();
    open(b, '00:01.0', 1);
    assert.equal(b.cfg(FN, 0), IDS);
  });

  test('without FLR neither offers nor does it', () => {
    const b = one({}, { flr: 'none' });
    assert.equal(b.cfg(FN, EXPRESS + PCI_EXP.DEVCAP) & 0x1000_0000, 0);
    flr(b);
    assert.equal(b.cfg(FN, PCI.BASE_ADDRESS_0), BAR);
  });
});

describe('a link', () => {
  test.for([
    ['Secondary Bus Reset', PCI_BRIDGE.CONTROL, 0x40],
    ['Link Disable', EXPRESS + PCI_EXP.LNKCTL, 0x10],
  ] as const)('%s resets what is below and keeps it silent until it is taken back', ([, register, bit]) => {
    const b = one();
    b.setMmio(BAR + DMA_PROBE.LENGTH_LO, 0x20_0000);
    b.setMmio(BAR + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    b.setCfg(PORT, register, 2, bit);
    assert.equal(b.cfg(FN, 0), 0xffff_ffff);
    assert.equal(b.mmio(BAR), 0xffff_ffff);
    place(b, '01:00.0');
    b.pass(1e9);
    b.setCfg(PORT, register, 2, 0);
    assert.equal(b.cfg(FN, PCI.COMMAND, 2), 0, 'writes meanwhile were lost');
    place(b, '01:00.0');
    assert.equal(b.mmio(BAR), DMA_PROBE_MAGIC);
    assert.equal(b.mmio(BAR + DMA_PROBE.STATUS) & DMA_PROBE_STATUS.BUSY, 0);
    assert.equal(b.memory.requesters.length, 0);
  });

  test('with ARI a device has up to 256 functions, which the port reaches when it forwards', () => {
    const b = bench(
      ['00:01.0', { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true }, '1'],
      ['01:00.0', {}],
      ['01:00.7', {}],
      ['01:1f.7', {}],
    );
    open(b, '00:01.0', 1);
    assert.equal(b.cfg(at('01:00.0'), PCI.HEADER_TYPE, 1), 0x80, 'more than one function');
    assert.equal(b.cfg(at('01:00.7'), 0), IDS);
    assert.equal(b.cfg(at('01:1f.7'), 0), 0xffff_ffff);
    b.setCfg(PORT, EXPRESS + PCI_EXP.DEVCTL2, 2, 0x20);
    place(b, '01:1f.7');
    assert.equal(b.cfg(at('01:1f.7'), 0), IDS);
    b.setMmio(barOf('01:1f.7') + DMA_PROBE.LENGTH_LO, 4);
    b.setMmio(barOf('01:1f.7') + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    b.pass(1e6);
    assert.equal(b.memory.requesters[0]!.rid, 0x01ff);
    assert.equal(b.cfg(at('01:1f.7'), PCI.COMMAND, 2), PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
  });
});
