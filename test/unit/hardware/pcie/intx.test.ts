import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_COMMAND_IRQ, DMA_PROBE_OP } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { swizzle } from '#shared/arch/pci/intx.ts';
import { at, type Bench } from './bench.ts';
import { barOf, bench, MSI, MSIX, open, PM, place } from './topology.ts';

const ROOT = { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true };
const OLD_BRIDGE = { type: -1, bridge: true };
/** interrupt-map of the example board: pin p of root device d is SPI 3 + (d + p - 1) modulo 4. */
const spi = (device: number, pin: number): number => 3 + ((device + pin - 1) % 4);

/** Devices below a root port at device 1: a function with pin A and one with pin C, and an old bus behind 01:02.0. */
function wired(): Bench {
  const b = bench(
    ['00:01.0', ROOT, '1'],
    ['01:00.0', { pin: 1, vectors: 4, msi: 0x80 }],
    ['01:00.2', { pin: 3 }],
    ['00:03.0', OLD_BRIDGE, '2'],
    ['02:05.0', { type: -1, pin: 2 }],
    ['00:04.0', { type: 9, pin: 1 }],
  );
  open(b, '00:01.0', 1);
  open(b, '00:03.0', 2);
  for (const address of ['01:00.0', '01:00.2', '02:05.0', '00:04.0']) place(b, address);
  return b;
}

function raise(b: Bench, address: string, vector = 0): void {
  b.setMmio(barOf(address) + DMA_PROBE.RAISE_ONE, vector);
}

function clear(b: Bench, address: string, vectors = 0xffff_ffff): void {
  b.setMmio(barOf(address) + DMA_PROBE.INTERRUPTS, vectors);
}

function status(b: Bench, address: string): number {
  return b.cfg(at(address), PCI.STATUS, 2) & 8;
}

describe('INTx', () => {
  test('a pin is a level: high until the last reason is cleared, whatever is raised meanwhile', () => {
    const b = wired();
    raise(b, '01:00.0', 0);
    raise(b, '01:00.0', 1);
    assert.deepEqual(b.lines, [[spi(1, 1), true]]);
    assert.equal(status(b, '01:00.0'), 8);
    clear(b, '01:00.0', 1);
    assert.equal(b.lines.length, 1);
    clear(b, '01:00.0', 2);
    assert.deepEqual(b.lines[1], [spi(1, 1), false]);
    assert.equal(status(b, '01:00.0'), 0);
  });

  test.for([
    ['01:00.0', spi(1, 1)],
    ['01:00.2', spi(1, 3)],
    ['02:05.0', spi(3, swizzle(2, 5))],
    ['00:04.0', spi(4, 1)],
  ] as const)('of %s arrives at SPI %i', ([address, line]) => {
    const b = wired();
    raise(b, address);
    clear(b, address);
    assert.deepEqual(b.lines, [
      [line, true],
      [line, false],
    ]);
  });

  test('two functions on one line hold it until both let go', () => {
    // Pin 2 of device 5 leaves its bridge as pin 3; device 3, pin 3 shares its SPI with device 1, pin 1.
    assert.equal(spi(3, swizzle(2, 5)), spi(1, 1));
    const b = wired();
    raise(b, '01:00.0');
    raise(b, '02:05.0');
    clear(b, '01:00.0');
    assert.deepEqual(b.lines, [[spi(1, 1), true]]);
    clear(b, '02:05.0');
    assert.deepEqual(b.lines[1], [spi(1, 1), false]);
  });

  test('swizzling turns pins by the device number', () => {
    assert.deepEqual([swizzle(1, 0), swizzle(1, 1), swizzle(4, 1), swizzle(2, 31)], [1, 2, 1, 1]);
  });

  test('Interrupt Disable takes the line down and leaves the status bit', () => {
    const b = wired();
    raise(b, '01:00.0');
    b.setCfg(at('01:00.0'), PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.INTX_DISABLE);
    assert.deepEqual(b.fabric.highSpis, []);
    assert.equal(status(b, '01:00.0'), 8);
    b.setCfg(at('01:00.0'), PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    assert.deepEqual(b.fabric.highSpis, [spi(1, 1)]);
  });

  test.for([
    ['MSI', MSI + 2, 1],
    ['MSI-X', MSIX + 2, 0x8000],
  ] as const)('%s replaces the pin while it is enabled', ([, flags, value]) => {
    const b = wired();
    raise(b, '01:00.0');
    b.setCfg(at('01:00.0'), flags, 2, value);
    assert.deepEqual(b.fabric.highSpis, []);
    clear(b, '01:00.0');
    raise(b, '01:00.0');
    b.setCfg(at('01:00.0'), flags, 2, 0);
    assert.deepEqual(b.fabric.highSpis, [], 'what was raised by message is no level');
  });

  test.for([
    ['D3hot', (b: Bench) => b.setCfg(at('01:00.0'), PM + 4, 2, 3)],
    ['a function level reset', (b: Bench) => b.setCfg(at('01:00.0'), 0x48, 2, 0x8000)],
    ['a reset of the bus', (b: Bench) => b.setCfg(at('00:01.0'), PCI_BRIDGE.CONTROL, 2, 0x40)],
    ['power-on', (b: Bench) => b.fabric.reset()],
  ] as const)('%s lets the line go', ([, act]) => {
    const b = wired();
    raise(b, '01:00.0');
    act(b);
    assert.deepEqual(b.fabric.highSpis, []);
    assert.deepEqual(b.lines, [
      [spi(1, 1), true],
      [spi(1, 1), false],
    ]);
  });

  test('a pin needs no Bus Master Enable, neither here nor above', () => {
    const b = wired();
    b.setCfg(at('01:00.0'), PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    b.setCfg(at('00:01.0'), PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    raise(b, '01:00.0');
    assert.deepEqual(b.fabric.highSpis, [spi(1, 1)]);
  });

  test('the end of a command raises the pin where there are no messages', () => {
    const b = wired();
    const bar = barOf('01:00.0');
    b.setMmio(bar + DMA_PROBE.VECTOR, 5);
    b.setMmio(bar + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE | DMA_PROBE_COMMAND_IRQ);
    b.pass(1e6);
    assert.equal(b.mmio(bar + DMA_PROBE.INTERRUPTS), 1 << 5);
    assert.deepEqual(b.fabric.highSpis, [spi(1, 1)]);
  });

  test('a function without a pin has no line and no status', () => {
    const b = bench(['00:04.0', { type: 9 }]);
    place(b, '00:04.0');
    raise(b, '00:04.0');
    assert.deepEqual(b.lines, []);
    assert.equal(status(b, '00:04.0'), 0);
  });
});
