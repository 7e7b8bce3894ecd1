/** What "everything is as before" looks at: a machine in which a teardown left something is not as before. */
import { assert, beforeAll, describe, test } from 'vitest';
import { encodeStage2Ste, STE_BYTES } from '#shared/arch/smmu/v3-structures.ts';
import { type Body, body, type Peer } from '#shared/core/core.ts';
import { call } from '#shared/core/op.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { changes } from '#tools/scenario/expect.ts';
import { resourceSnapshot } from '#tools/scenario/state.ts';
import { physWrite } from '../../../../services/xen/el2.ts';
import { GUESTS, TwoGuests } from '../../../support/simulated-host.ts';

const STREAM = 0x100;
const SMMU = 'smmu@9050000';
const ITS = 'its@8080000';
const STREAMS = `the machine's streams.${SMMU}`;
const EVENTS = `the machine's events.${ITS}`;
const ABORT = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);
let nextId = 2 ** 48;

const snapshot = (w: TwoGuests): unknown =>
  w.operate(() =>
    resourceSnapshot(function* (peer: Peer, path: string) {
      const reply = yield* call(peer, body('inspectRequest', { path }), 'inspectReply');
      return JSON.parse(reply.json);
    }),
  );

/** A store to the machine's memory that Xen itself knows nothing of. */
function poke(w: TwoGuests, pa: number, data: Uint8Array): void {
  const message: Body = body('el2Request', { ops: [physWrite(pa, data)] });
  w.host.world.post('xen', 'hardware', { id: nextId++, inReplyTo: 0, oldestPending: 0, refused: '', body: message });
  w.inspect('hardware', 'ready');
}

describe('a host whose guest gave its function back', () => {
  const w = new TwoGuests(5);
  let before: unknown;
  let entryPa = 0;

  beforeAll(() => {
    w.xlDone(`pci-detach guest1 ${GUESTS[0].bdf}`);
    before = snapshot(w);
    const { arrays } = w.inspect('hardware', `smmu.${SMMU}.streamTable`) as { arrays: { L2Ptr: number }[] };
    entryPa = arrays[STREAM >>> 8]!.L2Ptr + (STREAM & 0xff) * STE_BYTES;
  });

  /** What differs of the machine; the guest's vITS has moved on. */
  const left = (): string[] =>
    changes(before, snapshot(w))
      .filter((line) => !line.startsWith('domains.'))
      .map((line) => line.split(': was ')[0]!);

  test('is as before when the function was there again and went', () => {
    w.xlDone(`pci-attach guest1 ${GUESTS[0].bdf}`);
    assert.include(left(), `${STREAMS}.256`);
    assert.include(left(), `${EVENTS}.256`);
    w.guest(1, 'dma-check', { device: 0, bytes: 4096, seed: 1 });
    w.xlDone(`pci-detach guest1 ${GUESTS[0].bdf}`);
    assert.deepEqual(left(), []);
  });

  test('is not when an entry of the stream table was left in RAM', () => {
    poke(w, entryPa, bytesOf(encodeStage2Ste({ vmid: 2, t0sz: 24, sl0: 1, ps: 2, ttb: 0x4800_0000 })));
    assert.deepEqual(left(), [`${STREAMS}.256`]);
    poke(w, entryPa, ABORT);
    assert.deepEqual(left(), []);
  });

  test('is not when the SMMU still goes by an entry that is no more', () => {
    w.xlDone(`pci-attach guest1 ${GUESTS[0].bdf}`);
    const entry = w.inspect('hardware', `smmu.${SMMU}.streams.256`) as { S2VMID: number };
    w.guest(1, 'dma-check', { device: 0, bytes: 4096, seed: 2 });
    poke(w, entryPa, ABORT);
    const stale = w.inspect('hardware', `smmu.${SMMU}.streams.256`);
    assert.deepInclude(stale as object, { kind: 'abort', cached: 'stale' });
    assert.include(left(), `${STREAMS}.256`);
    assert.equal((stale as { cachedAs: { S2VMID: number } }).cachedAs.S2VMID, entry.S2VMID);
    w.xlDone(`pci-detach guest1 ${GUESTS[0].bdf}`);
    assert.deepEqual(left(), []);
  });

  test('is not when an entry of a device table was left in RAM, or an event is not what it was', () => {
    const { deviceTable } = w.inspect('hardware', `its.${ITS}.registers`) as { deviceTable: { pa: number } };
    const { devices } = w.inspect('hardware', `its.${ITS}`) as { devices: Record<string, { ittPa: number }> };
    const { ittPa } = devices[0x200]!;
    const entry = Uint8Array.of(ittPa, ittPa >>> 8, ittPa >>> 16, ittPa >>> 24, 0, 0, 0, 0x80);
    poke(w, deviceTable.pa + 8 * STREAM, entry);
    assert.deepEqual(left(), [`${EVENTS}.256`]);
    poke(w, deviceTable.pa + 8 * STREAM, new Uint8Array(8));
    assert.deepEqual(left(), []);
    poke(w, ittPa + 8, new Uint8Array(8));
    assert.deepEqual(left(), [`${EVENTS}.512.event 1`]);
  });
});
