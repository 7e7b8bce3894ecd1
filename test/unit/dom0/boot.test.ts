/** dom0 on the machine and the hypervisor themselves, from reset to a host that is ready for guests. */
import { assert, beforeAll, describe, test } from 'vitest';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { body } from '#shared/core/core.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { Host } from './host.ts';

/** The memory windows of the board's host bridge. */
const WINDOWS = [
  { start: 0x1000_0000, end: 0x3eff_0000 },
  { start: 0x80_0000_0000, end: 0x100_0000_0000 },
];

interface InspectedBar {
  kind: string;
  pa: number;
  sizeBytes: number;
}

let host: Host;
beforeAll(() => {
  host = new Host();
});

function functions(): { sbdf: string; driver: string; bars: InspectedBar[] }[] {
  return host.inspect('d0').functions;
}

describe('dom0 after boot', () => {
  test('knows the SPI of each pin, across bridges, as /sys shows it', () => {
    const irqs = Object.fromEntries(
      host.inspect('d0').functions.map((f: { sbdf: string; irq: number }) => [f.sbdf, f.irq]),
    );
    // interrupt-map of the board: pin p of device d is SPI 3 + (d + p - 1) modulo 4. All root ports are device 2.
    assert.include(irqs, { '0000:00:00.0': 0, '0000:00:01.0': 36, '0000:00:03.0': 38, '0000:00:02.1': 37 });
    assert.include(irqs, { '0000:01:00.0': 37, '0000:02:00.0': 37, '0000:03:00.0': 37 });
  });

  test('numbers buses depth first and reports every function to Xen', () => {
    const found = functions().map((f) => f.sbdf);
    assert.includeMembers(found, ['0000:00:00.0', '0000:00:02.0', '0000:01:00.0', '0000:02:00.0', '0000:03:00.0']);
    const known = host.inspect('xen').devices.map((d: { sbdf: string }) => d.sbdf);
    assert.sameMembers(known, found);
  });

  test('places every memory BAR in a window, aligned to its size, on pages of its own', () => {
    const placed = functions()
      .flatMap((f) => f.bars)
      .filter((bar) => bar.kind !== 'io')
      .sort((a, b) => a.pa - b.pa);
    assert.isAbove(placed.length, 9);
    let end = 0;
    for (const bar of placed) {
      assert.equal(bar.pa % Math.max(bar.sizeBytes, 4096), 0);
      assert.isAtLeast(bar.pa, end);
      end = bar.pa + Math.max(bar.sizeBytes, 4096);
    }
    for (const { pa, sizeBytes } of placed) {
      assert.isTrue(WINDOWS.some((w) => pa >= w.start && pa + sizeBytes <= w.end));
    }
    assert.isAbove(placed.at(-1)!.pa, 2 ** 32);
  });

  test('shows through ECAM what it set up: bridges forward, endpoints decode nothing', () => {
    const { functions: dumps, error } = host.ask('d0', body('lspciRequest', {}), 'lspciReply');
    assert.equal(error, '');
    const config = (bdf: string): DataView => {
      const dump = dumps.find((d) => formatSbdf(d.sbdf) === bdf)!;
      return new DataView(dump.config.buffer, dump.config.byteOffset, dump.config.byteLength);
    };
    const port = config('0000:00:02.1');
    assert.equal(port.byteLength, 4096);
    assert.equal(port.getUint16(PCI.COMMAND, true), PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    assert.deepEqual([port.getUint8(0x18), port.getUint8(0x19), port.getUint8(0x1a)], [0, 2, 2]);
    const endpoint = config('0000:02:00.0');
    assert.equal(endpoint.getUint16(PCI.COMMAND, true), 0);
    const bar = endpoint.getUint32(PCI.BASE_ADDRESS_0, true) & ~0xf;
    const [base, limit] = [port.getUint16(0x20, true), port.getUint16(0x22, true)];
    assert.isAtLeast(bar, base * 0x1_0000);
    assert.isBelow(bar, (limit + 0x10) * 0x1_0000);
    assert.equal(config('0000:00:03.0').byteLength, 256);
  });

  test('writes the nodes that a host without guests has', () => {
    const nodes = Object.keys(host.nodes('/local'));
    assert.sameMembers(nodes, [
      '/local',
      '/local/domain',
      '/local/domain/0',
      '/local/domain/0/control',
      '/local/domain/0/control/feature-poweroff',
      '/local/domain/0/control/feature-reboot',
      '/local/domain/0/control/feature-suspend',
      '/local/domain/0/domid',
      '/local/domain/0/name',
      '/local/pool',
      '/local/pool/0',
      '/local/pool/0/name',
    ]);
  });

  test('refuses what only Xen or the operator may send', () => {
    const reply = host.begin('d0', body('upcallRequest', { vcpu: 0, what: undefined }));
    host.runUntil(() => reply() !== undefined);
    assert.match(reply()!.refused, /may not send upcallRequest/);
  });
});
