/** The store alone as a process, with a broker of its own, that listens on Unix sockets: for tests and measurements. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { keyFiles, writeHostKeys } from './keys.ts';
import { findNatsServer, startNatsServer } from './nats-server.ts';

const MAIN = resolve(import.meta.dirname, '../../services/xenstored/main.ts');
const START_LIMIT_MS = 20_000;

export interface StoreProcess {
  /** Where `socket` and `dom<N>.sock` are. */
  readonly rundir: string;
  readonly pid: number;
  /** How to reach its broker as dom0. */
  readonly natsUrl: string;
  readonly dom0Creds: string;
  /** What the process wrote so far. */
  output(): string;
  /** SIGKILL; ends when the process has. */
  kill(): Promise<void>;
  /** A new process after the end of the last; ends when it listens. */
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** With `durable` it keeps a journal, in a directory that is removed with `stop`. */
export async function startStoreProcess({ durable = false } = {}): Promise<StoreProcess> {
  const dir = mkdtempSync(join(tmpdir(), 'culvert-xs-'));
  await writeHostKeys(dir, join(dir, 'resolver'));
  const files = keyFiles(dir);
  const binary = await findNatsServer(() => undefined);
  const server = await startNatsServer({ binary, confText: readFileSync(files.natsConf, 'utf8'), dir });
  const rundir = join(dir, 'run');
  let output = '';
  let child: ChildProcess | undefined;
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const ending = child;
    if (ending === undefined || ending.exitCode !== null || ending.signalCode !== null) return;
    const ended = new Promise((done) => ending.once('exit', done));
    ending.kill(signal);
    await ended;
  };
  const stop = async (): Promise<void> => {
    await end('SIGTERM');
    await server.stop();
    rmSync(dir, { recursive: true, force: true });
  };
  const start = async (): Promise<void> => {
    const socket = join(rundir, 'socket');
    rmSync(socket, { force: true });
    const started = spawn(process.execPath, [MAIN], {
      env: {
        PATH: process.env['PATH'],
        NATS_URL: server.url,
        CULVERT_CREDS: files.credsOf('xenstored'),
        XENSTORED_RUNDIR: rundir,
        XENSTORED_GUEST_SOCKETS: '1',
        XENSTORED_WITHOUT_DOM0: '1',
        ...(process.env['CULVERT_LOG'] === undefined ? {} : { CULVERT_LOG: process.env['CULVERT_LOG'] }),
        ...(durable ? { XENSTORED_JOURNAL: join(dir, 'journal') } : {}),
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child = started;
    started.stdout.on('data', (chunk) => (output += chunk));
    started.stderr.on('data', (chunk) => (output += chunk));
    for (const limit = Date.now() + START_LIMIT_MS; !(await answers(socket)); await delay(10)) {
      if (started.exitCode !== null || Date.now() > limit) {
        await stop();
        throw new Error(`xenstored did not start: ${output}`);
      }
    }
  };
  await start();
  return {
    rundir,
    natsUrl: server.url,
    dom0Creds: readFileSync(files.credsOf('d0'), 'utf8'),
    get pid() {
      return child?.pid ?? 0;
    },
    output: () => output,
    kill: () => end('SIGKILL'),
    start,
    stop,
  };
}

/** Whether somebody listens there. */
function answers(path: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect(path, () => {
      socket.destroy();
      done(true);
    });
    socket.on('error', () => done(false));
  });
}
