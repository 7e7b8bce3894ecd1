/**
 * The device tree that a guest boots with (Xen tools/libs/light/libxl_arm.c), and the banks of its memory. Its GIC has the
 * version that Xen gave the domain. One addition of ours: the virtual ITS below a GICv3, which is the msi-parent of what
 * pcifront finds (T9).
 * Not modelled: a PCI host bridge node; the guest's bus comes with pcifront.
 */
import {
  GUEST_EVTCHN_PPI,
  GUEST_GICV2_GICC_BASE,
  GUEST_GICV2_GICC_SIZE,
  GUEST_GICV2_GICD_BASE,
  GUEST_GICV2_GICD_SIZE,
  GUEST_GICV3_GICD_BASE,
  GUEST_GICV3_GICD_SIZE,
  GUEST_GICV3_GICR0_BASE,
  GUEST_GICV3_GICR0_SIZE,
  GUEST_GNTTAB_BASE,
  GUEST_GNTTAB_SIZE,
  GUEST_RAM0_BASE,
  GUEST_RAM0_SIZE,
  GUEST_RAM1_BASE,
  GUEST_RAM1_SIZE,
  GUEST_VITS_BASE,
  GUEST_VITS_SIZE,
} from '#shared/abi/arch-arm.ts';
import { buildFdt } from '#shared/fdt/blob.ts';
import { FdtNode, type FdtRegion } from '#shared/fdt/node.ts';

const MIB = 1024 * 1024;
const GIC_PHANDLE = 0xfde8;
const ITS_PHANDLE = 0xfde9;
/** Second cell of a PPI is INTID - 16; level, low, for all CPUs. */
const ppi = (intid: number): number[] => [1, intid - 16, 0xf08];

export interface GuestShape {
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly cmdline: string;
  readonly gicVersion: 2 | 3;
}

/** Where a guest's RAM is: up to 3 GiB from GUEST_RAM0_BASE, the rest from GUEST_RAM1_BASE. */
export function ramBanks(memoryBytes: number): FdtRegion[] {
  const first = Math.min(memoryBytes, GUEST_RAM0_SIZE);
  const banks = [{ address: GUEST_RAM0_BASE, sizeBytes: first }];
  if (memoryBytes > first) banks.push({ address: GUEST_RAM1_BASE, sizeBytes: memoryBytes - first });
  return banks;
}

/** Where the tree goes: 128 MiB into RAM, or at the end of a smaller RAM (libxc xg_dom_arm.c). */
export function devicetreeIpa(memoryBytes: number, treeBytes: number): number {
  const bank = ramBanks(memoryBytes)[0]!;
  const room = Math.ceil(treeBytes / (2 * MIB)) * 2 * MIB;
  return bank.address + Math.min(128 * MIB, bank.sizeBytes - room);
}

export function guestDevicetree(guest: GuestShape): Uint8Array {
  const root = new FdtNode();
  root.setStrings('model', 'XENVM-4.23').setStrings('compatible', 'xen,xenvm-4.23', 'xen,xenvm');
  root.setCells('interrupt-parent', GIC_PHANDLE).setCells('#address-cells', 2).setCells('#size-cells', 2);
  root.addChild('chosen').setStrings('bootargs', guest.cmdline);
  const cpus = root.addChild('cpus').setCells('#address-cells', 1).setCells('#size-cells', 0);
  for (let i = 0; i < guest.vcpus; i++) {
    const cpu = cpus.addChild(`cpu@${i.toString(16)}`);
    cpu.setStrings('device_type', 'cpu').setStrings('compatible', 'arm,armv8');
    cpu.setStrings('enable-method', 'psci').setCells('reg', i);
  }
  const psci = root.addChild('psci').setStrings('compatible', 'arm,psci-1.0', 'arm,psci-0.2', 'arm,psci');
  psci.setStrings('method', 'hvc').setCells('cpu_off', 1).setCells('cpu_on', 2);
  const banks = ramBanks(guest.memoryBytes);
  for (const bank of banks) {
    root
      .addChild(`memory@${bank.address.toString(16)}`)
      .setStrings('device_type', 'memory')
      .setReg(bank);
  }
  if (guest.gicVersion === 2) addGicV2(root);
  else addGicV3(root);
  const timer = root.addChild('timer').setStrings('compatible', 'arm,armv8-timer');
  timer.setCells('interrupts', ...ppi(29), ...ppi(30), ...ppi(27)).setCells('interrupt-parent', GIC_PHANDLE);
  const hypervisor = root.addChild('hypervisor').setStrings('compatible', 'xen,xen-4.23', 'xen,xen');
  hypervisor.setReg({ address: GUEST_GNTTAB_BASE, sizeBytes: GUEST_GNTTAB_SIZE }, ...unusedRam(banks));
  hypervisor.setCells('interrupts', ...ppi(GUEST_EVTCHN_PPI)).setCells('interrupt-parent', GIC_PHANDLE);
  if (guest.gicVersion === 3) hypervisor.setCells('msi-parent', ITS_PHANDLE);
  return buildFdt(root);
}

function addGicV2(root: FdtNode): void {
  const gic = root.addChild(`interrupt-controller@${GUEST_GICV2_GICD_BASE.toString(16)}`);
  gic.setStrings('compatible', 'arm,gic-400', 'arm,cortex-a15-gic');
  gic.setCells('#interrupt-cells', 3).setCells('#address-cells', 0).setFlag('interrupt-controller');
  gic.setReg(
    { address: GUEST_GICV2_GICD_BASE, sizeBytes: GUEST_GICV2_GICD_SIZE },
    { address: GUEST_GICV2_GICC_BASE, sizeBytes: GUEST_GICV2_GICC_SIZE },
  );
  gic.setCells('linux,phandle', GIC_PHANDLE).setCells('phandle', GIC_PHANDLE);
}

function addGicV3(root: FdtNode): void {
  const gic = root.addChild(`interrupt-controller@${GUEST_GICV3_GICD_BASE.toString(16)}`);
  gic.setStrings('compatible', 'arm,gic-v3').setCells('#interrupt-cells', 3).setFlag('interrupt-controller');
  gic.setCells('#address-cells', 2).setCells('#size-cells', 2).setFlag('ranges');
  gic.setReg(
    { address: GUEST_GICV3_GICD_BASE, sizeBytes: GUEST_GICV3_GICD_SIZE },
    { address: GUEST_GICV3_GICR0_BASE, sizeBytes: GUEST_GICV3_GICR0_SIZE },
  );
  gic.setCells('linux,phandle', GIC_PHANDLE).setCells('phandle', GIC_PHANDLE);
  const its = gic.addChild(`msi-controller@${GUEST_VITS_BASE.toString(16)}`);
  its.setStrings('compatible', 'arm,gic-v3-its').setFlag('msi-controller').setCells('#msi-cells', 1);
  its.setReg({ address: GUEST_VITS_BASE, sizeBytes: GUEST_VITS_SIZE }).setCells('phandle', ITS_PHANDLE);
}

/** The extended regions: what the banks of RAM leave free, whole superpages. */
function unusedRam(banks: readonly FdtRegion[]): FdtRegion[] {
  const regions: FdtRegion[] = [];
  const all = [
    { address: GUEST_RAM0_BASE, sizeBytes: GUEST_RAM0_SIZE },
    { address: GUEST_RAM1_BASE, sizeBytes: GUEST_RAM1_SIZE },
  ];
  for (const [i, whole] of all.entries()) {
    const used = banks[i]?.sizeBytes ?? 0;
    const start = whole.address + Math.ceil(used / (2 * MIB)) * 2 * MIB;
    const end = whole.address + whole.sizeBytes;
    if (end > start) regions.push({ address: start, sizeBytes: end - start });
  }
  return regions;
}
