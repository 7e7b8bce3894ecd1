/**
 * An NVMe controller behind a function (NVM Express 1.4): the registers and doorbells, and the engine that fetches
 * commands, carries them out and posts their completions. Data sheet: docs/reference/hardware/nvme.md.
 * The engine works in bursts: it fetches up to 64 commands (the queues in turn), and after the time that their data
 * take it carries them out in order, posts, and interrupts. A reset in between leaves nothing of a burst.
 * A fetch that is aborted on the way is fatal (CSTS.CFS), as a controller that cannot read its queue knows no better.
 * Registers are read at any size and written 32 bits at a time; smaller writes are dropped.
 * A command that waits for a medium is held when its burst is over, and completes on its own; reset, Abort and the
 * deletion of its queue end it, and not what it waited for.
 * Not modelled: what the parts in nvme-*.ts leave out; the time that a medium takes beyond the rate of its data. An
 * address of 2^53 or more, where no memory is, ends as an unsupported request in the fabric; no SMMU hears of it.
 */
import {
  NVME_CDW0,
  NVME_DOORBELLS,
  NVME_EVENT,
  NVME_EVENT_ERROR,
  NVME_NSID_ALL,
  NVME_SC,
  NVME_SQE,
  NVME_SQE_BYTES,
  NVME_STATUS_DNR,
  NVME_STATUS_MORE,
  nvmeU64,
} from '#shared/arch/nvme.ts';
import type { MediaPort } from '../../bus/media.ts';
import type { DmaPort, Scheduler } from '../../bus/transaction.ts';
import type { DeviceHost, DeviceModel } from './function.ts';
import { NvmeAdmin } from './nvme-admin.ts';
import { NvmeEvents } from './nvme-events.ts';
import { NvmeFeatures } from './nvme-features.ts';
import type { ControllerIdentity } from './nvme-identify.ts';
import { NvmeInterrupts } from './nvme-interrupts.ts';
import { NvmeIo } from './nvme-io.ts';
import { NvmeLogs } from './nvme-logs.ts';
import { NvmeNamespace } from './nvme-namespace.ts';
import type { NamespaceShape } from './nvme-namespace-shape.ts';
import { NvmeData } from './nvme-prp.ts';
import { NvmeQueues } from './nvme-queues.ts';
import { NvmeRegisters } from './nvme-registers.ts';
import { NVME_HELD, NVME_UNTIL_DURABLE } from './nvme-status.ts';
import { type SavedTimer, Timer } from './timer.ts';

/** Commands that one burst fetches, and data after which it fetches no more. */
const BURST_COMMANDS = 64;
const BURST_BYTES = 4 << 20;
/** Commands that wait for a medium, after which none is fetched until one completes. */
const HELD_MAX = 1024;
/** From a doorbell to the entry being here, then a command's own cost, then 4 bytes a nanosecond. */
const FETCH_NS = 800;
const COMMAND_NS = 2000;
const BYTES_PER_NS = 4;
/** Statuses after which the same command may well succeed. */
const WORTH_RETRYING: readonly number[] = [
  NVME_SC.DATA_TRANSFER_ERROR,
  NVME_SC.ABORT_REQUESTED,
  NVME_SC.ABORTED_SQ_DELETION,
  NVME_SC.WRITE_FAULT,
];

export interface NvmeSetup {
  /** The BAR that holds the registers. */
  readonly bar: number;
  /** Namespaces 1 and up, in order. */
  readonly namespaces: readonly NamespaceShape[];
  /** I/O queues of each kind. */
  readonly queues: number;
  /** Vectors that a completion queue may name. */
  readonly vectors: number;
  readonly identity: Omit<ControllerIdentity, 'firmware'>;
  readonly media: MediaPort;
}

interface Fetched {
  sqid: number;
  /** Ended already, by Abort or by the deletion of its queue. */
  ended: boolean;
}

/** A command that was carried out and waits for media. */
interface Held {
  readonly sqid: number;
  readonly command: Uint32Array;
}

export class Nvme implements DeviceModel {
  readonly name = 'nvme';
  readonly #setup: NvmeSetup;
  readonly #host: DeviceHost;
  readonly #namespaces: readonly NvmeNamespace[];
  readonly #interrupts: NvmeInterrupts;
  readonly #queues: NvmeQueues;
  readonly #registers: NvmeRegisters;
  readonly #data: NvmeData;
  readonly #events = new NvmeEvents();
  readonly #logs = new NvmeLogs();
  readonly #features: NvmeFeatures;
  readonly #admin: NvmeAdmin;
  readonly #io: NvmeIo;
  readonly #fetch: Timer;
  readonly #execute: Timer;
  /** The commands of the burst under way, 16 words each. */
  readonly #burst = new Uint32Array((BURST_COMMANDS * NVME_SQE_BYTES) / 4);
  readonly #burstBytes = new Uint8Array(this.#burst.buffer);
  readonly #commands = Array.from({ length: BURST_COMMANDS }, (_, i) =>
    this.#burst.subarray((i * NVME_SQE_BYTES) / 4, ((i + 1) * NVME_SQE_BYTES) / 4),
  );
  readonly #fetched: Fetched[] = Array.from({ length: BURST_COMMANDS }, () => ({ sqid: 0, ended: true }));
  #count = 0;
  #held: Held[] = [];
  /** Changes with everything that drops the commands under way. */
  #epoch = 0;

  constructor(host: DeviceHost, scheduler: Scheduler, setup: NvmeSetup) {
    this.#setup = setup;
    this.#host = host;
    this.#namespaces = setup.namespaces.map((shape) => new NvmeNamespace(shape, setup.media));
    this.#interrupts = new NvmeInterrupts(host, setup.vectors);
    const dma = this.#dropping(host.dma);
    this.#queues = new NvmeQueues(dma, this.#interrupts);
    this.#data = new NvmeData(dma);
    const hasCache = this.#namespaces.some(({ cache }) => cache !== undefined);
    this.#features = new NvmeFeatures(setup.queues, setup.vectors, this.#events, this.#logs, hasCache);
    const state = {
      enabled: (pageBytes: number) => this.#start(pageBytes),
      disabled: () => this.#controllerReset(),
      stopped: () => this.#stop(),
      settle: (done: (ok: boolean) => void) => this.#settle(this.#namespaces, done),
    };
    this.#registers = new NvmeRegisters(state, this.#interrupts, scheduler);
    this.#io = new NvmeIo(this.#namespaces, this.#data, dma, this.#logs, this.#features);
    this.#admin = new NvmeAdmin({
      queues: this.#queues,
      features: this.#features,
      events: this.#events,
      logs: this.#logs,
      data: this.#data,
      registers: this.#registers,
      namespaces: this.#namespaces,
      identity: { ...setup.identity, firmware: this.#logs.firmware },
      vectors: setup.vectors,
      endFetched: (sqid, cid, status) => this.#endFetched(sqid, cid, status),
      endQueue: (sqid, status) => this.#endQueue(sqid, status),
    });
    this.#fetch = new Timer(scheduler, () => this.#fetchBurst());
    this.#execute = new Timer(scheduler, () => this.#executeBurst());
  }

  readBar(bar: number, offset: number, size: number): number {
    if (bar !== this.#setup.bar || offset >= NVME_DOORBELLS) return 0;
    const word = this.#registers.read(offset & ~3);
    return size === 4 ? word : (word >>> (8 * (offset & 3))) & (size === 2 ? 0xffff : 0xff);
  }

  writeBar(bar: number, offset: number, size: number, value: number): void {
    if (bar !== this.#setup.bar || size !== 4) return;
    if (offset < NVME_DOORBELLS) this.#registers.write(offset, value);
    else this.#ring((offset - NVME_DOORBELLS) >>> 2, value & 0xffff);
  }

  reset(): void {
    this.#registers.reset();
    this.#controllerReset();
  }

  save(): unknown {
    return {
      registers: this.#registers.save(),
      queues: this.#queues.save(),
      interrupts: this.#interrupts.save(),
      events: this.#events.save(),
      logs: this.#logs.save(),
      features: this.#features.save(),
      namespaces: this.#namespaces.map((namespace) => namespace.save()),
      pageBytes: this.#data.pageBytes,
      burst: this.#burst.slice(),
      fetched: this.#fetched.slice(0, this.#count).map((one) => ({ ...one })),
      held: this.#held.map(({ sqid, command }) => ({ sqid, command: command.slice() })),
      fetch: this.#fetch.save(),
      execute: this.#execute.save(),
    };
  }

  load(state: unknown): void {
    const saved = state as Record<string, unknown> & {
      namespaces: unknown[];
      pageBytes: number;
      burst: Uint32Array;
      fetched: Fetched[];
      held: Held[];
      fetch: SavedTimer;
      execute: SavedTimer;
    };
    this.#epoch++;
    this.#queues.load(saved['queues']);
    this.#interrupts.load(saved['interrupts']);
    this.#events.load(saved['events']);
    this.#logs.load(saved['logs']);
    this.#features.load(saved['features']);
    for (const [i, namespace] of this.#namespaces.entries()) namespace.load(saved.namespaces[i]);
    this.#registers.load(saved['registers']);
    this.#data.pageBytes = saved.pageBytes;
    this.#burst.set(saved.burst);
    this.#count = saved.fetched.length;
    for (const [i, one] of saved.fetched.entries()) Object.assign(this.#fetched[i]!, one);
    this.#held = [];
    for (const { sqid, command } of saved.held) this.#hold(sqid, new Uint32Array(command));
    this.#fetch.load(saved.fetch);
    this.#execute.load(saved.execute);
  }

  inspect(): unknown {
    return {
      registers: this.#registers.inspect(),
      fetched: this.#count,
      held: this.#held.length,
      ...(this.#queues.inspect() as object),
      events: this.#events.inspect(),
      counts: this.#logs.inspect(),
      namespaces: this.#namespaces.map(({ blocks, blockBytes, blocksUsed, cache }) => ({
        blocks,
        blockBytes,
        blocksUsed,
        ...(cache === undefined ? {} : { cache: cache.inspect() }),
      })),
    };
  }

  /** An access out of which a reset of this controller came ends whatever it was part of. */
  #dropping({ read, write }: DmaPort): DmaPort {
    const end = (access: DmaPort['read']) => (iova: number, data: Uint8Array) => {
      const epoch = this.#epoch;
      const done = access(iova, data);
      return epoch === this.#epoch ? done : 0;
    };
    return { read: end(read), write: end(write) };
  }

  /** RDY: the admin queues come to be. */
  #start(pageBytes: number): void {
    this.#data.pageBytes = pageBytes;
    const { sqBase, sqEntries, cqBase, cqEntries } = this.#registers.adminQueues;
    this.#queues.addCompletion(0, cqBase, cqEntries, 0, true);
    this.#queues.addSubmission(0, 0, sqBase, sqEntries);
  }

  #controllerReset(): void {
    this.#stop();
    this.#queues.clear();
    this.#events.reset();
    this.#features.reset();
    this.#interrupts.reset();
  }

  #stop(): void {
    this.#epoch++;
    this.#count = 0;
    this.#held = [];
    this.#fetch.cancel();
    this.#execute.cancel();
    this.#host.setTransactionsPending(false);
  }

  #ring(index: number, value: number): void {
    if (!this.#registers.running) return;
    const outcome = this.#queues.ring(index, value);
    if (outcome !== 'taken') {
      const wrong = NVME_EVENT_ERROR;
      this.#events.raise(
        NVME_EVENT.ERROR,
        outcome === 'no-queue' ? wrong.INVALID_DOORBELL_REGISTER : wrong.INVALID_DOORBELL_VALUE,
      );
    }
    this.#interrupts.flush();
    this.#kick();
  }

  /** Begins a burst when there is work and none is under way. */
  #kick(): void {
    if (this.#fetch.armed || this.#execute.armed || !this.#registers.running) return;
    if (this.#held.length >= HELD_MAX) return;
    if (!this.#queues.workWaiting && !this.#events.deliverable) return;
    this.#host.setTransactionsPending(true);
    this.#fetch.arm(FETCH_NS);
  }

  #fetchBurst(): void {
    const epoch = this.#epoch;
    let bytes = 0;
    this.#count = 0;
    while (this.#count < BURST_COMMANDS && bytes < BURST_BYTES) {
      const queue = this.#queues.nextTurn();
      if (queue === undefined) break;
      const first = this.#count;
      const count = Math.min(
        this.#queues.contiguousEntries(queue),
        this.#features.arbitrationBurst,
        BURST_COMMANDS - first,
      );
      const whole = this.#queues.readEntries(queue, count, this.#burstBytes.subarray(first * NVME_SQE_BYTES));
      if (epoch !== this.#epoch) return;
      if (!whole) {
        this.#registers.fail();
        return;
      }
      for (let i = first; i < first + count; i++) {
        const slot = this.#fetched[i]!;
        slot.sqid = queue.id;
        slot.ended = false;
        const command = this.#commands[i]!;
        if (queue.id !== 0) bytes += this.#io.dataBytes(command[NVME_SQE.CDW0]! & NVME_CDW0.OPC_MASK, command);
      }
      this.#count += count;
    }
    this.#execute.arm(this.#count * COMMAND_NS + bytes / BYTES_PER_NS);
  }

  #executeBurst(): void {
    const epoch = this.#epoch;
    for (let i = 0; i < this.#count; i++) {
      const slot = this.#fetched[i]!;
      if (slot.ended) continue;
      slot.ended = true;
      const status = this.#run(slot.sqid, this.#commands[i]!);
      if (epoch !== this.#epoch) return;
      if (status === NVME_UNTIL_DURABLE) this.#hold(slot.sqid, this.#commands[i]!.slice());
      else if (status !== NVME_HELD) this.#complete(slot.sqid, this.#commands[i]!, status);
      if (epoch !== this.#epoch) return;
    }
    this.#count = 0;
    for (const { cache } of this.#namespaces) cache?.writeOut();
    this.#tellEvents();
    if (epoch !== this.#epoch) return;
    this.#host.setTransactionsPending(false);
    this.#interrupts.flush();
    if (epoch === this.#epoch) this.#kick();
  }

  /** Completes a command when the media of its namespaces have all that was written. */
  #hold(sqid: number, command: Uint32Array): void {
    const held = { sqid, command };
    this.#held.push(held);
    const nsid = command[NVME_SQE.NSID]!;
    const all = sqid === 0 || nsid === NVME_NSID_ALL;
    const namespaces = all ? this.#namespaces : this.#namespaces.slice(nsid - 1, nsid);
    this.#settle(namespaces, (ok) => this.#answered(held, ok));
  }

  /** Nothing comes of a command that was ended otherwise meanwhile. */
  #answered(held: Held, ok: boolean): void {
    const at = this.#held.indexOf(held);
    if (at < 0) return;
    this.#held.splice(at, 1);
    const epoch = this.#epoch;
    if (!ok) this.#logs.countMediaError();
    this.#admin.dw0 = 0;
    this.#complete(held.sqid, held.command, ok ? NVME_SC.SUCCESS : NVME_SC.WRITE_FAULT);
    if (this.#count > 0 || epoch !== this.#epoch) return; // the burst under way tells, or nobody
    this.#interrupts.flush();
    if (epoch === this.#epoch) this.#kick();
  }

  /** Calls `done` when the media of all these namespaces have all that was written, at once when they have. */
  #settle(namespaces: readonly NvmeNamespace[], done: (ok: boolean) => void): void {
    const caches = namespaces.flatMap(({ cache }) => (cache === undefined || cache.isClean ? [] : [cache]));
    let left = caches.length;
    let failed = false;
    if (left === 0) done(true);
    for (const cache of caches)
      cache.whenDurable((ok) => {
        failed ||= !ok;
        if (--left === 0) done(!failed);
      });
  }

  #run(sqid: number, command: Uint32Array): number {
    const cdw0 = command[NVME_SQE.CDW0]!;
    const cid = cdw0 >>> NVME_CDW0.CID_SHIFT;
    this.#admin.dw0 = 0;
    if ((cdw0 & (NVME_CDW0.FUSE_MASK | NVME_CDW0.PSDT_MASK)) !== 0) return NVME_SC.INVALID_FIELD;
    if (sqid !== 0) {
      if (this.#indexOf(sqid, cid) >= 0 || this.#heldAt(sqid, cid) >= 0) return NVME_SC.COMMAND_ID_CONFLICT;
      return this.#io.execute(cdw0 & NVME_CDW0.OPC_MASK, command);
    }
    if (this.#events.holds(cid) || this.#indexOf(0, cid) >= 0 || this.#heldAt(0, cid) >= 0)
      return NVME_SC.COMMAND_ID_CONFLICT;
    return this.#admin.execute(cdw0 & NVME_CDW0.OPC_MASK, cid, command);
  }

  #complete(sqid: number, command: Uint32Array, status: number): void {
    const cid = command[NVME_SQE.CDW0]! >>> NVME_CDW0.CID_SHIFT;
    let field = status;
    if (status !== NVME_SC.SUCCESS && !WORTH_RETRYING.includes(status)) field |= NVME_STATUS_DNR;
    if (status !== NVME_SC.SUCCESS && status !== NVME_SC.ABORT_REQUESTED && status !== NVME_SC.ABORTED_SQ_DELETION) {
      field |= NVME_STATUS_MORE;
      const lba = sqid === 0 ? 0 : nvmeU64(command, NVME_SQE.CDW10);
      this.#logs.error({ sqid, cid, status: field, lba, nsid: command[NVME_SQE.NSID]! });
    }
    this.#queues.post({ sqid, cid, status: field, dw0: this.#admin.dw0 });
  }

  #tellEvents(): void {
    for (let event = this.#events.take(); event !== undefined; event = this.#events.take())
      this.#queues.post({ sqid: 0, cid: event.cid, status: NVME_SC.SUCCESS, dw0: event.dw0 });
  }

  #endFetched(sqid: number, cid: number, status: number): boolean {
    const at = this.#indexOf(sqid, cid);
    const heldAt = this.#heldAt(sqid, cid);
    if (heldAt >= 0) {
      const [held] = this.#held.splice(heldAt, 1) as [Held];
      this.#complete(sqid, held.command, status);
      return true;
    }
    if (at < 0) {
      if (sqid !== 0 || !this.#events.abort(cid)) return false;
      this.#queues.post({ sqid, cid, status, dw0: 0 });
      return true;
    }
    this.#fetched[at]!.ended = true;
    this.#complete(sqid, this.#commands[at]!, status);
    return true;
  }

  #endQueue(sqid: number, status: number): void {
    const ended = this.#held.filter((held) => held.sqid === sqid);
    this.#held = this.#held.filter((held) => held.sqid !== sqid);
    for (const { command } of ended) this.#complete(sqid, command, status);
    for (let i = 0; i < this.#count; i++) {
      const slot = this.#fetched[i]!;
      if (slot.ended || slot.sqid !== sqid) continue;
      slot.ended = true;
      this.#complete(sqid, this.#commands[i]!, status);
    }
  }

  #heldAt(sqid: number, cid: number): number {
    return this.#held.findIndex(
      (held) => held.sqid === sqid && held.command[NVME_SQE.CDW0]! >>> NVME_CDW0.CID_SHIFT === cid,
    );
  }

  /** The command of the burst with this identifier that has not ended, or -1. */
  #indexOf(sqid: number, cid: number): number {
    for (let i = 0; i < this.#count; i++) {
      const slot = this.#fetched[i]!;
      if (!slot.ended && slot.sqid === sqid && this.#commands[i]![NVME_SQE.CDW0]! >>> NVME_CDW0.CID_SHIFT === cid)
        return i;
    }
    return -1;
  }
}
