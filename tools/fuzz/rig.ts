/**
 * A machine to be shaken: the bundled QEMU virt board with less RAM (whose end lies inside a chunk), a dma-probe, an NVMe
 * controller and a NIC below three root ports, programmed so far that DMA, messages and interrupts work: what is random
 * then reaches deep. `places` are the addresses that are worth hitting.
 */
import {
  encodeGitsBaser,
  encodeGitsCbaser,
  GITS_BASER,
  GITS_CBASER,
  GITS_CTLR,
  GITS_CWRITER,
} from '#shared/arch/gic/its.ts';
import { encodeMapc, encodeMapd, encodeMapti, itsCommandBytes } from '#shared/arch/gic/its-commands.ts';
import { encodeCfgiAll, encodeSync, encodeTlbiNsnhAll } from '#shared/arch/smmu/v3-queues.ts';
import {
  encodeCd,
  encodeNestedSte,
  encodeStage1Ste,
  encodeStage2Ste,
  STE_BYTES,
} from '#shared/arch/smmu/v3-structures.ts';
import {
  encodeVtcr,
  MEM_ATTR,
  S1_AP,
  S2AP,
  SHAREABILITY,
  writeLeaf,
  writeStage1Leaf,
  writeTable,
} from '#shared/arch/vmsa.ts';
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { assert } from '#shared/core/assert.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { loadBoard } from '../../services/hardware/board/load.ts';
import type { Board } from '../../services/hardware/board.ts';
import { CHUNK_BYTES } from '../../services/hardware/bus/ram.ts';
import type { Scheduler } from '../../services/hardware/bus/transaction.ts';
import { Machine } from '../../services/hardware/machine.ts';
import { Drivers } from './devices.ts';

const BOARD = new URL('../../examples/boards/qemu-virt.yaml', import.meta.url);

export const RAM = 0x4000_0000;
/** 64 MiB and three pages. */
export const RAM_BYTES = 0x400_3000;
export const GICD = 0x0800_0000;
export const GICR = 0x080a_0000;
export const ITS = 0x0808_0000;
export const SMMU = 0x0905_0000;
export const ECAM = 0x40_1000_0000;
export const STREAMS = RAM + 0x180_0000;
export const CMDQ = RAM + 0x190_0000;
const EVENTQ = RAM + 0x190_1000;
export const CDS = RAM + 0x191_0000;
export const S2_ROOT = RAM + 0x100_0000;
export const S1_ROOT = RAM + 0x110_0000;
const PROP = RAM + 0x1a0_0000;
const PEND = RAM + 0x1b0_0000;
const TABLES = RAM + 0x1c0_0000;
export const ITS_QUEUE = TABLES + 0x9_0000;
const ITT = TABLES + 0xa_0000;
/** What devices may reach, by stage 2 at IPA 0x30000. */
const DATA = RAM + 0x200_0000;

/** Configuration spaces: root ports and what is below them. */
export const FUNCTIONS = [
  ECAM + (2 << 15),
  ECAM + (2 << 15) + (1 << 12),
  ECAM + (2 << 15) + (2 << 12),
  ECAM + (1 << 20),
  ECAM + (2 << 20),
  ECAM + (3 << 20),
] as const;
export const PROBE_BAR = 0x1000_0000;
export const BARS = [PROBE_BAR, 0x1004_0000, 0x1020_0000, 0x1020_2000, 0x1040_0000, 0x1040_3000] as const;
export const RIDS = [0x100, 0x200, 0x300] as const;

/** Register blocks that are worth hitting. */
export const BLOCKS = [
  GICD,
  GICD + 0x6000,
  GICR,
  GICR + 0x1_0000,
  GICR + 0x2_0000,
  GICR + 0x3_0000,
  ITS,
  ITS + 0x100,
  ITS + 0x1_0000,
  SMMU,
  SMMU + 0x80,
  SMMU + 0x1_00a0,
  ...FUNCTIONS,
  ...BARS,
] as const;

/** RAM that something reads as a table or a queue. */
export const AREAS = [
  STREAMS + 0x100 * STE_BYTES,
  CMDQ,
  EVENTQ,
  CDS,
  S2_ROOT,
  S2_ROOT + 0x2000,
  S2_ROOT + 0x3000,
  S1_ROOT,
  S1_ROOT + 0x1000,
  S1_ROOT + 0x3000,
  PROP,
  PEND,
  TABLES + 0x100 * 8,
  TABLES + 0x8_0000,
  ITS_QUEUE,
  ITT,
  DATA,
  DATA + 0x1000,
  RAM + RAM_BYTES - 0x100,
] as const;

/** Timers in order of time; one that is due now runs with those that are due later. */
class Clock implements Scheduler {
  now = 0;
  #timers: { readonly at: number; readonly run: () => void }[] = [];

  after(ns: number, run: () => void): void {
    this.#timers.push({ at: this.now + ns, run });
    this.#timers.sort((a, b) => a.at - b.at);
  }

  /** Lets `ns` pass, or as much as `most` timers take. */
  pass(ns: number, most: number): void {
    const end = this.now + ns;
    for (let n = 0; n < most && this.#timers[0] !== undefined && this.#timers[0].at <= end; n++) {
      const timer = this.#timers.shift()!;
      this.now = timer.at;
      timer.run();
    }
    this.now = Math.max(this.now, Math.min(end, this.#timers[0]?.at ?? end));
  }
}

export const le = (value: number, sizeBytes = 4): Uint8Array =>
  Uint8Array.from({ length: sizeBytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);

function isZero(values: ArrayLike<number>): boolean {
  let any = 0;
  for (let i = 0; i < values.length; i++) any |= values[i]!;
  return any === 0;
}

let board: Board | undefined;

function boardOf(): Board {
  const description = readBoard(BOARD.pathname);
  const tree = parseFdt(description.dtb);
  const memory = tree.children.find((node) => node.name.startsWith('memory'));
  assert(memory !== undefined, 'the bundled board has memory');
  memory.setReg({ address: RAM, sizeBytes: RAM_BYTES });
  const models = new Map<number, BoardFunction['model']>([
    [0x200, 'nvme'],
    [0x300, 'nic'],
  ]);
  const functions = description.functions.map((fn) => {
    const model = models.get(fn.sbdf);
    return model === undefined ? fn : { ...fn, model };
  });
  return loadBoard({ ...description, dtb: buildFdt(tree), functions });
}

export class FuzzRig {
  readonly clock = new Clock();
  machine: Machine;
  readonly drivers = new Drivers({
    write32: (pa, value) => void this.machine.bus.write(pa, 4, value >>> 0),
    wait: () => this.clock.pass(1e9, 400),
    data: DATA,
  });
  readonly board: Board;
  constructor() {
    board ??= boardOf();
    this.board = board;
    this.machine = new Machine(board, this.clock, { interruptPending: () => {} });
    this.start();
  }

  write(pa: number, bytes: Uint8Array): void {
    this.machine.bus.writeBytes(pa, bytes, 0, bytes.length);
  }

  /**
   * What a driver does: a command where the queue goes on, by the registers as they are, and the doorbell. A queue that
   * stands at an error is told to go on first, with a CMD_SYNC in the place of what was wrong.
   */
  smmuCommand(words: Uint32Array): void {
    const base = this.#read(SMMU + 0x90);
    const at = ((base & 0xffff_ffe0) >>> 0) + (this.#read(SMMU + 0x94) & 0xffff) * 2 ** 32;
    const mask = 2 ** (base & 15) - 1;
    if (this.#read(SMMU + 0x60) !== this.#read(SMMU + 0x64)) {
      this.write(at + (this.#read(SMMU + 0x9c) & mask) * 16, bytesOf(encodeSync(0)));
      this.write(SMMU + 0x64, le(this.#read(SMMU + 0x60)));
    }
    const prod = this.#read(SMMU + 0x98);
    this.write(at + (prod & mask) * 16, bytesOf(words));
    this.write(SMMU + 0x98, le((prod + 1) & (2 * mask + 1)));
  }

  itsCommand(words: Uint32Array): void {
    const base = this.#read(ITS + GITS_CBASER);
    const at = ((base & 0xffff_f000) >>> 0) + (this.#read(ITS + GITS_CBASER + 4) & 0xffff) * 2 ** 32;
    const writer = this.#read(ITS + GITS_CWRITER);
    this.write(at + writer, itsCommandBytes([words]));
    this.write(ITS + GITS_CWRITER, le((writer + 32) % (((base & 0xff) + 1) * 0x1000)));
  }

  #read(pa: number): number {
    return this.machine.bus.read(pa, 4) ? this.machine.bus.low : 0;
  }

  /** Throws when memory was written that is none: behind the end of RAM, or what stands for pages never written. */
  checkMemory(): void {
    const { ram } = this.machine.bus;
    assert(isZero(ram.words.subarray(0, CHUNK_BYTES / 4)), 'the chunk that is always zero was written');
    const { chunks, bytes } = ram.save();
    for (const [i, chunk] of chunks.entries()) {
      const at = chunk * CHUNK_BYTES;
      assert(at >= RAM && at < RAM + RAM_BYTES, () => `a chunk at 0x${at.toString(16)} is no RAM`);
      const beyond = bytes[i]!.subarray(Math.min(CHUNK_BYTES, RAM + RAM_BYTES - at));
      assert(isZero(beyond), () => `written beyond the end of RAM in chunk 0x${at.toString(16)}`);
    }
  }

  /** Programs everything, on top of whatever is there. */
  start(): void {
    this.write(GICD, le(2));
    this.write(PROP, new Uint8Array(0x1000).fill(0xa3));
    for (const pe of [0, 1]) {
      const frame = GICR + pe * 0x2_0000;
      this.write(frame + 0x70, le(PROP + 15, 8));
      this.write(frame + 0x78, le(PEND + pe * 0x2_0000, 8));
      this.write(frame, le(1));
    }
    for (const cpu of this.machine.gicv3!.cpuInterfaces) {
      cpu.write('ICC_PMR_EL1', 0xf8);
      cpu.write('ICC_IGRPEN1_EL1', 1);
    }
    this.#startIts();
    this.#startTables();
    this.#startSmmu();
    this.#startFunctions();
    this.drivers.start();
  }

  #startIts(): void {
    this.write(ITS + GITS_CTLR, le(0));
    const attributes = { InnerCache: 7, OuterCache: 0, Shareability: 1 };
    const pair = ({ lo, hi }: { lo: number; hi: number }): Uint8Array => Uint8Array.of(...le(lo), ...le(hi));
    const table = { Valid: true, Indirect: false, entryBytes: 8, pageBytes: 0x1_0000, ...attributes };
    const collections = { ...table, Type: 4, pa: TABLES + 0x8_0000, sizeBytes: 0x1_0000 };
    this.write(ITS + GITS_BASER, pair(encodeGitsBaser({ ...table, Type: 1, pa: TABLES, sizeBytes: 0x8_0000 })));
    this.write(ITS + GITS_BASER + 8, pair(encodeGitsBaser(collections)));
    const queue = { Valid: true, pa: ITS_QUEUE, sizeBytes: 0x1000, ...attributes };
    this.write(ITS + GITS_CBASER, pair(encodeGitsCbaser(queue)));
    this.write(ITS + GITS_CWRITER, le(0));
    this.write(ITS + GITS_CTLR, le(1));
    for (const pe of [0, 1]) this.itsCommand(encodeMapc({ icid: pe, rdbase: pe, valid: true }));
    for (const [i, rid] of RIDS.entries()) {
      this.itsCommand(encodeMapd({ deviceId: rid, size: 4, ittAddress: ITT + i * 0x1000, valid: true }));
      for (const eventId of [0, 1, 5])
        this.itsCommand(encodeMapti({ deviceId: rid, eventId, pIntid: 8192 + i * 8 + eventId, icid: i & 1 }));
    }
  }

  #startTables(): void {
    const put = (at: number, make: (words: Uint32Array) => void): void => {
      const words = new Uint32Array(2);
      make(words);
      this.write(at, bytesOf(words));
    };
    const leaf = { s2ap: S2AP.readWrite, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: true };
    const s1 = { ap: S1_AP.readWrite, attrIndx: 1, sh: SHAREABILITY.inner, notGlobal: true };
    put(S2_ROOT, (w) => writeTable(w, 0, S2_ROOT + 0x2000));
    put(S2_ROOT + 8, (w) => writeLeaf(w, 0, 1, RAM, leaf));
    put(S2_ROOT + 0x2000, (w) => writeTable(w, 0, S2_ROOT + 0x3000));
    // The doorbell where stage 1 of the nested stream leads, beside the place that stage 2 alone gives it.
    put(S2_ROOT + 0x2000 + 0x40 * 8, (w) => writeTable(w, 0, S2_ROOT + 0x4000));
    put(S2_ROOT + 0x4000 + 0x90 * 8, (w) => writeLeaf(w, 0, 3, ITS + 0x1_0000, leaf));
    put(S2_ROOT + 0x3000 + 0x20 * 8, (w) => writeLeaf(w, 0, 3, ITS + 0x1_0000, leaf));
    for (let page = 0; page < 16; page++)
      put(S2_ROOT + 0x3000 + (0x30 + page) * 8, (w) => writeLeaf(w, 0, 3, DATA + page * 0x1000, leaf));
    for (const level of [0, 1, 2])
      put(S1_ROOT + level * 0x1000, (w) => writeTable(w, 0, S1_ROOT + (level + 1) * 0x1000));
    put(S1_ROOT + 0x3000 + 0x20 * 8, (w) => writeStage1Leaf(w, 0, 3, ITS + 0x1_0000, s1));
    for (let page = 0; page < 16; page++)
      put(S1_ROOT + 0x3000 + (0x30 + page) * 8, (w) => writeStage1Leaf(w, 0, 3, DATA + page * 0x1000, s1));
    this.machine
      .port(1)
      .load({ vm: true, vtcr: encodeVtcr({ t0sz: 24, sl0: 1, ps: 5, vmid16: true }), baddr: S2_ROOT, vmid: 9 });
  }

  #startSmmu(): void {
    for (const off of [8, 0]) this.write(SMMU + 0x20, le(off));
    this.write(SMMU + 0x98, le(0));
    this.write(SMMU + 0x9c, le(0));
    this.write(SMMU + 0x64, le(this.#read(SMMU + 0x60)));
    const stage2 = { vmid: 9, t0sz: 24, sl0: 1, ps: 5, ttb: S2_ROOT };
    const entries = [encodeStage2Ste(stage2), encodeStage1Ste(CDS), encodeNestedSte(CDS + 0x40, stage2)];
    for (const [i, rid] of RIDS.entries()) this.write(STREAMS + rid * STE_BYTES, bytesOf(entries[i]!));
    for (const i of [0, 1])
      this.write(CDS + i * 0x40, bytesOf(encodeCd({ asid: 3 + i, t0sz: 16, ips: 5, ttb0: S1_ROOT })));
    this.write(SMMU + 0x80, le(STREAMS, 8));
    this.write(SMMU + 0x88, le(10));
    this.write(SMMU + 0x90, le(CMDQ + 4, 8));
    this.write(SMMU + 0xa0, le(EVENTQ + 3, 8));
    this.write(SMMU + 0x50, le(5));
    this.write(SMMU + 0x20, le(8));
    this.smmuCommand(encodeCfgiAll());
    this.smmuCommand(encodeTlbiNsnhAll());
    this.write(SMMU + 0x20, le(0xd));
  }

  #startFunctions(): void {
    for (const [i, port] of FUNCTIONS.slice(0, 3).entries()) {
      const window = 0x1000 + 0x20 * i;
      this.write(port + 0x18, Uint8Array.of(0, i + 1, i + 1));
      this.write(port + 0x20, le(((window + 0x10) << 16) | window));
      this.write(port + 0x24, le(0xfff0));
      this.write(port + 4, le(6, 2));
      const fn = FUNCTIONS[3 + i]!;
      this.write(fn + 0x10, le(window << 16));
      if (i === 0) this.write(fn + 0x1c, le(0x1004_0000));
      this.write(fn + 4, le(6, 2));
    }
    // MSI-X: e1000e's capability is at a0 with its table in BAR 3, NVMe's at 40 (2000), xHCI's at 90 (3000).
    for (const [i, [table, flags]] of (
      [
        [0x1004_0000, 0xa2],
        [0x1020_2000, 0x42],
        [0x1040_3000, 0x92],
      ] as const
    ).entries()) {
      for (const vector of [0, 1]) {
        this.write(table + vector * 16, le(0x2_0040, 8));
        this.write(table + vector * 16 + 8, le(vector));
        this.write(table + vector * 16 + 12, le(0));
      }
      this.write(FUNCTIONS[3 + i]! + flags, le(0x8000, 2));
    }
  }
}
