import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, assert, describe, test } from 'vitest';
import { endProcess, findNatsServer, isAlive, isUsableVersion, startNatsServer } from '#tools/host/nats-server.ts';

const dir = mkdtempSync(join(tmpdir(), 'culvert-nats-'));
afterAll(() => rmSync(dir, { recursive: true }));

async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    return (error as Error).message;
  }
  return 'it worked';
}

describe('nats-server', () => {
  test('is taken where its version has what the credentials need', () => {
    assert.isTrue(isUsableVersion('nats-server: v2.9.10'));
    assert.isTrue(isUsableVersion('nats-server: v2.10.27'));
    assert.isTrue(isUsableVersion('nats-server: v3.0.0'));
    assert.isFalse(isUsableVersion('nats-server: v2.8.4'));
    assert.isFalse(isUsableVersion('nats-server: v1.10.0'));
    assert.isFalse(isUsableVersion('no such command'));
  });

  test('starts on a free port of loopback, answers, and is gone after stop', async () => {
    const binary = await findNatsServer(() => undefined);
    const server = await startNatsServer({ binary, confText: '', dir: join(dir, 'one') });
    assert.match(server.url, /^nats:\/\/127\.0\.0\.1:\d+$/);
    assert.isTrue(isAlive(server.pid));
    await server.stop();
    assert.isFalse(isAlive(server.pid));
    assert.isEmpty(readdirSync(join(dir, 'one', 'ports')));
  });

  test('says in one line that the port is taken', async () => {
    const other = createServer();
    await new Promise<void>((done) => other.listen(0, '127.0.0.1', done));
    const { port } = other.address() as { port: number };
    const binary = await findNatsServer(() => undefined);
    const said = await failure(startNatsServer({ binary, confText: '', dir: join(dir, 'two'), port }));
    other.close();
    assert.equal(said, `port ${port} of 127.0.0.1 is taken by another program`);
  });

  test('says in one line what is wrong with the configuration', async () => {
    const binary = await findNatsServer(() => undefined);
    const said = await failure(startNatsServer({ binary, confText: 'operator: junk\n', dir: join(dir, 'three') }));
    assert.match(said, /^nats-server did not start: .*operator JWT/);
    assert.notInclude(said, '\n');
  });

  test('is not ended twice: a process that is gone is left alone', async () => {
    const binary = await findNatsServer(() => undefined);
    const server = await startNatsServer({ binary, confText: '', dir: join(dir, 'four') });
    await server.stop();
    await endProcess(server.pid);
    await server.stop();
  });
});
