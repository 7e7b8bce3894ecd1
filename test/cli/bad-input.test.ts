/**
 * What a user types or writes wrong: one line on stderr that says what and where, a status that is not zero, and
 * neither a process nor a file left behind.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, assert, beforeEach, describe, test } from 'vitest';
import { assertOneLine, EXAMPLES, ROOT, Workplace } from '../support/culvert.ts';

let place: Workplace;

beforeEach(() => {
  place = new Workplace();
  cpSync(EXAMPLES, place.path('.'), { recursive: true });
});

afterEach(() => place.remove());

/** Changes a file of the place; the change has to be one. */
function edit(name: string, change: (text: string) => string): void {
  const before = readFileSync(place.path(name), 'latin1');
  const after = change(before);
  assert.notEqual(after, before, `${name} is as it was`);
  writeFileSync(place.path(name), after, 'latin1');
}

describe('a board that no machine can be built from', () => {
  const spoil = (text: string, name: string): string => text.replaceAll(name, name.replace(/.$/, '_'));
  test.each([
    [
      'a device tree cut short',
      (t: string) => t.slice(0, 1000),
      /qemu-virt\.yaml:\d+: .*truncated: its header says \d+ bytes and there are 1000/,
    ],
    ['a device tree of something else', () => 'not a device tree at all', /qemu-virt\.yaml:\d+: device tree/],
    [
      'a device tree without ITS',
      (t: string) => spoil(t, 'arm,gic-v3-its'),
      /qemu-virt\.yaml:\d+: board has no GICv3 ITS/,
    ],
    ['a device tree without SMMU', (t: string) => spoil(t, 'arm,smmu-v3'), /qemu-virt\.yaml:\d+: [^\n]*SMMU/],
    [
      'a device tree without host bridge',
      (t: string) => spoil(t, 'pci-host-ecam-generic'),
      /board has no PCI host bridge/,
    ],
  ])('%s', async (_what, change, expected) => {
    edit('boards/qemu-virt.dtb', change);
    const outcomes = await Promise.all([
      place.culvert(['up', '--board', 'boards/qemu-virt.yaml']),
      place.culvert(['run', 'two-guests.yaml']),
      place.culvert(['run', 'two-guests.yaml', '--simulated']),
    ]);
    for (const outcome of outcomes) assertOneLine(place, outcome, expected);
  });

  test.each([
    [
      'a byte of a dump that is none',
      (t: string) => t.replace(/^20: \w\w/m, '20: zz'),
      /qemu-virt\.lspci:\d+: "zz" in row 20 is not a byte/,
    ],
    [
      'a row of a dump that is missing',
      (t: string) => t.replace(/^20: .*\n/m, ''),
      /qemu-virt\.lspci:\d+: row 30 where row 20 should be/,
    ],
    ['a dump cut short', (t: string) => t.slice(0, 2000), /qemu-virt\.lspci:\d+: /],
    ['an empty dump', () => '', /qemu-virt\.lspci:1: no function in this dump/],
  ])('%s', async (_what, change, expected) => {
    edit('boards/qemu-virt.lspci', change);
    assertOneLine(place, await place.culvert(['up', '--board', 'boards/qemu-virt.yaml']), expected);
  });

  test.each([
    [
      'a model that does not exist',
      (t: string) => t.replace('model: dma-probe', 'model: dma-prober'),
      /qemu-virt\.yaml:\d+: .*"dma-probe"/,
    ],
    [
      'a function that is not in the dump',
      (t: string) => t.replace('0000:03:00.0', '0000:03:1f.0'),
      /qemu-virt\.yaml:\d+: there is no function 0000:03:1f\.0 in .* was expected/,
    ],
    ['an address that is none', (t: string) => t.replace('0000:03:00.0', '0000:03:33.0'), /qemu-virt\.yaml:\d+: .*BDF/],
    [
      'a file that is not there',
      (t: string) => t.replace('qemu-virt.dtb', 'gone.dtb'),
      /qemu-virt\.yaml:\d+: cannot read \S*gone\.dtb: no such file/,
    ],
    [
      'a place that is taken',
      (t: string) => t.replace('0000:03:00.0', '0000:01:00.0'),
      /qemu-virt\.yaml:\d+: there is a function at 0000:01:00\.0 already, in \S+qemu-virt\.yaml:\d+: /,
    ],
    [
      'a bus without a bridge above',
      (t: string) => t.replace('"0000:03:00.0"', '"0000:77:00.0"\n    from: "0000:03:00.0"'),
      /qemu-virt\.yaml:\d+: function 0000:77:00\.0 is on bus 77, which hangs below no bridge/,
    ],
    [
      'options of another model',
      (t: string) => t.replace('- at: "0000:00:01.0"', '- at: "0000:00:01.0"\n    nic: { queues: 2 }'),
      /qemu-virt\.yaml:\d+: function 0000:00:01\.0 has options of model nic and is a inert: "model: nic" was/,
    ],
    [
      'an ITS that cannot be',
      (t: string) => t.replace('functions:', 'its: { ittEntryBytes: 4, collectionIdBits: 16 }\nfunctions:'),
      /qemu-virt\.yaml:\d+: an ITS with entries of 4 bytes/,
    ],
    ['YAML that is none', (t: string) => t.replace('functions:', 'functions: ['), /qemu-virt\.yaml:\d+: /],
  ])('%s', async (_what, change, expected) => {
    edit('boards/qemu-virt.yaml', change);
    assertOneLine(place, await place.culvert(['up', '--board', 'boards/qemu-virt.yaml']), expected);
  });
});

describe('a scenario with a mistake', () => {
  test.each([
    [
      'a step that does not exist',
      (t: string) => t.replace('- xl: list', '- xxl: list'),
      /two-guests\.yaml:\d+: "xxl" is no step; a step is one of xl, guest/,
    ],
    [
      'a key that a step does not have',
      (t: string) => t.replace('vectors: 4 }', 'vectors: 4, vector: 1 }'),
      /two-guests\.yaml:\d+: Unrecognized key: "vector"/,
    ],
    [
      'a number that is none',
      (t: string) => t.replace('count: 1000', 'count: many'),
      /two-guests\.yaml:\d+: .*expected number.* in steps\.\d+\.together\.0\.interrupts\.count/,
    ],
    [
      'a board that is not there',
      (t: string) => t.replace('boards/qemu-virt.yaml', 'boards/none.yaml'),
      /none\.yaml: no such file/,
    ],
    [
      'no steps',
      (t: string) => t.replace(/steps:.*/s, 'steps: []\n'),
      /two-guests\.yaml:\d+: a scenario needs at least one step/,
    ],
  ])('%s', async (_what, change, expected) => {
    edit('two-guests.yaml', change);
    const before = readFileSync(place.path('two-guests.yaml'), 'utf8');
    const outcome = await place.culvert(['run', 'two-guests.yaml']);
    assertOneLine(place, outcome, expected);
    const line = /two-guests\.yaml:(\d+):/.exec(outcome.stderr)?.[1];
    if (line !== undefined) assert.match(before.split('\n')[Number(line) - 1]!, /xxl|vector: 1|many|steps: \[\]/);
  });

  test('a step that kills, on a host that is not ours', async () => {
    edit('two-guests.yaml', (t) => t.replace('- xl: list', '- kill: guest1\n  - xl: list'));
    const args = ['--url', 'nats://127.0.0.1:1', 'run', 'two-guests.yaml'];
    assertOneLine(place, await place.culvert(args), /two-guests\.yaml: "kill: guest1" cannot be done at nats:/);
  });

  test('that is not there', async () => {
    assertOneLine(place, await place.culvert(['run', 'nowhere.yaml']), /nowhere\.yaml: no such file/);
  });
});

describe('a file that is none', () => {
  const COMMANDS: readonly (readonly string[])[] = [
    ['run'],
    ['run', '--simulated'],
    ['sim'],
    ['replay'],
    ['replay-xenstore'],
    ['board'],
    ['up', '--board'],
  ];
  const told = async (args: readonly string[], expected: RegExp): Promise<void> =>
    assertOneLine(place, await place.culvert(args), expected);

  test.each(COMMANDS)('%j', async (...command) => {
    writeFileSync(place.path('empty'), '');
    writeFileSync(place.path('short.gz'), gzipSync('x'.repeat(1000)).subarray(0, 15));
    for (const name of ['nowhere', '.', 'empty', 'empty/x', 'short.gz'])
      await told([...command, name], new RegExp(`^culvert: ${name.replace('.', '\\.')}`));
  });

  test('replay: a trace that is cut short', async () => {
    writeFileSync(place.path('trace.log.gz'), gzipSync('x'.repeat(1000)).subarray(0, 15));
    cpSync(place.path('boards/qemu-virt.dtb'), place.path('machine.dtb'));
    await told(['replay', '.'], /^culvert: trace\.log\.gz: a whole file of gzip was expected/);
  });

  test('a folder for keys or logs whose name is a file', async () => {
    for (const args of [
      ['keys', 'two-guests.yaml/x'],
      ['keys', 'two-guests.yaml'],
      ['run', 'two-guests.yaml', '--logs', 'two-guests.yaml/x'],
      ['--url', 'nats://127.0.0.1:1', '--creds', '.', 'status'],
    ])
      await told(args, /^culvert: \S+: (a part of its path is a file, a folder was expected|is a folder, a file was)/);
  });
});

describe('a program of the workshop', () => {
  test.each([
    ['tools/fuzz.ts', ['--foo'], /^Unknown option '--foo'; usage: [^\n]+\n$/],
    ['tools/fuzz.ts', ['--minutes', 'x'], /^--minutes x: a number above 0 was expected; usage: [^\n]+\n$/],
    ['tools/xenstore/differential.ts', ['--operations', 'x'], /^--operations x: a number from 1 was [^\n]+\n$/],
    ['tools/xenstore/differential.ts', ['--foo'], /^Unknown option '--foo'; usage: [^\n]+\n$/],
  ])('%s %j', (program, args, expected) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(ROOT, program), ...args], {
      encoding: 'utf8',
    });
    assert.deepEqual([status, stdout], [2, '']);
    assert.match(stderr, expected);
  });
});

describe('a wrong command line', () => {
  test.each([
    [['frobnicate'], /unknown command 'frobnicate'/],
    [['run'], /missing required argument 'scenario'/],
    [['run', 'two-guests.yaml', '--sed', '3'], /unknown option '--sed' \(Did you mean --seed\?\)/],
    [['run', 'two-guests.yaml', '--simulated', '--seed', 'x'], /'x' is invalid. a whole number was expected/],
    [['up', '--port', '99999'], /'99999' is invalid. a port from 1 to 65535/],
    [['run', 'two-guests.yaml', '--port', '-1'], /'-1' is invalid/],
    [['status', '--jsn'], /unknown option '--jsn'/],
    [['help', 'frobnicate'], /unknown command 'frobnicate'/],
    [['run', 'two-guests.yaml', '--seed', '3'], /--seed is for a run with --simulated/],
    [['run', 'two-guests.yaml', '--simulated', '--port', '4000'], /--port and --simulated exclude each other/],
    [['--url', 'nats://127.0.0.1:1', 'run', 'two-guests.yaml', '--logs', 'x'], /--logs and --url exclude each other/],
    [['--url', 'nats://127.0.0.1:1', 'up'], /--url is of no use for "up"/],
    [['--creds', 'x', 'status'], /--creds is for the host that --url names/],
    [['sim', 'two-guests.yaml', '--seeds', '0'], /'0' is invalid. a number from 1 was expected/],
    [['sim', 'two-guests.yaml', '--from', '0x10'], /'0x10' is invalid. a whole number/],
    [['listen', '--count', '0'], /'0' is invalid. a number from 1/],
    [['keys', ''], /the name of a folder was expected/],
  ])('%j', async (args, expected) => {
    assertOneLine(place, await place.culvert(args), expected, 2);
  });
});

describe('an option that names what there is not', () => {
  test.each([
    [['listen', '--peer', 'foo'], /--peer foo: nobody on the bus is called so: hardware, .* d1/],
    [['listen', '--interface', 'foo'], /--interface foo: one of .*hypercall/],
    [['board', '--without', 'foo', 'boards/qemu-virt.dtb'], /--without foo: a board has no part "foo".*msi or smmu/],
  ])('%j', async (args, expected) => {
    assertOneLine(place, await place.culvert(args), expected);
  });

  test('board takes --without before the file', async () => {
    const { status, stdout } = await place.culvert(['board', '--without', 'msi,smmu', 'boards/qemu-virt.dtb']);
    assert.equal(status, 0);
    assert.match(stdout, /^RAM/);
  });
});

describe('a host whose host.json is broken', () => {
  test.each(['{', '{}', '{"pid": 0}'])('%s', async (text) => {
    const write = (): void => {
      mkdirSync(place.path('.culvert/host'), { recursive: true });
      writeFileSync(place.path('.culvert/host/host.json'), text);
    };
    for (const args of [['status'], ['up'], ['xl', 'list']]) {
      write();
      const { status, stderr } = await place.culvert(args);
      assert.equal(status, 1);
      assert.match(stderr, /^culvert: \.culvert\/host\/host\.json is broken, [^\n]+: clear up with "culvert down"\n$/);
    }
    assert.equal((await place.culvert(['down'])).status, 0);
    assertOneLine(place, await place.culvert(['status']), /no host runs here/);
  });
});

describe('a host that is not there', () => {
  test.each([[['status']], [['xl', 'list']], [['lspci']], [['down']]])('%j', async (args) => {
    assertOneLine(place, await place.culvert(args), /no host runs here/);
  });

  test.each([
    [['help'], 0],
    [['create', '-n', 'guests/guest1.cfg'], 0],
    [['pci-attach'], 2],
  ])('is not needed for xl %j', async (args, status) => {
    assert.equal((await place.culvert(['xl', ...args])).status, status);
  });
});

describe('a port that is taken', () => {
  let server: Server;
  let port: string;

  beforeEach(async () => {
    server = createServer().listen(0, '127.0.0.1');
    await new Promise((done) => server.once('listening', done));
    port = String((server.address() as { port: number }).port);
  });

  afterEach(() => new Promise((done) => server.close(done)));

  test.each(['up', 'run'])('ends %s', async (command) => {
    const args = command === 'up' ? ['up', '--port', port] : ['run', 'two-guests.yaml', '--port', port];
    assertOneLine(place, await place.culvert(args), new RegExp(`port ${port} of 127\\.0\\.0\\.1 is taken`));
  });
});
