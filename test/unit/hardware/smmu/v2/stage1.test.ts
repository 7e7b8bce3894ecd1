/** Context banks of stage 1, alone and over a bank of stage 2. Stage 1 tables stand at S1_ROOT, those of stage 2 where the rig has them. */
import { assert, describe, test } from 'vitest';
import * as v2 from '#shared/arch/smmu/v2.ts';
import { S2AP } from '#shared/arch/vmsa.ts';
import { CR0_ON, device, RAM, SCTLR_ON, smmuRig } from './rig.ts';

const S1_ROOT = RAM + 0x80_0000;
const PAGE = RAM + 0x50_0000;
/** 39 bits, 4 KiB, TTBR1 off. */
const TCR_S1 = (1 << 23) | 25;
/** AP[2:1] as they stand where stage 2 has S2AP. */
const AP_RW = 1;
const AP_RO = 3;
const HIGH = 0x1_0000_0000;

/** Stage 1 in bank 1 (stream 0x20), over bank 0 when `nested`; VA 0x4000 leads to `output`. */
function stage1Rig(nested: boolean, output: number) {
  const rig = smmuRig();
  const { descriptor, setGlobal, setGlobal1, setBank, group, stage2Bank, mapPage, makeTables } = rig;
  // Of the stage 1 tables: level 1 at S1_ROOT, level 2 and level 3 in the next pages. Nested, they lie at IPAs 0x10_0000 on.
  const at = nested ? 0x10_0000 : S1_ROOT;
  const table = (where: number, next: number): void =>
    descriptor(where, (w) => {
      w[0] = (next | 3) >>> 0;
      w[1] = Math.floor(next / HIGH);
    });
  table(S1_ROOT, at + 0x1000);
  table(S1_ROOT + 0x1000, at + 0x2000);
  const mapVa = (va: number, to: number, ap: number, notGlobal = false): void =>
    descriptor(S1_ROOT + 0x2000 + (va / 0x1000) * 8, (w) => {
      w[0] = ((to & 0xffff_f000) | (notGlobal ? 0x800 : 0) | 0x400 | (ap << 6) | 3) >>> 0;
      w[1] = Math.floor(to / HIGH);
    });
  mapVa(0x4000, output, AP_RW);
  makeTables();
  for (let page = 0; page < 3; page++) mapPage(0x10_0000 + page * 0x1000, S1_ROOT + page * 0x1000);
  stage2Bank(0, 7);
  setGlobal1(v2.SMMU_CBA2R, 1, 1);
  setGlobal1(v2.SMMU_CBAR, ((nested ? v2.CBAR_TYPE.S1_S2 : v2.CBAR_TYPE.S1_S2_BYPASS) << 16) | 7, 1);
  setBank(1, v2.SMMU_CB_TCR, TCR_S1);
  setBank(1, v2.SMMU_CB_TCR2, 5);
  setBank(1, v2.SMMU_CB_TTBR0_LO, at >>> 0);
  setBank(1, v2.SMMU_CB_TTBR0_HI, Math.floor(at / HIGH) | (0x33 << 16));
  setBank(1, v2.SMMU_CB_SCTLR, SCTLR_ON);
  group(0, 0x20, 0, 1);
  setGlobal(v2.SMMU_sCR0, CR0_ON);
  const flags = (bank: number): string[] => v2.faultNames(rig.bank(bank, v2.SMMU_CB_FSR), 'context');
  return { ...rig, mapVa, flags };
}

describe('stage 1 with stage 2 bypassed', () => {
  test('translates by its own tables, whatever stage 2 has', () => {
    const { write, byteAt } = stage1Rig(false, PAGE);
    assert.equal(write(0x20, 0x4007, 0x61), 1);
    assert.equal(byteAt(PAGE + 7), 0x61);
  });

  test('faults in its own bank: translation, permission, and the upper half that is off', () => {
    const { smmu, write, mapVa, flags, bank, setBank, global1 } = stage1Rig(false, PAGE);
    assert.equal(write(0x20, 0x5000, 1), 0);
    assert.deepEqual([flags(0), flags(1)], [[], ['TF']]);
    assert.equal(bank(1, v2.SMMU_CB_FSYNR0) & 3, 3);
    assert.equal(global1(v2.SMMU_CBFRSYNRA, 1), 0x20);
    setBank(1, v2.SMMU_CB_FSR, 0xffff_ffff);
    mapVa(0x6000, PAGE, AP_RO);
    assert.equal(smmu.dmaRead(device(0x20), 0x6000, new Uint8Array(4)), 4);
    assert.equal(write(0x20, 0x6000, 1), 0);
    assert.deepEqual(flags(1), ['PF']);
    setBank(1, v2.SMMU_CB_FSR, 0xffff_ffff);
    assert.equal(write(0x20, 2 ** 39, 1), 0);
    assert.deepEqual(flags(1), ['TF']);
  });

  test('keeps all 64 bits of an address that faults', () => {
    const { smmu, flags, bank } = stage1Rig(false, PAGE);
    assert.equal(smmu.dmaWide(device(0x20), 0xffff_8000_1234_5679n, new Uint8Array(4), true), 0);
    assert.deepEqual(flags(1), ['TF']);
    assert.equal(bank(1, v2.SMMU_CB_FAR_HI), 0xffff_8000);
    assert.equal(bank(1, v2.SMMU_CB_FAR_LO), 0x1234_5679);
  });

  test('off, it passes addresses on', () => {
    const { write, setBank, byteAt } = stage1Rig(false, PAGE);
    setBank(1, v2.SMMU_CB_SCTLR, 0x60);
    assert.equal(write(0x20, PAGE + 9, 0x19), 1);
    assert.equal(byteAt(PAGE + 9), 0x19);
  });

  test.each([
    ['TLBIVA of its ASID', true, (r: Rig) => tlbi(r, v2.SMMU_CB_TLBIVA_LO, 4, 0x33 << 16)],
    ['TLBIVAL of its ASID', true, (r: Rig) => tlbi(r, v2.SMMU_CB_TLBIVAL_LO, 4, 0x33 << 16)],
    ['TLBIVA of another ASID', false, (r: Rig) => tlbi(r, v2.SMMU_CB_TLBIVA_LO, 4, 0x34 << 16)],
    ['TLBIVA of another page', false, (r: Rig) => tlbi(r, v2.SMMU_CB_TLBIVA_LO, 5, 0x33 << 16)],
    ['TLBIVAA', true, (r: Rig) => tlbi(r, v2.SMMU_CB_TLBIVAA_LO, 4, 0)],
    ['TLBIASID', true, (r: Rig) => r.setBank(1, v2.SMMU_CB_TLBIASID, 0x33)],
    ['TLBIASID of another', false, (r: Rig) => r.setBank(1, v2.SMMU_CB_TLBIASID, 0x34)],
    ['TLBIALL', true, (r: Rig) => r.setBank(1, v2.SMMU_CB_TLBIALL, 0)],
    ['TLBIIPAS2', false, (r: Rig) => tlbi(r, v2.SMMU_CB_TLBIIPAS2_LO, 4, 0, 0)],
  ])('a stale translation after %s: gone is %s', (_name, gone, invalidate) => {
    const rig = stage1Rig(false, PAGE);
    rig.mapVa(0x4000, PAGE, AP_RW, true);
    assert.equal(rig.write(0x20, 0x4000, 1), 1);
    rig.mapVa(0x4000, PAGE, 0, true);
    assert.equal(rig.write(0x20, 0x4000, 1), 1, 'stale');
    invalidate(rig);
    assert.equal(rig.write(0x20, 0x4000, 1), gone ? 0 : 1);
  });

  test('an ASID has entries of its own, and global ones are for all', () => {
    const { write, mapVa, setBank, byteAt } = stage1Rig(false, PAGE);
    mapVa(0x7000, PAGE, AP_RW, true);
    write(0x20, 0x7000, 1);
    write(0x20, 0x4000, 1);
    mapVa(0x7000, PAGE + 0x1000, AP_RW, true);
    mapVa(0x4000, PAGE + 0x1000, AP_RW);
    setBank(1, v2.SMMU_CB_TTBR0_HI, Math.floor(S1_ROOT / HIGH) | (0x44 << 16));
    write(0x20, 0x7001, 0x71);
    write(0x20, 0x4002, 0x72);
    assert.equal(byteAt(PAGE + 0x1001), 0x71, 'the new ASID walked');
    assert.equal(byteAt(PAGE + 2), 0x72, 'the global entry is still the old one');
  });
});

describe('stage 1 over stage 2', () => {
  test('tables and output of stage 1 are intermediate addresses', () => {
    const { write, mapPage, byteAt } = stage1Rig(true, 0x9000);
    mapPage(0x9000, PAGE);
    assert.equal(write(0x20, 0x4003, 0x5c), 1);
    assert.equal(byteAt(PAGE + 3), 0x5c);
  });

  test('a fault of stage 2 is recorded in its bank, with the intermediate address and the bank of stage 1', () => {
    const { write, flags, bank, global1, lines } = stage1Rig(true, 0x9000);
    assert.equal(write(0x20, 0x4003, 1), 0);
    assert.deepEqual([flags(0), flags(1)], [['TF'], []]);
    assert.equal(bank(0, v2.SMMU_CB_FAR_LO), 0x4003);
    assert.equal(bank(0, v2.SMMU_CB_IPAFAR_LO), 0x9000);
    assert.equal((bank(0, v2.SMMU_CB_FSYNR0) >>> 16) & 0xff, 1);
    assert.equal((bank(0, v2.SMMU_CB_FSYNR0) >>> 10) & 1, 0);
    assert.equal(global1(v2.SMMU_CBFRSYNRA, 0), 0x20);
    assert.deepEqual(lines, ['0 up']);
  });

  test('a table of stage 1 that stage 2 does not map is told apart', () => {
    const { write, unmapPage, flags, bank } = stage1Rig(true, 0x9000);
    unmapPage(0x10_1000);
    assert.equal(write(0x20, 0x4003, 1), 0);
    assert.deepEqual(flags(0), ['TF']);
    assert.equal((bank(0, v2.SMMU_CB_FSYNR0) >>> 10) & 1, 1, 'PTWF');
    assert.equal(bank(0, v2.SMMU_CB_IPAFAR_LO), 0x10_1000);
  });

  test('the narrower of both permissions counts, also out of the TLB', () => {
    const { smmu, write, mapPage, flags } = stage1Rig(true, 0x9000);
    mapPage(0x9000, PAGE, S2AP.read);
    assert.equal(smmu.dmaRead(device(0x20), 0x4000, new Uint8Array(4)), 4);
    assert.equal(write(0x20, 0x4000, 1), 0);
    assert.deepEqual([flags(0), flags(1)], [['PF'], []]);
  });

  test('with stage 1 off the address is an intermediate one', () => {
    const { write, mapPage, setBank, flags, bank } = stage1Rig(true, 0x9000);
    mapPage(0x9000, PAGE);
    setBank(1, v2.SMMU_CB_SCTLR, 0x60);
    assert.equal(write(0x20, 0x9004, 1), 1);
    assert.equal(write(0x20, 0xa000, 1), 0);
    assert.deepEqual(flags(0), ['TF']);
    assert.equal((bank(0, v2.SMMU_CB_FSYNR0) >>> 16) & 0xff, 1);
  });

  test('TLBIVMID takes what both stages found', () => {
    const { write, mapPage, unmapPage, setGlobal } = stage1Rig(true, 0x9000);
    mapPage(0x9000, PAGE);
    write(0x20, 0x4000, 1);
    unmapPage(0x9000);
    assert.equal(write(0x20, 0x4000, 1), 1, 'stale');
    setGlobal(v2.SMMU_TLBIVMID, 7);
    assert.equal(write(0x20, 0x4000, 1), 0);
  });

  test('a bank of stage 2 that is not there, or a stage 2 that is to fault, is a global fault', () => {
    const rig = stage1Rig(true, 0x9000);
    rig.setGlobal1(v2.SMMU_CBAR, (v2.CBAR_TYPE.S1_S2 << 16) | (200 << 8) | 7, 1);
    assert.equal(rig.write(0x20, 0x4000, 1), 0);
    assert.deepEqual(v2.faultNames(rig.global(v2.SMMU_sGFSR), 'global'), ['UCBF']);
    rig.setGlobal(v2.SMMU_sGFSR, 0xffff_ffff);
    rig.setGlobal1(v2.SMMU_CBAR, (v2.CBAR_TYPE.S1_S2_FAULT << 16) | 7, 1);
    assert.equal(rig.write(0x20, 0x4000, 1), 0);
    assert.deepEqual(v2.faultNames(rig.global(v2.SMMU_sGFSR), 'global'), ['ICF']);
  });
});

type Rig = ReturnType<typeof stage1Rig>;

function tlbi(rig: Rig, register: { readonly offset: number }, low: number, high: number, bank = 1): void {
  rig.setBank(bank, register, low);
  rig.setBank(bank, { offset: register.offset + 4 }, high);
}
