import { assert, describe, test } from 'vitest';
import * as v3 from '#shared/arch/smmu/v3.ts';
import { asWord, get } from '#shared/regs/field.ts';
import { device, RAM, smmuRig, translatingRig } from './rig.ts';

describe('SMMUv3 registers', () => {
  test('say what the part is', () => {
    const { read } = smmuRig();
    assert.equal(read(v3.SMMU_IDR0), 0x0d44_0019);
    const idr1 = asWord(v3.SMMU_IDR1, read(v3.SMMU_IDR1));
    assert.deepEqual(
      [get(v3.SMMU_IDR1.SIDSIZE, idr1), get(v3.SMMU_IDR1.CMDQS, idr1), get(v3.SMMU_IDR1.EVENTQS, idr1)],
      [16, 8, 7],
    );
    assert.equal(read(v3.SMMU_IDR5), 0x15);
  });

  test('acknowledge exactly the control bits that exist, and at once', () => {
    const { read, write } = smmuRig();
    write(v3.SMMU_CR0, 0xffff_ffff);
    assert.equal(read(v3.SMMU_CR0ACK), 0b1101);
    write(v3.SMMU_IRQ_CTRL, 0b111);
    assert.equal(read(v3.SMMU_IRQ_CTRLACK), 0b101);
  });

  test('abort DMA at reset, and let it pass once GBPA is updated to bypass', () => {
    const { smmu, write, read, ram } = smmuRig();
    ram.write8(RAM, 0x5a);
    const into = new Uint8Array(1);
    assert.equal(smmu.dmaRead(device(0), RAM, into), 0);
    write(v3.SMMU_GBPA, 0x1000);
    assert.equal(smmu.dmaRead(device(0), RAM, into), 0, 'a write without Update is ignored');
    write(v3.SMMU_GBPA, 0x8000_1000);
    assert.equal(read(v3.SMMU_GBPA), 0x1000);
    assert.equal(smmu.dmaRead(device(0), RAM, into), 1);
    assert.equal(into[0], 0x5a);
    assert.equal(smmu.dmaRead(device(0), 2 ** 48, into), 0);
    assert.deepEqual(smmu.counts.events, {});
  });

  test('lock the table and queue bases while they are in use', () => {
    const { write, read } = translatingRig();
    write(v3.SMMU_STRTAB_BASE_CFG, 0);
    write(v3.SMMU_CMDQ_BASE_LO, 0);
    write(v3.SMMU_CMDQ_CONS, 0);
    write(v3.SMMU_EVENTQ_BASE_LO, 0);
    write(v3.SMMU_CR2, 2);
    assert.equal(read(v3.SMMU_STRTAB_BASE_CFG), 9);
    assert.equal(read(v3.SMMU_CMDQ_BASE_LO), 0x20_0004);
    assert.equal(read(v3.SMMU_CMDQ_CONS), 3);
    assert.equal(read(v3.SMMU_EVENTQ_BASE_LO), 0x20_4002);
    assert.equal(read(v3.SMMU_CR2), 0);
  });

  test('take aligned words only', () => {
    const { smmu } = smmuRig();
    smmu.registers.write(v3.SMMU_CR0.offset, 2, 0xd);
    assert.equal(smmu.registers.read(v3.SMMU_CR0.offset, 4), 0);
    assert.equal(smmu.registers.read(v3.SMMU_IDR0.offset, 1), 0);
  });

  test('fall back to power-on by reset, with every cache empty', () => {
    const rig = translatingRig();
    assert.equal(rig.smmu.dmaRead(device(0x10), 0x1000, new Uint8Array(4)), 4);
    rig.smmu.reset();
    assert.equal(rig.read(v3.SMMU_CR0), 0);
    assert.equal(rig.read(v3.SMMU_IDR5), 0x15);
    assert.equal(rig.smmu.dmaRead(device(0x10), 0x1000, new Uint8Array(4)), 0);
    assert.deepInclude(rig.smmu.inspect() as object, { streams: {}, tlb: [], gbpaAbort: true });
  });
});
