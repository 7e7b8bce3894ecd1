/**
 * All SMMUs of the machine, of both kinds: which one serves a stream, and what has to happen in every one of them.
 * Tables have one VMID in the whole machine and no other tables have it, so SMMUs that share a TLB do no harm.
 */
import { type Op, withLock } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { handleOf } from '#shared/fdt/pci-host.ts';
import type { Counts } from '../counts.ts';
import type { El2 } from '../el2.ts';
import { XenError } from '../error.ts';
import type { HostGic } from '../host-gic/gic.ts';
import type { Frames } from '../mm/frames.ts';
import type { P2m } from '../mm/p2m.ts';
import type { MappedId } from './host-bridge.ts';
import { type SmmuDriver, SmmuError, type Stage2Tables } from './smmu.ts';
import { SmmuV2Driver } from './smmu-v2.ts';
import { SmmuV3Driver } from './smmu-v3.ts';

const SPI_FIRST = 32;
/** Trigger cell of a GIC interrupt specifier: rising edge. */
const EDGE_RISING = 1;
/** Xen's list, and the name that a ThunderX gives its own. */
const SMMU_V2 = ['arm,smmu-v1', 'arm,smmu-v2', 'arm,mmu-400', 'arm,mmu-401', 'arm,mmu-500', 'cavium,smmu-v2'];

export interface SmmusParts {
  readonly el2: El2;
  readonly frames: Frames;
  readonly counts: Counts;
  readonly runtime: Pick<Runtime, 'trace'>;
  /** Input bits of every domain's stage 2. */
  readonly ipaBits: number;
}

export class Smmus {
  readonly #drivers: readonly SmmuDriver[];
  #sequence = 0;

  /** A driver for each enabled node of the tree that is an SMMU. Throws SmmuError for one without the interrupts it needs. */
  constructor(parts: SmmusParts, tree: FdtNode, gic: Pick<HostGic, 'onSpi'>) {
    const common = {
      ...parts,
      onSpi: (intid: number, isEdge: boolean, handler: () => Op<void>) => gic.onSpi(intid, isEdge, handler),
      nextSequence: () => ++this.#sequence,
    };
    const v3 = tree.compatibleNodes('arm,smmu-v3').map((node) => {
      const eventq = node.interrupts()[node.strings('interrupt-names').indexOf('eventq')];
      if (eventq === undefined) throw new SmmuError(`${node.path} has no interrupt named eventq`);
      return new SmmuV3Driver({
        ...common,
        ...identityOf(node),
        eventqIntid: eventq[1]! + SPI_FIRST,
        eventqIsEdge: eventq[2] === EDGE_RISING,
      });
    });
    const v2 = tree.compatibleNodes(...SMMU_V2).map((node) => {
      const interrupts = node.interrupts().map((cells) => ({
        intid: cells[1]! + SPI_FIRST,
        isEdge: cells[2] === EDGE_RISING,
      }));
      const globals = node.u32('#global-interrupts') ?? 1;
      const intids = interrupts.map((i) => i.intid);
      return new SmmuV2Driver({
        ...common,
        ...identityOf(node),
        globalIntids: intids.slice(0, globals),
        contextIntids: intids.slice(globals),
        isEdge: (intid) => interrupts.some((i) => i.intid === intid && i.isEdge),
      });
    });
    this.#drivers = [...v3, ...v2];
  }

  get drivers(): readonly SmmuDriver[] {
    return this.#drivers;
  }

  *init(): Op<void> {
    for (const driver of this.#drivers) yield* driver.init();
  }

  /** A device appeared: its stream aborts from now on. Throws XenError. */
  *addStream(stream: MappedId): Op<void> {
    yield* this.#of(stream).addStream(stream.id);
  }

  /**
   * The stream is translated by `tables`, the domain's own or a view of them, and every later change of the domain's
   * map reaches its SMMU. Throws as SmmuDriver.attach.
   */
  *attach(stream: MappedId, p2m: P2m, tables: Stage2Tables): Op<void> {
    const driver = this.#of(stream);
    const flush = (vmids: readonly number[]): Op<void> => this.#invalidate(vmids);
    // A change that began before the tables knew of an SMMU is over when the lock is free.
    // biome-ignore lint/correctness/useYield: only the lock is waited for
    yield* withLock(p2m.lock, function* () {
      p2m.iommuFlush = flush;
    });
    try {
      yield* driver.attach(stream.id, tables);
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

  /** Every SMMU forgets the VMIDs. */
  *#invalidate(vmids: readonly number[]): Op<void> {
    for (const driver of this.#drivers) for (const vmid of vmids) yield* driver.invalidateVmid(vmid);
  }

  /** Records of all SMMUs and the streams that are attached; `sbdfOf` names a function by SMMU and StreamID. */
  inspect(sbdfOf: (stream: MappedId) => string | undefined): unknown {
    return {
      events: this.#drivers
        .flatMap((d) =>
          d.events.map((e) => ({
            smmu: d.name,
            sequence: e.sequence,
            type: e.type,
            streamId: e.streamId,
            address: e.inputAddress,
            isWrite: !e.isRead,
            sbdf: sbdfOf({ phandle: d.phandle, id: e.streamId }) ?? null,
          })),
        )
        .sort((a, b) => a.sequence - b.sequence),
      streams: this.#drivers.flatMap((d) => d.streams.map((s) => ({ smmu: d.name, ...s }))),
    };
  }

  #forget(p2m: P2m): void {
    if (!this.#drivers.some((d) => p2m.vmids.some((vmid) => d.usesVmid(vmid)))) p2m.iommuFlush = undefined;
  }

  #of(stream: MappedId): SmmuDriver {
    const driver = this.#drivers.find((d) => d.phandle === stream.phandle);
    if (driver === undefined) throw new XenError('ENODEV', `no SMMU has phandle 0x${stream.phandle.toString(16)}`);
    return driver;
  }
}

function identityOf(node: FdtNode): { readonly name: string; readonly phandle: number; readonly basePa: number } {
  const registers = node.regions()[0];
  if (registers === undefined) throw new SmmuError(`${node.path} has no registers`);
  return { name: node.name, phandle: handleOf(node), basePa: registers.address };
}
