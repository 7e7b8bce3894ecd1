/** The bundled scenario in the simulated world: passes whatever the seed, and a seed says all that happens. */
import { resolve } from 'node:path';
import { assert, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import { readScenario } from '#tools/scenario/schema.ts';
import { playSimulated, type SimulatedResult } from '#tools/sim/play.ts';

const scenario = readScenario(resolve(import.meta.dirname, '../../examples/two-guests.yaml'));
const board = readBoard(scenario.boardFile);

function play(seed: number): SimulatedResult {
  return playSimulated(scenario, board, { seed }, () => undefined);
}

function problems(result: SimulatedResult): string[] {
  return result.steps.flatMap((step) => step.problems.map((problem) => `${step.title}: ${problem}`));
}

test.each([1, 2, 3])('two guests have their functions to themselves, seed %i', (seed) => {
  const result = play(seed);
  assert.deepEqual(problems(result), []);
  assert.equal(result.result, 'passed');
  assert.lengthOf(result.steps, scenario.steps.length + 1, 'the steps of the file, and the start of the host');
});

test('one seed gives one history, to the last byte of every message', () => {
  const [one, again] = [play(7), play(7)];
  assert.equal(one.traceHash, again.traceHash);
  assert.equal(one.messages, again.messages);
  assert.deepEqual(one.steps, again.steps);
});

test('different seeds give different histories', () => {
  const hashes = [4, 5, 6].map((seed) => play(seed).traceHash);
  assert.lengthOf(new Set(hashes), 3);
});
