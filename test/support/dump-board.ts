/**
 * A machine around a dump: one ECAM bridge for each root bus of each segment, with an SMMUv3 and an ITS for all, and as
 * many of the dump's functions as the loader takes. A root bus is one that no bridge of the dump leads to; a bridge of the
 * board serves the buses from its root bus up to the next one.
 */
import type { BoardDescription, BoardFunction } from '#shared/board/description.ts';
import { BoardError } from '#shared/board/parts.ts';
import { buildFdt } from '#shared/fdt/blob.ts';
import { busOf, devfnOf, formatSbdf, parseSbdf, segmentOf } from '#shared/ids/sbdf.ts';
import type { LspciFunction } from '#shared/lspci/dump.ts';
import { addCpus, addGic, addIts, addMemory, addPciHost, Phandles, rootNode, SPI } from '#tools/boards/parts.ts';
import { loadBoard } from '../../services/hardware/board/load.ts';
import { type Board, isBridge, secondaryBusOf } from '../../services/hardware/board.ts';

export interface LeftOut {
  readonly sbdf: string;
  readonly why: string;
}

export interface DumpBoard {
  /** Undefined when no function of the dump is taken. */
  readonly board: Board | undefined;
  readonly leftOut: readonly LeftOut[];
}

/** Functions that the loader refuses are left out one by one, each with what it said. */
export function boardOfDump(dump: readonly LspciFunction[]): DumpBoard {
  let functions: BoardFunction[] = dump.map(({ sbdf, config }) => ({
    sbdf,
    config,
    model: 'inert',
    barSizes: new Map(),
    secondaryBus: undefined,
  }));
  const leftOut: LeftOut[] = [];
  while (functions.length > 0) {
    try {
      return { board: loadBoard(describe(functions)), leftOut };
    } catch (error) {
      if (!(error instanceof BoardError)) throw error;
      const named = [...error.message.matchAll(/\b[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b/g)].at(-1)?.[0];
      const sbdf = named === undefined ? undefined : parseSbdf(named);
      const at = functions.findLastIndex((f) => f.sbdf === sbdf);
      if (sbdf === undefined || at < 0) throw error;
      leftOut.push({ sbdf: formatSbdf(sbdf), why: error.message });
      functions = functions.filter((_, i) => i !== at);
    }
  }
  return { board: undefined, leftOut };
}

/** Functions of a taken board that no scan of its bus can see: their slot has no function 0. */
export function unseen(board: Board): LeftOut[] {
  const present = new Set(board.functions.map((f) => f.sbdf));
  return board.functions
    .filter((f) => !present.has(f.sbdf - (devfnOf(f.sbdf) % 8)))
    .map((f) => ({ sbdf: formatSbdf(f.sbdf), why: 'its slot has no function 0 in this dump, so no scan looks at it' }));
}

function describe(functions: readonly BoardFunction[]): BoardDescription {
  const phandles = new Phandles();
  const gicPhandle = 0x1000;
  const root = rootNode('A dump', 'culvert,dump', gicPhandle);
  addCpus(root, 'arm,cortex-a72', [{ mpidr: 0, numa: 0 }]);
  addMemory(root, { address: 0x8000_0000, sizeBytes: 0x1000_0000 }, 0);
  const gic = addGic(root, gicPhandle, { address: 0x2f00_0000, sizeBytes: 0x1_0000 }, [
    { address: 0x2f10_0000, sizeBytes: 0x2_0000 },
  ]);
  const its = addIts(gic, { address: 0x2f20_0000, sizeBytes: 0x2_0000 }, 0, phandles);
  const smmu = phandles.to(
    root
      .addChild('iommu@2b400000')
      .setStrings('compatible', 'arm,smmu-v3')
      .setReg({ address: 0x2b40_0000, sizeBytes: 0x2_0000 })
      .setStrings('interrupt-names', 'combined')
      .setCells('interrupts', SPI, 96, 1)
      .setCells('#iommu-cells', 1),
  );
  for (const [index, { segment, first, last }] of rootBuses(functions).entries()) {
    const base = (index + 1) * 2 ** 40;
    addPciHost(root, {
      compatible: ['pci-host-ecam-generic'],
      registers: [{ address: base, sizeBytes: (last - first + 1) * 0x10_0000 }],
      segment,
      buses: [first, last],
      numa: 0,
      windows: [
        { space: 'mem32', pciBase: 0x1000_0000, cpuBase: base + 0x1000_0000, sizeBytes: 0x1000_0000 },
        {
          space: 'mem64',
          prefetchable: true,
          pciBase: base + 0x40_0000_0000,
          cpuBase: base + 0x40_0000_0000,
          sizeBytes: 2 ** 38,
        },
      ],
      iommuMap: [[0, smmu, 0, 0x1_0000]],
      msiMap: [[0, its, 0, 0x1_0000]],
    });
  }
  return { dtb: buildFdt(root), functions };
}

function rootBuses(functions: readonly BoardFunction[]): { segment: number; first: number; last: number }[] {
  // A bridge that was dumped without a bus below it leads nowhere.
  const leading = functions.filter((f) => isBridge(f) && secondaryBusOf(f) !== 0);
  const below = new Set(leading.map((f) => segmentOf(f.sbdf) * 256 + secondaryBusOf(f)));
  const roots = [...new Set(functions.map((f) => segmentOf(f.sbdf) * 256 + busOf(f.sbdf)))]
    .filter((bus) => !below.has(bus))
    .sort((a, b) => a - b);
  return roots.map((bus, i) => {
    const segment = Math.floor(bus / 256);
    const next = roots[i + 1];
    const last = next !== undefined && Math.floor(next / 256) === segment ? (next % 256) - 1 : 255;
    return { segment, first: bus % 256, last };
  });
}
