/**
 * The `dma-probe` endpoint: any DMA and any interrupt that its driver asks for (shared/arch/dma-probe.ts is its data
 * sheet). A command runs in bursts of at most 1 MiB; each takes time, and what a burst does happens at its end.
 */
import {
  DMA_PROBE,
  DMA_PROBE_BYTES,
  DMA_PROBE_CHECKSUM_START,
  DMA_PROBE_COMMAND_IRQ,
  DMA_PROBE_MAGIC,
  DMA_PROBE_OP,
  DMA_PROBE_STATUS,
  dmaProbeFill,
  dmaProbeSum,
} from '#shared/arch/dma-probe.ts';
import type { Scheduler } from '../../bus/transaction.ts';
import type { DeviceHost, DeviceModel } from './function.ts';

const BURST_BYTES = 0x10_0000;
/** Cost of a burst: a round trip, then 8 bytes a nanosecond (a x8 link of 8 GT/s). */
const BURST_NS = 500;
const BYTES_PER_NS = 8;
/** Registers that keep what is written to them, each a 32-bit word. */
const PLAIN_RW: readonly number[] = [
  DMA_PROBE.SRC_LO,
  DMA_PROBE.SRC_HI,
  DMA_PROBE.DST_LO,
  DMA_PROBE.DST_HI,
  DMA_PROBE.LENGTH_LO,
  DMA_PROBE.LENGTH_HI,
  DMA_PROBE.PATTERN,
  DMA_PROBE.VECTOR,
];

interface Command {
  readonly op: number;
  readonly irq: boolean;
  readonly source: number;
  readonly target: number;
  readonly lengthBytes: number;
  readonly seed: number;
  done: number;
}

export class DmaProbe implements DeviceModel {
  readonly name = 'dma-probe';
  readonly #bar: number;
  readonly #host: DeviceHost;
  readonly #scheduler: Scheduler;
  readonly #words = new Uint32Array(DMA_PROBE_BYTES / 4);
  #status = 0;
  /** The command under way. A burst that finds another one, or none, was overtaken by a reset. */
  #command: Command | undefined;
  #buffer: Int32Array | undefined;

  /** `bar`: the BAR whose first page holds the registers. */
  constructor(bar: number, host: DeviceHost, scheduler: Scheduler) {
    this.#bar = bar;
    this.#host = host;
    this.#scheduler = scheduler;
  }

  readBar(bar: number, offset: number, size: number): number {
    if (bar !== this.#bar || offset >= DMA_PROBE_BYTES || size !== 4) return 0;
    switch (offset) {
      case DMA_PROBE.ID:
        return DMA_PROBE_MAGIC;
      case DMA_PROBE.VERSION:
        return 1;
      case DMA_PROBE.STATUS:
        return this.#status;
      case DMA_PROBE.MESSAGES:
        return this.#host.messagesSent;
      default:
        return this.#words[offset >>> 2]!;
    }
  }

  writeBar(bar: number, offset: number, size: number, value: number): void {
    if (bar !== this.#bar || size !== 4) return;
    switch (offset) {
      case DMA_PROBE.STATUS:
        this.#status &= ~(value & (DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR));
        break;
      case DMA_PROBE.COMMAND:
        this.#start(value);
        break;
      case DMA_PROBE.RAISE:
        for (let v = 0; v < 32; v++) if ((value & (1 << v)) !== 0) this.#host.raise(v);
        break;
      case DMA_PROBE.RAISE_ONE:
        this.#host.raise(value);
        break;
      case DMA_PROBE.LENGTH_LO:
        this.#set(offset, value & ~3);
        break;
      default:
        if (PLAIN_RW.includes(offset)) this.#set(offset, value);
    }
  }

  reset(): void {
    this.#words.fill(0);
    this.#status = 0;
    this.#command = undefined;
    this.#host.setTransactionsPending(false);
  }

  inspect(): unknown {
    const command = this.#command;
    return {
      busy: command !== undefined,
      doneBytes: command?.done ?? 0,
      aborts: this.#get(DMA_PROBE.ABORTS),
      messages: this.#host.messagesSent,
    };
  }

  #start(value: number): void {
    const op = value & 0xf;
    if (this.#command !== undefined || op < DMA_PROBE_OP.READ || op > DMA_PROBE_OP.COPY) return;
    const command: Command = {
      op,
      irq: (value & DMA_PROBE_COMMAND_IRQ) !== 0,
      source: this.#get64(DMA_PROBE.SRC_LO),
      target: this.#get64(DMA_PROBE.DST_LO),
      lengthBytes: this.#get64(DMA_PROBE.LENGTH_LO),
      seed: this.#get(DMA_PROBE.PATTERN),
      done: 0,
    };
    if (op === DMA_PROBE_OP.READ) this.#set(DMA_PROBE.CHECKSUM, DMA_PROBE_CHECKSUM_START);
    this.#status = DMA_PROBE_STATUS.BUSY;
    this.#command = command;
    this.#host.setTransactionsPending(true);
    this.#schedule(command);
  }

  #schedule(command: Command): void {
    const bytes = Math.min(BURST_BYTES, command.lengthBytes - command.done);
    this.#scheduler.after(BURST_NS + bytes / BYTES_PER_NS, () => this.#burst(command, bytes));
  }

  #burst(command: Command, bytes: number): void {
    if (this.#command !== command) return;
    const abortedAt = bytes === 0 ? -1 : this.#transfer(command, bytes);
    if (abortedAt >= 0) {
      this.#set(DMA_PROBE.ERROR_LO, abortedAt % 2 ** 32);
      this.#set(DMA_PROBE.ERROR_HI, Math.floor(abortedAt / 2 ** 32));
      this.#set(DMA_PROBE.ABORTS, this.#get(DMA_PROBE.ABORTS) + 1);
      this.#finish(command, DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
      return;
    }
    command.done += bytes;
    if (command.done < command.lengthBytes) this.#schedule(command);
    else this.#finish(command, DMA_PROBE_STATUS.DONE);
  }

  /** Moves one burst. Returns the bus address where it was aborted, or -1. */
  #transfer(command: Command, bytes: number): number {
    this.#buffer ??= new Int32Array(BURST_BYTES / 4);
    const words = this.#buffer.subarray(0, bytes / 4);
    const data = new Uint8Array(words.buffer, 0, bytes);
    const { dma } = this.#host;
    if (command.op === DMA_PROBE_OP.WRITE) {
      dmaProbeFill(words, command.seed, command.done / 4);
    } else {
      const from = command.source + command.done;
      const got = dma.read(from, data);
      if (command.op === DMA_PROBE_OP.READ) {
        this.#set(DMA_PROBE.CHECKSUM, dmaProbeSum(words.subarray(0, got >>> 2), this.#get(DMA_PROBE.CHECKSUM)));
      }
      if (got < bytes) return from + got;
      if (command.op === DMA_PROBE_OP.READ) return -1;
    }
    const to = command.target + command.done;
    const put = dma.write(to, data);
    return put < bytes ? to + put : -1;
  }

  #finish(command: Command, status: number): void {
    this.#command = undefined;
    this.#status = status;
    this.#host.setTransactionsPending(false);
    if (command.irq) this.#host.raise(this.#get(DMA_PROBE.VECTOR));
  }

  #get(register: number): number {
    return this.#words[register >>> 2]!;
  }

  #get64(lowRegister: number): number {
    return this.#get(lowRegister + 4) * 2 ** 32 + this.#get(lowRegister);
  }

  #set(register: number, value: number): void {
    this.#words[register >>> 2] = value;
  }
}
