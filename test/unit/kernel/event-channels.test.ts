import { assert, test } from 'vitest';
import { EVTCHNOP, SHARED_INFO } from '#shared/abi/event-channel.ts';
import { type Op, sleep } from '#shared/core/op.ts';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import { EventChannels } from '#shared/kernel/event-channels.ts';
import { Hypercalls } from '#shared/kernel/hypercalls.ts';
import { BareKernel, GuestMachine } from '../domu/machine.ts';

const SHARED_INFO_IPA = 0x38ff_f000;

function bench() {
  const machine = new GuestMachine();
  machine.sharedInfo = SHARED_INFO_IPA;
  const kernel = new BareKernel(machine);
  const events = new EventChannels(new CpuBus(), new Hypercalls(), SHARED_INFO_IPA);
  const served: number[] = [];
  const listen = (...ports: number[]): void => {
    for (const p of ports) events.bind(p, () => void served.push(p));
  };
  return { machine, kernel, events, served, listen };
}

test('an upcall serves every pending port once, lowest first, in two CPU messages', () => {
  const { machine, kernel, events, served, listen } = bench();
  listen(3, 35, 64, 4095);
  for (const port of [4095, 64, 35, 3]) machine.sendTo(port);
  kernel.run(events.onUpcall());
  assert.deepEqual(served, [3, 35, 64, 4095]);
  assert.equal(machine.cpuBatches.length, 2);
  kernel.run(events.onUpcall());
  assert.deepEqual(served, [3, 35, 64, 4095]);
});

test('the upcall is no longer pending once it was served, so the next event raises it again', () => {
  const { machine, kernel, events, listen } = bench();
  let upcalls = 0;
  machine.onUpcall = () => upcalls++;
  listen(5);
  machine.sendTo(5);
  machine.sendTo(5);
  assert.equal(upcalls, 1);
  kernel.run(events.onUpcall());
  assert.equal(machine.read(SHARED_INFO_IPA + SHARED_INFO.evtchn_upcall_pending, 1)[0], 0);
  machine.sendTo(5);
  assert.equal(upcalls, 2);
});

test('a masked port stays pending and is served when it is unmasked', () => {
  const { machine, kernel, events, served, listen } = bench();
  listen(9, 10);
  machine.sendTo(9);
  machine.sendTo(10);
  kernel.run(events.mask(9));
  kernel.run(events.onUpcall());
  assert.deepEqual(served, [10]);
  kernel.run(events.unmask(9));
  kernel.run(events.onUpcall());
  assert.deepEqual(served, [10, 9]);
});

test('an event that comes before its port is bound is served by the binding', () => {
  const { machine, kernel, events, served, listen } = bench();
  machine.sendTo(7);
  kernel.run(events.onUpcall());
  assert.deepEqual(served, []);
  listen(7);
  assert.deepEqual(served, [7]);
});

test('handlers of upcalls that overlap run one after another', () => {
  const { machine, kernel, events } = bench();
  const steps: string[] = [];
  const slow = (name: string) =>
    function* (): Op<void> {
      steps.push(`${name} in`);
      yield* sleep(1e6);
      steps.push(`${name} out`);
    };
  events.bind(1, slow('a'));
  events.bind(2, slow('b'));
  machine.sendTo(1);
  kernel.runtime.spawn('first', events.onUpcall());
  machine.sendTo(2);
  kernel.run(events.onUpcall());
  assert.deepEqual(steps, ['a in', 'a out', 'b in', 'b out']);
});

test('closing a port drops its pending event and tells Xen', () => {
  const { machine, kernel, events, served, listen } = bench();
  const port = kernel.run(events.allocUnbound(0));
  listen(port);
  machine.sendTo(port);
  kernel.run(events.close(port));
  kernel.run(events.onUpcall());
  assert.deepEqual(served, []);
  assert.equal(machine.hypercalls.at(-1)?.cmd, EVTCHNOP.close);
  listen(port);
  assert.deepEqual(served, []);
});
