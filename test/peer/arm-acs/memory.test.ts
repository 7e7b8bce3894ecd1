/**
 * Cases of Arm's SystemReady architecture compliance suite (sysarch-acs, test_pool/exerciser, test_pool/pcie and
 * test_pool/smmu) about what devices and PEs see of memory and of each other's registers, on the whole machine.
 */
import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC, DMA_PROBE_OP, DMA_PROBE_STATUS, dmaProbeWord } from '#shared/arch/dma-probe.ts';
import { SPI_FIRST } from '#shared/arch/gic/distributor.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI } from '#shared/arch/pci/header.ts';
import { SMMU_IDR0, SMMU_IDR1, SMMU_IDR3, SMMU_IDR5 } from '#shared/arch/smmu/v3.ts';
import { encodeCfgiAll, encodeTlbiNsnhAll } from '#shared/arch/smmu/v3-queues.ts';
import { encodeCd, encodeStage1Ste, STE_BYTES } from '#shared/arch/smmu/v3-structures.ts';
import {
  encodeVtcr,
  MEM_ATTR,
  S1_AP,
  S2AP,
  SHAREABILITY,
  writeLeaf,
  writeStage1Leaf,
  writeTable,
} from '#shared/arch/vmsa.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { BoardError } from '#shared/board/parts.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import { lookupInterrupt, lookupRid } from '#shared/fdt/pci-bindings.ts';
import { asWord, get } from '#shared/regs/field.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { le } from '../../unit/hardware/machine-rig.ts';
import { at, Platform, VIRT } from './platform.ts';

const ONE = at('0000:01:00.0');
const TWO = at('0000:02:00.0');
const IOVA = 0x20_0000;

function descriptor(make: (words: Uint32Array) => void): Uint8Array {
  const words = new Uint32Array(2);
  make(words);
  return bytesOf(words);
}

/** Puts a function behind stage 1 with one page at IOVA. */
function stage1(p: Platform, sbdf: number, pa: number, ap: number = S1_AP.readWrite): void {
  const smmu = p.machine.board.smmus[0]!.registers.pa;
  const streamId = lookupRid(p.bridgeOf(sbdf).iommuMap, sbdf & 0xffff)!.id;
  const [streams, cmdq, eventq, cd, root] = [0, 0x40_0000, 0x41_0000, 0x42_0000, 0x43_0000].map((o) => p.freePa + o);
  p.write(streams! + streamId * STE_BYTES, bytesOf(encodeStage1Ste(cd!)));
  p.write(cd!, bytesOf(encodeCd({ asid: 1, t0sz: 16, ips: 5, ttb0: root! })));
  for (const level of [0, 1])
    p.write(
      root! + level * 0x1000,
      descriptor((w) => writeTable(w, 0, root! + (level + 1) * 0x1000)),
    );
  p.write(
    root! + 0x2008,
    descriptor((w) => writeTable(w, 0, root! + 0x3000)),
  );
  p.write(
    root! + 0x3000,
    descriptor((w) => writeStage1Leaf(w, 0, 3, pa, { ap, attrIndx: 1, sh: SHAREABILITY.inner, notGlobal: true })),
  );
  p.write(cmdq!, bytesOf(encodeCfgiAll()));
  p.write(cmdq! + 16, bytesOf(encodeTlbiNsnhAll()));
  p.write(smmu + 0x80, le(streams!, 8));
  p.write(smmu + 0x88, le(16));
  p.write(smmu + 0x90, le(cmdq! + 4, 8));
  p.write(smmu + 0xa0, le(eventq! + 4, 8));
  p.write(smmu + 0x20, le(8));
  p.write(smmu + 0x98, le(2));
  p.write(smmu + 0x20, le(0xd));
}

function dma(p: Platform, sbdf: number, op: number, src: number, dst: number, bytes: number, pattern = 7): number {
  const device = p.exerciser(sbdf);
  for (const [register, value] of [
    [DMA_PROBE.STATUS, DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR],
    [DMA_PROBE.SRC_LO, src % 2 ** 32],
    [DMA_PROBE.SRC_HI, Math.floor(src / 2 ** 32)],
    [DMA_PROBE.DST_LO, dst % 2 ** 32],
    [DMA_PROBE.DST_HI, Math.floor(dst / 2 ** 32)],
    [DMA_PROBE.LENGTH_LO, bytes],
    [DMA_PROBE.PATTERN, pattern],
    [DMA_PROBE.COMMAND, op],
  ] as const)
    device(register, value);
  p.pass(1e6);
  return device(DMA_PROBE.STATUS);
}

describe('sysarch-acs exerciser: memory', () => {
  test('[arm-acs/e002] peer writes that go to the SMMU: read-only they fail, read-write the data arrives', () => {
    for (const [ap, status, there] of [
      [S1_AP.readOnly, DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR, 0],
      [S1_AP.readWrite, DMA_PROBE_STATUS.DONE, 0xace],
    ] as const) {
      const p = new Platform(VIRT);
      stage1(p, ONE, p.functions.get(TWO)!.bars[0]!.pa, ap);
      assert.equal(dma(p, ONE, DMA_PROBE_OP.MESSAGE, 0, IOVA + DMA_PROBE.PATTERN, 4, 0xace), status);
      assert.equal(p.exerciser(TWO)(DMA_PROBE.PATTERN), there);
    }
  });

  test('[arm-acs/e003] [arm-acs/e021] writes of a PE to device memory arrive in order, each by itself', () => {
    const p = new Platform(VIRT);
    const order = [3, 0, 4, 1, 1, 2];
    const { its, deviceId } = p.itsOf(ONE);
    for (const vector of [0, 1, 2, 3, 4]) {
      p.mapEvent(its, deviceId, vector, 8192 + vector);
      p.setVector(ONE, vector, p.freePa + vector * 4, vector + 1);
    }
    const seen: number[] = [];
    for (const vector of order) {
      p.exerciser(ONE)(DMA_PROBE.RAISE_ONE, vector);
      seen.push(p.read(p.freePa + vector * 4) - 1);
      p.write(p.freePa + vector * 4, le(0));
    }
    assert.deepEqual(seen, order);
    assert.equal(p.exerciser(ONE)(DMA_PROBE.MESSAGES), order.length);
  });

  test('[arm-acs/e006] PCI_LI_02: a legacy interrupt is an SPI that is taken once, until the device lets go', () => {
    const p = new Platform(VIRT);
    const bridge = p.bridgeOf(ONE);
    // Device 0 below root port 00:02.0 keeps its pin.
    const line = lookupInterrupt(bridge.interruptMap!, 2 << 3, 1)!;
    const intid = SPI_FIRST + line.specifier[1]!;
    const gicd = p.machine.board.gic.distributor.pa;
    p.write(gicd + 0x80 + (intid >>> 5) * 4, le(0xffff_ffff));
    p.write(gicd + 0x100 + (intid >>> 5) * 4, le(1 << (intid & 31)));
    p.write(gicd + 0x6000 + intid * 8, le(0, 8));
    p.exerciser(ONE)(DMA_PROBE.RAISE_ONE, 0);
    assert.equal(p.cfg(ONE, PCI.STATUS, 2) & 8, 8);
    const cpu = p.machine.gicv3!.cpuInterfaces[0]!;
    assert.equal(cpu.read('ICC_IAR1_EL1'), intid);
    p.exerciser(ONE)(DMA_PROBE.INTERRUPTS, 1);
    cpu.write('ICC_EOIR1_EL1', intid);
    assert.equal(p.cfg(ONE, PCI.STATUS, 2) & 8, 0);
    assert.deepEqual(p.taken().flat(), []);
  });

  test('[arm-acs/e007] [arm-acs/p068] [arm-acs/p095] [arm-acs/p105] a PE reads at the same address what a device wrote', () => {
    const p = new Platform(VIRT);
    p.write(p.freePa, new Uint8Array(64).fill(0xee));
    assert.equal(dma(p, ONE, DMA_PROBE_OP.WRITE, 0, p.freePa, 64), DMA_PROBE_STATUS.DONE);
    assert.deepEqual(
      [0, 4, 60].map((offset) => p.read(p.freePa + offset)),
      [0, 1, 15].map((i) => dmaProbeWord(7, i)),
    );
    p.write(p.freePa, le(0x1234));
    assert.equal(dma(p, ONE, DMA_PROBE_OP.COPY, p.freePa, p.freePa + 0x100, 4), DMA_PROBE_STATUS.DONE);
    assert.equal(p.read(p.freePa + 0x100), 0x1234, 'and a device what a PE wrote');
  });

  test('[arm-acs/e016] a BAR answers alike through a device and a normal mapping of a PE', () => {
    const p = new Platform(VIRT);
    const bar = p.functions.get(ONE)!.bars[0]!.pa;
    const root = p.freePa;
    p.write(
      root,
      descriptor((w) => writeTable(w, 0, root + 0x1000)),
    );
    p.write(
      root + 0x1000,
      descriptor((w) => writeTable(w, 0, root + 0x2000)),
    );
    for (const [i, memAttr] of [MEM_ATTR.device_nGnRE, MEM_ATTR.normal_NC].entries()) {
      const leaf = { s2ap: S2AP.readWrite, memAttr, sh: SHAREABILITY.outer, xn: true };
      p.write(
        root + 0x2000 + i * 8,
        descriptor((w) => writeLeaf(w, 0, 3, bar, leaf)),
      );
    }
    const port = p.machine.port(1);
    port.load({ vm: true, vtcr: encodeVtcr({ t0sz: 24, sl0: 1, ps: 5, vmid16: true }), baddr: root, vmid: 1 });
    for (const [i, ipa] of [0, 0x1000].entries()) {
      const pa = port.translate(ipa + DMA_PROBE.PATTERN, true);
      assert.isAtLeast(pa, 0);
      p.write(pa, le(0x100 + i));
      assert.equal(p.read(pa), 0x100 + i);
      assert.equal(p.exerciser(ONE)(DMA_PROBE.PATTERN), 0x100 + i);
    }
  });

  test('[arm-acs/e019] RI_SMU_1: DMA through a stage 1 map reaches the physical page, both ways', () => {
    const p = new Platform(VIRT);
    const pa = p.freePa + 0x100_0000;
    stage1(p, ONE, pa);
    assert.equal(dma(p, ONE, DMA_PROBE_OP.WRITE, 0, IOVA + 0x40, 16), DMA_PROBE_STATUS.DONE);
    assert.deepEqual([p.read(pa + 0x40), p.read(pa + 0x4c)], [dmaProbeWord(7, 0), dmaProbeWord(7, 3)]);
    p.write(pa + 0x80, le(0xfeed));
    assert.equal(dma(p, ONE, DMA_PROBE_OP.COPY, IOVA + 0x80, IOVA + 0xc0, 4), DMA_PROBE_STATUS.DONE);
    assert.equal(p.read(pa + 0xc0), 0xfeed);
    const failed = dma(p, ONE, DMA_PROBE_OP.WRITE, 0, IOVA + 0x1000, 4);
    assert.equal(failed, DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR, 'beyond the page');
  });
});

describe('sysarch-acs pcie: windows and lines', () => {
  test('[arm-acs/p004] [arm-acs/p062] a function is reached through the memory window of its root port', () => {
    const p = new Platform(VIRT);
    for (const sbdf of [ONE, TWO]) assert.equal(p.exerciser(sbdf)(DMA_PROBE.ID), DMA_PROBE_MAGIC);
    const port = at('0000:00:02.0');
    const window = p.cfg(port, PCI_BRIDGE.MEMORY_BASE);
    p.setCfg(port, PCI_BRIDGE.MEMORY_BASE, 4, 0x0000_fff0);
    assert.equal(p.exerciser(ONE)(DMA_PROBE.ID), 0xffff_ffff, 'and not when the window is closed');
    p.setCfg(port, PCI_BRIDGE.MEMORY_BASE, 4, window);
    assert.equal(p.exerciser(ONE)(DMA_PROBE.ID), DMA_PROBE_MAGIC);
  });

  test('[arm-acs/p005] [arm-acs/p086] and through the prefetchable one, above 4 GiB', () => {
    const p = new Platform(VIRT);
    const port = at('0000:00:02.1');
    const range = p.bridgeOf(TWO).ranges.find(({ space }) => space === 'mem64')!;
    const [high, low] = [Math.floor(range.pciBase / 2 ** 32), 0x0020];
    p.setCfg(port, PCI_BRIDGE.MEMORY_BASE, 4, 0x0000_fff0);
    p.setCfg(port, PCI_BRIDGE.PREF_MEMORY_BASE, 4, (low << 16) | low);
    p.setCfg(port, PCI_BRIDGE.PREF_BASE_UPPER32, 4, high);
    p.setCfg(port, PCI_BRIDGE.PREF_LIMIT_UPPER32, 4, high);
    p.setCfg(TWO, PCI.BASE_ADDRESS_0, 4, 0x0020_0000);
    p.setCfg(TWO, PCI.BASE_ADDRESS_0 + 4, 4, high);
    assert.equal(p.read(high * 2 ** 32 + 0x20_0000 + range.cpuBase - range.pciBase), DMA_PROBE_MAGIC);
  });

  test('[arm-acs/p006] [arm-acs/p023] [arm-acs/p096] the four pins of a device are four SPIs, levels', () => {
    const { interruptMap } = readBoardTree({ dtb: readBoard(VIRT).dtb }).bridges[0]!;
    const lines = [1, 2, 3, 4].map((pin) => lookupInterrupt(interruptMap!, 0, pin)!.specifier);
    const EVERY_LEVEL = 4;
    assert.equal(new Set(lines.map(([, number]) => number)).size, 4);
    assert.deepEqual(
      lines.map(([type, , trigger]) => [type, trigger]),
      lines.map(() => [0, EVERY_LEVEL]),
    );
  });
});

describe('sysarch-acs smmu', () => {
  test('[arm-acs/i022] every master is behind an SMMU: a tree that leaves a bridge out is refused', () => {
    const { dtb } = readBoard(VIRT);
    const p = new Platform(VIRT);
    for (const sbdf of p.functions.keys()) assert.isDefined(lookupRid(p.bridgeOf(sbdf).iommuMap, sbdf & 0xffff));
    const tree = parseFdt(dtb);
    const host = tree.children.find((node) => node.has('iommu-map'))!;
    host.properties.delete('iommu-map');
    assert.throws(() => readBoardTree({ dtb: buildFdt(tree) }), BoardError);
  });

  test('[arm-acs/i001-i021,i023-i025] identification registers: both stages, all granules, 16-bit ids, coherent walks, an SMMUv3.1 without ranges', () => {
    const p = new Platform(VIRT);
    const smmu = p.machine.board.smmus[0]!.registers.pa;
    const idr0 = asWord(SMMU_IDR0, p.read(smmu));
    const idr1 = asWord(SMMU_IDR1, p.read(smmu + 4));
    const idr5 = asWord(SMMU_IDR5, p.read(smmu + 0x14));
    for (const field of [SMMU_IDR0.S1P, SMMU_IDR0.S2P, SMMU_IDR0.COHACC, SMMU_IDR0.ASID16, SMMU_IDR0.VMID16])
      assert.equal(get(field, idr0), 1, field.name);
    for (const field of [SMMU_IDR0.ATS, SMMU_IDR0.PRI, SMMU_IDR0.BTM, SMMU_IDR0.HTTU, SMMU_IDR0.MSI])
      assert.equal(get(field, idr0), 0, field.name);
    for (const field of [SMMU_IDR5.GRAN4K, SMMU_IDR5.GRAN16K, SMMU_IDR5.GRAN64K])
      assert.equal(get(field, idr5), 1, field.name);
    assert.equal(get(SMMU_IDR0.STALL_MODEL, idr0), 1);
    assert.equal(get(SMMU_IDR1.SIDSIZE, idr1), 16);
    assert.equal(get(SMMU_IDR3.RIL, asWord(SMMU_IDR3, p.read(smmu + 0xc))), 0);
    assert.equal(p.read(smmu + 0x1c), 1, 'SMMU_AIDR: 3.1, where range invalidation need not be');
  });
});
