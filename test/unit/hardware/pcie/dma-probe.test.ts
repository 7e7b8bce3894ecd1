import { assert, describe, test } from 'vitest';
import {
  DMA_PROBE,
  DMA_PROBE_CHECKSUM_START,
  DMA_PROBE_COMMAND_IRQ,
  DMA_PROBE_OP,
  DMA_PROBE_STATUS,
  dmaProbeChecksum,
  dmaProbeWord,
} from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXP } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { type Bench, benchWithNic, DOORBELL, NIC, NIC_BAR0, NIC_MSIX, NIC_PORT, placeNic, setVector } from './bench.ts';

const MS = 1e6;

function reg(b: Bench, register: number): number {
  return b.mmio(NIC_BAR0 + register);
}

interface Job {
  readonly op: number;
  readonly source?: number;
  readonly target?: number;
  readonly bytes: number;
  readonly irq?: boolean;
}

function command(b: Bench, { op, source = 0, target = 0, bytes, irq = false }: Job): void {
  const values: [number, number][] = [
    [DMA_PROBE.SRC_LO, source],
    [DMA_PROBE.DST_LO, target],
    [DMA_PROBE.LENGTH_LO, bytes],
    [DMA_PROBE.PATTERN, 0xabc],
    [DMA_PROBE.VECTOR, 2],
  ];
  for (const [register, value] of values) b.setMmio(NIC_BAR0 + register, value);
  b.setMmio(NIC_BAR0 + DMA_PROBE.COMMAND, irq ? op | DMA_PROBE_COMMAND_IRQ : op);
}

describe('dma-probe', () => {
  test('WRITE fills memory with the words of its seed, across bursts, and is busy meanwhile', () => {
    const b = benchWithNic();
    command(b, { op: DMA_PROBE_OP.WRITE, target: 0x1000, bytes: 0x18_0000 });
    assert.equal(reg(b, DMA_PROBE.STATUS), DMA_PROBE_STATUS.BUSY);
    assert.equal(b.cfg(NIC, 0xe0 + PCI_EXP.DEVSTA, 2) & 0x20, 0x20, 'transactions pending');
    b.pass(MS);
    assert.equal(reg(b, DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE);
    assert.equal(b.cfg(NIC, 0xe0 + PCI_EXP.DEVSTA, 2) & 0x20, 0);
    const words = new Uint32Array(b.memory.bytes.buffer);
    const last = 0x18_0000 / 4 - 1;
    assert.deepEqual(
      [words[0x1000 / 4 - 1], words[0x1000 / 4], words[0x1000 / 4 + last], words[0x1000 / 4 + last + 1]],
      [0, dmaProbeWord(0xabc, 0), dmaProbeWord(0xabc, last), 0],
    );
    assert.equal(b.memory.requesters.length, 2, 'one DMA a burst');
  });

  test('READ sums up what it read and COPY moves it', () => {
    const b = benchWithNic();
    b.memory.bytes.set([1, 0, 0, 0, 2, 0, 0, 0], 0x2000);
    command(b, { op: DMA_PROBE_OP.READ, source: 0x2000, bytes: 8 });
    b.pass(MS);
    assert.equal(reg(b, DMA_PROBE.CHECKSUM), dmaProbeChecksum(dmaProbeChecksum(DMA_PROBE_CHECKSUM_START, 1), 2));
    command(b, { op: DMA_PROBE_OP.COPY, source: 0x2000, target: 0x3000, bytes: 8 });
    b.pass(MS);
    assert.deepEqual([...b.memory.bytes.subarray(0x3000, 0x3008)], [1, 0, 0, 0, 2, 0, 0, 0]);
  });

  test('an abort stops the command and says where', () => {
    const b = benchWithNic();
    const end = b.memory.bytes.length;
    command(b, { op: DMA_PROBE_OP.WRITE, target: end - 0x100, bytes: 0x1000 });
    b.pass(MS);
    assert.equal(reg(b, DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
    assert.equal(reg(b, DMA_PROBE.ERROR_LO), end);
    assert.equal(reg(b, DMA_PROBE.ABORTS), 1);
    b.setMmio(NIC_BAR0 + DMA_PROBE.STATUS, DMA_PROBE_STATUS.ERROR);
    assert.equal(reg(b, DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE);
  });

  test('completion raises the vector that was asked for', () => {
    const b = benchWithNic();
    b.setCfg(NIC, NIC_MSIX + 2, 2, 0x8000);
    setVector(b, 2, DOORBELL, 0x32);
    command(b, { op: DMA_PROBE_OP.WRITE, target: 0, bytes: 4, irq: true });
    b.pass(MS);
    assert.deepEqual(b.memory.messages, [[0x0100, DOORBELL, 0x32]]);
  });

  test.for([
    ['the function', NIC],
    ['the port above it', NIC_PORT],
  ] as const)('its DMA aborts at the first byte without Bus Master Enable of %s', ([, sbdf]) => {
    const b = benchWithNic();
    b.setCfg(sbdf, PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    command(b, { op: DMA_PROBE_OP.WRITE, target: 0x4000, bytes: 64 });
    b.pass(MS);
    assert.equal(reg(b, DMA_PROBE.ERROR_LO), 0x4000);
    assert.equal(b.memory.requesters.length, 0);
  });

  test('a reset between two bursts leaves the second one undone, also when the function is used again', () => {
    const b = benchWithNic();
    command(b, { op: DMA_PROBE_OP.WRITE, target: 0, bytes: 0x20_0000 });
    b.pass(200_000); // one burst of 1 MiB takes 131,572 ns
    assert.equal(b.memory.requesters.length, 1);
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0x40);
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0);
    placeNic(b);
    assert.equal(reg(b, DMA_PROBE.STATUS), 0);
    b.pass(MS);
    assert.equal(b.memory.requesters.length, 1);
    assert.equal(b.memory.bytes[0x10_0000], 0);
  });

  test('a command that comes while one runs, and one that does not exist, are dropped', () => {
    const b = benchWithNic();
    command(b, { op: 7, bytes: 4 });
    assert.equal(reg(b, DMA_PROBE.STATUS), 0);
    command(b, { op: DMA_PROBE_OP.WRITE, target: 0x1000, bytes: 4 });
    command(b, { op: DMA_PROBE_OP.WRITE, target: 0x2000, bytes: 4 });
    b.pass(MS);
    assert.notEqual(b.memory.bytes[0x1000], 0);
    assert.equal(b.memory.bytes[0x2000], 0);
  });

  test('a length of zero is done without a transfer', () => {
    const b = benchWithNic();
    command(b, { op: DMA_PROBE_OP.READ, bytes: 3 });
    assert.equal(reg(b, DMA_PROBE.LENGTH_LO), 0);
    b.pass(MS);
    assert.equal(reg(b, DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE);
    assert.equal(b.memory.requesters.length, 0);
  });

  test('its requests carry the bus number that the function was last written at, and the ids of the device tree', () => {
    const b = benchWithNic();
    command(b, { op: DMA_PROBE_OP.READ, bytes: 4 });
    b.pass(MS);
    const first = b.memory.requesters[0]!;
    assert.deepEqual(
      [first.rid, first.streamId, first.deviceIdAt(0x8004), first.deviceIdAt(0x8005)],
      [0x100, 0x100, 0x100, -1],
    );
    b.setCfg(NIC_PORT, PCI_BRIDGE.SECONDARY_BUS, 2, 0x0909);
    b.setCfg(0x900, PCI.CACHE_LINE_SIZE, 1, 16);
    command(b, { op: DMA_PROBE_OP.READ, bytes: 4 });
    b.pass(MS);
    assert.equal(b.memory.requesters[1]!.rid, 0x900);
  });
});
