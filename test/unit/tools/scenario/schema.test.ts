/** Mistakes of a scenario: all are told before anything starts, each with file, line and what was expected. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, assert, describe, test } from 'vitest';
import { FileError } from '#shared/yaml/document.ts';
import { readScenario } from '#tools/scenario/schema.ts';

const folder = mkdtempSync(join(tmpdir(), 'culvert-scenario-'));
afterAll(() => rmSync(folder, { recursive: true }));

const HEAD = [
  'name: x',
  'board: b.yaml',
  'guests:',
  '  guest1: "name = \'guest1\'"',
  '  other.cfg: "name = \'guest2\'"',
  'steps:',
];

/** What is said of a scenario with these steps, without the folder. The first step stands on line 7. */
function complaint(...steps: readonly string[]): string {
  const file = join(folder, 's.yaml');
  writeFileSync(file, [...HEAD, ...steps.map((step) => `  - ${step}`), ''].join('\n'));
  try {
    readScenario(file);
  } catch (error) {
    if (error instanceof FileError) return error.message.replaceAll(`${folder}/`, '');
    throw error;
  }
  return '';
}

const STOPPED = (address: string, event = 'F_ACCESS'): string =>
  `stopped: { guest: guest1, operation: read, address: ${address}, event: ${event} }`;

describe('names that nothing has', () => {
  test.each([
    ['guest: guest7\n    run: devices', 'guest'],
    ['dmaCheck: { guest: guest7, bytes: 1M }', 'dmaCheck.guest'],
    ['interrupts: { guest: guest7, count: 1, vectors: 1 }', 'interrupts.guest'],
    ['stopped: { guest: guest7, operation: read, address: 0 }', 'stopped.guest'],
    [STOPPED('{ memoryOf: guest7 }'), 'stopped.address.memoryOf'],
    [STOPPED('{ xen: page tables, of: guest7 }'), 'stopped.address.of'],
    ['kill: guest7', 'kill'],
    ['waitFor: { guest: guest7 }', 'waitFor.guest'],
    ['together: [{ kill: guest7 }]', 'together.0.kill'],
  ])('%s', (step, where) => {
    const expected = `s.yaml:8: there is no guest "guest7": "guest1" or "guest2" was expected in steps.1.${where}`;
    assert.equal(complaint('xl: list', step), expected);
  });

  test('a guest is called as its configuration or its create says', () => {
    assert.equal(complaint('kill: guest1', 'kill: guest2', 'xl: create guest1 name="third"', 'kill: third'), '');
    assert.match(complaint('kill: other.cfg'), /no guest "other\.cfg"/);
  });

  test('a guest of the host that it is played on need not be declared', () => {
    const file = join(folder, 'present.yaml');
    writeFileSync(file, [...HEAD, '  - waitFor: { guest: third }', ''].join('\n'));
    assert.throws(() => readScenario(file), /no guest "third"/);
    assert.equal(readScenario(file, ['third']).name, 'x');
    assert.equal(readScenario(file, 'unknown').name, 'x');
  });

  test('a snapshot is taken before it is restored', () => {
    assert.equal(complaint('snapshot: before', 'restored: before'), '');
    assert.equal(
      complaint('restored: before', 'snapshot: before'),
      's.yaml:7: there is no snapshot "before" before this step: a step "snapshot: ..." before it was expected in steps.0.restored',
    );
    assert.match(complaint('snapshot: a', 'restored: b'), /^s\.yaml:8: there is no snapshot "b" .*: "a" was expected/);
  });
});

describe('values of another kind', () => {
  test.each([
    [
      STOPPED('"zz"'),
      /^s\.yaml:7: a number, or an address such as "0x7000000000" was expected in steps\.0\.stopped\.address$/,
    ],
    [STOPPED('true'), /^s\.yaml:7: Invalid input: expected number or string or object in steps\.0\.stopped\.address$/],
    [STOPPED('{ memoryOf: 3 }'), /^s\.yaml:7: .*expected string.* in steps\.0\.stopped\.address\.memoryOf$/],
    [
      STOPPED('0', 'F_FOO'),
      /^s\.yaml:7: an event of an SMMU was expected: .*F_TRANSLATION.* in steps\.0\.stopped\.event$/,
    ],
    ['dmaCheck: { guest: guest1, bdf: zz, bytes: 1M }', /^s\.yaml:7: a BDF such as 0000:01:00\.0 was expected/],
    ['dmaCheck: { guest: guest1, bytes: some }', /^s\.yaml:7: a size such as 4096/],
    ['waitFor: { guest: 3 }', /^s\.yaml:7: .*expected string.* in steps\.0\.waitFor\.guest$/],
    ['waitFor: { xl: list }', /^s\.yaml:7: .*expected string.* in steps\.0\.waitFor\.stdout$/],
  ])('%s', (step, expected) => {
    assert.match(complaint(step), expected);
  });

  test.each([
    ['xl: list\n    expect: { stdout: "/(/" }', 'expect.stdout'],
    ['guest: guest1\n    run: devices\n    expect: { a: { b: "/(/" } }', 'expect.a.b'],
    ['waitFor: { xl: list, stdout: "/(/" }', 'waitFor.stdout'],
    ['counts: { xen: "/(/" }', 'counts.xen'],
  ])('a pattern that is none: %s', (step, where) => {
    const message = complaint(step);
    assert.match(message, /^s\.yaml:\d+: a regular expression between slashes was expected: .*Unterminated group in /);
    assert(message.endsWith(` in steps.0.${where}`), message);
  });
});

describe('command lines of xl', () => {
  test.each([
    ['lst', /^s\.yaml:7: xl ends with 1, 0 was expected: command not implemented in steps\.0\.xl$/],
    ['create guest2', /ends with 3, 0 was expected: Failed to read config file: guest2: No such file/],
    ['pci-attach guest1', /ends with 2, .*requires at least 2 arguments/],
    ['pci-attach guest7 0000:01:00.0', /ends with 1, .*guest7 is an invalid domain identifier/],
    ['pci-attach guest1 zz', /ends with 2, .*malformed PCI_SPEC_STRING "zz"/],
    ['destroy guest7', /guest7 is an invalid domain identifier/],
  ])('%s', (line, expected) => {
    assert.match(complaint(`xl: ${line}`), expected);
  });

  test.each([
    'list',
    'list 7',
    'list guest2',
    'domname 7',
    'create other.cfg',
    'destroy guest1',
    'pci-attach 7 03:00.0',
  ])('nothing is wrong with %s', (line) => {
    assert.equal(complaint(`xl: ${line}`), '');
  });

  test('one that is expected to fail may', () => {
    assert.equal(complaint('xl: destroy guest7\n    expect: { exit: 1 }'), '');
    assert.match(complaint('xl: destroy guest7\n    expect: { exit: 2 }'), /ends with 1, 2 was expected/);
    assert.match(complaint('waitFor: { xl: lst, stdout: "/x/" }'), /command not implemented in steps\.0\.waitFor\.xl$/);
  });
});
