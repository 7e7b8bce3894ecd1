import { assert, describe, test } from 'vitest';
import { HYPERCALL } from '#shared/abi/hypercall.ts';
import { SCHEDOP, SHUTDOWN, sched_shutdown } from '#shared/abi/sched.ts';
import { body } from '#shared/core/core.ts';
import { DOORBELL, GuestBench, RAM_BASE, RAM_BYTES } from './guest.ts';

const watchdogs = (b: GuestBench): number =>
  b.machine.hypercalls.filter((c) => c.number === HYPERCALL.sched_op && c.cmd === SCHEDOP.watchdog).length;

describe('boot', () => {
  test('a guest boots without devices, with its ITS up and one collection mapped', () => {
    const b = new GuestBench().boot();
    const { state, devices, frontend } = b.inspect();
    assert.equal(state, 'booted');
    assert.deepEqual(devices, []);
    assert.equal(frontend.state, 'absent');
    assert.deepEqual(
      b.its.commands.map((c) => c.name),
      ['MAPC', 'SYNC'],
    );
  });

  test('memory is what the device tree says', () => {
    const b = new GuestBench().boot();
    const { base, sizeBytes } = b.command('memory');
    assert.deepEqual([base, sizeBytes], [RAM_BASE, RAM_BYTES]);
  });

  test('the watchdog is started again every 5 s', () => {
    const b = new GuestBench().boot();
    assert.equal(watchdogs(b), 1);
    b.world.pass(21e9);
    assert.equal(watchdogs(b), 5);
  });

  test('a second vcpu_start changes nothing', () => {
    const b = new GuestBench().boot();
    const before = b.machine.hypercalls.length;
    b.boot();
    assert.equal(b.machine.hypercalls.length, before);
  });

  test('a kernel whose device tree is none shuts down with the reason crash', () => {
    const b = new GuestBench();
    b.machine.write(RAM_BASE + 0x80_0000, new Uint8Array(64));
    b.boot();
    b.world.pass(1e9);
    assert.equal(b.inspect().state, 'panicked');
    const last = b.machine.hypercalls.at(-1)!;
    assert.deepEqual([last.number, last.cmd], [HYPERCALL.sched_op, SCHEDOP.shutdown]);
    assert.equal(sched_shutdown.decode(last.arg).reason, SHUTDOWN.crash);
  });

  test('an upcall from anybody but xen is refused, and so is a command before boot', () => {
    const b = new GuestBench();
    const upcall = body('upcallRequest', { vcpu: 0, what: { $case: 'vcpuStart', value: { x0: 0 } } });
    assert.throws(() => b.world.ask('operator', 'd1', upcall, 'upcallReply'));
    assert.throws(() => b.command('memory'));
  });
});

describe('functions and drivers', () => {
  test('a function that xenstore announces is enumerated, and its driver gets vectors through the ITS', () => {
    const b = new GuestBench().boot();
    const fn = b.attachFirst();
    const [device] = b.command('devices').functions;
    assert.equal(device.sbdf, '0000:00:00.0');
    assert.equal(device.driver, 'dma-probe');
    assert.equal(device.vectors, 4);
    assert.deepEqual(
      device.bars.map((bar: { address: number; sizeBytes: number }) => [bar.address, bar.sizeBytes]),
      [
        [0x2300_0000, 0x1000],
        [0x2300_1000, 0x1000],
      ],
    );
    assert.equal(fn.msixControl & 0xc000, 0x8000);
    assert.deepEqual(
      [0, 4, 8, 12].map((o) => fn.table.read(16 + o, 4)),
      [DOORBELL, 0, 1, 0],
    );
    assert.deepEqual(b.its.mapped, ['0:0', '0:1', '0:2', '0:3']);
  });

  test('every event is mapped before its INV, and the property byte is 0xa3 by then', () => {
    const b = new GuestBench().boot();
    b.attachFirst(3);
    const names = b.its.commands.slice(2).map((c) => c.name);
    assert.deepEqual(names, ['MAPD', ...Array(4).fill(['MAPTI', 'INV']).flat(), 'SYNC']);
    const mapd = b.its.commands[2]!;
    assert.deepEqual([mapd.name === 'MAPD' && mapd.deviceId, mapd.name === 'MAPD' && mapd.size], [3 << 3, 1]);
  });

  test('hot add finds the new function and leaves the old one alone', () => {
    const b = new GuestBench().boot();
    b.attachFirst(0);
    b.command('interrupts', { count: 3, vectors: 1 });
    b.hotAdd(5);
    assert.deepEqual(
      b.command('devices').functions.map((f: { sbdf: string }) => f.sbdf),
      ['0000:00:00.0', '0000:00:05.0'],
    );
    assert.deepEqual(b.inspect().vectors['0000:00:00.0'], [3, 0, 0, 0]);
  });

  test('hot remove unbinds the driver: MSI-X off, events discarded, LPIs and memory given back', () => {
    const b = new GuestBench().boot();
    b.attachFirst(0);
    const before = b.inspect();
    const fn = b.hotAdd(5);
    b.hotRemove(1, 5);
    const { devices, lpis, freeBytes } = b.inspect();
    assert.equal(devices.length, 1);
    assert.equal(fn.msixControl & 0x8000, 0);
    assert.equal(fn.configRead(4, 2) & 6, 0);
    assert.deepEqual([lpis, freeBytes], [before.lpis, before.freeBytes]);
    assert.deepEqual(b.its.mapped, ['0:0', '0:1', '0:2', '0:3']);
    assert.deepEqual(
      b.its.commands.slice(-6).map((c) => c.name),
      ['DISCARD', 'DISCARD', 'DISCARD', 'DISCARD', 'MAPD', 'SYNC'],
    );
  });

  test('a function can come and go any number of times', () => {
    const b = new GuestBench().boot();
    b.attachFirst(0);
    const before = b.inspect();
    for (let i = 0; i < 5; i++) {
      b.hotAdd(2);
      b.hotRemove(1 + i, 2);
    }
    const after = b.inspect();
    assert.deepEqual([after.lpis, after.freeBytes, after.grants], [before.lpis, before.freeBytes, before.grants]);
  });

  test('hot remove works when the BARs are unmapped already', () => {
    const b = new GuestBench().boot();
    b.attachFirst(0);
    b.hotAdd(5);
    b.machine.holes.add(0x2300_b).add(0x2300_a);
    b.hotRemove(1, 5);
    assert.equal(b.inspect().devices.length, 1);
    assert.equal(b.inspect().lpis, 4);
  });
});
