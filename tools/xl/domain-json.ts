/**
 * A configuration as `xl -N create` prints it: libxl's names and units (libxl_types.idl), what is 0, false or libxl's
 * default left out.
 */
import type { DomainConfig, PciSpec } from '#gen/toolstack.ts';
import { Prng } from '#shared/core/prng.ts';

/** What xl reads of a file and a domain here is not made of. */
export interface OnlyPrinted {
  readonly maxmemMib: number | undefined;
  readonly maxvcpus: number | undefined;
  readonly ramdisk: string | undefined;
  readonly onPoweroff: string | undefined;
  readonly onReboot: string | undefined;
}

type Json = Readonly<Record<string, unknown>>;

/** No machine has more; a domain with so many is refused when it is made. */
const VCPUS_SHOWN_MAX = 4096;
/** LIBXL_PCI_FUNC_ALL */
const ALL_FUNCTIONS = 0xffff_ffff;

export function domainJson(config: DomainConfig, more: OnlyPrinted, seed: string): Json {
  const { name, memoryMib, vcpus, kernel, cmdline, passthrough, pci } = config;
  return {
    c_info: present({ type: 'pvh', name, uuid: config.uuid || madeUpUuid(seed), passthrough }),
    b_info: present({
      max_vcpus: more.maxvcpus ?? vcpus,
      avail_vcpus: Array.from({ length: Math.min(vcpus, VCPUS_SHOWN_MAX) }, (_, i) => i),
      max_memkb: (more.maxmemMib ?? memoryMib) * 1024,
      target_memkb: memoryMib * 1024,
      kernel,
      cmdline,
      ramdisk: more.ramdisk,
      'type.pvh': {},
    }),
    ...(pci.length === 0 ? {} : { pcidevs: pci.map(pciJson) }),
    ...present({
      on_poweroff: more.onPoweroff === 'destroy' ? undefined : more.onPoweroff?.replaceAll('-', '_'),
      on_reboot: (more.onReboot ?? 'restart').replaceAll('-', '_'),
      on_crash: config.onCrash.replaceAll('-', '_'),
    }),
  };
}

function pciJson(spec: PciSpec): Json {
  const { segment, bus, device, functionMask, vslot, name } = spec;
  const all = functionMask === 0xff;
  return present({
    func: all || functionMask === 0 ? 0 : Math.log2(functionMask),
    dev: device,
    bus,
    domain: segment,
    vdevfn: vslot < 0 ? 0 : vslot * 8,
    vfunc_mask: all ? ALL_FUNCTIONS : Math.min(functionMask, 1),
    msitranslate: spec.msitranslate,
    power_mgmt: spec.powerMgmt,
    permissive: spec.permissive,
    seize: spec.seize,
    rdm_policy: spec.rdmPolicy,
    name,
  });
}

/** Without members that are empty, 0 or false. */
function present(members: Json): Json {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => Boolean(value)));
}

/** xl makes one up, and another one at the next time; here the same text gives the same. */
function madeUpUuid(seed: string): string {
  const random = new Prng([...seed].reduce((sum, c) => (Math.imul(sum, 31) + c.charCodeAt(0)) >>> 0, 1));
  const hex = Array.from({ length: 16 }, () => (random.next() & 0xff).toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4}).(.{3})(.{4})(.{12})$/, '$1-$2-4$3-$4-$5');
}
