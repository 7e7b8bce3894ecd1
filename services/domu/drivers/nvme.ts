/**
 * A driver of NVM Express controllers (NVM Express 1.4, "Controller Initialization", "Queue Setup"; the order is that
 * of Linux drivers/nvme/host/pci.c): admin queues, Identify, one pair of I/O queues, a vector for each queue or the line.
 * That stands while a completion queue holds entries: its interrupt masks it in INTMS, and taking them lets it go.
 * Binds functions of class 01 08 02 whose registers are those of a controller with the NVM command set. Commands go out in groups that fill a queue at most, one group at a time.
 * Not modelled: a block layer, time-outs by Abort, asynchronous events; a command that stays away ends the group.
 */
import {
  NVME_ACQ_LO,
  NVME_ADMIN,
  NVME_AQA,
  NVME_ASQ_LO,
  NVME_CAP_HI,
  NVME_CAP_LO,
  NVME_CC,
  NVME_CNS,
  NVME_CSTS,
  NVME_FEATURE,
  NVME_INTMC,
  NVME_INTMS,
  NVME_IO,
  NVME_QUEUE_IEN,
  NVME_QUEUE_PC,
  NVME_SQE,
  NVME_STATUS_CODE_MASK,
  NVME_VS,
  nvmeCqHead,
  nvmeSqTail,
} from '#shared/arch/nvme.ts';
import { NVME_ID_CTRL, NVME_ID_NS } from '#shared/arch/nvme-data.ts';
import { PCI } from '#shared/arch/pci/header.ts';
import { Lock, type Op, sleep, TimedOut, withLock } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { BusAbort, readOp, word, write32Op, writeOp } from '#shared/kernel/cpu-bus.ts';
import { Changes } from '#shared/kernel/xenstore-client.ts';
import { asWord, get, wordWith } from '#shared/regs/field.ts';
import {
  type BoundDriver,
  type Driver,
  DriverError,
  type DriverKit,
  disableFunction,
  enableFunction,
  enableIrqs,
  type IrqKind,
  type IrqVectors,
  type PciFunction,
} from './driver.ts';

/** Non-volatile memory; programming interface NVM Express, in the byte below the class. */
const CLASS_NVM = 0x0108;
const PROGRAMMING_INTERFACE = 2;
const PAGE = 4096;
/** Entries of each queue: submission entries fill a page. */
const ENTRIES = 64;
/** The admin queues, the I/O queues, and a page for data of admin commands. */
const PAGES = 5;
/** A completion entry: its last word has the command identifier, the phase bit 16 and the status. */
const CQE_BYTES = 16;
const CQE_STATUS = 12;
const POLL_NS = 100_000;
const COMMAND_NS = 10e9;
const TIMEOUT_UNIT_NS = 500e6;
const ABSENT = 0xffff_ffff;

/** Words of a submission entry; the driver gives the command identifier. */
export interface NvmeCommand {
  readonly opcode: number;
  readonly nsid?: number;
  readonly prp1?: number;
  readonly prp2?: number;
  readonly cdw10?: number;
  readonly cdw11?: number;
  readonly cdw12?: number;
}

export interface NvmeCompletion {
  /** SCT in [10:8], SC in [7:0]. */
  readonly status: number;
  readonly dw0: number;
}

interface QueuePair {
  readonly id: number;
  readonly sq: number;
  readonly cq: number;
  tail: number;
  head: number;
  phase: number;
}

export class NvmeDevice implements BoundDriver {
  readonly name = 'nvme';
  readonly sbdf: Sbdf;
  /** Of namespace 1. */
  blocks = 0;
  blockBytes = 512;
  modelNumber = '';
  /** Interrupts counted at the handler. */
  interrupts = 0;
  readonly #fn: PciFunction;
  readonly #kit: DriverKit;
  readonly #base: number;
  readonly #lock = new Lock('nvme group');
  readonly #arrived = new Changes();
  #memory = -1;
  #admin: QueuePair = pairAt(0, 0, 0);
  #io: QueuePair = pairAt(1, 0, 0);
  #vectors: IrqVectors | undefined;
  /** Masked in INTMS, till entries were taken. */
  #masked = false;
  /** Entries were taken since the last interrupt, which may have been for them. */
  #tookSince = false;
  #gone = false;

  constructor(fn: PciFunction, kit: DriverKit, base: number) {
    this.sbdf = fn.sbdf;
    this.#fn = fn;
    this.#kit = kit;
    this.#base = base;
  }

  get vectors(): number {
    return this.#vectors?.count ?? 0;
  }

  get irqs(): IrqKind {
    return this.#vectors?.kind ?? 'none';
  }

  *start(): Op<void> {
    const { cpu, pages } = this.#kit;
    const toNs = get(NVME_CAP_LO.TO, asWord(NVME_CAP_LO, yield* this.#read(NVME_CAP_LO.offset))) * TIMEOUT_UNIT_NS;
    yield* this.#setEnabled(false, toNs);
    const memory = yield* pages.allocate(PAGES * PAGE);
    this.#memory = memory;
    this.#admin = pairAt(0, memory, memory + PAGE);
    this.#io = pairAt(1, memory + 2 * PAGE, memory + 3 * PAGE);
    yield* cpu.batch([
      write32Op(this.#base + NVME_AQA.offset, wordWith(NVME_AQA, { ASQS: ENTRIES - 1, ACQS: ENTRIES - 1 })),
      ...pairOps(this.#base + NVME_ASQ_LO.offset, this.#admin.sq),
      ...pairOps(this.#base + NVME_ACQ_LO.offset, this.#admin.cq),
    ]);
    yield* this.#setEnabled(true, toNs);
    this.#vectors = yield* enableIrqs(this.#fn, 2, this.#kit, {
      onVector: () => this.#count(),
      onLine: () => this.#onLine(),
    });
    const count = this.vectors;
    yield* this.#identify();
    const { SET_FEATURES, CREATE_IO_CQ, CREATE_IO_SQ } = NVME_ADMIN;
    yield* this.#adminCommand({ opcode: SET_FEATURES, cdw10: NVME_FEATURE.NUMBER_OF_QUEUES });
    const size = ((ENTRIES - 1) << 16) | this.#io.id;
    const vector = (count > 1 ? 1 << 16 : 0) | NVME_QUEUE_IEN | NVME_QUEUE_PC;
    yield* this.#adminCommand({ opcode: CREATE_IO_CQ, prp1: this.#io.cq, cdw10: size, cdw11: vector });
    const cqid = (this.#io.id << 16) | NVME_QUEUE_PC;
    yield* this.#adminCommand({ opcode: CREATE_IO_SQ, prp1: this.#io.sq, cdw10: size, cdw11: cqid });
  }

  *remove(): Op<void> {
    this.#gone = true;
    this.#arrived.note();
    try {
      yield* this.#setEnabled(false, TIMEOUT_UNIT_NS);
    } catch (error) {
      if (!(error instanceof BusAbort || error instanceof DriverError)) throw error;
      this.#kit.trace('nvme-gone', { sbdf: formatSbdf(this.sbdf), error: error.message });
    }
    const vectors = this.#vectors;
    this.#vectors = undefined;
    // The table can only be masked while the function decodes memory.
    if (vectors !== undefined) yield* vectors.disable();
    yield* disableFunction(this.#kit.config, this.sbdf);
    // Without bus mastering nothing of the queues is touched any more.
    if (this.#memory >= 0) this.#kit.pages.free(this.#memory, PAGES * PAGE);
    this.#memory = -1;
  }

  inspect(): unknown {
    const { modelNumber, blocks, blockBytes, vectors, irqs, interrupts } = this;
    return { modelNumber, blocks, blockBytes, vectors, irqs, interrupts };
  }

  #count(): void {
    this.interrupts++;
    this.#arrived.note();
  }

  /** The controller has no register that says so: the cause is an entry that nobody took. */
  *#onLine(): Op<boolean> {
    if (this.#gone || this.#masked || this.#memory < 0) return false;
    const { cpu } = this.#kit;
    const heads = yield* cpu.batch(
      [this.#admin, this.#io].map((queue) => readOp(queue.cq + queue.head * CQE_BYTES + CQE_STATUS, 4)),
    );
    const phases = [this.#admin.phase, this.#io.phase];
    const waits = heads.some((bytes, i) => ((word(bytes) >>> 16) & 1) === phases[i]);
    const handled = waits || this.#tookSince;
    this.#tookSince = false;
    if (!waits) return handled;
    this.#masked = true;
    try {
      yield* cpu.write32(this.#base + NVME_INTMS.offset, 1);
    } catch (error) {
      if (error instanceof BusAbort) return false;
      throw error;
    }
    this.#count();
    return true;
  }

  /** The accesses that unmask the line, when it is masked. */
  #unmask() {
    if (!this.#masked) return [];
    this.#masked = false;
    return [write32Op(this.#base + NVME_INTMC.offset, 1)];
  }

  /** I/O commands, in one group of at most ENTRIES - 1. Completions are in the order of the commands. */
  io(commands: readonly NvmeCommand[]): Op<NvmeCompletion[]> {
    return withLock(this.#lock, () => this.#group(this.#io, commands));
  }

  flush(): Op<NvmeCompletion[]> {
    return this.io([{ opcode: NVME_IO.FLUSH, nsid: 1 }]);
  }

  *#identify(): Op<void> {
    const page = this.#memory + 4 * PAGE;
    const { IDENTIFY } = NVME_ADMIN;
    yield* this.#adminCommand({ opcode: IDENTIFY, prp1: page, cdw10: NVME_CNS.CONTROLLER });
    const controller = yield* this.#kit.cpu.read(page, PAGE);
    this.modelNumber = String.fromCharCode(...controller.subarray(NVME_ID_CTRL.MN, NVME_ID_CTRL.MN + 40)).trim();
    yield* this.#adminCommand({ opcode: IDENTIFY, nsid: 1, prp1: page, cdw10: NVME_CNS.NAMESPACE });
    const bytes = yield* this.#kit.cpu.read(page, PAGE);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    this.blocks = view.getUint32(NVME_ID_NS.NSZE, true) + view.getUint32(NVME_ID_NS.NSZE + 4, true) * 2 ** 32;
    const format = view.getUint8(NVME_ID_NS.FLBAS) & 0xf;
    this.blockBytes = 2 ** view.getUint8(NVME_ID_NS.LBAF + 4 * format + 2);
  }

  /** Throws DriverError when the command fails. */
  *#adminCommand(command: NvmeCommand): Op<number> {
    const [done] = yield* this.#group(this.#admin, [command]);
    if (done === undefined || done.status !== 0)
      throw new DriverError(
        `${formatSbdf(this.sbdf)}: admin command ${command.opcode} ended with 0x${done?.status.toString(16)}`,
      );
    return done.dw0;
  }

  *#group(queue: QueuePair, commands: readonly NvmeCommand[]): Op<NvmeCompletion[]> {
    if (commands.length >= ENTRIES) throw new DriverError(`${commands.length} commands do not fit into a queue`);
    const ops = commands.map((command, cid) => {
      const op = writeOp(queue.sq + queue.tail * 64, entryOf(command, cid));
      queue.tail = (queue.tail + 1) % ENTRIES;
      return op;
    });
    yield* this.#kit.cpu.batch([...ops, ...this.#unmask(), write32Op(this.#base + nvmeSqTail(queue.id), queue.tail)]);
    const done: NvmeCompletion[] = [];
    for (let left = commands.length, waitedNs = 0; left > 0; ) {
      const seen = this.#arrived.count;
      const taken = yield* this.#take(queue, done);
      left -= taken;
      if (taken > 0 || left === 0) continue;
      if (this.#gone) throw new DriverError(`${formatSbdf(this.sbdf)} is gone`);
      if (waitedNs >= COMMAND_NS) throw new TimedOut(`${formatSbdf(this.sbdf)}: ${left} commands stay away`);
      waitedNs += yield* this.#pause(seen, COMMAND_NS - waitedNs);
    }
    return done;
  }

  /** Waits for an interrupt, or a moment when there are none. Gives what of the patience is used up. */
  *#pause(seen: number, patienceNs: number): Op<number> {
    if (this.#vectors === undefined) {
      yield* sleep(POLL_NS);
      return POLL_NS;
    }
    try {
      yield* this.#arrived.since(seen, patienceNs);
      return 0;
    } catch (error) {
      if (error instanceof TimedOut) return patienceNs;
      throw error;
    }
  }

  /** Takes the completions that are there. Gives their number. */
  *#take(queue: QueuePair, into: NvmeCompletion[]): Op<number> {
    const bytes = yield* this.#kit.cpu.read(queue.cq, ENTRIES * CQE_BYTES);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    let taken = 0;
    for (;;) {
      const at = queue.head * CQE_BYTES;
      const last = view.getUint32(at + CQE_STATUS, true);
      if (((last >>> 16) & 1) !== queue.phase) break;
      into[last & 0xffff] = { status: (last >>> 17) & NVME_STATUS_CODE_MASK, dw0: view.getUint32(at, true) };
      taken++;
      queue.head = (queue.head + 1) % ENTRIES;
      if (queue.head === 0) queue.phase ^= 1;
    }
    if (taken > 0) {
      this.#tookSince = true;
      yield* this.#kit.cpu.batch([write32Op(this.#base + nvmeCqHead(queue.id), queue.head), ...this.#unmask()]);
    }
    return taken;
  }

  /** Sets CC.EN and waits for CSTS.RDY to follow. Throws DriverError when it does not, or the controller fails. */
  *#setEnabled(on: boolean, ns: number): Op<void> {
    const cc = on ? wordWith(NVME_CC, { EN: 1, IOSQES: 6, IOCQES: 4 }) : 0;
    yield* this.#kit.cpu.write32(this.#base + NVME_CC.offset, cc);
    for (let waitedNs = 0; waitedNs <= ns; waitedNs += POLL_NS) {
      const csts = asWord(NVME_CSTS, yield* this.#read(NVME_CSTS.offset));
      if (csts === ABSENT) throw new DriverError(`${formatSbdf(this.sbdf)} is gone`);
      if (on && get(NVME_CSTS.CFS, csts) === 1) throw new DriverError(`${formatSbdf(this.sbdf)}: fatal status`);
      if (get(NVME_CSTS.RDY, csts) === (on ? 1 : 0)) return;
      yield* sleep(POLL_NS);
    }
    throw new DriverError(`${formatSbdf(this.sbdf)} does not become ${on ? 'ready' : 'idle'}`);
  }

  #read(offset: number): Op<number> {
    return this.#kit.cpu.read32(this.#base + offset);
  }
}

export const nvmeDriver: Driver = {
  name: 'nvme',
  *probe(fn, kit) {
    const bar = fn.bars.find((b) => b.index === 0 && b.kind !== 'io');
    if (fn.classCode !== CLASS_NVM || bar === undefined) return undefined;
    if ((yield* kit.config.read(fn.sbdf, PCI.CLASS_PROG, 1)) !== PROGRAMMING_INTERFACE) return undefined;
    yield* enableFunction(kit.config, fn.sbdf);
    const device = new NvmeDevice(fn, kit, bar.address);
    try {
      // A function may have the class and something else behind its BAR.
      const css = get(NVME_CAP_HI.CSS, asWord(NVME_CAP_HI, yield* kit.cpu.read32(bar.address + NVME_CAP_HI.offset)));
      const vs = asWord(NVME_VS, yield* kit.cpu.read32(bar.address + NVME_VS.offset));
      if ((css & 1) === 0 || get(NVME_VS.MJR, vs) === 0) {
        yield* disableFunction(kit.config, fn.sbdf);
        return undefined;
      }
      yield* device.start();
    } catch (error) {
      yield* device.remove();
      throw error;
    }
    return device;
  },
};

function pairAt(id: number, sq: number, cq: number): QueuePair {
  return { id, sq, cq, tail: 0, head: 0, phase: 1 };
}

function entryOf(command: NvmeCommand, cid: number): Uint8Array {
  const words = new Uint32Array(16);
  words[NVME_SQE.CDW0] = command.opcode | (cid << 16);
  words[NVME_SQE.NSID] = command.nsid ?? 0;
  for (const [at, prp] of [
    [NVME_SQE.PRP1, command.prp1 ?? 0],
    [NVME_SQE.PRP2, command.prp2 ?? 0],
  ] as const) {
    words[at] = prp >>> 0;
    words[at + 1] = Math.floor(prp / 0x1_0000_0000);
  }
  words[NVME_SQE.CDW10] = command.cdw10 ?? 0;
  words[NVME_SQE.CDW11] = command.cdw11 ?? 0;
  words[NVME_SQE.CDW12] = command.cdw12 ?? 0;
  return new Uint8Array(words.buffer);
}

function pairOps(ipa: number, value: number) {
  return [write32Op(ipa, value >>> 0), write32Op(ipa + 4, Math.floor(value / 0x1_0000_0000))];
}
