import { resolve } from 'node:path';
import { assert, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import type { ScenarioResult } from '#tools/scenario/runner.ts';
import { scenarioSchema } from '#tools/scenario/schema.ts';
import { playSimulated } from '#tools/sim/play.ts';

const EXAMPLES = resolve(import.meta.dirname, '../../examples');

test('a board without an ITS runs: MMIO and DMA of a guest work, and its interrupts come by INTx', () => {
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
          guests: Object.fromEntries(
            ['guest1', 'guest2'].map((name) => [
              name,
              `name = "${name}"\nmemory = 96\nvcpus = 1\npassthrough = "enabled"\n`,
            ]),
          ),
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
  const steps = [
    { dmaCheck: { guest: 'guest1', bytes: 65536 } },
    // The function's own MSI-X capability is not shown: its messages would reach nobody.
    { guest: 'guest1', run: 'devices', expect: { functions: { 0: { msixVectors: 0, intx: 37, irqs: 'intx' } } } },
    { interrupts: { guest: 'guest1', count: 1000, vectors: 1 } },
    { xl: 'destroy guest1' },
  ];
  assert.deepEqual(problemsOf(play(...steps)), []);
  // A function without either: the attach says so, and goes on.
  const second = [
    { xl: 'create guest2' },
    { xl: 'pci-assignable-add 0000:02:00.0' },
    { xl: 'pci-attach guest2 0000:02:00.0', expect: { stderr: "/warning.*no interrupt: irq 37 is another domain's/" } },
    { guest: 'guest2', run: 'devices', expect: { functions: { 0: { irqs: 'none', driver: 'dma-probe' } } } },
    { dmaCheck: { guest: 'guest2', bytes: 65536 } },
  ];
  assert.deepEqual(problemsOf(play(...second)), []);
});

/** The steps that failed, each with why. */
function problemsOf(result: ScenarioResult): string[] {
  return result.steps.filter((s) => s.outcome === 'failed').map((s) => `${s.title}: ${s.problems.join('; ')}`);
}
