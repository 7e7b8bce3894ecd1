/**
 * What kvm-unit-tests asks of a GICv2 (arm/gic.c with gic-version 2), asked of ours. Case names are theirs.
 * Its interrupts have to be in group 0: its CPU interface has one enable.
 */
import { assert, describe, test } from 'vitest';
import {
  GICD_ICACTIVER,
  GICD_IIDR,
  GICD_IPRIORITYR,
  GICD_ISACTIVER,
  GICD_ITARGETSR,
  GICD_TYPER,
} from '#shared/arch/gic/distributor.ts';
import { decodeGicv2Typer, GICV2_GICD_ICPIDR2, SGI_FILTER } from '#shared/arch/gic/v2.ts';
import { GICV2_LINES } from '../../../services/hardware/gic/v2/distributor.ts';
import { NOTHING, V2Bench } from '../../unit/hardware/gic/v2-bench.ts';

const SENDER = 1;
const IPI = 1;
const SENT = (SENDER << 10) | IPI;

describe('[kvm-unit-tests/gicv2-ipi]', () => {
  const sent = (filter: number, list: number): number[][] => {
    const b = new V2Bench(4).ready();
    b.sgi(SENDER, IPI, list, filter);
    return b.taken();
  };

  test('self: the sender takes it, and knows that it was itself', () => {
    assert.deepEqual(sent(SGI_FILTER.SELF, 0), [[], [SENT], [], []]);
  });

  test('target-list: each of the list once', () => {
    assert.deepEqual(sent(SGI_FILTER.LIST, 0b1101), [[SENT], [], [SENT], [SENT]]);
  });

  test('broadcast: all but the sender once', () => {
    assert.deepEqual(sent(SGI_FILTER.ALL_OTHERS, 0), [[SENT], [], [SENT], [SENT]]);
  });
});

test('[kvm-unit-tests/gicv2-active] one that is set active is held until its active state is cleared', () => {
  const b = new V2Bench(2).ready();
  b.gicd(GICD_ISACTIVER, 1 << 8);
  assert.equal(b.readGicd(GICD_ICACTIVER), 1 << 8);
  assert.equal(b.readGicd(GICD_ICACTIVER, 1), 0, 'CPU 1 has its own');
  b.sgi(0, 8, 0b01);
  assert.equal(b.iar(), NOTHING);
  b.gicd(GICD_ICACTIVER, 1 << 8);
  assert.deepEqual(b.taken(), [[8], []]);
});

describe.each([8, 3, 1])('[kvm-unit-tests/gicv2-mmio,gicv2-mmio-3p,gicv2-mmio-up] with %i CPUs:', (cpus) => {
  const beyond = GICV2_LINES;

  test('identification registers are read-only, and GICD_TYPER counts CPUs and lines', () => {
    const b = new V2Bench(cpus);
    assert.deepEqual(decodeGicv2Typer(b.readGicd(GICD_TYPER)), { lines: GICV2_LINES, cpus });
    assert.equal(b.readGicd(GICV2_GICD_ICPIDR2) & 0xf0, 0x20);
    for (const offset of [GICD_TYPER, GICD_IIDR, GICV2_GICD_ICPIDR2]) {
      const before = b.readGicd(offset);
      for (const value of [0xffff_ffff, 0xa5a5_5a5a, 0]) {
        b.gicd(offset, value);
        assert.equal(b.readGicd(offset), before);
      }
    }
  });

  test('priorities take words and bytes, keep the bits that are implemented, and end with the last interrupt', () => {
    const b = new V2Bench(cpus);
    const first = GICD_IPRIORITYR + 32;
    b.gicd(first, 0xffff_ffff);
    assert.equal(b.readGicd(first), 0xf8f8_f8f8);
    b.gicd(first, 0);
    assert.equal(b.readGicd(first), 0);
    b.gicd(first, 0x4080_c010);
    assert.deepEqual(
      [0, 1, 2, 3].map((i) => b.readGicd(first + i, 0, 1)),
      [0x10, 0xc0, 0x80, 0x40],
    );
    b.gicd(first + 2, 0x18, 0, 1);
    assert.equal(b.readGicd(first), 0x4018_c010);
    b.gicd(GICD_IPRIORITYR + beyond, 0xffff_ffff);
    assert.equal(b.readGicd(GICD_IPRIORITYR + beyond), 0);
  });

  test('GICD_ITARGETSR has a bit for each CPU that there is, takes bytes, and ends with the last interrupt', () => {
    const b = new V2Bench(cpus);
    const first = GICD_ITARGETSR + 32;
    // With one CPU there is nothing to choose: RAZ/WI.
    const each = cpus === 1 ? 0 : 2 ** cpus - 1;
    b.gicd(first, 0xffff_ffff);
    assert.equal(b.readGicd(first), each * 0x0101_0101);
    b.gicd(first, 0x0103_0205);
    assert.equal(b.readGicd(first), 0x0103_0205 & (each * 0x0101_0101));
    b.gicd(first + 1, 0x01, 0, 1);
    assert.equal(b.readGicd(first + 1, 0, 1), 0x01 & each);
    b.gicd(GICD_ITARGETSR + beyond, 0xffff_ffff);
    assert.equal(b.readGicd(GICD_ITARGETSR + beyond), 0);
  });

  test('the targets of private interrupts are the CPU that reads them', () => {
    const b = new V2Bench(cpus);
    for (let cpu = 0; cpu < cpus; cpu++) {
      b.gicd(GICD_ITARGETSR, 0, cpu);
      assert.equal(b.readGicd(GICD_ITARGETSR + 28, cpu), cpus === 1 ? 0 : 2 ** cpu * 0x0101_0101);
    }
  });
});
