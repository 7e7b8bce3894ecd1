/** Configuration space as dom0 and as a guest see it, decoded by the real lspci. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, assert, beforeAll, describe, test } from 'vitest';
import {
  GUEST_MMIO_BAR_BASE_32,
  GUEST_MMIO_BAR_BASE_64,
  GUEST_MMIO_BAR_SIZE_32,
  GUEST_MMIO_BAR_SIZE_64,
} from '#shared/abi/arch-arm.ts';
import { onPath } from '../support/culvert.ts';
import { HostUp } from '../support/host-up.ts';
import { EXCUSED, type Excuse, lspciText } from '../support/lspci-text.ts';

const here = onPath('lspci');
if (!here && process.env['CI'] !== undefined) throw new Error('this test needs lspci (package pciutils)');

interface Decoded {
  readonly slot: string;
  readonly text: string;
}

/** The dump is Linux's with its drivers; dom0 has none for these functions, and none for the errors of a port. */
const SWITCHED: readonly Excuse[] = [
  ['Command', 'a driver sets it', /^\tControl: (.*)$/],
  ['BAR decoding', 'follows from Command', /^\tRegion .*?( \[disabled\])$/],
  ['Latency', 'shown of bus masters only', /^(\tLatency: .*)$/],
  ['MSI-X enable', 'a driver sets it', /^\tCapabilities: \[\w+\] MSI-X: (Enable.)/],
  ['AER: root command', 'the driver of port services sets it', /^\t\tRootCmd: (.*)$/],
  ['ACS control', 'a kernel with an IOMMU sets it', /^\t\tACSCtl:\t(.*)$/],
];

const host = new HostUp();

/** What `lspci -F` makes of our dump, by function. */
async function decode(...args: string[]): Promise<Decoded[]> {
  const dump = await host.must('lspci', '-xxxx', ...args);
  const file = host.place.path('dump.txt');
  writeFileSync(file, dump);
  const text = execFileSync('lspci', ['-F', file, '-D', '-nn', '-vvv'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return text
    .trim()
    .split('\n\n')
    .map((part) => ({ slot: part.slice(0, 12), text: part }));
}

const memoryBars = (text: string): number[] =>
  [...text.matchAll(/Region \d: Memory at ([0-9a-f]+)/g)].map((m) => Number.parseInt(m[1]!, 16));

describe.skipIf(!here)(`lspci of pciutils${here ? '' : ' (skipped: there is no lspci here, install pciutils)'}`, () => {
  let hostView: Decoded[];
  let guestView: Decoded[];

  beforeAll(async () => {
    await host.start();
    await host.create('guest1');
    hostView = await decode();
    guestView = await decode('--domain', 'guest1');
  }, 60_000);

  afterAll(() => host.stop(), 30_000);

  const onHost = (slot: string): string => hostView.find((f) => f.slot === slot)!.text;

  test('reads ten functions of the host, bridges and endpoints', () => {
    assert.deepEqual(
      hostView.map(({ slot }) => slot.slice(5)),
      ['00:00.0', '00:01.0', '00:02.0', '00:02.1', '00:02.2', '00:02.3', '00:03.0', '01:00.0', '02:00.0', '03:00.0'],
    );
    assert.match(onHost('0000:00:02.0'), /PCI bridge \[0604\].*1b36:000c/);
    assert.match(onHost('0000:00:02.0'), /Bus: primary=00, secondary=01, subordinate=01/);
    assert.match(onHost('0000:00:02.0'), /Memory behind bridge: /);
  });

  test('sees of the host what the board was dumped with, but for addresses and what a kernel switches on', async () => {
    const dump = readFileSync(new URL('../../examples/boards/qemu-virt.lspci', import.meta.url), 'utf8');
    const excused = [...EXCUSED, ...SWITCHED];
    assert.deepEqual(
      lspciText(host.place.path('ours.txt'), await host.must('lspci', '-xxxx'), excused),
      lspciText(host.place.path('theirs.txt'), dump, excused),
    );
  });

  test('sees the BARs that dom0 placed, in the windows of the host bridge and behind their bridges', () => {
    const bars = memoryBars(onHost('0000:01:00.0'));
    assert.isNotEmpty(bars);
    for (const bar of bars) assert.isTrue(bar >= 0x1000_0000 && bar < 0x3eff_0000, `0x${bar.toString(16)}`);
    const [, base, limit] = /Memory behind bridge: ([0-9a-f]+)-([0-9a-f]+)/.exec(onHost('0000:00:02.0'))!;
    for (const bar of bars) {
      assert.isTrue(bar >= Number.parseInt(base!, 16) && bar <= Number.parseInt(limit!, 16), `0x${bar.toString(16)}`);
    }
  });

  test('sees one function in the guest, with the ids and the capabilities of the real one', () => {
    assert.lengthOf(guestView, 1);
    const { slot, text } = guestView[0]!;
    assert.match(slot, /^0000:00:/);
    assert.match(text, /Ethernet controller \[0200\].*\[8086:10d3\]/);
    assert.match(text, /MSI-X: Enable\+ Count=\d+/);
    const vectors = /MSI-X: Enable. Count=(\d+)/;
    assert.equal(vectors.exec(text)![1], vectors.exec(onHost('0000:01:00.0'))![1]);
  });

  test('sees virtual BARs in the guest, where the toolstack placed them in its address space', () => {
    const bars = memoryBars(guestView[0]!.text);
    const machine = memoryBars(onHost('0000:01:00.0'));
    assert.lengthOf(bars, machine.length);
    for (const bar of bars) {
      const low = bar >= GUEST_MMIO_BAR_BASE_32 && bar < GUEST_MMIO_BAR_BASE_32 + GUEST_MMIO_BAR_SIZE_32;
      const high = bar >= GUEST_MMIO_BAR_BASE_64 && bar < GUEST_MMIO_BAR_BASE_64 + GUEST_MMIO_BAR_SIZE_64;
      assert.isTrue(low || high, `0x${bar.toString(16)}`);
      assert.notInclude(machine, bar);
    }
  });

  test('sees the same offsets of the MSI-X table in both views, and mastering enabled where a driver is', () => {
    const table = /Vector table: BAR=\d offset=[0-9a-f]+/;
    assert.equal(table.exec(guestView[0]!.text)![0], table.exec(onHost('0000:01:00.0'))![0]);
    assert.match(guestView[0]!.text, /Control:.*Mem\+ BusMaster\+/);
    assert.match(onHost('0000:03:00.0'), /Control:.*BusMaster-/);
  });

  test('finds nobody by a name that no domain has', async () => {
    const { status, stderr } = await host.place.culvert(['lspci', '--domain', 'nobody']);
    assert.equal(status, 1);
    assert.equal(stderr, 'culvert: there is no domain "nobody"\n');
  });
});
