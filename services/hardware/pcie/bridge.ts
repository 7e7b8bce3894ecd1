/**
 * A PCI-to-PCI bridge: a root port, a switch port, or a conventional bridge (PCIe 5.0, "Type 1 Configuration Space
 * Header"; PCI-to-PCI Bridge Architecture, "Secondary Bus Reset").
 * It passes configuration requests by its bus numbers, memory requests downstream by its windows, and requests of what
 * is below upstream when its own Bus Master Enable is set.
 * Not modelled: peer-to-peer; every request goes upstream to the SMMU, as with ACS redirection on.
 * Not modelled: I/O windows; software can program them, no I/O request passes.
 * Not modelled: requester id aliases behind PCIe-to-PCI bridges; functions there keep their own.
 */
import {
  PCI_BRIDGE,
  PCI_BRIDGE_CTL,
  PCI_BRIDGE_MEMORY_GRANULE,
  PCI_BRIDGE_RANGE_TYPE_MASK,
} from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXP_DEVCTL2_ARI, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { deviceOf } from '#shared/ids/sbdf.ts';
import { Inert } from './functions/inert.ts';
import { PciBus } from './pci-bus.ts';
import { PciFunction, type UpstreamPort } from './pci-function.ts';
import type { ResetKind } from './reset.ts';

/** Bus addresses that pass downstream; closed when `from` is above `to`. */
interface Window {
  from: number;
  to: number;
}

export class Bridge extends PciFunction implements UpstreamPort {
  readonly below = new PciBus();
  readonly #above: UpstreamPort;
  readonly #memory: Window = { from: 1, to: 0 };
  readonly #prefetchable: Window = { from: 1, to: 0 };
  #held = false;

  constructor(fn: BoardFunction, upstream: UpstreamPort) {
    super(fn, upstream, () => new Inert());
    this.#above = upstream;
    this.#refreshWindows();
  }

  get secondaryBus(): number {
    return this.config.u8(PCI_BRIDGE.SECONDARY_BUS);
  }

  /** The function at a bus number behind this bridge, or undefined when the request ends here. */
  find(bus: number, devfn: number): PciFunction | undefined {
    const secondary = this.secondaryBus;
    if (secondary === 0 || bus < secondary || bus > this.config.u8(PCI_BRIDGE.SUBORDINATE_BUS) || this.#held)
      return undefined;
    if (bus === secondary) return this.#reaches(devfn) ? this.below.at(devfn) : undefined;
    for (const fn of this.below.functions()) {
      const found = fn instanceof Bridge ? fn.find(bus, devfn) : undefined;
      if (found !== undefined) return found;
    }
    return undefined;
  }

  override configWrite(offset: number, size: number, value: number, bus: number): void {
    super.configWrite(offset, size, value, bus);
    this.#refreshWindows();
    const held = (this.config.u16(PCI_BRIDGE.CONTROL) & PCI_BRIDGE_CTL.BUS_RESET) !== 0;
    if (held && !this.#held) this.below.reset('hot');
    this.#held = held;
  }

  override memoryRead(address: number, size: number): number {
    const own = super.memoryRead(address, size);
    if (own >= 0 || !this.#passesDown(address)) return own;
    return this.below.memoryRead(address, size);
  }

  override memoryWrite(address: number, size: number, value: number): boolean {
    if (super.memoryWrite(address, size, value)) return true;
    return this.#passesDown(address) && this.below.memoryWrite(address, size, value);
  }

  dmaRead(rid: number, iova: number, into: Uint8Array): number {
    return this.#passesUp ? this.#above.dmaRead(rid, iova, into) : 0;
  }

  dmaWrite(rid: number, iova: number, from: Uint8Array): number {
    return this.#passesUp ? this.#above.dmaWrite(rid, iova, from) : 0;
  }

  /** A bridge in reset resets everything below it. */
  override reset(kind: ResetKind): void {
    super.reset(kind);
    // During construction of the base class there is nothing below yet.
    if (!(#held in this)) return;
    this.#held = false;
    this.#refreshWindows();
    this.below.reset(kind === 'function' ? 'hot' : kind);
  }

  override inspect(): Record<string, unknown> {
    return {
      ...super.inspect(),
      primaryBus: this.config.u8(PCI_BRIDGE.PRIMARY_BUS),
      secondaryBus: this.secondaryBus,
      subordinateBus: this.config.u8(PCI_BRIDGE.SUBORDINATE_BUS),
      memoryWindow: { ...this.#memory },
      prefetchableWindow: { ...this.#prefetchable },
      heldInReset: this.#held,
      below: [...this.below.functions()].map((fn) => fn.inspect()),
    };
  }

  get #passesUp(): boolean {
    return this.isMaster && !this.#held;
  }

  #passesDown(address: number): boolean {
    if (!this.decodesMemory || this.#held) return false;
    const { from, to } = this.#memory;
    return (
      (address >= from && address <= to) || (address >= this.#prefetchable.from && address <= this.#prefetchable.to)
    );
  }

  /** A link carries device 0 only, unless ARI Forwarding gives its whole device and function number to one device. */
  #reaches(devfn: number): boolean {
    const { expressType, devctl2 } = this.fields;
    const link = expressType === PCI_EXP_TYPE.ROOT_PORT || expressType === PCI_EXP_TYPE.DOWNSTREAM;
    if (!link || deviceOf(devfn) === 0) return true;
    return devctl2 >= 0 && (this.config.u16(devctl2) & PCI_EXP_DEVCTL2_ARI) !== 0;
  }

  #refreshWindows(): void {
    const { config } = this;
    const granule = PCI_BRIDGE_MEMORY_GRANULE;
    const low = (register: number): number => (config.u16(register) >>> 4) * granule;
    this.#memory.from = low(PCI_BRIDGE.MEMORY_BASE);
    this.#memory.to = low(PCI_BRIDGE.MEMORY_LIMIT) + granule - 1;
    const wide = (config.u16(PCI_BRIDGE.PREF_MEMORY_BASE) & PCI_BRIDGE_RANGE_TYPE_MASK) !== 0;
    const high = (register: number): number => (wide ? config.u32(register) * 2 ** 32 : 0);
    this.#prefetchable.from = high(PCI_BRIDGE.PREF_BASE_UPPER32) + low(PCI_BRIDGE.PREF_MEMORY_BASE);
    this.#prefetchable.to = high(PCI_BRIDGE.PREF_LIMIT_UPPER32) + low(PCI_BRIDGE.PREF_MEMORY_LIMIT) + granule - 1;
  }
}
