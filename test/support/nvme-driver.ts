/**
 * An NVMe driver for tests, written from the specification: it fills submission entries in memory, rings doorbells and
 * takes completions by their phase tag. Time passes when it says so.
 */
import {
  NVME_ACQ_LO,
  NVME_ADMIN,
  NVME_AQA,
  NVME_ASQ_LO,
  NVME_CC,
  NVME_CSTS,
  NVME_QUEUE_IEN,
  NVME_QUEUE_PC,
  NVME_SQE,
  nvmeCqHead,
  nvmeSqTail,
} from '#shared/arch/nvme.ts';
import { asWord, get, wordWith } from '#shared/regs/field.ts';

/** What the driver drives. Memory is at bus address 0. */
export interface NvmePort {
  read(offset: number): number;
  write(offset: number, value: number): void;
  readonly memory: Uint8Array;
  pass(ns: number): void;
}

export interface Completed {
  readonly cid: number;
  readonly dw0: number;
  readonly sqid: number;
  readonly sqHead: number;
  /** SCT and SC. */
  readonly status: number;
  readonly more: boolean;
  readonly doNotRetry: boolean;
}

/** Words of a submission entry; what is absent is zero. */
export interface Command {
  readonly opcode: number;
  readonly cid?: number;
  readonly nsid?: number;
  readonly prp1?: number;
  readonly prp2?: number;
  readonly cdw10?: number;
  readonly cdw11?: number;
  readonly cdw12?: number;
  readonly cdw13?: number;
  /** ORed into the first word. */
  readonly flags?: number;
}

/** A submission queue and the completion queue that it reports to. */
export class QueuePair {
  readonly id: number;
  readonly sq: number;
  readonly cq: number;
  readonly entries: number;
  tail = 0;
  head = 0;
  phase = 1;

  constructor(id: number, sq: number, cq: number, entries: number) {
    this.id = id;
    this.sq = sq;
    this.cq = cq;
    this.entries = entries;
  }
}

const MS = 1e6;

export class NvmeDriver {
  readonly port: NvmePort;
  readonly view: DataView;
  admin: QueuePair;
  #cid = 0x100;

  constructor(port: NvmePort, { sq = 0x1_0000, cq = 0x1_1000, entries = 16 } = {}) {
    this.port = port;
    this.view = new DataView(port.memory.buffer, port.memory.byteOffset, port.memory.byteLength);
    this.admin = new QueuePair(0, sq, cq, entries);
  }

  get csts(): number {
    return this.port.read(NVME_CSTS.offset);
  }

  get ready(): boolean {
    return get(NVME_CSTS.RDY, asWord(NVME_CSTS, this.csts)) === 1;
  }

  get fatal(): boolean {
    return get(NVME_CSTS.CFS, asWord(NVME_CSTS, this.csts)) === 1;
  }

  get shutdownStatus(): number {
    return get(NVME_CSTS.SHST, asWord(NVME_CSTS, this.csts));
  }

  /** Sets up the admin queues and enables the controller, with any field of CC changed. */
  enable(cc: Parameters<typeof wordWith<'NVME_CC', typeof NVME_CC>>[1] = {}): void {
    const { sq, cq, entries } = this.admin;
    this.admin = new QueuePair(0, sq, cq, entries);
    this.port.memory.fill(0, cq, cq + entries * 16);
    this.port.write(NVME_AQA.offset, wordWith(NVME_AQA, { ASQS: entries - 1, ACQS: entries - 1 }));
    this.port.write(NVME_ASQ_LO.offset, sq);
    this.port.write(NVME_ASQ_LO.offset + 4, 0);
    this.port.write(NVME_ACQ_LO.offset, cq);
    this.port.write(NVME_ACQ_LO.offset + 4, 0);
    this.port.write(NVME_CC.offset, wordWith(NVME_CC, { EN: 1, IOSQES: 6, IOCQES: 4, ...cc }));
    this.port.pass(2 * MS);
  }

  disable(): void {
    this.port.write(NVME_CC.offset, 0);
  }

  /** Writes one entry; the doorbell is `ring`. Gives its command identifier. */
  submit(queue: QueuePair, command: Command): number {
    const cid = command.cid ?? this.#cid++ & 0xffff;
    const at = queue.sq + queue.tail * 64;
    this.port.memory.fill(0, at, at + 64);
    const put = (word: number, value: number): void => this.view.setUint32(at + 4 * word, value >>> 0, true);
    put(NVME_SQE.CDW0, command.opcode | (command.flags ?? 0) | (cid << 16));
    put(NVME_SQE.NSID, command.nsid ?? 0);
    put(NVME_SQE.PRP1, command.prp1 ?? 0);
    put(NVME_SQE.PRP1 + 1, Math.floor((command.prp1 ?? 0) / 2 ** 32));
    put(NVME_SQE.PRP2, command.prp2 ?? 0);
    put(NVME_SQE.PRP2 + 1, Math.floor((command.prp2 ?? 0) / 2 ** 32));
    put(NVME_SQE.CDW10, command.cdw10 ?? 0);
    put(NVME_SQE.CDW11, command.cdw11 ?? 0);
    put(NVME_SQE.CDW12, command.cdw12 ?? 0);
    put(NVME_SQE.CDW13, command.cdw13 ?? 0);
    queue.tail = (queue.tail + 1) % queue.entries;
    return cid;
  }

  ring(queue: QueuePair): void {
    this.port.write(nvmeSqTail(queue.id), queue.tail);
  }

  /** Takes what has completed, without telling the controller. */
  take(queue: QueuePair, most = Number.MAX_SAFE_INTEGER): Completed[] {
    const taken: Completed[] = [];
    while (taken.length < most) {
      const at = queue.cq + queue.head * 16;
      const last = this.view.getUint32(at + 12, true);
      if (((last >>> 16) & 1) !== queue.phase) break;
      const third = this.view.getUint32(at + 8, true);
      taken.push({
        cid: last & 0xffff,
        dw0: this.view.getUint32(at, true),
        sqid: third >>> 16,
        sqHead: third & 0xffff,
        status: (last >>> 17) & 0x7ff,
        more: (last & 0x4000_0000) !== 0,
        doNotRetry: last >>> 31 === 1,
      });
      queue.head = (queue.head + 1) % queue.entries;
      if (queue.head === 0) queue.phase ^= 1;
    }
    return taken;
  }

  ringHead(queue: QueuePair): void {
    this.port.write(nvmeCqHead(queue.id), queue.head);
  }

  /** One command from doorbell to doorbell. */
  run(queue: QueuePair, command: Command): Completed {
    const cid = this.submit(queue, command);
    this.ring(queue);
    this.port.pass(10 * MS);
    const done = this.take(queue);
    this.ringHead(queue);
    const mine = done.find((one) => one.cid === cid);
    if (mine === undefined || done.length !== 1) throw new Error(`${done.length} completions for one command`);
    return mine;
  }

  /** The status of one admin command. */
  adminCommand(command: Command): Completed {
    return this.run(this.admin, command);
  }

  /** Creates an I/O completion and submission queue of the same number at `base` (the SQ) and one page on (the CQ). */
  createPair(id: number, base: number, entries: number, vector = 0, interrupts = true): QueuePair {
    const cq = base + Math.ceil((entries * 64) / 4096) * 4096;
    this.port.memory.fill(0, cq, cq + entries * 16);
    const flags = NVME_QUEUE_PC | (interrupts ? NVME_QUEUE_IEN : 0);
    const size = ((entries - 1) << 16) | id;
    this.#must({ opcode: NVME_ADMIN.CREATE_IO_CQ, prp1: cq, cdw10: size, cdw11: (vector << 16) | flags });
    this.#must({ opcode: NVME_ADMIN.CREATE_IO_SQ, prp1: base, cdw10: size, cdw11: (id << 16) | NVME_QUEUE_PC });
    return new QueuePair(id, base, cq, entries);
  }

  #must(command: Command): void {
    const { status } = this.adminCommand(command);
    if (status !== 0) throw new Error(`admin command ${command.opcode} ended with 0x${status.toString(16)}`);
  }
}
