/**
 * The distributor of a GICv2 (IHI 0048B, "Distributor register descriptions"): SPIs with the CPUs they go to, and for
 * each CPU its SGIs and PPIs, whose registers a CPU finds at the same addresses as every other. SGIs are always enabled,
 * as in a GIC-400; several CPUs may have sent one, and each of them is taken on its own, the lowest first.
 * With one CPU GICD_ITARGETSR is RAZ/WI and everything goes to that CPU.
 * A device is no CPU: what it reads is 0, and what it writes is dropped.
 * Not modelled: Security Extensions (GICD_TYPER.SecurityExtn=0, GICD_NSACR is RAZ/WI), GICD_PPISR and GICD_SPISR of a
 * GIC-400, and that an SGI is active for each sender apart: while one is, the others wait.
 */
import {
  GICD_CTLR,
  GICD_ICPENDR,
  GICD_IIDR,
  GICD_ISPENDR,
  GICD_ITARGETSR,
  GICD_TYPER,
} from '#shared/arch/gic/distributor.ts';
import {
  decodeGicdSgir,
  encodeGicv2Typer,
  GIC400_GICD_IIDR,
  GICD_CPENDSGIR,
  GICD_SGIR,
  GICD_SPENDSGIR,
  GICV2_GICD_BYTES,
  GICV2_GICD_CTLR_EnableGrp0,
  GICV2_GICD_CTLR_EnableGrp1,
  SGI_COUNT,
  sgiTargets,
} from '#shared/arch/gic/v2.ts';
import { assert } from '#shared/core/assert.ts';
import type { MmioTarget, Requester } from '../../bus/transaction.ts';
import { loadArray, type Saved } from '../../state/saved.ts';
import { InterruptBank } from '../interrupt-bank.ts';
import type { Group } from '../priorities.ts';

/** INTIDs 0 to 511, as a GIC-400 has at most. */
export const GICV2_LINES = 512;
const SPI_FIRST = 32;
const SGIS = 0x0000_ffff;
const ENABLES = GICV2_GICD_CTLR_EnableGrp0 | GICV2_GICD_CTLR_EnableGrp1;
const ITARGETSR_END = GICD_ITARGETSR + 0x400;
/** PIDR4 to PIDR7, PIDR0 to PIDR3, CIDR0 to CIDR3 of a GIC-400. */
const ID_FIRST = 0x0fd0;
const ID_BYTES = [0x04, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 0x05, 0xb1];

interface SavedDistributor {
  readonly ctlr: number;
  readonly targets: Uint8Array;
  readonly spis: unknown;
  readonly privates: readonly unknown[];
  readonly senders: readonly Uint8Array[];
}

/** SGIs and PPIs of one CPU. */
interface Private {
  readonly bank: InterruptBank;
  /** By SGI: bit n, CPU n sent it and it was not taken. */
  readonly senders: Uint8Array;
}

export class Distributor implements MmioTarget, Saved {
  readonly name = 'GICD';
  readonly #cpus: number;
  readonly #accessing: () => number;
  readonly #changed: () => void;
  readonly #spis = new InterruptBank(SPI_FIRST, GICV2_LINES - SPI_FIRST);
  readonly #privates: readonly Private[];
  /** Of each SPI, bit n: it goes to CPU n. */
  readonly #targets = new Uint8Array(GICV2_LINES);
  #ctlr = 0;

  /**
   * `accessing` gives the CPU that makes the access under way; `changed` is called when something may have become an
   * interrupt to take, or stopped being one.
   */
  constructor(cpus: number, accessing: () => number, changed: () => void) {
    this.#cpus = cpus;
    this.#accessing = accessing;
    this.#changed = changed;
    this.#privates = Array.from({ length: cpus }, () => ({
      bank: new InterruptBank(0, SPI_FIRST, SGIS, SGIS),
      senders: new Uint8Array(SGI_COUNT),
    }));
    this.reset();
  }

  reset(): void {
    this.#spis.reset();
    for (const { bank, senders } of this.#privates) {
      bank.reset();
      senders.fill(0);
    }
    this.#targets.fill(0);
    this.#setCtlr(0);
  }

  /** INTID of highest priority that `cpu` is offered in the groups of `groups` (bit n: group n), or -1. */
  best(cpu: number, groups: number): number {
    let best = -1;
    let priority = 0x100;
    const { bank } = this.#privates[cpu]!;
    for (let bits = bank.candidates(0); bits !== 0; bits &= bits - 1) {
      const intid = 31 - Math.clz32(bits & -bits);
      if (bank.priorityOf(intid) >= priority || ((groups >>> this.groupOf(cpu, intid)) & 1) === 0) continue;
      best = intid;
      priority = bank.priorityOf(intid);
    }
    const spis = this.#spis;
    for (let words = spis.candidateWords; words !== 0; words &= words - 1) {
      const word = 31 - Math.clz32(words & -words);
      for (let bits = spis.candidates(word); bits !== 0; bits &= bits - 1) {
        const intid = SPI_FIRST + 32 * word + 31 - Math.clz32(bits & -bits);
        if (spis.priorityOf(intid) >= priority || !this.#goesTo(intid, cpu)) continue;
        if (((groups >>> this.groupOf(cpu, intid)) & 1) === 0) continue;
        best = intid;
        priority = spis.priorityOf(intid);
      }
    }
    return best;
  }

  priorityOf(cpu: number, intid: number): number {
    return this.#bankOf(cpu, intid)?.priorityOf(intid) ?? 0xff;
  }

  groupOf(cpu: number, intid: number): Group {
    return this.#bankOf(cpu, intid)?.isGroup1(intid) === true ? 1 : 0;
  }

  /** The CPU that is next to have its SGI taken at `cpu`; 0 for anything else, which nobody sent. */
  senderOf(cpu: number, intid: number): number {
    const senders = this.#privates[cpu]!.senders[intid] ?? 0;
    return senders === 0 ? 0 : 31 - Math.clz32(senders & -senders);
  }

  acknowledge(cpu: number, intid: number): void {
    const sender = this.senderOf(cpu, intid);
    this.#bankOf(cpu, intid)?.acknowledge(intid);
    if (intid < SGI_COUNT) this.#setSenders(cpu, intid, this.#privates[cpu]!.senders[intid]! & ~(1 << sender));
  }

  deactivate(cpu: number, intid: number): void {
    this.#bankOf(cpu, intid)?.deactivate(intid);
  }

  /** False for an INTID that has no wire here. */
  setSpiLine(intid: number, high: boolean): boolean {
    if (!this.#spis.has(intid)) return false;
    this.#spis.setLine(intid, high);
    return true;
  }

  read(at: number, size: number, requester?: Requester): number {
    if (requester !== undefined) return 0;
    const offset = at % GICV2_GICD_BYTES;
    const cpu = this.#accessing();
    if (offset >= GICD_ITARGETSR && offset < ITARGETSR_END)
      return bytes(size, (i) => this.#targetsOf(cpu, offset - GICD_ITARGETSR + i));
    const sgi = sgiOf(offset);
    if (sgi >= 0) return bytes(size, (i) => this.#privates[cpu]!.senders[sgi + i] ?? 0);
    if (size === 4) {
      switch (offset) {
        case GICD_CTLR:
          return this.#ctlr;
        case GICD_TYPER:
          return encodeGicv2Typer({ lines: GICV2_LINES, cpus: this.#cpus });
        case GICD_IIDR:
          return GIC400_GICD_IIDR;
      }
      if (offset >= ID_FIRST) return ID_BYTES[(offset - ID_FIRST) / 4] ?? 0;
    }
    // What is not of the one bank reads 0 there.
    return (this.#privates[cpu]!.bank.read(offset, size) | this.#spis.read(offset, size)) >>> 0;
  }

  write(at: number, size: number, value: number, requester?: Requester): void {
    if (requester !== undefined) return;
    const offset = at % GICV2_GICD_BYTES;
    const cpu = this.#accessing();
    const sgi = sgiOf(offset);
    if (offset >= GICD_ITARGETSR && offset < ITARGETSR_END) this.#writeTargets(offset - GICD_ITARGETSR, size, value);
    else if (sgi >= 0) this.#writeSenders(cpu, sgi, size, value, offset >= GICD_SPENDSGIR);
    else if (size === 4 && offset === GICD_CTLR) this.#setCtlr(value & ENABLES);
    else if (size === 4 && offset === GICD_SGIR) this.#generateSgi(cpu, value);
    else {
      // Which SGIs are pending is for the registers of their senders to say.
      const isPending = offset === GICD_ISPENDR || offset === GICD_ICPENDR;
      this.#privates[cpu]!.bank.write(offset, size, isPending ? (value & ~SGIS) >>> 0 : value);
      this.#spis.write(offset, size, value);
    }
    this.#changed();
  }

  #setCtlr(value: number): void {
    this.#ctlr = value;
    const groups = [(value & GICV2_GICD_CTLR_EnableGrp0) !== 0, (value & GICV2_GICD_CTLR_EnableGrp1) !== 0] as const;
    this.#spis.forward(...groups);
    for (const { bank } of this.#privates) bank.forward(...groups);
  }

  #goesTo(intid: number, cpu: number): boolean {
    return this.#cpus === 1 || ((this.#targets[intid]! >>> cpu) & 1) !== 0;
  }

  /** A byte of GICD_ITARGETSR. That of a private interrupt names the CPU that reads it. */
  #targetsOf(cpu: number, intid: number): number {
    if (this.#cpus === 1) return 0;
    return intid < SPI_FIRST ? 1 << cpu : (this.#targets[intid] ?? 0);
  }

  #writeTargets(first: number, size: number, value: number): void {
    if (this.#cpus === 1) return;
    for (let i = 0; i < size; i++) {
      const intid = first + i;
      if (intid >= SPI_FIRST && intid < GICV2_LINES) this.#targets[intid] = (value >>> (8 * i)) & (2 ** this.#cpus - 1);
    }
  }

  #generateSgi(from: number, value: number): void {
    const sgir = decodeGicdSgir(value);
    for (let list = sgiTargets(sgir, from, this.#cpus); list !== 0; list &= list - 1) {
      const cpu = 31 - Math.clz32(list & -list);
      this.#setSenders(cpu, sgir.intid, this.#privates[cpu]!.senders[sgir.intid]! | (1 << from));
    }
  }

  #writeSenders(cpu: number, first: number, size: number, value: number, set: boolean): void {
    for (let i = 0; i < size && first + i < SGI_COUNT; i++) {
      const bits = (value >>> (8 * i)) & (2 ** this.#cpus - 1);
      const before = this.#privates[cpu]!.senders[first + i]!;
      this.#setSenders(cpu, first + i, set ? before | bits : before & ~bits);
    }
  }

  #setSenders(cpu: number, sgi: number, senders: number): void {
    const p = this.#privates[cpu]!;
    p.senders[sgi] = senders;
    if (senders !== 0) p.bank.setPending(sgi);
    else p.bank.write(GICD_ICPENDR, 4, 1 << sgi);
  }

  #bankOf(cpu: number, intid: number): InterruptBank | undefined {
    if (intid < SPI_FIRST) return this.#privates[cpu]!.bank;
    return this.#spis.has(intid) ? this.#spis : undefined;
  }

  save(): SavedDistributor {
    return {
      ctlr: this.#ctlr,
      targets: this.#targets.slice(),
      spis: this.#spis.save(),
      privates: this.#privates.map(({ bank }) => bank.save()),
      senders: this.#privates.map(({ senders }) => senders.slice()),
    };
  }

  load(state: unknown): void {
    const s = state as SavedDistributor;
    loadArray(this.#targets, s.targets, 'GICD_ITARGETSR');
    this.#spis.load(s.spis);
    assert(s.privates.length === this.#cpus, 'the number of CPUs was looked at before');
    for (const [cpu, { bank, senders }] of this.#privates.entries()) {
      bank.load(s.privates[cpu]);
      loadArray(senders, s.senders[cpu]!, 'GICD_SPENDSGIR');
    }
    this.#setCtlr(s.ctlr);
  }

  inspect(): unknown {
    return {
      enableGrp0: (this.#ctlr & GICV2_GICD_CTLR_EnableGrp0) !== 0,
      enableGrp1: (this.#ctlr & GICV2_GICD_CTLR_EnableGrp1) !== 0,
      spis: this.#spis.inspect(),
    };
  }

  inspectPrivates(cpu: number): unknown {
    const { bank, senders } = this.#privates[cpu]!;
    return { ...bank.inspect(), senders: [...senders] };
  }
}

/** The SGI whose byte of GICD_CPENDSGIR or GICD_SPENDSGIR stands at `offset`, or -1. */
function sgiOf(offset: number): number {
  return offset >= GICD_CPENDSGIR && offset < GICD_SPENDSGIR + SGI_COUNT ? offset & (SGI_COUNT - 1) : -1;
}

function bytes(size: number, byte: (i: number) => number): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i--) value = value * 256 + byte(i);
  return value;
}
