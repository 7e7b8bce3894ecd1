/** The store page of a guest from the toolstack to the daemon: granted, mapped through dom0's kernel, let go. */
import { assert, describe, test } from 'vitest';
import { body } from '#shared/core/core.ts';
import { createXenstored } from '../../../services/xenstored/core.ts';
import { Host } from './host.ts';

const RAM_MIB = 32;

function created(config: object = {}): Host {
  const host = new Host();
  assert.equal(host.create('guest1', { memoryMib: RAM_MIB, ...config }).rc, 0);
  host.runUntil(() => host.inspect('d1').booted);
  return host;
}

const ringOf = (host: Host, domid = 1) => host.inspect('xenstored').rings[domid];

test('every guest has its ring served, and one that speaks over the bus leaves it alone', () => {
  const host = created();
  assert.deepInclude(ringOf(host), { state: 'open', requestBytes: 0 });
  assert.isAbove(host.inspect('d0').storeRings[1].port, 0);
  assert.notProperty(host.inspect('d1'), 'storeRing');
});

test('a guest that was told so boots on its ring, and sends no packet over the bus', () => {
  const host = created({ cmdline: 'console=hvc0 xenstore=ring' });
  assert.isTrue(host.inspect('d1').storeRing.connected);
  assert.isAbove(ringOf(host).requestBytes, 0);
  const overBus = host.sent.filter(({ from, envelope }) => from === 'd1' && envelope.body?.$case === 'xenstoreRequest');
  assert.lengthOf(overBus, 0);
});

test('a function is attached to and detached from a guest on its ring', () => {
  const host = created({ cmdline: 'xenstore=ring' });
  assert.equal(host.assignableAdd('0000:01:00.0').rc, 0);
  assert.equal(host.attach(1, '0000:01:00.0').rc, 0);
  host.runUntil(() => host.inspect('d1').devices.some((d: { driver: string }) => d.driver !== ''));
  assert.equal(host.detach(1, '0000:01:00.0').rc, 0);
  assert.lengthOf(host.inspect('d1').devices, 0);
});

describe('at the end of a guest', () => {
  test.each(['', 'xenstore=ring'])('its page is unmapped and free again (%s)', (cmdline) => {
    const host = new Host();
    const frames = () => host.inspect('xen').frames;
    const before = frames();
    host.create('guest1', { memoryMib: RAM_MIB, cmdline });
    host.runUntil(() => host.inspect('d1').booted);
    assert.notDeepEqual(frames(), before);
    assert.equal(host.destroy(1).rc, 0);
    assert.deepEqual(frames(), before);
    assert.deepEqual(host.inspect('d0').storeRings, {});
    assert.deepEqual(host.inspect('xenstored').rings, {});
  });

  test('by a crash it is the same', () => {
    const host = created({ cmdline: 'xenstore=ring' });
    host.kill(1);
    host.runUntil(() => host.inspect('d0').domains.length === 0);
    assert.deepEqual(host.inspect('d0').storeRings, {});
    assert.deepEqual(host.inspect('xenstored').rings, {});
  });
});

test('a daemon that starts again gets the page and the port anew, and the guest sees its ring emptied', () => {
  const host = created({ cmdline: 'xenstore=ring' });
  const { port } = host.inspect('d0').storeRings[1];
  const { runtime, service } = createXenstored({ idBase: 2 ** 32 });
  service.daemon.reconnect(service.daemon.domainOf(1));
  host.add('xenstored', runtime);
  host.runUntil(() => host.inspect('d1').storeRing.restarts === 1);
  assert.equal(ringOf(host).state, 'open');
  assert.isAbove(host.inspect('d0').storeRings[1].port, 0);
  assert.equal(host.inspect('xen').domains.find((d: { domid: number }) => d.domid === 0).grantMaps, 1);
  assert.isTrue(host.inspect('d1').storeRing.connected, `dom0's port was ${port}`);
});

test("dom0's kernel does this for xenstored and for nobody else", () => {
  const host = created();
  const { port } = host.inspect('d0').storeRings[1];
  const ask = (what: object) => {
    const reply = host.begin('d0', body('storeRingRequest', { what: what as never }));
    host.runUntil(() => reply() !== undefined);
    return reply()!.refused;
  };
  assert.match(ask({ $case: 'notify', value: { port } }), /operator may not/);
});
