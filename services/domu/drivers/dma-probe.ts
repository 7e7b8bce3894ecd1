/**
 * The driver of `dma-probe` (shared/arch/dma-probe.ts): any DMA and any vector that a command of this guest asks for.
 * Binds a function whose first memory BAR that holds no MSI-X structure in its first page reads the magic number.
 * Commands of the device are polled, so that its interrupts are those that were asked for and nothing else. On INTx there
 * is one vector: an interrupt clears every bit of INTERRUPTS that it finds.
 * Not modelled: the completion interrupt of a command.
 */

import { DMA_PROBE, DMA_PROBE_BYTES, DMA_PROBE_MAGIC, DMA_PROBE_OP, DMA_PROBE_STATUS } from '#shared/arch/dma-probe.ts';
import { Lock, type Op, sleep, TimedOut, withLock } from '#shared/core/op.ts';
import { type Address64, address64, highOf, lowOf } from '#shared/ids/address64.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { BusAbort, type CpuBus, readOp, word, write32Op } from '#shared/kernel/cpu-bus.ts';
import type { BarInfo } from '#shared/kernel/pci-core.ts';
import { Changes } from '#shared/kernel/xenstore-client.ts';
import {
  type BoundDriver,
  type Driver,
  DriverError,
  type DriverKit,
  disableFunction,
  enableFunction,
  enableIrqs,
  type IrqKind,
  type IrqVectors,
  type PciFunction,
} from './driver.ts';

/** The most vectors a driver asks for. */
const VECTORS_MAX = 64;
const POLL_FIRST_NS = 20_000;
const POLL_MAX_NS = 5_000_000;
/** A command that runs longer is given up. */
const COMMAND_NS = 60e9;
const RAISE_BITS = 32;
/** What a register of a function that no longer decodes reads as. */
const ABSENT = 0xffff_ffff;

/** How a command of the device ended. */
export interface DmaOutcome {
  /** STATUS as it read at the end. */
  readonly status: number;
  readonly aborted: boolean;
  /** The access that was aborted last, a bus address; -1 when none was. */
  readonly errorAddress: Address64;
  /** CHECKSUM, of a READ. */
  readonly checksum: number;
}

export class DmaProbe implements BoundDriver {
  readonly name = 'dma-probe';
  readonly sbdf: Sbdf;
  readonly #fn: PciFunction;
  readonly #kit: DriverKit;
  readonly #base: number;
  readonly #lock = new Lock('dma-probe command');
  readonly #arrived = new Changes();
  readonly #delivered: number[] = [];
  #vectors: IrqVectors | undefined;
  #gone = false;

  constructor(fn: PciFunction, kit: DriverKit, base: number) {
    this.sbdf = fn.sbdf;
    this.#fn = fn;
    this.#kit = kit;
    this.#base = base;
  }

  /** Vectors that are enabled. */
  get vectors(): number {
    return this.#vectors?.count ?? 0;
  }

  get irqs(): IrqKind {
    return this.#vectors?.kind ?? 'none';
  }

  /** Interrupts counted at the handler, by vector. */
  get delivered(): readonly number[] {
    return this.#delivered;
  }

  /** Enables as many vectors as the function has, at most 64; or its line. */
  *start(): Op<void> {
    this.#vectors = yield* enableIrqs(this.#fn, VECTORS_MAX, this.#kit, {
      onVector: (vector) => this.#count(vector),
      onLine: () => this.#onLine(),
    });
    for (let v = 0; v < this.vectors; v++) this.#delivered[v] ??= 0;
  }

  #count(vector: number): void {
    this.#delivered[vector] = (this.#delivered[vector] ?? 0) + 1;
    this.#arrived.note();
  }

  *#onLine(): Op<boolean> {
    const at = this.#base + DMA_PROBE.INTERRUPTS;
    try {
      const raised = yield* this.#kit.cpu.read32(at);
      if (raised === 0 || raised === ABSENT) return false;
      yield* this.#kit.cpu.write32(at, raised);
    } catch (error) {
      if (error instanceof BusAbort) return false;
      throw error;
    }
    this.#count(0);
    return true;
  }

  *remove(): Op<void> {
    this.#gone = true;
    this.#arrived.note();
    const vectors = this.#vectors;
    this.#vectors = undefined;
    // The table can only be masked while the function decodes memory.
    if (vectors !== undefined) yield* vectors.disable();
    yield* disableFunction(this.#kit.config, this.sbdf);
  }

  inspect(): unknown {
    const { vectors, irqs } = this;
    return { vectors, irqs, firstIntid: this.#vectors?.firstIntid ?? -1, delivered: [...this.#delivered] };
  }

  /** The device writes `bytes` of the pattern of `seed` at the bus address `destination`. */
  write(destination: Address64, bytes: number, seed: number): Op<DmaOutcome> {
    return this.#command(DMA_PROBE_OP.WRITE, 0, destination, bytes, seed);
  }

  /** The device reads `bytes` at `source` and sums them up. */
  read(source: Address64, bytes: number): Op<DmaOutcome> {
    return this.#command(DMA_PROBE_OP.READ, source, 0, bytes, 0);
  }

  copy(source: Address64, destination: Address64, bytes: number): Op<DmaOutcome> {
    return this.#command(DMA_PROBE_OP.COPY, source, destination, bytes, 0);
  }

  /** Raises vectors 0 to `count - 1` once each. */
  *raise(count: number): Op<void> {
    const low = Math.min(count, RAISE_BITS);
    const ops = [write32Op(this.#base + DMA_PROBE.RAISE, (2 ** low - 1) >>> 0)];
    for (let v = RAISE_BITS; v < count; v++) ops.push(write32Op(this.#base + DMA_PROBE.RAISE_ONE, v));
    yield* this.#kit.cpu.batch(ops);
  }

  /** Waits until `reached` holds, looked at again after every interrupt. False when it does not within `ns`. */
  *waitForInterrupts(reached: () => boolean, ns: number, clock: { readonly now: number }): Op<boolean> {
    const deadline = clock.now + ns;
    for (;;) {
      const seen = this.#arrived.count;
      if (reached()) return true;
      if (this.#gone) return false;
      try {
        yield* this.#arrived.since(seen, deadline - clock.now);
      } catch (error) {
        if (error instanceof TimedOut) return reached();
        throw error;
      }
    }
  }

  #command(op: number, source: Address64, destination: Address64, bytes: number, seed: number): Op<DmaOutcome> {
    return withLock(this.#lock, () => this.#run(op, source, destination, bytes, seed));
  }

  *#run(op: number, source: Address64, destination: Address64, bytes: number, seed: number): Op<DmaOutcome> {
    const base = this.#base;
    yield* this.#kit.cpu.batch([
      write32Op(base + DMA_PROBE.STATUS, DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR),
      ...pairOps(base + DMA_PROBE.SRC_LO, source),
      ...pairOps(base + DMA_PROBE.DST_LO, destination),
      ...pairOps(base + DMA_PROBE.LENGTH_LO, bytes),
      write32Op(base + DMA_PROBE.PATTERN, seed),
      write32Op(base + DMA_PROBE.COMMAND, op),
    ]);
    const offsets = [DMA_PROBE.STATUS, DMA_PROBE.CHECKSUM, DMA_PROBE.ERROR_LO, DMA_PROBE.ERROR_HI];
    let pauseNs = POLL_FIRST_NS;
    for (let waitedNs = 0; ; waitedNs += pauseNs) {
      const words = (yield* this.#kit.cpu.batch(offsets.map((o) => readOp(base + o, 4)))).map((b) => word(b));
      const [status, checksum, errorLo, errorHi] = words as [number, number, number, number];
      if (this.#gone || status === ABSENT) throw new DriverError(`${formatSbdf(this.sbdf)} is gone`);
      if ((status & DMA_PROBE_STATUS.BUSY) === 0) {
        const aborted = (status & DMA_PROBE_STATUS.ERROR) !== 0;
        return { status, aborted, errorAddress: aborted ? address64(errorHi, errorLo) : -1, checksum };
      }
      if (waitedNs >= COMMAND_NS) throw new TimedOut(`${formatSbdf(this.sbdf)} stays busy`);
      yield* sleep(pauseNs);
      pauseNs = Math.min(pauseNs * 2, POLL_MAX_NS);
    }
  }
}

export const dmaProbeDriver: Driver = {
  name: 'dma-probe',
  *probe(fn, kit) {
    const bar = fn.bars.find((b) => b.kind !== 'io' && b.sizeBytes >= DMA_PROBE_BYTES && !holdsMsix(fn, b));
    if (bar === undefined) return undefined;
    yield* enableFunction(kit.config, fn.sbdf);
    const probe = new DmaProbe(fn, kit, bar.address);
    try {
      if (!(yield* readsMagic(kit.cpu, bar.address))) {
        yield* disableFunction(kit.config, fn.sbdf);
        return undefined;
      }
      yield* probe.start();
    } catch (error) {
      yield* disableFunction(kit.config, fn.sbdf);
      throw error;
    }
    return probe;
  },
};

/** True when an MSI-X structure stands in the first page of the BAR. */
function holdsMsix({ msix }: PciFunction, bar: BarInfo): boolean {
  if (msix === undefined) return false;
  const table = msix.tableBar === bar.index && msix.tableOffset < DMA_PROBE_BYTES;
  return table || (msix.pbaBar === bar.index && msix.pbaOffset < DMA_PROBE_BYTES);
}

function* readsMagic(cpu: CpuBus, base: number): Op<boolean> {
  try {
    return (yield* cpu.read32(base + DMA_PROBE.ID)) === DMA_PROBE_MAGIC;
  } catch (error) {
    if (error instanceof BusAbort) return false;
    throw error;
  }
}

function pairOps(ipa: number, value: Address64) {
  return [write32Op(ipa, lowOf(value)), write32Op(ipa + 4, highOf(value))];
}
