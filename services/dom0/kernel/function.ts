/** A PCI function as dom0's kernel knows it, in memory. Nothing lives here. */
import type { Sbdf } from '#shared/ids/sbdf.ts';
import type { BarInfo } from '#shared/kernel/pci-core.ts';

export interface PciFunction {
  readonly sbdf: Sbdf;
  /** Of a virtual function: what its physical one says. */
  readonly vendorId: number;
  readonly deviceId: number;
  /** Base class and sub-class. */
  readonly classCode: number;
  /** 0 endpoint, 1 bridge. */
  readonly headerType: number;
  /** One of several functions of a device; false for a virtual function. */
  readonly multifunction: boolean;
  /** PCI_EXP_TYPE, -1 for a conventional function. */
  readonly portType: number;
  /** Its ACS is on, with all that it can of what keeps peers apart. */
  readonly acs: boolean;
  /** Bytes of configuration space: 256, or 4096 for PCI Express. */
  readonly configBytes: number;
  /** The bridge above; undefined on a root bus. */
  readonly parent: Sbdf | undefined;
  /** Of a virtual function: its physical one. */
  readonly physfn: Sbdf | undefined;
  /** The INTID of the SPI that its pin leads to; 0 when it has no pin, or that leads nowhere. */
  readonly irq: number;
  readonly bars: Bar[];
}

export interface Bar extends BarInfo {
  /** The physical address that the CPU uses; 0 while not placed. */
  pa: number;
}

/** The functions on the buses below a bridge, from a list of all. */
export function functionsUnder(functions: readonly PciFunction[], bridge: Sbdf): PciFunction[] {
  const direct = functions.filter((f) => f.parent === bridge);
  return direct.flatMap((f) => [f, ...functionsUnder(functions, f.sbdf)]);
}

/** The virtual functions of a physical one that exist, from a list of all. */
export function virtualFunctionsOf(functions: Iterable<PciFunction>, physfn: Sbdf): PciFunction[] {
  return [...functions].filter((f) => f.physfn === physfn);
}
