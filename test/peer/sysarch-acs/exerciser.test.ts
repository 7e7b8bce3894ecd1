/**
 * Cases of Arm's SystemReady architecture compliance suite (sysarch-acs, test_pool/exerciser and test_pool/pcie) that
 * look at the fabric, played with dma-probe as the exerciser. Names carry the suite's numbers.
 * In place of the SMMU stands a map of one page: read-only or read-write, untranslated.
 */
import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MISBEHAVE, DMA_PROBE_OP, DMA_PROBE_STATUS } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_ACS, PCI_AER } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_DEVSTA, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { at, type Bench } from '../../unit/hardware/pcie/bench.ts';
import { ACS, AER, barOf, bench, EXPRESS, open, place } from '../../unit/hardware/pcie/topology.ts';

const { SV, TB, RR, UF } = PCI_ACS;
const PORT = { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true, acs: SV | TB | RR | UF };
const [ONE, TWO] = ['01:00.0', '02:00.0'] as const;
const [PORT_1, PORT_2] = [at('00:01.0'), at('00:02.0')];

/** Two exercisers under two root ports of one ECAM; what reaches the "SMMU" at a window goes on to the function there. */
function twoExercisers(page: { writable: boolean } = { writable: true }): Bench {
  const b = bench(
    ['00:01.0', PORT, '1'],
    [ONE, { pin: 1 }],
    ['01:00.1', { acs: RR }],
    ['00:02.0', PORT, '2'],
    [TWO, {}],
  );
  open(b, '00:01.0', 1);
  open(b, '00:02.0', 2);
  for (const address of [ONE, '01:00.1', TWO]) place(b, address);
  b.memory.dmaWrite = (requester, iova, from) => {
    const window = b.host.windows.find((w) => iova >= w.cpuBase && iova < w.cpuBase + w.sizeBytes);
    if (window === undefined || !page.writable) return 0;
    window.target.write(
      iova - window.cpuBase,
      4,
      new DataView(from.buffer, from.byteOffset).getUint32(0, true),
      requester,
    );
    return from.length;
  };
  return b;
}

/** One word from an exerciser to the PATTERN register of another. Whether it was accepted, and what stands there then. */
function p2p(b: Bench, from: string, to: string, misbehave = 0, rid = 0): { failed: boolean; there: number } {
  const bar = barOf(from);
  b.setMmio(bar + DMA_PROBE.PATTERN, 0xace);
  b.setMmio(bar + DMA_PROBE.DST_LO, barOf(to) + DMA_PROBE.PATTERN);
  b.setMmio(bar + DMA_PROBE.MISBEHAVE, misbehave);
  b.setMmio(bar + DMA_PROBE.FORGED_RID, rid);
  b.setMmio(bar + DMA_PROBE.COMMAND, DMA_PROBE_OP.MESSAGE);
  b.pass(1e6);
  const failed = (b.mmio(bar + DMA_PROBE.STATUS) & DMA_PROBE_STATUS.ERROR) !== 0;
  return { failed, there: b.mmio(barOf(to) + DMA_PROBE.PATTERN) };
}

function acs(b: Bench, fn: number, bits: number): void {
  b.setCfg(fn, ACS + PCI_ACS.CTRL, 2, bits);
}

describe('sysarch-acs exerciser', () => {
  test('[arm-acs/e001] PCI_PP_04: peer DMA under two root ports arrives; with a foreign bus or AT set the port reports it', () => {
    const b = twoExercisers();
    acs(b, PORT_1, SV | TB);
    assert.deepEqual(p2p(b, ONE, TWO), { failed: false, there: 0xace });
    b.setMmio(barOf(TWO) + DMA_PROBE.PATTERN, 0);
    const foreign = (b.cfg(PORT_1, PCI_BRIDGE.SUBORDINATE_BUS, 1) + 1) << 8;
    assert.deepEqual(p2p(b, ONE, TWO, DMA_PROBE_MISBEHAVE.FORGE_RID, foreign), { failed: true, there: 0 });
    assert.notEqual(b.cfg(PORT_1, EXPRESS + PCI_EXP.DEVSTA, 2) & PCI_EXP_DEVSTA.ERRORS_W1C, 0);
    b.setCfg(PORT_1, EXPRESS + PCI_EXP.DEVSTA, 2, PCI_EXP_DEVSTA.ERRORS_W1C);
    assert.deepEqual(p2p(b, ONE, TWO, 2 << DMA_PROBE_MISBEHAVE.AT_SHIFT), { failed: true, there: 0 });
    assert.notEqual(b.cfg(PORT_1, EXPRESS + PCI_EXP.DEVSTA, 2) & PCI_EXP_DEVSTA.ERRORS_W1C, 0);
  });

  test.for([
    ['the other port', ONE, TWO],
    ['another function of the same device', '01:00.1', ONE],
  ] as const)(
    '[arm-acs/e002] with RR and UF a write to %s is redirected: read-only it fails, read-write it arrives',
    ([, from, to]) => {
      const page = { writable: false };
      const b = twoExercisers(page);
      for (const port of [PORT_1, PORT_2]) acs(b, port, RR | UF);
      acs(b, at('01:00.1'), RR);
      assert.deepEqual(p2p(b, from, to), { failed: true, there: 0 });
      page.writable = true;
      assert.deepEqual(p2p(b, from, to), { failed: false, there: 0xace });
    },
  );

  test('[arm-acs/e006] PCI_LI_02: a legacy interrupt is taken once, with status bit 3 set until it is cleared', () => {
    const b = twoExercisers();
    b.setMmio(barOf(ONE) + DMA_PROBE.RAISE_ONE, 0);
    assert.equal(b.cfg(at(ONE), PCI.STATUS, 2) & 8, 8);
    b.setMmio(barOf(ONE) + DMA_PROBE.INTERRUPTS, 1);
    assert.equal(b.cfg(at(ONE), PCI.STATUS, 2) & 8, 0);
    assert.deepEqual(
      b.lines.map(([, level]) => level),
      [true, false],
    );
  });

  test('[arm-acs/e014] a storm of peer traffic in both directions ends', () => {
    const b = twoExercisers();
    for (let i = 0; i < 200; i++) {
      p2p(b, ONE, TWO);
      p2p(b, TWO, ONE);
    }
    assert.equal(b.fabric.route.redirectedRequests, 400);
    assert.equal(b.fabric.route.tooDeep, 0);
  });

  test('[arm-acs/e023] an error that is injected shows in AER of the device and of its root port', () => {
    const b = twoExercisers();
    b.setCfg(at(ONE), AER + PCI_AER.COR_MASK, 4, 0);
    b.setCfg(at(ONE), EXPRESS + PCI_EXP.DEVCTL, 2, 0xf);
    b.setCfg(PORT_1, PCI_BRIDGE.CONTROL, 2, 2);
    b.mmio(barOf(ONE) + DMA_PROBE.ABORT_READ);
    assert.equal(b.cfg(at(ONE), AER + PCI_AER.UNCOR_STATUS), 1 << 15);
    assert.equal(b.cfg(PORT_1, AER + PCI_AER.ROOT_STATUS) & 1, 1);
    assert.equal(b.cfg(PORT_1, AER + PCI_AER.ROOT_SOURCE, 2), 0x0100);
  });
});

describe('sysarch-acs pcie', () => {
  test('[arm-acs/p008] an absent function reads as all ones at 0 and at 100', () => {
    const b = twoExercisers();
    assert.deepEqual([b.cfg(at('01:00.5'), 0), b.cfg(at('01:00.5'), 0x100)], [0xffff_ffff, 0xffff_ffff]);
  });

  test('[arm-acs/p011] byte enables are honoured in the configuration space of a root port', () => {
    const b = twoExercisers();
    b.setCfg(PORT_1, PCI_BRIDGE.SUBORDINATE_BUS, 1, 9);
    assert.equal(b.cfg(PORT_1, PCI_BRIDGE.PRIMARY_BUS), 0x0009_0100);
  });

  test('[arm-acs/p030] with Memory Space Enable off a BAR reads as all ones and URD is set', () => {
    const b = twoExercisers();
    b.setCfg(at(ONE), PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    b.setCfg(at('01:00.1'), PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    assert.equal(b.mmio(barOf(ONE)), 0xffff_ffff);
    assert.equal(b.cfg(at(ONE), EXPRESS + PCI_EXP.DEVSTA, 2) & PCI_EXP_DEVSTA.URD, PCI_EXP_DEVSTA.URD);
  });

  test('[arm-acs/p035] 100 ms after FLR Bus Master and Memory Space Enable are off and the vendor id answers', () => {
    const b = twoExercisers();
    b.setCfg(at(ONE), EXPRESS + PCI_EXP.DEVCTL, 2, 0x8000);
    b.pass(100e6);
    assert.equal(b.cfg(at(ONE), PCI.COMMAND, 2) & (PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER), 0);
    assert.equal(b.cfg(at(ONE), PCI.VENDOR_ID, 2), 0x1b36);
  });

  test('[arm-acs/p079] after a secondary bus reset the device is back in its reset state', () => {
    const b = twoExercisers();
    b.setCfg(PORT_1, PCI_BRIDGE.CONTROL, 2, 0x40);
    b.pass(100e6);
    b.setCfg(PORT_1, PCI_BRIDGE.CONTROL, 2, 0);
    b.pass(100e6);
    assert.deepEqual([b.cfg(at(ONE), PCI.VENDOR_ID, 2), b.cfg(at(ONE), PCI.BASE_ADDRESS_0)], [0x1b36, 0]);
  });
});
