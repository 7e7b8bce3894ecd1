/**
 * The `dma-probe` endpoint: any DMA and any interrupt that its driver asks for, and on demand what a broken or hostile
 * device would do (shared/arch/dma-probe.ts is its data sheet, docs/reference/hardware/dma-probe.md its manual).
 * A command runs in bursts of at most 1 MiB; each takes time, and what a burst does happens at its end.
 */

import {
  DMA_PROBE,
  DMA_PROBE_BYTES,
  DMA_PROBE_CHECKSUM_START,
  DMA_PROBE_COMMAND_IRQ,
  DMA_PROBE_DESCRIPTOR,
  DMA_PROBE_MAGIC,
  DMA_PROBE_MISBEHAVE,
  DMA_PROBE_OP,
  DMA_PROBE_STATUS,
  dmaProbeFill,
  dmaProbeSum,
} from '#shared/arch/dma-probe.ts';
import { type Address64, address64, addressPlus, highOf, lowOf } from '#shared/ids/address64.ts';
import type { Scheduler } from '../../bus/transaction.ts';
import { loadArray } from '../../state/saved.ts';
import type { ResetKind } from '../reset.ts';
import { ADDRESS_TYPE } from '../route.ts';
import type { DeviceHost, DeviceModel, RogueHost } from './function.ts';

const BURST_BYTES = 0x10_0000;
/** Cost of a burst: a round trip, then 8 bytes a nanosecond (a x8 link of 8 GT/s). */
const BURST_NS = 500;
const BYTES_PER_NS = 8;
/** Registers that keep what is written to them, each a 32-bit word. */
/** No address. */
const NOWHERE = -1;

const PLAIN_RW: ReadonlySet<number> = new Set([
  DMA_PROBE.SRC_LO,
  DMA_PROBE.SRC_HI,
  DMA_PROBE.DST_LO,
  DMA_PROBE.DST_HI,
  DMA_PROBE.LENGTH_HI,
  DMA_PROBE.PATTERN,
  DMA_PROBE.VECTOR,
  DMA_PROBE.COUNT,
  DMA_PROBE.MISBEHAVE,
  DMA_PROBE.FORGED_RID,
  DMA_PROBE.CONFIG_AT,
  DMA_PROBE.CONFIG_VALUE,
]);

/** A command, or the descriptor of a CHAIN that is under way. Plain values: it is saved as it is. */
interface Command {
  op: number;
  source: Address64;
  target: Address64;
  lengthBytes: number;
  seed: number;
  done: number;
  /** When its next burst is due, on the scheduler's clock. */
  dueNs: number;
  readonly irq: boolean;
  /** What its requests carry and ignore, as it was when the command started. */
  readonly rid: number;
  readonly misbehave: number;
  /** Of a CHAIN: the descriptor under way (NOWHERE: none is fetched yet), the next one, and how many are left. */
  descriptor: Address64;
  next: Address64;
  left: number;
}

interface Poke {
  readonly dueNs: number;
  readonly offset: number;
  readonly bytes: number;
  readonly value: number;
}

export class DmaProbe implements DeviceModel {
  readonly name = 'dma-probe';
  readonly #bar: number;
  readonly #host: DeviceHost & RogueHost;
  readonly #scheduler: Scheduler;
  readonly #words = new Uint32Array(0x80 / 4);
  readonly #descriptor = new DataView(new ArrayBuffer(DMA_PROBE_DESCRIPTOR.BYTES));
  readonly #four = new DataView(new ArrayBuffer(4));
  #status = 0;
  /** The command under way. A burst that finds another one, or none, was overtaken by a reset. */
  #command: Command | undefined;
  /** Pokes of configuration space that are still to come; power-on forgets them. */
  #pokes: Poke[] = [];
  #buffer: Int32Array | undefined;

  /** `bar`: the BAR whose first page holds the registers. */
  constructor(bar: number, host: DeviceHost & RogueHost, scheduler: Scheduler) {
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
        return 2;
      case DMA_PROBE.STATUS:
        return this.#status;
      case DMA_PROBE.MESSAGES:
        return this.#host.messagesSent;
      case DMA_PROBE.RID:
        return this.#host.rid;
      case DMA_PROBE.ABORT_READ:
        this.#host.refuseRead('abort');
        return 0;
      case DMA_PROBE.HANG_READ:
        this.#host.refuseRead('timeout');
        return 0;
      default:
        return this.#words[offset >>> 2] ?? 0;
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
        for (let v = 0; v < 32; v++) if ((value & (1 << v)) !== 0) this.#raise(v);
        break;
      case DMA_PROBE.RAISE_ONE:
        this.#raise(value);
        break;
      case DMA_PROBE.LENGTH_LO:
        this.#set(offset, value & ~3);
        break;
      case DMA_PROBE.CONFIG_POKE:
        this.#poke(value);
        break;
      case DMA_PROBE.INTERRUPTS:
        this.#set(offset, this.#get(offset) & ~value);
        this.#host.setIntx(this.#get(offset) !== 0);
        break;
      default:
        if (PLAIN_RW.has(offset)) this.#set(offset, value);
    }
  }

  reset(kind: ResetKind): void {
    this.#words.fill(0);
    this.#status = 0;
    const command = this.#command;
    const stubborn = command !== undefined && (command.misbehave & DMA_PROBE_MISBEHAVE.STUBBORN) !== 0;
    if (kind === 'power-on') this.#pokes = [];
    if (stubborn && kind !== 'power-on') return;
    this.#command = undefined;
    this.#host.setTransactionsPending(false);
  }

  save(): unknown {
    const command = this.#command === undefined ? undefined : { ...this.#command };
    return {
      words: this.#words.slice(),
      status: this.#status,
      command,
      pokes: this.#pokes.map((poke) => ({ ...poke })),
    };
  }

  load(state: unknown): void {
    const saved = state as {
      words: Uint32Array;
      status: number;
      command: Command | undefined;
      pokes: readonly Poke[];
    };
    loadArray(this.#words, saved.words, 'dma-probe');
    this.#status = saved.status;
    this.#pokes = saved.pokes.map((poke) => ({ ...poke }));
    for (const poke of this.#pokes) this.#armPoke(poke);
    this.#command = saved.command === undefined ? undefined : { ...saved.command };
    if (this.#command !== undefined) this.#arm(this.#command, Math.max(0, this.#command.dueNs - this.#now));
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

  /** Without MSI and MSI-X an interrupt is a bit, and the pin the sum of the bits. */
  #raise(vector: number): void {
    if (this.#host.messageSignalled) {
      this.#host.raise(vector);
      return;
    }
    this.#set(DMA_PROBE.INTERRUPTS, this.#get(DMA_PROBE.INTERRUPTS) | (1 << (vector & 31)));
    this.#host.setIntx(true);
  }

  #poke(delayNs: number): void {
    const at = this.#get(DMA_PROBE.CONFIG_AT);
    const bytes = Math.min(4, (at >>> 16) & 7);
    const poke = { dueNs: this.#now + delayNs, offset: at & 0xfff, bytes, value: this.#get(DMA_PROBE.CONFIG_VALUE) };
    if (delayNs === 0) {
      this.#host.rogueConfig(poke.offset, poke.bytes, poke.value);
      return;
    }
    this.#pokes.push(poke);
    this.#armPoke(poke);
  }

  #armPoke(poke: Poke): void {
    this.#scheduler.after(Math.max(0, poke.dueNs - this.#now), () => {
      if (!this.#pokes.includes(poke)) return;
      this.#pokes = this.#pokes.filter((other) => other !== poke);
      this.#host.rogueConfig(poke.offset, poke.bytes, poke.value);
    });
  }

  #start(value: number): void {
    const op = value & 0xf;
    if (this.#command !== undefined || op < DMA_PROBE_OP.READ || op > DMA_PROBE_OP.CHAIN) return;
    const source = this.#get64(DMA_PROBE.SRC_LO);
    const misbehave = this.#get(DMA_PROBE.MISBEHAVE);
    const forged = (misbehave & DMA_PROBE_MISBEHAVE.FORGE_RID) !== 0;
    const command: Command = {
      op,
      irq: (value & DMA_PROBE_COMMAND_IRQ) !== 0,
      source,
      target: this.#get64(DMA_PROBE.DST_LO),
      lengthBytes:
        op === DMA_PROBE_OP.MESSAGE ? 4 : op === DMA_PROBE_OP.CHAIN ? 0 : Number(this.#get64(DMA_PROBE.LENGTH_LO)),
      seed: this.#get(DMA_PROBE.PATTERN),
      done: 0,
      dueNs: 0,
      rid: forged ? this.#get(DMA_PROBE.FORGED_RID) & 0xffff : this.#host.rid,
      misbehave,
      descriptor: NOWHERE,
      next: source,
      left: op === DMA_PROBE_OP.CHAIN ? this.#get(DMA_PROBE.COUNT) : 0,
    };
    if (op === DMA_PROBE_OP.READ || op === DMA_PROBE_OP.CHAIN) this.#set(DMA_PROBE.CHECKSUM, DMA_PROBE_CHECKSUM_START);
    this.#status = DMA_PROBE_STATUS.BUSY;
    this.#command = command;
    this.#host.setTransactionsPending(true);
    this.#schedule(command);
  }

  #schedule(command: Command): void {
    const bytes = Math.min(BURST_BYTES, command.lengthBytes - command.done);
    const ns = BURST_NS + bytes / BYTES_PER_NS;
    command.dueNs = this.#now + ns;
    this.#arm(command, ns);
  }

  #arm(command: Command, ns: number): void {
    this.#scheduler.after(ns, () => {
      if (this.#command === command) this.#burst(command);
    });
  }

  #burst(command: Command): void {
    const fetches = command.op === DMA_PROBE_OP.CHAIN;
    if (fetches) {
      const failedAt = this.#fetch(command);
      if (failedAt !== NOWHERE) this.#abort(command, failedAt);
      else if (command.op === DMA_PROBE_OP.CHAIN) this.#finish(command, DMA_PROBE_STATUS.DONE);
      else this.#schedule(command);
      return;
    }
    const bytes = Math.min(BURST_BYTES, command.lengthBytes - command.done);
    const abortedAt = bytes === 0 ? NOWHERE : this.#transfer(command, bytes);
    if (abortedAt !== NOWHERE) {
      this.#writeBack(command, DMA_PROBE_DESCRIPTOR.DONE + DMA_PROBE_DESCRIPTOR.ERROR);
      this.#abort(command, abortedAt);
      return;
    }
    command.done += bytes;
    if (command.done < command.lengthBytes) {
      this.#schedule(command);
      return;
    }
    if (command.descriptor === NOWHERE) {
      this.#finish(command, DMA_PROBE_STATUS.DONE);
      return;
    }
    const failedAt = this.#writeBack(command, DMA_PROBE_DESCRIPTOR.DONE);
    if (failedAt !== NOWHERE) {
      this.#abort(command, failedAt);
      return;
    }
    command.op = DMA_PROBE_OP.CHAIN;
    command.lengthBytes = command.done = 0;
    this.#schedule(command);
  }

  /** Makes the next descriptor of a chain the command; the op stays CHAIN at its end. Returns where it failed, or NOWHERE. */
  #fetch(command: Command): Address64 {
    if (command.left === 0) return NOWHERE;
    const D = DMA_PROBE_DESCRIPTOR;
    const at = command.next;
    const view = this.#descriptor;
    const got = this.#request(command, at, new Uint8Array(view.buffer), false);
    if (got < D.BYTES) return addressPlus(at, got);
    const op = view.getUint32(D.CONTROL, true) & 0xf;
    command.descriptor = at;
    command.next = addressPlus(at, D.BYTES);
    command.left--;
    if (op < DMA_PROBE_OP.READ || op > DMA_PROBE_OP.MESSAGE) return at;
    command.op = op;
    command.seed = view.getUint32(D.PATTERN, true);
    command.source = address64(view.getUint32(D.SRC + 4, true), view.getUint32(D.SRC, true));
    command.target = address64(view.getUint32(D.DST + 4, true), view.getUint32(D.DST, true));
    command.lengthBytes = op === DMA_PROBE_OP.MESSAGE ? 4 : (view.getUint32(D.LENGTH, true) & ~3) >>> 0;
    command.done = 0;
    return NOWHERE;
  }

  /** Tells the memory of a descriptor what became of it. Returns where that failed, or NOWHERE. */
  #writeBack(command: Command, flags: number): Address64 {
    if (command.descriptor === NOWHERE) return NOWHERE;
    this.#four.setUint32(0, command.op + flags, true);
    const at = addressPlus(command.descriptor, DMA_PROBE_DESCRIPTOR.CONTROL);
    const put = this.#request(command, at, new Uint8Array(this.#four.buffer), true);
    return put < 4 ? addressPlus(at, put) : NOWHERE;
  }

  /** Moves one burst. Returns the bus address where it was aborted, or NOWHERE. */
  #transfer(command: Command, bytes: number): Address64 {
    const to = addressPlus(command.target, command.done);
    if (command.op === DMA_PROBE_OP.MESSAGE) {
      this.#four.setUint32(0, command.seed, true);
      const put = this.#request(command, to, new Uint8Array(this.#four.buffer), true);
      return put < 4 ? addressPlus(to, put) : NOWHERE;
    }
    this.#buffer ??= new Int32Array(BURST_BYTES / 4);
    const words = this.#buffer.subarray(0, bytes / 4);
    const data = new Uint8Array(words.buffer, 0, bytes);
    if (command.op === DMA_PROBE_OP.WRITE) {
      dmaProbeFill(words, command.seed, command.done / 4);
    } else {
      const from = addressPlus(command.source, command.done);
      const got = this.#request(command, from, data, false);
      if (command.op === DMA_PROBE_OP.READ) {
        this.#set(DMA_PROBE.CHECKSUM, dmaProbeSum(words.subarray(0, got >>> 2), this.#get(DMA_PROBE.CHECKSUM)));
      }
      if (got < bytes) return addressPlus(from, got);
      if (command.op === DMA_PROBE_OP.READ) return NOWHERE;
    }
    const put = this.#request(command, to, data, true);
    return put < bytes ? addressPlus(to, put) : NOWHERE;
  }

  /** One request, honest or not. */
  #request(command: Command, address: Address64, data: Uint8Array, write: boolean): number {
    const { dma } = this.#host;
    if (command.misbehave === 0) return write ? dma.write(address, data) : dma.read(address, data);
    const { AT_SHIFT, AT_MASK } = DMA_PROBE_MISBEHAVE;
    const at = (command.misbehave >>> AT_SHIFT) & AT_MASK;
    return this.#host.rogueRequest(command.rid, at > ADDRESS_TYPE.TRANSLATED ? 0 : at, address, data, write);
  }

  #abort(command: Command, address: Address64): void {
    this.#set(DMA_PROBE.ERROR_LO, lowOf(address));
    this.#set(DMA_PROBE.ERROR_HI, highOf(address));
    this.#set(DMA_PROBE.ABORTS, this.#get(DMA_PROBE.ABORTS) + 1);
    this.#finish(command, DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
  }

  #finish(command: Command, status: number): void {
    this.#command = undefined;
    this.#status = status;
    this.#host.setTransactionsPending(false);
    if (command.irq) this.#raise(this.#get(DMA_PROBE.VECTOR));
  }

  get #now(): number {
    return this.#scheduler.now ?? 0;
  }

  #get(register: number): number {
    return this.#words[register >>> 2]!;
  }

  #get64(lowRegister: number): Address64 {
    return address64(this.#get(lowRegister + 4), this.#get(lowRegister));
  }

  #set(register: number, value: number): void {
    this.#words[register >>> 2] = value;
  }
}
