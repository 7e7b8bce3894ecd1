/**
 * The machine of the bundled QEMU virt board without its service around it, on a clock of the test's own: programmed
 * through its registers so that the dma-probe at 01:00.0 has a doorbell, memory and a vector.
 */
import { DMA_PROBE } from '#shared/arch/dma-probe.ts';
import {
  encodeGitsBaser,
  encodeGitsCbaser,
  GITS_BASER,
  GITS_CBASER,
  GITS_CTLR,
  GITS_CWRITER,
} from '#shared/arch/gic/its.ts';
import { encodeMapc, encodeMapd, encodeMapti, itsCommandBytes } from '#shared/arch/gic/its-commands.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSIX, PCI_MSIX_ENTRY, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { encodeCfgiAll, encodeTlbiNsnhAll } from '#shared/arch/smmu/v3-queues.ts';
import { encodeStage2Ste, STE_BYTES } from '#shared/arch/smmu/v3-structures.ts';
import { encodeVtcr, MEM_ATTR, S2AP, SHAREABILITY, writeLeaf, writeTable } from '#shared/arch/vmsa.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { loadBoard } from '../../../services/hardware/board/load.ts';
import type { Board } from '../../../services/hardware/board.ts';
import type { Scheduler } from '../../../services/hardware/bus/transaction.ts';
import { Machine, restoreMachine, saveMachine } from '../../../services/hardware/machine.ts';

export const RAM = 0x4000_0000;
export const PA_RAM = RAM + 0x200_0000;
export const IPA_RAM = 0x3_0000;
export const LPI = 8192;
export const RID = 0x100;
export const BAR0 = 0x1000_0000;
export const IPA_BAR0 = 0x1_0000;
const IPA_DOORBELL = 0x2_0000;
export const BAR3 = 0x1004_0000;
const ECAM = 0x40_1000_0000;
export const PORT = ECAM + (2 << 15);
export const FUNCTION = ECAM + (1 << 20);
const GICD = 0x0800_0000;
const GICR = 0x080a_0000;
export const ITS = 0x0808_0000;
export const SMMU = 0x0905_0000;
export const VMID = 9;
export const ROOT = RAM + 0x100_0000;
export const STREAM_TABLE = RAM + 0x180_0000;
export const CMDQ = RAM + 0x190_0000;
export const EVENTQ = RAM + 0x190_1000;
export const PROP = RAM + 0x1a0_0000;
const PEND = RAM + 0x1b0_0000;
export const ITS_MEMORY = RAM + 0x1c0_0000;

export const le = (value: number, sizeBytes = 4): Uint8Array =>
  Uint8Array.from({ length: sizeBytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);

/** Timers in order of time. */
export class Clock implements Scheduler {
  now: number;
  #timers: { readonly at: number; readonly run: () => void }[] = [];

  constructor(now = 0) {
    this.now = now;
  }

  after(ns: number, run: () => void): void {
    this.#timers.push({ at: this.now + ns, run });
    this.#timers.sort((a, b) => a.at - b.at);
  }

  pass(ns: number): void {
    const end = this.now + ns;
    while (this.#timers[0] !== undefined && this.#timers[0].at <= end) {
      const timer = this.#timers.shift()!;
      this.now = timer.at;
      timer.run();
    }
    this.now = end;
  }
}

export class MachineRig {
  readonly clock: Clock;
  readonly machine: Machine;
  /** PEs that were told of an interrupt, in order. */
  readonly signals: number[];

  constructor(clock = new Clock(), make = build) {
    this.clock = clock;
    this.signals = [];
    this.machine = make(clock, (pcpu) => this.signals.push(pcpu));
  }

  /** A second machine with the state of this one; its clock stands where it likes. */
  copy(): MachineRig {
    const bytes = saveMachine(this.machine);
    const { board } = this.machine;
    return new MachineRig(new Clock(777), (clock, interruptPending) =>
      restoreMachine(board, bytes, clock, { interruptPending }),
    );
  }

  write(pa: number, bytes: Uint8Array): void {
    this.machine.bus.writeBytes(pa, bytes);
  }

  read(pa: number, sizeBytes = 4): number {
    const bytes = new Uint8Array(sizeBytes);
    this.machine.bus.readBytes(pa, bytes);
    return bytes.reduceRight((n, byte) => n * 256 + byte, 0);
  }

  /** A register of the probe, through the domain's stage 2. */
  probe(offset: number, value: number): void {
    const pa = this.machine.port(1).translate(IPA_BAR0 + offset, true);
    this.write(pa, le(value));
  }

  dma(command: number, bytes: number, pattern: number): void {
    this.probe(DMA_PROBE.DST_LO, IPA_RAM);
    this.probe(DMA_PROBE.LENGTH_LO, bytes);
    this.probe(DMA_PROBE.PATTERN, pattern);
    this.probe(DMA_PROBE.COMMAND, command);
  }

  /** Takes and completes what the PE has. */
  take(pcpu = 0): number {
    const cpu = this.machine.gicv3!.cpuInterfaces[pcpu]!;
    const intid = cpu.read('ICC_IAR1_EL1')!;
    cpu.write('ICC_EOIR1_EL1', intid);
    return intid;
  }

  ready(): this {
    this.#startGic();
    this.#startIts();
    this.#startStage2();
    this.#startSmmu();
    this.#startFunction();
    return this;
  }

  #startGic(): void {
    this.write(GICD, le(2));
    this.write(PROP, new Uint8Array(16).fill(0xa3));
    this.write(GICR + 0x70, le(PROP + 15, 8));
    this.write(GICR + 0x78, le(PEND, 8));
    this.write(GICR, le(1));
    this.machine.gicv3!.cpuInterfaces[0]!.write('ICC_PMR_EL1', 0xf8);
    this.machine.gicv3!.cpuInterfaces[0]!.write('ICC_IGRPEN1_EL1', 1);
  }

  #startIts(): void {
    const attributes = { InnerCache: 7, OuterCache: 0, Shareability: 1 };
    const pair = ({ lo, hi }: { lo: number; hi: number }): Uint8Array => Uint8Array.of(...le(lo), ...le(hi));
    const table = { Valid: true, Indirect: false, entryBytes: 8, pageBytes: 0x1_0000, ...attributes };
    const collections = { ...table, Type: 4, pa: ITS_MEMORY + 0x8_0000, sizeBytes: 0x1_0000 };
    const queue = ITS_MEMORY + 0x9_0000;
    this.write(ITS + GITS_BASER, pair(encodeGitsBaser({ ...table, Type: 1, pa: ITS_MEMORY, sizeBytes: 0x8_0000 })));
    this.write(ITS + GITS_BASER + 8, pair(encodeGitsBaser(collections)));
    this.write(ITS + GITS_CBASER, pair(encodeGitsCbaser({ Valid: true, pa: queue, sizeBytes: 0x1000, ...attributes })));
    this.write(ITS + GITS_CTLR, le(1));
    const commands = [
      encodeMapc({ icid: 0, rdbase: 0, valid: true }),
      encodeMapd({ deviceId: RID, size: 4, ittAddress: ITS_MEMORY + 0xa_0000, valid: true }),
      encodeMapti({ deviceId: RID, eventId: 5, pIntid: LPI, icid: 0 }),
    ];
    this.write(queue, itsCommandBytes(commands));
    this.write(ITS + GITS_CWRITER, le(32 * commands.length));
  }

  #startStage2(): void {
    const descriptor = (make: (words: Uint32Array) => void): Uint8Array => {
      const words = new Uint32Array(2);
      make(words);
      return bytesOf(words);
    };
    const table = (at: number, to: number): void =>
      this.write(
        at,
        descriptor((w) => writeTable(w, 0, to)),
      );
    const leaf = { s2ap: S2AP.readWrite, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: true };
    const page = (ipa: number, pa: number): void =>
      this.write(
        ROOT + 0x3000 + (ipa / 0x1000) * 8,
        descriptor((w) => writeLeaf(w, 0, 3, pa, leaf)),
      );
    table(ROOT, ROOT + 0x2000);
    table(ROOT + 0x2000, ROOT + 0x3000);
    page(IPA_BAR0, BAR0);
    page(IPA_DOORBELL, ITS + 0x1_0000);
    for (let at = 0; at < 0x1c_0000; at += 0x1000) page(IPA_RAM + at, PA_RAM + at);
    const vtcr = encodeVtcr({ t0sz: 24, sl0: 1, ps: 5, vmid16: true });
    this.machine.port(1).load({ vm: true, vtcr, baddr: ROOT, vmid: VMID });
  }

  #startSmmu(): void {
    const ste = encodeStage2Ste({ vmid: VMID, t0sz: 24, sl0: 1, ps: 5, ttb: ROOT });
    this.write(STREAM_TABLE + RID * STE_BYTES, bytesOf(ste));
    this.write(CMDQ, bytesOf(encodeCfgiAll()));
    this.write(CMDQ + 16, bytesOf(encodeTlbiNsnhAll()));
    this.write(SMMU + 0x80, le(STREAM_TABLE, 8));
    this.write(SMMU + 0x88, le(9));
    this.write(SMMU + 0x90, le(CMDQ + 4, 8));
    this.write(SMMU + 0xa0, le(EVENTQ + 4, 8));
    this.write(SMMU + 0x50, le(5));
    this.write(SMMU + 0x20, le(8));
    this.write(SMMU + 0x98, le(2));
    this.write(SMMU + 0x20, le(0xd));
  }

  #startFunction(): void {
    const command = PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER;
    this.write(PORT + PCI_BRIDGE.PRIMARY_BUS, le(0x01_0100));
    this.write(PORT + PCI_BRIDGE.MEMORY_BASE, le(0x1010_1000));
    // Closed: zero in both would be a window on the first MiB.
    this.write(PORT + PCI_BRIDGE.PREF_MEMORY_BASE, le(0x0000_fff0));
    this.write(PORT + PCI.COMMAND, le(command, 2));
    this.write(FUNCTION + PCI.BASE_ADDRESS_0, le(BAR0));
    this.write(FUNCTION + PCI.BASE_ADDRESS_0 + 12, le(BAR3));
    this.write(FUNCTION + PCI.COMMAND, le(command, 2));
    this.write(BAR3 + PCI_MSIX_ENTRY.ADDRESS_LO, le(IPA_DOORBELL + 0x40));
    this.write(BAR3 + PCI_MSIX_ENTRY.ADDRESS_HI, le(0));
    this.write(BAR3 + PCI_MSIX_ENTRY.DATA, le(5));
    this.write(BAR3 + PCI_MSIX_ENTRY.VECTOR_CTRL, le(0));
    this.write(FUNCTION + 0xa0 + PCI_MSIX.FLAGS, le(PCI_MSIX_FLAGS.ENABLE, 2));
  }
}

let board: Board | undefined;

function build(clock: Scheduler, interruptPending: (pcpu: number) => void): Machine {
  board ??= loadBoard(readBoard('examples/boards/qemu-virt.yaml'));
  return new Machine(board, clock, { interruptPending });
}
