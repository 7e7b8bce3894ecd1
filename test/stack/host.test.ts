/**
 * A host of real processes over a real broker, with a guest whose credential is in the hands of an attacker; and the end
 * of that guest's process. Beside what the broker refuses (broker-privilege.test.ts) this shows what the services do with
 * what it lets through.
 */
import { afterAll, assert, beforeAll, describe, expect, test } from 'vitest';
import { DOMID_IO } from '#shared/abi/hypercall.ts';
import { INTERFACE_OF, subjectOf } from '#shared/bus/subjects.ts';
import { body } from '#shared/core/core.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import {
  ALLOWED,
  type Battlefield,
  FORBIDDEN_HYPERCALLS,
  FORBIDDEN_STORE,
  forbiddenMessages,
  outcomeOf,
} from '../support/attacks.ts';
import { HostUp } from '../support/host-up.ts';
import { HostileClient } from '../support/hostile-client.ts';

const MIB = 1 << 20;
const VICTIM_BDF = '0000:02:00.0';

const host = new HostUp();
let field: Battlefield;
let attacker: HostileClient;
let creds: string;

beforeAll(async () => {
  await host.start();
  const self = await host.create('guest1');
  const victim = await host.create('guest2');
  const domains = (await host.inspect('xen', 'domains')) as { domid: number; iomemRanges: [number, number][] }[];
  const victimMfn = domains.find((d) => d.domid === victim)!.iomemRanges[0]![0];
  field = { self, victim, victimDevice: parseSbdf(VICTIM_BDF)!, victimMfn };
  creds = host.credsOf(self);
  attacker = await HostileClient.connect(host.url, creds, self);
}, 60_000);

afterAll(async () => {
  await attacker?.nc.close();
  await host.stop();
}, 30_000);

async function assertVictimWell(): Promise<void> {
  assert.equal((await host.guest(field.victim, 'dma-check', { bytes: MIB, seed: 5 }))['mismatches'], 0);
  const { delivered, lost } = await host.guest(field.victim, 'interrupts', { count: 16, vectors: 4 });
  assert.deepEqual([delivered, lost], [16, 0]);
  const devices = (await host.inspect('xen', 'devices')) as { sbdf: string; owner: number }[];
  assert.equal(devices.find((d) => d.sbdf === VICTIM_BDF)?.owner, field.victim);
}

describe('the credential of a guest, in other hands,', () => {
  test('lets it do what is its own to do, so that the refusals below mean something', async () => {
    assert.equal(await outcomeOf(ALLOWED.attempt(field), attacker.ask), 'OK');
  });

  test.each([...FORBIDDEN_HYPERCALLS, ...FORBIDDEN_STORE])('is stopped when it $what: $stoppedBy', async (attack) => {
    assert.equal(await outcomeOf(attack.attempt(field), attacker.ask), attack.stoppedBy);
  });

  test('sends none of the messages that are not a guest’s to send, in its own name or another’s', async () => {
    for (const { what, to, message } of forbiddenMessages(field)) {
      const iface = INTERFACE_OF[message.$case];
      if (iface === 'local') continue; // never on the bus, so no subject is its own
      for (const from of [attacker.self, 'xen', 'hardware', 'xenstored', 'operator', 'd0'] as const) {
        const subject = subjectOf(to, iface, from);
        attacker.send(subject, message);
        assert.isTrue(await attacker.wasRefused(subject), `it ${what} on ${subject}`);
      }
    }
  });

  test('gets nothing by such a message on a subject that is its own', async () => {
    const ids = forbiddenMessages(field).flatMap(({ message }) =>
      (
        [
          ['hardware', 'cpu'],
          ['xen', 'hypercall'],
          ['xenstored', 'store'],
          ['xen', 'reply'],
          ['xenstored', 'reply'],
          ['operator', 'reply'],
        ] as const
      ).map(([to, iface]) => attacker.send(subjectOf(to, iface, attacker.self), message)),
    );
    // Order on a subject holds: once a fair request on each is answered, the others have been looked at.
    const read = { kind: 1, ipa: 0x4000_0000, sizeBytes: 4, data: new Uint8Array(0) } as const;
    await attacker.ask('hardware', body('cpuAccessRequest', { vcpu: 0, ops: [read] }));
    await attacker.ask('xen', body('hypercallRequest', { number: 17, cmd: 0, arg: new Uint8Array(0) }));
    await outcomeOf(FORBIDDEN_STORE[0]!.attempt(field), attacker.ask);
    for (const id of ids) assert.isUndefined(attacker.answerTo(id));
  });

  test('ends nothing by bytes that are no message', async () => {
    const bytes = [
      new Uint8Array(0),
      new Uint8Array(1).fill(0xff),
      new Uint8Array(64).fill(0x08),
      new Uint8Array(4096).fill(0xff),
      new TextEncoder().encode('{"json": true}'),
    ];
    for (const [to, iface] of [
      ['hardware', 'cpu'],
      ['xen', 'hypercall'],
      ['xenstored', 'store'],
      ['xen', 'reply'],
      ['xenstored', 'reply'],
    ] as const) {
      for (const data of bytes) attacker.nc.publish(subjectOf(to, iface, attacker.self), data);
    }
    await attacker.nc.flush();
    await assertVictimWell();
  });

  test('loses its connection, and nobody else does, by a message that is too long', async () => {
    const another = await HostileClient.connect(host.url, creds, field.self);
    another.nc.info!.max_payload = 16 * MIB; // its own library would stop it
    another.nc.publish(subjectOf('xen', 'hypercall', another.self), new Uint8Array(5 * MIB));
    await another.nc.closed();
    await assertVictimWell();
  });

  test('has not ended its own guest, nor any service', async () => {
    const status = JSON.parse(await host.must('status', '--json')) as { ready: boolean; services: unknown[] };
    assert.isTrue(status.ready);
    assert.equal((await host.guest(field.self, 'dma-check', { bytes: MIB, seed: 6 }))['mismatches'], 0);
  });
});

describe('a guest whose process is killed', () => {
  test('is gone, its function is free and clean, and the DMA of the other has not noticed', {
    timeout: 60_000,
  }, async () => {
    const dma = (async () => {
      const results = [];
      for (let seed = 1; seed <= 5; seed++) {
        results.push(await host.guest(field.victim, 'dma-check', { bytes: 16 * MIB, seed }));
      }
      return results;
    })();
    process.kill(host.pidOf(field.self), 'SIGKILL');
    await expect
      .poll(async () => [...(await host.domids()).keys()], { timeout: 20_000 })
      .toEqual(['Domain-0', 'guest2']);
    await expect.poll(() => host.must('xl', 'pci-assignable-list'), { timeout: 20_000 }).toContain('0000:01:00.0');
    const devices = (await host.inspect('xen', 'devices')) as { sbdf: string; owner: number }[];
    assert.equal(devices.find((d) => d.sbdf === '0000:01:00.0')?.owner, DOMID_IO, 'in quarantine');
    for (const result of await dma) assert.equal(result['mismatches'], 0);
  });

  test('takes its credential along: who used it is cut off, and nobody gets in with it', async () => {
    await attacker.nc.closed();
    let got: unknown;
    try {
      got = await HostileClient.connect(host.url, creds, field.self);
    } catch (error) {
      assert.match(String(error), /authorization violation/i);
      return;
    }
    assert.fail(`the broker let it in: ${String(got)}`);
  });

  test('leaves room for the next, which is another domain', { timeout: 30_000 }, async () => {
    const domid = await host.create('guest1');
    assert.notEqual(domid, field.self);
    assert.equal((await host.guest(domid, 'dma-check', { bytes: MIB, seed: 7 }))['mismatches'], 0);
    await assertVictimWell();
  });
});
