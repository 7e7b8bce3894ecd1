import { assert, describe, test } from 'vitest';
import {
  NIC,
  NIC_BROADCAST,
  NIC_CAUSE,
  NIC_CTRL,
  NIC_FRAME_MAX,
  NIC_MAGIC,
  NIC_RING,
  NIC_RING_CTRL,
} from '#shared/arch/nic.ts';
import { Nic } from '../../../../../services/hardware/pcie/functions/nic.ts';
import { NIC_STORE_FRAMES } from '../../../../../services/hardware/pcie/functions/nic-ring.ts';
import { NicWire } from '../../../../../services/hardware/pcie/functions/nic-wire.ts';
import { DeviceRig } from '../../../../support/device-rig.ts';
import { frameOf, NicDriver, RingDriver } from '../../../../support/nic-driver.ts';

const MS = 1e6;
const MAC_A = 0x02_00_00_00_00_0a;
const MAC_B = 0x02_00_00_00_00_0b;
const GROUP = 0x01_00_5e_00_00_01;
const TX_QUEUE_0 = 1 << NIC_CAUSE.TX_SHIFT;

interface Host {
  readonly rig: DeviceRig;
  readonly nic: Nic;
  readonly driver: NicDriver;
  readonly tx: RingDriver;
  readonly rx: RingDriver;
}

/** A NIC with memory of its own; several may share a wire. Ring 0 of each kind is ready, all causes are enabled. */
function host(wire: NicWire, mac: number, { vf = 0, bufferBytes = 2048 } = {}): Host {
  const rig = new DeviceRig(1 << 20);
  const nic = new Nic(rig, rig.scheduler, { bar: 1, mac, queues: 2, vf, wire });
  nic.reset();
  const port = {
    read: (offset: number) => nic.readBar(1, offset, 4),
    write: (offset: number, value: number) => nic.writeBar(1, offset, 4, value),
    memory: rig.memory,
  };
  const driver = new NicDriver(port);
  const tx = new RingDriver(port, 0, false, { base: 0x1000, entries: 32, buffers: 0x1_0000, bufferBytes: 2048 });
  const rx = new RingDriver(port, 0, true, { base: 0x2000, entries: 128, buffers: 0x4_0000, bufferBytes });
  tx.start(1);
  rx.start(2);
  port.write(NIC.ENABLE_SET, 0xffff_ffff);
  driver.enable();
  return { rig, nic, driver, tx, rx };
}

function pair(): { a: Host; b: Host; pass: (ns: number) => void } {
  const wire = new NicWire();
  const a = host(wire, MAC_A);
  const b = host(wire, MAC_B);
  return {
    a,
    b,
    pass: (ns) => {
      a.rig.pass(ns);
      b.rig.pass(ns);
    },
  };
}

function payload(bytes: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 13 + seed) & 0xff);
}

describe('NIC', () => {
  test('says what it is, and answers nothing but whole words', () => {
    const { nic, driver } = host(new NicWire(), MAC_A, { vf: 3 });
    assert.equal(driver.port.read(NIC.ID), NIC_MAGIC);
    assert.equal(nic.readBar(1, NIC.ID, 2), 0);
    assert.equal(nic.readBar(0, NIC.ID, 4), 0);
    assert.deepEqual([driver.mac, driver.port.read(NIC.VF), driver.port.read(NIC.QUEUES)], [MAC_A, 3, 0x202]);
  });

  test('a frame goes from the memory of one to the memory of the other, and both are told', () => {
    const { a, b, pass } = pair();
    b.rx.offer(4);
    a.rig.raised = [];
    b.rig.raised = [];
    const frame = frameOf(MAC_B, MAC_A, payload(200));
    a.tx.send(frame);
    assert.isTrue(a.rig.pending);
    pass(MS);
    assert.deepEqual(b.rx.receive(), [frame]);
    assert.deepEqual(a.tx.reap(), [1]);
    assert.deepEqual([a.rig.raised, b.rig.raised], [[1], [2]]);
    assert.deepEqual([a.driver.count('txFrames'), a.driver.count('txBytes')], [1, 214]);
    assert.deepEqual([b.driver.count('rxFrames'), b.driver.count('rxBytes')], [1, 214]);
    assert.isFalse(a.rig.pending);
  });

  test('a frame in pieces is one frame, and one longer than a buffer takes several', () => {
    const wire = new NicWire();
    const a = host(wire, MAC_A);
    const b = host(wire, MAC_B, { bufferBytes: 256 });
    b.rx.offer(8);
    const frame = frameOf(MAC_B, MAC_A, payload(1000));
    a.tx.send(frame, 300);
    a.rig.pass(MS);
    b.rig.pass(MS);
    assert.equal(a.tx.reap().length, 4);
    assert.deepEqual(b.rx.receive(), [frame]);
    assert.equal(b.rx.register(NIC_RING.HEAD), 4);
  });

  test('rings wrap, and order is kept', () => {
    const { a, b, pass } = pair();
    b.rx.offer(100);
    for (let i = 0; i < 80; i++) {
      a.tx.send(frameOf(MAC_B, MAC_A, Uint8Array.of(i)));
      if (i % 20 === 19) {
        pass(MS);
        a.tx.reap();
        const got = b.rx.receive().map((frame) => frame[14]!);
        assert.deepEqual(
          got,
          Array.from({ length: 20 }, (_, k) => i - 19 + k),
        );
        b.rx.offer(20);
      }
    }
    assert.equal(a.driver.count('txFrames'), 80);
  });

  test('frames take their time on the wire', () => {
    const { a, b } = pair();
    b.rx.offer(100);
    for (let i = 0; i < 30; i++) a.tx.add(1514, 1, frameOf(MAC_B, MAC_A, payload(1500)));
    a.tx.ring();
    a.rig.pass(600 + 30 * 1538 * 0.8 - 10);
    const soFar = a.driver.count('txFrames');
    a.rig.pass(MS);
    assert.deepEqual([soFar, a.driver.count('txFrames')], [30, 30], 'one burst of 32 descriptors');
    for (let i = 0; i < 30; i++) a.tx.add(1514, 1, frameOf(MAC_B, MAC_A, payload(1500)));
    a.tx.reap();
    a.tx.ring();
    a.rig.pass(700);
    assert.equal(a.driver.count('txFrames'), 60);
    b.rig.pass(MS);
    assert.equal(b.driver.count('rxFrames'), 60);
  });
});

describe('NIC filters', () => {
  test('unicast for someone else is filtered unless promiscuous; group addresses need their bits or a filter', () => {
    const wire = new NicWire();
    const a = host(wire, MAC_A);
    const b = host(wire, MAC_B);
    b.rx.offer(20);
    const heard = (target: number): number => {
      a.tx.send(frameOf(target, MAC_A, payload(20)));
      a.rig.pass(MS);
      b.rig.pass(MS);
      a.tx.reap();
      return b.rx.receive().length;
    };
    assert.deepEqual([MAC_B, MAC_A + 99, NIC_BROADCAST, GROUP].map(heard), [1, 0, 0, 0]);
    assert.equal(b.driver.count('rxFiltered'), 3);
    b.driver.enable(NIC_CTRL.BROADCAST);
    assert.deepEqual([NIC_BROADCAST, GROUP].map(heard), [1, 0]);
    b.driver.enable(NIC_CTRL.ALL_MULTICAST);
    assert.deepEqual([NIC_BROADCAST, GROUP].map(heard), [0, 1]);
    b.driver.enable();
    b.driver.filter(1, GROUP, 0);
    assert.deepEqual([GROUP + 1, GROUP].map(heard), [0, 1]);
    b.driver.enable(NIC_CTRL.PROMISC);
    assert.equal(heard(MAC_A + 99), 1);
  });

  test('a filter steers to its queue, and the default register takes the rest', () => {
    const wire = new NicWire();
    const a = host(wire, MAC_A);
    const b = host(wire, MAC_B);
    const second = new RingDriver(b.driver.port, 1, true, {
      base: 0x3000,
      entries: 16,
      buffers: 0x8_0000,
      bufferBytes: 2048,
    });
    second.start(5);
    second.offer(8);
    b.rx.offer(8);
    b.driver.filter(2, MAC_B + 1, 1);
    b.driver.port.write(NIC.RX_DEFAULT, 1);
    b.driver.enable(NIC_CTRL.BROADCAST);
    b.rig.raised = [];
    for (const target of [MAC_B, MAC_B + 1, NIC_BROADCAST]) a.tx.send(frameOf(target, MAC_A, payload(4)));
    a.rig.pass(MS);
    b.rig.pass(MS);
    assert.deepEqual([b.rx.receive().length, second.receive().length], [1, 2]);
    assert.deepEqual(b.rig.raised, [2, 5]);
  });

  test('a virtual function cannot listen to or speak as another', () => {
    const wire = new NicWire();
    const a = host(wire, MAC_A);
    const b = host(wire, MAC_B);
    const vf = host(wire, MAC_A + 0x100, { vf: 1 });
    vf.rx.offer(8);
    b.rx.offer(8);
    vf.driver.enable(NIC_CTRL.PROMISC);
    assert.equal(vf.driver.port.read(NIC.CTRL), NIC_CTRL.ENABLE);
    vf.driver.filter(1, MAC_B, 0);
    vf.driver.filter(2, GROUP, 0);
    for (const target of [MAC_B, GROUP, MAC_A + 0x100]) a.tx.send(frameOf(target, MAC_A, payload(4)));
    for (const source of [MAC_A, MAC_A + 0x100]) vf.tx.send(frameOf(MAC_B, source, payload(8)));
    for (const { rig } of [a, vf, b]) rig.pass(MS);
    assert.equal(vf.rx.receive().length, 2);
    assert.deepEqual(vf.tx.reap(), [3, 1]);
    assert.deepEqual([vf.driver.count('txSpoofed'), vf.driver.count('txFrames')], [1, 1]);
    assert.deepEqual(
      b.rx.receive().map((frame) => frame.length),
      [18, 22],
    );
  });
});

describe('NIC back-pressure and errors', () => {
  test('frames wait for descriptors, and what finds the store full is counted and lost', () => {
    const { a, b, pass } = pair();
    for (let i = 0; i < NIC_STORE_FRAMES + 5; i++) {
      a.tx.send(frameOf(MAC_B, MAC_A, Uint8Array.of(i)));
      if (i % 16 === 15) pass(MS);
    }
    pass(MS);
    assert.equal(b.driver.count('rxMissed'), 5);
    b.rx.offer(100);
    pass(MS);
    assert.deepEqual(
      b.rx.receive().map((frame) => frame[14]),
      Array.from({ length: NIC_STORE_FRAMES }, (_, i) => i),
    );
  });

  test('a frame for a queue that is off is counted', () => {
    const { a, b, pass } = pair();
    b.rx.set(NIC_RING.CTRL, 0);
    a.tx.send(frameOf(MAC_B, MAC_A, payload(4)));
    pass(MS);
    assert.equal(b.driver.count('rxNoQueue'), 1);
  });

  test('frames too short and too long are given back with an error', () => {
    const { a, pass } = pair();
    a.tx.send(payload(13));
    for (let i = 0; i < 5; i++) a.tx.add(2048, i === 4 ? 1 : 0);
    a.tx.ring();
    pass(MS);
    assert.isAbove(5 * 2048, NIC_FRAME_MAX);
    assert.deepEqual(a.tx.reap(), [3, 1, 1, 1, 1, 3]);
    assert.deepEqual([a.driver.count('txErrors'), a.driver.count('txFrames')], [2, 0]);
  });

  test.each([
    ['a descriptor', 0x1000],
    ['a buffer', 0x1_0000],
  ])('%s that cannot be read stops its ring until it is enabled again', (_name, from) => {
    const { a, b, pass } = pair();
    b.rx.offer(4);
    a.rig.abortFrom = from;
    a.rig.abortEnd = from + 16;
    a.rig.raised = [];
    a.tx.send(frameOf(MAC_B, MAC_A, payload(4)));
    pass(MS);
    assert.equal(a.tx.register(NIC_RING.CTRL), NIC_RING_CTRL.ERROR);
    assert.deepEqual([a.driver.count('dmaErrors'), a.rig.raised], [1, [1]]);
    a.rig.abortFrom = Number.POSITIVE_INFINITY;
    a.tx.start(1);
    a.tx.send(frameOf(MAC_B, MAC_A, payload(4)));
    pass(MS);
    assert.equal(b.rx.receive().length, 1);
  });

  test('a receive buffer that cannot be written stops its ring', () => {
    const { a, b, pass } = pair();
    b.rx.offer(4);
    b.rig.abortFrom = 0x4_0000;
    b.rig.abortEnd = 0x4_0010;
    a.tx.send(frameOf(MAC_B, MAC_A, payload(40)));
    pass(MS);
    assert.equal(b.rx.register(NIC_RING.CTRL), NIC_RING_CTRL.ERROR);
    assert.deepEqual(b.rx.receive(), []);
    assert.equal(b.driver.count('rxFrames'), 0);
  });

  test('base and size hold while the ring is on, and a ring of one descriptor does not start', () => {
    const { a } = pair();
    a.tx.set(NIC_RING.BASE_LO, 0x9000);
    assert.equal(a.tx.register(NIC_RING.BASE_LO), 0x1000);
    a.tx.set(NIC_RING.CTRL, 0);
    a.tx.set(NIC_RING.BASE_LO, 0x900f);
    a.tx.set(NIC_RING.SIZE, 1);
    a.tx.set(NIC_RING.CTRL, 1);
    assert.deepEqual([a.tx.register(NIC_RING.BASE_LO), a.tx.register(NIC_RING.CTRL)], [0x9000, 0]);
  });
});

describe('NIC interrupts, link and reset', () => {
  test('a link is there while another NIC of the wire is enabled, and a change is told', () => {
    const wire = new NicWire();
    const a = host(wire, MAC_A);
    a.driver.port.write(NIC.LINK_VECTOR, 7);
    assert.isFalse(a.driver.link);
    const b = host(wire, MAC_B);
    assert.deepEqual([a.driver.link, b.driver.link, a.rig.raised], [true, true, [7]]);
    b.nic.reset();
    assert.deepEqual([a.driver.link, b.driver.link, a.rig.raised], [false, false, [7, 7]]);
    b.driver.enable();
    const c = host(wire, MAC_B + 5);
    b.driver.port.write(NIC.CTRL, 0);
    assert.isTrue(a.driver.link, 'one is left');
    c.driver.port.write(NIC.CTRL, NIC_CTRL.RESET);
    assert.isFalse(a.driver.link);
  });

  test('NICs on different wires do not hear each other', () => {
    const a = host(new NicWire(), MAC_A);
    const b = host(new NicWire(), MAC_B);
    b.rx.offer(2);
    a.tx.send(frameOf(MAC_B, MAC_A, payload(4)));
    a.rig.pass(MS);
    b.rig.pass(MS);
    assert.deepEqual([b.driver.link, b.rx.receive().length], [false, 0]);
  });

  test('a cause that is disabled is kept, and told when it is enabled', () => {
    const { a, pass } = pair();
    a.driver.port.write(NIC.CAUSE, 0xffff_ffff);
    a.driver.port.write(NIC.ENABLE_CLEAR, TX_QUEUE_0);
    a.rig.raised = [];
    a.tx.send(frameOf(MAC_B, MAC_A, payload(4)));
    pass(MS);
    assert.deepEqual([a.rig.raised, a.rig.pin, a.driver.port.read(NIC.CAUSE)], [[], false, TX_QUEUE_0]);
    a.driver.port.write(NIC.ENABLE_SET, TX_QUEUE_0);
    assert.deepEqual([a.rig.raised, a.rig.pin], [[1], true]);
    a.driver.port.write(NIC.CAUSE, TX_QUEUE_0);
    assert.isFalse(a.rig.pin);
  });

  test('descriptors without IRQ are done in silence', () => {
    const { a, pass } = pair();
    a.rig.raised = [];
    a.tx.add(60, 1, frameOf(MAC_B, MAC_A, payload(46)));
    a.tx.ring();
    pass(MS);
    assert.deepEqual([a.tx.reap(), a.rig.raised], [[1], []]);
  });

  test('a reset drops what is under way and what is stored, and gives registers their first values', () => {
    const { a, b, pass } = pair();
    a.tx.send(frameOf(MAC_B, MAC_A, payload(4)));
    a.nic.reset();
    pass(MS);
    assert.deepEqual(a.tx.reap(), []);
    assert.isFalse(a.rig.pending);
    a.tx.start();
    a.driver.enable();
    a.tx.send(frameOf(MAC_B, MAC_A, payload(4)));
    pass(MS);
    b.driver.filter(0, GROUP, 1);
    b.nic.reset();
    assert.deepEqual([b.driver.port.read(NIC.FILTERS), b.driver.count('rxFrames')], [0x0200_0000, 0]);
    b.rx.start();
    b.driver.enable();
    b.rx.offer(4);
    pass(MS);
    assert.deepEqual(b.rx.receive(), []);
  });

  test('a reset from inside a transfer ends the burst there', () => {
    const { a } = pair();
    for (let i = 0; i < 3; i++) a.tx.send(frameOf(MAC_B, MAC_A, payload(4)));
    let calls = 0;
    a.rig.onDma = () => {
      if (++calls === 2) a.nic.reset();
    };
    a.rig.pass(MS);
    assert.equal(calls, 2);
    assert.equal(a.driver.count('txFrames'), 0);
    assert.equal(a.tx.register(NIC_RING.HEAD), 0);
  });

  test('saved with frames in store and descriptors waiting, it goes on where it was', () => {
    const wire = new NicWire();
    const a = host(wire, MAC_A);
    const b = host(wire, MAC_B);
    a.tx.send(frameOf(MAC_B, MAC_A, payload(100)));
    a.rig.pass(MS);
    b.tx.send(frameOf(MAC_A, MAC_B, payload(50)));
    const state = structuredClone(b.nic.save());
    const wire2 = new NicWire();
    const rig = new DeviceRig(1 << 20);
    rig.memory.set(b.rig.memory);
    rig.scheduler.now = b.rig.scheduler.now;
    const copy = new Nic(rig, rig.scheduler, { bar: 1, mac: MAC_B, queues: 2, vf: 0, wire: wire2 });
    copy.load(state);
    assert.deepEqual(copy.inspect(), b.nic.inspect());
    assert.deepEqual(rig.raised, []);
    b.rx.offer(2);
    rig.memory.set(b.rig.memory);
    copy.writeBar(1, NIC.RINGS + 0x40 + NIC_RING.TAIL, 4, b.rx.tail);
    rig.pass(MS);
    b.rig.pass(MS);
    assert.deepEqual(rig.memory, b.rig.memory);
    assert.deepEqual(copy.inspect(), b.nic.inspect());
    assert.equal(b.rx.receive().length, 1);
  });
});
