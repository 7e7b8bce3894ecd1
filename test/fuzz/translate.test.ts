/**
 * Random page tables under random configurations, both stages and all granules: the SMMU answers as the slow walk of
 * oracle.ts does, from the tables and again from its TLB, and records the same fault.
 */
import { assert, describe, test } from 'vitest';
import { SMMU_EVENTQ_CONS, SMMU_EVENTQ_PROD } from '#shared/arch/smmu/v3.ts';
import { EVENT_CLASS, encodeCfgiAll, encodeTlbiNsnhAll, eventName } from '#shared/arch/smmu/v3-queues.ts';
import { CD, CD_WORDS, STE, STE_CONFIG, STE_WORDS } from '#shared/arch/smmu/v3-structures.ts';
import { stage1StartLevel, stage2Geometry, TG0_SHIFT, TG1_SHIFT } from '#shared/arch/vmsa.ts';
import { Prng } from '#shared/core/prng.ts';
import { bytesOf, storeFields } from '#shared/regs/struct.ts';
import { WANT_READ, WANT_WRITE } from '../../services/hardware/mmu/stage2.ts';
import { NO_SUBSTREAM } from '../../services/hardware/smmu/v3/stream-table.ts';
import { translate } from '../../services/hardware/smmu/v3/translate.ts';
import { LOW_RAM, RAM, smmuRig } from '../unit/hardware/smmu/rig.ts';
import { type Outcome, type Stage, type Tables, translateSlowly } from './oracle.ts';

const SID = 7;
/** Every table lies here, whatever the granule. */
const TABLES_BYTES = 0x10_0000;
/** Of four descriptors, in the last page of the tables. */
const BLOCKS = LOW_RAM + 0xf_f000;
const CONTEXT = RAM + 0x40_0000;
const OUTPUT_BITS = [32, 36, 40, 42, 44, 48] as const;

type Rig = ReturnType<typeof smmuRig>;

/** Fills the tables with descriptors that most often lead somewhere. */
function fill(random: Prng, rig: Rig): void {
  const words = new Uint32Array(TABLES_BYTES / 4);
  for (let i = 0; i < words.length; i += 2) {
    const kind = random.below(20);
    let lo = random.next();
    let hi = random.next();
    if (kind < 12) {
      lo = LOW_RAM + random.below(256) * 0x1000 + (random.next() & 0xff8) + 3;
      hi = random.chance(0.05) ? random.next() & 0x6000_0000 : 0;
    } else if (kind < 18) {
      lo = ((random.next() & 0xffff_f000) | (random.next() & 0xff8) | 0x440 | (random.chance(0.5) ? 3 : 1)) >>> 0;
      hi = random.chance(0.2) ? random.next() & 0xffff : 0;
      if (random.chance(0.1)) lo = (lo & ~0x400) >>> 0;
    }
    words[i] = lo;
    words[i + 1] = hi;
  }
  rig.ram.writeBytes(LOW_RAM, bytesOf(words));
}

function root(random: Prng, tableBytes: number): number {
  const at = LOW_RAM + random.below(256) * 0x1000;
  return at - (at % Math.max(tableBytes, 64));
}

interface Half {
  readonly stage: Stage;
  readonly tsz: number;
  readonly granuleShift: number;
}

function stage1Half(random: Prng, ips: number, accessFlagFaults: boolean): Half {
  const granuleShift = [12, 14, 16][random.below(3)]!;
  const tsz = 16 + random.below(24);
  const startLevel = stage1StartLevel(tsz, granuleShift);
  const firstShift = granuleShift + (3 - startLevel) * (granuleShift - 3);
  const at = root(random, 8 * 2 ** (64 - tsz - firstShift));
  const stage = {
    inputBits: 64 - tsz,
    startLevel,
    granuleShift,
    root: BigInt(at),
    outputBits: OUTPUT_BITS[ips]!,
    accessFlagFaults,
  };
  return { stage, tsz, granuleShift };
}

interface Configuration {
  readonly tables: Tables;
  readonly ste: Uint32Array;
  readonly cd: Uint32Array;
}

function configure(random: Prng, rig: Rig, kind: 's1' | 's2' | 's1s2'): Configuration {
  const ste = new Uint32Array(STE_WORDS);
  const cd = new Uint32Array(CD_WORDS);
  storeFields(ste, 0, STE, { V: 1, Config: STE_CONFIG[kind], S2VMID: random.below(4), S2R: 1 });
  let stage1: Tables['stage1'];
  let stage2: Stage | undefined;
  if (kind !== 's2') {
    const ips = random.below(6);
    const [affd, epd0, epd1] = [random.below(2), random.chance(0.1) ? 1 : 0, random.chance(0.3) ? 1 : 0];
    const [lower, upper] = [stage1Half(random, ips, affd === 0), stage1Half(random, ips, affd === 0)];
    storeFields(cd, 0, CD, {
      V: 1,
      AA64: 1,
      A: 1,
      R: 1,
      IPS: ips,
      AFFD: affd,
      EPD0: epd0,
      EPD1: epd1,
      ASID: random.below(3),
      T0SZ: lower.tsz,
      TG0: TG0_SHIFT.indexOf(lower.granuleShift),
      TTB0: Number(lower.stage.root),
      T1SZ: upper.tsz,
      TG1: TG1_SHIFT.indexOf(upper.granuleShift),
      TTB1: Number(upper.stage.root),
    });
    stage1 = [epd0 === 1 ? undefined : lower.stage, epd1 === 1 ? undefined : upper.stage];
  }
  // Behind stage 1 random tables let next to nothing through: more often it is four blocks of a GiB each, in place.
  if (kind === 's1s2' && random.chance(0.7)) {
    const blocks = [0, 1, 2, 3].flatMap((n) => [(n * 0x4000_0000 + 0x4fd) >>> 0, 0]);
    rig.ram.writeBytes(BLOCKS, bytesOf(Uint32Array.from(blocks)));
    storeFields(ste, 0, STE, { S2T0SZ: 32, S2SL0: 1, S2PS: 5, S2AA64: 1, S2TTB: BLOCKS });
    stage2 = {
      inputBits: 32,
      startLevel: 1,
      granuleShift: 12,
      root: BigInt(BLOCKS),
      outputBits: 48,
      accessFlagFaults: true,
    };
  } else if (kind !== 's1') {
    for (;;) {
      const granuleShift = [12, 14, 16][random.below(3)]!;
      const [t0sz, sl0] = [16 + random.below(24), random.below(3)];
      const [ps, affd] = [random.below(6), random.below(2)];
      const geometry = stage2Geometry(t0sz, sl0, granuleShift);
      if (geometry === undefined) continue;
      const { startLevel, ipaBits } = geometry;
      const at = root(random, 8 * 2 ** (ipaBits - granuleShift - (3 - startLevel) * (granuleShift - 3)));
      storeFields(ste, 0, STE, {
        S2T0SZ: t0sz,
        S2SL0: sl0,
        S2TG: TG0_SHIFT.indexOf(granuleShift),
        S2PS: ps,
        S2AA64: 1,
        S2AFFD: affd,
        S2TTB: at,
      });
      const outputBits = OUTPUT_BITS[ps]!;
      stage2 = {
        inputBits: ipaBits,
        startLevel,
        granuleShift,
        root: BigInt(at),
        outputBits,
        accessFlagFaults: affd === 0,
      };
      break;
    }
  }
  return { tables: { ...(stage1 === undefined ? {} : { stage1 }), stage2 }, ste, cd };
}

/** Puts the CD where stage 1 alone, or stage 2 for the nested kind, finds it. False: stage 2 leads to no memory. */
function placeContext(random: Prng, rig: Rig, { tables, ste, cd }: Configuration): boolean {
  let [ptr, pa] = [CONTEXT, CONTEXT];
  for (let tries = 0; tables.stage2 !== undefined; tries++) {
    if (tries === 300) return false;
    ptr = tries === 0 ? BLOCKS + 0x800 : (random.next() % 2 ** Math.min(tables.stage2.inputBits, 32)) & ~63;
    ptr >>>= 0;
    const found = translateSlowly(rig.ram, { stage2: tables.stage2 }, BigInt(ptr), 'read');
    if (!('pa' in found) || !rig.ram.contains(Number(found.pa), 64)) continue;
    pa = Number(found.pa);
    rig.ram.writeBytes(pa, bytesOf(cd));
    const again = translateSlowly(rig.ram, { stage2: tables.stage2 }, BigInt(ptr), 'read');
    if ('pa' in again && Number(again.pa) === pa) break;
  }
  rig.ram.writeBytes(pa, bytesOf(cd));
  storeFields(ste, 0, STE, { S1ContextPtr: ptr });
  return true;
}

function input(random: Prng, { stage1 }: Tables): bigint {
  const low = (BigInt(random.next()) << 32n) | BigInt(random.next());
  const half = stage1?.[random.below(2)];
  const width = random.chance(0.05) ? 64 : (half?.inputBits ?? 32 + random.below(17));
  // Small addresses most often: every root has its first entries inside the tables.
  const kept = low & ((1n << BigInt(random.chance(0.7) ? Math.min(width, 40) : width)) - 1n);
  const upper = half !== undefined && half === stage1?.[1] && half !== stage1[0];
  return upper ? (((1n << 64n) - 1n) ^ ((1n << BigInt(width)) - 1n)) | kept : kept;
}

const CLASSES = Object.fromEntries(Object.entries(EVENT_CLASS).map(([name, code]) => [code, name]));

function asked(rig: Rig, address: bigint, want: number): string {
  const { translator } = rig.smmu;
  rig.write(SMMU_EVENTQ_CONS, rig.read(SMMU_EVENTQ_PROD));
  const [high, low] = [Number(address >> 32n) | 0, Number(address & 0xffff_ffffn) | 0];
  const paHigh = translate(translator, SID, NO_SUBSTREAM, high, low, want);
  if (paHigh >= 0) return `0x${(BigInt(paHigh) * 2n ** 32n + BigInt(translator.tlb.paLow >>> 0)).toString(16)}`;
  const [event] = rig.events();
  if (event === undefined) return 'aborted without an event';
  const where = event.code === 0x0b ? '' : ` ${event.stage2 ? 2 : 1} ${CLASSES[event.eventClass]}`;
  return `${eventName(event.code)}${where}`;
}

function expected(outcome: Outcome): string {
  if ('pa' in outcome) return `0x${outcome.pa.toString(16)}`;
  const where = outcome.fault === 'F_WALK_EABT' ? '' : ` ${outcome.stage2 ? 2 : 1} ${outcome.eventClass}`;
  return `${outcome.fault}${where}`;
}

describe('an SMMU under random tables', () => {
  test.for([
    ['s1', 'stage 1'],
    ['s2', 'stage 2'],
    ['s1s2', 'both stages'],
  ] as const)('answers as the slow walk does: %s', ([kind, name]) => {
    const met = new Map<string, number>();
    for (let seed = 1; seed <= 30; seed++) {
      const random = new Prng(seed * 3 + kind.length);
      const rig = smmuRig();
      fill(random, rig);
      rig.enable();
      const configuration = configure(random, rig, kind);
      if (kind !== 's2' && !placeContext(random, rig, configuration)) continue;
      rig.writeSte(SID, configuration.ste);
      rig.submit(encodeCfgiAll(), encodeTlbiNsnhAll());
      for (let n = 0; n < 60; n++) {
        const address = input(random, configuration.tables);
        const isRead = random.chance(0.5);
        const want = isRead ? WANT_READ : WANT_WRITE;
        const slow = expected(translateSlowly(rig.ram, configuration.tables, address, isRead ? 'read' : 'write'));
        const what = `${name}, seed ${seed}, question ${n}: ${isRead ? 'read' : 'write'} 0x${address.toString(16)}`;
        assert.equal(asked(rig, address, want), slow, what);
        assert.equal(asked(rig, address, want), slow, `${what}, again`);
        const found = slow.startsWith('0x') ? 'an address' : slow;
        met.set(found, (met.get(found) ?? 0) + 1);
      }
    }
    // The tables are worth something: most ends of a walk were met.
    assert.isAtLeast(met.get('an address') ?? 0, kind === 's1s2' ? 20 : 50, JSON.stringify([...met]));
    assert.isAtLeast(met.size, 5, JSON.stringify([...met]));
  });
});
