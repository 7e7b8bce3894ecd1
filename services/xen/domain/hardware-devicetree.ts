/**
 * The device tree that dom0 boots from, made out of the host's (xen/arch/arm/domain_build.c): memory is what dom0 was
 * given, /hypervisor says where to map grants and foreign pages, and PCI host bridges are passed through without the
 * way to the SMMU, which is Xen's. So are the ITSs: their nodes stay, disabled, and with them msi-map, by which dom0 knows
 * which functions can send messages at all.
 * Not modelled: dom0's other devices (UART, virtio-mmio, flash, ...). Real Xen maps them; here their nodes are left out
 * and dom0's kernel sees PCI only. One virtual CPU: the other cpu nodes are left out.
 */
import { GICV2_COMPATIBLE } from '#shared/arch/gic/v2.ts';
import { buildFdt } from '#shared/fdt/blob.ts';
import type { FdtNode, FdtRegion } from '#shared/fdt/node.ts';

const GICS = ['arm,gic-v3', ...GICV2_COMPATIBLE];
const GIC_V3_ITS = 'arm,gic-v3-its';
const GIC_V2M = 'arm,gic-v2m-frame';
/** Properties of a bridge that name the SMMU. */
const BRIDGE_DROPPED = ['iommu-map', 'iommu-map-mask'];
/** PPI 15 (INTID 31), level low, as Xen describes its event channel interrupt. */
const EVENT_CHANNEL_INTERRUPT = [1, 15, 0xf08] as const;

export interface HardwareDevicetree {
  readonly host: FdtNode;
  /** Paths of the bridges that Xen has a driver for, and the segment of each when its node names none. */
  readonly bridges: readonly { readonly path: string; readonly segment: number }[];
  readonly ram: FdtRegion;
  /** Where grant table frames are to be mapped, and free address space for foreign pages. */
  readonly grantRegion: FdtRegion;
  readonly extendedRegion: FdtRegion;
  /** Where the blob will stand: reserved in it, with `dtbMaxBytes`. */
  readonly dtbIpa: number;
  readonly dtbMaxBytes: number;
}

export function buildHardwareDevicetree(d: HardwareDevicetree): Uint8Array {
  const root = d.host.copy();
  const bridges = new Map(d.bridges.map((b) => [b.path, b.segment]));
  prune(root, bridges);
  root
    .addChild(`memory@${d.ram.address.toString(16)}`)
    .setStrings('device_type', 'memory')
    .setReg(d.ram);
  const gic = root.compatibleNodes(...GICS)[0]?.phandle;
  const hypervisor = root
    .addChild('hypervisor')
    .setStrings('compatible', 'xen,xen-4.23', 'xen,xen')
    .setReg(d.grantRegion, d.extendedRegion)
    .setCells('interrupts', ...EVENT_CHANNEL_INTERRUPT);
  if (gic !== undefined) hypervisor.setCells('interrupt-parent', gic);
  root.addChild('chosen').setStrings('bootargs', 'console=hvc0');
  return buildFdt(root, [{ address: d.dtbIpa, sizeBytes: d.dtbMaxBytes }]);
}

/** Removes every child that dom0 does not get. Returns whether something of `node` is left to keep it for. */
function prune(node: FdtNode, bridges: ReadonlyMap<string, number>): boolean {
  let kept = false;
  for (const child of [...node.children]) {
    if (keeps(child, bridges)) kept = true;
    else node.removeChild(child);
  }
  return kept;
}

function keeps(node: FdtNode, bridges: ReadonlyMap<string, number>): boolean {
  const segment = bridges.get(node.path);
  if (segment !== undefined) {
    for (const name of BRIDGE_DROPPED) node.properties.delete(name);
    if (!node.has('linux,pci-domain')) node.setCells('linux,pci-domain', segment);
    return true;
  }
  if (GICS.some((name) => node.isCompatible(name))) {
    for (const child of [...node.children]) {
      if (child.isCompatible(GIC_V3_ITS) || child.isCompatible(GIC_V2M)) child.setStrings('status', 'disabled');
      else node.removeChild(child);
    }
    return true;
  }
  const top = node.parent?.parent === undefined;
  if (top && node.name === 'cpus') {
    const first = node.children.find((c) => c.string('device_type') === 'cpu');
    for (const child of [...node.children]) if (child !== first) node.removeChild(child);
    return true;
  }
  if (top && (node.name === 'psci' || node.name === 'timer')) return true;
  return prune(node, bridges);
}

/** Banks of the host's memory. */
export function memoryBanks(tree: FdtNode): FdtRegion[] {
  return [...tree.walk()]
    .filter((n) => n.enabled && n.string('device_type') === 'memory')
    .flatMap((n) => n.regions())
    .filter((r) => r.sizeBytes > 0);
}
