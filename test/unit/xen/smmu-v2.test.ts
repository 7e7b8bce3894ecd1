/** Xen's driver on the SMMUv2 of the machine, register by register. */
import { assert, describe, test } from 'vitest';
import * as v2 from '#shared/arch/smmu/v2.ts';
import { stage2Choice } from '#shared/arch/vmsa.ts';
import type { Op } from '#shared/core/op.ts';
import { Tlb } from '../../../services/hardware/mmu/tlb.ts';
import type { Smmuv2Features } from '../../../services/hardware/smmu/v2/features.ts';
import { Smmuv2 } from '../../../services/hardware/smmu/v2/smmuv2.ts';
import { El2Fault } from '../../../services/xen/el2.ts';
import { XenError } from '../../../services/xen/error.ts';
import { P2M, P2m } from '../../../services/xen/mm/p2m.ts';
import { SmmuV2Driver } from '../../../services/xen/passthrough/smmu-v2.ts';
import { FakeHardware, RAM_PA } from '../../support/fake-hardware.ts';

const GFN = 0x4_0000;
const IPA = GFN * 4096;
const DATA_PA = RAM_PA + 0x100_0000;
const GLOBAL_INTID = 100;
const CONTEXT_INTID = 101;
/** Registers of the first part; a second one stands 32 MiB higher. */
const BASE = 0x10_0000_0000;

interface Part {
  readonly smmu: Smmuv2;
  readonly driver: SmmuV2Driver;
  /** Levels that stand. */
  readonly high: Set<string>;
}

function bench(features: Partial<Smmuv2Features> = {}, parts = 1, intids = Array(128).fill(CONTEXT_INTID)) {
  const hw = new FakeHardware();
  const tlb = new Tlb();
  let sequence = 0;
  const made: Part[] = [];
  for (let n = 0; n < parts; n++) {
    const basePa = BASE + n * 0x200_0000;
    const handlers = new Map<number, () => Op<void>>();
    const high = new Set<string>();
    const smmu = new Smmuv2({
      name: `smmu${n}`,
      bus: hw.bus,
      features,
      tlb,
      irq: (interrupt, level) => {
        if (level) high.add(`${interrupt}`);
        else high.delete(`${interrupt}`);
      },
    });
    hw.bus.map(basePa, smmu.geometry.sizeBytes, smmu.registers);
    const driver = new SmmuV2Driver({
      el2: hw.el2,
      counts: hw.counts,
      runtime: { trace: () => undefined },
      name: `smmu${n}`,
      phandle: 8 + n,
      basePa,
      globalIntids: [GLOBAL_INTID],
      contextIntids: intids,
      isEdge: () => false,
      // biome-ignore lint/correctness/useYield: nothing to wait for
      *onSpi(intid, _isEdge, handler) {
        handlers.set(intid, handler);
      },
      nextSequence: () => ++sequence,
    });
    made.push({ smmu, driver, high });
    hw.run(driver.init());
    Object.assign(made[n]!, { take: (intid: number) => hw.run(handlers.get(intid)!()) });
  }
  const p2m = (vmid: number, pa = DATA_PA): P2m => {
    const tables = new P2m({ el2: hw.el2, frames: hw.frames, counts: hw.counts }, vmid, stage2Choice(40));
    hw.run(tables.clear());
    hw.run(tables.map(GFN, pa / 4096, 1, P2M.ram_rw));
    return tables;
  };
  const write = (part: Part, streamId: number, iova: number, byte = 1): number =>
    part.smmu.dmaWrite({ rid: streamId, streamId, deviceIdAt: () => -1 }, iova, Uint8Array.of(byte));
  const take = (part: Part, intid: number): void => (part as Part & { take(i: number): void }).take(intid);
  const errno = (op: Op<unknown>): string => {
    try {
      hw.run(op);
      return 'none';
    } catch (error) {
      if (error instanceof XenError) return error.message.slice(0, error.message.indexOf(':'));
      throw error;
    }
  };
  return { hw, part: made[0]!, parts: made, p2m, write, take, errno };
}

const snapshot = ({ smmu }: Part): unknown => {
  const { groups, banks } = smmu.inspect() as { groups: unknown; banks: unknown };
  return { groups, banks };
};

describe("Xen's driver of an SMMUv2", () => {
  test('lets nothing through before a stream is attached, and nothing after it is detached', () => {
    const { hw, part, p2m, write } = bench();
    const tables = p2m(3);
    assert.equal(write(part, 0x100, DATA_PA), 0);
    hw.run(part.driver.addStream(0x100));
    assert.equal(write(part, 0x100, IPA), 0);
    hw.run(part.driver.attach(0x100, tables));
    assert.equal(write(part, 0x100, IPA, 0x5a), 1);
    assert.equal(hw.bytes(DATA_PA, 1)[0], 0x5a);
    assert.equal(write(part, 0x101, IPA), 0);
    hw.run(part.driver.detach(0x100));
    assert.equal(write(part, 0x100, IPA), 0);
  });

  test('writes the registers as Xen does: a bank of type 0 with the VMID, AArch64 tables, halves of TTBR0', () => {
    const { hw, part, p2m } = bench();
    const tables = p2m(3);
    hw.run(part.driver.attach(0x100, tables));
    const { banks, gr1 } = part.smmu.geometry;
    const at = (offset: number): number => part.smmu.registers.read(offset, 4);
    assert.equal(at(gr1 + v2.SMMU_CBAR.offset), 3);
    assert.equal(at(gr1 + v2.SMMU_CBA2R.offset), 1);
    assert.equal(at(banks + v2.SMMU_CB_TTBR0_LO.offset), tables.rootPa >>> 0);
    assert.equal(at(banks + v2.SMMU_CB_TTBR0_HI.offset), Math.floor(tables.rootPa / 2 ** 32));
    assert.equal(at(banks + v2.SMMU_CB_TCR.offset), tables.vtcr);
    assert.equal(at(v2.SMMU_SMR.offset), 0x8000_0100);
    assert.equal(at(v2.SMMU_S2CR.offset), 0);
    assert.equal(at(v2.indexed(v2.SMMU_S2CR, 1).offset), 0x2_0000, 'an unused group faults');
    assert.equal(at(v2.SMMU_sCR0.offset) & 0x400, 0x400, 'an unmatched stream faults');
    assert.equal(at(v2.SMMU_sCR0.offset) & 1, 0);
  });

  test('one bank serves all streams with the same tables, and goes with the last', () => {
    const { hw, part, p2m, write } = bench();
    const tables = p2m(3);
    hw.run(part.driver.attach(0x100, tables));
    hw.run(part.driver.attach(0x200, tables));
    hw.run(part.driver.attach(0x300, p2m(4)));
    assert.deepEqual(
      (part.smmu.inspect() as { banks: { vmid: number }[] }).banks.map((b) => b.vmid),
      [3, 4],
    );
    hw.run(part.driver.detach(0x100));
    assert.equal(write(part, 0x200, IPA), 1);
    assert.isTrue(part.driver.usesVmid(3));
    hw.run(part.driver.detach(0x200));
    assert.isFalse(part.driver.usesVmid(3));
    assert.deepEqual(
      (part.smmu.inspect() as { banks: { vmid: number }[] }).banks.map((b) => b.vmid),
      [4],
    );
  });

  test('an unmapped page is gone when the invalidation returns, and without it it is not', () => {
    const { hw, part, p2m, write } = bench();
    const tables = p2m(3);
    hw.run(part.driver.attach(0x100, tables));
    write(part, 0x100, IPA);
    hw.run(tables.unmap(GFN, 1));
    assert.equal(write(part, 0x100, IPA), 1, 'nobody told the SMMU');
    const flushes = hw.counts.get('tlbInvalidations', 'SMMU_TLBIVMID');
    hw.run(part.driver.invalidateVmid(3));
    assert.equal(hw.counts.get('tlbInvalidations', 'SMMU_TLBIVMID'), flushes + 1);
    assert.equal(write(part, 0x100, IPA), 0);
    hw.run(part.driver.invalidateVmid(9));
    assert.equal(hw.counts.get('tlbInvalidations', 'SMMU_TLBIVMID'), flushes + 1, 'a VMID that nothing uses');
  });

  test('a stopped access is reported with its stream, address and direction, and the interrupt goes down', () => {
    const { hw, part, p2m, write, take } = bench();
    hw.run(part.driver.attach(0x100, p2m(3)));
    hw.run(part.driver.attach(0x200, p2m(4)));
    write(part, 0x200, 0x1234_5678);
    assert.deepEqual([...part.high], ['1']);
    take(part, CONTEXT_INTID);
    assert.deepEqual(part.driver.events, [
      { type: 'F_TRANSLATION', sequence: 1, streamId: 0x200, inputAddress: 0x1234_5678, isRead: false },
    ]);
    assert.deepEqual([...part.high], []);
    take(part, CONTEXT_INTID);
    assert.lengthOf(part.driver.events, 1, 'nothing stands');
  });

  test('a stream that nobody attached is reported as unidentified', () => {
    const { part, write, take } = bench();
    write(part, 0x666, 0x7000);
    assert.deepEqual([...part.high], ['global']);
    take(part, GLOBAL_INTID);
    assert.deepEqual(part.driver.events, [
      { type: 'USF', sequence: 1, streamId: 0x666, inputAddress: 0x7000, isRead: false },
    ]);
    assert.deepEqual([...part.high], []);
  });

  test('a fault that nobody read when its stream went is not put down to the next tables', () => {
    const { hw, part, p2m, write, take } = bench();
    hw.run(part.driver.attach(0x100, p2m(3)));
    write(part, 0x100, 0x5000);
    hw.run(part.driver.detach(0x100));
    assert.lengthOf(part.driver.events, 1);
    hw.run(part.driver.attach(0x200, p2m(4)));
    assert.deepEqual([...part.high], []);
    take(part, CONTEXT_INTID);
    assert.lengthOf(part.driver.events, 1);
  });

  test('without a free context bank nothing is left of the attempt', () => {
    const { hw, part, p2m, write, errno } = bench({ contextBanks: 2 });
    hw.run(part.driver.attach(1, p2m(3)));
    const shared = p2m(4);
    hw.run(part.driver.attach(2, shared));
    const before = snapshot(part);
    assert.equal(errno(part.driver.attach(3, p2m(5))), 'ENOSPC');
    assert.deepEqual(snapshot(part), before);
    assert.isFalse(part.driver.usesVmid(5));
    hw.run(part.driver.attach(4, shared));
    assert.equal(write(part, 4, IPA), 1, 'tables that have a bank need none');
  });

  test('without a free stream match register nothing is left of the attempt', () => {
    const { hw, part, p2m, errno } = bench({ streamGroups: 2 });
    const tables = p2m(3);
    hw.run(part.driver.attach(1, tables));
    hw.run(part.driver.attach(2, tables));
    const before = snapshot(part);
    assert.equal(errno(part.driver.attach(3, p2m(4))), 'ENOSPC');
    assert.deepEqual(snapshot(part), before);
    assert.isFalse(part.driver.usesVmid(4));
    hw.run(part.driver.detach(1));
    assert.equal(errno(part.driver.attach(3, p2m(4))), 'none');
  });

  test('a register that does not answer leaves the stream aborted and its bank free', () => {
    const { hw, part, p2m, write } = bench();
    const tables = p2m(3);
    const real = hw.bus.write.bind(hw.bus);
    hw.bus.write = (pa, sizeBytes, low) =>
      pa === BASE + v2.SMMU_SMR.offset && low !== 0 ? false : real(pa, sizeBytes, low);
    assert.throws(() => hw.run(part.driver.attach(0x100, tables)), El2Fault);
    assert.equal(write(part, 0x100, IPA), 0);
    assert.deepEqual(part.driver.streams, []);
    assert.isFalse(part.driver.usesVmid(3));
  });

  test('a StreamID wider than the part, and one that is attached, are refused', () => {
    const { hw, part, p2m, errno } = bench();
    const tables = p2m(3);
    assert.equal(errno(part.driver.addStream(0x8000)), 'ERANGE');
    hw.run(part.driver.attach(1, tables));
    assert.equal(errno(part.driver.attach(1, tables)), 'EBUSY');
    const narrow = bench({ addressBits: 36 });
    assert.equal(narrow.errno(narrow.part.driver.attach(1, narrow.p2m(3))), 'ERANGE');
  });

  test('StreamIDs of 16 bits are used where the part has them', () => {
    const { hw, part, p2m, write } = bench({ extendedStreamIds: true });
    hw.run(part.driver.attach(0x8100, p2m(3)));
    assert.equal(write(part, 0x8100, IPA), 1);
    assert.equal(write(part, 0x0100, IPA), 0);
    hw.run(part.driver.detach(0x8100));
    assert.equal(write(part, 0x8100, IPA), 0);
    assert.equal(write(part, 0, IPA), 0, 'an empty stream match register is not StreamID 0');
  });

  test('a part without stream matching is driven by index', () => {
    const { hw, part, p2m, write, errno } = bench({ streamMatching: false, streamGroups: 64 });
    hw.run(part.driver.attach(5, p2m(3)));
    assert.equal(write(part, 5, IPA), 1);
    assert.equal(write(part, 6, IPA), 0);
    assert.equal(errno(part.driver.addStream(64)), 'ERANGE');
  });

  test('only banks with an interrupt are used', () => {
    const { hw, part, p2m, errno } = bench({}, 1, [CONTEXT_INTID]);
    hw.run(part.driver.attach(1, p2m(3)));
    assert.equal(errno(part.driver.attach(2, p2m(4))), 'ENOSPC');
  });

  test('two parts that share a TLB keep two domains apart', () => {
    const { hw, parts, p2m, write } = bench({}, 2);
    const [a, b] = parts as [Part, Part];
    const other = DATA_PA + 0x1000;
    hw.run(a.driver.attach(0x100, p2m(3)));
    hw.run(b.driver.attach(0x100, p2m(4, other)));
    write(a, 0x100, IPA, 0x11);
    write(b, 0x100, IPA, 0x22);
    assert.equal(hw.bytes(DATA_PA, 1)[0], 0x11);
    assert.equal(hw.bytes(other, 1)[0], 0x22);
  });
});
