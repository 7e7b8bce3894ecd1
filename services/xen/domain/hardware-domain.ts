/**
 * Building dom0 (xen/arch/arm/domain_build.c, construct_dom0): its memory 1:1, the PCI windows of every bridge 1:1 as
 * device memory, permission for exactly those frames (T4) and for the SPIs that their pins lead to (T12), and its device
 * tree.
 * Deviates: no DMA of dom0's devices is possible. Every stream aborts until its function is assigned to a guest.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { GICV2_COMPATIBLE } from '#shared/arch/gic/v2.ts';
import { assert } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';
import type { FdtNode, FdtRegion } from '#shared/fdt/node.ts';
import { pciRanges } from '#shared/fdt/pci-bindings.ts';
import type { El2 } from '../el2.ts';
import { type Frames, frameOf } from '../mm/frames.ts';
import { type Mapping, P2M } from '../mm/p2m.ts';
import type { HostBridge } from '../passthrough/host-bridge.ts';
import type { Domain } from './domain.ts';
import { buildHardwareDevicetree, memoryBanks } from './hardware-devicetree.ts';
import type { Lifecycle } from './lifecycle.ts';

const MIB = 2 ** 20;
const XEN_DRIVES = [
  ...GICV2_COMPATIBLE,
  'arm,gic-v2m-frame',
  'arm,gic-v3',
  'arm,gic-v3-its',
  'arm,smmu-v3',
  'arm,smmu-v1',
  'arm,smmu-v2',
  'arm,mmu-400',
  'arm,mmu-401',
  'arm,mmu-500',
  'cavium,smmu-v2',
];
/** Room for the device tree at the end of dom0's memory. */
const DTB_MAX_BYTES = 2 * MIB;
const GRANT_REGION_BYTES = 16 * MIB;
const EXTENDED_REGION_BYTES = 256 * MIB;
const GRANT_FRAMES_MAX = 64;
const MAPTRACK_FRAMES_MAX = 1024;
const EVENT_PORT_MAX = 4095;

export interface HardwareDomainParts {
  readonly el2: El2;
  readonly frames: Frames;
  readonly lifecycle: Lifecycle;
  readonly host: FdtNode;
  readonly bridges: readonly HostBridge[];
  readonly memoryBytes: number;
}

/** What Xen drives itself: GIC with its ITSs, SMMUs. dom0 gets none of it, also where a window of a bridge contains it. */
function xenRegions(host: FdtNode): FdtRegion[] {
  return host.compatibleNodes(...XEN_DRIVES).flatMap((node) => node.regions());
}

/** The pieces of a window that are left around `holes`. */
function without(window: FdtRegion, holes: readonly FdtRegion[]): FdtRegion[] {
  const pieces: FdtRegion[] = [];
  const end = window.address + window.sizeBytes;
  let from = window.address;
  for (const hole of [...holes].sort((a, b) => a.address - b.address)) {
    const holeEnd = hole.address + hole.sizeBytes;
    if (holeEnd <= from || hole.address >= end) continue;
    if (hole.address > from) pieces.push({ address: from, sizeBytes: hole.address - from });
    from = holeEnd;
  }
  if (end > from) pieces.push({ address: from, sizeBytes: end - from });
  return pieces;
}

/** Configuration space, registers that lead to it and memory windows of a bridge, in whole pages. */
export function bridgeWindows(host: FdtNode, bridge: HostBridge): FdtRegion[] {
  const node = host.find(bridge.path);
  assert(node !== undefined, `the device tree has no ${bridge.path}`);
  const memory = pciRanges(node)
    .filter((r) => r.space === 'mem32' || r.space === 'mem64')
    .map((r) => ({ address: r.cpuBase, sizeBytes: r.sizeBytes }));
  const registers = bridge.pem === undefined ? [] : [bridge.pem];
  const holes = xenRegions(host);
  return [{ address: bridge.cfgBase, sizeBytes: bridge.cfgSize }, ...registers, ...memory].flatMap((w) =>
    without(w, holes),
  );
}

/** dom0, built and ready to be woken. */
export function* buildHardwareDomain(parts: HardwareDomainParts): Op<Domain> {
  const { el2, frames, lifecycle, host, bridges, memoryBytes } = parts;
  const domain = yield* lifecycle.create({
    domid: 0,
    handle: new Uint8Array(16),
    vcpusMax: 1,
    eventPortsMax: EVENT_PORT_MAX,
    grantFramesMax: GRANT_FRAMES_MAX,
    maptrackFramesMax: MAPTRACK_FRAMES_MAX,
    iommu: true,
    privileged: true,
    spis: 0,
  });
  const ram = { address: frames.allocAligned(memoryBytes, 2 * MIB), sizeBytes: memoryBytes };
  const first = frameOf(ram.address);
  const count = memoryBytes / XEN_PAGE_SIZE;
  frames.assign(first, count, 0);
  domain.pages.add(first, count);
  domain.totPages = count;
  domain.maxPages = count;
  const mappings: Mapping[] = [{ gfn: first, mfn: first, count, type: P2M.ram_rw }];
  const windows = bridges.flatMap((bridge) => bridgeWindows(host, bridge));
  for (const window of windows) {
    const from = frameOf(window.address);
    const frameCount = Math.ceil((window.address + window.sizeBytes) / XEN_PAGE_SIZE) - from;
    domain.iomem.add(from, frameCount);
    mappings.push({ gfn: from, mfn: from, count: frameCount, type: P2M.mmio_direct_dev });
  }
  yield* domain.p2m.mapAll(mappings);
  for (const { intxSpis } of bridges) for (const { intid } of intxSpis) domain.irqs.add(intid, 1);

  const memoryEnd = Math.max(...memoryBanks(host).map((r) => r.address + r.sizeBytes));
  const above = Math.ceil(memoryEnd / (2 * MIB)) * 2 * MIB;
  const grantRegion = freeRegion(above, windows, GRANT_REGION_BYTES);
  const extendedRegion = freeRegion(above, [...windows, grantRegion], EXTENDED_REGION_BYTES);
  const dtbIpa = ram.address + memoryBytes - DTB_MAX_BYTES;
  const dtb = buildHardwareDevicetree({
    host,
    bridges: bridges.map((b, i) => ({ path: b.path, segment: i })),
    ram,
    grantRegion,
    extendedRegion,
    dtbIpa,
    dtbMaxBytes: DTB_MAX_BYTES,
  });
  assert(dtb.length <= DTB_MAX_BYTES, `dom0's device tree takes ${dtb.length} bytes`);
  yield* el2.write(dtbIpa, dtb);
  domain.vcpus[0]!.context = { pc: ram.address, x0: dtbIpa };
  domain.onRestart = function* () {
    for (const region of [grantRegion, extendedRegion]) {
      yield* domain.p2m.unmap(frameOf(region.address), region.sizeBytes / XEN_PAGE_SIZE);
    }
    domain.xenPages.clear();
    yield* el2.write(dtbIpa, dtb);
  };
  domain.pauseCount = 0;
  return domain;
}

/** The lowest 2 MiB-aligned address space from `above` on where nothing is. */
function freeRegion(above: number, used: readonly FdtRegion[], sizeBytes: number): FdtRegion {
  let address = above;
  for (const r of [...used].sort((a, b) => a.address - b.address)) {
    const end = r.address + r.sizeBytes;
    if (end <= address) continue;
    if (address + sizeBytes <= r.address) break;
    address = Math.ceil(end / (2 * MIB)) * 2 * MIB;
  }
  return { address, sizeBytes };
}
