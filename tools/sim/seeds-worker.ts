/** One worker of `culvert sim`: plays the seeds it is given. */
import { parentPort, workerData } from 'node:worker_threads';
import { readBoard } from '#shared/board/board-file.ts';
import { readScenario } from '../scenario/schema.ts';
import { playSimulated } from './play.ts';

export interface SeedOutcome {
  readonly seed: number;
  readonly traceHash: string;
  readonly messages: number;
  /** Empty when it passed. */
  readonly problem: string;
}

const { file } = workerData as { file: string };
const scenario = readScenario(file);
const board = readBoard(scenario.boardFile);

function play(seed: number): SeedOutcome {
  try {
    const result = playSimulated(scenario, board, { seed }, () => undefined);
    const failed = result.steps.find((step) => step.outcome === 'failed');
    const problem = failed === undefined ? '' : `${failed.title}: ${failed.problems.join('; ')}`;
    return { seed, traceHash: result.traceHash, messages: result.messages, problem };
  } catch (error) {
    return {
      seed,
      traceHash: '',
      messages: 0,
      problem: error instanceof Error ? (error.stack ?? error.message) : String(error),
    };
  }
}

parentPort?.on('message', (seeds: number[]) => parentPort?.postMessage(seeds.map(play)));
