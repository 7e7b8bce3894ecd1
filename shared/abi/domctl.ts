/**
 * xen/include/public/domctl.h: XEN_DOMCTL_* and their argument structures, interface version of the 4.6 baseline's
 * successors (0x18). The wrapper is 16 bytes of header and a union of 128.
 */
import { bytes, struct, u8, u16, u32, u64 } from './layout.ts';

export const XEN_DOMCTL_INTERFACE_VERSION = 0x18;

export const XEN_DOMCTL = {
  createdomain: 1,
  destroydomain: 2,
  pausedomain: 3,
  unpausedomain: 4,
  getdomaininfo: 5,
  max_mem: 11,
  setvcpucontext: 12,
  max_vcpus: 15,
  irq_permission: 19,
  iomem_permission: 20,
  assign_device: 37,
  bind_pt_irq: 38,
  memory_mapping: 39,
  test_assign_device: 45,
  deassign_device: 47,
  unbind_pt_irq: 48,
} as const;

export const xen_domctl = struct({ cmd: u32, interface_version: u32, domain: u16, pad0: u16, pad1: u32 });
export const XEN_DOMCTL_UNION_OFFSET = 16;
export const XEN_DOMCTL_BYTES = 144;

export const xen_domctl_createdomain = struct({
  ssidref: u32,
  handle: bytes(16),
  flags: u32,
  iommu_opts: u32,
  max_vcpus: u32,
  max_evtchn_port: u32,
  max_grant_frames: u32,
  max_maptrack_frames: u32,
  grant_opts: u32,
  gic_version: u8,
  pad0: u8,
  tee_type: u16,
  nr_spis: u32,
  clock_frequency: u32,
});
export const XEN_DOMCTL_CDF = { hvm: 1 << 0, hap: 1 << 1, xs_domain: 1 << 4, iommu: 1 << 5 } as const;
/** gic_version: the machine's, or a version of its own. Xen answers with the one that the domain has. */
export const XEN_DOMCTL_CONFIG_GIC_NATIVE = 0;
export const XEN_DOMCTL_CONFIG_GIC_V2 = 1;
export const XEN_DOMCTL_CONFIG_GIC_V3 = 2;

export const xen_domctl_getdomaininfo = struct({
  domain: u16,
  pad0: u16,
  flags: u32,
  tot_pages: u64,
  max_pages: u64,
  outstanding_pages: u64,
  shr_pages: u64,
  paged_pages: u64,
  shared_info_frame: u64,
  cpu_time: u64,
  nr_online_vcpus: u32,
  max_vcpu_id: u32,
  ssidref: u32,
  handle: bytes(16),
  cpupool: u32,
  gpaddr_bits: u8,
});
/** Bits of getdomaininfo.flags; the shutdown code stands at [23:16]. */
export const XEN_DOMINF = {
  dying: 1 << 0,
  hvm: 1 << 1,
  shutdown: 1 << 2,
  paused: 1 << 3,
  blocked: 1 << 4,
  running: 1 << 5,
} as const;
export const XEN_DOMINF_shutdownshift = 16;

export const xen_domctl_max_mem = struct({ max_memkb: u64 });
export const xen_domctl_max_vcpus = struct({ max: u32 });
/** What we keep of vcpu_guest_context: where the virtual CPU starts, and its first argument register. */
export const xen_domctl_vcpucontext = struct({ vcpu: u32, pad0: u32, pc: u64, x0: u64 });
export const xen_domctl_irq_permission = struct({ pirq: u32, allow_access: u8 });
/** `u` is a union; of an SPI its number, which is an INTID. */
export const xen_domctl_bind_pt_irq = struct({ machine_irq: u32, irq_type: u32, spi: u16 });
export const PT_IRQ_TYPE = { PCI: 0, ISA: 1, MSI: 2, MSI_TRANSLATE: 3, SPI: 4 } as const;
export const xen_domctl_iomem_permission = struct({ first_mfn: u64, nr_mfns: u64, allow_access: u8 });
/**
 * assign_device carries the guest's SBDF (T7, drafts 2 to 4) besides the machine's: `guest_sbdf` is 0xffffffff when the
 * toolstack chose none.
 */
export const xen_domctl_assign_device = struct({ dev: u32, flags: u32, machine_sbdf: u32, guest_sbdf: u32 });
export const XEN_DOMCTL_DEV_PCI = 0;
export const XEN_DOMCTL_DEV_RDM_RELAXED = 1;
export const GUEST_SBDF_NONE = 0xffff_ffff;
export const xen_domctl_memory_mapping = struct({
  first_gfn: u64,
  first_mfn: u64,
  nr_mfns: u64,
  add_mapping: u32,
  padding: u32,
});
export const DPCI_ADD_MAPPING = 1;
export const DPCI_REMOVE_MAPPING = 0;
/** Frames that one memory_mapping may ask for (XSA-125). */
export const MEMORY_MAPPING_MAX_FRAMES = 64;
