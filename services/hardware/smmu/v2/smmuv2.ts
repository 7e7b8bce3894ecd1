/**
 * An SMMUv2 as a whole (IHI 0062; ThunderX CN88xx, arm,mmu-500): stream matching or indexing, context banks for stage 2,
 * stage 1 and nested translation, global and context faults with their interrupts as levels, TLB maintenance.
 * Parts that share a TLB, as the SMMUs of one ThunderX do (erratum 27704), are given the same `tlb`: then a VMID means
 * one set of tables for all of them, and maintenance on one reaches all.
 * A requester whose StreamID is -1 is not behind any SMMU by the device tree; here it matches nothing.
 * Not modelled: what the parts leave out.
 */

import * as v2 from '#shared/arch/smmu/v2.ts';
import { type Address64, addressPlus } from '#shared/ids/address64.ts';
import { get } from '#shared/regs/field.ts';
import type { Bus } from '../../bus/bus.ts';
import type { MmioTarget, Requester } from '../../bus/transaction.ts';
import { Stage1Walker } from '../../mmu/stage1.ts';
import { Stage2Walker, WANT_READ, WANT_WRITE } from '../../mmu/stage2.ts';
import { Tlb } from '../../mmu/tlb.ts';
import { loadCounts, type Saved } from '../../state/saved.ts';
import type { Smmu, SmmuCounts } from '../smmu.ts';
import { ContextBank } from './context-bank.ts';
import { DEFAULT_FEATURES, geometryOf, type Smmuv2Features } from './features.ts';
import { GlobalRegisters } from './global-registers.ts';
import { groupOf } from './stream-match.ts';
import { ABORTED, Translator } from './translate.ts';

export interface Smmuv2Options {
  readonly name: string;
  readonly bus: Bus;
  /** The level of a wired interrupt: `'global'`, or the number of a context interrupt. */
  readonly irq: (interrupt: 'global' | number, high: boolean) => void;
  /** What is not said is as DEFAULT_FEATURES has it. */
  readonly features?: Partial<Smmuv2Features>;
  /** Shared with other SMMUs; its own when not given. */
  readonly tlb?: Tlb;
}

export class Smmuv2 implements Smmu, Saved {
  readonly name: string;
  readonly features: Smmuv2Features;
  readonly registers: MmioTarget;
  /** Bytes of the register block, and where things stand in it. */
  readonly geometry: v2.SmmuV2Geometry;
  readonly #bus: Bus;
  readonly #irq: Smmuv2Options['irq'];
  readonly #global: GlobalRegisters;
  /** Made when they are first touched: most of 128 never are. */
  readonly #banks: (ContextBank | undefined)[];
  readonly #tlb: Tlb;
  readonly #translator: Translator;
  readonly #commands: Record<string, number> = {};
  /** Levels of the context interrupts by number: banks that share one raise it together. */
  readonly #raised: Set<number>[] = [];

  constructor({ name, bus, irq, features, tlb }: Smmuv2Options) {
    this.name = name;
    this.#bus = bus;
    this.#irq = irq;
    this.features = { ...DEFAULT_FEATURES, ...features };
    this.geometry = geometryOf(this.features);
    this.#tlb = tlb ?? new Tlb();
    this.#banks = new Array(this.features.contextBanks).fill(undefined);
    this.#global = new GlobalRegisters(this.features, {
      invalidateAll: () => {
        this.#count('TLBIALL');
        this.#tlb.invalidateAll();
      },
      invalidateVmid: (vmid) => {
        this.#count('TLBIVMID');
        this.#tlb.invalidateVmid(vmid);
      },
      sync: () => this.#count('sTLBGSYNC'),
      interrupt: (high) => irq('global', high),
    });
    const walker = new Stage2Walker(bus.ram);
    this.#translator = new Translator({
      registers: this.#global,
      bank: (n) => this.#bank(n),
      tlb: this.#tlb,
      walker,
      stage1: new Stage1Walker(bus.ram, walker),
    });
    this.registers = {
      name,
      read: (offset, size) => (size === 4 ? this.#read(offset) : 0),
      write: (offset, size, value) => {
        if (size === 4) this.#write(offset, value >>> 0);
      },
    };
  }

  /** Reads at device address `iova`. Returns the bytes done; fewer than asked: aborted there. */
  dmaRead(requester: Requester, iova: number, into: Uint8Array): number {
    return this.#move(requester, iova, into, WANT_READ);
  }

  /** Writes at device address `iova`. Returns the bytes done; fewer than asked: aborted there. */
  dmaWrite(requester: Requester, iova: number, from: Uint8Array): number {
    return this.#move(requester, iova, from, WANT_WRITE);
  }

  dmaWide(requester: Requester, iova: bigint, data: Uint8Array, write: boolean): number {
    return this.#move(requester, iova, data, write ? WANT_WRITE : WANT_READ);
  }

  get counts(): SmmuCounts {
    const { faults, faultsLost, translations, aborts } = this.#translator;
    return {
      commands: { ...this.#commands },
      events: { ...faults },
      eventsLost: faultsLost,
      tlbInvalidations: Object.entries(this.#commands).reduce(
        (n, [name, c]) => n + (name.startsWith('TLBI') ? c : 0),
        0,
      ),
      translations,
      aborts,
      tlbHits: this.#tlb.hits,
      tlbMisses: this.#tlb.misses,
    };
  }

  reset(): void {
    this.#global.reset();
    for (const bank of this.#banks) bank?.reset();
    this.#tlb.reset();
    this.#translator.reset();
    for (const name of Object.keys(this.#commands)) delete this.#commands[name];
  }

  inspect(): unknown {
    const global = this.#global;
    const groups = Array.from({ length: this.features.streamGroups }, (_, n) => n).flatMap((n) => {
      const s2cr = global.s2cr(n);
      const type = ['translate', 'bypass', 'fault', 'reserved'][get(v2.SMMU_S2CR.TYPE, s2cr)];
      if (!this.features.streamMatching) return [{ group: n, streamId: n, type, bank: get(v2.SMMU_S2CR.CBNDX, s2cr) }];
      const { valid, id, mask } = groupOf(global, n);
      return valid ? [{ group: n, streamId: id, mask, type, bank: get(v2.SMMU_S2CR.CBNDX, s2cr) }] : [];
    });
    return {
      name: this.name,
      sCR0: global.gr0.peek(v2.SMMU_sCR0),
      sGFSR: v2.faultNames(global.gr0.peek(v2.SMMU_sGFSR), 'global'),
      groups,
      banks: this.#banks.flatMap((bank, n) => (bank?.translates ? [this.#inspectBank(bank, n)] : [])),
      tlb: this.#tlb.entries(),
      counts: this.counts,
    };
  }

  save(): unknown {
    return {
      global: this.#global.save(),
      banks: this.#banks.map((bank) => bank?.save()),
      tlb: this.#tlb.save(),
      commands: { ...this.#commands },
      faults: { ...this.#translator.faults },
      counts: [this.#translator.translations, this.#translator.aborts, this.#translator.faultsLost],
      raised: this.#raised.map((banks) => [...(banks ?? [])]),
    };
  }

  load(state: unknown): void {
    const saved = state as {
      global: unknown;
      banks: unknown[];
      tlb: unknown;
      commands: Record<string, number>;
      faults: Record<string, number>;
      counts: [number, number, number];
      raised: number[][];
    };
    this.#global.load(saved.global);
    saved.banks.forEach((bank, n) => {
      if (bank === undefined || bank === null) this.#banks[n] = undefined;
      else this.#bank(n).load(bank);
    });
    this.#tlb.load(saved.tlb);
    loadCounts(this.#commands, saved.commands);
    loadCounts(this.#translator.faults, saved.faults);
    [this.#translator.translations, this.#translator.aborts, this.#translator.faultsLost] = saved.counts;
    this.#raised.length = 0;
    saved.raised.forEach((banks, n) => {
      this.#raised[n] = new Set(banks);
    });
  }

  #move(requester: Requester, iova: Address64, data: Uint8Array, want: number): number {
    let done = 0;
    while (done < data.length) {
      const at = typeof iova === 'number' ? iova + done : addressPlus(iova, done);
      const pa = this.#translator.translate(requester.streamId, at, want);
      if (pa === ABORTED) return done;
      const run = Math.min(this.#translator.runBytes, data.length - done);
      if (pa < 0) {
        if (want === WANT_READ) data.fill(0, done, done + run);
        done += run;
        continue;
      }
      const moved =
        want === WANT_READ
          ? this.#bus.readBytes(pa, data, done, run, requester)
          : this.#bus.writeBytes(pa, data, done, run, requester);
      done += moved;
      if (moved < run) return done;
    }
    return done;
  }

  #read(offset: number): number {
    const { pageBytes, banks, gr1 } = this.geometry;
    const inPage = offset % pageBytes;
    if (inPage >= 0x1000) return 0;
    if (offset >= banks) return this.#banks[((offset - banks) / pageBytes) | 0]?.bank.read(inPage) ?? 0;
    if (offset < pageBytes) return this.#global.gr0.read(inPage);
    return offset < gr1 + pageBytes ? this.#global.gr1.read(inPage) : 0;
  }

  #write(offset: number, value: number): void {
    const { pageBytes, banks, gr1 } = this.geometry;
    const inPage = offset % pageBytes;
    if (inPage >= 0x1000) return;
    if (offset >= banks) {
      const n = Math.floor((offset - banks) / pageBytes);
      if (n < this.features.contextBanks) this.#bank(n).bank.write(inPage, value);
    } else if (offset < pageBytes) this.#global.gr0.write(inPage, value);
    else if (offset < gr1 + pageBytes) this.#global.gr1.write(inPage, value);
  }

  #bank(n: number): ContextBank {
    let bank = this.#banks[n];
    if (bank === undefined) {
      bank = new ContextBank({
        invalidateIpa: (ipa) => {
          this.#count('TLBIIPAS2');
          this.#tlb.invalidateIpa(this.#vmidOf(n), ipa);
        },
        invalidateVa: (asid, high, low) => {
          this.#count(asid === undefined ? 'TLBIVAA' : 'TLBIVA');
          if (asid === undefined) this.#tlb.invalidateVaAllAsids(this.#vmidOf(n), high, low, 1);
          else this.#tlb.invalidateVa(this.#vmidOf(n), asid, high, low, 1);
        },
        invalidateAsid: (asid) => {
          this.#count('TLBIASID');
          this.#tlb.invalidateAsid(this.#vmidOf(n), asid);
        },
        invalidateBank: () => {
          this.#count('TLBIALL');
          const stage2 = get(v2.SMMU_CBAR.TYPE, this.#global.cbar(n)) === v2.CBAR_TYPE.S2;
          if (stage2) this.#tlb.invalidateVmid(this.#vmidOf(n));
          else this.#tlb.invalidateStage1(this.#vmidOf(n));
        },
        sync: () => this.#count('TLBSYNC'),
        interrupt: (high) => this.#bankInterrupt(n, high),
      });
      this.#banks[n] = bank;
    }
    return bank;
  }

  #vmidOf(bank: number): number {
    return get(v2.SMMU_CBAR.VMID, this.#global.cbar(bank));
  }

  #bankInterrupt(bank: number, high: boolean): void {
    const { version, contextInterrupts } = this.features;
    const number = version === 1 ? get(v2.SMMU_CBAR.IRPTNDX, this.#global.cbar(bank)) : bank;
    if (number >= contextInterrupts) return;
    this.#raised[number] ??= new Set();
    const banks = this.#raised[number];
    if (high) banks.add(bank);
    else banks.delete(bank);
    this.#irq(number, banks.size > 0);
  }

  #inspectBank(bank: ContextBank, n: number) {
    const cbar = this.#global.cbar(n);
    return {
      bank: n,
      vmid: get(v2.SMMU_CBAR.VMID, cbar),
      type: ['stage 2', 'stage 1', 'stage 1, stage 2 faults', 'nested'][get(v2.SMMU_CBAR.TYPE, cbar)],
      TTBR0: bank.ttbr0,
      FSR: v2.faultNames(bank.bank.peek(v2.SMMU_CB_FSR), 'context'),
    };
  }

  #count(name: string): void {
    this.#commands[name] = (this.#commands[name] ?? 0) + 1;
  }
}
