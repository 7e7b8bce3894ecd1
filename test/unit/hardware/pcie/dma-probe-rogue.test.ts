import { assert, describe, test } from 'vitest';
import {
  DMA_PROBE,
  DMA_PROBE_CHECKSUM_START,
  DMA_PROBE_COMMAND_IRQ,
  DMA_PROBE_DESCRIPTOR,
  DMA_PROBE_MAGIC,
  DMA_PROBE_MISBEHAVE,
  DMA_PROBE_OP,
  DMA_PROBE_STATUS,
  dmaProbeChecksum,
  dmaProbeWord,
} from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI } from '#shared/arch/pci/header.ts';
import { type Bench, benchWithNic, DOORBELL, NIC, NIC_BAR0, NIC_MSIX, NIC_PORT, placeNic, setVector } from './bench.ts';

const D = DMA_PROBE_DESCRIPTOR;
const { READ, WRITE, COPY, MESSAGE, CHAIN } = DMA_PROBE_OP;
const { STUBBORN } = DMA_PROBE_MISBEHAVE;
const TABLE = 0x1000;

function reg(b: Bench, register: number, value?: number): number {
  if (value !== undefined) b.setMmio(NIC_BAR0 + register, value);
  return b.mmio(NIC_BAR0 + register);
}

function start(b: Bench, command: number): void {
  b.setMmio(NIC_BAR0 + DMA_PROBE.COMMAND, command);
}

interface Row {
  readonly op: number;
  readonly pattern?: number;
  readonly source?: number;
  readonly target?: number;
  readonly bytes?: number;
}

/** Writes a descriptor table at TABLE and runs it. */
function chain(b: Bench, rows: readonly Row[], command: number = CHAIN): void {
  const view = new DataView(b.memory.bytes.buffer);
  rows.forEach(({ op, pattern = 0, source = 0, target = 0, bytes = 0 }, i) => {
    const at = TABLE + i * D.BYTES;
    view.setUint32(at + D.CONTROL, op, true);
    view.setUint32(at + D.PATTERN, pattern, true);
    view.setUint32(at + D.SRC, source, true);
    view.setUint32(at + D.DST, target % 2 ** 32, true);
    view.setUint32(at + D.DST + 4, Math.floor(target / 2 ** 32), true);
    view.setUint32(at + D.LENGTH, bytes, true);
  });
  reg(b, DMA_PROBE.SRC_LO, TABLE);
  reg(b, DMA_PROBE.COUNT, rows.length);
  start(b, command);
  b.pass(1e9);
}

function word(b: Bench, at: number): number {
  return new DataView(b.memory.bytes.buffer).getUint32(at, true);
}

function controls(b: Bench, count: number): number[] {
  return Array.from({ length: count }, (_, i) => word(b, TABLE + i * D.BYTES + D.CONTROL));
}

describe('a chain of descriptors', () => {
  test('runs in order, tells each one that it is done, and interrupts at the end of the last', () => {
    const b = benchWithNic();
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0x8000);
    setVector(b, 0, DOORBELL, 0x30);
    chain(
      b,
      [
        { op: WRITE, pattern: 5, target: 0x4000, bytes: 0x18_0000 },
        { op: COPY, source: 0x4000, target: 0x20_0000, bytes: 8 },
        { op: READ, source: 0x20_0000, bytes: 8 },
        { op: MESSAGE, pattern: 0x1234, target: DOORBELL },
      ],
      (CHAIN | DMA_PROBE_COMMAND_IRQ) >>> 0,
    );
    assert.equal(reg(b, DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE);
    assert.deepEqual(
      controls(b, 4),
      [WRITE, COPY, READ, MESSAGE].map((op) => op + D.DONE),
    );
    assert.equal(word(b, 0x20_0004), dmaProbeWord(5, 1));
    const sum = dmaProbeChecksum(dmaProbeChecksum(DMA_PROBE_CHECKSUM_START, dmaProbeWord(5, 0)), dmaProbeWord(5, 1));
    assert.equal(reg(b, DMA_PROBE.CHECKSUM), sum);
    assert.deepEqual(
      b.memory.messages.map((m) => m[2]),
      [0x1234, 0x30],
    );
  });

  test('stops at the descriptor that meets an abort, and marks it', () => {
    const b = benchWithNic();
    const end = b.memory.bytes.length;
    chain(b, [
      { op: WRITE, target: 0x4000, bytes: 4 },
      { op: WRITE, target: end, bytes: 4 },
      { op: WRITE, target: 0x5000, bytes: 4 },
    ]);
    assert.equal(reg(b, DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
    assert.equal(reg(b, DMA_PROBE.ERROR_LO), end);
    assert.deepEqual(controls(b, 3), [WRITE + D.DONE, WRITE + D.DONE + D.ERROR, WRITE]);
    assert.equal(word(b, 0x5000), 0);
  });

  test('stops where its table cannot be read, and at an operation that is none', () => {
    const b = benchWithNic();
    reg(b, DMA_PROBE.SRC_LO, b.memory.bytes.length - D.BYTES);
    reg(b, DMA_PROBE.COUNT, 2);
    b.memory.bytes[b.memory.bytes.length - D.BYTES] = MESSAGE;
    start(b, CHAIN);
    b.pass(1e6);
    assert.equal(reg(b, DMA_PROBE.ERROR_LO), b.memory.bytes.length);
    chain(b, [{ op: CHAIN }]);
    assert.equal(reg(b, DMA_PROBE.ERROR_LO), TABLE);
  });
});

describe('a device that breaks the rules', () => {
  test('sends any data to any address as a message', () => {
    const b = benchWithNic();
    reg(b, DMA_PROBE.DST_LO, DOORBELL);
    reg(b, DMA_PROBE.PATTERN, 0xffff_fffe);
    start(b, MESSAGE);
    b.pass(1e6);
    assert.deepEqual(b.memory.messages, [[0x0100, DOORBELL, 0xffff_fffe]]);
    assert.equal(reg(b, DMA_PROBE.MESSAGES), 0, 'it is a DMA, not an interrupt of the function');
  });

  test('goes on with its DMA after a reset, while the ports above let it', () => {
    const b = benchWithNic();
    reg(b, DMA_PROBE.MISBEHAVE, STUBBORN);
    reg(b, DMA_PROBE.LENGTH_LO, 0x20_0000);
    start(b, WRITE);
    b.setCfg(NIC, 0xcc, 2, 3);
    b.setCfg(NIC, 0xcc, 2, 0); // D3hot and back: a reset of the function
    assert.equal(b.cfg(NIC, PCI.COMMAND, 2), 0);
    b.pass(200_000);
    assert.deepEqual(
      b.memory.requesters.map((r) => r.rid),
      [0x0100],
    );
    b.setCfg(NIC_PORT, PCI.COMMAND, 2, 2);
    b.pass(1e6);
    assert.equal(b.memory.requesters.length, 1);
    placeNic(b);
    assert.equal(reg(b, DMA_PROBE.ERROR_LO), 0x10_0000);
  });

  test('is stopped by a link in reset, and by power-on', () => {
    const b = benchWithNic();
    for (const act of [() => b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0x40), () => b.fabric.reset()]) {
      placeNic(b);
      reg(b, DMA_PROBE.MISBEHAVE, STUBBORN);
      reg(b, DMA_PROBE.LENGTH_LO, 4);
      start(b, WRITE);
      act();
      b.pass(1e6);
      assert.equal(b.memory.requesters.length, 0);
      b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0);
    }
  });

  test('moves its own BAR: it answers at the new address and no longer at the old one', () => {
    const b = benchWithNic();
    reg(b, DMA_PROBE.CONFIG_AT, PCI.BASE_ADDRESS_0 | (4 << 16));
    reg(b, DMA_PROBE.CONFIG_VALUE, NIC_BAR0 + 0x10_0000);
    b.setMmio(NIC_BAR0 + DMA_PROBE.CONFIG_POKE, 0);
    assert.equal(b.mmio(NIC_BAR0), 0xffff_ffff);
    assert.equal(b.mmio(NIC_BAR0 + 0x10_0000), DMA_PROBE_MAGIC);
  });

  test('changes its vendor id later, for good but for power-on', () => {
    const b = benchWithNic();
    reg(b, DMA_PROBE.CONFIG_AT, PCI.VENDOR_ID | (2 << 16));
    reg(b, DMA_PROBE.CONFIG_VALUE, 0xffff);
    b.setMmio(NIC_BAR0 + DMA_PROBE.CONFIG_POKE, 5000);
    b.pass(4999);
    assert.equal(b.cfg(NIC, 0), 0x10d3_8086);
    b.pass(1);
    assert.equal(b.cfg(NIC, 0), 0x10d3_ffff);
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0x40);
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0);
    assert.equal(b.cfg(NIC, 0), 0x10d3_ffff);
    b.fabric.reset();
    placeNic(b);
    assert.equal(b.cfg(NIC, 0), 0x10d3_8086);
  });

  test('is honest again after a reset', () => {
    const b = benchWithNic();
    reg(b, DMA_PROBE.MISBEHAVE, DMA_PROBE_MISBEHAVE.FORGE_RID);
    reg(b, DMA_PROBE.FORGED_RID, 0x0999);
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0x40);
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0);
    placeNic(b);
    assert.equal(reg(b, DMA_PROBE.RID), 0x0100);
    reg(b, DMA_PROBE.LENGTH_LO, 4);
    start(b, WRITE);
    b.pass(1e6);
    assert.equal(b.memory.requesters[0]!.rid, 0x0100);
  });
});
