/** dom0's enumeration on a fabric: what it finds, where it puts it, and what it switches on in ports and functions. */
import { assert, describe, test } from 'vitest';
import { PCI_BRIDGE, PCI_BRIDGE_CTL } from '#shared/arch/pci/bridge-header.ts';
import { PCI_ACS } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_DEVCTL2_ARI, PCI_EXP_RTCTL_RRS_SVE, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_SRIOV, PCI_SRIOV_CTRL } from '#shared/arch/pci/sriov.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';
import { type Sharing, sharingOf } from '../../../services/dom0/kernel/acs.ts';
import { enumerate } from '../../../services/dom0/kernel/enumerate.ts';
import type { PciFunction } from '../../../services/dom0/kernel/function.ts';
import { hostOf } from '../../support/bridge-access.ts';
import { at, Bench, configAccess } from '../hardware/pcie/bench.ts';
import { ACS, bench, description, EXPRESS, type Placed, SRIOV } from '../hardware/pcie/topology.ts';

const ROOT_PORT = { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true };
const ACS_ALL = 0x5f;
const WANTED = PCI_ACS.SV | PCI_ACS.RR | PCI_ACS.CR | PCI_ACS.UF;
const WINDOWS = [PCI_BRIDGE.MEMORY_BASE, PCI_BRIDGE.PREF_MEMORY_BASE];

interface Enumerated {
  readonly functions: readonly PciFunction[];
  readonly traces: { readonly event: string; readonly detail: unknown }[];
  readonly sbdfs: readonly string[];
  /** Nanoseconds that it waited. */
  readonly waitedNs: number;
}

function enumerateOn(b: Bench, access: ConfigAccess = configAccess(b)): Enumerated {
  const bridge = b.board.bridges[0]!;
  const host = hostOf(bridge);
  const traces: { event: string; detail: unknown }[] = [];
  const before = b.now;
  const functions = finish(
    b,
    enumerate(access, host, (event, detail) => traces.push({ event, detail })),
  );
  return { functions, traces, sbdfs: functions.map((f) => formatSbdf(f.sbdf)), waitedNs: b.now - before };
}

function finish<T>(b: Bench, op: Op<T>): T {
  let step = op.next();
  while (!step.done) {
    assert.equal(step.value.step, 'sleep');
    if (step.value.step === 'sleep') b.pass(step.value.ns);
    step = op.next();
  }
  return step.value;
}

function sharing(e: Enumerated, address: string): Sharing | undefined {
  const functions = new Map(e.functions.map((f) => [f.sbdf, f]));
  return sharingOf(functions, functions.get(at(address))!);
}

describe('the SPI of a pin', () => {
  test('is found through every bridge above, where each turns the pin by the device number', () => {
    const b = bench(
      ['00:01.0', ROOT_PORT, '1'],
      ['01:00.0', { pin: 1 }],
      ['01:00.2', { pin: 3 }],
      ['00:03.0', { type: -1, bridge: true }, '2'],
      ['02:05.0', { type: -1, pin: 2 }],
      ['02:06.0', { type: -1 }],
      ['00:04.0', { type: 9, pin: 4 }],
    );
    const irqs = Object.fromEntries(enumerateOn(b).functions.map((f) => [formatSbdf(f.sbdf), f.irq]));
    // Pin p of root device d is SPI 3 + (d + p - 1) modulo 4.
    assert.include(irqs, { '0000:01:00.0': 36, '0000:01:00.2': 38, '0000:00:04.0': 38 });
    assert.include(irqs, { '0000:02:05.0': 32 + 3 + ((3 + (1 + 5)) % 4), '0000:02:06.0': 0 });
  });
});

describe('bridge windows', () => {
  test('that a bridge does not need are closed, all three, before it decodes memory', () => {
    const b = bench(['00:01.0', ROOT_PORT, '1'], ['00:02.0', ROOT_PORT, '2'], ['01:00.0', {}]);
    const empty = at('00:02.0');
    // What some firmware had there.
    b.setCfg(empty, PCI_BRIDGE.MEMORY_BASE, 4, 0x1010_1000);
    b.setCfg(empty, PCI_BRIDGE.IO_BASE, 2, 0x2010);
    const inner = configAccess(b);
    const closed: boolean[][] = [];
    enumerateOn(b, {
      read: inner.read,
      write(sbdf, offset, size, value) {
        if (sbdf === empty && offset === PCI.COMMAND && (value & PCI_COMMAND.MEMORY) !== 0) {
          const io = b.cfg(empty, PCI_BRIDGE.IO_BASE, 1) > b.cfg(empty, PCI_BRIDGE.IO_LIMIT, 1);
          closed.push([...WINDOWS.map((w) => b.cfg(empty, w, 2) >>> 4 > b.cfg(empty, w + 2, 2) >>> 4), io]);
        }
        return inner.write(sbdf, offset, size, value);
      },
    });
    assert.deepEqual(closed, [[true, true, true]]);
  });

  test('of a bridge with something below it hold that and nothing of the first MiB', () => {
    const b = bench(['00:01.0', ROOT_PORT, '1'], ['01:00.0', {}]);
    const { functions } = enumerateOn(b);
    const port = at('00:01.0');
    const base = b.cfg(port, PCI_BRIDGE.MEMORY_BASE, 2) * 0x1_0000;
    const bar = functions.find((f) => f.sbdf === at('01:00.0'))!.bars[0]!;
    assert.isAtLeast(bar.address, base);
    assert.isAbove(base, 0);
    assert.isAbove(b.cfg(port, PCI_BRIDGE.PREF_MEMORY_BASE, 2), b.cfg(port, PCI_BRIDGE.PREF_MEMORY_LIMIT, 2));
  });
});

describe('ACS', () => {
  test('is switched on in ports and functions of multifunction devices, as far as each has it', () => {
    const rr = PCI_ACS.RR | PCI_ACS.CR;
    const b = bench(
      ['00:01.0', { ...ROOT_PORT, acs: ACS_ALL }, '1'],
      ['01:00.0', { acs: rr | PCI_ACS.DT }],
      ['01:00.1', { acs: rr }],
    );
    const e = enumerateOn(b);
    assert.equal(b.cfg(at('00:01.0'), ACS + PCI_ACS.CTRL, 2), WANTED, 'translation blocking and the rest stay off');
    assert.equal(b.cfg(at('01:00.0'), ACS + PCI_ACS.CTRL, 2), rr);
    assert.deepEqual([sharing(e, '01:00.0'), sharing(e, '01:00.1')], [undefined, undefined]);
  });

  test.each<[string, Placed[], string]>([
    [
      'a port without it, above a switch',
      [
        ['00:01.0', ROOT_PORT, '1'],
        ['01:00.0', { type: PCI_EXP_TYPE.UPSTREAM, bridge: true }, '2'],
        ['02:00.0', { type: PCI_EXP_TYPE.DOWNSTREAM, bridge: true, acs: ACS_ALL }, '3'],
        ['02:01.0', { type: PCI_EXP_TYPE.DOWNSTREAM, bridge: true, acs: ACS_ALL }, '4'],
        ['03:00.0', {}],
        ['04:00.0', {}],
      ],
      '0000:00:01.0 0000:04:00.0',
    ],
    [
      'a downstream port without it',
      [
        ['00:01.0', { ...ROOT_PORT, acs: ACS_ALL }, '1'],
        ['01:00.0', { type: PCI_EXP_TYPE.UPSTREAM, bridge: true }, '2'],
        ['02:00.0', { type: PCI_EXP_TYPE.DOWNSTREAM, bridge: true }, '3'],
        ['03:00.0', {}],
        ['03:00.1', {}],
      ],
      '0000:02:00.0 0000:03:00.1',
    ],
    [
      'the functions of a device without it',
      [
        ['00:01.0', { ...ROOT_PORT, acs: ACS_ALL }, '1'],
        ['01:00.0', {}],
        ['01:00.1', {}],
        ['01:00.2', { acs: PCI_ACS.RR | PCI_ACS.CR }],
      ],
      '0000:01:00.0 0000:01:00.1',
    ],
    [
      'a bridge to conventional PCI',
      [
        ['00:01.0', { ...ROOT_PORT, acs: ACS_ALL }, '1'],
        ['01:00.0', { type: PCI_EXP_TYPE.PCIE_TO_PCI, bridge: true }, '2'],
        ['02:00.0', { type: -1 }],
        ['02:01.0', { type: -1 }],
      ],
      '0000:01:00.0 0000:02:01.0',
    ],
  ])('not there, at %s, leaves functions with peers', (_what, placed, expected) => {
    const e = enumerateOn(bench(...placed));
    const first = placed.find(([, shape]) => shape.bridge !== true)![0];
    const { missingAt, peers } = sharing(e, first)!;
    assert.equal([missingAt, ...peers].map(formatSbdf).join(' '), expected);
  });

  test('is not missed below a port with one function, nor in the root ports of ThunderX', () => {
    const alone = enumerateOn(bench(['00:01.0', ROOT_PORT, '1'], ['01:00.0', {}]));
    assert.equal(sharing(alone, '01:00.0'), undefined);
    const board = description(
      ['00:01.0', ROOT_PORT, '1'],
      ['01:00.0', { acs: PCI_ACS.RR }],
      ['01:00.1', { acs: PCI_ACS.RR }],
    );
    board.functions[0]!.config.set([0x7d, 0x17, 0x00, 0xa1]);
    assert.equal(sharing(enumerateOn(new Bench(board)), '01:00.0'), undefined);
    board.functions[0]!.config.set([0x7d, 0x17, 0x00, 0xb1]);
    assert.deepEqual(sharing(enumerateOn(new Bench(board)), '01:00.0')?.peers, [at('01:00.1')]);
  });
});

describe('ARI', () => {
  const placed: Placed[] = [
    ['00:01.0', ROOT_PORT, '1'],
    ['01:00.0', { ari: 1 }],
    ['01:00.1', { ari: 0x12 }],
    ['01:02.2', { ari: 0xff }],
    ['01:1f.7', { ari: 0 }],
  ];

  test('functions are found along the chain of the capability, the port forwarding their numbers', () => {
    const b = bench(...placed);
    const { sbdfs } = enumerateOn(b);
    assert.deepEqual(
      sbdfs.slice(1),
      ['00.0', '00.1', '02.2', '1f.7'].map((s) => `0000:01:${s}`),
    );
    assert.equal(b.cfg(at('00:01.0'), EXPRESS + PCI_EXP.DEVCTL2, 2), PCI_EXP_DEVCTL2_ARI);
  });

  test('a port that cannot forward finds the eight functions of device 0 at most', () => {
    const board = description(...placed);
    board.functions[0]!.config[EXPRESS + PCI_EXP.DEVCAP2] = 0;
    assert.deepEqual(enumerateOn(new Bench(board)).sbdfs.slice(1), ['0000:01:00.0', '0000:01:00.1']);
  });

  test('a chain that does not rise ends there', () => {
    const b = bench(['00:01.0', ROOT_PORT, '1'], ['01:00.0', { ari: 9 }], ['01:01.1', { ari: 9 }]);
    assert.lengthOf(enumerateOn(b).sbdfs, 3);
  });

  test('is switched off in a port with a device that does not have it', () => {
    const b = bench(['00:01.0', ROOT_PORT, '1'], ['01:00.0', {}]);
    b.setCfg(at('00:01.0'), EXPRESS + PCI_EXP.DEVCTL2, 2, PCI_EXP_DEVCTL2_ARI);
    enumerateOn(b);
    assert.equal(b.cfg(at('00:01.0'), EXPRESS + PCI_EXP.DEVCTL2, 2), 0);
  });
});

describe('a function that is still in reset', () => {
  /** A device that takes `resetNs`, reset just now. */
  function inReset(resetNs: number, notReady: 'rrs' | 'all-ones' = 'rrs'): Bench {
    const b = bench(['00:01.0', ROOT_PORT, '1'], ['01:00.0', {}, { resetNs, notReady }]);
    for (const control of [PCI_BRIDGE_CTL.BUS_RESET, 0]) b.setCfg(at('00:01.0'), PCI_BRIDGE.CONTROL, 2, control);
    return b;
  }

  test('is waited for when it asks for retries, which the root port shows', () => {
    const b = inReset(3e9);
    const { sbdfs, waitedNs } = enumerateOn(b);
    assert.include(sbdfs, '0000:01:00.0');
    assert.equal(waitedNs, 4095e6, '1 ms and twice as long each time, to the first look after 3 s');
    assert.equal(b.cfg(at('00:01.0'), EXPRESS + PCI_EXP.RTCTL, 2), PCI_EXP_RTCTL_RRS_SVE);
  });

  test('is given up after a minute, and is absent when it says nothing at all', () => {
    const { sbdfs, waitedNs } = enumerateOn(inReset(Number.POSITIVE_INFINITY));
    assert.deepEqual([sbdfs, waitedNs], [['0000:00:01.0'], 65_535e6]);
    assert.deepEqual(enumerateOn(inReset(3e9, 'all-ones')).sbdfs, ['0000:00:01.0']);
  });
});

describe('virtual functions that the firmware asked for', () => {
  const sriov = { total: 64, offset: 0x80, stride: 2 };
  const { VFE, MSE, ARI } = PCI_SRIOV_CTRL;

  function withPf(vfs: number, more: Placed[] = [], shape = sriov): Bench {
    const board = description(['00:01.0', ROOT_PORT, '1'], ['01:00.0', { vectors: 4, sriov: shape, ari: 0 }], ...more);
    return new Bench({
      ...board,
      functions: board.functions.map((fn) => (fn.sbdf === at('01:00.0') ? { ...fn, vfs } : fn)),
    });
  }

  test('are enabled with BARs inside the window above them, each on pages of its own', () => {
    const b = withPf(3);
    const { functions, sbdfs, waitedNs } = enumerateOn(b);
    assert.deepEqual(sbdfs.slice(2), ['0000:01:10.0', '0000:01:10.2', '0000:01:10.4']);
    const pf = at('01:00.0');
    assert.equal(b.cfg(pf, SRIOV + PCI_SRIOV.CTRL, 2), VFE | MSE | ARI);
    assert.equal(b.cfg(pf, SRIOV + PCI_SRIOV.NUM_VF, 2), 3);
    assert.equal(waitedNs, 100e6);
    const [one, two] = functions.slice(2);
    assert.deepEqual([one!.vendorId, one!.deviceId, one!.physfn, one!.parent], [0x1b36, 0x5678, pf, at('00:01.0')]);
    assert.deepEqual(one!.bars[0]!.sizeBytes, 0x1_0000);
    assert.equal(two!.bars[0]!.pa - one!.bars[0]!.pa, 0x1_0000);
    // Its device answers there.
    assert.equal(b.mmio(two!.bars[0]!.pa), 0x424f_5250);
  });

  test('that spill over take the bus numbers before the next bridge, and the port leads to them', () => {
    const b = withPf(
      64,
      [
        ['00:02.0', ROOT_PORT, '2'],
        ['02:00.0', {}],
      ],
      { ...sriov, offset: 0xc0 },
    );
    const { sbdfs } = enumerateOn(b);
    assert.lengthOf(
      sbdfs.filter((s) => s.startsWith('0000:02:')),
      32,
    );
    assert.include(sbdfs, '0000:02:07.6');
    assert.include(sbdfs, '0000:03:00.0');
    assert.equal(b.cfg(at('00:01.0'), PCI_BRIDGE.SUBORDINATE_BUS, 1), 2);
  });

  test('are not enabled when their BARs have no room, or they would be on buses that do not exist', () => {
    const huge = withPf(64);
    const board = huge.board.functions.find((f) => f.sbdf === at('01:00.0'))!;
    const sizes = new Map([
      [0, 0x1_0000],
      [7, 2 ** 28],
    ]);
    const tooLarge = new Bench({
      ...description(['00:01.0', ROOT_PORT, '1']),
      functions: [...description(['00:01.0', ROOT_PORT, '1']).functions, { ...board, barSizes: sizes }],
    });
    const e = enumerateOn(tooLarge);
    assert.lengthOf(e.functions, 2);
    assert.include(
      e.traces.map((t) => t.event),
      'dom0.pci.no_vfs',
    );
    assert.equal(tooLarge.cfg(at('01:00.0'), SRIOV + PCI_SRIOV.CTRL, 2) & VFE, 0);
    const far = enumerateOn(withPf(64, [], { total: 64, offset: 0xff00, stride: 2 }));
    assert.lengthOf(far.functions, 2);
    assert.deepInclude(
      far.traces.map((t) => t.event),
      'dom0.pci.no_vfs',
    );
  });

  test('are none when it asked for none', () => {
    const b = bench(['00:01.0', ROOT_PORT, '1'], ['01:00.0', { sriov, ari: 0 }]);
    assert.lengthOf(enumerateOn(b).functions, 2);
    assert.equal(b.cfg(at('01:00.0'), SRIOV + PCI_SRIOV.CTRL, 2), 0);
  });

  test('have a board that says so itself refused when the function can have fewer', () => {
    assert.throws(() => withPf(65), /can have 64 virtual functions, not 65/);
    const plain = description(['00:01.0', ROOT_PORT, '1'], ['01:00.0', {}]);
    const functions = plain.functions.map((fn) => ({ ...fn, vfs: 1 }));
    assert.throws(() => new Bench({ ...plain, functions }), /no SR-IOV capability/);
  });
});
