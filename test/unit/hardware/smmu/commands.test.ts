import { assert, describe, test } from 'vitest';
import * as v3 from '#shared/arch/smmu/v3.ts';
import {
  encodeCfgiSte,
  encodeCfgiSteRange,
  encodePrefetchConfig,
  encodeSync,
  encodeTlbiNsnhAll,
  encodeTlbiS2Ipa,
  encodeTlbiS12Vmall,
  SYNC_CS,
} from '#shared/arch/smmu/v3-queues.ts';
import { encodeAbortSte } from '#shared/arch/smmu/v3-structures.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import type { SmmuFeatures } from '../../../../services/hardware/smmu/v3/features.ts';
import { CMDQ, device, RAM, smmuRig, stage2Ste, translatingRig } from './rig.ts';

const reads = (rig: ReturnType<typeof smmuRig>, streamId: number, iova: number): boolean =>
  rig.smmu.dmaRead(device(streamId), iova, new Uint8Array(4)) === 4;

describe('invalidation', () => {
  test('a mapping that was taken away serves the device until a TLBI for its VMID', () => {
    const rig = translatingRig();
    assert.isTrue(reads(rig, 0x10, 0x1000));
    rig.unmapPage(0x1000);
    assert.isTrue(reads(rig, 0x10, 0x1000), 'stale');
    rig.submit(encodeTlbiS12Vmall(8), encodeSync(0));
    assert.isTrue(reads(rig, 0x10, 0x1000), 'another VMID');
    rig.submit(encodeTlbiS12Vmall(7), encodeSync(0));
    assert.isFalse(reads(rig, 0x10, 0x1000));
  });

  test('TLBI_S2_IPA drops the one page, TLBI_NSNH_ALL everything', () => {
    const rig = translatingRig();
    rig.mapPage(0x2000, RAM + 0x51_0000);
    assert.isTrue(reads(rig, 0x10, 0x1000) && reads(rig, 0x10, 0x2000));
    rig.unmapPage(0x1000);
    rig.unmapPage(0x2000);
    rig.submit(encodeTlbiS2Ipa(7, 0x1000, true));
    assert.isFalse(reads(rig, 0x10, 0x1000));
    assert.isTrue(reads(rig, 0x10, 0x2000));
    rig.submit(encodeTlbiNsnhAll());
    assert.isFalse(reads(rig, 0x10, 0x2000));
    assert.equal(rig.smmu.counts.tlbInvalidations, 3);
  });

  test('TLBI_S2_IPA of a range drops every page of it, where the part has ranges', () => {
    const range = { granuleShift: 12, num: 1, scale: 1, ttl: 0 }; // 4 pages
    const dropped = (features: Partial<SmmuFeatures>): number[] => {
      const rig = translatingRig(features);
      const pages = [0x1000, 0x2000, 0x3000, 0x4000, 0x5000];
      for (const page of pages) {
        rig.mapPage(page, RAM + 0x50_0000 + page);
        assert.isTrue(reads(rig, 0x10, page));
        rig.unmapPage(page);
      }
      rig.submit(encodeTlbiS2Ipa(7, 0x1000, true, range), encodeSync(0));
      return pages.filter((page) => !reads(rig, 0x10, page));
    };
    assert.deepEqual(dropped({ RIL: 1 }), [0x1000, 0x2000, 0x3000, 0x4000]);
    assert.deepEqual(dropped({ RIL: 0 }), [0x1000], 'the fields of a range are reserved there, and ignored');
    const rig = translatingRig({ RIL: 1 });
    rig.submit(encodeTlbiS2Ipa(7, 0x1000, true, { granuleShift: 12, num: 0, scale: 0, ttl: 0 }));
    assert.equal(rig.read(v3.SMMU_CMDQ_CONS) >>> 24, v3.CMDQ_ERROR.CERROR_ILL, 'a range of nothing');
  });

  test('a stream table entry that was changed keeps its meaning until CFGI_STE', () => {
    const rig = translatingRig();
    assert.isTrue(reads(rig, 0x10, 0x1000));
    rig.writeSte(0x10, encodeAbortSte());
    assert.isTrue(reads(rig, 0x10, 0x1000), 'stale');
    rig.submit(encodeCfgiSte(0x11, true));
    assert.isTrue(reads(rig, 0x10, 0x1000), 'another stream');
    rig.submit(encodeTlbiNsnhAll());
    assert.isTrue(reads(rig, 0x10, 0x1000), 'a TLBI does not touch configuration');
    rig.submit(encodeCfgiSte(0x10, true));
    assert.isFalse(reads(rig, 0x10, 0x1000));
  });

  test('an entry that was seen invalid stays so until CFGI_STE', () => {
    const rig = translatingRig();
    assert.isFalse(reads(rig, 0x20, 0x1000));
    rig.writeSte(0x20, stage2Ste(7));
    assert.isFalse(reads(rig, 0x20, 0x1000));
    rig.submit(encodeCfgiSte(0x20, true), encodePrefetchConfig(0x20));
    assert.isTrue(reads(rig, 0x20, 0x1000));
  });

  test('CFGI does not flush the TLB', () => {
    const rig = translatingRig();
    assert.isTrue(reads(rig, 0x10, 0x1000));
    rig.unmapPage(0x1000);
    rig.submit(encodeCfgiSte(0x10, false), encodeSync(0));
    assert.isTrue(reads(rig, 0x10, 0x1000));
  });

  test('CFGI_STE_RANGE covers its aligned range and nothing beyond', () => {
    const rig = translatingRig();
    for (const sid of [0x13, 0x14]) {
      rig.writeSte(sid, stage2Ste(7));
      assert.isTrue(reads(rig, sid, 0x1000));
      rig.writeSte(sid, encodeAbortSte());
    }
    rig.submit(encodeCfgiSteRange(0x11, 1)); // 0x10 to 0x13
    assert.isFalse(reads(rig, 0x13, 0x1000));
    assert.isTrue(reads(rig, 0x14, 0x1000));
  });

  test('two streams of one VMID share what the TLB holds', () => {
    const rig = translatingRig();
    rig.writeSte(0x11, stage2Ste(7));
    assert.isTrue(reads(rig, 0x10, 0x1000));
    rig.unmapPage(0x1000);
    assert.isTrue(reads(rig, 0x11, 0x1000));
    rig.writeSte(0x12, stage2Ste(8));
    assert.isFalse(reads(rig, 0x12, 0x1000), 'and another VMID does not');
  });
});

describe('the command queue', () => {
  test('consumes what it was given and wraps', () => {
    const rig = translatingRig();
    for (let i = 0; i < 40; i++) rig.submit(encodeSync(0));
    assert.equal(rig.read(v3.SMMU_CMDQ_CONS), rig.read(v3.SMMU_CMDQ_PROD));
    assert.equal(rig.smmu.counts.commands['CMD_SYNC'], 41);
  });

  test('pulses the wired interrupt for CMD_SYNC with SIG_IRQ only', () => {
    const rig = translatingRig();
    rig.submit(encodeSync(SYNC_CS.SIG_NONE), encodeSync(SYNC_CS.SIG_SEV));
    assert.deepEqual(rig.irqs, []);
    rig.submit(encodeSync(SYNC_CS.SIG_IRQ));
    assert.deepEqual(rig.irqs, ['cmdq-sync']);
  });

  test('stops at a command that the part lacks, and goes on once it is mended and acknowledged', () => {
    const rig = translatingRig();
    const atcInv = Uint32Array.of(0x40, 0, 0, 0);
    rig.submit(atcInv, encodeSync(0)); // entries 3 and 4
    assert.equal(rig.read(v3.SMMU_CMDQ_CONS), (v3.CMDQ_ERROR.CERROR_ILL << 24) | 3);
    assert.equal(rig.read(v3.SMMU_GERROR), 1);
    assert.deepEqual(rig.irqs, ['gerror']);
    rig.submit(encodeSync(0));
    assert.equal(rig.read(v3.SMMU_CMDQ_CONS) & 0xff, 3, 'stands still');
    rig.ram.writeBytes(CMDQ + 3 * 16, bytesOf(encodeSync(0)));
    rig.write(v3.SMMU_GERRORN, 1);
    assert.equal(rig.read(v3.SMMU_CMDQ_CONS) & 0xff, 6);
    assert.deepEqual(rig.irqs, ['gerror']);
  });

  test('refuses what belongs to EL2, ATS, PRI, stalls and the secure side', () => {
    for (const opcode of [0x07, 0x18, 0x20, 0x21, 0x22, 0x23, 0x40, 0x41, 0x44, 0x45, 0x50, 0xff, 0x446, 0x3046]) {
      const rig = translatingRig();
      rig.submit(Uint32Array.of(opcode, 0, 0, 0));
      assert.equal(rig.read(v3.SMMU_CMDQ_CONS) >>> 24, v3.CMDQ_ERROR.CERROR_ILL, opcode.toString(16));
    }
  });

  test('refuses what belongs to a stage that the part lacks, and takes NSNH_ALL whatever it has', () => {
    const refuses = (features: Partial<SmmuFeatures>, opcode: number): boolean => {
      const rig = smmuRig(features);
      rig.enable();
      rig.submit(Uint32Array.of(opcode, 0, 0, 0));
      return rig.read(v3.SMMU_CMDQ_CONS) >>> 24 === v3.CMDQ_ERROR.CERROR_ILL;
    };
    for (const opcode of [0x05, 0x06, 0x10, 0x11, 0x12, 0x13]) {
      assert.isTrue(refuses({ S1P: 0 }, opcode), opcode.toString(16));
      assert.isFalse(refuses({ S2P: 0 }, opcode), opcode.toString(16));
    }
    for (const opcode of [0x28, 0x2a]) {
      assert.isTrue(refuses({ S2P: 0 }, opcode), opcode.toString(16));
      assert.isFalse(refuses({ S1P: 0 }, opcode), opcode.toString(16));
    }
    assert.isFalse(refuses({ S1P: 0 }, 0x30) || refuses({ S2P: 0 }, 0x30));
  });

  test('tells of CMD_SYNC by MSI where the part can, to nobody else’s wire, and of a write that nobody takes', () => {
    const rig = translatingRig({ MSI: 1 });
    rig.submit(encodeSync(SYNC_CS.SIG_IRQ, { address: RAM + 0x70_0004, data: 0xcafe_f00d }));
    assert.equal(rig.ram.read32(RAM + 0x70_0004), 0xcafe_f00d);
    assert.deepEqual(rig.irqs, []);
    rig.submit(encodeSync(SYNC_CS.SIG_IRQ));
    assert.deepEqual(rig.irqs, ['cmdq-sync']);
    rig.submit(encodeSync(SYNC_CS.SIG_IRQ, { address: 0x5000, data: 1 }));
    assert.equal(rig.read(v3.SMMU_GERROR), 1 << 4);
    assert.deepEqual(rig.irqs, ['cmdq-sync', 'gerror']);
    const wired = translatingRig();
    wired.submit(encodeSync(SYNC_CS.SIG_IRQ, { address: RAM + 0x70_0004, data: 1 }));
    assert.equal(wired.ram.read32(RAM + 0x70_0004), 0);
    assert.deepEqual(wired.irqs, ['cmdq-sync']);
  });

  test('tells of an event by MSI', () => {
    const rig = translatingRig({ MSI: 1 });
    rig.write(v3.SMMU_IRQ_CTRL, 0);
    rig.write(v3.SMMU_EVENTQ_IRQ_CFG0_LO, 0x70_0010);
    rig.write(v3.SMMU_EVENTQ_IRQ_CFG0_HI, 0x8000);
    rig.write(v3.SMMU_EVENTQ_IRQ_CFG1, 77);
    rig.write(v3.SMMU_IRQ_CTRL, 4);
    assert.isFalse(reads(rig, 0x10, 0x9000));
    assert.equal(rig.ram.read32(RAM + 0x70_0010), 77);
    assert.deepEqual(rig.irqs, []);
  });

  test('outside RAM ends in CERROR_ABT', () => {
    const rig = smmuRig();
    rig.write(v3.SMMU_CMDQ_BASE_LO, 0x1004);
    rig.write(v3.SMMU_CR0, 8);
    rig.write(v3.SMMU_CMDQ_PROD, 1);
    assert.equal(rig.read(v3.SMMU_CMDQ_CONS), v3.CMDQ_ERROR.CERROR_ABT << 24);
  });

  test('that is off does nothing until it is enabled', () => {
    const rig = translatingRig();
    rig.write(v3.SMMU_CR0, 0b0101);
    rig.submit(encodeSync(SYNC_CS.SIG_IRQ));
    assert.deepEqual(rig.irqs, []);
    rig.write(v3.SMMU_CR0, 0b1101);
    assert.deepEqual(rig.irqs, ['cmdq-sync']);
  });
});
