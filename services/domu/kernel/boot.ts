/**
 * Boot of a guest kernel (xen/include/public/arch-arm.h, "AArch64 boot protocol": x0 is the device tree's IPA;
 * Linux arch/arm64/xen, drivers/xen/events, drivers/pci/xen-pcifront.c): reads its device tree, brings its parts up
 * in order, then waits for devices that xenstore announces (T11).
 * Not modelled: a kernel image, timers, a console.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { type Op, Refused } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import { parseFdt } from '#shared/fdt/blob.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import { EventChannels } from '#shared/kernel/event-channels.ts';
import { GrantTable } from '#shared/kernel/grants.ts';
import { Hypercalls } from '#shared/kernel/hypercalls.ts';
import type { ItsDriver } from '#shared/kernel/its-driver.ts';
import { XenstoreClient } from '#shared/kernel/xenstore-client.ts';
import type { XenstoreRing } from '#shared/kernel/xenstore-ring.ts';
import { dmaProbeDriver } from '../drivers/dma-probe.ts';
import { nicDriver } from '../drivers/nic.ts';
import { nvmeDriver } from '../drivers/nvme.ts';
import { IrqDomain } from '../its/irq-domain.ts';
import { PciFrontend } from '../pcifront/frontend.ts';
import { GuestBus } from '../pcifront/hotplug.ts';
import { PciifRequests } from '../pcifront/requests.ts';
import { type GicRegions, GuestGic } from './gic.ts';
import { Interrupts } from './interrupts.ts';
import { startIts } from './its.ts';
import { Pages, type RamRange } from './pages.ts';
import { SharedLines } from './shared-lines.ts';
import { asksForStoreRing, startStoreRing } from './store-ring.ts';
import { keepWatchdog, startWatchdog } from './watchdog.ts';

/** Before the device tree is read: what every kernel has. */
export interface KernelBase {
  readonly runtime: Runtime;
  readonly cpu: CpuBus;
  readonly hypercalls: Hypercalls;
  readonly store: XenstoreClient;
  readonly interrupts: Interrupts;
}

/** A kernel that is up. */
export interface Kernel extends KernelBase {
  readonly pages: Pages;
  readonly gic: GuestGic;
  readonly its: ItsDriver;
  readonly irqDomain: IrqDomain;
  readonly lines: SharedLines;
  readonly events: EventChannels;
  readonly grants: GrantTable;
  readonly requests: PciifRequests;
  readonly bus: GuestBus;
  readonly frontend: PciFrontend;
  /** The way to the store, when it is not the bus. */
  readonly storeRing: XenstoreRing | undefined;
}

/** The device tree does not describe a machine that this kernel runs on. */
export class BootError extends Error {
  override name = 'BootError';
}

const GRANT_FRAMES = 1;
const FDT_HEADER_BYTES = 8;
/** Linux refuses a device tree above 2 MiB. */
const FDT_BYTES_MAX = 2 * 1024 * 1024;

/** What the device tree says of the machine. */
interface MachineDescription {
  readonly banks: readonly RamRange[];
  readonly gic: GicRegions;
  readonly itsBase: number;
  readonly grantRegion: RamRange;
  /** INTID of the event channel upcall. */
  readonly upcallIntid: number;
  readonly commandLine: string;
}

export function kernelBase(runtime: Runtime): KernelBase {
  return {
    runtime,
    cpu: new CpuBus(0),
    hypercalls: new Hypercalls(),
    store: new XenstoreClient(runtime),
    interrupts: new Interrupts(
      (op) => runtime.spawn('interrupts', op),
      (intid, error) => runtime.trace('interrupt-handler-failed', { intid, error: `${error}` }),
    ),
  };
}

/** Boots with the device tree at `dtbIpa`. Throws when a part does not come up; the caller panics. */
export function* boot(base: KernelBase, dtbIpa: number): Op<Kernel> {
  const { runtime, cpu, hypercalls, store, interrupts } = base;
  const trace = (event: string, detail: unknown): void => runtime.trace(event, detail);
  const { tree, sizeBytes } = yield* readDeviceTree(cpu, dtbIpa);
  const machine = describe(tree);
  const pages = new Pages(cpu, machine.banks);
  pages.reserve({ base: dtbIpa, sizeBytes });

  // The shared info page takes the last frame of the grant region: an address that holds no RAM.
  const { grantRegion } = machine;
  const sharedInfo = grantRegion.base + grantRegion.sizeBytes - XEN_PAGE_SIZE;
  yield* hypercalls.add_to_physmap('shared_info', 0, sharedInfo / XEN_PAGE_SIZE);
  const grants = new GrantTable(cpu, hypercalls, grantRegion.base, GRANT_FRAMES);
  yield* grants.init();

  const events = new EventChannels(cpu, hypercalls, sharedInfo);
  interrupts.request(machine.upcallIntid, () => events.onUpcall());
  const gic = new GuestGic(cpu, pages, machine.gic);
  yield* gic.start([machine.upcallIntid]);
  const its = yield* startIts(cpu, pages, gic, machine.itsBase);
  const irqDomain = new IrqDomain(its, gic, pages, interrupts);
  const lines = new SharedLines(gic, interrupts, trace);

  const watchdog = yield* startWatchdog(hypercalls);
  const late = (error: unknown): void => trace('watchdog-late', { error: `${error}` });
  runtime.spawn('watchdog', keepWatchdog(hypercalls, watchdog, late));

  const requests = new PciifRequests(cpu, events, runtime, (text) => trace('pcifront', { text }));
  const bus = new GuestBus(
    { config: requests, cpu, irqDomain, lines, pages, trace },
    [dmaProbeDriver, nicDriver, nvmeDriver],
    !hasNoMsi(machine.commandLine),
  );
  const storeRing = asksForStoreRing(machine.commandLine) ? yield* startStoreRing(base, events) : undefined;
  const frontend = new PciFrontend({ store, pages, grants, events, requests, bus, trace });
  yield* store.resetWatches();
  yield* store.watch('device', 'xenbus:device', () => frontend.note());
  runtime.spawn('pcifront', frontend.run());
  trace('booted', { ram: machine.banks, its: machine.itsBase });
  return { ...base, pages, gic, its, irqDomain, lines, events, grants, requests, bus, frontend, storeRing };
}

function* readDeviceTree(cpu: CpuBus, ipa: number): Op<{ tree: FdtNode; sizeBytes: number }> {
  const header = yield* cpu.read(ipa, FDT_HEADER_BYTES);
  const sizeBytes = new DataView(header.buffer, header.byteOffset).getUint32(4);
  if (sizeBytes > FDT_BYTES_MAX) throw new BootError(`no device tree at IPA 0x${ipa.toString(16)}`);
  return { tree: parseFdt(yield* cpu.read(ipa, Math.max(sizeBytes, FDT_HEADER_BYTES))), sizeBytes };
}

function describe(tree: FdtNode): MachineDescription {
  const banks = [...tree.walk()]
    .filter((n) => n.string('device_type') === 'memory')
    .flatMap((n) => n.regions())
    .map((r) => ({ base: r.address, sizeBytes: r.sizeBytes }));
  if (banks.length === 0) throw new BootError('device tree: no memory node');
  const gic = tree.compatibleNodes('arm,gic-v3')[0];
  const [gicd, gicr] = gic?.regions() ?? [];
  if (gicd === undefined || gicr === undefined) throw new BootError('device tree: no arm,gic-v3 with two regions');
  const its = tree.compatibleNodes('arm,gic-v3-its')[0]?.regions()[0];
  if (its === undefined) throw new BootError('device tree: no arm,gic-v3-its');
  const xen = tree.compatibleNodes('xen,xen')[0];
  const grant = xen?.regions()[0];
  if (xen === undefined || grant === undefined) throw new BootError('device tree: no xen,xen with a grant region');
  const [type, number] = xen.interrupts()[0] ?? [];
  if (type !== 1 || number === undefined) throw new BootError('device tree: the event channel interrupt is no PPI');
  return {
    banks,
    gic: {
      distributor: gicd.address,
      redistributors: { base: gicr.address, sizeBytes: gicr.sizeBytes },
    },
    itsBase: its.address,
    grantRegion: { base: grant.address, sizeBytes: grant.sizeBytes },
    upcallIntid: 16 + number,
    commandLine: tree.child('chosen')?.string('bootargs') ?? '',
  };
}

/** Linux's `pci=nomsi`: drivers get INTx, whatever their functions can. */
function hasNoMsi(commandLine: string): boolean {
  return commandLine.split(/\s+/).some((word) => word.startsWith('pci=') && word.slice(4).split(',').includes('nomsi'));
}

/** The first use of a kernel that is not up yet. */
export function requireBooted(kernel: Kernel | undefined): Kernel {
  if (kernel === undefined) throw new Refused('the guest has not booted yet');
  return kernel;
}
