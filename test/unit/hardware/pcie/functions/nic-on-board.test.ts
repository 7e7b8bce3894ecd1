/** NICs behind functions of a board: two on one wire, and the virtual functions of one. */
import { assert, describe, test } from 'vitest';
import { NIC, NIC_MAGIC } from '#shared/arch/nic.ts';
import { PCI_EXP, PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_SRIOV, PCI_SRIOV_CTRL } from '#shared/arch/pci/sriov.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { frameOf, NicDriver, RingDriver } from '../../../../support/nic-driver.ts';
import { at, Bench, exampleBoard } from '../bench.ts';
import { barOf, configOf, EXPRESS, open, place, type Shape, SRIOV, WINDOW_BASE } from '../topology.ts';

const MS = 1e6;
const PF = '01:00.0';
const PEER = '01:00.1';
const MAC = 0x5254_0000_0100;
/** VF 1 with an offset of 0x80 and a stride of 1, and its part of VF BAR 0. */
const VF1 = 0x0180;
const VF_BAR = WINDOW_BASE + 0x20_0000;

function board(): Bench {
  const fn = (address: string, shape: Shape, more: Partial<BoardFunction>): BoardFunction => ({
    sbdf: at(address),
    config: configOf(shape),
    model: 'nic',
    barSizes: new Map(
      shape.sriov === undefined
        ? [[0, 0x1_0000]]
        : [
            [0, 0x1_0000],
            [7, 0x1_0000],
          ],
    ),
    secondaryBus: undefined,
    ...more,
  });
  const sriov = { total: 4, offset: 0x80, stride: 1 };
  const port = fn('00:01.0', { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true }, {});
  const b = new Bench({
    ...exampleBoard(),
    functions: [
      { ...port, model: 'inert', barSizes: new Map(), secondaryBus: 1 },
      fn(PF, { vectors: 4, sriov }, { nic: { wire: 'lan', mac: MAC, queues: 2 } }),
      fn(PEER, { vectors: 4 }, { nic: { wire: 'lan', queues: 1 } }),
    ],
  });
  open(b, '00:01.0', 1, 3);
  place(b, PF);
  place(b, PEER);
  b.setCfg(at('00:01.0'), EXPRESS + PCI_EXP.DEVCTL2, 2, 0x20);
  b.setCfg(at(PF), SRIOV + PCI_SRIOV.BAR, 4, VF_BAR);
  b.setCfg(at(PF), SRIOV + PCI_SRIOV.NUM_VF, 2, 2);
  b.setCfg(at(PF), SRIOV + PCI_SRIOV.CTRL, 2, PCI_SRIOV_CTRL.VFE | PCI_SRIOV_CTRL.MSE);
  return b;
}

/** Ring 0 of each kind at `memory`, with 8 receive buffers. */
function up(b: Bench, base: number, memory: number): { driver: NicDriver; tx: RingDriver; rx: RingDriver } {
  const port = {
    read: (offset: number) => b.mmio(base + offset),
    write: (offset: number, value: number) => b.setMmio(base + offset, value),
    memory: b.memory.bytes,
  };
  const ring = (receive: boolean): RingDriver => {
    const at0 = memory + (receive ? 0x1_0000 : 0);
    return new RingDriver(port, 0, receive, { base: at0, entries: 16, buffers: at0 + 0x1000, bufferBytes: 2048 });
  };
  const tx = ring(false);
  const rx = ring(true);
  tx.start();
  rx.start();
  rx.offer(8);
  const driver = new NicDriver(port);
  driver.enable();
  return { driver, tx, rx };
}

describe('NICs on a board', () => {
  test('have the address that the board gives, or one of their place', () => {
    const b = board();
    const macAt = (base: number): number => b.mmio(base + NIC.PERM_MAC_HI) * 0x1_0000 + b.mmio(base + NIC.PERM_MAC_LO);
    assert.equal(macAt(barOf(PF)), MAC);
    assert.equal(macAt(barOf(PEER)), 0x0200_0101_0000);
  });

  test('send frames to each other over the wire that both are on', () => {
    const b = board();
    const one = up(b, barOf(PF), 0x10_0000);
    const two = up(b, barOf(PEER), 0x20_0000);
    const frame = frameOf(two.driver.mac, one.driver.mac, Uint8Array.of(1, 2, 3));
    one.tx.send(frame);
    b.pass(MS);
    assert.deepEqual(two.rx.receive(), [frame]);
  });

  test('have virtual functions with registers, rings, an address and a requester id of their own', () => {
    const b = board();
    const base = VF_BAR + 0x1_0000;
    assert.deepEqual([b.mmio(base + NIC.ID), b.mmio(base + NIC.VF)], [NIC_MAGIC, 2]);
    b.setCfg(VF1 + 1, PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    const vf = up(b, base, 0x30_0000);
    const peer = up(b, barOf(PEER), 0x20_0000);
    assert.equal(vf.driver.mac, MAC + 2);
    peer.tx.send(frameOf(MAC + 2, peer.driver.mac, Uint8Array.of(9)));
    peer.tx.send(frameOf(MAC, peer.driver.mac, Uint8Array.of(8)));
    b.pass(MS);
    assert.deepEqual(
      vf.rx.receive().map((frame) => frame[14]),
      [9],
    );
    assert.isTrue(b.memory.requesters.some((requester) => requester.rid === VF1 + 1));
  });

  test('a virtual function that goes takes its link with it, and is as new when it comes back', () => {
    const b = board();
    b.setCfg(VF1, PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    up(b, VF_BAR, 0x30_0000);
    const peer = up(b, barOf(PEER), 0x20_0000);
    assert.isTrue(peer.driver.link);
    b.setCfg(at(PF), SRIOV + PCI_SRIOV.CTRL, 2, 0);
    assert.isFalse(peer.driver.link);
    b.setCfg(at(PF), SRIOV + PCI_SRIOV.CTRL, 2, PCI_SRIOV_CTRL.VFE | PCI_SRIOV_CTRL.MSE);
    assert.equal(b.mmio(VF_BAR + NIC.CTRL), 0);
    assert.equal(b.mmio(VF_BAR + NIC.VF), 1);
  });
});
