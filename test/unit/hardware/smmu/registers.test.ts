import { assert, describe, test } from 'vitest';
import * as v3 from '#shared/arch/smmu/v3.ts';
import { asWord, get } from '#shared/regs/field.ts';
import { Smmuv3 } from '../../../../services/hardware/smmu/v3/smmuv3.ts';
import { device, RAM, STREAM_TABLE, smmuRig, translatingRig } from './rig.ts';

describe('SMMUv3 registers', () => {
  test('say what the part is', () => {
    const { read } = smmuRig();
    assert.equal(read(v3.SMMU_IDR0), 0x0d44_101b);
    const idr1 = asWord(v3.SMMU_IDR1, read(v3.SMMU_IDR1));
    assert.deepEqual(
      [get(v3.SMMU_IDR1.SIDSIZE, idr1), get(v3.SMMU_IDR1.CMDQS, idr1), get(v3.SMMU_IDR1.EVENTQS, idr1)],
      [16, 8, 7],
    );
    assert.equal(read(v3.SMMU_IDR5), 0x75);
  });

  test('say what a board chose instead', () => {
    const { read } = smmuRig({ S1P: 0, ST_LEVEL: 0, RIL: 1, OAS: 4, SIDSIZE: 8, VMID16: 0, MSI: 1, GRAN64K: 0 });
    assert.equal(read(v3.SMMU_IDR0), 0x0540_2019);
    assert.equal(read(v3.SMMU_IDR1) & 0x3f, 8);
    assert.equal(read(v3.SMMU_IDR3), 1 << 10);
    assert.equal(read(v3.SMMU_IDR5), 0x34);
    assert.equal(read(v3.SMMU_AIDR), 2);
  });

  test('have places for the addresses of MSIs only where the part sends them, locked while the interrupt is on', () => {
    const without = smmuRig();
    without.write(v3.SMMU_EVENTQ_IRQ_CFG1, 5);
    assert.equal(without.read(v3.SMMU_EVENTQ_IRQ_CFG1), 0);
    const { read, write } = smmuRig({ MSI: 1 });
    write(v3.SMMU_EVENTQ_IRQ_CFG1, 5);
    write(v3.SMMU_IRQ_CTRL, 4);
    write(v3.SMMU_EVENTQ_IRQ_CFG1, 6);
    write(v3.SMMU_GERROR_IRQ_CFG1, 7);
    assert.deepEqual([read(v3.SMMU_EVENTQ_IRQ_CFG1), read(v3.SMMU_GERROR_IRQ_CFG1)], [5, 7]);
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
    assert.equal(rig.read(v3.SMMU_IDR5), 0x75);
    assert.equal(rig.smmu.dmaRead(device(0x10), 0x1000, new Uint8Array(4)), 0);
    assert.deepInclude(rig.smmu.inspect() as object, { streams: {}, tlb: [], gbpaAbort: true });
  });

  test('and caches go on in another SMMU over the same memory when they are saved', () => {
    const rig = translatingRig();
    const dma = (smmu: typeof rig.smmu): number => smmu.dmaRead(device(0x10), 0x1000, new Uint8Array(4));
    assert.equal(dma(rig.smmu), 4);
    assert.equal(rig.smmu.dmaRead(device(0x10), 0x9000, new Uint8Array(4)), 0);
    rig.unmapPage(0x1000);
    rig.ram.fill(STREAM_TABLE, 512 * 64, 0);
    const other = new Smmuv3({ name: 'smmu0', bus: rig.bus, irq: () => {} });
    other.load(structuredClone(rig.smmu.save()));
    assert.deepEqual(other.inspect(), rig.smmu.inspect());
    assert.equal(dma(other), 4, 'a stale translation is as stale there');
    other.registers.write(v3.SMMU_CR0.offset, 4, 0);
    assert.equal(dma(other), 0);
  });
});
