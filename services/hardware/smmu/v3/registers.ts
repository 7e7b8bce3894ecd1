/**
 * The register file of an SMMUv3 (IHI 0070, "Register formats") and its global error state.
 * Every control takes effect at once, so SMMU_CR0ACK, SMMU_IRQ_CTRLACK and SMMU_GBPA.Update have settled when they are
 * read. Accesses are aligned words; others read as zero and are dropped, which the book allows.
 * At reset SMMU_GBPA.ABORT is 1 (the book leaves it to the part): until software programs the SMMU, every DMA of a
 * device behind it is aborted.
 * Not modelled: what smmu/v3.ts of shared/arch leaves out; a Cavium-style alias of page 1 in page 0.
 */
import * as v3 from '#shared/arch/smmu/v3.ts';
import { RegBank } from '#shared/regs/bank.ts';
import { asWord, type Field, get, put, type Register, wordWith } from '#shared/regs/field.ts';
import type { MmioTarget } from '../../bus/transaction.ts';

/** What the part is: see docs/reference/not-modelled.md. */
export const SIDSIZE = 16;
export const CMDQS = 8;
export const EVENTQS = 7;
/** SMMU_IDR5.OAS, and the bits it stands for. */
const OAS = 5;
export const OAS_BITS = v3.ADDRESS_BITS[OAS]!;

const IDR0 = wordWith(v3.SMMU_IDR0, {
  S2P: 1,
  TTF: 2,
  COHACC: 1,
  VMID16: 1,
  TTENDIAN: 2,
  STALL_MODEL: 1,
  TERM_MODEL: 1,
  ST_LEVEL: 1,
});
const IDR1 = wordWith(v3.SMMU_IDR1, { SIDSIZE, CMDQS, EVENTQS });
const IDR5 = wordWith(v3.SMMU_IDR5, { OAS, GRAN4K: 1 });
const AIDR = wordWith(v3.SMMU_AIDR, { ArchMinorRev: 1 });
const GBPA_RESET = wordWith(v3.SMMU_GBPA, { ABORT: 1, SHCFG: 1 });

const REGISTERS: readonly Register[] = [
  v3.SMMU_IDR0,
  v3.SMMU_IDR1,
  v3.SMMU_IDR2,
  v3.SMMU_IDR3,
  v3.SMMU_IDR4,
  v3.SMMU_IDR5,
  v3.SMMU_IIDR,
  v3.SMMU_AIDR,
  v3.SMMU_CR0,
  v3.SMMU_CR0ACK,
  v3.SMMU_CR1,
  v3.SMMU_CR2,
  v3.SMMU_STATUSR,
  v3.SMMU_GBPA,
  v3.SMMU_AGBPA,
  v3.SMMU_IRQ_CTRL,
  v3.SMMU_IRQ_CTRLACK,
  v3.SMMU_GERROR,
  v3.SMMU_GERRORN,
  v3.SMMU_STRTAB_BASE_LO,
  v3.SMMU_STRTAB_BASE_HI,
  v3.SMMU_STRTAB_BASE_CFG,
  v3.SMMU_CMDQ_BASE_LO,
  v3.SMMU_CMDQ_BASE_HI,
  v3.SMMU_CMDQ_PROD,
  v3.SMMU_CMDQ_CONS,
  v3.SMMU_EVENTQ_BASE_LO,
  v3.SMMU_EVENTQ_BASE_HI,
  v3.SMMU_EVENTQ_PROD,
  v3.SMMU_EVENTQ_CONS,
];

export interface RegisterHooks {
  /** The command queue may have something to do: PROD moved, it was enabled, or its error was acknowledged. */
  commandsWaiting(): void;
  irq(name: 'gerror'): void;
}

export class SmmuRegisters implements MmioTarget {
  readonly name: string;
  readonly bank: RegBank;
  readonly #hooks: RegisterHooks;

  constructor(name: string, hooks: RegisterHooks) {
    this.name = name;
    this.#hooks = hooks;
    const bank = new RegBank(v3.SMMU_BYTES, REGISTERS);
    this.bank = bank;
    const smmuOff = (): boolean => !this.smmuEnabled;
    const commandsOff = (): boolean => !this.#cr0(v3.SMMU_CR0.CMDQEN);
    const eventsOff = (): boolean => !this.eventsEnabled;
    bank
      .onWrite(v3.SMMU_CR0, (now, before) => {
        bank.poke(v3.SMMU_CR0ACK, now);
        if (get(v3.SMMU_CR0.CMDQEN, now) && !get(v3.SMMU_CR0.CMDQEN, before)) hooks.commandsWaiting();
      })
      .onWrite(v3.SMMU_GBPA, (now, before, value) => {
        const update = get(v3.SMMU_GBPA.Update, value) === 1;
        bank.poke(v3.SMMU_GBPA, update ? put(v3.SMMU_GBPA.Update, now, 0) : before);
      })
      .onWrite(v3.SMMU_IRQ_CTRL, (now) => bank.poke(v3.SMMU_IRQ_CTRLACK, now))
      .onWrite(v3.SMMU_GERRORN, () => hooks.commandsWaiting())
      .onWrite(v3.SMMU_CMDQ_PROD, () => hooks.commandsWaiting());
    for (const register of [
      v3.SMMU_CR2,
      v3.SMMU_STRTAB_BASE_LO,
      v3.SMMU_STRTAB_BASE_HI,
      v3.SMMU_STRTAB_BASE_CFG,
    ] as Register[]) {
      bank.writableWhile(register, smmuOff);
    }
    for (const register of [v3.SMMU_CMDQ_BASE_LO, v3.SMMU_CMDQ_BASE_HI, v3.SMMU_CMDQ_CONS] as Register[]) {
      bank.writableWhile(register, commandsOff);
    }
    for (const register of [v3.SMMU_EVENTQ_BASE_LO, v3.SMMU_EVENTQ_BASE_HI, v3.SMMU_EVENTQ_PROD] as Register[]) {
      bank.writableWhile(register, eventsOff);
    }
    this.reset();
  }

  reset(): void {
    const { bank } = this;
    bank.reset();
    bank.poke(v3.SMMU_IDR0, IDR0);
    bank.poke(v3.SMMU_IDR1, IDR1);
    bank.poke(v3.SMMU_IDR5, IDR5);
    bank.poke(v3.SMMU_AIDR, AIDR);
    bank.poke(v3.SMMU_GBPA, GBPA_RESET);
  }

  read(offset: number, size: number): number {
    return size === 4 ? this.bank.read(offset) : 0;
  }

  write(offset: number, size: number, value: number): void {
    if (size === 4) this.bank.write(offset, value);
  }

  get smmuEnabled(): boolean {
    return this.#cr0(v3.SMMU_CR0.SMMUEN);
  }

  /** CMDQEN, and no command error waits for its acknowledgement. */
  get commandsRun(): boolean {
    return this.#cr0(v3.SMMU_CR0.CMDQEN) && !this.errorActive(v3.SMMU_GERROR.CMDQ_ERR);
  }

  get eventsEnabled(): boolean {
    return this.#cr0(v3.SMMU_CR0.EVENTQEN);
  }

  /** Whether DMA is aborted while the SMMU is off. */
  get bypassAborts(): boolean {
    return get(v3.SMMU_GBPA.ABORT, this.bank.peek(v3.SMMU_GBPA)) === 1;
  }

  errorActive(error: Field<'SMMU_GERROR'>): boolean {
    const differ = this.bank.peek(v3.SMMU_GERROR) ^ this.bank.peek(v3.SMMU_GERRORN);
    return get(error, asWord(v3.SMMU_GERROR, differ)) === 1;
  }

  /** Activates a global error: toggles its bit when it is not active yet, and raises the interrupt when enabled. */
  raiseError(error: Field<'SMMU_GERROR'>): void {
    if (this.errorActive(error)) return;
    this.bank.poke(v3.SMMU_GERROR, (this.bank.peek(v3.SMMU_GERROR) ^ (1 << error.lsb)) >>> 0);
    if (get(v3.SMMU_IRQ_CTRL.GERROR_IRQEN, this.bank.peek(v3.SMMU_IRQ_CTRL))) this.#hooks.irq('gerror');
  }

  /** The address in a pair of base registers, [51:low]; its low bits are still those of the low register. */
  baseAddress(lo: Register, hi: Register, lowMask: number): number {
    const high = this.bank.peek(hi) & 0xf_ffff;
    return high * 0x1_0000_0000 + ((this.bank.peek(lo) & lowMask) >>> 0);
  }

  #cr0(field: Field<'SMMU_CR0'>): boolean {
    return get(field, this.bank.peek(v3.SMMU_CR0)) === 1;
  }
}
