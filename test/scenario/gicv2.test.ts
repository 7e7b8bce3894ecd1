import { assert, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import { readScenario } from '#tools/scenario/schema.ts';
import { playSimulated } from '#tools/sim/play.ts';

const scenario = readScenario('examples/gicv2.yaml');

test.each([7, 8, 9, 10, 11])('examples/gicv2.yaml passes in the simulated world (seed %i)', (seed) => {
  const lines: string[] = [];
  const result = playSimulated(scenario, readBoard(scenario.boardFile), { seed }, (line) => lines.push(line));
  assert.equal(result.result, 'passed', lines.filter((line) => !line.startsWith('ok')).join('\n'));
});
