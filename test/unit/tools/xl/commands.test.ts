import { assert, describe, test } from 'vitest';
import type { ToolstackReply } from '#gen/toolstack.ts';
import { type Body, body } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { type XlResult, xl } from '#tools/xl/commands.ts';
import { readConfig } from '#tools/xl/read-config.ts';

const REPLY: ToolstackReply = { rc: 0, log: [], domid: 0, domains: [], pci: [] };
const FILES: Readonly<Record<string, string>> = {
  'a.cfg': 'name = "a"',
  'bad-pci.cfg': 'name = "a"\npci = [ "zz" ]',
  'nameless.cfg': 'memory = 5',
  'passing.cfg': `name = "linux7"; uuid = "u"; memory = 512; vcpus = 2; kernel = "/boot/k"; extra = "quiet"
pci = [ '03:00.0,permissive=1', '0000:03:00.1@8', '04:00.*', 'name=fast,seize=1' ]; on_crash = "preserve"`,
};
const GUEST = { domid: 7, name: 'linux7', memoryMib: 512, vcpus: 2, state: '-b----', cpuSeconds: 5.6, uuid: 'u' };

/** Runs a command line against a dom0 that answers each request as `answer` says; gives the result and what was asked. */
function run(
  line: string,
  answer: (asked: Body) => Partial<ToolstackReply> = () => ({}),
): XlResult & { asked: Body[] } {
  const asked: Body[] = [];
  const op: Op<XlResult> = xl(
    line.split(' ').filter((w) => w !== ''),
    { readFile: (name) => (name in FILES ? { text: FILES[name]! } : readConfig(name)) },
  );
  let next = op.next();
  while (!next.done) {
    const step = next.value;
    if (step.step !== 'call') throw new Error(`xl does not ${step.step}`);
    asked.push(step.body);
    const domains = step.body.$case === 'listDomainsRequest' ? [GUEST] : [];
    next = op.next(body('toolstackReply', { ...REPLY, domains, ...answer(step.body) }));
  }
  return { ...next.value, asked };
}

describe('the command line', () => {
  test('a subcommand may be cut to an unambiguous prefix', () => {
    assert.equal(run('li').exit, 0);
    assert.deepInclude(run('pci'), { exit: 1, stderr: 'command not implemented\n' });
  });

  test.each([
    ['nonsense', 1, 'command not implemented\n'],
    ['-q list', 1, 'unknown global option\n'],
    ['pci-list -q 7', 2, "option `q' not supported.\n"],
    ['-N pci-list 7', 1, 'command does not implement -N (dryrun) option\n'],
    ['pci-list 4294967296', 1, '4294967296 is an invalid domain identifier (rc=-6)\n'],
    ['pci-list -- -q', 1, '-q is an invalid domain identifier (rc=-6)\n'],
    ['pci-list nosuch', 1, 'nosuch is an invalid domain identifier (rc=-6)\n'],
    ['create none.cfg', 3, 'Failed to read config file: none.cfg: No such file or directory\n'],
    ['create examples', 3, 'Failed to read config file: examples: Is a directory\n'],
    ['-N create', 6, 'Config file not specified and none in save file\n'],
    ['create -q bad-pci.cfg', 6, "unable to parse PCI_SPEC_STRING `zz' for passthrough\n"],
    ['create -q nameless.cfg', 1, 'Domain name must be specified.\n'],
    ['create -c a.cfg', 2, "option `c' not supported.\n"],
    ['create -F a.cfg', 2, "option `F' not supported.\n"],
    ['list -Z', 2, "option `Z' not supported.\n"],
    ['list --constructor', 2, "option `constructor' not supported.\n"],
    ['constructor', 1, 'command not implemented\n'],
    ['pci-attach 7 zz', 2, 'pci-attach: malformed PCI_SPEC_STRING "zz"\n'],
    [
      'pci-attach 7 3:0.0,x=1',
      2,
      'Unknown PCI_SPEC_STRING option: xpci-attach: malformed PCI_SPEC_STRING "3:0.0,x=1"\n',
    ],
    ['pci-assignable-add zz', 2, 'pci-assignable-add: malformed BDF "zz"\n'],
    ['pci-assignable-remove nothing', 2, "pci-assignable-remove: malformed BDF 'nothing'\n"],
  ])('xl %s ends with %i', (line, exit, stderr) => {
    assert.deepInclude(run(line), { exit, stderr, stdout: '' });
  });

  test('too few arguments: says how many, and the usage', () => {
    const { exit, stderr } = run('pci-attach 7');
    assert.equal(exit, 2);
    assert.equal(
      stderr,
      "'xl pci-attach' requires at least 2 arguments.\n\nUsage: xl [-vtTf] pci-attach <Domain> <PCI_SPEC_STRING>\n\nInsert a new pass-through pci device.\n\n",
    );
  });

  test('help of an unknown command is told on stdout with status 0', () => {
    assert.deepInclude(run('help nosuch'), { exit: 0, stdout: 'command "nosuch" not implemented\n' });
  });
});

describe('output', () => {
  test('list has the columns of xl', () => {
    assert.equal(
      run('list').stdout,
      'Name                                        ID   Mem VCPUs\tState\tTime(s)\n' +
        'linux7                                       7   512     2     -b----       5.6\n',
    );
  });

  test('list of a domain that is not there', () => {
    assert.deepInclude(run('list 55'), { exit: 1, stderr: "Error: Domain '55' does not exist.\n" });
  });

  test('pci-list shows the slot that was asked for', () => {
    const pci = [
      { sbdf: 0x300, vdevfn: 0, name: '' },
      { sbdf: 0x301, vdevfn: 0x40, name: '' },
    ];
    assert.equal(run('pci-list 7', () => ({ pci })).stdout, 'Vdev Device\n00.0 0000:03:00.0\n08.0 0000:03:00.1\n');
    assert.equal(run('pci-list 7').stdout, '');
  });

  test('assignable devices are followed by a blank, and with -n by their name', () => {
    const pci = [{ sbdf: 0x300, vdevfn: 0, name: 'fast' }];
    assert.equal(run('pci-assignable-list', () => ({ pci })).stdout, '0000:03:00.0 \n');
    assert.equal(run('pci-assignable-list -n', () => ({ pci })).stdout, '0000:03:00.0 fast\n');
  });

  test('a failure shows the toolstack lines and ends with 1', () => {
    const log = [{ level: 'error', text: 'PCI device 0:3:0.0 is not assignable' }];
    const result = run('pci-attach linux7 3:0.0', (asked) =>
      asked.$case === 'pciAttachRequest' ? { rc: -3, log } : {},
    );
    assert.deepInclude(result, { exit: 1, stderr: 'libxl: error: PCI device 0:3:0.0 is not assignable\n' });
  });

  test('create says what it parses, and sends the configuration', () => {
    const { stderr, asked } = run('create -p a.cfg memory=64');
    assert.equal(stderr, 'Parsing config from a.cfg\n');
    const request = asked.find((b) => b.$case === 'createDomainRequest');
    assert.deepInclude(request?.$case === 'createDomainRequest' ? request.value.config : {}, {
      name: 'a',
      memoryMib: 64,
    });
  });

  test('a create that failed ends with the number of libxl', () => {
    const log = [{ level: 'error', text: 'passthrough not supported on this platform' }];
    const stderr = 'libxl: error: passthrough not supported on this platform\n';
    assert.deepInclude(
      run('create -q a.cfg', () => ({ rc: -6, log })),
      { exit: 6, stderr },
    );
  });

  test('a dry run prints the configuration with the names of libxl and asks nothing', () => {
    const { stdout, asked } = run('-N create passing.cfg');
    assert.deepEqual(asked, []);
    assert.match(stdout, /^\{\n {4}"c_info": \{\n {8}"type": "pvh",\n/);
    assert.deepEqual(JSON.parse(stdout), {
      c_info: { type: 'pvh', name: 'linux7', uuid: 'u' },
      b_info: {
        max_vcpus: 2,
        avail_vcpus: [0, 1],
        max_memkb: 524288,
        target_memkb: 524288,
        kernel: '/boot/k',
        cmdline: 'quiet',
        'type.pvh': {},
      },
      pcidevs: [
        { bus: 3, vfunc_mask: 1, permissive: true, rdm_policy: 'strict' },
        { func: 1, bus: 3, vdevfn: 64, vfunc_mask: 1, rdm_policy: 'strict' },
        { bus: 4, vfunc_mask: 0xffff_ffff, rdm_policy: 'strict' },
        { seize: true, rdm_policy: 'strict', name: 'fast' },
      ],
      on_reboot: 'restart',
      on_crash: 'preserve',
    });
    assert.equal(run('create -n passing.cfg').stdout, stdout);
  });

  test('with -d a create prints the configuration beside its messages', () => {
    const { stdout, stderr } = run('create -d a.cfg');
    assert.equal(stdout, '');
    assert.match(stderr, /^Parsing config from a\.cfg\n\{\n {4}"c_info"/);
    assert.match(stderr, /"uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"/);
  });

  test('-v before the subcommand is not its own -v', () => {
    assert.equal(run('-v list').stdout, run('list').stdout);
    assert.notEqual(run('list -v').stdout, run('list').stdout);
  });

  test('domain 0 is not destroyed without -f', () => {
    const { exit, stderr, asked } = run('destroy 0');
    assert.equal(exit, 1);
    assert.match(stderr, /^Not destroying domain 0; use -f to force\.\n/);
    assert.deepEqual(asked, []);
  });
});
