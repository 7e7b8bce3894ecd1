/**
 * Device trees of real boards, run: Xen and dom0 boot on a machine made of the tree and a few functions, and one function
 * of each bridge goes to a guest, does DMA and interrupts, and comes back.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { assert, describe, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardFunction, BoardLack } from '#shared/board/description.ts';
import type { BoardBridge } from '#shared/board/parts.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import { formatSbdf, sbdf as makeSbdf } from '#shared/ids/sbdf.ts';
import type { StepOutcome } from '#tools/scenario/runner.ts';
import { scenarioSchema } from '#tools/scenario/schema.ts';
import { playSimulated } from '#tools/sim/play.ts';
import { because, data, OVERDRIVE_RAM, withMemory } from '../support/data.ts';

const QEMU = readBoard(new URL('../../examples/boards/qemu-virt.yaml', import.meta.url).pathname);
const ROOT_PORT = dumped(0, 2);
const ENDPOINT = dumped(2, 0);

/** The functions that were passed through, and the steps that failed. */
interface Run {
  readonly endpoints: readonly string[];
  readonly failed: readonly StepOutcome[];
}

describe.skipIf(data === undefined)(`device trees of real boards, run${because}`, () => {
  test.for<[string, number, BoardLack[]]>([
    ['qemu72-virt-gicv3-its-smmuv3', 1, []],
    ['qemu72-virt-el2-numa2-smmuv3', 1, []],
    ['fvp-base-revc', 1, []],
    // ECAM, and three PEMs; the SMMUv2 lists them in mmu-masters.
    ['cn8030-gw6404-mmu-masters', 4, []],
  ])('%s passes a function of each of its %i bridges through', ([name, bridges, without]) => {
    const { endpoints, failed } = run(name, without);
    assert.equal(endpoints.length, bridges);
    assert.deepEqual(failed, []);
  });

  test.for<[string, (dtb: Uint8Array) => Uint8Array]>([
    ['juno-r2', (dtb) => dtb],
    ['amd-overdrive-rev-b1', (dtb) => withMemory(dtb, OVERDRIVE_RAM)],
  ])(
    '%s, with a GICv2, passes a function through: DMA, INTx, and faults that an MMU-401 reports',
    ([name, firmware]) => {
      const { endpoints, failed } = run(name, ['msi'], WIRED, firmware);
      assert.equal(endpoints.length, 1);
      assert.deepEqual(failed, []);
    },
  );

  test('without an SMMU a function can be assigned to nobody', () => {
    const { failed } = run('qemu72-virt-gicv3-its-noiommu-lowmem', ['smmu']);
    assert.equal(failed.length, 1);
    assert.include(JSON.stringify(failed), 'xc_assign_device failed: No such device');
  });

  test('a StreamID that the SMMU has no bits for is refused, and the function stays out of reach', () => {
    // The second bridge has its StreamIDs from 0x10000 on.
    const { failed } = run('cn8030-gw6404-iommu-map', []);
    assert.include(JSON.stringify(failed), 'failed to quarantine 0001:20:00.0');
  });

  test('where firmware put a window over the SMMU, dom0 cannot give the SMMU to a guest', () => {
    // dom0 places the first BAR at the start of the window, where the SMMU is.
    const { failed } = run('thunderx-88xx-firmware2015-assembled', []);
    assert.include(JSON.stringify(failed), 'xc_domain_iomem_permission 0x830000000000');
    assert.include(JSON.stringify(failed), 'Operation not permitted');
  });
});

const MESSAGES = [{ interrupts: { guest: 'guest1', count: 40, vectors: 4 } }];
/** What a guest can do with its device where there are no messages. */
const WIRED = [
  { interrupts: { guest: 'guest1', count: 40, vectors: 1 } },
  { stopped: { guest: 'guest1', operation: 'write', address: { xen: 'page tables', of: 'guest1' } } },
];

function run(
  name: string,
  without: readonly BoardLack[],
  checks: readonly unknown[] = MESSAGES,
  firmware: (dtb: Uint8Array) => Uint8Array = (dtb) => dtb,
): Run {
  const dtb = firmware(new Uint8Array(readFileSync(join(data!, 'dtb', `${name}.dtb`))));
  const functions = readBoardTree({ dtb, without }).bridges.flatMap(functionsOf);
  const endpoints = functions.filter((f) => f.model === 'dma-probe').map((f) => formatSbdf(f.sbdf));
  const scenario = scenarioSchema.parse({
    name,
    board: '-',
    guests: { guest1: 'name = "guest1"\nmemory = 96\nvcpus = 1\npassthrough = "enabled"\n' },
    steps: endpoints.flatMap((bdf) => [
      { xl: `pci-assignable-add ${bdf}` },
      { snapshot: 'before' },
      { xl: 'create guest1' },
      { xl: `pci-attach guest1 ${bdf}` },
      { dmaCheck: { guest: 'guest1', bytes: 65536 } },
      ...checks,
      { xl: 'destroy guest1' },
      { restored: 'before' },
    ]),
  });
  const result = playSimulated(
    { ...scenario, file: name, boardFile: name },
    { dtb, without, functions },
    { seed: 7 },
    () => {},
  );
  return { endpoints, failed: result.steps.filter((step) => step.outcome === 'failed') };
}

/** The function of a device whose pins `interrupt-map` leads on: most maps look at devices alone. */
function pinnedFunction({ interruptMap }: BoardBridge): number {
  const [mask, unit] = [interruptMap?.mask[0] ?? 0, interruptMap?.rows[0]?.match[0] ?? 0];
  return ((mask & unit) >>> 8) & 7;
}

/** A root port with an endpoint below it; where windows are above 4 GiB only, an endpoint on the root bus. */
function functionsOf(bridge: BoardBridge): BoardFunction[] {
  const { segment, busRange, driver } = bridge;
  const { first } = busRange;
  const hasLow = bridge.ranges.some((r) => r.space !== 'io' && r.pciBase < 2 ** 32);
  if (!hasLow) return [{ ...ENDPOINT, sbdf: makeSbdf(segment, first, 1, 0) }];
  const slot = driver === 'thunder-pem' ? 0 : 2;
  const fn = pinnedFunction(bridge);
  // A device without function 0 is none: then there is a port with nothing below it, and dom0 numbers its bus first.
  const below = fn === 0 ? first + 1 : first + 2;
  return [
    ...(fn === 0 ? [] : [{ ...ROOT_PORT, sbdf: makeSbdf(segment, first, slot, 0), secondaryBus: first + 1 }]),
    { ...dumped(0, 2, fn), sbdf: makeSbdf(segment, first, slot, fn), secondaryBus: below },
    { ...ENDPOINT, sbdf: makeSbdf(segment, below, 0, 0) },
  ];
}

function dumped(bus: number, slot: number, fn = 0): BoardFunction {
  return QEMU.functions.find((f) => f.sbdf === makeSbdf(0, bus, slot, fn))!;
}
