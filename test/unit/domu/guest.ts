/**
 * A whole guest for tests: the domu core over a real xenstored, with the machine, Xen, the toolstack and pciback as
 * scripts. The scripts keep the rules of the other side and nothing more.
 */
import { grant_entry_v1 } from '#shared/abi/grant-table.ts';
import { XEN_PCI_ERR, XEN_PCI_OP, XEN_PCI_SHAREDINFO, XEN_PCIF_active, xen_pci_op_head } from '#shared/abi/pciif.ts';
import { bytesOf, packPacket, packStrings, parsePacket, textOf, XS, type XsType } from '#shared/abi/xs-wire.ts';
import {
  DMA_PROBE,
  DMA_PROBE_CHECKSUM_START,
  DMA_PROBE_MAGIC,
  DMA_PROBE_OP,
  DMA_PROBE_STATUS,
  dmaProbeChecksum,
  dmaProbeWord,
} from '#shared/arch/dma-probe.ts';
import {
  decodeGitsCbaser,
  encodeGitsTyper,
  GITS_BASER,
  GITS_CBASER,
  GITS_CREADR,
  GITS_CTLR,
  GITS_CWRITER,
} from '#shared/arch/gic/its.ts';
import { decodeItsCommand, itsCommandWords } from '#shared/arch/gic/its-commands.ts';
import { decodeGicrPropbaser, GICR_PROPBASER } from '#shared/arch/gic/redistributor.ts';
import { body, type Payload } from '#shared/core/core.ts';
import { buildFdt } from '#shared/fdt/blob.ts';
import { FdtNode } from '#shared/fdt/node.ts';
import { sbdf } from '#shared/ids/sbdf.ts';
import { createDomuCore } from '../../../services/domu/core.ts';
import { createXenstoredCore } from '../../../services/xenstored/core.ts';
import { GuestMachine, MiniWorld, type Registers, storage } from './machine.ts';

export const RAM_BASE = 0x4000_0000;
export const RAM_BYTES = 64 * 1024 * 1024;
const DTB_IPA = RAM_BASE + 0x80_0000;
const GICD = 0x0300_1000;
const GICR = 0x0302_0000;
const VITS = 0x0402_0000;
export const DOORBELL = VITS + 0x1_0040;
const GRANT_REGION = 0x3800_0000;
const FE = '/local/domain/1/device/pci/0';
const BE = '/local/domain/0/backend/pci/1/0';
export const PROBE_VECTORS = 4;

export class GuestBench {
  readonly machine = new GuestMachine();
  readonly world = new MiniWorld();
  readonly its = new FakeVits(this.machine);
  readonly functions = new Map<number, FakeFunction>();
  /** The backend takes requests and says nothing. */
  mute = false;
  /** The backend answers what it was not asked. */
  late = false;
  #port = -1;
  #pageIpa = -1;
  #devices = 0;

  constructor() {
    const { machine, world } = this;
    machine.registers.push(
      storage(GICD, 0x1_0000, { 4: 0x1 | (1 << 17) | (15 << 19), 65512: 0x30 }),
      storage(GICR, 0x2_0000, { 8: 0x11, 12: 0, 20: 0 }),
      this.its,
    );
    machine.write(DTB_IPA, buildFdt(deviceTree()));
    machine.onUpcall = () => this.interrupt(31);
    machine.onSend = (port) => this.#pciback(port);
    world.addScript('hardware', (_from, message) => machine.answer(message));
    world.addScript('xen', (_from, message) => machine.answer(message));
    world.addScript('d0', () => undefined);
    world.addCore('xenstored', createXenstoredCore({ idBase: 0 }));
    world.addCore('d1', createDomuCore({ idBase: 0, domid: 1 }));
    this.xs(XS.INTRODUCE, packStrings('1', '1', '1'));
    for (const [path, perms] of [
      ['/local/domain/1', 'n0,r1'],
      ['/local/domain/1/device', 'n1'],
      ['/local/domain/1/error', 'n1'],
    ] as const) {
      this.xs(XS.MKDIR, packStrings(path));
      this.xs(XS.SET_PERMS, packStrings(path, ...perms.split(',')));
    }
  }

  boot(): this {
    this.world.send(
      'xen',
      'd1',
      body('upcallRequest', { vcpu: 0, what: { $case: 'vcpuStart', value: { x0: DTB_IPA } } }),
    );
    this.world.runUntil(() => this.inspect().state !== 'booting' && this.inspect().state !== 'off');
    return this;
  }

  interrupt(...intids: number[]): void {
    this.world.send('xen', 'd1', body('upcallRequest', { vcpu: 0, what: { $case: 'interrupts', value: { intids } } }));
  }

  // biome-ignore lint/suspicious/noExplicitAny: a tree of JSON, whose shape the tests assert
  inspect(): any {
    const { json } = this.world.ask('operator', 'd1', body('inspectRequest', { path: '' }), 'inspectReply');
    return JSON.parse(json);
  }

  /** Runs a guest command; throws its error. */
  // biome-ignore lint/suspicious/noExplicitAny: as above
  command(command: string, args: Record<string, unknown> = {}): any {
    const request = body('guestCommandRequest', { command, args: JSON.stringify(args) });
    const { error, result } = this.world.ask('operator', 'd1', request, 'guestCommandReply');
    if (error !== '') throw new Error(error);
    return JSON.parse(result);
  }

  lspci(): Payload<'lspciReply'> {
    return this.world.ask('operator', 'd1', body('lspciRequest', {}), 'lspciReply');
  }

  // The toolstack's and the backend's nodes, written as dom0.

  xs(type: XsType, payload: Uint8Array): string {
    const request = body('xenstoreRequest', { packet: packPacket(type, 1, 0, payload) });
    return textOf(parsePacket(this.world.ask('d0', 'xenstored', request, 'xenstoreReply').packet).payload);
  }

  write(path: string, value: string): void {
    this.xs(XS.WRITE, bytesOf(`${path}\0${value}`));
  }

  /** The value of a node, or the error's name. */
  read(path: string): string {
    return this.xs(XS.READ, packStrings(path)).replace(/\0$/, '');
  }

  frontendState(): string {
    return this.read(`${FE}/state`);
  }

  runUntilFrontend(state: string): void {
    this.world.runUntil(() => this.frontendState() === state);
  }

  /** Gives the guest its first function and connects (5.3). */
  attachFirst(slot = 0): FakeFunction {
    const fn = this.#plug(slot);
    this.xs(XS.MKDIR, packStrings(BE));
    this.xs(XS.SET_PERMS, packStrings(BE, 'n0', 'r1'));
    for (const [name, value] of Object.entries({
      frontend: FE,
      'frontend-id': '1',
      num_devs: '1',
      'dev-0': '0000:01:00.0',
      'state-0': '3',
      'vdev-0': `0000:00:${slot.toString(16).padStart(2, '0')}.00`,
      root_num: '1',
      'root-0': '0000:00',
      state: '3',
    })) {
      this.write(`${BE}/${name}`, value);
    }
    this.#devices = 1;
    this.xs(XS.MKDIR, packStrings(FE));
    this.xs(XS.SET_PERMS, packStrings(FE, 'n1', 'r0'));
    this.write(`${FE}/backend-id`, '0');
    this.write(`${FE}/backend`, BE);
    this.write(`${FE}/state`, '1');
    this.runUntilFrontend('3');
    this.connectBackend();
    this.runUntilFrontend('4');
    return fn;
  }

  /** The backend reads what the frontend published. */
  connectBackend(): void {
    const ref = Number(this.read(`${FE}/pci-op-ref`));
    this.#pageIpa = grant_entry_v1.decode(this.machine.read(GRANT_REGION + ref * 8, 8)).frame * 4096;
    this.#port = Number(this.read(`${FE}/event-channel`));
    this.write(`${BE}/state`, '4');
  }

  setBackendState(state: string): void {
    this.write(`${BE}/state`, state);
  }

  /** 5.4 from the toolstack's and the backend's side. */
  hotAdd(slot: number): FakeFunction {
    const n = this.#devices++;
    this.write(`${BE}/state-${n}`, '1');
    this.write(`${BE}/num_devs`, `${this.#devices}`);
    this.setBackendState('7');
    this.runUntilFrontend('7');
    const fn = this.#plug(slot);
    this.write(`${BE}/vdev-${n}`, `0000:00:${slot.toString(16).padStart(2, '0')}.00`);
    this.write(`${BE}/state-${n}`, '3');
    this.setBackendState('8');
    this.runUntilFrontend('4');
    this.setBackendState('4');
    return fn;
  }

  /** 5.5 for the function of index `n` in `slot`. */
  hotRemove(n: number, slot: number): void {
    this.write(`${BE}/state-${n}`, '5');
    this.setBackendState('7');
    this.runUntilFrontend('7');
    this.functions.delete(sbdf(0, 0, slot, 0));
    this.setBackendState('8');
    this.runUntilFrontend('4');
    this.setBackendState('4');
  }

  removeDirectories(): void {
    this.xs(XS.RM, packStrings(FE));
    this.xs(XS.RM, packStrings(BE));
  }

  #plug(slot: number): FakeFunction {
    const fn = new FakeFunction(this, slot);
    this.functions.set(sbdf(0, 0, slot, 0), fn);
    this.machine.registers.push(fn.registers, fn.table);
    return fn;
  }

  #pciback(port: number): void {
    if (port !== this.#port || this.mute) return;
    const at = this.#pageIpa + XEN_PCI_SHAREDINFO.op;
    if ((this.machine.read32(this.#pageIpa) & XEN_PCIF_active) === 0) return;
    const op = xen_pci_op_head.decode(this.machine.read(at, xen_pci_op_head.size));
    const fn = this.functions.get(sbdf(op.domain, op.bus, op.devfn >>> 3, op.devfn & 7));
    let err: number = XEN_PCI_ERR.success;
    let value = op.value;
    if (fn === undefined) err = XEN_PCI_ERR.dev_not_found;
    else if (op.cmd === XEN_PCI_OP.conf_read) value = fn.configRead(op.offset, op.size);
    else if (op.cmd === XEN_PCI_OP.conf_write) fn.configWrite(op.offset, op.size, op.value);
    else err = XEN_PCI_ERR.not_implemented;
    const offset = this.late ? op.offset + 4 : op.offset;
    this.machine.write(at, xen_pci_op_head.encode({ ...op, offset, err, value }));
    this.machine.write32(this.#pageIpa, 0);
    this.machine.sendTo(port);
  }
}

/** A dma-probe behind a virtual header: BAR0 its registers, BAR1 the MSI-X table. DMA reaches guest RAM only. */
export class FakeFunction {
  readonly config = new Uint8Array(256);
  readonly registers: Registers;
  readonly table: Registers;
  /** Raised vectors that are lost on their way. */
  readonly lost = new Set<number>();
  readonly #bench: GuestBench;
  readonly #rid: number;
  readonly #words = new Map<number, number>();
  readonly #bars: readonly number[];

  constructor(bench: GuestBench, slot: number) {
    this.#bench = bench;
    this.#rid = slot << 3;
    const base = 0x2300_0000 + slot * 0x2000;
    this.#bars = [base, base + 0x1000, 0, 0, 0, 0];
    const view = new DataView(this.config.buffer);
    view.setUint32(0, 0x0001_c0de, true);
    view.setUint16(6, 0x10, true);
    view.setUint16(0xa, 0xff00, true);
    this.#bars.forEach((bar, i) => {
      view.setUint32(0x10 + 4 * i, bar, true);
    });
    view.setUint8(0x34, 0x40);
    view.setUint16(0x40, 0x0011, true);
    view.setUint16(0x42, PROBE_VECTORS - 1, true);
    view.setUint32(0x44, 1, true);
    view.setUint32(0x48, 0x801, true);
    this.table = storage(base + 0x1000, 0x1000);
    this.registers = {
      base,
      sizeBytes: 0x1000,
      read: (offset) => (offset === DMA_PROBE.ID ? DMA_PROBE_MAGIC : (this.#words.get(offset) ?? 0)),
      write: (offset, _size, value) => this.#write(offset, value),
    };
  }

  get msixControl(): number {
    return new DataView(this.config.buffer).getUint16(0x42, true);
  }

  configRead(offset: number, size: number): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.config[offset + i]!;
    return value;
  }

  configWrite(offset: number, size: number, value: number): void {
    const view = new DataView(this.config.buffer);
    const bar = (offset - 0x10) / 4;
    if (bar >= 0 && bar < 6) {
      const address = this.#bars[bar]!;
      if (value === 0xffff_ffff) view.setUint32(offset, address === 0 ? 0 : 0xffff_f000, true);
      else if (value === address) view.setUint32(offset, address, true);
    } else if (offset === 4 && size === 2) view.setUint16(4, value, true);
    else if (offset === 0x42 && size === 2) view.setUint16(0x42, (value & 0xc000) | (PROBE_VECTORS - 1), true);
  }

  #write(offset: number, value: number): void {
    this.#words.set(offset, value);
    if (offset === DMA_PROBE.STATUS) this.#words.set(offset, 0);
    if (offset === DMA_PROBE.COMMAND) this.#run(value & 0xf);
    if (offset === DMA_PROBE.RAISE) for (let v = 0; v < 32; v++) if (((value >>> v) & 1) !== 0) this.#raise(v);
  }

  #raise(vector: number): void {
    if (this.lost.delete(vector) || (this.msixControl & 0xc000) !== 0x8000) return;
    const at = vector * 16;
    if ((this.table.read(at + 12, 4) & 1) !== 0 || this.table.read(at, 4) !== DOORBELL) return;
    this.#bench.its.message(this.#rid, this.table.read(at + 8, 4), (lpi) => this.#bench.interrupt(lpi));
  }

  #run(op: number): void {
    const word = (offset: number): number => this.#words.get(offset) ?? 0;
    const { machine } = this.#bench;
    const [source, destination, bytes] = [DMA_PROBE.SRC_LO, DMA_PROBE.DST_LO, DMA_PROBE.LENGTH_LO].map(
      (o) => word(o) + word(o + 4) * 2 ** 32,
    ) as [number, number, number];
    const inRam = (at: number): boolean => at >= RAM_BASE && at + bytes <= RAM_BASE + RAM_BYTES;
    const bad = [op === DMA_PROBE_OP.WRITE ? [] : [source], op === DMA_PROBE_OP.READ ? [] : [destination]]
      .flat()
      .find((at) => !inRam(at));
    if (bad !== undefined) {
      this.#words.set(DMA_PROBE.ERROR_LO, bad >>> 0);
      this.#words.set(DMA_PROBE.ERROR_HI, Math.floor(bad / 2 ** 32));
      this.#words.set(DMA_PROBE.STATUS, DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
      return;
    }
    let sum = DMA_PROBE_CHECKSUM_START;
    for (let i = 0; i < bytes / 4; i++) {
      if (op === DMA_PROBE_OP.WRITE) machine.write32(destination + i * 4, dmaProbeWord(word(DMA_PROBE.PATTERN), i));
      if (op === DMA_PROBE_OP.COPY) machine.write32(destination + i * 4, machine.read32(source + i * 4));
      if (op === DMA_PROBE_OP.READ) sum = dmaProbeChecksum(sum, machine.read32(source + i * 4));
    }
    this.#words.set(DMA_PROBE.CHECKSUM, sum);
    this.#words.set(DMA_PROBE.STATUS, DMA_PROBE_STATUS.DONE);
  }
}

/** A virtual ITS that runs what is in its queue. */
export class FakeVits implements Registers {
  readonly base = VITS;
  readonly sizeBytes = 0x1_0000;
  readonly commands: ReturnType<typeof decodeItsCommand>[] = [];
  readonly #machine: GuestMachine;
  readonly #words = new Map<number, number>();
  readonly #events = new Map<string, number>();

  constructor(machine: GuestMachine) {
    this.#machine = machine;
  }

  /** Events that are mapped. */
  get mapped(): string[] {
    return [...this.#events.keys()];
  }

  /** A device wrote `eventId`: gives the LPI, when it is mapped and enabled in the property table. */
  message(deviceId: number, eventId: number, deliver: (lpi: number) => void): void {
    const lpi = this.#events.get(`${deviceId}:${eventId}`);
    if (lpi === undefined) return;
    const gicr = this.#machine.registers.find((r) => r.base === GICR)!;
    const { pa } = decodeGicrPropbaser({ lo: gicr.read(GICR_PROPBASER, 4), hi: gicr.read(GICR_PROPBASER + 4, 4) });
    if ((this.#machine.read(pa + lpi - 8192, 1)[0]! & 1) !== 0) deliver(lpi);
  }

  read(offset: number): number {
    const word = this.#words.get(offset) ?? 0;
    if (offset === 0xffe8) return 0x30;
    if (offset === GITS_CTLR) return (word | ((word & 1) === 0 ? 0x8000_0000 : 0)) >>> 0;
    if (offset === 8) {
      return encodeGitsTyper({
        Physical: true,
        ittEntryBytes: 8,
        eventIdBits: 16,
        deviceIdBits: 16,
        PTA: false,
        HCC: 0,
        collectionIdBits: 16,
      }).lo;
    }
    if (offset === GITS_BASER + 4) return ((word & 0xf800_ffff) | 0x0107_0000) >>> 0;
    if (offset === GITS_BASER + 12) return ((word & 0xf800_ffff) | 0x0401_0000) >>> 0;
    if (offset > GITS_BASER + 12 && offset < GITS_BASER + 64) return 0;
    return word;
  }

  write(offset: number, _size: number, value: number): void {
    this.#words.set(offset, value >>> 0);
    if (offset === GITS_CWRITER) this.#run(value);
  }

  #run(cwriter: number): void {
    const queue = decodeGitsCbaser({ lo: this.read(GITS_CBASER), hi: this.read(GITS_CBASER + 4) });
    let at = this.read(GITS_CREADR);
    while (at !== cwriter && (this.read(GITS_CTLR) & 1) !== 0) {
      const command = decodeItsCommand(itsCommandWords(this.#machine.read(queue.pa + at, 32)));
      this.commands.push(command);
      if (command.name === 'MAPTI') this.#events.set(`${command.deviceId}:${command.eventId}`, command.pIntid);
      if (command.name === 'DISCARD') this.#events.delete(`${command.deviceId}:${command.eventId}`);
      at = (at + 32) % queue.sizeBytes;
    }
    this.#words.set(GITS_CREADR, at);
  }
}

export function deviceTree(): FdtNode {
  const root = new FdtNode().setCells('#address-cells', 2).setCells('#size-cells', 2).setCells('interrupt-parent', 1);
  root
    .addChild('memory@40000000')
    .setStrings('device_type', 'memory')
    .setReg({ address: RAM_BASE, sizeBytes: RAM_BYTES });
  const gic = root.addChild('interrupt-controller@3001000');
  gic
    .setStrings('compatible', 'arm,gic-v3')
    .setFlag('interrupt-controller')
    .setCells('#interrupt-cells', 3)
    .setCells('#address-cells', 2)
    .setCells('#size-cells', 2)
    .setFlag('ranges')
    .setCells('phandle', 1)
    .setReg({ address: GICD, sizeBytes: 0x1_0000 }, { address: GICR, sizeBytes: 0x100_0000 });
  gic
    .addChild('msi-controller@4020000')
    .setStrings('compatible', 'arm,gic-v3-its')
    .setReg({ address: VITS, sizeBytes: 0x2_0000 });
  root
    .addChild('hypervisor')
    .setStrings('compatible', 'xen,xen-4.23', 'xen,xen')
    .setCells('interrupts', 1, 15, 0xf08)
    .setReg({ address: GRANT_REGION, sizeBytes: 0x100_0000 });
  return root;
}
