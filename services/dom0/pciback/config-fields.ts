/**
 * Configuration space of an exported function, field by field (Linux drivers/xen/xen-pciback/conf_space*.c): what no field
 * covers reads from the hardware and drops writes.
 * BARs are virtual: the addresses that the toolstack chose, kept here since the attach (T18). A BAR takes all ones, which
 * sizes it, and any other write ends that; no value is stored, so a guest cannot move one (T16).
 * A guest of ours has an ITS and sets up its message interrupts itself (T9): ENABLE and MASKALL of MSI-X, and ENABLE, the
 * vector count, address, data and mask of MSI, pass to the hardware, where Linux keeps them from a guest. Not both at once.
 * A function that no ITS serves shows neither capability, so that its driver takes INTx.
 * INTx (T12): with a line that is bound to the guest, Interrupt Pin is the hardware's, Interrupt Line the low byte of the
 * INTID, and INTX_DISABLE passes to the hardware, where Linux wants allow_interrupt_control for it; clearing it is refused
 * while MSI or MSI-X is on. Without one the pin reads 0, and INTX_DISABLE is set in the hardware and only remembered for
 * the guest: the line may be another domain's (docs/decisions/0019).
 * A virtual function's ids, which read as ones in hardware, are those that its physical function gives; MEMORY of its
 * command register is only remembered, as it has none.
 * Deviates: MEMORY of the command register reaches the hardware both ways; Linux leaves decoding on.
 * Not modelled: I/O BARs and the expansion ROM, which read 0. VPD writes and permissive mode: such writes are dropped.
 */

import { XEN_PCI_ERR } from '#shared/abi/pciif.ts';
import { PCI_CAP_ID, PCI_CAPS_MAX, PCI_PM } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_BAR, PCI_COMMAND, PCI_STATUS, PCI_STD_BARS } from '#shared/arch/pci/header.ts';
import { PCI_PIN } from '#shared/arch/pci/intx.ts';
import { msiLayout, PCI_MSI, PCI_MSI_FLAGS } from '#shared/arch/pci/msi.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import type { Op } from '#shared/core/op.ts';
import type { Sbdf } from '#shared/ids/sbdf.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';

/** A BAR as the guest sees it. */
export interface VirtualBar {
  readonly index: number;
  readonly ipa: number;
  readonly sizeBytes: number;
  readonly wide: boolean;
  readonly prefetchable: boolean;
}

/** The vendor and device id that a guest reads. */
export interface VirtualIds {
  readonly vendorId: number;
  readonly deviceId: number;
}

/** What a guest is to see of a function. */
export interface Served {
  readonly bars: readonly VirtualBar[];
  /** Of a virtual function. */
  readonly ids?: VirtualIds | undefined;
  /** The INTID of the line that the guest has; 0 for none. */
  readonly intx: number;
  /** Its messages can reach the guest. */
  readonly messages: boolean;
}

interface Field {
  readonly offset: number;
  readonly size: 1 | 2 | 4;
  /** The value of the whole field, from what the hardware holds there. */
  readonly read: (hw: number) => number;
  /** Takes the whole field's new value. Gives a XEN_PCI_ERR. */
  readonly write?: (value: number, hw: number) => Op<number>;
}

/** Command bits whose value comes from the hardware: MASTER, SPECIAL, INVALIDATE, VGA_PALETTE, WAIT, FAST_BACK. */
const COMMAND_GUEST = 0x2bc;
/** PMCSR bits that a guest may change: power state, DATA_SELECT, PME_STATUS (which a one clears). */
const PMCSR_WRITABLE = PCI_PM.CTRL_STATE_MASK | 0x1e00 | PCI_PM.CTRL_PME_STATUS;

export class VirtualConfig {
  readonly #access: ConfigAccess;
  readonly #sbdf: Sbdf;
  readonly #configBytes: number;
  readonly #fields: Field[] = [];
  #command = 0;
  /** Whether each BAR register answers with its size. */
  readonly #sizing = new Array<boolean>(PCI_STD_BARS).fill(false);
  #msiAt = 0;
  #msixAt = 0;
  /** INTx is the guest's. */
  readonly #hasLine: boolean;
  /** What the command register always has: INTX_DISABLE of a pin that is not the guest's. */
  #forced = 0;

  private constructor(access: ConfigAccess, sbdf: Sbdf, configBytes: number, hasLine: boolean) {
    this.#access = access;
    this.#sbdf = sbdf;
    this.#configBytes = configBytes;
    this.#hasLine = hasLine;
  }

  /** Sets INTX_DISABLE as it is to be, reads the capability list once and lays the fields over it. */
  static *open(access: ConfigAccess, sbdf: Sbdf, configBytes: number, served: Served): Op<VirtualConfig> {
    const { ids, bars, intx, messages } = served;
    const config = new VirtualConfig(access, sbdf, configBytes, intx !== 0);
    yield* config.#openIntx();
    if (ids !== undefined) {
      config.#fields.push({ offset: PCI.VENDOR_ID, size: 2, read: () => ids.vendorId });
      config.#fields.push({ offset: PCI.DEVICE_ID, size: 2, read: () => ids.deviceId });
    }
    config.#addHeader(bars, intx);
    yield* config.#addCapabilities(messages);
    return config;
  }

  /** `err` is a XEN_PCI_ERR; a refused read gives value 0. */
  *read(offset: number, size: number): Op<{ err: number; value: number }> {
    if (!this.#isValid(offset, size)) return { err: XEN_PCI_ERR.invalid_offset, value: 0 };
    const at = offset & ~3;
    let word = yield* this.#access.read(this.#sbdf, at, 4);
    const hw = word;
    for (const field of this.#overlapping(offset, size))
      word = overlay(word, at, field, field.read(part(hw, at, field)));
    return { err: XEN_PCI_ERR.success, value: cut(word, (offset - at) * 8, size) };
  }

  /** Gives a XEN_PCI_ERR. */
  *write(offset: number, size: number, value: number): Op<number> {
    if (!this.#isValid(offset, size)) return XEN_PCI_ERR.invalid_offset;
    const at = offset & ~3;
    const fields = this.#overlapping(offset, size).filter((f) => f.write !== undefined);
    if (fields.length === 0) return XEN_PCI_ERR.success;
    const hwWord = yield* this.#access.read(this.#sbdf, at, 4);
    let err: number = XEN_PCI_ERR.success;
    for (const field of fields) {
      const hw = part(hwWord, at, field);
      // The bytes of this write, merged over what a read of the field gives now.
      let merged = field.read(hw);
      for (let i = 0; i < field.size; i++) {
        const from = field.offset + i - offset;
        if (from < 0 || from >= size) continue;
        merged = (merged & ~(0xff << (8 * i))) | (((value >>> (8 * from)) & 0xff) << (8 * i));
      }
      const result = yield* field.write!(merged >>> 0, hw);
      if (result !== XEN_PCI_ERR.success) err = result;
    }
    return err;
  }

  #isValid(offset: number, size: number): boolean {
    if (size !== 1 && size !== 2 && size !== 4) return false;
    return offset >= 0 && offset % size === 0 && offset + size <= this.#configBytes;
  }

  #overlapping(offset: number, size: number): Field[] {
    return this.#fields.filter((f) => f.offset < offset + size && offset < f.offset + f.size);
  }

  #hw(offset: number, size: number, value: number): Op<void> {
    return this.#access.write(this.#sbdf, offset, size, value);
  }

  #addHeader(bars: readonly VirtualBar[], intx: number): void {
    this.#fields.push({
      offset: PCI.COMMAND,
      size: 2,
      read: (hw) => (hw & COMMAND_GUEST) | (this.#command & ~COMMAND_GUEST),
      write: (value, hw) => this.#writeCommand(value, hw),
    });
    this.#passByte(PCI.CACHE_LINE_SIZE);
    for (let register = 0; register < PCI_STD_BARS; register++) this.#fields.push(this.#barField(register, bars));
    this.#fields.push({ offset: PCI.ROM_ADDRESS, size: 4, read: () => 0 });
    this.#fields.push({ offset: PCI.INTERRUPT_LINE, size: 1, read: () => intx & 0xff });
    this.#fields.push({ offset: PCI.INTERRUPT_PIN, size: 1, read: (hw) => (intx === 0 ? PCI_PIN.NONE : hw) });
  }

  /** A function that pciback holds has INTX_DISABLE set; a guest that has the line finds it as after a reset. */
  *#openIntx(): Op<void> {
    const pin = yield* this.#access.read(this.#sbdf, PCI.INTERRUPT_PIN, 1);
    if (!this.#hasLine && pin !== PCI_PIN.NONE) this.#forced = PCI_COMMAND.INTX_DISABLE;
    yield* this.#settleCommand(PCI_COMMAND.INTX_DISABLE, 0);
  }

  /** Changes bits of the hardware's command register, which keeps what is forced. */
  *#settleCommand(clear: number, set: number): Op<void> {
    const hw = yield* this.#access.read(this.#sbdf, PCI.COMMAND, 2);
    const wanted = (hw & ~clear) | set | this.#forced;
    if (wanted !== hw) yield* this.#hw(PCI.COMMAND, 2, wanted);
  }

  #passByte(offset: number): void {
    const self = this;
    this.#fields.push({
      offset,
      size: 1,
      read: (hw) => hw,
      *write(value) {
        yield* self.#hw(offset, 1, value);
        return XEN_PCI_ERR.success;
      },
    });
  }

  *#writeCommand(value: number, hw: number): Op<number> {
    const { INTX_DISABLE } = PCI_COMMAND;
    let passed = PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER;
    let kept = 0;
    if (this.#hasLine) {
      const clears = (hw & ~value & INTX_DISABLE) !== 0;
      if (clears && ((yield* this.#msiEnabled()) || (yield* this.#msixEnabled()))) kept = INTX_DISABLE;
      else passed |= INTX_DISABLE;
    }
    const wanted = (hw & ~passed) | (value & passed) | this.#forced;
    if (wanted !== hw) yield* this.#hw(PCI.COMMAND, 2, wanted);
    this.#command = value | kept;
    return kept === 0 ? XEN_PCI_ERR.success : XEN_PCI_ERR.access_denied;
  }

  #barField(register: number, bars: readonly VirtualBar[]): Field {
    const offset = PCI.BASE_ADDRESS_0 + register * 4;
    const low = bars.find((b) => b.index === register);
    const high = bars.find((b) => b.wide && b.index === register - 1);
    if (low === undefined && high === undefined) return { offset, size: 4, read: () => 0 };
    const sizing = this.#sizing;
    let flags = 0;
    let address: number;
    let mask: number;
    if (low !== undefined) {
      flags = (low.wide ? PCI_BAR.MEM_TYPE_64 : 0) | (low.prefetchable ? PCI_BAR.PREFETCH : 0);
      address = low.ipa % 2 ** 32;
      mask = low.sizeBytes >= 2 ** 32 ? 0 : (-low.sizeBytes & 0xffff_fff0) >>> 0;
    } else {
      address = Math.floor(high!.ipa / 2 ** 32);
      // The upper half of -size.
      mask = (2 ** 32 - Math.ceil(high!.sizeBytes / 2 ** 32)) >>> 0;
    }
    return {
      offset,
      size: 4,
      read: () => ((sizing[register] ? mask : address) | flags) >>> 0,
      // biome-ignore lint/correctness/useYield: a field's write is an operation, and this one has nothing to wait for
      *write(value) {
        const flagMask = low === undefined ? 0 : 0xf;
        sizing[register] = (value | flagMask) >>> 0 === 0xffff_ffff;
        return XEN_PCI_ERR.success;
      },
    };
  }

  *#addCapabilities(messages: boolean): Op<void> {
    const shown: number[] = [];
    let hidden = false;
    const status = yield* this.#access.read(this.#sbdf, PCI.STATUS, 2);
    if ((status & PCI_STATUS.CAP_LIST) === 0) return;
    let at = (yield* this.#access.read(this.#sbdf, PCI.CAPABILITY_LIST, 1)) & 0xfc;
    for (let i = 0; at >= 0x40 && i < PCI_CAPS_MAX; i++) {
      const word = yield* this.#access.read(this.#sbdf, at, 4);
      const id = word & 0xff;
      const isMessage = id === PCI_CAP_ID.MSI || id === PCI_CAP_ID.MSIX;
      if (isMessage && !messages) hidden = true;
      else shown.push(at);
      if (id === PCI_CAP_ID.PM) this.#addPm(at);
      if (id === PCI_CAP_ID.MSI && messages) this.#addMsi(at, word >>> 16);
      if (id === PCI_CAP_ID.MSIX && messages) this.#addMsix(at);
      at = (word >>> 8) & 0xfc;
    }
    if (hidden) this.#relink(shown);
  }

  /** The list leads through `shown` only. */
  #relink(shown: readonly number[]): void {
    this.#fields.push({ offset: PCI.CAPABILITY_LIST, size: 1, read: () => shown[0] ?? 0 });
    shown.forEach((at, i) => {
      this.#fields.push({ offset: at + 1, size: 1, read: () => shown[i + 1] ?? 0 });
    });
  }

  #addPm(at: number): void {
    const self = this;
    this.#fields.push({ offset: at + PCI_PM.PMC, size: 2, read: (hw) => hw & ~PCI_PM.PMC_PME_MASK });
    this.#fields.push({
      offset: at + PCI_PM.CTRL,
      size: 2,
      read: (hw) => hw,
      *write(value, hw) {
        const kept = hw & ~PMCSR_WRITABLE;
        yield* self.#hw(at + PCI_PM.CTRL, 2, kept | (value & PMCSR_WRITABLE));
        // Back in D0 it may have been reset, its command register too.
        if (self.#forced !== 0) yield* self.#settleCommand(0, 0);
        return XEN_PCI_ERR.success;
      },
    });
  }

  #addMsi(at: number, flags: number): void {
    const self = this;
    this.#msiAt = at;
    const writable = PCI_MSI_FLAGS.ENABLE | (PCI_MSI_FLAGS.MULTIPLE_MASK << PCI_MSI_FLAGS.MULTIPLE_ENABLE_SHIFT);
    this.#fields.push({
      offset: at + PCI_MSI.FLAGS,
      size: 2,
      read: (hw) => hw,
      *write(value, hw) {
        const starts = (value & PCI_MSI_FLAGS.ENABLE & ~hw) !== 0;
        if (starts && (yield* self.#msixEnabled())) return XEN_PCI_ERR.access_denied;
        yield* self.#hw(at + PCI_MSI.FLAGS, 2, (hw & ~writable) | (value & writable));
        return XEN_PCI_ERR.success;
      },
    });
    const layout = msiLayout(flags);
    const pass = (offset: number, size: 2 | 4): void => {
      this.#fields.push({
        offset: at + offset,
        size,
        read: (hw) => hw,
        *write(value) {
          yield* self.#hw(at + offset, size, value);
          return XEN_PCI_ERR.success;
        },
      });
    };
    pass(PCI_MSI.ADDRESS_LO, 4);
    if ((flags & PCI_MSI_FLAGS.ADDRESS_64) !== 0) pass(PCI_MSI.ADDRESS_HI, 4);
    pass(layout.data, 2);
    if (layout.mask >= 0) pass(layout.mask, 4);
  }

  #addMsix(at: number): void {
    const self = this;
    this.#msixAt = at;
    const writable = PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL;
    this.#fields.push({
      offset: at + PCI_MSIX.FLAGS,
      size: 2,
      read: (hw) => hw,
      *write(value, hw) {
        const starts = (value & PCI_MSIX_FLAGS.ENABLE & ~hw) !== 0;
        if (starts && (yield* self.#msiEnabled())) return XEN_PCI_ERR.access_denied;
        yield* self.#hw(at + PCI_MSIX.FLAGS, 2, (hw & ~writable) | (value & writable));
        return XEN_PCI_ERR.success;
      },
    });
  }

  *#msiEnabled(): Op<boolean> {
    if (this.#msiAt === 0) return false;
    const flags = yield* this.#access.read(this.#sbdf, this.#msiAt + PCI_MSI.FLAGS, 2);
    return (flags & PCI_MSI_FLAGS.ENABLE) !== 0;
  }

  *#msixEnabled(): Op<boolean> {
    if (this.#msixAt === 0) return false;
    const flags = yield* this.#access.read(this.#sbdf, this.#msixAt + PCI_MSIX.FLAGS, 2);
    return (flags & PCI_MSIX_FLAGS.ENABLE) !== 0;
  }
}

/** The bits of `field` in the aligned word at `at`. */
function part(word: number, at: number, field: Field): number {
  return cut(word, (field.offset - at) * 8, field.size);
}

function cut(word: number, lsb: number, size: number): number {
  return size === 4 ? word >>> 0 : (word >>> lsb) & (2 ** (8 * size) - 1);
}

function overlay(word: number, at: number, field: Field, value: number): number {
  const lsb = (field.offset - at) * 8;
  const mask = size32(field.size) << lsb;
  return ((word & ~mask) | ((value << lsb) & mask)) >>> 0;
}

function size32(size: number): number {
  return size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
}
