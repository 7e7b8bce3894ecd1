/**
 * The command queue of an SMMUv3 (IHI 0070, "Commands"): reads 16-byte commands between SMMU_CMDQ_CONS and
 * SMMU_CMDQ_PROD and carries them out in order, at once, whenever software moves PROD, enables the queue or
 * acknowledges its error. A command that the part does not have, or with a value that is reserved, stops the queue with
 * CERROR_ILL; one that cannot be read with CERROR_ABT.
 * CMD_PREFETCH_* do nothing. CMD_SYNC with SIG_IRQ interrupts by wire or MSI; with SIG_SEV nothing (IDR0.SEV is 0).
 * Deviates: an invalidation has had its effect when the command is consumed, not only at the CMD_SYNC behind it. An
 * invalidation takes away what the book says it must and, but for pieces of one leaf, no more.
 */
import {
  CMDQ_ERROR,
  SMMU_CMDQ_BASE_HI,
  SMMU_CMDQ_BASE_LO,
  SMMU_CMDQ_CONS,
  SMMU_CMDQ_PROD,
  SMMU_GERROR,
} from '#shared/arch/smmu/v3.ts';
import {
  CFGI_RANGE_ALL,
  CMD,
  COMMAND,
  COMMAND_BYTES,
  COMMAND_TG_SHIFT,
  COMMAND_WORDS,
  commandName,
  queueEmpty,
  queueIndex,
  queueNext,
  SYNC_CS,
} from '#shared/arch/smmu/v3-queues.ts';
import { get, put } from '#shared/regs/field.ts';
import { bytesOf, load } from '#shared/regs/struct.ts';
import type { Ram } from '../../bus/ram.ts';
import type { Tlb } from '../../mmu/tlb.ts';
import { loadArray, type Saved } from '../../state/saved.ts';
import type { SmmuRegisters } from './registers.ts';
import type { StreamTable } from './stream-table.ts';

export class CommandQueue implements Saved {
  readonly #registers: SmmuRegisters;
  readonly #ram: Ram;
  readonly #streams: StreamTable;
  readonly #tlb: Tlb;
  readonly #syncInterrupt: (address: number, data: number) => void;
  readonly #words = new Uint32Array(COMMAND_WORDS);
  readonly #bytes = bytesOf(this.#words);
  readonly #counts = new Uint32Array(256);
  tlbInvalidations = 0;
  #running = false;

  /** `syncInterrupt` is called with MSIAddress and MSIData of a CMD_SYNC that asks for an interrupt. */
  constructor(
    registers: SmmuRegisters,
    ram: Ram,
    streams: StreamTable,
    tlb: Tlb,
    syncInterrupt: (address: number, data: number) => void,
  ) {
    this.#registers = registers;
    this.#ram = ram;
    this.#streams = streams;
    this.#tlb = tlb;
    this.#syncInterrupt = syncInterrupt;
  }

  /** Runs commands until the queue is empty or stands at an error. */
  run(): void {
    // An interrupt raised by a command may lead back here; the loop below sees what it changed.
    if (this.#running) return;
    this.#running = true;
    const { bank } = this.#registers;
    const log2size = Math.min(bank.peek(SMMU_CMDQ_BASE_LO) & 31, this.#registers.features.CMDQS);
    const base = this.#registers.baseAddress(SMMU_CMDQ_BASE_LO, SMMU_CMDQ_BASE_HI, 0xffff_ffe0);
    const aligned = base - (base % Math.max(COMMAND_BYTES << log2size, 32));
    while (this.#registers.commandsRun) {
      const cons = bank.peek(SMMU_CMDQ_CONS);
      const rd = get(SMMU_CMDQ_CONS.RD, cons);
      if (queueEmpty(get(SMMU_CMDQ_PROD.WR, bank.peek(SMMU_CMDQ_PROD)), rd, log2size)) break;
      const at = aligned + queueIndex(rd, log2size) * COMMAND_BYTES;
      const error = this.#fetchAndRun(at);
      if (error !== CMDQ_ERROR.CERROR_NONE) {
        bank.poke(SMMU_CMDQ_CONS, put(SMMU_CMDQ_CONS.ERR, cons, error));
        this.#registers.raiseError(SMMU_GERROR.CMDQ_ERR);
        break;
      }
      bank.poke(SMMU_CMDQ_CONS, put(SMMU_CMDQ_CONS.RD, cons, queueNext(rd, log2size)));
    }
    this.#running = false;
  }

  /** Commands carried out, by name. */
  get counts(): Record<string, number> {
    const counts: Record<string, number> = {};
    this.#counts.forEach((count, opcode) => {
      if (count > 0) counts[commandName(opcode)] = count;
    });
    return counts;
  }

  save(): unknown {
    return { counts: this.#counts.slice(), tlbInvalidations: this.tlbInvalidations };
  }

  load(state: unknown): void {
    const { counts, tlbInvalidations } = state as { counts: Uint32Array; tlbInvalidations: number };
    loadArray(this.#counts, counts, 'SMMU commands');
    this.tlbInvalidations = tlbInvalidations;
  }

  reset(): void {
    this.#counts.fill(0);
    this.tlbInvalidations = 0;
  }

  #fetchAndRun(at: number): number {
    if (!this.#ram.contains(at, COMMAND_BYTES)) return CMDQ_ERROR.CERROR_ABT;
    this.#ram.readBytes(at, this.#bytes);
    const words = this.#words;
    if (load(words, 0, COMMAND.SSec) !== 0) return CMDQ_ERROR.CERROR_ILL;
    const opcode = load(words, 0, COMMAND.opcode);
    const error = this.#execute(opcode);
    if (error === CMDQ_ERROR.CERROR_NONE) this.#counts[opcode]!++;
    return error;
  }

  /** One command. EL2, ATS, PRI and stalls are not there, so their commands are illegal. */
  #execute(opcode: number): number {
    const words = this.#words;
    const { S1P, S2P } = this.#registers.features;
    switch (opcode) {
      case CMD.CMD_PREFETCH_CONFIG:
      case CMD.CMD_PREFETCH_ADDR:
        return CMDQ_ERROR.CERROR_NONE;
      case CMD.CMD_CFGI_STE:
        this.#streams.invalidate(load(words, 0, COMMAND.StreamID), load(words, 0, COMMAND.Leaf) === 1);
        return CMDQ_ERROR.CERROR_NONE;
      case CMD.CMD_CFGI_STE_RANGE: {
        const range = load(words, 0, COMMAND.Range);
        if (range === CFGI_RANGE_ALL) this.#streams.invalidateAll();
        else this.#streams.invalidateRange(load(words, 0, COMMAND.StreamID), range);
        return CMDQ_ERROR.CERROR_NONE;
      }
      case CMD.CMD_CFGI_CD:
        if (S1P === 0) return CMDQ_ERROR.CERROR_ILL;
        this.#streams.invalidateContext(load(words, 0, COMMAND.StreamID), load(words, 0, COMMAND.SubstreamID));
        return CMDQ_ERROR.CERROR_NONE;
      case CMD.CMD_CFGI_CD_ALL:
        if (S1P === 0) return CMDQ_ERROR.CERROR_ILL;
        this.#streams.invalidateContexts(load(words, 0, COMMAND.StreamID));
        return CMDQ_ERROR.CERROR_NONE;
      case CMD.CMD_TLBI_NH_ALL:
      case CMD.CMD_TLBI_NH_ASID:
      case CMD.CMD_TLBI_NH_VA:
      case CMD.CMD_TLBI_NH_VAA:
        return S1P === 0 ? CMDQ_ERROR.CERROR_ILL : this.#invalidateTlb(opcode);
      case CMD.CMD_TLBI_S12_VMALL:
      case CMD.CMD_TLBI_S2_IPA:
        return S2P === 0 ? CMDQ_ERROR.CERROR_ILL : this.#invalidateTlb(opcode);
      case CMD.CMD_TLBI_NSNH_ALL:
        return this.#invalidateTlb(opcode);
      case CMD.CMD_SYNC: {
        const cs = load(words, 0, COMMAND.CS);
        if (cs > SYNC_CS.SIG_SEV) return CMDQ_ERROR.CERROR_ILL;
        if (cs === SYNC_CS.SIG_IRQ) {
          this.#syncInterrupt(load(words, 0, COMMAND.MSIAddr), load(words, 0, COMMAND.MSIData));
        }
        return CMDQ_ERROR.CERROR_NONE;
      }
      default:
        return CMDQ_ERROR.CERROR_ILL;
    }
  }

  #invalidateTlb(opcode: number): number {
    const words = this.#words;
    const tlb = this.#tlb;
    const { S2P, VMID16 } = this.#registers.features;
    const vmid = S2P === 0 ? 0 : load(words, 0, COMMAND.VMID) & (VMID16 === 1 ? 0xffff : 0xff);
    const asid = load(words, 0, COMMAND.ASID);
    const high = load(words, 0, COMMAND.VaHigh) | 0;
    let low = (load(words, 0, COMMAND.VaLow) << 12) | 0;
    let pages = 1;
    const byAddress = opcode === CMD.CMD_TLBI_NH_VA || opcode === CMD.CMD_TLBI_NH_VAA || opcode === CMD.CMD_TLBI_S2_IPA;
    if (byAddress && this.#registers.features.RIL === 1) {
      pages = this.#pages();
      if (pages === 0) return CMDQ_ERROR.CERROR_ILL;
      const tg = load(words, 0, COMMAND.TG);
      if (tg !== 0) low &= -1 << COMMAND_TG_SHIFT[tg]!;
    }
    this.tlbInvalidations++;
    if (opcode === CMD.CMD_TLBI_NH_ALL) tlb.invalidateStage1(vmid);
    else if (opcode === CMD.CMD_TLBI_NH_ASID) tlb.invalidateAsid(vmid, asid);
    else if (opcode === CMD.CMD_TLBI_NH_VA) tlb.invalidateVa(vmid, asid, high, low, pages);
    else if (opcode === CMD.CMD_TLBI_NH_VAA) tlb.invalidateVaAllAsids(vmid, high, low, pages);
    else if (opcode === CMD.CMD_TLBI_S12_VMALL) tlb.invalidateVmid(vmid);
    else if (opcode === CMD.CMD_TLBI_S2_IPA) tlb.invalidateIpaRange(vmid, high, low, pages);
    else tlb.invalidateAll();
    return CMDQ_ERROR.CERROR_NONE;
  }

  /** How many pages of 4 KiB an invalidation by address covers (IHI 0070, "Range-based invalidation"); 0: illegal. */
  #pages(): number {
    const words = this.#words;
    const tg = load(words, 0, COMMAND.TG);
    if (tg === 0) return 1;
    const num = load(words, 0, COMMAND.NUM);
    const scale = load(words, 0, COMMAND.SCALE);
    if (num === 0 && scale === 0 && load(words, 0, COMMAND.TTL) === 0) return 0;
    return (num + 1) * 2 ** (scale + COMMAND_TG_SHIFT[tg]! - 12);
  }
}
