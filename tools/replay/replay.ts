/**
 * A recorded boot of a real kernel on QEMU, replayed on our GIC, ITS and SMMUv3: everything that the trace says went
 * into QEMU's models goes into ours in the same order, through registers, queues and tables in RAM, and every answer
 * the trace has is asked of ours (docs/reference/replay.md).
 * Not modelled: PCI configuration space, BARs and device internals of the trace; their lines are counted by event.
 */
import { GicReplay } from './gic-replay.ts';
import { buildModels } from './models.ts';
import { SmmuReplay } from './smmu-replay.ts';
import { type Difference, Tally } from './tally.ts';
import { fileOf, parseTrace, TraceError, type TraceLine } from './trace.ts';

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
  readonly differ: number;
}

/** Replays `trace.log` (or `trace.log.gz`) on the machine of `machine.dtb` in `folder`. Throws TraceError, BoardError. */
export function replayFolder(folder: string): Replayed {
  const dtb = fileOf(folder, 'machine.dtb');
  if (dtb === undefined) throw new TraceError(`${folder} has no machine.dtb`);
  const trace = fileOf(folder, 'trace.log');
  if (trace === undefined) throw new TraceError(`${folder} has neither trace.log nor trace.log.gz`);
  return replay(dtb, parseTrace(new TextDecoder().decode(trace)));
}

/** Replays the lines of a trace. Throws BoardError for the tree. */
export function replay(dtb: Uint8Array, trace: readonly TraceLine[]): Replayed {
  const models = buildModels(dtb, trace);
  const tally = new Tally();
  const left = new Map<string, number>();
  const notReplayed = new Map<string, number>();
  const smmu = models.smmu && new SmmuReplay(models, models.smmu, tally, left);
  const gic = new GicReplay(models, tally, (streamId) => smmu?.doorbells.get(streamId));
  const count = (map: Map<string, number>, key: string): void => void map.set(key, (map.get(key) ?? 0) + 1);
  for (const line of trace) {
    try {
      const isGic = gic.take(line);
      if (!isGic && smmu?.take(line) !== true) count(notReplayed, line.event);
    } catch (error) {
      if (!(error instanceof TraceError)) throw error;
      count(left, `${line.event} in a form that is not known here`);
    }
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
    differ: tally.differ,
  };
}
