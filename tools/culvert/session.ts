/** The operator on a running host: one question and its answer, or a whole scenario. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { type LocalPeer, Shell } from '#shared/bus/shell.ts';
import { body } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { Runtime } from '#shared/core/runtime.ts';
import { readText } from '#shared/yaml/files.ts';
import { isAlive } from '../host/nats-server.ts';
import { Operator, type ScenarioResult, type Surroundings } from '../scenario/runner.ts';
import type { Scenario } from '../scenario/schema.ts';

export interface Target {
  readonly url: string;
  /** Text of the operator's creds file. */
  readonly creds: string;
}

/** What a user has to mend; one line, exit status 1. */
export class UsageError extends Error {
  override name = 'UsageError';
}

/** Where `culvert up` leaves what others need to find the host. */
export const STATE_DIR = '.culvert/host';
/** What the supervisor says when the host ends by itself. */
export const PROBLEM_FILE = join(STATE_DIR, 'problem');

const hostState = z.object({
  url: z.string(),
  creds: z.string(),
  /** Of the supervisor. */
  pid: z.number().int().positive(),
  dir: z.string(),
  board: z.string(),
  pids: z.record(z.string(), z.number()),
});

export type HostState = Readonly<z.output<typeof hostState>>;

const STATE_FILE = join(STATE_DIR, 'host.json');

/** Undefined: no host runs here. Throws UsageError when the file does not say which one. */
export function readHostState(): HostState | undefined {
  if (!existsSync(STATE_FILE)) return undefined;
  try {
    return hostState.parse(JSON.parse(readText(STATE_FILE)));
  } catch {
    throw new UsageError(`${STATE_FILE} is broken, it does not say which host runs here: clear up with "culvert down"`);
  }
}

/** Where the host is that --url and --creds name, or the one that `culvert up` started here, and the operator's creds file. */
export function credsFileOf(options: { url?: string; creds?: string }): { url: string; creds: string } {
  if (options.url !== undefined) {
    const file = options.creds ?? process.env['CULVERT_OPERATOR_CREDS'] ?? '.culvert/compose/operator.creds';
    if (!existsSync(file)) throw new UsageError(`no operator credential at ${file}: name the file with --creds`);
    return { url: options.url, creds: file };
  }
  const state = readHostState();
  if (state === undefined) {
    const why = existsSync(PROBLEM_FILE) ? ` (${readFileSync(PROBLEM_FILE, 'utf8').trim()})` : '';
    throw new UsageError(
      `no host runs here${why}: start one with "culvert up", or name one with --url nats://HOST:PORT`,
    );
  }
  if (!isAlive(state.pid)) {
    throw new UsageError(`the host that ran here has died (pid ${state.pid}): clear up with "culvert down"`);
  }
  return { url: state.url, creds: state.creds };
}

export function findTarget(options: { url?: string; creds?: string }): Target {
  const { url, creds } = credsFileOf(options);
  const text = readText(creds);
  if (!text.includes('NATS USER JWT')) throw new UsageError(`${creds} holds no credential of a NATS user`);
  return { url, creds: text };
}

const CONNECT_WAIT_MS = 3000;

/** Connects as the operator, runs `op`, and gives its result. */
export async function asOperator<T>(target: Target, op: (runtime: Runtime) => Op<T>): Promise<T> {
  const runtime = new Runtime({ idBase: operatorIds(), sharedName: true });
  return await new Promise<T>((resolve, reject) => {
    let shell: Shell | undefined;
    const end = (settle: () => void): void => {
      void Promise.resolve(shell?.stop()).finally(settle);
    };
    runtime.attach({
      onRequest: () => undefined,
      inspect: () => ({ ready: true }),
      *boot() {
        try {
          const value = yield* op(runtime);
          end(() => resolve(value));
        } catch (error) {
          end(() => reject(error as Error));
        }
      },
    });
    // A connection that stays open would keep the process.
    const fail = (error: Error): void => end(() => reject(error));
    shell = new Shell('operator', runtime, { ...target, waitMs: CONNECT_WAIT_MS, onFatal: fail });
    shell.start().catch(reject);
  });
}

/** Plays a scenario on a running host. */
export async function playOn(
  target: Target,
  scenario: Scenario,
  surroundings: Surroundings,
  liveCredentials: () => Promise<number[]>,
  broken: Promise<never>,
): Promise<ScenarioResult> {
  const runtime = new Runtime({ idBase: operatorIds(), sharedName: true });
  const operator = new Operator(runtime, scenario, surroundings);
  const broker: LocalPeer = async () =>
    body('inspectReply', { json: JSON.stringify(await liveCredentials()), error: '' });
  let reject: (error: Error) => void = () => undefined;
  const finished = new Promise<ScenarioResult>((resolve, fail) => {
    reject = fail;
    operator.onDone(resolve);
    broken.catch(fail);
  });
  const locals = { broker };
  const shell = new Shell('operator', runtime, { ...target, waitMs: CONNECT_WAIT_MS, locals, onFatal: reject });
  const starting = shell.start().catch(reject);
  try {
    return await finished;
  } finally {
    await starting; // a connection that is under way cannot be closed yet
    await shell.stop();
  }
}

/** Operators share one name and one inbox, so each session takes ids of its own from a random place. */
function operatorIds(): number {
  return Math.floor(Math.random() * 2 ** 32) * 2 ** 20;
}
