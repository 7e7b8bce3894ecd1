/**
 * A recorded boot of a real kernel on QEMU, replayed on our GIC, ITS and SMMUv3: everything that the trace says went
 * into QEMU's models goes into ours in the same order, through registers, queues and tables in RAM, and every answer
 * the trace has is asked of ours (docs/reference/replay.md).
 * Not modelled: PCI configuration space, BARs and device internals of the trace; their lines are counted by event.
 */
import { BoardError } from '#shared/board/parts.ts';
import { FdtError } from '#shared/fdt/node.ts';
import { readUnpacked } from '#shared/yaml/files.ts';
import { type Unreadable, unreadable, unreadableText } from './forms.ts';
import { GicReplay } from './gic-replay.ts';
import { buildModels } from './models.ts';
import { SmmuReplay } from './smmu-replay.ts';
import { type Difference, Tally } from './tally.ts';
import { parseTrace, pathOf, TraceError, type TraceLine } from './trace.ts';

export interface Replayed {
  readonly lines: number;
  /** By kind of question: how often it was asked, how often the answers differed. */
  readonly compared: readonly { readonly kind: string; readonly compared: number; readonly differ: number }[];
  /** The first ones. */
  readonly differences: readonly Difference[];
  /** Questions that were not asked, by reason. */
  readonly left: Readonly<Record<string, number>>;
  /** Lines that no model of ours has a part in, by event. */
  readonly notReplayed: Readonly<Record<string, number>>;
  /** Lines of events that are played, in a form that cannot be; the models went without them. */
  readonly unreadable: readonly Unreadable[];
  readonly differ: number;
}

/** Asked of the models: one of these at least has to be in a trace. */
const ANSWERS =
  'smmuv3_translate_*, smmuv3_read_mmio, smmuv3_cmdq_consume, gicv3_its_read, gicv3_its_translation_write';

/**
 * Replays `trace.log` (or `trace.log.gz`) on the machine of `machine.dtb` in `folder`. Throws FileError, and
 * TraceError for a folder that is no recorded boot or has nothing to compare.
 */
export function replayFolder(folder: string): Replayed & { readonly trace: string } {
  const dtb = pathOf(folder, 'machine.dtb');
  if (dtb === undefined) throw new TraceError(`${folder} has no machine.dtb`);
  const file = pathOf(folder, 'trace.log');
  if (file === undefined) throw new TraceError(`${folder} has neither trace.log nor trace.log.gz`);
  const strays: Unreadable[] = [];
  let others = 0;
  const lines = parseTrace(new TextDecoder().decode(readUnpacked(file)), (number, text) => {
    const stray = unreadableText(number, text);
    if (stray === undefined) others++;
    else strays.push(stray);
  });
  const result = onTree(dtb, () => replay(readUnpacked(dtb), lines));
  const all = [...strays, ...result.unreadable].sort((a, b) => a.line - b.line);
  if (result.compared.length === 0 && all.length === 0)
    throw new TraceError(
      `${file}:${lines.at(-1)?.number ?? 1}: nothing was compared: a line "PID@SECONDS.MICROSECONDS:EVENT TEXT" with one of ${ANSWERS} was expected`,
    );
  const notReplayed = others === 0 ? result.notReplayed : { ...result.notReplayed, 'lines that are no event': others };
  return { ...result, trace: file, unreadable: all, notReplayed };
}

/** A device tree that no machine can be made of is told with its file. */
function onTree<T>(file: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof BoardError || error instanceof FdtError)) throw error;
    throw new TraceError(`${file}: ${error.message}`, { cause: error });
  }
}

/** Replays the lines of a trace. Throws BoardError for the tree. */
export function replay(dtb: Uint8Array, trace: readonly TraceLine[]): Replayed {
  const bad = trace.map(unreadable).filter((found) => found !== undefined);
  const skipped = new Set(bad.map(({ line }) => line));
  const readable = trace.filter(({ number }) => !skipped.has(number));
  const models = buildModels(dtb, readable);
  const tally = new Tally();
  const left = new Map<string, number>();
  const notReplayed = new Map<string, number>();
  const smmu = models.smmu && new SmmuReplay(models, models.smmu, tally, left);
  const gic = new GicReplay(models, tally, (streamId) => smmu?.doorbells.get(streamId));
  const count = (map: Map<string, number>, key: string): void => void map.set(key, (map.get(key) ?? 0) + 1);
  for (const line of readable) {
    const isGic = gic.take(line);
    if (!isGic && smmu?.take(line) !== true) count(notReplayed, line.event);
  }
  gic.settleAll();
  return {
    lines: trace.length,
    compared: [...tally.compared].map(([kind, compared]) => ({
      kind,
      compared,
      differ: tally.differing.get(kind) ?? 0,
    })),
    differences: tally.differences,
    left: Object.fromEntries(left),
    notReplayed: Object.fromEntries([...notReplayed].sort(([, a], [, b]) => b - a)),
    unreadable: bad,
    differ: tally.differ,
  };
}
