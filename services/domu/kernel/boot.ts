/**
 * Boot of a guest kernel (xen/include/public/arch-arm.h, "AArch64 boot protocol": x0 is the device tree's IPA;
 * Linux arch/arm64/xen, drivers/xen/events, drivers/pci/xen-pcifront.c): reads its device tree, brings its parts up
 * in order, then waits for devices that xenstore announces (T11).
 * Not modelled: a kernel image, timers, a console.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { GICV2_COMPATIBLE } from '#shared/arch/gic/v2.ts';
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
import { type GicV2Regions, GuestGicV2 } from './gic-v2.ts';
import { Interrupts } from './interrupts.ts';
import { startIts } from './its.ts';
import { Pages, type RamRange } from './pages.ts';
import { type LineChip, SharedLines } from './shared-lines.ts';
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
  readonly gic: InterruptController;
  /** Both undefined on a machine that takes no messages. */
  readonly its: ItsDriver | undefined;
  readonly irqDomain: IrqDomain | undefined;
  readonly lines: SharedLines;
  readonly events: EventChannels;
  readonly grants: GrantTable;
  readonly requests: PciifRequests;
  readonly bus: GuestBus;
  readonly frontend: PciFrontend;
  /** The way to the store, when it is not the bus. */
  readonly storeRing: XenstoreRing | undefined;
}

/** What the kernel asks of the driver of its interrupt controller, whichever it is. */
export interface InterruptController extends LineChip {
  /** Brings all up with the PPIs in `ppis` (INTIDs) enabled. Throws GicError. */
  start(ppis: readonly number[]): Op<void>;
}

/** The device tree does not describe a machine that this kernel runs on. */
export class BootError extends Error {
  override name = 'BootError';
}

const GRANT_FRAMES = 1;
const FDT_HEADER_BYTES = 8;
/** Linux refuses a device tree above 2 MiB. */
const FDT_BYTES_MAX = 2 * 1024 * 1024;

/** A GICv3 with its ITS, or a GICv2, which takes no messages. */
type GicDescription =
  | { readonly version: 3; readonly regions: GicRegions; readonly itsBase: number }
  | { readonly version: 2; readonly regions: GicV2Regions };

/** What the device tree says of the machine. */
interface MachineDescription {
  readonly banks: readonly RamRange[];
  readonly gic: GicDescription;
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
  const { gic, its, irqDomain } = yield* startInterrupts(machine, cpu, pages, interrupts);
  const lines = new SharedLines(gic, interrupts, trace);

  const watchdog = yield* startWatchdog(hypercalls);
  const late = (error: unknown): void => trace('watchdog-late', { error: `${error}` });
  runtime.spawn('watchdog', keepWatchdog(hypercalls, watchdog, late));

  const requests = new PciifRequests(cpu, events, runtime, (text) => trace('pcifront', { text }));
  const bus = new GuestBus(
    { config: requests, cpu, irqDomain, lines, pages, trace },
    [dmaProbeDriver, nicDriver, nvmeDriver],
    irqDomain !== undefined && !hasNoMsi(machine.commandLine),
  );
  const storeRing = asksForStoreRing(machine.commandLine) ? yield* startStoreRing(base, events) : undefined;
  const frontend = new PciFrontend({ store, pages, grants, events, requests, bus, trace });
  yield* store.resetWatches();
  yield* store.watch('device', 'xenbus:device', () => frontend.note());
  runtime.spawn('pcifront', frontend.run());
  trace('booted', { ram: machine.banks, gic: machine.gic });
  return { ...base, pages, gic, its, irqDomain, lines, events, grants, requests, bus, frontend, storeRing };
}

function* startInterrupts(
  { gic: described, upcallIntid }: MachineDescription,
  cpu: CpuBus,
  pages: Pages,
  interrupts: Interrupts,
): Op<Pick<Kernel, 'gic' | 'its' | 'irqDomain'>> {
  if (described.version === 2) {
    const gic = new GuestGicV2(cpu, described.regions);
    yield* gic.start([upcallIntid]);
    return { gic, its: undefined, irqDomain: undefined };
  }
  const gic = new GuestGic(cpu, pages, described.regions);
  yield* gic.start([upcallIntid]);
  const its = yield* startIts(cpu, pages, gic, described.itsBase);
  return { gic, its, irqDomain: new IrqDomain(its, gic, pages, interrupts) };
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
  const xen = tree.compatibleNodes('xen,xen')[0];
  const grant = xen?.regions()[0];
  if (xen === undefined || grant === undefined) throw new BootError('device tree: no xen,xen with a grant region');
  const [type, number] = xen.interrupts()[0] ?? [];
  if (type !== 1 || number === undefined) throw new BootError('device tree: the event channel interrupt is no PPI');
  return {
    banks,
    gic: describeGic(tree),
    grantRegion: { base: grant.address, sizeBytes: grant.sizeBytes },
    upcallIntid: 16 + number,
    commandLine: tree.child('chosen')?.string('bootargs') ?? '',
  };
}

function describeGic(tree: FdtNode): GicDescription {
  const [node] = tree.compatibleNodes('arm,gic-v3', ...GICV2_COMPATIBLE);
  const [gicd, second] = node?.regions() ?? [];
  if (node === undefined || gicd === undefined || second === undefined)
    throw new BootError('device tree: neither arm,gic-v3 nor arm,gic-400 with two regions');
  const distributor = gicd.address;
  if (!node.isCompatible('arm,gic-v3')) return { version: 2, regions: { distributor, cpuInterface: second.address } };
  const its = tree.compatibleNodes('arm,gic-v3-its')[0]?.regions()[0];
  if (its === undefined) throw new BootError('device tree: no arm,gic-v3-its');
  const redistributors = { base: second.address, sizeBytes: second.sizeBytes };
  return { version: 3, regions: { distributor, redistributors }, itsBase: its.address };
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
