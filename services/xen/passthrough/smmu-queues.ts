/**
 * The command and event queues of an SMMUv3 as Xen drives them (IHI 0070, "Command and Event queues";
 * xen/drivers/passthrough/arm/smmu-v3.c). Every run of commands ends in a CMD_SYNC whose consumption is polled.
 * Not modelled: completion of CMD_SYNC by interrupt or MSI, the PRI queue.
 */

import {
  SMMU_CMDQ_BASE_LO,
  SMMU_CMDQ_CONS,
  SMMU_CMDQ_PROD,
  SMMU_EVENTQ_BASE_LO,
  SMMU_EVENTQ_CONS,
  SMMU_EVENTQ_PROD,
  SMMU_GERROR,
  SMMU_GERRORN,
} from '#shared/arch/smmu/v3.ts';
import {
  COMMAND,
  COMMAND_BYTES,
  commandName,
  decodeEvent,
  EVENT_BYTES,
  EVENT_WORDS,
  encodeSync,
  eventName,
  queueEmpty,
  queueIndex,
  queueUsed,
  type SmmuEvent,
  SYNC_CS,
} from '#shared/arch/smmu/v3-queues.ts';
import { Lock, type Op, sleep, withLock } from '#shared/core/op.ts';
import { addressJson } from '#shared/ids/address64.ts';
import { asWord, get } from '#shared/regs/field.ts';
import { bytesOf, load, wordsOf } from '#shared/regs/struct.ts';
import type { Counts } from '../counts.ts';
import { type El2, physRead, physWrite, physWrite32, physWrite64, word } from '../el2.ts';
import { XenError } from '../error.ts';
import type { Frames } from '../mm/frames.ts';
import type { SmmuRecord } from './smmu.ts';

const POLL_NS = 1_000_000;
/** Xen gives a CMD_SYNC one second. */
const POLLS_MAX = 1000;
const POINTER_MASK = 0x000f_ffff;
const OVERFLOW = 0x8000_0000;
/** Records kept for `inspect`. */
const EVENTS_KEPT = 256;

export interface QueueParts {
  readonly el2: El2;
  readonly frames: Frames;
  readonly counts: Counts;
  /** For texts. */
  readonly name: string;
  /** Physical address of the SMMU's page 0. */
  readonly basePa: number;
}

export class CommandQueue {
  readonly #p: QueueParts;
  readonly #lock: Lock;
  #pa = -1;
  #log2size = 0;
  #prod = 0;

  constructor(parts: QueueParts) {
    this.#p = parts;
    this.#lock = new Lock(`cmdq of ${parts.name}`);
  }

  /** Gives the SMMU a queue of 2^log2size commands; CMDQEN is 0. */
  *init(log2size: number): Op<void> {
    this.#log2size = log2size;
    this.#pa = yield* newQueue(this.#p, COMMAND_BYTES << log2size);
    this.#prod = 0;
    yield* this.#p.el2.batch([
      baseWrite(this.#p.basePa + SMMU_CMDQ_BASE_LO.offset, this.#pa, log2size),
      physWrite32(this.#p.basePa + SMMU_CMDQ_PROD.offset, 0),
      physWrite32(this.#p.basePa + SMMU_CMDQ_CONS.offset, 0),
    ]);
  }

  /** Runs the commands and a CMD_SYNC; all their effects are there when it returns. Throws XenError EIO or ETIMEDOUT. */
  run(commands: readonly Uint32Array[]): Op<void> {
    return withLock(this.#lock, () => this.#run([...commands, encodeSync(SYNC_CS.SIG_NONE)]));
  }

  *#run(commands: readonly Uint32Array[]): Op<void> {
    const { el2, basePa, name, counts } = this.#p;
    if (commands.length > 1 << this.#log2size) {
      throw new XenError('E2BIG', `${commands.length} commands do not fit the queue of ${name}`);
    }
    const ops = [];
    for (const words of commands) {
      counts.add('smmuCommands', commandName(load(words, 0, COMMAND.opcode)));
      ops.push(physWrite(this.#pa + queueIndex(this.#prod, this.#log2size) * COMMAND_BYTES, bytesOf(words)));
      this.#prod = (this.#prod + 1) & ((2 << this.#log2size) - 1);
    }
    const poll = [physRead(basePa + SMMU_CMDQ_CONS.offset, 4), physRead(basePa + SMMU_GERROR.offset, 4)];
    ops.push(physWrite32(basePa + SMMU_CMDQ_PROD.offset, this.#prod), ...poll);
    let [cons, gerror] = (yield* el2.batch(ops)).slice(-2).map((r) => word(r.data));
    let failed: string | undefined;
    for (let polls = 0; !queueEmpty(this.#prod, cons!, this.#log2size); polls++) {
      if (polls >= POLLS_MAX) throw new XenError('ETIMEDOUT', `CMD_SYNC of ${name} is not consumed`);
      failed = (yield* this.#skipBad(cons!, gerror!)) ?? failed;
      if (failed === undefined) yield* sleep(POLL_NS);
      [cons, gerror] = (yield* el2.batch(poll)).map((r) => word(r.data));
    }
    if (failed !== undefined) throw new XenError('EIO', failed);
  }

  /** Puts a CMD_SYNC in the place of a command that the SMMU refuses, and lets it go on. Says what was wrong. */
  *#skipBad(cons: number, gerror: number): Op<string | undefined> {
    const { el2, basePa, name } = this.#p;
    const gerrorn = yield* el2.read32(basePa + SMMU_GERRORN.offset);
    if (get(SMMU_GERROR.CMDQ_ERR, asWord(SMMU_GERROR, gerror ^ gerrorn)) === 0) return undefined;
    const at = this.#pa + queueIndex(cons & POINTER_MASK, this.#log2size) * COMMAND_BYTES;
    const bad = wordsOf(yield* el2.read(at, COMMAND_BYTES));
    const code = get(SMMU_CMDQ_CONS.ERR, asWord(SMMU_CMDQ_CONS, cons));
    yield* el2.batch([
      physWrite(at, bytesOf(encodeSync(SYNC_CS.SIG_NONE))),
      physWrite32(basePa + SMMU_GERRORN.offset, gerror),
    ]);
    return `${name} refuses ${commandName(load(bad, 0, COMMAND.opcode))} (CERROR ${code})`;
  }
}

/** One record as `inspect` shows it. */
export interface EventRecord extends Omit<SmmuEvent, 'inputAddress'>, SmmuRecord {}

export interface EventQueueParts extends QueueParts {
  readonly nextSequence: () => number;
}

export class EventQueue {
  readonly #p: EventQueueParts;
  #pa = -1;
  #log2size = 0;
  #cons = 0;
  readonly #records: EventRecord[] = [];

  constructor(parts: EventQueueParts) {
    this.#p = parts;
  }

  /** The last records, oldest first. */
  get records(): readonly EventRecord[] {
    return this.#records;
  }

  /** Gives the SMMU a queue of 2^log2size records; EVENTQEN is 0. */
  *init(log2size: number): Op<void> {
    this.#log2size = log2size;
    this.#pa = yield* newQueue(this.#p, EVENT_BYTES << log2size);
    this.#cons = 0;
    yield* this.#p.el2.batch([
      baseWrite(this.#p.basePa + SMMU_EVENTQ_BASE_LO.offset, this.#pa, log2size),
      physWrite32(this.#p.basePa + SMMU_EVENTQ_PROD.offset, 0),
      physWrite32(this.#p.basePa + SMMU_EVENTQ_CONS.offset, 0),
    ]);
  }

  /** Takes all records, and gives each to `each`. */
  *drain(each: (record: EventRecord) => void): Op<void> {
    const { el2, basePa, counts } = this.#p;
    const prodPa = basePa + SMMU_EVENTQ_PROD.offset;
    for (let prod = yield* el2.read32(prodPa); ; prod = yield* el2.read32(prodPa)) {
      const overflowed = ((prod ^ this.#cons) & OVERFLOW) !== 0;
      if (queueEmpty(prod, this.#cons, this.#log2size) && !overflowed) return;
      if (overflowed) counts.add('smmuEvents', 'overflow');
      for (const words of yield* this.#read(queueUsed(prod, this.#cons, this.#log2size))) {
        for (let at = 0; at < words.length; at += EVENT_WORDS) {
          const event = decodeEvent(words, at);
          const type = eventName(event.code);
          const inputAddress = addressJson(event.inputAddress);
          const record = { type, sequence: this.#p.nextSequence(), ...event, inputAddress };
          counts.add('smmuEvents', record.type);
          this.#records.push(record);
          each(record);
        }
      }
      this.#records.splice(0, this.#records.length - EVENTS_KEPT);
      // RD, its wrap bit, and OVACKFLG as OVFLG.
      this.#cons = ((prod & ((2 << this.#log2size) - 1)) | (prod & OVERFLOW)) >>> 0;
      yield* el2.write32(basePa + SMMU_EVENTQ_CONS.offset, this.#cons);
    }
  }

  *#read(count: number): Op<Uint32Array[]> {
    if (count === 0) return [];
    const first = queueIndex(this.#cons, this.#log2size);
    const beforeWrap = Math.min(count, (1 << this.#log2size) - first);
    const ops = [physRead(this.#pa + first * EVENT_BYTES, beforeWrap * EVENT_BYTES)];
    if (beforeWrap < count) ops.push(physRead(this.#pa, (count - beforeWrap) * EVENT_BYTES));
    return (yield* this.#p.el2.batch(ops)).map((r) => wordsOf(r.data));
  }
}

function baseWrite(registerPa: number, queuePa: number, log2size: number): ReturnType<typeof physWrite64> {
  // RA and WA (bit 62): allocate on read and write.
  return physWrite64(registerPa, (queuePa | log2size) >>> 0, (Math.floor(queuePa / 0x1_0000_0000) | (1 << 30)) >>> 0);
}

function* newQueue(parts: QueueParts, sizeBytes: number): Op<number> {
  const pa = parts.frames.allocAligned(sizeBytes, Math.max(4096, sizeBytes));
  yield* parts.el2.fill(pa, sizeBytes, 0);
  return pa;
}
