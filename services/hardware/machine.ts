/**
 * The machine: owns every part of the board, wires them and puts them on the physical bus.
 *   CPU port -> stage 2 -> bus          device -> bridges -> SMMU -> bus          MSI -> SMMU -> bus -> ITS -> GIC
 * Firmware is one step at power-on: it copies the device tree to the start of the first RAM bank.
 * Wired interrupts of the SMMUs are edges on the SPIs that the device tree names.
 * Not modelled: a warm reset that keeps memory; a machine that is reset is a new one.
 */

import { SPI_FIRST } from '#shared/arch/gic/distributor.ts';
import { ITS_SIZE_BYTES } from '#shared/arch/gic/its.ts';
import { GICR_SIZE_BYTES } from '#shared/arch/gic/redistributor.ts';
import { assert } from '#shared/core/assert.ts';
import { type Board, type BoardBridge, BoardError, type BoardSmmu } from './board.ts';
import { Bus } from './bus/bus.ts';
import { Ram } from './bus/ram.ts';
import type { Scheduler } from './bus/transaction.ts';
import { Gic } from './gic/gic.ts';
import { Its } from './gic/its/its.ts';
import { CpuPort } from './mmu/cpu-port.ts';
import { Stage2Walker } from './mmu/stage2.ts';
import { Tlb } from './mmu/tlb.ts';
import { PcieFabric } from './pcie/fabric.ts';
import { Smmuv3 } from './smmu/v3/smmuv3.ts';

export interface MachineHooks {
  /** The CPU interface of a physical CPU has an interrupt to take. May come again while it still has. */
  interruptPending(pcpu: number): void;
}

export class Machine {
  readonly board: Board;
  readonly bus: Bus;
  readonly tlb = new Tlb();
  readonly gic: Gic;
  readonly its: readonly Its[];
  readonly smmus: readonly Smmuv3[];
  readonly fabric: PcieFabric;
  /** Where firmware put the device tree. */
  readonly dtbPa: number;
  readonly #walker: Stage2Walker;
  readonly #ports = new Map<number, CpuPort>();

  /** Throws BoardError for a board whose parts do not fit together. */
  constructor(board: Board, scheduler: Scheduler, hooks: MachineHooks) {
    this.board = board;
    const ram = new Ram(board.memory);
    this.bus = new Bus(ram);
    this.#walker = new Stage2Walker(ram);
    this.gic = this.#buildGic(ram, hooks);
    this.its = board.gic.its.map((node) => {
      const its = new Its(`its@${node.registers.pa.toString(16)}`, node.phandle, ram, this.gic);
      this.bus.map(node.registers.pa, ITS_SIZE_BYTES, its);
      return its;
    });
    this.smmus = board.smmus.map((node) => this.#buildSmmu(node));
    this.fabric = new PcieFabric(board, (bridge) => this.#smmuOf(bridge), scheduler);
    for (const bridge of this.fabric.bridges) {
      this.bus.map(bridge.board.ecam.pa, bridge.board.ecam.sizeBytes, bridge.ecamTarget);
      for (const window of bridge.windows) this.bus.map(window.cpuBase, window.sizeBytes, window.target);
    }
    this.dtbPa = this.#loadFirmware(ram);
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

  #buildGic(ram: Ram, hooks: MachineHooks): Gic {
    const { board } = this;
    const node = board.gic;
    const strideBytes = node.redistributorStride ?? GICR_SIZE_BYTES;
    const regionCapacities = node.redistributors.map((region) => Math.floor(region.sizeBytes / strideBytes));
    const room = regionCapacities.reduce((a, b) => a + b, 0);
    if (room < board.cpus) throw new BoardError(`board has ${board.cpus} CPUs and redistributors for ${room}`);
    const gic = new Gic({
      memory: ram,
      affinities: board.mpidrs.map(affinityOf),
      regionCapacities,
      strideBytes,
      signal: (pcpu) => hooks.interruptPending(pcpu),
    });
    this.bus.map(node.distributor.pa, node.distributor.sizeBytes, gic.distributor);
    node.redistributors.forEach((region, i) => {
      this.bus.map(region.pa, region.sizeBytes, gic.regions[i]!);
    });
    return gic;
  }

  #buildSmmu(node: BoardSmmu): Smmuv3 {
    const spis = { eventq: node.spis.eventq, gerror: node.spis.gerror, 'cmdq-sync': node.spis.cmdqSync };
    const smmu = new Smmuv3({
      name: `smmu@${node.registers.pa.toString(16)}`,
      bus: this.bus,
      irq: (name) => {
        const spi = spis[name];
        if (spi !== undefined) this.gic.pulseSpi(SPI_FIRST + spi);
      },
    });
    this.bus.map(node.registers.pa, node.registers.sizeBytes, smmu.registers);
    return smmu;
  }

  #smmuOf(bridge: BoardBridge): Smmuv3 {
    const at = this.board.smmus.findIndex((smmu) => smmu.phandle === bridge.smmuPhandle);
    assert(at >= 0, () => `${bridge.path} has an SMMU that the board does not have`);
    return this.smmus[at]!;
  }

  #loadFirmware(ram: Ram): number {
    const { dtb, memory } = this.board;
    const bank = memory[0]!;
    if (bank.sizeBytes < dtb.length) throw new BoardError('board has no RAM for its device tree');
    ram.writeBytes(bank.pa, dtb);
    return bank.pa;
  }

  inspect(): unknown {
    return {
      memory: { banks: this.board.memory, residentBytes: this.bus.ram.residentBytes },
      gic: this.gic.inspect(),
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

/** Aff3.Aff2.Aff1.Aff0 in 32 bits, of a cpu node's `reg` (MPIDR_EL1: Aff3 in [39:32], the others in [23:0]). */
function affinityOf(mpidr: number): number {
  const aff3 = Math.floor(mpidr / 0x1_0000_0000) & 0xff;
  return ((aff3 << 24) | (mpidr & 0x00ff_ffff)) >>> 0;
}
