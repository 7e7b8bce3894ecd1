/**
 * The ITS that a guest sees at GUEST_VITS_BASE: the control frame, and the queue behind GITS_CWRITER (IHI 0069, "ITS
 * registers"; xen/arch/arm/vgic-v3-its.c). Its translation frame is not emulated: the doorbell's page is mapped to the
 * machine's (passthrough/doorbell.ts), the rest of the frame reads as zero.
 * Commands run in the trap of the GITS_CWRITER write, up to COMMANDS_PER_TRAP of them; what is left goes on after the
 * trap has been answered, and the guest sees GITS_CREADR follow.
 * Not modelled: two-level tables (GITS_BASERn.Indirect reads as zero), GITS_CWRITER.Retry, Stalled (errors are ignored).
 */
import {
  decodeGitsBaser,
  decodeGitsCbaser,
  encodeGitsTyper,
  GIC_PIDR2_ArchRev_GICv3,
  GITS_BASER,
  GITS_BASER_TYPE,
  GITS_C_Offset_MASK,
  GITS_CBASER,
  GITS_CREADR,
  GITS_CTLR,
  GITS_CTLR_Enabled,
  GITS_CTLR_Quiescent,
  GITS_CWRITER,
  GITS_IIDR,
  GITS_PIDR2,
  GITS_TYPER,
  type RegPair,
} from '#shared/arch/gic/its.ts';
import { ITS_COMMAND_BYTES, ITS_COMMAND_WORDS } from '#shared/arch/gic/its-commands.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import { wordsOf } from '#shared/regs/struct.ts';
import type { Counts } from '../counts.ts';
import { XenError } from '../error.ts';
import type { GuestMemory, VLpis } from '../vgic/lpi.ts';
import { VITS_EVENT_ID_BITS, VItsCommands, type VItsDevices } from './commands.ts';
import { VITS_CTE_BYTES, VITS_DTE_BYTES, VITS_ITE_BYTES, type VItsTable, VItsTables } from './tables.ts';

/** Commands that one trap waits for. */
export const COMMANDS_PER_TRAP = 256;

const VITS_IIDR = 0x5800_034c;
/** GITS_TYPER: collections and DeviceIDs of 16 bits, RDbase is a processor number. */
const VITS_TYPER: RegPair = encodeGitsTyper({
  Physical: true,
  ittEntryBytes: VITS_ITE_BYTES,
  eventIdBits: VITS_EVENT_ID_BITS,
  deviceIdBits: 16,
  PTA: false,
  HCC: 0,
  collectionIdBits: 16,
});
/** What is read-only of GITS_BASERn's upper half: Type and Entry_Size. */
const BASER_RO_HI = [
  ((GITS_BASER_TYPE.DEVICE << 24) | ((VITS_DTE_BYTES - 1) << 16)) >>> 0,
  ((GITS_BASER_TYPE.COLLECTION << 24) | ((VITS_CTE_BYTES - 1) << 16)) >>> 0,
];
/** Valid, caches and address; not Indirect, Type, Entry_Size. */
const BASER_RW_HI = 0xb8e0_ffff;
const CBASER_RW_HI = 0xb8ef_ffff;
const NO_TABLE: VItsTable = { ipa: 0, sizeBytes: 0 };

export interface VItsOptions {
  readonly domid: number;
  readonly memory: GuestMemory;
  readonly vcpus: number;
  readonly lpis: VLpis;
  readonly devices: VItsDevices;
  readonly runtime: Pick<Runtime, 'spawn' | 'trace'>;
  readonly counts: Counts;
}

export class VIts {
  readonly #o: VItsOptions;
  readonly #commands: VItsCommands;
  readonly #lock: Lock;
  #enabled = false;
  #cbaser = { lo: 0, hi: 0 };
  #cwriter = 0;
  #creadr = 0;
  readonly #basers = BASER_RO_HI.map((hi) => ({ lo: 0, hi }));
  #running = false;
  #stopped = false;

  constructor(options: VItsOptions) {
    this.#o = options;
    this.#lock = new Lock(`vcmd_lock of d${options.domid}`);
    const tables = new VItsTables(
      options.memory,
      () => this.#table(0),
      () => this.#table(1),
    );
    this.#commands = new VItsCommands({ ...options, tables });
  }

  isWide(offset: number): boolean {
    const register = offset & ~7;
    return (
      register === GITS_TYPER ||
      register === GITS_CBASER ||
      register === GITS_CWRITER ||
      register === GITS_CREADR ||
      (register >= GITS_BASER && register < GITS_BASER + 0x40)
    );
  }

  /** A 32-bit read at an offset from GUEST_VITS_BASE. */
  read(offset: number): number {
    switch (offset) {
      case GITS_CTLR:
        return (
          ((this.#enabled ? GITS_CTLR_Enabled : 0) | (!this.#enabled && !this.#running ? GITS_CTLR_Quiescent : 0)) >>> 0
        );
      case GITS_IIDR:
        return VITS_IIDR;
      case GITS_TYPER:
        return VITS_TYPER.lo;
      case GITS_TYPER + 4:
        return VITS_TYPER.hi;
      case GITS_CBASER:
        return this.#cbaser.lo;
      case GITS_CBASER + 4:
        return this.#cbaser.hi;
      case GITS_CWRITER:
        return this.#cwriter;
      case GITS_CREADR:
        return this.#creadr;
      case GITS_PIDR2:
        return GIC_PIDR2_ArchRev_GICv3;
      default: {
        const baser = this.#baser(offset);
        return baser === undefined ? 0 : offset % 8 === 0 ? baser.lo : baser.hi;
      }
    }
  }

  /** One access of the guest as 32-bit writes (a 64-bit one: low half first). Runs commands when it lets them run. */
  *write(writes: readonly { readonly offset: number; readonly value: number }[]): Op<void> {
    let kick = false;
    for (const { offset, value } of writes) kick = this.#store(offset, value) || kick;
    if (kick) yield* this.#run();
  }

  /** A device leaves the domain; waits for the commands of a running trap. Its LPIs and machine's ITT are gone then. */
  release(vDeviceId: number): Op<void> {
    return withLock(this.#lock, () => this.#commands.release(vDeviceId));
  }

  /** The domain is dying: no further command is run. */
  stop(): void {
    this.#stopped = true;
  }

  inspect(): unknown {
    return {
      enabled: this.#enabled,
      creadr: this.#creadr,
      cwriter: this.#cwriter,
      devices: this.#commands.inspect(),
    };
  }

  /** Returns whether commands may have become runnable. */
  #store(offset: number, value: number): boolean {
    switch (offset) {
      case GITS_CTLR: {
        const enable = (value & GITS_CTLR_Enabled) !== 0;
        const complete = this.#table(0).sizeBytes > 0 && this.#table(1).sizeBytes > 0 && this.#cbaser.hi >>> 31 === 1;
        this.#enabled = enable && (this.#enabled || complete);
        return this.#enabled;
      }
      case GITS_CBASER:
      case GITS_CBASER + 4:
        if (this.#enabled) return false;
        if (offset === GITS_CBASER) this.#cbaser.lo = (value & 0xffff_fcff) >>> 0;
        else this.#cbaser.hi = (value & CBASER_RW_HI) >>> 0;
        this.#creadr = 0;
        return false;
      case GITS_CWRITER:
        this.#cwriter = value & GITS_C_Offset_MASK;
        return this.#enabled;
      default: {
        const baser = this.#baser(offset);
        if (baser === undefined || this.#enabled) return false;
        // PageSize 3 is reserved and acts as 2.
        if (offset % 8 === 0) baser.lo = (value >>> 8) % 4 === 3 ? (value & ~0x100) >>> 0 : value >>> 0;
        else baser.hi = ((value & BASER_RW_HI) | BASER_RO_HI[(offset - GITS_BASER) >>> 3]!) >>> 0;
        return false;
      }
    }
  }

  *#run(): Op<void> {
    // Whoever runs already sees the new GITS_CWRITER.
    if (this.#running || this.#stopped) return;
    this.#running = true;
    let more = false;
    try {
      more = yield* this.#slice();
    } finally {
      this.#running = more;
    }
    if (more) {
      this.#o.runtime.spawn(`vITS commands of d${this.#o.domid}`, this.#rest(), undefined, (error) =>
        this.#o.runtime.trace('vits.stopped', { domid: this.#o.domid, error: String(error) }),
      );
    }
  }

  *#rest(): Op<void> {
    try {
      while (yield* this.#slice());
    } finally {
      this.#running = false;
    }
  }

  /** Runs up to COMMANDS_PER_TRAP commands. Returns whether there are more. */
  #slice(): Op<boolean> {
    return withLock(this.#lock, () => this.#sliceLocked());
  }

  *#sliceLocked(): Op<boolean> {
    const { pa: queue, sizeBytes } = decodeGitsCbaser(this.#cbaser);
    for (let left = COMMANDS_PER_TRAP; left > 0; ) {
      // A GITS_CWRITER outside the queue runs nothing until the guest writes a sane one.
      if (!this.#enabled || this.#stopped || this.#creadr === this.#cwriter || this.#cwriter >= sizeBytes) return false;
      const end = this.#cwriter > this.#creadr ? this.#cwriter : sizeBytes;
      const count = Math.min(left, (end - this.#creadr) / ITS_COMMAND_BYTES);
      let words: Uint32Array;
      try {
        words = wordsOf(yield* this.#o.memory.readGuest(queue + this.#creadr, count * ITS_COMMAND_BYTES));
      } catch (error) {
        if (!(error instanceof XenError)) throw error;
        this.#o.counts.add('itsCommands', 'vits.unreadable_queue');
        return false;
      }
      for (let i = 0; i < count && !this.#stopped; i++) {
        yield* this.#commands.run(words, i * ITS_COMMAND_WORDS);
        this.#creadr = (this.#creadr + ITS_COMMAND_BYTES) % sizeBytes;
      }
      left -= count;
    }
    return this.#creadr !== this.#cwriter;
  }

  #table(n: number): VItsTable {
    const { Valid, pa, sizeBytes } = decodeGitsBaser(this.#basers[n]!);
    return Valid ? { ipa: pa, sizeBytes } : NO_TABLE;
  }

  #baser(offset: number): { lo: number; hi: number } | undefined {
    return offset >= GITS_BASER ? this.#basers[(offset - GITS_BASER) >>> 3] : undefined;
  }
}
