/**
 * docs/reference/conformance.md: for each case of the peer suites of tools/conformance/cases.ts, that our tests play it,
 * or that it is not modelled and what software sees.
 * `node tools/gen-conformance.ts` writes the page. With `--check` it writes nothing and exits with 1 when the page is out
 * of date, when a case has neither a test nor a reason, or has both, or when a test names a case that is not listed.
 * The names of the tests are asked of vitest, which collects the files of test/peer without running a test.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { expandCases, type PeerSuite, SUITES } from './conformance/cases.ts';

export interface NamedTest {
  readonly name: string;
  /** Relative to the project. */
  readonly file: string;
}

/** Who plays a case. */
export interface Players {
  readonly files: Set<string>;
  /** A test of its own does, not only one that goes through a table of cases. */
  alone: boolean;
}

/** By `peer/case`: the tests that carry it. */
export function casesOf(tests: readonly NamedTest[]): Map<string, Players> {
  const found = new Map<string, Players>();
  for (const { name, file } of tests) {
    for (const [, peer, text] of name.matchAll(/\[([a-z][\w-]*)\/([\w,-]+)\]/g)) {
      const cases = expandCases(text!);
      for (const one of cases) {
        const key = `${peer}/${one}`;
        const players = found.get(key) ?? { files: new Set(), alone: false };
        players.files.add(file);
        players.alone ||= cases.length === 1;
        found.set(key, players);
      }
    }
  }
  return found;
}

/** What is wrong, a line each. */
export function problemsOf(suites: readonly PeerSuite[], found: ReadonlyMap<string, Players>): string[] {
  const problems: string[] = [];
  const listed = new Set<string>();
  for (const { peer, cases } of suites) {
    for (const { cases: names, notModelled } of cases) {
      for (const one of expandCases(names)) {
        const key = `${peer}/${one}`;
        if (listed.has(key)) problems.push(`${key} is listed twice`);
        listed.add(key);
        const tested = found.has(key);
        if (tested && notModelled !== undefined) problems.push(`${key} has a test and a reason why it has none`);
        if (!tested && notModelled === undefined)
          problems.push(`${key} has neither a test nor a reason why it has none`);
      }
    }
  }
  for (const [key, { files }] of found)
    if (!listed.has(key)) problems.push(`${[...files].join(', ')} names ${key}, which is not listed`);
  return problems;
}

/** The page. */
export function conformancePage(suites: readonly PeerSuite[], found: ReadonlyMap<string, Players>): string {
  const lines = [
    '# Conformance',
    '',
    "The cases of other projects' test suites that have to do with the machine, retold as our own tests: the same set-up,",
    'the same action, the same expectation. A case passes, or is not modelled, and then the row says what software sees.',
    'That a case passes means that a test which carries its name exists and that CI (`.ci/run`) runs it with every other:',
    'nothing of those projects is run, and this page is not made from a run. Where one test goes through a table of cases',
    'the row says "one test by table": they are not as many tests.',
    'This page is generated: change `tools/conformance/cases.ts` or the tests, then run `node tools/gen-conformance.ts`.',
  ];
  for (const { peer, title, cases } of suites) {
    const all = cases.flatMap((row) => expandCases(row.cases).map(() => row.notModelled));
    const passing = all.filter((notModelled) => notModelled === undefined).length;
    const byTable = cases.flatMap((row) => tabled(peer, row.cases, found)).length;
    const ofThem = byTable === 0 ? '' : `, ${byTable} of them by table`;
    lines.push('', `## ${title}`, '', `${passing} cases pass${ofThem}; ${all.length - passing} are not modelled.`, '');
    lines.push('| case | asks | |', '|---|---|---|');
    for (const { cases: names, asks, notModelled } of cases) {
      const files = new Set(expandCases(names).flatMap((one) => [...(found.get(`${peer}/${one}`)?.files ?? [])]));
      const where = [...files].sort().map((file) => `\`${file}\``);
      const table = tabled(peer, names, found);
      const others = expandCases(names).filter((one) => !table.includes(one));
      const but = others.length === 0 ? '' : `, but for ${others.join(', ')}`;
      const note = table.length === 0 ? '' : ` (one test by table${but})`;
      const answer = notModelled === undefined ? `passes: ${where.join(', ')}${note}` : `not modelled: ${notModelled}`;
      lines.push(`| ${names.replaceAll(',', ', ')} | ${asks} | ${answer} |`);
    }
  }
  return `${lines.join('\n')}\n`;
}

/** Of the cases of a row: those that only a test of several plays. */
function tabled(peer: string, cases: string, found: ReadonlyMap<string, Players>): string[] {
  return expandCases(cases).filter((one) => found.get(`${peer}/${one}`)?.alone === false);
}

/** Every test below test/peer. Throws when a file cannot be collected. */
function peerTests(root: string): NamedTest[] {
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const listing = spawnSync(process.execPath, [vitest, 'list', 'test/peer', '--json', '--no-static-parse'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  });
  const start = listing.stdout.indexOf('[\n');
  if (listing.status !== 0 || start < 0) throw new Error(`vitest list failed:\n${listing.stdout}${listing.stderr}`);
  const tests = JSON.parse(listing.stdout.slice(start)) as NamedTest[];
  return tests.map(({ name, file }) => ({ name, file: relative(root, file).replaceAll('\\', '/') }));
}

function main(root: string, check: boolean): number {
  const found = casesOf(peerTests(root));
  const problems = problemsOf(SUITES, found);
  const page = conformancePage(SUITES, found);
  const target = join(root, 'docs', 'reference', 'conformance.md');
  if (check && (!existsSync(target) || readFileSync(target, 'utf8') !== page))
    problems.push('docs/reference/conformance.md is out of date: run node tools/gen-conformance.ts');
  for (const problem of problems) process.stderr.write(`${problem}\n`);
  if (!check && problems.length === 0) {
    writeFileSync(target, page);
    process.stdout.write(`wrote ${relative(process.cwd(), target)}\n`);
  }
  return problems.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = main(resolve(import.meta.dirname, '..'), process.argv.includes('--check'));
