/** Stage-1 tables and context descriptors for the SMMU rig, at physical or, for nested streams, at intermediate addresses. */
import { encodeCd, encodeNestedSte, encodeStage1Ste } from '#shared/arch/smmu/v3-structures.ts';
import { S1_AP, SHAREABILITY, writeInvalid, writeStage1Leaf, writeTable } from '#shared/arch/vmsa.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import type { SmmuFeatures } from '../../../../services/hardware/smmu/v3/features.ts';
import { RAM, ROOT, smmuRig } from './rig.ts';

/** Where stage 1 has its things: the context descriptor, and tables for the first 2 MiB of the lower half. */
export const CD = RAM + 0x80_0000;
export const S1_ROOT = RAM + 0x81_0000;
export const S1_L1 = RAM + 0x81_1000;
export const S1_L2 = RAM + 0x81_2000;
export const S1_L3 = RAM + 0x81_3000;
/** The root of the upper half, whose last 2 MiB have tables. */
export const S1_UPPER = RAM + 0x82_0000;
export const ASID = 5;
export const VMID = 7;
/** The top of the address space: the upper half ends here. */
export const TOP = 2 ** 64;

export interface Leaf {
  readonly ap?: number;
  readonly notGlobal?: boolean;
  readonly level?: number;
}

export function stage1Rig(features: Partial<SmmuFeatures> = {}) {
  const rig = smmuRig(features);
  const { descriptor, ram } = rig;
  const leaf = (at: number, pa: number, { ap = S1_AP.readWrite, notGlobal = true, level = 3 }: Leaf = {}): void =>
    descriptor(at, (w) => writeStage1Leaf(w, 0, level, pa, { ap, attrIndx: 1, sh: SHAREABILITY.inner, notGlobal }));
  /** Maps a page of the lower half below 2 MiB. */
  const mapVa = (va: number, pa: number, attributes?: Leaf): void => leaf(S1_L3 + (va / 0x1000) * 8, pa, attributes);
  const unmapVa = (va: number): void => descriptor(S1_L3 + (va / 0x1000) * 8, (w) => writeInvalid(w, 0));
  const writeCd = (words: Uint32Array, at = CD): void => ram.writeBytes(at, bytesOf(words));
  const defaultCd = (asid = ASID): Uint32Array => encodeCd({ asid, t0sz: 16, ips: 5, ttb0: S1_ROOT });
  return { ...rig, leaf, mapVa, unmapVa, writeCd, defaultCd };
}

/** Stream 0x10 with stage 1 alone, 48 bits of address, and VA 0x1000 mapped to RAM + 0x50_0000. */
export function stage1Only(features: Partial<SmmuFeatures> = {}) {
  const rig = stage1Rig(features);
  rig.descriptor(S1_ROOT, (w) => writeTable(w, 0, S1_L1));
  rig.descriptor(S1_L1, (w) => writeTable(w, 0, S1_L2));
  rig.descriptor(S1_L2, (w) => writeTable(w, 0, S1_L3));
  rig.mapVa(0x1000, RAM + 0x50_0000);
  rig.writeCd(rig.defaultCd());
  rig.writeSte(0x10, encodeStage1Ste(CD, VMID));
  rig.enable();
  return rig;
}

/** Intermediate addresses of the same things for a nested stream: page n of them is at n * 0x1000. */
export const IPA = {
  CD: 0x10_0000,
  ROOT: 0x10_1000,
  L1: 0x10_2000,
  L2: 0x10_3000,
  L3: 0x10_4000,
  DATA: 0x10_5000,
} as const;

/** Stream 0x10 with both stages: VA 0x1000 is IPA.DATA is RAM + 0x50_0000, and every structure is mapped for reading. */
export function nested() {
  const rig = stage1Rig();
  rig.makeTables();
  rig.mapPage(IPA.CD, CD);
  rig.mapPage(IPA.ROOT, S1_ROOT);
  rig.mapPage(IPA.L1, S1_L1);
  rig.mapPage(IPA.L2, S1_L2);
  rig.mapPage(IPA.L3, S1_L3);
  rig.mapPage(IPA.DATA, RAM + 0x50_0000);
  rig.descriptor(S1_ROOT, (w) => writeTable(w, 0, IPA.L1));
  rig.descriptor(S1_L1, (w) => writeTable(w, 0, IPA.L2));
  rig.descriptor(S1_L2, (w) => writeTable(w, 0, IPA.L3));
  rig.mapVa(0x1000, IPA.DATA);
  rig.writeCd(encodeCd({ asid: ASID, t0sz: 16, ips: 5, ttb0: IPA.ROOT }));
  rig.writeSte(0x10, encodeNestedSte(IPA.CD, { vmid: VMID, t0sz: 24, sl0: 1, ps: 5, ttb: ROOT }));
  rig.enable();
  return rig;
}
