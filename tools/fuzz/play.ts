/** Random histories on fresh machines; fast-check draws, shrinks and tells the seed. */
import fc from 'fast-check';
import { type Action, histories, perform } from './actions.ts';
import { gicHistories, playGicHistory } from './gicv2.ts';
import { FuzzRig } from './rig.ts';

/** Plays one history. Throws when an assertion fails or memory was written that is none. */
export function playHistory(actions: readonly Action[]): void {
  const rig = new FuzzRig();
  for (const action of actions) perform(rig, action);
  JSON.stringify(rig.machine.inspect());
  rig.checkMemory();
}

export interface Found {
  readonly seed: number;
  /** Histories played. */
  readonly runs: number;
  readonly actions: number;
  /** What broke, with the shortest history found that breaks it; undefined: nothing did. */
  readonly failure: string | undefined;
}

/** Plays `runs` histories of up to `most` actions on the whole machine, and as many on one with a GICv2, from `seed`. */
export function fuzz(seed: number, runs: number, most: number): Found {
  const whole = fuzzWith(seed, runs, histories(most), playHistory);
  const gicv2 = fuzzWith(seed, runs, gicHistories(most), playGicHistory);
  return {
    seed,
    runs: whole.runs + gicv2.runs,
    actions: whole.actions + gicv2.actions,
    failure: whole.failure ?? gicv2.failure,
  };
}

function fuzzWith<A>(
  seed: number,
  runs: number,
  drawn: fc.Arbitrary<A[]>,
  play: (history: readonly A[]) => void,
): Found {
  let actions = 0;
  const property = fc.property(drawn, (history) => {
    actions += history.length;
    play(history);
  });
  const result = fc.check(property, {
    seed,
    numRuns: runs,
    interruptAfterTimeLimit: 60_000,
    markInterruptAsFailure: false,
  });
  const failure = result.failed
    ? `${result.errorInstance instanceof Error ? result.errorInstance.stack : String(result.errorInstance)}\npath ${result.counterexamplePath}\n${JSON.stringify(result.counterexample?.[0])}`
    : undefined;
  return { seed, runs: result.numRuns, actions, failure };
}
