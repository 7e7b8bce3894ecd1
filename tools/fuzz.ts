/**
 * `node tools/fuzz.ts [--minutes M] [--seed N]`: random histories on fresh machines (tools/fuzz/actions.ts) until the time
 * is over. Exit status 1 when an assertion failed, memory was written that is none, or a batch did not end: the seed,
 * what broke and the shortest history found that breaks it are printed. A seed plays the same histories every time.
 */
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import type { Found } from './fuzz/play.ts';
import type { Batches } from './fuzz/worker.ts';

const RUNS = 20;
const MOST = 300;
/** A batch takes a few seconds; one that shrinks a failure stops by itself after a minute. */
const HANGS_AFTER_MS = 180_000;

const { minutes, seed } = asked();

/** What the command line asks for; ends the program with a line when that cannot be done. */
function asked(): { readonly minutes: number; readonly seed: number } {
  try {
    const { values } = parseArgs({ options: { minutes: { type: 'string', default: '1' }, seed: { type: 'string' } } });
    const given = values.seed === undefined ? Date.now() % 1_000_000_000 : Number(values.seed || Number.NaN);
    if (!(Number(values.minutes) > 0))
      throw new RangeError(`--minutes ${values.minutes}: a number above 0 was expected`);
    if (!Number.isInteger(given)) throw new RangeError(`--seed ${values.seed}: a whole number was expected`);
    return { minutes: Number(values.minutes), seed: given };
  } catch (error) {
    process.stderr.write(`${(error as Error).message}; usage: node tools/fuzz.ts [--minutes M] [--seed N]\n`);
    process.exit(2);
  }
}

process.stdout.write(`seed ${seed}, ${minutes} min\n`);
const workerData: Batches = { seed, runs: RUNS, most: MOST };
const worker = new Worker(new URL('./fuzz/worker.ts', import.meta.url), { workerData });
const end = Date.now() + minutes * 60_000;
let [runs, actions, next] = [0, 0, seed];
let watchdog = setTimeout(hung, HANGS_AFTER_MS);

function hung(): void {
  process.stdout.write(`seed ${next} did not end within ${HANGS_AFTER_MS / 1000} s\n`);
  process.exit(1);
}

worker.on('message', (found: Found) => {
  clearTimeout(watchdog);
  watchdog = setTimeout(hung, HANGS_AFTER_MS);
  runs += found.runs;
  actions += found.actions;
  next = found.seed + 1;
  if (found.failure !== undefined) {
    process.stdout.write(`seed ${found.seed} breaks:\n${found.failure}\n`);
    process.exit(1);
  }
  if (Date.now() >= end) {
    process.stdout.write(`${runs} histories, ${actions} actions: nothing broke\n`);
    process.exit(0);
  }
});
worker.on('error', (error) => {
  process.stdout.write(`${error.stack}\n`);
  process.exit(1);
});
