/**
 * lspci as judge: for every function of every dump in data/lspci, what our fabric answers after an enumeration decodes
 * to the same text as the dump does, apart from the fields in EXCUSED, which a reset clears or an enumeration assigns.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, assert, describe, test } from 'vitest';
import { sharedData } from '../support/data.ts';
import { narrowDomains, replay } from '../support/lspci-replay.ts';

/** [what, why, where it stands in lspci's text]. Only what the groups match is left out, on both sides. */
const EXCUSED: readonly (readonly [string, string, RegExp])[] = [
  ['Command', 'zero after reset, set by the kernel', /^\tControl: (.*)$/],
  [
    'Status: error bits and interrupt status',
    'cleared by reset',
    /^\tStatus: .*(ParErr. )DEVSEL=\w+ (>TAbort. <TAbort. <MAbort. >SERR. <PERR. INTx.)/,
  ],
  ['Latency, cache line size', 'shown for bus masters only; the kernel sets them', /^(\tLatency: .*)$/],
  ['Interrupt Line', 'the kernel sets it', /^\tInterrupt: pin \S+ routed to (IRQ \d+)$/],
  ['Interrupt Line without a pin', 'the kernel sets it', /^(\tInterrupt: pin \? routed to .*)$/],
  ['BAR address', 'the kernel assigns it', /^\tRegion \d: (?:Memory|I\/O ports) at (\S+)/],
  ['BAR decoding', 'follows from Command', /^\tRegion .*?((?: \[(?:disabled|virtual)\])+)$/],
  ['ROM address', 'the kernel assigns it', /^\tExpansion ROM at (\S+(?: \[(?:disabled|virtual)\])*)$/],
  ['Bus numbers', 'the kernel assigns them', /^\tBus: primary=(\w+), secondary=(\w+), subordinate=(\w+),/],
  [
    'Windows of a bridge',
    'the kernel opens them',
    /^\t(?:I\/O|Memory|Prefetchable memory) behind bridge: (.*?)(?: \[\d\d-bit\])?$/,
  ],
  ['Windows of a CardBus bridge', 'follow from Command', /^\t(?:Memory|I\/O) window \d: .*?( \[disabled\])/],
  [
    'Secondary Status: error bits',
    'cleared by reset',
    /^\tSecondary status: .*(ParErr. )DEVSEL=\w+ (>TAbort. <TAbort. <MAbort. <SERR. <PERR.)/,
  ],
  ['Bridge Control', 'zero after reset', /^\tBridgeCtl: (Parity. SERR. NoISA. VGA. VGA16.) MAbort. (>Reset.)/],
  ['PMCSR: state, PME', 'D0 after reset', /^\t\tStatus: (D\d) NoSoftRst. (PME-Enable.) DSel=\d DScale=\d (PME.)$/],
  ['MSI: enable, vectors enabled', 'zero after reset', /^\tCapabilities: \[\w+\] MSI: (Enable.) Count=(\d+)\//],
  ['MSI: address and data', 'zero after reset', /^\t\tAddress: (\w+) {2}Data: (\w+)$/],
  ['MSI: mask and pending', 'zero after reset', /^\t\tMasking: (\w+) {2}Pending: (\w+)$/],
  [
    'MSI-X: enable, function mask',
    'zero after reset',
    /^\tCapabilities: \[\w+\] MSI-X: (Enable.) Count=\d+ (Masked.)$/,
  ],
  ['Device Control: error reporting', 'zero after reset', /^\t\tDevCtl:\t(CorrErr. NonFatalErr. FatalErr. UnsupReq.)/],
  [
    'Device Control: features',
    'defaults after reset',
    /^\t\t\t(RlxdOrd. ExtTag. PhantFunc. AuxPwr. NoSnoop.(?: FLReset.| BrConfRtry.)?)$/,
  ],
  ['Device Control: sizes', '128 and 512 bytes after reset', /^\t\t\t(MaxPayload \d+ bytes, MaxReadReq \d+ bytes)$/],
  [
    'Device Status: errors',
    'cleared by reset',
    /^\t\tDevSta:\t(CorrErr. NonFatalErr. FatalErr. UnsupReq.) AuxPwr. (TransPend.)$/,
  ],
  ['Link Control', 'zero after reset', /^\t\tLnkCtl:\t(ASPM .*)$/],
  ['Link Control', 'zero after reset', /^\t\t\t(ExtSynch. ClockPM. AutWidDis. BWInt. AutBWInt.)$/],
  ['Link Control 2: target speed', 'the highest after reset', /^\t\tLnkCtl2: Target Link Speed: (\S+),/],
  ['Root Control', 'zero after reset', /^\t\tRootCtl: (.*)$/],
  ['Device Control 2', 'zero after reset', /^\t\tDevCtl2: (.*)$/],
  ['Device Control 2: atomic operations', 'zero after reset', /^\t\t\t AtomicOpsCtl: (.*)$/],
  ['AER: uncorrectable status', 'cleared at power-on', /^\t\tUESta:\t(.*)$/],
  ['AER: correctable status', 'cleared at power-on', /^\t\tCESta:\t(.*)$/],
  ['AER: root command', 'zero after reset', /^\t\tRootCmd: (.*)$/],
  ['AER: root status', 'cleared at power-on', /^\t\tRootSta: (.*)$/],
  ['ACS control', 'zero after reset', /^\t\tACSCtl:\t(.*)$/],
  ['ATS control: enable', 'zero after reset', /^\t\tATSCtl:\t(Enable.)/],
  ['PRI control', 'zero after reset', /^\t\tPRICtl: (.*)$/],
  ['PASID control', 'zero after reset', /^\t\tPASIDCtl: (.*)$/],
  ['SR-IOV control', 'zero after reset', /^\t\tIOVCtl:\t(Enable.) Migration. Interrupt. (MSE. ARIHierarchy.)/],
  ['SR-IOV: NumVFs', 'zero after reset', /^\t\tInitial VFs: \d+, Total VFs: \d+, Number of VFs: (\d+),/],
  ['SR-IOV: system page size', '4 KiB after reset', /^\t\tSupported Page Size: \w+, System Page Size: (\w+)$/],
  ['SR-IOV: VF BAR address', 'zero after reset', /^\t\tRegion \d: Memory at (\S+)/],
];

const data = sharedData();
const required = process.env['CI'] !== undefined && process.env['CULVERT_DATA'] !== undefined;
const folder = data === undefined ? undefined : join(data, 'lspci');
const files =
  folder === undefined
    ? []
    : readdirSync(folder, { recursive: true, encoding: 'utf8' })
        .filter((name) => /\w\//.test(name) && !name.endsWith('kernel-log.txt'))
        .sort();
const reason = data === undefined ? ' (skipped: no folder shared/data beside the checkout)' : '';
const totals = { functions: 0, agreed: 0, enumerated: 0 };

describe.skipIf(data === undefined && !required)(`every dump as lspci sees it${reason}`, () => {
  const work = mkdtempSync(join(tmpdir(), 'culvert-lspci-'));
  afterAll(() => {
    rmSync(work, { recursive: true });
    console.log(
      `lspci agrees on ${totals.agreed} of ${totals.functions} functions in ${files.length} dumps; ${totals.enumerated} were reached through ECAM by an enumeration`,
    );
  });

  test('there are dumps', () => {
    assert.notEqual(files.length, 0);
  });

  test.for(files)('%s', (name) => {
    const text = narrowDomains(readFileSync(join(folder!, name), 'utf8'));
    const ours = replay(text, name);
    const expected = decode(join(work, 'dump'), text);
    const actual = decode(join(work, 'ours'), ours.text);
    assert.equal(expected.length, ours.functions);
    totals.functions += ours.functions;
    totals.enumerated += ours.enumerated;
    totals.agreed += expected.filter((block, i) => block === actual[i]).length;
    assert.deepEqual(actual, expected);
  });
});

/** What lspci says of each function, without what is excused. */
function decode(file: string, text: string): string[] {
  writeFileSync(file, text);
  const out = execFileSync('lspci', ['-D', '-vvv', '-F', file], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return out.trimEnd().split('\n\n').map(excuse);
}

function excuse(block: string): string {
  return block
    .split('\n')
    .map((line) => EXCUSED.reduce((text, [, , where]) => blank(text, where), line))
    .filter((line) => line !== '')
    .join('\n');
}

/** Takes the groups of `where` out of a line that it matches. */
function blank(line: string, where: RegExp): string {
  const match = new RegExp(where.source, 'd').exec(line);
  if (match === null) return line;
  return match.indices!.slice(1).reduceRight((text, range) => {
    return range === undefined ? text : text.slice(0, range[0]) + text.slice(range[1]);
  }, line);
}
