import { assert, describe, test } from 'vitest';
import { GUEST_GICV3_GICD_BASE, GUEST_GICV3_GICR0_BASE, GUEST_VITS_BASE } from '#shared/abi/arch-arm.ts';
import { DMA_PROBE } from '#shared/arch/dma-probe.ts';
import {
  GITS_CBASER,
  GITS_CREADR,
  GITS_CTLR,
  GITS_CTLR_Enabled,
  GITS_CTLR_Quiescent,
  GITS_CWRITER,
} from '#shared/arch/gic/its.ts';
import {
  encodeDiscard,
  encodeInt,
  encodeInv,
  encodeInvall,
  encodeMapc,
  encodeMapd,
  encodeMapti,
  encodeMovi,
  encodeSync,
} from '#shared/arch/gic/its-commands.ts';
import { GICR_CTLR, GICR_PROPBASER } from '#shared/arch/gic/redistributor.ts';
import type { ItsDriver } from '#shared/kernel/its-driver.ts';
import type { Domain } from '../../../services/xen/domain/domain.ts';
import { COMMANDS_PER_TRAP } from '../../../services/xen/vits/registers.ts';
import { DEVICE, GUEST_ITT, GUEST_SBDF, PROPERTY_TABLE, XenRig } from './passthrough-rig.ts';

const LPI = 8192;
const EVENT = 3;
const DEVICE_ID = GUEST_SBDF;

interface Ready {
  readonly r: XenRig;
  readonly guest: Domain;
  readonly its: ItsDriver;
}

/** A guest with an assigned device, its GIC and its ITS brought up by the driver that guests use. */
function ready(): Ready {
  const r = new XenRig();
  r.enumerate();
  const guest = r.guest(1);
  r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
  r.store(1, GUEST_GICV3_GICD_BASE, 2);
  r.store(1, GUEST_GICV3_GICR0_BASE + GICR_PROPBASER, PROPERTY_TABLE + 15, 8);
  r.store(1, GUEST_GICV3_GICR0_BASE + GICR_CTLR, 1);
  const its = r.guestIts(1);
  r.drive(its.start());
  return { r, guest, its };
}

function mapDevice({ r, its }: Ready): void {
  r.drive(
    its.submit([
      encodeMapc({ icid: 0, rdbase: 0, valid: true }),
      encodeMapd({ deviceId: DEVICE_ID, size: 4, ittAddress: GUEST_ITT, valid: true }),
      encodeMapti({ deviceId: DEVICE_ID, eventId: EVENT, pIntid: LPI, icid: 0 }),
      encodeSync({ rdbase: 0 }),
    ]),
  );
}

function enableLpi(r: XenRig, lpi: number): void {
  r.store(1, PROPERTY_TABLE + lpi - 8192, 0xa3, 1);
}

const errors = (r: XenRig): number => r.counts.get('itsCommands', 'vits.errors');
const submit = ({ r, its }: Ready, ...commands: Uint32Array[]): void => r.drive(its.submit(commands));

describe('the virtual ITS', () => {
  test('brings an MSI of the assigned device to the guest as its own LPI', () => {
    const g = ready();
    enableLpi(g.r, LPI);
    mapDevice(g);
    g.r.armMsix(1, EVENT);
    g.r.probe(1, DMA_PROBE.RAISE, 1);
    assert.deepEqual(g.r.takenBy(1), [LPI]);
    assert.equal(g.r.counts.get('msisDelivered', 'delivered'), 1);
    assert.equal(errors(g.r), 0);
  });

  test('keeps a disabled LPI pending until the guest enables it and says INV', () => {
    const g = ready();
    mapDevice(g);
    g.r.armMsix(1, EVENT);
    g.r.probe(1, DMA_PROBE.RAISE, 1);
    assert.deepEqual(g.r.takenBy(1), []);
    enableLpi(g.r, LPI);
    assert.deepEqual(g.r.takenBy(1), []);
    submit(g, encodeInv({ deviceId: DEVICE_ID, eventId: EVENT }));
    assert.deepEqual(g.r.takenBy(1), [LPI]);
  });

  test('reads the configuration of every LPI again on INVALL', () => {
    const g = ready();
    mapDevice(g);
    submit(g, encodeInt({ deviceId: DEVICE_ID, eventId: EVENT }));
    enableLpi(g.r, LPI);
    submit(g, encodeInvall({ icid: 0 }));
    assert.deepEqual(g.r.takenBy(1), [LPI]);
  });

  test('delivers nothing of a device after it was taken away, and gives its LPIs and tables back', () => {
    const g = ready();
    const free = g.r.xen.frames.free;
    enableLpi(g.r, LPI);
    mapDevice(g);
    g.r.armMsix(1, EVENT);
    assert.isBelow(g.r.xen.frames.free, free);
    g.r.run(g.r.xen.pciDevices.deassign(g.guest, DEVICE));
    g.r.probe(1, DMA_PROBE.RAISE, 1);
    assert.deepEqual(g.r.takenBy(1), []);
    assert.equal(g.r.xen.frames.free, free);
    assert.equal((g.r.xen.gic.inspect() as { lpisUsed: number }).lpisUsed, 0);
    // Its name means nothing any more.
    submit(g, encodeMapd({ deviceId: DEVICE_ID, size: 4, ittAddress: GUEST_ITT, valid: true }));
    assert.equal(g.r.counts.get('itsCommands', 'vits.unknown_device'), 1);
  });

  test('stops an event with DISCARD and a device with MAPD V=0', () => {
    const g = ready();
    enableLpi(g.r, LPI);
    mapDevice(g);
    g.r.armMsix(1, EVENT);
    submit(g, encodeDiscard({ deviceId: DEVICE_ID, eventId: EVENT }));
    g.r.probe(1, DMA_PROBE.RAISE, 1);
    submit(g, encodeMapti({ deviceId: DEVICE_ID, eventId: EVENT, pIntid: LPI, icid: 0 }));
    assert.deepEqual(g.r.takenBy(1), []);
    submit(g, encodeMapd({ deviceId: DEVICE_ID, size: 0, ittAddress: 0, valid: false }));
    g.r.probe(1, DMA_PROBE.RAISE, 1);
    assert.deepEqual(g.r.takenBy(1), []);
    assert.equal(errors(g.r), 0);
  });

  test('ignores commands that name what the guest does not have, and goes on behind them', () => {
    const g = ready();
    enableLpi(g.r, LPI);
    mapDevice(g);
    const bad = [
      // The machine's DeviceID is not the guest's to name.
      encodeMapd({ deviceId: DEVICE, size: 4, ittAddress: GUEST_ITT, valid: true }),
      encodeMapd({ deviceId: DEVICE_ID, size: 15, ittAddress: GUEST_ITT, valid: true }),
      encodeMapti({ deviceId: DEVICE_ID, eventId: 32, pIntid: LPI + 1, icid: 0 }),
      encodeMapti({ deviceId: DEVICE_ID, eventId: 4, pIntid: 8191, icid: 0 }),
      encodeMapti({ deviceId: DEVICE_ID, eventId: 4, pIntid: 0x1_0000, icid: 0 }),
      encodeMapti({ deviceId: DEVICE_ID, eventId: 4, pIntid: LPI + 1, icid: 1 }),
      encodeMapti({ deviceId: DEVICE_ID, eventId: EVENT, pIntid: LPI + 1, icid: 0 }),
      encodeMapc({ icid: 2, rdbase: 2, valid: true }),
    ];
    // Collection 1 was mapped by nobody: an ITS's table starts zeroed, which is virtual CPU 0 here.
    submit(g, encodeMapc({ icid: 1, rdbase: 0, valid: false }), ...bad);
    assert.equal(errors(g.r), bad.length);
    submit(g, encodeInt({ deviceId: DEVICE_ID, eventId: EVENT }));
    assert.deepEqual(g.r.takenBy(1), [LPI]);
  });

  test('takes the highest LPI of the guest and refuses to follow an ITT that was changed behind it', () => {
    const g = ready();
    enableLpi(g.r, 0xffff);
    mapDevice(g);
    submit(
      g,
      encodeMapti({ deviceId: DEVICE_ID, eventId: 5, pIntid: 0xffff, icid: 0 }),
      encodeInt({ deviceId: DEVICE_ID, eventId: 5 }),
    );
    assert.deepEqual(g.r.takenBy(1), [0xffff]);
    g.r.store(1, GUEST_ITT + 5 * 8, LPI);
    submit(g, encodeInt({ deviceId: DEVICE_ID, eventId: 5 }));
    assert.equal(errors(g.r), 1);
    assert.deepEqual(g.r.takenBy(1), []);
  });

  test('moves an event to the collection of a virtual CPU', () => {
    const g = ready();
    enableLpi(g.r, LPI);
    mapDevice(g);
    submit(
      g,
      encodeMapc({ icid: 1, rdbase: 1, valid: true }),
      encodeMovi({ deviceId: DEVICE_ID, eventId: EVENT, icid: 1 }),
    );
    // The second virtual CPU never enabled LPIs: what is sent there is dropped.
    submit(g, encodeInt({ deviceId: DEVICE_ID, eventId: EVENT }));
    assert.deepEqual(g.r.takenBy(1), []);
    submit(
      g,
      encodeMovi({ deviceId: DEVICE_ID, eventId: EVENT, icid: 0 }),
      encodeInt({ deviceId: DEVICE_ID, eventId: EVENT }),
    );
    assert.deepEqual(g.r.takenBy(1), [LPI]);
  });

  test('runs more commands than one trap takes', () => {
    const g = ready();
    mapDevice(g);
    const many = Array.from({ length: COMMANDS_PER_TRAP + 50 }, () => encodeSync({ rdbase: 0 }));
    submit(g, ...many);
    assert.equal(g.r.counts.get('itsCommands', 'vits.SYNC'), many.length + 1);
  });

  test('runs nothing while GITS_CWRITER lies outside the queue, and nothing when it is off', () => {
    const g = ready();
    g.r.store(1, GUEST_VITS_BASE + GITS_CWRITER, 0x4000, 8);
    assert.equal(g.r.load(1, GUEST_VITS_BASE + GITS_CREADR), 0);
    assert.equal(g.r.load(1, GUEST_VITS_BASE + GITS_CWRITER), 0x4000);
    g.r.store(1, GUEST_VITS_BASE + GITS_CTLR, 0);
    assert.equal(g.r.load(1, GUEST_VITS_BASE + GITS_CTLR), GITS_CTLR_Quiescent);
    g.r.store(1, GUEST_VITS_BASE + GITS_CWRITER, 0x20, 8);
    assert.equal(g.r.load(1, GUEST_VITS_BASE + GITS_CREADR), 0);
  });

  test('cannot be enabled without a queue, and keeps its queue while it is enabled', () => {
    const r = new XenRig();
    r.enumerate();
    r.guest(1);
    r.store(1, GUEST_VITS_BASE + GITS_CTLR, GITS_CTLR_Enabled);
    assert.equal(r.load(1, GUEST_VITS_BASE + GITS_CTLR), GITS_CTLR_Quiescent);
    const g = ready();
    const before = g.r.load(1, GUEST_VITS_BASE + GITS_CBASER);
    g.r.store(1, GUEST_VITS_BASE + GITS_CBASER, 0);
    assert.equal(g.r.load(1, GUEST_VITS_BASE + GITS_CBASER), before);
  });
});
