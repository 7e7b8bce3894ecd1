/** The command `culvert` as a user runs it: a process of its own, in a folder of its own, and what it leaves behind. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { assert } from 'vitest';

export const ROOT = resolve(import.meta.dirname, '../..');
export const EXAMPLES = join(ROOT, 'examples');
const MAIN = join(ROOT, 'tools/culvert/main.ts');

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class Workplace {
  /** Where commands run. */
  readonly dir: string;
  /** Their TMPDIR. */
  readonly temp: string;

  constructor() {
    // Compared with what /proc says, so without symbolic links.
    const base = realpathSync(mkdtempSync(join(tmpdir(), 'culvert-test-')));
    this.dir = join(base, 'work');
    this.temp = join(base, 'tmp');
    mkdirSync(this.dir);
    mkdirSync(this.temp);
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** Runs a command line to its end. */
  async culvert(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
    const child = this.start(args, env);
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.on('data', (text: string) => {
      stderr += text;
    });
    const [status] = (await once(child, 'close')) as [number | null];
    return { status, stdout, stderr };
  }

  /** Starts a command line; it is for the caller to see that it ends. */
  start(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcessByStdio<null, Readable, Readable> {
    const cache = process.env['NODE_COMPILE_CACHE'] ?? join(ROOT, '.culvert/compile-cache');
    const clean: NodeJS.ProcessEnv = { ...process.env, TMPDIR: this.temp, NODE_COMPILE_CACHE: cache };
    for (const name of ['NATS_URL', 'CULVERT_KEYS', 'CULVERT_OPERATOR_CREDS', 'VITEST', 'NODE_OPTIONS']) {
      delete clean[name];
    }
    const child = spawn(process.execPath, [MAIN, ...args], {
      cwd: this.dir,
      env: { ...clean, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.stdout.setEncoding('utf8');
    child.stderr.setEncoding('utf8');
    return child;
  }

  /** Processes that have to do with this place: by their command line, their folder or their environment. */
  processes(): string[] {
    const base = resolve(this.dir, '..');
    return readdirSync('/proc')
      .filter((pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid)
      .filter((pid) => {
        try {
          const text = readFileSync(`/proc/${pid}/cmdline`, 'utf8') + readFileSync(`/proc/${pid}/environ`, 'utf8');
          return text.includes(base) || readlinkSync(`/proc/${pid}/cwd`).startsWith(base);
        } catch {
          return false; // gone meanwhile, or somebody else's
        }
      })
      .map((pid) => `${pid}: ${commandLine(pid)}`);
  }

  /** Files below the temporary folder, and what a host leaves in the working one. */
  files(): string[] {
    const left = readdirSync(this.temp).map((name) => join(this.temp, name));
    if (existsSync(this.path('.culvert/host/host.json'))) left.push(this.path('.culvert/host/host.json'));
    return left;
  }

  remove(): void {
    rmSync(resolve(this.dir, '..'), { recursive: true, force: true });
  }
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
}

/** A command that ended as one should that cannot be done: one line that says why, a status, and nothing left behind. */
export function assertOneLine(place: Workplace, { status, stderr }: Outcome, expected: RegExp, exit = 1): void {
  assert.match(stderr, expected);
  assert.match(stderr, /^culvert: [^\n]+\n$/, 'one line');
  assert.notMatch(stderr, /\s at |Error:/, 'no stack, no name of a class');
  assert.equal(status, exit);
  assert.deepEqual(place.processes(), []);
  assert.deepEqual(place.files(), []);
}

/** Is there a program of that name? */
export function onPath(name: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, name)));
}
