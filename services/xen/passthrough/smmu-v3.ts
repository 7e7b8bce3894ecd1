/**
 * One SMMUv3 as Xen drives it (xen/drivers/passthrough/arm/smmu-v3.c; IHI 0070): two-level stream table split at 8 bits,
 * filled on demand, or a linear one where the SMMU has no other or no more StreamIDs than one array; every entry abort
 * until a device is assigned; stage 2 only, on the tables that the CPU walks. Wired interrupts, also of an SMMU that could
 * write them: Xen has no MSI of its own. Traffic of a stream that was never added ends in C_BAD_STREAMID (with a linear
 * table it is aborted), that of one that is not attached is aborted silently.
 * Not modelled: stage 1, ATS, PRI, stall.
 * Deviates: Xen takes an SMMU with fewer address bits than its domains have by giving domains fewer; here it does not
 * come up. Xen leaves SMMU_*_IRQ_CFG0 as it finds them; here they are cleared, as Linux does.
 */
import {
  ADDRESS_BITS,
  SMMU_CR0,
  SMMU_CR0ACK,
  SMMU_CR1,
  SMMU_CR2,
  SMMU_EVENTQ_IRQ_CFG0_LO,
  SMMU_GBPA,
  SMMU_GERROR_IRQ_CFG0_LO,
  SMMU_IDR0,
  SMMU_IDR1,
  SMMU_IDR5,
  SMMU_IRQ_CTRL,
  SMMU_IRQ_CTRLACK,
  SMMU_STRTAB_BASE_CFG,
  SMMU_STRTAB_BASE_LO,
  STRTAB_FMT,
} from '#shared/arch/smmu/v3.ts';
import {
  encodeCfgiAll,
  encodeCfgiSte,
  encodePrefetchConfig,
  encodeTlbiNsnhAll,
  encodeTlbiS12Vmall,
} from '#shared/arch/smmu/v3-queues.ts';
import {
  encodeAbortSte,
  encodeL1Std,
  encodeStage2Ste,
  L1STD_BYTES,
  STE_BYTES,
} from '#shared/arch/smmu/v3-structures.ts';
import { LIMITS } from '#shared/core/limits.ts';
import { Lock, type Op, sleep, withLock } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import { asWord, get, wordWith } from '#shared/regs/field.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import type { Counts } from '../counts.ts';
import { type El2, physFill, physWrite, physWrite32, physWrite64 } from '../el2.ts';
import { check, XenError } from '../error.ts';
import type { Frames } from '../mm/frames.ts';
import { type SmmuDriver, SmmuError, type Stage2Tables } from './smmu.ts';
import { CommandQueue, EventQueue, type EventRecord } from './smmu-queues.ts';

const POLL_NS = 1_000_000;
const POLLS_MAX = 1000;
/** Stream table split: an array of the second level holds 2^8 entries, the requester ids of one bus. */
const SPLIT = 8;
/** A level 1 table has 1 MiB at most (STRTAB_L1_SZ_SHIFT); with more bits of StreamID the upper ones are out of range. */
const LEVEL1_LOG2SIZE_MAX = 17;
const QUEUE_LOG2SIZE_MAX = 8;
const DW = 8;

export interface SmmuV3Options {
  readonly el2: El2;
  readonly frames: Frames;
  readonly counts: Counts;
  readonly runtime: Pick<Runtime, 'trace'>;
  readonly name: string;
  readonly phandle: number;
  readonly basePa: number;
  /** INTID of the wired interrupt `eventq`. */
  readonly eventqIntid: number;
  readonly eventqIsEdge: boolean;
  /** Input bits of every domain's stage 2. */
  readonly ipaBits: number;
  /** Routes an SPI to a handler (HostGic.onSpi). */
  readonly onSpi: (intid: number, isEdge: boolean, handler: () => Op<void>) => Op<void>;
  readonly nextSequence: () => number;
}

export class SmmuV3Driver implements SmmuDriver {
  readonly name: string;
  readonly phandle: number;
  readonly #o: SmmuV3Options;
  readonly #commands: CommandQueue;
  readonly #events: EventQueue;
  /** Stream table and what is attached change under it. */
  readonly #lock: Lock;
  /** Of StreamIDs that the table has room for. */
  #sidBits = 0;
  #outputBits = 0;
  #twoLevel = true;
  /** The level 1 table, or the linear one. */
  #tablePa = -1;
  /** Second-level arrays by the upper bits of their StreamIDs. */
  readonly #l2Pa = new Map<number, number>();
  readonly #attached = new Map<number, Stage2Tables>();

  constructor(options: SmmuV3Options) {
    this.name = options.name;
    this.phandle = options.phandle;
    this.#o = options;
    this.#commands = new CommandQueue(options);
    this.#events = new EventQueue(options);
    this.#lock = new Lock(`streams of ${options.name}`);
  }

  /** From reset, or whatever firmware left, to translating with every stream aborted. Throws SmmuError. */
  *init(): Op<void> {
    const { el2, basePa, eventqIntid, eventqIsEdge, onSpi } = this.#o;
    const at = (register: { readonly offset: number }): number => basePa + register.offset;
    const { cmdqs, eventqs } = yield* this.#probe();

    // What comes while SMMUEN is 0 is aborted.
    const gbpa = yield* el2.read32(at(SMMU_GBPA));
    const abort = wordWith(SMMU_GBPA, { ABORT: 1, Update: 1 });
    yield* el2.write32(at(SMMU_GBPA), (gbpa | abort) >>> 0);
    yield* this.#poll(at(SMMU_GBPA), (v) => v >>> 31 === 0, 'SMMU_GBPA.Update stays 1');
    yield* this.#setCr0(0);

    yield* this.#initStreamTable();
    yield* el2.write32(at(SMMU_IRQ_CTRL), 0);
    yield* this.#poll(at(SMMU_IRQ_CTRLACK), (v) => v === 0, 'SMMU_IRQ_CTRLACK does not follow');
    const writeBack = { QUEUE_IC: 1, QUEUE_OC: 1, QUEUE_SH: 3, TABLE_IC: 1, TABLE_OC: 1, TABLE_SH: 3 };
    yield* el2.batch([
      physWrite32(at(SMMU_CR1), wordWith(SMMU_CR1, writeBack)),
      physWrite32(at(SMMU_CR2), wordWith(SMMU_CR2, { RECINVSID: 1 })),
      // RA (bit 62): read-allocate.
      physWrite64(at(SMMU_STRTAB_BASE_LO), this.#tablePa >>> 0, high(this.#tablePa) | (1 << 30)),
      physWrite32(at(SMMU_STRTAB_BASE_CFG), wordWith(SMMU_STRTAB_BASE_CFG, this.#tableConfig)),
      physWrite64(at(SMMU_GERROR_IRQ_CFG0_LO), 0, 0),
      physWrite64(at(SMMU_EVENTQ_IRQ_CFG0_LO), 0, 0),
    ]);

    // One enable at a time, each acknowledged before the next.
    yield* this.#commands.init(Math.min(QUEUE_LOG2SIZE_MAX, cmdqs));
    yield* this.#setCr0(wordWith(SMMU_CR0, { CMDQEN: 1 }));
    yield* this.#commands.run([encodeCfgiAll()]);
    yield* this.#commands.run([encodeTlbiNsnhAll()]);
    yield* this.#events.init(Math.min(QUEUE_LOG2SIZE_MAX, eventqs));
    yield* this.#setCr0(wordWith(SMMU_CR0, { CMDQEN: 1, EVENTQEN: 1 }));
    yield* onSpi(eventqIntid, eventqIsEdge, () => this.#events.drain((record) => this.#log(record)));
    const irqs = wordWith(SMMU_IRQ_CTRL, { GERROR_IRQEN: 1, EVENTQ_IRQEN: 1 });
    yield* el2.write32(at(SMMU_IRQ_CTRL), irqs);
    yield* this.#poll(at(SMMU_IRQ_CTRLACK), (v) => v === irqs, 'SMMU_IRQ_CTRLACK does not follow');
    yield* this.#setCr0(wordWith(SMMU_CR0, { CMDQEN: 1, EVENTQEN: 1, SMMUEN: 1 }));
  }

  /** A device has this StreamID: it gets an entry that aborts. Throws XenError ERANGE beyond the SMMU, ENOMEM. */
  addStream(streamId: number): Op<void> {
    return withLock(this.#lock, () => this.#addStream(streamId));
  }

  /** Traffic of the stream is translated by `tables` when it returns. Throws XenError ERANGE, EBUSY, ENOMEM, EIO. */
  attach(streamId: number, tables: Stage2Tables): Op<void> {
    return withLock(this.#lock, () => this.#attach(streamId, tables));
  }

  /**
   * Traffic of the stream is aborted when it returns, and no translation made for it is left, unless another stream of
   * the same domain still needs it. Nothing happens to a stream that is not attached.
   */
  detach(streamId: number): Op<void> {
    return withLock(this.#lock, () => this.#detach(streamId));
  }

  /** Forgets every translation of the VMID, when a stream uses it. */
  *invalidateVmid(vmid: number): Op<void> {
    if (!this.usesVmid(vmid)) return;
    this.#o.counts.add('tlbInvalidations', 'CMD_TLBI_S12_VMALL');
    yield* this.#commands.run([encodeTlbiS12Vmall(vmid)]);
  }

  usesVmid(vmid: number): boolean {
    for (const tables of this.#attached.values()) if (tables.vmid === vmid) return true;
    return false;
  }

  /** Records of the event queue, oldest first. */
  get events(): readonly EventRecord[] {
    return this.#events.records;
  }

  /** Attached streams by StreamID. */
  get streams(): readonly { readonly streamId: number; readonly vmid: number }[] {
    return [...this.#attached].map(([streamId, tables]) => ({ streamId, vmid: tables.vmid }));
  }

  *#probe(): Op<{ cmdqs: number; eventqs: number }> {
    const { el2, basePa, name } = this.#o;
    const idr0 = asWord(SMMU_IDR0, yield* el2.read32(basePa + SMMU_IDR0.offset));
    const idr1 = asWord(SMMU_IDR1, yield* el2.read32(basePa + SMMU_IDR1.offset));
    const idr5 = asWord(SMMU_IDR5, yield* el2.read32(basePa + SMMU_IDR5.offset));
    if (get(SMMU_IDR0.S2P, idr0) === 0) throw new SmmuError(`${name} has no stage 2 (SMMU_IDR0.S2P)`);
    if ((get(SMMU_IDR0.TTF, idr0) & 2) === 0) throw new SmmuError(`${name} walks no AArch64 tables (SMMU_IDR0.TTF)`);
    if (get(SMMU_IDR1.QUEUES_PRESET, idr1) !== 0 || get(SMMU_IDR1.TABLES_PRESET, idr1) !== 0) {
      throw new SmmuError(`${name} has preset tables or queues`);
    }
    const cmdqs = get(SMMU_IDR1.CMDQS, idr1);
    if (cmdqs === 0) throw new SmmuError(`${name} has a command queue of one entry (SMMU_IDR1.CMDQS)`);
    this.#outputBits = ADDRESS_BITS[get(SMMU_IDR5.OAS, idr5)] ?? 48;
    if (this.#outputBits < this.#o.ipaBits)
      throw new SmmuError(
        `${name} takes addresses of ${this.#outputBits} bits (SMMU_IDR5.OAS), and those of domains have ${this.#o.ipaBits}`,
      );
    const sidSize = get(SMMU_IDR1.SIDSIZE, idr1);
    this.#twoLevel = get(SMMU_IDR0.ST_LEVEL, idr0) === 1 && sidSize > SPLIT;
    this.#sidBits = this.#twoLevel ? Math.min(sidSize, LEVEL1_LOG2SIZE_MAX + SPLIT) : sidSize;
    return { cmdqs, eventqs: get(SMMU_IDR1.EVENTQS, idr1) };
  }

  *#initStreamTable(): Op<void> {
    const { el2, frames, name } = this.#o;
    const tableBytes = this.#twoLevel ? L1STD_BYTES * 2 ** (this.#sidBits - SPLIT) : STE_BYTES * 2 ** this.#sidBits;
    const sizeBytes = Math.max(4096, tableBytes);
    try {
      this.#tablePa = frames.allocAligned(sizeBytes, sizeBytes);
    } catch (cause) {
      if (!(cause instanceof XenError)) throw cause;
      const what = this.#twoLevel ? 'level 1' : 'linear';
      throw new SmmuError(`${name} needs a ${what} stream table of ${sizeBytes} bytes, for which there is no memory`, {
        cause,
      });
    }
    if (this.#twoLevel) yield* el2.fill(this.#tablePa, sizeBytes, 0);
    else yield* this.#fillLinear();
  }

  get #tableConfig(): { LOG2SIZE: number; SPLIT: number; FMT: number } {
    const { twoLevel, linear } = STRTAB_FMT;
    return { LOG2SIZE: this.#sidBits, SPLIT: this.#twoLevel ? SPLIT : 0, FMT: this.#twoLevel ? twoLevel : linear };
  }

  *#fillLinear(): Op<void> {
    const entries = 2 ** this.#sidBits;
    const piece = abortEntries(Math.min(entries, LIMITS.bulkAccessBytes / STE_BYTES));
    for (let done = 0; done < entries * STE_BYTES; done += piece.length)
      yield* this.#o.el2.write(this.#tablePa + done, piece);
  }

  *#addStream(streamId: number): Op<void> {
    const { el2, frames, name } = this.#o;
    check(streamId < 2 ** this.#sidBits, 'ERANGE', `${name} has no StreamID 0x${streamId.toString(16)}`);
    const index = streamId >>> SPLIT;
    if (!this.#twoLevel || this.#l2Pa.has(index)) return;
    const sizeBytes = STE_BYTES << SPLIT;
    const l2Pa = frames.allocAligned(sizeBytes, sizeBytes);
    // The entries are there before the descriptor that leads to them.
    yield* el2.batch([
      physWrite(l2Pa, abortEntries(1 << SPLIT)),
      physWrite(this.#tablePa + index * L1STD_BYTES, bytesOf(encodeL1Std(l2Pa, SPLIT))),
    ]);
    this.#l2Pa.set(index, l2Pa);
    // An SMMU may have cached that the descriptor was invalid.
    yield* this.#commands.run([encodeCfgiSte(streamId, false)]);
  }

  *#attach(streamId: number, tables: Stage2Tables): Op<void> {
    const { el2, name } = this.#o;
    yield* this.#addStream(streamId);
    check(!this.#attached.has(streamId), 'EBUSY', `StreamID 0x${streamId.toString(16)} is attached`);
    check(tables.ipaBits <= this.#outputBits, 'ERANGE', `${name} takes no ${tables.ipaBits}-bit addresses`);
    const ste = bytesOf(encodeStage2Ste({ vmid: tables.vmid, ttb: tables.rootPa, ...tables.geometry }));
    const pa = this.#stePa(streamId);
    // From here on, whoever changes the tables invalidates here too.
    this.#attached.set(streamId, tables);
    try {
      // The entry stays abort while its other doublewords change.
      yield* el2.write(pa + DW, ste.subarray(DW));
      yield* this.#commands.run([encodeCfgiSte(streamId, true)]);
      yield* el2.write(pa, ste.subarray(0, DW));
      yield* this.#commands.run([encodeCfgiSte(streamId, true)]);
      yield* this.#commands.run([encodePrefetchConfig(streamId)]);
    } catch (error) {
      yield* this.#detach(streamId);
      throw error;
    }
  }

  *#detach(streamId: number): Op<void> {
    const tables = this.#attached.get(streamId);
    if (tables === undefined) return;
    const pa = this.#stePa(streamId);
    yield* this.#o.el2.write(pa, bytesOf(encodeAbortSte()).subarray(0, DW));
    yield* this.#commands.run([encodeCfgiSte(streamId, true)]);
    yield* this.#o.el2.batch([physFill(pa + DW, STE_BYTES - DW, 0)]);
    yield* this.#commands.run([encodeCfgiSte(streamId, true)]);
    const others = [...this.#attached].some(([id, t]) => id !== streamId && t.vmid === tables.vmid);
    if (!others) yield* this.invalidateVmid(tables.vmid);
    this.#attached.delete(streamId);
  }

  #stePa(streamId: number): number {
    if (!this.#twoLevel) return this.#tablePa + streamId * STE_BYTES;
    return this.#l2Pa.get(streamId >>> SPLIT)! + (streamId & ((1 << SPLIT) - 1)) * STE_BYTES;
  }

  *#setCr0(value: number): Op<void> {
    yield* this.#o.el2.write32(this.#o.basePa + SMMU_CR0.offset, value);
    yield* this.#poll(
      this.#o.basePa + SMMU_CR0ACK.offset,
      (v) => v === value,
      `SMMU_CR0ACK does not become 0x${value.toString(16)}`,
    );
  }

  *#poll(pa: number, done: (value: number) => boolean, what: string): Op<void> {
    for (let polls = 0; !done(yield* this.#o.el2.read32(pa)); polls++) {
      if (polls >= POLLS_MAX) throw new SmmuError(`${this.name}: ${what}`);
      yield* sleep(POLL_NS);
    }
  }

  #log(record: EventRecord): void {
    this.#o.runtime.trace('smmu.event', { smmu: this.name, ...record });
  }
}

function abortEntries(count: number): Uint8Array {
  const abort = bytesOf(encodeAbortSte());
  const entries = new Uint8Array(count * STE_BYTES);
  for (let at = 0; at < entries.length; at += STE_BYTES) entries.set(abort, at);
  return entries;
}

function high(pa: number): number {
  return Math.floor(pa / 0x1_0000_0000);
}
