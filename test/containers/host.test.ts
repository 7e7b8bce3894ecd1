/** A host in containers, as the README starts it, worked on from outside: two guests, and the death of one. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, assert, beforeAll, describe, expect, test } from 'vitest';
import { DOMID_IO } from '#shared/abi/hypercall.ts';
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { parseLspci } from '#shared/lspci/dump.ts';
import { ComposedHost } from './compose.ts';

const GUESTS = resolve(import.meta.dirname, '../../examples/guests');
const BOARD = resolve(import.meta.dirname, '../../examples/boards/qemu-virt.yaml');
const DEVICE_OF_GUEST1 = '0000:01:00.0';
const DEVICE_OF_GUEST2 = '0000:02:00.0';

const host = new ComposedHost();
const scenarios = mkdtempSync(join(tmpdir(), 'culvert-scenarios-'));

beforeAll(() => host.up());
afterAll(async () => {
  await host.down();
  rmSync(scenarios, { recursive: true });
});

interface Registers {
  readonly memory: boolean;
  readonly master: boolean;
  readonly msixEnable: boolean;
}

/** SIGKILL of the service in a container, from inside, as if it had crashed: what `docker kill` ends stays ended. */
const KILL_SERVICE = 'for p in /proc/[0-9]*; do grep -q "main[.]ts" $p/cmdline && kill -9 $(basename $p); done; true';

/** What the registers of a function say, as dom0 reads them now. */
async function registersOf(bdf: string): Promise<Registers> {
  const config = parseLspci(await host.must('lspci', '-xxxx'), 'lspci').find((f) => f.sbdf === parseSbdf(bdf))!.config;
  const word = (offset: number): number => config[offset]! | (config[offset + 1]! << 8);
  let msix = config[PCI.CAPABILITY_LIST]!;
  while (config[msix] !== PCI_CAP_ID.MSIX) msix = config[msix + 1]!;
  const command = word(PCI.COMMAND);
  return {
    memory: (command & PCI_COMMAND.MEMORY) !== 0,
    master: (command & PCI_COMMAND.MASTER) !== 0,
    msixEnable: (word(msix + PCI_MSIX.FLAGS) & PCI_MSIX_FLAGS.ENABLE) !== 0,
  };
}

/** Plays steps on the host. Throws with what was printed when one fails. */
async function play(name: string, steps: readonly object[]): Promise<void> {
  const file = join(scenarios, `${name}.yaml`);
  writeFileSync(file, JSON.stringify({ name, board: BOARD, steps }));
  const { status, stdout, stderr } = await host.culvert('run', file);
  if (status !== 0) throw new Error(`${name}: status ${status}\n${stdout}${stderr}`);
}

/** DMA of guest2, over and over until `until` has come to its end; returns how many rounds there were. */
async function dmaOfGuest2(until: Promise<unknown>): Promise<number> {
  let over = false;
  const ended = until.finally(() => {
    over = true;
  });
  ended.catch(() => undefined);
  let rounds = 0;
  for (; !over; rounds++) {
    const steps = [1, 2, 3].map((n) => ({ dmaCheck: { guest: 'guest2', bytes: '32M', seed: rounds * 3 + n } }));
    await play('guest2-alone', steps);
  }
  await ended;
  return rounds;
}

async function domids(): Promise<Map<string, number>> {
  const rows = (await host.must('xl', 'list')).trim().split('\n').slice(1);
  return new Map(rows.map((row) => row.split(/\s+/)).map(([name, domid]) => [name!, Number(domid)]));
}

/** Tests of one host, in this order. */
describe('a host in containers', () => {
  test('comes up with one guest that holds its function', async () => {
    assert.deepEqual([...(await domids()).keys()], ['Domain-0', 'guest1']);
    assert.include(await host.must('xl', 'pci-list', 'guest1'), DEVICE_OF_GUEST1);
  });

  test('has no credential in a container but the container’s own', async () => {
    assert.deepEqual(await host.keysIn('hardware'), ['hardware.creds']);
    assert.deepEqual(await host.keysIn('xen'), ['broker.creds', 'xen.creds']);
    assert.deepEqual(await host.keysIn('xenstored'), ['xenstored.creds']);
    assert.deepEqual(await host.keysIn('dom0'), ['d0.creds', 'key-ring.json']);
    assert.deepEqual(await host.keysIn('domu'), ['vacant.creds']);
  });

  test('builds a second guest for an operator outside', async () => {
    await host.must('xl', 'pci-assignable-add', DEVICE_OF_GUEST2);
    await host.must('xl', 'create', join(GUESTS, 'guest2.cfg'));
    assert.include(await host.must('xl', 'pci-list', 'guest2'), DEVICE_OF_GUEST2);
    assert.equal((await host.culvert('xl', 'pci-attach', 'guest2', DEVICE_OF_GUEST1)).status, 1);
  });

  test('carries DMA and interrupts of both guests at once', async () => {
    await play('both', [
      { waitFor: { guest: 'guest1' } },
      { waitFor: { guest: 'guest2' } },
      {
        together: [
          { dmaCheck: { guest: 'guest1', bytes: '16M', seed: 11 } },
          { dmaCheck: { guest: 'guest2', bytes: '16M', seed: 22 } },
        ],
      },
      {
        together: [
          { interrupts: { guest: 'guest1', count: 200, vectors: 4 } },
          { interrupts: { guest: 'guest2', count: 200, vectors: 4 } },
        ],
      },
      { stopped: { guest: 'guest1', operation: 'write', address: { memoryOf: 'guest2' } } },
    ]);
  });

  test('resets and quarantines the function of a guest whose container is killed, while the other’s DMA goes on', async () => {
    const container = await host.containerOf((await domids()).get('guest1')!);
    assert.deepEqual(await registersOf(DEVICE_OF_GUEST1), { memory: true, master: true, msixEnable: true });
    const death = async (): Promise<void> => {
      await host.kill(container);
      await expect.poll(async () => [...(await domids()).keys()], { timeout: 30_000 }).toEqual(['Domain-0', 'guest2']);
      await expect.poll(() => host.must('xl', 'pci-assignable-list'), { timeout: 30_000 }).toContain(DEVICE_OF_GUEST1);
      const devices = (await host.inspect('xen', 'devices')) as { sbdf: string; owner: number }[];
      assert.equal(devices.find((device) => device.sbdf === DEVICE_OF_GUEST1)?.owner, DOMID_IO);
      assert.deepEqual(await registersOf(DEVICE_OF_GUEST1), { memory: false, master: false, msixEnable: false });
    };
    assert.isAtLeast(await dmaOfGuest2(death()), 2);
    await host.start(container);
  });

  test('keeps the store when xenstored is killed, and the toolstack goes on', async () => {
    const [id] = await host.containers('xenstored');
    await host.compose('exec', '-T', 'xenstored', 'sh', '-c', KILL_SERVICE);
    await expect.poll(() => host.restarts(id!), { timeout: 30_000 }).toBe(1);
    await expect.poll(async () => [...(await domids()).keys()], { timeout: 30_000 }).toEqual(['Domain-0', 'guest2']);
    assert.include(await host.must('xl', 'pci-list', 'guest2'), DEVICE_OF_GUEST2);
  });

  test('gives that function to the next guest', async () => {
    await host.must('xl', 'create', join(GUESTS, 'guest1.cfg'));
    await play('again', [
      { waitFor: { guest: 'guest1' } },
      { dmaCheck: { guest: 'guest1', bytes: '1M', seed: 5 } },
      { interrupts: { guest: 'guest1', count: 40, vectors: 4 } },
    ]);
  });

  test('takes everything back when both guests are destroyed', async () => {
    await host.must('xl', 'destroy', 'guest1');
    await host.must('xl', 'destroy', 'guest2');
    assert.deepEqual([...(await domids()).keys()], ['Domain-0']);
    const assignable = await host.must('xl', 'pci-assignable-list');
    assert.include(assignable, DEVICE_OF_GUEST1);
    assert.include(assignable, DEVICE_OF_GUEST2);
  });
});
