import { assert, beforeEach, describe, test } from 'vitest';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI } from '#shared/arch/pci/header.ts';
import { PEM_CFG_RD, PEM_CFG_WR } from '#shared/arch/pci/thunder-pem.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { loadBoard } from '../../../../services/hardware/board/load.ts';
import { Bus } from '../../../../services/hardware/bus/bus.ts';
import { Ram } from '../../../../services/hardware/bus/ram.ts';
import { PcieFabric } from '../../../../services/hardware/pcie/fabric.ts';
import { FlatMemory } from './bench.ts';

const BOARD = new URL('../../../../examples/boards/thunderx-2015.yaml', import.meta.url).pathname;
/** Segment 4: configuration from bus 1f on, and the PEM's registers. */
const CONFIG = 0x8800_1f00_0000;
const PEM = 0x87e0_c000_0000;
const ROOT_PORT_IDS = 0x000c_1b36;
const NVME_IDS = 0x0010_1b36;
const ALL_ONES = 0xffff_ffff;

let bus: Bus;

beforeEach(() => {
  const fabric = new PcieFabric(loadBoard(readBoard(BOARD)), () => new FlatMemory(), { after: () => {} });
  const pem = fabric.bridges.find((b) => b.board.segment === 4)!;
  bus = new Bus(new Ram([{ pa: 0, sizeBytes: 4096 }]));
  bus.map(CONFIG, pem.board.ecam.sizeBytes, pem.ecamTarget);
  bus.map(PEM, pem.board.pem!.sizeBytes, pem.pem!);
});

/** As Linux does it: a 64-bit store of the address, a 64-bit load with the data in the high half. */
function rootRead(reg: number): number {
  assert.isTrue(bus.write(PEM + PEM_CFG_RD, 8, reg, 0));
  assert.isTrue(bus.read(PEM + PEM_CFG_RD, 8));
  return bus.high;
}

function rootWrite(reg: number, value: number): void {
  assert.isTrue(bus.write(PEM + PEM_CFG_WR, 8, reg, value));
}

function read32(pa: number): number {
  assert.isTrue(bus.read(pa, 4));
  return bus.low;
}

/** 16 MiB a bus, 64 KiB a function. */
function below(number: number, devfn: number, reg: number): number {
  return CONFIG + (number - 0x1f) * 0x100_0000 + devfn * 0x1_0000 + reg;
}

/** Numbers the root port: buses 20 to 21 are below it. */
function openRootPort(): void {
  rootWrite(PCI_BRIDGE.PRIMARY_BUS, 0x0021_201f);
}

describe('a ThunderX PEM', () => {
  test('shows its root port through PEM_CFG_RD, and not in the configuration window', () => {
    assert.equal(rootRead(PCI.VENDOR_ID), ROOT_PORT_IDS);
    assert.equal(read32(below(0x1f, 0, PCI.VENDOR_ID)), ALL_ONES);
  });

  test('configures its root port through PEM_CFG_WR, a dword at a time', () => {
    openRootPort();
    assert.equal(rootRead(PCI_BRIDGE.PRIMARY_BUS) & 0xff_ffff, 0x21_201f);
  });

  test('shows the function below once the root port has a bus number for it', () => {
    assert.equal(read32(below(0x20, 0, PCI.VENDOR_ID)), ALL_ONES);
    openRootPort();
    assert.equal(read32(below(0x20, 0, PCI.VENDOR_ID)), NVME_IDS);
  });

  test('has 64 KiB for a function, of which configuration space is the first 4', () => {
    openRootPort();
    assert.equal(read32(below(0x20, 0, 0x1000 + PCI.VENDOR_ID)), ALL_ONES);
    assert.equal(read32(below(0x20, 1, PCI.VENDOR_ID)), ALL_ONES);
    assert.isTrue(bus.write(below(0x20, 0, PCI.BASE_ADDRESS_0), 4, 0xffff_ffff));
    assert.equal(read32(below(0x20, 0, PCI.BASE_ADDRESS_0)) >>> 4, 0xffff_c000 >>> 4, '16 KiB');
  });

  test('reaches 2 KiB of its root port: beyond that reads are all ones and writes are dropped', () => {
    assert.equal(rootRead(0x800), ALL_ONES);
    rootWrite(0x800 + PCI_BRIDGE.PRIMARY_BUS, 0x0021_201f);
    assert.equal(read32(below(0x20, 0, PCI.VENDOR_ID)), ALL_ONES);
  });

  test('the low half of PEM_CFG_WR alone writes nothing', () => {
    assert.isTrue(bus.write(PEM + PEM_CFG_WR, 4, PCI_BRIDGE.PRIMARY_BUS));
    assert.equal(rootRead(PCI_BRIDGE.PRIMARY_BUS) & 0xff_ffff, 0);
  });

  test('a register that is not modelled reads as zero', () => {
    assert.equal(read32(PEM + 0x40), 0);
  });
});
