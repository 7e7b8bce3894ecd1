/**
 * Configuration space through ECAM (PCIe 5.0, "PCI Express Enhanced Configuration Access Mechanism"): plain loads and
 * stores of dom0's CPU. An absent function, or a bus that no bridge has, reads as all ones and drops writes.
 */
import type { Op } from '#shared/core/op.ts';
import { busOf, devfnOf, type Sbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { type CpuBus, readOp, writeOp } from '#shared/kernel/cpu-bus.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';
import type { HostBridge } from './host-bridge.ts';

export class EcamAccess implements ConfigAccess {
  readonly #cpu: CpuBus;
  readonly #bridges: readonly HostBridge[];

  constructor(cpu: CpuBus, bridges: readonly HostBridge[]) {
    this.#cpu = cpu;
    this.#bridges = bridges;
  }

  *read(sbdf: Sbdf, offset: number, size: number): Op<number> {
    const pa = this.#address(sbdf, offset);
    if (pa < 0) return 2 ** (8 * size) - 1;
    return numberOf(yield* this.#cpu.read(pa, size));
  }

  *write(sbdf: Sbdf, offset: number, size: number, value: number): Op<void> {
    const pa = this.#address(sbdf, offset);
    if (pa >= 0) yield* this.#cpu.batch([writeOp(pa, bytesOf(value, size))]);
  }

  /** The first `bytes` of a function's space as one batch of 32-bit loads. */
  *readAll(sbdf: Sbdf, bytes: number): Op<Uint8Array> {
    const pa = this.#address(sbdf, 0);
    const out = new Uint8Array(bytes).fill(0xff);
    if (pa < 0) return out;
    const words = yield* this.#cpu.batch(Array.from({ length: bytes / 4 }, (_, i) => readOp(pa + i * 4, 4)));
    words.forEach((word, i) => {
      out.set(word, i * 4);
    });
    return out;
  }

  #address(sbdf: Sbdf, offset: number): number {
    const bus = busOf(sbdf);
    const bridge = this.#bridges.find((b) => b.segment === segmentOf(sbdf) && bus >= b.firstBus && bus <= b.lastBus);
    if (bridge === undefined) return -1;
    return bridge.ecam.address + (bus - bridge.firstBus) * 0x10_0000 + devfnOf(sbdf) * 0x1000 + offset;
  }
}

function numberOf(bytes: Uint8Array): number {
  let value = 0;
  for (let i = bytes.length - 1; i >= 0; i--) value = value * 256 + bytes[i]!;
  return value;
}

function bytesOf(value: number, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 0xff);
}
