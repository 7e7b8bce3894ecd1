/**
 * A host as local processes: nats-server, the four services of the host, and a process per guest that the toolstack
 * builds. It ends only what it started, by process id.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Bus, BusUnavailable } from '#shared/bus/nats.ts';
import { Taker } from '#shared/bus/taker.ts';
import { type KeyFiles, keyFiles, writeHostKeys } from './keys.ts';
import { findNatsServer, startNatsServer } from './nats-server.ts';

export interface HostOptions {
  readonly boardFile: string;
  /** Where keys, sockets and logs go; a fresh folder below the system's temporary one when absent. */
  readonly dir?: string;
  /** Port of nats-server; any free one when absent. */
  readonly port?: number;
  /** A broker that runs already, with the keys in `externalKeys` (NATS_URL and CULVERT_KEYS). */
  readonly external?: { readonly url: string; readonly keysDir: string };
  report(line: string): void;
  /** A service of the host ended by itself. */
  onServiceEnd(name: string, detail: string): void;
}

/** In the environment of every process of a host: whose it is, in case that the supervisor dies before them. */
export const HOST_DIR_MARK = 'CULVERT_HOST_DIR';

/** A host could not be started, or broke; one line. */
export class HostError extends Error {
  override name = 'HostError';
}

const SERVICES = ['hardware', 'xen', 'xenstored', 'dom0'] as const;
const PEER_OF = { hardware: 'hardware', xen: 'xen', xenstored: 'xenstored', dom0: 'd0' } as const;
const BROKER_WAIT_MS = 10_000;
/** A path of a Unix socket has at most 107 bytes: what is longer than this leaves no room for its name. */
const RUNDIR_BYTES_MAX = 90;
/** xenstored goes on from its journal when it is started again: so often within a minute, then it is given up. */
const STORE_RESTARTS_MAX = 5;
const MINUTE_MS = 60_000;
/** From SIGTERM to SIGKILL. */
const END_GRACE_MS = 3000;
const ROOT = resolve(import.meta.dirname, '../..');

export class Host {
  readonly #options: HostOptions;
  readonly dir: string;
  readonly #ownDir: boolean;
  readonly #ownRundir: boolean;
  /** When it was started again. */
  #storeRestarts: number[] = [];
  #files: KeyFiles | undefined;
  #nats: { readonly url: string; readonly pid: number; stop(): Promise<void> } | undefined;
  #taker: Taker | undefined;
  readonly #children = new Map<string, ChildProcess>();
  /** Creds of every domain that was taken, by domain id. */
  readonly #domainCreds = new Map<number, string>();
  #stopping = false;

  private constructor(options: HostOptions) {
    this.#options = options;
    this.#ownDir = options.dir === undefined;
    this.dir = options.dir ?? mkdtempSync(join(tmpdir(), 'culvert-'));
    const rundir = join(this.dir, 'xenstored');
    this.#ownRundir = Buffer.byteLength(rundir) > RUNDIR_BYTES_MAX;
    this.xenstoredRundir = this.#ownRundir ? mkdtempSync(join(tmpdir(), 'culvert-xs-')) : rundir;
  }

  /** Starts everything; when one part fails, what was started is ended and the error says which. */
  static async start(options: HostOptions): Promise<Host> {
    const host = new Host(options);
    try {
      await host.#start();
      return host;
    } catch (error) {
      await host.stop();
      throw error;
    }
  }

  get url(): string {
    return this.#options.external?.url ?? this.#nats?.url ?? '';
  }

  /** Where xenstored listens: `socket` for dom0's tools, `dom<N>.sock` for each introduced domain. */
  readonly xenstoredRundir: string;

  get operatorCreds(): string {
    return readFileSync(this.#keys.credsOf('operator'), 'utf8');
  }

  get operatorCredsFile(): string {
    return this.#keys.credsOf('operator');
  }

  /** Process ids by name: services and guests (`d1`). */
  get pids(): Record<string, number> {
    return Object.fromEntries([...this.#children].map(([name, child]) => [name, child.pid ?? 0]));
  }

  get #keys(): KeyFiles {
    if (this.#files === undefined) throw new HostError('the host has no keys yet');
    return this.#files;
  }

  async #start(): Promise<void> {
    const { external, report, port } = this.#options;
    mkdirSync(join(this.dir, 'logs'), { recursive: true, mode: 0o700 });
    if (external === undefined) {
      const binary = await findNatsServer(report);
      const resolverDir = join(this.dir, 'resolver');
      mkdirSync(resolverDir, { recursive: true, mode: 0o700 });
      this.#files = await writeHostKeys(this.dir, resolverDir);
      const confText = readFileSync(this.#files.natsConf, 'utf8');
      this.#nats = await startNatsServer({ binary, confText, dir: this.dir, ...(port === undefined ? {} : { port }) });
      report(`nats-server at ${this.#nats.url} (pid ${this.#nats.pid})`);
    } else {
      this.#files = keyFiles(external.keysDir);
    }
    this.#taker = await Taker.start({
      url: this.url,
      creds: readFileSync(this.#keys.credsOf('vacant'), 'utf8'),
      waitMs: BROKER_WAIT_MS,
      capacity: Infinity,
      onTaken: ({ domid, creds }) => this.#startGuest(domid, creds),
      onClosed: (error) => this.#stopping || this.#options.onServiceEnd('nats-server', error.message),
    });
    // A host that starts is a machine that was reset: what its store held is gone.
    rmSync(this.#journalDir, { recursive: true, force: true });
    for (const service of SERVICES) this.#startService(service);
    report(`xenstore socket ${join(this.xenstoredRundir, 'socket')}`);
    report(`started ${[...this.#children].map(([name, child]) => `${name} (pid ${child.pid})`).join(', ')}`);
  }

  #startService(service: (typeof SERVICES)[number]): void {
    const extra: Record<string, string> = {};
    if (service === 'hardware') extra['CULVERT_BOARD'] = resolve(this.#options.boardFile);
    if (service === 'xen') extra['CULVERT_BROKER_CREDS'] = this.#keys.brokerCreds;
    if (service === 'xenstored') {
      extra['XENSTORED_RUNDIR'] = this.xenstoredRundir;
      extra['XENSTORED_GUEST_SOCKETS'] = '1';
      extra['XENSTORED_JOURNAL'] = this.#journalDir;
    }
    if (service === 'dom0') extra['CULVERT_KEY_RING'] = this.#keys.keyRing;
    const child = this.#spawn(service, service, this.#keys.credsOf(PEER_OF[service]), extra);
    child.once('exit', (code, signal) => {
      this.#children.delete(service);
      const words = signal === null ? this.#lastWords(service) : '';
      if (this.#stopping) return;
      if (service === 'xenstored' && signal !== null && this.#mayRestartStore()) {
        this.#startService(service);
        this.#options.report(`xenstored ${ended(code, signal)}; started again (pid ${this.pids['xenstored']})`);
        return;
      }
      this.#options.onServiceEnd(service, `${ended(code, signal)}${words}`);
    });
  }

  #mayRestartStore(): boolean {
    const now = Date.now();
    this.#storeRestarts = [...this.#storeRestarts.filter((at) => now - at < MINUTE_MS), now];
    return this.#storeRestarts.length <= STORE_RESTARTS_MAX;
  }

  get #journalDir(): string {
    return join(this.dir, 'xenstored-journal');
  }

  #startGuest(domid: number, creds: string): void {
    const name = `d${domid}`;
    const file = this.#keys.credsOf(name);
    mkdirSync(join(this.dir, 'creds'), { recursive: true, mode: 0o700 });
    writeFileSync(file, creds, { mode: 0o600 });
    this.#domainCreds.set(domid, creds);
    const child = this.#spawn(name, 'domu', file, { CULVERT_DOMID: String(domid) });
    this.#options.report(`started a process for domain ${domid} (pid ${child.pid})`);
    child.once('exit', () => {
      this.#children.delete(name);
      rmSync(file, { force: true });
    });
  }

  #spawn(name: string, service: string, creds: string, extra: Record<string, string>): ChildProcess {
    const log = createWriteStream(join(this.dir, 'logs', `${name}.log`));
    const child = spawn(process.execPath, [join(ROOT, 'services', service, 'main.ts')], {
      cwd: ROOT,
      env: { ...passedOn(), [HOST_DIR_MARK]: this.dir, NATS_URL: this.url, CULVERT_CREDS: creds, ...extra },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.stdout?.pipe(log, { end: false });
    child.stderr?.pipe(log, { end: false });
    child.once('exit', () => log.end());
    this.#children.set(name, child);
    return child;
  }

  /** What a service last said, for the message about its end: the error of its last log line, or the line itself. */
  #lastWords(name: string): string {
    try {
      const lines = readFileSync(join(this.dir, 'logs', `${name}.log`), 'utf8')
        .trim()
        .split('\n');
      const last = wordsOf(lines.at(-1) ?? '');
      return last === '' ? '' : `: ${last.slice(0, 400)}`;
    } catch {
      return '';
    }
  }

  /** SIGKILL of a domain's process. */
  kill(domid: number): void {
    const child = this.#children.get(`d${domid}`);
    if (child === undefined) throw new HostError(`domain ${domid} has no process here`);
    child.kill('SIGKILL');
  }

  /** Domains whose credential the broker still accepts, by trying each that was ever made. */
  async liveCredentials(): Promise<number[]> {
    const live: number[] = [];
    for (const [domid, creds] of this.#domainCreds) {
      try {
        const bus = await Bus.connect({
          url: this.url,
          creds,
          name: `d${domid}.probe`,
          waitMs: 0,
          onStatus: () => undefined,
        });
        await bus.close();
        live.push(domid);
      } catch (error) {
        if (!(error instanceof BusUnavailable)) throw error;
      }
    }
    return live;
  }

  /** Ends everything that was started here. Safe to call twice. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    await this.#taker?.stop().catch(() => undefined);
    await Promise.all([...this.#children.values()].map((child) => endChild(child)));
    await this.#nats?.stop();
    if (this.#ownRundir) rmSync(this.xenstoredRundir, { recursive: true, force: true });
    if (this.#ownDir) rmSync(this.dir, { recursive: true, force: true });
  }
}

async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise<void>((done) => {
    const force = setTimeout(() => child.kill('SIGKILL'), END_GRACE_MS);
    child.once('exit', () => {
      clearTimeout(force);
      done();
    });
    child.kill('SIGTERM');
  });
}

function ended(code: number | null, signal: NodeJS.Signals | null): string {
  return signal === null ? `ended with status ${code}` : `was ended by ${signal}`;
}

/** The error that a log line tells of, its message, or the line where it is none. */
function wordsOf(line: string): string {
  if (!line.startsWith('{')) return line;
  const { err, msg } = JSON.parse(line) as { err?: { message?: string }; msg?: string };
  return (err?.message ?? msg ?? line).replace(/\s*\n\s*/g, ' ');
}

/** The environment of a service: nothing of ours but what it is given. */
function passedOn(): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = {};
  for (const name of ['PATH', 'HOME', 'NODE_COMPILE_CACHE', 'NODE_OPTIONS', 'CULVERT_LOG', 'LANG', 'TMPDIR']) {
    const value = process.env[name];
    if (value !== undefined) env[name] = value;
  }
  return env;
}
