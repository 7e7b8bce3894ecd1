/** What `inspect` shows of the stream table: RAM, and what is cached of it beside. */
import { assert, describe, test } from 'vitest';
import { STRTAB_FMT } from '#shared/arch/smmu/v3.ts';
import { encodeCfgiSte } from '#shared/arch/smmu/v3-queues.ts';
import {
  encodeAbortSte,
  encodeL1Cd,
  encodeL1Std,
  encodeNestedSte,
  encodeStage1Ste,
  STE,
  STE_BYTES,
  STE_S1FMT,
  STE_WORDS,
} from '#shared/arch/smmu/v3-structures.ts';
import { bytesOf, store } from '#shared/regs/struct.ts';
import { LOOK_LIMITS } from '../../../../services/hardware/look.ts';
import type { Smmuv3 } from '../../../../services/hardware/smmu/v3/smmuv3.ts';
import {
  CMDQ,
  CMDQ_LOG2,
  device,
  EVENTQ,
  EVENTQ_LOG2,
  RAM,
  ROOT,
  STREAM_TABLE,
  smmuRig,
  stage2Ste,
  translatingRig,
} from './rig.ts';
import { ASID, CD, nested, S1_ROOT, stage1Only, VMID } from './stage1-rig.ts';

interface View {
  readonly cmdq: object;
  readonly eventq: object;
  // biome-ignore lint/suspicious/noExplicitAny: a tree to look into
  readonly streamTable: any;
  // biome-ignore lint/suspicious/noExplicitAny: a tree to look into
  readonly streams: any;
}

const look = (rig: { readonly smmu: Smmuv3 }): View => rig.smmu.inspect() as View;
const dma = (rig: { readonly smmu: Smmuv3 }, streamId: number, substreamId?: number): number =>
  rig.smmu.dmaRead(
    { ...device(streamId), ...(substreamId === undefined ? {} : { substreamId }) },
    0x1000,
    new Uint8Array(4),
  );

const TWO_LEVEL = (log2size: number, split: number): number => (STRTAB_FMT.twoLevel << 16) | (split << 6) | log2size;
const STAGE2 = { kind: 'stage2', Config: 6, S2VMID: 7, S2TTB: ROOT, S2T0SZ: 24, S2SL0: 1, S2TG: 0, S2PS: 5, S2R: 1 };

describe('a linear stream table', () => {
  test('is shown before any DMA, with where it and the queues are', () => {
    const rig = translatingRig();
    rig.writeSte(0x11, encodeAbortSte());
    const { streamTable, streams, cmdq, eventq } = look(rig);
    assert.deepEqual(streamTable, { base: STREAM_TABLE, format: 'linear', log2size: 9, aborting: 1 });
    assert.deepEqual(streams, { 16: { ...STAGE2, cached: 'no' } });
    assert.deepInclude(cmdq, { base: CMDQ, log2size: CMDQ_LOG2 });
    assert.deepInclude(eventq, { base: EVENTQ, log2size: EVENTQ_LOG2 });
  });

  test('shows what is cached of it, and what became stale', () => {
    const rig = translatingRig();
    dma(rig, 0x10);
    assert.deepEqual(look(rig).streams, { 16: { ...STAGE2, cached: 'same' } });
    rig.writeSte(0x10, stage2Ste(8));
    assert.deepEqual(look(rig).streams, { 16: { ...STAGE2, S2VMID: 8, cached: 'stale', cachedAs: STAGE2 } });
    rig.writeSte(0x10, encodeAbortSte());
    const stale = { cached: 'stale', cachedAs: STAGE2 };
    assert.deepEqual(look(rig).streams, { 16: { kind: 'abort', Config: 0, ...stale } });
    rig.writeSte(0x10, new Uint32Array(STE_WORDS));
    assert.deepEqual(look(rig).streams, { 16: { kind: 'invalid', ...stale } });
    rig.submit(encodeCfgiSte(0x10, true));
    assert.deepEqual(look(rig).streams, {});
  });

  test('shows what the SMMU would not take, and says so', () => {
    const rig = translatingRig();
    const bad = stage2Ste(7);
    store(bad, 0, STE.S2AA64, 0);
    rig.writeSte(0x10, bad);
    assert.deepEqual(look(rig).streams, { 16: { ...STAGE2, kind: 'bad', cached: 'no' } });
  });

  test('is looked at without effect', () => {
    const rig = translatingRig();
    const before = JSON.stringify(rig.smmu.save());
    look(rig);
    assert.equal(JSON.stringify(rig.smmu.save()), before);
  });
});

describe('a two-level stream table', () => {
  const L2 = RAM + 0x60_0000;

  test('is followed through its valid descriptors, and a cached one can be stale', () => {
    const two = smmuRig();
    two.descriptor(STREAM_TABLE + 8, (w) => w.set(encodeL1Std(L2, 8)));
    two.ram.writeBytes(L2 + 5 * STE_BYTES, bytesOf(stage2Ste(7)));
    two.ram.writeBytes(L2 + 6 * STE_BYTES, bytesOf(encodeAbortSte()));
    two.makeTables();
    two.mapPage(0x1000, RAM);
    two.enable(TWO_LEVEL(16, 8));
    const { streamTable, streams } = look(two);
    const array = { L2Ptr: L2, streams: 256 };
    assert.deepEqual(streamTable, {
      base: STREAM_TABLE,
      format: 'two-level',
      log2size: 16,
      split: 8,
      arrays: { 1: { ...array, cached: 'no' } },
      aborting: 1,
    });
    assert.deepEqual(streams, { 261: { ...STAGE2, cached: 'no' } });
    dma(two, 0x105);
    two.descriptor(STREAM_TABLE + 8, (w) => w.fill(0));
    const after = look(two);
    assert.deepEqual(after.streamTable.arrays, { 1: { valid: false, cached: 'stale', cachedAs: array } });
    assert.deepEqual(after.streams, { 261: { kind: 'invalid', cached: 'stale', cachedAs: STAGE2 } });
  });
});

describe('a table of any size and form is looked at for a limited time, and the view says that there is more:', () => {
  const limited = (rig: { readonly smmu: Smmuv3 }): View => {
    const began = performance.now();
    const view = look(rig);
    assert.isBelow(performance.now() - began, 10_000);
    assert.match(view.streamTable.incomplete, new RegExp(`^more than ${LOOK_LIMITS.read} entries to read`));
    const { arrays = {} } = view.streamTable;
    assert.isAtMost(Object.keys(view.streams).length + Object.keys(arrays).length, LOOK_LIMITS.shown);
    return view;
  };

  test('every descriptor of level 1 leads back to the table', () => {
    const rig = smmuRig({ SIDSIZE: 32 });
    for (let i = 0; i < 2 ** 14; i++) rig.descriptor(RAM + i * 8, (w) => w.set(encodeL1Std(RAM, 10)));
    rig.enable(TWO_LEVEL(32, 10));
    limited(rig);
  });

  test('every stream has as many context descriptors as there can be, behind stage 2', () => {
    const rig = smmuRig({ SSIDSIZE: 20 });
    rig.makeTables();
    rig.mapPage(0x1000, RAM + 0x50_0000);
    const ste = encodeNestedSte(0x1000, { vmid: 7, t0sz: 24, sl0: 1, ps: 5, ttb: ROOT });
    store(ste, 0, STE.S1CDMax, 20);
    for (let streamId = 0; streamId < 512; streamId++) rig.writeSte(streamId, ste);
    rig.enable();
    assert.lengthOf(Object.keys(limited(rig).streams), 512, 'every stream all the same');
  });
});

describe('context descriptors', () => {
  const GOOD = { kind: 'good', ASID, IPS: 5, TTB0: S1_ROOT, T0SZ: 16, TG0: 0 };

  test('are shown below their stream, with what is cached of them', () => {
    const rig = stage1Only();
    const stream = { kind: 'stage1', Config: 5, S2VMID: VMID, S1ContextPtr: CD, S1Fmt: 0, S1CDMax: 0, S1DSS: 0 };
    assert.deepEqual(look(rig).streams[0x10], { ...stream, contexts: { 0: { ...GOOD, cached: 'no' } }, cached: 'no' });
    dma(rig, 0x10);
    assert.deepEqual(look(rig).streams[0x10].contexts, { 0: { ...GOOD, cached: 'same' } });
    rig.writeCd(rig.defaultCd(ASID + 1));
    assert.deepEqual(look(rig).streams[0x10].contexts, {
      0: { ...GOOD, ASID: ASID + 1, cached: 'stale', cachedAs: GOOD },
    });
    rig.writeSte(0x10, encodeAbortSte());
    assert.deepEqual(look(rig).streams[0x10].cachedAs, { ...stream, contexts: { 0: GOOD } });
  });

  test('of a nested stream are found through stage 2', () => {
    const rig = nested();
    assert.deepInclude(look(rig).streams[0x10].contexts[0], { kind: 'good', ASID, cached: 'no' });
  });

  test.each([
    [STE_S1FMT.linear, 0],
    [STE_S1FMT.twoLevel4K, 12],
  ])('of substreams in format %i are found by SubstreamID', (format, leaf) => {
    const rig = stage1Only({ SSIDSIZE: 10 });
    const ste = encodeStage1Ste(CD, VMID);
    store(ste, 0, STE.S1CDMax, 8);
    store(ste, 0, STE.S1Fmt, format);
    rig.writeSte(0x10, ste);
    rig.ram.writeBytes(CD, new Uint8Array(64));
    const table = leaf === 0 ? CD : CD + 0x10_0000;
    if (leaf !== 0) rig.descriptor(CD, (w) => w.set(encodeL1Cd(table)));
    rig.writeCd(rig.defaultCd(33), table + 3 * 64);
    assert.deepEqual(Object.keys(look(rig).streams[0x10].contexts), ['3']);
    assert.equal(look(rig).streams[0x10].contexts[3].ASID, 33);
  });
});
