/** Level interrupts between real processes: a guest with a line, one that has to go without, and the death of the first. */
import { afterAll, assert, beforeAll, expect, test } from 'vitest';
import { HostUp } from '../support/host-up.ts';

/** Where the pins of both guests' functions lead to. */
const LINE = 37;
const host = new HostUp();
let first: number;
let second: number;

beforeAll(async () => {
  await host.start();
  first = await host.create('guest1');
  second = await host.create('guest2');
}, 60_000);

afterAll(() => host.stop(), 30_000);

test('a guest takes a thousand, and status counts them', async () => {
  const result = await host.guest(first, 'interrupts', { count: 1000, intx: true });
  assert.include(result, { irqs: 'intx', delivered: 1000, lost: 0 });
  assert.include(await host.must('status'), `INTx by SPI ${LINE} (taken 1000 times)`);
  const { services } = JSON.parse(await host.must('status', '--json')) as { services: { intx?: unknown }[] };
  assert.deepEqual(
    services.map((s) => s.intx).filter((intx) => intx !== undefined),
    [[{ intid: LINE, taken: 1000 }], []],
  );
});

test('another guest with a function on that line has MSI-X alone', async () => {
  const refused = await host.guest(second, 'interrupts', { count: 1, intx: true }).then(
    () => '',
    (error: Error) => error.message,
  );
  assert.equal(refused, '0000:00:00.0 has no INTx here');
  assert.include(await host.guest(second, 'interrupts', { count: 20 }), { irqs: 'msix', delivered: 20, lost: 0 });
});

test('when the first is killed the line is free, and the second gets it', { timeout: 60_000 }, async () => {
  process.kill(host.pidOf(first), 'SIGKILL');
  await expect.poll(() => host.must('xl', 'pci-assignable-list'), { timeout: 20_000 }).toContain('0000:01:00.0');
  assert.deepEqual(await host.inspect('xen', 'irqs'), []);
  const spis = (await host.inspect('hardware', 'gic.distributor.spis')) as { enabled: number[]; active: number[] };
  assert.notInclude(spis.enabled, LINE);
  assert.deepEqual(spis.active, []);
  await host.must('xl', 'pci-detach', 'guest2', '0000:02:00.0');
  await host.must('xl', 'pci-attach', 'guest2', '0000:02:00.0');
  assert.include(await host.guest(second, 'interrupts', { count: 100, intx: true }), { delivered: 100, lost: 0 });
});
