/** Virtual functions on a whole host: dom0 enables and reports them, a guest has one. */
import { assert, beforeAll, describe, test } from 'vitest';
import { HYPERCALL } from '#shared/abi/hypercall.ts';
import { PHYSDEVOP, physdev_pci_device_add, XEN_PCI_DEV } from '#shared/abi/physdev.ts';
import { PCI_ACS } from '#shared/arch/pci/capability.ts';
import { PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { body } from '#shared/core/core.ts';
import { formatSbdf, parseSbdf } from '#shared/ids/sbdf.ts';
import { description } from '../hardware/pcie/topology.ts';
import { Host } from './host.ts';

const PF = '0000:01:00.0';
const VF1 = '0000:01:10.0';
const VF2 = '0000:01:10.2';

function hostWithVfs(): Host {
  const board = description(
    ['00:01.0', { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true, acs: 0x5f }, '1'],
    ['01:00.0', { vectors: 4, ari: 0, sriov: { total: 8, offset: 0x80, stride: 2 } }],
  );
  const functions = board.functions.map((fn) => (fn.sbdf === parseSbdf(PF) ? { ...fn, vfs: 2 } : fn));
  return new Host({ ...board, functions });
}

function command(h: Host, domid: number, name: string, args: unknown): Record<string, unknown> {
  const request = body('guestCommandRequest', { command: name, args: JSON.stringify(args) });
  const { error, result } = h.ask(`d${domid}`, request, 'guestCommandReply');
  assert.equal(error, '');
  return JSON.parse(result);
}

const texts = (reply: { log: { text: string }[] }): string[] => reply.log.map((line) => line.text);

describe('virtual functions', () => {
  let h: Host;
  beforeAll(() => {
    h = hostWithVfs();
  });

  test('are reported to Xen after their physical function, which the report names', () => {
    const adds = h.sent.flatMap(({ from, envelope }) => {
      const call = envelope.body?.$case === 'hypercallRequest' ? envelope.body.value : undefined;
      if (from !== 'd0' || call?.number !== HYPERCALL.physdev_op || call.cmd !== PHYSDEVOP.pci_device_add) return [];
      const whole = new Uint8Array(physdev_pci_device_add.size);
      whole.set(call.arg.subarray(0, whole.length));
      const a = physdev_pci_device_add.decode(whole);
      return [[(a.bus << 8) | a.devfn, a.flags, (a.physfn_bus << 8) | a.physfn_devfn]];
    });
    assert.deepEqual(adds, [
      [0x0008, 0, 0],
      [0x0100, 0, 0],
      [0x0180, XEN_PCI_DEV.virtfn, 0x0100],
      [0x0182, XEN_PCI_DEV.virtfn, 0x0100],
    ]);
    const devices: { sbdf: string; streamId: number }[] = h.inspect('xen').devices;
    assert.equal(devices.find((d) => d.sbdf === VF2)?.streamId, 0x182);
  });

  test('keep their physical function with dom0, as its reset would take them away', () => {
    const reply = h.assignableAdd(PF);
    assert.deepEqual([reply.rc, texts(reply).at(-1)], [-3, "Couldn't bind device to pciback!"]);
    const failed = h.traces.filter((t) => t.event === 'libxl.bind_failed').at(-1);
    assert.include(JSON.stringify(failed?.detail), 'has 2 virtual functions');
  });

  test('are given to guests, who see ordinary functions with the ids that the physical one says', () => {
    assert.deepEqual(texts(h.assignableAdd(VF1)), [`${VF1} not bound to a driver, will not be rebound.`]);
    assert.equal(h.assignableAdd(VF2).rc, 0);
    assert.equal(h.create('guest1').rc, 0);
    h.runFor(1e9);
    assert.equal(h.attach(1, VF2).rc, 0);
    const [seen] = h.inspect('d1').devices;
    assert.deepEqual([seen.sbdf, seen.driver], ['0000:00:00.0', 'dma-probe']);
    const { functions } = h.ask('d1', body('lspciRequest', {}), 'lspciReply');
    const config = new DataView(functions[0]!.config.buffer, functions[0]!.config.byteOffset);
    assert.equal(config.getUint32(PCI.VENDOR_ID, true), 0x5678_1b36);
    assert.equal(config.getUint16(PCI.COMMAND, true) & 7, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    assert.notEqual(config.getUint32(PCI.BASE_ADDRESS_0, true) >>> 4, 0);
  });

  test('do DMA through their own stream and raise interrupts of their own', () => {
    assert.include(command(h, 1, 'dma-check', { bytes: 65536, seed: 3 }), { mismatches: 0 });
    assert.include(command(h, 1, 'interrupts', { count: 10, vectors: 2 }), { delivered: 10, lost: 0 });
    const owners = new Map(h.inspect('xen').devices.map((d: { sbdf: string; owner: number }) => [d.sbdf, d.owner]));
    assert.deepEqual([owners.get(PF), owners.get(VF1), owners.get(VF2)], [0, 0x7ff1, 1]);
  });

  test('come back reset, and can be given to the next guest', () => {
    assert.equal(h.detach(1, VF2).rc, 0);
    const resets = h.traces.filter((t) => t.event === 'pciback.reset').map((t) => t.detail as Record<string, unknown>);
    assert.deepEqual(resets.at(-1), { sbdf: VF2, kind: 'flr', ready: true });
    assert.sameMembers(h.assignable(), [VF1, VF2]);
    assert.equal(h.create('guest2').rc, 0);
    h.runFor(1e9);
    assert.equal(h.attach(2, VF2).rc, 0);
    assert.include(command(h, 2, 'dma-check', { bytes: 4096, seed: 4 }), { mismatches: 0 });
  });
});

describe('pci-assignable-add', () => {
  const port = { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true };

  test('warns of a function that no ACS keeps from another, and takes it', () => {
    const h = new Host(description(['00:01.0', port, '1'], ['01:00.0', {}], ['01:00.1', {}]));
    const reply = h.assignableAdd(PF);
    assert.equal(reply.rc, 0);
    const expected = `${PF} is not isolated from 0000:01:00.1: no ACS at 0000:00:01.0; DMA between them need not pass the SMMU`;
    assert.deepEqual(
      reply.log.filter((line) => line.text.includes('isolated')),
      [{ level: 'warning', text: expected }],
    );
    assert.deepEqual(h.assignable(), [PF]);
    const told = h.traces.filter((t) => t.event === 'dom0.pci.not_isolated').map((t) => t.detail);
    assert.deepEqual(told[0], { sbdf: PF, missingAt: '0000:00:01.0', peers: ['0000:01:00.1'] });
  });

  test('waits for a function that is slow after its reset, and puts back what dom0 had set, ACS too', () => {
    const slow = { resetNs: 5e9 };
    const acs = PCI_ACS.RR | PCI_ACS.CR;
    const h = new Host(
      description(['00:01.0', { ...port, acs: 0x5f }, '1'], ['01:00.0', { acs }, slow], ['01:00.1', { acs }]),
    );
    const reply = h.assignableAdd(PF);
    assert.deepEqual([reply.rc, texts(reply).filter((t) => t.includes('reset'))], [0, []]);
    assert.lengthOf(
      h.traces.filter((t) => t.event === 'pciback.slow_reset'),
      1,
    );
    const { functions } = h.ask('d0', body('lspciRequest', {}), 'lspciReply');
    const found = functions.find((f) => formatSbdf(f.sbdf) === PF)!;
    const config = new DataView(found.config.buffer, found.config.byteOffset);
    assert.equal(config.getUint16(0x150 + PCI_ACS.CTRL, true), acs);
    assert.notEqual(config.getUint32(PCI.BASE_ADDRESS_0, true), 0);
  });

  test('gives a function up that never comes out of its reset, and says so', () => {
    const dead = { resetNs: Number.POSITIVE_INFINITY };
    const h = new Host(description(['00:01.0', port, '1'], ['01:00.0', {}, dead]));
    const reply = h.assignableAdd(PF);
    assert.deepEqual([reply.rc, texts(reply).at(-1)], [0, `${PF} did not come out of its reset`]);
    const told = h.traces.find((t) => t.event === 'pciback.not_ready')?.detail;
    assert.deepEqual(told, { sbdf: PF, text: 'not ready 65535ms after FLR; giving up' });
  });
});
