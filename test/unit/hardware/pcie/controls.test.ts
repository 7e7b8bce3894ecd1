/** Control registers as a dump has them: what of it holds at power-on, and what every reset makes of them. */
import { assert, describe, test } from 'vitest';
import { PCI_BRIDGE, PCI_BRIDGE_CTL } from '#shared/arch/pci/bridge-header.ts';
import { PCI_ACS, PCI_AER, PCI_PM } from '#shared/arch/pci/capability.ts';
import {
  PCI_EXP,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_DEFAULT,
  PCI_EXP_DEVCTL2_ARI,
  PCI_EXP_LNKCTL_LD,
  PCI_EXP_RTCTL_RRS_SVE,
  PCI_EXP_TYPE,
} from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSI } from '#shared/arch/pci/msi.ts';
import { PCI_MSIX } from '#shared/arch/pci/msix.ts';
import { PCI_SRIOV, PCI_SRIOV_CTRL } from '#shared/arch/pci/sriov.ts';
import { at, Bench } from './bench.ts';
import { ACS, AER, description, EXPRESS, MSI, MSIX, open, PM, SRIOV } from './topology.ts';

const PORT = at('00:01.0');
const FN = at('01:00.0');
const PME_ENABLE = PCI_PM.CTRL_PME_ENABLE;

/** Payloads of 256 bytes, read requests of 4096, all errors reported, no snoop off. */
const DEVCTL = 0x503f;
const LNKCTL = 0x0043;
/** Completion timeout of 65 to 210 ms, LTR enabled. */
const DEVCTL2 = 0x0406;

type Write = [offset: number, value: number];

/** A root port and a function below it, with 16-bit registers as they were dumped. */
function dumped(port: readonly Write[], fn: readonly Write[]): Bench {
  const board = description(
    ['00:01.0', { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true, acs: 0x7f }, '1'],
    ['01:00.0', { vectors: 4, msi: 0x0080, sriov: { total: 4, offset: 1, stride: 1 } }],
  );
  const functions = board.functions.map((one) => {
    const config = one.config.slice();
    for (const [offset, value] of one.sbdf === PORT ? port : fn)
      new DataView(config.buffer).setUint16(offset, value, true);
    return { ...one, config };
  });
  const b = new Bench({ ...board, functions });
  open(b, '00:01.0', 1);
  return b;
}

const EXPRESS_DUMP: readonly Write[] = [
  [EXPRESS + PCI_EXP.DEVCTL, DEVCTL],
  [EXPRESS + PCI_EXP.DEVSTA, 0x0009],
  [EXPRESS + PCI_EXP.LNKCAP, 0x0044],
  [EXPRESS + PCI_EXP.LNKCTL, LNKCTL],
  [EXPRESS + PCI_EXP.DEVCTL2, DEVCTL2],
  [EXPRESS + PCI_EXP.LNKCTL2, 0x0002],
  [AER + PCI_AER.UNCOR_MASK, 0x4000],
  [AER + PCI_AER.COR_STATUS, 0x2001],
];

/** DEVCTL, DEVSTA, LNKCTL, DEVCTL2, LNKCTL2, and of AER the mask and the correctable errors. */
function expressOf(b: Bench): number[] {
  const { DEVCTL, DEVSTA, LNKCTL, DEVCTL2, LNKCTL2 } = PCI_EXP;
  return [
    ...[DEVCTL, DEVSTA, LNKCTL, DEVCTL2, LNKCTL2].map((offset) => b.cfg(FN, EXPRESS + offset, 2)),
    ...[PCI_AER.UNCOR_MASK, PCI_AER.COR_STATUS].map((offset) => b.cfg(FN, AER + offset, 2)),
  ];
}

const AS_DUMPED = [DEVCTL, 0x0009, LNKCTL, DEVCTL2, 0x0002, 0x4000, 0x2001];

describe('controls at power-on', () => {
  test('those that steer nothing, and logged errors, are as dumped', () => {
    const b = dumped(
      [[PCI_BRIDGE.CONTROL, PCI_BRIDGE_CTL.SERR | PCI_BRIDGE_CTL.VGA]],
      [...EXPRESS_DUMP, [PCI.CACHE_LINE_SIZE, 0x0010], [PCI.INTERRUPT_LINE, 0x002a], [PCI.STATUS, 0x2010]],
    );
    assert.deepEqual(expressOf(b), AS_DUMPED);
    assert.equal(b.cfg(PORT, PCI_BRIDGE.CONTROL, 2), PCI_BRIDGE_CTL.SERR | PCI_BRIDGE_CTL.VGA);
    assert.equal(b.cfg(FN, PCI.CACHE_LINE_SIZE, 1), 0x10);
    assert.equal(b.cfg(FN, PCI.INTERRUPT_LINE, 1), 0x2a);
    assert.equal(b.cfg(FN, PCI.STATUS, 2), 0x2010);
  });

  test('those that steer something are off, whatever was dumped', () => {
    const b = dumped(
      [
        [PCI_BRIDGE.CONTROL, PCI_BRIDGE_CTL.BUS_RESET],
        [EXPRESS + PCI_EXP.LNKCTL, PCI_EXP_LNKCTL_LD],
        [EXPRESS + PCI_EXP.RTCTL, PCI_EXP_RTCTL_RRS_SVE | 0x7],
        [EXPRESS + PCI_EXP.DEVCTL2, PCI_EXP_DEVCTL2_ARI],
        [ACS + PCI_ACS.CTRL, 0x1d],
        [AER + PCI_AER.ROOT_COMMAND, 0x7],
      ],
      [
        [PCI.COMMAND, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER],
        [PM + PCI_PM.CTRL, 3],
        [MSI + PCI_MSI.FLAGS, 0x0081],
        [MSI + PCI_MSI.ADDRESS_LO, 0xf000],
        [MSIX + PCI_MSIX.FLAGS, 0x8003],
        [SRIOV + PCI_SRIOV.CTRL, PCI_SRIOV_CTRL.VFE],
        [SRIOV + PCI_SRIOV.NUM_VF, 4],
      ],
    );
    assert.equal(b.cfg(PORT, PCI_BRIDGE.CONTROL, 2), 0);
    assert.equal(b.cfg(PORT, EXPRESS + PCI_EXP.LNKCTL, 2), 0);
    assert.equal(b.cfg(PORT, EXPRESS + PCI_EXP.RTCTL, 2), 0x7);
    assert.equal(b.cfg(PORT, EXPRESS + PCI_EXP.DEVCTL2, 2), 0);
    assert.equal(b.cfg(PORT, ACS + PCI_ACS.CTRL, 2), 0);
    assert.equal(b.cfg(PORT, AER + PCI_AER.ROOT_COMMAND), 0);
    assert.equal(b.cfg(FN, PCI.COMMAND, 2), 0);
    assert.equal(b.cfg(FN, PM + PCI_PM.CTRL, 2), 0);
    assert.deepEqual([b.cfg(FN, MSI + PCI_MSI.FLAGS, 2), b.cfg(FN, MSI + PCI_MSI.ADDRESS_LO)], [0x0080, 0]);
    assert.equal(b.cfg(FN, MSIX + PCI_MSIX.FLAGS, 2), 0x0003);
    assert.deepEqual([b.cfg(FN, SRIOV + PCI_SRIOV.CTRL, 2), b.cfg(FN, SRIOV + PCI_SRIOV.NUM_VF, 2)], [0, 0]);
  });

  test('a VF, which no firmware has seen, has the defaults', () => {
    const b = dumped([], EXPRESS_DUMP);
    b.setCfg(FN, SRIOV + PCI_SRIOV.NUM_VF, 2, 1);
    b.setCfg(FN, SRIOV + PCI_SRIOV.CTRL, 2, PCI_SRIOV_CTRL.VFE);
    const vf = at('01:00.1');
    const controls = [PCI_EXP.DEVCTL, PCI_EXP.DEVSTA, PCI_EXP.LNKCTL, PCI_EXP.DEVCTL2];
    assert.deepEqual(
      controls.map((offset) => b.cfg(vf, 0x40 + offset, 2)),
      [PCI_EXP_DEVCTL_DEFAULT, 0, 0, 0],
    );
  });
});

describe('controls after a reset', () => {
  test('a Function Level Reset leaves payload size, link control and sticky bits, and the rest has its defaults', () => {
    const b = dumped([], EXPRESS_DUMP);
    b.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL, 2, DEVCTL | PCI_EXP_DEVCTL.INITIATE_FLR);
    const devctl = PCI_EXP_DEVCTL_DEFAULT | (DEVCTL & PCI_EXP_DEVCTL.PAYLOAD_MASK);
    assert.deepEqual(expressOf(b), [devctl, 0, LNKCTL, 0, 0x0002, 0x4000, 0x2001]);
  });

  test('a reset of the bus leaves sticky bits only', () => {
    const b = dumped([], EXPRESS_DUMP);
    b.setCfg(PORT, PCI_BRIDGE.CONTROL, 2, PCI_BRIDGE_CTL.BUS_RESET);
    b.setCfg(PORT, PCI_BRIDGE.CONTROL, 2, 0);
    assert.deepEqual(expressOf(b), [PCI_EXP_DEVCTL_DEFAULT, 0, 0, 0, 0x0002, 0x4000, 0x2001]);
  });

  test('power-on brings back what was dumped, logged errors that were cleared too', () => {
    const b = dumped([], EXPRESS_DUMP);
    b.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL, 4, 0x000f_0000);
    b.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL2, 2, 0);
    b.setCfg(FN, AER + PCI_AER.COR_STATUS, 4, 0xffff_ffff);
    assert.deepEqual(expressOf(b), [0, 0, LNKCTL, 0, 0x0002, 0x4000, 0]);
    b.fabric.reset();
    open(b, '00:01.0', 1);
    assert.deepEqual(expressOf(b), AS_DUMPED);
  });

  test('what is saved is what they are, and a load gives it back whatever was dumped', () => {
    const one = dumped([], EXPRESS_DUMP);
    const two = dumped([], EXPRESS_DUMP);
    one.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL, 2, DEVCTL | PCI_EXP_DEVCTL.INITIATE_FLR);
    two.fabric.load(structuredClone(one.fabric.save()));
    assert.deepEqual(expressOf(two), expressOf(one));
    two.fabric.reset();
    open(two, '00:01.0', 1);
    assert.deepEqual(expressOf(two), AS_DUMPED);
  });
});

test('a control bit that was dumped set can be written, whatever the capability says of it', () => {
  const b = dumped(
    [],
    [
      [PM + PCI_PM.CTRL, 2],
      [EXPRESS + PCI_EXP.DEVCTL2, DEVCTL2],
    ],
  );
  b.setCfg(FN, PM + PCI_PM.CTRL, 2, 1);
  assert.equal(b.cfg(FN, PM + PCI_PM.CTRL, 2) & 3, 0, 'nobody ever saw D1');
  b.setCfg(FN, PM + PCI_PM.CTRL, 2, 2 | PME_ENABLE);
  assert.equal(b.cfg(FN, PM + PCI_PM.CTRL, 2), 2);
  b.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL2, 2, 0x0800);
  assert.equal(b.cfg(FN, EXPRESS + PCI_EXP.DEVCTL2, 2), 0);
  b.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL2, 2, 0x0400);
  assert.equal(b.cfg(FN, EXPRESS + PCI_EXP.DEVCTL2, 2), 0x0400);
});
