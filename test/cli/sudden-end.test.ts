/** Hosts and runs that somebody ends in the middle: nothing of them stays. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, readFileSync } from 'node:fs';
import { afterEach, assert, beforeEach, describe, expect, test } from 'vitest';
import { EXAMPLES, type Outcome, Workplace } from '../support/culvert.ts';

let place: Workplace;

const culvert = (...args: string[]): Promise<Outcome> => place.culvert(args);

beforeEach(() => {
  place = new Workplace();
  cpSync(EXAMPLES, place.path('.'), { recursive: true });
});

afterEach(async () => {
  await culvert('down');
  place.remove();
});

function state(): { pid: number; pids: Record<string, number> } {
  return JSON.parse(readFileSync(place.path('.culvert/host/host.json'), 'utf8')) as ReturnType<typeof state>;
}

describe('a host that did not end well', () => {
  test('of which a service was killed is down, and says why', { timeout: 60_000 }, async () => {
    assert.deepInclude(await culvert('up'), { status: 0, stderr: '' });
    process.kill(state().pids['hardware']!, 'SIGKILL');
    await expect.poll(() => place.processes(), { timeout: 15_000 }).toEqual([]);
    const status = await culvert('status');
    assert.equal(status.status, 1);
    assert.match(status.stderr, /^culvert: no host runs here \(hardware was ended by SIGKILL\): start one[^\n]*\n$/);
  });

  test('of which the supervisor was killed is cleared up by "down"', { timeout: 60_000 }, async () => {
    assert.deepInclude(await culvert('up'), { status: 0, stderr: '' });
    process.kill(state().pid, 'SIGKILL');
    await expect.poll(async () => (await culvert('status')).stderr).toMatch(/has died .*clear up with "culvert down"/);
    assert.equal((await culvert('down')).status, 0);
    assert.deepEqual(place.processes(), []);
  });

  test('leaves a process alone that only names its folder', { timeout: 60_000 }, async () => {
    const shell = spawn('sleep', ['120'], {
      env: { ...process.env, XENSTORED_RUNDIR: place.path('.culvert/host/xenstored') },
      stdio: 'ignore',
    });
    const ended = once(shell, 'exit');
    try {
      assert.deepInclude(await culvert('up'), { status: 0, stderr: '' });
      assert.equal((await culvert('down')).status, 0);
      assert.equal(shell.exitCode ?? shell.signalCode, null);
    } finally {
      shell.kill();
      await ended;
    }
  });
});

describe('a run', () => {
  /** Starts the scenario and waits until it says something that `seen` matches. */
  async function running(seen: RegExp): Promise<ReturnType<Workplace['start']>> {
    const child = place.start(['run', 'two-guests.yaml']);
    let text = '';
    for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
      text += chunk;
      if (seen.test(text)) return child;
    }
    throw new Error(`it ended after: ${text}`);
  }

  test.each([
    ['as it starts', 'SIGINT', /nats-server at/],
    ['with its guests up', 'SIGTERM', /ok +xl list/],
    ['with its terminal gone', 'SIGHUP', /ok +xl create guest1/],
  ] as const)('that is ended %s by %s takes all along', { timeout: 60_000 }, async (_when, signal, seen) => {
    const child = await running(seen);
    child.stdout.resume();
    let stderr = '';
    child.stderr.on('data', (chunk: string) => {
      stderr += chunk;
    });
    child.kill(signal);
    const [status] = (await once(child, 'close')) as [number];
    assert.equal(status, 1);
    assert.equal(stderr, 'culvert: interrupted\n');
    assert.deepEqual(place.processes(), []);
    assert.deepEqual(place.files(), []);
  });

  test('whose reader has gone takes all along', { timeout: 60_000 }, async () => {
    const child = await running(/nats-server at/);
    child.stdout.destroy();
    const [status] = (await once(child, 'exit')) as [number];
    assert.equal(status, 1);
    assert.deepEqual(place.processes(), []);
    assert.deepEqual(place.files(), []);
  });
});
