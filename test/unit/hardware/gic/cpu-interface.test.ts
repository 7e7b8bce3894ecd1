/** SGIs, active priorities, binary points, SPIs for any PE, and LPIs by register. */
import { assert, describe, test } from 'vitest';
import { encodeIccSgi1r } from '#shared/arch/gic/cpu-interface.ts';
import {
  GICD_ICACTIVER,
  GICD_ICFGR,
  GICD_ICPENDR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_IROUTER,
  GICD_ISACTIVER,
  GICD_ISENABLER,
  GICD_ISPENDR,
} from '#shared/arch/gic/distributor.ts';
import {
  GICR_CLRLPIR,
  GICR_IGROUPR0,
  GICR_INVALLR,
  GICR_INVLPIR,
  GICR_ISENABLER0,
  GICR_SETLPIR,
  GICR_SIZE_BYTES,
  GICR_SYNCR,
  GICR_TYPER,
} from '#shared/arch/gic/redistributor.ts';
import { Bench, type BenchOptions } from './bench.ts';

const NOTHING = 1023;

/** SGIs are in group 1 and enabled everywhere. */
function ready(options: BenchOptions = {}): Bench {
  const b = new Bench(options).ready();
  for (const pe of b.pes) {
    b.gicr.write(pe * GICR_SIZE_BYTES + GICR_IGROUPR0, 4, 0xffff_ffff);
    b.gicr.write(pe * GICR_SIZE_BYTES + GICR_ISENABLER0, 4, 0xffff);
  }
  return b;
}

function cpu(b: Bench, pe = 0) {
  return b.gic.cpuInterfaces[pe]!;
}

/** SPIs 64 to 95 enabled in group 1, level, with these priorities from 64 on. */
function withSpis(b: Bench, ...priorities: number[]): Bench {
  const d = b.gic.distributor;
  d.write(GICD_IGROUPR + 8, 4, 0xffff_ffff);
  d.write(GICD_ISENABLER + 8, 4, 0xffff_ffff);
  priorities.forEach((p, i) => void d.write(GICD_IPRIORITYR + 64 + i, 1, p));
  return b;
}

const sgi = (intid: number, TargetList: number, more: { Aff1?: number; Aff2?: number; IRM?: boolean } = {}): number =>
  encodeIccSgi1r({ intid, TargetList, IRM: false, RS: 0, Aff1: 0, Aff2: 0, Aff3: 0, ...more });

describe('what a CPU interface takes', () => {
  test('is below ICC_PMR_EL1 and in a group priority below the running one, for every binary point', () => {
    const c = cpu(new Bench().ready());
    for (const bpr of [0, 3, 4, 5, 6, 7]) {
      for (const cbpr of [0, 1]) {
        for (const running of [-1, 0, 0x20, 0x58, 0xf8]) {
          for (const pmr of [0, 0x50, 0xf8]) {
            c.write('ICC_CTLR_EL1', 0);
            c.write('ICC_BPR1_EL1', bpr);
            c.write('ICC_BPR0_EL1', bpr);
            c.write('ICC_CTLR_EL1', cbpr);
            c.write('ICC_AP1R0_EL1', running < 0 ? 0 : 1 << (running >>> 3));
            c.write('ICC_PMR_EL1', pmr);
            const group = (0xff << (cbpr === 0 ? Math.max(bpr, 3) : Math.max(bpr, 2) + 1)) & 0xff;
            for (let priority = 0; priority < 0x100; priority += 8) {
              const taken = priority < pmr && (priority & group) < (running < 0 ? 0xff : running);
              assert.equal(c.takes(priority), taken, `${priority} of ${pmr}, ${running}, ${bpr}, ${cbpr}`);
            }
            assert.isFalse(c.takes(0x100) || c.takes(0x200));
          }
        }
      }
    }
    c.write('ICC_IGRPEN1_EL1', 0);
    assert.isFalse(c.takes(0));
  });
});

describe('ICC_SGI1R_EL1', () => {
  const affinities = [0, 1, 0x100, 0x1_0102];

  test('reaches the PEs of the list in the cluster that it names', () => {
    const b = ready({ affinities });
    cpu(b).write('ICC_SGI1R_EL1', sgi(5, 0b11));
    assert.deepEqual([b.iar(0), b.iar(1), b.iar(2), b.iar(3)], [5, 5, NOTHING, NOTHING]);
    cpu(b).write('ICC_SGI1R_EL1', sgi(6, 0b1, { Aff1: 1 }));
    cpu(b).write('ICC_SGI1R_EL1', sgi(7, 0b100, { Aff1: 1, Aff2: 1 }));
    assert.deepEqual([b.iar(2), b.iar(3)], [6, 7]);
  });

  test('with IRM reaches every PE but the one that writes', () => {
    const b = ready({ affinities });
    cpu(b, 2).write('ICC_SGI1R_EL1', sgi(3, 0, { IRM: true }));
    assert.deepEqual([b.iar(0), b.iar(1), b.iar(2), b.iar(3)], [3, 3, NOTHING, 3]);
  });

  test('does nothing at a PE that does not exist, or that has the SGI in group 0', () => {
    const b = ready();
    b.gicr.write(GICR_SIZE_BYTES + GICR_IGROUPR0, 4, 0xffff_fffd);
    cpu(b).write('ICC_SGI1R_EL1', sgi(1, 0b1010));
    b.gicr.write(GICR_SIZE_BYTES + GICR_IGROUPR0, 4, 0xffff_ffff);
    assert.deepEqual([b.iar(0), b.iar(1)], [NOTHING, NOTHING]);
  });
});

describe('priorities of a CPU interface', () => {
  test('ICC_AP1R0_EL1 has a bit for each active group priority, and an EOI drops the highest', () => {
    const b = withSpis(ready(), 0x80, 0x40);
    b.gic.setSpiLine(64, true);
    assert.equal(b.iar(0), 64);
    b.gic.setSpiLine(65, true);
    assert.equal(b.iar(0), 65);
    assert.equal(cpu(b).read('ICC_AP1R0_EL1'), (1 << 16) | (1 << 8));
    b.eoi(0, 65);
    assert.deepEqual([cpu(b).read('ICC_AP1R0_EL1'), cpu(b).read('ICC_RPR_EL1')], [1 << 16, 0x80]);
    cpu(b).write('ICC_AP1R0_EL1', 0);
    assert.equal(cpu(b).read('ICC_RPR_EL1'), 0xff);
  });

  test('a binary point puts neighbouring priorities into one group, which does not preempt itself', () => {
    const b = withSpis(ready(), 0x88, 0x80, 0x70);
    cpu(b).write('ICC_BPR1_EL1', 4);
    b.gic.setSpiLine(64, true);
    assert.equal(b.iar(0), 64);
    b.gic.setSpiLine(65, true);
    assert.equal(b.iar(0), NOTHING);
    b.gic.setSpiLine(66, true);
    assert.equal(b.iar(0), 66);
  });

  test('with CBPR group 1 uses ICC_BPR0_EL1, and ICC_BPR1_EL1 reads one more and keeps nothing', () => {
    const b = ready();
    cpu(b).write('ICC_BPR0_EL1', 4);
    cpu(b).write('ICC_CTLR_EL1', 1);
    cpu(b).write('ICC_BPR1_EL1', 3);
    assert.equal(cpu(b).read('ICC_BPR1_EL1'), 5);
    cpu(b).write('ICC_CTLR_EL1', 0);
    assert.equal(cpu(b).read('ICC_BPR1_EL1'), 3);
    cpu(b).write('ICC_BPR0_EL1', 0);
    assert.equal(cpu(b).read('ICC_BPR0_EL1'), 2);
  });

  test('an EOI of a special INTID, or with nothing active, changes nothing', () => {
    const b = withSpis(ready(), 0x80);
    b.gic.setSpiLine(64, true);
    assert.equal(b.iar(0), 64);
    b.eoi(0, 1023);
    b.eoi(0, 0x2_0000);
    assert.equal(cpu(b).read('ICC_RPR_EL1'), 0x80);
    b.eoi(0, 64);
    b.gic.distributor.write(GICD_ISACTIVER + 8, 4, 2);
    b.eoi(0, 65);
    assert.equal(b.gic.distributor.read(GICD_ICACTIVER + 8, 4), 2);
  });

  test('ICC_CTLR_EL1.IDbits says 24 bits for a GIC that has more than 16', () => {
    assert.equal((cpu(new Bench()).read('ICC_CTLR_EL1')! >>> 11) & 7, 0);
    const wide = new Bench({ gic: { idBits: 20 } });
    assert.equal((cpu(wide).read('ICC_CTLR_EL1')! >>> 11) & 7, 1);
    assert.equal((wide.gic.distributor.read(4, 4) >>> 19) & 0x1f, 19);
  });
});

describe('wired interrupts', () => {
  test('a level that is still high after the EOI signals the PE again', () => {
    const b = withSpis(ready(), 0x80);
    b.gic.setSpiLine(64, true);
    assert.equal(b.iar(0), 64);
    b.signals.length = 0;
    b.eoi(0, 64);
    assert.deepEqual(b.signals, [0]);
    assert.equal(b.iar(0), 64);
    b.gic.setSpiLine(64, false);
    b.signals.length = 0;
    b.eoi(0, 64);
    assert.deepEqual(b.signals, []);
  });

  test('GICD_ICPENDR takes the latch of a level away and not its line', () => {
    const b = withSpis(ready(), 0x80);
    b.gic.distributor.write(GICD_ISPENDR + 8, 4, 1);
    b.gic.setSpiLine(64, true);
    b.gic.distributor.write(GICD_ICPENDR + 8, 4, 1);
    assert.equal(b.gic.distributor.read(GICD_ISPENDR + 8, 4), 1);
    b.gic.setSpiLine(64, false);
    assert.equal(b.gic.distributor.read(GICD_ISPENDR + 8, 4), 0);
  });

  test('a line that is high already is no edge when the trigger becomes edge', () => {
    const b = withSpis(ready(), 0x80);
    b.gic.distributor.write(GICD_ISENABLER + 0x80 + 8, 4, 1);
    b.gic.setSpiLine(64, true);
    b.gic.distributor.write(GICD_ICFGR + 16, 4, 2);
    assert.equal(b.gic.distributor.read(GICD_ISPENDR + 8, 4), 0);
    b.gic.setSpiLine(64, true);
    assert.equal(b.gic.distributor.read(GICD_ISPENDR + 8, 4), 0);
    b.gic.setSpiLine(64, false);
    b.gic.setSpiLine(64, true);
    assert.equal(b.gic.distributor.read(GICD_ISPENDR + 8, 4), 1);
  });

  test('GICD_IROUTER.IRM leaves an SPI to the first PE that takes interrupts', () => {
    const b = withSpis(ready({ affinities: [0, 1, 2] }), 0x80);
    b.gic.distributor.write(GICD_IROUTER + 8 * 64, 4, 0x8000_0000);
    for (const pe of [0, 1]) cpu(b, pe).write('ICC_IGRPEN1_EL1', 0);
    b.signals.length = 0;
    b.gic.setSpiLine(64, true);
    assert.deepEqual(b.signals, [2]);
    cpu(b, 1).write('ICC_IGRPEN1_EL1', 1);
    assert.deepEqual([b.iar(0), b.iar(1), b.iar(2)], [NOTHING, 64, NOTHING]);
  });

  test('SPIs beyond the lines of the GIC, SGIs and PPIs have no wire here', () => {
    const b = ready();
    for (const intid of [0, 31, 992, 1019, 1023, 5000, -1]) b.gic.setSpiLine(intid, true);
    assert.deepEqual(b.signals, []);
  });
});

describe('LPIs by register (DirectLPI)', () => {
  test('GICR_SETLPIR and GICR_CLRLPIR raise and take back, GICR_INVLPIR and GICR_INVALLR read the table again', () => {
    const b = new Bench({ gic: { directLpi: true } }).ready();
    assert.equal(b.gicr.read(GICR_TYPER, 4) & 8, 8);
    b.configure(8200, 0xa0, false);
    b.gicr.write(GICR_SETLPIR, 4, 8200);
    assert.equal(b.iar(0), NOTHING);
    b.configure(8200, 0xa0, true);
    b.gicr.write(GICR_INVLPIR, 4, 8200);
    b.gicr.write(GICR_INVLPIR + 4, 4, 0);
    assert.equal(b.gicr.read(GICR_SYNCR, 4), 0);
    assert.equal(b.iar(0), 8200);
    b.eoi(0, 8200);
    b.gicr.write(GICR_SETLPIR, 4, 8200);
    b.gicr.write(GICR_CLRLPIR, 4, 8200);
    assert.equal(b.iar(0), NOTHING);
    b.configure(8200, 0xa0, false);
    b.gicr.write(GICR_INVALLR, 4, 0);
    b.gicr.write(GICR_SETLPIR, 4, 8200);
    assert.equal(b.iar(0), NOTHING);
  });

  test('do not exist where GICR_TYPER.DirectLPI is 0', () => {
    const b = new Bench().ready();
    b.configure(8200, 0xa0, true);
    b.gicr.write(GICR_SETLPIR, 4, 8200);
    assert.equal(b.iar(0), NOTHING);
  });
});
