/**
 * Configuration space through ECAM (PCIe 5.0, "PCI Express Enhanced Configuration Access Mechanism"): plain loads and
 * stores of dom0's CPU; the root port of a ThunderX PEM through PEM_CFG_RD and PEM_CFG_WR. An absent function, or a bus
 * that no bridge has, reads as all ones and drops writes.
 */
import { PEM_CFG_RD, PEM_CFG_WR, PEM_ROOT_PORT_BYTES, pemMerged } from '#shared/arch/pci/thunder-pem.ts';
import type { Op } from '#shared/core/op.ts';
import { busOf, devfnOf, type Sbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { type CpuBus, readOp, write64Op, writeOp } from '#shared/kernel/cpu-bus.ts';
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
    const way = this.#way(sbdf, offset);
    if (way === undefined) return 2 ** (8 * size) - 1;
    if (way.pem === undefined) return numberOf(yield* this.#cpu.read(way.pa, size));
    const whole = yield* this.#pemRead(way.pem, offset);
    return numberOf(bytesOf(whole, 4).subarray(offset & 3, (offset & 3) + size));
  }

  *write(sbdf: Sbdf, offset: number, size: number, value: number): Op<void> {
    const way = this.#way(sbdf, offset);
    if (way === undefined) return;
    if (way.pem === undefined) {
      yield* this.#cpu.batch([writeOp(way.pa, bytesOf(value, size))]);
      return;
    }
    const whole = size === 4 ? 0 : yield* this.#pemRead(way.pem, offset);
    const stored = pemMerged(whole, offset, size, value);
    yield* this.#cpu.batch([write64Op(way.pem + PEM_CFG_WR, offset & ~3, stored)]);
  }

  /** The first `bytes` of a function's space as one batch of 32-bit loads. */
  *readAll(sbdf: Sbdf, bytes: number): Op<Uint8Array> {
    const way = this.#way(sbdf, 0);
    const out = new Uint8Array(bytes).fill(0xff);
    if (way === undefined) return out;
    if (way.pem !== undefined) {
      for (let at = 0; at < Math.min(bytes, PEM_ROOT_PORT_BYTES); at += 4)
        out.set(bytesOf(yield* this.#pemRead(way.pem, at), 4), at);
      return out;
    }
    const words = yield* this.#cpu.batch(Array.from({ length: bytes / 4 }, (_, i) => readOp(way.pa + i * 4, 4)));
    words.forEach((word, i) => {
      out.set(word, i * 4);
    });
    return out;
  }

  /** The dword around `offset` of a PEM's root port. */
  *#pemRead(pem: number, offset: number): Op<number> {
    const at = pem + PEM_CFG_RD;
    const [, data] = yield* this.#cpu.batch([write64Op(at, offset & ~3, 0), readOp(at, 8)]);
    return numberOf(data!.subarray(4));
  }

  /** A physical address, or the PEM that has the function as its root port; undefined when nobody answers. */
  #way(sbdf: Sbdf, offset: number): { readonly pa: number; readonly pem: number | undefined } | undefined {
    const bus = busOf(sbdf);
    const bridge = this.#bridges.find((b) => b.segment === segmentOf(sbdf) && bus >= b.firstBus && bus <= b.lastBus);
    if (bridge === undefined) return undefined;
    const { ecam, busShift, pem, firstBus } = bridge;
    if (pem !== undefined && bus === firstBus)
      return devfnOf(sbdf) === 0 && offset < PEM_ROOT_PORT_BYTES ? { pa: 0, pem } : undefined;
    const pa = ecam.address + (bus - firstBus) * 2 ** busShift + devfnOf(sbdf) * 2 ** (busShift - 8) + offset;
    return { pa, pem: undefined };
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
