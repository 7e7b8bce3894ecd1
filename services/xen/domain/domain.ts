/**
 * The state of one domain (struct domain). It is changed by the hypercall handlers; domain/lifecycle.ts makes and
 * destroys it.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { DOMID_IO } from '#shared/abi/hypercall.ts';
import type { SHUTDOWN } from '#shared/abi/sched.ts';
import { type Peer, peerOf } from '#shared/core/core.ts';
import { type Op, Refused, Signal, wait, withLock } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { Counts } from '../counts.ts';
import { type El2, physRead, physWrite } from '../el2.ts';
import { XenError } from '../error.ts';
import type { EventChannels } from '../evtchn/event-channel.ts';
import type { GrantTable } from '../grant/grant-table.ts';
import { addressOf } from '../mm/frames.ts';
import { isRam, isWritable, P2M, type P2m } from '../mm/p2m.ts';
import type { PciDevice } from '../passthrough/pci-device.ts';
import type { VGic } from '../vgic/vgic.ts';
import { RangeSet } from './range-set.ts';
import { Vcpu } from './vcpu.ts';

export type ShutdownCode = (typeof SHUTDOWN)[keyof typeof SHUTDOWN];

export interface DomainConfig {
  readonly domid: number;
  readonly handle: Uint8Array;
  readonly vcpusMax: number;
  readonly eventPortsMax: number;
  readonly grantFramesMax: number;
  readonly maptrackFramesMax: number;
  /** XEN_DOMCTL_CDF_iommu: devices may be assigned. */
  readonly iommu: boolean;
  readonly privileged: boolean;
  /** SPIs of its virtual GIC, from INTID 32 on. */
  readonly spis: number;
}

export interface DomainParts {
  readonly runtime: Runtime;
  readonly el2: El2;
  readonly counts: Counts;
  readonly p2m: P2m;
}

/** Who holds devices that are quarantined: DOMID_IO. It has no memory, so its devices reach none. */
export class DomIo {
  readonly domid = DOMID_IO;
  readonly pdevs: PciDevice[] = [];
}

export class Domain {
  readonly domid: number;
  readonly peer: Peer;
  readonly config: DomainConfig;
  readonly p2m: P2m;
  /** Machine frames that the domain may have mapped. */
  readonly iomem = new RangeSet();
  /** Physical interrupts that the domain may use. */
  readonly irqs = new RangeSet();
  readonly pdevs: PciDevice[] = [];
  readonly vcpus: readonly Vcpu[];
  readonly hvmParams = new Map<number, number>();
  /** Undefined for dom0, which programs no interrupt controller: it gets event channels only. */
  vgic: VGic | undefined;
  evtchn!: EventChannels;
  grants!: GrantTable;
  /** Machine frame of the shared info page. */
  sharedInfoMfn = 0;
  /** Pages of Xen that the domain mapped (shared info, grant frames): machine frame to GFN. */
  readonly xenPages = new Map<number, number>();
  /** Machine frames that were allocated to the domain and not given back. */
  readonly pages = new RangeSet();
  totPages = 0;
  maxPages = 0;
  pauseCount = 0;
  /** SHUTDOWN_* once it stopped. */
  shutdownCode: ShutdownCode | undefined;
  /** destroydomain has begun: nothing new may be attached to it. */
  dying = false;
  /** Fires when it goes on after a pause, and when it dies. */
  readonly resumed = new Signal<void>();
  /** Of dom0: puts its memory into the state that its kernel boots from. */
  onRestart: (() => Op<void>) | undefined;
  readonly watchdogs: ((() => void) | undefined)[] = [undefined, undefined];
  readonly #el2: El2;

  constructor(config: DomainConfig, parts: DomainParts) {
    this.domid = config.domid;
    this.peer = peerOf(config.domid);
    this.config = config;
    this.p2m = parts.p2m;
    this.#el2 = parts.el2;
    this.vcpus = Array.from(
      { length: config.vcpusMax },
      (_, id) =>
        new Vcpu(id, {
          runtime: parts.runtime,
          counts: parts.counts,
          peer: this.peer,
          runnable: () => this.runnable,
          taken: (intids) => this.vgic?.taken(intids),
        }),
    );
  }

  get vmid(): number {
    return this.p2m.vmid;
  }

  get privileged(): boolean {
    return this.config.privileged;
  }

  get runnable(): boolean {
    return this.pauseCount === 0 && this.shutdownCode === undefined && !this.dying;
  }

  /** Waits until it runs: a virtual CPU that is paused executes nothing. Throws Refused when it has stopped. */
  *running(): Op<void> {
    while (!this.runnable) {
      if (this.dying || this.shutdownCode !== undefined) throw new Refused(`d${this.domid} does not run`);
      yield* wait(this.resumed, Infinity);
    }
  }

  /** The domain's PPI `intid` becomes pending on vCPU 0, through its vGIC when it has one. */
  inject(intid: number): void {
    if (this.vgic === undefined) this.vcpus[0]!.deliver(intid);
    else this.vgic.inject(intid);
  }

  /** The domain may run (again): vCPU 0 starts if it never did, and gets what is pending. */
  wake(): void {
    if (!this.runnable) return;
    this.vcpus[0]!.kick();
    this.resumed.fire();
  }

  /** Reads guest memory, as copy_from_guest does. Throws XenError EFAULT where no memory is mapped. */
  *readGuest(ipa: number, sizeBytes: number): Op<Uint8Array> {
    const out = new Uint8Array(sizeBytes);
    yield* withLock(this.p2m.lock, () => this.#readLocked(ipa, out));
    return out;
  }

  /** Writes guest memory. Throws XenError EFAULT where no writable memory is mapped; nothing is written then. */
  *writeGuest(ipa: number, data: Uint8Array): Op<void> {
    yield* withLock(this.p2m.lock, () => this.#writeLocked(ipa, data));
  }

  *#readLocked(ipa: number, out: Uint8Array): Op<void> {
    const pieces = this.#pieces(ipa, out.length, false);
    const results = yield* this.#el2.batch(pieces.map((p) => physRead(p.pa, p.sizeBytes)));
    let at = 0;
    for (const { data } of results) {
      out.set(data, at);
      at += data.length;
    }
  }

  *#writeLocked(ipa: number, data: Uint8Array): Op<void> {
    let at = 0;
    const ops = this.#pieces(ipa, data.length, true).map((p) => {
      const op = physWrite(p.pa, data.subarray(at, at + p.sizeBytes));
      at += p.sizeBytes;
      return op;
    });
    yield* this.#el2.batch(ops);
  }

  /** Runs of machine memory behind a stretch of guest memory. */
  #pieces(ipa: number, sizeBytes: number, writing: boolean): { pa: number; sizeBytes: number }[] {
    const pieces: { pa: number; sizeBytes: number }[] = [];
    for (let at = 0; at < sizeBytes; ) {
      const gfn = Math.floor((ipa + at) / XEN_PAGE_SIZE);
      const entry = this.p2m.lookup(gfn);
      if (entry === undefined || !isMemory(entry.type) || (writing && !isWritable(entry.type))) {
        throw new XenError('EFAULT', `d${this.domid} has no memory at 0x${(ipa + at).toString(16)}`);
      }
      const offset = (ipa + at) % XEN_PAGE_SIZE;
      const length = Math.min(sizeBytes - at, entry.run * XEN_PAGE_SIZE - offset);
      pieces.push({ pa: addressOf(entry.mfn) + offset, sizeBytes: length });
      at += length;
    }
    return pieces;
  }
}

function isMemory(type: number): boolean {
  return isRam(type) || (type >= P2M.map_foreign_rw && type <= P2M.grant_map_ro);
}
