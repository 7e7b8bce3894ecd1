/**
 * What a scenario says of itself that cannot be: names that it never gave, command lines that xl refuses without asking
 * anybody, patterns that are none. Found when it is read, so that nothing is started.
 */
import { body } from '#shared/core/core.ts';
import { type XlResult, xl } from '../xl/commands.ts';
import { parseDomainConfig } from '../xl/domain-config.ts';
import type { ScenarioContents, ScenarioStep, SimpleStep } from './schema.ts';
import { splitWords } from './words.ts';

type Path = readonly (string | number)[];
type Tell = (path: Path, message: string) => void;

/** Guests of the host that a scenario is played on, which it need not declare, if they are known. */
export type Present = readonly string[] | 'unknown';

/** Tells of every mistake, with its place in the file; of names of guests only when it is known which there are. */
export function checkScenario(scenario: ScenarioContents, present: Present, tell: Tell): void {
  const checker = new Checker(scenario, present, tell);
  scenario.steps.forEach((step, i) => {
    checker.step(step, ['steps', i]);
  });
}

class Checker {
  readonly #scenario: ScenarioContents;
  readonly #tell: Tell;
  /** Names of domains that the scenario's configurations and `xl create` lines give, or that are there already. */
  readonly #guests: ReadonlySet<string> | undefined;
  readonly #snapshots = new Set<string>();

  constructor(scenario: ScenarioContents, present: Present, tell: Tell) {
    this.#scenario = scenario;
    this.#tell = tell;
    this.#guests = present === 'unknown' ? undefined : new Set([...guestsOf(scenario), ...present]);
  }

  step(step: ScenarioStep, path: Path): void {
    if ('together' in step) {
      step.together.forEach((one, i) => {
        this.#simple(one, [...path, 'together', i]);
      });
      for (const one of step.together) if ('snapshot' in one) this.#snapshots.add(one.snapshot);
      return;
    }
    this.#simple(step, path);
    if ('snapshot' in step) this.#snapshots.add(step.snapshot);
  }

  #simple(step: SimpleStep, path: Path): void {
    if ('xl' in step) {
      this.#patterns(step.expect, [...path, 'expect']);
      this.#xl(step.xl, step.expect?.exit ?? 0, [...path, 'xl']);
    } else if ('guest' in step) {
      this.#guest(step.guest, [...path, 'guest']);
      this.#patterns(step.expect, [...path, 'expect']);
    } else if ('dmaCheck' in step) this.#guest(step.dmaCheck.guest, [...path, 'dmaCheck', 'guest']);
    else if ('interrupts' in step) this.#guest(step.interrupts.guest, [...path, 'interrupts', 'guest']);
    else if ('stopped' in step) {
      const { guest, address } = step.stopped;
      this.#guest(guest, [...path, 'stopped', 'guest']);
      if (typeof address !== 'object') return;
      const [key, name] = 'memoryOf' in address ? ['memoryOf', address.memoryOf] : ['of', address.of];
      this.#guest(name, [...path, 'stopped', 'address', key]);
    } else if ('restored' in step) this.#restored(step.restored, [...path, 'restored']);
    else if ('kill' in step) this.#guest(step.kill, [...path, 'kill']);
    else if ('waitFor' in step) this.#waitFor(step.waitFor, [...path, 'waitFor']);
    else if ('counts' in step) this.#patterns(step.counts, [...path, 'counts']);
  }

  #waitFor(waitFor: Extract<SimpleStep, { waitFor: unknown }>['waitFor'], path: Path): void {
    if ('guest' in waitFor) {
      this.#guest(waitFor.guest, [...path, 'guest']);
      return;
    }
    this.#patterns({ stdout: waitFor.stdout }, path);
    this.#xl(waitFor.xl, 0, [...path, 'xl']);
  }

  #guest(name: string, path: Path): void {
    if (this.#guests === undefined || this.#guests.has(name)) return;
    this.#tell(path, `there is no guest "${name}": ${this.#known(this.#guests, 'guests names none')} was expected`);
  }

  #restored(name: string, path: Path): void {
    if (this.#snapshots.has(name)) return;
    const known = this.#known(this.#snapshots, 'a step "snapshot: ..." before it');
    this.#tell(path, `there is no snapshot "${name}" before this step: ${known} was expected`);
  }

  #known(names: ReadonlySet<string>, none: string): string {
    return names.size === 0 ? none : [...names].map((name) => `"${name}"`).join(' or ');
  }

  /** Every text between slashes has to be a regular expression. */
  #patterns(expected: unknown, path: Path): void {
    if (typeof expected === 'object' && expected !== null) {
      for (const [key, value] of Object.entries(expected)) this.#patterns(value, [...path, key]);
      return;
    }
    const pattern = typeof expected === 'string' ? /^\/(.*)\/$/s.exec(expected)?.[1] : undefined;
    if (pattern === undefined) return;
    try {
      new RegExp(pattern, 'm');
    } catch (error) {
      const why = (error as Error).message.replace(/^Invalid regular expression: /, '');
      this.#tell(path, `a regular expression between slashes was expected: ${why}`);
    }
  }

  /** Plays a line on a dom0 that knows the names of the scenario's domains and nothing else. */
  #xl(line: string, exit: number, path: Path): void {
    if (this.#guests === undefined) return;
    const op = xl(splitWords(line), { readFile: (name) => configOf(this.#scenario.guests, name) });
    let next = op.next();
    if (!next.done && next.value.step === 'call' && next.value.body.$case === 'listDomainsRequest') {
      const names = ['Domain-0', ...this.#guests];
      const domains = names.map((name, domid) => ({ ...NOTHING, name, domid }));
      next = op.next(body('toolstackReply', { rc: 0, log: [], domid: 0, domains, pci: [] }));
    }
    // Of a number nobody knows yet what it will be.
    if (!next.done || next.value.exit === exit || /^Error: Domain '\d+'|domain id '\d+'/.test(next.value.stderr))
      return;
    this.#tell(path, `xl ends with ${next.value.exit}, ${exit} was expected: ${summary(next.value)}`);
  }
}

const NOTHING = { memoryMib: 0, vcpus: 0, state: '------', cpuSeconds: 0, uuid: '' };

/** The text of a guest's configuration, as `xl create NAME` reads it. */
export function configOf(
  guests: Readonly<Record<string, string>>,
  name: string,
): { readonly text: string } | { readonly error: string } {
  return Object.hasOwn(guests, name) ? { text: guests[name]! } : { error: 'No such file or directory' };
}

function guestsOf({ guests, steps }: ScenarioContents): Set<string> {
  const names = new Set<string>();
  for (const [file, text] of Object.entries(guests)) names.add(parseDomainConfig(file, text, []).config?.name ?? file);
  for (const step of steps.flatMap((one) => ('together' in one ? one.together : [one]))) {
    if (!('xl' in step)) continue;
    for (const word of splitWords(step.xl)) {
      const given = /^name\s*=\s*["']?(.*?)["']?$/.exec(word)?.[1];
      if (given !== undefined) names.add(given);
    }
  }
  return names;
}

function summary({ stdout, stderr }: XlResult): string {
  const lines = `${stderr}\n${stdout}`.split('\n').filter((line) => line !== '' && !line.startsWith('Parsing config'));
  return lines[0] ?? '';
}
