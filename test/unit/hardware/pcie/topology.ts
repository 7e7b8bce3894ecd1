/**
 * Fabrics made to measure: configuration spaces of ports and endpoints by what they should be able to do, and an
 * enumeration that gives every board bus its own number and every probe 64 KiB at `barOf`.
 */
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_CAP_ID, PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import type { BoardDescription, BoardFunction, FunctionQuirks } from '#shared/board/description.ts';
import { busOf } from '#shared/ids/sbdf.ts';
import { at, Bench, exampleBoard } from './bench.ts';

/** Offsets of capabilities in every configuration space made here. */
export const EXPRESS = 0x40;
export const PM = 0x80;
export const MSI = 0x90;
export const MSIX = 0xb0;
export const EA = 0xd0;
export const AER = 0x100;
export const ACS = 0x150;
export const SRIOV = 0x180;
export const ARI = 0x1c0;

export interface Shape {
  /** PCI_EXP_TYPE; -1 for a conventional function. */
  readonly type?: number;
  readonly bridge?: boolean;
  /** The capability bits of ACS; no capability when absent. */
  readonly acs?: number;
  readonly pin?: number;
  /** Vectors of MSI-X in BAR 0 from 0x8000; none when absent. */
  readonly vectors?: number;
  /** FLAGS of an MSI capability. */
  readonly msi?: number;
  readonly noSoftReset?: boolean;
  readonly flr?: boolean;
  /** BAR 0 stands here by Enhanced Allocation, 64 KiB; the capability is at EA. */
  readonly fixedBar?: number;
  /** The Next Function Number of an ARI capability; no capability when absent. */
  readonly ari?: number;
  readonly sriov?: { readonly total: number; readonly offset: number; readonly stride: number };
}

export function configOf(shape: Shape): Uint8Array {
  const { type = 0, bridge = false, acs, pin = 0, vectors, msi, flr = true } = shape;
  const config = new Uint8Array(4096);
  const view = new DataView(config.buffer);
  view.setUint32(PCI.VENDOR_ID, 0x1234_1b36, true);
  view.setUint16(PCI.CLASS_DEVICE, bridge ? 0x0604 : 0xff00, true);
  config[PCI.HEADER_TYPE] = bridge ? 1 : 0;
  config[PCI.INTERRUPT_PIN] = pin;
  if (bridge) view.setUint16(PCI_BRIDGE.PREF_MEMORY_BASE, 1, true);
  if (bridge) view.setUint16(PCI_BRIDGE.PREF_MEMORY_LIMIT, 1, true);
  let last: number = PCI.CAPABILITY_LIST;
  const capability = (id: number, offset: number): void => {
    config[last] = offset;
    config[offset] = id;
    last = offset + 1;
    view.setUint16(PCI.STATUS, 0x10, true);
  };
  if (type >= 0) {
    capability(PCI_CAP_ID.EXPRESS, EXPRESS);
    view.setUint16(EXPRESS + 2, 2 | (type << 4), true);
    view.setUint32(EXPRESS + 4, (flr && !bridge ? 0x1000_0000 : 0) | 0x8000, true);
    view.setUint32(EXPRESS + 0x0c, config[0]! << 24, true);
    view.setUint16(EXPRESS + 0x1e, 1, true); // Root Capabilities: RRS Software Visibility
    view.setUint32(EXPRESS + 0x24, 0x20, true); // ARI Forwarding Supported
  }
  capability(PCI_CAP_ID.PM, PM);
  view.setUint16(PM + 2, 3, true);
  view.setUint16(PM + 4, shape.noSoftReset === true ? 8 : 0, true);
  if (msi !== undefined) {
    capability(PCI_CAP_ID.MSI, MSI);
    view.setUint16(MSI + 2, msi, true);
  }
  if (vectors !== undefined) {
    capability(PCI_CAP_ID.MSIX, MSIX);
    view.setUint16(MSIX + 2, vectors - 1, true);
    view.setUint32(MSIX + 4, 0x8000, true);
    view.setUint32(MSIX + 8, 0xc000, true);
  }
  if (shape.fixedBar !== undefined) {
    capability(PCI_CAP_ID.EA, EA);
    config[EA + 2] = 1;
    view.setUint32(EA + 4, 0x80ff_0004, true); // enabled, BAR 0, memory, four doublewords
    view.setUint32(EA + 8, (shape.fixedBar % 2 ** 32) + 2, true);
    view.setUint32(EA + 12, 0xffff, true);
    view.setUint32(EA + 16, Math.floor(shape.fixedBar / 2 ** 32), true);
    view.setUint32(EA + 20, 0, true);
  }
  if (type < 0) return config.slice(0, 256);
  let extended = 0;
  const more = (id: number, offset: number): void => {
    if (extended !== 0) view.setUint16(extended + 2, (view.getUint16(extended + 2, true) & 0xf) | (offset << 4), true);
    view.setUint16(offset, id, true);
    view.setUint16(offset + 2, 1, true);
    extended = offset;
  };
  more(PCI_EXT_CAP_ID.AER, AER);
  view.setUint32(AER + 0x0c, 0x0046_2030, true); // severities as most devices have them
  view.setUint32(AER + 0x14, 0x2000, true); // advisory errors masked
  if (acs !== undefined) {
    more(PCI_EXT_CAP_ID.ACS, ACS);
    view.setUint16(ACS + 4, acs, true);
  }
  if (shape.sriov !== undefined) {
    more(PCI_EXT_CAP_ID.SRIOV, SRIOV);
    view.setUint16(SRIOV + 0x0c, shape.sriov.total, true);
    view.setUint16(SRIOV + 0x0e, shape.sriov.total, true);
    view.setUint16(SRIOV + 0x14, shape.sriov.offset, true);
    view.setUint16(SRIOV + 0x16, shape.sriov.stride, true);
    view.setUint16(SRIOV + 0x1a, 0x5678, true);
    view.setUint32(SRIOV + 0x1c, 0x553, true);
    view.setUint32(SRIOV + 0x24, 0x4, true); // VF BAR 0, 64 bits
  }
  if (shape.ari !== undefined) {
    more(PCI_EXT_CAP_ID.ARI, ARI);
    config[ARI + 5] = shape.ari;
  }
  return config;
}

export type Placed = [address: string, shape: Shape, secondary?: string | FunctionQuirks];

/** Functions by address; a bridge names the bus below it, in hexadecimal, an endpoint what is wrong with it. */
export function bench(...placed: readonly Placed[]): Bench {
  return new Bench(description(...placed));
}

/** The same as a board. */
export function description(...placed: readonly Placed[]): BoardDescription {
  const functions = placed.map(([address, shape, extra]): BoardFunction => {
    const sizes: [number, number][] = shape.bridge === true || shape.fixedBar !== undefined ? [] : [[0, 0x1_0000]];
    if (shape.sriov !== undefined) sizes.push([7, 0x1_0000]);
    return {
      sbdf: at(address),
      config: configOf(shape),
      model: shape.bridge === true ? 'inert' : 'dma-probe',
      barSizes: new Map(sizes),
      secondaryBus: typeof extra === 'string' ? Number.parseInt(extra, 16) : undefined,
      quirks: typeof extra === 'object' ? extra : undefined,
    };
  });
  return { ...exampleBoard(), functions };
}

/** Windows have a MiB for each bus, from here. */
export const WINDOW_BASE = 0x1000_0000;

/** Where `place` puts BAR 0 of a function. */
export function barOf(address: string): number {
  const sbdf = at(address);
  return WINDOW_BASE + busOf(sbdf) * 0x10_0000 + ((sbdf & 0xff) % 16) * 0x1_0000;
}

/** Opens a bridge for the buses `first` to `last`, numbered as on the board. */
export function open(b: Bench, address: string, first: number, last = first): void {
  const bridge = at(address);
  b.openPort(bridge, first, WINDOW_BASE + first * 0x10_0000, WINDOW_BASE + (last + 1) * 0x10_0000 - 1);
  b.setCfg(bridge, PCI_BRIDGE.PRIMARY_BUS, 1, busOf(bridge));
  b.setCfg(bridge, PCI_BRIDGE.SUBORDINATE_BUS, 1, last);
}

/** Places and enables an endpoint. */
export function place(b: Bench, address: string): void {
  b.setCfg(at(address), PCI.BASE_ADDRESS_0, 4, barOf(address));
  b.setCfg(at(address), PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
}
