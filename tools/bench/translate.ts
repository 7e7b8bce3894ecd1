/**
 * How fast the translation core is: walks, TLB, SMMU, ITS and the whole way of a message, each against the same in C
 * (test/bench/translate.c) in the same run. A round runs ours and the reference's one after the other; reported are the
 * medians, and the median of the rounds' ratios. Times are CPU times, so that other work on the machine counts less.
 */
import type { LpiSink } from '../../services/hardware/gic/its/translate.ts';
import { raiseEvent } from '../../services/hardware/gic/its/translate.ts';
import { type Stage2Regime, type Stage2Walker, walkStage2 } from '../../services/hardware/mmu/stage2.ts';
import { type Tlb, type TlbTag, tlbHit } from '../../services/hardware/mmu/tlb.ts';
import { type Translator, translate } from '../../services/hardware/smmu/v3/translate.ts';
import {
  type BenchMachine,
  benchMachine,
  DOORBELL_IOVA,
  FIRST_DEVICE,
  IPA_HIGH,
  ONE_STREAM,
  STREAM,
} from './machine.ts';
import { Reference } from './reference.ts';

/** Operations that a call of a test's function does. */
const BLOCK = 2048;

export interface Row {
  readonly name: string;
  /** Operations per second of CPU time. */
  readonly ours: number;
  /** The same of the reference; absent without a C compiler. */
  readonly reference?: number;
  readonly ratio?: number;
  /** JavaScript heap that an operation leaves behind, in bytes. */
  readonly heapBytesPerOperation: number;
}

export interface TranslateOptions {
  readonly rounds: number;
}

interface Bench {
  readonly name: string;
  /** The reference's name for it. */
  readonly test: string;
  readonly loops: number;
  /** Runs the first BLOCK operations. */
  begin(): void;
  /** Runs STREAM operations; returns the sum over the results. */
  run(): number;
  /** Puts back in the caches what a run took out. */
  warm(): void;
}

/** Runs everything; throws when a sum is not the reference's. */
export async function benchTranslate({ rounds }: TranslateOptions): Promise<Row[]> {
  const machine = benchMachine();
  const benches = benchesOf(machine);
  // A little of each in turn first: what they have in common is compiled once it has been seen in all its uses.
  for (let i = 0; i < 4; i++) for (const bench of benches) bench.begin();
  for (let i = 0; i < 8; i++) for (const bench of benches) repeat(bench, 2);
  const reference = await Reference.start('translate');
  const results = benches.map((bench) => ({ bench, ours: [] as number[], theirs: [] as number[], heap: Infinity }));
  try {
    for (let round = 0; round < rounds; round++) {
      for (const result of results) {
        const { bench } = result;
        const their = await reference?.run(bench.test, bench.loops);
        const our = measure(bench);
        if (their !== undefined && their.sum !== our.sum) {
          throw new Error(`${bench.name}: the sum is ${our.sum} and the reference's is ${their.sum}`);
        }
        result.ours.push(our.rate);
        result.heap = Math.min(result.heap, our.heapBytes);
        if (their !== undefined) result.theirs.push(their.rate);
      }
    }
  } finally {
    reference?.stop();
  }
  return results.map(({ bench, ours, theirs, heap }) => ({
    name: bench.name,
    ours: median(ours),
    ...(theirs.length === 0
      ? {}
      : { reference: median(theirs), ratio: median(ours.map((rate, i) => rate / theirs[i]!)) }),
    heapBytesPerOperation: heap,
  }));
}

function measure(bench: Bench): { sum: number; rate: number; heapBytes: number } {
  const heap = process.memoryUsage().heapUsed;
  const before = cpuSeconds();
  const sum = repeat(bench, bench.loops);
  const seconds = cpuSeconds() - before;
  const grown = process.memoryUsage().heapUsed - heap;
  bench.warm();
  const operations = STREAM * bench.loops;
  return { sum, rate: operations / seconds, heapBytes: Math.max(0, grown) / operations };
}

function repeat(bench: Bench, loops: number): number {
  let sum = 0;
  for (let i = 0; i < loops; i++) sum = (Math.imul(sum, 31) + bench.run()) | 0;
  return sum >>> 0;
}

/** Of this thread alone: the compiler and the collector have their own. */
function cpuSeconds(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1e6;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

function benchesOf(m: BenchMachine): Bench[] {
  return testsOf(m).map(({ block, ...test }) => ({
    ...test,
    begin: () => block(0, BLOCK, 0),
    run: () => inBlocks(block),
    warm: m.warm,
  }));
}

interface Test extends Omit<Bench, 'begin' | 'run' | 'warm'> {
  /** Runs the operations [from, end) of the streams; returns `sum` with their results mixed in. */
  block(from: number, end: number, sum: number): number;
}

/** A loop of its own for each test would stay in the code that was compiled in the middle of it, which is not what runs later. */
function inBlocks(block: Test['block']): number {
  let sum = 0;
  for (let from = 0; from < STREAM; from += BLOCK) sum = block(from, from + BLOCK, sum);
  return sum;
}

function testsOf(m: BenchMachine): Test[] {
  const { walker, regimes, tlb, tag, streams } = m;
  const { translator } = m.smmu;
  const { anyPage, hotPage, sparse, streamIds } = streams;
  const one = new Int32Array(STREAM).fill(ONE_STREAM);
  return [
    {
      name: 'stage-2 walk, random pages of 1 GiB',
      test: 'walk',
      loops: 8,
      block: (from, end, sum) => walks(walker, regimes.near, anyPage, from, end, sum),
    },
    {
      name: 'stage-2 walk, 512 pages over 1 GiB',
      test: 'walk-1gib',
      loops: 8,
      block: (from, end, sum) => sparseWalks(walker, regimes.gib, sparse, 512, from, end, sum),
    },
    {
      name: 'stage-2 walk, 512 pages over 1 TiB, tables all over 1 TiB',
      test: 'walk-1tib',
      loops: 8,
      block: (from, end, sum) => sparseWalks(walker, regimes.tib, sparse, 512 * 1024, from, end, sum),
    },
    {
      name: 'TLB hit',
      test: 'tlb-hit',
      loops: 64,
      block: (from, end, sum) => lookups(tlb, tag, hotPage, from, end, sum),
    },
    {
      name: 'SMMU translation, TLB hit, 1 function',
      test: 'smmu-hit',
      loops: 32,
      block: (from, end, sum) => translations(translator, one, hotPage, from, end, sum),
    },
    {
      name: 'SMMU translation, TLB hit, 4096 functions',
      test: 'smmu-hit-4096',
      loops: 32,
      block: (from, end, sum) => translations(translator, streamIds, hotPage, from, end, sum),
    },
    {
      name: 'SMMU translation, TLB miss, random pages of 1 GiB',
      test: 'smmu-miss',
      loops: 8,
      block: (from, end, sum) => translations(translator, one, anyPage, from, end, sum),
    },
    { name: 'ITS translation', test: 'its', loops: 64, block: events(m) },
    {
      name: 'message: device, SMMU, ITS, LPI pending and taken',
      test: 'msi',
      loops: 8,
      block: deliveries(m),
    },
  ];
}

/** Every result at its place counts. Adding would overflow into floating point, and that would be measured. */
function mix(sum: number, value: number): number {
  return ((sum << 1) | (sum >>> 31)) ^ value;
}

// What is measured: a loop each, over addresses of IPA_HIGH and a page number. What is imported or outside the function is
// loaded and checked at each use, so that it is taken out of the loop; `| 0` and `+` say what type it has.

function walks(w: Stage2Walker, r: Stage2Regime, pages: Int32Array, from: number, end: number, before: number): number {
  const walk = walkStage2;
  const ipaHigh = IPA_HIGH | 0;
  let sum = before | 0;
  for (let i = from | 0; i < end; i++) {
    const high = walk(w, r, ipaHigh, (pages[i]! << 12) | (i & 0xfff), 1 + (i & 1));
    sum = mix(sum, high ^ w.paLow);
  }
  return sum;
}

function sparseWalks(
  w: Stage2Walker,
  r: Stage2Regime,
  pages: Int32Array,
  step: number,
  from: number,
  end: number,
  before: number,
): number {
  const walk = walkStage2;
  const ipaHigh = IPA_HIGH | 0;
  let sum = before | 0;
  for (let i = from | 0; i < end; i++) {
    const page = pages[i]! * step;
    const high = walk(w, r, ipaHigh + (page >>> 20), (page << 12) | (i & 0xfff), 1 + (i & 1));
    sum = mix(sum, high ^ w.paLow);
  }
  return sum;
}

function lookups(t: Tlb, tag: TlbTag, pages: Int32Array, from: number, end: number, before: number): number {
  const hit = tlbHit;
  const ipaHigh = IPA_HIGH | 0;
  let sum = before | 0;
  for (let i = from | 0; i < end; i++) {
    const high = hit(t, tag, ipaHigh, (pages[i]! << 12) | (i & 0xfff), 1 + (i & 1));
    sum = mix(sum, high ^ t.paLow);
  }
  return sum;
}

function translations(
  t: Translator,
  streamIds: Int32Array,
  pages: Int32Array,
  from: number,
  end: number,
  before: number,
): number {
  const { tlb } = t;
  const translateOne = translate;
  const ipaHigh = IPA_HIGH | 0;
  let sum = before | 0;
  for (let i = from | 0; i < end; i++) {
    const high = translateOne(t, streamIds[i]!, -1, ipaHigh, (pages[i]! << 12) | (i & 0xfff), 1 + (i & 1));
    sum = mix(sum, high ^ tlb.paLow);
  }
  return sum;
}

/** Takes what the ITS raises and keeps nothing. */
class Sum implements LpiSink {
  readonly idBits = 16;
  sum = 0;
  hasProcessor(processorNumber: number): boolean {
    return processorNumber < 16;
  }
  processorAtFrame(): number {
    return -1;
  }
  setLpiPending(processorNumber: number, lpi: number): boolean {
    this.sum = mix(this.sum, processorNumber ^ lpi);
    return true;
  }
  clearLpiPending(): boolean {
    return false;
  }
  invalidateLpi(): void {}
  invalidateAllLpis(): void {}
  moveAllLpis(): void {}
}

function events(m: BenchMachine): Test['block'] {
  const { messages } = m.streams;
  const sink = new Sum();
  // Not a constant: the compiler would know then what is called for an event that is not cached, and inline it.
  const all = [m.tables];
  return (from, end, before) => {
    const raise = raiseEvent;
    const tables = all[0]!;
    sink.sum = before;
    for (let i = from | 0; i < end; i++) {
      const message = messages[i]!;
      raise(tables, sink, message >>> 16, message & 0xffff);
    }
    return sink.sum;
  };
}

function deliveries({ smmu, gic, requesters, streams: { messages } }: BenchMachine): Test['block'] {
  const data = new Uint8Array(4);
  return (from, end, before) => {
    const doorbell = +DOORBELL_IOVA;
    const first = FIRST_DEVICE | 0;
    let sum = before | 0;
    for (let i = from | 0; i < end; i++) {
      const message = messages[i]!;
      const k = (message >>> 16) - first;
      const eventId = message & 0xffff;
      data[0] = eventId;
      const done = smmu.dmaWrite(requesters[k]!, doorbell, data);
      const lpi = 8192 + k * 32 + eventId;
      sum = mix(sum, gic.clearLpiPending(lpi & 15, lpi) ? lpi ^ done : 1);
    }
    return sum;
  };
}
