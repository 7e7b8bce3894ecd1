/** `culvert sim SCENARIO`: the same scenario from many seeds, each another order of events, over all cores of the machine. */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { readScenario } from '../scenario/schema.ts';
import { checkedBoard } from './checked-board.ts';
import type { SeedOutcome } from './seeds-worker.ts';

export interface SimOptions {
  readonly seeds: number;
  readonly from: number;
  readonly json?: boolean;
}

/** Seeds given to a worker at a time. */
const BATCH = 5;
const PROGRESS_EVERY = 100;
/** Nearly all that a run allocates is short-lived: with room for it, little is ever copied. */
const YOUNG_GENERATION_MB = 128;

export async function sim(file: string, options: SimOptions): Promise<number> {
  const scenario = readScenario(file);
  checkedBoard(scenario.boardFile); // a mistake in it is told once, before the workers start
  const say = (line: string): void => {
    if (options.json !== true) process.stdout.write(`${line}\n`);
  };
  const workers = Math.min(availableParallelism(), options.seeds);
  const last = options.from + options.seeds - 1;
  say(`${scenario.name}: seeds ${options.from} to ${last}, ${workers} at a time`);
  const started = performance.now();
  const failures: SeedOutcome[] = [];
  let next = options.from;
  let done = 0;
  let messages = 0;
  const onOutcome = (outcome: SeedOutcome): void => {
    done++;
    messages += outcome.messages;
    if (outcome.problem !== '') {
      failures.push(outcome);
      say(`seed ${outcome.seed} FAILED: ${outcome.problem}`);
    }
    if (done % PROGRESS_EVERY === 0) say(`${done} seeds in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  };
  const runWorker = async (): Promise<void> => {
    const worker = new Worker(new URL('./seeds-worker.ts', import.meta.url), {
      workerData: { file },
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    try {
      await new Promise<void>((finish, fail) => {
        const give = (): void => {
          if (next > last) {
            finish();
            return;
          }
          const seeds = Array.from({ length: Math.min(BATCH, last - next + 1) }, (_, i) => next + i);
          next += seeds.length;
          worker.postMessage(seeds);
        };
        worker.on('message', (outcomes: SeedOutcome[]) => {
          outcomes.forEach(onOutcome);
          give();
        });
        worker.on('error', fail);
        give();
      });
    } finally {
      await worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: workers }, runWorker));
  const seconds = (performance.now() - started) / 1000;
  if (options.json === true) {
    process.stdout.write(
      `${JSON.stringify({ scenario: scenario.name, seeds: done, failures, messages, seconds }, undefined, 2)}\n`,
    );
  } else {
    for (const { seed } of failures) say(`again: culvert run ${file} --simulated --seed ${seed}`);
    say(
      `${done - failures.length} seeds passed, ${failures.length} failed, ${messages} messages, ${seconds.toFixed(1)} s`,
    );
  }
  return failures.length === 0 ? 0 : 1;
}
