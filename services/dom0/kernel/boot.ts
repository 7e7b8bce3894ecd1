/**
 * dom0's kernel from its first instruction to a host whose PCI functions are known: device tree, shared info page, event
 * channels, the store, host bridges, enumeration. What is kept here is what the parts of dom0 share.
 * Xen gives dom0 an extended region in /hypervisor, an IPA range with nothing in it (Xen docs/misc/arm/device-tree,
 * "Xen hypervisor device tree bindings"): foreign pages, grants and the shared info page are mapped there.
 * Not modelled: secondary CPUs, memory ballooning, userspace; the toolstack runs in this process.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { assert } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import { parseFdt } from '#shared/fdt/blob.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import type { CpuBus } from '#shared/kernel/cpu-bus.ts';
import { EventChannels } from '#shared/kernel/event-channels.ts';
import type { Hypercalls } from '#shared/kernel/hypercalls.ts';
import type { XenstoreClient } from '#shared/kernel/xenstore-client.ts';
import { sharingOf } from './acs.ts';
import { EcamAccess } from './config-access.ts';
import { Drivers, pcieport } from './drivers.ts';
import { enumerate, reportFunctions } from './enumerate.ts';
import type { PciFunction } from './function.ts';
import { findHostBridges, type HostBridge, reportHostBridges } from './host-bridge.ts';
import { Sysfs } from './sysfs.ts';

/** Free pages of IPA space in the extended region. */
export class ExtendedRegion {
  readonly #first: number;
  readonly #pages: number;
  readonly #free: number[] = [];
  #next = 0;
  #used = 0;

  constructor(address: number, sizeBytes: number) {
    this.#first = Math.ceil(address / XEN_PAGE_SIZE);
    this.#pages = Math.floor((address + sizeBytes) / XEN_PAGE_SIZE) - this.#first;
  }

  /** A frame number with nothing mapped at it. Throws when the region is full. */
  take(): number {
    const gfn = this.#free.pop() ?? (this.#next < this.#pages ? this.#first + this.#next++ : undefined);
    if (gfn === undefined) throw new Error(`the extended region of ${this.#pages} pages is full`);
    this.#used++;
    return gfn;
  }

  give(gfn: number): void {
    this.#used--;
    this.#free.push(gfn);
  }

  get used(): number {
    return this.#used;
  }
}

/** What dom0 has to reach the world, before and after boot. */
export interface Machine {
  readonly runtime: Runtime;
  readonly cpu: CpuBus;
  readonly hypercalls: Hypercalls;
  readonly store: XenstoreClient;
}

export interface Kernel extends Machine {
  readonly tree: FdtNode;
  readonly events: EventChannels;
  readonly region: ExtendedRegion;
  readonly bridges: readonly HostBridge[];
  readonly access: EcamAccess;
  /** In ascending order. */
  readonly functions: ReadonlyMap<Sbdf, PciFunction>;
  readonly drivers: Drivers;
  readonly sysfs: Sysfs;
}

/** Boots with the device tree at `dtbIpa` (x0 of the boot protocol). `onEvents` gets the event channels as soon as upcalls may come. */
export function* bootKernel(machine: Machine, dtbIpa: number, onEvents: (events: EventChannels) => void): Op<Kernel> {
  const { cpu, hypercalls, store, runtime } = machine;
  const trace = (event: string, detail: unknown): void => runtime.trace(event, detail);
  const tree = yield* readDeviceTree(cpu, dtbIpa);
  const region = extendedRegion(tree);
  const sharedInfo = region.take();
  yield* hypercalls.add_to_physmap('shared_info', 0, sharedInfo);
  const events = new EventChannels(cpu, hypercalls, sharedInfo * XEN_PAGE_SIZE);
  onEvents(events);
  yield* store.resetWatches();
  const bridges = findHostBridges(tree);
  yield* reportHostBridges(hypercalls, bridges);
  const access = new EcamAccess(cpu, bridges);
  const functions = new Map<Sbdf, PciFunction>();
  const drivers = new Drivers();
  drivers.register(pcieport);
  for (const bridge of bridges) {
    const found = yield* enumerate(access, bridge, trace);
    yield* reportFunctions(hypercalls, found, trace);
    for (const f of found) functions.set(f.sbdf, f);
  }
  for (const f of functions.values()) {
    if (f.headerType === 1) yield* drivers.bind('pcieport', f.sbdf);
  }
  for (const f of functions.values()) {
    const sharing = f.headerType === 0 ? sharingOf(functions, f) : undefined;
    if (sharing === undefined) continue;
    const { missingAt, peers } = sharing;
    trace('dom0.pci.not_isolated', {
      sbdf: formatSbdf(f.sbdf),
      missingAt: formatSbdf(missingAt),
      peers: peers.map(formatSbdf),
    });
  }
  trace('dom0.enumerated', { functions: [...functions.keys()].map(formatSbdf) });
  const sysfs = new Sysfs(functions, drivers);
  return { ...machine, tree, events, region, bridges, access, functions, drivers, sysfs };
}

function* readDeviceTree(cpu: CpuBus, ipa: number): Op<FdtNode> {
  const header = yield* cpu.read(ipa, 8);
  const totalBytes = new DataView(header.buffer, header.byteOffset, 8).getUint32(4);
  return parseFdt(yield* cpu.read(ipa, totalBytes));
}

function extendedRegion(tree: FdtNode): ExtendedRegion {
  const hypervisor = tree.compatibleNodes('xen,xen')[0];
  const region = hypervisor?.regions()[1];
  assert(region !== undefined, 'the device tree of dom0 has no extended region in /hypervisor');
  return new ExtendedRegion(region.address, region.sizeBytes);
}
