import { resolve } from 'node:path';
import { assert, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import type { ScenarioResult } from '#tools/scenario/runner.ts';
import { scenarioSchema } from '#tools/scenario/schema.ts';
import { playSimulated } from '#tools/sim/play.ts';

const EXAMPLES = resolve(import.meta.dirname, '../../examples');

test('a board without an ITS runs: MMIO and DMA of a guest work, its interrupts reach nobody', () => {
  const board = readBoard(`${EXAMPLES}/boards/qemu-virt.yaml`);
  const tree = parseFdt(board.dtb);
  const gic = tree.find('/intc@8000000')!;
  for (const its of [...gic.children]) gic.removeChild(its);
  const play = (...steps: unknown[]): ScenarioResult =>
    playSimulated(
      {
        ...scenarioSchema.parse({
          name: 'No ITS',
          board: '-',
          guests: { guest1: 'name = "guest1"\nmemory = 96\nvcpus = 1\npassthrough = "enabled"\n' },
          steps: [
            { xl: 'pci-assignable-add 0000:01:00.0' },
            { xl: 'create guest1' },
            { xl: 'pci-attach guest1 0000:01:00.0' },
            ...steps,
          ],
        }),
        file: '-',
        boardFile: '-',
      },
      { ...board, dtb: buildFdt(tree), without: ['msi'] },
      { seed: 7 },
      () => {},
    );
  assert.deepEqual(problemsOf(play({ dmaCheck: { guest: 'guest1', bytes: 65536 } }, { xl: 'destroy guest1' })), []);
  const [problem, ...others] = problemsOf(play({ interrupts: { guest: 'guest1', count: 4, vectors: 1 } }));
  assert.isEmpty(others);
  assert.include(problem, 'interrupts of guest1');
});

/** The steps that failed, each with why. */
function problemsOf(result: ScenarioResult): string[] {
  return result.steps.filter((s) => s.outcome === 'failed').map((s) => `${s.title}: ${s.problems.join('; ')}`);
}
