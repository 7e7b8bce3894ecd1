/**
 * The machine: owns every part of the board, wires them and puts them on the physical bus.
 *   CPU port -> stage 2 -> bus          device -> bridges -> SMMU -> bus          MSI -> SMMU -> bus -> ITS -> GIC
 * Firmware is one step at power-on: it copies the device tree to the start of the first RAM bank.
 * Wired interrupts of SMMUv3s are edges on the SPIs that the device tree names; those of SMMUv2s and the pins of PCI
 * functions are levels. An SMMUv3 that writes its interrupts has the DeviceID of its msi-parent. The SMMUv2s of a ThunderX share a TLB, and so one space of VMIDs (erratum 27704).
 * A warm reset keeps what RAM holds and every device in its place; all registers and caches are as after power-on, so
 * no device reaches memory through an SMMU until that is programmed again.
 */
import { SPI_FIRST } from '#shared/arch/gic/distributor.ts';
import { ITS_SIZE_BYTES } from '#shared/arch/gic/its.ts';
import { GICR_SIZE_BYTES } from '#shared/arch/gic/redistributor.ts';
import { assert } from '#shared/core/assert.ts';
import type { RidMapRow } from '#shared/fdt/pci-bindings.ts';
import {
  type Board,
  BoardError,
  type BoardGicV2,
  type BoardGicV3,
  type BoardSmmuV2,
  type BoardSmmuV3,
} from './board.ts';
import { Bus } from './bus/bus.ts';
import type { MediaPort } from './bus/media.ts';
import { Ram } from './bus/ram.ts';
import type { Requester, Scheduler } from './bus/transaction.ts';
import { DmaRouter } from './dma-router.ts';
import { type CpuHooks, type InterruptController, pulseSpi } from './gic/controller.ts';
import { Gic } from './gic/gic.ts';
import { Its } from './gic/its/its.ts';
import { Gicv2 } from './gic/v2/gicv2.ts';
import { CpuPort, type Stage2Registers } from './mmu/cpu-port.ts';
import { Stage2Walker } from './mmu/stage2.ts';
import { Tlb } from './mmu/tlb.ts';
import { PcieFabric } from './pcie/fabric.ts';
import type { Smmu } from './smmu/smmu.ts';
import { featuresOf } from './smmu/v2/features.ts';
import { Smmuv2 } from './smmu/v2/smmuv2.ts';
import { Smmuv3 } from './smmu/v3/smmuv3.ts';
import { SpiLines } from './spi-lines.ts';
import { packMachine, unpackMachine } from './state/machine-state.ts';
import { type Saved, SavedStateError } from './state/saved.ts';

export interface MachineHooks {
  /** The CPU interface of a physical CPU has an interrupt to take. May come again while it still has. */
  interruptPending(pcpu: number): void;
  /** A physical CPU has asked its CPU interface for an interrupt. */
  interruptAcknowledged?(pcpu: number): void;
  /** The media behind disks; where there are none nothing that a disk is to keep gets anywhere, and it says so. */
  readonly media?: MediaPort;
}

interface SavedMachine {
  readonly ram: unknown;
  readonly gic: unknown;
  readonly lines: unknown;
  readonly its: readonly unknown[];
  readonly smmus: readonly unknown[];
  readonly fabric: unknown;
  readonly tlb: unknown;
  readonly ports: readonly (readonly [number, Stage2Registers])[];
}

const STAGE2_OFF: Stage2Registers = { vm: false, vtcr: 0, baddr: 0, vmid: 0 };

export class Machine implements Saved {
  readonly board: Board;
  readonly bus: Bus;
  readonly tlb = new Tlb();
  readonly gic: InterruptController;
  /** The same, on a board with a GICv3: what has LPIs, and CPU interfaces that are system registers. */
  readonly gicv3: Gic | undefined;
  readonly its: readonly Its[];
  readonly smmus: readonly Smmu[];
  readonly fabric: PcieFabric;
  /** Where firmware put the device tree. */
  readonly dtbPa: number;
  readonly #lines = new SpiLines((spi, high) => this.gic.setSpiLine(SPI_FIRST + spi, high));
  readonly #scheduler: Scheduler;
  readonly #walker: Stage2Walker;
  readonly #ports = new Map<number, CpuPort>();

  /** Throws BoardError for a board whose parts do not fit together. */
  constructor(board: Board, scheduler: Scheduler, hooks: MachineHooks) {
    this.board = board;
    this.#scheduler = scheduler;
    const ram = new Ram(board.memory);
    this.bus = new Bus(ram);
    this.#walker = new Stage2Walker(ram);
    this.gicv3 = board.gic.version === 3 ? this.#buildGicv3(board.gic, ram, hooks) : undefined;
    this.gic = this.gicv3 ?? this.#buildGicv2(board.gic as BoardGicV2, hooks);
    this.its = this.#buildItses(ram);
    this.smmus = this.#buildSmmus();
    this.fabric = new PcieFabric(
      board,
      ({ iommuMap }) => new DmaRouter(this.bus, iommuMap, (phandle) => this.#smmuOf(phandle)),
      scheduler,
      { set: (spi, level) => this.#lines.set('pcie', spi, level) },
      hooks.media,
    );
    for (const bridge of this.fabric.bridges) {
      this.bus.map(bridge.board.ecam.pa, bridge.board.ecam.sizeBytes, bridge.ecamTarget);
      const { pem } = bridge.board;
      if (pem !== undefined && bridge.pem !== undefined) this.bus.map(pem.pa, pem.sizeBytes, bridge.pem);
      for (const window of bridge.windows) this.bus.map(window.cpuBase, window.sizeBytes, window.target);
    }
    this.dtbPa = this.#loadFirmware();
  }

  /** Nanoseconds on the machine's clock; 0 while its scheduler has none. */
  get now(): number {
    return this.#scheduler.now ?? 0;
  }

  /** The CPU port of this number; its stage 2 is off until EL2 loads it. */
  port(number: number): CpuPort {
    let port = this.#ports.get(number);
    if (port === undefined) {
      port = new CpuPort(this.#walker, this.tlb);
      this.#ports.set(number, port);
    }
    return port;
  }

  /** Warm reset. RAM keeps its contents, but for the device tree that firmware copies again. */
  reset(): void {
    this.fabric.reset();
    for (const smmu of this.smmus) smmu.reset();
    for (const its of this.its) its.reset();
    this.gic.reset();
    this.tlb.reset();
    for (const port of this.#ports.values()) port.load(STAGE2_OFF);
    this.#loadFirmware();
  }

  #buildGicv3(node: BoardGicV3, ram: Ram, hooks: MachineHooks): Gic {
    const { board } = this;
    const strideBytes = node.redistributorStride ?? GICR_SIZE_BYTES;
    const regionCapacities = node.redistributors.map((region) => Math.floor(region.sizeBytes / strideBytes));
    const room = regionCapacities.reduce((a, b) => a + b, 0);
    if (room < board.cpus) throw new BoardError(`board has ${board.cpus} CPUs and redistributors for ${room}`);
    const gic = new Gic({
      memory: ram,
      affinities: board.mpidrs.map(affinityOf),
      regionCapacities,
      regionPas: node.redistributors.map((region) => region.pa),
      strideBytes,
      choices: board.choices.gic,
      hooks: cpuHooks(hooks),
    });
    this.bus.map(node.distributor.pa, node.distributor.sizeBytes, gic.distributor);
    node.redistributors.forEach((region, i) => {
      this.bus.map(region.pa, region.sizeBytes, gic.regions[i]!);
    });
    return gic;
  }

  #buildGicv2(node: BoardGicV2, hooks: MachineHooks): Gicv2 {
    const { distributor, cpuInterface } = node;
    const gic = new Gicv2({
      cpus: this.board.cpus,
      frameBytes: cpuInterface.sizeBytes,
      accessing: () => this.bus.cpu,
      hooks: cpuHooks(hooks),
    });
    this.bus.map(distributor.pa, distributor.sizeBytes, gic.distributor);
    this.bus.map(cpuInterface.pa, cpuInterface.sizeBytes, gic.frame);
    return gic;
  }

  #buildItses(ram: Ram): Its[] {
    const { board, gicv3 } = this;
    if (gicv3 === undefined) return [];
    const choices = { deviceIdBits: deviceIdBitsOf(board), ...board.choices.its };
    return board.gic.its.map((node) => {
      const its = new Its(nameOf('its', node), node.phandle, ram, gicv3, choices);
      this.bus.map(node.registers.pa, ITS_SIZE_BYTES, its);
      return its;
    });
  }

  #buildSmmus(): Smmu[] {
    const shared = new Tlb();
    return this.board.smmus.map((node) => {
      const smmu = node.kind === 'v3' ? this.#buildSmmuv3(node) : this.#buildSmmuv2(node, shared);
      this.bus.map(node.registers.pa, node.registers.sizeBytes, smmu.registers);
      return smmu;
    });
  }

  #buildSmmuv3(node: BoardSmmuV3): Smmu {
    const { msiParent } = node;
    const spis = { eventq: node.spis.eventq, gerror: node.spis.gerror, 'cmdq-sync': node.spis.cmdqSync };
    return new Smmuv3({
      name: nameOf('smmu', node),
      bus: this.bus,
      irq: (interrupt) => {
        const spi = spis[interrupt];
        if (spi !== undefined) pulseSpi(this.gic, SPI_FIRST + spi);
      },
      features: { SIDSIZE: streamIdBitsOf(this.board, node.phandle), ...this.board.choices.smmu },
      ...(msiParent === undefined ? {} : { requester: requesterAt(msiParent) }),
    });
  }

  #buildSmmuv2(node: BoardSmmuV2, shared: Tlb): Smmu {
    const { implementation, dmaCoherent, contextSpis, globalSpis } = node;
    const { sizeBytes } = node.registers;
    const name = nameOf('smmu', node);
    return new Smmuv2({
      name,
      bus: this.bus,
      irq: (interrupt, high) => {
        const spis = interrupt === 'global' ? globalSpis : [contextSpis[interrupt]];
        for (const spi of spis) if (spi !== undefined) this.#lines.set(`${name} ${interrupt}`, spi, high);
      },
      features: featuresOf({ implementation, sizeBytes, contextInterrupts: contextSpis.length, dmaCoherent }),
      ...(implementation === 'cavium-smmu-v2' ? { tlb: shared } : {}),
    });
  }

  #smmuOf(phandle: number): Smmu {
    const at = this.board.smmus.findIndex((smmu) => smmu.phandle === phandle);
    assert(at >= 0, () => `an iommu-map names SMMU 0x${phandle.toString(16)}, which the board does not have`);
    return this.smmus[at]!;
  }

  #loadFirmware(): number {
    const { dtb, memory } = this.board;
    const bank = memory[0]!;
    if (bank.sizeBytes < dtb.length) throw new BoardError('board has no RAM for its device tree');
    this.bus.ram.writeBytes(bank.pa, dtb);
    return bank.pa;
  }

  save(): SavedMachine {
    return {
      ram: this.bus.ram.save(),
      gic: this.gic.save(),
      lines: this.#lines.save(),
      its: this.its.map((its) => its.save()),
      smmus: this.smmus.map((smmu) => smmu.save()),
      fabric: this.fabric.save(),
      tlb: this.tlb.save(),
      ports: [...this.#ports].map(([n, port]) => [n, port.registers] as const),
    };
  }

  /** Takes the state of a machine of the same board. Throws SavedStateError. */
  load(state: unknown): void {
    const s = state as SavedMachine;
    if (s.its.length !== this.its.length || s.smmus.length !== this.smmus.length)
      throw new SavedStateError('a machine with other ITSs or SMMUs was saved');
    this.bus.ram.load(s.ram);
    this.fabric.load(s.fabric);
    for (const [i, smmu] of this.smmus.entries()) smmu.load(s.smmus[i]);
    for (const [i, its] of this.its.entries()) its.load(s.its[i]);
    for (const [n, registers] of s.ports) this.port(n).load(registers);
    this.tlb.load(s.tlb);
    this.#lines.load(s.lines);
    this.gic.load(s.gic);
  }

  inspect(): unknown {
    return {
      memory: { banks: this.board.memory, residentBytes: this.bus.ram.residentBytes },
      map: this.bus.regions.map(({ base, end, target }) => ({ base, end, name: target.name })),
      gic: this.gic.inspect(),
      highSpis: this.#lines.inspect(),
      its: Object.fromEntries(this.its.map((its) => [its.name, its.inspect()])),
      smmu: Object.fromEntries(this.smmus.map((smmu) => [smmu.name, smmu.inspect()])),
      pcie: this.fabric.inspect(),
      ports: Object.fromEntries([...this.#ports].map(([n, port]) => [n, port.registers])),
      tlb: {
        hits: this.tlb.hits,
        misses: this.tlb.misses,
        invalidations: this.tlb.invalidations,
        entries: this.tlb.entries(),
      },
    };
  }
}

/**
 * Everything that the machine would lose with the process: RAM, every register, every cache, what is pending and what
 * is under way.
 */
export function saveMachine(machine: Machine): Uint8Array {
  return packMachine(machine.board, machine.now, machine.save());
}

/**
 * A machine of `board` in the state that `saveMachine` gave. It does what the original does from there on, interrupt by
 * interrupt; its clock goes on from where the original's stood, whatever `scheduler`'s clock says, so what was under way
 * takes as long as it still had to. Throws SavedStateError when the bytes do not fit.
 */
export function restoreMachine(board: Board, bytes: Uint8Array, scheduler: Scheduler, hooks: MachineHooks): Machine {
  const { now, machine: state } = unpackMachine(board, bytes);
  const ahead = now - (scheduler.now ?? 0);
  const continued: Scheduler = {
    get now(): number {
      return (scheduler.now ?? 0) + ahead;
    },
    after: (ns, run) => scheduler.after(ns, run),
  };
  const machine = new Machine(board, continued, hooks);
  machine.load(state);
  return machine;
}

function cpuHooks(hooks: MachineHooks): CpuHooks {
  return {
    signal: (pcpu) => hooks.interruptPending(pcpu),
    acknowledged: (pcpu) => hooks.interruptAcknowledged?.(pcpu),
  };
}

/** Bits of the largest DeviceID that an msi-map, or the msi-parent of an SMMU, gives; 16 at least. */
function deviceIdBitsOf(board: Board): number {
  const rows = board.bridges.flatMap(({ msiMap }) => msiMap?.rows ?? []);
  const own = board.smmus.flatMap((smmu) => (smmu.kind === 'v3' && smmu.msiParent ? [smmu.msiParent.deviceId] : []));
  return idBits([...rows.map(lastOf), ...own]);
}

/** Bits of the largest StreamID that an iommu-map gives at an SMMU; 16 at least. */
function streamIdBitsOf(board: Board, phandle: number): number {
  const rows = board.bridges.flatMap(({ iommuMap }) => iommuMap.rows);
  return idBits(rows.filter((row) => row.phandle === phandle).map(lastOf));
}

function lastOf({ outBase, length }: RidMapRow): number {
  return outBase + length - 1;
}

function idBits(ids: readonly number[]): number {
  return Math.max(16, Math.floor(Math.log2(Math.max(...ids, 1))) + 1);
}

/** An SMMU when it writes an interrupt: it is no PCI function, and behind no SMMU. */
function requesterAt({ phandle, deviceId }: NonNullable<BoardSmmuV3['msiParent']>): Requester {
  return { rid: -1, streamId: -1, deviceIdAt: (its) => (its === phandle ? deviceId : -1) };
}

function nameOf(kind: string, node: { readonly registers: { readonly pa: number } }): string {
  return `${kind}@${node.registers.pa.toString(16)}`;
}

/** Aff3.Aff2.Aff1.Aff0 in 32 bits, of a cpu node's `reg` (MPIDR_EL1: Aff3 in [39:32], the others in [23:0]). */
function affinityOf(mpidr: number): number {
  const aff3 = Math.floor(mpidr / 0x1_0000_0000) & 0xff;
  return ((aff3 << 24) | (mpidr & 0x00ff_ffff)) >>> 0;
}
