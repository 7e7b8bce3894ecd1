/**
 * A PCI-to-PCI bridge: a root port, a port of a switch, a PCIe-to-PCI or a conventional bridge (PCIe 5.0, "Type 1
 * Configuration Space Header", "Switch"; PCI-to-PCI Bridge Architecture; PCI Express to PCI/PCI-X Bridge, "Requester
 * ID").
 * It passes configuration requests by its bus numbers, memory requests downstream by its windows, and requests of what
 * is below upstream when its own Bus Master Enable is set; pins and error messages go up through it.
 * What comes from a conventional bus has no requester id of its own: a PCIe-to-PCI bridge gives it its secondary bus
 * and device 0, function 0; a conventional bridge gives it the bridge's own.
 * Link Disable holds what is below in reset as Secondary Bus Reset does.
 * Not modelled: I/O windows; software can program them, no I/O request passes.
 * Not modelled: hot plug; the link is up whenever it is not held, and slot status reads as dumped.
 */
import {
  PCI_BRIDGE,
  PCI_BRIDGE_CTL,
  PCI_BRIDGE_MEMORY_GRANULE,
  PCI_BRIDGE_RANGE_TYPE_MASK,
} from '#shared/arch/pci/bridge-header.ts';
import { PCI_ACS, PCI_AER_UNCOR } from '#shared/arch/pci/capability.ts';
import {
  PCI_EXP_DEVCTL2_ARI,
  PCI_EXP_LNKCTL_LD,
  PCI_EXP_RTCTL_RRS_SVE,
  PCI_EXP_TYPE,
} from '#shared/arch/pci/express.ts';
import { PCI_STATUS } from '#shared/arch/pci/header.ts';
import { swizzle } from '#shared/arch/pci/intx.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { deviceOf } from '#shared/ids/sbdf.ts';
import { acsAdmits, acsForwards } from './acs.ts';
import { type Decoder, decoder, WINDOW } from './decode-table.ts';
import { ERROR_MESSAGE } from './errors.ts';
import { Inert } from './functions/inert.ts';
import { WiredOr } from './intx.ts';
import { type BusKind, PciBus, type UpstreamPort } from './pci-bus.ts';
import { PciFunction } from './pci-function.ts';
import type { ResetKind } from './reset.ts';
import { COMPLETION } from './route.ts';

export class Bridge extends PciFunction implements UpstreamPort {
  readonly below: PciBus;
  readonly #memory: Decoder;
  readonly #prefetchable: Decoder;
  readonly #pins: WiredOr;
  #held = false;
  /** Bus numbers, power, link and ARI as configuration requests last met them. */
  #seen = -1;

  constructor(fn: BoardFunction, bus: PciBus) {
    super(fn, bus, () => new Inert());
    this.below = new PciBus(busBelow(this.fields.expressType), this, bus.route, bus.scheduler);
    this.#memory = decoder(this, WINDOW);
    this.#prefetchable = decoder(this, WINDOW + 1);
    this.#pins = new WiredOr((pin, level) => this.bus.setPin(this.devfn, pin, level));
  }

  get secondaryBus(): number {
    return this.config.u8(PCI_BRIDGE.SECONDARY_BUS);
  }

  get subordinateBus(): number {
    return this.config.u8(PCI_BRIDGE.SUBORDINATE_BUS);
  }

  /** The function at a bus number behind this bridge, or undefined when the request ends here. */
  find(bus: number, devfn: number): PciFunction | undefined {
    const secondary = this.secondaryBus;
    if (secondary === 0 || bus < secondary || bus > this.subordinateBus || this.#held || this.power !== 0)
      return undefined;
    if (bus === secondary && !this.#reaches(devfn)) return undefined;
    const here = bus === secondary ? this.below.at(devfn) : undefined;
    if (here !== undefined) return here;
    const virtual = this.below.virtualAt((bus << 8) | devfn);
    if (virtual !== undefined || bus === secondary) return virtual;
    for (const fn of this.below.functions()) {
      const found = fn instanceof Bridge ? fn.find(bus, devfn) : undefined;
      if (found !== undefined) return found;
    }
    return undefined;
  }

  // Downstream.

  override readAt(d: Decoder, address: number, size: number): number {
    if (d.index < WINDOW) return super.readAt(d, address, size);
    const value = this.#held ? this.#refuse(address, size, false) : this.below.memoryRead(address, size);
    if (value >= 0) return value;
    const { status } = this.bus.route;
    const bit =
      status === COMPLETION.UNSUPPORTED
        ? PCI_STATUS.REC_MASTER_ABORT
        : status === COMPLETION.ABORT
          ? PCI_STATUS.REC_TARGET_ABORT
          : 0;
    this.config.poke(PCI_BRIDGE.SEC_STATUS, 2, bit, 0xffff);
    return -1;
  }

  override writeAt(d: Decoder, address: number, size: number, value: number): boolean {
    if (d.index < WINDOW) return super.writeAt(d, address, size, value);
    if (!this.#held) return this.below.memoryWrite(address, size, value);
    this.#refuse(address, size, true);
    return false;
  }

  // Upstream.

  request(from: PciFunction, rid: number, at: number, address: number, data: Uint8Array, write: boolean): number {
    const { route } = this.bus;
    if (!this.isMaster || this.#held) {
      route.status = COMPLETION.UNSUPPORTED;
      return 0;
    }
    if (!acsAdmits(this.config, this.fields.acs, rid, at, this.secondaryBus, this.subordinateBus)) {
      this.errors.detected(PCI_AER_UNCOR.ACS_VIOLATION, rid, at, route.wide ?? address, data.length, write);
      route.status = COMPLETION.ABORT;
      return 0;
    }
    const { expressType } = this.fields;
    const alias = expressType === PCI_EXP_TYPE.PCIE_TO_PCI ? this.secondaryBus << 8 : expressType < 0 ? this.rid : rid;
    // Outside of every window.
    if (route.wide !== undefined) return this.bus.send(this, alias, at, address, data, write);
    const end = address + data.length;
    let done = 0;
    while (done < data.length) {
      const start = address + done;
      const bytes = this.#windowEdge(start, end) - start;
      if (this.#leadsDown(start) && !this.#sendsBackUp(from)) {
        // It would go where it came from.
        this.errors.detected(PCI_AER_UNCOR.UNSUPPORTED_REQUEST, rid, at, start, bytes, write);
        route.status = COMPLETION.UNSUPPORTED;
        return done;
      }
      const piece = bytes === data.length ? data : data.subarray(done, done + bytes);
      const got = this.bus.send(this, alias, at, start, piece, write);
      done += got;
      if (got < bytes) return done;
    }
    return done;
  }

  override configWrite(offset: number, size: number, value: number, bus: number): void {
    super.configWrite(offset, size, value, bus);
    if (this.fields.aerRoot >= 0) this.setIntx(this.errors.rootInterrupt);
  }

  setPin(devfn: number, pin: number, level: boolean): void {
    // On a link everything is device 0, whatever the numbers of its functions say with ARI.
    this.#pins.change(swizzle(pin, this.below.kind === 'link' ? 0 : deviceOf(devfn)), level);
  }

  errorMessage(kind: number, rid: number): void {
    if (this.#held) return;
    if (kind !== ERROR_MESSAGE.COR) this.config.poke(PCI_BRIDGE.SEC_STATUS, 2, PCI_STATUS.SIG_SYSTEM_ERROR, 0xffff); // Received System Error, here
    const forwards = (this.config.u16(PCI_BRIDGE.CONTROL) & PCI_BRIDGE_CTL.SERR) !== 0;
    if (!forwards) return;
    if (this.fields.expressType === PCI_EXP_TYPE.ROOT_PORT) this.#receive(kind, rid);
    else if (this.errors.enabled(kind)) this.bus.above.errorMessage(kind, rid);
  }

  /** An error that this port reports itself: a root port hears it at once. */
  protected override sendError(kind: number): void {
    if (this.fields.expressType === PCI_EXP_TYPE.ROOT_PORT) this.#receive(kind, this.rid);
    else super.sendError(kind);
  }

  get showsRetries(): boolean {
    const { rootControl } = this.fields;
    if (rootControl >= 0) return (this.config.u16(rootControl) & PCI_EXP_RTCTL_RRS_SVE) !== 0;
    return this.bus.above.showsRetries;
  }

  /** A bridge in reset resets everything below it. */
  override reset(kind: ResetKind): void {
    super.reset(kind);
    this.#held = false;
    this.below.reset(kind === 'function' ? 'hot' : kind);
    this.refresh();
  }

  override save(): unknown {
    return { own: super.save(), held: this.#held, pins: this.#pins.save(), below: this.below.save() };
  }

  override load(state: unknown): void {
    const saved = state as { own: unknown; held: boolean; pins: unknown; below: unknown };
    this.#held = saved.held;
    this.#pins.load(saved.pins);
    super.load(saved.own);
    this.below.load(saved.below);
  }

  override inspect(): Record<string, unknown> {
    return {
      ...super.inspect(),
      primaryBus: this.config.u8(PCI_BRIDGE.PRIMARY_BUS),
      secondaryBus: this.secondaryBus,
      subordinateBus: this.subordinateBus,
      memoryWindow: rangeOf(this.#memory),
      prefetchableWindow: rangeOf(this.#prefetchable),
      heldInReset: this.#held,
      below: [...this.below.functions()].map((fn) => fn.inspect()),
    };
  }

  protected override refresh(): void {
    super.refresh();
    const { config } = this;
    const granule = PCI_BRIDGE_MEMORY_GRANULE;
    const low = (register: number): number => (config.u16(register) >>> 4) * granule;
    const wide = (config.u16(PCI_BRIDGE.PREF_MEMORY_BASE) & PCI_BRIDGE_RANGE_TYPE_MASK) !== 0;
    const high = (register: number): number => (wide ? config.u32(register) * 2 ** 32 : 0);
    const open = this.decodesMemory;
    const { table } = this.bus;
    const from = open ? low(PCI_BRIDGE.MEMORY_BASE) : -1;
    table.set(this.#memory, from, low(PCI_BRIDGE.MEMORY_LIMIT) + granule - 1);
    table.set(
      this.#prefetchable,
      open ? high(PCI_BRIDGE.PREF_BASE_UPPER32) + low(PCI_BRIDGE.PREF_MEMORY_BASE) : -1,
      high(PCI_BRIDGE.PREF_LIMIT_UPPER32) + low(PCI_BRIDGE.PREF_MEMORY_LIMIT) + granule - 1,
    );
    this.#refreshLink();
  }

  /** The bus below goes into reset, or its numbers change. */
  #refreshLink(): void {
    const { linkControl, devctl2 } = this.fields;
    const disabled = linkControl >= 0 && (this.config.u16(linkControl) & PCI_EXP_LNKCTL_LD) !== 0;
    const held = disabled || (this.config.u16(PCI_BRIDGE.CONTROL) & PCI_BRIDGE_CTL.BUS_RESET) !== 0;
    const begins = held && !this.#held;
    this.#held = held;
    const ari = devctl2 >= 0 ? this.config.u16(devctl2) & PCI_EXP_DEVCTL2_ARI : 0;
    const seen = this.secondaryBus * 2 ** 16 + this.subordinateBus * 2 ** 8 + (held ? 0x80 : 0) + ari + this.power;
    if (seen !== this.#seen) this.bus.topologyChanged();
    this.#seen = seen;
    if (begins) this.below.reset('hot');
  }

  #receive(kind: number, rid: number): void {
    if (!this.errors.received(kind, rid)) return;
    if (this.messageSignalled) this.raise(this.errors.rootVector);
    else this.setIntx(this.errors.rootInterrupt);
  }

  /** Below is in reset: the port itself answers. */
  #refuse(address: number, size: number, write: boolean): number {
    const { route } = this.bus;
    route.status = COMPLETION.UNSUPPORTED;
    this.errors.detected(PCI_AER_UNCOR.UNSUPPORTED_REQUEST, route.rid, route.addressType, address, size, write);
    return -1;
  }

  /** Whether an address that leads back down goes up nevertheless, since ACS sent it here. */
  #sendsBackUp(from: PciFunction): boolean {
    // Inside a switch the redirecting port stands below this one; a root or downstream port decides itself.
    if (this.fields.expressType === PCI_EXP_TYPE.UPSTREAM)
      return from.fields.acs >= 0 && (from.config.u16(from.fields.acs + PCI_ACS.CTRL) & PCI_ACS.RR) !== 0;
    return acsForwards(this.config, this.fields.acs);
  }

  #leadsDown(address: number): boolean {
    const { decodesMemory } = this;
    return decodesMemory && (holds(this.#memory, address) || holds(this.#prefetchable, address));
  }

  /** The next address above `address` where a window begins or ends, at most `end`. */
  #windowEdge(address: number, end: number): number {
    let edge = end;
    for (const window of [this.#memory, this.#prefetchable]) {
      if (window.from > address && window.from < edge) edge = window.from;
      if (window.from >= 0 && window.to >= address && window.to + 1 < edge) edge = window.to + 1;
    }
    return edge;
  }

  /** A link carries device 0 only, unless ARI Forwarding gives its whole device and function number to one device. */
  #reaches(devfn: number): boolean {
    if (this.below.kind !== 'link' || deviceOf(devfn) === 0) return true;
    const { devctl2 } = this.fields;
    return devctl2 >= 0 && (this.config.u16(devctl2) & PCI_EXP_DEVCTL2_ARI) !== 0;
  }
}

function busBelow(expressType: number): BusKind {
  switch (expressType) {
    case PCI_EXP_TYPE.ROOT_PORT:
    case PCI_EXP_TYPE.DOWNSTREAM:
    case PCI_EXP_TYPE.PCI_TO_PCIE:
      return 'link';
    case PCI_EXP_TYPE.UPSTREAM:
      return 'switch';
    default:
      return 'conventional';
  }
}

function holds(d: Decoder, address: number): boolean {
  return d.from >= 0 && address >= d.from && address <= d.to;
}

function rangeOf({ from, to }: Decoder): unknown {
  return from < 0 ? null : { from, to };
}
