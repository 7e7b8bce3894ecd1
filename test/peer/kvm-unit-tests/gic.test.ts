/**
 * What kvm-unit-tests asks of a GICv3 with an ITS (arm/gic.c and lib/arm64/gic-v3-its.c), asked of ours. Case names are
 * the peer's; steps and expectations are retold, nothing is copied. "Migration" is save, bytes, restore into a new GIC.
 * Left out: the gicv2 MMIO cases beyond what a GICv3 distributor has in common, and what needs KVM's own interface.
 */
import { assert, describe, test } from 'vitest';
import { encodeIccSgi1r } from '#shared/arch/gic/cpu-interface.ts';
import {
  GICD_ICACTIVER,
  GICD_IIDR,
  GICD_IPRIORITYR,
  GICD_ISACTIVER,
  GICD_ITARGETSR,
  GICD_PIDR2,
  GICD_TYPER,
} from '#shared/arch/gic/distributor.ts';
import { decodeGitsBaser, GITS_BASER, GITS_BASER_COUNT, GITS_IIDR, GITS_TYPER } from '#shared/arch/gic/its.ts';
import {
  encodeInt,
  encodeInv,
  encodeInvall,
  encodeMapc,
  encodeMapd,
  encodeMapti,
} from '#shared/arch/gic/its-commands.ts';
import {
  GICR_CTLR,
  GICR_ICACTIVER0,
  GICR_IGROUPR0,
  GICR_ISACTIVER0,
  GICR_ISENABLER0,
  GICR_SIZE_BYTES,
} from '#shared/arch/gic/redistributor.ts';
import { Bench, ITT, PEND } from '../../unit/hardware/gic/bench.ts';

const NOTHING = 1023;
const PES = 4;

function fourPes(): Bench {
  return new Bench({ affinities: Array.from({ length: PES }, (_, pe) => pe) }).ready();
}

/** Takes and completes all that each PE has. By PE. */
function taken(b: Bench): number[][] {
  return b.pes.map((pe) => {
    const intids: number[] = [];
    for (let intid = b.iar(pe); intid !== NOTHING; intid = b.iar(pe)) {
      intids.push(intid);
      b.eoi(pe, intid);
    }
    return intids;
  });
}

describe('kvm-unit-tests gic: its', () => {
  test('[kvm-unit-tests/its-introspection]', () => {
    const { its } = new Bench();
    const read = (offset: number) => [its.read(offset, 4), its.read(offset + 4, 4)];
    for (const offset of [GITS_TYPER, GITS_IIDR]) {
      const before = read(offset);
      for (const value of [0xffff_ffff, 0xa5a5_5a5a, 0]) {
        its.write(offset, 4, value);
        assert.deepEqual(read(offset), before);
      }
    }
    const typer = its.read(GITS_TYPER, 4);
    assert.equal(typer & 1, 1, 'physical LPIs');
    assert.isAbove((typer >>> 8) & 0x1f, 0, 'EventID bits');
    assert.isAbove((typer >>> 13) & 0x1f, 0, 'DeviceID bits');
    const basers = Array.from({ length: GITS_BASER_COUNT }, (_, n) => {
      const [lo, hi] = read(GITS_BASER + 8 * n);
      return decodeGitsBaser({ lo: lo!, hi: hi! });
    });
    for (const type of [1, 4]) {
      const of = basers.filter((baser) => baser.Type === type);
      assert.equal(of.length, 1);
      assert.isAbove(of[0]!.entryBytes, 1);
    }
  });

  const DEV2 = { deviceId: 2, eventId: 20 };
  const DEV7 = { deviceId: 7, eventId: 255 };

  /** Devices 2 and 7 with EventIDs of 8 bits; LPI 8195 at PE 3, 8196 at PE 2. */
  function prepared(): Bench {
    const b = fourPes();
    b.configure(8195, 0xa0, true);
    b.configure(8196, 0xa0, true);
    b.command(
      encodeMapd({ deviceId: 2, size: 7, ittAddress: ITT, valid: true }),
      encodeMapd({ deviceId: 7, size: 7, ittAddress: ITT + 0x1000, valid: true }),
      encodeMapc({ icid: 3, rdbase: 3, valid: true }),
      encodeMapc({ icid: 2, rdbase: 2, valid: true }),
      encodeInvall({ icid: 2 }),
      encodeInvall({ icid: 3 }),
      encodeMapti({ ...DEV2, pIntid: 8195, icid: 3 }),
      encodeMapti({ ...DEV7, pIntid: 8196, icid: 2 }),
    );
    return b;
  }

  test('[kvm-unit-tests/its-trigger] LPIs arrive once where their collection is', () => {
    const b = prepared();
    b.command(encodeInt(DEV2));
    assert.deepEqual(taken(b), [[], [], [], [8195]]);
    b.command(encodeInt(DEV7));
    assert.deepEqual(taken(b), [[], [], [8196], []]);
  });

  test('[kvm-unit-tests/its-trigger] one that is disabled and invalidated does not arrive', () => {
    const b = prepared();
    b.configure(8195, 0xa0, false);
    b.command(encodeInv(DEV2), encodeInt(DEV2));
    assert.deepEqual(taken(b), [[], [], [], []]);
  });

  test('[kvm-unit-tests/its-trigger] enabled in memory alone it does not arrive; INVALL lets the pending one out', () => {
    const b = prepared();
    b.configure(8195, 0xa0, false);
    b.command(encodeInv(DEV2));
    b.configure(8195, 0xa0, true);
    b.command(encodeInt(DEV2));
    assert.deepEqual(taken(b), [[], [], [], []]);
    b.command(encodeInvall({ icid: 3 }));
    assert.deepEqual(taken(b), [[], [], [], [8195]]);
    b.command(encodeInt(DEV2));
    assert.deepEqual(taken(b), [[], [], [], [8195]]);
  });

  test('[kvm-unit-tests/its-trigger] nothing comes of a device that is unmapped', () => {
    const b = prepared();
    b.command(encodeMapd({ deviceId: 2, size: 0, ittAddress: 0, valid: false }), encodeInt(DEV2));
    assert.deepEqual(taken(b), [[], [], [], []]);
    b.command(encodeInt(DEV7));
    assert.deepEqual(taken(b), [[], [], [8196], []]);
  });

  test('[kvm-unit-tests/its-migration]', () => {
    const b = prepared().migrated();
    b.command(encodeInt(DEV2), encodeInt(DEV7));
    assert.deepEqual(taken(b), [[], [], [8196], [8195]]);
  });

  test('[kvm-unit-tests/its-migrate-unmapped-collection]', () => {
    const before = fourPes();
    before.configure(8192, 0xa0, true);
    before.command(
      encodeMapd({ deviceId: 2, size: 7, ittAddress: ITT, valid: true }),
      encodeMapti({ deviceId: 2, eventId: 0, pIntid: 8192, icid: 1 }),
    );
    const b = before.migrated();
    b.command(
      encodeMapc({ icid: 1, rdbase: 0, valid: true }),
      encodeInvall({ icid: 1 }),
      encodeInt({ deviceId: 2, eventId: 0 }),
    );
    assert.deepEqual(taken(b), [[8192], [], [], []]);
  });

  test('[kvm-unit-tests/its-pending-migration]', () => {
    const before = new Bench().ready();
    const commands = [
      encodeMapc({ icid: 0, rdbase: 0, valid: true }),
      encodeMapc({ icid: 1, rdbase: 1, valid: true }),
      encodeMapd({ deviceId: 2, size: 7, ittAddress: ITT, valid: true }),
    ];
    for (let n = 0; n < 256; n++) {
      before.configure(8192 + n, 0xa0, true);
      commands.push(encodeMapti({ deviceId: 2, eventId: n, pIntid: 8192 + n, icid: n % 2 }));
    }
    for (let at = 0; at < commands.length; at += 100) before.command(...commands.slice(at, at + 100));
    for (const pe of [0, 1]) before.gicr.write(pe * GICR_SIZE_BYTES + GICR_CTLR, 4, 0);
    // Even LPIs in the table of PE 0, odd ones in that of PE 1.
    for (let byte = 0; byte < 256 / 8; byte++) {
      before.ram.write8(PEND + 1024 + byte, 0x55);
      before.ram.write8(PEND + 0x1_0000 + 1024 + byte, 0xaa);
    }
    const b = before.migrated();
    for (const pe of [0, 1]) b.enableLpis(pe, false);
    const [first, second] = taken(b);
    assert.deepEqual(
      first,
      Array.from({ length: 128 }, (_, n) => 8192 + 2 * n),
    );
    assert.deepEqual(
      second,
      Array.from({ length: 128 }, (_, n) => 8193 + 2 * n),
    );
  });
});

describe('kvm-unit-tests gic: ipi', () => {
  function withSgis(): Bench {
    const b = fourPes();
    for (const pe of b.pes) {
      b.gicr.write(pe * GICR_SIZE_BYTES + GICR_IGROUPR0, 4, 0xffff_ffff);
      b.gicr.write(pe * GICR_SIZE_BYTES + GICR_ISENABLER0, 4, 0xffff);
    }
    return b;
  }

  function send(b: Bench, from: number, intid: number, TargetList: number, IRM = false): void {
    const value = encodeIccSgi1r({ intid, TargetList, IRM, RS: 0, Aff1: 0, Aff2: 0, Aff3: 0 });
    b.gic.cpuInterfaces[from]!.write('ICC_SGI1R_EL1', value);
  }

  test('[kvm-unit-tests/ipi] self', () => {
    const b = withSgis();
    send(b, 1, 1, 0b0010);
    assert.deepEqual(taken(b), [[], [1], [], []]);
  });

  test('[kvm-unit-tests/ipi] target-list', () => {
    const b = withSgis();
    send(b, 1, 1, 0b1101);
    assert.deepEqual(taken(b), [[1], [], [1], [1]]);
  });

  test('[kvm-unit-tests/ipi] broadcast', () => {
    const b = withSgis();
    send(b, 1, 1, 0, true);
    assert.deepEqual(taken(b), [[1], [], [1], [1]]);
  });

  test('[kvm-unit-tests/active] one that is set active is held until its active state is cleared', () => {
    const b = withSgis();
    b.gicr.write(GICR_ISACTIVER0, 4, 1 << 8);
    assert.equal(b.gicr.read(GICR_ICACTIVER0, 4), 1 << 8);
    send(b, 0, 8, 0b0001);
    assert.deepEqual(taken(b), [[], [], [], []]);
    b.gicr.write(GICR_ICACTIVER0, 4, 1 << 8);
    assert.deepEqual(taken(b), [[8], [], [], []]);
    assert.equal(b.gicr.read(GICR_ISACTIVER0, 4), 0);
  });
});

describe('[kvm-unit-tests/gic-mmio]', () => {
  test('identification registers are read-only', () => {
    const { distributor } = new Bench().gic;
    for (const offset of [GICD_TYPER, GICD_IIDR, GICD_PIDR2]) {
      const before = distributor.read(offset, 4);
      for (const value of [0xffff_ffff, 0xa5a5_5a5a, 0]) distributor.write(offset, 4, value);
      assert.equal(distributor.read(offset, 4), before);
    }
  });

  test('priorities take bytes and words, and keep the bits that are implemented', () => {
    const { distributor } = new Bench().gic;
    const first = GICD_IPRIORITYR + 32;
    distributor.write(first, 4, 0xffff_ffff);
    assert.equal(distributor.read(first, 4), 0xf8f8_f8f8);
    distributor.write(first + 2, 1, 0x44);
    assert.deepEqual([distributor.read(first, 4), distributor.read(first + 2, 1)], [0xf840_f8f8, 0x40]);
  });

  test('nothing is kept beyond the last interrupt, and GICD_ITARGETSR is RES0 with affinity routing', () => {
    const { distributor } = new Bench().gic;
    for (const offset of [GICD_ISACTIVER + 0x7c, GICD_IPRIORITYR + 0x3fc, GICD_ITARGETSR + 32]) {
      distributor.write(offset, 4, 0xffff_ffff);
      assert.equal(distributor.read(offset, 4), 0);
    }
    assert.equal(distributor.read(GICD_ICACTIVER + 0x7c, 4), 0);
  });
});
