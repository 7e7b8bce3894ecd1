/**
 * The machine that a trace is replayed on: RAM, GIC, ITS and SMMUv3 at the addresses of the device tree QEMU gave its
 * guest, with the choices that QEMU's identification registers (as the guest read them) stand for. No PCIe functions:
 * what they sent is in the trace. QEMU's virt board has one ITS and one SMMU at most; the first ones are taken.
 */

import { decodeGitsTyper, GITS_TYPER, ITS_SIZE_BYTES } from '#shared/arch/gic/its.ts';
import { GICR_SIZE_BYTES } from '#shared/arch/gic/redistributor.ts';
import { SMMU_BYTES, SMMU_GBPA, SMMU_IDR0, SMMU_IDR1, SMMU_IDR3, SMMU_IDR5 } from '#shared/arch/smmu/v3.ts';
import type { ItsChoices } from '#shared/board/choices.ts';
import type { BoardRegion, BoardTree } from '#shared/board/parts.ts';
import { requireGicv3 } from '#shared/board/parts.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import { lookupRid } from '#shared/fdt/pci-bindings.ts';
import { asWord, get, wordWith } from '#shared/regs/field.ts';
import { Bus } from '../../services/hardware/bus/bus.ts';
import { Ram } from '../../services/hardware/bus/ram.ts';
import type { Requester } from '../../services/hardware/bus/transaction.ts';
import { Gic } from '../../services/hardware/gic/gic.ts';
import { Its } from '../../services/hardware/gic/its/its.ts';
import type { LpiSink } from '../../services/hardware/gic/its/translate.ts';
import type { SmmuFeatures } from '../../services/hardware/smmu/v3/features.ts';
import { Smmuv3 } from '../../services/hardware/smmu/v3/smmuv3.ts';
import { field, type TraceLine, type Wide, wideField } from './trace.ts';

/** RAM beyond the guest's. */
const SPARE_BYTES = 0x1000_0000;

export interface Models {
  readonly board: BoardTree;
  readonly bus: Bus;
  readonly ram: Ram;
  /** RAM that the guest does not know of, for what it allocated past the trace. */
  readonly spare: BoardRegion;
  readonly gic: Gic;
  readonly its: Its | undefined;
  readonly itsPa: number;
  readonly smmu: Smmuv3 | undefined;
  readonly smmuPa: number;
  readonly lpis: WatchedLpis;
  requester(rid: number): Requester;
}

/** Throws BoardError for a device tree that no machine can be made of. */
export function buildModels(dtb: Uint8Array, trace: readonly TraceLine[]): Models {
  const board = readBoardTree({ dtb, without: ['msi', 'smmu'] });
  const end = Math.max(...board.memory.map(({ pa, sizeBytes }) => pa + sizeBytes));
  const spare = { pa: Math.ceil(end / SPARE_BYTES) * SPARE_BYTES, sizeBytes: SPARE_BYTES };
  const ram = new Ram([...board.memory, spare]);
  const bus = new Bus(ram);
  const node = requireGicv3(board.gic);
  const strideBytes = node.redistributorStride ?? GICR_SIZE_BYTES;
  const gic = new Gic({
    memory: ram,
    affinities: board.mpidrs.map((mpidr) => mpidr & 0x00ff_ffff),
    regionCapacities: node.redistributors.map(({ sizeBytes }) => Math.floor(sizeBytes / strideBytes)),
    regionPas: node.redistributors.map(({ pa }) => pa),
    strideBytes,
    hooks: { signal: () => {} },
  });
  bus.map(node.distributor.pa, node.distributor.sizeBytes, gic.distributor);
  for (const [i, { pa, sizeBytes }] of node.redistributors.entries()) bus.map(pa, sizeBytes, gic.regions[i]!);
  const lpis = new WatchedLpis(gic);
  const itsNode = node.its[0];
  const its = itsNode && new Its('its', itsNode.phandle, ram, lpis, itsChoicesOf(trace));
  if (its !== undefined) bus.map(itsNode!.registers.pa, ITS_SIZE_BYTES, its);
  const smmuNode = board.smmus.find(({ kind }) => kind === 'v3');
  const smmu = smmuNode && new Smmuv3({ name: 'smmu', bus, irq: () => {}, features: featuresOf(trace) });
  if (smmu !== undefined) {
    bus.map(smmuNode!.registers.pa, SMMU_BYTES, smmu.registers);
    // QEMU's part lets DMA pass until it is programmed.
    smmu.registers.write(SMMU_GBPA.offset, 4, wordWith(SMMU_GBPA, { Update: 1, SHCFG: 1 }));
  }
  return {
    board,
    bus,
    ram,
    spare,
    gic,
    its,
    itsPa: itsNode?.registers.pa ?? 0,
    smmu,
    smmuPa: smmuNode?.registers.pa ?? 0,
    lpis,
    requester: (rid) => requesterOf(board, rid),
  };
}

/** What the host bridge makes of a requester ID by iommu-map and msi-map. */
function requesterOf({ bridges }: BoardTree, rid: number): Requester {
  const bridge = bridges[0];
  return {
    rid,
    streamId: bridge === undefined ? -1 : (lookupRid(bridge.iommuMap, rid)?.id ?? -1),
    deviceIdAt: (phandle) => {
      const found = bridge?.msiMap && lookupRid(bridge.msiMap, rid);
      return found !== undefined && found.phandle === phandle ? found.id : -1;
    },
  };
}

/** The GIC as the ITS sees it, with a note of the LPI that was last made pending. */
export class WatchedLpis implements LpiSink {
  readonly #gic: Gic;
  #last: { readonly processorNumber: number; readonly lpi: number; readonly kept: boolean } | undefined;

  constructor(gic: Gic) {
    this.#gic = gic;
  }

  /** Undefined since `forget`: none. */
  get last(): { readonly processorNumber: number; readonly lpi: number; readonly kept: boolean } | undefined {
    return this.#last;
  }

  forget(): void {
    this.#last = undefined;
  }

  get idBits(): number {
    return this.#gic.idBits;
  }

  hasProcessor(processorNumber: number): boolean {
    return this.#gic.hasProcessor(processorNumber);
  }

  processorAtFrame(frame: number): number {
    return this.#gic.processorAtFrame(frame);
  }

  setLpiPending(processorNumber: number, lpi: number): boolean {
    const kept = this.#gic.setLpiPending(processorNumber, lpi);
    this.#last = { processorNumber, lpi, kept };
    return kept;
  }

  clearLpiPending(processorNumber: number, lpi: number): boolean {
    return this.#gic.clearLpiPending(processorNumber, lpi);
  }

  invalidateLpi(processorNumber: number, lpi: number): void {
    this.#gic.invalidateLpi(processorNumber, lpi);
  }

  invalidateAllLpis(processorNumber: number): void {
    this.#gic.invalidateAllLpis(processorNumber);
  }

  moveAllLpis(from: number, to: number): void {
    this.#gic.moveAllLpis(from, to);
  }
}

function itsChoicesOf(trace: readonly TraceLine[]): Partial<ItsChoices> {
  const read = trace.find(
    (line) => line.event === 'gicv3_its_read' && field(line, 'offset') === GITS_TYPER && field(line, 'size') === 8,
  );
  const pageBytes: ItsChoices['pageBytes'] = [0x1000, 0x4000, 0x1_0000];
  if (read === undefined) return { pageBytes, ittEntryBytes: 12 };
  const { eventIdBits, deviceIdBits, collectionIdBits, PTA, ittEntryBytes } = decodeGitsTyper(wideField(read, 'data'));
  return {
    pageBytes,
    eventIdBits,
    deviceIdBits,
    collectionIdBits,
    PTA,
    ittEntryBytes: ittEntryBytes <= 4 ? 4 : ittEntryBytes <= 8 ? 8 : 12,
  };
}

/** What of QEMU's IDRs our part can be as well. A trace without them is taken for QEMU's usual part. */
function featuresOf(trace: readonly TraceLine[]): Partial<SmmuFeatures> {
  const read = (offset: number): number | undefined => {
    const line = trace.find((one) => one.event === 'smmuv3_read_mmio' && field(one, 'addr') === offset);
    return line === undefined ? undefined : (wideField(line, 'val') satisfies Wide).lo;
  };
  const idr0 = asWord(SMMU_IDR0, read(SMMU_IDR0.offset) ?? 0x0d40_101a);
  const idr1 = asWord(SMMU_IDR1, read(SMMU_IDR1.offset) ?? 0x0273_0010);
  const idr3 = asWord(SMMU_IDR3, read(SMMU_IDR3.offset) ?? 0x1404);
  const idr5 = asWord(SMMU_IDR5, read(SMMU_IDR5.offset) ?? 0x74);
  const bit = (value: number): 0 | 1 => (value === 0 ? 0 : 1);
  return {
    S1P: bit(get(SMMU_IDR0.S1P, idr0)),
    S2P: bit(get(SMMU_IDR0.S2P, idr0)),
    ST_LEVEL: bit(get(SMMU_IDR0.ST_LEVEL, idr0)),
    VMID16: bit(get(SMMU_IDR0.VMID16, idr0)),
    MSI: bit(get(SMMU_IDR0.MSI, idr0)),
    RIL: bit(get(SMMU_IDR3.RIL, idr3)),
    OAS: Math.min(get(SMMU_IDR5.OAS, idr5), 5),
    GRAN16K: bit(get(SMMU_IDR5.GRAN16K, idr5)),
    GRAN64K: bit(get(SMMU_IDR5.GRAN64K, idr5)),
    SIDSIZE: get(SMMU_IDR1.SIDSIZE, idr1),
    SSIDSIZE: get(SMMU_IDR1.SSIDSIZE, idr1),
    CMDQS: Math.min(get(SMMU_IDR1.CMDQS, idr1), 19),
    EVENTQS: Math.min(get(SMMU_IDR1.EVENTQS, idr1), 19),
  };
}
