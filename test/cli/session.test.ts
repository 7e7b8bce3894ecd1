/** A host as an operator has it at the terminal: up, questions, mistakes, down. */
import { cpSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import { EXAMPLES, type Outcome, Workplace } from '../support/culvert.ts';

let place: Workplace;

const culvert = (...args: string[]): Promise<Outcome> => place.culvert(args);
const xl = (...args: string[]): Promise<Outcome> => place.culvert(['xl', ...args]);

beforeAll(() => {
  place = new Workplace();
  cpSync(`${EXAMPLES}/guests`, place.path('.'), { recursive: true });
});

afterAll(async () => {
  await culvert('down');
  place.remove();
});

/** In this order. */
describe('a host', () => {
  test('comes up, says where, and every service of it is ready', { timeout: 60_000 }, async () => {
    const up = await culvert('up');
    assert.deepEqual([up.status, up.stderr], [0, '']);
    assert.match(up.stdout, /the host is up at nats:\/\/127\.0\.0\.1:\d+; operator credential \S+operator\.creds/);
    const status = await culvert('status');
    assert.equal(status.status, 0);
    for (const service of ['hardware', 'xen', 'xenstored', 'dom0']) {
      assert.match(status.stdout, new RegExp(`^${service} +ready`, 'm'));
    }
    const json = JSON.parse((await culvert('status', '--json')).stdout) as { ready: boolean; services: unknown[] };
    assert.isTrue(json.ready);
    assert.lengthOf(json.services, 4);
  });

  test('keeps its credentials from other users', () => {
    const host = place.path('.culvert/host');
    for (const secret of ['creds/d0.creds', 'creds/operator.creds', 'key-ring.json', 'broker.creds', 'host.json']) {
      assert.equal(statSync(`${host}/${secret}`).mode & 0o077, 0, secret);
    }
    assert.equal(statSync(host).mode & 0o077, 0);
  });

  test('does not come up twice', async () => {
    const again = await culvert('up');
    assert.equal(again.status, 1);
    assert.match(
      again.stderr,
      /^culvert: a host runs here already \(nats:\S+, pid \d+\): take it down with "culvert down"\n$/,
    );
    assert.equal((await culvert('status')).status, 0);
  });

  test('lists its functions as lspci does', async () => {
    const { status, stdout } = await culvert('lspci');
    assert.equal(status, 0);
    assert.include(stdout.split('\n'), '0000:01:00.0 Class 0200: Device 8086:10d3');
    assert.lengthOf(stdout.trim().split('\n'), 10);
  });

  test.each([
    [['list', 'nobody'], 1, /nobody is an invalid domain identifier \(rc=-6\)/],
    [['pci-attach', 'nobody', '0000:01:00.0'], 1, /nobody is an invalid domain identifier/],
    [['pci-attach', '0'], 2, /'xl pci-attach' requires at least 2 arguments/],
    [['pci-assignable-add', '0000:99:00.0'], 1, /Couldn't lstat \/sys\/bus\/pci\/devices\/0000:99:00\.0/],
    [['pci-assignable-add', 'nonsense'], 2, /malformed BDF "nonsense"/],
    [['pci-assignable-add', '0000:00:02.0'], 1, /libxl: error/],
    [['frobnicate'], 1, /command not implemented/],
    [['create', 'missing.cfg'], 3, /Failed to read config file: missing\.cfg: No such file/],
    [['create', '.'], 3, /Failed to read config file: \.: Is a directory/],
    [['create'], 6, /Config file not specified/],
    [['list', '--frob'], 2, /option `frob' not supported/],
    [['destroy', '77'], 1, /libxl: error: Domain 77/],
  ])('gives the status and the words of xl for xl %j', async (args, exit, expected) => {
    const outcome = await xl(...args);
    assert.equal(outcome.status, exit);
    assert.match(outcome.stderr, expected);
    assert.notMatch(outcome.stderr, /^culvert:/m);
  });

  test.each([
    [
      'a letter that no configuration has',
      'name = "x"\nmemory = 96 %\n',
      /bad\.cfg:2: config parsing error near `%.*': lexical error/,
      1,
    ],
    [
      'a device that is not assignable',
      'name = "x"\nmemory = 96\npci = [ "0000:77:00.0" ]\n',
      /libxl: error: .*0:77:0\.0 is not assignable/,
      3,
    ],
    [
      'a device that is none',
      'name = "x"\npci = [ "0000:77:99.0" ]\n',
      /unable to parse PCI_SPEC_STRING `0000:77:99\.0' for passthrough/,
      6,
    ],
    ['no name', 'memory = 96\n', /Domain name must be specified/, 1],
    ['more memory than there is', 'name = "x"\nmemory = 9999999\n', /libxl: error/, 5],
  ])('builds no domain of a configuration with %s', async (_what, text, expected, exit) => {
    writeFileSync(place.path('bad.cfg'), text);
    const outcome = await xl('create', 'bad.cfg');
    assert.equal(outcome.status, exit);
    assert.match(outcome.stderr, expected);
    assert.match((await xl('list')).stdout, /^Name.*\nDomain-0 .*\n$/);
  });

  test('builds a guest with its function, and takes both back', async () => {
    assert.equal((await xl('pci-assignable-add', '0000:01:00.0')).status, 0);
    assert.equal((await xl('create', 'guest1.cfg')).status, 0);
    assert.match((await xl('list')).stdout, /^guest1 +\d+ +96 +1 /m);
    assert.match((await xl('pci-list', 'guest1')).stdout, /^\S+ 0000:01:00\.0$/m);
    const twice = await xl('create', 'guest1.cfg');
    assert.notEqual(twice.status, 0);
    assert.match(twice.stderr, /libxl: error/);
    const taken = await xl('pci-attach', 'guest1', '0000:77:00.0');
    assert.equal(taken.status, 1);
    assert.match(taken.stderr, /0:77:0\.0 is not assignable/);
    assert.equal((await xl('destroy', 'guest1')).status, 0);
    assert.match((await xl('pci-assignable-list')).stdout, /0000:01:00\.0/);
  });

  test('does not let somebody in with a credential that is none of its own', async () => {
    writeFileSync(place.path('other.creds'), 'nothing of the kind');
    assert.equal((await culvert('keys', 'others')).status, 0);
    const state = readFileSync(place.path('.culvert/host/host.json'), 'utf8');
    const { url } = JSON.parse(state) as { url: string };
    for (const [creds, why] of [
      ['other.creds', /^culvert: other\.creds holds no credential of a NATS user\n$/],
      ['others/creds/operator.creds', /^culvert: the NATS server at \S+ does not accept the credential of operator\n$/],
    ] as const) {
      const outcome = await culvert('--url', url, '--creds', creds, 'xl', 'list');
      assert.equal(outcome.status, 1);
      assert.match(outcome.stderr, why);
    }
  });

  test('goes down, with all that belongs to it, also when host.json does not say any more what that is', async () => {
    assert.notDeepEqual(place.processes(), []);
    writeFileSync(place.path('.culvert/host/host.json'), '{');
    assert.match((await culvert('status')).stderr, /host\.json is broken/);
    const down = await culvert('down');
    assert.deepEqual([down.status, down.stdout, down.stderr], [0, 'the host is down\n', '']);
    assert.deepEqual(place.processes(), []);
    assert.deepEqual(place.files(), []);
    assert.equal((await culvert('down')).status, 1);
  });
});
