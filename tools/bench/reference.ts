/**
 * A C program of test/bench that runs the same tests: built with gcc into a temporary folder, asked over its standard
 * input, one line a test.
 */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

const SOURCES = resolve(import.meta.dirname, '../../test/bench');

/** Aligned to cache lines: where a short loop happens to lie is worth a factor of 1.9 to its test, and this is the upper end. */
const FLAGS = ['-O2', '-falign-functions=64', '-falign-loops=64'];

export interface ReferenceRun {
  /** Operations per second of CPU time. */
  readonly rate: number;
  readonly sum: number;
}

export class Reference {
  readonly #folder: string;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;

  private constructor(folder: string, child: ChildProcessWithoutNullStreams) {
    this.#folder = folder;
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  /** Builds and starts test/bench/`name`.c; undefined where there is no gcc. Throws when it does not compile. */
  static async start(name: string): Promise<Reference | undefined> {
    const folder = mkdtempSync(join(tmpdir(), 'culvert-bench-'));
    const program = join(folder, name);
    const built = spawnSync('gcc', [...FLAGS, '-o', program, join(SOURCES, `${name}.c`)], { encoding: 'utf8' });
    if (built.error !== undefined) {
      rmSync(folder, { recursive: true });
      return undefined;
    }
    if (built.status !== 0) throw new Error(`${name}.c does not compile:\n${built.stderr}`);
    const reference = new Reference(folder, spawn(program));
    await reference.#line();
    return reference;
  }

  /** Runs a test `loops` times. */
  async run(test: string, loops: number): Promise<ReferenceRun> {
    this.#child.stdin.write(`${test} ${loops}\n`);
    const { ops, seconds, sum } = JSON.parse(await this.#line()) as { ops: number; seconds: number; sum: number };
    return { rate: ops / seconds, sum };
  }

  stop(): void {
    this.#child.stdin.end();
    rmSync(this.#folder, { recursive: true });
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error('the reference program ended');
    return value;
  }
}
