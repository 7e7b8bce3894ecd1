import { assert, describe, test } from 'vitest';
import { ERRNO } from '#shared/abi/errno.ts';
import { GITS_CTLR } from '#shared/arch/gic/its.ts';
import { GICR_CTLR, GICR_CTLR_EnableLPIs, GICR_SIZE_BYTES } from '#shared/arch/gic/redistributor.ts';
import { encodeCfgiAll } from '#shared/arch/smmu/v3-queues.ts';
import { CommandQueue } from '../../../services/xen/passthrough/smmu-queues.ts';
import { XenRig } from './passthrough-rig.ts';

const GICD = 0x0800_0000;
const GICR = 0x080a_0000;
const ITS = 0x0808_0000;
const SMMU_CR0ACK = 0x0905_0020 + 4;
const DEVICE_ID = 0x300;
const TARGET = { domid: 1, vIntid: 9000 };

describe("Xen's GIC driver", () => {
  test('leaves the distributor, both redistributors, the ITS and the SMMU enabled', () => {
    const r = new XenRig();
    const read = (pa: number): number => r.run(r.el2.read32(pa));
    assert.equal(read(GICD) & 0x12, 0x12);
    for (const cpu of [0, 1]) {
      assert.equal(read(GICR + cpu * GICR_SIZE_BYTES + GICR_CTLR) & GICR_CTLR_EnableLPIs, GICR_CTLR_EnableLPIs);
    }
    assert.equal(read(ITS + GITS_CTLR) & 1, 1);
    assert.equal(read(SMMU_CR0ACK), 0b1101);
    assert.equal(r.counts.get('itsCommands', 'MAPC'), 2);
  });
});

describe("Xen's ITS driver", () => {
  test('gives an event an LPI of its own and takes it back with the device', () => {
    const r = new XenRig();
    const [its] = r.xen.gic.itses;
    const free = r.xen.frames.free;
    const used = (): number => (r.xen.gic.inspect() as { lpisUsed: number }).lpisUsed;
    r.run(its!.mapDevice(DEVICE_ID, 4));
    r.run(its!.mapEvent(DEVICE_ID, 0, TARGET));
    r.run(its!.mapEvent(DEVICE_ID, 31, TARGET));
    assert.equal(used(), 2);
    r.run(its!.unmapEvent(DEVICE_ID, 31));
    assert.equal(used(), 1);
    r.run(its!.unmapDevice(DEVICE_ID));
    assert.equal(used(), 0);
    assert.equal(r.xen.frames.free, free);
    assert.equal(r.counts.get('itsCommands', 'DISCARD'), 2);
  });

  test('refuses what the ITS has no room for', () => {
    const r = new XenRig();
    const its = r.xen.gic.itses[0]!;
    assert.equal(
      r.errno(() => its.mapDevice(0x1_0000, 1)),
      ERRNO.EINVAL,
    );
    assert.equal(
      r.errno(() => its.mapEvent(DEVICE_ID, 0, TARGET)),
      ERRNO.ENODEV,
    );
    r.run(its.mapDevice(DEVICE_ID, 32));
    assert.equal(
      r.errno(() => its.mapDevice(DEVICE_ID, 32)),
      ERRNO.EBUSY,
    );
    assert.equal(
      r.errno(() => its.mapEvent(DEVICE_ID, 32, TARGET)),
      ERRNO.EINVAL,
    );
    r.run(its.mapEvent(DEVICE_ID, 1, TARGET));
    assert.equal(
      r.errno(() => its.mapEvent(DEVICE_ID, 1, TARGET)),
      ERRNO.EEXIST,
    );
  });
});

describe("Xen's SMMU command queue", () => {
  test('steps over a command that the SMMU refuses, says so, and goes on', () => {
    const r = new XenRig();
    const queue = new CommandQueue({
      el2: r.el2,
      frames: r.xen.frames,
      counts: r.counts,
      name: 'smmu',
      basePa: 0x0905_0000,
    });
    // A second driver takes the queue over, as after a restart of Xen.
    r.run(r.el2.write32(0x0905_0020, 0));
    r.run(queue.init(4));
    r.run(r.el2.write32(0x0905_0020, 8));
    const bad = new Uint32Array(4).fill(0);
    bad[0] = 0xff;
    assert.equal(
      r.errno(() => queue.run([encodeCfgiAll(), bad, encodeCfgiAll()])),
      ERRNO.EIO,
    );
    // More than once round the queue.
    for (let i = 0; i < 20; i++) r.run(queue.run([encodeCfgiAll()]));
  });
});
