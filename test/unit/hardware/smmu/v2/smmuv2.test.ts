import { assert, describe, test } from 'vitest';
import * as v2 from '#shared/arch/smmu/v2.ts';
import { S2AP } from '#shared/arch/vmsa.ts';
import { Tlb } from '../../../../../services/hardware/mmu/tlb.ts';
import { featuresOf, geometryOf } from '../../../../../services/hardware/smmu/v2/features.ts';
import { CR0_ON, device, memory, RAM, ROOT, SCTLR_ON, smmuRig, translatingRig } from './rig.ts';

const PAGE = RAM + 0x50_0000;
const OTHER_PAGE = RAM + 0x60_0000;
const BYPASS = v2.S2CR_TYPE.BYPASS << 16;
const FAULT = v2.S2CR_TYPE.FAULT << 16;

describe('what the part says of itself', () => {
  test('128 groups, 128 banks and pages of 64 KiB make 16 MiB of registers', () => {
    const { smmu, global } = smmuRig();
    assert.equal(smmu.geometry.sizeBytes, 0x100_0000);
    assert.equal(smmu.geometry.banks, 0x80_0000);
    assert.equal(global(v2.SMMU_IDR0) & 0xff, 128);
    assert.equal(global(v2.SMMU_IDR1) & 0xff, 128);
    assert.equal(global(v2.SMMU_IDR1) >>> 31, 1);
    assert.equal(global(v2.SMMU_IDR7) >>> 4, 2);
    assert.equal((global(v2.SMMU_IDR2) >>> 4) & 15, 5);
  });

  test('with pages of 4 KiB the first bank stands in the middle of a smaller block', () => {
    const { geometry } = smmuRig({ pageBytes: 0x1000, numPageNdxb: 2, contextBanks: 8 }).smmu;
    assert.deepEqual(geometry, { pageBytes: 0x1000, sizeBytes: 0x1_0000, gr1: 0x1000, banks: 0x8000 });
  });

  test.each([
    ['mmu-400', 0x1_0000, 0x1000, 8],
    ['mmu-401', 0x1_0000, 0x1000, 8],
    ['mmu-500', 0x80_0000, 0x1_0000, 64],
    ['cavium-smmu-v2', 0x200_0000, 0x1_0000, 128],
  ])('the registers of a %s of %i bytes are divided to fit', (implementation, sizeBytes, pageBytes, banks) => {
    const features = featuresOf({ implementation, sizeBytes, contextInterrupts: 8, dmaCoherent: false });
    assert.equal(features.pageBytes, pageBytes);
    assert.equal(features.contextBanks, banks);
    assert.isAtMost(geometryOf(features).sizeBytes, sizeBytes);
  });

  test('a stream match register keeps 15 bits of ID and of mask where there are no longer StreamIDs', () => {
    const { global, setGlobal } = smmuRig();
    setGlobal(v2.SMMU_SMR, 0x7fff_0000);
    assert.equal(global(v2.SMMU_SMR), 0x7fff_0000);
    setGlobal(v2.SMMU_sCR0, 0xffff_ffff);
    assert.equal(global(v2.SMMU_sCR0) & 8, 0, 'EXIDENABLE of a part without it');
    assert.equal(global(v2.SMMU_sCR0) >>> 31, 0, 'VMID16EN');
  });
});

describe('from stream to context', () => {
  test('until software programs it, everything passes', () => {
    const { write, byteAt } = smmuRig();
    assert.equal(write(0x10, PAGE, 0xab), 1);
    assert.equal(byteAt(PAGE), 0xab);
  });

  test('a stream that matches a group goes through its bank', () => {
    const { write, byteAt } = translatingRig();
    assert.equal(write(0x10, 0x1004, 0xcd), 1);
    assert.equal(byteAt(PAGE + 4), 0xcd);
  });

  test('an address beyond 48 bits is none that the TLB has', () => {
    const { write, bank } = translatingRig();
    assert.equal(write(0x10, 0x1004, 1), 1);
    assert.equal(write(0x10, 2 ** 50 + 0x1004, 1), 0);
    assert.deepEqual(v2.faultNames(bank(0, v2.SMMU_CB_FSR), 'context'), ['TF']);
    assert.equal(bank(0, v2.SMMU_CB_FAR_HI), 2 ** 18);
  });

  test('bits of the mask are not compared', () => {
    const { write, group } = translatingRig();
    group(1, 0x400, 0x0ff, 0);
    assert.equal(write(0x4a5, 0x1000, 1), 1);
    assert.equal(write(0x5a5, 0x1000, 1), 0);
  });

  test('a stream that matches nothing faults as an unidentified one, or passes when software says so', () => {
    const { write, global, setGlobal, lines } = translatingRig();
    assert.equal(write(0x99, 0x1_2345_6000, 1), 0);
    assert.deepEqual(v2.faultNames(global(v2.SMMU_sGFSR), 'global'), ['USF']);
    assert.equal(global(v2.SMMU_sGFAR_LO), 0x2345_6000);
    assert.equal(global(v2.SMMU_sGFAR_HI), 1);
    assert.equal(global(v2.SMMU_sGFSYNR0) & 2, 2, 'a write');
    assert.equal(global(v2.SMMU_sGFSYNR1), 0x99);
    assert.deepEqual(lines, ['global up']);
    setGlobal(v2.SMMU_sGFSR, 0x2);
    assert.deepEqual(lines, ['global up', 'global down']);
    setGlobal(v2.SMMU_sCR0, CR0_ON & ~0x400);
    assert.equal(write(0x99, PAGE, 1), 1);
  });

  test('two groups for one stream are a conflict', () => {
    const { write, global, group } = translatingRig();
    group(5, 0x10, 0, 0);
    assert.equal(write(0x10, 0x1000, 1), 0);
    assert.deepEqual(v2.faultNames(global(v2.SMMU_sGFSR), 'global'), ['SMCF']);
  });

  test('S2CR says bypass or fault', () => {
    const { write, group, global, byteAt } = translatingRig();
    group(1, 0x20, 0, BYPASS);
    group(2, 0x21, 0, FAULT);
    assert.equal(write(0x20, PAGE + 8, 0x77), 1);
    assert.equal(byteAt(PAGE + 8), 0x77);
    assert.equal(write(0x21, 0x1000, 1), 0);
    assert.deepEqual(v2.faultNames(global(v2.SMMU_sGFSR), 'global'), ['ICF']);
  });

  test('a bank that is not there is a global fault', () => {
    const { write, group, global } = translatingRig({ contextBanks: 8 });
    group(1, 0x20, 0, 8);
    assert.equal(write(0x20, 0x1000, 1), 0);
    assert.deepEqual(v2.faultNames(global(v2.SMMU_sGFSR), 'global'), ['UCBF']);
  });

  test('a second global fault leaves the first one and says that there were more', () => {
    const { write, global } = translatingRig();
    write(0x98, 0x5000, 1);
    write(0x99, 0x6000, 1);
    assert.equal(global(v2.SMMU_sGFSR), 0x8000_0002);
    assert.equal(global(v2.SMMU_sGFSYNR1), 0x98);
    assert.equal(global(v2.SMMU_sGFAR_LO), 0x5000);
  });

  test('without GFRE a stream that matches nothing reads zeros and writes nothing', () => {
    const { smmu, write, setGlobal, byteAt, ram } = translatingRig();
    setGlobal(v2.SMMU_sCR0, CR0_ON & ~0x2);
    ram.writeBytes(PAGE, Uint8Array.of(9));
    assert.equal(write(0x99, PAGE, 5), 1);
    assert.equal(byteAt(PAGE), 9);
    const into = new Uint8Array(0x2000).fill(0xff);
    assert.equal(smmu.dmaRead(device(0x99), PAGE, into), 0x2000);
    assert.isTrue(into.every((b) => b === 0));
  });

  test('without stream matching a StreamID is the number of its group', () => {
    const rig = smmuRig({ streamMatching: false, streamGroups: 64 });
    rig.makeTables();
    rig.mapPage(0x1000, PAGE);
    rig.stage2Bank(3, 9);
    rig.setGlobal(v2.SMMU_S2CR, 3, 0x21);
    rig.setGlobal(v2.SMMU_S2CR, FAULT, 0x22);
    rig.setGlobal(v2.SMMU_sCR0, CR0_ON);
    assert.equal(rig.write(0x21, 0x1000, 1), 1);
    assert.equal(rig.write(0x22, 0x1000, 1), 0);
    assert.equal(rig.write(64, 0x1000, 1), 0);
    assert.equal((rig.global(v2.SMMU_IDR0) >>> 27) & 1, 0);
    assert.equal((rig.global(v2.SMMU_IDR0) >>> 9) & 15, 6);
  });

  test('with longer StreamIDs in use, S2CR says whether a group is valid', () => {
    const rig = translatingRig({ extendedStreamIds: true });
    rig.setGlobal(v2.SMMU_sCR0, CR0_ON | 8);
    assert.equal(rig.write(0x10, 0x1000, 1), 0);
    rig.setGlobal(v2.SMMU_SMR, 0x00ff_ab00, 4);
    rig.setGlobal(v2.SMMU_S2CR, 0x400, 4);
    assert.equal(rig.write(0xab12, 0x1000, 1), 1);
    assert.equal(rig.write(0x1_ab12, 0x1000, 1), 0, 'a StreamID of 17 bits');
    assert.equal(rig.write(0x2b12, 0x1000, 1), 0);
  });
});

describe('context faults', () => {
  test('an address that is not mapped is a translation fault of its bank', () => {
    const { write, bank, global1, setBank, lines } = translatingRig();
    assert.equal(write(0x10, 0x5678, 1), 0);
    assert.deepEqual(v2.faultNames(bank(0, v2.SMMU_CB_FSR), 'context'), ['TF']);
    assert.equal(bank(0, v2.SMMU_CB_FAR_LO), 0x5678);
    assert.equal(bank(0, v2.SMMU_CB_IPAFAR_LO), 0x5000);
    assert.equal(bank(0, v2.SMMU_CB_FSYNR0) & 0x13, 0x13, 'a write that ended at level 3');
    assert.equal(global1(v2.SMMU_CBFRSYNRA), 0x10);
    assert.deepEqual(lines, ['0 up']);
    setBank(0, v2.SMMU_CB_FSR, 0xffff_ffff);
    assert.deepEqual(lines, ['0 up', '0 down']);
    assert.equal(bank(0, v2.SMMU_CB_FSR), 0);
  });

  test('the first fault is kept, and later ones are only said to be there', () => {
    const { smmu, write, bank, group, global1 } = translatingRig();
    group(1, 0x30, 0, 0);
    write(0x10, 0x5000, 1);
    smmu.dmaRead(device(0x30), 0x6000, new Uint8Array(4));
    assert.equal(bank(0, v2.SMMU_CB_FSR), 0x8000_0002);
    assert.equal(bank(0, v2.SMMU_CB_FAR_LO), 0x5000);
    assert.equal(global1(v2.SMMU_CBFRSYNRA), 0x10);
    assert.equal(smmu.counts.eventsLost, 1);
  });

  test('permission, access flag and address size faults have their own flags', () => {
    const { smmu, write, bank, setBank, mapPage, ram } = translatingRig();
    mapPage(0x2000, PAGE, S2AP.read);
    assert.equal(smmu.dmaRead(device(0x10), 0x2000, new Uint8Array(4)), 4);
    write(0x10, 0x2000, 1);
    assert.deepEqual(v2.faultNames(bank(0, v2.SMMU_CB_FSR), 'context'), ['PF']);
    setBank(0, v2.SMMU_CB_FSR, 0xffff_ffff);
    mapPage(0x3000, PAGE);
    const entry = ROOT + 0x3000 + 3 * 8;
    const bytes = new Uint8Array(8);
    ram.readBytes(entry, bytes);
    bytes[1]! &= ~0x04; // AF
    ram.writeBytes(entry, bytes);
    write(0x10, 0x3000, 1);
    assert.deepEqual(v2.faultNames(bank(0, v2.SMMU_CB_FSR), 'context'), ['AFF']);
    setBank(0, v2.SMMU_CB_FSR, 0xffff_ffff);
    setBank(0, v2.SMMU_CB_SCTLR, SCTLR_ON | 8);
    assert.equal(write(0x10, 0x3000, 1), 1, 'AFFD');
  });

  test('a table outside memory is an external fault', () => {
    const { write, bank, setBank } = translatingRig();
    setBank(0, v2.SMMU_CB_TTBR0_HI, 0x1234);
    write(0x10, 0x1000, 1);
    assert.deepEqual(v2.faultNames(bank(0, v2.SMMU_CB_FSR), 'context'), ['EF']);
  });

  test('without CFRE the access goes nowhere and nobody is told; without CFIE there is no interrupt', () => {
    const { smmu, write, setBank, bank, lines } = translatingRig();
    setBank(0, v2.SMMU_CB_SCTLR, 1);
    assert.equal(write(0x10, 0x5000, 1), 1);
    const into = Uint8Array.of(1, 2, 3);
    assert.equal(smmu.dmaRead(device(0x10), 0x5000, into), 3);
    assert.deepEqual([...into], [0, 0, 0]);
    assert.notEqual(bank(0, v2.SMMU_CB_FSR), 0);
    assert.deepEqual(lines, []);
    setBank(0, v2.SMMU_CB_SCTLR, SCTLR_ON);
    assert.deepEqual(lines, ['0 up'], 'the level follows CFIE');
  });

  test('each bank has its interrupt; with the first version a register says which', () => {
    const old = translatingRig({ version: 1, contextInterrupts: 2 });
    old.stage2Bank(4, 8);
    old.setGlobal1(v2.SMMU_CBAR, 0x0100_0008, 4);
    old.group(1, 0x40, 0, 4);
    old.write(0x40, 0x9000, 1);
    assert.deepEqual(old.lines, ['1 up']);
    const now = translatingRig();
    now.stage2Bank(4, 8);
    now.group(1, 0x40, 0, 4);
    now.write(0x40, 0x9000, 1);
    assert.deepEqual(now.lines, ['4 up']);
  });

  test('banks that share an interrupt raise it until the last is quiet', () => {
    const rig = translatingRig({ version: 1, contextInterrupts: 1 });
    rig.stage2Bank(1, 8);
    rig.group(1, 0x40, 0, 1);
    rig.write(0x10, 0x9000, 1);
    rig.write(0x40, 0x9000, 1);
    rig.setBank(0, v2.SMMU_CB_FSR, 0xffff_ffff);
    assert.notInclude(rig.lines, '0 down');
    rig.setBank(1, v2.SMMU_CB_FSR, 0xffff_ffff);
    assert.equal(rig.lines.at(-1), '0 down');
  });

  test('a bank that is off passes addresses on', () => {
    const { write, setBank, byteAt } = translatingRig();
    setBank(0, v2.SMMU_CB_SCTLR, 0x60);
    assert.equal(write(0x10, OTHER_PAGE, 0x5a), 1);
    assert.equal(byteAt(OTHER_PAGE), 0x5a);
  });

  test('what RESTORE puts back is as if it had happened', () => {
    const { setBank, bank, lines } = translatingRig();
    setBank(0, v2.SMMU_CB_FSRRESTORE, 0x4);
    assert.equal(bank(0, v2.SMMU_CB_FSR), 0x4);
    assert.deepEqual(lines, ['0 up']);
  });
});

describe('the TLB', () => {
  test('a translation stays until it is invalidated, whatever the tables say', () => {
    const { write, unmapPage, setGlobal } = translatingRig();
    assert.equal(write(0x10, 0x1000, 1), 1);
    unmapPage(0x1000);
    assert.equal(write(0x10, 0x1000, 1), 1, 'stale');
    setGlobal(v2.SMMU_TLBIVMID, 8);
    assert.equal(write(0x10, 0x1000, 1), 1, 'of another VMID');
    setGlobal(v2.SMMU_TLBIVMID, 7);
    setGlobal(v2.SMMU_sTLBGSYNC, 0);
    assert.equal(write(0x10, 0x1000, 1), 0);
  });

  test.each([
    ['SMMU_CB_TLBIIPAS2', v2.SMMU_CB_TLBIIPAS2_LO],
    ['SMMU_CB_TLBIIPAS2L', v2.SMMU_CB_TLBIIPAS2L_LO],
  ])('%s takes one page away', (_name, register) => {
    const { write, mapPage, unmapPage, setBank } = translatingRig();
    mapPage(0x2000, OTHER_PAGE);
    write(0x10, 0x1000, 1);
    write(0x10, 0x2000, 1);
    unmapPage(0x1000);
    unmapPage(0x2000);
    setBank(0, register, 0x1000 >>> 12);
    setBank(0, { offset: register.offset + 4 }, 0);
    assert.equal(write(0x10, 0x1000, 1), 0);
    assert.equal(write(0x10, 0x2000, 1), 1);
  });

  test('STLBIALL and TLBIALLNSNH take all away', () => {
    for (const register of [v2.SMMU_STLBIALL, v2.SMMU_TLBIALLNSNH]) {
      const { write, unmapPage, setGlobal } = translatingRig();
      write(0x10, 0x1000, 1);
      unmapPage(0x1000);
      setGlobal(register, 0);
      assert.equal(write(0x10, 0x1000, 1), 0);
    }
  });

  test('two parts that share a TLB take one VMID for one set of tables', () => {
    const shared = new Tlb();
    const where = memory();
    const rootB = RAM + 0x40_0000;
    const a = smmuRig({}, shared, where);
    const b = smmuRig({}, shared, where);
    a.makeTables();
    a.makeTables(rootB);
    a.mapPage(0x1000, PAGE);
    a.mapPage(0x1000, OTHER_PAGE, S2AP.readWrite, rootB);
    for (const [rig, root] of [
      [a, ROOT],
      [b, rootB],
    ] as const) {
      rig.stage2Bank(0, 7, root);
      rig.group(0, 0x10, 0, 0);
      rig.setGlobal(v2.SMMU_sCR0, CR0_ON);
    }
    a.write(0x10, 0x1000, 0x11);
    b.write(0x10, 0x1000, 0x22);
    assert.equal(a.byteAt(PAGE), 0x22, 'the other part found what the first had cached');
    b.setGlobal1(v2.SMMU_CBAR, 8);
    b.write(0x10, 0x1000, 0x33);
    assert.equal(a.byteAt(OTHER_PAGE), 0x33);
  });
});

describe('written down and taken back', () => {
  test('a part goes on where the saved one stood', () => {
    const from = translatingRig();
    from.write(0x10, 0x1000, 1);
    from.unmapPage(0x1000);
    from.write(0x10, 0x5000, 1);
    const to = smmuRig({}, undefined, from);
    to.smmu.load(structuredClone(from.smmu.save()));
    assert.deepEqual(to.smmu.inspect(), from.smmu.inspect());
    assert.equal(to.write(0x10, 0x1000, 0x44), 1, 'the stale translation came along');
    to.setBank(0, v2.SMMU_CB_FSR, 0xffff_ffff);
    assert.deepEqual(to.lines, ['0 down']);
  });

  test('reset forgets everything', () => {
    const { smmu, write, global, lines } = translatingRig();
    write(0x10, 0x5000, 1);
    smmu.reset();
    assert.equal(global(v2.SMMU_sCR0), 1);
    assert.deepEqual(lines, ['0 up', '0 down']);
    assert.deepEqual(smmu.counts.events, {});
    assert.equal(write(0x10, PAGE, 1), 1);
  });
});
