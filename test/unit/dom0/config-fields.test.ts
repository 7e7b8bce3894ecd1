/** What a guest reads and writes in the configuration space of a function that it has. */
import { assert, beforeEach, describe, test } from 'vitest';
import { XEN_PCI_ERR } from '#shared/abi/pciif.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSI } from '#shared/arch/pci/msi.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import type { Op } from '#shared/core/op.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';
import { type Served, type VirtualBar, VirtualConfig } from '../../../services/dom0/pciback/config-fields.ts';

const SBDF = 0x0100;
const MSI_AT = 0x50;
const MSIX_AT = 0x70;
const PM_AT = 0x40;
const BARS: VirtualBar[] = [
  { index: 0, ipa: 0x2300_0000, sizeBytes: 0x1_0000, wide: false, prefetchable: false },
  { index: 2, ipa: 0x1_4000_0000, sizeBytes: 0x100_0000, wide: true, prefetchable: true },
  { index: 4, ipa: 0x2_0000_0000, sizeBytes: 0x2_0000_0000, wide: true, prefetchable: true },
];

/** 4 KiB of plain storage in the place of hardware. */
class Storage implements ConfigAccess {
  readonly view = new DataView(new ArrayBuffer(4096));
  writes = 0;

  // biome-ignore lint/correctness/useYield: storage answers at once
  *read(_sbdf: number, offset: number, size: number): Op<number> {
    if (size === 1) return this.view.getUint8(offset);
    return size === 2 ? this.view.getUint16(offset, true) : this.view.getUint32(offset, true);
  }

  // biome-ignore lint/correctness/useYield: storage answers at once
  *write(_sbdf: number, offset: number, size: number, value: number): Op<void> {
    this.writes++;
    if (size === 1) this.view.setUint8(offset, value);
    else if (size === 2) this.view.setUint16(offset, value, true);
    else this.view.setUint32(offset, value, true);
  }
}

function run<T>(op: Op<T>): T {
  const next = op.next(undefined);
  if (!next.done) throw new Error('the operation waits');
  return next.value;
}

let hw: Storage;
let config: VirtualConfig;

const read = (offset: number, size: number): number => {
  const { err, value } = run(config.read(offset, size));
  assert.equal(err, XEN_PCI_ERR.success);
  return value;
};
const write = (offset: number, size: number, value: number): number => run(config.write(offset, size, value));

beforeEach(() => {
  hw = new Storage();
  hw.view.setUint32(PCI.VENDOR_ID, 0x10d3_8086, true);
  hw.view.setUint16(PCI.STATUS, 0x10, true);
  hw.view.setUint32(PCI.BASE_ADDRESS_0, 0x1000_0000, true);
  hw.view.setUint8(PCI.CAPABILITY_LIST, PM_AT);
  hw.view.setUint32(PM_AT, 0xc802_0000 | (MSI_AT << 8) | 0x01, true);
  hw.view.setUint32(MSI_AT, 0x0080_0000 | (MSIX_AT << 8) | 0x05, true);
  hw.view.setUint32(MSIX_AT, 0x0004_0011, true);
  hw.view.setUint8(PCI.INTERRUPT_PIN, 1);
  serve();
});

function serve(more: Partial<Served> = {}): void {
  config = run(VirtualConfig.open(hw, SBDF, 4096, { bars: BARS, intx: 0, messages: true, ...more }));
  hw.writes = 0;
}

const hwCommand = (): number => hw.view.getUint16(PCI.COMMAND, true);

describe('BARs', () => {
  test('read as the addresses that the toolstack chose, with their type bits', () => {
    assert.equal(read(0x10, 4), 0x2300_0000);
    assert.equal(read(0x18, 4), 0x4000_000c);
    assert.equal(read(0x1c, 4), 1);
    assert.equal(read(0x14, 4), 0);
  });

  test('all ones sizes each register until the next write', () => {
    for (const register of [0x10, 0x18, 0x1c, 0x20, 0x24]) write(register, 4, 0xffff_ffff);
    assert.equal(read(0x10, 4), 0xffff_0000);
    assert.equal(read(0x18, 4), 0xff00_000c);
    assert.equal(read(0x1c, 4), 0xffff_ffff);
    assert.equal(read(0x20, 4), 0x0000_000c);
    assert.equal(read(0x24, 4), 0xffff_fffe);
    write(0x10, 4, 0x2300_0000);
    assert.equal(read(0x10, 4), 0x2300_0000);
  });

  test('cannot be moved, and nothing of a write reaches the hardware', () => {
    write(0x10, 4, 0x5000_0000);
    assert.equal(read(0x10, 4), 0x2300_0000);
    write(0x14, 4, 0xffff_ffff);
    assert.equal(read(0x14, 4), 0);
    assert.equal(hw.writes, 0);
    assert.equal(hw.view.getUint32(0x10, true), 0x1000_0000);
  });

  test('a 2-byte write does not start sizing, and ends it', () => {
    write(0x10, 2, 0xffff);
    assert.equal(read(0x10, 4), 0x2300_0000);
    write(0x10, 4, 0xffff_ffff);
    write(0x10, 2, 0);
    assert.equal(read(0x10, 4), 0x2300_0000);
  });
});

describe('the command register', () => {
  test('passes memory decoding and bus mastering to the hardware, and remembers the rest', () => {
    const { MEMORY, MASTER, PARITY, INTX_DISABLE } = PCI_COMMAND;
    assert.equal(write(PCI.COMMAND, 2, MEMORY | MASTER | PARITY), 0);
    assert.equal(hwCommand(), MEMORY | MASTER | INTX_DISABLE);
    assert.equal(read(PCI.COMMAND, 2), MEMORY | MASTER | PARITY);
    write(PCI.COMMAND, 2, 0);
    assert.equal(hwCommand(), INTX_DISABLE);
  });

  test('shows bus mastering as the hardware has it', () => {
    write(PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    hw.view.setUint16(PCI.COMMAND, PCI_COMMAND.MEMORY, true);
    assert.equal(read(PCI.COMMAND, 2), PCI_COMMAND.MEMORY);
  });
});

describe('INTx of a function whose line the guest does not have', () => {
  test('shows no pin, and INTX_DISABLE stays set in the hardware whatever the guest writes', () => {
    assert.equal(read(PCI.INTERRUPT_PIN, 1), 0);
    assert.equal(read(PCI.INTERRUPT_LINE, 1), 0);
    assert.equal(hwCommand(), PCI_COMMAND.INTX_DISABLE, 'from the start');
    assert.equal(write(PCI.COMMAND, 2, PCI_COMMAND.INTX_DISABLE), XEN_PCI_ERR.success);
    assert.equal(read(PCI.COMMAND, 2), PCI_COMMAND.INTX_DISABLE, 'remembered');
    assert.equal(write(PCI.COMMAND, 2, 0), XEN_PCI_ERR.success);
    assert.equal(hwCommand(), PCI_COMMAND.INTX_DISABLE);
  });

  test('is switched off again when the step from D3hot to D0 has reset the command register', () => {
    write(PM_AT + 4, 2, 3);
    hw.view.setUint16(PCI.COMMAND, 0, true);
    write(PM_AT + 4, 2, 0);
    assert.equal(hwCommand(), PCI_COMMAND.INTX_DISABLE);
  });

  test('without a pin in the hardware needs nothing switched off', () => {
    hw.view.setUint8(PCI.INTERRUPT_PIN, 0);
    hw.view.setUint16(PCI.COMMAND, 0, true);
    serve();
    assert.equal(hwCommand(), 0);
  });
});

describe('INTx of a function whose line the guest has', () => {
  const { INTX_DISABLE, MEMORY } = PCI_COMMAND;

  test('shows the pin and the low byte of the INTID, and is on from the start', () => {
    serve({ intx: 0x1a3 });
    assert.equal(read(PCI.INTERRUPT_PIN, 1), 1);
    assert.equal(read(PCI.INTERRUPT_LINE, 1), 0xa3);
    assert.equal(hwCommand(), 0);
  });

  test('is masked and unmasked by the guest', () => {
    serve({ intx: 40 });
    assert.equal(write(PCI.COMMAND, 2, INTX_DISABLE), XEN_PCI_ERR.success);
    assert.equal(hwCommand(), INTX_DISABLE);
    assert.equal(read(PCI.COMMAND, 2), INTX_DISABLE);
    assert.equal(write(PCI.COMMAND, 2, 0), XEN_PCI_ERR.success);
    assert.equal(hwCommand(), 0);
  });

  test.each([
    ['MSI-X', MSIX_AT + PCI_MSIX.FLAGS, PCI_MSIX_FLAGS.ENABLE],
    ['MSI', MSI_AT + PCI_MSI.FLAGS, 1],
  ])('is not unmasked while %s is on; the rest of that write counts', (_what, at, enable) => {
    serve({ intx: 40 });
    write(PCI.COMMAND, 2, INTX_DISABLE);
    write(at, 2, enable);
    assert.equal(write(PCI.COMMAND, 2, MEMORY), XEN_PCI_ERR.access_denied);
    assert.equal(hwCommand(), INTX_DISABLE | MEMORY);
    assert.equal(read(PCI.COMMAND, 2), INTX_DISABLE | MEMORY);
    write(at, 2, 0);
    assert.equal(write(PCI.COMMAND, 2, MEMORY), XEN_PCI_ERR.success);
    assert.equal(hwCommand(), MEMORY);
  });
});

describe('a function that no ITS serves', () => {
  const capabilities = (): number[] => {
    const found: number[] = [];
    for (let at = read(PCI.CAPABILITY_LIST, 1); at !== 0; at = read(at + 1, 1)) found.push(read(at, 1));
    return found;
  };

  test('shows no capability for messages, and takes no write to one', () => {
    assert.deepEqual(capabilities(), [0x01, 0x05, 0x11]);
    serve({ messages: false });
    assert.deepEqual(capabilities(), [0x01]);
    write(MSIX_AT + PCI_MSIX.FLAGS, 2, PCI_MSIX_FLAGS.ENABLE);
    write(MSI_AT + PCI_MSI.FLAGS, 2, 1);
    assert.equal(hw.writes, 0);
  });

  test('keeps what stands before and behind them in the list', () => {
    hw.view.setUint8(PCI.CAPABILITY_LIST, MSI_AT);
    hw.view.setUint8(MSI_AT + 1, PM_AT);
    hw.view.setUint8(PM_AT + 1, MSIX_AT);
    hw.view.setUint8(MSIX_AT + 1, 0x90);
    hw.view.setUint8(0x90, 0x10);
    serve({ messages: false });
    assert.deepEqual(capabilities(), [0x01, 0x10]);
  });
});

describe('message interrupts', () => {
  test('a guest switches MSI-X on and masks it, and changes nothing else of it', () => {
    assert.equal(write(MSIX_AT + PCI_MSIX.FLAGS, 2, 0xffff), XEN_PCI_ERR.success);
    assert.equal(hw.view.getUint16(MSIX_AT + PCI_MSIX.FLAGS, true), PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL | 4);
    write(MSIX_AT + PCI_MSIX.TABLE, 4, 0xdead_0000);
    assert.equal(hw.view.getUint32(MSIX_AT + PCI_MSIX.TABLE, true), 0);
  });

  test('a guest writes address and data of MSI', () => {
    write(MSI_AT + PCI_MSI.ADDRESS_LO, 4, 0x0403_0040);
    write(MSI_AT + PCI_MSI.DATA_64, 2, 7);
    assert.equal(hw.view.getUint32(MSI_AT + PCI_MSI.ADDRESS_LO, true), 0x0403_0040);
    assert.equal(hw.view.getUint16(MSI_AT + PCI_MSI.DATA_64, true), 7);
  });

  test('MSI and MSI-X are not on at once', () => {
    write(MSIX_AT + PCI_MSIX.FLAGS, 2, PCI_MSIX_FLAGS.ENABLE);
    assert.equal(write(MSI_AT + PCI_MSI.FLAGS, 2, 1), XEN_PCI_ERR.access_denied);
    assert.equal(hw.view.getUint16(MSI_AT + PCI_MSI.FLAGS, true) & 1, 0);
  });
});

describe('everything else', () => {
  test('reads from the hardware and drops writes', () => {
    assert.equal(read(PCI.VENDOR_ID, 4), 0x10d3_8086);
    assert.equal(write(0x200, 4, 1), XEN_PCI_ERR.success);
    assert.equal(write(PCI.VENDOR_ID, 2, 1), XEN_PCI_ERR.success);
    assert.equal(hw.writes, 0);
  });

  test('hides that PME could be signalled', () => {
    assert.equal(read(PM_AT, 4), 0x0002_0000 | (MSI_AT << 8) | 0x01);
  });

  test('refuses accesses that are unaligned, too wide or beyond the end', () => {
    for (const [offset, size] of [
      [1, 2],
      [2, 4],
      [0, 8],
      [0, 3],
      [0, 0],
      [4096, 4],
      [-4, 4],
    ] as const) {
      assert.equal(run(config.read(offset, size)).err, XEN_PCI_ERR.invalid_offset, `${offset} ${size}`);
      assert.equal(run(config.write(offset, size, 0)), XEN_PCI_ERR.invalid_offset, `${offset} ${size}`);
    }
  });
});
