/**
 * Linux's tools/testing/selftests/kvm/arm64/vgic_lpi_stress.c retold: devices with 16 events each, LPIs from 8192 on in
 * turn over the PEs, and every event sent again and again while handlers take what there is. The peer uses threads; here
 * the order of messages and of handlers is drawn from a seed.
 */
import { assert, test } from 'vitest';
import { encodeInvall, encodeMapc, encodeMapd, encodeMapti } from '#shared/arch/gic/its-commands.ts';
import { Prng } from '#shared/core/prng.ts';
import { Bench, ITT } from '../../unit/hardware/gic/bench.ts';

const NOTHING = 1023;
const DEVICES = 16;
const EVENTS = 16;
const ROUNDS = 200;

test('[linux-selftests/vgic_lpi_stress]', () => {
  const b = new Bench({ affinities: [0, 1, 2, 3] }).ready();
  const random = new Prng(1);
  const peOf = new Map<number, number>();
  b.command(...b.pes.map((pe) => encodeMapc({ icid: pe, rdbase: pe, valid: true })));
  for (let device = 0; device < DEVICES; device++) {
    b.command(encodeMapd({ deviceId: device, size: 3, ittAddress: ITT + 0x100 * device, valid: true }));
    for (let eventId = 0; eventId < EVENTS; eventId++) {
      const lpi = 8192 + device * EVENTS + eventId;
      peOf.set(lpi, lpi % 4);
      b.configure(lpi, 0xa0, true);
      b.command(encodeMapti({ deviceId: device, eventId, pIntid: lpi, icid: lpi % 4 }));
    }
  }
  b.command(...b.pes.map((icid) => encodeInvall({ icid })));
  const seen = new Map<number, number>();
  const handle = (pe: number): void => {
    const intid = b.iar(pe);
    if (intid === NOTHING) return;
    assert.isAtLeast(intid, 8192);
    assert.equal(peOf.get(intid), pe);
    seen.set(intid, (seen.get(intid) ?? 0) + 1);
    b.eoi(pe, intid);
  };
  for (let round = 0; round < ROUNDS; round++) {
    for (let device = 0; device < DEVICES; device++) {
      for (let eventId = 0; eventId < EVENTS; eventId++) {
        b.msi(device, eventId);
        if (random.chance(0.3)) handle(random.below(4));
      }
    }
  }
  assert.equal(b.its.counts.msisDelivered, DEVICES * EVENTS * ROUNDS);
  assert.deepEqual(b.its.counts.msisDropped, {});
  for (const pe of b.pes) for (let n = 0; n < DEVICES * EVENTS; n++) handle(pe);
  assert.equal(seen.size, DEVICES * EVENTS);
  for (const pe of b.pes) assert.equal(b.iar(pe), NOTHING);
});
