/**
 * One ITS: control frame, translation frame and command queue (IHI 0069, "The ITS"). Two ITSs share nothing but the
 * redistributors: each has its own queue, tables and DeviceIDs.
 * A write to GITS_TRANSLATER counts only with the DeviceID that the fabric gives its requester at this ITS. A CPU has
 * none, so a guest that stores to the doorbell raises nothing.
 * GITS_CREADR never lags: commands are done when the write to GITS_CWRITER is. A command with an architected error is
 * skipped, or the queue stands at it with GITS_CREADR.Stalled until GITS_CWRITER.Retry runs it again, as the board
 * chooses; a queue that is not in RAM always stalls. The architecture's code of the error can be seen in `inspect`.
 * Not modelled: a system error for a bad command or message (GITS_TYPER.SEIS=0).
 */
import { GITS_TRANSLATER, ITS_FRAME_BYTES } from '#shared/arch/gic/its.ts';
import {
  decodeItsCommand,
  formatItsCommand,
  ITS_COMMAND_BYTES,
  ITS_COMMAND_WORDS,
  type ItsCommand,
} from '#shared/arch/gic/its-commands.ts';
import type { MmioTarget, Requester } from '../../bus/transaction.ts';
import { loadCounts, type Saved } from '../../state/saved.ts';
import type { GicMemory } from '../memory.ts';
import { type ItsChoices, itsChoices } from '../options.ts';
import { type CommandContext, runItsCommand } from './commands.ts';
import { formatItsErrorCode, type ItsProblem, itsErrorCode } from './errors.ts';
import { ItsRegisters } from './registers.ts';
import { ItsTables } from './tables.ts';
import { type LpiSink, raiseEvent } from './translate.ts';

// For the hot path: what is imported is no constant to the compiler but a variable of unknown type.
const TRANSLATER = GITS_TRANSLATER;
const raise = raiseEvent;

export interface ItsCounts {
  /** By name. */
  readonly commands: Record<string, number>;
  /** Commands that did nothing, by reason. */
  readonly commandProblems: Record<string, number>;
  msisDelivered: number;
  /** By reason. */
  readonly msisDropped: Record<string, number>;
}

interface SavedIts {
  readonly registers: unknown;
  readonly tables: unknown;
  readonly counts: ItsCounts;
  readonly errors: Readonly<Record<string, number>>;
  readonly lastError: string;
}

export class Its implements MmioTarget, Saved {
  readonly name: string;
  readonly choices: ItsChoices;
  readonly counts: ItsCounts = { commands: {}, commandProblems: {}, msisDelivered: 0, msisDropped: {} };
  readonly #phandle: number = 0;
  readonly #memory: GicMemory;
  declare readonly lpis: LpiSink;
  declare readonly tables: ItsTables;
  declare readonly registers: ItsRegisters;
  readonly #context: CommandContext;
  readonly #words = new Uint32Array(ITS_COMMAND_WORDS);
  /** Architected error codes, `0x010801`, and how often. */
  readonly #errors: Record<string, number> = {};
  #lastError = '';

  /** `phandle` is the ITS's own in the device tree, which msi-map names. */
  constructor(name: string, phandle: number, memory: GicMemory, lpis: LpiSink, choices: Partial<ItsChoices> = {}) {
    this.name = name;
    this.choices = itsChoices(choices, lpis.idBits);
    this.#phandle = phandle;
    this.#memory = memory;
    this.lpis = lpis;
    this.tables = new ItsTables(memory, this.choices);
    this.registers = new ItsRegisters(this.tables, this.choices, () => this.#drainCommands());
    this.#context = { choices: this.choices, tables: this.tables, lpis };
  }

  reset(): void {
    this.registers.reset();
    this.tables.reset();
  }

  read(offset: number, size: number): number {
    return offset < ITS_FRAME_BYTES ? this.registers.read(offset, size) : 0;
  }

  write(offset: number, size: number, value: number, requester?: Requester): void {
    if (offset === TRANSLATER && size >= 2) {
      const problem = this.#translate(value >>> 0, requester);
      if (problem === undefined) this.counts.msisDelivered++;
      else this.#onLostMessage(problem, value >>> 0, requester);
    } else if (offset < ITS_FRAME_BYTES) this.registers.write(offset, size, value);
  }

  #onLostMessage(problem: ItsProblem, eventId: number, requester: Requester | undefined): void {
    bump(this.counts.msisDropped, problem);
    const code = itsErrorCode('INT', problem);
    if (code === 0) return;
    const deviceId = requester?.deviceIdAt(this.#phandle) ?? 0;
    this.#onError(code, `message deviceId=0x${deviceId.toString(16)} eventId=0x${eventId.toString(16)}`);
  }

  #translate(eventId: number, requester: Requester | undefined): ItsProblem | undefined {
    if (requester === undefined) return 'not-from-a-device';
    const deviceId = requester.deviceIdAt(this.#phandle);
    if (deviceId < 0) return 'no-device-id';
    if (!this.registers.enabled) return 'its-disabled';
    return raise(this.tables, this.lpis, deviceId, eventId);
  }

  #drainCommands(): void {
    const registers = this.registers;
    while (registers.hasCommand) {
      const pa = registers.commandPa;
      if (!this.#memory.contains(pa, ITS_COMMAND_BYTES)) {
        registers.stall();
        return;
      }
      for (let i = 0; i < ITS_COMMAND_WORDS; i++) this.#words[i] = this.#memory.read32(pa + 4 * i);
      const command = decodeItsCommand(this.#words);
      bump(this.counts.commands, command.name);
      const problem = runItsCommand(command, this.#context);
      if (problem !== undefined && this.#onProblem(command, problem)) return;
      registers.advance();
    }
  }

  /** Counts a command that did nothing. Returns whether the queue stands now. */
  #onProblem(command: ItsCommand, problem: ItsProblem): boolean {
    bump(this.counts.commandProblems, `${command.name}: ${problem}`);
    const code = itsErrorCode(command.name, problem);
    if (code === 0) return false;
    this.#onError(code, formatItsCommand(command));
    if (this.choices.onError === 'ignore') return false;
    this.registers.stall();
    return true;
  }

  #onError(code: number, what: string): void {
    const text = formatItsErrorCode(code);
    bump(this.#errors, text);
    this.#lastError = `${text} ${what}`;
  }

  save(): SavedIts {
    return {
      registers: this.registers.save(),
      tables: this.tables.save(),
      counts: structuredClone(this.counts),
      errors: { ...this.#errors },
      lastError: this.#lastError,
    };
  }

  load(state: unknown): void {
    const s = state as SavedIts;
    this.registers.load(s.registers);
    this.tables.load(s.tables);
    loadCounts(this.counts.commands, s.counts.commands);
    loadCounts(this.counts.commandProblems, s.counts.commandProblems);
    loadCounts(this.counts.msisDropped, s.counts.msisDropped);
    this.counts.msisDelivered = s.counts.msisDelivered;
    loadCounts(this.#errors, s.errors);
    this.#lastError = s.lastError;
  }

  inspect(): unknown {
    return {
      registers: this.registers.inspect(),
      ...(this.tables.inspect() as object),
      errors: this.#errors,
      lastError: this.#lastError,
      counts: this.counts,
    };
  }
}

function bump(counts: Record<string, number>, key: string): void {
  counts[key] = (counts[key] ?? 0) + 1;
}
