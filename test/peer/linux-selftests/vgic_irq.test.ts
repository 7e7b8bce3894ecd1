/**
 * Linux's tools/testing/selftests/kvm/arm64/vgic_irq.c retold for the machine's GIC: interrupts injected in each way,
 * with EOImode 0 and 1, one, many and all; priorities, preemption, levels, and INTIDs that do not exist.
 * The peer's injection through KVM (irqfd, IRQ_LINE) is a line of ours, its writes to ISPENDR and ISACTIVER are the same.
 */
import { assert, describe, test } from 'vitest';
import {
  GICD_ICFGR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_ISACTIVER,
  GICD_ISENABLER,
  GICD_ISPENDR,
} from '#shared/arch/gic/distributor.ts';
import { GICR_SGI_FRAME } from '#shared/arch/gic/redistributor.ts';
import { pulseSpi } from '../../../services/hardware/gic/controller.ts';
import { Bench } from '../../unit/hardware/gic/bench.ts';

const NOTHING = 1023;
const SPI_END = 992;

class Guest {
  readonly b = new Bench({ affinities: [0] }).ready();
  readonly eoiMode: 0 | 1;

  constructor(eoiMode: 0 | 1, edge: boolean) {
    this.eoiMode = eoiMode;
    this.cpu.write('ICC_CTLR_EL1', eoiMode << 1);
    for (let intid = 0; intid < SPI_END; intid += 32) {
      this.#set(GICD_IGROUPR, intid, 0xffff_ffff);
      this.#set(GICD_ISENABLER, intid, 0xffff_ffff);
    }
    for (let intid = 16; intid < SPI_END; intid += 16)
      this.write(GICD_ICFGR + intid / 4, intid, edge ? 0xaaaa_aaaa : 0);
    for (let intid = 0; intid < SPI_END; intid++) this.priority(intid, 0xa0);
  }

  get cpu() {
    return this.b.gic.cpuInterfaces[0]!;
  }

  /** A register of the distributor's layout, in the SGI frame for private interrupts. */
  write(offset: number, intid: number, value: number, size = 4): void {
    if (intid < 32) this.b.gicr.write(GICR_SGI_FRAME + offset, size, value);
    else this.b.gic.distributor.write(offset, size, value);
  }

  #set(base: number, intid: number, value: number): void {
    this.write(base + 4 * (intid >>> 5), intid, value >>> 0);
  }

  bit(base: number, intid: number): boolean {
    const offset = base + 4 * (intid >>> 5);
    const word = intid < 32 ? this.b.gicr.read(GICR_SGI_FRAME + offset, 4) : this.b.gic.distributor.read(offset, 4);
    return ((word >>> (intid & 31)) & 1) !== 0;
  }

  setBit(base: number, intid: number): void {
    this.#set(base, intid, 1 << (intid & 31));
  }

  priority(intid: number, priority: number): void {
    this.write(GICD_IPRIORITYR + intid, intid, priority, 1);
  }

  complete(intid: number): void {
    this.cpu.write('ICC_EOIR1_EL1', intid);
    if (this.eoiMode === 1) {
      assert.isTrue(this.bit(GICD_ISACTIVER, intid));
      this.cpu.write('ICC_DIR_EL1', intid);
    }
    assert.isFalse(this.bit(GICD_ISACTIVER, intid));
  }

  /** Handles all there is, one at a time. */
  handleAll(): number[] {
    const handled: number[] = [];
    for (let intid = this.b.iar(0); intid !== NOTHING; intid = this.b.iar(0)) {
      handled.push(intid);
      assert.isTrue(this.bit(GICD_ISACTIVER, intid));
      this.b.gic.setSpiLine(intid, false);
      assert.isFalse(this.bit(GICD_ISPENDR, intid));
      this.complete(intid);
    }
    assert.deepEqual([this.cpu.read('ICC_AP1R0_EL1'), this.cpu.read('ICC_RPR_EL1')], [0, 0xff]);
    return handled;
  }
}

const KINDS = [
  ['SGI', 0, 16],
  ['PPI', 16, 16],
  ['SPI', 32, SPI_END - 32],
] as const;

for (const eoiMode of [0, 1] as const) {
  for (const edge of [true, false]) {
    describe(`[linux-selftests/vgic_irq] EOImode ${eoiMode}, ${edge ? 'edge' : 'level'}`, () => {
      for (const [kind, first, count] of KINDS) {
        for (const many of [1, Math.min(count, 5), count]) {
          test(`${many} ${kind} made pending by ISPENDR are handled in order, once`, () => {
            const g = new Guest(eoiMode, edge);
            const intids = Array.from({ length: many }, (_, n) => first + n);
            for (const intid of [...intids].reverse()) g.setBit(GICD_ISPENDR, intid);
            assert.deepEqual(g.handleAll(), intids);
          });
        }
      }

      test('lines raised for all SPIs are handled by priority, the highest first', () => {
        const g = new Guest(eoiMode, edge);
        const intids = Array.from({ length: 32 }, (_, n) => 64 + n);
        for (const intid of intids) g.priority(intid, 0xf0 - 8 * (intid - 64 < 16 ? intid - 64 : 0));
        for (const intid of intids) g.b.gic.setSpiLine(intid, true);
        const firstByPriority = intids.slice(0, 16).reverse();
        // The last of the first half has the lowest priority of all, as the second half has: the lowest INTID wins.
        assert.deepEqual(g.handleAll(), [...firstByPriority, ...intids.slice(16)]);
      });

      test('higher priorities preempt, four deep', () => {
        const g = new Guest(eoiMode, edge);
        const intids = [64, 65, 66, 67];
        intids.forEach((intid, n) => void g.priority(intid, 0xc0 - 0x20 * n));
        for (const intid of intids) {
          g.b.gic.setSpiLine(intid, true);
          assert.equal(g.b.iar(0), intid);
          g.b.gic.setSpiLine(intid, false);
        }
        assert.equal(g.b.iar(0), NOTHING);
        for (const intid of [...intids].reverse()) g.complete(intid);
        assert.equal(g.cpu.read('ICC_AP1R0_EL1'), 0);
      });

      test('one that was set active is restored as active and can be deactivated', () => {
        const g = new Guest(eoiMode, edge);
        g.setBit(GICD_ISACTIVER, 70);
        g.setBit(GICD_ISPENDR, 70);
        assert.equal(g.b.iar(0), NOTHING);
        // As a restore does: the priority is active too.
        g.cpu.write('ICC_AP1R0_EL1', 1 << (0xa0 >>> 3));
        g.complete(70);
        assert.deepEqual(g.handleAll(), [70]);
      });
    });
  }
}

describe('[linux-selftests/vgic_irq] what does not exist', () => {
  for (const intid of [SPI_END, 1020, 1024, 1120, 5120, 0xffff_ffff]) {
    test(`INTID ${intid} has no line`, () => {
      const g = new Guest(0, true);
      g.b.gic.setSpiLine(intid, true);
      pulseSpi(g.b.gic, intid);
      assert.deepEqual(g.handleAll(), []);
      assert.deepEqual(g.b.signals, []);
    });
  }
});
