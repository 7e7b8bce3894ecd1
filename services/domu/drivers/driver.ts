/**
 * What a driver is to this kernel, and what the PCI core does for one: enable a function, read its BARs, give it
 * MSI-X vectors (Linux drivers/pci/pci.c, drivers/pci/msi/msi.c).
 * Not modelled: MSI and INTx for drivers here; a function without MSI-X gets no vectors. Power management.
 */
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import {
  PCI_MSIX,
  PCI_MSIX_BIR_MASK,
  PCI_MSIX_ENTRY,
  PCI_MSIX_ENTRY_MASKED,
  PCI_MSIX_FLAGS,
  PCI_MSIX_OFFSET_MASK,
} from '#shared/arch/pci/msix.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf, ridOf, type Sbdf } from '#shared/ids/sbdf.ts';
import { BusAbort, type CpuBus, write32Op } from '#shared/kernel/cpu-bus.ts';
import { type BarInfo, type ConfigAccess, type FoundFunction, findCapability } from '#shared/kernel/pci-core.ts';
import type { IrqDomain, Vectors } from '../its/irq-domain.ts';
import type { Pages } from '../kernel/pages.ts';

/** What a driver may use. */
export interface DriverKit {
  readonly config: ConfigAccess;
  readonly cpu: CpuBus;
  /** Undefined on a machine that takes no messages. */
  readonly irqDomain: IrqDomain | undefined;
  /** Memory for queues and buffers; what a driver took it gives back in `remove`. */
  readonly pages: Pages;
  trace(event: string, detail: unknown): void;
}

/** The MSI-X capability as it was found; -1 and 0 where a function has none. */
export interface MsixInfo {
  /** Offset of the capability. */
  readonly at: number;
  readonly vectors: number;
  readonly tableBar: number;
  readonly tableOffset: number;
  readonly pbaBar: number;
  readonly pbaOffset: number;
}

/** A function of the virtual bus, as the scan found it. */
export interface PciFunction extends FoundFunction {
  readonly bars: readonly BarInfo[];
  readonly msix: MsixInfo | undefined;
}

/** A driver at work on one function. */
export interface BoundDriver {
  readonly name: string;
  /** Stops the function and gives back what it uses. The function may be gone already: its registers may abort. */
  remove(): Op<void>;
  inspect(): unknown;
}

export interface Driver {
  readonly name: string;
  /** Binds the function, or gives undefined when it is not one of this driver's. */
  probe(fn: PciFunction, kit: DriverKit): Op<BoundDriver | undefined>;
}

/** The function did not do what a driver needs. */
export class DriverError extends Error {
  override name = 'DriverError';
}

/** Memory decoding and bus mastering on. Throws DriverError when they do not stay on. */
export function* enableFunction(config: ConfigAccess, sbdf: Sbdf): Op<void> {
  const on = PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER;
  const command = yield* config.read(sbdf, PCI.COMMAND, 2);
  yield* config.write(sbdf, PCI.COMMAND, 2, command | on);
  const now = yield* config.read(sbdf, PCI.COMMAND, 2);
  if (now === 0xffff || (now & on) !== on) {
    throw new DriverError(`${formatSbdf(sbdf)}: the command register stays 0x${now.toString(16)}`);
  }
}

/** Memory decoding and bus mastering off, as far as the function is still there. */
export function* disableFunction(config: ConfigAccess, sbdf: Sbdf): Op<void> {
  const command = yield* config.read(sbdf, PCI.COMMAND, 2);
  if (command === 0xffff) return;
  yield* config.write(sbdf, PCI.COMMAND, 2, command & ~(PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER));
}

/** The MSI-X capability of a function. */
export function* readMsix(config: ConfigAccess, sbdf: Sbdf): Op<MsixInfo | undefined> {
  const at = yield* findCapability(config, sbdf, PCI_CAP_ID.MSIX);
  if (at === 0) return undefined;
  const flags = yield* config.read(sbdf, at + PCI_MSIX.FLAGS, 2);
  const table = yield* config.read(sbdf, at + PCI_MSIX.TABLE, 4);
  const pba = yield* config.read(sbdf, at + PCI_MSIX.PBA, 4);
  return {
    at,
    vectors: (flags & PCI_MSIX_FLAGS.SIZE_MASK) + 1,
    tableBar: table & PCI_MSIX_BIR_MASK,
    tableOffset: (table & PCI_MSIX_OFFSET_MASK) >>> 0,
    pbaBar: pba & PCI_MSIX_BIR_MASK,
    pbaOffset: (pba & PCI_MSIX_OFFSET_MASK) >>> 0,
  };
}

/** Vectors that a driver which can use `most` gets: none where messages reach nobody. */
export function vectorsFor(fn: PciFunction, kit: DriverKit, most: number): number {
  return kit.irqDomain === undefined ? 0 : Math.min(fn.msix?.vectors ?? 0, most);
}

/** The vectors of one function: mapped in the ITS, written into its table, enabled. */
export class MsixVectors {
  readonly #fn: PciFunction;
  readonly #msix: MsixInfo;
  readonly #kit: DriverKit;
  readonly #irqDomain: IrqDomain;
  readonly #vectors: Vectors;

  private constructor(fn: PciFunction, msix: MsixInfo, kit: DriverKit, irqDomain: IrqDomain, vectors: Vectors) {
    this.#fn = fn;
    this.#msix = msix;
    this.#kit = kit;
    this.#irqDomain = irqDomain;
    this.#vectors = vectors;
  }

  get count(): number {
    return this.#vectors.count;
  }

  get firstLpi(): number {
    return this.#vectors.firstLpi;
  }

  /**
   * Enables `count` vectors of a function that decodes memory. The enable bit and the mask of the whole function go
   * through the backend, the table straight to the device. Throws DriverError and what the interrupt domain throws.
   */
  static *enable(fn: PciFunction, count: number, kit: DriverKit, onVector: (vector: number) => void): Op<MsixVectors> {
    const { msix } = fn;
    const { irqDomain } = kit;
    if (irqDomain === undefined) throw new DriverError(`${formatSbdf(fn.sbdf)}: this machine takes no messages`);
    const table = fn.bars.find((b) => b.index === msix?.tableBar);
    if (msix === undefined || table === undefined || table.kind === 'io') {
      throw new DriverError(`${formatSbdf(fn.sbdf)} has no MSI-X table`);
    }
    const vectors = yield* irqDomain.allocate(ridOf(fn.sbdf), count, onVector);
    const self = new MsixVectors(fn, msix, kit, irqDomain, vectors);
    try {
      yield* self.#setFlags(PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL);
      yield* kit.cpu.batch(self.#entries(table.address));
      const flags = yield* self.#setFlags(PCI_MSIX_FLAGS.ENABLE);
      const both = PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL;
      if ((flags & both) !== PCI_MSIX_FLAGS.ENABLE) {
        throw new DriverError(`${formatSbdf(fn.sbdf)}: MSI-X is not enabled (control 0x${flags.toString(16)})`);
      }
    } catch (error) {
      yield* self.disable();
      throw error;
    }
    return self;
  }

  /** Off in the function as far as it is there, then unmapped in the ITS. */
  *disable(): Op<void> {
    yield* this.#setFlags(0);
    const table = this.#fn.bars.find((b) => b.index === this.#msix.tableBar)!;
    const masks = Array.from({ length: this.count }, (_, v) =>
      write32Op(this.#entryAt(table.address, v) + PCI_MSIX_ENTRY.VECTOR_CTRL, PCI_MSIX_ENTRY_MASKED),
    );
    try {
      yield* this.#kit.cpu.batch(masks);
    } catch (error) {
      if (!(error instanceof BusAbort)) throw error;
      this.#kit.trace('msix-table-gone', { sbdf: formatSbdf(this.#fn.sbdf), ipa: error.ipa });
    }
    yield* this.#irqDomain.release(this.#vectors);
  }

  #entries(tableBase: number) {
    const { messageAddress } = this.#vectors;
    return Array.from({ length: this.count }, (_, v) => {
      const entry = this.#entryAt(tableBase, v);
      return [
        write32Op(entry + PCI_MSIX_ENTRY.ADDRESS_LO, messageAddress >>> 0),
        write32Op(entry + PCI_MSIX_ENTRY.ADDRESS_HI, Math.floor(messageAddress / 0x1_0000_0000)),
        write32Op(entry + PCI_MSIX_ENTRY.DATA, v),
        write32Op(entry + PCI_MSIX_ENTRY.VECTOR_CTRL, 0),
      ];
    }).flat();
  }

  #entryAt(tableBase: number, vector: number): number {
    return tableBase + this.#msix.tableOffset + vector * PCI_MSIX_ENTRY.BYTES;
  }

  /** Sets ENABLE and MASKALL and gives the register as it reads then. */
  *#setFlags(bits: number): Op<number> {
    const at = this.#msix.at + PCI_MSIX.FLAGS;
    const flags = yield* this.#kit.config.read(this.#fn.sbdf, at, 2);
    if (flags === 0xffff) return flags;
    const rest = flags & ~(PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL);
    yield* this.#kit.config.write(this.#fn.sbdf, at, 2, rest | bits);
    return yield* this.#kit.config.read(this.#fn.sbdf, at, 2);
  }
}
