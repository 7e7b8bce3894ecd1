/** Level interrupts of guests in the simulated world: shared, refused, masked, and of guests that do not behave or die. */
import { resolve } from 'node:path';
import { assert, describe, test } from 'vitest';
import { DMA_PROBE } from '#shared/arch/dma-probe.ts';
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSIX } from '#shared/arch/pci/msix.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { body, type Payload, peerOf } from '#shared/core/core.ts';
import { sleep } from '#shared/core/op.ts';
import type { ScenarioResult } from '#tools/scenario/runner.ts';
import { readScenario, type Scenario, scenarioSchema } from '#tools/scenario/schema.ts';
import { playSimulated } from '#tools/sim/play.ts';
import { TwoGuests } from '../support/simulated-host.ts';

const EXAMPLES = resolve(import.meta.dirname, '../../examples');
/** Where the pins of all endpoints of the board lead to. */
const LINE = 37;

function play(scenario: Scenario, seed: number): ScenarioResult {
  return playSimulated(scenario, readBoard(scenario.boardFile), { seed }, () => undefined);
}

function assertPassed(result: ScenarioResult): void {
  assert.deepEqual(
    result.steps.flatMap((step) => step.problems.map((problem) => `${step.title}: ${problem}`)),
    [],
  );
}

/** A scenario of the examples, whose guests want no messages. */
function withoutMsi(name: string): Scenario {
  const scenario = readScenario(`${EXAMPLES}/${name}`);
  const guests = Object.entries(scenario.guests).map(([guest, text]) => [guest, `${text}\nextra = "pci=nomsi"\n`]);
  return { ...scenario, guests: Object.fromEntries(guests) as Record<string, string> };
}

describe('the example', () => {
  const scenario = readScenario(`${EXAMPLES}/intx.yaml`);
  test.each([1, 2, 3, 4, 5])('passes, seed %i', (seed) => {
    const result = play(scenario, seed);
    assertPassed(result);
    const { spisDelivered } = (result.counts as { xen: { spisDelivered: Record<string, number> } }).xen;
    assert.isAtLeast(spisDelivered[`d1 ${LINE}`]!, 1000);
    assert.isAtLeast(spisDelivered[`d2 ${LINE}`]!, 110);
  });
});

test.each([1, 2])('an NVMe controller and a NIC of one guest share its line, seed %i', (seed) => {
  assertPassed(play(withoutMsi('disk-and-wire.yaml'), seed));
});

test.each([1, 2])(
  'two guests have a line each, of bridges on two nodes, with INTIDs beyond those of a small vGIC, seed %i',
  (seed) => {
    const text = 'memory = 96\nvcpus = 1\nextra = "pci=nomsi"\n';
    const scenario = scenarioSchema.parse({
      name: 'Two lines',
      board: '-',
      guests: { guest1: `name = "guest1"\n${text}`, guest2: `name = "guest2"\n${text}` },
      steps: [
        { xl: 'pci-assignable-add 0000:01:00.0' },
        { xl: 'pci-assignable-add 0001:01:00.0' },
        { snapshot: 'before' },
        { xl: 'create guest1' },
        { xl: 'create guest2' },
        { xl: 'pci-attach guest1 0000:01:00.0' },
        { xl: 'pci-attach guest2 0001:01:00.0' },
        {
          together: [
            { interrupts: { guest: 'guest1', count: 1000, vectors: 1 } },
            { interrupts: { guest: 'guest2', count: 1000, vectors: 1 } },
          ],
        },
        { guest: 'guest2', run: 'devices', expect: { functions: { 0: { intx: 196, irqs: 'intx' } } } },
        { counts: { xen: { spisDelivered: { 'd1 192': 1000, 'd2 196': 1000 } } } },
        { xl: 'destroy guest1' },
        { xl: 'destroy guest2' },
        { restored: 'before' },
      ],
    });
    const boardFile = `${EXAMPLES}/boards/numa-4its.yaml`;
    assertPassed(play({ ...scenario, file: '-', boardFile }, seed));
  },
);

/** What stands of lines in the machine. */
function machine(on: TwoGuests): { high: Record<string, string[]>; active: number[]; enabled: number[] } {
  const { active, enabled } = on.inspect('hardware', 'gic.distributor.spis') as { active: number[]; enabled: number[] };
  return { high: on.inspect('hardware', 'highSpis') as Record<string, string[]>, active, enabled };
}

function later(on: TwoGuests, ns: number): void {
  on.operate(() => sleep(ns));
}

/** Where the guest's first device has its registers. */
function registersOf(on: TwoGuests, domid: number): number {
  const devices = on.inspect(peerOf(domid), 'devices') as { bars: { index: number; address: number }[] }[];
  return devices[0]!.bars[0]!.address;
}

/** Raises the device's first vector by a store of the guest's CPU, whatever its kernel does meanwhile. */
function raise(on: TwoGuests, domid: number, registers = registersOf(on, domid)): void {
  const data = Uint8Array.of(1, 0, 0, 0);
  const ops = [{ kind: 2 as const, ipa: registers + DMA_PROBE.RAISE, sizeBytes: 0, data }];
  const message: Payload<'cpuAccessRequest'> = { vcpu: 0, ops };
  const envelope = {
    id: 2 ** 51,
    inReplyTo: 0,
    oldestPending: 0,
    refused: '',
    body: body('cpuAccessRequest', message),
  };
  on.host.world.post(peerOf(domid), 'hardware', envelope);
}

const setpci = (on: TwoGuests, domid: number, offset: number, value: number): Record<string, unknown> =>
  on.guest(domid, 'setpci', { bdf: '0000:00:00.0', offset, value });

/** Message control of MSI-X. */
function msixFlags(on: TwoGuests, domid: number): number {
  const byte = (offset: number): number =>
    on.guest(domid, 'setpci', { bdf: '0000:00:00.0', offset, bytes: 1 })['value'] as number;
  let at = byte(PCI.CAPABILITY_LIST);
  while (byte(at) !== PCI_CAP_ID.MSIX) at = byte(at + 1);
  return at + PCI_MSIX.FLAGS;
}

const DECODING = PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER;

describe('a guest', () => {
  test('that another’s line would be shared with cannot raise it, whatever it writes', () => {
    const on = new TwoGuests(1);
    const dumps = on.inspect('d0', 'functions') as { sbdf: string; irq: number }[];
    assert.equal(dumps.find((f) => f.sbdf === '0000:02:00.0')?.irq, LINE);
    setpci(on, 2, msixFlags(on, 2), 0);
    setpci(on, 2, PCI.COMMAND, DECODING);
    raise(on, 2);
    on.guest(2, 'memory', {});
    const { functions } = on.guest(2, 'devices', {}) as { functions: { intx: number }[] };
    assert.equal(functions[0]!.intx, 0);
    assert.deepEqual(machine(on).high, {});
    const status = on.guest(2, 'setpci', { bdf: '0000:00:00.0', offset: PCI.STATUS });
    assert.equal((status['value'] as number) & 8, 8, 'the device wants to');
    assert.throws(() => on.guest(2, 'interrupts', { count: 1, intx: true }), /0000:00:00.0 has no INTx here/);
    const own = on.guest(1, 'interrupts', { count: 20, intx: true });
    assert.include(own, { delivered: 20, irqs: 'intx' });
  });

  test('masks its line by INTX_DISABLE: what is raised then comes when it is unmasked', () => {
    const on = new TwoGuests(2);
    on.guest(1, 'interrupts', { count: 1, intx: true });
    const taken = (): number => (on.inspect('d1', 'vectors') as Record<string, number[]>)['0000:00:00.0']![0]!;
    const before = taken();
    setpci(on, 1, PCI.COMMAND, DECODING | PCI_COMMAND.INTX_DISABLE);
    raise(on, 1);
    on.guest(1, 'memory', {});
    assert.deepEqual(machine(on).high, {});
    assert.equal(taken(), before);
    setpci(on, 1, PCI.COMMAND, DECODING);
    later(on, 1e9);
    assert.equal(taken(), before + 1);
    assert.deepEqual(machine(on).active, []);
  });
});

describe('a line that stands', () => {
  test('when its guest is killed is nobody’s after that, and another guest can have it', () => {
    const on = new TwoGuests(3);
    on.guest(1, 'interrupts', { count: 10, intx: true });
    const registers = registersOf(on, 1);
    raise(on, 1, registers);
    on.host.end(1);
    later(on, 5e9);
    assert.include(on.xlDone('pci-assignable-list'), '0000:01:00.0');
    assert.deepEqual(on.inspect('xen', 'counts.spisDelivered'), { [`d1 ${LINE}`]: 11 }, 'the last one was never ended');
    const { high, active, enabled } = machine(on);
    assert.deepEqual([high, active], [{}, []]);
    assert.notInclude(enabled, LINE);
    assert.deepEqual(on.inspect('xen', 'irqs'), []);
    on.xlDone('pci-detach guest2 0000:02:00.0');
    on.xlDone('pci-attach guest2 0000:02:00.0');
    assert.include(on.guest(2, 'interrupts', { count: 20, intx: true }), { delivered: 20, lost: 0 });
  });

  test('when its function is taken from a guest that does not answer falls, and is free', () => {
    const on = new TwoGuests(4);
    on.guest(1, 'interrupts', { count: 10, intx: true });
    on.xlDone('pause guest1');
    raise(on, 1);
    later(on, 1e9);
    assert.deepEqual(Object.keys(machine(on).high), [`${LINE - 32}`]);
    assert.deepEqual(machine(on).active, [LINE], 'taken, and never ended by a guest that does not run');
    assert.equal(on.xl('pci-detach guest1 0000:01:00.0').exit, 1);
    assert.deepEqual(machine(on).active, [LINE]);
    on.xl('pci-detach -f guest1 0000:01:00.0');
    assert.deepEqual([machine(on).high, machine(on).active], [{}, []]);
    on.xlDone('pci-attach guest2 0000:01:00.0');
    const { functions } = on.guest(2, 'devices', {}) as { functions: { sbdf: string; intx: number }[] };
    const got = functions.find((f) => f.intx === LINE)!;
    assert.include(on.guest(2, 'interrupts', { bdf: got.sbdf, count: 20, intx: true }), { delivered: 20, lost: 0 });
    on.xlDone('unpause guest1');
    on.xlDone('destroy guest1');
  });
});
