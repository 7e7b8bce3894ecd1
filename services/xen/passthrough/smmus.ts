/**
 * All SMMUs of the machine: which one serves a stream, and what has to happen in every one of them.
 * Not modelled: SMMUv2; a device behind one has no SMMU here and cannot be assigned.
 */
import { type Op, withLock } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import type { Counts } from '../counts.ts';
import type { El2 } from '../el2.ts';
import { XenError } from '../error.ts';
import type { HostGic } from '../host-gic/gic.ts';
import type { Frames } from '../mm/frames.ts';
import type { P2m } from '../mm/p2m.ts';
import type { MappedId } from './host-bridge.ts';
import { SmmuError, SmmuV3Driver } from './smmu-v3.ts';

const SPI_FIRST = 32;
/** Trigger cell of a GIC interrupt specifier: rising edge. */
const EDGE_RISING = 1;

export interface SmmusParts {
  readonly el2: El2;
  readonly frames: Frames;
  readonly counts: Counts;
  readonly runtime: Pick<Runtime, 'trace'>;
}

export class Smmus {
  readonly #drivers: SmmuV3Driver[];

  /** A driver for each `arm,smmu-v3` node of the tree. Throws SmmuError for one without an event queue interrupt. */
  constructor(parts: SmmusParts, tree: FdtNode, gic: Pick<HostGic, 'onSpi'>) {
    this.#drivers = tree.compatibleNodes('arm,smmu-v3').map((node) => {
      const eventq = node.interrupts()[node.strings('interrupt-names').indexOf('eventq')];
      if (eventq === undefined) throw new SmmuError(`${node.path} has no interrupt named eventq`);
      return new SmmuV3Driver({
        ...parts,
        name: node.name,
        phandle: node.phandle ?? 0,
        basePa: node.regions()[0]!.address,
        eventqIntid: eventq[1]! + SPI_FIRST,
        eventqIsEdge: eventq[2] === EDGE_RISING,
        onSpi: (intid, isEdge, handler) => gic.onSpi(intid, isEdge, handler),
      });
    });
  }

  get drivers(): readonly SmmuV3Driver[] {
    return this.#drivers;
  }

  *init(): Op<void> {
    for (const driver of this.#drivers) yield* driver.init();
  }

  /** A device appeared: its stream aborts from now on. Throws XenError. */
  *addStream(stream: MappedId): Op<void> {
    yield* this.#of(stream).addStream(stream.id);
  }

  /** The stream is translated by the domain's tables, and every later change of them reaches its SMMU. */
  *attach(stream: MappedId, p2m: P2m): Op<void> {
    const driver = this.#of(stream);
    const flush = (): Op<void> => this.invalidateVmid(p2m.vmid);
    // A change that began before the tables knew of an SMMU is over when the lock is free.
    // biome-ignore lint/correctness/useYield: only the lock is waited for
    yield* withLock(p2m.lock, function* () {
      p2m.iommuFlush = flush;
    });
    try {
      yield* driver.attach(stream.id, p2m);
    } catch (error) {
      this.#forget(p2m);
      throw error;
    }
  }

  /** The stream aborts, and nothing translated for it is left. */
  *detach(stream: MappedId, p2m: P2m): Op<void> {
    yield* this.#of(stream).detach(stream.id);
    this.#forget(p2m);
  }

  /** Every SMMU forgets the VMID. */
  *invalidateVmid(vmid: number): Op<void> {
    for (const driver of this.#drivers) yield* driver.invalidateVmid(vmid);
  }

  /** Records of all SMMUs and the streams that are attached; `sbdfOf` names a function by SMMU and StreamID. */
  inspect(sbdfOf: (stream: MappedId) => string | undefined): unknown {
    return {
      events: this.#drivers.flatMap((d) =>
        d.events.map((e) => ({
          smmu: d.name,
          sequence: e.sequence,
          type: e.type,
          streamId: e.streamId,
          address: e.inputAddress,
          isWrite: !e.isRead,
          sbdf: sbdfOf({ phandle: d.phandle, id: e.streamId }) ?? null,
        })),
      ),
      streams: this.#drivers.flatMap((d) => d.streams.map((s) => ({ smmu: d.name, ...s }))),
    };
  }

  #forget(p2m: P2m): void {
    if (!this.#drivers.some((d) => d.usesVmid(p2m.vmid))) p2m.iommuFlush = undefined;
  }

  #of(stream: MappedId): SmmuV3Driver {
    const driver = this.#drivers.find((d) => d.phandle === stream.phandle);
    if (driver === undefined) throw new XenError('ENODEV', `no SMMU has phandle 0x${stream.phandle.toString(16)}`);
    return driver;
  }
}
