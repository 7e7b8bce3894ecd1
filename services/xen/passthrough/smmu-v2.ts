/**
 * Xen's driver of one SMMUv2 (xen/drivers/passthrough/arm/smmu.c), register by register: a stream that no group has
 * faults (sCR0.USFCFG), an assigned one has a stream match register of its own and the context bank of its tables.
 * One bank serves all streams with the same tables. A fault is read out of the bank, cleared and recorded.
 * Deviates: the VMID of a bank is that of the tables, one in the whole machine; Xen takes the number of the bank plus
 * one, which two SMMUs that share a TLB (Cavium erratum 27704) would give to different tables.
 * Deviates: without a free bank or stream match register assignment fails with ENOSPC; Xen stops for want of a bank.
 * Not modelled: SMRs that mask (one for each StreamID), stage 1, stalls.
 */
import {
  CBAR_TYPE,
  indexed,
  S2CR_TYPE,
  SMMU_CB_FSR,
  SMMU_CB_SCTLR,
  SMMU_CB_TCR,
  SMMU_CB_TTBR0_HI,
  SMMU_CB_TTBR0_LO,
  SMMU_CBA2R,
  SMMU_CBAR,
  SMMU_CBFRSYNRA,
  SMMU_IDR0,
  SMMU_IDR1,
  SMMU_IDR2,
  SMMU_IDR7,
  SMMU_S2CR,
  SMMU_SMR,
  SMMU_sCR0,
  SMMU_sGFSR,
  SMMU_sTLBGSTATUS,
  SMMU_sTLBGSYNC,
  SMMU_TLBIALLH,
  SMMU_TLBIALLNSNH,
  SMMU_TLBIVMID,
  type SmmuV2Geometry,
  smmuV2Geometry,
} from '#shared/arch/smmu/v2.ts';
import { encodeVtcr } from '#shared/arch/vmsa.ts';
import { Lock, type Op, sleep, withLock } from '#shared/core/op.ts';
import { asWord, get, wordWith } from '#shared/regs/field.ts';
import { physWrite32 } from '../el2.ts';
import { check, XenError } from '../error.ts';
import { type SmmuDriver, SmmuError, type SmmuRecord, type Stage2Tables } from './smmu.ts';
import { type SmmuV2FaultParts, SmmuV2Faults } from './smmu-v2-faults.ts';

const POLL_NS = 1_000_000;
/** Xen gives a TLB invalidation one second. */
const POLLS_MAX = 1000;
/** Bits of IAS and OAS. */
const SIZE_BITS: readonly number[] = [32, 36, 40, 42, 44, 48];
const FAULT = wordWith(SMMU_S2CR, { TYPE: S2CR_TYPE.FAULT });
const SCTLR = wordWith(SMMU_CB_SCTLR, { M: 1, TRE: 1, AFE: 1, CFRE: 1, CFIE: 1 });

export interface SmmuV2Options extends SmmuV2FaultParts {
  readonly phandle: number;
  readonly basePa: number;
  /** INTIDs of the global interrupts, and of the context interrupts in order; several may be the same. */
  readonly globalIntids: readonly number[];
  readonly contextIntids: readonly number[];
  readonly isEdge: (intid: number) => boolean;
  /** Routes an SPI to a handler (HostGic.onSpi). */
  readonly onSpi: (intid: number, isEdge: boolean, handler: () => Op<void>) => Op<void>;
}

interface Bank {
  readonly index: number;
  readonly tables: Stage2Tables;
  /** How many streams use it. */
  streams: number;
}

interface Attached {
  readonly group: number;
  readonly bank: Bank;
}

export class SmmuV2Driver implements SmmuDriver {
  readonly name: string;
  readonly phandle: number;
  readonly #o: SmmuV2Options;
  /** Groups, banks and what is attached change under it. */
  readonly #lock: Lock;
  readonly #attached = new Map<number, Attached>();
  readonly #banks: (Bank | undefined)[] = [];
  readonly #groups: (number | undefined)[] = [];
  readonly #faults: SmmuV2Faults;
  #geometry: SmmuV2Geometry = smmuV2Geometry(0, 0);
  #version = 2;
  /** Context banks with an interrupt. */
  #bankCount = 0;
  #groupCount = 0;
  #streamIdBits = 15;
  #extended = false;
  #matching = true;
  #inputBits = 0;

  constructor(options: SmmuV2Options) {
    this.name = options.name;
    this.phandle = options.phandle;
    this.#o = options;
    this.#lock = new Lock(`streams of ${options.name}`);
    this.#faults = new SmmuV2Faults(options);
  }

  *init(): Op<void> {
    const { el2, onSpi, isEdge, globalIntids, contextIntids } = this.#o;
    yield* this.#probe();
    yield* this.#reset();
    for (const intid of new Set([...globalIntids, ...contextIntids])) {
      yield* onSpi(intid, isEdge(intid), () => this.#onInterrupt(intid));
    }
    const on = {
      GFRE: 1,
      GFIE: 1,
      GCFGFRE: 1,
      GCFGFIE: 1,
      USFCFG: 1,
      VMIDPNE: 1,
      PTM: 1,
      SMCFCFG: 1,
      EXIDENABLE: Number(this.#extended),
    };
    yield* this.#tlbSync();
    yield* el2.write32(this.#gr0(SMMU_sCR0), wordWith(SMMU_sCR0, on));
  }

  // biome-ignore lint/correctness/useYield: an unmatched stream aborts by itself
  *addStream(streamId: number): Op<void> {
    const wide = this.#matching ? 2 ** this.#streamIdBits : this.#groupCount;
    check(streamId < wide, 'ERANGE', `${this.name} has no StreamID 0x${streamId.toString(16)}`);
  }

  attach(streamId: number, tables: Stage2Tables): Op<void> {
    return withLock(this.#lock, () => this.#attach(streamId, tables));
  }

  detach(streamId: number): Op<void> {
    return withLock(this.#lock, () => this.#detach(streamId));
  }

  *invalidateVmid(vmid: number): Op<void> {
    if (!this.usesVmid(vmid)) return;
    yield* this.#invalidate(vmid);
  }

  usesVmid(vmid: number): boolean {
    return this.#banks.some((bank) => bank?.tables.vmid === vmid);
  }

  get events(): readonly SmmuRecord[] {
    return this.#faults.records;
  }

  get streams(): readonly { readonly streamId: number; readonly vmid: number }[] {
    return [...this.#attached].map(([streamId, { bank }]) => ({ streamId, vmid: bank.tables.vmid }));
  }

  *#probe(): Op<void> {
    const { el2, basePa, name, contextIntids } = this.#o;
    const idr0 = asWord(SMMU_IDR0, yield* el2.read32(basePa + SMMU_IDR0.offset));
    const idr1 = asWord(SMMU_IDR1, yield* el2.read32(basePa + SMMU_IDR1.offset));
    const idr2 = asWord(SMMU_IDR2, yield* el2.read32(basePa + SMMU_IDR2.offset));
    const idr7 = asWord(SMMU_IDR7, yield* el2.read32(basePa + SMMU_IDR7.offset));
    if (get(SMMU_IDR0.S2TS, idr0) === 0) throw new SmmuError(`${name} has no stage 2 (SMMU_IDR0.S2TS)`);
    if (get(SMMU_IDR2.PTFSv8_4kB, idr2) === 0) throw new SmmuError(`${name} walks no AArch64 tables of 4 KiB`);
    this.#geometry = smmuV2Geometry(get(SMMU_IDR1.PAGESIZE, idr1), get(SMMU_IDR1.NUMPAGENDXB, idr1));
    this.#version = get(SMMU_IDR7.MAJOR, idr7) === 1 ? 1 : 2;
    this.#inputBits = SIZE_BITS[Math.min(get(SMMU_IDR2.IAS, idr2), get(SMMU_IDR2.OAS, idr2))] ?? 48;
    if (contextIntids.length === 0) throw new SmmuError(`${name} has no context interrupt`);
    // A bank of the second version has an interrupt of its own; one without could not report a fault.
    const banks = get(SMMU_IDR1.NUMCB, idr1);
    this.#bankCount = this.#version === 1 ? banks : Math.min(banks, contextIntids.length);
    this.#groupCount = get(SMMU_IDR0.NUMSMRG, idr0);
    this.#matching = get(SMMU_IDR0.SMS, idr0) === 1;
    this.#extended = get(SMMU_IDR0.EXIDS, idr0) === 1;
    if (!this.#matching) this.#groupCount = Math.min(this.#groupCount, 2 ** get(SMMU_IDR0.NUMSIDB, idr0));
    if (this.#groupCount === 0) throw new SmmuError(`${name} has no stream mapping groups`);
  }

  /** Every group faults and matches nothing, every bank is off, nothing is cached, no fault stands. */
  *#reset(): Op<void> {
    const { el2, name } = this.#o;
    const gfsr = yield* el2.read32(this.#gr0(SMMU_sGFSR));
    yield* el2.write32(this.#gr0(SMMU_sGFSR), gfsr);
    for (let n = 0; n < this.#groupCount; n++) {
      const clear = [physWrite32(this.#gr0(indexed(SMMU_S2CR, n)), FAULT)];
      if (this.#matching) clear.push(physWrite32(this.#gr0(indexed(SMMU_SMR, n)), 0));
      yield* el2.batch(clear);
    }
    const banks = Array.from({ length: this.#bankCount }, (_, n) => n);
    yield* el2.batch(
      banks.flatMap((n) => [
        physWrite32(this.#cb(n, SMMU_CB_SCTLR), 0),
        physWrite32(this.#cb(n, SMMU_CB_FSR), 0xffff_ffff),
      ]),
    );
    yield* el2.batch([physWrite32(this.#gr0(SMMU_TLBIALLH), 0), physWrite32(this.#gr0(SMMU_TLBIALLNSNH), 0)]);
    if (!this.#matching) return;
    if (this.#extended) {
      this.#streamIdBits = 16;
      return;
    }
    // Bits of ID and of MASK that are not there read as zero.
    const smr = this.#gr0(SMMU_SMR);
    yield* el2.write32(smr, wordWith(SMMU_SMR, { ID: 0x7fff }));
    const ids = get(SMMU_SMR.ID, asWord(SMMU_SMR, yield* el2.read32(smr)));
    yield* el2.write32(smr, wordWith(SMMU_SMR, { MASK: 0x7fff }));
    const masks = get(SMMU_SMR.MASK, asWord(SMMU_SMR, yield* el2.read32(smr)));
    yield* el2.write32(smr, 0);
    if (masks !== ids) throw new SmmuError(`${name} masks other bits of a StreamID than it compares`);
    this.#streamIdBits = 32 - Math.clz32(ids);
  }

  *#attach(streamId: number, tables: Stage2Tables): Op<void> {
    yield* this.addStream(streamId);
    check(!this.#attached.has(streamId), 'EBUSY', `StreamID 0x${streamId.toString(16)} is attached`);
    check(tables.ipaBits <= this.#inputBits, 'ERANGE', `${this.name} takes no ${tables.ipaBits}-bit addresses`);
    const group = this.#matching ? freeIn(this.#groups, this.#groupCount) : streamId;
    check(group >= 0, 'ENOSPC', `all ${this.#groupCount} stream match registers of ${this.name} are taken`);
    const bank = yield* this.#bankFor(tables);
    bank.streams++;
    this.#groups[group] = streamId;
    this.#attached.set(streamId, { group, bank });
    try {
      const s2cr = wordWith(SMMU_S2CR, { CBNDX: bank.index, EXIDVALID: Number(this.#extended && this.#matching) });
      const ops = [physWrite32(this.#gr0(indexed(SMMU_S2CR, group)), s2cr)];
      // The register matches before the group translates: until then it faults.
      if (this.#matching) {
        const smr = this.#extended ? streamId : wordWith(SMMU_SMR, { ID: streamId, VALID: 1 });
        ops.unshift(physWrite32(this.#gr0(indexed(SMMU_SMR, group)), smr));
      }
      yield* this.#o.el2.batch(ops);
    } catch (error) {
      yield* this.#detach(streamId);
      throw error;
    }
  }

  *#detach(streamId: number): Op<void> {
    const attached = this.#attached.get(streamId);
    if (attached === undefined) return;
    const { group, bank } = attached;
    // S2CR first: whoever gets the stream match register next finds a group that faults.
    const ops = [physWrite32(this.#gr0(indexed(SMMU_S2CR, group)), FAULT)];
    if (this.#matching) ops.push(physWrite32(this.#gr0(indexed(SMMU_SMR, group)), 0));
    yield* this.#o.el2.batch(ops);
    if (bank.streams === 1) {
      yield* this.#o.el2.write32(this.#cb(bank.index, SMMU_CB_SCTLR), 0);
      // Its interrupt is down now: a fault that nobody has read would look like one of the next tables.
      yield* this.#takeContextFault(bank.index);
      yield* this.#invalidate(bank.tables.vmid);
      this.#banks[bank.index] = undefined;
    }
    bank.streams--;
    this.#groups[group] = undefined;
    this.#attached.delete(streamId);
  }

  /** The bank that walks these tables, or a free one set up for them. */
  *#bankFor(tables: Stage2Tables): Op<Bank> {
    const there = this.#banks.find((b) => b?.tables.vmid === tables.vmid);
    if (there !== undefined) return there;
    const index = freeIn(this.#banks, this.#bankCount);
    check(index >= 0, 'ENOSPC', `all ${this.#bankCount} context banks of ${this.name} are taken`);
    const bank: Bank = { index, tables, streams: 0 };
    // From here on, whoever changes the tables invalidates here too.
    this.#banks[index] = bank;
    const irptndx = this.#version === 1 ? index % this.#o.contextIntids.length : 0;
    const { rootPa, geometry, vmid } = tables;
    try {
      yield* this.#o.el2.batch([
        physWrite32(this.#gr1(indexed(SMMU_CBA2R, index)), wordWith(SMMU_CBA2R, { VA64: 1 })),
        physWrite32(
          this.#gr1(indexed(SMMU_CBAR, index)),
          wordWith(SMMU_CBAR, { VMID: vmid, TYPE: CBAR_TYPE.S2, IRPTNDX: irptndx }),
        ),
        physWrite32(this.#cb(index, SMMU_CB_TTBR0_LO), rootPa >>> 0),
        physWrite32(this.#cb(index, SMMU_CB_TTBR0_HI), Math.floor(rootPa / 0x1_0000_0000)),
        physWrite32(this.#cb(index, SMMU_CB_TCR), encodeVtcr({ ...geometry, vmid16: false })),
      ]);
      yield* this.#invalidate(vmid);
      yield* this.#o.el2.write32(this.#cb(index, SMMU_CB_SCTLR), SCTLR);
    } catch (error) {
      this.#banks[index] = undefined;
      throw error;
    }
    return bank;
  }

  *#invalidate(vmid: number): Op<void> {
    this.#o.counts.add('tlbInvalidations', 'SMMU_TLBIVMID');
    yield* this.#o.el2.write32(this.#gr0(SMMU_TLBIVMID), vmid);
    yield* this.#tlbSync();
  }

  *#tlbSync(): Op<void> {
    const { el2, counts } = this.#o;
    counts.add('smmuCommands', 'SMMU_sTLBGSYNC');
    yield* el2.write32(this.#gr0(SMMU_sTLBGSYNC), 0);
    for (let polls = 0; (yield* el2.read32(this.#gr0(SMMU_sTLBGSTATUS))) !== 0; polls++) {
      if (polls >= POLLS_MAX) throw new XenError('ETIMEDOUT', `SMMU_sTLBGSTATUS of ${this.name} stays active`);
      yield* sleep(POLL_NS);
    }
  }

  *#onInterrupt(intid: number): Op<void> {
    const { contextIntids, globalIntids } = this.#o;
    if (globalIntids.includes(intid)) yield* this.#faults.takeGlobal(this.#o.basePa);
    for (const bank of this.#banks) {
      if (bank === undefined) continue;
      const number = this.#version === 1 ? bank.index % contextIntids.length : bank.index;
      if (contextIntids[number] === intid) yield* this.#takeContextFault(bank.index);
    }
  }

  #takeContextFault(bank: number): Op<void> {
    return this.#faults.takeContext(this.#cb(bank, { offset: 0 }), this.#gr1(indexed(SMMU_CBFRSYNRA, bank)));
  }

  #gr0(register: { readonly offset: number }): number {
    return this.#o.basePa + register.offset;
  }

  #gr1(register: { readonly offset: number }): number {
    return this.#o.basePa + this.#geometry.gr1 + register.offset;
  }

  #cb(bank: number, register: { readonly offset: number }): number {
    return this.#o.basePa + this.#geometry.banks + bank * this.#geometry.pageBytes + register.offset;
  }
}

/** The lowest index below `count` that nothing has; -1 when all are taken. */
function freeIn(taken: readonly unknown[], count: number): number {
  for (let i = 0; i < count; i++) if (taken[i] === undefined) return i;
  return -1;
}
