/** SPIs, LPIs at a redistributor, and what a CPU interface takes. */
import { assert, describe, test } from 'vitest';
import {
  GICD_CTLR,
  GICD_ICACTIVER,
  GICD_ICFGR,
  GICD_ICPENDR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_IROUTER,
  GICD_ISENABLER,
  GICD_ISPENDR,
} from '#shared/arch/gic/distributor.ts';
import {
  GICR_CTLR,
  GICR_IGROUPR0,
  GICR_IPRIORITYR,
  GICR_ISENABLER0,
  GICR_ISPENDR0,
  GICR_PENDBASER,
  GICR_SIZE_BYTES,
  GICR_TYPER,
  GICR_WAKER,
} from '#shared/arch/gic/redistributor.ts';
import { pulseSpi } from '../../../../services/hardware/gic/controller.ts';
import { Bench, PEND, RAM } from './bench.ts';

const NOTHING = 1023;
const SPI = 76;

/** SPI 76: group 1, enabled, edge, priority, to a PE. */
function withSpi(priority = 0xa0, pe = 0, edge = true): Bench {
  const b = new Bench().ready();
  const d = b.gic.distributor;
  const word = Math.floor(SPI / 32) * 4;
  d.write(GICD_IGROUPR + word, 4, 0xffff_ffff);
  d.write(GICD_ISENABLER + word, 4, 1 << (SPI % 32));
  d.write(GICD_IPRIORITYR + SPI, 1, priority);
  d.write(GICD_ICFGR + Math.floor(SPI / 16) * 4, 4, edge ? 2 << (2 * (SPI % 16)) : 0);
  d.write(GICD_IROUTER + 8 * SPI, 4, pe);
  return b;
}

describe('shared interrupts', () => {
  test('an edge is offered once, at the PE that GICD_IROUTER names', () => {
    const b = withSpi(0xa0, 1);
    pulseSpi(b.gic, SPI);
    assert.deepEqual(b.signals, [1]);
    assert.equal(b.iar(0), NOTHING);
    assert.equal(b.iar(1), SPI);
    b.eoi(1, SPI);
    assert.equal(b.iar(1), NOTHING);
  });

  test('a second edge while the first is active is taken after deactivation', () => {
    const b = withSpi();
    pulseSpi(b.gic, SPI);
    assert.equal(b.iar(0), SPI);
    pulseSpi(b.gic, SPI);
    assert.equal(b.iar(0), NOTHING);
    b.eoi(0, SPI);
    assert.equal(b.iar(0), SPI);
  });

  test('a level stays pending while the line is high and goes with it', () => {
    const b = withSpi(0xa0, 0, false);
    b.gic.setSpiLine(SPI, true);
    assert.equal(b.iar(0), SPI);
    b.eoi(0, SPI);
    assert.equal(b.gic.cpuInterfaces[0]!.read('ICC_HPPIR1_EL1'), SPI);
    b.gic.setSpiLine(SPI, false);
    assert.equal(b.iar(0), NOTHING);
  });

  test('an SPI routed to a PE that does not exist stays pending and is offered nowhere', () => {
    const b = withSpi(0xa0, 7);
    pulseSpi(b.gic, SPI);
    assert.deepEqual([b.iar(0), b.iar(1)], [NOTHING, NOTHING]);
    b.gic.distributor.write(GICD_IROUTER + 8 * SPI, 4, 0);
    assert.equal(b.iar(0), SPI);
  });

  test('group 1 off at the distributor holds everything back', () => {
    const b = withSpi();
    b.gic.distributor.write(GICD_CTLR, 4, 0);
    pulseSpi(b.gic, SPI);
    assert.equal(b.iar(0), NOTHING);
    b.gic.distributor.write(GICD_CTLR, 4, 2);
    assert.equal(b.iar(0), SPI);
  });

  test('GICD_ISPENDR raises and GICD_ICPENDR takes back', () => {
    const b = withSpi();
    b.gic.distributor.write(GICD_ISPENDR + 8, 4, 1 << (SPI % 32));
    assert.equal(b.gic.distributor.read(GICD_ICPENDR + 8, 4), 1 << (SPI % 32));
    b.gic.distributor.write(GICD_ICPENDR + 8, 4, 1 << (SPI % 32));
    assert.equal(b.iar(0), NOTHING);
  });

  test('the affinity routing view is fixed: GICD_CTLR reads ARE and DS', () => {
    assert.equal(new Bench().gic.distributor.read(GICD_CTLR, 4), 0x50);
  });
});

describe('a CPU interface', () => {
  test('takes nothing at or below the priority mask', () => {
    const b = withSpi(0xa0);
    b.gic.cpuInterfaces[0]!.write('ICC_PMR_EL1', 0xa0);
    pulseSpi(b.gic, SPI);
    assert.equal(b.iar(0), NOTHING);
    b.gic.cpuInterfaces[0]!.write('ICC_PMR_EL1', 0xa8);
    assert.equal(b.iar(0), SPI);
  });

  test('lets a higher priority preempt and an equal one wait', () => {
    const b = withSpi(0xa0);
    b.configure(8192, 0xa0, true);
    b.configure(8193, 0x80, true);
    pulseSpi(b.gic, SPI);
    assert.equal(b.iar(0), SPI);
    b.gic.setLpiPending(0, 8192);
    assert.equal(b.iar(0), NOTHING);
    b.gic.setLpiPending(0, 8193);
    assert.equal(b.iar(0), 8193);
    assert.equal(b.gic.cpuInterfaces[0]!.read('ICC_RPR_EL1'), 0x80);
    b.eoi(0, 8193);
    assert.equal(b.gic.cpuInterfaces[0]!.read('ICC_RPR_EL1'), 0xa0);
    b.eoi(0, SPI);
    assert.equal(b.iar(0), 8192);
  });

  test('with EOImode drops the priority at EOIR and deactivates at DIR', () => {
    const b = withSpi();
    const cpu = b.gic.cpuInterfaces[0]!;
    cpu.write('ICC_CTLR_EL1', 2);
    pulseSpi(b.gic, SPI);
    assert.equal(b.iar(0), SPI);
    b.eoi(0, SPI);
    pulseSpi(b.gic, SPI);
    assert.equal(cpu.read('ICC_RPR_EL1'), 0xff);
    assert.equal(b.gic.distributor.read(GICD_ICACTIVER + 8, 4), 1 << (SPI % 32));
    assert.equal(b.iar(0), NOTHING);
    cpu.write('ICC_DIR_EL1', SPI);
    assert.equal(b.iar(0), SPI);
  });

  test('knows its registers by name only', () => {
    const cpu = new Bench().gic.cpuInterfaces[0]!;
    assert.equal(cpu.read('ICC_SGI1R_EL1'), undefined);
    assert.equal(cpu.write('ICC_IAR1_EL1', 0), false);
    assert.equal(cpu.read('ICC_EOIR1_EL1'), undefined);
    assert.equal(cpu.read('ICC_SRE_EL1'), 7);
    cpu.write('ICC_BPR1_EL1', 0);
    assert.equal(cpu.read('ICC_BPR1_EL1'), 3);
  });
});

describe('LPIs at a redistributor', () => {
  test('an acknowledged LPI is pending no more, and arrives again while it runs', () => {
    const b = new Bench().ready();
    b.configure(8192, 0xa0, true);
    b.gic.setLpiPending(0, 8192);
    assert.equal(b.iar(0), 8192);
    assert.equal(b.iar(0), NOTHING);
    b.gic.setLpiPending(0, 8192);
    assert.equal(b.iar(0), NOTHING);
    b.eoi(0, 8192);
    assert.equal(b.iar(0), 8192);
  });

  test('the lowest INTID wins among equals, and the highest priority before it', () => {
    const b = new Bench().ready();
    for (const lpi of [8300, 8200, 8250]) {
      b.configure(lpi, 0xa0, true);
      b.gic.setLpiPending(0, lpi);
    }
    b.configure(9000, 0x20, true);
    b.gic.setLpiPending(0, 9000);
    const taken: number[] = [];
    for (let n = 0; n < 4; n++) {
      const lpi = b.iar(0);
      taken.push(lpi);
      b.eoi(0, lpi);
    }
    assert.deepEqual(taken, [9000, 8200, 8250, 8300]);
  });

  test('one that arrives while LPIs are disabled is lost', () => {
    const b = new Bench();
    assert.equal(b.gic.setLpiPending(0, 8192), false);
  });

  test('one beyond GICR_PROPBASER.IDbits or below 8192 is not accepted', () => {
    const b = new Bench().ready();
    assert.equal(b.gic.setLpiPending(0, 0x1_0000), false);
    assert.equal(b.gic.setLpiPending(0, 8191), false);
  });

  test('disabling writes what is pending to the pending table, and enabling with PTZ=0 reads it', () => {
    const b = new Bench().ready();
    b.configure(8201, 0xa0, true);
    b.gic.setLpiPending(0, 8201);
    b.gicr.write(GICR_CTLR, 4, 0);
    assert.equal(b.iar(0), NOTHING);
    assert.equal(b.ram.read8(PEND + (8201 >>> 3)), 2);
    b.enableLpis(0, false);
    assert.equal(b.iar(0), 8201);
  });

  test('the table bases are read-only while LPIs are enabled, and PTZ reads 0', () => {
    const b = new Bench().ready();
    const before = b.gicr.read(GICR_PENDBASER, 4);
    b.gicr.write(GICR_PENDBASER, 4, RAM);
    assert.equal(b.gicr.read(GICR_PENDBASER, 4), before);
    assert.equal(b.gicr.read(GICR_PENDBASER + 4, 4) & 0x4000_0000, 0);
  });

  test('frames follow one another; the last says so, and beyond it nothing answers', () => {
    const { gicr } = new Bench();
    assert.equal(gicr.read(GICR_TYPER, 4), 0x001);
    assert.equal(gicr.read(GICR_SIZE_BYTES + GICR_TYPER, 4), 0x111);
    assert.equal(gicr.read(GICR_SIZE_BYTES + GICR_TYPER + 4, 4), 1);
    assert.equal(gicr.read(2 * GICR_SIZE_BYTES + GICR_TYPER, 4), 0);
  });

  test('GICR_WAKER.ChildrenAsleep follows ProcessorSleep', () => {
    const { gicr } = new Bench();
    assert.equal(gicr.read(GICR_WAKER, 4), 6);
    gicr.write(GICR_WAKER, 4, 0);
    assert.equal(gicr.read(GICR_WAKER, 4), 0);
  });

  test('a private interrupt made pending by software is taken at its own PE', () => {
    const b = new Bench().ready();
    const at = GICR_SIZE_BYTES;
    b.gicr.write(at + GICR_IGROUPR0, 4, 0xffff_ffff);
    b.gicr.write(at + GICR_ISENABLER0, 4, 1 << 27);
    b.gicr.write(at + GICR_IPRIORITYR + 24, 4, 0xa0a0_a0a0);
    b.gicr.write(at + GICR_ISPENDR0, 4, 1 << 27);
    assert.deepEqual([b.iar(0), b.iar(1)], [NOTHING, 27]);
  });
});
