/**
 * lspci as judge: for every function of every dump in data/lspci, what our fabric answers after an enumeration decodes
 * to the same text as the dump does, apart from the addresses in EXCUSED, which an enumeration assigns; and byte by byte
 * it is the same, apart from the registers in ASSIGNED. Controls that are off at power-on are written first as the
 * dumped system had written them (`controlsOf`): they hold what they are given. All the rest is there from power-on.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, assert, describe, test } from 'vitest';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_HEADER_TYPE } from '#shared/arch/pci/header.ts';
import { PCI_SRIOV, PCI_SRIOV_BARS } from '#shared/arch/pci/sriov.ts';
import { parseLspci } from '#shared/lspci/dump.ts';
import { extendedCapabilitiesOf } from '../../services/hardware/pcie/capability-list.ts';
import { because, data } from '../support/data.ts';
import { controlsOf, narrowDomains, replay } from '../support/lspci-replay.ts';
import { EXCUSED, lspciText } from '../support/lspci-text.ts';

/** EXCUSED in bytes: [what, why, header type, first byte, one behind the last]. */
const ASSIGNED: readonly (readonly [string, string, number, number, number])[] = [
  ['BARs', 'the kernel assigns them', PCI_HEADER_TYPE.NORMAL, PCI.BASE_ADDRESS_0, PCI.BASE_ADDRESS_0 + 24],
  ['ROM address', 'the kernel assigns it', PCI_HEADER_TYPE.NORMAL, PCI.ROM_ADDRESS, PCI.ROM_ADDRESS + 4],
  ['BARs', 'the kernel assigns them', PCI_HEADER_TYPE.BRIDGE, PCI.BASE_ADDRESS_0, PCI.BASE_ADDRESS_0 + 8],
  [
    'Bus numbers',
    'the kernel assigns them',
    PCI_HEADER_TYPE.BRIDGE,
    PCI_BRIDGE.PRIMARY_BUS,
    PCI_BRIDGE.SEC_LATENCY_TIMER,
  ],
  ['I/O window', 'the kernel opens it', PCI_HEADER_TYPE.BRIDGE, PCI_BRIDGE.IO_BASE, PCI_BRIDGE.SEC_STATUS],
  ['Windows', 'the kernel opens them', PCI_HEADER_TYPE.BRIDGE, PCI_BRIDGE.MEMORY_BASE, PCI_BRIDGE.IO_LIMIT_UPPER16 + 2],
  ['ROM address', 'the kernel assigns it', PCI_HEADER_TYPE.BRIDGE, PCI_BRIDGE.ROM_ADDRESS, PCI_BRIDGE.ROM_ADDRESS + 4],
  ['BAR', 'the kernel assigns it', PCI_HEADER_TYPE.CARDBUS, PCI.BASE_ADDRESS_0, PCI.BASE_ADDRESS_0 + 4],
  [
    'Bus numbers',
    'the kernel assigns them',
    PCI_HEADER_TYPE.CARDBUS,
    PCI_BRIDGE.PRIMARY_BUS,
    PCI_BRIDGE.SEC_LATENCY_TIMER,
  ],
];

const folder = data === undefined ? undefined : join(data, 'lspci');
const files =
  folder === undefined
    ? []
    : readdirSync(folder, { recursive: true, encoding: 'utf8' })
        .filter((name) => /\w\//.test(name) && !name.endsWith('kernel-log.txt'))
        .sort();
const totals = { functions: 0, agreed: 0, enumerated: 0 };
const written = new Set<string>();

describe.skipIf(data === undefined)(`every dump as lspci sees it${because}`, () => {
  const work = mkdtempSync(join(tmpdir(), 'culvert-lspci-'));
  afterAll(() => {
    rmSync(work, { recursive: true });
    const left = EXCUSED.map(([what, why]) => `${what} (${why})`);
    console.log(
      [
        `lspci agrees on ${totals.agreed} of ${totals.functions} functions in ${files.length} dumps; ${totals.enumerated} were reached through ECAM by an enumeration`,
        `left out: ${left.join('; ')}`,
        `off at power-on, and written as dumped: ${[...written].sort().join('; ')}`,
      ].join('\n'),
    );
  });

  test('there are dumps', () => {
    assert.notEqual(files.length, 0);
  });

  test.for(files)('%s', (name) => {
    const text = narrowDomains(readFileSync(join(folder!, name), 'utf8'));
    const ours = replay(text, name);
    const expected = lspciText(join(work, 'dump'), text, EXCUSED);
    const actual = lspciText(join(work, 'ours'), ours.text, EXCUSED);
    assert.equal(expected.length, ours.functions);
    totals.functions += ours.functions;
    totals.enumerated += ours.enumerated;
    totals.agreed += expected.filter((block, i) => block === actual[i]).length;
    assert.deepEqual(actual, expected);
    const dumped = parseLspci(text, name);
    const returned = parseLspci(ours.text, name);
    for (const [i, { config }] of dumped.entries()) {
      assert.deepEqual(hex(returned[i]!.config, config), hex(config, config), expected[i]!.split('\n')[0]);
      for (const [what, offset, size, mask] of controlsOf(config)) {
        for (let b = 0; b < size; b++) if ((config[offset + b]! & (mask >>> (8 * b)) & 0xff) !== 0) written.add(what);
      }
    }
  });
});

/** The bytes of a function, 16 a line, with zeros where ASSIGNED and the VF BARs of `dump` stand. */
function hex(config: Uint8Array, dump: Uint8Array): string[] {
  const shown = Buffer.from(config);
  const type = dump[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK;
  for (const [, , header, from, to] of ASSIGNED) if (header === type) shown.fill(0, from, to);
  // Function 0 says that there are more of them, whether or not the dump's did.
  shown[PCI.HEADER_TYPE] = config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK;
  for (const { id, offset } of extendedCapabilitiesOf(dump)) {
    const bars = offset + PCI_SRIOV.BAR;
    if (id === PCI_EXT_CAP_ID.SRIOV) shown.fill(0, bars, bars + 4 * PCI_SRIOV_BARS);
  }
  const line = (from: number): string => `${from.toString(16)}: ${shown.toString('hex', from, from + 16)}`;
  return Array.from({ length: shown.length / 16 }, (_, i) => line(16 * i));
}
