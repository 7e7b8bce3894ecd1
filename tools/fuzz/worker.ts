/** Plays batch after batch in a thread of its own, so that who started it can end a history that does not. */
import { parentPort, workerData } from 'node:worker_threads';
import { fuzz } from './play.ts';

/** Batches of `runs` histories of up to `most` actions each; batch n has the seed `seed` + n. */
export interface Batches {
  readonly seed: number;
  readonly runs: number;
  readonly most: number;
}

const { seed, runs, most } = workerData as Batches;
for (let n = 0; ; n++) parentPort?.postMessage(fuzz(seed + n, runs, most));
