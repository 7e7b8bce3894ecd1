import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC, DMA_PROBE_OP } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXP, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI } from '#shared/arch/pci/header.ts';
import { PCI_SRIOV } from '#shared/arch/pci/sriov.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { type Decoder, DecodeTable, decoder } from '../../../../services/hardware/pcie/decode-table.ts';
import { at, type Bench } from './bench.ts';
import { barOf, bench, EXPRESS, open, type Placed, place, SRIOV } from './topology.ts';

const ROOT = { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true };

describe('who claims an address', () => {
  const claimant = (devfn: number) => ({ devfn, readAt: () => 0, writeAt: () => true });

  test('is found among many ranges as by looking at each', () => {
    const table = new DecodeTable();
    const decoders: Decoder[] = [];
    let seed = 12345;
    const random = (n: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % n;
    };
    for (let i = 0; i < 60; i++) decoders.push(decoder(claimant(i), 0));
    for (let round = 0; round < 400; round++) {
      const from = random(1000) - 50;
      table.set(decoders[random(60)]!, from, from + random(120) - 10);
      const address = random(1100);
      const all = decoders.filter((d) => d.from >= 0 && d.from <= address && d.to >= address);
      const lowest = all.sort((a, b) => a.order - b.order)[0];
      assert.equal(table.find(address), lowest);
      const edges = decoders.filter((d) => d.from >= 0).flatMap((d) => [d.from, d.to + 1]);
      const next = Math.min(2000, ...edges.filter((e) => e > address));
      const edge = table.edgeAfter(address, 2000);
      // What ends above the address ends a piece only when it holds the address, so there may be fewer pieces.
      assert.isAtLeast(edge, next);
      for (let a = address; a < edge; a++) assert.equal(table.find(a), lowest);
    }
  });
});

/** `devices` functions, up to 256 with ARI, behind each of `buses` root ports; all placed and enabled. */
function crowd(buses: number, devices: number): Bench {
  const placed: Placed[] = [];
  for (let bus = 1; bus <= buses; bus++) {
    placed.push([formatSbdf((bus - 1) << 3), ROOT, bus.toString(16)]);
    for (let devfn = 0; devfn < devices; devfn++) placed.push([formatSbdf((bus << 8) | devfn), {}]);
  }
  const b = bench(...placed);
  for (let bus = 1; bus <= buses; bus++) {
    const port = (bus - 1) << 3;
    b.openPort(port, bus, 0x1000_0000 + (bus - 1) * 0x100_0000, 0x1000_0000 + bus * 0x100_0000 - 1);
    b.setCfg(port, EXPRESS + PCI_EXP.DEVCTL2, 2, 0x20);
    for (let devfn = 0; devfn < devices; devfn++) {
      b.setCfg((bus << 8) | devfn, PCI.BASE_ADDRESS_0, 4, 0x1000_0000 + (bus - 1) * 0x100_0000 + devfn * 0x1_0000);
      b.setCfg((bus << 8) | devfn, PCI.COMMAND, 2, 6);
    }
  }
  return b;
}

describe('a full fabric', () => {
  test('has 4,096 functions, each of which answers and masters under its own id', () => {
    const b = crowd(16, 256);
    for (const rid of [0x0100, 0x01ff, 0x0880, 0x1000, 0x10ff]) {
      const bar = 0x1000_0000 + ((rid >>> 8) - 1) * 0x100_0000 + (rid & 0xff) * 0x1_0000;
      assert.equal(b.cfg(rid, PCI.VENDOR_ID), 0x1234_1b36);
      assert.equal(b.mmio(bar), DMA_PROBE_MAGIC);
      b.setMmio(bar + DMA_PROBE.LENGTH_LO, 4);
      b.setMmio(bar + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    }
    b.pass(1e6);
    assert.deepEqual(
      b.memory.requesters.map((r) => r.rid),
      [0x0100, 0x01ff, 0x0880, 0x1000, 0x10ff],
    );
  });

  test('finds a function by its id without looking at the others', () => {
    const b = crowd(1, 2);
    const fn = b.host.find(1, 1)!;
    let walks = 0;
    const { below } = b.fabric.functionAt(0) as unknown as { below: { at(devfn: number): unknown } };
    const original = below.at.bind(below);
    below.at = (devfn) => {
      walks++;
      return original(devfn);
    };
    for (let i = 0; i < 100; i++) assert.equal(b.host.find(1, 1), fn);
    assert.equal(walks, 0);
    b.setCfg(0, PCI_BRIDGE.SUBORDINATE_BUS, 1, 3);
    b.host.find(1, 1);
    assert.equal(walks, 1, 'once after each change of the topology');
  });
});

describe('a fabric that was saved and loaded', () => {
  test('is as it was: bus numbers, windows, pins, virtual functions and what is under way', () => {
    const build = (): Bench =>
      bench(
        ['00:01.0', ROOT, '1'],
        ['01:00.0', { pin: 1, sriov: { total: 4, offset: 0x80, stride: 1 } }],
        ['00:02.0', ROOT, '2'],
        ['02:00.0', {}, { resetNs: 1000 }],
      );
    const one = build();
    open(one, '00:01.0', 1, 1);
    open(one, '00:02.0', 2);
    one.setCfg(at('00:01.0'), EXPRESS + PCI_EXP.DEVCTL2, 2, 0x20);
    place(one, '01:00.0');
    place(one, '02:00.0');
    one.setMmio(barOf('01:00.0') + DMA_PROBE.RAISE_ONE, 3);
    one.setMmio(barOf('01:00.0') + DMA_PROBE.LENGTH_LO, 4);
    one.setMmio(barOf('01:00.0') + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    one.setCfg(at('01:00.0'), SRIOV + PCI_SRIOV.NUM_VF, 2, 2);
    one.setCfg(at('01:00.0'), SRIOV + PCI_SRIOV.CTRL, 2, 9);
    one.setCfg(0x0180, PCI.COMMAND, 2, 4);
    one.setCfg(at('02:00.0'), EXPRESS + PCI_EXP.DEVCTL, 2, 0x8000);
    one.pass(400);
    const other = build();
    other.pass(400);
    other.fabric.load(structuredClone(one.fabric.save()));
    assert.deepEqual(other.fabric.inspect(), one.fabric.inspect());
    assert.deepEqual(other.lines, [], 'loading makes no edge');
    for (const b of [one, other]) {
      b.pass(200);
      assert.equal(b.memory.requesters.length, 1);
      assert.equal(b.cfg(at('02:00.0'), 0), 0xffff_ffff);
      b.pass(400);
      assert.equal(b.cfg(at('02:00.0'), 0), 0x1234_1b36);
      b.setMmio(barOf('01:00.0') + DMA_PROBE.INTERRUPTS, 0xff);
    }
    assert.deepEqual(other.lines, [one.lines[one.lines.length - 1]]);
    assert.deepEqual(other.fabric.inspect(), one.fabric.inspect());
  });
});
