import { assert, describe, test } from 'vitest';
import type { ToolstackReply } from '#gen/toolstack.ts';
import { type Body, body } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { type XlResult, xl } from '#tools/xl/commands.ts';

const REPLY: ToolstackReply = { rc: 0, log: [], domid: 0, domains: [], pci: [] };
const GUEST = { domid: 7, name: 'linux7', memoryMib: 512, vcpus: 2, state: '-b----', cpuSeconds: 5.6, uuid: 'u' };

/** Runs a command line against a dom0 that answers each request as `answer` says; gives the result and what was asked. */
function run(
  line: string,
  answer: (asked: Body) => Partial<ToolstackReply> = () => ({}),
): XlResult & { asked: Body[] } {
  const asked: Body[] = [];
  const op: Op<XlResult> = xl(
    line.split(' ').filter((w) => w !== ''),
    { readFile: (name) => (name === 'a.cfg' ? 'name = "a"' : undefined) },
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
    ['pci-list nosuch', 1, 'nosuch is an invalid domain identifier (rc=-6)\n'],
    ['create none.cfg', 1, 'Failed to read config file: none.cfg: No such file or directory\n'],
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

  test('domain 0 is not destroyed without -f', () => {
    const { exit, stderr, asked } = run('destroy 0');
    assert.equal(exit, 1);
    assert.match(stderr, /^Not destroying domain 0; use -f to force\.\n/);
    assert.deepEqual(asked, []);
  });
});
