/**
 * From a device tree to the parts of a board: what is there, whether it can be modelled, and whether it fits together.
 * A board that cannot be built is refused with one line that names what it lacks.
 * Not modelled: devices other than memory, CPUs, the GIC with its ITSs, SMMUs and PCI host bridges; they are left out, and
 * nothing answers at their addresses.
 */
import { parseFdt } from '../../fdt/blob.ts';
import { FdtError } from '../../fdt/node.ts';
import type { BoardDescription } from '../description.ts';
import { BoardError, type BoardTree } from '../parts.ts';
import { bridgesOf } from './bridges.ts';
import { gicOf } from './gic.ts';
import { mapOf } from './map.ts';
import { memoryOf, mpidrsOf, numaOf } from './memory.ts';
import { smmusOf } from './smmus.ts';

/** Throws BoardError. */
export function readBoardTree({ dtb, without = [] }: Pick<BoardDescription, 'dtb' | 'without'>): BoardTree {
  try {
    const tree = parseFdt(dtb);
    const mpidrs = mpidrsOf(tree);
    const gic = gicOf(tree, mpidrs.length, without.includes('msi'));
    const smmus = smmusOf(tree, gic);
    const { bridges, leftOut } = bridgesOf(tree, smmus, gic, without.includes('smmu'));
    const memory = memoryOf(tree);
    return {
      dtb,
      tree,
      memory,
      cpus: mpidrs.length,
      mpidrs,
      gic,
      itses: gic.its,
      smmus,
      bridges: mapOf(memory, gic, smmus, bridges),
      leftOut,
      numa: numaOf(tree, mpidrs.length),
    };
  } catch (error) {
    if (error instanceof FdtError) throw new BoardError(error.message, { cause: error });
    throw error;
  }
}
