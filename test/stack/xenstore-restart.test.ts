/** A host of real processes whose store is killed, while it rests and in the midst of what the toolstack does. */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, assert, beforeAll, test } from 'vitest';
import { HostUp } from '../support/host-up.ts';

const host = new HostUp();
beforeAll(() => host.start(), 60_000);
afterAll(() => host.stop(), 30_000);

type Tree = Record<string, { value: string; perms: string }>;

function pids(): number[] {
  const log = readFileSync(host.place.path('.culvert/host/supervisor.log'), 'utf8');
  return [...log.matchAll(/xenstored \(pid (\d+)\)|xenstored was ended.*\(pid (\d+)\)/g)].map((m) =>
    Number(m[1] ?? m[2]),
  );
}

/** SIGKILL, and wait until another process has taken its place. */
async function killStore(): Promise<void> {
  const before = pids();
  process.kill(before.at(-1)!, 'SIGKILL');
  for (const end = Date.now() + 10_000; pids().length === before.length; await delay(10))
    if (Date.now() > end) throw new Error('the store was not started again');
}

test('the store comes back as it was, its domains with it, and a guest is created and destroyed across its end', {
  timeout: 90_000,
}, async () => {
  const first = await host.create('guest1');
  const before = (await host.inspect('xenstored', 'tree')) as Tree;
  assert.property(before, `/local/domain/${first}/device/pci/0/state`);
  await killStore();
  assert.deepEqual(await host.inspect('xenstored', 'tree'), before);

  const creating = host.create('guest2');
  await delay(150);
  await killStore();
  const second = await creating;
  const check = await host.guest(second, 'dma-check', { bytes: 1 << 20, seed: 3 });
  assert.equal(check['mismatches'], 0);

  const destroying = host.must('xl', 'destroy', 'guest1');
  await killStore();
  await destroying;
  assert.deepEqual([...(await host.domids()).keys()].sort(), ['Domain-0', 'guest2']);
  const after = (await host.inspect('xenstored', 'tree')) as Tree;
  const left = Object.keys(after).filter((path) => path.startsWith(`/local/domain/${first}/`));
  assert.deepEqual(left, []);
});
