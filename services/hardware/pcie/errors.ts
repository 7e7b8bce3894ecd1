/**
 * Errors of one function: where they are logged, and which messages they send (PCIe 5.0, "Error Signaling and
 * Logging", with role-based error reporting: an error of a non-posted request that its completer detects is advisory,
 * for its requester hears of it too).
 * Detected: unsupported requests, completer aborts, completion timeouts, ACS violations.
 * Not modelled: link, poison and ECRC errors; their bits stay zero. Multiple Header Recording; the header of the first
 * error stays until its bit is cleared. Event collectors; an error message of a function on a root bus goes nowhere.
 */
import {
  PCI_AER,
  PCI_AER_COR_ADVISORY_NONFATAL,
  PCI_AER_ROOT_STATUS,
  PCI_AER_UNCOR,
} from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_DEVCTL, PCI_EXP_DEVSTA } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND, PCI_STATUS } from '#shared/arch/pci/header.ts';
import { type Address64, highOf, lowOf } from '#shared/ids/address64.ts';
import type { ConfigFields } from './config-fields.ts';
import type { ConfigSpace } from './config-space.ts';
import { COMPLETION } from './route.ts';

/** Messages by gravity, as ROOT_COMMAND orders them. */
export const ERROR_MESSAGE = { COR: 0, NONFATAL: 1, FATAL: 2 } as const;

export class Errors {
  readonly #config: ConfigSpace;
  readonly #fields: ConfigFields;
  readonly #send: (kind: number) => void;

  /** `send` puts an error message of this function on its link. */
  constructor(config: ConfigSpace, fields: ConfigFields, send: (kind: number) => void) {
    this.#config = config;
    this.#fields = fields;
    this.#send = send;
  }

  /**
   * This function, as completer or as a port on the way, found error `bit` (PCI_AER_UNCOR) in a memory request of
   * `rid` for `sizeBytes` at `address`.
   */
  detected(bit: number, rid: number, addressType: number, address: Address64, sizeBytes: number, write: boolean): void {
    const { UNSUPPORTED_REQUEST, COMPLETER_ABORT } = PCI_AER_UNCOR;
    if (bit === COMPLETER_ABORT && !write) this.#config.poke(PCI.STATUS, 2, PCI_STATUS.SIG_TARGET_ABORT, 0xffff);
    if (this.#fields.express < 0) return;
    const { aer } = this.#fields;
    const fatal = aer >= 0 && (this.#config.u32(aer + PCI_AER.UNCOR_SEVERITY) & (1 << bit)) !== 0;
    const unsupported = bit === UNSUPPORTED_REQUEST;
    if (unsupported) this.#deviceStatus(PCI_EXP_DEVSTA.URD);
    if (!fatal && !write) {
      this.#deviceStatus(PCI_EXP_DEVSTA.CED);
      if (aer >= 0) {
        this.#config.poke(aer + PCI_AER.COR_STATUS, 4, PCI_AER_COR_ADVISORY_NONFATAL, 0xffff_ffff);
        if ((this.#config.u32(aer + PCI_AER.COR_MASK) & PCI_AER_COR_ADVISORY_NONFATAL) !== 0) return;
        if (!this.#logUncorrectable(bit, rid, addressType, address, sizeBytes, write)) return;
      }
      this.#message(ERROR_MESSAGE.COR, unsupported);
      return;
    }
    this.#deviceStatus(fatal ? PCI_EXP_DEVSTA.FED : PCI_EXP_DEVSTA.NFED);
    if (aer >= 0 && !this.#logUncorrectable(bit, rid, addressType, address, sizeBytes, write)) return;
    this.#message(fatal ? ERROR_MESSAGE.FATAL : ERROR_MESSAGE.NONFATAL, unsupported);
  }

  /** A read that this function asked for ended with `status` (COMPLETION). */
  completed(status: number, rid: number, address: Address64, sizeBytes: number): void {
    if (status === COMPLETION.UNSUPPORTED) this.#config.poke(PCI.STATUS, 2, PCI_STATUS.REC_MASTER_ABORT, 0xffff);
    if (status === COMPLETION.ABORT) this.#config.poke(PCI.STATUS, 2, PCI_STATUS.REC_TARGET_ABORT, 0xffff);
    if (status !== COMPLETION.TIMEOUT || this.#fields.express < 0) return;
    const { aer } = this.#fields;
    const bit = PCI_AER_UNCOR.COMPLETION_TIMEOUT;
    const fatal = aer >= 0 && (this.#config.u32(aer + PCI_AER.UNCOR_SEVERITY) & (1 << bit)) !== 0;
    this.#deviceStatus(fatal ? PCI_EXP_DEVSTA.FED : PCI_EXP_DEVSTA.NFED);
    if (aer >= 0 && !this.#logUncorrectable(bit, rid, 0, address, sizeBytes, false)) return;
    this.#message(fatal ? ERROR_MESSAGE.FATAL : ERROR_MESSAGE.NONFATAL, false);
  }

  /** A root port takes in an error message of `rid`. Returns true when ROOT_COMMAND asks for an interrupt. */
  received(kind: number, rid: number): boolean {
    const { aerRoot } = this.#fields;
    if (aerRoot < 0) return false;
    const status = this.#config.u32(aerRoot + PCI_AER.ROOT_STATUS);
    const B = PCI_AER_ROOT_STATUS;
    let set: number;
    if (kind === ERROR_MESSAGE.COR) {
      const again = (status & B.COR_RECEIVED) !== 0;
      set = again ? B.COR_MULTIPLE : B.COR_RECEIVED;
      if (!again) this.#config.poke(aerRoot + PCI_AER.ROOT_SOURCE, 2, 0xffff, rid);
    } else {
      const again = (status & B.UNCOR_RECEIVED) !== 0;
      const fatal = kind === ERROR_MESSAGE.FATAL;
      set = (again ? B.UNCOR_MULTIPLE : B.UNCOR_RECEIVED) | (fatal ? B.FATAL_RECEIVED : B.NONFATAL_RECEIVED);
      if (!again) {
        if (fatal) set |= B.FIRST_FATAL;
        this.#config.poke(aerRoot + PCI_AER.ROOT_SOURCE + 2, 2, 0xffff, rid);
      }
    }
    this.#config.poke(aerRoot + PCI_AER.ROOT_STATUS, 4, set, 0xffff_ffff);
    return (this.#config.u32(aerRoot + PCI_AER.ROOT_COMMAND) & (1 << kind)) !== 0;
  }

  /** Whether a root port has an error to show for which ROOT_COMMAND asks for an interrupt: the level of its INTx. */
  get rootInterrupt(): boolean {
    const { aerRoot } = this.#fields;
    if (aerRoot < 0) return false;
    const status = this.#config.u32(aerRoot + PCI_AER.ROOT_STATUS);
    const command = this.#config.u32(aerRoot + PCI_AER.ROOT_COMMAND);
    const B = PCI_AER_ROOT_STATUS;
    return (
      ((status & B.COR_RECEIVED) !== 0 && (command & 1) !== 0) ||
      ((status & B.NONFATAL_RECEIVED) !== 0 && (command & 2) !== 0) ||
      ((status & B.FATAL_RECEIVED) !== 0 && (command & 4) !== 0)
    );
  }

  /** The vector for error interrupts of a root port. */
  get rootVector(): number {
    const { aerRoot } = this.#fields;
    return aerRoot < 0 ? 0 : this.#config.u32(aerRoot + PCI_AER.ROOT_STATUS) >>> PCI_AER_ROOT_STATUS.MESSAGE_SHIFT;
  }

  /** Whether the enables of this function let an error message of this kind pass. */
  enabled(kind: number): boolean {
    const serr = (this.#config.u16(PCI.COMMAND) & PCI_COMMAND.SERR) !== 0;
    if (kind !== ERROR_MESSAGE.COR && serr) return true;
    if (this.#fields.express < 0) return false;
    return (this.#config.u16(this.#fields.express + PCI_EXP.DEVCTL) & (PCI_EXP_DEVCTL.CERE << kind)) !== 0;
  }

  #deviceStatus(bits: number): void {
    this.#config.poke(this.#fields.express + PCI_EXP.DEVSTA, 2, bits, 0xffff);
  }

  /** Sets the status bit, and the header when it is the first. False when the bit is masked: no message then. */
  #logUncorrectable(
    bit: number,
    rid: number,
    at: number,
    address: Address64,
    sizeBytes: number,
    write: boolean,
  ): boolean {
    const { aer } = this.#fields;
    const c = this.#config;
    const status = c.u32(aer + PCI_AER.UNCOR_STATUS);
    c.poke(aer + PCI_AER.UNCOR_STATUS, 4, (1 << bit) >>> 0, 0xffff_ffff);
    if ((c.u32(aer + PCI_AER.UNCOR_MASK) & (1 << bit)) !== 0) return false;
    const first = c.u32(aer + PCI_AER.CAP) & PCI_AER.CAP_FIRST_ERROR_MASK;
    // The pointer is valid while the bit that it names is set and not masked.
    if ((status & ~c.u32(aer + PCI_AER.UNCOR_MASK) & (1 << first)) === 0) {
      c.poke(aer + PCI_AER.CAP, 4, PCI_AER.CAP_FIRST_ERROR_MASK, bit);
      this.#logHeader(rid, at, address, sizeBytes, write);
    }
    return true;
  }

  /** The header of a memory request (PCIe 5.0, "Memory Request Rules"), its first byte on top of the first word. */
  #logHeader(rid: number, at: number, address: Address64, sizeBytes: number, write: boolean): void {
    const log = this.#fields.aer + PCI_AER.HEADER_LOG;
    const c = this.#config;
    const high = highOf(address);
    const low = lowOf(address);
    const head = low & 3;
    const words = Math.min(1024, Math.max(1, (head + sizeBytes + 3) >>> 2));
    const tail = ((head + sizeBytes - 1) & 3) + 1;
    const lastMask = (1 << tail) - 1;
    const firstMask = (0xf << head) & 0xf & (words === 1 ? lastMask : 0xf);
    const kind = (high !== 0 ? 0x20 : 0) | (write ? 0x40 : 0);
    c.poke(log, 4, 0xffff_ffff, ((kind << 24) | (at << 10) | (words & 0x3ff)) >>> 0);
    c.poke(log + 4, 4, 0xffff_ffff, ((rid << 16) | (words === 1 ? 0 : lastMask << 4) | firstMask) >>> 0);
    c.poke(log + 8, 4, 0xffff_ffff, high !== 0 ? high : (low & ~3) >>> 0);
    c.poke(log + 12, 4, 0xffff_ffff, high !== 0 ? (low & ~3) >>> 0 : 0);
  }

  #message(kind: number, unsupported: boolean): void {
    const serr = (this.#config.u16(PCI.COMMAND) & PCI_COMMAND.SERR) !== 0;
    const control = this.#config.u16(this.#fields.express + PCI_EXP.DEVCTL);
    const enabled = (control & (PCI_EXP_DEVCTL.CERE << kind)) !== 0;
    // An unsupported request is reported by its own enable besides.
    const reported = enabled && (!unsupported || (control & PCI_EXP_DEVCTL.URRE) !== 0);
    if (!reported && (kind === ERROR_MESSAGE.COR || !serr)) return;
    if (kind !== ERROR_MESSAGE.COR && serr) this.#config.poke(PCI.STATUS, 2, PCI_STATUS.SIG_SYSTEM_ERROR, 0xffff);
    this.#send(kind);
  }
}
