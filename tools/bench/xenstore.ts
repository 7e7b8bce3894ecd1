/**
 * Rates of xenstored over its Unix socket, without and with a journal, beside those of Debian's C xenstored: the same
 * client (test/bench/xsbench.c) for all, the daemons alternating, the median of several rounds; with `--flat` the cost
 * of an operation by the number of nodes. Needs gcc. Debian's daemon takes part when XENSTORED_REFERENCE names a command
 * that starts it (or one lies beside the checkout): it gets `c` and a directory, in which it makes `socket`, and is
 * ended with `stop` and that directory.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { startStoreProcess } from '../host/store-process.ts';

const CLIENT = resolve(import.meta.dirname, '../../test/bench/xsbench.c');
const REFERENCE_BESIDE = resolve(import.meta.dirname, '../../../shared/tools/xenstored-reference/daemon.sh');
const OPERATIONS = [
  ['read', 1],
  ['read', 16],
  ['write', 1],
  ['write', 16],
  ['tx', 1],
  ['tx', 16],
  ['watch', 1],
] as const;
/** Numbers of nodes for `flat`. */
const SIZES = [100, 1000, 10_000, 100_000, 1_000_000];
/** Making the next step takes Debian's daemon minutes. */
const REFERENCE_NODES_MAX = 100_000;

export interface BenchOptions {
  readonly rounds: number;
  /** Of each measurement. */
  readonly seconds: number;
  readonly nodes: number;
}

/** Median operations a second, and median latency in µs. */
export interface Measured {
  readonly rate: number;
  readonly p50Us: number;
}

export interface Row {
  readonly op: string;
  /** Operations under way at a time. */
  readonly depth: number;
  readonly nodes: number;
  /** Without a journal, with one, and Debian's daemon, where it is there. */
  readonly plain: Measured;
  readonly durable: Measured | undefined;
  readonly reference: Measured | undefined;
}

export type Rows = readonly Row[];

interface Daemon {
  readonly socket: string;
  stop(): Promise<void>;
}

/** All operations on one number of nodes. Rejects when there is no gcc, or a daemon does not start. */
export async function benchXenstore({ rounds, seconds, nodes }: BenchOptions): Promise<Rows> {
  return withClient(async (client) => {
    // Debian's first: what names it may be wrong, and nothing else is running then.
    const daemons = { reference: reference(), plain: await ours(false), durable: await ours(true) };
    const sockets = Object.entries(daemons).flatMap(([name, daemon]) =>
      daemon ? [[name, daemon.socket] as const] : [],
    );
    try {
      for (const [, socket] of sockets) client(socket, 'fill', `${nodes}`);
      const samples = new Map<string, Measured[]>();
      for (let round = 0; round < rounds; round++) {
        for (const [op, depth] of OPERATIONS) {
          for (const [name, socket] of sockets) {
            const key = `${op} ${depth} ${name}`;
            samples.set(key, [...(samples.get(key) ?? []), measure(client, socket, op, depth, seconds, nodes)]);
          }
        }
      }
      return OPERATIONS.map(([op, depth]) => {
        const of = (name: string): Measured | undefined => median(samples.get(`${op} ${depth} ${name}`));
        return { op, depth, nodes, plain: of('plain')!, durable: of('durable'), reference: of('reference') };
      });
    } finally {
      for (const daemon of Object.values(daemons)) await daemon?.stop();
    }
  });
}

/** A daemon without a journal and Debian's, with more and more nodes. */
export async function benchXenstoreSizes({ rounds, seconds }: BenchOptions): Promise<Rows> {
  return withClient(async (client) => {
    const rows: Row[] = [];
    const theirs = reference();
    const daemon = await ours(false);
    try {
      for (const nodes of SIZES) {
        const compared = nodes <= REFERENCE_NODES_MAX ? theirs : undefined;
        for (const one of [daemon, compared]) if (one !== undefined) client(one.socket, 'fill', `${nodes}`);
        for (const op of ['read', 'write', 'tx']) {
          const samples = { plain: [] as Measured[], reference: [] as Measured[] };
          for (let round = 0; round < rounds; round++) {
            samples.plain.push(measure(client, daemon.socket, op, 16, seconds, nodes));
            if (compared !== undefined)
              samples.reference.push(measure(client, compared.socket, op, 16, seconds, nodes));
          }
          const [plain, of] = [median(samples.plain)!, median(samples.reference)];
          rows.push({ op, depth: 16, nodes, plain, durable: undefined, reference: of });
        }
      }
    } finally {
      await daemon.stop();
      await theirs?.stop();
    }
    return rows;
  });
}

/** What the command line or the environment says cannot be done. */
export class BenchError extends Error {
  override name = 'BenchError';
}

type Client = (...args: string[]) => string;

async function withClient<T>(run: (client: Client) => Promise<T>): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), 'culvert-bench-'));
  try {
    const binary = join(dir, 'xsbench');
    execFileSync('gcc', ['-O2', '-o', binary, CLIENT]);
    return await run((...args) => execFileSync(binary, args, { encoding: 'utf8', timeout: 120_000 }));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function ours(durable: boolean): Promise<Daemon> {
  const store = await startStoreProcess({ durable });
  return { socket: join(store.rundir, 'socket'), stop: () => store.stop() };
}

function reference(): Daemon | undefined {
  const named = process.env['XENSTORED_REFERENCE'];
  if (named !== undefined && statSync(named, { throwIfNoEntry: false })?.isFile() !== true)
    throw new BenchError(
      `XENSTORED_REFERENCE is ${named}, which is no file; it names the command that starts the daemon`,
    );
  const command = named ?? REFERENCE_BESIDE;
  if (!existsSync(command)) return undefined;
  const dir = mkdtempSync(join(tmpdir(), 'culvert-bench-c-'));
  execFileSync(command, ['c', dir], { stdio: 'ignore' });
  return {
    socket: join(dir, 'socket'),
    stop: async () => {
      execFileSync(command, ['stop', dir]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function measure(client: Client, socket: string, op: string, depth: number, seconds: number, nodes: number): Measured {
  const { rate, p50_us } = JSON.parse(client(socket, op, `${depth}`, `${seconds}`, `${nodes}`)) as {
    rate: number;
    p50_us: number;
  };
  return { rate, p50Us: p50_us };
}

function median(samples: readonly Measured[] | undefined): Measured | undefined {
  if (samples === undefined || samples.length === 0) return undefined;
  const middle = (of: (sample: Measured) => number): number =>
    samples.map(of).sort((a, b) => a - b)[samples.length >> 1]!;
  return { rate: middle((s) => s.rate), p50Us: middle((s) => s.p50Us) };
}

function print(rows: Rows): void {
  const cell = (measured: Measured | undefined): string =>
    measured === undefined ? '-'.padStart(18) : `${measured.rate} ${measured.p50Us.toFixed(1)} µs`.padStart(18);
  const ratio = (ours: Measured | undefined, theirs: Measured | undefined): string =>
    (ours === undefined || theirs === undefined ? '-' : (ours.rate / theirs.rate).toFixed(2)).padStart(8);
  console.log(
    `${'operation'.padEnd(10)} ${'nodes'.padStart(8)} ${'without journal'.padStart(18)} ${'with'.padStart(18)} ${'C'.padStart(18)} ${'of C'.padStart(8)} ${'with'.padStart(8)}`,
  );
  for (const { op, depth, nodes, plain, durable, reference: c } of rows) {
    const name = `${op} x${depth}`.padEnd(10);
    console.log(
      `${name} ${`${nodes}`.padStart(8)} ${cell(plain)} ${cell(durable)} ${cell(c)} ${ratio(plain, c)} ${ratio(durable, c)}`,
    );
  }
}

/** `npm run bench -- xenstore [--rounds N] [--seconds S] [--nodes N] [--flat] [--json]`. */
export async function runXenstoreBench(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '0.5' },
      nodes: { type: 'string', default: '1000' },
      flat: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  });
  const options = {
    rounds: positive('rounds', values.rounds),
    seconds: positive('seconds', values.seconds),
    nodes: positive('nodes', values.nodes),
  };
  const rows = values.flat ? await benchXenstoreSizes(options) : await benchXenstore(options);
  if (values.json) console.log(JSON.stringify({ rows }));
  else print(rows);
}

function positive(option: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new BenchError(`--${option} ${text} is not a number above 0`);
  return value;
}
