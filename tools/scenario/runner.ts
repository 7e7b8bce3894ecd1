/**
 * Plays a scenario as the operator: one text for the simulated world and for the real processes. It only sends
 * messages, so it cannot tell which of the two it plays on.
 */

import { type Body, body, peerOf } from '#shared/core/core.ts';
import { call, Indefinite, type Op, Signal, sleep, wait } from '#shared/core/op.ts';
import type { Runtime, Service } from '#shared/core/runtime.ts';
import { type Address64, addressJson } from '#shared/ids/address64.ts';
import { type XlResult, xl } from '../xl/commands.ts';
import { configOf } from './check.ts';
import { changes, differences } from './expect.ts';
import type { Address, Scenario, ScenarioStep, SimpleStep } from './schema.ts';
import { type Ask, collectCounts, resourceSnapshot } from './state.ts';
import { splitWords } from './words.ts';

export interface StepOutcome {
  readonly title: string;
  readonly outcome: 'passed' | 'failed';
  readonly durationMs: number;
  /** What went wrong, a line each. */
  readonly problems: readonly string[];
  /** Figures of the step, for people. */
  readonly detail: string;
}

export interface ScenarioResult {
  readonly scenario: string;
  readonly result: 'passed' | 'failed';
  readonly steps: readonly StepOutcome[];
  readonly counts: unknown;
  /** Nanoseconds of the clock it ran on. */
  readonly durationNs: number;
}

export interface Surroundings {
  /** A line for people, as it happens. */
  report(line: string): void;
  /** Ends a domain's process as SIGKILL does. Undefined where nobody can. */
  kill: ((domid: number) => void) | undefined;
}

/** A step did not do what the scenario says. */
class StepFailed extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join('; '));
    this.problems = problems;
  }
}

const BOOT_LIMIT_NS = 30e9;
const FIRST_ANSWER_NS = 100e6;
const COMMAND_DEADLINE_NS = 120e9;
const POLL_NS = 20e6;
const SETTLE_LIMIT_NS = 10e9;

export class Operator implements Service {
  readonly #runtime: Runtime;
  readonly #scenario: Scenario;
  readonly #surroundings: Surroundings;
  readonly #snapshots = new Map<string, unknown>();
  readonly #done = new Signal<ScenarioResult>();
  #result: ScenarioResult | undefined;

  constructor(runtime: Runtime, scenario: Scenario, surroundings: Surroundings) {
    this.#runtime = runtime;
    this.#scenario = scenario;
    this.#surroundings = surroundings;
    runtime.attach(this);
  }

  get result(): ScenarioResult | undefined {
    return this.#result;
  }

  /** For a process: resolves with the result. */
  onDone(run: (result: ScenarioResult) => void): void {
    this.#done.subscribe(run);
  }

  onRequest(_from: unknown, message: Body): undefined {
    if (message.$case === 'consoleLine') this.#surroundings.report(message.value.text);
  }

  inspect(): unknown {
    return { ready: true };
  }

  *boot(): Op<void> {
    const steps: StepOutcome[] = [];
    const started = this.#runtime.now;
    let failed = false;
    const first = yield* this.#step('the host is up', () => this.#hostUp());
    steps.push(first);
    failed = first.outcome === 'failed';
    for (const step of this.#scenario.steps) {
      if (failed) break;
      const outcome = yield* this.#step(titleOf(step), () => this.#play(step));
      steps.push(outcome);
      failed = outcome.outcome === 'failed';
    }
    const counts = failed && steps.length === 1 ? {} : yield* collectCounts(this.#ask);
    this.#result = {
      scenario: this.#scenario.name,
      result: failed ? 'failed' : 'passed',
      steps,
      counts,
      durationNs: this.#runtime.now - started,
    };
    this.#done.fire(this.#result);
  }

  *#step(title: string, run: () => Op<string>): Op<StepOutcome> {
    const started = this.#runtime.now;
    let problems: readonly string[] = [];
    let detail = '';
    try {
      detail = yield* run();
    } catch (error) {
      problems =
        error instanceof StepFailed ? error.problems : [error instanceof Error ? error.message : String(error)];
    }
    const durationMs = (this.#runtime.now - started) / 1e6;
    const outcome: StepOutcome = {
      title,
      outcome: problems.length > 0 ? 'failed' : 'passed',
      durationMs,
      problems,
      detail,
    };
    const mark = outcome.outcome === 'passed' ? 'ok' : 'FAILED';
    this.#surroundings.report(
      `${mark.padEnd(6)} ${title}${detail === '' ? '' : `: ${detail}`} (${durationMs.toFixed(1)} ms)`,
    );
    for (const problem of problems) this.#surroundings.report(`       ${problem}`);
    return outcome;
  }

  *#hostUp(): Op<string> {
    const end = this.#runtime.now + BOOT_LIMIT_NS;
    for (;;) {
      if (yield* this.#dom0Ready()) return '';
      if (this.#runtime.now >= end) throw new StepFailed([`dom0 is not ready after ${BOOT_LIMIT_NS / 1e9} s`]);
      yield* sleep(POLL_NS);
    }
  }

  /** Not ready, or not listening yet: then what it was asked is lost, and it is asked again soon. */
  *#dom0Ready(): Op<boolean> {
    try {
      const request = body('inspectRequest', { path: 'ready' });
      const reply = yield* call('d0', request, 'inspectReply', { deadlineNs: FIRST_ANSWER_NS });
      return reply.json === 'true';
    } catch (error) {
      if (!(error instanceof Indefinite)) throw error;
      return false;
    }
  }

  readonly #ask: Ask = function* (peer, path) {
    const reply = yield* call(peer, body('inspectRequest', { path }), 'inspectReply');
    if (reply.error !== '') throw new StepFailed([`${peer}: ${reply.error}`]);
    return JSON.parse(reply.json) as unknown;
  };

  *#play(step: ScenarioStep): Op<string> {
    if ('together' in step) return yield* this.#together(step.together);
    if ('xl' in step) return yield* this.#xlStep(step);
    if ('guest' in step) {
      const result = yield* this.#guest(step.guest, step.run, step.with);
      const problems = differences(result, step.expect ?? {});
      if (problems.length > 0) throw new StepFailed(problems);
      return JSON.stringify(result);
    }
    if ('dmaCheck' in step) return yield* this.#dmaCheck(step.dmaCheck);
    if ('interrupts' in step) return yield* this.#interrupts(step.interrupts);
    if ('stopped' in step) return yield* this.#stopped(step.stopped);
    if ('snapshot' in step) {
      this.#snapshots.set(step.snapshot, yield* this.#snapshot());
      return '';
    }
    if ('restored' in step) return yield* this.#restored(step.restored);
    if ('kill' in step) {
      if (this.#surroundings.kill === undefined)
        throw new StepFailed(['the processes of this host are not ours to kill']);
      this.#surroundings.kill(yield* this.#domidOf(step.kill));
      return '';
    }
    if ('waitFor' in step) return yield* this.#waitFor(step);
    const problems = differences(yield* collectCounts(this.#ask), step.counts);
    if (problems.length > 0) throw new StepFailed(problems);
    return '';
  }

  *#together(steps: readonly SimpleStep[]): Op<string> {
    const finished = new Signal<void>();
    const details: string[] = [];
    const problems: string[] = [];
    let left = steps.length;
    steps.forEach((step, i) => {
      const end = (): void => {
        left--;
        if (left === 0) finished.fire();
      };
      this.#runtime.spawn(
        titleOf(step),
        this.#play(step),
        (detail) => {
          details[i] = detail === '' ? titleOf(step) : detail;
          end();
        },
        (error) => {
          const lines =
            error instanceof StepFailed ? error.problems : [error instanceof Error ? error.message : String(error)];
          problems.push(...lines.map((line) => `${titleOf(step)}: ${line}`));
          end();
        },
      );
    });
    if (left > 0) yield* wait(finished, Infinity);
    if (problems.length > 0) throw new StepFailed(problems);
    return details.join('; ');
  }

  *#xl(line: string): Op<XlResult> {
    return yield* xl(splitWords(line), { readFile: (name) => configOf(this.#scenario.guests, name) });
  }

  *#xlStep(step: Extract<SimpleStep, { xl: string }>): Op<string> {
    const result = yield* this.#xl(step.xl);
    const expected = { exit: 0, ...step.expect };
    const problems = differences(result, expected);
    if (problems.length > 0) throw new StepFailed([...problems, ...lines(result.stderr), ...lines(result.stdout)]);
    return lines(result.stdout).join(' | ');
  }

  *#domidOf(guest: string): Op<number> {
    const { domains } = yield* call('d0', body('listDomainsRequest', {}), 'toolstackReply');
    const found = domains.find((d) => d.name === guest);
    if (found === undefined) throw new StepFailed([`there is no domain "${guest}"`]);
    return found.domid;
  }

  *#guest(guest: string, command: string, args: Readonly<Record<string, unknown>>): Op<Record<string, unknown>> {
    const to = peerOf(yield* this.#domidOf(guest));
    const request = body('guestCommandRequest', { command, args: JSON.stringify(args) });
    const reply = yield* call(to, request, 'guestCommandReply', { deadlineNs: COMMAND_DEADLINE_NS });
    if (reply.error !== '') throw new StepFailed([`${guest}: ${command}: ${reply.error}`]);
    return JSON.parse(reply.result) as Record<string, unknown>;
  }

  *#dmaCheck(step: Extract<SimpleStep, { dmaCheck: unknown }>['dmaCheck']): Op<string> {
    const { guest, bytes, seed } = step;
    const result = yield* this.#guest(guest, 'dma-check', { ...deviceOf(step), bytes, seed });
    const problems = differences(result, { bytesWritten: `>= ${bytes}`, bytesRead: `>= ${bytes}`, mismatches: 0 });
    if (problems.length > 0) throw new StepFailed(problems);
    return `${guest} wrote ${mib(result['bytesWritten'])} and read ${mib(result['bytesRead'])} by DMA, 0 words differ`;
  }

  *#interrupts(step: Extract<SimpleStep, { interrupts: unknown }>['interrupts']): Op<string> {
    const { guest, count, vectors, intx } = step;
    const kind = intx === undefined ? {} : { intx };
    const result = yield* this.#guest(guest, 'interrupts', { ...deviceOf(step), count, vectors, ...kind });
    const perVector = result['perVector'] as number[];
    const problems = differences(result, { delivered: `>= ${count}`, lost: 0 });
    if (perVector.filter((n) => n > 0).length < vectors)
      problems.push(`not all of ${vectors} vectors fired: ${perVector}`);
    if (problems.length > 0) throw new StepFailed(problems);
    if (result['irqs'] === 'intx') return `${guest} took ${result['delivered']} INTx interrupts`;
    return `${guest} took ${result['delivered']} MSI-X interrupts over ${perVector.length} vectors (${perVector.join(', ')})`;
  }

  *#addressOf(address: Address): Op<Address64> {
    if (typeof address !== 'object') return address;
    const guest = 'memoryOf' in address ? address.memoryOf : address.of;
    const domid = yield* this.#domidOf(guest);
    const domains = (yield* this.#ask('xen', 'domains')) as { domid: number; ramPa: number; p2mRootPa: number }[];
    const found = domains.find((d) => d.domid === domid);
    if (found === undefined) throw new StepFailed([`Xen knows no domain ${domid}`]);
    return 'memoryOf' in address ? found.ramPa : found.p2mRootPa;
  }

  *#stopped(step: Extract<SimpleStep, { stopped: unknown }>['stopped']): Op<string> {
    const address = yield* this.#addressOf(step.address);
    const before = (yield* this.#ask('xen', 'smmu.events')) as SmmuEvent[];
    const seen = before.at(-1)?.sequence ?? 0;
    const result = yield* this.#guest(step.guest, 'dma-access', {
      ...deviceOf(step),
      op: step.operation,
      address: addressJson(address),
      bytes: 4,
    });
    const hex = `0x${address.toString(16)}`;
    if (result['aborted'] !== true) throw new StepFailed([`the ${step.operation} of ${hex} was not stopped`]);
    const end = this.#runtime.now + SETTLE_LIMIT_NS;
    for (;;) {
      const events = ((yield* this.#ask('xen', 'smmu.events')) as SmmuEvent[]).filter((e) => e.sequence > seen);
      const found = events.find(
        (e) =>
          e.type === step.event && e.address === addressJson(address) && e.isWrite === (step.operation === 'write'),
      );
      if (found !== undefined) {
        const stream = `stream 0x${found.streamId.toString(16)}`;
        return `${step.guest}'s device: ${step.operation} of ${hex} stopped, Xen reports ${found.type} ${stream} address ${hex}`;
      }
      if (this.#runtime.now >= end)
        throw new StepFailed([`no ${step.event} for ${hex} was reported; seen: ${JSON.stringify(events)}`]);
      yield* sleep(POLL_NS);
    }
  }

  *#snapshot(): Op<unknown> {
    return { ...(yield* resourceSnapshot(this.#ask)), credentials: yield* this.#ask('broker', 'credentials') };
  }

  /** Ends of work that was already answered may still be on their way: looks until it is as before, within a limit. */
  *#restored(name: string): Op<string> {
    const before = this.#snapshots.get(name);
    if (before === undefined) throw new StepFailed([`there is no snapshot "${name}"`]);
    const end = this.#runtime.now + SETTLE_LIMIT_NS;
    for (;;) {
      const left = changes(before, yield* this.#snapshot());
      if (left.length === 0) return Object.keys(before as object).join(', ');
      if (this.#runtime.now >= end) throw new StepFailed(left);
      yield* sleep(POLL_NS);
    }
  }

  *#waitFor(step: Extract<SimpleStep, { waitFor: unknown }>): Op<string> {
    const end = this.#runtime.now + step.seconds * 1e9;
    for (;;) {
      const { problems, detail } =
        'xl' in step.waitFor ? yield* this.#xlShows(step.waitFor) : yield* this.#bound(step.waitFor);
      if (problems.length === 0) return detail;
      if (this.#runtime.now >= end) throw new StepFailed([`not within ${step.seconds} s`, ...problems]);
      yield* sleep(POLL_NS);
    }
  }

  *#xlShows({ xl: line, stdout }: { xl: string; stdout: string }): Op<Look> {
    const result = yield* this.#xl(line);
    return { problems: differences(result, { stdout }), detail: lines(result.stdout).join(' | ') };
  }

  *#bound({ guest, driver }: { guest: string; driver: string }): Op<Look> {
    try {
      const { functions } = (yield* this.#guest(guest, 'devices', {})) as {
        functions: { sbdf: string; driver: string }[];
      };
      const found = functions.find((f) => f.driver === driver);
      if (found !== undefined) return { problems: [], detail: `${driver} has ${found.sbdf} in ${guest}` };
      return { problems: [`${guest}: no function has the driver ${driver}`], detail: '' };
    } catch (error) {
      if (!(error instanceof StepFailed)) throw error;
      return { problems: error.problems, detail: '' };
    }
  }
}

/** What was seen of what is waited for: problems while it is not there. */
interface Look {
  readonly problems: readonly string[];
  readonly detail: string;
}

interface SmmuEvent {
  readonly sequence: number;
  readonly type: string;
  readonly streamId: number;
  readonly address: number | string;
  readonly isWrite: boolean;
}

/** The argument that names one of a guest's devices, when a step does. */
function deviceOf(step: { readonly bdf?: string | undefined }): Record<string, string> {
  return step.bdf === undefined ? {} : { bdf: step.bdf };
}

function titleOf(step: ScenarioStep): string {
  if ('together' in step) return step.together.map(titleOf).join(' + ');
  if ('xl' in step) return `xl ${step.xl}`;
  if ('guest' in step) return `${step.guest}: ${step.run}`;
  if ('dmaCheck' in step) return `DMA of ${step.dmaCheck.guest}`;
  if ('interrupts' in step) return `interrupts of ${step.interrupts.guest}`;
  if ('stopped' in step) return `${step.stopped.guest} is stopped`;
  if ('snapshot' in step) return `snapshot ${step.snapshot}`;
  if ('restored' in step) return `as in snapshot ${step.restored}`;
  if ('kill' in step) return `kill ${step.kill}`;
  if ('waitFor' in step) {
    const { waitFor } = step;
    return 'xl' in waitFor ? `wait for xl ${waitFor.xl}` : `wait for a ${waitFor.driver} in ${waitFor.guest}`;
  }
  return 'counts';
}

function lines(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trimEnd())
    .filter((line) => line !== '');
}

function mib(bytes: unknown): string {
  return `${Number(bytes) / 1024 / 1024} MiB`;
}
