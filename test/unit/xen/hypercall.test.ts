import { assert, describe, test } from 'vitest';
import { GUEST_MMIO_BAR_BASE_32, GUEST_RAM0_BASE } from '#shared/abi/arch-arm.ts';
import {
  PT_IRQ_TYPE,
  XEN_DOMCTL,
  XEN_DOMCTL_BYTES,
  XEN_DOMCTL_CDF,
  XEN_DOMCTL_CONFIG_GIC_NATIVE,
  XEN_DOMCTL_CONFIG_GIC_V2,
  XEN_DOMCTL_CONFIG_GIC_V3,
  XEN_DOMCTL_INTERFACE_VERSION,
  XEN_DOMCTL_UNION_OFFSET,
  xen_domctl,
  xen_domctl_bind_pt_irq,
} from '#shared/abi/domctl.ts';
import { ERRNO, type ErrnoName, errnoName } from '#shared/abi/errno.ts';
import { HVM_PARAM } from '#shared/abi/hvm.ts';
import { DOMID_IO, HYPERCALL } from '#shared/abi/hypercall.ts';
import type { Op } from '#shared/core/op.ts';
import { HypercallFailed, type Hypercalls } from '#shared/kernel/hypercalls.ts';
import { HostBench } from '../../support/host-bench.ts';

const BAR_GFN = GUEST_MMIO_BAR_BASE_32 / 4096;
/** The bridge's 32-bit memory window. */
const WINDOW_MFN = 0x1000_0000 / 4096;
const RAM_GFN = GUEST_RAM0_BASE / 4096;
const ECAM = { base: 0x40_1000_0000, size: 0x1000_0000 };
const NIC = 0x0100;

/** The errno that a call gives, or 'OK'. */
function errnoOf(host: HostBench, domid: number, op: (h: Hypercalls) => Op<unknown>): string {
  try {
    host.run(domid, ({ hypercalls }) => op(hypercalls));
    return 'OK';
  } catch (error) {
    if (error instanceof HypercallFailed) return errnoName(error.errno);
    throw error;
  }
}

/** Calls one after another on a host with one guest: who, what, and the errno expected. */
function converse(
  rows: readonly (readonly [who: number, op: (h: Hypercalls) => Op<unknown>, ErrnoName | 'OK'])[],
): void {
  const host = new HostBench();
  assert.equal(host.guest(), 1);
  rows.forEach(([who, op, expected], i) => {
    assert.equal(errnoOf(host, who, op), expected, `row ${i}: ${op}`);
  });
}

describe('domctl', () => {
  test('is EPERM to a guest, whoever it names', () => {
    converse([
      [1, (h) => h.getdomaininfo(1), 'EPERM'],
      [1, (h) => h.getdomaininfo(0), 'EPERM'],
      [1, (h) => h.destroydomain(77), 'EPERM'],
      [1, (h) => h.memory_mapping(1, BAR_GFN, WINDOW_MFN, 1, true), 'EPERM'],
      [1, (h) => h.iomem_permission(1, WINDOW_MFN, 1, true), 'EPERM'],
      [1, (h) => h.assign_device(1, NIC), 'EPERM'],
    ]);
  });

  test('gives the errno of each mistake', () => {
    converse([
      [0, (h) => h.getdomaininfo(77), 'ESRCH'],
      [0, (h) => h.destroydomain(0), 'EINVAL'],
      [0, (h) => h.pausedomain(0), 'EINVAL'],
      [0, (h) => h.unpausedomain(1), 'EINVAL'],
      [0, (h) => h.pausedomain(1), 'OK'],
      [0, (h) => h.unpausedomain(1), 'OK'],
      [0, (h) => h.max_vcpus(1, 2), 'EINVAL'],
      [0, (h) => h.createdomain({ max_vcpus: 0 }), 'EINVAL'],
      [0, (h) => h.createdomain({ max_vcpus: 129 }), 'EINVAL'],
      [0, (h) => h.setvcpucontext(1, 1, 0, 0), 'EINVAL'],
    ]);
  });

  test('makes a domain with a GIC of the machine’s version, and with no other', () => {
    for (const [board, native, other] of [
      ['qemu-virt', XEN_DOMCTL_CONFIG_GIC_V3, XEN_DOMCTL_CONFIG_GIC_V2],
      ['virt-gicv2', XEN_DOMCTL_CONFIG_GIC_V2, XEN_DOMCTL_CONFIG_GIC_V3],
    ] as const) {
      const host = new HostBench(1, `examples/boards/${board}.yaml`);
      const create = (gic_version: number, max_vcpus: number) =>
        host.run(0, ({ hypercalls }) => hypercalls.createdomain({ gic_version, max_vcpus, flags: XEN_DOMCTL_CDF.hap }));
      assert.equal(create(XEN_DOMCTL_CONFIG_GIC_NATIVE, 1).config.gic_version, native);
      assert.equal(create(native, 8).config.gic_version, native);
      assert.throws(() => create(other, 1), HypercallFailed, 'EINVAL');
      if (native === XEN_DOMCTL_CONFIG_GIC_V3) assert.equal(create(native, 9).config.max_vcpus, 9);
      else assert.throws(() => create(native, 9), HypercallFailed, 'EINVAL');
    }
  });

  test('of another interface version is EACCES, of an unknown command ENOSYS', () => {
    const host = new HostBench();
    const raw = (header: { cmd: number; interface_version: number }, bytes = XEN_DOMCTL_BYTES): number => {
      const arg = new Uint8Array(bytes);
      xen_domctl.encodeInto(arg, header);
      return host.run(0, ({ hypercalls }) => hypercalls.raw(HYPERCALL.domctl, 0, arg)).result;
    };
    const interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    assert.equal(raw({ cmd: XEN_DOMCTL.getdomaininfo, interface_version: 0xb }), -ERRNO.EACCES);
    assert.equal(raw({ cmd: 999, interface_version }), -ERRNO.ENOSYS);
    assert.equal(raw({ cmd: XEN_DOMCTL.createdomain, interface_version }, 20), -ERRNO.EFAULT);
    const unknown = host.run(0, ({ hypercalls }) => hypercalls.raw(99, 0, new Uint8Array(0)));
    assert.equal(unknown.result, -ERRNO.ENOSYS);
    assert.equal(
      host.run(0, ({ hypercalls }) => hypercalls.raw(HYPERCALL.xen_version, 0, new Uint8Array(0))).result,
      (4 << 16) | 23,
    );
  });
});

describe('an interrupt of the machine', () => {
  /** interrupt-map of the board: SPIs 3 to 6. */
  const INTID = 37;
  const bind = (h: Hypercalls, domid: number, machine_irq: number, irq_type: number, spi: number): Op<unknown> => {
    const arg = new Uint8Array(XEN_DOMCTL_BYTES);
    const header = { cmd: XEN_DOMCTL.bind_pt_irq, interface_version: XEN_DOMCTL_INTERFACE_VERSION, domain: domid };
    xen_domctl.encodeInto(arg, header);
    xen_domctl_bind_pt_irq.encodeInto(arg, { machine_irq, irq_type, spi }, XEN_DOMCTL_UNION_OFFSET);
    return (function* () {
      const { result } = yield* h.raw(HYPERCALL.domctl, 0, arg);
      if (result < 0) throw new HypercallFailed('bind_pt_irq', -result);
    })();
  };

  test('is granted by who holds it', () => {
    converse([
      [1, (h) => h.irq_permission(1, INTID, true), 'EPERM'],
      [0, (h) => h.irq_permission(77, INTID, true), 'ESRCH'],
      [0, (h) => h.irq_permission(1, 5000, true), 'EINVAL'],
      [0, (h) => h.irq_permission(1, 99, true), 'EPERM'],
      [0, (h) => h.irq_permission(1, INTID, true), 'OK'],
      [0, (h) => h.irq_permission(1, INTID, false), 'OK'],
    ]);
  });

  test('is bound as an SPI, under its own number, to one domain with the right to it', () => {
    converse([
      [1, (h) => h.bind_pt_irq(1, INTID), 'EPERM'],
      [0, (h) => bind(h, 1, INTID, PT_IRQ_TYPE.PCI, INTID), 'EOPNOTSUPP'],
      [0, (h) => bind(h, 1, INTID, PT_IRQ_TYPE.SPI, INTID + 1), 'EINVAL'],
      [0, (h) => h.bind_pt_irq(1, 31), 'EINVAL'],
      [0, (h) => h.bind_pt_irq(1, 1020), 'EINVAL'],
      [0, (h) => h.bind_pt_irq(1, 99), 'EPERM'],
      [0, (h) => h.bind_pt_irq(1, INTID), 'EPERM'],
      [0, (h) => h.irq_permission(1, INTID, true), 'OK'],
      [0, (h) => h.bind_pt_irq(1, INTID), 'OK'],
      [0, (h) => h.bind_pt_irq(1, INTID), 'EBUSY'],
      [1, (h) => h.unbind_pt_irq(1, INTID), 'EPERM'],
      [0, (h) => h.unbind_pt_irq(1, INTID), 'OK'],
      [0, (h) => h.unbind_pt_irq(1, INTID), 'EINVAL'],
    ]);
  });

  test('is EBUSY while another has it, and free when that one ends; a domain has 988 SPIs at most', () => {
    const host = new HostBench();
    const first = host.guest();
    const second = host.guest();
    const attempt = (domid: number): string =>
      errnoOf(host, 0, function* (h) {
        yield* h.irq_permission(domid, INTID, true);
        yield* h.bind_pt_irq(domid, INTID);
      });
    assert.equal(attempt(first), 'OK');
    assert.equal(attempt(second), 'EBUSY');
    assert.deepEqual(
      host.xen().irqs.map((i: { intid: number; domid: number }) => [i.intid, i.domid]),
      [[INTID, first]],
    );
    host.destroy(first);
    assert.deepEqual(host.xen().irqs, []);
    assert.equal(attempt(second), 'OK');
    assert.equal(
      errnoOf(host, 0, (h) => h.createdomain({ max_vcpus: 1, nr_spis: 989 })),
      'EINVAL',
    );
  });
});

describe('device memory', () => {
  test('is mapped only where both hold the frames, at most 64 at once, and revoking does not unmap', () => {
    converse([
      [0, (h) => h.memory_mapping(1, BAR_GFN, WINDOW_MFN, 4, true), 'EPERM'],
      [0, (h) => h.iomem_permission(1, 0x0800_0000 / 4096, 16, true), 'EPERM'],
      [0, (h) => h.iomem_permission(1, WINDOW_MFN, 4, true), 'OK'],
      [0, (h) => h.memory_mapping(1, BAR_GFN, WINDOW_MFN, 5, true), 'EPERM'],
      [0, (h) => h.memory_mapping(1, BAR_GFN, WINDOW_MFN, 4, true), 'OK'],
      [0, (h) => h.memory_mapping(1, BAR_GFN, WINDOW_MFN, 65, true), 'E2BIG'],
      [0, (h) => h.memory_mapping(1, 2 ** 28 - 1, WINDOW_MFN, 2, true), 'EINVAL'],
      [0, (h) => h.iomem_permission(1, WINDOW_MFN, 4, false), 'OK'],
      [0, (h) => h.memory_mapping(1, BAR_GFN, WINDOW_MFN, 4, false), 'EPERM'],
      [1, (h) => h.remove_from_physmap(BAR_GFN + 3), 'OK'],
      [1, (h) => h.remove_from_physmap(BAR_GFN + 3), 'EINVAL'],
    ]);
  });

  test('that was unmapped is out of reach when the call returns', () => {
    const host = new HostBench();
    const domid = host.guest();
    host.run(0, function* ({ hypercalls }) {
      yield* hypercalls.iomem_permission(domid, WINDOW_MFN, 1, true);
      yield* hypercalls.memory_mapping(domid, BAR_GFN, WINDOW_MFN, 1, true);
    });
    const read = (): Uint8Array => host.run(domid, ({ cpu }) => cpu.read(BAR_GFN * 4096, 4));
    assert.deepEqual([...read()], [0xff, 0xff, 0xff, 0xff]);
    host.run(0, ({ hypercalls }) => hypercalls.memory_mapping(domid, BAR_GFN, WINDOW_MFN, 1, false));
    assert.throws(read);
  });
});

describe('memory', () => {
  test('a guest may not touch another’s, nor ask for more than its maximum', () => {
    const host = new HostBench();
    const domid = host.guest();
    assert.equal(
      errnoOf(host, domid, (h) => h.populate_physmap(0, [0x5_0000], 0)),
      'EPERM',
    );
    assert.equal(
      errnoOf(host, domid, (h) => h.map_foreign(0, [RAM_GFN], [0x5_0000])),
      'EPERM',
    );
    assert.equal(
      host.run(0, ({ hypercalls }) => hypercalls.populate_physmap(domid, [0x5_0000], 0)),
      0,
    );
    host.run(0, ({ hypercalls }) => hypercalls.max_mem(domid, 4 * 1024 + 8));
    assert.equal(
      host.run(0, ({ hypercalls }) => hypercalls.populate_physmap(domid, [0x5_0000, 0x5_0001, 0x5_0002], 0)),
      2,
    );
  });

  test('dom0 writes a guest’s memory through a foreign mapping, which outlives the guest', () => {
    const host = new HostBench();
    const at = 0x8200_0000;
    const domid = host.guest();
    const free = host.xen().frames.free;
    host.run(0, function* ({ hypercalls, cpu }) {
      yield* hypercalls.map_foreign(domid, [RAM_GFN + 3], [at / 4096]);
      yield* cpu.write(at + 8, Uint8Array.of(9, 8, 7, 6));
    });
    assert.deepEqual([...host.run(domid, ({ cpu }) => cpu.read(GUEST_RAM0_BASE + 3 * 4096 + 8, 4))], [9, 8, 7, 6]);
    assert.equal(
      errnoOf(host, 0, (h) => h.map_foreign(domid, [0x5_5555], [at / 4096 + 1])),
      'EINVAL',
    );
    host.destroy(domid);
    assert.deepEqual([...host.run(0, ({ cpu }) => cpu.read(at + 8, 4))], [9, 8, 7, 6]);
    const held = host.xen().frames.free;
    host.run(0, ({ hypercalls }) => hypercalls.remove_from_physmap(at / 4096));
    assert.isAbove(host.xen().frames.free, held);
    assert.isAbove(host.xen().frames.free, free);
    assert.throws(() => host.run(0, ({ cpu }) => cpu.read(at + 8, 4)));
  });

  test('a page of Xen stands at one place', () => {
    converse([
      [1, (h) => h.add_to_physmap('shared_info', 1, 0x3_8000), 'EINVAL'],
      [1, (h) => h.add_to_physmap('shared_info', 0, 0x3_8000), 'OK'],
      [1, (h) => h.add_to_physmap('shared_info', 0, 0x3_8000), 'OK'],
      [1, (h) => h.add_to_physmap('shared_info', 0, 0x3_8001), 'EBUSY'],
      [1, (h) => h.remove_from_physmap(0x3_8000), 'OK'],
      [1, (h) => h.add_to_physmap('shared_info', 0, 0x3_8001), 'OK'],
      [1, (h) => h.add_to_physmap('grant_table', 64, 0x3_8002), 'EINVAL'],
      [1, (h) => h.add_to_physmap('gmfn_foreign', 0, 0x3_8002), 'ENOSYS'],
      [1, (h) => h.add_to_physmap('dev_mmio', WINDOW_MFN, 0x3_8002), 'EOPNOTSUPP'],
    ]);
  });
});

describe('parameters', () => {
  test('a guest reads its own and sets none', () => {
    converse([
      [0, (h) => h.hvm_set_param(1, HVM_PARAM.STORE_EVTCHN, 7), 'OK'],
      [1, (h) => h.hvm_get_param(HVM_PARAM.STORE_EVTCHN), 'OK'],
      [1, (h) => h.hvm_set_param(1, HVM_PARAM.STORE_EVTCHN, 8), 'EPERM'],
      [1, (h) => h.hvm_get_param(HVM_PARAM.STORE_EVTCHN, 0), 'EPERM'],
      [0, (h) => h.hvm_get_param(99, 1), 'EINVAL'],
    ]);
  });
});

describe('devices', () => {
  test('dom0 reports them, and a holder is never taken for another', () => {
    converse([
      [0, (h) => h.pci_device_add(NIC), 'ENODEV'],
      [1, (h) => h.pci_host_bridge_add(0, ECAM.base, ECAM.size), 'EPERM'],
      [0, (h) => h.pci_host_bridge_add(0, 0x1234_0000, ECAM.size), 'ENODEV'],
      [0, (h) => h.pci_host_bridge_add(0, ECAM.base, ECAM.size), 'OK'],
      [1, (h) => h.pci_device_add(NIC), 'EPERM'],
      [0, (h) => h.pci_device_add(NIC), 'OK'],
      [0, (h) => h.test_assign_device(1, NIC), 'OK'],
      [0, (h) => h.test_assign_device(1, 0x200), 'EINVAL'],
      [0, (h) => h.assign_device(1, 0x200), 'ENODEV'],
      [0, (h) => h.assign_device(0, NIC), 'EINVAL'],
      [0, (h) => h.deassign_device(1, NIC), 'ENODEV'],
      [0, (h) => h.assign_device(DOMID_IO, NIC), 'OK'],
      [0, (h) => h.assign_device(1, NIC, 0x18), 'OK'],
      [0, (h) => h.assign_device(1, NIC, 0x18), 'EBUSY'],
      [0, (h) => h.test_assign_device(1, NIC), 'EINVAL'],
      [0, (h) => h.pci_device_reset(NIC, 4), 'EINVAL'],
      [0, (h) => h.pci_device_reset(NIC, 3), 'OK'],
      [0, (h) => h.deassign_device(1, NIC), 'OK'],
      [0, (h) => h.deassign_device(DOMID_IO, NIC), 'OK'],
    ]);
  });

  test('a domain that ends leaves its device in quarantine and its stream aborted', () => {
    const host = new HostBench();
    const before = host.xen();
    const domid = host.guest();
    host.run(0, function* ({ hypercalls }) {
      yield* hypercalls.pci_host_bridge_add(0, ECAM.base, ECAM.size);
      yield* hypercalls.pci_device_add(NIC);
      yield* hypercalls.assign_device(DOMID_IO, NIC);
      yield* hypercalls.assign_device(domid, NIC, 0x18);
    });
    const streams = host.xen().smmu.streams;
    assert.equal(host.xen().devices[0].owner, domid);
    assert.equal(host.domain(domid).pdevs, 1);
    host.destroy(domid);
    const after = host.xen();
    assert.equal(after.devices[0].owner, DOMID_IO);
    assert.notDeepEqual(after.smmu.streams, streams);
    assert.deepEqual(
      after.domains.map((d: { p2mEntries: number }) => d.p2mEntries),
      before.domains.map((d: { p2mEntries: number }) => d.p2mEntries),
    );
  });
});
