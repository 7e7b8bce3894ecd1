/**
 * What a driver is to this kernel, and what the PCI core does for one: enable a function, read its BARs, give it
 * MSI-X vectors or its line (Linux drivers/pci/pci.c, drivers/pci/msi/).
 * Not modelled: MSI for drivers here; a function without MSI-X gets its line. Power management.
 */
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_PIN } from '#shared/arch/pci/intx.ts';
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
import type { LineHandler, SharedLines } from '../kernel/shared-lines.ts';

/** What a driver may use. */
export interface DriverKit {
  readonly config: ConfigAccess;
  readonly cpu: CpuBus;
  /** Undefined on a machine that takes no messages. */
  readonly irqDomain: IrqDomain | undefined;
  readonly lines: SharedLines;
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
  /** The INTID that its pin leads to; 0 for none. */
  readonly intx: number;
  /** What its driver gets. */
  readonly irqs: IrqKind;
}

export type IrqKind = 'msix' | 'intx' | 'none';

/** MSI-X when the function has it and `msi` allows it, else its line, if there is one. */
export function irqsOf(msix: MsixInfo | undefined, intx: number, msi: boolean): IrqKind {
  if (msi && msix !== undefined) return 'msix';
  return intx !== 0 ? 'intx' : 'none';
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

/** The INTID of a function that has a pin, and `line` that it leads to; else 0. */
export function* readIntx(config: ConfigAccess, sbdf: Sbdf, line: number | undefined): Op<number> {
  if (line === undefined) return 0;
  const pin = yield* config.read(sbdf, PCI.INTERRUPT_PIN, 1);
  return pin >= PCI_PIN.A && pin <= PCI_PIN.D ? line : 0;
}

/** Interrupts of one function, on. */
export interface IrqVectors {
  readonly kind: IrqKind;
  readonly count: number;
  /** The LPI of vector 0, or the SPI of the line. */
  readonly firstIntid: number;
  disable(): Op<void>;
}

export interface IrqHandlers {
  onVector(vector: number): void;
  /** The line is high. Whether it is this function's doing; it has let go of the line then. */
  onLine: LineHandler;
}

/**
 * What a driver may have (pci_alloc_irq_vectors): up to `max` MSI-X vectors, or the line, which counts as one; undefined
 * for nothing. The function decodes memory. Throws as either does.
 */
export function* enableIrqs(
  fn: PciFunction,
  max: number,
  kit: DriverKit,
  handlers: IrqHandlers,
): Op<IrqVectors | undefined> {
  if (fn.irqs === 'none') return undefined;
  if (fn.irqs === 'intx') return yield* IntxLine.enable(fn, kit, handlers.onLine);
  const count = Math.min(fn.msix?.vectors ?? 0, max);
  return yield* MsixVectors.enable(fn, count, kit, (vector) => handlers.onVector(vector));
}

/** The line of one function, which others may share: its handler is in, and INTX_DISABLE is clear. */
export class IntxLine implements IrqVectors {
  readonly kind = 'intx';
  readonly count = 1;
  readonly #fn: PciFunction;
  readonly #kit: DriverKit;
  readonly #handler: LineHandler;

  private constructor(fn: PciFunction, kit: DriverKit, handler: LineHandler) {
    this.#fn = fn;
    this.#kit = kit;
    this.#handler = handler;
  }

  get firstIntid(): number {
    return this.#fn.intx;
  }

  /** Throws DriverError when INTX_DISABLE stays set, and GicError. */
  static *enable(fn: PciFunction, kit: DriverKit, handler: LineHandler): Op<IntxLine> {
    const self = new IntxLine(fn, kit, handler);
    yield* kit.lines.request(fn.intx, handler);
    const command = yield* self.#setDisabled(false);
    if ((command & PCI_COMMAND.INTX_DISABLE) === 0) return self;
    yield* kit.lines.free(fn.intx, handler);
    throw new DriverError(`${formatSbdf(fn.sbdf)}: INTx stays disabled (command 0x${command.toString(16)})`);
  }

  /** The function, as far as it is there, lets go of the line first: others may still be on it. */
  *disable(): Op<void> {
    yield* this.#setDisabled(true);
    yield* this.#kit.lines.free(this.#fn.intx, this.#handler);
  }

  /** Gives the command register as it reads then. */
  *#setDisabled(disabled: boolean): Op<number> {
    const { config } = this.#kit;
    const { sbdf } = this.#fn;
    const command = yield* config.read(sbdf, PCI.COMMAND, 2);
    if (command === 0xffff || ((command & PCI_COMMAND.INTX_DISABLE) !== 0) === disabled) return command;
    yield* config.write(sbdf, PCI.COMMAND, 2, command ^ PCI_COMMAND.INTX_DISABLE);
    return yield* config.read(sbdf, PCI.COMMAND, 2);
  }
}

/** The vectors of one function: mapped in the ITS, written into its table, enabled. */
export class MsixVectors implements IrqVectors {
  readonly kind = 'msix';
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

  get firstIntid(): number {
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
