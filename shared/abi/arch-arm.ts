/**
 * The guest's physical address map (xen/include/public/arch-arm.h), with two additions of ours: the virtual ITS and
 * the names of the two windows for BARs (T21), which are the vPCI windows of current Xen.
 */
export const GUEST_GICV2_GICD_BASE = 0x0300_1000;
export const GUEST_GICV2_GICD_SIZE = 0x0000_1000;
export const GUEST_GICV2_GICC_BASE = 0x0300_2000;
export const GUEST_GICV2_GICC_SIZE = 0x0000_2000;
export const GUEST_GICV3_GICD_BASE = 0x0300_1000;
export const GUEST_GICV3_GICD_SIZE = 0x0001_0000;
export const GUEST_GICV3_GICR0_BASE = 0x0302_0000;
export const GUEST_GICV3_RDIST_STRIDE = 0x0002_0000;
export const GUEST_GICV3_GICR0_SIZE = 0x0100_0000;
/** Control frame, then the translation frame that holds the doorbell. */
export const GUEST_VITS_BASE = 0x0402_0000;
export const GUEST_VITS_SIZE = 0x0002_0000;
/** The hole for BARs below 4 GiB. */
export const GUEST_MMIO_BAR_BASE_32 = 0x2300_0000;
export const GUEST_MMIO_BAR_SIZE_32 = 0x1000_0000;
/** The hole for 64-bit prefetchable BARs. */
export const GUEST_MMIO_BAR_BASE_64 = 0x1_0000_0000;
export const GUEST_MMIO_BAR_SIZE_64 = 0x1_0000_0000;
export const GUEST_GNTTAB_BASE = 0x3800_0000;
export const GUEST_GNTTAB_SIZE = 0x0100_0000;
export const GUEST_MAGIC_BASE = 0x3900_0000;
export const GUEST_MAGIC_SIZE = 0x0100_0000;
export const GUEST_RAM0_BASE = 0x4000_0000;
export const GUEST_RAM0_SIZE = 0xc000_0000;
export const GUEST_RAM1_BASE = 0x2_0000_0000;
export const GUEST_RAM1_SIZE = 0xfe_0000_0000;

/** INTIDs of the private interrupts of a guest. */
export const GUEST_EVTCHN_PPI = 31;
export const GUEST_TIMER_VIRT_PPI = 27;

export const XEN_PAGE_SHIFT = 12;
export const XEN_PAGE_SIZE = 4096;
