import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_OP } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE, PCI_BRIDGE_CTL } from '#shared/arch/pci/bridge-header.ts';
import { PCI_AER, PCI_AER_COR_ADVISORY_NONFATAL, PCI_AER_UNCOR } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_DEVCTL, PCI_EXP_DEVSTA, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND, PCI_STATUS } from '#shared/arch/pci/header.ts';
import { at, type Bench, DOORBELL } from './bench.ts';
import { AER, barOf, bench, EXPRESS, MSI, open, place } from './topology.ts';

const PORT = at('00:01.0');
const FN = at('01:00.0');
const BAR = barOf('01:00.0');
const REPORT_ALL = PCI_EXP_DEVCTL.CERE | PCI_EXP_DEVCTL.NFERE | PCI_EXP_DEVCTL.FERE | PCI_EXP_DEVCTL.URRE;
const UR = 1 << PCI_AER_UNCOR.UNSUPPORTED_REQUEST;
/** In the window of the port, and nobody's. */
const HOLE = BAR + 0x8_0000;

function reporting(): Bench {
  const b = bench(['00:01.0', { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true, pin: 1, msi: 0x80 }, '1'], ['01:00.0', {}]);
  open(b, '00:01.0', 1);
  place(b, '01:00.0');
  b.setCfg(PORT, PCI_BRIDGE.CONTROL, 2, PCI_BRIDGE_CTL.SERR);
  b.setCfg(PORT, AER + PCI_AER.ROOT_COMMAND, 4, 7);
  b.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL, 2, REPORT_ALL);
  return b;
}

function aer(b: Bench, sbdf: number, register: number): number {
  return b.cfg(sbdf, AER + register);
}

function deviceStatus(b: Bench): number {
  return b.cfg(FN, EXPRESS + PCI_EXP.DEVSTA, 2) & PCI_EXP_DEVSTA.ERRORS_W1C;
}

describe('errors', () => {
  test('a write that no BAR takes is an unsupported request of the device on the link, non-fatal, with its header', () => {
    const b = reporting();
    b.setMmio(HOLE, 1);
    assert.equal(deviceStatus(b), PCI_EXP_DEVSTA.URD | PCI_EXP_DEVSTA.NFED);
    assert.equal(aer(b, FN, PCI_AER.UNCOR_STATUS), UR);
    assert.equal(aer(b, FN, PCI_AER.CAP) & 0x1f, PCI_AER_UNCOR.UNSUPPORTED_REQUEST);
    assert.deepEqual(
      [0, 4, 8, 12].map((i) => aer(b, FN, PCI_AER.HEADER_LOG + i)),
      [0x4000_0001, 0x0000_000f, HOLE, 0],
    );
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS), (1 << 2) | (1 << 5));
    assert.equal(aer(b, PORT, PCI_AER.ROOT_SOURCE), 0x0100_0000);
  });

  test('a read that no BAR takes is all ones, and only advisory: the requester knows', () => {
    const b = reporting();
    assert.equal(b.mmio(HOLE), 0xffff_ffff);
    assert.equal(deviceStatus(b), PCI_EXP_DEVSTA.URD | PCI_EXP_DEVSTA.CED);
    assert.equal(aer(b, FN, PCI_AER.COR_STATUS), PCI_AER_COR_ADVISORY_NONFATAL);
    assert.equal(aer(b, FN, PCI_AER.UNCOR_STATUS), 0, 'masked by default');
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS), 0);
    assert.equal(b.cfg(PORT, PCI_BRIDGE.SEC_STATUS, 2), PCI_STATUS.REC_MASTER_ABORT);
    b.setCfg(FN, AER + PCI_AER.COR_MASK, 4, 0);
    b.mmio(HOLE, 2);
    assert.equal(aer(b, FN, PCI_AER.UNCOR_STATUS), UR);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS), 1);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_SOURCE), 0x0000_0100);
    assert.equal(aer(b, FN, PCI_AER.HEADER_LOG + 4) & 0xff, 0x03, 'two bytes enabled');
  });

  test('a BAR that does not decode is an unsupported request too', () => {
    const b = reporting();
    b.setCfg(FN, PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    b.mmio(BAR);
    assert.equal(deviceStatus(b) & PCI_EXP_DEVSTA.URD, PCI_EXP_DEVSTA.URD);
  });

  test('a masked error sets its status bit and sends no message', () => {
    const b = reporting();
    b.setCfg(FN, AER + PCI_AER.UNCOR_MASK, 4, UR);
    b.setMmio(HOLE, 1);
    assert.equal(aer(b, FN, PCI_AER.UNCOR_STATUS), UR);
    assert.equal(aer(b, FN, PCI_AER.HEADER_LOG), 0);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS), 0);
  });

  test('severity makes it fatal', () => {
    const b = reporting();
    b.setCfg(FN, AER + PCI_AER.UNCOR_SEVERITY, 4, UR);
    b.mmio(HOLE);
    assert.equal(deviceStatus(b), PCI_EXP_DEVSTA.URD | PCI_EXP_DEVSTA.FED);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS), (1 << 2) | (1 << 4) | (1 << 6));
  });

  test('the header of the first error stays until its bit is cleared, and the root port counts a second one', () => {
    const b = reporting();
    b.setMmio(HOLE, 1);
    b.setMmio(HOLE + 0x10, 1);
    assert.equal(aer(b, FN, PCI_AER.HEADER_LOG + 8), HOLE);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS) & 0xf, (1 << 2) | (1 << 3));
    b.setCfg(FN, AER + PCI_AER.UNCOR_STATUS, 4, UR);
    b.setMmio(HOLE + 0x20, 1);
    assert.equal(aer(b, FN, PCI_AER.HEADER_LOG + 8), HOLE + 0x20);
  });

  test.for([
    ['the device does not report', FN, EXPRESS + PCI_EXP.DEVCTL, 0],
    ['the port does not forward', PORT, PCI_BRIDGE.CONTROL, 0],
  ] as const)('no message arrives when %s', ([, sbdf, offset, value]) => {
    const b = reporting();
    b.setCfg(sbdf, offset, 2, value);
    b.setMmio(HOLE, 1);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS), 0);
    assert.equal(deviceStatus(b), PCI_EXP_DEVSTA.URD | PCI_EXP_DEVSTA.NFED);
  });

  test('SERR# Enable reports without the Express enables, and shows in Status', () => {
    const b = reporting();
    b.setCfg(FN, EXPRESS + PCI_EXP.DEVCTL, 2, 0);
    b.setCfg(FN, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER | PCI_COMMAND.SERR);
    b.setMmio(HOLE, 1);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS), (1 << 2) | (1 << 5));
    assert.equal(b.cfg(FN, PCI.STATUS, 2) & PCI_STATUS.SIG_SYSTEM_ERROR, PCI_STATUS.SIG_SYSTEM_ERROR);
  });

  test('the root port tells of it by MSI, or by its pin until the status is cleared', () => {
    const b = reporting();
    b.setMmio(HOLE, 1);
    assert.deepEqual(b.lines, [[4, true]]);
    b.setCfg(PORT, AER + PCI_AER.ROOT_STATUS, 4, 0x7f);
    assert.deepEqual(b.lines[1], [4, false]);
    b.setCfg(PORT, MSI + 4, 4, DOORBELL);
    b.setCfg(PORT, MSI + 12, 2, 0x41);
    b.setCfg(PORT, MSI + 2, 2, 1);
    b.setMmio(HOLE, 1);
    assert.deepEqual(b.memory.messages, [[0x0008, DOORBELL, 0x41]]);
  });

  test('a completer abort is all ones, and stands in the completer and in the port', () => {
    const b = reporting();
    b.setCfg(FN, AER + PCI_AER.COR_MASK, 4, 0);
    assert.equal(b.mmio(BAR + DMA_PROBE.ABORT_READ), 0xffff_ffff);
    assert.equal(aer(b, FN, PCI_AER.UNCOR_STATUS), 1 << PCI_AER_UNCOR.COMPLETER_ABORT);
    assert.equal(b.cfg(FN, PCI.STATUS, 2) & PCI_STATUS.SIG_TARGET_ABORT, PCI_STATUS.SIG_TARGET_ABORT);
    assert.equal(b.cfg(PORT, PCI_BRIDGE.SEC_STATUS, 2), PCI_STATUS.REC_TARGET_ABORT);
  });

  test('a read without a completion is all ones, and a completion timeout of the root port', () => {
    const b = reporting();
    b.setCfg(PORT, EXPRESS + PCI_EXP.DEVCTL, 2, REPORT_ALL);
    assert.equal(b.mmio(BAR + DMA_PROBE.HANG_READ), 0xffff_ffff);
    assert.equal(aer(b, PORT, PCI_AER.UNCOR_STATUS), 1 << PCI_AER_UNCOR.COMPLETION_TIMEOUT);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_STATUS), (1 << 2) | (1 << 5));
    assert.equal(aer(b, PORT, PCI_AER.ROOT_SOURCE), 0x0008_0000, 'itself');
    assert.equal(deviceStatus(b), 0);
  });

  test('a read that the SMMU refuses is a target abort of the function that asked', () => {
    const b = reporting();
    b.setMmio(BAR + DMA_PROBE.SRC_LO, b.memory.bytes.length);
    b.setMmio(BAR + DMA_PROBE.LENGTH_LO, 4);
    b.setMmio(BAR + DMA_PROBE.COMMAND, DMA_PROBE_OP.READ);
    b.pass(1e6);
    assert.equal(b.cfg(FN, PCI.STATUS, 2) & PCI_STATUS.REC_TARGET_ABORT, PCI_STATUS.REC_TARGET_ABORT);
  });

  test('a request of the device into its own window is unsupported at the port', () => {
    const b = reporting();
    b.setMmio(BAR + DMA_PROBE.SRC_LO, HOLE);
    b.setMmio(BAR + DMA_PROBE.LENGTH_LO, 4);
    b.setMmio(BAR + DMA_PROBE.COMMAND, DMA_PROBE_OP.READ);
    b.pass(1e6);
    assert.equal(b.cfg(FN, PCI.STATUS, 2) & PCI_STATUS.REC_MASTER_ABORT, PCI_STATUS.REC_MASTER_ABORT);
    assert.equal(b.memory.requesters.length, 0);
  });

  test('status and header live through a reset of the link and not through power-on', () => {
    const b = reporting();
    b.setMmio(HOLE, 1);
    b.setCfg(PORT, PCI_BRIDGE.CONTROL, 2, PCI_BRIDGE_CTL.BUS_RESET);
    b.setCfg(PORT, PCI_BRIDGE.CONTROL, 2, 0);
    assert.equal(aer(b, FN, PCI_AER.UNCOR_STATUS), UR);
    assert.equal(aer(b, FN, PCI_AER.HEADER_LOG + 8), HOLE);
    b.fabric.reset();
    open(b, '00:01.0', 1);
    assert.equal(aer(b, FN, PCI_AER.UNCOR_STATUS), 0);
    assert.deepEqual([aer(b, FN, PCI_AER.HEADER_LOG + 8), aer(b, FN, PCI_AER.CAP)], [0, 0]);
    assert.equal(aer(b, PORT, PCI_AER.ROOT_SOURCE), 0);
  });
});
