import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC, DMA_PROBE_OP, DMA_PROBE_STATUS } from '#shared/arch/dma-probe.ts';
import { PCI_EXP, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_SRIOV, PCI_SRIOV_CTRL } from '#shared/arch/pci/sriov.ts';
import { at, type Bench, DOORBELL } from './bench.ts';
import { barOf, bench, EXPRESS, open, PM, place, SRIOV, WINDOW_BASE } from './topology.ts';

const { VFE, MSE } = PCI_SRIOV_CTRL;
const PF = at('01:00.0');
const PORT = at('00:01.0');
const ARI_FORWARDING = 0x20;
/** VF BAR 0: 64 KiB a VF, in the second MiB of the port's window. */
const VF_BAR = WINDOW_BASE + 0x20_0000;
/** VFs start here: with 0x80 after 01:00.0 at 01:10.0, and the stride of 2 leads past ff to bus 2. */
const VF1 = 0x0180;

function withPf(sriov = { total: 256, offset: 0x80, stride: 2 }): Bench {
  const b = bench(['00:01.0', { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true }, '1'], ['01:00.0', { vectors: 4, sriov }]);
  open(b, '00:01.0', 1, 3);
  place(b, '01:00.0');
  b.setCfg(PORT, EXPRESS + PCI_EXP.DEVCTL2, 2, ARI_FORWARDING);
  b.setCfg(PF, SRIOV + PCI_SRIOV.BAR, 4, VF_BAR);
  return b;
}

function enable(b: Bench, count: number, control = VFE | MSE): void {
  b.setCfg(PF, SRIOV + PCI_SRIOV.NUM_VF, 2, count);
  b.setCfg(PF, SRIOV + PCI_SRIOV.CTRL, 2, control);
}

describe('virtual functions', () => {
  test('appear when VF Enable is set, with ids of their own, and go when it is cleared', () => {
    const b = withPf();
    assert.equal(b.cfg(VF1, PCI.VENDOR_ID), 0xffff_ffff);
    enable(b, 2);
    assert.equal(b.cfg(VF1, PCI.VENDOR_ID), 0xffff_ffff, 'vendor and device id of a VF are ffff');
    assert.equal(b.cfg(VF1, PCI.CLASS_DEVICE, 2), 0xff00);
    assert.equal(b.cfg(VF1 + 2, PCI.CLASS_DEVICE, 2), 0xff00);
    assert.equal(b.cfg(VF1 + 4, PCI.CLASS_DEVICE, 2), 0xffff, 'there is no third');
    b.setCfg(PF, SRIOV + PCI_SRIOV.CTRL, 2, 0);
    assert.equal(b.cfg(VF1, PCI.CLASS_DEVICE, 2), 0xffff);
  });

  test('have only Bus Master Enable in their command, no BARs, Express with FLR and MSI-X', () => {
    const b = withPf();
    enable(b, 1);
    b.setCfg(VF1, PCI.COMMAND, 2, 0xffff);
    assert.equal(b.cfg(VF1, PCI.COMMAND, 2), PCI_COMMAND.MASTER);
    b.setCfg(VF1, PCI.BASE_ADDRESS_0, 4, 0xffff_ffff);
    assert.equal(b.cfg(VF1, PCI.BASE_ADDRESS_0), 0);
    const express = b.cfg(VF1, PCI.CAPABILITY_LIST, 1);
    assert.equal(b.cfg(VF1, express, 1), 0x10);
    assert.notEqual(b.cfg(VF1, express + PCI_EXP.DEVCAP) & 0x1000_0000, 0);
    assert.equal(b.cfg(VF1, b.cfg(VF1, express + 1, 1), 1), 0x11);
  });

  test('spill to the next bus, where the port finds them without ARI Forwarding', () => {
    const b = withPf();
    enable(b, 100);
    const last = 0x0100 + 0x80 + 99 * 2;
    assert.equal(last, 0x0246);
    assert.equal(b.cfg(last, PCI.CLASS_DEVICE, 2), 0xff00);
    b.setCfg(PORT, EXPRESS + PCI_EXP.DEVCTL2, 2, 0);
    assert.equal(b.cfg(VF1, PCI.CLASS_DEVICE, 2), 0xffff, 'device 16 of the link needs it');
    assert.equal(b.cfg(last, PCI.CLASS_DEVICE, 2), 0xff00);
    b.setCfg(PORT, 0x1a, 1, 1);
    assert.equal(b.cfg(last, PCI.CLASS_DEVICE, 2), 0xffff, 'the port does not lead to bus 2 any more');
  });

  test('each decode their part of the VF BAR, by VF Memory Space Enable alone', () => {
    const b = withPf();
    enable(b, 3);
    assert.equal(b.mmio(VF_BAR + 2 * 0x1_0000), DMA_PROBE_MAGIC);
    b.setMmio(VF_BAR + 0x1_0000 + DMA_PROBE.PATTERN, 7);
    assert.deepEqual(
      [0, 1, 2].map((n) => b.mmio(VF_BAR + n * 0x1_0000 + DMA_PROBE.PATTERN)),
      [0, 7, 0],
    );
    assert.equal(b.mmio(VF_BAR + 3 * 0x1_0000), 0xffff_ffff);
    b.setCfg(PF, SRIOV + PCI_SRIOV.CTRL, 2, VFE);
    assert.equal(b.mmio(VF_BAR), 0xffff_ffff);
    assert.equal(b.mmio(barOf('01:00.0')), DMA_PROBE_MAGIC, 'the PF answers as before');
  });

  test('stand a system page apart when that is larger than their BAR', () => {
    const b = withPf();
    b.setCfg(PF, SRIOV + PCI_SRIOV.SYS_PGSIZE, 4, 1 << 8); // 1 MiB
    enable(b, 2);
    assert.equal(b.mmio(VF_BAR + 0x1_0000), 0);
    assert.equal(b.mmio(VF_BAR + 0x10_0000), DMA_PROBE_MAGIC);
    b.setCfg(PF, SRIOV + PCI_SRIOV.SYS_PGSIZE, 4, 1 << 3);
    assert.equal(b.cfg(PF, SRIOV + PCI_SRIOV.SYS_PGSIZE), 0, 'a page size that is not supported does not stick');
  });

  test('do DMA and send messages with their own id and their own Bus Master Enable', () => {
    const b = withPf();
    enable(b, 2);
    const bar = VF_BAR + 0x1_0000;
    b.setMmio(bar + DMA_PROBE.LENGTH_LO, 4);
    b.setMmio(bar + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    b.pass(1e6);
    assert.equal(b.mmio(bar + DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
    b.setCfg(VF1 + 2, PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    b.setMmio(bar + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    b.pass(1e6);
    assert.equal(b.memory.requesters[0]!.rid, VF1 + 2);
    const msix = b.cfg(VF1 + 2, b.cfg(VF1 + 2, PCI.CAPABILITY_LIST, 1) + 1, 1);
    const table = b.cfg(VF1 + 2, msix + 4);
    b.setMmio(bar + table + 16, DOORBELL);
    b.setMmio(bar + table + 16 + 8, 0x99);
    b.setMmio(bar + table + 16 + 12, 0);
    b.setCfg(VF1 + 2, msix + 2, 2, 0x8000);
    b.setMmio(bar + DMA_PROBE.RAISE_ONE, 1);
    assert.deepEqual(b.memory.messages, [[VF1 + 2, DOORBELL, 0x99]]);
  });

  test('are reset one by one by FLR, and vanish with a reset of their PF', () => {
    const b = withPf();
    enable(b, 2);
    const [one, other] = [VF1, VF1 + 2];
    for (const vf of [one, other]) b.setCfg(vf, PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    b.setCfg(one, b.cfg(one, PCI.CAPABILITY_LIST, 1) + PCI_EXP.DEVCTL, 2, 0x8000);
    assert.deepEqual([b.cfg(one, PCI.COMMAND, 2), b.cfg(other, PCI.COMMAND, 2)], [0, PCI_COMMAND.MASTER]);
    b.setCfg(PF, EXPRESS + PCI_EXP.DEVCTL, 2, 0x8000);
    assert.equal(b.cfg(other, PCI.CLASS_DEVICE, 2), 0xffff);
    assert.equal(b.cfg(PF, SRIOV + PCI_SRIOV.NUM_VF, 2), 0);
  });

  test('come back as after power-on when they are enabled again', () => {
    const b = withPf();
    enable(b, 1);
    b.setCfg(VF1, PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    b.setMmio(VF_BAR + DMA_PROBE.PATTERN, 5);
    b.setCfg(PF, SRIOV + PCI_SRIOV.CTRL, 2, MSE);
    b.setCfg(PF, SRIOV + PCI_SRIOV.CTRL, 2, VFE | MSE);
    assert.deepEqual([b.cfg(VF1, PCI.COMMAND, 2), b.mmio(VF_BAR + DMA_PROBE.PATTERN)], [0, 0]);
  });

  test('number as many as NumVFs said before they were enabled; none when that is 0 or too many', () => {
    const b = withPf({ total: 4, offset: 0x80, stride: 1 });
    enable(b, 2);
    b.setCfg(PF, SRIOV + PCI_SRIOV.NUM_VF, 2, 4);
    assert.equal(b.cfg(PF, SRIOV + PCI_SRIOV.NUM_VF, 2), 2);
    assert.equal(b.cfg(VF1 + 2, PCI.CLASS_DEVICE, 2), 0xffff);
    for (const count of [0, 5]) {
      b.setCfg(PF, SRIOV + PCI_SRIOV.CTRL, 2, 0);
      enable(b, count);
      assert.equal(b.cfg(VF1, PCI.CLASS_DEVICE, 2), 0xffff);
    }
  });

  test('do nothing while their PF is in D3hot', () => {
    const b = withPf();
    enable(b, 1);
    b.setCfg(PF, PM + 4, 2, 3);
    assert.equal(b.mmio(VF_BAR), 0xffff_ffff);
  });

  test('follow their PF when its bus gets another number', () => {
    const b = withPf();
    enable(b, 1);
    b.setCfg(PORT, 0x19, 1, 3);
    b.setCfg(0x0300, PCI.CACHE_LINE_SIZE, 1, 16);
    assert.equal(b.cfg(0x0380, PCI.CLASS_DEVICE, 2), 0xff00);
    assert.equal(b.cfg(VF1, PCI.CLASS_DEVICE, 2), 0xffff);
  });
});
