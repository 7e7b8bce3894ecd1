import { assert, describe, test } from 'vitest';
import { EVTCHNSTAT, SHARED_INFO } from '#shared/abi/event-channel.ts';
import { HostBench } from '../../support/host-bench.ts';

/** Where guests of this test have their shared info page. */
const GFN = 0x3_8000;
const IPA = GFN * 4096;

/** dom0 and a guest with a channel between them; the guest's GIC delivers PPI 31. */
function connected(): { host: HostBench; domid: number; ports: { dom0: number; guest: number } } {
  const host = new HostBench();
  const domid = host.guest();
  host.run(domid, ({ hypercalls }) => hypercalls.add_to_physmap('shared_info', 0, GFN));
  host.run(0, function* (k) {
    yield* k.upcalls.take(0);
    yield* k.hypercalls.add_to_physmap('shared_info', 0, 0x8_0000);
  });
  const guest = host.run(domid, ({ hypercalls }) => hypercalls.evtchn_alloc_unbound(domid, 0));
  const dom0 = host.run(0, ({ hypercalls }) => hypercalls.evtchn_bind_interdomain(domid, guest));
  return { host, domid, ports: { dom0, guest } };
}

const word = (host: HostBench, domid: number, ipa: number): number =>
  host.run(domid, function* ({ cpu }) {
    const data = yield* cpu.read(ipa, 4);
    return new DataView(data.buffer, data.byteOffset).getUint32(0, true);
  });

describe('event channels', () => {
  test('an event sets the pending bit, the selector and the upcall flag of the other side', () => {
    const { host, domid, ports } = connected();
    host.run(0, ({ hypercalls }) => hypercalls.evtchn_send(ports.dom0));
    assert.equal(word(host, domid, IPA + SHARED_INFO.evtchn_pending), 1 << ports.guest);
    assert.equal(word(host, domid, IPA + SHARED_INFO.evtchn_pending_sel), 1);
    assert.equal(word(host, domid, IPA + SHARED_INFO.evtchn_upcall_pending) & 0xff, 1);
  });

  test('a masked port stays pending and is delivered by unmask', () => {
    const { host, domid, ports } = connected();
    host.run(domid, ({ cpu }) => cpu.write(IPA + SHARED_INFO.evtchn_mask, Uint8Array.of(1 << ports.guest, 0, 0, 0)));
    host.run(0, ({ hypercalls }) => hypercalls.evtchn_send(ports.dom0));
    assert.equal(word(host, domid, IPA + SHARED_INFO.evtchn_pending), 1 << ports.guest);
    assert.equal(word(host, domid, IPA + SHARED_INFO.evtchn_pending_sel), 0);
    host.run(domid, ({ hypercalls }) => hypercalls.evtchn_unmask(ports.guest));
    assert.equal(word(host, domid, IPA + SHARED_INFO.evtchn_mask), 0);
    assert.equal(word(host, domid, IPA + SHARED_INFO.evtchn_pending_sel), 1);
  });

  test('dom0 takes one upcall of INTID 31 however often it is notified before it looks', () => {
    const { host, domid, ports } = connected();
    const before = 1;
    // Binding has set the port pending once.
    host.until(() => host.kernel(0).upcalls.length === before);
    for (let i = 0; i < 3; i++) host.run(domid, ({ hypercalls }) => hypercalls.evtchn_send(ports.guest));
    assert.equal(host.kernel(0).upcalls.length, before);
    host.run(0, ({ cpu }) => cpu.write(0x8000_0000, new Uint8Array(SHARED_INFO.evtchn_mask)));
    host.run(domid, ({ hypercalls }) => hypercalls.evtchn_send(ports.guest));
    host.until(() => host.kernel(0).upcalls.length > before);
  });

  test('closing leaves the other end unbound, where a send does nothing, and it can be bound again', () => {
    const { host, domid, ports } = connected();
    host.run(0, ({ hypercalls }) => hypercalls.evtchn_close(ports.dom0));
    const status = host.run(domid, ({ hypercalls }) => hypercalls.evtchn_status(domid, ports.guest));
    assert.deepEqual([status.status, status.remote_dom], [EVTCHNSTAT.unbound, 0]);
    host.run(domid, ({ hypercalls }) => hypercalls.evtchn_send(ports.guest));
    host.run(0, ({ hypercalls }) => hypercalls.evtchn_bind_interdomain(domid, ports.guest));
  });

  test('ports that are not the caller’s give EINVAL, an unknown domain ESRCH, another’s ports EPERM', () => {
    const { host, domid, ports } = connected();
    const third = host.guest();
    const fails = (who: number, what: RegExp, op: Parameters<HostBench['run']>[1]): void => {
      assert.throws(() => host.run(who, op), what);
    };
    fails(third, /EINVAL/, ({ hypercalls }) => hypercalls.evtchn_send(ports.guest));
    fails(third, /EINVAL/, ({ hypercalls }) => hypercalls.evtchn_close(ports.guest));
    const offered = host.run(domid, ({ hypercalls }) => hypercalls.evtchn_alloc_unbound(domid, 0));
    fails(third, /EINVAL/, ({ hypercalls }) => hypercalls.evtchn_bind_interdomain(domid, offered));
    fails(third, /ESRCH/, ({ hypercalls }) => hypercalls.evtchn_bind_interdomain(77, 1));
    fails(third, /EPERM/, ({ hypercalls }) => hypercalls.evtchn_alloc_unbound(domid, third));
    fails(third, /EPERM/, ({ hypercalls }) => hypercalls.evtchn_status(domid, ports.guest));
    fails(third, /EBUSY/, ({ hypercalls }) => hypercalls.evtchn_bind_virq(3, 0));
    fails(third, /EINVAL/, ({ hypercalls }) => hypercalls.evtchn_bind_virq(24, 0));
    fails(0, /ENOENT/, ({ hypercalls }) => hypercalls.evtchn_bind_virq(0, 5));
  });

  test('the table of a domain ends at the maximum that it was created with', () => {
    const host = new HostBench();
    const domid = host.guest({ maxEventPorts: 3 });
    const alloc = (): number => host.run(domid, ({ hypercalls }) => hypercalls.evtchn_alloc_unbound(domid, 0));
    assert.deepEqual([alloc(), alloc(), alloc()], [1, 2, 3]);
    assert.throws(alloc, /ENOSPC/);
    host.run(domid, ({ hypercalls }) => hypercalls.evtchn_close(2));
    assert.equal(alloc(), 2);
  });

  test('a domain that ends leaves its peers’ ports unbound', () => {
    const { host, domid, ports } = connected();
    host.destroy(domid);
    const status = host.run(0, ({ hypercalls }) => hypercalls.evtchn_status(0, ports.dom0));
    assert.deepEqual([status.status, status.remote_dom], [EVTCHNSTAT.unbound, domid]);
  });
});
