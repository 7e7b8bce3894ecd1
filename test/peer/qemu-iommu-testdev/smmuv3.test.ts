/**
 * QEMU's qtest for the SMMUv3 with its iommu-testdev against our SMMU: a linear table of 32 streams, one device, one
 * mapping, and a DMA write of 0x12345678 that has to arrive where the tables say. Three kinds of entry, and what the
 * device reports when its DMA is aborted.
 */
import { assert, describe, test } from 'vitest';
import * as v3 from '#shared/arch/smmu/v3.ts';
import { encodeCd, encodeNestedSte, encodeStage1Ste, encodeStage2Ste } from '#shared/arch/smmu/v3-structures.ts';
import { MEM_ATTR, S1_AP, S2AP, SHAREABILITY, writeLeaf, writeStage1Leaf, writeTable } from '#shared/arch/vmsa.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { device, RAM, ROOT, smmuRig } from '../../unit/hardware/smmu/rig.ts';

const SID = 8;
const IOVA = 0x8080_6045_67;
const PAGE_IOVA = IOVA - (IOVA % 0x1000);
const VALUE = 0x1234_5678;
const TARGET = RAM + 0x60_0000;
const CD_AT = RAM + 0x80_0000;
const S1_ROOT = RAM + 0x81_0000;
/** The result codes of iommu-testdev. */
const RESULT = { ok: 0, dmaError: 0xdead_0001, mismatch: 0xdead_0002 } as const;

type Rig = ReturnType<typeof smmuRig>;

/** Four levels of tables for one page, each below `root`; `leaf` writes the last descriptor. */
function tables(
  rig: Rig,
  root: number,
  address: number,
  at: (table: number) => number,
  leaf: (w: Uint32Array) => void,
) {
  let table = root;
  for (const shift of [39, 30, 21]) {
    rig.descriptor(table + 8 * (Math.floor(address / 2 ** shift) % 512), (w) => writeTable(w, 0, at(table + 0x1000)));
    table += 0x1000;
  }
  rig.descriptor(table + 8 * (Math.floor(address / 4096) % 512), leaf);
}

const stage2Leaf = (pa: number) => (w: Uint32Array) =>
  writeLeaf(w, 0, 3, pa, { s2ap: S2AP.readWrite, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: false });
const stage1Leaf = (pa: number) => (w: Uint32Array) =>
  writeStage1Leaf(w, 0, 3, pa, { ap: S1_AP.readWrite, attrIndx: 0, sh: SHAREABILITY.inner, notGlobal: true });
const SAME = (pa: number): number => pa;

/** S2T0SZ 0x14 (44 bits), SL0 2, granule 4 KiB, S2PS 5. */
const STAGE2 = { vmid: 1, t0sz: 0x14, sl0: 2, ps: 5, ttb: ROOT };

function start(rig: Rig): void {
  rig.enable(5);
  assert.equal(rig.read(v3.SMMU_CR0), 0xd);
  assert.equal(rig.read(v3.SMMU_CR0ACK), 0xd);
}

/** What the device does when it is triggered: writes, reads back over the same address, compares. */
function trigger(rig: Rig, iova: number): number {
  const bytes = bytesOf(Uint32Array.of(VALUE));
  if (rig.smmu.dmaWrite(device(SID), iova, bytes) !== 4) return RESULT.dmaError;
  const back = new Uint8Array(4);
  if (rig.smmu.dmaRead(device(SID), iova, back) !== 4) return RESULT.dmaError;
  return back.every((byte, i) => byte === bytes[i]) ? RESULT.ok : RESULT.mismatch;
}

const arrived = (rig: Rig): number => {
  const bytes = new Uint8Array(4);
  rig.ram.readBytes(TARGET + (IOVA % 0x1000), bytes);
  return bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24);
};

describe('QEMU iommu-testdev, smmuv3', () => {
  test('[qemu-iommu-testdev/ns-s2-only] a write through stage 2 arrives at the mapped address', () => {
    const rig = smmuRig();
    tables(rig, ROOT, PAGE_IOVA, SAME, stage2Leaf(TARGET));
    rig.writeSte(SID, encodeStage2Ste(STAGE2));
    start(rig);
    assert.equal(trigger(rig, IOVA), RESULT.ok);
    assert.equal(arrived(rig), VALUE);
  });

  test('[qemu-iommu-testdev/ns-s1-only] a write through stage 1 arrives at the mapped address', () => {
    const rig = smmuRig();
    tables(rig, S1_ROOT, PAGE_IOVA, SAME, stage1Leaf(TARGET));
    rig.ram.writeBytes(CD_AT, bytesOf(encodeCd({ asid: 1, t0sz: 16, ips: 5, ttb0: S1_ROOT })));
    rig.writeSte(SID, encodeStage1Ste(CD_AT));
    start(rig);
    assert.equal(trigger(rig, IOVA), RESULT.ok);
    assert.equal(arrived(rig), VALUE);
  });

  test('[qemu-iommu-testdev/ns-nested] a write through both stages arrives at the mapped address', () => {
    const rig = smmuRig();
    // Descriptor, tables and data of stage 1 lie at intermediate addresses 2^43 above where they are in this model's RAM.
    const ipaOf = (pa: number): number => pa - RAM + 2 ** 43;
    for (const pa of [CD_AT, S1_ROOT, S1_ROOT + 0x1000, S1_ROOT + 0x2000, S1_ROOT + 0x3000, TARGET]) {
      const ipa = ipaOf(pa);
      const [l1, l2] = [ROOT + 0x1000, ROOT + 0x2000];
      const l3 = ROOT + 0x3000 + (Math.floor(ipa / 2 ** 21) % 512) * 0x1000;
      rig.descriptor(ROOT + 8 * (Math.floor(ipa / 2 ** 39) % 512), (w) => writeTable(w, 0, l1));
      rig.descriptor(l1 + 8 * (Math.floor(ipa / 2 ** 30) % 512), (w) => writeTable(w, 0, l2));
      rig.descriptor(l2 + 8 * (Math.floor(ipa / 2 ** 21) % 512), (w) => writeTable(w, 0, l3));
      rig.descriptor(l3 + 8 * (Math.floor(ipa / 4096) % 512), stage2Leaf(pa));
    }
    tables(rig, S1_ROOT, PAGE_IOVA, ipaOf, stage1Leaf(ipaOf(TARGET)));
    rig.ram.writeBytes(CD_AT, bytesOf(encodeCd({ asid: 1, t0sz: 16, ips: 5, ttb0: ipaOf(S1_ROOT) })));
    rig.writeSte(SID, encodeNestedSte(ipaOf(CD_AT), STAGE2));
    start(rig);
    assert.equal(trigger(rig, IOVA), RESULT.ok);
    assert.equal(arrived(rig), VALUE);
  });

  test('[qemu-iommu-testdev/result-codes] an unmapped address is a DMA error, and nothing is written', () => {
    const rig = smmuRig();
    tables(rig, ROOT, PAGE_IOVA, SAME, stage2Leaf(TARGET));
    rig.writeSte(SID, encodeStage2Ste(STAGE2));
    start(rig);
    assert.equal(trigger(rig, IOVA + 0x1000), RESULT.dmaError);
    assert.equal(arrived(rig), 0);
  });
});
