import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC, DMA_PROBE_OP, DMA_PROBE_STATUS } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import { at, Bench, exampleBoard, NIC, NIC_BAR0, NIC_PORT } from './bench.ts';

const SWITCH = at('01:00.0');
const LEAF = at('02:00.0');

/** Root port, a bridge on its link, and the NIC below that; the NVMe is gone. */
function deepBoard(): BoardDescription {
  const board = exampleBoard((fn) => {
    if (fn.sbdf === NIC) return { ...fn, sbdf: at('05:00.0') };
    if (fn.sbdf === at('00:02.3')) return { ...fn, sbdf: SWITCH, secondaryBus: 5 };
    return fn;
  });
  return { ...board, functions: board.functions.filter((fn) => fn.sbdf !== at('02:00.0')) };
}

function deepBench(): Bench {
  const b = new Bench(deepBoard());
  b.openPort(NIC_PORT, 1, 0x1000_0000, 0x101f_ffff);
  b.setCfg(NIC_PORT, PCI_BRIDGE.SUBORDINATE_BUS, 1, 2);
  b.openPort(SWITCH, 2, 0x1000_0000, 0x100f_ffff);
  b.setCfg(LEAF, PCI.BASE_ADDRESS_0, 4, NIC_BAR0);
  b.setCfg(LEAF, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
  return b;
}

function write(b: Bench): number {
  b.setMmio(NIC_BAR0 + DMA_PROBE.LENGTH_LO, 4);
  b.setMmio(NIC_BAR0 + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
  b.pass(1e6);
  return b.mmio(NIC_BAR0 + DMA_PROBE.STATUS);
}

describe('a bridge below a bridge', () => {
  test('passes configuration, memory and DMA, with the requester id of the function', () => {
    const b = deepBench();
    assert.equal(b.cfg(LEAF, 0), 0x10d3_8086);
    assert.equal(b.mmio(NIC_BAR0), DMA_PROBE_MAGIC);
    assert.equal(write(b), DMA_PROBE_STATUS.DONE);
    assert.deepEqual(
      b.memory.requesters.map((r) => r.rid),
      [0x0200],
    );
  });

  test.for([
    ['root port', NIC_PORT],
    ['inner bridge', SWITCH],
  ] as const)('Bus Master Enable of the %s stops its DMA', ([, bridge]) => {
    const b = deepBench();
    b.setCfg(bridge, PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    assert.equal(write(b), DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
  });

  test('is unreachable when the root port does not count its bus as subordinate', () => {
    const b = deepBench();
    b.setCfg(NIC_PORT, PCI_BRIDGE.SUBORDINATE_BUS, 1, 1);
    assert.equal(b.cfg(LEAF, 0), 0xffff_ffff);
  });

  test('a reset of the root bus below takes bus numbers and functions with it', () => {
    const b = deepBench();
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0x40);
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0);
    assert.equal(b.cfg(SWITCH, PCI_BRIDGE.PRIMARY_BUS), 0);
    assert.equal(b.cfg(LEAF, 0), 0xffff_ffff);
    assert.equal(b.fabric.functionAt(at('05:00.0'))?.isMaster, false);
  });
});
