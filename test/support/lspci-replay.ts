/**
 * Every function of a dump on a fabric of its own, enumerated as a kernel does it, and read back as a dump.
 * Before the reading, the controls that are off at power-on (`controlsOf`) get the values that the dumped system had written
 * there, by configuration writes, and the device does again what the dumped one was doing: its pin, interrupt messages that
 * it holds back, requests that it waits for. What is not in that list was there from power-on.
 */
import { readFileSync } from 'node:fs';
import { PCI_BRIDGE, PCI_BRIDGE_CTL } from '#shared/arch/pci/bridge-header.ts';
import {
  PCI_ACS,
  PCI_AER,
  PCI_ATS,
  PCI_CAP_ID,
  PCI_EXT_CAP_ID,
  PCI_PASID,
  PCI_PM,
  PCI_PRI,
} from '#shared/arch/pci/capability.ts';
import {
  PCI_EXP,
  PCI_EXP_DEVCTL2_ARI,
  PCI_EXP_DEVSTA,
  PCI_EXP_FLAGS,
  PCI_EXP_LNKCTL_LD,
  PCI_EXP_RTCTL_RRS_SVE,
  PCI_EXP_TYPE,
} from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND, PCI_HEADER_TYPE, PCI_ROM, PCI_STATUS } from '#shared/arch/pci/header.ts';
import { msiLayout, PCI_MSI, PCI_MSI_FLAGS } from '#shared/arch/pci/msi.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { PCI_SRIOV } from '#shared/arch/pci/sriov.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import type { Op } from '#shared/core/op.ts';
import { busOf, devfnOf, segmentOf } from '#shared/ids/sbdf.ts';
import { type ConfigAccess, findExtendedCapability, readBars, scanBus } from '#shared/kernel/pci-core.ts';
import { formatLspci, type LspciFunction, parseLspci } from '#shared/lspci/dump.ts';
import { loadBoard } from '../../services/hardware/board/load.ts';
import type { Board } from '../../services/hardware/board.ts';
import { capabilitiesOf, extendedCapabilitiesOf, word } from '../../services/hardware/pcie/capability-list.ts';
import { PcieFabric } from '../../services/hardware/pcie/fabric.ts';
import type { PciFunction } from '../../services/hardware/pcie/pci-function.ts';

const DTB = new URL('../../examples/boards/qemu-virt.dtb', import.meta.url);
const ABORTING = { dmaRead: () => 0, dmaWrite: () => 0, dmaWide: () => 0 };
const NEVER = { after: () => {} };

export interface Replay {
  /** What the fabric returned, as a dump that lspci -F reads. */
  readonly text: string;
  /** Functions that the enumeration reached through ECAM; the others were read as after reset. */
  readonly enumerated: number;
  readonly functions: number;
}

/** A control that is off at power-on here: what it is, where it stands, and which bits of it. */
type Control = readonly [what: string, offset: number, size: 1 | 2 | 4, mask: number];

/** What an operating system had written into a dumped function, in the order to write it in: what hides comes last. */
export function controlsOf(config: Uint8Array): Control[] {
  const found: Control[] = [];
  const last: Control[] = [];
  const capability = new Map(
    capabilitiesOf(config)
      .map(({ id, offset }) => [id, offset] as const)
      .reverse(),
  );
  const extended = new Map(
    extendedCapabilitiesOf(config)
      .map(({ id, offset }) => [id, offset] as const)
      .reverse(),
  );
  found.push(['Command', PCI.COMMAND, 2, 0xffff]);
  if (isBridge(config)) last.push(['Bridge Control: reset', PCI_BRIDGE.CONTROL, 2, PCI_BRIDGE_CTL.BUS_RESET]);

  const msi = capability.get(PCI_CAP_ID.MSI);
  if (msi !== undefined) {
    const flags = word(config, msi + PCI_MSI.FLAGS);
    const { data, mask } = msiLayout(flags);
    const enables = PCI_MSI_FLAGS.ENABLE | (PCI_MSI_FLAGS.MULTIPLE_MASK << PCI_MSI_FLAGS.MULTIPLE_ENABLE_SHIFT);
    found.push(['MSI: address', msi + PCI_MSI.ADDRESS_LO, 4, 0xffff_ffff]);
    if ((flags & PCI_MSI_FLAGS.ADDRESS_64) !== 0)
      found.push(['MSI: address', msi + PCI_MSI.ADDRESS_HI, 4, 0xffff_ffff]);
    found.push(['MSI: data', msi + data, 2, 0xffff]);
    if (mask >= 0) found.push(['MSI: mask', msi + mask, 4, 0xffff_ffff]);
    found.push(['MSI: enable, vectors enabled', msi + PCI_MSI.FLAGS, 2, enables]);
  }
  const msix = capability.get(PCI_CAP_ID.MSIX);
  if (msix !== undefined)
    found.push([
      'MSI-X: enable, function mask',
      msix + PCI_MSIX.FLAGS,
      2,
      PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL,
    ]);
  const express = capability.get(PCI_CAP_ID.EXPRESS);
  if (express !== undefined) {
    const type = (word(config, express + PCI_EXP.FLAGS) & PCI_EXP_FLAGS.TYPE_MASK) >>> PCI_EXP_FLAGS.TYPE_SHIFT;
    const port = type === PCI_EXP_TYPE.ROOT_PORT || type === PCI_EXP_TYPE.DOWNSTREAM;
    if (type === PCI_EXP_TYPE.ROOT_PORT)
      found.push(['Root Control: retry visibility', express + PCI_EXP.RTCTL, 2, PCI_EXP_RTCTL_RRS_SVE]);
    if (port) found.push(['Device Control 2: ARI forwarding', express + PCI_EXP.DEVCTL2, 2, PCI_EXP_DEVCTL2_ARI]);
    if (port) last.push(['Link Control: disable', express + PCI_EXP.LNKCTL, 2, PCI_EXP_LNKCTL_LD]);
  }

  const aer = extended.get(PCI_EXT_CAP_ID.AER);
  if (aer !== undefined) found.push(['AER: root command', aer + PCI_AER.ROOT_COMMAND, 4, 0x7]);
  const acs = extended.get(PCI_EXT_CAP_ID.ACS);
  if (acs !== undefined) found.push(['ACS control', acs + PCI_ACS.CTRL, 2, PCI_ACS.CTRL_MASK]);
  const ats = extended.get(PCI_EXT_CAP_ID.ATS);
  if (ats !== undefined) found.push(['ATS control', ats + PCI_ATS.CTRL, 2, 0xffff]);
  const pri = extended.get(PCI_EXT_CAP_ID.PRI);
  if (pri !== undefined) found.push(['PRI control: enable', pri + PCI_PRI.CTRL, 2, PCI_PRI.CTRL_ENABLE]);
  const pasid = extended.get(PCI_EXT_CAP_ID.PASID);
  if (pasid !== undefined) found.push(['PASID control', pasid + PCI_PASID.CTRL, 2, 0xffff]);
  const sriov = extended.get(PCI_EXT_CAP_ID.SRIOV);
  if (sriov !== undefined) {
    found.push(['SR-IOV: system page size', sriov + PCI_SRIOV.SYS_PGSIZE, 4, 0xffff_ffff]);
    found.push(['SR-IOV: NumVFs', sriov + PCI_SRIOV.NUM_VF, 2, 0xffff]);
    found.push(['SR-IOV: enable, memory, ARI', sriov + PCI_SRIOV.CTRL, 2, 0xffff]);
  }
  const pm = capability.get(PCI_CAP_ID.PM);
  if (pm !== undefined) last.push(['PMCSR: power state', pm + PCI_PM.CTRL, 1, PCI_PM.CTRL_STATE_MASK]);
  return [...found, ...last].filter(([, offset, size]) => offset + size <= config.length);
}

/** Domains that do not fit 16 bits get numbers that are free: Xen's segments have no more. */
export function narrowDomains(text: string): string {
  const known = new Map<string, string>();
  return text.replace(/^([0-9a-f]{5,8})(:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])/gim, (_all, domain: string, rest: string) => {
    let narrow = known.get(domain);
    if (narrow === undefined) {
      narrow = (0xf000 + known.size).toString(16);
      known.set(domain, narrow);
    }
    return narrow + rest;
  });
}

/** Plays a dump through the fabric. Throws DumpError. */
export function replay(text: string, name: string): Replay {
  const functions = parseLspci(text, name);
  const bySegment = new Map<number, LspciFunction[]>();
  for (const fn of functions) {
    const there = bySegment.get(segmentOf(fn.sbdf));
    if (there === undefined) bySegment.set(segmentOf(fn.sbdf), [fn]);
    else there.push(fn);
  }
  const out = new Map<LspciFunction, Uint8Array>();
  let enumerated = 0;
  for (const segment of bySegment.values()) {
    const left = new Set(segment);
    while (left.size > 0) enumerated += replayRoot(takeRoot(left), out);
  }
  const read = functions.map((fn) => ({ ...fn, config: out.get(fn)! }));
  return { text: formatLspci(read), enumerated, functions: functions.length };
}

/** Takes one root bus, the lowest, and all that hangs below it by the dump's own bus numbers. */
function takeRoot(left: Set<LspciFunction>): LspciFunction[] {
  const root = Math.min(...[...left].map((fn) => busOf(fn.sbdf)));
  const buses = [root];
  const taken: LspciFunction[] = [];
  for (const bus of buses) {
    for (const fn of [...left]) {
      if (busOf(fn.sbdf) !== bus) continue;
      left.delete(fn);
      taken.push(fn);
      const below = fn.config[PCI_BRIDGE.SECONDARY_BUS]!;
      if (isBridge(fn.config) && below > root && !buses.includes(below)) buses.push(below);
    }
  }
  return taken;
}

function isBridge(config: Uint8Array): boolean {
  return (config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK) === PCI_HEADER_TYPE.BRIDGE;
}

/** Configuration accesses to one function. */
interface Access {
  readonly read: (offset: number, size: number) => number;
  readonly write: (offset: number, size: number, value: number) => void;
}

function replayRoot(functions: readonly LspciFunction[], out: Map<LspciFunction, Uint8Array>): number {
  const root = busOf(functions[0]!.sbdf);
  const led = new Set([root]);
  const placed = functions.map((fn): BoardFunction => {
    // Two bridges of one dump that claim the same bus: the second leads nowhere here.
    const below = fn.config[PCI_BRIDGE.SECONDARY_BUS]!;
    const leads = isBridge(fn.config) && below > root && !led.has(below);
    if (leads) led.add(below);
    return {
      sbdf: fn.sbdf & 0xffff,
      config: fn.config,
      model: 'inert',
      barSizes: new Map(),
      secondaryBus: leads ? below : 0,
    };
  });
  const example = loadBoard({ dtb: new Uint8Array(readFileSync(DTB)), functions: [] });
  const bridge = { ...example.bridges[0]!, segment: 0, busRange: { first: root, last: 255 } };
  const board: Board = { ...example, bridges: [bridge], functions: placed };
  const fabric = new PcieFabric(board, () => ABORTING, NEVER);
  const host = fabric.bridges[0]!;
  const at = (sbdf: number, offset: number): number =>
    (busOf(sbdf) - root) * 0x10_0000 + devfnOf(sbdf) * 0x1000 + offset;
  const access: ConfigAccess = {
    read: (sbdf, offset, size) => ready(host.ecamTarget.read(at(sbdf, offset), size)),
    write: (sbdf, offset, size, value) => ready(host.ecamTarget.write(at(sbdf, offset), size, value)),
  };
  const reached = new Set<number>();
  const upperHalf = (sbdf: number, offset: number): number => {
    const { boardSbdf } = host.find(busOf(sbdf), devfnOf(sbdf))!;
    const { config } = functions.find((fn) => (fn.sbdf & 0xffff) === boardSbdf)!;
    return new DataView(config.buffer, config.byteOffset).getUint32(offset, true);
  };
  new Enumerator(access, reached, upperHalf).bus(root);
  const all = functions.map((fn) => {
    const live = fabric.functionAt(fn.sbdf & 0xffff)!;
    const { rid } = live;
    return { fn, live, rid, seen: reached.has(rid) && host.find(rid >>> 8, rid & 0xff) === live };
  });
  // From the leaves up: a port may have been off, disabled or in reset, and hides what is below once it is again.
  for (const { fn, live, rid, seen } of all.reverse()) {
    // A dump without what leads here: the function as after power-on, with addresses as a kernel would give them.
    if (!seen) place(live, fn.config);
    const through: Access = seen
      ? {
          read: (offset, size) => host.ecamTarget.read(at(rid, offset), size) >>> 0,
          write: (offset, size, value) => run(access.write(rid, offset, size, value)),
        }
      : {
          read: (offset, size) => live.configRead(offset, size),
          write: (offset, size, value) => live.configWrite(offset, size, value, rid >>> 8),
        };
    control(fn.config, live, through);
    const config = new Uint8Array(fn.config.length);
    for (let offset = 0; offset < config.length; ) {
      const size = sizeAt(offset);
      const value = through.read(offset, size);
      for (let i = 0; i < size; i++) config[offset + i] = value >>> (8 * i);
      offset += size;
    }
    out.set(fn, config);
  }
  return all.filter(({ seen }) => seen).length;
}

/** The dump's values in the controls of a function, and its device again as it was. */
function control(dump: Uint8Array, live: PciFunction, access: Access): void {
  const view = new DataView(dump.buffer, dump.byteOffset, dump.length);
  const value = (offset: number, size: number): number =>
    size === 1 ? view.getUint8(offset) : size === 2 ? view.getUint16(offset, true) : view.getUint32(offset, true);
  const { express, msi } = live.fields;
  if (express >= 0) {
    const pending = value(express + PCI_EXP.DEVSTA, 2) & PCI_EXP_DEVSTA.TRANSACTIONS_PENDING;
    live.setTransactionsPending(pending !== 0);
  }
  for (const [, offset, size, mask] of controlsOf(dump)) {
    const before = access.read(offset, size);
    access.write(offset, size, ((before & ~mask) | (value(offset, size) & mask)) >>> 0);
  }
  live.setIntx((value(PCI.STATUS, 2) & PCI_STATUS.INTERRUPT) !== 0);
  if (msi < 0) return;
  const { pending } = msiLayout(value(msi + PCI_MSI.FLAGS, 2));
  if (pending < 0) return;
  for (let v = 0; v < 32; v++) if ((value(msi + pending, 4) & (1 << v)) !== 0) live.raise(v);
}

/** Addresses for a function that no enumeration reaches. */
function place(live: PciFunction, dump: Uint8Array): void {
  for (const bar of live.bars) {
    live.configWrite(bar.offset, 4, bar.kind === 'io' ? 0x1000 : 0x1000_0000, 0);
    const high = new DataView(dump.buffer, dump.byteOffset).getUint32(bar.offset + 4, true);
    if (bar.kind === 'mem64') live.configWrite(bar.offset + 4, 4, high, 0);
  }
}

/** Doublewords of every row are read as 4, 2 + 2, 1 + 1 + 1 + 1 and 4 bytes. */
function sizeAt(offset: number): number {
  return [4, 2, 1, 4][(offset >>> 2) & 3]!;
}

/** Bus numbers depth first, BARs one behind the other, every window open, memory and bus master on. */
class Enumerator {
  readonly #access: ConfigAccess;
  readonly #reached: Set<number>;
  readonly #upperHalf: (sbdf: number, offset: number) => number;
  #next = 0;
  #address = 0x1000_0000;

  /** `upperHalf` reads a doubleword of the dump behind a function. */
  constructor(access: ConfigAccess, reached: Set<number>, upperHalf: (sbdf: number, offset: number) => number) {
    this.#upperHalf = upperHalf;
    this.#access = access;
    this.#reached = reached;
  }

  bus(bus: number): void {
    if (this.#next === 0) this.#next = bus + 1;
    for (const found of run(scanBus(this.#access, 0, bus))) {
      this.#reached.add(found.sbdf);
      for (const bar of run(readBars(this.#access, found.sbdf))) this.#place(found.sbdf, bar);
      this.#extras(found.sbdf, found.headerType === PCI_HEADER_TYPE.BRIDGE ? PCI_BRIDGE.ROM_ADDRESS : PCI.ROM_ADDRESS);
      if (found.headerType === PCI_HEADER_TYPE.BRIDGE) this.#bridge(found.sbdf, bus);
      this.#write(found.sbdf, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    }
  }

  #place(sbdf: number, bar: { index: number; kind: string; sizeBytes: number }): void {
    const io = bar.kind === 'io';
    const size = Math.min(bar.sizeBytes, 0x100_0000);
    this.#address = Math.ceil(this.#address / size) * size;
    this.#write(sbdf, PCI.BASE_ADDRESS_0 + 4 * bar.index, 4, io ? 0x1000 : this.#address);
    this.#address += size;
    // A 64-bit BAR stays in the 4 GiB where the dump has it, for lspci takes an upper half that is not 0 for a BAR too.
    const high = PCI.BASE_ADDRESS_0 + 4 * bar.index + 4;
    if (bar.kind === 'mem64') this.#write(sbdf, high, 4, this.#upperHalf(sbdf, high));
  }

  /** The expansion ROM, and the VF BARs. */
  #extras(sbdf: number, rom: number): void {
    const sriov = run(findExtendedCapability(this.#access, sbdf, PCI_EXT_CAP_ID.SRIOV));
    const offsets = sriov === 0 ? [] : Array.from({ length: 6 }, (_, i) => sriov + PCI_SRIOV.BAR + 4 * i);
    for (const offset of [rom, ...offsets]) {
      const before = run(this.#access.read(sbdf, offset, 4));
      this.#write(sbdf, offset, 4, offset === rom ? PCI_ROM.ADDRESS_MASK : 0xffff_ffff);
      const low = run(this.#access.read(sbdf, offset, 4));
      this.#write(sbdf, offset, 4, before);
      if (low !== before) this.#write(sbdf, offset, 4, 0x1000_0000);
    }
  }

  #bridge(sbdf: number, bus: number): void {
    if (this.#next > 255) return;
    const below = this.#next++;
    this.#write(sbdf, PCI_BRIDGE.PRIMARY_BUS, 1, bus);
    this.#write(sbdf, PCI_BRIDGE.SECONDARY_BUS, 1, below);
    this.#write(sbdf, PCI_BRIDGE.SUBORDINATE_BUS, 1, 255);
    this.bus(below);
    this.#write(sbdf, PCI_BRIDGE.SUBORDINATE_BUS, 1, this.#next - 1);
  }

  #write(sbdf: number, offset: number, size: number, value: number): void {
    run(this.#access.write(sbdf, offset, size, value));
  }
}

// biome-ignore lint/correctness/useYield: it has nothing to wait for
function* ready<T>(value: T): Op<T> {
  return value;
}

function run<T>(op: Op<T>): T {
  const step = op.next();
  if (!step.done) throw new Error(`the operation waits: ${step.value.step}`);
  return step.value;
}
