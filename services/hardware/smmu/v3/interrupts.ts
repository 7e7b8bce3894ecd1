/**
 * How an SMMUv3 interrupts (IHI 0070, "Interrupts and notifications"): an edge on a wire, or, where SMMU_IDR0.MSI is 1
 * and software gave an address, a write of the SMMU itself, which no SMMU translates. A write that nobody takes activates
 * the global error for its source.
 */
import * as v3 from '#shared/arch/smmu/v3.ts';
import type { Field, Register } from '#shared/regs/field.ts';
import type { Bus } from '../../bus/bus.ts';
import type { Requester } from '../../bus/transaction.ts';
import type { SmmuInterrupt } from '../smmu.ts';
import type { SmmuRegisters } from './registers.ts';

export class SmmuInterrupts {
  readonly #registers: SmmuRegisters;
  readonly #bus: Bus;
  readonly #wire: (name: SmmuInterrupt) => void;
  readonly #requester: Requester | undefined;

  /** `requester`: who the SMMU is when it writes, with its own DeviceID. */
  constructor(
    registers: SmmuRegisters,
    bus: Bus,
    wire: (name: SmmuInterrupt) => void,
    requester: Requester | undefined,
  ) {
    this.#registers = registers;
    this.#bus = bus;
    this.#wire = wire;
    this.#requester = requester;
  }

  eventq(): void {
    const address = this.#programmed(v3.SMMU_EVENTQ_IRQ_CFG0_LO, v3.SMMU_EVENTQ_IRQ_CFG0_HI);
    const data = this.#registers.bank.peek(v3.SMMU_EVENTQ_IRQ_CFG1);
    this.#raise('eventq', address, data, v3.SMMU_GERROR.MSI_EVENTQ_ABT);
  }

  gerror(): void {
    const address = this.#programmed(v3.SMMU_GERROR_IRQ_CFG0_LO, v3.SMMU_GERROR_IRQ_CFG0_HI);
    const data = this.#registers.bank.peek(v3.SMMU_GERROR_IRQ_CFG1);
    this.#raise('gerror', address, data, v3.SMMU_GERROR.MSI_GERROR_ABT);
  }

  /** For a CMD_SYNC with SIG_IRQ and its MSIAddress and MSIData. */
  sync(address: number, data: number): void {
    const used = this.#registers.features.MSI === 1 ? address : 0;
    this.#raise('cmdq-sync', used, data, v3.SMMU_GERROR.MSI_CMDQ_ABT);
  }

  #programmed(lo: Register, hi: Register): number {
    return this.#registers.features.MSI === 1 ? this.#registers.baseAddress(lo, hi, 0xffff_fffc) : 0;
  }

  #raise(name: SmmuInterrupt, address: number, data: number, abort: Field<'SMMU_GERROR'>): void {
    if (address === 0) this.#wire(name);
    else if (!this.#bus.write(address, 4, data, 0, this.#requester)) this.#registers.raiseError(abort);
  }
}
