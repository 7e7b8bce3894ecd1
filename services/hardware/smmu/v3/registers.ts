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
import type { Saved } from '../../state/saved.ts';
import { identification, type SmmuFeatures } from './features.ts';

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
const GERROR_MSI: readonly Register[] = [
  v3.SMMU_GERROR_IRQ_CFG0_LO,
  v3.SMMU_GERROR_IRQ_CFG0_HI,
  v3.SMMU_GERROR_IRQ_CFG1,
  v3.SMMU_GERROR_IRQ_CFG2,
];
const EVENTQ_MSI: readonly Register[] = [
  v3.SMMU_EVENTQ_IRQ_CFG0_LO,
  v3.SMMU_EVENTQ_IRQ_CFG0_HI,
  v3.SMMU_EVENTQ_IRQ_CFG1,
  v3.SMMU_EVENTQ_IRQ_CFG2,
];

export interface RegisterHooks {
  /** The command queue may have something to do: PROD moved, it was enabled, or its error was acknowledged. */
  commandsWaiting(): void;
  /** SMMU_CR0.SMMUEN is this now. */
  enabled(smmuEnabled: boolean): void;
  /** A global error has become active and its interrupt is enabled. */
  gerror(): void;
}

export class SmmuRegisters implements MmioTarget, Saved {
  readonly name: string;
  readonly features: SmmuFeatures;
  readonly bank: RegBank;
  readonly #all: readonly Register[];
  readonly #hooks: RegisterHooks;
  /** SMMU_CR0.SMMUEN. */
  smmuEnabled = false;

  constructor(name: string, features: SmmuFeatures, hooks: RegisterHooks) {
    this.name = name;
    this.features = features;
    this.#hooks = hooks;
    this.#all = features.MSI === 1 ? [...REGISTERS, ...GERROR_MSI, ...EVENTQ_MSI] : REGISTERS;
    const bank = new RegBank(v3.SMMU_BYTES, this.#all);
    this.bank = bank;
    bank
      .onWrite(v3.SMMU_CR0, (now, before) => {
        bank.poke(v3.SMMU_CR0ACK, now);
        this.#enable(get(v3.SMMU_CR0.SMMUEN, now) === 1);
        if (get(v3.SMMU_CR0.CMDQEN, now) && !get(v3.SMMU_CR0.CMDQEN, before)) hooks.commandsWaiting();
      })
      .onWrite(v3.SMMU_GBPA, (now, before, value) => {
        const update = get(v3.SMMU_GBPA.Update, value) === 1;
        bank.poke(v3.SMMU_GBPA, update ? put(v3.SMMU_GBPA.Update, now, 0) : before);
      })
      .onWrite(v3.SMMU_IRQ_CTRL, (now) => bank.poke(v3.SMMU_IRQ_CTRLACK, now))
      .onWrite(v3.SMMU_GERRORN, () => hooks.commandsWaiting())
      .onWrite(v3.SMMU_CMDQ_PROD, () => hooks.commandsWaiting());
    this.#lock();
    this.reset();
  }

  reset(): void {
    const { bank } = this;
    bank.reset();
    for (const [register, word] of identification(this.features)) bank.poke(register as Register, word);
    bank.poke(v3.SMMU_GBPA, GBPA_RESET);
    this.#enable(false);
  }

  /** Every register's word, in the order of the declaration. */
  save(): number[] {
    return this.#all.map((register) => this.bank.peek(register));
  }

  load(state: unknown): void {
    this.#all.forEach((register, i) => {
      this.bank.poke(register, (state as number[])[i]!);
    });
    this.#enable(this.#cr0(v3.SMMU_CR0.SMMUEN));
  }

  read(offset: number, size: number): number {
    return size === 4 ? this.bank.read(offset) : 0;
  }

  write(offset: number, size: number, value: number): void {
    if (size === 4) this.bank.write(offset, value);
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

  /**
   * Activates a global error: toggles its bit when it is not active yet, and raises the interrupt when enabled (which
   * MSI_GERROR_ABT cannot).
   */
  raiseError(error: Field<'SMMU_GERROR'>): void {
    if (this.errorActive(error)) return;
    this.bank.poke(v3.SMMU_GERROR, (this.bank.peek(v3.SMMU_GERROR) ^ (1 << error.lsb)) >>> 0);
    if (error.name === v3.SMMU_GERROR.MSI_GERROR_ABT.name) return;
    if (get(v3.SMMU_IRQ_CTRL.GERROR_IRQEN, this.bank.peek(v3.SMMU_IRQ_CTRL))) this.#hooks.gerror();
  }

  /** The address in a pair of base registers, [51:low]; its low bits are still those of the low register. */
  baseAddress(lo: Register, hi: Register, lowMask: number): number {
    const high = this.bank.peek(hi) & 0xf_ffff;
    return high * 0x1_0000_0000 + ((this.bank.peek(lo) & lowMask) >>> 0);
  }

  /** What describes a structure in memory is read-only while the structure is in use. */
  #lock(): void {
    const { bank } = this;
    const irq = (): number => bank.peek(v3.SMMU_IRQ_CTRL);
    const rules: readonly (readonly [readonly Register[], () => boolean])[] = [
      [[v3.SMMU_CR2, v3.SMMU_STRTAB_BASE_LO, v3.SMMU_STRTAB_BASE_HI, v3.SMMU_STRTAB_BASE_CFG], () => !this.smmuEnabled],
      [[v3.SMMU_CMDQ_BASE_LO, v3.SMMU_CMDQ_BASE_HI, v3.SMMU_CMDQ_CONS], () => !this.#cr0(v3.SMMU_CR0.CMDQEN)],
      [[v3.SMMU_EVENTQ_BASE_LO, v3.SMMU_EVENTQ_BASE_HI, v3.SMMU_EVENTQ_PROD], () => !this.eventsEnabled],
      [
        this.features.MSI === 1 ? GERROR_MSI : [],
        () => get(v3.SMMU_IRQ_CTRL.GERROR_IRQEN, asWord(v3.SMMU_IRQ_CTRL, irq())) === 0,
      ],
      [
        this.features.MSI === 1 ? EVENTQ_MSI : [],
        () => get(v3.SMMU_IRQ_CTRL.EVENTQ_IRQEN, asWord(v3.SMMU_IRQ_CTRL, irq())) === 0,
      ],
    ];
    for (const [registers, writable] of rules) for (const one of registers) bank.writableWhile(one, writable);
  }

  #enable(smmuEnabled: boolean): void {
    this.smmuEnabled = smmuEnabled;
    this.#hooks.enabled(smmuEnabled);
  }

  #cr0(field: Field<'SMMU_CR0'>): boolean {
    return get(field, this.bank.peek(v3.SMMU_CR0)) === 1;
  }
}
