/**
 * One ITS: control frame, translation frame and command queue (IHI 0069, "The ITS"). Two ITSs share nothing but the
 * redistributors: each has its own queue, tables and DeviceIDs.
 * A write to GITS_TRANSLATER counts only with the DeviceID that the fabric gives its requester at this ITS. A CPU has
 * none, so a guest that stores to the doorbell raises nothing.
 * GITS_CREADR never lags: commands are done when the write to GITS_CWRITER is.
 * Not modelled: a stall or a system error for a bad command; it is counted and skipped.
 */
import { GITS_TRANSLATER, ITS_FRAME_BYTES } from '#shared/arch/gic/its.ts';
import { decodeItsCommand, ITS_COMMAND_BYTES, ITS_COMMAND_WORDS } from '#shared/arch/gic/its-commands.ts';
import type { MmioTarget, Requester } from '../../bus/transaction.ts';
import type { GicMemory } from '../memory.ts';
import { runItsCommand } from './commands.ts';
import { ItsRegisters } from './registers.ts';
import { ItsTables } from './tables.ts';
import { type ItsProblem, type LpiSink, raiseEvent } from './translate.ts';

export interface ItsCounts {
  /** By name. */
  readonly commands: Record<string, number>;
  /** Commands that did nothing, by reason. */
  readonly commandProblems: Record<string, number>;
  msisDelivered: number;
  /** By reason. */
  readonly msisDropped: Record<string, number>;
}

export class Its implements MmioTarget {
  readonly name: string;
  readonly counts: ItsCounts = { commands: {}, commandProblems: {}, msisDelivered: 0, msisDropped: {} };
  readonly #phandle: number;
  readonly #memory: GicMemory;
  readonly #lpis: LpiSink;
  readonly #tables: ItsTables;
  readonly #registers: ItsRegisters;
  readonly #words = new Uint32Array(ITS_COMMAND_WORDS);

  /** `phandle` is the ITS's own in the device tree, which msi-map names. */
  constructor(name: string, phandle: number, memory: GicMemory, lpis: LpiSink) {
    this.name = name;
    this.#phandle = phandle;
    this.#memory = memory;
    this.#lpis = lpis;
    this.#tables = new ItsTables(memory);
    this.#registers = new ItsRegisters(this.#tables, () => this.#drainCommands());
  }

  reset(): void {
    this.#registers.reset();
  }

  read(offset: number, size: number): number {
    return offset < ITS_FRAME_BYTES ? this.#registers.read(offset, size) : 0;
  }

  write(offset: number, size: number, value: number, requester?: Requester): void {
    if (offset < ITS_FRAME_BYTES) this.#registers.write(offset, size, value);
    else if (offset === GITS_TRANSLATER && size >= 2) this.#onMessage(value >>> 0, requester);
  }

  #onMessage(eventId: number, requester: Requester | undefined): void {
    const problem = this.#translate(eventId, requester);
    if (problem === undefined) this.counts.msisDelivered++;
    else bump(this.counts.msisDropped, problem);
  }

  #translate(eventId: number, requester: Requester | undefined): ItsProblem | undefined {
    if (requester === undefined) return 'not-from-a-device';
    const deviceId = requester.deviceIdAt(this.#phandle);
    if (deviceId < 0) return 'no-device-id';
    if (!this.#registers.enabled) return 'its-disabled';
    return raiseEvent(this.#tables, this.#lpis, deviceId, eventId);
  }

  #drainCommands(): void {
    const registers = this.#registers;
    while (registers.hasCommand) {
      const pa = registers.commandPa;
      if (!this.#memory.contains(pa, ITS_COMMAND_BYTES)) {
        registers.stall();
        return;
      }
      for (let i = 0; i < ITS_COMMAND_WORDS; i++) this.#words[i] = this.#memory.read32(pa + 4 * i);
      const command = decodeItsCommand(this.#words);
      bump(this.counts.commands, command.name);
      const problem = runItsCommand(command, this.#tables, this.#lpis);
      if (problem !== undefined) bump(this.counts.commandProblems, `${command.name}: ${problem}`);
      registers.advance();
    }
  }

  inspect(): unknown {
    return { registers: this.#registers.inspect(), counts: this.counts };
  }
}

function bump(counts: Record<string, number>, key: string): void {
  counts[key] = (counts[key] ?? 0) + 1;
}
