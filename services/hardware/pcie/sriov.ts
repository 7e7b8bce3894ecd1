/**
 * SR-IOV: a physical function and the virtual ones that it has while VF Enable is set (PCIe 5.0, "Single Root I/O
 * Virtualization and Sharing").
 * A VF has its own requester id, which may lie on a later bus, its own configuration space, MSI-X table, Bus Master
 * Enable, FLR, way to memory and device; its memory lies in the PF's VF BARs and decodes by VF Memory Space Enable.
 * A dump says nothing of its VFs' capabilities: each has Express with FLR, and MSI-X with the PF's number of vectors as
 * far as they fit (table and pending bits in the last memory VF BAR).
 * At power-on NumVFs has what the board's firmware leaves there (`vfs` of a board file), and VF Enable is clear.
 * Enabling takes at once as many VFs as NumVFs says; 0 or more than TotalVFs of them is none.
 * Not modelled: MSI, ARI, ACS and AER of a VF; it has no such capability. VF migration; it is not offered.
 */
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import {
  PCI_EXP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL_DEFAULT,
  PCI_EXP_FLAGS,
  PCI_EXP_LNKCTL2_SPEED_MASK,
} from '#shared/arch/pci/express.ts';
import { PCI, PCI_CFG_SPACE_EXP_BYTES, PCI_COMMAND, PCI_HEADER_TYPE, PCI_STATUS } from '#shared/arch/pci/header.ts';
import { msixPbaBytes, PCI_MSIX, PCI_MSIX_ENTRY, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import {
  PCI_SRIOV,
  PCI_SRIOV_BARS,
  PCI_SRIOV_CTRL,
  PCI_SRIOV_PAGE_SHIFT,
  PCI_SRIOV_VF_ID,
} from '#shared/arch/pci/sriov.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import type { BarShape, MsixShape } from './bar.ts';
import { declareFields } from './config-fields.ts';
import { ConfigSpace } from './config-space.ts';
import { type Decoder, decoder, SRIOV_BAR } from './decode-table.ts';
import { type FunctionParts, twinOf } from './function-parts.ts';
import type { PciBus } from './pci-bus.ts';
import { type ModelFactory, PciFunction } from './pci-function.ts';
import type { ResetKind } from './reset.ts';
import { COMPLETION } from './route.ts';

const VF_EXPRESS = 0x40;
const VF_EXPRESS_BYTES = 0x3c;
const VF_MSIX = 0x80;
const VF_VECTORS_MAX = 64;

export class PhysicalFunction extends PciFunction {
  readonly #at: number;
  readonly #vfBars: readonly { readonly shape: BarShape; readonly decoder: Decoder }[];
  readonly #board: BoardFunction;
  readonly #makeModel: ModelFactory;
  readonly #pattern: FunctionParts;
  /** VF 1 first. Those beyond `#enabled` sleep: they answer nothing. */
  readonly #vfs: VirtualFunction[] = [];
  #enabled = 0;
  /** By VF BAR: what one VF takes of it, its size or a system page when that is larger. */
  readonly #apertures = new Float64Array(PCI_SRIOV_BARS);

  /** `makeModel` also makes the devices of the VFs. */
  constructor(fn: BoardFunction, bus: PciBus, makeModel: ModelFactory, parts: FunctionParts) {
    super(fn, bus, makeModel, parts);
    this.#at = this.fields.sriov;
    this.#board = fn;
    this.#makeModel = makeModel;
    this.#vfBars = this.parts.vfBars.map((shape) => ({ shape, decoder: decoder(this, SRIOV_BAR + shape.index) }));
    this.#pattern = vfParts(this.parts);
  }

  /** The VFs that exist now, VF 1 first. */
  get vfs(): readonly VirtualFunction[] {
    return this.#vfs.slice(0, this.#enabled);
  }

  /** Memory Space Enable of the VFs, while this function itself is in D0. */
  get vfsDecodeMemory(): boolean {
    return (this.config.u16(this.#at + PCI_SRIOV.CTRL) & PCI_SRIOV_CTRL.MSE) !== 0 && this.power === 0;
  }

  /** Where VF `n` has its part of VF BAR `shape`. */
  vfBarAddress(shape: BarShape, n: number): number {
    return this.barAddress(shape) + (n - 1) * this.#apertures[shape.index]!;
  }

  /** The requester id of VF `n`, from 1. */
  ridOfVf(n: number): number {
    const offset = this.config.u16(this.#at + PCI_SRIOV.VF_OFFSET);
    return (this.rid + offset + (n - 1) * this.config.u16(this.#at + PCI_SRIOV.VF_STRIDE)) & 0xffff;
  }

  override configWrite(offset: number, size: number, value: number, bus: number): void {
    const numVfs = this.#at + PCI_SRIOV.NUM_VF;
    // While VFs exist their number is fixed: those two bytes of the write are dropped.
    if (this.#enabled > 0 && offset < numVfs + 2 && offset + size > numVfs) {
      for (let i = 0; i < size; i++) {
        const at = offset + i;
        if (at < numVfs || at >= numVfs + 2) super.configWrite(at, 1, (value >>> (8 * i)) & 0xff, bus);
      }
      return;
    }
    const before = this.busNumber;
    super.configWrite(offset, size, value, bus);
    if (this.busNumber !== before && this.#enabled > 0) this.#enable(this.#enabled, true);
  }

  override readAt(d: Decoder, address: number, size: number): number {
    if (d.index < SRIOV_BAR) return super.readAt(d, address, size);
    const aperture = this.#apertures[d.index - SRIOV_BAR]!;
    const n = Math.floor((address - d.from) / aperture);
    return this.#vfs[n]!.readBar(d.index - SRIOV_BAR, (address - d.from) % aperture, size);
  }

  override writeAt(d: Decoder, address: number, size: number, value: number): boolean {
    if (d.index < SRIOV_BAR) return super.writeAt(d, address, size, value);
    const aperture = this.#apertures[d.index - SRIOV_BAR]!;
    const n = Math.floor((address - d.from) / aperture);
    this.#vfs[n]!.writeBar(d.index - SRIOV_BAR, (address - d.from) % aperture, size, value);
    return true;
  }

  /** A reset of the PF takes its VFs away. */
  override reset(kind: ResetKind): void {
    this.#enable(0, false);
    super.reset(kind);
    const { vfs } = this.#board;
    if (kind === 'power-on' && vfs !== undefined) this.config.poke(this.#at + PCI_SRIOV.NUM_VF, 2, 0xffff, vfs);
  }

  override save(): unknown {
    return { own: super.save(), vfs: this.vfs.map((vf) => vf.save()) };
  }

  override load(state: unknown): void {
    const { own, vfs } = state as { own: unknown; vfs: readonly unknown[] };
    super.load(own);
    vfs.forEach((vf, i) => {
      this.#vfs[i]!.load(vf);
    });
  }

  override inspect(): Record<string, unknown> {
    return { ...super.inspect(), vfs: this.vfs.map((vf) => vf.inspect()) };
  }

  protected override refresh(): void {
    super.refresh();
    const { config } = this;
    const on = (config.u16(this.#at + PCI_SRIOV.CTRL) & PCI_SRIOV_CTRL.VFE) !== 0;
    const asked = config.u16(this.#at + PCI_SRIOV.NUM_VF);
    const wanted = on && asked <= config.u16(this.#at + PCI_SRIOV.TOTAL_VF) ? asked : 0;
    if (wanted !== this.#enabled) this.#enable(wanted, false);
    const decodes = this.#enabled > 0 && this.vfsDecodeMemory;
    const page = config.u32(this.#at + PCI_SRIOV.SYS_PGSIZE);
    const pageBytes = page === 0 ? 0 : 2 ** (31 - Math.clz32(page) + PCI_SRIOV_PAGE_SHIFT);
    for (const { shape, decoder: d } of this.#vfBars) {
      const aperture = Math.max(shape.sizeBytes, pageBytes);
      this.#apertures[shape.index] = aperture;
      const from = decodes ? this.barAddress(shape) : -1;
      this.bus.table.set(d, from, from + aperture * this.#enabled - 1);
    }
  }

  /** Makes exactly VFs 1 to `count` exist; `moved`: their ids are others than before. */
  #enable(count: number, moved: boolean): void {
    if (count === this.#enabled && !moved) return;
    for (let n = 1; n <= this.#enabled; n++) this.bus.setVirtual(this.#vfs[n - 1]!.rid, undefined);
    for (let n = 1; n <= count; n++) {
      let vf = this.#vfs[n - 1];
      if (vf === undefined) {
        vf = new VirtualFunction(this, n, this.#board, this.bus, this.#makeModel, twinOf(this.#pattern));
        this.#vfs.push(vf);
      }
      vf.appear(this.ridOfVf(n));
      if (n > this.#enabled) vf.reset('power-on');
      this.bus.setVirtual(vf.rid, vf);
    }
    for (const vf of this.#vfs.slice(count)) vf.vanish();
    this.#enabled = count;
  }
}

export class VirtualFunction extends PciFunction {
  /** From 1. */
  readonly number: number;
  readonly #pf: PhysicalFunction;
  #rid = 0;

  constructor(
    pf: PhysicalFunction,
    number: number,
    fn: BoardFunction,
    bus: PciBus,
    makeModel: ModelFactory,
    parts: FunctionParts,
  ) {
    super(fn, bus, makeModel, parts);
    this.#pf = pf;
    this.number = number;
  }

  override get rid(): number {
    return this.#rid;
  }

  override get isMaster(): boolean {
    return super.isMaster && this.#pf.power === 0;
  }

  override get decodesMemory(): boolean {
    return this.#pf.vfsDecodeMemory && this.power === 0;
  }

  /** Its memory, which the PF claims for it. A VF that is not in D0 refuses. */
  override readBar(index: number, offset: number, size: number): number {
    if (this.power === 0) return super.readBar(index, offset, size);
    this.bus.route.status = COMPLETION.UNSUPPORTED;
    return -1;
  }

  override writeBar(index: number, offset: number, size: number, value: number): void {
    if (this.power === 0) super.writeBar(index, offset, size, value);
  }

  appear(rid: number): void {
    this.#rid = rid;
  }

  /** Gone: nothing that it had under way may have an effect. */
  vanish(): void {
    this.reset('power-on');
  }

  protected override barAddress(shape: BarShape): number {
    return this.#pf.vfBarAddress(shape, this.number);
  }

  override inspect(): Record<string, unknown> {
    return { vf: this.number, ...super.inspect() };
  }
}

/** What VFs of a PF are made of. */
function vfParts(pf: FunctionParts): FunctionParts {
  const dump = new Uint8Array(PCI_CFG_SPACE_EXP_BYTES);
  const put = (at: number, bytes: number, value: number): void => {
    for (let i = 0; i < bytes; i++) dump[at + i] = value >>> (8 * i);
  };
  put(PCI.VENDOR_ID, 2, PCI_SRIOV_VF_ID);
  put(PCI.DEVICE_ID, 2, PCI_SRIOV_VF_ID);
  put(PCI.STATUS, 2, PCI_STATUS.CAP_LIST);
  put(PCI.REVISION_ID, 4, pf.config.u32(PCI.REVISION_ID));
  put(PCI.HEADER_TYPE, 1, PCI_HEADER_TYPE.NORMAL);
  put(PCI.SUBSYSTEM_VENDOR_ID, 4, pf.config.u32(PCI.SUBSYSTEM_VENDOR_ID));
  put(PCI.CAPABILITY_LIST, 1, VF_EXPRESS);
  const msix = vfMsix(pf);
  put(VF_EXPRESS, 2, PCI_CAP_ID.EXPRESS | ((msix === undefined ? 0 : VF_MSIX) << 8));
  if (pf.fields.express >= 0)
    for (let i = 2; i < VF_EXPRESS_BYTES; i++) dump[VF_EXPRESS + i] = pf.config.u8(pf.fields.express + i);
  // No firmware has seen a VF: its controls and what it logs are as after a reset.
  put(VF_EXPRESS + PCI_EXP.DEVCTL, 2, PCI_EXP_DEVCTL_DEFAULT);
  put(VF_EXPRESS + PCI_EXP.LNKCTL2, 2, dump[VF_EXPRESS + PCI_EXP.LNKCAP]! & PCI_EXP_LNKCTL2_SPEED_MASK);
  for (const off of [PCI_EXP.DEVSTA, PCI_EXP.LNKCTL, PCI_EXP.RTCTL, PCI_EXP.DEVCTL2]) put(VF_EXPRESS + off, 2, 0);
  put(VF_EXPRESS + PCI_EXP.FLAGS, 2, 2 & PCI_EXP_FLAGS.VERSION_MASK);
  const devcap = pf.fields.express < 0 ? 0 : pf.config.u32(pf.fields.express + PCI_EXP.DEVCAP);
  put(VF_EXPRESS + PCI_EXP.DEVCAP, 4, (devcap | PCI_EXP_DEVCAP_FLR) >>> 0);
  if (msix !== undefined) {
    put(VF_MSIX, 2, PCI_CAP_ID.MSIX);
    put(VF_MSIX + PCI_MSIX.FLAGS, 2, (msix.vectors - 1) & PCI_MSIX_FLAGS.SIZE_MASK);
    put(VF_MSIX + PCI_MSIX.TABLE, 4, msix.tableOffset | msix.tableBar);
    put(VF_MSIX + PCI_MSIX.PBA, 4, msix.pbaOffset | msix.pbaBar);
  }
  const config = new ConfigSpace(dump, PCI_CFG_SPACE_EXP_BYTES);
  const fields = declareVf(config, dump);
  // The model looks for its registers in the VF BARs; none of them decodes in the VF itself.
  return {
    config,
    fields,
    bars: pf.vfBars,
    decodesBars: false,
    vfBars: [],
    msix,
    configBytes: PCI_CFG_SPACE_EXP_BYTES,
  };
}

/** Of the command register a VF has Bus Master Enable only. */
function declareVf(config: ConfigSpace, dump: Uint8Array): FunctionParts['fields'] {
  const fields = declareFields(config, dump, []);
  config.forbid(PCI.COMMAND, 2, 0xffff & ~PCI_COMMAND.MASTER);
  config.forbid(PCI.CACHE_LINE_SIZE, 1, 0xff);
  config.forbid(PCI.INTERRUPT_LINE, 1, 0xff);
  return fields;
}

/** MSI-X of a VF: from the last memory VF BAR's start, or from its middle when it is the only one. */
function vfMsix(pf: FunctionParts): MsixShape | undefined {
  const bar = pf.vfBars[pf.vfBars.length - 1];
  if (pf.msix === undefined || bar === undefined) return undefined;
  const tableOffset = pf.vfBars.length > 1 ? 0 : bar.sizeBytes / 2;
  const room = (bar.sizeBytes - tableOffset) / 2;
  const vectors = Math.min(pf.msix.vectors, VF_VECTORS_MAX, Math.floor(room / PCI_MSIX_ENTRY.BYTES));
  if (vectors < 1 || tableOffset + room + msixPbaBytes(vectors) > bar.sizeBytes) return undefined;
  return {
    capability: VF_MSIX,
    vectors,
    tableBar: bar.index,
    tableOffset,
    pbaBar: bar.index,
    pbaOffset: tableOffset + room,
  };
}
