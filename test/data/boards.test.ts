/** Every device tree and every dump of the shared data goes through the loaders; the table of what became of each is printed. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { assert, describe, test } from 'vitest';
import type { BoardLack } from '#shared/board/description.ts';
import { BoardError, type BoardTree } from '#shared/board/parts.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { parseLspci } from '#shared/lspci/dump.ts';
import { enumerate } from '../../services/dom0/kernel/enumerate.ts';
import type { Board } from '../../services/hardware/board.ts';
import { Machine } from '../../services/hardware/machine.ts';
import { accessThrough, hostOf } from '../support/bridge-access.ts';
import { because, data, OVERDRIVE_RAM, withMemory } from '../support/data.ts';
import { boardOfDump, type LeftOut, unseen } from '../support/dump-board.ts';

const DTBS = 26;
const DUMPS = 57;
const FUNCTIONS = 425;
/** The others: domains above ffff, dumps of all ones, and functions without a function 0. */
const ENUMERATED = 419;

/** A board that needs it may lack an SMMU, or messages. */
const ALLOWED: readonly (readonly BoardLack[])[] = [[], ['smmu'], ['msi']];

/** Trees that are taken: GIC, RAM banks, CPUs, ITSs, SMMUs by kind, bridges by driver; all others are refused with a line. */
const TAKEN: Readonly<Record<string, string>> = {
  'cn8030-gw6404-iommu-map': '1 RAM, 4 CPUs, 1 ITS, SMMU v2, ecam 3x thunder-pem',
  'cn8030-gw6404-mmu-masters': '1 RAM, 4 CPUs, 1 ITS, SMMU v2, ecam 3x thunder-pem',
  'fsl-ls1028a-rdb': '1 RAM, 2 CPUs, 1 ITS, SMMU v2, ecam',
  'fvp-base-revc': '2 RAM, 8 CPUs, 1 ITS, SMMU v3, ecam',
  'qemu72-virt-el2-numa2-smmuv3': '2 RAM, 4 CPUs, 1 ITS, SMMU v3, ecam',
  'qemu72-virt-gicv3-its-noiommu-lowmem': '1 RAM, 1 CPUs, 1 ITS, no SMMU, ecam',
  'qemu72-virt-gicv3-its-smmuv3': '1 RAM, 2 CPUs, 1 ITS, SMMU v3, ecam',
  'juno-r2': 'GICv2 with 4 v2m frames, 2 RAM, 6 CPUs, 0 ITS, SMMU 6x v2, ecam',
  'thunder2-99xx-mainline': '2 RAM, 4 CPUs, 1 ITS, no SMMU, ecam',
  'thunderx-88xx-firmware2015-assembled': '2 RAM, 48 CPUs, 2 ITS, SMMU 2x v2, 2x thunder-ecam',
  'thunderx-88xx-firmware2015-pem-assembled': '2 RAM, 48 CPUs, 2 ITS, SMMU 2x v2, 2x thunder-ecam thunder-pem',
};

/** Trees with a GICv2: what beside it would make SPIs of messages. */
const GICV2: Readonly<Record<string, string>> = {
  'amd-overdrive-rev-b1': 'its v2m frame makes SPIs of messages',
  'apm-merlin-shadowcat': 'its 16 v2m frames make SPIs of messages',
  'apm-mustang': 'nothing beside it translates messages',
  'armada-8040-mcbin': 'its 4 v2m frames make SPIs of messages',
  'cn9132-db': 'its 4 v2m frames make SPIs of messages',
  juno: 'its 4 v2m frames make SPIs of messages',
  'juno-r2': 'its 4 v2m frames make SPIs of messages',
};

/** Why the others are not: what their line says. */
const REFUSED: Readonly<Record<string, string>> = {
  'amd-overdrive-rev-b1': 'the device tree has no memory node; firmware adds it',
  'apm-merlin-shadowcat': 'are disabled; firmware enables what is there',
  'apm-mustang': 'configuration space shows one function at a time',
  'armada-8040-mcbin': 'configuration space is behind a DesignWare translation window',
  'cn9132-db': 'configuration space is behind a DesignWare translation window',
  'fsl-ls1088a-rdb': 'are disabled; firmware enables what is there',
  'fsl-ls2080a-rdb': 'are disabled; firmware enables what is there',
  'fsl-lx2160a-rdb': 'are disabled; firmware enables what is there',
  'hip05-d02': 'no node has device_type pci',
  'hip06-d03': 'is disabled; firmware enables what is there',
  'hip07-d05': 'the root port is configured through registers of its own',
  juno: 'is disabled; firmware enables what is there',
  'k3-j721e-common-proc-board': 'has no register block of 0x20000 bytes for control and translation frame',
  'rk3399-rockpro64': 'configuration space is reached through registers of the controller',
  'thunder-88xx-mainline': 'no node has device_type pci',
};

describe.skipIf(data === undefined)(`device trees of real boards${because}`, () => {
  test('each is taken, or refused in one line', () => {
    const folder = join(data!, 'dtb');
    const table: string[] = [];
    let taken = 0;
    const names = readdirSync(folder)
      .filter((name) => name.endsWith('.dtb'))
      .map((name) => name.slice(0, -4));
    for (const name of names) {
      const dtb = new Uint8Array(readFileSync(join(folder, `${name}.dtb`)));
      const result = tryBoard(dtb);
      table.push(`${name.padEnd(42)} ${result.text}`);
      assert.notInclude(result.text, '\n');
      const expected = TAKEN[name];
      if (expected === undefined) {
        assert.isUndefined(result.board, `${name} was taken`);
        assert.include(result.text, REFUSED[name] ?? 'an entry in REFUSED');
        continue;
      }
      taken++;
      assert.isDefined(result.board, result.text);
      assert.equal(countsOf(result.board!), expected, name);
    }
    console.log(`${table.join('\n')}\n${names.length} device trees: ${taken} taken, ${names.length - taken} refused`);
    assert.equal(names.length, DTBS);
  });

  test.for(Object.entries(GICV2))('%s has a GICv2, and is refused for messages before all else', ([name, why]) => {
    assert.throws(() => treeOf(name), BoardError, `is a GICv2, ${why}`);
    assert.throws(() => treeOf(name), BoardError, '("without: [msi]" in the board file allows it: INTx only)');
  });

  test('an AMD Overdrive is taken when memory is there, as its firmware adds it', () => {
    const dtb = new Uint8Array(readFileSync(join(data!, 'dtb', 'amd-overdrive-rev-b1.dtb')));
    const board = readBoardTree({ dtb: withMemory(dtb, OVERDRIVE_RAM), without: ['msi'] });
    assert.equal(countsOf(board), 'GICv2 with 1 v2m frames, 1 RAM, 8 CPUs, 0 ITS, SMMU 5x v2, ecam');
    // Its MMU-401 has 0x10000 StreamIDs in the map, from a bridge of 256 buses.
    assert.deepInclude(board.bridges[0]!.iommuMap.rows[0], { ridBase: 0, outBase: 0, length: 0x1_0000 });
  });

  test('a ThunderX lists its bridges in mmu-masters: the StreamID is the requester id', () => {
    const { bridges, smmus } = treeOf('thunderx-88xx-firmware2015-assembled');
    assert.deepEqual(
      bridges.map((b) => b.iommuMap.rows),
      smmus.map((s) => [{ ridBase: 0, phandle: s.phandle, outBase: 0, length: 0x1_0000 }]),
    );
    assert.notEqual(smmus[0]!.phandle, smmus[1]!.phandle, 'though neither has a phandle in the tree');
    assert.deepEqual(
      smmus.map((s) => s.kind === 'v2' && [s.globalSpis, new Set(s.contextSpis), s.contextSpis.length]),
      [
        [[68], new Set([69]), 128],
        [[82], new Set([83]), 128],
      ],
    );
  });

  test('the SMMU and the PEM of a ThunderX stand inside a window of its ECAM bridge, which goes on around them', () => {
    const { bridges, smmus } = treeOf('thunderx-88xx-firmware2015-pem-assembled', ['smmu']);
    const pieces = bridges[0]!.ranges.map((r) => [r.cpuBase, r.cpuBase + r.sizeBytes]);
    const pem = bridges[2]!;
    for (const region of [smmus[0]!.registers, bridges[0]!.ecam, pem.pem!, pem.ecam]) {
      const inside = pieces.some(([from, to]) => region.pa < to! && region.pa + region.sizeBytes > from!);
      assert.isFalse(inside, `0x${region.pa.toString(16)} answers twice`);
    }
    assert.isTrue(pieces.some(([from]) => from === 0x8302_0000_0000 || from === 0x8300_0200_0000));
  });

  test('an endpoint root complex of an LS1028A has 14 requester ids, from 0x17 on at SMMU and ITS', () => {
    const [bridge] = treeOf('fsl-ls1028a-rdb').bridges;
    assert.deepInclude(bridge!.iommuMap.rows[0], { ridBase: 0, outBase: 0x17, length: 14 });
    assert.deepInclude(bridge!.msiMap!.rows[0], { ridBase: 0, outBase: 0x17, length: 14 });
    assert.deepEqual(bridge!.busRange, { first: 0, last: 0 });
    const [smmu] = treeOf('fsl-ls1028a-rdb').smmus;
    assert.deepInclude(smmu, { kind: 'v2', implementation: 'mmu-500', streamMatchMask: 0x7c00 });
    assert.equal(smmu!.kind === 'v2' ? smmu!.globalSpis.length : 0, 8);
  });

  test('NUMA nodes with their distances', () => {
    const numa = treeOf('qemu72-virt-el2-numa2-smmuv3').numa!;
    assert.deepEqual(numa.nodes, [
      { id: 0, memory: [{ pa: 0x4000_0000, sizeBytes: 0x4000_0000 }], cpus: [0, 1] },
      { id: 1, memory: [{ pa: 0x8000_0000, sizeBytes: 0x4000_0000 }], cpus: [2, 3] },
    ]);
    assert.deepEqual(numa.distances, [
      [10, 20],
      [20, 10],
    ]);
  });
});

describe.skipIf(data === undefined)(`dumps of real machines${because}`, () => {
  test('every function is enumerated on a machine, or there is a reason why not', () => {
    const table: string[] = [];
    const sum = { functions: 0, enumerated: 0, leftOut: 0 };
    const files = dumpsIn(join(data!, 'lspci'));
    for (const file of files) {
      const text = readFileSync(file, 'utf8');
      const written = text
        .split('\n')
        .filter((line) => /^([0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b/i.test(line)).length;
      const { enumerated, leftOut } = playDump(text, file);
      assert.equal(enumerated + leftOut.length, written, `${file}: a function is unaccounted for`);
      sum.functions += written;
      sum.enumerated += enumerated;
      sum.leftOut += leftOut.length;
      table.push(`${relative(join(data!, 'lspci'), file).padEnd(64)} ${String(enumerated).padStart(3)} of ${written}`);
      for (const one of leftOut) table.push(`    ${one.sbdf}: ${one.why}`);
    }
    console.log(
      `${table.join('\n')}\n${sum.functions} functions in ${files.length} dumps: ${sum.enumerated} enumerated, ${sum.leftOut} not`,
    );
    assert.equal(files.length, DUMPS);
    assert.equal(sum.functions, FUNCTIONS);
    assert.equal(sum.enumerated, ENUMERATED);
  });
});

function tryBoard(dtb: Uint8Array): { board: BoardTree | undefined; text: string } {
  let refusal = '';
  for (const without of ALLOWED) {
    try {
      const board = readBoardTree({ dtb, without });
      const lack = without.length === 0 ? '' : ` (without: [${without.join(', ')}])`;
      return { board, text: `taken: ${countsOf(board)}${lack}` };
    } catch (error) {
      if (!(error instanceof BoardError)) throw error;
      refusal = error.message;
    }
  }
  return { board: undefined, text: `refused: ${refusal}` };
}

function treeOf(name: string, without: readonly BoardLack[] = []): BoardTree {
  return readBoardTree({ dtb: new Uint8Array(readFileSync(join(data!, 'dtb', `${name}.dtb`))), without });
}

function countsOf(b: BoardTree): string {
  const smmus = b.smmus.length === 0 ? 'no SMMU' : `SMMU ${tally(b.smmus.map((s) => s.kind))}`;
  return `${gicOf(b)}${b.memory.length} RAM, ${b.cpus} CPUs, ${b.itses.length} ITS, ${smmus}, ${tally(b.bridges.map((x) => x.driver))}`;
}

/** What stands before the rest where it is no GICv3. */
function gicOf({ gic }: BoardTree): string {
  return gic.version === 3 ? '' : `GICv2 with ${gic.v2mFrames.length} v2m frames, `;
}

/** "2x a b": how often each occurs. */
function tally(words: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return [...counts].map(([word, n]) => (n === 1 ? word : `${n}x ${word}`)).join(' ');
}

function dumpsIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !/INDEX\.md|kernel-log\.txt$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

/** How many functions dom0's enumeration finds on a machine made of the dump, and why the others are not among them. */
function playDump(text: string, file: string): { enumerated: number; leftOut: readonly LeftOut[] } {
  const { kept, far } = withoutFarDomains(text);
  const dump = parseLspci(kept, file.split('/').at(-1)!);
  const { board, leftOut: refused } = boardOfDump(dump);
  const leftOut = [...far, ...refused];
  if (board === undefined) return { enumerated: 0, leftOut };
  const hidden = unseen(board);
  const found = enumerateAll(board);
  const ids = (all: readonly { vendorId: number; deviceId: number }[]): string[] =>
    all.map((f) => `${f.vendorId.toString(16)}:${f.deviceId.toString(16)}`).sort();
  const expected = board.functions
    .filter((f) => !hidden.some((h) => h.sbdf === formatSbdf(f.sbdf)))
    .map(({ config }) => ({ vendorId: config[0]! | (config[1]! << 8), deviceId: config[2]! | (config[3]! << 8) }));
  assert.deepEqual(ids(found), ids(expected), file);
  return { enumerated: found.length, leftOut: [...leftOut, ...hidden] };
}

/** Functions in domains above ffff: a segment has 16 bits in Xen (xen/include/xen/pci.h, pci_sbdf_t). */
function withoutFarDomains(text: string): { kept: string; far: LeftOut[] } {
  const far: LeftOut[] = [];
  const blocks = text.split(/^(?=(?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b)/im).filter((block) => {
    const domain = /^([0-9a-f]{5,}):\S+/i.exec(block);
    if (domain !== null) far.push({ sbdf: domain[0], why: `domain ${domain[1]} is above ffff` });
    return domain === null;
  });
  return { kept: blocks.join(''), far };
}

function enumerateAll(board: Board): { vendorId: number; deviceId: number }[] {
  const machine = new Machine(board, { after: () => {} }, { interruptPending: () => {} });
  return board.bridges.flatMap((bridge) => {
    return run(enumerate(accessThrough(machine, bridge), hostOf(bridge), () => {}));
  });
}

function run<T>(op: Op<T>): T {
  const step = op.next();
  if (!step.done) throw new Error(`the operation waits: ${step.value.step}`);
  return step.value;
}
