/** Xen on a machine with a GICv2: its driver, lines of guests, and the GICv2 that a guest sees, on the machine as it is. */
import { assert, describe, test } from 'vitest';
import {
  GUEST_GICV2_GICC_BASE as GUEST_GICC,
  GUEST_GICV2_GICD_BASE as GUEST_GICD,
  GUEST_GICV3_GICR0_BASE,
  GUEST_RAM0_BASE,
  GUEST_VITS_BASE,
} from '#shared/abi/arch-arm.ts';
import { DMA_PROBE, DMA_PROBE_OP } from '#shared/arch/dma-probe.ts';
import {
  GICD_CTLR,
  GICD_ICACTIVER,
  GICD_ICENABLER,
  GICD_ICPENDR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_ISACTIVER,
  GICD_ISENABLER,
  GICD_ISPENDR,
  GICD_ITARGETSR,
  GICD_TYPER,
} from '#shared/arch/gic/distributor.ts';
import {
  decodeGicv2Typer,
  encodeGicdSgir,
  GICC_BPR,
  GICC_CTLR,
  GICC_CTLR_EOImode,
  GICC_DIR,
  GICC_EOIR,
  GICC_HPPIR,
  GICC_IAR,
  GICC_PMR,
  GICC_RPR,
  GICD_SGIR,
  SGI_FILTER,
} from '#shared/arch/gic/v2.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { readBoard } from '#shared/board/board-file.ts';
import type { Op } from '#shared/core/op.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import { DEVICE, GUEST_SBDF, XenRig } from './passthrough-rig.ts';

const BOARD = 'examples/boards/virt-gicv2.yaml';
const GICD = 0x0800_0000;
const GICC = 0x0801_0000;
/** Pin A, whatever the device: SPI 3. */
const LINE = 35;
const BIT = 1 << (LINE - 32);
const PPI = 31;

/** Guest 1 has the function, the line, and its GIC as a kernel brings it up. */
function rig(): XenRig {
  const r = new XenRig(BOARD);
  r.enumerate([DEVICE]);
  const guest = r.guest(1);
  r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
  r.run(r.xen.irqs.route(guest, LINE));
  r.store(1, GUEST_GICD + GICD_CTLR, 1);
  r.store(1, GUEST_GICD + GICD_ISENABLER, 2 ** PPI);
  r.store(1, GUEST_GICD + GICD_ISENABLER + 4, BIT);
  r.store(1, GUEST_GICC + GICC_PMR, 0xf0);
  r.store(1, GUEST_GICC + GICC_CTLR, 1);
  r.config(PCI.COMMAND, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
  return r;
}

const raise = (r: XenRig): void => r.probe(1, DMA_PROBE.RAISE, 1);
const clear = (r: XenRig): void => r.probe(1, DMA_PROBE.INTERRUPTS, 0xffff_ffff);
const eoi = (r: XenRig, intid: number): void => r.store(1, GUEST_GICC + GICC_EOIR, intid);

describe("Xen's GICv2 driver", () => {
  const read = (r: XenRig, pa: number): number => r.run(r.el2.read32(pa));

  test('leaves the distributor and every CPU interface enabled, EOImode 1, and all SPIs at CPU 0', () => {
    const r = new XenRig(BOARD);
    assert.equal(read(r, GICD + GICD_CTLR) & 1, 1);
    assert.equal(read(r, GICD + GICD_ITARGETSR + 40), 0x0101_0101);
    assert.equal(read(r, GICD + GICD_IPRIORITYR + 40), 0xa0a0_a0a0);
    const { gic } = r.hardware.inspect() as { gic: { pcpus: { enableGrp0: boolean; pmr: number; eoiMode: number }[] } };
    assert.deepEqual(
      gic.pcpus.map(({ enableGrp0, pmr, eoiMode }) => [enableGrp0, pmr, eoiMode]),
      [0, 1, 2, 3].map(() => [true, 0xf8, 1]),
    );
    assert.deepEqual(r.xen.gic.itses, []);
    assert.equal(r.xen.gic.version, 2);
    assert.equal(r.xen.gic.lines, 512);
  });

  test('hears of a fault by the edge of an SMMUv3, again and again', () => {
    const r = rig();
    for (let i = 1; i <= 3; i++) {
      r.probe(1, DMA_PROBE.DST_LO, GUEST_RAM0_BASE + 0x100_0000);
      r.probe(1, DMA_PROBE.LENGTH_LO, 16);
      r.probe(1, DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
      r.pass(1e6);
      assert.equal(r.counts.get('smmuEvents', 'F_TRANSLATION'), i);
    }
    assert.deepEqual(r.spis().active, []);
  });

  test('finds GICC_DIR where the pages of a frame are 64 KiB apart', () => {
    const description = readBoard(BOARD);
    const tree = parseFdt(description.dtb);
    const gic = tree.find('/interrupt-controller@8000000')!;
    for (const child of [...gic.children]) gic.removeChild(child);
    gic.setReg({ address: GICD, sizeBytes: 0x1_0000 }, { address: GICC, sizeBytes: 0x2_0000 });
    const r = new XenRig({ ...description, dtb: buildFdt(tree) });
    let handled = 0;
    // biome-ignore lint/correctness/useYield: a handler is an operation
    const handler = function* (): Op<void> {
      handled++;
    };
    r.run(r.xen.gic.onSpi(60, true, handler));
    for (let i = 1; i <= 2; i++) {
      r.run(r.el2.write32(GICD + GICD_ISPENDR + 4, 2 ** 28));
      r.pass(1e6);
      assert.deepEqual([handled, r.spis().active], [i, []]);
    }
  });

  test('says so when there are fewer CPU interfaces than CPUs', () => {
    const description = readBoard(BOARD);
    const broken = parseFdt(description.dtb);
    // What is disabled is not in the machine; Xen counts every cpu node.
    broken
      .find('/cpus')!
      .children.slice(1)
      .forEach((cpu) => void cpu.setStrings('status', 'disabled'));
    assert.throws(() => new XenRig({ ...description, dtb: buildFdt(broken) }), '1 CPU interfaces for 4 CPUs');
  });
});

describe('a line of a guest with a GICv2', () => {
  test('is taken once, stays active until the guest writes GICC_EOIR, and comes again while it stands', () => {
    const r = rig();
    raise(r);
    assert.deepEqual(r.takenBy(1), [LINE]);
    assert.deepEqual(r.spis().active, [LINE]);
    r.pass(1e9);
    assert.deepEqual(r.takenBy(1), []);
    assert.equal(r.load(1, GUEST_GICD + GICD_ISACTIVER + 4), BIT);
    eoi(r, LINE);
    assert.deepEqual(r.takenBy(1), [LINE], 'it still stands');
    clear(r);
    eoi(r, LINE);
    assert.deepEqual([r.takenBy(1), r.spis().active], [[], []]);
    assert.equal(r.counts.get('spisDelivered', `d1 ${LINE}`), 2);
  });

  test('is ended by GICC_DIR, and by nothing else, when the guest has EOImode', () => {
    const r = rig();
    r.store(1, GUEST_GICC + GICC_CTLR, 1 | GICC_CTLR_EOImode);
    raise(r);
    r.takenBy(1);
    clear(r);
    eoi(r, LINE);
    assert.deepEqual(r.spis().active, [LINE]);
    r.store(1, GUEST_GICC + GICC_DIR, LINE);
    assert.deepEqual(r.spis().active, []);
    r.store(1, GUEST_GICC + GICC_CTLR, 1);
    raise(r);
    r.takenBy(1);
    clear(r);
    r.store(1, GUEST_GICC + GICC_DIR, LINE);
    assert.deepEqual(r.spis().active, [LINE], 'without EOImode it does nothing');
  });

  test('is enabled in the machine as the guest has it', () => {
    const r = rig();
    assert.include(r.spis().enabled, LINE);
    r.store(1, GUEST_GICD + GICD_ICENABLER + 4, BIT);
    assert.notInclude(r.spis().enabled, LINE);
    raise(r);
    assert.deepEqual(r.takenBy(1), []);
    r.store(1, GUEST_GICD + GICD_ISENABLER + 4, BIT);
    assert.deepEqual(r.takenBy(1), [LINE]);
  });

  test('that is cleared or set active by the guest ends, or waits, as its registers say', () => {
    const r = rig();
    raise(r);
    r.takenBy(1);
    clear(r);
    r.store(1, GUEST_GICD + GICD_ICACTIVER + 4, BIT);
    assert.deepEqual(r.spis().active, []);
    r.store(1, GUEST_GICD + GICD_ISACTIVER + 4, BIT);
    raise(r);
    assert.deepEqual(r.takenBy(1), []);
    r.store(1, GUEST_GICD + GICD_ICACTIVER + 4, BIT);
    assert.deepEqual(r.takenBy(1), [LINE]);
  });

  test('waits while GICC_CTLR or GICC_PMR lets nothing through', () => {
    for (const [register, closed, open] of [
      [GICC_CTLR, 0, 1],
      [GICC_PMR, 0, 0xf0],
    ] as const) {
      const r = rig();
      r.store(1, GUEST_GICC + register, closed);
      raise(r);
      assert.deepEqual(r.takenBy(1), []);
      r.store(1, GUEST_GICC + register, open);
      assert.deepEqual(r.takenBy(1), [LINE]);
    }
  });
});

describe('the GICv2 that a guest sees', () => {
  test('counts its lines and virtual CPUs, and is enabled by one bit', () => {
    const r = rig();
    assert.deepEqual(decodeGicv2Typer(r.load(1, GUEST_GICD + GICD_TYPER)), { lines: 64, cpus: 2 });
    r.store(1, GUEST_GICD + GICD_CTLR, 0xffff_ffff);
    assert.equal(r.load(1, GUEST_GICD + GICD_CTLR), 1);
    r.store(1, GUEST_GICC + GICC_CTLR, 0xffff_ffff);
    assert.equal(r.load(1, GUEST_GICC + GICC_CTLR), 1 | GICC_CTLR_EOImode);
    r.store(1, GUEST_GICC + GICC_BPR, 0);
    assert.equal(r.load(1, GUEST_GICC + GICC_BPR), 2);
  });

  test('gives nothing by GICC_IAR: what is pending has come with an upcall', () => {
    const r = rig();
    raise(r);
    const registers = [GICC_IAR, GICC_HPPIR, GICC_RPR].map((offset) => r.load(1, GUEST_GICC + offset));
    assert.deepEqual(registers, [1023, 1023, 0xff]);
  });

  test('names the CPU that reads the targets of private interrupts, and takes one for each SPI', () => {
    const r = rig();
    assert.equal(r.load(1, GUEST_GICD + GICD_ITARGETSR), 0x0101_0101);
    const targets = GUEST_GICD + GICD_ITARGETSR + LINE;
    r.store(1, targets, 0b10, 1);
    assert.equal(r.load(1, targets, 1), 0b10);
    r.store(1, targets, 0b1111_1100, 1);
    assert.equal(r.load(1, targets, 1), 0b10, 'nobody that exists is named');
    r.store(1, targets, 0b11, 1);
    assert.equal(r.load(1, targets, 1), 0b01);
  });

  test('sends an SGI by GICD_SGIR, and has SGIs enabled always', () => {
    const r = rig();
    r.store(1, GUEST_GICD + GICD_ICENABLER, 0xffff);
    assert.equal(r.load(1, GUEST_GICD + GICD_ISENABLER), 2 ** PPI + 0xffff);
    r.store(1, GUEST_GICD + GICD_SGIR, encodeGicdSgir({ filter: SGI_FILTER.SELF, CPUTargetList: 0, intid: 5 }));
    r.store(1, GUEST_GICD + GICD_SGIR, encodeGicdSgir({ filter: SGI_FILTER.LIST, CPUTargetList: 1, intid: 7 }));
    r.store(1, GUEST_GICD + GICD_SGIR, encodeGicdSgir({ filter: SGI_FILTER.ALL_OTHERS, CPUTargetList: 0, intid: 9 }));
    assert.deepEqual(r.takenBy(1), [5, 7]);
  });

  test('takes what software sets pending, and has no groups', () => {
    const r = rig();
    r.store(1, GUEST_GICD + GICD_IGROUPR + 4, 0xffff_ffff);
    assert.equal(r.load(1, GUEST_GICD + GICD_IGROUPR + 4), 0);
    r.store(1, GUEST_GICC + GICC_CTLR, 0);
    r.store(1, GUEST_GICD + GICD_ISPENDR, 2 ** PPI);
    assert.equal(r.load(1, GUEST_GICD + GICD_ISPENDR), 2 ** PPI);
    r.store(1, GUEST_GICD + GICD_ICPENDR, 2 ** PPI);
    r.store(1, GUEST_GICC + GICC_CTLR, 1);
    assert.deepEqual(r.takenBy(1), []);
    r.store(1, GUEST_GICD + GICD_ISPENDR, 2 ** PPI);
    assert.deepEqual(r.takenBy(1), [PPI]);
  });

  test.each([
    ['a halfword of a priority', GUEST_GICD + GICD_IPRIORITYR + LINE - 1, 2],
    ['a byte of an enable', GUEST_GICD + GICD_ISENABLER, 1],
    ['8 bytes', GUEST_GICD + GICD_ISENABLER, 8],
    ['a byte of GICC', GUEST_GICC + GICC_PMR, 1],
    ['beyond GICC', GUEST_GICC + 0x2000, 4],
    ['a redistributor', GUEST_GICV3_GICR0_BASE, 4],
    ['an ITS', GUEST_VITS_BASE, 4],
  ])('aborts an access to %s', (_, ipa, sizeBytes) => {
    assert.throws(() => rig().load(1, ipa, sizeBytes), /fault/);
  });
});
