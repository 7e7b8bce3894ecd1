/**
 * Xen's own boot on the machine service of the bundled QEMU virt board, with dom0's part (bridges, BARs) done by hand
 * and guests that a test drives: their CPU accesses go through the machine, their upcalls are recorded.
 */
import { assert } from 'vitest';
import type { Envelope } from '#gen/bus.ts';
import { GUEST_RAM0_BASE, GUEST_VITS_BASE } from '#shared/abi/arch-arm.ts';
import { DMA_PROBE } from '#shared/arch/dma-probe.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSIX, PCI_MSIX_ENTRY, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import { type Body, body, domidOf, type Effect, type Payload, type Peer } from '#shared/core/core.ts';
import type { Op, Step } from '#shared/core/op.ts';
import { type Answer, Runtime, type Service } from '#shared/core/runtime.ts';
import { type BusAccess, ItsDriver } from '#shared/kernel/its-driver.ts';
import { createHardwareCore } from '../../../services/hardware/core.ts';
import { type Booted, boot } from '../../../services/xen/boot.ts';
import { Counts } from '../../../services/xen/counts.ts';
import type { Domain } from '../../../services/xen/domain/domain.ts';
import { Domains } from '../../../services/xen/domain/domains.ts';
import { El2 } from '../../../services/xen/el2.ts';
import { XenError } from '../../../services/xen/error.ts';
import type { HostGic } from '../../../services/xen/host-gic/gic.ts';
import { P2M } from '../../../services/xen/mm/p2m.ts';
import { dataAbort } from '../../../services/xen/trap/data-abort.ts';
import { sysregTrap } from '../../../services/xen/trap/sysreg.ts';

export const ECAM = 0x40_1000_0000;
const PORT = ECAM + (2 << 15);
const FUNCTION = ECAM + (1 << 20);
const BAR0 = 0x1000_0000;
const BAR3 = 0x1004_0000;
/** 0000:01:00.0: requester id, StreamID and DeviceID are the same on this board. */
export const DEVICE = 0x0100;
export const OTHER = 0x0200;
/** What the guest calls it: 0000:00:01.0. */
export const GUEST_SBDF = 0x08;

/** Of a guest: 1 MiB of RAM; tables and queues of its drivers stand from the middle on. */
const RAM_BYTES = 0x10_0000;
export const PROPERTY_TABLE = GUEST_RAM0_BASE + 0x8_0000;
export const GUEST_ITT = GUEST_RAM0_BASE + 0x7_0000;
const NO_DATA = new Uint8Array(0);

export const le = (value: number, sizeBytes = 4): Uint8Array =>
  Uint8Array.from({ length: sizeBytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);
export const number = (bytes: Uint8Array): number => bytes.reduceRight((n, byte) => n * 256 + byte, 0);

interface Mail {
  readonly from: Peer;
  readonly to: Peer;
  readonly envelope: Envelope;
}

class XenSide implements Service {
  gic: HostGic | undefined;
  readonly #rig: XenRig;

  constructor(rig: XenRig) {
    this.#rig = rig;
  }

  onRequest(from: Peer, message: Body): Answer {
    if (message.$case === 'interruptPending') {
      if (this.gic !== undefined && !this.#rig.deaf)
        this.#rig.runtime.spawn('irq', this.gic.onInterruptPending(message.value.pcpu));
      return undefined;
    }
    if (message.$case === 'trapRequest') return this.#trap(message.value);
    if (message.$case === 'sysregTrapRequest') return this.#sysreg(domidOf(from), message.value);
    throw new Error(`unexpected ${message.$case}`);
  }

  *#trap(trap: Payload<'trapRequest'>): Op<Body> {
    return body('trapReply', yield* dataAbort(this.#rig.domains.get(trap.port), trap, this.#rig.counts));
  }

  *#sysreg(domid: number, trap: Payload<'sysregTrapRequest'>): Op<Body> {
    return body('sysregTrapReply', yield* sysregTrap(this.#rig.domains.get(domid)!, trap, this.#rig.counts));
  }

  inspect(): unknown {
    return {};
  }
}

export class XenRig {
  now = 0;
  /** Xen does not hear of interrupts. */
  deaf = false;
  readonly counts = new Counts();
  readonly domains = new Domains();
  readonly el2 = new El2();
  readonly runtime = new Runtime({ idBase: 0 });
  readonly hardware: ReturnType<typeof createHardwareCore>;
  readonly xen: Booted;
  /** INTIDs that domains took, by domain id. */
  readonly taken = new Map<number, number[]>();
  readonly traces: { readonly event: string; readonly detail: unknown }[] = [];
  readonly #mail: Mail[] = [];
  readonly #replies = new Map<number, Envelope>();
  #nextId = 1;

  constructor(board: string | BoardDescription = 'examples/boards/qemu-virt.yaml') {
    this.hardware = createHardwareCore(typeof board === 'string' ? readBoard(board) : board, { idBase: 0 });
    const side = new XenSide(this);
    this.runtime.attach(side);
    this.#take('hardware', this.hardware.start(0));
    this.#take('xen', this.runtime.start(0));
    const parts = { runtime: this.runtime, el2: this.el2, counts: this.counts, domains: this.domains };
    this.xen = this.run(
      boot({ ...parts, dom0MemoryMib: 16 }, (gic) => {
        side.gic = gic;
      }),
    );
  }

  /** Runs an operation of Xen to its end; what it throws comes out. */
  run<T>(op: Op<T>): T {
    let result: { value: T } | { error: unknown } | undefined;
    this.runtime.spawn(
      'test',
      op,
      (value) => {
        result = { value };
      },
      (error) => {
        result = { error };
      },
    );
    this.settle();
    for (let i = 0; result === undefined && i < 200; i++) this.pass(10e6);
    if (result === undefined) throw new Error('the operation does not end');
    if ('error' in result) throw result.error;
    return result.value;
  }

  /** The errno that an operation ends in, or 0. */
  errno(op: () => Op<unknown>): number {
    try {
      this.run(op());
      return 0;
    } catch (error) {
      if (error instanceof XenError) return error.errno;
      throw error;
    }
  }

  /** Lets the clock run, and everything that it causes. */
  pass(ns: number): void {
    this.now += ns;
    this.#take('hardware', this.hardware.wake(this.now));
    this.#take('xen', this.runtime.wake(this.now));
    this.settle();
  }

  settle(): void {
    // Spawned operations of Xen leave their effects for its next call.
    this.#take('xen', this.runtime.wake(this.now));
    for (let mail = this.#mail.shift(); mail !== undefined; mail = this.#mail.shift()) this.#deliver(mail);
  }

  /** A guest with RAM at GUEST_RAM0_BASE, running; its device's BARs are mapped at their own addresses. */
  guest(domid: number): Domain {
    const { lifecycle, frames } = this.xen;
    const domain = this.run(
      lifecycle.create({
        domid,
        handle: new Uint8Array(16),
        vcpusMax: 2,
        eventPortsMax: 64,
        grantFramesMax: 4,
        maptrackFramesMax: 4,
        iommu: true,
        privileged: false,
        spis: 32,
      }),
    );
    const pa = frames.allocAligned(RAM_BYTES, RAM_BYTES);
    this.run(this.el2.fill(pa, RAM_BYTES, 0));
    this.run(domain.p2m.map(GUEST_RAM0_BASE / 4096, pa / 4096, RAM_BYTES / 4096, P2M.ram_rw));
    this.run(domain.p2m.map(BAR0 / 4096, BAR0 / 4096, 32, P2M.mmio_direct_dev));
    this.run(domain.p2m.map(BAR3 / 4096, BAR3 / 4096, 4, P2M.mmio_direct_dev));
    domain.vcpus[0]!.context = { pc: 0, x0: 0 };
    domain.pauseCount = 0;
    domain.wake();
    this.settle();
    return domain;
  }

  /** dom0's part: the segment is bound, bus 1 stands behind its root port, the BARs are placed, the devices reported. */
  enumerate(reported: readonly number[] = [DEVICE, OTHER]): void {
    const { hostBridges, pciDevices } = this.xen;
    hostBridges.bind(0, ECAM, hostBridges.all[0]!.cfgSize);
    const write = (pa: number, data: Uint8Array): void => this.run(this.el2.write(pa, data));
    write(PORT + PCI_BRIDGE.PRIMARY_BUS, le(0x01_0100));
    write(PORT + PCI_BRIDGE.MEMORY_BASE, le(0x1010_1000));
    // Closed: zero in both would be a window on the first MiB.
    write(PORT + PCI_BRIDGE.PREF_MEMORY_BASE, le(0x0000_fff0));
    write(PORT + PCI.COMMAND, le(PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER, 2));
    write(FUNCTION + PCI.BASE_ADDRESS_0, le(BAR0));
    write(FUNCTION + PCI.BASE_ADDRESS_0 + 12, le(BAR3));
    write(FUNCTION + PCI.COMMAND, le(PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER, 2));
    for (const sbdf of reported) this.run(pciDevices.add(sbdf));
  }

  /** One access of a guest's CPU. Throws when it faults. */
  cpu(domid: number, kind: 1 | 2, ipa: number, sizeBytes: number, data: Uint8Array = NO_DATA): Uint8Array {
    const id = this.#nextId++;
    const ops = [{ kind, ipa, sizeBytes: kind === 1 ? sizeBytes : 0, data }];
    const message = body('cpuAccessRequest', { vcpu: 0, ops });
    this.#mail.push({ from: `d${domid}`, to: 'hardware', envelope: envelope(id, 0, message) });
    this.settle();
    const reply = this.#replies.get(id)?.body;
    assert(reply?.$case === 'cpuAccessReply', 'the access was not answered');
    const [result] = reply.value.results;
    if (result!.fault !== 0) throw new Error(`fault ${result!.fault} at 0x${ipa.toString(16)}`);
    return result!.data;
  }

  store(domid: number, ipa: number, value: number, sizeBytes = 4): void {
    this.cpu(domid, 2, ipa, sizeBytes, le(value, sizeBytes));
  }

  load(domid: number, ipa: number, sizeBytes = 4): number {
    return number(this.cpu(domid, 1, ipa, sizeBytes));
  }

  /** A register of the dma-probe behind the device's BAR 0. */
  probe(domid: number, register: number, value: number): void {
    this.store(domid, BAR0 + register, value);
  }

  probeStatus(domid: number): number {
    return this.load(domid, BAR0 + DMA_PROBE.STATUS);
  }

  /** The guest lets vector 0 write `eventId` to its vITS's doorbell. */
  armMsix(domid: number, eventId: number): void {
    this.store(domid, BAR3 + PCI_MSIX_ENTRY.ADDRESS_LO, GUEST_VITS_BASE + 0x1_0040);
    this.store(domid, BAR3 + PCI_MSIX_ENTRY.ADDRESS_HI, 0);
    this.store(domid, BAR3 + PCI_MSIX_ENTRY.DATA, eventId);
    this.store(domid, BAR3 + PCI_MSIX_ENTRY.VECTOR_CTRL, 0);
    // pciback's part.
    this.run(this.el2.write(FUNCTION + 0xa0 + PCI_MSIX.FLAGS, le(PCI_MSIX_FLAGS.ENABLE, 2)));
  }

  /** The guest ends an interrupt. */
  eoi(domid: number, intid: number): void {
    const message = body('sysregTrapRequest', { vcpu: 0, name: 'ICC_EOIR1_EL1', value: intid });
    this.#mail.push({ from: `d${domid}`, to: 'xen', envelope: envelope(this.#nextId++, 0, message) });
    this.settle();
  }

  /** A configuration register of the device, as pciback writes it. */
  config(offset: number, value: number, sizeBytes = 2): void {
    this.run(this.el2.write(FUNCTION + offset, le(value, sizeBytes)));
  }

  /** SPIs of the machine's distributor. */
  spis(): Readonly<Record<'enabled' | 'pending' | 'active' | 'high', number[]>> {
    const tree = this.hardware.inspect() as { gic: { distributor: { spis: ReturnType<XenRig['spis']> } } };
    return tree.gic.distributor.spis;
  }

  /** A guest's ITS driver on its virtual ITS; `drive` runs what it returns. */
  guestIts(domid: number): ItsDriver {
    let free = GUEST_RAM0_BASE + 0x9_0000;
    return new ItsDriver({
      name: 'vits',
      base: GUEST_VITS_BASE,
      queueBytes: 0x4000,
      deviceIdBitsMax: 12,
      // biome-ignore lint/correctness/useYield: nothing to wait for
      *allocate(sizeBytes) {
        const at = free;
        free += Math.ceil(sizeBytes / 0x1_0000) * 0x1_0000;
        return at;
      },
      io: { run: (accesses) => this.#guestRun(domid, accesses) },
    });
  }

  /** Runs an operation of a guest's driver; sleeping lets the clock run. */
  drive<T>(op: Op<T>): T {
    for (let next = op.next(); ; next = op.next()) {
      if (next.done) return next.value;
      const step: Step = next.value;
      if (step.step === 'lock') assert(step.lock.acquire(() => undefined));
      else if (step.step === 'sleep') this.pass(step.ns);
      else throw new Error(`a guest's driver does ${step.step}`);
    }
  }

  /** INTIDs that the domain took since the last call. */
  takenBy(domid: number): number[] {
    this.settle();
    const taken = this.taken.get(domid) ?? [];
    this.taken.delete(domid);
    return taken;
  }

  *#guestRun(domid: number, accesses: readonly BusAccess[]): Op<readonly Uint8Array[]> {
    return accesses.map((a) => this.cpu(domid, a.kind === 'read' ? 1 : 2, a.address, a.sizeBytes, a.data));
  }

  #deliver({ from, to, envelope: e }: Mail): void {
    if (to === 'hardware') this.#take('hardware', this.hardware.receive(this.now, from, e));
    else if (to === 'xen') this.#take('xen', this.runtime.receive(this.now, from, e));
    else if (e.inReplyTo !== 0) this.#replies.set(e.inReplyTo, e);
    else if (e.body?.$case === 'upcallRequest') {
      const { what } = e.body.value;
      const domid = Number(to.slice(1));
      if (what?.$case === 'interrupts') this.taken.set(domid, [...(this.taken.get(domid) ?? []), ...what.value.intids]);
      this.#mail.push({ from: to, to: 'xen', envelope: envelope(this.#nextId++, e.id, body('upcallReply', {})) });
    }
  }

  #take(from: Peer, effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.do === 'send') this.#mail.push({ from, to: effect.to, envelope: effect.envelope });
      if (effect.do === 'trace') this.traces.push(effect);
    }
  }
}

function envelope(id: number, inReplyTo: number, message: Body): Envelope {
  return { id, inReplyTo, oldestPending: 0, refused: '', body: message };
}
