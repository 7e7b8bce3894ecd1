/**
 * nats-server for a host that runs as plain processes: finding one, fetching one, starting and ending one.
 * A server on PATH is used where it is new enough, else the one in the cache, else Debian's package is unpacked into the
 * cache: as any user, without touching the system's apt, its signature checked with Debian's keyring. Where there is no
 * Debian archive, the project's release is fetched and held against its checksum.
 * Run by itself it prints the path of the server, for scripts.
 * Not modelled: a server elsewhere in the network (that is `--url`), TLS, clusters, JetStream.
 */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { homedir, userInfo } from 'node:os';
import { basename, delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Something about nats-server that the user has to know: one line. */
export class NatsServerError extends Error {
  override name = 'NatsServerError';
}

/** Older ones lack what the credentials need (a full resolver that takes new account claims at run time). */
const OLDEST = [2, 9] as const;
/** Debian suites in the order tried; the system's own comes last. trixie has 2.10. */
const SUITES = ['trixie'] as const;
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** The project's own release, with the checksums that nats-io/nats-docker pins for its images of that version. */
const RELEASE: {
  readonly version: string;
  readonly base: string;
  readonly archOf: { readonly [arch: string]: string };
  readonly sha256: { readonly [arch: string]: string };
} = {
  version: '2.10.29',
  base: 'https://github.com/nats-io/nats-server/releases/download',
  archOf: { x64: 'amd64', arm64: 'arm64' },
  sha256: {
    x64: 'e314da74a83a1d3876db8814c27eb990fe729640fd6452025b441bcede8390da',
    arm64: 'da4b27942ecfb4c5f0c54553d2e7f470ddda9d7581cfe8131b351a0e223ed401',
  },
};
const FETCH_MS = 180_000;
const LOCK_WAIT_MS = 240_000;
const START_MS = 10_000;
const STOP_MS = 5_000;

/** Where downloads are kept: CULVERT_CACHE, else ~/.cache/culvert. */
export function cacheFolder(): string {
  const given = process.env['CULVERT_CACHE'];
  if (given !== undefined && given !== '') return given;
  const base = process.env['XDG_CACHE_HOME'];
  return join(base === undefined || base === '' ? join(homedir(), '.cache') : base, 'culvert');
}

/** `major.minor` at least OLDEST in the answer to `nats-server --version` ("nats-server: v2.10.27"). */
export function isUsableVersion(answer: string): boolean {
  const found = /\bv?(\d+)\.(\d+)\.\d+/.exec(answer);
  if (found === null) return false;
  const major = Number(found[1]);
  return major > OLDEST[0] || (major === OLDEST[0] && Number(found[2]) >= OLDEST[1]);
}

/** The version that this program says it has, or undefined where it does not run or is too old. */
async function usableVersion(binary: string): Promise<string | undefined> {
  try {
    const { stdout, stderr } = await run(binary, ['--version'], { timeout: 10_000 });
    const answer = `${stdout}${stderr}`.trim();
    return isUsableVersion(answer) ? answer.replace(/^nats-server: /, '') : undefined;
  } catch {
    return undefined;
  }
}

function onPath(): string[] {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  return folders.map((folder) => join(folder, 'nats-server')).filter((file) => existsSync(file));
}

/**
 * The path of a nats-server that runs. `report` is told what takes time. Throws NatsServerError, one line that says what
 * to install, where there is none and none can be fetched.
 */
export async function findNatsServer(report: (line: string) => void): Promise<string> {
  for (const candidate of onPath()) if ((await usableVersion(candidate)) !== undefined) return candidate;
  const cache = cacheFolder();
  const cached = join(cache, 'nats-server');
  if ((await usableVersion(cached)) !== undefined) return cached;
  await mkdir(cache, { recursive: true });
  return withFileLock(join(cache, 'nats-server.lock'), async () => {
    if ((await usableVersion(cached)) !== undefined) return cached; // another process fetched it meanwhile
    const began = performance.now();
    report('nats-server is not installed: fetching it');
    const origin = await fetchServer(cache, cached);
    const version = await usableVersion(cached);
    if (version === undefined) throw new NatsServerError(`the nats-server from ${origin} does not run here; ${ADVICE}`);
    report(`fetched nats-server ${version} from ${origin} in ${((performance.now() - began) / 1000).toFixed(1)} s`);
    return cached;
  });
}

const ADVICE =
  'install nats-server 2.9 or newer (Debian: apt-get install nats-server; others: a release of nats-server on PATH)';

/** Puts a nats-server at `target`; returns where it came from. */
async function fetchServer(cache: string, target: string): Promise<string> {
  const reasons: string[] = [];
  for (const source of [fetchDebian, fetchRelease]) {
    const work = await mkdtemp(join(cache, 'fetch-'));
    try {
      return await source(work, target);
    } catch (error) {
      reasons.push(lastLine(error));
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }
  throw new NatsServerError(`no nats-server, and none could be fetched (${reasons.join('; ')}); ${ADVICE}`);
}

async function fetchRelease(work: string, target: string): Promise<string> {
  const sha256 = RELEASE.sha256[process.arch];
  if (process.platform !== 'linux' || sha256 === undefined) throw new Error('no release known for this machine');
  const name = `nats-server-v${RELEASE.version}-linux-${RELEASE.archOf[process.arch]}`;
  const response = await fetch(`${RELEASE.base}/v${RELEASE.version}/${name}.tar.gz`, {
    signal: AbortSignal.timeout(FETCH_MS),
  }).catch((error: Error) => {
    throw new Error(`the release: ${((error.cause as Error | undefined) ?? error).message}`);
  });
  if (!response.ok) throw new Error(`the release: HTTP ${response.status}`);
  const archive = Buffer.from(await response.arrayBuffer());
  const found = createHash('sha256').update(archive).digest('hex');
  if (found !== sha256) throw new Error(`the release has checksum ${found}, not ${sha256}`);
  await writeFile(join(work, 'server.tar.gz'), archive);
  await run('tar', ['-xzf', 'server.tar.gz', `${name}/nats-server`], { cwd: work });
  await rename(join(work, name, 'nats-server'), target);
  return `release ${RELEASE.version}`;
}

/** Puts Debian's nats-server at `target`; returns which suite it came from. */
async function fetchDebian(folder: string, target: string): Promise<string> {
  const mirror = await debianMirror();
  if (mirror === undefined || !existsSync(KEYRING)) throw new Error('no Debian archive in the sources of apt');
  const own = /^VERSION_CODENAME=(\w+)/m.exec(await readFile('/etc/os-release', 'utf8').catch(() => ''))?.[1];
  let why = '';
  for (const suite of new Set([...SUITES, ...(own === undefined ? [] : [own])])) {
    const work = join(folder, suite);
    try {
      await unpackDebian(work, mirror, suite, 'nats-server');
      await rename(join(work, 'root/usr/sbin/nats-server'), target);
      return `Debian ${suite}`;
    } catch (error) {
      why = lastLine(error);
    }
  }
  throw new Error(`Debian: ${why}`);
}

/** The first plain Debian archive (…/debian) in apt's sources, of either format. */
async function debianMirror(): Promise<string | undefined> {
  const folder = '/etc/apt/sources.list.d';
  const files = ['/etc/apt/sources.list', ...(await readdir(folder).catch(() => [])).map((name) => join(folder, name))];
  for (const file of files) {
    const text = await readFile(file, 'utf8').catch(() => '');
    const found = /^(?:deb\s(?:.*\s)?|URIs:\s*(?:.*\s)?)([a-z+]+:\/\/\S+\/debian)\/?(?:\s|$)/m.exec(text);
    if (found !== null) return found[1];
  }
  return undefined;
}

/** Unpacks one package under `work`/root with an apt of its own: lists, cache and state all lie in `work`. */
async function unpackDebian(work: string, mirror: string, suite: string, name: string): Promise<void> {
  const sources = join(work, 'sources.list');
  const folders = ['parts', 'lists/partial', 'cache/archives/partial', 'debs', 'root'].map((f) => join(work, f));
  for (const folder of folders) await mkdir(folder, { recursive: true });
  await writeFile(sources, `deb [signed-by=${KEYRING}] ${mirror} ${suite} main\n`);
  const settings = [
    `Dir::Etc::sourcelist=${sources}`,
    `Dir::Etc::sourceparts=${join(work, 'parts')}`,
    `Dir::State::lists=${join(work, 'lists')}`,
    `Dir::Cache=${join(work, 'cache')}`,
    'Dir::Cache::pkgcache=',
    'Dir::Cache::srcpkgcache=',
    'Dir::State::status=/dev/null',
    `APT::Sandbox::User=${userInfo().username}`,
    'APT::Update::Post-Invoke=',
    'APT::Update::Post-Invoke-Success=',
    'Acquire::Languages=none',
    'Acquire::http::Timeout=20',
    'Acquire::Retries=2',
  ].flatMap((setting) => ['-o', setting]);
  const apt = (...words: string[]) =>
    run('apt-get', ['-qq', ...settings, ...words], { cwd: join(work, 'debs'), timeout: FETCH_MS });
  await apt('update');
  await apt('download', name);
  const [file] = (await readdir(join(work, 'debs'))).filter((entry) => entry.endsWith('.deb'));
  if (file === undefined) throw new Error(`${suite} has no ${name}`);
  await run('dpkg-deb', ['-x', join(work, 'debs', file), join(work, 'root')], { timeout: FETCH_MS });
}

function lastLine(error: unknown): string {
  const { stderr, message } = error as { stderr?: string; message: string };
  const text = stderr === undefined || stderr.trim() === '' ? message : stderr;
  return text.trim().split('\n').at(-1) ?? message;
}

/** Runs `work` while no other process holds the lock file; the lock of a process that has died is taken over. */
async function withFileLock<T>(file: string, work: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + LOCK_WAIT_MS;
  for (;;) {
    try {
      const handle = await open(file, 'wx');
      await handle.writeFile(String(process.pid));
      await handle.close();
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const holder = Number(await readFile(file, 'utf8').catch(() => ''));
    if (holder > 0 && !isAlive(holder)) await rm(file, { force: true });
    else if (performance.now() > deadline)
      throw new NatsServerError(`another process is fetching nats-server for too long; if none is, remove ${file}`);
    else await delay(200);
  }
  try {
    return await work();
  } finally {
    await rm(file, { force: true });
  }
}

/** True where a process of that id runs; one that has ended and was not waited for does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  try {
    return !/^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return true;
  }
}

export interface NatsServerOptions {
  readonly binary: string;
  /** Configuration but for port, host and directories: operator, system account, preloaded accounts. */
  readonly confText: string;
  /** For the configuration, the log and the accounts that the server keeps; made where it is missing. */
  readonly dir: string;
  /** A free one where none is given. */
  readonly port?: number;
}

export interface NatsServer {
  /** nats://127.0.0.1:PORT */
  readonly url: string;
  readonly pid: number;
  readonly log: string;
  /** The exit status, or undefined where a signal ended it. Resolves when the process is gone. */
  readonly exited: Promise<number | undefined>;
  /** Ends it and waits until it is gone. */
  stop(): Promise<void>;
}

/**
 * Starts a server on loopback and waits until it answers. It runs in a process group of its own, so that a ^C at the
 * terminal reaches whoever started it first. Throws NatsServerError: the port is taken, the configuration is refused.
 */
export async function startNatsServer(options: NatsServerOptions): Promise<NatsServer> {
  const { binary, confText, dir, port } = options;
  const accounts = join(dir, 'accounts');
  const ports = join(dir, 'ports');
  await mkdir(accounts, { recursive: true, mode: 0o700 });
  await rm(ports, { recursive: true, force: true });
  await mkdir(ports, { recursive: true });
  const conf = join(dir, 'nats-server.conf');
  const log = join(dir, 'nats-server.log');
  const needsResolver = /^\s*operator\s*[:=]/m.test(confText) && !/^\s*resolver\s*[:={]/m.test(confText);
  const resolver = !needsResolver
    ? ''
    : `resolver: { type: full, dir: ${quoted(accounts)}, allow_delete: false, interval: "2m" }\n`;
  const text = `host: "127.0.0.1"\nport: ${port ?? -1}\nports_file_dir: ${quoted(ports)}\n${resolver}${confText}`;
  await writeFile(conf, text, { mode: 0o600 });
  const output = await open(log, 'w');
  const child = spawn(binary, ['-c', conf], { detached: true, stdio: ['ignore', output.fd, output.fd] });
  const exited = new Promise<number | undefined>((resolve) => {
    child.on('exit', (status) => resolve(status ?? undefined));
    child.on('error', () => resolve(127));
  });
  await output.close();
  child.unref();
  const { pid } = child;
  if (pid === undefined) throw new NatsServerError(`cannot run ${binary}`);
  let over = false;
  void exited.then(() => {
    over = true;
  });
  const stop = (): Promise<void> => (over ? Promise.resolve() : endProcess(pid));
  const deadline = performance.now() + START_MS;
  while (!over && performance.now() < deadline) {
    const url = await readUrl(ports, basename(binary), pid);
    if (url !== undefined && (await answers(url))) return { url, pid, log, exited, stop };
    await delay(10);
  }
  const said = await readFile(log, 'utf8').catch(() => '');
  await stop();
  throw new NatsServerError(whyNot(said, port, log));
}

function whyNot(said: string, port: number | undefined, log: string): string {
  if (/address already in use/.test(said)) return `port ${port} of 127.0.0.1 is taken by another program`;
  const line = said.split('\n').find((text) => /\[FTL\]|nats-server:|Parse error/.test(text));
  return `nats-server did not start${line === undefined ? '' : `: ${line.replace(/^.*\[FTL\]\s*/, '')}`} (${log})`;
}

async function readUrl(ports: string, program: string, pid: number): Promise<string | undefined> {
  try {
    const file = JSON.parse(await readFile(join(ports, `${program}_${pid}.ports`), 'utf8')) as { nats?: string[] };
    return file.nats?.[0];
  } catch {
    return undefined; // not there yet, or not yet whole
  }
}

/** True where the server there greets a client, as NATS does with INFO. */
function answers(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = createConnection({ host: hostname, port: Number(port), timeout: 1000 });
    const done = (ok: boolean): void => {
      socket.destroy();
      resolve(ok);
    };
    socket.once('data', (data) => done(data.toString('latin1').startsWith('INFO ')));
    socket.once('error', () => done(false));
    socket.once('timeout', () => done(false));
    socket.once('close', () => done(false));
  });
}

/** Ends a process by its id: asks, and after five seconds insists. Returns when it is gone. */
export async function endProcess(pid: number): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    try {
      process.kill(pid, signal);
    } catch {
      return;
    }
    const deadline = performance.now() + STOP_MS;
    while (performance.now() < deadline) {
      if (!isAlive(pid)) return;
      await delay(10);
    }
  }
}

function quoted(path: string): string {
  return JSON.stringify(path);
}

if (import.meta.main) {
  try {
    const binary = await findNatsServer((line) => process.stderr.write(`${line}\n`));
    process.stdout.write(`${binary}\n`);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
