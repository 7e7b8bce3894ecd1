/** An NVMe controller and NICs, passed to guests whose drivers use them, in the simulated world. */
import { resolve } from 'node:path';
import { assert, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import { readScenario } from '#tools/scenario/schema.ts';
import { playSimulated } from '#tools/sim/play.ts';

const scenario = readScenario(resolve(import.meta.dirname, '../../examples/disk-and-wire.yaml'));

test.each([1, 2])('guests have a disk, and frames of each other, seed %i', (seed) => {
  const result = playSimulated(scenario, readBoard(scenario.boardFile), { seed }, () => undefined);
  assert.deepEqual(
    result.steps.flatMap((step) => step.problems.map((problem) => `${step.title}: ${problem}`)),
    [],
  );
  assert.equal(result.result, 'passed');
});
