import { assert, describe, test } from 'vitest';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXP } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { at, Bench, benchWithNic, exampleBoard, NIC, NIC_BAR0, NIC_PORT } from './bench.ts';

const NVME = at('02:00.0');
const NVME_PORT = at('00:02.1');

describe('configuration space', () => {
  test('read-only fields replay the dump, and what software switches on or assigns is zero after power-on', () => {
    const b = new Bench();
    assert.equal(b.cfg(NIC_PORT, PCI.VENDOR_ID), 0x000c_1b36);
    assert.equal(b.cfg(NIC_PORT, PCI.CLASS_DEVICE, 2), 0x0604);
    assert.equal(b.cfg(NIC_PORT, PCI.COMMAND, 2), 0);
    assert.equal(b.cfg(NIC_PORT, PCI_BRIDGE.PRIMARY_BUS), 0);
    assert.equal(b.cfg(NIC_PORT, PCI.BASE_ADDRESS_0), 0);
    // Express capability at 0x54: a root port with slot, as dumped.
    assert.equal(b.cfg(NIC_PORT, 0x54, 2), 0x4810);
    assert.equal(b.cfg(NIC_PORT, 0x48 + 2, 2), 0, 'MSI-X was enabled in the dump');
  });

  test('an absent function reads as all ones in every size and takes no write', () => {
    const b = new Bench();
    const nobody = at('00:1f.0');
    b.setCfg(nobody, 0, 4, 0);
    assert.deepEqual(
      [b.cfg(nobody, 0, 4), b.cfg(nobody, 0x10, 2), b.cfg(nobody, 0xfff, 1)],
      [0xffff_ffff, 0xffff, 0xff],
    );
  });

  test('a function behind a port is absent until the port has its bus numbers', () => {
    const b = new Bench();
    assert.equal(b.cfg(NIC, 0), 0xffff_ffff);
    b.openPort(NIC_PORT, 1, 0x1000_0000, 0x101f_ffff);
    assert.equal(b.cfg(NIC, 0), 0x10d3_8086);
    b.setCfg(NIC_PORT, PCI_BRIDGE.SECONDARY_BUS, 1, 0x42);
    b.setCfg(NIC_PORT, PCI_BRIDGE.SUBORDINATE_BUS, 1, 0x42);
    assert.equal(b.cfg(NIC, 0), 0xffff_ffff);
    assert.equal(b.cfg(at('42:00.0'), 0), 0x10d3_8086);
  });

  test('a link carries device 0 only', () => {
    const b = benchWithNic(exampleBoard((fn) => (fn.sbdf === at('03:00.0') ? { ...fn, sbdf: at('01:05.0') } : fn)));
    assert.equal(b.cfg(at('01:05.0'), 0), 0xffff_ffff);
    // Device Control 2 of the port, ARI Forwarding Enable.
    b.setCfg(NIC_PORT, 0x54 + PCI_EXP.DEVCTL2, 2, 0x20);
    assert.equal(b.cfg(at('01:05.0'), 0), 0x000d_1b36);
  });

  test('writes of one byte change that byte and read-only bits stay', () => {
    const b = new Bench();
    b.setCfg(at('00:03.0'), PCI.COMMAND + 1, 1, 0xff);
    assert.equal(b.cfg(at('00:03.0'), PCI.COMMAND, 2), PCI_COMMAND.SERR | PCI_COMMAND.INTX_DISABLE);
    b.setCfg(at('00:03.0'), PCI.VENDOR_ID, 4, 0x1234_5678);
    assert.equal(b.cfg(at('00:03.0'), PCI.VENDOR_ID), 0x100e_8086);
  });

  test('a BAR answers sizing with its size and its type bits', () => {
    const b = benchWithNic();
    b.setCfg(NIC, PCI.BASE_ADDRESS_0, 4, 0xffff_ffff);
    assert.equal(b.cfg(NIC, PCI.BASE_ADDRESS_0), 0xfffe_0000);
    b.setCfg(NIC, PCI.BASE_ADDRESS_0 + 8, 4, 0xffff_ffff);
    assert.equal(b.cfg(NIC, PCI.BASE_ADDRESS_0 + 8), 0xffff_ffe1, 'I/O, 32 ports');
    b.openPort(NVME_PORT, 2, 0x1020_0000, 0x103f_ffff);
    b.setCfg(NVME, PCI.BASE_ADDRESS_0, 4, 0xffff_ffff);
    b.setCfg(NVME, PCI.BASE_ADDRESS_0 + 4, 4, 0xffff_ffff);
    assert.deepEqual([b.cfg(NVME, 0x10), b.cfg(NVME, 0x14)], [0xffff_c004, 0xffff_ffff]);
  });

  test('a conventional function has 256 bytes; a PCI Express one dumped with 256 reads zeros above', () => {
    const b = benchWithNic(exampleBoard((fn) => (fn.sbdf === NIC ? { ...fn, config: fn.config.slice(0, 256) } : fn)));
    assert.equal(b.cfg(at('00:03.0'), 0x100), 0xffff_ffff);
    assert.equal(b.cfg(NIC, 0x100), 0);
  });

  test('a function of which only the header was dumped replays it, and its capability list ends where it begins', () => {
    const b = benchWithNic(exampleBoard((fn) => (fn.sbdf === NIC ? { ...fn, config: fn.config.slice(0, 64) } : fn)));
    assert.equal(b.cfg(NIC, PCI.STATUS, 2) & 0x10, 0x10);
    assert.equal(b.cfg(NIC, PCI.CAPABILITY_LIST, 1), 0xc8);
    assert.equal(b.cfg(NIC, 0xc8, 2), 0, 'a null capability, and no next one');
  });

  test('a write of any bytes of a doubleword changes those bytes and no others', () => {
    const b = benchWithNic();
    b.setCfg(NIC, PCI.BASE_ADDRESS_0, 4, 0x1234_0000);
    b.setCfg(NIC, PCI.BASE_ADDRESS_0 + 3, 1, 0x56);
    assert.equal(b.cfg(NIC, PCI.BASE_ADDRESS_0), 0x5634_0000);
    b.setCfg(NIC, PCI.BASE_ADDRESS_0 + 2, 2, 0x789a);
    assert.equal(b.cfg(NIC, PCI.BASE_ADDRESS_0), 0x789a_0000);
    b.setCfg(NIC, PCI.CACHE_LINE_SIZE - 1, 2, 0x10ff);
    assert.equal(b.cfg(NIC, PCI.CACHE_LINE_SIZE, 1), 0x10, 'over a read-only neighbour');
    b.setCfg(NIC, PCI.COMMAND + 1, 4, 0x0000_0004);
    assert.equal(b.cfg(NIC, PCI.COMMAND, 2), 0x0406, 'across two registers');
  });

  test('every width reads the same bytes', () => {
    const b = benchWithNic();
    for (const at of [0, 4, 0x10, 0xc8, 0xe0, 0x100]) {
      const whole = b.cfg(NIC, at, 4);
      assert.equal(b.cfg(NIC, at, 2) + b.cfg(NIC, at + 2, 2) * 2 ** 16, whole);
      assert.equal(
        [3, 2, 1, 0].reduce((v, i) => v * 256 + b.cfg(NIC, at + i, 1), 0),
        whole,
      );
    }
  });
});

describe('resets', () => {
  /** Function Level Reset by DEVCTL bit 15; the Express capability of the NVMe stands at 0x80. */
  function placedNvme(): Bench {
    const b = new Bench();
    b.openPort(NVME_PORT, 2, 0x1020_0000, 0x103f_ffff);
    b.setCfg(NVME, PCI.BASE_ADDRESS_0, 4, 0x1020_0000);
    b.setCfg(NVME, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    b.setCfg(NVME, 0x42, 2, 0x8000);
    return b;
  }

  test('FLR clears command, BARs and MSI-X of the one function and reads as zero', () => {
    const b = placedNvme();
    b.setMmio(0x1020_2000 + 12, 0);
    b.setCfg(NVME, 0x80 + PCI_EXP.DEVCTL, 2, 0x8000);
    assert.equal(b.cfg(NVME, PCI.COMMAND, 2), 0);
    assert.equal(b.cfg(NVME, PCI.BASE_ADDRESS_0), 4);
    assert.equal(b.cfg(NVME, 0x42, 2) & 0xc000, 0);
    assert.equal(b.cfg(NVME, 0x80 + PCI_EXP.DEVCTL, 2), 0x2810);
    assert.equal(b.cfg(NVME_PORT, PCI_BRIDGE.SECONDARY_BUS, 1), 2, 'the port keeps its numbers');
    b.setCfg(NVME, PCI.BASE_ADDRESS_0, 4, 0x1020_0000);
    b.setCfg(NVME, PCI.COMMAND, 2, PCI_COMMAND.MEMORY);
    assert.equal(b.mmio(0x1020_2000 + 12), 1, 'the entry is masked again');
  });

  test('a function that does not advertise FLR is not reset by the bit', () => {
    const b = benchWithNic(); // its Express capability stands at 0xe0, FLReset-
    b.setCfg(NIC, 0xe0 + PCI_EXP.DEVCTL, 2, 0x8000);
    assert.equal(b.cfg(NIC, PCI.BASE_ADDRESS_0), NIC_BAR0);
  });

  test('the Advanced Features capability resets a conventional function', () => {
    const plain = at('00:03.0');
    const b = new Bench(
      exampleBoard((fn) => {
        if (fn.sbdf !== plain) return fn;
        const config = fn.config.slice();
        config.set([0x10], PCI.STATUS);
        config.set([0x50], PCI.CAPABILITY_LIST);
        config.set([0x13, 0, 6, 3, 0, 0], 0x50);
        return { ...fn, config };
      }),
    );
    b.setCfg(plain, PCI.COMMAND, 2, 7);
    b.setCfg(plain, 0x54, 1, 1);
    assert.equal(b.cfg(plain, PCI.COMMAND, 2), 0);
    assert.equal(b.cfg(plain, 0x54, 1), 0);
  });

  test('secondary bus reset clears what is below, which does not answer while it is held', () => {
    const b = benchWithNic();
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0x40);
    assert.equal(b.cfg(NIC, 0), 0xffff_ffff);
    b.setCfg(NIC, PCI.COMMAND, 2, 7);
    b.setCfg(NIC_PORT, PCI_BRIDGE.CONTROL, 2, 0);
    assert.equal(b.cfg(NIC, 0), 0x10d3_8086);
    assert.equal(b.cfg(NIC, PCI.COMMAND, 2), 0);
    assert.equal(b.cfg(NIC, PCI.BASE_ADDRESS_0), 0);
    assert.equal(b.cfg(NIC_PORT, PCI_BRIDGE.SUBORDINATE_BUS, 1), 1);
  });

  test('going to D3hot stops memory decoding, and coming back without No_Soft_Reset resets the function', () => {
    const b = benchWithNic(); // power management at 0xc8, NoSoftRst-
    b.setCfg(NIC, 0xc8 + 4, 2, 3);
    assert.equal(b.mmio(NIC_BAR0), 0xffff_ffff);
    b.setCfg(NIC, 0xc8 + 4, 2, 0);
    assert.equal(b.cfg(NIC, PCI.BASE_ADDRESS_0), 0);
  });

  test('power-on makes the whole fabric as it was built', () => {
    const b = new Bench();
    const fresh = JSON.stringify((b.fabric.inspect() as { bridges: { functions: unknown }[] }).bridges[0]!.functions);
    b.openPort(NIC_PORT, 1, 0x1000_0000, 0x101f_ffff);
    b.setCfg(NIC, PCI.COMMAND, 2, 6);
    b.fabric.reset();
    assert.equal(
      JSON.stringify((b.fabric.inspect() as { bridges: { functions: unknown }[] }).bridges[0]!.functions),
      fresh,
    );
  });
});
