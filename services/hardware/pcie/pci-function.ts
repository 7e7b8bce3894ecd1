/**
 * One PCI function: configuration space, BAR decoders, MSI and MSI-X, and the way to memory that the bridge above
 * gives it. What the device does is its model's.
 * Requests carry the bus number of the last configuration write that the function took (PCIe 5.0, "Transaction ID").
 * In D1 to D3hot only configuration space works.
 */
import { PCI_EXP, PCI_EXP_DEVSTA } from '#shared/arch/pci/express.ts';
import {
  PCI,
  PCI_CFG_SPACE_BYTES,
  PCI_CFG_SPACE_EXP_BYTES,
  PCI_COMMAND,
  PCI_HEADER_TYPE,
} from '#shared/arch/pci/header.ts';
import { PCI_MSIX } from '#shared/arch/pci/msix.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { devfnOf, formatSbdf } from '#shared/ids/sbdf.ts';
import type { DmaPort } from '../bus/transaction.ts';
import { type BarShape, barShapesOf, type MsixShape, msixShapeOf } from './bar.ts';
import { type ConfigFields, declareFields } from './config-fields.ts';
import { ConfigSpace } from './config-space.ts';
import type { DeviceHost, DeviceModel } from './functions/function.ts';
import { Msi } from './msi.ts';
import { Msix } from './msix.ts';
import { powerState, type ResetKind, resetsOnD0, startsFlr } from './reset.ts';

/** A link or bus seen from below: where requests of the functions on it go. Returns bytes done, as DmaPort. */
export interface UpstreamPort {
  dmaRead(rid: number, iova: number, into: Uint8Array): number;
  dmaWrite(rid: number, iova: number, from: Uint8Array): number;
}

/** Makes the model of a function from what the function offers it. */
export type ModelFactory = (host: DeviceHost, bars: readonly BarShape[], msix: MsixShape | undefined) => DeviceModel;

/** A memory BAR and where it decodes now; `from` is -1 while it does not. */
interface Decoder {
  readonly shape: BarShape;
  from: number;
}

export class PciFunction implements DeviceHost {
  /** Where the board places it; only for names. */
  readonly boardSbdf: number;
  readonly devfn: number;
  readonly config: ConfigSpace;
  readonly fields: ConfigFields;
  readonly dma: DmaPort;
  readonly model: DeviceModel;
  readonly #upstream: UpstreamPort;
  readonly #bars: readonly BarShape[];
  readonly #decoders: readonly Decoder[];
  readonly #msix: Msix | undefined;
  readonly #msi: Msi | undefined;
  readonly #message = new Uint8Array(4);
  #bus = 0;
  #command = 0;
  #power = 0;
  #messagesSent = 0;

  constructor(fn: BoardFunction, upstream: UpstreamPort, makeModel: ModelFactory) {
    this.boardSbdf = fn.sbdf;
    this.devfn = devfnOf(fn.sbdf);
    this.#upstream = upstream;
    const bridge = (fn.config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK) === PCI_HEADER_TYPE.BRIDGE;
    this.#bars = barShapesOf(fn);
    this.config = new ConfigSpace(fn.config, PCI_CFG_SPACE_EXP_BYTES);
    this.fields = declareFields(this.config, fn.config, this.#bars, bridge);
    this.#decoders = this.#bars.filter((s) => s.kind.startsWith('mem')).map((shape) => ({ shape, from: -1 }));
    const msixShape = msixShapeOf(fn.config);
    const send = (address: number, data: number): boolean => this.#sendMessage(address, data);
    if (msixShape !== undefined)
      this.#msix = new Msix(msixShape, () => this.config.u16(msixShape.capability + PCI_MSIX.FLAGS), send);
    if (this.fields.msi >= 0) this.#msi = new Msi(this.config, this.fields.msi, send);
    this.dma = {
      read: (iova, into) => (this.isMaster ? upstream.dmaRead(this.rid, iova, into) : 0),
      write: (iova, from) => (this.isMaster ? upstream.dmaWrite(this.rid, iova, from) : 0),
    };
    this.model = makeModel(this, this.#bars, msixShape);
    this.reset('power-on');
  }

  get rid(): number {
    return (this.#bus << 8) | this.devfn;
  }

  /** May send requests: Bus Master Enable, in D0. */
  get isMaster(): boolean {
    return (this.#command & PCI_COMMAND.MASTER) !== 0 && this.#power === 0;
  }

  /** Answers memory requests: Memory Space Enable, in D0. */
  get decodesMemory(): boolean {
    return (this.#command & PCI_COMMAND.MEMORY) !== 0 && this.#power === 0;
  }

  get messagesSent(): number {
    return this.#messagesSent;
  }

  configRead(offset: number, size: number): number {
    // A conventional function has 256 bytes and does not answer above them.
    if (this.fields.express < 0 && offset >= PCI_CFG_SPACE_BYTES) return size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
    return this.config.read(offset, size);
  }

  /** `bus`: the bus number that the configuration request carries. */
  configWrite(offset: number, size: number, value: number, bus: number): void {
    this.#bus = bus;
    if (this.fields.express < 0 && offset >= PCI_CFG_SPACE_BYTES) return;
    if (startsFlr(this.config, this.fields, offset, size, value)) {
      this.reset('function');
      return;
    }
    const before = this.#power;
    this.config.write(offset, size, value);
    if (before === 3 && powerState(this.config, this.fields) === 0 && resetsOnD0(this.config, this.fields)) {
      this.reset('function');
      return;
    }
    this.refresh();
    const msixAt = this.#msix?.shape.capability ?? -1;
    if (msixAt >= 0 && offset < msixAt + 4 && offset + size > msixAt + PCI_MSIX.FLAGS) this.#msix?.onFlagsWritten();
    if (this.#msi?.touchedBy(offset)) this.#msi.onWritten();
  }

  /** A memory read on the bus of this function: the value, or -1 when it is not claimed here. */
  memoryRead(address: number, size: number): number {
    const decoder = this.#claims(address);
    if (decoder === undefined) return -1;
    const { index } = decoder.shape;
    const offset = address - decoder.from;
    if (this.#msix?.covers(index, offset)) return this.#msix.read(index, offset, size);
    return this.model.readBar(index, offset, size) >>> 0;
  }

  /** A memory write; false when it is not claimed here. */
  memoryWrite(address: number, size: number, value: number): boolean {
    const decoder = this.#claims(address);
    if (decoder === undefined) return false;
    const { index } = decoder.shape;
    const offset = address - decoder.from;
    if (this.#msix?.covers(index, offset)) this.#msix.write(index, offset, size, value);
    else this.model.writeBar(index, offset, size, value);
    return true;
  }

  raise(vector: number): void {
    if (this.#msix?.enabled) this.#msix.raise(vector);
    else this.#msi?.raise(vector);
  }

  setTransactionsPending(pending: boolean): void {
    if (this.fields.express < 0) return;
    this.config.poke(
      this.fields.express + PCI_EXP.DEVSTA,
      2,
      PCI_EXP_DEVSTA.TRANSACTIONS_PENDING,
      pending ? 0xffff : 0,
    );
  }

  reset(kind: ResetKind): void {
    this.config.reset(kind === 'power-on');
    this.#bus = 0;
    this.#messagesSent = 0;
    this.#msix?.reset();
    this.#msi?.reset();
    this.model.reset();
    this.refresh();
  }

  /** The function of a device that has several says so in its header type, wherever the board placed it. */
  markMultifunction(): void {
    this.config.poke(PCI.HEADER_TYPE, 1, PCI_HEADER_TYPE.MULTIFUNCTION, PCI_HEADER_TYPE.MULTIFUNCTION);
  }

  inspect(): Record<string, unknown> {
    return {
      sbdf: formatSbdf(this.boardSbdf),
      rid: this.rid,
      vendorId: this.config.u16(PCI.VENDOR_ID),
      deviceId: this.config.u16(PCI.DEVICE_ID),
      command: this.#command,
      powerState: this.#power,
      bars: this.#bars.map((shape) => ({
        index: shape.index,
        kind: shape.kind,
        sizeBytes: shape.sizeBytes,
        address: this.#barAddress(shape),
      })),
      msix: this.#msix?.inspect() ?? null,
      msi: this.#msi === undefined ? null : { enabled: this.#msi.enabled, vectors: this.#msi.vectors },
      messagesSent: this.#messagesSent,
      model: this.model.name,
      state: this.model.inspect(),
    };
  }

  /** What follows from the registers, after any of them may have changed. */
  protected refresh(): void {
    this.#command = this.config.u16(PCI.COMMAND);
    this.#power = powerState(this.config, this.fields);
    const decodes = this.decodesMemory;
    for (const decoder of this.#decoders) decoder.from = decodes ? this.#barAddress(decoder.shape) : -1;
  }

  #claims(address: number): Decoder | undefined {
    for (const decoder of this.#decoders) {
      if (decoder.from >= 0 && address >= decoder.from && address < decoder.from + decoder.shape.sizeBytes)
        return decoder;
    }
    return undefined;
  }

  #barAddress(shape: BarShape): number {
    const low = this.config.u32(shape.offset);
    if (shape.kind === 'io') return (low & 0xffff_fffc) >>> 0;
    if (shape.kind === 'rom') return (low & 0xffff_f800) >>> 0;
    const high = shape.kind === 'mem64' ? this.config.u32(shape.offset + 4) : 0;
    return high * 2 ** 32 + ((low & 0xffff_fff0) >>> 0);
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
    this.#upstream.dmaWrite(this.rid, address, bytes);
    return true;
  }
}
