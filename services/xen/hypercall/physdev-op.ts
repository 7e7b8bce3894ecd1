/**
 * HYPERVISOR_physdev_op: what dom0 found on its buses (xen/drivers/pci/physdev.c), and which segment number it gave to
 * which bridge (T3).
 * Not modelled: map_mmio, unmap_mmio and map_sbdf of the policy `identity`; ENOSYS.
 */
import {
  PHYSDEVOP,
  physdev_pci_device,
  physdev_pci_device_add,
  physdev_pci_device_reset,
  physdev_pci_host_bridge_add,
  XEN_PCI_DEV,
} from '#shared/abi/physdev.ts';
import type { Op } from '#shared/core/op.ts';
import { type Sbdf, sbdf } from '#shared/ids/sbdf.ts';
import type { Domain } from '../domain/domain.ts';
import { check, XenError } from '../error.ts';
import { needPrivilege, type XenParts } from './context.ts';

export function* physdevOp(xen: XenParts, caller: Domain, cmd: number, arg: Uint8Array): Op<number> {
  switch (cmd) {
    case PHYSDEVOP.pci_host_bridge_add: {
      needPrivilege(caller, 'pci_host_bridge_add');
      const { seg, cfg_base, cfg_size } = physdev_pci_host_bridge_add.decode(arg);
      xen.hostBridges.bind(seg, cfg_base, cfg_size);
      return 0;
    }
    case PHYSDEVOP.pci_device_add: {
      needPrivilege(caller, 'pci_device_add');
      // optarr is there only when XEN_PCI_DEV_PXM is set; a shorter structure is complete without it.
      const whole = new Uint8Array(physdev_pci_device_add.size);
      check(arg.length >= physdev_pci_device_add.offsets.optarr, 'EFAULT', 'the argument is too short');
      whole.set(arg.subarray(0, whole.length));
      const a = physdev_pci_device_add.decode(whole);
      const isVirtfn = (a.flags & XEN_PCI_DEV.virtfn) !== 0;
      yield* xen.pciDevices.add(
        address(a.seg, a.bus, a.devfn),
        isVirtfn ? address(a.seg, a.physfn_bus, a.physfn_devfn) : undefined,
      );
      return 0;
    }
    case PHYSDEVOP.pci_device_remove: {
      needPrivilege(caller, 'pci_device_remove');
      const { seg, bus, devfn } = physdev_pci_device.decode(arg);
      yield* xen.pciDevices.remove(address(seg, bus, devfn));
      return 0;
    }
    case PHYSDEVOP.pci_device_reset: {
      needPrivilege(caller, 'pci_device_reset');
      const { seg, bus, devfn, flags } = physdev_pci_device_reset.decode(arg);
      xen.pciDevices.reset(address(seg, bus, devfn), flags);
      return 0;
    }
    default:
      throw new XenError('ENOSYS', `physdev_op ${cmd}`);
  }
}

function address(segment: number, bus: number, devfn: number): Sbdf {
  return sbdf(segment, bus, devfn >>> 3, devfn & 7);
}
