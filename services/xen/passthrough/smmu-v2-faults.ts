/**
 * Faults of an SMMUv2 as Xen takes them (arm_smmu_context_fault and arm_smmu_global_fault of
 * xen/drivers/passthrough/arm/smmu.c): read out of the registers, cleared there, and recorded under the names that an
 * SMMUv3 has for the same. The SMMU keeps one fault for each bank: of more, only that there were is known (MULTI).
 */

import {
  faultNames,
  SMMU_CB_FAR_HI,
  SMMU_CB_FAR_LO,
  SMMU_CB_FSR,
  SMMU_CB_FSYNR0,
  SMMU_CBFRSYNRA,
  SMMU_sGFAR_HI,
  SMMU_sGFAR_LO,
  SMMU_sGFSR,
  SMMU_sGFSYNR0,
  SMMU_sGFSYNR1,
} from '#shared/arch/smmu/v2.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import { type Address64, address64, addressJson } from '#shared/ids/address64.ts';
import { asWord, get } from '#shared/regs/field.ts';
import type { Counts } from '../counts.ts';
import { type El2, physRead, physWrite32, word } from '../el2.ts';
import type { SmmuRecord } from './smmu.ts';

/** Records kept for `inspect`. */
const EVENTS_KEPT = 256;
/** What SMMUv3 calls the same; a global fault keeps its own name. */
const TYPE_BY_FLAG: Readonly<Record<string, string>> = {
  TF: 'F_TRANSLATION',
  AFF: 'F_ACCESS',
  PF: 'F_PERMISSION',
  EF: 'F_WALK_EABT',
  ASF: 'F_ADDR_SIZE',
};

export interface SmmuV2FaultParts {
  readonly el2: El2;
  readonly counts: Counts;
  readonly runtime: Pick<Runtime, 'trace'>;
  readonly name: string;
  readonly nextSequence: () => number;
}

export class SmmuV2Faults {
  readonly #p: SmmuV2FaultParts;
  /** Reading a fault and clearing it go together. */
  readonly #lock: Lock;
  readonly #records: SmmuRecord[] = [];

  constructor(parts: SmmuV2FaultParts) {
    this.#p = parts;
    this.#lock = new Lock(`faults of ${parts.name}`);
  }

  /** The last records, oldest first. */
  get records(): readonly SmmuRecord[] {
    return this.#records;
  }

  /** Takes the fault of the bank whose page is at `bankPa` and whose CBFRSYNRA is at `synraPa`, if there is one. */
  takeContext(bankPa: number, synraPa: number): Op<void> {
    return withLock(this.#lock, () => this.#takeContext(bankPa, synraPa));
  }

  /** Takes the global fault of the part at `basePa`, if there is one. */
  takeGlobal(basePa: number): Op<void> {
    return withLock(this.#lock, () => this.#takeGlobal(basePa));
  }

  *#takeContext(bankPa: number, synraPa: number): Op<void> {
    const at = (register: { readonly offset: number }): number => bankPa + register.offset;
    const fsr = yield* this.#p.el2.read32(at(SMMU_CB_FSR));
    if (fsr === 0) return;
    const from = [at(SMMU_CB_FAR_LO), at(SMMU_CB_FAR_HI), at(SMMU_CB_FSYNR0), synraPa];
    const [low, high, synr, synra] = yield* this.#readAndClear(from, at(SMMU_CB_FSR), fsr);
    const isWrite = get(SMMU_CB_FSYNR0.WNR, asWord(SMMU_CB_FSYNR0, synr!)) === 1;
    const streamId = get(SMMU_CBFRSYNRA.StreamID, asWord(SMMU_CBFRSYNRA, synra!));
    this.#record(faultNames(fsr, 'context'), fsr, address64(high!, low!), streamId, isWrite);
  }

  *#takeGlobal(basePa: number): Op<void> {
    const at = (register: { readonly offset: number }): number => basePa + register.offset;
    const gfsr = yield* this.#p.el2.read32(at(SMMU_sGFSR));
    if (gfsr === 0) return;
    const from = [at(SMMU_sGFAR_LO), at(SMMU_sGFAR_HI), at(SMMU_sGFSYNR0), at(SMMU_sGFSYNR1)];
    const [low, high, synr0, synr1] = yield* this.#readAndClear(from, at(SMMU_sGFSR), gfsr);
    const isWrite = get(SMMU_sGFSYNR0.WNR, asWord(SMMU_sGFSYNR0, synr0!)) === 1;
    const streamId = get(SMMU_sGFSYNR1.StreamID, asWord(SMMU_sGFSYNR1, synr1!));
    this.#record(faultNames(gfsr, 'global'), gfsr, address64(high!, low!), streamId, isWrite);
  }

  *#readAndClear(from: readonly number[], statusPa: number, status: number): Op<number[]> {
    const reads = from.map((pa) => physRead(pa, 4));
    const results = yield* this.#p.el2.batch([...reads, physWrite32(statusPa, status)]);
    return results.slice(0, from.length).map((r) => word(r.data));
  }

  #record(flags: readonly string[], status: number, address: Address64, streamId: number, isWrite: boolean): void {
    const { counts, runtime, nextSequence, name } = this.#p;
    if (status >>> 31 === 1) counts.add('smmuEvents', 'MULTI');
    const inputAddress = addressJson(address);
    for (const flag of flags) {
      const type = TYPE_BY_FLAG[flag] ?? flag;
      const record: SmmuRecord = { type, sequence: nextSequence(), streamId, inputAddress, isRead: !isWrite };
      counts.add('smmuEvents', type);
      this.#records.push(record);
      runtime.trace('smmu.event', { smmu: name, ...record });
    }
    this.#records.splice(0, this.#records.length - EVENTS_KEPT);
  }
}
