/** The bundled scenario on boards whose SMMUv3 is another one: Xen takes it, or says in a line why not. */
import { resolve } from 'node:path';
import { assert, describe, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import type { SmmuV3Choices } from '#shared/board/choices.ts';
import { readScenario } from '#tools/scenario/schema.ts';
import { playSimulated } from '#tools/sim/play.ts';

const scenario = readScenario(resolve(import.meta.dirname, '../../examples/two-guests.yaml'));
const board = readBoard(scenario.boardFile);

function problems(smmu: Partial<SmmuV3Choices>): string[] {
  const result = playSimulated(scenario, { ...board, choices: { smmu } }, { seed: 1 }, () => undefined);
  return result.steps.flatMap((step) => step.problems.map((problem) => `${step.title}: ${problem}`));
}

describe('two guests have their functions to themselves behind an SMMUv3', () => {
  test.each<[string, Partial<SmmuV3Choices>]>([
    ['with linear stream tables only', { ST_LEVEL: 0 }],
    ['with StreamIDs of 10 bits, in a linear table', { ST_LEVEL: 0, SIDSIZE: 10 }],
    ['with more StreamIDs than a level 1 table of Xen has room for', { SIDSIZE: 32 }],
    ['with VMIDs of 8 bits, stage 2 alone and no granule but 4 KiB', { VMID16: 0, S1P: 0, GRAN16K: 0, GRAN64K: 0 }],
    ['that can write its interrupts, invalidate ranges and tell substreams apart', { MSI: 1, RIL: 1, SSIDSIZE: 8 }],
    ['with the smallest queues', { CMDQS: 1, EVENTQS: 0 }],
    ['with addresses of 40 bits', { OAS: 2 }],
  ])('%s', (_, smmu) => {
    assert.deepEqual(problems(smmu), []);
  });
});
