/**
 * A whole machine as Arm's compliance suite finds it when it starts: every host bridge enumerated, endpoints enabled,
 * interrupts on at every PE, every ITS with its tables and a collection at "its" PE, SMMUs passing everything through.
 * dma-probe is the suite's exerciser.
 */
import { GICD_CTLR, GICD_CTLR_EnableGrp1 } from '#shared/arch/gic/distributor.ts';
import {
  encodeGitsBaser,
  encodeGitsCbaser,
  GITS_BASER,
  GITS_CBASER,
  GITS_CTLR,
  GITS_CWRITER,
  type RegPair,
} from '#shared/arch/gic/its.ts';
import { encodeInv, encodeMapc, encodeMapd, encodeMapti, itsCommandBytes } from '#shared/arch/gic/its-commands.ts';
import {
  encodeGicrPendbaser,
  encodeGicrPropbaser,
  GICR_CTLR,
  GICR_PENDBASER,
  GICR_PROPBASER,
  GICR_SIZE_BYTES,
} from '#shared/arch/gic/redistributor.ts';
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import {
  PCI_MSIX,
  PCI_MSIX_BIR_MASK,
  PCI_MSIX_ENTRY,
  PCI_MSIX_FLAGS,
  PCI_MSIX_OFFSET_MASK,
} from '#shared/arch/pci/msix.ts';
import { SMMU_GBPA } from '#shared/arch/smmu/v3.ts';
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import type { BoardBridge } from '#shared/board/parts.ts';
import { requireGicv3 } from '#shared/board/parts.ts';
import type { Op } from '#shared/core/op.ts';
import { lookupRid } from '#shared/fdt/pci-bindings.ts';
import { busOf, devfnOf, parseSbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { type ConfigAccess, findCapability } from '#shared/kernel/pci-core.ts';
import { wordWith } from '#shared/regs/field.ts';
import { enumerate } from '../../../services/dom0/kernel/enumerate.ts';
import type { PciFunction } from '../../../services/dom0/kernel/function.ts';
import { loadBoard } from '../../../services/hardware/board/load.ts';
import { Machine } from '../../../services/hardware/machine.ts';
import { hostOf, ready } from '../../support/bridge-access.ts';
import { Clock, le } from '../../unit/hardware/machine-rig.ts';

const NOTHING = 1023;
const ATTRIBUTES = { InnerCache: 7, OuterCache: 0, Shareability: 1 };

export const NUMA = 'examples/boards/numa-4its.yaml';
export const VIRT = 'examples/boards/qemu-virt.yaml';

export function at(text: string): number {
  const sbdf = parseSbdf(text);
  if (sbdf === undefined) throw new Error(`not an address: ${text}`);
  return sbdf;
}

export function run<T>(op: Op<T>): T {
  const step = op.next();
  if (!step.done) throw new Error(`the operation waits: ${step.value.step}`);
  return step.value;
}

export class Platform {
  readonly clock = new Clock();
  readonly machine: Machine;
  /** By SBDF, from an enumeration of every bridge. */
  readonly functions = new Map<number, PciFunction>();
  /** RAM that a test may use, 64 MiB at the end of what the rig uses. */
  readonly freePa: number;
  readonly #ramPa: number;
  readonly #writers: number[];
  readonly #devices = new Set<string>();

  constructor(board: string | BoardDescription) {
    const description = typeof board === 'string' ? readBoard(board) : board;
    this.machine = new Machine(loadBoard(description), this.clock, { interruptPending: () => {} });
    this.#ramPa = this.machine.board.memory[0]!.pa + 0x800_0000;
    this.freePa = this.#ramPa + 0x800_0000;
    this.#writers = this.machine.its.map(() => 0);
    for (const bridge of this.machine.board.bridges) {
      for (const found of run(enumerate(this.access, hostOf(bridge), () => {}))) this.functions.set(found.sbdf, found);
    }
    for (const { sbdf, headerType } of this.functions.values()) {
      if (headerType === 0) this.setCfg(sbdf, PCI.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER);
    }
    for (const { registers } of this.machine.board.smmus)
      this.write(registers.pa + SMMU_GBPA.offset, le(wordWith(SMMU_GBPA, { Update: 1 })));
    this.#startInterrupts();
  }

  get access(): ConfigAccess {
    return {
      read: (sbdf, offset, sizeBytes) => ready(this.cfg(sbdf, offset, sizeBytes)),
      write: (sbdf, offset, sizeBytes, value) => ready(this.setCfg(sbdf, offset, sizeBytes, value)),
    };
  }

  cfg(sbdf: number, offset: number, sizeBytes = 4): number {
    return this.read(this.#configPa(sbdf) + offset, sizeBytes);
  }

  setCfg(sbdf: number, offset: number, sizeBytes: number, value: number): void {
    this.write(this.#configPa(sbdf) + offset, le(value, sizeBytes));
  }

  /** What a PE with the MMU off does. */
  read(pa: number, sizeBytes = 4): number {
    return this.machine.bus.read(pa, sizeBytes) ? this.machine.bus.low : 0xffff_ffff;
  }

  write(pa: number, bytes: Uint8Array): void {
    this.machine.bus.writeBytes(pa, bytes, 0, bytes.length);
  }

  /** The registers of the exerciser at this place. */
  exerciser(sbdf: number): (register: number, value?: number) => number {
    const bar = this.functions.get(sbdf)!.bars.find(({ index }) => index === 0)!.pa;
    return (register, value) => {
      if (value === undefined) return this.read(bar + register);
      this.write(bar + register, le(value));
      return value;
    };
  }

  cap(sbdf: number, id: number): number {
    return run(findCapability(this.access, sbdf, id));
  }

  bridgeOf(sbdf: number): BoardBridge {
    return this.machine.board.bridges.find(({ segment }) => segment === segmentOf(sbdf))!;
  }

  /** Which ITS msi-map names for a function, and its DeviceID there. */
  itsOf(sbdf: number): { readonly its: number; readonly deviceId: number } {
    const found = lookupRid(this.bridgeOf(sbdf).msiMap!, sbdf & 0xffff)!;
    return { its: this.machine.board.itses.findIndex(({ phandle }) => phandle === found.phandle), deviceId: found.id };
  }

  /** Where a device writes to reach ITS `n`. */
  doorbell(n: number): number {
    return this.machine.board.itses[n]!.registers.pa + 0x1_0040;
  }

  /** Maps an event of a device at ITS `n` to an LPI, enabled, at the PE of that ITS. */
  mapEvent(n: number, deviceId: number, eventId: number, lpi: number): void {
    const commands: Uint32Array[] = [];
    if (!this.#devices.has(`${n}/${deviceId}`)) {
      this.#devices.add(`${n}/${deviceId}`);
      const ittAddress = this.#ramPa + 0x300_0000 + this.#devices.size * 0x1000;
      commands.push(encodeMapd({ deviceId, size: 4, ittAddress, valid: true }));
    }
    commands.push(encodeMapti({ deviceId, eventId, pIntid: lpi, icid: n }), encodeInv({ deviceId, eventId }));
    this.command(n, ...commands);
  }

  command(n: number, ...commands: Uint32Array[]): void {
    const queue = this.#itsPa(n) + 0xa_0000;
    for (const words of commands) {
      this.write(queue + this.#writers[n]!, itsCommandBytes([words]));
      this.#writers[n] = (this.#writers[n]! + 32) % 0x1000;
    }
    this.write(this.machine.board.itses[n]!.registers.pa + GITS_CWRITER, le(this.#writers[n]!));
  }

  /** Programs and unmasks an MSI-X vector, and enables MSI-X. */
  setVector(sbdf: number, vector: number, address: number, data: number): void {
    const cap = this.cap(sbdf, PCI_CAP_ID.MSIX);
    const table = this.cfg(sbdf, cap + PCI_MSIX.TABLE);
    const bar = this.functions.get(sbdf)!.bars.find(({ index }) => index === (table & PCI_MSIX_BIR_MASK))!;
    const entry = bar.pa + ((table & PCI_MSIX_OFFSET_MASK) >>> 0) + vector * PCI_MSIX_ENTRY.BYTES;
    this.write(entry + PCI_MSIX_ENTRY.ADDRESS_LO, le(address, 8));
    this.write(entry + PCI_MSIX_ENTRY.DATA, le(data));
    this.write(entry + PCI_MSIX_ENTRY.VECTOR_CTRL, le(0));
    this.setCfg(sbdf, cap + PCI_MSIX.FLAGS, 2, PCI_MSIX_FLAGS.ENABLE);
  }

  pass(ns: number): void {
    this.clock.pass(ns);
  }

  /** Takes and completes what every PE has, by PE. */
  taken(): number[][] {
    return this.machine.gicv3!.cpuInterfaces.map((cpu) => {
      const intids: number[] = [];
      for (let intid = cpu.read('ICC_IAR1_EL1')!; intid !== NOTHING; intid = cpu.read('ICC_IAR1_EL1')!) {
        intids.push(intid);
        cpu.write('ICC_EOIR1_EL1', intid);
      }
      return intids;
    });
  }

  #configPa(sbdf: number): number {
    const { ecam, busRange } = this.bridgeOf(sbdf);
    return ecam.pa + (busOf(sbdf) - busRange.first) * 0x10_0000 + devfnOf(sbdf) * 0x1000;
  }

  #itsPa(n: number): number {
    return this.#ramPa + 0x400_0000 + n * 0x40_0000;
  }

  #startInterrupts(): void {
    const gic = requireGicv3(this.machine.board.gic);
    this.write(gic.distributor.pa + GICD_CTLR, le(GICD_CTLR_EnableGrp1));
    this.write(this.#ramPa, new Uint8Array(0x1_0000).fill(0xa3));
    const frames = gic.redistributors.flatMap(({ pa, sizeBytes }) =>
      Array.from({ length: Math.floor(sizeBytes / GICR_SIZE_BYTES) }, (_, i) => pa + i * GICR_SIZE_BYTES),
    );
    for (const [pe, cpu] of this.machine.gicv3!.cpuInterfaces.entries()) {
      const prop = encodeGicrPropbaser({ idBits: 16, pa: this.#ramPa, ...ATTRIBUTES });
      const pend = encodeGicrPendbaser({ pa: this.#ramPa + (pe + 1) * 0x1_0000, PTZ: true, ...ATTRIBUTES });
      this.write(frames[pe]! + GICR_PROPBASER, pair(prop));
      this.write(frames[pe]! + GICR_PENDBASER, pair(pend));
      this.write(frames[pe]! + GICR_CTLR, le(1));
      cpu.write('ICC_PMR_EL1', 0xf8);
      cpu.write('ICC_IGRPEN1_EL1', 1);
    }
    const table = { Valid: true, Indirect: false, entryBytes: 8, pageBytes: 0x1_0000, ...ATTRIBUTES };
    for (const [n, { registers }] of this.machine.board.itses.entries()) {
      const pa = this.#itsPa(n);
      const collections = { ...table, Type: 4, pa: pa + 0x8_0000, sizeBytes: 0x1_0000 };
      const queue = { Valid: true, pa: pa + 0xa_0000, sizeBytes: 0x1000, ...ATTRIBUTES };
      this.write(registers.pa + GITS_BASER, pair(encodeGitsBaser({ ...table, Type: 1, pa, sizeBytes: 0x8_0000 })));
      this.write(registers.pa + GITS_BASER + 8, pair(encodeGitsBaser(collections)));
      this.write(registers.pa + GITS_CBASER, pair(encodeGitsCbaser(queue)));
      this.write(registers.pa + GITS_CTLR, le(1));
      this.command(n, encodeMapc({ icid: n, rdbase: n, valid: true }));
    }
  }
}

function pair({ lo, hi }: RegPair): Uint8Array {
  return Uint8Array.of(...le(lo), ...le(hi));
}
