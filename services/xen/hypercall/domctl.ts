/**
 * HYPERVISOR_domctl (xen/common/domctl.c, xen/arch/arm/domctl.c, xen/drivers/passthrough/pci.c). The domctl lock is held
 * over each. Everything but getdomaininfo is for the control domain; to anybody else it is EPERM, whoever they name.
 * irq_permission is that of 4.6; current Xen has it on x86 only.
 * Deviates: bind_pt_irq needs the right to the SPI of the caller and of the domain, as memory_mapping does; Xen looks at
 * the caller's only. An SPI beyond those of the domain is EINVAL, where Xen says EBUSY.
 * Not modelled: device tree devices, ioport_permission, gsi_permission; ENOSYS.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import {
  DPCI_ADD_MAPPING,
  DPCI_REMOVE_MAPPING,
  GUEST_SBDF_NONE,
  MEMORY_MAPPING_MAX_FRAMES,
  PT_IRQ_TYPE,
  XEN_DOMCTL,
  XEN_DOMCTL_CDF,
  XEN_DOMCTL_CONFIG_GIC_NATIVE,
  XEN_DOMCTL_CONFIG_GIC_V2,
  XEN_DOMCTL_CONFIG_GIC_V3,
  XEN_DOMCTL_DEV_PCI,
  XEN_DOMCTL_INTERFACE_VERSION,
  XEN_DOMCTL_UNION_OFFSET,
  XEN_DOMINF,
  XEN_DOMINF_shutdownshift,
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
} from '#shared/abi/domctl.ts';
import { DOMID_INVALID, DOMID_IO } from '#shared/abi/hypercall.ts';
import type { CStruct } from '#shared/abi/layout.ts';
import { SPI_FIRST, SPI_LAST } from '#shared/arch/gic/distributor.ts';
import { GICV2_CPUS_MAX } from '#shared/arch/gic/v2.ts';
import { type Op, withLock } from '#shared/core/op.ts';
import type { Domain, DomIo } from '../domain/domain.ts';
import { check, XenError } from '../error.ts';
import { isSpi } from '../irq.ts';
import { P2M } from '../mm/p2m.ts';
import { needPrivilege, type XenParts } from './context.ts';

/** Virtual CPUs of a GICv3 guest: redistributors in the guest's map (11.1 of Xen's layout). */
const VCPUS_MAX = 128;
const GRANT_FRAMES_DEFAULT = 64;
const MAPTRACK_FRAMES_DEFAULT = 1024;
const EVENT_PORT_MAX_DEFAULT = 1023;
const SPIS_DEFAULT = 32;
const FRAME_MAX = 2 ** 36;
const CDF_KNOWN = XEN_DOMCTL_CDF.hvm | XEN_DOMCTL_CDF.hap | XEN_DOMCTL_CDF.xs_domain | XEN_DOMCTL_CDF.iommu;
/** Hz of the machine's generic timer. */
const CLOCK_FREQUENCY = 62_500_000;

export function* domctl(xen: XenParts, caller: Domain, _cmd: number, arg: Uint8Array): Op<number> {
  const { cmd, interface_version, domain: domid } = xen_domctl.decode(arg);
  check(interface_version === XEN_DOMCTL_INTERFACE_VERSION, 'EACCES', `domctl version ${interface_version}`);
  needPrivilege(caller, `domctl ${cmd}`);
  return yield* withLock(xen.domctlLock, () => run(xen, caller, cmd, domid, arg));
}

function* run(xen: XenParts, caller: Domain, cmd: number, domid: number, arg: Uint8Array): Op<number> {
  const target = (): Domain => {
    const domain = xen.domains.get(domid);
    check(domain !== undefined, 'ESRCH', `d${domid}`);
    return domain;
  };
  switch (cmd) {
    case XEN_DOMCTL.createdomain:
      return yield* createdomain(xen, domid, arg);
    case XEN_DOMCTL.destroydomain: {
      const domain = target();
      check(domain !== caller, 'EINVAL', 'a domain does not destroy itself');
      yield* xen.lifecycle.destroy(domain);
      return 0;
    }
    case XEN_DOMCTL.pausedomain: {
      const domain = target();
      check(domain !== caller, 'EINVAL', 'a domain does not pause itself');
      domain.pauseCount++;
      return 0;
    }
    case XEN_DOMCTL.unpausedomain: {
      const domain = target();
      check(domain.pauseCount > 0, 'EINVAL', `d${domid} is not paused`);
      domain.pauseCount--;
      domain.wake();
      return 0;
    }
    case XEN_DOMCTL.getdomaininfo:
      return getdomaininfo(target(), caller, arg);
    case XEN_DOMCTL.max_mem: {
      const { max_memkb } = union(xen_domctl_max_mem, arg);
      target().maxPages = Math.floor(max_memkb / (XEN_PAGE_SIZE / 1024));
      return 0;
    }
    case XEN_DOMCTL.max_vcpus: {
      const { max } = union(xen_domctl_max_vcpus, arg);
      check(max === target().config.vcpusMax, 'EINVAL', `${max} vCPUs where the domain was created with others`);
      return 0;
    }
    case XEN_DOMCTL.setvcpucontext: {
      const { vcpu, pc, x0 } = union(xen_domctl_vcpucontext, arg);
      const cpu = target().vcpus[vcpu];
      check(cpu !== undefined, 'EINVAL', `vCPU ${vcpu}`);
      cpu.context = { pc, x0 };
      return 0;
    }
    case XEN_DOMCTL.irq_permission:
      return irqPermission(xen, target(), caller, arg);
    case XEN_DOMCTL.bind_pt_irq:
      return yield* bindPtIrq(xen, target(), caller, arg);
    case XEN_DOMCTL.unbind_pt_irq:
      return yield* unbindPtIrq(xen, target(), caller, arg);
    case XEN_DOMCTL.iomem_permission:
      return iomemPermission(target(), caller, arg);
    case XEN_DOMCTL.memory_mapping:
      return yield* memoryMapping(target(), caller, arg);
    case XEN_DOMCTL.assign_device:
      return yield* assignDevice(xen, domid, arg);
    case XEN_DOMCTL.test_assign_device:
      return testAssignDevice(xen, domid, arg);
    case XEN_DOMCTL.deassign_device:
      return yield* deassignDevice(xen, domid, arg);
    default:
      throw new XenError('ENOSYS', `domctl ${cmd}`);
  }
}

function union<T>(type: CStruct<T>, arg: Uint8Array): T {
  return type.decode(arg, XEN_DOMCTL_UNION_OFFSET);
}

function* createdomain(xen: XenParts, wanted: number, arg: Uint8Array): Op<number> {
  const c = union(xen_domctl_createdomain, arg);
  check((c.flags & ~CDF_KNOWN) === 0, 'EINVAL', `flags 0x${c.flags.toString(16)}`);
  // A guest has a GIC of the machine's version.
  const native = xen.lifecycle.gicVersion === 2 ? XEN_DOMCTL_CONFIG_GIC_V2 : XEN_DOMCTL_CONFIG_GIC_V3;
  const vcpusMax = native === XEN_DOMCTL_CONFIG_GIC_V2 ? GICV2_CPUS_MAX : VCPUS_MAX;
  check(c.max_vcpus >= 1 && c.max_vcpus <= vcpusMax, 'EINVAL', `${c.max_vcpus} vCPUs`);
  const isNative = c.gic_version === XEN_DOMCTL_CONFIG_GIC_NATIVE || c.gic_version === native;
  check(isNative, 'EINVAL', `GIC version ${c.gic_version}`);
  check(c.nr_spis <= SPI_LAST + 1 - SPI_FIRST, 'EINVAL', `${c.nr_spis} SPIs`);
  const domid = xen.domains.chooseDomid(wanted);
  yield* xen.lifecycle.create({
    domid,
    handle: c.handle,
    vcpusMax: c.max_vcpus,
    eventPortsMax: c.max_evtchn_port || EVENT_PORT_MAX_DEFAULT,
    grantFramesMax: frames(c.max_grant_frames, GRANT_FRAMES_DEFAULT),
    maptrackFramesMax: frames(c.max_maptrack_frames, MAPTRACK_FRAMES_DEFAULT),
    iommu: (c.flags & XEN_DOMCTL_CDF.iommu) !== 0,
    privileged: false,
    spis: c.nr_spis || SPIS_DEFAULT,
  });
  xen_domctl.encodeInto(arg, { domain: domid });
  const out = { gic_version: native, clock_frequency: CLOCK_FREQUENCY };
  xen_domctl_createdomain.encodeInto(arg, out, XEN_DOMCTL_UNION_OFFSET);
  return 0;
}

/** -1 and 0 ask for the default. */
function frames(asked: number, standard: number): number {
  return asked === 0 || asked === 0xffff_ffff ? standard : asked;
}

function getdomaininfo(domain: Domain, caller: Domain, arg: Uint8Array): number {
  let flags: number = XEN_DOMINF.hvm;
  if (domain.dying) flags |= XEN_DOMINF.dying;
  if (domain.shutdownCode !== undefined) {
    flags |= XEN_DOMINF.shutdown | (domain.shutdownCode << XEN_DOMINF_shutdownshift);
  }
  if (domain.pauseCount > 0) flags |= XEN_DOMINF.paused;
  // There is one physical CPU's worth of hypervisor: whoever asks is the one that runs.
  else if (domain === caller) flags |= XEN_DOMINF.running;
  else if (domain.shutdownCode === undefined) flags |= XEN_DOMINF.blocked;
  const info = {
    domain: domain.domid,
    flags,
    tot_pages: domain.totPages,
    max_pages: domain.maxPages,
    outstanding_pages: 0,
    shr_pages: 0,
    paged_pages: 0,
    shared_info_frame: domain.sharedInfoMfn,
    cpu_time: 0,
    nr_online_vcpus: domain.vcpus.filter((v) => v.state !== 'down').length,
    max_vcpu_id: domain.config.vcpusMax - 1,
    ssidref: 0,
    handle: domain.config.handle,
    cpupool: 0,
    gpaddr_bits: domain.p2m.ipaBits,
  };
  xen_domctl_getdomaininfo.encodeInto(arg, info, XEN_DOMCTL_UNION_OFFSET);
  return 0;
}

/** Grants or revokes frames; what is mapped stays mapped (T13). */
function iomemPermission(domain: Domain, caller: Domain, arg: Uint8Array): number {
  const { first_mfn, nr_mfns, allow_access } = union(xen_domctl_iomem_permission, arg);
  check(nr_mfns > 0 && first_mfn + nr_mfns <= FRAME_MAX, 'EINVAL', `${nr_mfns} frames at ${first_mfn}`);
  check(caller.iomem.contains(first_mfn, nr_mfns), 'EPERM', `d${caller.domid} does not hold ${first_mfn}+${nr_mfns}`);
  if (allow_access !== 0) domain.iomem.add(first_mfn, nr_mfns);
  else domain.iomem.remove(first_mfn, nr_mfns);
  return 0;
}

/** Grants or revokes an interrupt of the machine; what is bound stays bound. */
function irqPermission(xen: XenParts, domain: Domain, caller: Domain, arg: Uint8Array): number {
  const { pirq, allow_access } = union(xen_domctl_irq_permission, arg);
  check(pirq < xen.irqs.lines, 'EINVAL', `pirq ${pirq}`);
  check(caller.irqs.contains(pirq, 1), 'EPERM', `d${caller.domid} does not hold pirq ${pirq}`);
  if (allow_access !== 0) domain.irqs.add(pirq, 1);
  else domain.irqs.remove(pirq, 1);
  return 0;
}

/** The INTID of a bind or unbind, both numbers of which are the same. */
function boundSpi(caller: Domain, arg: Uint8Array): number {
  const { machine_irq, irq_type, spi } = union(xen_domctl_bind_pt_irq, arg);
  check(irq_type === PT_IRQ_TYPE.SPI, 'EOPNOTSUPP', `irq_type ${irq_type}`);
  check(machine_irq === spi, 'EINVAL', `machine_irq ${machine_irq} as SPI ${spi}`);
  check(isSpi(spi), 'EINVAL', `INTID ${spi} is no SPI`);
  check(caller.irqs.contains(spi, 1), 'EPERM', `d${caller.domid} does not hold ${spi}`);
  return spi;
}

function* bindPtIrq(xen: XenParts, domain: Domain, caller: Domain, arg: Uint8Array): Op<number> {
  const spi = boundSpi(caller, arg);
  check(domain.irqs.contains(spi, 1), 'EPERM', `d${domain.domid} does not hold ${spi}`);
  yield* xen.irqs.route(domain, spi);
  return 0;
}

function* unbindPtIrq(xen: XenParts, domain: Domain, caller: Domain, arg: Uint8Array): Op<number> {
  yield* xen.irqs.release(domain, boundSpi(caller, arg));
  return 0;
}

/** Device frames into a guest's p2m, or out of it. Removal looks at nothing but the GFNs, as Xen does. */
function* memoryMapping(domain: Domain, caller: Domain, arg: Uint8Array): Op<number> {
  const { first_gfn, first_mfn, nr_mfns, add_mapping } = union(xen_domctl_memory_mapping, arg);
  check(nr_mfns > 0 && first_mfn + nr_mfns <= FRAME_MAX, 'EINVAL', `${nr_mfns} frames at mfn ${first_mfn}`);
  check(domain.p2m.inRange(first_gfn, nr_mfns), 'EINVAL', `${nr_mfns} frames at gfn ${first_gfn}`);
  check(nr_mfns <= MEMORY_MAPPING_MAX_FRAMES, 'E2BIG', `${nr_mfns} frames at once`);
  const permitted = caller.iomem.contains(first_mfn, nr_mfns) && domain.iomem.contains(first_mfn, nr_mfns);
  check(permitted, 'EPERM', `mfn ${first_mfn}+${nr_mfns} for d${domain.domid}`);
  if (add_mapping === DPCI_ADD_MAPPING) {
    check(!domain.dying, 'EINVAL', `d${domain.domid} is dying`);
    yield* domain.p2m.map(first_gfn, first_mfn, nr_mfns, P2M.mmio_direct_dev);
    return 0;
  }
  check(add_mapping === DPCI_REMOVE_MAPPING, 'EINVAL', `add_mapping ${add_mapping}`);
  yield* domain.p2m.unmap(first_gfn, nr_mfns);
  return 0;
}

/** The holder that `domid` names: a domain, or DOMID_IO, which quarantines. */
function holder(xen: XenParts, domid: number): Domain | DomIo {
  if (domid === DOMID_IO) return xen.domains.domIo;
  const domain = xen.domains.get(domid);
  check(domain !== undefined, 'ESRCH', `d${domid}`);
  return domain;
}

function* assignDevice(xen: XenParts, domid: number, arg: Uint8Array): Op<number> {
  const a = union(xen_domctl_assign_device, arg);
  const to = holder(xen, domid);
  check(a.dev === XEN_DOMCTL_DEV_PCI, 'ENOSYS', `device kind ${a.dev}`);
  const guestSbdf = a.guest_sbdf === GUEST_SBDF_NONE ? undefined : a.guest_sbdf;
  yield* xen.pciDevices.assign(to, a.machine_sbdf, guestSbdf, a.flags);
  return 0;
}

/** Every problem is EINVAL; DOMID_INVALID asks whether any guest holds it. */
function testAssignDevice(xen: XenParts, domid: number, arg: Uint8Array): number {
  const a = union(xen_domctl_assign_device, arg);
  check(a.dev === XEN_DOMCTL_DEV_PCI && a.flags === 0, 'EINVAL', `device kind ${a.dev}, flags ${a.flags}`);
  if (domid !== DOMID_INVALID) holder(xen, domid);
  xen.pciDevices.testAssign(a.machine_sbdf);
  return 0;
}

function* deassignDevice(xen: XenParts, domid: number, arg: Uint8Array): Op<number> {
  const a = union(xen_domctl_assign_device, arg);
  const from = holder(xen, domid);
  check(a.dev === XEN_DOMCTL_DEV_PCI, 'ENOSYS', `device kind ${a.dev}`);
  check(a.flags === 0, 'EINVAL', `deassign flags ${a.flags}`);
  yield* xen.pciDevices.deassign(from, a.machine_sbdf);
  return 0;
}
