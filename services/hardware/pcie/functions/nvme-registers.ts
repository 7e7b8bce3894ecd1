/**
 * Registers of an NVMe controller below the doorbells, and the handshakes of CC with CSTS: enable, disable, shutdown,
 * fatal status (NVM Express 1.4, "Controller Registers", "Controller Initialization", "Shutdown").
 * An enable with queues, page size, command set or arbitration that the controller does not have ends in CSTS.CFS, and
 * RDY stays 0 until the host disables the controller.
 * A shutdown is complete when all that was written is on its media; when it cannot get there CSTS.CFS says so instead.
 * Not modelled: NVM subsystem reset (CAP.NSSRS = 0; NSSR reads 0 and drops writes), controller memory buffer, persistent
 * memory region and boot partitions (all announced as absent).
 */
import {
  NVME_ACQ_HI,
  NVME_ACQ_LO,
  NVME_AQA,
  NVME_ASQ_HI,
  NVME_ASQ_LO,
  NVME_CAP_HI,
  NVME_CAP_LO,
  NVME_CC,
  NVME_CSTS,
  NVME_INTMC,
  NVME_INTMS,
  NVME_REGISTER_BYTES,
  NVME_REGISTERS,
  NVME_SHN,
  NVME_SHST,
} from '#shared/arch/nvme.ts';
import { RegBank } from '#shared/regs/bank.ts';
import { get, put, type Word, wordWith } from '#shared/regs/field.ts';
import type { Scheduler } from '../../bus/transaction.ts';
import { type SavedTimer, Timer } from './timer.ts';

/** Entries of an I/O queue at most, less one (CAP.MQES). */
export const NVME_MQES = 1023;
/** CAP.TO, in units of 500 ms. */
const TIMEOUT_UNITS = 4;
/** CAP.MPSMIN and MPSMAX: 4 KiB to 64 KiB. */
const MPSMAX = 4;
/** From CC.EN = 1 to CSTS.RDY = 1, and from CC.SHN to CSTS.SHST = complete. */
const READY_NS = 1e6;
const SHUTDOWN_NS = 500e3;

/** What the controller does when its state changes. */
export interface ControllerState {
  /** The admin queues are as AQA, ASQ and ACQ say. */
  enabled(pageBytes: number): void;
  /** Queues and commands are gone at once: CC.EN fell. */
  disabled(): void;
  /** Nothing is fetched or completed from now on until a reset. */
  stopped(): void;
  /** Calls `done` when all that was written is on its media, or cannot get there. */
  settle(done: (ok: boolean) => void): void;
}

export interface InterruptMask {
  readonly mask: number;
  setMask(bits: number): void;
  clearMask(bits: number): void;
}

export class NvmeRegisters {
  readonly #bank: RegBank;
  readonly #state: ControllerState;
  readonly #ready: Timer;
  readonly #shutdown: Timer;
  /** Changes with everything that ends a shutdown before it is complete. */
  #round = 0;

  constructor(state: ControllerState, interrupts: InterruptMask, scheduler: Scheduler) {
    this.#state = state;
    this.#ready = new Timer(scheduler, () => this.#becomeReady());
    this.#shutdown = new Timer(scheduler, () => this.#settle());
    this.#bank = new RegBank(NVME_REGISTER_BYTES, NVME_REGISTERS)
      .onRead(NVME_INTMS, () => interrupts.mask)
      .onRead(NVME_INTMC, () => interrupts.mask)
      .onWrite(NVME_INTMS, (_now, _before, value) => interrupts.setMask(value))
      .onWrite(NVME_INTMC, (_now, _before, value) => interrupts.clearMask(value))
      .onWrite(NVME_CC, (now, before) => this.#onCc(now, before));
    this.reset();
  }

  /** The controller takes commands. */
  get running(): boolean {
    const csts = this.#bank.peek(NVME_CSTS);
    return get(NVME_CSTS.RDY, csts) === 1 && get(NVME_CSTS.CFS, csts) === 0 && get(NVME_CSTS.SHST, csts) === 0;
  }

  /** Memory page size of CC.MPS, in bytes. */
  get pageBytes(): number {
    return 2 ** (12 + get(NVME_CC.MPS, this.#bank.peek(NVME_CC)));
  }

  /** log2 of the entry sizes that the host wants for I/O queues. */
  get ioEntrySizes(): { readonly submission: number; readonly completion: number } {
    const cc = this.#bank.peek(NVME_CC);
    return { submission: get(NVME_CC.IOSQES, cc), completion: get(NVME_CC.IOCQES, cc) };
  }

  /** The admin queues: addresses, and sizes in entries. */
  get adminQueues(): { sqBase: number; sqEntries: number; cqBase: number; cqEntries: number } {
    const aqa = this.#bank.peek(NVME_AQA);
    return {
      sqBase: this.#bank.peek(NVME_ASQ_HI) * 2 ** 32 + this.#bank.peek(NVME_ASQ_LO),
      sqEntries: get(NVME_AQA.ASQS, aqa) + 1,
      cqBase: this.#bank.peek(NVME_ACQ_HI) * 2 ** 32 + this.#bank.peek(NVME_ACQ_LO),
      cqEntries: get(NVME_AQA.ACQS, aqa) + 1,
    };
  }

  /** Aligned; below the doorbells. */
  read(offset: number): number {
    return this.#bank.read(offset);
  }

  write(offset: number, value: number): void {
    this.#bank.write(offset, value);
  }

  /** A conventional or function level reset. */
  reset(): void {
    this.#round++;
    this.#ready.cancel();
    this.#shutdown.cancel();
    this.#bank.reset();
    this.#bank.poke(NVME_CAP_LO, wordWith(NVME_CAP_LO, { MQES: NVME_MQES, CQR: 1, TO: TIMEOUT_UNITS }));
    this.#bank.poke(NVME_CAP_HI, wordWith(NVME_CAP_HI, { CSS: 1, MPSMAX }));
  }

  /** The controller cannot go on: CSTS.CFS, until the host resets it. */
  fail(): void {
    this.#setStatus({ CFS: 1 });
    this.#state.stopped();
  }

  save(): unknown {
    return {
      words: NVME_REGISTERS.map((register) => this.#bank.peek(register)),
      ready: this.#ready.save(),
      shutdown: this.#shutdown.save(),
    };
  }

  /** After the namespaces: a shutdown that waits for their media waits again. */
  load(state: unknown): void {
    const saved = state as { words: number[]; ready: SavedTimer; shutdown: SavedTimer };
    for (const [i, register] of NVME_REGISTERS.entries()) this.#bank.poke(register, saved.words[i]!);
    this.#round++;
    this.#ready.load(saved.ready);
    this.#shutdown.load(saved.shutdown);
    const csts = this.#bank.peek(NVME_CSTS);
    const isSettling = get(NVME_CSTS.SHST, csts) === NVME_SHST.OCCURRING && get(NVME_CSTS.CFS, csts) === 0;
    if (isSettling && !saved.shutdown.armed) this.#settle();
  }

  inspect(): unknown {
    const csts = this.#bank.peek(NVME_CSTS);
    return {
      cc: this.#bank.peek(NVME_CC),
      ready: get(NVME_CSTS.RDY, csts) === 1,
      fatal: get(NVME_CSTS.CFS, csts) === 1,
      shutdown: get(NVME_CSTS.SHST, csts),
    };
  }

  #onCc(now: Word<'NVME_CC'>, before: Word<'NVME_CC'>): void {
    const wasOn = get(NVME_CC.EN, before) === 1;
    const isOn = get(NVME_CC.EN, now) === 1;
    if (wasOn && isOn) this.#bank.poke(NVME_CC, keepFixed(now, before));
    if (wasOn && !isOn) this.#disable();
    else if (!wasOn && isOn) this.#enable(now);
    const wanted = get(NVME_CC.SHN, now);
    if (wanted !== NVME_SHN.NONE && wanted !== get(NVME_CC.SHN, before)) this.#shutDown(isOn);
  }

  #enable(cc: Word<'NVME_CC'>): void {
    if (this.#acceptable(cc)) this.#ready.arm(READY_NS);
    else this.fail();
  }

  /** A controller reset: CSTS goes back, AQA, ASQ and ACQ stay. */
  #disable(): void {
    this.#round++;
    this.#ready.cancel();
    this.#shutdown.cancel();
    this.#bank.poke(NVME_CSTS, 0);
    this.#state.disabled();
  }

  #becomeReady(): void {
    this.#setStatus({ RDY: 1 });
    this.#state.enabled(this.pageBytes);
  }

  /** A shutdown that takes as long as the media do. */
  #settle(): void {
    const round = ++this.#round;
    this.#state.settle((ok) => {
      if (round !== this.#round) return;
      if (ok) this.#setStatus({ SHST: NVME_SHST.COMPLETE });
      else this.fail();
    });
  }

  #shutDown(enabled: boolean): void {
    this.#setStatus({ SHST: NVME_SHST.OCCURRING });
    if (enabled) this.#state.stopped();
    this.#shutdown.arm(SHUTDOWN_NS);
  }

  #acceptable(cc: Word<'NVME_CC'>): boolean {
    const aqa = this.#bank.peek(NVME_AQA);
    const page = 2 ** (12 + get(NVME_CC.MPS, cc));
    const { sqBase, cqBase } = this.adminQueues;
    return (
      get(NVME_CC.CSS, cc) === 0 &&
      get(NVME_CC.AMS, cc) === 0 &&
      get(NVME_CC.MPS, cc) <= MPSMAX &&
      get(NVME_AQA.ASQS, aqa) > 0 &&
      get(NVME_AQA.ACQS, aqa) > 0 &&
      sqBase % page === 0 &&
      cqBase % page === 0
    );
  }

  #setStatus(fields: { readonly RDY?: number; readonly CFS?: number; readonly SHST?: number }): void {
    let csts = this.#bank.peek(NVME_CSTS);
    if (fields.RDY !== undefined) csts = put(NVME_CSTS.RDY, csts, fields.RDY);
    if (fields.CFS !== undefined) csts = put(NVME_CSTS.CFS, csts, fields.CFS);
    if (fields.SHST !== undefined) csts = put(NVME_CSTS.SHST, csts, fields.SHST);
    this.#bank.poke(NVME_CSTS, csts);
  }
}

/** `now` with the fields that hold for as long as the controller is enabled. */
function keepFixed(now: Word<'NVME_CC'>, before: Word<'NVME_CC'>): Word<'NVME_CC'> {
  let kept = now;
  for (const field of [NVME_CC.CSS, NVME_CC.MPS, NVME_CC.AMS]) kept = put(field, kept, get(field, before));
  return kept;
}
