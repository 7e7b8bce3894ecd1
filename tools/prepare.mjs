/**
 * What comes before any TypeScript runs: dependencies, the project's own Node 24, nats-server. Plain JavaScript, for
 * Node 20 or newer. Not covered: a global installation; Node strips no types below a folder named node_modules, so
 * Culvert runs from its checkout.
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';

export const ROOT = resolve(import.meta.dirname ?? dirname(new URL(import.meta.url).pathname), '..');
const MODULES = join(ROOT, 'node_modules');
/** The oldest that the code runs on by itself (types stripped, import.meta.main). */
const OLDEST = [24, 2];

/** Compiled modules are kept here: starts of services take a quarter of the time. */
export const COMPILE_CACHE = join(ROOT, '.culvert', 'compile-cache');

/** Something the user has to do; one line. */
export class PrepareError extends Error {
  name = 'PrepareError';
}

/**
 * Names of packages that the lock file asks for and that are not there in that version. Optional ones do not count, nor
 * do those that only development needs unless `development` is true.
 */
export function missingPackages(development) {
  const wanted = readLock(join(ROOT, 'package-lock.json'));
  const installed = readLock(join(MODULES, '.package-lock.json'));
  return Object.entries(wanted)
    .filter(([path, entry]) => path !== '' && !entry.optional && !entry.devOptional && (development || !entry.dev))
    .filter(([path, entry]) => installed[path]?.version !== entry.version)
    .map(([path]) => path.replace(/^.*node_modules\//, ''));
}

function readLock(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch (error) {
    if (error.code === 'ENOENT') return {};
    throw error;
  }
}

/** The path of the project's Node 24. Throws PrepareError where there is none for this machine. */
export function node24() {
  const own = join(MODULES, `node-${process.platform}-${process.arch}`, 'bin', 'node');
  if (existsSync(own)) return own;
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1])) return process.execPath;
  throw new PrepareError(
    `this is Node ${process.versions.node}, and no Node ${OLDEST.join('.')} comes with the dependencies for ` +
      `${process.platform}-${process.arch}: install Node 24`,
  );
}

/** Runs `npm ci` where something is missing, and says so. Resolves to true when it had to. */
export async function installDependencies() {
  const missing = missingPackages(true);
  if (missing.length === 0) return false;
  say(`installing dependencies with npm ci (${missing.length} packages) ...`);
  const began = performance.now();
  const status = await run('npm', ['ci', '--loglevel=error', '--no-audit', '--no-fund'], { PATH: outerPath() });
  if (status !== 0) throw new PrepareError(`npm ci ended with status ${status}: the dependencies are not installed`);
  await run(node24(), [join(ROOT, 'tools', 'sim', 'warm.ts')], environment());
  say(`installed and compiled in ${seconds(began)}`);
  return true;
}

/** PATH without our own node_modules/.bin: npm must not run on the very node that it replaces. */
function outerPath() {
  const parts = (process.env.PATH ?? '').split(delimiter);
  return parts.filter((folder) => resolve(folder) !== join(MODULES, '.bin')).join(delimiter);
}

/** Fetches nats-server where the machine has none. */
export async function prepareNatsServer() {
  const finder = join(ROOT, 'tools', 'host', 'nats-server.ts');
  const status = await run(node24(), [finder], environment(), ['ignore', 'ignore', 'inherit']);
  if (status !== 0) throw new PrepareError('without nats-server Culvert cannot run');
}

/** What our own processes get on top of the environment: Node 24 first in PATH and the compile cache. */
export function environment() {
  const path = [dirname(node24()), join(MODULES, '.bin'), process.env.PATH ?? ''].join(delimiter);
  return { PATH: path, NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? COMPILE_CACHE };
}

/**
 * Runs a program in the project's folder (or `cwd`) and resolves to its exit status, 128 + n where signal n ended it.
 * Signals that end us are handed on; a ^C is not, since the terminal gives it to both.
 */
export function run(program, words, extra = {}, stdio = 'inherit', cwd = ROOT) {
  return new Promise((done, fail) => {
    const child = spawn(program, words, { cwd, stdio, env: { ...process.env, ...extra } });
    const handlers = ['SIGINT', 'SIGTERM', 'SIGHUP'].map((signal) => {
      const handler = () => {
        if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
      };
      process.on(signal, handler);
      return () => process.off(signal, handler);
    });
    const over = () => {
      for (const forget of handlers) forget();
    };
    child.on('error', (error) => {
      over();
      fail(new PrepareError(`cannot run ${program}: ${error.message}`));
    });
    child.on('exit', (status, signal) => {
      over();
      done(status ?? 128 + (constants.signals[signal] ?? 0));
    });
  });
}

export function seconds(began) {
  return `${((performance.now() - began) / 1000).toFixed(1)} s`;
}

export function say(line) {
  process.stderr.write(`${line}\n`);
}

/** Runs a command of ours to its end: its status becomes the process's, and what the user has to do is one line. */
export async function finish(command) {
  try {
    process.exitCode = await command();
  } catch (error) {
    if (!(error instanceof PrepareError)) throw error;
    say(`culvert: ${error.message}`);
    process.exitCode = 1;
  }
}
