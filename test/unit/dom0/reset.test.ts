/** How pciback cleans a function between owners: by the first means that it has, whatever state it was left in. */
import { assert, describe, test } from 'vitest';
import { PCI_ACS, PCI_AF, PCI_PM } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { PCI_SRIOV } from '#shared/arch/pci/sriov.ts';
import type { Op } from '#shared/core/op.ts';
import type { PciFunction } from '../../../services/dom0/kernel/function.ts';
import {
  type ConfigSnapshot,
  cleanFunction,
  type ResetKernel,
  type ResetResult,
  saveConfig,
} from '../../../services/dom0/pciback/reset.ts';
import { at, Bench, configAccess } from '../hardware/pcie/bench.ts';
import {
  ACS,
  description,
  EXPRESS,
  MSIX,
  open,
  type Placed,
  PM,
  place,
  type Shape,
  SRIOV,
} from '../hardware/pcie/topology.ts';

const FN = at('01:00.0');
const PORT: Placed = ['00:01.0', { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true }, '1'];
/** Only a reset of the bus is left. */
const BARE: Shape = { flr: false, noSoftReset: true };

/** 01:00.0 placed and in use, as dom0 knows it. */
class Rig {
  readonly b: Bench;
  readonly traces: string[] = [];
  readonly kernel: ResetKernel;
  readonly pristine: ConfigSnapshot;

  constructor(board: ReturnType<typeof description>, functions = board.functions.map((f) => f.sbdf)) {
    this.b = new Bench(board);
    open(this.b, '00:01.0', 1);
    const known = functions.map((sbdf) => [sbdf, dom0Function(sbdf)] as const);
    const trace = (event: string): void => void this.traces.push(event);
    this.kernel = { access: configAccess(this.b), functions: new Map(known), runtime: { trace } };
    place(this.b, '01:00.0');
    this.b.setCfg(FN, PCI.COMMAND, 2, 0);
    this.pristine = this.run(saveConfig(this.kernel.access, this.fn));
    this.b.setCfg(FN, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
  }

  get fn(): PciFunction {
    return this.kernel.functions.get(FN)!;
  }

  clean(wasReady = true): ResetResult {
    return this.run(cleanFunction(this.kernel, this.fn, this.pristine, wasReady));
  }

  run<T>(op: Op<T>): T {
    let step = op.next();
    while (!step.done) {
      if (step.value.step === 'sleep') this.b.pass(step.value.ns);
      step = op.next();
    }
    return step.value;
  }
}

function dom0Function(sbdf: number): PciFunction {
  const parent = sbdf < 0x100 ? undefined : at('00:01.0');
  const common = {
    vendorId: 0x1b36,
    deviceId: 0x1234,
    classCode: 0xff00,
    configBytes: 4096,
    physfn: undefined,
    irq: 0,
  };
  const port = parent === undefined ? PCI_EXP_TYPE.ROOT_PORT : PCI_EXP_TYPE.ENDPOINT;
  const headerType = parent === undefined ? 1 : 0;
  return { ...common, sbdf, parent, portType: port, headerType, multifunction: false, acs: false, bars: [] };
}

/** `extra` is what is beside 01:00.0 on its bus. */
function rigWith(shape: Shape, extra: Placed[] = [], resetNs = 0): Rig {
  return new Rig(description(PORT, ['01:00.0', shape, { resetNs }], ...extra));
}

function withAf(caps: number): Rig {
  const board = description(PORT, ['01:00.0', { ...BARE, vectors: 4 }], ['01:00.1', {}]);
  const { config } = board.functions[1]!;
  // Behind MSI-X, the last capability of the list.
  config[MSIX + 1] = MSIX + 0x10;
  config.set([0x13, 0, PCI_AF.BYTES, caps], MSIX + 0x10);
  return new Rig(board);
}

describe('a function is reset', () => {
  test.each<[string, Shape, Placed[]]>([
    ['flr', {}, []],
    ['pm', { flr: false }, []],
    ['bus', BARE, []],
    ['none', BARE, [['01:00.1', {}]]],
  ])('by %s when that is the first that it can do, and is as dom0 had set it up', (kind, shape, extra) => {
    const acs = PCI_ACS.RR | PCI_ACS.CR;
    const rig = rigWith({ ...shape, vectors: 4, acs }, extra);
    const { b } = rig;
    const bar = b.cfg(FN, PCI.BASE_ADDRESS_0);
    b.setCfg(FN, MSIX + PCI_MSIX.FLAGS, 2, PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL);
    b.setCfg(FN, PCI.BASE_ADDRESS_0, 4, 0);
    assert.deepEqual(rig.clean(), { kind: kind as ResetResult['kind'], ready: true });
    assert.equal(b.cfg(FN, PCI.BASE_ADDRESS_0), bar);
    assert.equal(b.cfg(FN, PCI.COMMAND, 2), PCI_COMMAND.INTX_DISABLE);
    assert.equal(b.cfg(FN, MSIX + PCI_MSIX.FLAGS, 2), 3, 'off, and four vectors');
  });

  test('by its AF capability when Express offers nothing and both of its bits are there', () => {
    assert.equal(withAf(PCI_AF.CAP_TP | PCI_AF.CAP_FLR).clean().kind, 'af');
    assert.equal(withAf(PCI_AF.CAP_TP).clean().kind, 'none');
  });

  test('and has its ACS as it was, which the reset cleared', () => {
    const acs = PCI_ACS.RR | PCI_ACS.CR;
    const rig = rigWith({ acs });
    assert.equal(rig.pristine.acs, 0);
    rig.b.setCfg(FN, ACS + PCI_ACS.CTRL, 2, acs);
    const pristine = rig.run(saveConfig(rig.kernel.access, rig.fn));
    rig.run(cleanFunction(rig.kernel, rig.fn, pristine));
    assert.equal(rig.b.cfg(FN, ACS + PCI_ACS.CTRL, 2), acs);
  });

  test.each<[string, Shape]>([
    ['flr', {}],
    ['bus', BARE],
  ])('by %s and has the controls that firmware left in it, which the reset cleared', (kind, shape) => {
    const left: readonly [number, number][] = [
      [EXPRESS + PCI_EXP.DEVCTL, 0x5037],
      [EXPRESS + PCI_EXP.LNKCTL, 0x0043],
      [EXPRESS + PCI_EXP.DEVCTL2, 0x0006],
      [PCI.INTERRUPT_LINE, 0x002a],
    ];
    const rig = rigWith(shape);
    for (const [offset, value] of left) rig.b.setCfg(FN, offset, 2, value);
    const pristine = rig.run(saveConfig(rig.kernel.access, rig.fn));
    for (const [offset] of left) rig.b.setCfg(FN, offset, 2, 0);
    assert.equal(rig.run(cleanFunction(rig.kernel, rig.fn, pristine)).kind, kind);
    for (const [offset, value] of left) assert.equal(rig.b.cfg(FN, offset, 2), value);
  });

  test('when it was left in D3hot: it is woken first, even if that resets it and takes its time', () => {
    for (const [shape, resetNs] of [
      [{}, 0],
      [{ noSoftReset: true }, 0],
      [{ flr: false }, 3e9],
      [BARE, 0],
    ] as const) {
      const rig = rigWith(shape, [], resetNs);
      const bar = rig.b.cfg(FN, PCI.BASE_ADDRESS_0);
      rig.b.setCfg(FN, PM + PCI_PM.CTRL, 2, 3);
      const { kind, ready } = rig.clean();
      assert.isTrue(ready);
      assert.notEqual(kind, 'none');
      assert.equal(rig.b.cfg(FN, PM + PCI_PM.CTRL, 2) & 3, 0);
      assert.equal(rig.b.cfg(FN, PCI.BASE_ADDRESS_0), bar);
    }
  });

  test('when it is virtual by its own FLR: its ids are ones at any time and say nothing', () => {
    const sriov = { total: 4, offset: 1, stride: 1 };
    const rig = new Rig(description(PORT, ['01:00.0', { sriov }]));
    rig.b.setCfg(FN, SRIOV + PCI_SRIOV.NUM_VF, 2, 1);
    rig.b.setCfg(FN, SRIOV + PCI_SRIOV.CTRL, 2, 1);
    const vf: PciFunction = { ...dom0Function(at('01:00.1')), physfn: FN };
    rig.b.setCfg(vf.sbdf, PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    const before = rig.b.now;
    const pristine = rig.run(saveConfig(rig.kernel.access, vf));
    assert.deepEqual(rig.run(cleanFunction(rig.kernel, vf, pristine)), { kind: 'flr', ready: true });
    assert.equal(rig.b.now - before, 100e6);
    assert.equal(rig.b.cfg(vf.sbdf, PCI.COMMAND, 2), 0);
  });
});

describe('a function that stays silent', () => {
  test('is waited for, told of after a second, and restored when it answers', () => {
    const rig = rigWith({}, [], 5e9);
    const bar = rig.b.cfg(FN, PCI.BASE_ADDRESS_0);
    assert.deepEqual(rig.clean(), { kind: 'flr', ready: true });
    assert.deepEqual(rig.traces, ['pciback.slow_reset', 'pciback.reset']);
    assert.equal(rig.b.cfg(FN, PCI.BASE_ADDRESS_0), bar);
  });

  test('is given up after a minute, and not waited for again while it is known to be silent', () => {
    const rig = rigWith({}, [], Number.POSITIVE_INFINITY);
    const start = rig.b.now;
    assert.deepEqual(rig.clean(), { kind: 'flr', ready: false });
    assert.equal(rig.b.now - start, 100e6 + 65_535e6);
    assert.deepEqual(rig.traces, ['pciback.slow_reset', 'pciback.not_ready', 'pciback.reset']);
    const again = rig.b.now;
    assert.deepEqual(rig.clean(false), { kind: 'none', ready: false });
    assert.equal(rig.b.now, again);
  });

  test('on the wire without Request Retry Status is the same', () => {
    const quirks = { resetNs: 2e9, notReady: 'all-ones' as const };
    const rig = new Rig(description(PORT, ['01:00.0', {}, quirks]));
    assert.deepEqual(rig.clean(), { kind: 'flr', ready: true });
  });
});
