/** A PCIe fabric on a bench: the example board, a flat memory in place of the SMMU, and time that moves when told. */
import { readFileSync } from 'node:fs';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import type { BoardDescription, BoardFunction } from '#shared/board/description.ts';
import type { Op } from '#shared/core/op.ts';
import { busOf, devfnOf, parseSbdf } from '#shared/ids/sbdf.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';
import { parseLspci } from '#shared/lspci/dump.ts';
import { loadBoard } from '../../../../services/hardware/board/load.ts';
import type { Board } from '../../../../services/hardware/board.ts';
import type { DmaTranslator, Requester } from '../../../../services/hardware/bus/transaction.ts';
import { PcieFabric } from '../../../../services/hardware/pcie/fabric.ts';
import type { HostBridge, HostWindow } from '../../../../services/hardware/pcie/host-bridge.ts';

const BOARDS = new URL('../../../../examples/boards/', import.meta.url);

export function at(text: string): number {
  const sbdf = parseSbdf(text);
  if (sbdf === undefined) throw new Error(`not an address: ${text}`);
  return sbdf;
}

/** The bundled board, with dma-probe behind 01:00.0 and 02:00.0 and the sizes that their devices really have. */
export function exampleBoard(change: (fn: BoardFunction) => BoardFunction = (fn) => fn): BoardDescription {
  const functions = parseLspci(readFileSync(new URL('qemu-virt.lspci', BOARDS), 'utf8'), 'qemu-virt.lspci').map((f) => {
    const probe = f.sbdf === at('01:00.0') || f.sbdf === at('02:00.0');
    const sizes: [number, number][] =
      f.sbdf === at('01:00.0')
        ? [
            [0, 0x2_0000],
            [1, 0x2_0000],
            [3, 0x4000],
          ]
        : f.sbdf === at('02:00.0')
          ? [[0, 0x4000]]
          : [];
    const model = probe ? ('dma-probe' as const) : ('inert' as const);
    return change({ sbdf: f.sbdf, config: f.config, model, barSizes: new Map(sizes), secondaryBus: undefined });
  });
  return { dtb: new Uint8Array(readFileSync(new URL('qemu-virt.dtb', BOARDS))), functions };
}

/** 16 MiB of memory at bus address 0; what lies outside aborts. */
export class FlatMemory implements DmaTranslator {
  readonly bytes = new Uint8Array(16 << 20);
  readonly requesters: Requester[] = [];
  /** Four-byte writes above the memory, where a doorbell would be: [rid, address, data]. */
  readonly messages: [number, number, number][] = [];

  dmaRead(requester: Requester, iova: number, into: Uint8Array): number {
    this.requesters.push(requester);
    const done = Math.max(0, Math.min(into.length, this.bytes.length - iova));
    into.set(this.bytes.subarray(iova, iova + done));
    return done;
  }

  dmaWrite(requester: Requester, iova: number, from: Uint8Array): number {
    this.requesters.push(requester);
    if (iova >= DOORBELL) {
      this.messages.push([requester.rid, iova, new DataView(from.buffer, from.byteOffset).getUint32(0, true)]);
      return from.length;
    }
    const done = Math.max(0, Math.min(from.length, this.bytes.length - iova));
    this.bytes.set(from.subarray(0, done), iova);
    return done;
  }

  /** Addresses of 2^53 and more that came up; nothing is there. */
  readonly wide: bigint[] = [];

  dmaWide(requester: Requester, iova: bigint): number {
    this.requesters.push(requester);
    this.wide.push(iova);
    return 0;
  }
}

export const DOORBELL = 0x808_0040 + 0x1_0000;

export class Bench {
  readonly board: Board;
  readonly memory = new FlatMemory();
  readonly fabric: PcieFabric;
  /** Changes of SPI levels, in order. */
  readonly lines: [number, boolean][] = [];
  #now = 0;
  #due: { at: number; run: () => void }[] = [];

  constructor(description: BoardDescription = exampleBoard()) {
    this.board = loadBoard(description);
    const bench = this;
    const scheduler = {
      get now(): number {
        return bench.#now;
      },
      after: (ns: number, run: () => void): void => {
        this.#due.push({ at: this.#now + ns, run });
      },
    };
    this.fabric = new PcieFabric(this.board, () => this.memory, scheduler, {
      set: (spi, level) => this.lines.push([spi, level]),
    });
  }

  get host(): HostBridge {
    return this.fabric.bridges[0]!;
  }

  /** Lets `ns` pass. */
  pass(ns: number): void {
    const until = this.#now + ns;
    for (;;) {
      const next = this.#due.filter((d) => d.at <= until).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.#due = this.#due.filter((d) => d !== next);
      this.#now = next.at;
      next.run();
    }
    this.#now = until;
  }

  get now(): number {
    return this.#now;
  }

  cfg(sbdf: number, offset: number, size = 4): number {
    return this.host.ecamTarget.read(busOf(sbdf) * 0x10_0000 + devfnOf(sbdf) * 0x1000 + offset, size);
  }

  setCfg(sbdf: number, offset: number, size: number, value: number): void {
    this.host.ecamTarget.write(busOf(sbdf) * 0x10_0000 + devfnOf(sbdf) * 0x1000 + offset, size, value);
  }

  #window(pa: number): HostWindow {
    return this.host.windows.find((w) => pa >= w.cpuBase && pa < w.cpuBase + w.sizeBytes)!;
  }

  mmio(pa: number, size = 4): number {
    const w = this.#window(pa);
    return w.target.read(pa - w.cpuBase, size);
  }

  setMmio(pa: number, value: number, size = 4): void {
    const w = this.#window(pa);
    w.target.write(pa - w.cpuBase, size, value);
  }

  /** Numbers root port `port` and opens a memory window below it, as firmware would. */
  openPort(port: number, bus: number, base: number, limit: number): void {
    this.setCfg(port, PCI_BRIDGE.PRIMARY_BUS, 1, 0);
    this.setCfg(port, PCI_BRIDGE.SECONDARY_BUS, 1, bus);
    this.setCfg(port, PCI_BRIDGE.SUBORDINATE_BUS, 1, bus);
    this.setCfg(port, PCI_BRIDGE.MEMORY_BASE, 2, (base >>> 16) & 0xfff0);
    this.setCfg(port, PCI_BRIDGE.MEMORY_LIMIT, 2, (limit >>> 16) & 0xfff0);
    this.setCfg(port, PCI_BRIDGE.PREF_MEMORY_BASE, 2, 0xfff0);
    this.setCfg(port, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
  }
}

/** The e1000e of the example board as a dma-probe, placed and enabled. */
export const NIC = at('01:00.0');
export const NIC_PORT = at('00:02.0');
export const NIC_BAR0 = 0x1000_0000;
export const NIC_BAR3 = 0x1008_0000;
export const NIC_MSIX = 0xa0;

export function benchWithNic(description?: BoardDescription): Bench {
  const b = new Bench(description);
  placeNic(b);
  return b;
}

export function placeNic(b: Bench): void {
  b.openPort(NIC_PORT, 1, 0x1000_0000, 0x101f_ffff);
  b.setCfg(NIC, PCI.BASE_ADDRESS_0, 4, NIC_BAR0);
  b.setCfg(NIC, PCI.BASE_ADDRESS_0 + 12, 4, NIC_BAR3);
  b.setCfg(NIC, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
}

/** Programs and unmasks an MSI-X vector of the NIC. */
export function setVector(b: Bench, vector: number, address: number, data: number, masked = 0): void {
  const entry = NIC_BAR3 + vector * 16;
  b.setMmio(entry, address % 2 ** 32);
  b.setMmio(entry + 4, Math.floor(address / 2 ** 32));
  b.setMmio(entry + 8, data);
  b.setMmio(entry + 12, masked);
}

/** An operation that is done at once. */
// biome-ignore lint/correctness/useYield: it has nothing to wait for
function* ready<T>(value: T): Op<T> {
  return value;
}

/** Configuration access of a kernel that reaches ECAM at once. */
export function configAccess(b: Bench): ConfigAccess {
  return {
    read: (sbdf, offset, size) => ready(b.cfg(sbdf, offset, size)),
    write: (sbdf, offset, size, value) => ready(b.setCfg(sbdf, offset, size, value)),
  };
}

/** Runs an operation that never waits. */
export function run<T>(op: Op<T>): T {
  const step = op.next();
  if (!step.done) throw new Error(`the operation waits: ${step.value.step}`);
  return step.value;
}
