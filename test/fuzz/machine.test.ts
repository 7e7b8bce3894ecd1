/**
 * Random histories on the whole machine: no assertion fails, nothing but RAM is written, a restored machine is the same.
 * A few seconds here; `node tools/fuzz.ts --minutes M` goes on, and CULVERT_FUZZ_SECONDS makes this longer.
 */
import { assert, describe, test } from 'vitest';
import { fuzz, playHistory } from '../../tools/fuzz/play.ts';
import { FuzzRig, RAM, RAM_BYTES, RIDS } from '../../tools/fuzz/rig.ts';

const SECONDS = Number(process.env['CULVERT_FUZZ_SECONDS'] ?? (process.env['CI'] === undefined ? 2 : 60));
const SEED = 7;
const BATCH = 5;

describe('random histories', () => {
  test(`break nothing (seed ${SEED} and on, ${SECONDS} s)`, { timeout: SECONDS * 1000 + 120_000 }, () => {
    const end = performance.now() + SECONDS * 1000;
    let runs = 0;
    for (let seed = SEED; runs === 0 || performance.now() < end; seed++) {
      const found = fuzz(seed, BATCH, 200);
      assert.equal(found.failure, undefined, `seed ${seed}`);
      runs += found.runs;
    }
    assert.isAtLeast(runs, BATCH);
  });

  test('start from a machine whose devices reach memory and raise interrupts', () => {
    const rig = new FuzzRig();
    const smmu = rig.machine.smmus[0]!;
    for (const rid of RIDS) {
      const requester = { rid, streamId: rid, deviceIdAt: () => rid };
      assert.equal(smmu.dmaWrite(requester, 0x3_0000, Uint8Array.of(1, 2, 3, 4)), 4, `StreamID ${rid}`);
      assert.equal(smmu.dmaWrite(requester, 0x2_0040, Uint8Array.of(5, 0, 0, 0)), 4);
    }
    assert.isAtLeast(rig.machine.its[0]!.counts.msisDelivered, RIDS.length);
    assert.equal(rig.machine.its[0]!.counts.commandProblems['MAPTI: id-oor'], undefined);
    const before = rig.machine.its[0]!.counts.msisDelivered;
    for (const use of [
      () => rig.drivers.nvme(0, [6, 1, 0, 0, 0, 0, 0x3_6000, 0, 0, 0, 1]),
      () => rig.drivers.nvme(1, [2, 1, 0, 0, 0, 0, 0x3_7000]),
      () => rig.drivers.nic(0, 0x3_8000, 0, (3 << 16) | 100),
    ]) {
      use();
      rig.clock.pass(1e9, 1000);
    }
    assert.equal(rig.machine.its[0]!.counts.msisDelivered, before + 3, 'Identify, a read and a frame are done');
    assert.equal(rig.machine.bus.read(0x1000_0000, 4) && rig.machine.bus.low, 0x424f_5250, 'the exerciser');
  });

  test('would notice memory that is written beyond the end of RAM', () => {
    const rig = new FuzzRig();
    rig.machine.bus.write(RAM + RAM_BYTES - 4, 4, 1);
    rig.checkMemory();
    const { ram } = rig.machine.bus;
    const end = ram.words.findIndex((word, i) => word === 1 && i > 0);
    assert.isAbove(end, 0);
    const last = ram.save().chunks.length;
    assert.isAbove(last, 0);
    ram.words[3] = 1;
    assert.throws(() => rig.checkMemory(), /always zero/);
  });

  test('are the same for the same seed', () => {
    assert.deepEqual(fuzz(3, 2, 50), fuzz(3, 2, 50));
    playHistory([{ do: 'reset' }, { do: 'inspect' }]);
  });
});
