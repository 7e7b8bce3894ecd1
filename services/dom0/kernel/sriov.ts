/**
 * Virtual functions at boot (PCIe 5.0, "Single Root I/O Virtualization and Sharing"; Linux drivers/pci/iov.c, sriov_init,
 * sriov_enable, pci_iov_add_virtfn).
 * Deviates: as many as the firmware left in NumVFs (`vfs` of a board file) are enabled while dom0 boots; Linux waits for
 * a write of sriov_numvfs, and they stay as many until the machine starts anew.
 * Not modelled: function dependency links; system pages other than 4 KiB.
 */
import { PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_CFG_SPACE_EXP_BYTES, PCI_HEADER_TYPE } from '#shared/arch/pci/header.ts';
import { PCI_SRIOV, PCI_SRIOV_BARS, PCI_SRIOV_CTRL, PCI_SRIOV_PAGE_SHIFT } from '#shared/arch/pci/sriov.ts';
import { type Op, sleep } from '#shared/core/op.ts';
import { formatSbdf, ridOf, type Sbdf } from '#shared/ids/sbdf.ts';
import { type ConfigAccess, findExtendedCapability, sizeBars } from '#shared/kernel/pci-core.ts';
import type { Bar, PciFunction } from './function.ts';

/** The first access to a VF may come so much after VF Enable (Linux sriov_enable). */
const AFTER_VF_ENABLE_NS = 100e6;
const PAGE_BYTES = 2 ** PCI_SRIOV_PAGE_SHIFT;

/** The VFs that a physical function shall have. */
export interface VfPlan {
  readonly pf: PciFunction;
  /** Offset of the SR-IOV capability. */
  readonly at: number;
  readonly count: number;
  /** Requester id of VF 1 less the PF's, and from each VF to the next. */
  readonly offset: number;
  readonly stride: number;
  readonly deviceId: number;
  /** The largest bus number of any; may be more than 255, and then no bus has it. */
  readonly lastBus: number;
  /** The VF BARs: sizes of one VF, address of VF 1. */
  readonly bars: Bar[];
}

/** What VF n has of a VF BAR: its size, or a system page when that is larger. */
export function apertureOf(bar: Bar): number {
  return Math.max(bar.sizeBytes, PAGE_BYTES);
}

/**
 * Switches off what VFs `pf` has and reads what it needs for those that NumVFs asks for; undefined when that is none.
 * `ari`: the port above forwards ARI, so that VFs may have any number on the bus. Memory decoding of the PF is off.
 */
export function* planVfs(
  access: ConfigAccess,
  pf: PciFunction,
  ari: boolean,
  trace: (event: string, detail: unknown) => void,
): Op<VfPlan | undefined> {
  const at = yield* findExtendedCapability(access, pf.sbdf, PCI_EXT_CAP_ID.SRIOV);
  if (at === 0) return undefined;
  const count = yield* access.read(pf.sbdf, at + PCI_SRIOV.NUM_VF, 2);
  const control = yield* access.read(pf.sbdf, at + PCI_SRIOV.CTRL, 2);
  if ((control & (PCI_SRIOV_CTRL.VFE | PCI_SRIOV_CTRL.MSE)) !== 0)
    yield* access.write(pf.sbdf, at + PCI_SRIOV.CTRL, 2, 0);
  if (count === 0) return undefined;
  const none = (why: string): undefined =>
    trace('dom0.pci.no_vfs', { sbdf: formatSbdf(pf.sbdf), count, why }) as undefined;
  const total = yield* access.read(pf.sbdf, at + PCI_SRIOV.TOTAL_VF, 2);
  if (count > total) return none(`it has at most ${total}`);
  yield* access.write(pf.sbdf, at + PCI_SRIOV.SYS_PGSIZE, 4, 1);
  yield* access.write(pf.sbdf, at + PCI_SRIOV.CTRL, 2, ari ? PCI_SRIOV_CTRL.ARI : 0);
  // First VF Offset and VF Stride may depend on both.
  yield* access.write(pf.sbdf, at + PCI_SRIOV.NUM_VF, 2, count);
  const offset = yield* access.read(pf.sbdf, at + PCI_SRIOV.VF_OFFSET, 2);
  const stride = yield* access.read(pf.sbdf, at + PCI_SRIOV.VF_STRIDE, 2);
  if (offset === 0 || (count > 1 && stride === 0)) return none('their requester ids are one');
  return {
    pf,
    at,
    count,
    offset,
    stride,
    deviceId: yield* access.read(pf.sbdf, at + PCI_SRIOV.VF_DID, 2),
    lastBus: Math.floor((ridOf(pf.sbdf) + offset + (count - 1) * stride) / 256),
    bars: (yield* sizeBars(access, pf.sbdf, at + PCI_SRIOV.BAR, PCI_SRIOV_BARS)).map((bar) => ({
      ...bar,
      address: 0,
      pa: 0,
    })),
  };
}

/**
 * Makes the VFs of a plan appear, their BARs being placed and written. `toCpu` gives the physical address of a bus
 * address. Gives none when a BAR had no room; a VF that does not answer is left out. Both are traced.
 */
export function* enableVfs(
  access: ConfigAccess,
  plan: VfPlan,
  toCpu: (busAddress: number) => number,
  trace: (event: string, detail: unknown) => void,
): Op<PciFunction[]> {
  const { pf, at, count } = plan;
  if (plan.bars.some((bar) => bar.address === 0)) {
    trace('dom0.pci.no_vfs', { sbdf: formatSbdf(pf.sbdf), count, why: 'their BARs have no room' });
    return [];
  }
  const control = yield* access.read(pf.sbdf, at + PCI_SRIOV.CTRL, 2);
  yield* access.write(pf.sbdf, at + PCI_SRIOV.CTRL, 2, control | PCI_SRIOV_CTRL.VFE | PCI_SRIOV_CTRL.MSE);
  yield* sleep(AFTER_VF_ENABLE_NS);
  const vfs: PciFunction[] = [];
  for (let i = 0; i < count; i++) {
    const sbdf = ridOfVf(plan, i);
    // Its ids read as ffff; a header type says that it is there.
    const headerType = yield* access.read(sbdf, PCI.HEADER_TYPE, 1);
    if (headerType === 0xff) {
      trace('dom0.pci.vf_silent', { sbdf: formatSbdf(sbdf), physfn: formatSbdf(pf.sbdf) });
      continue;
    }
    vfs.push({
      sbdf,
      vendorId: pf.vendorId,
      deviceId: plan.deviceId,
      classCode: yield* access.read(sbdf, PCI.CLASS_DEVICE, 2),
      headerType: headerType & PCI_HEADER_TYPE.MASK,
      multifunction: false,
      portType: pf.portType,
      acs: false,
      configBytes: PCI_CFG_SPACE_EXP_BYTES,
      parent: pf.parent,
      physfn: pf.sbdf,
      irq: 0, // a virtual function has no pin
      bars: plan.bars.map((bar) => {
        const address = bar.address + i * apertureOf(bar);
        return { ...bar, address, pa: toCpu(address) };
      }),
    });
  }
  return vfs;
}

/** The address of the VF with this index, from 0. */
function ridOfVf({ pf, offset, stride }: VfPlan, index: number): Sbdf {
  return pf.sbdf + offset + index * stride;
}
