/**
 * Cases of Arm's SystemReady architecture compliance suite (sysarch-acs, test_pool/pcie and test_pool/exerciser) about
 * configuration space: what is found, what registers keep, resets. The whole machine where a platform is asked about, a
 * fabric made to measure where a function is. Cases that look at peer traffic are in test/peer/sysarch-acs.
 */
import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_CAP_ID, PCI_EXT_CAP_ID, PCI_PM } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { SMMU_IDR0 } from '#shared/arch/smmu/v3.ts';
import { busOf } from '#shared/ids/sbdf.ts';
import { findExtendedCapability, scanBus } from '#shared/kernel/pci-core.ts';
import { asWord, get } from '#shared/regs/field.ts';
import { barOf, bench, EA, EXPRESS, MSIX, open, PM, place } from '../../unit/hardware/pcie/topology.ts';
import { at, NUMA, Platform, run, VIRT } from './platform.ts';

const PORT = { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true };
const FN = at('01:00.0');
const ABSENT = 0xffff_ffff;

/** Where the two capability chains of a function lead: ids and offsets, until their end. */
function chains(p: Platform, sbdf: number): { readonly conventional: number[]; readonly extended: number[] } {
  const conventional: number[] = [];
  let offset = (p.cfg(sbdf, PCI.STATUS, 2) & 0x10) === 0 ? 0 : p.cfg(sbdf, PCI.CAPABILITY_LIST, 1) & 0xfc;
  for (; offset !== 0 && conventional.length < 64; offset = p.cfg(sbdf, offset + 1, 1) & 0xfc)
    conventional.push(offset);
  const extended: number[] = [];
  let next = p.cap(sbdf, PCI_CAP_ID.EXPRESS) === 0 ? 0 : 0x100;
  for (; next !== 0 && extended.length < 512; ) {
    const head = p.cfg(sbdf, next);
    if (head === 0 || head === ABSENT) break;
    extended.push(next);
    next = (head >>> 20) & 0xffc;
  }
  return { conventional, extended };
}

describe('sysarch-acs pcie: what is there', () => {
  test.for([VIRT, NUMA])(
    '[arm-acs/p001] [arm-acs/p002] every bus of every window is scanned, no function reads 0, chains end (%s)',
    (board) => {
      const p = new Platform(board);
      for (const bridge of p.machine.board.bridges) {
        assert.isAtLeast(bridge.ecam.sizeBytes, 0x10_0000);
        for (let bus = bridge.busRange.first; bus <= bridge.busRange.last; bus++) {
          for (const { sbdf } of run(scanBus(p.access, bridge.segment, bus))) {
            assert.isTrue(p.functions.has(sbdf));
            assert.notEqual(p.cfg(sbdf, 0), 0);
            const { conventional, extended } = chains(p, sbdf);
            assert.isBelow(conventional.length, 48);
            assert.isBelow(extended.length, 480);
            assert.equal(new Set(conventional).size, conventional.length, 'a chain that bites its tail');
          }
        }
      }
      assert.isAtLeast(p.functions.size, 10);
    },
  );

  test('[arm-acs/p003] [arm-acs/p037] [arm-acs/p038] [arm-acs/p072] [arm-acs/e010] what is below a root port is in its ECAM, and only at its bus', () => {
    const p = new Platform(NUMA);
    for (const { sbdf, parent } of p.functions.values()) {
      if (parent === undefined) continue;
      assert.equal(parent >>> 16, sbdf >>> 16, 'one segment, one window');
      assert.equal(p.cfg(parent, PCI_BRIDGE.SECONDARY_BUS, 1), busOf(sbdf));
      const ids = p.cfg(sbdf, 0);
      const bus = p.cfg(parent, PCI_BRIDGE.SECONDARY_BUS, 1);
      p.setCfg(parent, PCI_BRIDGE.SECONDARY_BUS, 1, 40);
      p.setCfg(parent, PCI_BRIDGE.SUBORDINATE_BUS, 1, 40);
      assert.equal(p.cfg(sbdf, 0), ABSENT);
      assert.equal(p.cfg((sbdf & ~0xff00) | (40 << 8), 0), ids, 'type 0 at the secondary bus, whatever its number');
      p.setCfg(parent, PCI_BRIDGE.SECONDARY_BUS, 1, bus);
      p.setCfg(parent, PCI_BRIDGE.SUBORDINATE_BUS, 1, bus);
    }
  });

  test('[arm-acs/p080] [arm-acs/p089] [arm-acs/e020] no function has ATS or PRI, and no SMMU claims them', () => {
    const p = new Platform(VIRT);
    for (const sbdf of p.functions.keys())
      for (const id of [PCI_EXT_CAP_ID.ATS, PCI_EXT_CAP_ID.PRI])
        assert.equal(run(findExtendedCapability(p.access, sbdf, id)), 0);
    const idr0 = asWord(SMMU_IDR0, p.read(p.machine.board.smmus[0]!.registers.pa));
    assert.deepEqual([get(SMMU_IDR0.ATS, idr0), get(SMMU_IDR0.PRI, idr0)], [0, 0]);
  });

  test('[arm-acs/p017] [arm-acs/p019] [arm-acs/p081] [arm-acs/p093] every root port of the bundled board has ACS', () => {
    const p = new Platform(VIRT);
    const ports = [...p.functions.values()].filter(({ headerType }) => headerType === 1);
    assert.isAtLeast(ports.length, 4);
    for (const { sbdf } of ports) assert.notEqual(run(findExtendedCapability(p.access, sbdf, PCI_EXT_CAP_ID.ACS)), 0);
  });
});

/** Offset, bytes, bits that are kept when ones and when zeros are written. The rest reads as it did. */
type Attribute = readonly [name: string, offset: number, sizeBytes: 1 | 2 | 4, writable: number];

const ENDPOINT: readonly Attribute[] = [
  ['vendor and device id', PCI.VENDOR_ID, 4, 0],
  ['class and revision', 0x08, 4, 0],
  ['header type', PCI.HEADER_TYPE, 1, 0],
  ['BIST', 0x0f, 1, 0],
  ['command', PCI.COMMAND, 2, 0x0547],
  ['latency timer', 0x0d, 1, 0],
  ['capability pointer', PCI.CAPABILITY_LIST, 1, 0],
  ['interrupt line', 0x3c, 1, 0xff],
  ['interrupt pin', PCI.INTERRUPT_PIN, 1, 0],
  ['subsystem ids', 0x2c, 4, 0],
  ['Express: flags', EXPRESS + PCI_EXP.FLAGS, 2, 0],
  ['Express: device capabilities', EXPRESS + PCI_EXP.DEVCAP, 4, 0],
  ['Express: link capabilities', EXPRESS + PCI_EXP.LNKCAP, 4, 0],
  ['PM: capabilities', PM + PCI_PM.PMC, 2, 0],
  ['MSI-X: table', MSIX + 4, 4, 0],
  ['MSI-X: pending bits', MSIX + 8, 4, 0],
  ['MSI-X: control', MSIX + 2, 2, 0xc000],
];

const ROOT_PORT: readonly Attribute[] = [
  ['vendor and device id', PCI.VENDOR_ID, 4, 0],
  ['header type', PCI.HEADER_TYPE, 1, 0],
  ['bus numbers', PCI_BRIDGE.PRIMARY_BUS, 4, 0x00ff_ffff],
  ['memory window', PCI_BRIDGE.MEMORY_BASE, 4, 0xfff0_fff0],
  ['prefetchable window', PCI_BRIDGE.PREF_MEMORY_BASE, 4, 0xfff0_fff0],
  ['prefetchable window, upper base', PCI_BRIDGE.PREF_BASE_UPPER32, 4, 0xffff_ffff],
  ['prefetchable window, upper limit', PCI_BRIDGE.PREF_LIMIT_UPPER32, 4, 0xffff_ffff],
];

describe('sysarch-acs pcie: registers', () => {
  test.for([
    ['an endpoint', '01:00.0', ENDPOINT],
    ['a root port', '00:01.0', ROOT_PORT],
  ] as const)(
    '[arm-acs/p020-p026] [arm-acs/p048-p054] [arm-acs/p088] bits of %s that can be written keep what is written, others do not change',
    ([, address, attributes]) => {
      const b = bench(['00:01.0', PORT, '1'], ['01:00.0', { vectors: 4, pin: 1 }]);
      open(b, '00:01.0', 1);
      place(b, '01:00.0');
      for (const [name, offset, sizeBytes, writable] of attributes) {
        const before = b.cfg(at(address), offset, sizeBytes);
        const all = sizeBytes === 4 ? 0xffff_ffff : 2 ** (8 * sizeBytes) - 1;
        b.setCfg(at(address), offset, sizeBytes, all);
        const ones = b.cfg(at(address), offset, sizeBytes);
        b.setCfg(at(address), offset, sizeBytes, 0);
        const zeros = b.cfg(at(address), offset, sizeBytes);
        b.setCfg(at(address), offset, sizeBytes, before);
        assert.equal((ones ^ zeros) >>> 0, writable, `${name}: what changed`);
        assert.equal((ones & ~writable) >>> 0, (before & ~writable) >>> 0, `${name}: what did not`);
      }
    },
  );

  test('[arm-acs/p031] [arm-acs/p032] [arm-acs/p033] no BIST, a capability pointer inside the list, payload within the rules', () => {
    const p = new Platform(VIRT);
    for (const sbdf of p.functions.keys()) {
      assert.equal(p.cfg(sbdf, 0x0f, 1) & 0x40, 0, 'BIST does not start');
      const pointer = p.cfg(sbdf, PCI.CAPABILITY_LIST, 1);
      if ((p.cfg(sbdf, PCI.STATUS, 2) & 0x10) !== 0) assert.isTrue(pointer >= 0x40 && pointer % 4 === 0);
      const express = p.cap(sbdf, PCI_CAP_ID.EXPRESS);
      if (express === 0) continue;
      const supported = p.cfg(sbdf, express + PCI_EXP.DEVCAP) & 7;
      assert.isAtMost(supported, 5);
      assert.isAtMost((p.cfg(sbdf, express + PCI_EXP.DEVCTL, 2) >>> 5) & 7, supported);
    }
  });

  test('[arm-acs/p056] [arm-acs/p057] [arm-acs/p070] power management: version 3, and D3hot takes everything but configuration space', () => {
    const b = bench(['00:01.0', PORT, '1'], ['01:00.0', {}]);
    open(b, '00:01.0', 1);
    place(b, '01:00.0');
    assert.equal(b.cfg(FN, PM + PCI_PM.PMC, 2) & 7, 3);
    b.setCfg(FN, PM + PCI_PM.CTRL, 2, 3);
    b.pass(10e6);
    assert.equal(b.cfg(FN, PM + PCI_PM.CTRL, 2) & 3, 3);
    assert.equal(b.mmio(barOf('01:00.0')), ABSENT);
    assert.equal(b.cfg(FN, 0) & 0xffff, 0x1b36);
    b.setCfg(FN, PM + PCI_PM.CTRL, 2, 0);
    b.pass(10e6);
    assert.equal(b.cfg(FN, PM + PCI_PM.CTRL, 2) & 3, 0);
  });

  test('[arm-acs/p063] after FLR the vendor id answers within five seconds, and nothing of what was programmed is left', () => {
    const p = new Platform(VIRT);
    const fn = at('0000:01:00.0');
    const express = p.cap(fn, PCI_CAP_ID.EXPRESS);
    const vendor = p.cfg(fn, PCI.VENDOR_ID, 2);
    const offered = (p.cfg(fn, express + PCI_EXP.DEVCAP) & 0x1000_0000) !== 0;
    p.setCfg(fn, express + PCI_EXP.DEVCTL, 2, 0x8000);
    p.pass(5e9);
    assert.equal(p.cfg(fn, PCI.VENDOR_ID, 2), vendor);
    const left = p.cfg(fn, PCI.COMMAND, 2) & (PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    assert.equal(left, offered ? 0 : PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER, 'only a function that offers it does it');
  });

  test('[arm-acs/p083] memory BARs keep their type bits and the address above their size', () => {
    const p = new Platform(VIRT);
    for (const { sbdf, bars, headerType } of p.functions.values()) {
      if (headerType !== 0) continue;
      p.setCfg(sbdf, PCI.COMMAND, 2, 0);
      for (const { index, kind, sizeBytes } of bars) {
        if (kind === 'io') continue;
        const offset = PCI.BASE_ADDRESS_0 + 4 * index;
        const before = p.cfg(sbdf, offset);
        p.setCfg(sbdf, offset, 4, 0xffff_ffff);
        const sized = p.cfg(sbdf, offset);
        p.setCfg(sbdf, offset, 4, 0);
        assert.equal(p.cfg(sbdf, offset), before & 0xf);
        assert.equal(sized, (-sizeBytes | (before & 0xf)) >>> 0);
      }
    }
  });

  test('[arm-acs/p087] what Enhanced Allocation places cannot be moved by a BAR register', () => {
    const b = bench(['00:01.0', PORT, '1'], ['01:00.0', { fixedBar: 0x1010_0000 }]);
    open(b, '00:01.0', 1);
    b.setCfg(FN, PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    const entry = b.cfg(FN, EA + 8);
    b.setCfg(FN, PCI.BASE_ADDRESS_0, 4, 0x1018_0000);
    b.setCfg(FN, EA + 8, 4, 0);
    assert.deepEqual([b.cfg(FN, PCI.BASE_ADDRESS_0), b.cfg(FN, EA + 8)], [0, entry]);
    assert.equal(b.mmio(0x1010_0000 + DMA_PROBE.ID), DMA_PROBE_MAGIC);
  });
});

describe('sysarch-acs: ARI', () => {
  test('[arm-acs/e015] [arm-acs/p036] [arm-acs/p064] [arm-acs/p071] functions from 8 on are reached only while the port forwards by ARI', () => {
    const b = bench(['00:01.0', PORT, '1'], ['01:00.0', {}], ['01:02.3', {}]);
    const [port, far] = [at('00:01.0'), at('01:02.3')];
    open(b, '00:01.0', 1);
    assert.equal(b.cfg(port, EXPRESS + PCI_EXP.DEVCAP2) & 0x20, 0x20, 'it can');
    assert.equal(b.cfg(far, 0), ABSENT);
    b.setCfg(port, EXPRESS + PCI_EXP.DEVCTL2, 2, 0x20);
    assert.equal(b.cfg(far, 0) & 0xffff, 0x1b36);
    place(b, '01:02.3');
    assert.equal(b.mmio(barOf('01:02.3')), DMA_PROBE_MAGIC);
    b.setCfg(port, EXPRESS + PCI_EXP.DEVCTL2, 2, 0);
    assert.equal(b.cfg(far, 0), ABSENT);
  });
});
