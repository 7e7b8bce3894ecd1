/**
 * One PCI function: configuration space, BAR decoders, MSI and MSI-X, its pin, its errors, and the way to memory that
 * the bus gives it. What the device does is its model's.
 * Requests carry the bus number of the last configuration write that the function took (PCIe 5.0, "Transaction ID").
 * In D1 to D3hot only configuration space works (PCI-PM, "Power Management States").
 */
import { PCI_AER_UNCOR } from '#shared/arch/pci/capability.ts';
import { PCI_EA_ENTRY } from '#shared/arch/pci/enhanced-allocation.ts';
import { PCI_EXP, PCI_EXP_DEVSTA } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND, PCI_HEADER_TYPE, PCI_STATUS, PCI_VENDOR_NOT_READY } from '#shared/arch/pci/header.ts';
import { PCI_MSIX } from '#shared/arch/pci/msix.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { type Address64, addressPlus } from '#shared/ids/address64.ts';
import { devfnOf, formatSbdf } from '#shared/ids/sbdf.ts';
import { allOnes, type DmaPort } from '../bus/transaction.ts';
import type { Saved } from '../state/saved.ts';
import type { BarShape, MsixShape } from './bar.ts';
import type { ConfigFields } from './config-fields.ts';
import type { ConfigSpace } from './config-space.ts';
import { type Claimant, type Decoder, decoder } from './decode-table.ts';
import { Errors } from './errors.ts';
import { type FunctionParts, functionParts } from './function-parts.ts';
import type { DeviceHost, DeviceModel, RogueHost } from './functions/function.ts';
import { Msi } from './msi.ts';
import { Msix } from './msix.ts';
import type { PciBus } from './pci-bus.ts';
import { Readiness } from './readiness.ts';
import { powerState, type ResetKind, resetsOnD0, startsFlr } from './reset.ts';
import { ADDRESS_TYPE, COMPLETION } from './route.ts';

/** Makes the model of a function from what the function offers it. */
export type ModelFactory = (
  host: DeviceHost & RogueHost,
  bars: readonly BarShape[],
  msix: MsixShape | undefined,
) => DeviceModel;

export class PciFunction implements DeviceHost, RogueHost, Claimant, Saved {
  /** Where the board places it; only for names. */
  readonly boardSbdf: number;
  readonly devfn: number;
  readonly config: ConfigSpace;
  readonly fields: ConfigFields;
  readonly errors: Errors;
  readonly dma: DmaPort;
  readonly model: DeviceModel;
  protected readonly bus: PciBus;
  protected readonly parts: FunctionParts;
  readonly #decoders: readonly { readonly shape: BarShape; readonly decoder: Decoder }[];
  readonly #msix: Msix | undefined;
  readonly #msi: Msi | undefined;
  readonly #readiness: Readiness;
  readonly #message = new Uint8Array(4);
  readonly #ready = (): void => this.bus.topologyChanged();
  #bus = 0;
  #command = 0;
  #power = 0;
  #messagesSent = 0;
  /** What the device wants of its pin, and what the bus has of it. */
  #intx = false;
  #line = false;
  #refusal: number = COMPLETION.SUCCESS;

  /** Its bus gives it power: until `PciBus.add` it is not there. */
  constructor(fn: BoardFunction, bus: PciBus, makeModel: ModelFactory, parts: FunctionParts = functionParts(fn)) {
    this.boardSbdf = fn.sbdf;
    this.devfn = devfnOf(fn.sbdf);
    this.bus = bus;
    this.parts = parts;
    this.config = parts.config;
    this.fields = parts.fields;
    this.#readiness = new Readiness(bus.scheduler, fn.quirks);
    this.errors = new Errors(this.config, this.fields, (kind) => this.sendError(kind));
    this.#decoders = parts.bars
      .filter((shape) => parts.decodesBars && shape.kind.startsWith('mem'))
      .map((shape) => ({ shape, decoder: decoder(this, shape.index) }));
    const { msix } = parts;
    const send = (address: number, data: number): boolean => this.#sendMessage(address, data);
    if (msix !== undefined) this.#msix = new Msix(msix, () => this.config.u16(msix.capability + PCI_MSIX.FLAGS), send);
    if (this.fields.msi >= 0) this.#msi = new Msi(this.config, this.fields.msi, send);
    this.dma = {
      read: (iova, into) => this.#request(iova, into, false),
      write: (iova, from) => this.#request(iova, from, true),
    };
    this.model = makeModel(this, parts.bars, msix);
  }

  get rid(): number {
    return (this.#bus << 8) | this.devfn;
  }

  /** The BARs that it has, the ROM last. */
  get bars(): readonly BarShape[] {
    return this.parts.bars;
  }

  /** The bus number that it captured. */
  get busNumber(): number {
    return this.#bus;
  }

  /** May send requests: Bus Master Enable, in D0. */
  get isMaster(): boolean {
    return (this.#command & PCI_COMMAND.MASTER) !== 0 && this.#power === 0;
  }

  /** Answers memory requests: Memory Space Enable, in D0. */
  get decodesMemory(): boolean {
    return (this.#command & PCI_COMMAND.MEMORY) !== 0 && this.#power === 0;
  }

  /** 0 for D0 to 3 for D3hot. */
  get power(): number {
    return this.#power;
  }

  get messagesSent(): number {
    return this.#messagesSent;
  }

  get messageSignalled(): boolean {
    return this.#msix?.enabled === true || this.#msi?.enabled === true;
  }

  configRead(offset: number, size: number): number {
    if (!this.#readiness.ready) {
      // Only a read that starts with the vendor id is told to try again, and only where the root port shows it.
      if (offset !== 0 || size === 1 || !this.#readiness.retries || !this.bus.above.showsRetries) return allOnes(size);
      return size === 4 ? 0xffff_0000 + PCI_VENDOR_NOT_READY : PCI_VENDOR_NOT_READY;
    }
    if (offset >= this.parts.configBytes) return allOnes(size);
    return this.config.read(offset, size);
  }

  /** `bus`: the bus number that the configuration request carries. */
  configWrite(offset: number, size: number, value: number, bus: number): void {
    if (!this.#readiness.ready) return;
    this.#bus = bus;
    if (offset >= this.parts.configBytes) return;
    if (startsFlr(this.config, this.fields, offset, size, value)) {
      this.reset('function');
      return;
    }
    const before = this.#power;
    this.config.write(offset, size, value);
    const now = powerState(this.config, this.fields, before);
    if (before === 3 && now === 0 && resetsOnD0(this.config, this.fields)) {
      this.reset('function');
      return;
    }
    this.refresh();
    const msixAt = this.#msix?.shape.capability ?? -1;
    if (msixAt >= 0 && offset < msixAt + 4 && offset + size > msixAt + PCI_MSIX.FLAGS) this.#msix?.onFlagsWritten();
    if (this.#msi?.touchedBy(offset)) this.#msi.onWritten();
  }

  // Memory requests that reach it.

  readAt(d: Decoder, address: number, size: number): number {
    return this.readBar(d.index, address - d.from, size);
  }

  writeAt(d: Decoder, address: number, size: number, value: number): boolean {
    this.writeBar(d.index, address - d.from, size, value);
    return true;
  }

  /** An access to BAR `index`: the value, or -1 when the device refuses (`Route.status` says how). */
  readBar(index: number, offset: number, size: number): number {
    if (this.#msix?.covers(index, offset)) return this.#msix.read(index, offset, size);
    this.#refusal = COMPLETION.SUCCESS;
    const value = this.model.readBar(index, offset, size) >>> 0;
    if (this.#refusal === COMPLETION.SUCCESS) return value;
    const { route } = this.bus;
    if (this.#refusal === COMPLETION.ABORT)
      this.errors.detected(PCI_AER_UNCOR.COMPLETER_ABORT, route.rid, route.addressType, route.address, size, false);
    route.status = this.#refusal;
    return -1;
  }

  writeBar(index: number, offset: number, size: number, value: number): void {
    if (this.#msix?.covers(index, offset)) this.#msix.write(index, offset, size, value);
    else this.model.writeBar(index, offset, size, value);
  }

  // What its device does.

  raise(vector: number): void {
    if (this.#msix?.enabled) this.#msix.raise(vector);
    else this.#msi?.raise(vector);
  }

  setIntx(asserted: boolean): void {
    this.#intx = asserted;
    this.#refreshLine();
  }

  refuseRead(how: 'abort' | 'timeout'): void {
    this.#refusal = how === 'abort' ? COMPLETION.ABORT : COMPLETION.TIMEOUT;
  }

  setTransactionsPending(pending: boolean): void {
    if (this.fields.express < 0) return;
    const at = this.fields.express + PCI_EXP.DEVSTA;
    this.config.poke(at, 2, PCI_EXP_DEVSTA.TRANSACTIONS_PENDING, pending ? 0xffff : 0);
  }

  rogueRequest(rid: number, addressType: number, address: Address64, data: Uint8Array, write: boolean): number {
    return this.#send(rid, addressType, address, data, write);
  }

  rogueConfig(offset: number, sizeBytes: number, value: number): void {
    for (let i = 0; i < sizeBytes; i++) this.config.misbehave(offset + i, (value >>> (8 * i)) & 0xff);
    this.refresh();
  }

  // Its state.

  reset(kind: ResetKind): void {
    this.config.reset(kind);
    this.#bus = 0;
    this.#messagesSent = 0;
    this.#intx = false;
    this.#power = 0;
    this.#msix?.reset();
    this.#msi?.reset();
    this.model.reset(kind);
    if (kind === 'power-on') this.#readiness.powerOn();
    else this.#readiness.begin(this.#ready);
    this.refresh();
  }

  /** The function of a device that has several says so in its header type, wherever the board placed it. */
  markMultifunction(): void {
    this.config.poke(PCI.HEADER_TYPE, 1, PCI_HEADER_TYPE.MULTIFUNCTION, PCI_HEADER_TYPE.MULTIFUNCTION);
  }

  save(): unknown {
    return {
      config: this.config.save(),
      bus: this.#bus,
      messagesSent: this.#messagesSent,
      intx: this.#intx,
      line: this.#line,
      msix: this.#msix?.save(),
      readiness: this.#readiness.save(),
      model: this.model.save?.(),
    };
  }

  load(state: unknown): void {
    const saved = state as {
      config: unknown;
      bus: number;
      messagesSent: number;
      intx: boolean;
      line: boolean;
      msix: unknown;
      readiness: unknown;
      model: unknown;
    };
    this.config.load(saved.config);
    this.#bus = saved.bus;
    this.#messagesSent = saved.messagesSent;
    this.#intx = saved.intx;
    this.#line = saved.line; // what the bus counts is loaded with the bus
    this.#msix?.load(saved.msix);
    this.#readiness.load(saved.readiness, this.#ready);
    this.model.load?.(saved.model);
    this.refresh();
  }

  inspect(): Record<string, unknown> {
    return {
      sbdf: formatSbdf(this.boardSbdf),
      rid: this.rid,
      vendorId: this.config.u16(PCI.VENDOR_ID),
      deviceId: this.config.u16(PCI.DEVICE_ID),
      command: this.#command,
      powerState: this.#power,
      ready: this.#readiness.ready,
      bars: this.parts.bars.map((shape) => ({
        index: shape.index,
        kind: shape.kind,
        sizeBytes: shape.sizeBytes,
        address: this.barAddress(shape),
      })),
      msix: this.#msix?.inspect() ?? null,
      msi: this.#msi === undefined ? null : { enabled: this.#msi.enabled, vectors: this.#msi.vectors },
      intx: this.#line,
      messagesSent: this.#messagesSent,
      model: this.model.name,
      state: this.model.inspect(),
    };
  }

  /** What follows from the registers, after any of them may have changed. */
  protected refresh(): void {
    this.#command = this.config.u16(PCI.COMMAND);
    this.#power = powerState(this.config, this.fields, this.#power);
    const decodes = this.decodesMemory;
    for (const { shape, decoder: d } of this.#decoders) {
      const from = decodes ? this.barAddress(shape) : -1;
      this.bus.table.set(d, from, from + shape.sizeBytes - 1);
    }
    this.#refreshLine();
  }

  protected sendError(kind: number): void {
    this.bus.above.errorMessage(kind, this.rid);
  }

  /** The bus address in a BAR; -1 for a fixed one that is switched off. */
  protected barAddress(shape: BarShape): number {
    if (shape.fixed !== undefined) {
      const on = (this.config.u32(shape.fixed.entry) & PCI_EA_ENTRY.ENABLE) !== 0;
      return on ? shape.fixed.address : -1;
    }
    const low = this.config.u32(shape.offset);
    if (shape.kind === 'io') return (low & 0xffff_fffc) >>> 0;
    if (shape.kind === 'rom') return (low & 0xffff_f800) >>> 0;
    const high = shape.kind === 'mem64' ? this.config.u32(shape.offset + 4) : 0;
    return high * 2 ** 32 + ((low & 0xffff_fff0) >>> 0);
  }

  /** Status shows what the device wants; the pin only has it in D0, not disabled, and without MSI and MSI-X. */
  #refreshLine(): void {
    const pin = this.config.u8(PCI.INTERRUPT_PIN);
    const wired = pin >= 1 && pin <= 4;
    if (wired) this.config.poke(PCI.STATUS, 2, PCI_STATUS.INTERRUPT, this.#intx ? 0xffff : 0);
    const disabled = (this.#command & PCI_COMMAND.INTX_DISABLE) !== 0;
    const line = this.#intx && wired && !disabled && this.#power === 0 && !this.messageSignalled;
    if (line === this.#line) return;
    this.#line = line;
    this.bus.setPin(this.devfn, pin, line);
  }

  #request(iova: Address64, data: Uint8Array, write: boolean): number {
    if (!this.isMaster) return 0;
    const done = this.#send(this.rid, ADDRESS_TYPE.UNTRANSLATED, iova, data, write);
    if (done < data.length && !write)
      this.errors.completed(this.bus.route.status, this.rid, addressPlus(iova, done), data.length - done);
    return done;
  }

  #send(rid: number, addressType: number, address: Address64, data: Uint8Array, write: boolean): number {
    const { bus } = this;
    if (typeof address === 'number') return bus.send(this, rid, addressType, address, data, write);
    bus.route.wide = address;
    const done = bus.send(this, rid, addressType, Number(address), data, write);
    bus.route.wide = undefined;
    return done;
  }

  /** An interrupt message is a posted write of four bytes: whether it arrives, the function never learns. */
  #sendMessage(address: number, data: number): boolean {
    if (!this.isMaster) return false;
    const bytes = this.#message;
    bytes[0] = data;
    bytes[1] = data >>> 8;
    bytes[2] = data >>> 16;
    bytes[3] = data >>> 24;
    this.#messagesSent++;
    this.bus.send(this, this.rid, ADDRESS_TYPE.UNTRANSLATED, address, bytes, true);
    return true;
  }
}
