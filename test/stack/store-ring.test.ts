/** A guest on its store ring, over real processes and a real broker, beside one that speaks over the bus. */
import { appendFileSync } from 'node:fs';
import { afterAll, assert, beforeAll, test } from 'vitest';
import { peerOf } from '#shared/core/core.ts';
import { HostUp } from '../support/host-up.ts';

const host = new HostUp();
let onRing: number;
let onBus: number;

beforeAll(async () => {
  await host.start();
  appendFileSync(host.place.path('guest1.cfg'), 'extra = "xenstore=ring"\n');
  onRing = await host.create('guest1');
  onBus = await host.create('guest2');
}, 60_000);

afterAll(() => host.stop(), 30_000);

const storeWrite = (domid: number) => host.guest(domid, 'hostile', { attack: 'write_foreign_node', domid: 0 });

test('it boots, finds its function and is answered, and its packets do not go over the bus', async () => {
  const ring = (await host.inspect(peerOf(onRing), 'storeRing')) as { connected: boolean; broken: string };
  assert.deepInclude(ring, { connected: true, broken: '' });
  const sent = (await host.inspect(peerOf(onRing), 'runtime.sent')) as Record<string, number>;
  assert.notProperty(sent, 'xenstoreRequest');
  for (const domid of [onRing, onBus]) assert.equal((await storeWrite(domid))['errno'], 'EACCES');
  assert.equal((await host.guest(onRing, 'dma-check', { bytes: 1 << 20, seed: 5 }))['mismatches'], 0);
});

test('its function is detached and it ends, and nothing of its page stays mapped', async () => {
  await host.must('xl', 'pci-detach', 'guest1', '0000:01:00.0');
  await host.must('xl', 'destroy', 'guest1');
  assert.hasAllKeys(await host.inspect('d0', 'storeRings'), [`${onBus}`]);
  assert.hasAllKeys(await host.inspect('xenstored', 'rings'), [`${onBus}`]);
  assert.equal((await storeWrite(onBus))['errno'], 'EACCES');
});
