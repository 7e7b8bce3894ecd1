/**
 * Random histories on a machine with a GICv2: accesses of every CPU to GICD and GICC, wires that rise and fall, resets, a
 * save and a restore. What GICC_IAR gives is compared with what follows from reading all other registers one by one: the
 * slow and obvious way to say which interrupt a CPU takes.
 */
import fc from 'fast-check';
import {
  GICD_CTLR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_ISACTIVER,
  GICD_ISENABLER,
  GICD_ISPENDR,
  GICD_ITARGETSR,
} from '#shared/arch/gic/distributor.ts';
import {
  GICC_ABPR,
  GICC_AIAR,
  GICC_BPR,
  GICC_CTLR,
  GICC_CTLR_AckCtl,
  GICC_CTLR_CBPR,
  GICC_DIR,
  GICC_EOIR,
  GICC_IAR,
  GICC_IAR_INTID_MASK,
  GICC_PMR,
  GICC_RPR,
} from '#shared/arch/gic/v2.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { assert } from '#shared/core/assert.ts';
import { loadBoard } from '../../services/hardware/board/load.ts';
import type { Board } from '../../services/hardware/board.ts';
import { runEl2Batch } from '../../services/hardware/el2-access.ts';
import { Machine, restoreMachine, saveMachine } from '../../services/hardware/machine.ts';

const BOARD = new URL('../../examples/boards/virt-gicv2.yaml', import.meta.url);
const GICD = 0x0800_0000;
const GICC = 0x0801_0000;
const CPUS = 4;
/** SPIs that most of a history is about, so that their registers meet. */
const SPIS = [32, 33, 40, 63, 64, 511] as const;

export type GicAction =
  | {
      readonly do: 'write';
      readonly pa: number;
      readonly sizeBytes: number;
      readonly value: number;
      readonly cpu: number;
    }
  | { readonly do: 'read'; readonly pa: number; readonly sizeBytes: number; readonly cpu: number }
  | { readonly do: 'take'; readonly alias: boolean; readonly end: boolean; readonly cpu: number }
  | { readonly do: 'line'; readonly intid: number; readonly high: boolean }
  | { readonly do: 'ready' | 'reset' | 'inspect' | 'migrate' };

const cpu = fc.integer({ min: 0, max: CPUS - 1 });
const value = fc.oneof(
  fc.integer({ min: 0, max: 0xffff_ffff }),
  fc.constantFrom(0, 0xffff_ffff, 1, 3, 0x0101_0101, 0x0f0f_0f0f, 0x8040_2010),
  fc.integer({ min: 0, max: 31 }).map((bit) => 2 ** bit),
);
/** Registers of the distributor with the places of the SPIs above in them, and any other offset. */
const gicd = fc
  .oneof(
    {
      weight: 6,
      arbitrary: fc
        .tuple(fc.integer({ min: 1, max: 7 }), fc.constantFrom(0, ...SPIS))
        .map(([row, intid]) => row * 0x80 + 4 * (intid >>> 5)),
    },
    {
      weight: 4,
      arbitrary: fc
        .tuple(fc.constantFrom(GICD_IPRIORITYR, GICD_ITARGETSR), fc.constantFrom(0, 16, ...SPIS))
        .map(([row, intid]) => row + (intid & ~3)),
    },
    { weight: 2, arbitrary: fc.integer({ min: 0xf00 / 4, max: 0xf2c / 4 }).map((word) => word * 4) },
    { weight: 1, arbitrary: fc.constant(GICD_CTLR) },
    { weight: 2, arbitrary: fc.integer({ min: 0, max: 0xffc / 4 }).map((word) => word * 4) },
  )
  .map((offset) => GICD + offset);
const gicc = fc
  .oneof(
    { weight: 6, arbitrary: fc.integer({ min: 0, max: 0x30 / 4 }).map((word) => word * 4) },
    { weight: 1, arbitrary: fc.constant(GICC_DIR) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 0x1ffc / 4 }).map((word) => word * 4) },
  )
  .map((offset) => GICC + offset);
const pa = fc.oneof({ weight: 3, arbitrary: gicd }, { weight: 1, arbitrary: gicc });
const sizeBytes = fc.constantFrom(1, 2, 4, 4, 4, 4, 8);

const action: fc.Arbitrary<GicAction> = fc.oneof(
  { weight: 10, arbitrary: fc.record({ do: fc.constant('write' as const), pa, sizeBytes, value, cpu }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('read' as const), pa, sizeBytes, cpu }) },
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant('take' as const), alias: fc.boolean(), end: fc.boolean(), cpu }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('line' as const),
      intid: fc.oneof(fc.constantFrom(...SPIS), fc.integer({ min: 0, max: 1024 })),
      high: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom<GicAction>({ do: 'ready' }, { do: 'ready' }, { do: 'inspect' }, { do: 'migrate' }),
  },
  { weight: 1, arbitrary: fc.constant<GicAction>({ do: 'reset' }) },
);

export function gicHistories(most: number): fc.Arbitrary<GicAction[]> {
  return fc.array(action, { minLength: 1, maxLength: most, size: 'max' });
}

let board: Board | undefined;

/** Plays one history. Throws when an assertion fails. */
export function playGicHistory(actions: readonly GicAction[]): void {
  const rig = new GicRig();
  for (const one of actions) rig.perform(one);
  JSON.stringify(rig.machine.inspect());
}

class GicRig {
  machine: Machine;
  readonly #board: Board;

  constructor() {
    board ??= loadBoard(readBoard(BOARD.pathname));
    this.#board = board;
    this.machine = new Machine(board, NO_TIME, NO_HOOKS);
    this.#ready();
  }

  perform(a: GicAction): void {
    switch (a.do) {
      case 'write':
        this.#write(a.pa, a.value, a.cpu, a.sizeBytes);
        return;
      case 'read':
        if (a.pa % a.sizeBytes === 0) this.#read(a.pa, a.cpu, a.sizeBytes);
        return;
      case 'take':
        this.#take(a.cpu, a.alias, a.end);
        return;
      case 'line':
        this.machine.gic.setSpiLine(a.intid, a.high);
        return;
      case 'ready':
        this.#ready();
        return;
      case 'reset':
        this.machine.reset();
        return;
      case 'inspect':
        JSON.stringify(this.machine.inspect());
        return;
      default:
        this.#migrate();
    }
  }

  /** Everything enabled, for every CPU, so that what is random then reaches deep. */
  #ready(): void {
    this.#write(GICD + GICD_CTLR, 3, 0);
    for (const spi of SPIS) {
      this.#write(GICD + GICD_ISENABLER + 4 * (spi >>> 5), 2 ** (spi & 31), 0);
      this.#write(GICD + GICD_ITARGETSR + spi, spi & 0xf, 0, 1);
    }
    for (let c = 0; c < CPUS; c++) {
      this.#write(GICD + GICD_ISENABLER, 0xffff_ffff, c);
      this.#write(GICC + GICC_PMR, 0xff, c);
      this.#write(GICC + GICC_CTLR, 7, c);
    }
  }

  /** Acknowledges, and ends what was taken. */
  #take(c: number, alias: boolean, end: boolean): void {
    const expected = this.#expected(c, alias);
    const got = this.#read(GICC + (alias ? GICC_AIAR : GICC_IAR), c) & GICC_IAR_INTID_MASK;
    assert(got === expected, () => `CPU ${c} was given ${got}, and the registers say ${expected}`);
    if (got < 1020) {
      assert(this.#bit(GICD_ISACTIVER, got, c), () => `INTID ${got} was taken and is not active`);
      if (end) this.#write(GICC + GICC_EOIR, got, c);
    }
  }

  /** What GICC_IAR or GICC_AIAR has to give, by the registers that say so. */
  #expected(c: number, alias: boolean): number {
    const ctlr = this.#read(GICC + GICC_CTLR, c);
    const forwarded = this.#read(GICD + GICD_CTLR, c) & ctlr;
    let best = -1;
    let priority = 0x100;
    for (let intid = 0; intid < 512; intid++) {
      const group = this.#bit(GICD_IGROUPR, intid, c) ? 1 : 0;
      const waits = this.#bit(GICD_ISPENDR, intid, c) && !this.#bit(GICD_ISACTIVER, intid, c);
      if (!waits || ((forwarded >>> group) & 1) === 0 || !this.#bit(GICD_ISENABLER, intid, c)) continue;
      if (((this.#read(GICD + GICD_ITARGETSR + intid, c, 1) >>> c) & 1) === 0) continue;
      const its = this.#read(GICD + GICD_IPRIORITYR + intid, c, 1);
      if (its >= priority) continue;
      best = intid;
      priority = its;
    }
    if (best < 0 || priority >= this.#read(GICC + GICC_PMR, c)) return 1023;
    const group = this.#bit(GICD_IGROUPR, best, c) ? 1 : 0;
    const own = group === 1 && (ctlr & GICC_CTLR_CBPR) === 0;
    const shift = own ? this.#read(GICC + GICC_ABPR, c) : this.#read(GICC + GICC_BPR, c) + 1;
    if ((priority & (0xff << shift) & 0xff) >= this.#read(GICC + GICC_RPR, c)) return 1023;
    if (alias) return group === 1 ? best : 1023;
    return group === 0 || (ctlr & GICC_CTLR_AckCtl) !== 0 ? best : 1022;
  }

  #bit(row: number, intid: number, c: number): boolean {
    return ((this.#read(GICD + row + 4 * (intid >>> 5), c) >>> (intid & 31)) & 1) !== 0;
  }

  #read(at: number, c: number, size = 4): number {
    const [result] = runEl2Batch(this.machine, [
      { op: { $case: 'physRead', value: { pa: at, sizeBytes: size, pcpu: c } } },
    ]);
    assert(result!.error === 0, () => `a read of 0x${at.toString(16)} failed`);
    return result!.data.reduceRight((n, byte) => n * 256 + byte, 0);
  }

  #write(at: number, word: number, c: number, size = 4): void {
    const data = Uint8Array.from({ length: size }, (_, i) => (word >>> (8 * (i & 3))) & 0xff);
    runEl2Batch(this.machine, [{ op: { $case: 'physWrite', value: { pa: at, data, pcpu: c, valueFromOp: 0 } } }]);
  }

  /** The machine goes on as a copy of itself, which has to look the same. */
  #migrate(): void {
    const before = JSON.stringify(this.machine.inspect());
    this.machine = restoreMachine(this.#board, saveMachine(this.machine), NO_TIME, NO_HOOKS);
    assert(JSON.stringify(this.machine.inspect()) === before, 'a restored machine differs');
  }
}

const NO_TIME = { after: (): void => {} };
const NO_HOOKS = { interruptPending: (): void => {} };
