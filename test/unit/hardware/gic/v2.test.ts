/** GICv2: banked registers, groups, priorities and preemption, edges and levels, EOImode, SGIs, state. */
import { assert, describe, test } from 'vitest';
import {
  GICD_CTLR,
  GICD_ICENABLER,
  GICD_ICFGR,
  GICD_ICPENDR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_ISACTIVER,
  GICD_ISENABLER,
  GICD_ISPENDR,
  GICD_ITARGETSR,
} from '#shared/arch/gic/distributor.ts';
import {
  GIC400_GICC_IIDR,
  GICC_ABPR,
  GICC_AEOIR,
  GICC_AHPPIR,
  GICC_AIAR,
  GICC_APR0,
  GICC_BPR,
  GICC_CTLR,
  GICC_DIR,
  GICC_HPPIR,
  GICC_IIDR,
  GICC_NSAPR0,
  GICC_PMR,
  GICC_RPR,
  GICD_CPENDSGIR,
  GICD_SGIR,
  GICD_SPENDSGIR,
} from '#shared/arch/gic/v2.ts';
import { SavedStateError } from '../../../../services/hardware/state/saved.ts';
import { requester } from './bench.ts';
import { NOTHING, OTHER_GROUP, V2Bench } from './v2-bench.ts';

const EOIMODE = 1 << 9;
const SPI = 40;
const OTHER = 41;

function priority(b: V2Bench, intid: number, value: number, cpu = 0): void {
  b.gicd(GICD_IPRIORITYR + intid, value, cpu, 1);
}

function edge(b: V2Bench, intid: number): void {
  b.gicd(GICD_ICFGR + 4 * (intid >>> 4), 2 << (2 * (intid & 15)));
}

describe('registers that each CPU has of its own', () => {
  test('are enables, pending and active states, priorities and configuration of SGIs and PPIs', () => {
    const b = new V2Bench(3);
    for (const offset of [GICD_ISENABLER, GICD_ISPENDR, GICD_ISACTIVER, GICD_IGROUPR]) {
      b.gicd(offset, 1 << 27, 1);
      assert.deepEqual(
        [0, 1, 2].map((cpu) => (b.readGicd(offset, cpu) & 0xffff_0000) >>> 0),
        [0, 2 ** 27, 0],
      );
    }
    priority(b, 27, 0x80, 2);
    assert.deepEqual(
      [0, 1, 2].map((cpu) => b.readGicd(GICD_IPRIORITYR + 27, cpu, 1)),
      [0, 0, 0x80],
    );
    b.gicd(GICD_ICFGR + 4, 0xffff_ffff, 1);
    assert.deepEqual([b.readGicd(GICD_ICFGR + 4, 0), b.readGicd(GICD_ICFGR + 4, 1)], [0, 0xaaaa_aaaa]);
    assert.equal(b.readGicd(GICD_ICFGR, 0), 0xaaaa_aaaa, 'SGIs are edges');
  });

  test('are those of the CPU interface', () => {
    const b = new V2Bench(2);
    b.gicc(GICC_PMR, 0x88, 1);
    b.gicc(GICC_BPR, 5, 1);
    b.gicc(GICC_CTLR, 1, 1);
    assert.deepEqual([b.readGicc(GICC_PMR, 0), b.readGicc(GICC_PMR, 1)], [0, 0x88]);
    assert.deepEqual([b.readGicc(GICC_BPR, 0), b.readGicc(GICC_BPR, 1)], [2, 5]);
    assert.deepEqual([b.readGicc(GICC_CTLR, 0), b.readGicc(GICC_CTLR, 1)], [0, 1]);
    assert.equal(b.readGicc(GICC_IIDR, 1), GIC400_GICC_IIDR);
    assert.equal(b.readGicc(GICC_RPR, 0), 0xff);
  });

  test('a PPI is taken by its CPU alone', () => {
    const b = new V2Bench(2).ready();
    b.gicd(GICD_ISENABLER, 1 << 27, 1);
    b.gicd(GICD_ISPENDR, 1 << 27, 1);
    assert.deepEqual([b.iar(0), b.iar(1)], [NOTHING, 27]);
  });

  test('SGIs stay enabled whatever is written, PPIs do not', () => {
    const b = new V2Bench(2);
    b.gicd(GICD_ISENABLER, 0xffff_ffff);
    b.gicd(GICD_ICENABLER, 0xffff_ffff);
    assert.equal(b.readGicd(GICD_ISENABLER), 0x0000_ffff);
  });
});

describe('an access that is none of a CPU, or not of a width', () => {
  test('of a device reads 0, and takes no interrupt', () => {
    const b = new V2Bench(2).ready(1, SPI);
    b.gic.setSpiLine(SPI, true);
    assert.equal(b.gic.frame.read(0x0c, 4, requester(0x100)), 0);
    assert.equal(b.gic.distributor.read(4, 4, requester(0x100)), 0);
    b.gic.distributor.write(GICD_CTLR, 4, 0, requester(0x100));
    b.gic.frame.write(GICC_CTLR, 4, 0, requester(0x100));
    assert.equal(b.iar(), SPI);
  });

  test('of a byte reads 0 where there are words only', () => {
    const b = new V2Bench(2).ready();
    assert.deepEqual([b.readGicd(GICD_ISENABLER, 0, 1), b.gic.frame.read(GICC_PMR, 1)], [0, 0]);
    b.gic.frame.write(GICC_PMR, 1, 0);
    assert.equal(b.readGicc(GICC_PMR), 0xf8);
  });
});

describe('the frame of the CPU interfaces', () => {
  test('of 128 KiB has its pages 64 KiB apart, each repeated', () => {
    const b = new V2Bench(1, 0x2_0000);
    assert.equal(b.readGicc(0xf000 + GICC_IIDR), GIC400_GICC_IIDR);
    assert.equal(b.readGicc(0x1000 + GICC_IIDR), GIC400_GICC_IIDR);
    assert.equal(b.readGicc(0x1_0000 + GICC_IIDR), 0);
    b.ready(1 | EOIMODE, SPI);
    b.gic.setSpiLine(SPI, true);
    assert.equal(b.iar(), SPI);
    b.eoi(SPI);
    b.gic.setSpiLine(SPI, false);
    b.gicc(0x1_f000, SPI);
    assert.equal(b.readGicd(GICD_ISACTIVER + 4), 0);
  });

  test('the distributor repeats its page', () => {
    const b = new V2Bench(2);
    b.gicd(0xf000 + GICD_CTLR, 1);
    assert.equal(b.readGicd(GICD_CTLR), 1);
  });
});

describe('SPIs', () => {
  test('go to each CPU that GICD_ITARGETSR names, and the first that asks has it', () => {
    const b = new V2Bench(3).ready(1, SPI);
    b.gicd(GICD_ITARGETSR + SPI, 0b110, 0, 1);
    b.signals.length = 0;
    b.gic.setSpiLine(SPI, true);
    assert.deepEqual(b.signals, [1, 2]);
    assert.deepEqual([b.iar(0), b.iar(2), b.iar(1)], [NOTHING, SPI, NOTHING]);
  });

  test('with no target stay pending', () => {
    const b = new V2Bench(2).ready(1, SPI);
    b.gicd(GICD_ITARGETSR + SPI, 0, 0, 1);
    b.gic.setSpiLine(SPI, true);
    assert.deepEqual([b.iar(0), b.iar(1)], [NOTHING, NOTHING]);
    assert.equal(b.readGicd(GICD_ISPENDR + 4), 2 ** (SPI - 32));
    b.signals.length = 0;
    b.gicd(GICD_ITARGETSR + SPI, 0b10, 0, 1);
    assert.deepEqual(b.signals, [1]);
  });

  test('on a machine of one CPU need no target', () => {
    const b = new V2Bench(1).ready();
    b.gicd(GICD_ISENABLER + 4, 2 ** (SPI - 32));
    b.gic.setSpiLine(SPI, true);
    assert.equal(b.iar(), SPI);
  });

  test('a level that stands comes again after its end, an edge does not', () => {
    const b = new V2Bench(2).ready(1, SPI, OTHER);
    edge(b, OTHER);
    b.gic.setSpiLine(SPI, true);
    b.gic.setSpiLine(OTHER, true);
    assert.deepEqual([b.iar(), b.iar()], [SPI, NOTHING]);
    b.signals.length = 0;
    b.eoi(SPI);
    assert.isNotEmpty(b.signals);
    b.gic.setSpiLine(SPI, false);
    assert.equal(b.iar(), OTHER);
    b.eoi(OTHER);
    assert.equal(b.iar(), NOTHING);
  });

  test('an edge while the interrupt is active is taken after its end', () => {
    const b = new V2Bench(2).ready(1, SPI);
    edge(b, SPI);
    b.gic.setSpiLine(SPI, true);
    b.gic.setSpiLine(SPI, false);
    assert.equal(b.iar(), SPI);
    b.gic.setSpiLine(SPI, true);
    assert.equal(b.iar(), NOTHING);
    b.eoi(SPI);
    assert.equal(b.iar(), SPI);
  });

  test('GICD_ICPENDR takes the latch of a level away and not its line', () => {
    const b = new V2Bench(2).ready(1, SPI);
    b.gicd(GICD_ISPENDR + 4, 2 ** (SPI - 32));
    b.gicd(GICD_ICPENDR + 4, 2 ** (SPI - 32));
    assert.equal(b.iar(), NOTHING);
    b.gic.setSpiLine(SPI, true);
    b.gicd(GICD_ICPENDR + 4, 2 ** (SPI - 32));
    assert.equal(b.iar(), SPI);
  });

  test('INTIDs beyond the lines have no wire', () => {
    const b = new V2Bench(2).ready();
    for (const intid of [0, 31, 512, 1019, 1023, 8192, -1]) b.gic.setSpiLine(intid, true);
    assert.deepEqual(b.taken(), [[], []]);
  });
});

describe('priorities', () => {
  test('the most urgent is taken first, the lowest INTID of equals, and a more urgent one preempts', () => {
    const b = new V2Bench(2).ready(1, SPI, OTHER, 50);
    priority(b, SPI, 0x80);
    priority(b, OTHER, 0x80);
    priority(b, 50, 0x40);
    for (const intid of [OTHER, SPI]) b.gic.setSpiLine(intid, true);
    assert.equal(b.readGicc(GICC_HPPIR), SPI);
    assert.deepEqual([b.iar(), b.iar()], [SPI, NOTHING]);
    b.gic.setSpiLine(50, true);
    assert.equal(b.iar(), 50);
    assert.deepEqual([b.readGicc(GICC_RPR), b.readGicc(GICC_APR0)], [0x40, (1 << 16) | (1 << 8)]);
    b.gic.setSpiLine(50, false);
    b.eoi(50);
    assert.equal(b.readGicc(GICC_RPR), 0x80);
  });

  test('GICC_PMR holds back what is not above it', () => {
    const b = new V2Bench(2).ready(1, SPI);
    priority(b, SPI, 0x80);
    b.gicc(GICC_PMR, 0x80);
    b.gic.setSpiLine(SPI, true);
    assert.equal(b.iar(), NOTHING);
    b.signals.length = 0;
    b.gicc(GICC_PMR, 0x88);
    assert.deepEqual(b.signals, [0]);
    assert.equal(b.iar(), SPI);
  });

  test('a binary point keeps neighbours from preempting each other', () => {
    for (const [bpr, preempts] of [
      [2, true],
      [3, false],
    ] as const) {
      const b = new V2Bench(2).ready(1, SPI, OTHER);
      priority(b, SPI, 0x88);
      priority(b, OTHER, 0x80);
      b.gicc(GICC_BPR, bpr);
      b.gic.setSpiLine(SPI, true);
      assert.equal(b.iar(), SPI);
      b.gic.setSpiLine(OTHER, true);
      assert.equal(b.iar(), preempts ? OTHER : NOTHING);
    }
  });
});

describe('EOImode', () => {
  test('leaves an interrupt active after GICC_EOIR until GICC_DIR', () => {
    const b = new V2Bench(2).ready(1 | EOIMODE, SPI, OTHER);
    b.gic.setSpiLine(SPI, true);
    assert.equal(b.iar(), SPI);
    b.eoi(SPI);
    assert.equal(b.readGicc(GICC_RPR), 0xff);
    assert.deepEqual([b.iar(), b.readGicd(GICD_ISACTIVER + 4)], [NOTHING, 2 ** (SPI - 32)]);
    b.gic.setSpiLine(OTHER, true);
    assert.equal(b.iar(), OTHER, 'another is taken meanwhile');
    b.eoi(OTHER);
    b.signals.length = 0;
    b.gicc(GICC_DIR, SPI);
    assert.isNotEmpty(b.signals);
    assert.equal(b.iar(), SPI);
  });

  test('without it GICC_DIR does nothing', () => {
    const b = new V2Bench(2).ready(1, SPI);
    b.gic.setSpiLine(SPI, true);
    b.iar();
    b.gicc(GICC_DIR, SPI);
    assert.equal(b.readGicd(GICD_ISACTIVER + 4), 2 ** (SPI - 32));
  });

  test('an end of a special INTID, or with nothing active, changes nothing', () => {
    const b = new V2Bench(2).ready(1, SPI);
    b.eoi(SPI);
    b.gic.setSpiLine(SPI, true);
    b.iar();
    for (const value of [1020, 1022, 1023]) b.eoi(value);
    assert.equal(b.readGicc(GICC_RPR), 0);
  });
});

describe('groups', () => {
  /** `SPI` is in group 0 and more urgent, `OTHER` in group 1. */
  function grouped(ctlr: number): V2Bench {
    const b = new V2Bench(2).ready(ctlr, SPI, OTHER);
    b.gicd(GICD_IGROUPR + 4, 2 ** (OTHER - 32));
    priority(b, SPI, 0x40);
    priority(b, OTHER, 0x80);
    return b;
  }

  test('GICC_IAR gives those of group 0 and says 1022 for the other, GICC_AIAR takes that', () => {
    const b = grouped(0b11);
    b.gic.setSpiLine(OTHER, true);
    assert.deepEqual([b.readGicc(GICC_HPPIR), b.readGicc(GICC_AHPPIR)], [OTHER_GROUP, OTHER]);
    assert.deepEqual([b.iar(), b.readGicc(GICC_AIAR)], [OTHER_GROUP, OTHER]);
    assert.equal(b.readGicc(GICC_NSAPR0), 1 << 16);
    b.gic.setSpiLine(SPI, true);
    assert.deepEqual([b.readGicc(GICC_AIAR), b.iar()], [NOTHING, SPI]);
    b.gic.setSpiLine(OTHER, false);
    b.eoi(OTHER);
    assert.equal(b.readGicd(GICD_ISACTIVER + 4), 2 ** (SPI - 32) + 2 ** (OTHER - 32), 'not with GICC_EOIR');
    b.gicc(GICC_AEOIR, SPI);
    b.gicc(GICC_AEOIR, OTHER);
    assert.equal(b.readGicd(GICD_ISACTIVER + 4), 2 ** (SPI - 32));
  });

  test('with AckCtl GICC_IAR and GICC_EOIR are for both', () => {
    const b = grouped(0b111);
    b.gic.setSpiLine(OTHER, true);
    assert.equal(b.iar(), OTHER);
    b.gic.setSpiLine(OTHER, false);
    b.eoi(OTHER);
    assert.deepEqual([b.readGicd(GICD_ISACTIVER + 4), b.readGicc(GICC_NSAPR0)], [0, 0]);
  });

  test('one that is not enabled, in the distributor or at the CPU, holds nothing of the other back', () => {
    const b = grouped(0b110);
    for (const intid of [SPI, OTHER]) b.gic.setSpiLine(intid, true);
    assert.equal(b.readGicc(GICC_AIAR), OTHER);
    b.gicd(GICD_CTLR, 1);
    b.gicc(GICC_CTLR, 0b11);
    assert.equal(b.iar(), SPI);
  });

  test('have a binary point each, or share that of group 0', () => {
    const b = grouped(0b111);
    b.gicc(GICC_ABPR, 0);
    assert.equal(b.readGicc(GICC_ABPR), 3);
    b.gicc(GICC_ABPR, 7);
    b.gic.setSpiLine(OTHER, true);
    assert.equal(b.iar(), OTHER);
    assert.equal(b.readGicc(GICC_NSAPR0), 1 << 16);
    b.gicd(GICD_IGROUPR + 4, 0xffff_ffff);
    b.gic.setSpiLine(SPI, true);
    assert.equal(b.iar(), SPI, '0x40 against 0x80 in bit 7');
    const shared = grouped(0b1_0111);
    shared.gicc(GICC_BPR, 7);
    shared.gic.setSpiLine(OTHER, true);
    assert.equal(shared.iar(), OTHER);
    assert.equal(shared.readGicc(GICC_NSAPR0), 1, 'no bit is left to preempt by');
  });
});

describe('SGIs', () => {
  test('of two senders are taken one after the other, the lower CPU first', () => {
    const b = new V2Bench(4).ready();
    b.sgi(3, 5, 0b0001);
    b.sgi(2, 5, 0b0001);
    b.sgi(3, 5, 0b0001);
    assert.equal(b.readGicd(GICD_SPENDSGIR + 4), 0b1100 << 8);
    assert.deepEqual(b.taken(), [[(2 << 10) | 5, (3 << 10) | 5], [], [], []]);
  });

  test('are set and cleared by sender', () => {
    const b = new V2Bench(4).ready();
    b.gicd(GICD_SPENDSGIR, 0x0000_0c02, 1);
    assert.equal(b.readGicd(GICD_CPENDSGIR, 1), 0x0c02);
    assert.equal(b.readGicd(GICD_ISPENDR, 1), 0b11);
    b.gicd(GICD_CPENDSGIR + 1, 0x08, 1, 1);
    assert.deepEqual(b.taken(), [[], [1 << 10, (2 << 10) | 1], [], []]);
    b.gicd(GICD_SPENDSGIR, 0xff, 1);
    b.gicd(GICD_CPENDSGIR, 0xff, 1);
    assert.equal(b.readGicd(GICD_ISPENDR, 1), 0);
  });

  test('are not touched by GICD_ISPENDR and GICD_ICPENDR', () => {
    const b = new V2Bench(2).ready();
    b.gicd(GICD_ISPENDR, 0xffff);
    assert.equal(b.readGicd(GICD_ISPENDR), 0);
    b.sgi(0, 3, 1);
    b.gicd(GICD_ICPENDR, 0xffff);
    assert.equal(b.iar(), 3);
  });

  test('to CPUs that do not exist, or with the reserved filter, reach nobody', () => {
    const b = new V2Bench(2).ready();
    b.sgi(0, 3, 0b1111_1100);
    b.gicd(GICD_SGIR, 0x03ff_0003);
    assert.deepEqual(b.taken(), [[], []]);
  });
});

describe('state', () => {
  test('goes into another GIC, where the same is taken from there on', () => {
    const before = new V2Bench(4).ready(0b111 | EOIMODE, SPI, OTHER, 50);
    before.gicd(GICD_IGROUPR + 4, 2 ** (OTHER - 32));
    priority(before, SPI, 0x80);
    priority(before, OTHER, 0x40);
    before.gic.setSpiLine(SPI, true);
    assert.equal(before.iar(), SPI);
    before.gic.setSpiLine(OTHER, true);
    before.gic.setSpiLine(50, true);
    before.sgi(3, 6, 0b0110);
    const b = before.migrated();
    assert.deepEqual(b.gic.inspect(), before.gic.inspect());
    assert.equal(b.readGicc(GICC_RPR), 0x80);
    assert.deepEqual([b.iar(1), b.iar(2)], [(3 << 10) | 6, (3 << 10) | 6]);
    assert.deepEqual([b.iar(), b.iar()], [50, NOTHING]);
    b.eoi(50);
    assert.equal(b.iar(), OTHER);
    for (const intid of [OTHER, SPI]) b.eoi(intid);
    for (const intid of [OTHER, SPI, 50]) b.gicc(GICC_DIR, intid);
    assert.deepEqual([b.iar(), b.iar()], [50, NOTHING], 'the lines still stand');
  });

  test('of a GIC with other CPUs is refused', () => {
    assert.throws(() => new V2Bench(2).gic.load(new V2Bench(3).gic.save()), SavedStateError, '3 CPUs');
  });

  test('is gone after a reset, but for the lines', () => {
    const b = new V2Bench(2).ready(1, SPI);
    b.gic.setSpiLine(SPI, true);
    b.sgi(1, 3, 1);
    b.iar();
    b.gic.reset();
    assert.deepEqual([b.readGicd(GICD_CTLR), b.readGicc(GICC_CTLR), b.readGicc(GICC_APR0)], [0, 0, 0]);
    b.ready(1, SPI);
    assert.deepEqual([b.iar(), b.iar()], [SPI, NOTHING]);
  });
});
