/** The command `culvert` as a user runs it: a process of its own, in a folder of its own, and what it leaves behind. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

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
  culvert(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
    return this.#run(process.execPath, [MAIN, ...args], env);
  }

  #run(program: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Outcome> {
    const clean = { ...process.env, TMPDIR: this.temp };
    for (const name of ['NATS_URL', 'CULVERT_KEYS', 'CULVERT_OPERATOR_CREDS', 'VITEST', 'NODE_OPTIONS']) delete clean[name];
    const child = spawn(program, args, {
      cwd: this.dir,
      env: { ...clean, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    return new Promise((done, fail) => {
      child.on('error', fail);
      child.on('close', (status) => done({ status, stdout, stderr }));
    });
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

/** Is there a program of that name? */
export function onPath(name: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, name)));
}
