/**
 * The interrupt controller's part of a trace: registers of the ITS and the redistributors, commands, and messages.
 * Commands stand before the GITS_CWRITER write that rang for them; each goes into its slot of the queue in RAM and is
 * rung for by itself, so that QEMU's verdict on it (did it write its table entry, did it find one) is compared with ours.
 * A message is written by the device through the SMMU to the doorbell address it was translated from, and has to make
 * the same LPI pending at the same redistributor as the table entries that QEMU read for it say.
 * What the trace does not print: RDbase of SYNC (0 here) and ICID of INVALL (that of the last MAPC here, as Linux has
 * it); the level 1 entries of a two-level device table, whose pages lie in RAM of ours beyond the guest's; LPI
 * configuration and pending tables: LPIs stay pending here.
 */
import {
  decodeGitsBaser,
  GITS_BASER,
  GITS_CBASER,
  GITS_CTLR,
  GITS_CTLR_Enabled,
  GITS_CWRITER,
} from '#shared/arch/gic/its.ts';
import * as cmd from '#shared/arch/gic/its-commands.ts';
import { GICR_SIZE_BYTES } from '#shared/arch/gic/redistributor.ts';
import { requireGicv3 } from '#shared/board/parts.ts';
import type { Its } from '../../services/hardware/gic/its/its.ts';
import type { Models } from './models.ts';
import { compareRead, doWrite, ITS_EXCUSED } from './registers.ts';
import type { Tally } from './tally.ts';
import { field, fieldMaybe, hex, numberOf, type TraceLine, type Wide } from './trace.ts';

interface Open {
  readonly line: TraceLine;
  readonly index: number;
  readonly opcode: number;
  operands: TraceLine | undefined;
  readonly tables: TraceLine[];
}

interface Message {
  readonly line: TraceLine;
  readonly tables: TraceLine[];
}

/** Of an entry of a level 1 table, in its high word. */
const LEVEL1_VALID = 1 << 31;
const CHANGES = /_(write|write_mmio|process_command|cmdq_consume)$/;
const TABLE = /^gicv3_its_[a-z]te_(read|write)$/;

export class GicReplay {
  readonly #models: Models;
  readonly #tally: Tally;
  readonly #doorbellOf: (streamId: number) => Wide | undefined;
  #open: Open | undefined;
  readonly #waiting: Open[] = [];
  readonly #messages = new Map<string, Message>();
  #lastIcid = 0;
  #spareUsed = 0;

  constructor(models: Models, tally: Tally, doorbellOf: (streamId: number) => Wide | undefined) {
    this.#models = models;
    this.#tally = tally;
    this.#doorbellOf = doorbellOf;
  }

  /** Takes a line; false: it is none of the GIC's. */
  take(line: TraceLine): boolean {
    const { event, thread } = line;
    if (TABLE.test(event)) {
      const message = this.#messages.get(thread);
      (message ?? this.#open)?.tables.push(line);
      // The collection is read last, and after an entry that is not valid nothing is.
      if (message !== undefined && (event === 'gicv3_its_cte_read' || field(line, 'valid') === 0)) this.#settle(thread);
      return true;
    }
    // One that was dropped before any table was read: the next line of its thread ends it, and whatever changes state.
    if (CHANGES.test(event)) this.settleAll();
    else this.#settle(thread);
    switch (event) {
      case 'gicv3_its_process_command':
        this.#close();
        this.#open = {
          line,
          index: field(line, 'offset'),
          opcode: Number(/: *(0x[0-9a-f]+)\s*$/.exec(line.text)?.[1] ?? 0) & 0xff,
          operands: undefined,
          tables: [],
        };
        return true;
      case 'gicv3_its_write':
        this.#close();
        this.#ring();
        doWrite(this.#models, line, this.#models.itsPa, field(line, 'offset'), 'data');
        this.#ranBy(line);
        return true;
      case 'gicv3_its_read':
        compareRead(
          this.#models,
          this.#tally,
          'ITS register reads',
          line,
          this.#models.itsPa,
          { offset: 'offset', value: 'data' },
          ITS_EXCUSED,
        );
        return true;
      case 'gicv3_its_translation_write':
        this.#messages.set(thread, { line, tables: [] });
        return true;
      case 'gicv3_redist_write':
        this.#writeRedistributor(line);
        return true;
      default:
        if (!event.startsWith('gicv3_its_cmd_')) return false;
        if (this.#open !== undefined) this.#open.operands = line;
        return true;
    }
  }

  /** Sends every message that the trace has told of; also at its end. */
  settleAll(): void {
    if (this.#messages.size === 0) return;
    for (const thread of [...this.#messages.keys()]) this.#settle(thread);
  }

  #writeRedistributor(line: TraceLine): void {
    const gic = requireGicv3(this.#models.board.gic);
    const region = gic.redistributors[0]!;
    const n = field(line, 'redistributor');
    const pa = region.pa + n * (gic.redistributorStride ?? GICR_SIZE_BYTES);
    doWrite(this.#models, line, pa, field(line, 'offset'), 'data');
  }

  #close(): void {
    if (this.#open !== undefined) this.#waiting.push(this.#open);
    this.#open = undefined;
  }

  #ring(): void {
    const { its } = this.#models;
    if (its === undefined || this.#waiting.length === 0) return;
    const { base, bytes } = queueOf(its);
    for (const command of this.#waiting) {
      this.#put(command, base);
      if (command.opcode === cmd.ITS_OPCODE.MAPD && command.operands !== undefined)
        this.#needDevicePage(its, field(command.operands, 'DeviceID'));
    }
    if ((its.read(GITS_CTLR, 4) & GITS_CTLR_Enabled) === 0) return;
    for (const command of this.#waiting) {
      const before = problemsOf(its);
      its.write(GITS_CWRITER, 4, (command.index * 32 + 32) % bytes);
      this.#compare(command, problemsOf(its) === before);
    }
    this.#waiting.length = 0;
  }

  /** A write that enabled the ITS has run what waited; there is one verdict on all of it. */
  #ranBy(line: TraceLine): void {
    const { its } = this.#models;
    if (its === undefined || this.#waiting.length === 0 || field(line, 'offset') !== GITS_CTLR) return;
    this.#compare(this.#waiting.at(-1)!, problemsOf(its) === 0);
    this.#waiting.length = 0;
  }

  /** A two-level device table gets a page for the device, where the guest's own allocation is not in the trace. */
  #needDevicePage(its: Its, deviceId: number): void {
    const { ram, spare } = this.#models;
    const { Valid, Indirect, pa, pageBytes } = decodeGitsBaser({
      lo: its.read(GITS_BASER, 4),
      hi: its.read(GITS_BASER + 4, 4),
    });
    if (!Valid || !Indirect) return;
    const at = pa + Math.floor(deviceId / (pageBytes / 8)) * 8;
    if (!ram.contains(at, 8) || (ram.read32(at + 4) & LEVEL1_VALID) !== 0) return;
    const page = spare.pa + this.#spareUsed;
    if (this.#spareUsed + pageBytes > spare.sizeBytes) return;
    this.#spareUsed += pageBytes;
    ram.write32(at, page >>> 0);
    ram.write32(at + 4, (Math.floor(page / 0x1_0000_0000) | LEVEL1_VALID) >>> 0);
  }

  #put({ index, opcode, operands }: Open, base: number): void {
    const bytes = cmd.itsCommandBytes([this.#encode(opcode, operands)]);
    if (this.#models.ram.contains(base + index * 32, 32)) this.#models.ram.writeBytes(base + index * 32, bytes);
  }

  #encode(opcode: number, line: TraceLine | undefined): Uint32Array {
    const of = (name: string): number => (line === undefined ? 0 : (fieldMaybe(line, name) ?? 0));
    const event = { deviceId: of('DeviceID'), eventId: of('EventID') };
    const op = cmd.ITS_OPCODE;
    switch (opcode) {
      case op.MAPD: {
        const [size, ittAddress] = [of('Size'), of('ITT_addr') * 256];
        return cmd.encodeMapd({ deviceId: event.deviceId, size, ittAddress, valid: of('V') === 1 });
      }
      case op.MAPC:
        if (of('V') === 1) this.#lastIcid = of('ICID');
        return cmd.encodeMapc({ icid: of('ICID'), rdbase: of('RDbase'), valid: of('V') === 1 });
      case op.MAPTI:
        return cmd.encodeMapti({ ...event, pIntid: of('pINTID'), icid: of('ICID') });
      case op.MAPI:
        return cmd.encodeMapi({ ...event, icid: of('ICID') });
      case op.MOVI:
        return cmd.encodeMovi({ ...event, icid: of('ICID') });
      case op.INT:
        return cmd.encodeInt(event);
      case op.CLEAR:
        return cmd.encodeClear(event);
      case op.INV:
        return cmd.encodeInv(event);
      case op.DISCARD:
        return cmd.encodeDiscard(event);
      case op.INVALL:
        return cmd.encodeInvall({ icid: this.#lastIcid });
      case op.SYNC:
        return cmd.encodeSync({ rdbase: 0 });
      case op.MOVALL:
        return cmd.encodeMovall({ rdbase1: of('RDbase1'), rdbase2: of('RDbase2') });
      default: {
        const words = new Uint32Array(cmd.ITS_COMMAND_WORDS);
        words[0] = opcode;
        return words;
      }
    }
  }

  #compare(command: Open, ours: boolean): void {
    const name = Object.entries(cmd.ITS_OPCODE).find(([, opcode]) => opcode === command.opcode)?.[0];
    if (name === undefined) return;
    const traced = tookEffect(name, command.tables);
    const asked = (): string => command.operands?.text.replace(/^.*command /, '') ?? name;
    const word = (done: boolean): string => (done ? 'done' : 'without effect');
    this.#tally.compare('ITS commands', command.line.number, asked, word(traced), word(ours));
  }

  #settle(thread: string): void {
    const message = this.#messages.get(thread);
    if (message === undefined) return;
    this.#messages.delete(thread);
    this.#close();
    this.#ring();
    const { line, tables } = message;
    const rid = field(line, 'requester_id');
    const eventId = field(line, 'data');
    const ours = this.#send(rid, eventId);
    const asked = (): string => `DeviceID ${hex(rid)}, EventID ${eventId}`;
    this.#tally.compare('interrupt translations', line.number, asked, tracedTarget(tables), ours);
  }

  #send(rid: number, eventId: number): string {
    const { lpis, smmu, bus, itsPa } = this.#models;
    const requester = this.#models.requester(rid);
    const data = Uint8Array.of(eventId, eventId >>> 8, eventId >>> 16, eventId >>> 24);
    const doorbell = this.#doorbellOf(requester.streamId);
    lpis.forget();
    const iova = doorbell === undefined ? itsPa + 0x1_0040 : numberOf(doorbell);
    const sent =
      smmu === undefined || requester.streamId < 0
        ? bus.writeBytes(iova, data, 0, 4, requester)
        : smmu.dmaWrite(requester, iova, data);
    if (sent < 4) return 'aborted on the way';
    const { last } = lpis;
    if (last === undefined) return 'dropped';
    return last.kept ? `LPI ${last.lpi} at PE ${last.processorNumber}` : 'not taken by the redistributor';
  }
}

/** Whether QEMU's table accesses show that it did the command. */
function tookEffect(name: string, tables: readonly TraceLine[]): boolean {
  const has = (event: string): boolean => tables.some((line) => line.event === `gicv3_its_${event}`);
  switch (name) {
    case 'MAPD':
      return has('dte_write');
    case 'MAPC':
      return has('cte_write');
    case 'MAPTI':
    case 'MAPI':
    case 'MOVI':
    case 'DISCARD':
      return has('ite_write');
    case 'INV':
    case 'INT':
    case 'CLEAR':
      return tables.some((line) => line.event === 'gicv3_its_cte_read' && field(line, 'valid') === 1);
    default:
      return true;
  }
}

function tracedTarget(tables: readonly TraceLine[]): string {
  const valid = (event: string): TraceLine | undefined =>
    tables.find((line) => line.event === `gicv3_its_${event}` && field(line, 'valid') === 1);
  const ite = valid('ite_read');
  const cte = valid('cte_read');
  if (valid('dte_read') === undefined || ite === undefined || cte === undefined) return 'dropped';
  return `LPI ${field(ite, 'intid')} at PE ${field(cte, 'RDBase')}`;
}

function queueOf(its: Its): { readonly base: number; readonly bytes: number } {
  const lo = its.read(GITS_CBASER, 4);
  const hi = its.read(GITS_CBASER + 4, 4);
  return { base: (hi & 0xf_ffff) * 0x1_0000_0000 + ((lo & 0xffff_f000) >>> 0), bytes: ((lo & 0xff) + 1) * 4096 };
}

function problemsOf(its: Its): number {
  return Object.values(its.counts.commandProblems).reduce((a, b) => a + b, 0);
}
