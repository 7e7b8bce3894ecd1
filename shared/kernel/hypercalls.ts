/**
 * Hypercalls as a kernel or the toolstack makes them: one function a call, the argument structure of Xen's public
 * header packed and unpacked. A negative result is thrown as HypercallFailed.
 */
import {
  DPCI_ADD_MAPPING,
  DPCI_REMOVE_MAPPING,
  GUEST_SBDF_NONE,
  PT_IRQ_TYPE,
  XEN_DOMCTL,
  XEN_DOMCTL_BYTES,
  XEN_DOMCTL_DEV_PCI,
  XEN_DOMCTL_INTERFACE_VERSION,
  XEN_DOMCTL_UNION_OFFSET,
  xen_domctl,
  xen_domctl_assign_device,
  xen_domctl_bind_pt_irq,
  xen_domctl_createdomain,
  xen_domctl_getdomaininfo,
  xen_domctl_iomem_permission,
  xen_domctl_irq_permission,
  xen_domctl_max_mem,
  xen_domctl_max_vcpus,
  xen_domctl_memory_mapping,
  xen_domctl_vcpucontext,
} from '../abi/domctl.ts';
import { ERRNO, errnoName } from '../abi/errno.ts';
import {
  EVTCHNOP,
  evtchn_alloc_unbound,
  evtchn_bind_interdomain,
  evtchn_bind_virq,
  evtchn_port_arg,
  evtchn_status,
} from '../abi/event-channel.ts';
import { GNTMAP, GNTTABOP, gnttab_map_grant_ref, gnttab_unmap_grant_ref } from '../abi/grant-table.ts';
import { HVMOP, xen_hvm_param } from '../abi/hvm.ts';
import { DOMID_SELF, HYPERCALL } from '../abi/hypercall.ts';
import type { CStruct } from '../abi/layout.ts';
import {
  XENMAPSPACE,
  XENMEM,
  xen_add_to_physmap,
  xen_add_to_physmap_batch,
  xen_memory_reservation,
  xen_remove_from_physmap,
} from '../abi/memory.ts';
import {
  PHYSDEVOP,
  physdev_pci_device,
  physdev_pci_device_add,
  physdev_pci_device_reset,
  physdev_pci_host_bridge_add,
} from '../abi/physdev.ts';
import { SCHEDOP, sched_shutdown, sched_watchdog } from '../abi/sched.ts';
import { body } from '../core/core.ts';
import { call, type Op } from '../core/op.ts';
import { busOf, devfnOf, type Sbdf, segmentOf } from '../ids/sbdf.ts';

/** A hypercall that Xen answered with a negative errno. */
export class HypercallFailed extends Error {
  override name = 'HypercallFailed';
  /** Positive. */
  readonly errno: number;

  constructor(name: string, errno: number) {
    super(`${name}: ${errnoName(errno)}`);
    this.errno = errno;
  }
}

export type CreateDomain = Parameters<typeof xen_domctl_createdomain.encode>[0];
type DomainSettings = ReturnType<typeof xen_domctl_createdomain.decode>;
export type DomainInfo = ReturnType<typeof xen_domctl_getdomaininfo.decode>;

export class Hypercalls {
  /** The raw call; gives x0 and the argument as Xen left it. Does not throw for a negative result. */
  *raw(number: number, cmd: number, arg: Uint8Array): Op<{ result: number; arg: Uint8Array }> {
    return yield* call('xen', body('hypercallRequest', { number, cmd, arg }), 'hypercallReply');
  }

  *#do(name: string, number: number, cmd: number, arg: Uint8Array): Op<{ result: number; arg: Uint8Array }> {
    const reply = yield* this.raw(number, cmd, arg);
    if (reply.result < 0) throw new HypercallFailed(name, -reply.result);
    return reply;
  }

  *#domctl<T>(
    name: keyof typeof XEN_DOMCTL,
    domid: number,
    type?: CStruct<T>,
    value?: Partial<T>,
  ): Op<{ result: number; domid: number; arg: Uint8Array }> {
    const arg = new Uint8Array(XEN_DOMCTL_BYTES);
    xen_domctl.encodeInto(arg, {
      cmd: XEN_DOMCTL[name],
      interface_version: XEN_DOMCTL_INTERFACE_VERSION,
      domain: domid,
    });
    if (type !== undefined && value !== undefined) type.encodeInto(arg, value, XEN_DOMCTL_UNION_OFFSET);
    const reply = yield* this.#do(`XEN_DOMCTL_${name}`, HYPERCALL.domctl, 0, arg);
    return { ...reply, domid: xen_domctl.decode(reply.arg).domain };
  }

  // Domains (xen/include/public/domctl.h)

  /** Creates a domain with a domid that Xen chooses, and gives it with the configuration as Xen has filled it in. */
  *createdomain(config: CreateDomain): Op<{ readonly domid: number; readonly config: DomainSettings }> {
    const { domid, arg } = yield* this.#domctl('createdomain', 0, xen_domctl_createdomain, config);
    return { domid, config: xen_domctl_createdomain.decode(arg, XEN_DOMCTL_UNION_OFFSET) };
  }

  *destroydomain(domid: number): Op<void> {
    yield* this.#domctl('destroydomain', domid);
  }

  *pausedomain(domid: number): Op<void> {
    yield* this.#domctl('pausedomain', domid);
  }

  *unpausedomain(domid: number): Op<void> {
    yield* this.#domctl('unpausedomain', domid);
  }

  *getdomaininfo(domid: number): Op<DomainInfo> {
    const { arg } = yield* this.#domctl('getdomaininfo', domid, xen_domctl_getdomaininfo, { domain: domid });
    return xen_domctl_getdomaininfo.decode(arg, XEN_DOMCTL_UNION_OFFSET);
  }

  *max_mem(domid: number, maxKib: number): Op<void> {
    yield* this.#domctl('max_mem', domid, xen_domctl_max_mem, { max_memkb: maxKib });
  }

  *max_vcpus(domid: number, max: number): Op<void> {
    yield* this.#domctl('max_vcpus', domid, xen_domctl_max_vcpus, { max });
  }

  *setvcpucontext(domid: number, vcpu: number, pc: number, x0: number): Op<void> {
    yield* this.#domctl('setvcpucontext', domid, xen_domctl_vcpucontext, { vcpu, pc, x0 });
  }

  *iomem_permission(domid: number, firstMfn: number, frames: number, allow: boolean): Op<void> {
    const value = { first_mfn: firstMfn, nr_mfns: frames, allow_access: allow ? 1 : 0 };
    yield* this.#domctl('iomem_permission', domid, xen_domctl_iomem_permission, value);
  }

  *irq_permission(domid: number, pirq: number, allow: boolean): Op<void> {
    const value = { pirq, allow_access: allow ? 1 : 0 };
    yield* this.#domctl('irq_permission', domid, xen_domctl_irq_permission, value);
  }

  /** Leads an SPI of the machine to the domain, under its own number (xc_domain_bind_pt_spi_irq). */
  *bind_pt_irq(domid: number, intid: number): Op<void> {
    yield* this.#domctl('bind_pt_irq', domid, xen_domctl_bind_pt_irq, spiArgument(intid));
  }

  *unbind_pt_irq(domid: number, intid: number): Op<void> {
    yield* this.#domctl('unbind_pt_irq', domid, xen_domctl_bind_pt_irq, spiArgument(intid));
  }

  /** At most MEMORY_MAPPING_MAX_FRAMES frames. */
  *memory_mapping(domid: number, firstGfn: number, firstMfn: number, frames: number, add: boolean): Op<void> {
    const add_mapping = add ? DPCI_ADD_MAPPING : DPCI_REMOVE_MAPPING;
    const value = { first_gfn: firstGfn, first_mfn: firstMfn, nr_mfns: frames, add_mapping };
    yield* this.#domctl('memory_mapping', domid, xen_domctl_memory_mapping, value);
  }

  *assign_device(domid: number, machineSbdf: Sbdf, guestSbdf: Sbdf = GUEST_SBDF_NONE, flags = 0): Op<void> {
    const value = { dev: XEN_DOMCTL_DEV_PCI, flags, machine_sbdf: machineSbdf, guest_sbdf: guestSbdf };
    yield* this.#domctl('assign_device', domid, xen_domctl_assign_device, value);
  }

  *test_assign_device(domid: number, machineSbdf: Sbdf): Op<void> {
    const value = { dev: XEN_DOMCTL_DEV_PCI, machine_sbdf: machineSbdf, guest_sbdf: GUEST_SBDF_NONE };
    yield* this.#domctl('test_assign_device', domid, xen_domctl_assign_device, value);
  }

  *deassign_device(domid: number, machineSbdf: Sbdf): Op<void> {
    const value = { dev: XEN_DOMCTL_DEV_PCI, machine_sbdf: machineSbdf, guest_sbdf: GUEST_SBDF_NONE };
    yield* this.#domctl('deassign_device', domid, xen_domctl_assign_device, value);
  }

  // Memory (xen/include/public/memory.h)

  /** Gives `domid` fresh memory at `gfns`, each an extent of 2^order pages. Gives the number of extents done. */
  *populate_physmap(domid: number, gfns: readonly number[], order: number): Op<number> {
    const size = xen_memory_reservation.size;
    const arg = new Uint8Array(size + gfns.length * 8);
    const value = { extent_start: size, nr_extents: gfns.length, extent_order: order, domid };
    xen_memory_reservation.encodeInto(arg, value);
    putU64s(arg, size, gfns);
    return (yield* this.#do('XENMEM_populate_physmap', HYPERCALL.memory_op, XENMEM.populate_physmap, arg)).result;
  }

  *add_to_physmap(space: keyof typeof XENMAPSPACE, idx: number, gpfn: number, domid: number = DOMID_SELF): Op<void> {
    const arg = xen_add_to_physmap.encode({ domid, space: XENMAPSPACE[space], idx, gpfn });
    yield* this.#do('XENMEM_add_to_physmap', HYPERCALL.memory_op, XENMEM.add_to_physmap, arg);
  }

  *remove_from_physmap(gpfn: number, domid: number = DOMID_SELF): Op<void> {
    const arg = xen_remove_from_physmap.encode({ domid, gpfn });
    yield* this.#do('XENMEM_remove_from_physmap', HYPERCALL.memory_op, XENMEM.remove_from_physmap, arg);
  }

  /** Maps pages of `foreignDomid` (its GFNs in `gfns`) at the caller's `at`. Throws the first error of an entry. */
  *map_foreign(foreignDomid: number, gfns: readonly number[], at: readonly number[]): Op<void> {
    const size = xen_add_to_physmap_batch.size;
    const n = gfns.length;
    const arg = new Uint8Array(size + n * 20);
    const [idxs, gpfns, errs] = [size, size + n * 8, size + n * 16];
    xen_add_to_physmap_batch.encodeInto(arg, {
      domid: DOMID_SELF,
      space: XENMAPSPACE.gmfn_foreign,
      size: n,
      foreign_domid: foreignDomid,
      idxs,
      gpfns,
      errs,
    });
    putU64s(arg, idxs, gfns);
    putU64s(arg, gpfns, at);
    const reply = yield* this.#do('XENMEM_add_to_physmap_batch', HYPERCALL.memory_op, XENMEM.add_to_physmap_batch, arg);
    const view = new DataView(reply.arg.buffer, reply.arg.byteOffset, reply.arg.byteLength);
    for (let i = 0; i < n; i++) {
      const error = view.getInt32(errs + i * 4, true);
      if (error < 0) throw new HypercallFailed(`XENMEM_add_to_physmap_batch, entry ${i}`, -error);
    }
  }

  // Physical devices (xen/include/public/physdev.h)

  *pci_host_bridge_add(seg: number, cfgBase: number, cfgSize: number): Op<void> {
    const arg = physdev_pci_host_bridge_add.encode({ seg, cfg_base: cfgBase, cfg_size: cfgSize });
    yield* this.#do('PHYSDEVOP_pci_host_bridge_add', HYPERCALL.physdev_op, PHYSDEVOP.pci_host_bridge_add, arg);
  }

  /** `physfn` is given for a virtual function: the physical one, on the same segment. `flags` are XEN_PCI_DEV. */
  *pci_device_add(s: Sbdf, flags = 0, physfn: Sbdf = 0): Op<void> {
    const of = { seg: segmentOf(s), bus: busOf(s), devfn: devfnOf(s) };
    const virtfn = { flags, physfn_bus: busOf(physfn), physfn_devfn: devfnOf(physfn) };
    const arg = physdev_pci_device_add.encode({ ...of, ...virtfn });
    yield* this.#do('PHYSDEVOP_pci_device_add', HYPERCALL.physdev_op, PHYSDEVOP.pci_device_add, arg);
  }

  *pci_device_remove(s: Sbdf): Op<void> {
    const arg = physdev_pci_device.encode({ seg: segmentOf(s), bus: busOf(s), devfn: devfnOf(s) });
    yield* this.#do('PHYSDEVOP_pci_device_remove', HYPERCALL.physdev_op, PHYSDEVOP.pci_device_remove, arg);
  }

  *pci_device_reset(s: Sbdf, flags: number): Op<void> {
    const arg = physdev_pci_device_reset.encode({ seg: segmentOf(s), bus: busOf(s), devfn: devfnOf(s), flags });
    yield* this.#do('PHYSDEVOP_pci_device_reset', HYPERCALL.physdev_op, PHYSDEVOP.pci_device_reset, arg);
  }

  // Event channels (xen/include/public/event_channel.h)

  *#evtchn<T>(name: keyof typeof EVTCHNOP, type: CStruct<T>, value: Partial<T>): Op<T> {
    const { arg } = yield* this.#do(`EVTCHNOP_${name}`, HYPERCALL.event_channel_op, EVTCHNOP[name], type.encode(value));
    return type.decode(arg);
  }

  *evtchn_alloc_unbound(dom: number, remoteDom: number): Op<number> {
    return (yield* this.#evtchn('alloc_unbound', evtchn_alloc_unbound, { dom, remote_dom: remoteDom })).port;
  }

  *evtchn_bind_interdomain(remoteDom: number, remotePort: number): Op<number> {
    const value = { remote_dom: remoteDom, remote_port: remotePort };
    return (yield* this.#evtchn('bind_interdomain', evtchn_bind_interdomain, value)).local_port;
  }

  *evtchn_bind_virq(virq: number, vcpu: number): Op<number> {
    return (yield* this.#evtchn('bind_virq', evtchn_bind_virq, { virq, vcpu })).port;
  }

  *evtchn_close(port: number): Op<void> {
    yield* this.#evtchn('close', evtchn_port_arg, { port });
  }

  *evtchn_send(port: number): Op<void> {
    yield* this.#evtchn('send', evtchn_port_arg, { port });
  }

  *evtchn_unmask(port: number): Op<void> {
    yield* this.#evtchn('unmask', evtchn_port_arg, { port });
  }

  *evtchn_status(dom: number, port: number): Op<{ status: number; remote_dom: number; remote_port: number }> {
    return yield* this.#evtchn('status', evtchn_status, { dom, port });
  }

  // Grants (xen/include/public/grant_table.h)

  /** Maps a page that `dom` granted at the caller's `hostIpa`; gives the handle. Throws HypercallFailed-like GrantFailed. */
  *map_grant_ref(dom: number, ref: number, hostIpa: number, readonly: boolean): Op<number> {
    const flags = GNTMAP.host_map | (readonly ? GNTMAP.readonly : 0);
    const arg = gnttab_map_grant_ref.encode({ host_addr: hostIpa, flags, ref, dom });
    const reply = yield* this.#do('GNTTABOP_map_grant_ref', HYPERCALL.grant_table_op, GNTTABOP.map_grant_ref, arg);
    const out = gnttab_map_grant_ref.decode(reply.arg);
    if (out.status !== 0) throw new GrantFailed('GNTTABOP_map_grant_ref', out.status);
    return out.handle;
  }

  *unmap_grant_ref(hostIpa: number, handle: number): Op<void> {
    const arg = gnttab_unmap_grant_ref.encode({ host_addr: hostIpa, handle });
    const reply = yield* this.#do('GNTTABOP_unmap_grant_ref', HYPERCALL.grant_table_op, GNTTABOP.unmap_grant_ref, arg);
    const out = gnttab_unmap_grant_ref.decode(reply.arg);
    if (out.status !== 0) throw new GrantFailed('GNTTABOP_unmap_grant_ref', out.status);
  }

  // Parameters and scheduling

  *hvm_set_param(domid: number, index: number, value: number): Op<void> {
    yield* this.#do(
      'HVMOP_set_param',
      HYPERCALL.hvm_op,
      HVMOP.set_param,
      xen_hvm_param.encode({ domid, index, value }),
    );
  }

  *hvm_get_param(index: number, domid: number = DOMID_SELF): Op<number> {
    const arg = xen_hvm_param.encode({ domid, index });
    const reply = yield* this.#do('HVMOP_get_param', HYPERCALL.hvm_op, HVMOP.get_param, arg);
    return xen_hvm_param.decode(reply.arg).value;
  }

  *sched_shutdown(reason: number): Op<void> {
    yield* this.#do('SCHEDOP_shutdown', HYPERCALL.sched_op, SCHEDOP.shutdown, sched_shutdown.encode({ reason }));
  }

  /** Gives the watchdog's id. */
  *sched_watchdog(id: number, timeoutSeconds: number): Op<number> {
    const arg = sched_watchdog.encode({ id, timeout: timeoutSeconds });
    return (yield* this.#do('SCHEDOP_watchdog', HYPERCALL.sched_op, SCHEDOP.watchdog, arg)).result;
  }
}

/** A grant operation that was refused: `status` is a GNTST_* number. */
export class GrantFailed extends Error {
  override name = 'GrantFailed';
  readonly status: number;

  constructor(name: string, status: number) {
    super(`${name}: status ${status}`);
    this.status = status;
  }
}

/** True for HypercallFailed with that errno. */
export function failedWith(error: unknown, name: keyof typeof ERRNO): boolean {
  return error instanceof HypercallFailed && error.errno === ERRNO[name];
}

function putU64s(into: Uint8Array, at: number, values: readonly number[]): void {
  const view = new DataView(into.buffer, into.byteOffset, into.byteLength);
  values.forEach((value, i) => {
    view.setUint32(at + i * 8, value >>> 0, true);
    view.setUint32(at + i * 8 + 4, Math.floor(value / 0x1_0000_0000), true);
  });
}

function spiArgument(intid: number): { machine_irq: number; irq_type: number; spi: number } {
  return { machine_irq: intid, irq_type: PT_IRQ_TYPE.SPI, spi: intid };
}
