/**
 * The SMMU's part of a trace: registers, commands and translations.
 * QEMU prints a register write after what it caused, so a command stands before the SMMU_CMDQ_PROD write that rang for
 * it. Each command goes into its slot of the queue in RAM and is rung for by itself, once the trace has passed it and
 * before anything that comes later is asked; the guest's own write of SMMU_CMDQ_PROD then finds nothing left to do.
 * While the queue is off (SMMU_CR0.CMDQEN is 0 with us still) entries only go to RAM and wait for the write that enables it.
 * A translation is asked in the directions that QEMU's entry permits, and for one it does not our TLB has to deny it.
 * Where QEMU walked the tables ours has to walk too: an entry that an invalidation should have taken away would answer
 * instead. QEMU also empties its whole TLB when that is full; from then on such a hit of ours is counted apart.
 */
import {
  SMMU_CMDQ_BASE_HI,
  SMMU_CMDQ_BASE_LO,
  SMMU_CMDQ_CONS,
  SMMU_CMDQ_PROD,
  SMMU_CR0,
} from '#shared/arch/smmu/v3.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { WANT_READ, WANT_WRITE } from '../../services/hardware/mmu/stage2.ts';
import { GLOBAL, TLB_MISS, tlbLookup } from '../../services/hardware/mmu/tlb.ts';
import type { Smmuv3 } from '../../services/hardware/smmu/v3/smmuv3.ts';
import { NO_SUBSTREAM } from '../../services/hardware/smmu/v3/stream-table.ts';
import { translate } from '../../services/hardware/smmu/v3/translate.ts';
import type { Models } from './models.ts';
import { compareRead, doWrite, SMMU_EXCUSED, smmuOffset } from './registers.ts';
import { commandOf } from './smmu-commands.ts';
import { Reads } from './structures.ts';
import type { Tally } from './tally.ts';
import { field, fieldMaybe, hex, numberOf, type TraceLine, type Wide, wideField } from './trace.ts';

interface Open {
  readonly line: TraceLine;
  readonly index: number;
  readonly wrap: number;
  opcode: string;
  readonly operands: TraceLine[];
  failed: boolean;
}

const OPERANDS = /^smmuv3_(cmdq_(cfgi|tlbi)\w*|(s1_|s2_)?range_inval)$/;

export class SmmuReplay {
  readonly #models: Models;
  readonly #smmu: Smmuv3;
  readonly #tally: Tally;
  readonly #reads = new Map<string, Reads>();
  #open: Open | undefined;
  readonly #waiting: Open[] = [];
  #flushedByItself = false;
  /** Questions that were not asked, by reason. */
  readonly left: Map<string, number>;
  /** By StreamID: the device address that leads to the doorbell page. */
  readonly doorbells = new Map<number, Wide>();

  constructor(models: Models, smmu: Smmuv3, tally: Tally, left: Map<string, number>) {
    this.#models = models;
    this.#smmu = smmu;
    this.#tally = tally;
    this.left = left;
  }

  /** Takes a line; false: it is none of the SMMU's. */
  take(line: TraceLine): boolean {
    const { event } = line;
    if (this.#open !== undefined && OPERANDS.test(event)) {
      this.#open.operands.push(line);
      return true;
    }
    switch (event) {
      case 'smmuv3_cmdq_consume':
        this.#close();
        this.#open = {
          line,
          index: field(line, 'cons'),
          wrap: field(line, 'cons.wrap'),
          opcode: '',
          operands: [],
          failed: false,
        };
        return true;
      case 'smmuv3_cmdq_opcode':
        if (this.#open !== undefined) this.#open.opcode = line.text.replace(/^<--- */, '').trim();
        return true;
      case 'smmuv3_cmdq_consume_error':
        if (this.#open !== undefined) this.#open.failed = true;
        return true;
      case 'smmuv3_cmdq_consume_out':
        this.#close();
        this.#ring();
        return true;
      case 'smmuv3_write_mmio':
        this.#close();
        this.#ring();
        doWrite(this.#models, line, this.#models.smmuPa, smmuOffset(field(line, 'addr')), 'val');
        this.#ranBy(line);
        return true;
      case 'smmuv3_read_mmio':
        this.#readRegister(line);
        return true;
      case 'smmu_iotlb_inv_all':
        if (this.#open === undefined) this.#flushedByItself = true;
        return true;
      case 'smmu_iotlb_inv_asid':
      case 'smmu_iotlb_inv_asid_vmid':
      case 'smmu_iotlb_inv_vmid':
      case 'smmu_iotlb_inv_vmid_s1':
      case 'smmu_iotlb_inv_iova':
      case 'smmu_configs_inv_sid_range':
      case 'smmu_config_cache_inv':
      case 'smmuv3_config_cache_inv':
      case 'smmuv3_inv_notifiers_iova':
      case 'smmu_inv_notifiers_mr':
        return true;
      default:
        return this.#takeTranslation(line);
    }
  }

  #readRegister(line: TraceLine): void {
    const { smmuPa } = this.#models;
    const pa = smmuPa + smmuOffset(field(line, 'addr')) - field(line, 'addr');
    const names = { offset: 'addr', value: 'val' };
    compareRead(this.#models, this.#tally, 'SMMU register reads', line, pa, names, SMMU_EXCUSED);
  }

  /** What waits goes to RAM and, while the queue is on, is run, one command at a time. */
  #ring(): void {
    const queue = this.#queue();
    for (const command of this.#waiting) this.#put(command, queue.base);
    if (!queue.enabled) return;
    for (const command of this.#waiting) {
      const next = command.index + 1 === queue.entries ? 0 : command.index + 1;
      const wrap = next === 0 ? command.wrap ^ 1 : command.wrap;
      this.#write32(SMMU_CMDQ_PROD.offset, wrap * queue.entries + next);
      this.#compareCommand(command, queue.entries);
    }
    this.#waiting.length = 0;
  }

  /** A write that enabled the queue has run what waited. */
  #ranBy(line: TraceLine): void {
    if (field(line, 'addr') !== SMMU_CR0.offset || this.#waiting.length === 0) return;
    const { entries, enabled } = this.#queue();
    if (!enabled) return;
    this.#compareCommand(this.#waiting.at(-1)!, entries);
    this.#waiting.length = 0;
  }

  #close(): void {
    const open = this.#open;
    this.#open = undefined;
    if (open !== undefined && open.opcode !== '') this.#waiting.push(open);
  }

  #put(command: Open, base: number): void {
    const { words } = commandOf(command.opcode, command.operands);
    const at = base + command.index * 16;
    if (this.#models.ram.contains(at, 16)) this.#models.ram.writeBytes(at, bytesOf(words));
  }

  #compareCommand(command: Open, entries: number): void {
    const { name } = commandOf(command.opcode, command.operands);
    const cons = this.#read32(SMMU_CMDQ_CONS.offset);
    const stood = (cons & 0xf_ffff) === command.wrap * entries + command.index;
    this.#tally.compare(
      'SMMU commands',
      command.line.number,
      () => `${name} in slot ${command.index}`,
      command.failed ? 'refused' : 'done',
      stood ? 'refused' : 'done',
    );
  }

  #queue(): { readonly base: number; readonly entries: number; readonly enabled: boolean } {
    const lo = this.#read32(SMMU_CMDQ_BASE_LO.offset);
    const hi = this.#read32(SMMU_CMDQ_BASE_HI.offset);
    return {
      base: (hi & 0xf_ffff) * 0x1_0000_0000 + ((lo & 0xffff_ffe0) >>> 0),
      entries: 2 ** (lo & 0x1f),
      enabled: (this.#read32(SMMU_CR0.offset) & (1 << SMMU_CR0.CMDQEN.lsb)) !== 0,
    };
  }

  #read32(offset: number): number {
    return this.#smmu.registers.read(offset, 4);
  }

  #write32(offset: number, value: number): void {
    this.#smmu.registers.write(offset, 4, value >>> 0);
  }

  #takeTranslation(line: TraceLine): boolean {
    let reads = this.#reads.get(line.thread);
    switch (line.event) {
      case 'smmuv3_translate_success':
      case 'smmuv3_translate_bypass':
      case 'smmuv3_translate_disable':
      case 'smmuv3_translate_abort':
      case 'smmuv3_record_event':
        this.#reads.delete(line.thread);
        this.#close();
        this.#ring();
        this.#ask(line, reads ?? new Reads());
        return true;
      default:
        if (reads === undefined) {
          reads = new Reads();
          this.#reads.set(line.thread, reads);
        }
        return reads.note(line);
    }
  }

  #ask(line: TraceLine, reads: Reads): void {
    if (reads.usesStage2 || (fieldMaybe(line, 'stage') ?? 1) !== 1) {
      this.#leave('translations with stage 2, whose tables are not in the trace');
      return;
    }
    switch (line.event) {
      case 'smmuv3_translate_success':
        reads.write(this.#models.ram, 's1');
        this.#askSuccess(line, reads);
        return;
      case 'smmuv3_translate_bypass':
      case 'smmuv3_translate_disable':
        reads.write(this.#models.ram, 'bypass');
        this.#askPass(line);
        return;
      case 'smmuv3_translate_abort':
        reads.write(this.#models.ram, 'abort');
        this.#askAbort(line);
        return;
      default:
        this.#askFault(line, reads);
    }
  }

  #askSuccess(line: TraceLine, reads: Reads): void {
    const { translator } = this.#smmu;
    const { tlb } = translator;
    const sid = field(line, 'sid');
    const iova = wideField(line, 'iova');
    const perm = field(line, 'perm');
    const pa = hex(numberOf(wideField(line, 'translated')));
    const missesBefore = tlb.misses;
    const read = (perm & 1) !== 0 ? this.#translate(sid, iova, WANT_READ) : 'denied';
    const write =
      (perm & 2) !== 0
        ? this.#translate(sid, iova, WANT_WRITE)
        : this.#denies(reads, iova, WANT_WRITE)
          ? 'denied'
          : 'let';
    const traced = `read ${(perm & 1) !== 0 ? pa : 'denied'}, write ${(perm & 2) !== 0 ? pa : 'denied'}`;
    const asked = (): string => `StreamID ${hex(sid)}, ${hex(numberOf(iova))}`;
    this.#tally.compare('DMA translations: translated', line.number, asked, traced, `read ${read}, write ${write}`);
    if (reads.lookup === 'miss') {
      const walked = tlb.misses > missesBefore;
      if (!walked && this.#flushedByItself) this.#leave('hits of ours after QEMU emptied its TLB for want of room');
      else this.#tally.compare('table walks', line.number, asked, 'walked', walked ? 'walked' : 'TLB hit');
    }
    const { itsPa } = this.#models;
    const target = numberOf(wideField(line, 'translated'));
    if (itsPa !== 0 && target >= itsPa + 0x1_0000 && target < itsPa + 0x2_0000) this.doorbells.set(sid, iova);
  }

  /** Whether our TLB has the page and refuses `want` there, without a fault that would be recorded. */
  #denies(reads: Reads, { hi, lo }: Wide, want: number): boolean {
    const { tlb } = this.#smmu.translator;
    for (const asid of [reads.asid, GLOBAL]) {
      const found = tlbLookup(tlb, tlb.tag(reads.vmid, asid), hi | 0, lo | 0, want);
      if (found !== TLB_MISS) return found < 0;
    }
    return false;
  }

  #askPass(line: TraceLine): void {
    const sid = field(line, 'sid');
    const iova = wideField(line, 'iova');
    const pa = hex(numberOf(iova));
    const kind = `DMA translations: ${line.event === 'smmuv3_translate_bypass' ? 'STE bypass' : 'SMMU off'}`;
    const ours = `read ${this.#translate(sid, iova, WANT_READ)}, write ${this.#translate(sid, iova, WANT_WRITE)}`;
    this.#tally.compare(kind, line.number, () => `StreamID ${hex(sid)}, ${pa}`, `read ${pa}, write ${pa}`, ours);
    this.doorbells.delete(sid);
  }

  #askAbort(line: TraceLine): void {
    const sid = field(line, 'sid');
    const iova = wideField(line, 'iova');
    const before = this.#events();
    const ours = this.#translate(sid, iova, WANT_READ);
    const event = this.#eventSince(before);
    this.#tally.compare(
      'DMA translations: aborted',
      line.number,
      () => `StreamID ${hex(sid)}, ${hex(numberOf(iova))}`,
      'aborted',
      event === '' ? ours : `${ours} with ${event}`,
    );
  }

  #askFault(line: TraceLine, reads: Reads): void {
    const name = (line.text.split(' ')[0] ?? '').replace(/^SMMU_EVT_/, '');
    const sid = field(line, 'sid');
    const config = name === 'C_BAD_STE' ? 'invalid' : reads.cdPa === undefined ? undefined : 's1';
    reads.write(this.#models.ram, config);
    const iova = reads.page === undefined ? { hi: 0, lo: 0 } : wideField(reads.page, 'addr');
    const before = this.#events();
    const ours = this.#translate(sid, iova, name === 'F_PERMISSION' ? WANT_WRITE : WANT_READ);
    this.#tally.compare(
      'DMA translations: faults',
      line.number,
      () => `StreamID ${hex(sid)}, ${hex(numberOf(iova))}`,
      `aborted, ${name}`,
      `${ours}, ${this.#eventSince(before)}`,
    );
  }

  /** The physical address, or `aborted`. */
  #translate(streamId: number, { hi, lo }: Wide, want: number): string {
    const { translator } = this.#smmu;
    const paHigh = translate(translator, streamId, NO_SUBSTREAM, hi | 0, lo | 0, want);
    return paHigh < 0 ? 'aborted' : hex(paHigh * 0x1_0000_0000 + (translator.tlb.paLow >>> 0));
  }

  #events(): Readonly<Record<string, number>> {
    const { events, eventsLost } = this.#smmu.counts;
    return { ...events, 'an event that was lost': eventsLost };
  }

  #eventSince(before: Readonly<Record<string, number>>): string {
    const now = Object.entries(this.#events());
    return now.find(([name, count]) => count > (before[name] ?? 0))?.[0] ?? '';
  }

  #leave(reason: string): void {
    this.left.set(reason, (this.left.get(reason) ?? 0) + 1);
  }
}
