/** `culvert up`, `down` and `status`: a host that stays until it is taken down. */
import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { body } from '#shared/core/core.ts';
import { call, Indefinite, sleep } from '#shared/core/op.ts';
import { endProcess, isAlive } from '../host/nats-server.ts';
import { HOST_DIR_MARK, Host } from '../host/supervisor.ts';
import { checkedBoard } from '../sim/checked-board.ts';
import { externalBroker } from './external.ts';
import {
  asOperator,
  findTarget,
  type HostState,
  PROBLEM_FILE,
  readHostState,
  STATE_DIR,
  UsageError,
} from './session.ts';

export interface UpOptions {
  readonly board: string;
  readonly port?: number;
}

const FIRST_ANSWER_NS = 100e6;
const UP_LIMIT_MS = 20_000;
const DOWN_LIMIT_MS = 10_000;
const MAIN = resolve(import.meta.dirname, 'main.ts');
const stateFile = join(STATE_DIR, 'host.json');

/**
 * Ends what a supervisor that was killed could not end itself: its services, by the mark in their environment, and its
 * nats-server, by the folder of its configuration. A process that merely names the folder is somebody else's.
 */
async function endStrays(): Promise<void> {
  const folder = resolve(STATE_DIR);
  const strays = processes().filter((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      const isBroker =
        basename(words[0] ?? '') === 'nats-server' && words.some((word) => word.startsWith(`${folder}/`));
      return (
        isBroker || readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(`${HOST_DIR_MARK}=${folder}`)
      );
    } catch {
      return false; // gone meanwhile, or somebody else's
    }
  });
  await Promise.all(strays.map((pid) => endProcess(pid)));
}

/** Whom host.json names; where it is broken, every supervisor that was started in this folder. */
function supervisorsHere(): number[] {
  let state: HostState | undefined;
  try {
    state = readHostState();
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return processes().filter((pid) => {
      try {
        const [, program, command] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return program === MAIN && command === 'host' && readlinkSync(`/proc/${pid}/cwd`) === realpathSync('.');
      } catch {
        return false; // gone meanwhile, or somebody else's
      }
    });
  }
  if (state === undefined) throw new UsageError('no host runs here');
  return [state.pid];
}

/** All but this one; none where there is no /proc. */
function processes(): number[] {
  const names = existsSync('/proc') ? readdirSync('/proc') : [];
  return names.filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid).map(Number);
}

/** Starts the supervisor in the background and waits until dom0 is ready. */
export async function up(options: UpOptions): Promise<number> {
  const running = readHostState();
  if (running !== undefined && isAlive(running.pid)) {
    throw new UsageError(
      `a host runs here already (${running.url}, pid ${running.pid}): take it down with "culvert down"`,
    );
  }
  checkedBoard(options.board);
  externalBroker();
  await endStrays();
  rmSync(STATE_DIR, { recursive: true, force: true });
  mkdirSync(STATE_DIR, { recursive: true, mode: 0o700 });
  const log = openSync(join(STATE_DIR, 'supervisor.log'), 'w', 0o600);
  const args = [
    'host',
    '--board',
    resolve(options.board),
    ...(options.port === undefined ? [] : ['--port', String(options.port)]),
  ];
  const child = spawn(process.execPath, [MAIN, ...args], {
    detached: true,
    stdio: ['ignore', log, log],
  });
  child.unref();
  const exited = new Promise<void>((done) => child.once('exit', () => done()));
  const fail = async (why: string): Promise<never> => {
    child.kill('SIGTERM');
    child.ref();
    await exited;
    throw new UsageError(why);
  };
  const end = Date.now() + UP_LIMIT_MS;
  while (readHostState() === undefined) {
    if (existsSync(PROBLEM_FILE)) await fail(readFileSync(PROBLEM_FILE, 'utf8').trim());
    if (child.exitCode !== null || Date.now() > end)
      await fail(`the host did not come up; ${join(STATE_DIR, 'supervisor.log')} says why`);
    await delay(20);
  }
  const state = readHostState()!;
  process.stdout.write(`${readFileSync(join(STATE_DIR, 'supervisor.log'), 'utf8')}`);
  process.stdout.write(`the host is up at ${state.url}; operator credential ${state.creds}\n`);
  return 0;
}

/** The supervisor itself: runs until it is told to end. */
export async function host(options: UpOptions): Promise<number> {
  let finish: (status: number) => void = () => undefined;
  const finished = new Promise<number>((done) => {
    finish = done;
  });
  const problem = (text: string): void => {
    mkdirSync(STATE_DIR, { recursive: true });
    writeWhole(PROBLEM_FILE, `${text}\n`);
    process.stdout.write(`${text}\n`);
  };
  process.on('SIGTERM', () => finish(0));
  process.on('SIGINT', () => finish(0));
  process.on('SIGHUP', () => finish(0));
  let started: Host;
  const external = externalBroker();
  try {
    started = await Host.start({
      boardFile: options.board,
      dir: resolve(STATE_DIR),
      report: (line) => process.stdout.write(`${line}\n`),
      onServiceEnd: (name, detail) => {
        problem(`${name} ${detail}`);
        finish(1);
      },
      ...(options.port === undefined ? {} : { port: options.port }),
      ...(external === undefined ? {} : { external }),
    });
  } catch (error) {
    problem((error as Error).message);
    return 1;
  }
  const state = (): HostState => ({
    url: started.url,
    creds: started.operatorCredsFile,
    pid: process.pid,
    dir: started.dir,
    board: options.board,
    pids: started.pids,
  });
  const ready = asOperator({ url: started.url, creds: started.operatorCreds }, function* () {
    for (;;) {
      try {
        const request = body('inspectRequest', { path: 'ready' });
        const reply = yield* call('d0', request, 'inspectReply', { deadlineNs: FIRST_ANSWER_NS });
        if (reply.json === 'true') return;
      } catch (error) {
        if (!(error instanceof Indefinite)) throw error; // it does not listen yet
      }
      yield* sleep(20e6);
    }
  });
  let over = false;
  ready.then(
    () => over || writeWhole(stateFile, JSON.stringify(state(), undefined, 2)),
    (error: unknown) => {
      if (over) return;
      problem((error as Error).message);
      finish(1);
    },
  );
  const status = await finished;
  over = true;
  await started.stop();
  rmSync(stateFile, { force: true });
  // One that was ended before it was ready still waits for dom0 to say so.
  process.exit(status);
}

export async function down(): Promise<number> {
  for (const pid of supervisorsHere()) {
    if (isAlive(pid)) process.kill(pid, 'SIGTERM');
    const end = Date.now() + DOWN_LIMIT_MS;
    while (isAlive(pid)) {
      if (Date.now() > end) throw new UsageError(`the host (pid ${pid}) does not end`);
      await delay(20);
    }
  }
  await endStrays();
  rmSync(STATE_DIR, { recursive: true, force: true });
  process.stdout.write('the host is down\n');
  return 0;
}

const STATUS_DEADLINE_NS = 2e9;

/** Writes a file so that whoever waits for it sees all of it or none. */
function writeWhole(file: string, text: string): void {
  writeFileSync(`${file}.new`, text, { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

interface StatusRow {
  readonly service: string;
  readonly state: string;
  readonly detail: string;
  /** Of a domain: the lines that it has. */
  readonly intx?: readonly { readonly intid: number; readonly taken: number }[];
}

/** Asks every service of the host; status 1 when one does not answer or is not ready. */
export async function status(options: { url?: string; creds?: string; json?: boolean }): Promise<number> {
  const rows = await asOperator(findTarget(options), function* () {
    const out: StatusRow[] = [];
    for (const peer of ['hardware', 'xen', 'xenstored', 'd0'] as const) {
      try {
        const request = body('inspectRequest', { path: 'ready' });
        const reply = yield* call(peer, request, 'inspectReply', { deadlineNs: STATUS_DEADLINE_NS });
        out.push({
          service: peer === 'd0' ? 'dom0' : peer,
          state: reply.json === 'true' ? 'ready' : 'starting',
          detail: reply.error,
        });
      } catch (error) {
        out.push({ service: peer === 'd0' ? 'dom0' : peer, state: 'no answer', detail: (error as Error).message });
      }
    }
    if (out.every((row) => row.state === 'ready')) {
      const { domains } = yield* call('d0', body('listDomainsRequest', {}), 'toolstackReply');
      const { json } = yield* call('xen', body('inspectRequest', { path: 'irqs' }), 'inspectReply');
      const irqs = JSON.parse(json) as { domid: number; intid: number; taken: number }[];
      for (const d of domains.filter((domain) => domain.domid > 0)) {
        const intx = irqs.filter((i) => i.domid === d.domid).map(({ intid, taken }) => ({ intid, taken }));
        out.push({ service: `domain ${d.domid}`, state: d.state, detail: d.name, intx });
      }
    }
    return out;
  });
  const well = rows.every((row) => row.state !== 'no answer' && row.state !== 'starting');
  if (options.json === true) process.stdout.write(`${JSON.stringify({ ready: well, services: rows }, undefined, 2)}\n`);
  else
    for (const { service, state, detail, intx } of rows) {
      const lines = (intx ?? []).map(({ intid, taken }) => `, INTx by SPI ${intid} (taken ${taken} times)`).join('');
      process.stdout.write(`${service.padEnd(12)} ${state.padEnd(10)} ${detail}${lines}\n`);
    }
  return well ? 0 : 1;
}
