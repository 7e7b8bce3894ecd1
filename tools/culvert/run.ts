/** `culvert run SCENARIO`: on processes made for it, in the simulated world, or on a host that runs already. */
import { body } from '#shared/core/core.ts';
import { call } from '#shared/core/op.ts';
import { Host, HostError } from '../host/supervisor.ts';
import type { ScenarioResult } from '../scenario/runner.ts';
import { readScenario, type Scenario } from '../scenario/schema.ts';
import { checkedBoard } from '../sim/checked-board.ts';
import { playSimulated } from '../sim/play.ts';
import { externalBroker } from './external.ts';
import { asOperator, findTarget, playOn, type Target, UsageError } from './session.ts';

export interface RunOptions {
  readonly simulated?: boolean;
  readonly seed?: number;
  readonly json?: boolean;
  readonly url?: string;
  readonly creds?: string;
  readonly port?: number;
  readonly keepLogs?: string;
}

export async function run(file: string, options: RunOptions): Promise<number> {
  const scenario = options.url === undefined ? readScenario(file) : await readFor(file, options.url, options);
  const report = (line: string): void => {
    if (options.json !== true) process.stdout.write(`${line}\n`);
  };
  if (options.simulated === true) return runSimulated(scenario, options, report);
  const started = performance.now();
  const result =
    options.url === undefined ? await runHere(scenario, options, report) : await runOn(scenario, options, report);
  printSummary(result, { seconds: (performance.now() - started) / 1000 }, options.json === true);
  return result.result === 'passed' ? 0 : 1;
}

/** The names of the domains of a host. */
function guestsOn(target: Target): Promise<string[]> {
  return asOperator(target, function* () {
    const { domains } = yield* call('d0', body('listDomainsRequest', {}), 'toolstackReply');
    return domains.map(({ name }) => name);
  });
}

function runSimulated(scenario: Scenario, options: RunOptions, report: (line: string) => void): number {
  const seed = options.seed ?? 1;
  const board = checkedBoard(scenario.boardFile);
  report(`seed ${seed}`);
  const result = playSimulated(scenario, board, { seed }, report);
  printSummary(result, { seed, traceHash: result.traceHash }, options.json === true);
  return result.result === 'passed' ? 0 : 1;
}

async function runHere(
  scenario: Scenario,
  options: RunOptions,
  report: (line: string) => void,
): Promise<ScenarioResult> {
  checkedBoard(scenario.boardFile); // a mistake in it is told here, in one line, before anything starts
  let fail: (error: Error) => void = () => undefined;
  const broken = new Promise<never>((_, reject) => {
    fail = reject;
  });
  broken.catch(() => undefined);
  const external = externalBroker();
  const interrupt = (): void => fail(new HostError('interrupted'));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, interrupt);
  // Who reads our output has gone (a pipe into `head`): what was started has to end all the same.
  process.stdout.on('error', interrupt);
  const host = await Host.start({
    boardFile: scenario.boardFile,
    report,
    onServiceEnd: (name, detail) => fail(new HostError(`${name} ${detail}`)),
    ...(options.port === undefined ? {} : { port: options.port }),
    ...(options.keepLogs === undefined ? {} : { dir: options.keepLogs }),
    ...(external === undefined ? {} : { external }),
  });
  try {
    const target = { url: host.url, creds: host.operatorCreds };
    const surroundings = { report, kill: (domid: number) => host.kill(domid) };
    return await playOn(target, scenario, surroundings, () => host.liveCredentials(), broken);
  } finally {
    await host.stop();
  }
}

/** A scenario for a host that is there. What can be said without asking it is said before. */
async function readFor(file: string, url: string, options: RunOptions): Promise<Scenario> {
  const { steps } = readScenario(file, 'unknown');
  const kill = steps.flatMap((step) => ('together' in step ? step.together : [step])).find((step) => 'kill' in step);
  if (kill !== undefined)
    throw new UsageError(
      `${file}: "kill: ${kill.kill}" cannot be done at ${url}, whose processes are not ours: a scenario without it was expected`,
    );
  return readScenario(file, await guestsOn(findTarget(options)));
}

async function runOn(scenario: Scenario, options: RunOptions, report: (line: string) => void): Promise<ScenarioResult> {
  const target = findTarget(options);
  const never = new Promise<never>(() => undefined);
  return await playOn(target, scenario, { report, kill: undefined }, () => Promise.resolve([]), never);
}

function printSummary(result: ScenarioResult, more: Record<string, unknown>, json: boolean): void {
  if (json) {
    process.stdout.write(`${JSON.stringify({ ...result, ...more }, undefined, 2)}\n`);
    return;
  }
  const passed = result.steps.filter((s) => s.outcome === 'passed').length;
  const lines = [
    '',
    `${result.scenario}: ${result.result}`,
    `steps       ${passed} passed, ${result.steps.length - passed} failed`,
  ];
  for (const [service, counts] of Object.entries(result.counts as Record<string, unknown>)) {
    for (const [name, value] of Object.entries((counts ?? {}) as Record<string, unknown>)) {
      lines.push(`${service.padEnd(11)} ${name}: ${typeof value === 'object' ? summary(value) : value}`);
    }
  }
  for (const [name, value] of Object.entries(more)) {
    lines.push(`${name.padEnd(11)} ${typeof value === 'number' ? Number(value.toFixed(2)) : value}`);
  }
  process.stdout.write(`${lines.join('\n')}\n`);
}

function summary(counts: unknown): string {
  return Object.entries((counts ?? {}) as Record<string, unknown>)
    .map(([name, n]) => `${name} ${typeof n === 'object' ? JSON.stringify(n) : n}`)
    .join(', ');
}
