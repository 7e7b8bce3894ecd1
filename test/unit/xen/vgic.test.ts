import { assert, describe, test } from 'vitest';
import {
  GUEST_EVTCHN_PPI,
  GUEST_GICV3_GICD_BASE,
  GUEST_GICV3_GICR0_BASE,
  GUEST_GICV3_RDIST_STRIDE,
} from '#shared/abi/arch-arm.ts';
import {
  decodeGicdTyper,
  GICD_CTLR,
  GICD_CTLR_EnableGrp1,
  GICD_IPRIORITYR,
  GICD_IROUTER,
  GICD_ISENABLER,
  GICD_ISPENDR,
  GICD_TYPER,
} from '#shared/arch/gic/distributor.ts';
import {
  decodeGicrTyper,
  GICR_CTLR,
  GICR_ICENABLER0,
  GICR_IPRIORITYR,
  GICR_ISENABLER0,
  GICR_ISPENDR0,
  GICR_PENDBASER,
  GICR_PROPBASER,
  GICR_TYPER,
  GICR_WAKER,
} from '#shared/arch/gic/redistributor.ts';
import type { Op } from '#shared/core/op.ts';
import { Counts } from '../../../services/xen/counts.ts';
import { XenError } from '../../../services/xen/error.ts';
import { VGic } from '../../../services/xen/vgic/vgic.ts';

const PPI = GUEST_EVTCHN_PPI;
const SPI = 40;

/** A queue that is never emptied: what a virtual CPU would take with its next upcall. */
class Queue {
  readonly pending: number[] = [];
  deliver(intid: number): void {
    this.pending.push(intid);
  }
  retract(intid: number): void {
    const at = this.pending.indexOf(intid);
    if (at >= 0) this.pending.splice(at, 1);
  }
}

function run<T>(op: Op<T>): T {
  const next = op.next();
  assert.isTrue(next.done, 'a register access waits for nothing');
  return next.value as T;
}

class Guest {
  readonly vcpus = [new Queue(), new Queue()];
  readonly vgic = new VGic(
    {
      domid: 1,
      vcpus: this.vcpus,
      pdevs: [],
      // biome-ignore lint/correctness/useYield: there is no memory
      *readGuest(): Op<Uint8Array> {
        throw new XenError('EFAULT', 'no memory');
      },
      // biome-ignore lint/correctness/useYield: there is no memory
      *writeGuest(): Op<void> {
        throw new XenError('EFAULT', 'no memory');
      },
    },
    { runtime: { spawn: () => undefined, trace: () => undefined }, counts: new Counts() },
  );

  /** Undefined when the guest takes an abort. */
  read(ipa: number, sizeBytes = 4): number | undefined {
    const data = run(this.vgic.mmio({ vcpu: 0, ipa, sizeBytes, isWrite: false, value: new Uint8Array(0) }));
    return data?.reduceRight((n, byte) => n * 256 + byte, 0);
  }

  write(ipa: number, value: number, sizeBytes = 4): boolean {
    const data = Uint8Array.from({ length: sizeBytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);
    return run(this.vgic.mmio({ vcpu: 0, ipa, sizeBytes, isWrite: true, value: data })) !== undefined;
  }

  gicd(offset: number, value: number, sizeBytes = 4): void {
    assert.isTrue(this.write(GUEST_GICV3_GICD_BASE + offset, value, sizeBytes));
  }

  gicr(offset: number, value: number, sizeBytes = 4): void {
    assert.isTrue(this.write(GUEST_GICV3_GICR0_BASE + offset, value, sizeBytes));
  }
}

describe('the virtual GIC', () => {
  test('gives a PPI to the guest only when the distributor and the interrupt are enabled', () => {
    const g = new Guest();
    g.vgic.inject(PPI);
    assert.deepEqual(g.vcpus[0]!.pending, []);
    g.gicr(GICR_ISENABLER0, 2 ** PPI);
    assert.deepEqual(g.vcpus[0]!.pending, []);
    g.gicd(GICD_CTLR, GICD_CTLR_EnableGrp1);
    assert.deepEqual(g.vcpus[0]!.pending, [PPI]);
    assert.equal(g.read(GUEST_GICV3_GICR0_BASE + GICR_ISPENDR0), 0);
  });

  test('takes back an interrupt that is disabled before it went out, and keeps it pending', () => {
    const g = new Guest();
    g.gicd(GICD_CTLR, GICD_CTLR_EnableGrp1);
    g.gicr(GICR_ISENABLER0, 2 ** PPI);
    g.vgic.inject(PPI);
    g.gicr(GICR_ICENABLER0, 2 ** PPI);
    assert.deepEqual(g.vcpus[0]!.pending, []);
    assert.equal(g.read(GUEST_GICV3_GICR0_BASE + GICR_ISPENDR0), 2 ** PPI);
    g.gicr(GICR_ISENABLER0, 2 ** PPI);
    assert.deepEqual(g.vcpus[0]!.pending, [PPI]);
  });

  test('sends an SPI to the virtual CPU that GICD_IROUTER names', () => {
    const g = new Guest();
    g.gicd(GICD_CTLR, GICD_CTLR_EnableGrp1);
    g.gicd(GICD_ISENABLER + 4, 1 << (SPI - 32));
    g.gicd(GICD_IROUTER + 8 * SPI, 1, 8);
    assert.equal(g.read(GUEST_GICV3_GICD_BASE + GICD_IROUTER + 8 * SPI, 8), 1);
    g.vgic.inject(SPI);
    assert.deepEqual(
      g.vcpus.map((v) => v.pending),
      [[], [SPI]],
    );
  });

  test('hands over by priority, then by number', () => {
    const g = new Guest();
    g.gicr(GICR_IPRIORITYR + PPI, 0x40, 1);
    g.gicr(GICR_IPRIORITYR + 27, 0x80, 1);
    g.gicr(GICR_IPRIORITYR + 16, 0x80, 1);
    g.gicr(GICR_ISENABLER0, 0xffff_ffff);
    g.gicr(GICR_ISPENDR0, 2 ** PPI + 2 ** 27 + 2 ** 16);
    g.gicd(GICD_CTLR, GICD_CTLR_EnableGrp1);
    assert.deepEqual(g.vcpus[0]!.pending, [PPI, 16, 27]);
  });

  test('lets a guest make an SPI pending itself', () => {
    const g = new Guest();
    g.gicd(GICD_CTLR, GICD_CTLR_EnableGrp1);
    g.gicd(GICD_ISENABLER + 4, 1 << (SPI - 32));
    g.gicd(GICD_ISPENDR + 4, 1 << (SPI - 32));
    assert.deepEqual(g.vcpus[0]!.pending, [SPI]);
  });

  test('aborts an access of a width that the register does not take, and one to what is not there', () => {
    const g = new Guest();
    assert.isUndefined(g.read(GUEST_GICV3_GICD_BASE + GICD_CTLR, 8));
    assert.isUndefined(g.read(GUEST_GICV3_GICD_BASE + GICD_CTLR, 1));
    assert.isUndefined(g.read(GUEST_GICV3_GICD_BASE + 2, 4));
    assert.equal(g.read(GUEST_GICV3_GICD_BASE + GICD_IPRIORITYR + SPI, 1), 0);
    assert.isUndefined(g.read(GUEST_GICV3_GICR0_BASE + 2 * GUEST_GICV3_RDIST_STRIDE));
    assert.isUndefined(g.read(GUEST_GICV3_GICD_BASE - 0x1000));
  });

  test('describes itself as a driver wants it: LPIs, 16 bits of INTID, one redistributor a virtual CPU, the last marked', () => {
    const g = new Guest();
    const typer = decodeGicdTyper(g.read(GUEST_GICV3_GICD_BASE + GICD_TYPER)!);
    assert.deepEqual(typer, { lines: 64, idBits: 16, lpis: true });
    const redistributors = [0, 1].map((v) => {
      const at = GUEST_GICV3_GICR0_BASE + v * GUEST_GICV3_RDIST_STRIDE + GICR_TYPER;
      return decodeGicrTyper({ lo: g.read(at)!, hi: g.read(at + 4)! });
    });
    assert.deepEqual(redistributors, [
      { PLPIS: true, Last: false, Processor_Number: 0, affinity: 0 },
      { PLPIS: true, Last: true, Processor_Number: 1, affinity: 1 },
    ]);
    assert.equal(g.read(GUEST_GICV3_GICR0_BASE + GICR_WAKER), 0);
  });

  test('keeps the LPI tables where they are once LPIs are enabled', () => {
    const g = new Guest();
    g.gicr(GICR_PROPBASER, 0x4008_000f, 8);
    g.gicr(GICR_PENDBASER, 2 ** 62 + 0x4009_0000, 8);
    assert.equal(g.read(GUEST_GICV3_GICR0_BASE + GICR_PENDBASER, 8), 0x4009_0000);
    g.gicr(GICR_CTLR, 1);
    g.gicr(GICR_PROPBASER, 0x4010_000f, 8);
    g.gicr(GICR_CTLR, 0);
    assert.equal(g.read(GUEST_GICV3_GICR0_BASE + GICR_PROPBASER, 8), 0x4008_000f);
    assert.equal(g.read(GUEST_GICV3_GICR0_BASE + GICR_CTLR), 1);
  });
});
