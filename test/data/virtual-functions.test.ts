/**
 * Real physical functions with SR-IOV: dom0 enables virtual functions of every one that the dumps of the shared data have,
 * on a machine made of the dump. What became of each is printed.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { assert, describe, test } from 'vitest';
import { PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI_SRIOV } from '#shared/arch/pci/sriov.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { type LspciFunction, parseLspci } from '#shared/lspci/dump.ts';
import { enumerate } from '../../services/dom0/kernel/enumerate.ts';
import type { PciFunction } from '../../services/dom0/kernel/function.ts';
import type { Board } from '../../services/hardware/board.ts';
import { Machine } from '../../services/hardware/machine.ts';
import { extendedCapabilitiesOf } from '../../services/hardware/pcie/capability-list.ts';
import { accessThrough, hostOf } from '../support/bridge-access.ts';
import { because, data } from '../support/data.ts';
import { boardOfDump } from '../support/dump-board.ts';

/** No more than these of each; many cards have 64 or 128. */
const VFS_MAX = 8;

interface Outcome {
  readonly asked: number;
  readonly got: number;
  readonly lines: readonly string[];
}

/** How many VFs a function can have; 0 without the capability. */
function totalVfs({ config }: BoardFunction): number {
  const sriov = extendedCapabilitiesOf(config).find(({ id }) => id === PCI_EXT_CAP_ID.SRIOV);
  if (sriov === undefined || sriov.roomBytes < PCI_SRIOV.BYTES) return 0;
  const at = sriov.offset + PCI_SRIOV.TOTAL_VF;
  return config[at]! | (config[at + 1]! << 8);
}

function play(board: Board): Outcome {
  const functions = board.functions.map((fn) => {
    const vfs = Math.min(totalVfs(fn), VFS_MAX);
    return vfs === 0 ? fn : { ...fn, vfs };
  });
  const asked = functions.reduce((sum, { vfs }) => sum + (vfs ?? 0), 0);
  if (asked === 0) return { asked, got: 0, lines: [] };
  const machine = new Machine({ ...board, functions }, { after: () => {} }, { interruptPending: () => {} });
  const lines: string[] = [];
  const found = board.bridges.flatMap((bridge): PciFunction[] => {
    const trace = (event: string, detail: unknown): void => void lines.push(`    ${event} ${JSON.stringify(detail)}`);
    return run(enumerate(accessThrough(machine, bridge), hostOf(bridge), trace));
  });
  const vfs = found.filter((f) => f.physfn !== undefined);
  for (const vf of vfs) checkVf(machine, vf, found);
  return { asked, got: vfs.length, lines };
}

/** Its memory is its own, and the machine leads to it. */
function checkVf(machine: Machine, vf: PciFunction, all: readonly PciFunction[]): void {
  const name = formatSbdf(vf.sbdf);
  for (const bar of vf.bars) {
    assert.notEqual(bar.pa, 0, `${name} has a BAR without a place`);
    assert.isTrue(machine.bus.read(bar.pa, 4), name);
    assert.notEqual(machine.bus.low, 0xffff_ffff, `${name} does not answer at its BAR`);
    const end = bar.pa + Math.max(bar.sizeBytes, 4096);
    const shares = all.filter(
      (f) => f !== vf && f.bars.some((b) => b.pa !== 0 && b.pa < end && b.pa + b.sizeBytes > bar.pa),
    );
    assert.deepEqual(
      shares.map((f) => formatSbdf(f.sbdf)),
      [],
      `${name} shares a page`,
    );
  }
}

/** Time passes at once. */
function run<T>(op: Op<T>): T {
  let step = op.next();
  while (!step.done) step = op.next();
  return step.value;
}

function readDump(path: string): readonly LspciFunction[] {
  const text = readFileSync(path, 'utf8');
  // Domains above ffff cannot be a segment.
  const blocks = text.split(/^(?=(?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b)/im);
  return parseLspci(blocks.filter((block) => !/^[0-9a-f]{5,}:/i.test(block)).join(''), path);
}

describe.skipIf(data === undefined)('SR-IOV of real cards', () => {
  test(`every physical function has the virtual functions that it is asked for${because}`, () => {
    const folder = join(data!, 'lspci');
    const files = readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && !/INDEX\.md|kernel-log\.txt$/.test(entry.name))
      .map((entry) => join(entry.parentPath, entry.name))
      .sort();
    let asked = 0;
    let got = 0;
    let cards = 0;
    for (const file of files) {
      const { board } = boardOfDump(readDump(file));
      if (board === undefined) continue;
      const outcome = play(board);
      if (outcome.asked === 0) continue;
      cards++;
      asked += outcome.asked;
      got += outcome.got;
      process.stdout.write(`${relative(folder, file)}: ${outcome.got} of ${outcome.asked}\n`);
      if (outcome.got !== outcome.asked) process.stdout.write(`${outcome.lines.join('\n')}\n`);
    }
    process.stdout.write(`${got} of ${asked} virtual functions, in ${cards} dumps of ${files.length}\n`);
    assert.isAbove(cards, 0);
    assert.equal(got, asked);
  });
});
