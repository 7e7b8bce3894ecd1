import { assert, describe, test } from 'vitest';
import { GUEST_GICV3_GICD_BASE, GUEST_RAM0_BASE } from '#shared/abi/arch-arm.ts';
import { XEN_DOMINF, XEN_DOMINF_shutdownshift } from '#shared/abi/domctl.ts';
import { VIRQ_DOM_EXC } from '#shared/abi/hypercall.ts';
import { SHUTDOWN } from '#shared/abi/sched.ts';
import { decodeGicdTyper, GICD_TYPER } from '#shared/arch/gic/distributor.ts';
import { call } from '#shared/core/op.ts';
import { parseFdt } from '#shared/fdt/blob.ts';
import { HostBench } from '../../support/host-bench.ts';

const SHARED_INFO_GFN = 0x3_8000;
const MIB = 2 ** 20;

describe('boot', () => {
  const host = new HostBench();
  const start = host.run(0, (k) => k.upcalls.take(0));
  const x0 = start.what?.$case === 'vcpuStart' ? start.what.value.x0 : 0;
  const tree = parseFdt(host.run(0, (k) => k.cpu.read(x0, 0x4000)));

  test('dom0 boots from a tree with its memory, one CPU and the bridge, and without SMMU, its ITS disabled', () => {
    const memory = [...tree.walk()].find((n) => n.string('device_type') === 'memory');
    assert.equal(memory?.reg()[0]?.sizeBytes, 128 * MIB);
    assert.equal(tree.find('/cpus')?.children.length, 1);
    const bridge = tree.compatibleNodes('pci-host-ecam-generic')[0]!;
    assert.equal(bridge.u32('linux,pci-domain'), 0);
    for (const name of ['iommu-map', 'iommu-map-mask']) assert.isFalse(bridge.has(name), name);
    assert.deepEqual(tree.compatibleNodes('arm,gic-v3-its', 'arm,smmu-v3', 'arm,pl011'), []);
  });

  test('/hypervisor offers address space that holds nothing', () => {
    const node = tree.compatibleNodes('xen,xen')[0]!;
    assert.deepEqual(node.cells('interrupts'), [1, 15, 0xf08]);
    assert.deepEqual(
      node.reg().map((r) => [r.address, r.sizeBytes]),
      [
        [0x8000_0000, 16 * MIB],
        [0x8100_0000, 256 * MIB],
      ],
    );
  });

  test('dom0 reaches configuration space 1:1, and neither GIC nor SMMU', () => {
    const id = host.run(0, (k) => k.cpu.read(0x40_1000_0000, 4));
    assert.deepEqual([...id], [0x36, 0x1b, 0x08, 0x00]);
    assert.throws(() => host.run(0, (k) => k.cpu.read(0x0800_0000, 4)));
    assert.throws(() => host.run(0, (k) => k.cpu.read(0x0905_0000, 4)));
  });
});

describe('the life of a domain', () => {
  test('after destroy everything that it had is back', () => {
    const host = new HostBench();
    const before = host.xen();
    const domid = host.guest({ memoryMib: 16 });
    host.run(domid, function* ({ hypercalls }) {
      yield* hypercalls.add_to_physmap('shared_info', 0, SHARED_INFO_GFN);
      yield* hypercalls.add_to_physmap('grant_table', 3, SHARED_INFO_GFN + 1);
      yield* hypercalls.evtchn_alloc_unbound(domid, 0);
      yield* hypercalls.remove_from_physmap(GUEST_RAM0_BASE / 4096 + 77);
    });
    assert.isBelow(host.xen().frames.free, before.frames.free);
    host.destroy(domid);
    const after = host.xen();
    assert.deepEqual(after.frames, before.frames);
    assert.deepEqual(after.domains, before.domains);
  });

  test('memory is zero for the next domain that gets it', () => {
    const host = new HostBench();
    const first = host.guest();
    host.run(first, ({ cpu }) => cpu.write(GUEST_RAM0_BASE + 0x1234, new Uint8Array(5000).fill(0x5a)));
    host.destroy(first);
    const second = host.guest();
    const all = host.run(second, ({ cpu }) => cpu.read(GUEST_RAM0_BASE, MIB));
    assert.isTrue(all.every((byte) => byte === 0));
    assert.isAbove(second, first);
  });

  test('a guest whose process dies is a crashed domain, and dom0 hears of it', () => {
    const host = new HostBench();
    const port = host.run(0, function* ({ hypercalls, upcalls }) {
      yield* upcalls.take(0);
      return yield* hypercalls.evtchn_bind_virq(VIRQ_DOM_EXC, 0);
    });
    assert.isAbove(port, 0);
    const domid = host.guest();
    host.world.remove(`d${domid}`);
    host.connection(domid, false);
    host.until(() => host.kernel(0).upcalls.length > 0);
    const info = host.run(0, ({ hypercalls }) => hypercalls.getdomaininfo(domid));
    assert.equal(info.flags & XEN_DOMINF.shutdown, XEN_DOMINF.shutdown);
    assert.equal((info.flags >>> XEN_DOMINF_shutdownshift) & 0xff, SHUTDOWN.crash);
    const upcall = host.run(0, (k) => k.upcalls.take(0));
    assert.deepEqual(upcall.what?.$case === 'interrupts' ? upcall.what.value.intids : [], [31]);
  });

  test('a watchdog that is not fed shuts its domain down, and its CPU does nothing more', () => {
    const host = new HostBench();
    const domid = host.guest();
    const id = host.run(domid, ({ hypercalls }) => hypercalls.sched_watchdog(0, 30));
    host.run(domid, ({ hypercalls }) => hypercalls.sched_watchdog(id, 30));
    host.until(() => host.domain(domid).shutdown !== null);
    assert.equal(host.domain(domid).shutdown, SHUTDOWN.watchdog);
    assert.throws(() => host.run(domid, ({ cpu }) => cpu.read(GUEST_RAM0_BASE, 4)));
    assert.throws(() => host.run(domid, ({ hypercalls }) => hypercalls.evtchn_alloc_unbound(0, 0)), /does not run/);
  });

  test('a paused domain gets its hypercall answered when it goes on', () => {
    const host = new HostBench();
    const domid = host.guest();
    host.run(0, ({ hypercalls }) => hypercalls.pausedomain(domid));
    let answered = false;
    const kernel = host.kernel(domid);
    kernel.job = () => {
      kernel.job = undefined;
      kernel.runtime.spawn('test', kernel.hypercalls.evtchn_alloc_unbound(domid, 0), () => {
        answered = true;
      });
    };
    host.poke(domid);
    host.run(0, ({ hypercalls }) => hypercalls.getdomaininfo(domid));
    host.run(0, ({ hypercalls }) => hypercalls.getdomaininfo(domid));
    assert.isFalse(answered);
    host.run(0, ({ hypercalls }) => hypercalls.unpausedomain(domid));
    host.until(() => answered);
  });

  test('dom0 comes back to the device tree, without the ports it had, and guests keep their memory', () => {
    const host = new HostBench();
    const domid = host.guest();
    const port = host.run(0, ({ hypercalls }) => hypercalls.evtchn_alloc_unbound(domid, 0));
    host.run(domid, ({ cpu }) => cpu.write(GUEST_RAM0_BASE, Uint8Array.of(1, 2, 3, 4)));
    const own = host.run(0, function* ({ hypercalls }) {
      return yield* hypercalls.evtchn_bind_interdomain(domid, port);
    });
    assert.isAbove(own, 0);
    host.world.remove('d0');
    host.connection(0, false);
    host.until(() => host.domain(0).shutdown !== null && host.domain(0).ports === 0);
    const again = host.start(0, 2 ** 32);
    host.connection(0, true);
    host.until(() => again.upcalls.length > 0);
    const first = host.run(0, (k) => k.upcalls.take(0));
    assert.equal(first.what?.$case, 'vcpuStart');
    const status = host.run(domid, ({ hypercalls }) => hypercalls.evtchn_status(domid, port));
    assert.deepEqual([status.status, status.remote_dom], [1, 0]);
    assert.deepEqual([...host.run(domid, ({ cpu }) => cpu.read(GUEST_RAM0_BASE, 4))], [1, 2, 3, 4]);
  });
});

describe('who may ask', () => {
  test('only the machine reports traps and interrupts, only the broker connections', () => {
    const host = new HostBench();
    const domid = host.guest();
    for (const message of [
      { $case: 'trapRequest' as const, value: { port: 0, vcpu: 0, esrEl2: 0, ipa: 0, data: new Uint8Array(0) } },
      { $case: 'interruptPending' as const, value: { pcpu: 0 } },
      { $case: 'domainConnection' as const, value: { domid: 0, connected: false } },
      { $case: 'inspectRequest' as const, value: { path: '' } },
    ]) {
      assert.throws(
        () => host.run(domid, () => call('xen', message, 'inspectReply')),
        `d${domid} may not send ${message.$case}`,
      );
    }
    assert.isNull(host.domain(0).shutdown);
  });
});

describe('traps', () => {
  test('a read of the distributor is emulated, one of nothing aborts', () => {
    const host = new HostBench();
    const domid = host.guest();
    const typer = host.run(domid, ({ cpu }) => cpu.read(GUEST_GICV3_GICD_BASE + GICD_TYPER, 4));
    assert.isTrue(decodeGicdTyper(new DataView(typer.buffer, typer.byteOffset).getUint32(0, true)).lpis);
    assert.throws(() => host.run(domid, ({ cpu }) => cpu.read(0x1000, 4)));
    assert.deepEqual(host.xen().counts.traps, { read: 1, abort: 1 });
  });
});
