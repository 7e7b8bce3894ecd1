/**
 * The cases of Linux's arm-smmu-v3-test.c against our SMMU: a driver changes a live stream table entry or context
 * descriptor the way Linux's arm_smmu_write_entry does (quadword by quadword, as many as possible while the hardware does
 * not look at them, the deciding one alone, a CFGI and CMD_SYNC after each step) while a device streams DMA. The SMMU
 * fetches the entry anew before every DMA, as one without a cache may. No transaction may meet anything but the old or
 * the new entry (or, where the change cannot be hitless, an abort), and the number of syncs is the one Linux expects.
 */
import { assert, describe, test } from 'vitest';
import { encodeCfgiCdAll, encodeCfgiSte, encodeSync, encodeTlbiNsnhAll } from '#shared/arch/smmu/v3-queues.ts';
import {
  CD,
  encodeAbortSte,
  encodeBypassSte,
  encodeCd,
  encodeStage1Ste,
  encodeStage2Ste,
  STE,
  STE_BYTES,
} from '#shared/arch/smmu/v3-structures.ts';
import { S1_AP, SHAREABILITY, writeStage1Leaf, writeTable } from '#shared/arch/vmsa.ts';
import { load, type Slot, store, storeFields } from '#shared/regs/struct.ts';
import { device, RAM, ROOT, STREAM_TABLE, smmuRig } from '../../unit/hardware/smmu/rig.ts';

const SID = 0x10;
const CD_AT = RAM + 0x80_0000;
const CD_OTHER = RAM + 0x80_0040;
const S1_ROOT = RAM + 0x81_0000;
/** The address that the device uses, and where each configuration takes it. */
const ADDRESS = RAM + 0x60_0000;
const VIA_STAGE1 = RAM + 0x61_0000;
const VIA_STAGE1_OTHER = RAM + 0x62_0000;
const VIA_STAGE2 = RAM + 0x63_0000;
const QUADWORDS = 8;
/** The same for both stages, as in Linux's cases: another one cannot be changed to at once. */
const VMID = 9;

type Where = 'abort' | 'bypass' | 'stage1' | 'stage1 other' | 'stage2';

/** A mask of the bits that hardware looks at, given what the entry says: Linux's arm_smmu_get_ste_used. */
function usedBySte(ste: Uint32Array): Uint32Array {
  const used = new Uint32Array(16);
  const mark = (...slots: Slot[]): void => {
    for (const slot of slots) store(used, 0, slot, slot.inPlace ? 2 ** 52 - 1 : -1);
  };
  mark(STE.V);
  if (load(ste, 0, STE.V) === 0) return used;
  mark(STE.Config);
  const config = load(ste, 0, STE.Config);
  if ((config & 1) !== 0 && config >= 4) {
    mark(STE.S1Fmt, STE.S1ContextPtr, STE.S1CDMax, STE.S1DSS, STE.S1CIR, STE.S1COR, STE.S1CSH, STE.S1STALLD, STE.STRW);
    mark(STE.EATS, STE.MEV, STE.S2VMID);
    if (load(ste, 0, STE.S1DSS) === 1) mark(STE.SHCFG);
  }
  if (config === 4) mark(STE.SHCFG);
  if ((config & 2) !== 0 && config >= 4) {
    mark(
      STE.SHCFG,
      STE.EATS,
      STE.MEV,
      STE.S2VMID,
      STE.S2T0SZ,
      STE.S2SL0,
      STE.S2IR0,
      STE.S2OR0,
      STE.S2SH0,
      STE.S2TG,
      STE.S2PS,
    );
    mark(STE.S2AA64, STE.S2ENDI, STE.S2PTW, STE.S2S, STE.S2R, STE.S2TTB);
  }
  return used;
}

function usedByCd(cd: Uint32Array): Uint32Array {
  const used = new Uint32Array(16);
  store(used, 0, CD.V, 1);
  return load(cd, 0, CD.V) === 0 ? used : used.fill(0xffff_ffff, 0, 8);
}

/** Sets the quadwords of `only` (default: all) to what `target` has; true when that changed something. */
function setQuadwords(
  entry: Uint32Array,
  target: Uint32Array,
  write: (quadword: number, lo: number, hi: number) => void,
  from = 0,
  to = QUADWORDS,
): boolean {
  let changed = false;
  for (let q = from; q < to; q++) {
    if (entry[2 * q] === target[2 * q] && entry[2 * q + 1] === target[2 * q + 1]) continue;
    entry[2 * q] = target[2 * q]!;
    entry[2 * q + 1] = target[2 * q + 1]!;
    write(q, entry[2 * q]!, entry[2 * q + 1]!);
    changed = true;
  }
  return changed;
}

/** Changes `entry` to `target` as Linux's arm_smmu_write_entry does; returns the number of syncs. */
function writeEntry(
  entry: Uint32Array,
  target: Uint32Array,
  usedBy: (words: Uint32Array) => Uint32Array,
  write: (quadword: number, lo: number, hi: number) => void,
  sync: () => void,
): number {
  let syncs = 0;
  const step = (to: Uint32Array, from?: number, end?: number): void => {
    if (!setQuadwords(entry, to, write, from, end)) return;
    sync();
    syncs++;
  };
  const now = usedBy(entry);
  const then = usedBy(target);
  // What may be written already: bits that nobody looks at now. Quadwords with other bits to change are critical.
  const unused = entry.map((word, i) => ((word & now[i]!) | (target[i]! & ~now[i]!)) >>> 0);
  const critical = Array.from({ length: QUADWORDS }, (_, q) => q).filter((q) =>
    [2 * q, 2 * q + 1].some((i) => (unused[i]! & then[i]!) >>> 0 !== target[i]),
  );
  if (critical.length === 0) {
    step(target);
    return syncs;
  }
  if (critical.length === 1) {
    const q = critical[0]!;
    // The rest first, where it is not in use; the critical quadword alone; then what is in use no more.
    const first = unused.slice();
    first.set(entry.subarray(2 * q, 2 * q + 2), 2 * q);
    step(first);
    step(target, q, q + 1);
    step(target);
    return syncs;
  }
  // Not hitless: the entry is not valid meanwhile.
  unused[0] = 0;
  unused[1] = 0;
  step(unused, 0, 1);
  step(target, 1);
  step(target, 0, 1);
  return syncs;
}

function rigWithTables() {
  const rig = smmuRig({ SSIDSIZE: 4 });
  const table = (at: number, index: number, next: number): void =>
    rig.descriptor(at + 8 * index, (w) => writeTable(w, 0, next));
  // Two sets of stage-1 tables for ADDRESS: 48 bits, a block of 2 MiB at the end.
  for (const [n, to] of [VIA_STAGE1, VIA_STAGE1_OTHER].entries()) {
    const root = S1_ROOT + n * 0x4000;
    table(root, Math.floor(ADDRESS / 2 ** 39) % 512, root + 0x1000);
    table(root + 0x1000, Math.floor(ADDRESS / 2 ** 30) % 512, root + 0x2000);
    table(root + 0x2000, Math.floor(ADDRESS / 2 ** 21) % 512, root + 0x3000);
    rig.descriptor(root + 0x3000 + 8 * (Math.floor(ADDRESS / 4096) % 512), (w) =>
      writeStage1Leaf(w, 0, 3, to, { ap: S1_AP.readWrite, attrIndx: 1, sh: SHAREABILITY.inner, notGlobal: true }),
    );
  }
  // Stage 2 from level 0 on.
  const l = [ROOT, ROOT + 0x1000, ROOT + 0x2000, ROOT + 0x3000];
  for (const [level, shift] of [39, 30, 21].entries()) {
    table(l[level]!, Math.floor(ADDRESS / 2 ** shift) % 512, l[level + 1]!);
  }
  rig.descriptor(l[3]! + 8 * (Math.floor(ADDRESS / 4096) % 512), (w) =>
    w.set([(VIA_STAGE2 & 0xffff_f000) | 0x7ff, Math.floor(VIA_STAGE2 / 2 ** 32)]),
  );
  rig.ram.writeBytes(CD_AT, new Uint8Array(encodeCd({ asid: 5, t0sz: 16, ips: 5, ttb0: S1_ROOT }).buffer));
  rig.enable();
  return rig;
}

const stage1 = (fields: Partial<Record<keyof typeof STE, number>> = {}): Uint32Array => {
  const ste = encodeStage1Ste(CD_AT, VMID);
  storeFields(ste, 0, STE, fields);
  return ste;
};
const STAGE2 = encodeStage2Ste({ vmid: VMID, t0sz: 16, sl0: 2, ps: 5, ttb: ROOT });
const ENTRIES = {
  abort: encodeAbortSte(),
  bypass: encodeBypassSte(),
  cdtable: stage1({ S1CDMax: 1, S1DSS: 2 }),
  s1dssBypass: stage1({ S1CDMax: 1, S1DSS: 1, SHCFG: 1 }),
  stage1: stage1(),
  stage2: STAGE2,
};

/** Which configuration one DMA of the device met, told by where its bytes went. */
function whereDmaGoes(rig: ReturnType<typeof rigWithTables>): Where {
  const places: [Where, number][] = [
    ['bypass', ADDRESS],
    ['stage1', VIA_STAGE1],
    ['stage1 other', VIA_STAGE1_OTHER],
    ['stage2', VIA_STAGE2],
  ];
  for (const [, pa] of places) rig.ram.write32(pa, 0);
  if (rig.smmu.dmaWrite(device(SID), ADDRESS, Uint8Array.of(1, 0, 0, 0)) !== 4) return 'abort';
  const there = places.filter(([, pa]) => rig.ram.read32(pa) === 1);
  assert.lengthOf(there, 1);
  return there[0]![0];
}

/** Changes the entry at `at` while DMA streams; the commands make the SMMU look at memory before every DMA. */
function change(
  rig: ReturnType<typeof rigWithTables>,
  at: number,
  before: Uint32Array,
  after: Uint32Array,
  usedBy: (words: Uint32Array) => Uint32Array,
): { syncs: number; seen: Set<Where>; start: Where; end: Where } {
  const seen = new Set<Where>();
  const forget = (): void => rig.submit(encodeCfgiSte(SID, true), encodeCfgiCdAll(SID), encodeTlbiNsnhAll());
  const dma = (): Where => {
    forget();
    const where = whereDmaGoes(rig);
    seen.add(where);
    return where;
  };
  rig.ram.writeBytes(at, new Uint8Array(before.slice().buffer));
  const start = dma();
  const write = (quadword: number, lo: number, hi: number): void => {
    rig.ram.write32(at + 8 * quadword, lo);
    rig.ram.write32(at + 8 * quadword + 4, hi);
    dma();
  };
  const sync = (): void => {
    rig.submit(encodeCfgiSte(SID, true), encodeSync(0));
    dma();
  };
  const syncs = writeEntry(before.slice(), after, usedBy, write, sync);
  return { syncs, seen, start, end: dma() };
}

describe('Linux KUnit arm-smmu-v3', () => {
  type Name = keyof typeof ENTRIES;
  const cases: readonly (readonly [name: string, from: Name, to: Name, syncs: number])[] = [
    ['write_ste_bypass_to_abort', 'bypass', 'abort', 2],
    ['write_ste_abort_to_bypass', 'abort', 'bypass', 2],
    ['write_ste_cdtable_to_abort', 'cdtable', 'abort', 2],
    ['write_ste_abort_to_cdtable', 'abort', 'cdtable', 2],
    ['write_ste_cdtable_to_bypass', 'cdtable', 'bypass', 3],
    ['write_ste_bypass_to_cdtable', 'bypass', 'cdtable', 3],
    ['write_ste_cdtable_s1dss_change', 'cdtable', 's1dssBypass', 1],
    ['write_ste_s1dssbypass_to_stebypass', 's1dssBypass', 'bypass', 2],
    ['write_ste_stebypass_to_s1dssbypass', 'bypass', 's1dssBypass', 2],
    ['write_ste_s2_to_abort', 'stage2', 'abort', 2],
    ['write_ste_abort_to_s2', 'abort', 'stage2', 2],
    ['write_ste_s2_to_bypass', 'stage2', 'bypass', 2],
    ['write_ste_bypass_to_s2', 'bypass', 'stage2', 2],
    ['write_ste_s1_to_s2', 'stage1', 'stage2', 3],
    ['write_ste_s2_to_s1', 'stage2', 'stage1', 3],
  ];
  for (const [name, from, to, syncs] of cases) {
    test(`[linux-kunit-smmu/${name}] no DMA meets a mixture while the entry changes, in ${syncs} syncs`, () => {
      const rig = rigWithTables();
      const result = change(rig, STREAM_TABLE + SID * STE_BYTES, ENTRIES[from], ENTRIES[to], usedBySte);
      assert.deepEqual([...result.seen].sort(), [...new Set([result.start, result.end])].sort());
      assert.equal(result.syncs, syncs);
      assert.deepEqual(rig.events(), [], 'nothing was reported on the way');
    });
  }

  test('[linux-kunit-smmu/write_ste_non_hitless] an entry that cannot change at once aborts meanwhile, in 3 syncs', () => {
    const rig = rigWithTables();
    rig.ram.writeBytes(
      CD_OTHER,
      new Uint8Array(encodeCd({ asid: 6, t0sz: 16, ips: 5, ttb0: S1_ROOT + 0x4000 }).buffer),
    );
    const other = stage1({ S1ContextPtr: CD_OTHER, S1CIR: 2 });
    const { start, end, seen, syncs } = change(rig, STREAM_TABLE + SID * STE_BYTES, ENTRIES.stage1, other, usedBySte);
    assert.deepEqual([start, end], ['stage1', 'stage1 other']);
    assert.deepEqual([...seen].sort(), ['abort', 'stage1', 'stage1 other']);
    assert.equal(syncs, 3);
  });

  const cdCases = [
    ['write_cd_s1_clear', true, false, 2],
    ['write_cd_s1_set', false, true, 2],
  ] as const;
  for (const [name, before, after, syncs] of cdCases) {
    test(`[linux-kunit-smmu/${name}] a descriptor comes or goes without a mixture, in ${syncs} syncs`, () => {
      const rig = rigWithTables();
      rig.writeSte(SID, ENTRIES.stage1);
      const cd = encodeCd({ asid: 5, t0sz: 16, ips: 5, ttb0: S1_ROOT });
      const none = new Uint32Array(16);
      const result = change(rig, CD_AT, before ? cd : none, after ? cd : none, usedByCd);
      assert.deepEqual([result.start, result.end], before ? ['stage1', 'abort'] : ['abort', 'stage1']);
      assert.deepEqual([...result.seen].sort(), ['abort', 'stage1']);
      assert.equal(result.syncs, syncs);
    });
  }

  test('[linux-kunit-smmu/write_cd_s1_change_asid] another ASID takes one sync and no DMA is lost', () => {
    const rig = rigWithTables();
    rig.writeSte(SID, ENTRIES.stage1);
    const cd = (asid: number): Uint32Array => encodeCd({ asid, t0sz: 16, ips: 5, ttb0: S1_ROOT });
    const { seen, syncs } = change(rig, CD_AT, cd(5), cd(11), usedByCd);
    assert.deepEqual([[...seen], syncs], [['stage1'], 1]);
  });
});
