/** Lines of the machine as virtual SPIs of guests, on the machine and Xen as they are; the guest is the test. */
import { assert, describe, test } from 'vitest';
import { GUEST_GICV3_GICD_BASE, GUEST_RAM0_BASE } from '#shared/abi/arch-arm.ts';
import { ERRNO } from '#shared/abi/errno.ts';
import { DMA_PROBE, DMA_PROBE_OP } from '#shared/arch/dma-probe.ts';
import {
  GICD_CTLR,
  GICD_CTLR_EnableGrp1,
  GICD_ICACTIVER,
  GICD_ICENABLER,
  GICD_ICPENDR,
  GICD_ISACTIVER,
  GICD_ISENABLER,
  GICD_ISPENDR,
} from '#shared/arch/gic/distributor.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { Counts } from '../../../services/xen/counts.ts';
import type { Domain } from '../../../services/xen/domain/domain.ts';
import { VGic } from '../../../services/xen/vgic/vgic.ts';
import { DEVICE, GUEST_SBDF, XenRig } from './passthrough-rig.ts';

/** Pin A of device 2 on the root bus: SPI 5. */
const LINE = 37;
const BIT = 1 << (LINE - 32);
const DECODING = PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER;

function gicd(r: XenRig, domid: number, row: number, value: number): void {
  r.store(domid, GUEST_GICV3_GICD_BASE + row + (row === GICD_CTLR ? 0 : 4), value);
}

function gicdBit(r: XenRig, domid: number, row: number): boolean {
  return (r.load(domid, GUEST_GICV3_GICD_BASE + row + 4) & BIT) !== 0;
}

/** Guest 1 has the function, the line, and the line enabled. */
function rig(): XenRig {
  const r = new XenRig();
  r.enumerate();
  const guest = r.guest(1);
  r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
  r.run(r.xen.irqs.route(guest, LINE));
  gicd(r, 1, GICD_CTLR, GICD_CTLR_EnableGrp1);
  gicd(r, 1, GICD_ISENABLER, BIT);
  return r;
}

const raise = (r: XenRig, domid = 1): void => r.probe(domid, DMA_PROBE.RAISE, 1);
const clear = (r: XenRig, domid = 1): void => r.probe(domid, DMA_PROBE.INTERRUPTS, 0xffff_ffff);

describe('a level', () => {
  test('is taken once, stays active in the machine until the guest ends it, and comes again while it stands', () => {
    const r = rig();
    raise(r);
    assert.deepEqual(r.takenBy(1), [LINE]);
    assert.deepEqual(r.spis().active, [LINE]);
    r.pass(1e9);
    assert.deepEqual(r.takenBy(1), [], 'an active line is not signalled again, however long it stands');
    r.eoi(1, LINE);
    assert.deepEqual(r.takenBy(1), [LINE], 'it still stands');
    clear(r);
    r.eoi(1, LINE);
    assert.deepEqual(r.takenBy(1), []);
    assert.deepEqual(r.spis().active, []);
    assert.equal(r.counts.get('spisDelivered', `d1 ${LINE}`), 2);
  });

  test('that falls and rises while it is active comes again', () => {
    const r = rig();
    raise(r);
    clear(r);
    raise(r);
    assert.deepEqual(r.takenBy(1), [LINE]);
    r.eoi(1, LINE);
    assert.deepEqual(r.takenBy(1), [LINE]);
  });

  test('a thousand times is a thousand interrupts', () => {
    const r = rig();
    for (let i = 0; i < 1000; i++) {
      raise(r);
      assert.deepEqual(r.takenBy(1), [LINE]);
      clear(r);
      r.eoi(1, LINE);
    }
    assert.equal(r.counts.get('spisDelivered', `d1 ${LINE}`), 1000);
  });

  test('that is never ended holds up nothing else', () => {
    const r = rig();
    raise(r);
    r.takenBy(1);
    const before = r.counts.get('smmuEvents', 'F_TRANSLATION');
    r.probe(1, DMA_PROBE.DST_LO, GUEST_RAM0_BASE + 0x100_0000);
    r.probe(1, DMA_PROBE.LENGTH_LO, 16);
    r.probe(1, DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    r.pass(1e9);
    assert.equal(r.counts.get('smmuEvents', 'F_TRANSLATION'), before + 1, "Xen's own SPI is taken");
    assert.deepEqual(r.spis().active, [LINE], 'and ended, unlike the guest’s');
  });

  test('does not rise while INTX_DISABLE is set, and rises when it is cleared', () => {
    const r = rig();
    r.config(PCI.COMMAND, DECODING | PCI_COMMAND.INTX_DISABLE);
    raise(r);
    assert.deepEqual(r.takenBy(1), []);
    r.config(PCI.COMMAND, DECODING);
    assert.deepEqual(r.takenBy(1), [LINE]);
  });
});

test('an SPI that Xen uses itself, or that nothing says what it is, is no guest’s', () => {
  const r = new XenRig();
  const guest = r.guest(1);
  // The board's SMMUv3: its event queue is SPI 74, and 75 to 77 are its other interrupts.
  r.xen.irqs.configure(74 + 32, true);
  const big = { ...guest, domid: 1, dying: false, vgic: bigVgic(guest) };
  assert.equal(
    r.errno(() => r.xen.irqs.route(big, 74 + 32)),
    ERRNO.EBUSY,
  );
  assert.equal(
    r.errno(() => r.xen.irqs.route(big, 75 + 32)),
    ERRNO.EIO,
  );
  assert.equal(
    r.errno(() => r.xen.irqs.route(guest, 74 + 32)),
    ERRNO.EINVAL,
    'the guest has 32 SPIs',
  );
  assert.deepEqual(r.xen.irqs.inspect(), []);
});

/** One with more SPIs than the rig's guests have. */
function bigVgic(guest: Domain): VGic {
  return new VGic(guest, {
    runtime: { spawn: () => undefined, trace: () => undefined },
    counts: new Counts(),
    spis: 96,
  });
}

describe('the guest’s distributor', () => {
  test('holds a line that is disabled: it is disabled in the machine too', () => {
    const r = rig();
    gicd(r, 1, GICD_ICENABLER, BIT);
    assert.notInclude(r.spis().enabled, LINE);
    raise(r);
    assert.deepEqual(r.takenBy(1), []);
    gicd(r, 1, GICD_ISENABLER, BIT);
    assert.deepEqual(r.takenBy(1), [LINE]);
    assert.include(r.spis().enabled, LINE);
  });

  test('holds what was pending when the group was off, and shows it', () => {
    const r = rig();
    gicd(r, 1, GICD_CTLR, 0);
    raise(r);
    assert.isTrue(gicdBit(r, 1, GICD_ISPENDR));
    assert.deepEqual(r.spis().active, [LINE]);
    gicd(r, 1, GICD_CTLR, GICD_CTLR_EnableGrp1);
    assert.deepEqual(r.takenBy(1), [LINE]);
    assert.isFalse(gicdBit(r, 1, GICD_ISPENDR));
  });

  test('shows the active state, and clearing it there ends the interrupt', () => {
    const r = rig();
    raise(r);
    r.takenBy(1);
    assert.isTrue(gicdBit(r, 1, GICD_ISACTIVER));
    clear(r);
    gicd(r, 1, GICD_ICACTIVER, BIT);
    assert.isFalse(gicdBit(r, 1, GICD_ISACTIVER));
    assert.deepEqual(r.spis().active, []);
  });

  test('cannot clear the pending state of a level that stands', () => {
    const r = rig();
    gicd(r, 1, GICD_CTLR, 0);
    raise(r);
    gicd(r, 1, GICD_ICPENDR, BIT);
    assert.isTrue(gicdBit(r, 1, GICD_ISPENDR), 'it was taken again');
    clear(r);
    gicd(r, 1, GICD_ICPENDR, BIT);
    assert.isFalse(gicdBit(r, 1, GICD_ISPENDR));
    assert.deepEqual(r.spis().active, []);
  });

  test('ending what is not active, or no interrupt at all, does nothing', () => {
    const r = rig();
    raise(r);
    r.takenBy(1);
    for (const intid of [LINE + 1, 31, 1023, 8192, 0xff_ffff]) r.eoi(1, intid);
    assert.deepEqual(r.spis().active, [LINE]);
    assert.deepEqual(r.takenBy(1), []);
  });

  test('delivers what the guest made pending itself, once an active one has ended', () => {
    const r = rig();
    gicd(r, 1, GICD_ISPENDR, BIT);
    assert.deepEqual(r.takenBy(1), [LINE]);
    gicd(r, 1, GICD_ISPENDR, BIT);
    assert.deepEqual(r.takenBy(1), []);
    r.eoi(1, LINE);
    assert.deepEqual(r.takenBy(1), [LINE]);
  });
});

describe('a line that is taken away', () => {
  test('while it is high and active is disabled and inactive, and nothing of it is left in the guest', () => {
    const r = rig();
    raise(r);
    r.takenBy(1);
    const guest = r.domains.get(1)!;
    r.run(r.xen.irqs.release(guest, LINE));
    assert.notInclude(r.spis().enabled, LINE);
    assert.deepEqual(r.spis().active, []);
    assert.include(r.spis().high, LINE);
    assert.isFalse(gicdBit(r, 1, GICD_ISACTIVER));
    r.eoi(1, LINE);
    r.pass(1e9);
    assert.deepEqual(r.takenBy(1), []);
  });

  test('goes to another domain, as it stands', () => {
    const r = rig();
    raise(r);
    r.takenBy(1);
    const second = r.guest(2);
    r.run(r.xen.irqs.release(r.domains.get(1)!, LINE));
    r.run(r.xen.irqs.route(second, LINE));
    gicd(r, 2, GICD_CTLR, GICD_CTLR_EnableGrp1);
    assert.deepEqual(r.takenBy(2), [], 'it has not enabled it');
    gicd(r, 2, GICD_ISENABLER, BIT);
    assert.deepEqual(r.takenBy(2), [LINE]);
    r.eoi(1, LINE);
    assert.deepEqual(r.spis().active, [LINE], 'who lost it ends nothing of it');
    assert.deepEqual(r.takenBy(1), []);
  });

  test('and given back is enabled as the guest still has it', () => {
    const r = rig();
    const guest = r.domains.get(1)!;
    r.run(r.xen.irqs.release(guest, LINE));
    raise(r);
    r.run(r.xen.irqs.route(guest, LINE));
    assert.deepEqual(r.takenBy(1), [LINE]);
  });

  test('ends with its domain, whatever state it is in', () => {
    const r = rig();
    const before = r.spis().enabled.filter((intid) => intid !== LINE);
    raise(r);
    r.run(r.xen.lifecycle.destroy(r.domains.get(1)!));
    assert.deepEqual(r.spis().enabled, before);
    assert.deepEqual(r.spis().active, []);
    assert.deepEqual(r.xen.irqs.inspect(), []);
  });
});
