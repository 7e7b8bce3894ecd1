/** Recorded boots of real kernels, replayed on our GIC, ITS and SMMUv3; and that a fault of ours would show there. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { assert, describe, test } from 'vitest';
import { replay, replayFolder } from '../../tools/replay/replay.ts';
import { fileOf, parseTrace, type TraceLine } from '../../tools/replay/trace.ts';
import { because, data } from '../support/data.ts';

const root = join(data ?? '', 'qemu-traces');

function boots(): string[] {
  if (!existsSync(root)) return [];
  return readdirSync(root)
    .filter((name) => fileOf(join(root, name), 'machine.dtb') !== undefined)
    .sort();
}

const BOOT_A = join(root, 'boot-a');

/** Of boot-a, counted in its trace with grep. */
const COUNTS: Readonly<Record<string, number>> = {
  'interrupt translations': 221,
  'DMA translations: translated': 2009,
  'table walks': 278,
  'SMMU commands': 1621,
  'ITS commands': 149,
  'SMMU register reads': 819,
  'ITS register reads': 343,
};

function bootA(): { readonly dtb: Uint8Array; readonly trace: TraceLine[] } {
  const dtb = fileOf(BOOT_A, 'machine.dtb');
  const trace = fileOf(BOOT_A, 'trace.log');
  assert(dtb !== undefined && trace !== undefined);
  return { dtb, trace: parseTrace(new TextDecoder().decode(trace)) };
}

function differing(trace: readonly TraceLine[], dtb: Uint8Array): Record<string, number> {
  return Object.fromEntries(
    replay(dtb, trace)
      .compared.filter(({ differ }) => differ > 0)
      .map(({ kind, differ }) => [kind, differ]),
  );
}

describe('recorded boots', () => {
  test.skipIf(data === undefined)(`every answer of every recorded boot is ours${because}`, () => {
    const rows: string[] = [];
    for (const name of boots()) {
      const result = replayFolder(join(root, name));
      assert.deepEqual(result.differences, [], name);
      assert.equal(result.differ, 0, name);
      rows.push(`${name}: ${result.compared.map(({ kind, compared }) => `${compared} ${kind}`).join(', ')}`);
    }
    assert.isAtLeast(rows.length, 1);
    console.log(`${rows.length} boots replayed\n${rows.join('\n')}`);
  });

  test.skipIf(data === undefined)(`everything that boot-a has an answer for is asked${because}`, () => {
    const { compared } = replayFolder(BOOT_A);
    assert.deepEqual(Object.fromEntries(compared.map((row) => [row.kind, row.compared])), COUNTS);
  });
});

describe('a model that went wrong would show in boot-a', () => {
  test.skipIf(data === undefined)(`a TLB invalidation that does nothing leaves stale translations${because}`, () => {
    const { dtb, trace } = bootA();
    const deaf = trace.map((line) =>
      line.event === 'smmuv3_cmdq_opcode' ? { ...line, text: line.text.replace(/TLBI_\w+/, 'PREFETCH_CONFIG') } : line,
    );
    const found = differing(deaf, dtb);
    assert.isAtLeast(found['DMA translations: translated'] ?? 0, 1);
    assert.isAtLeast(found['table walks'] ?? 0, 100);
  });

  test.skipIf(data === undefined)(
    `an invalidation of the page beside it leaves the page itself stale${because}`,
    () => {
      const { dtb, trace } = bootA();
      const beside = trace.map((line) => {
        if (line.event !== 'smmuv3_s1_range_inval') return line;
        const text = line.text.replace(/addr=(0x[0-9a-f]+)/, (_, at) => `addr=0x${(Number(at) - 0x2000).toString(16)}`);
        return { ...line, text };
      });
      assert.isAtLeast(differing(beside, dtb)['DMA translations: translated'] ?? 0, 1);
    },
  );

  test.skipIf(data === undefined)(`a configuration that no CFGI command takes away is used on${because}`, () => {
    const { dtb, trace } = bootA();
    // The first user of StreamID 0x200 is told to have another domain, and nothing is said when it gets its own.
    const first = trace.findIndex(({ event, text }) => event === 'smmuv3_find_ste' && text.includes('sid=0x200'));
    assert.isAtLeast(first, 0);
    const early = trace.slice(first - 1, first + 6);
    const table = trace.find(({ event, text }) => event === 'smmuv3_decode_cd_tt' && text.includes('0x48095000'));
    assert(table !== undefined);
    const planted = early.map((line) => (line.event === 'smmuv3_decode_cd_tt' ? { ...line, text: table.text } : line));
    const wrong = trace.toSpliced(first - 1, planted.length, ...planted);
    assert.isAtLeast(differing(wrong, dtb)['DMA translations: translated'] ?? 0, 1);
  });

  test.skipIf(data === undefined)(`an ITS command that does nothing loses interrupts${because}`, () => {
    const { dtb, trace } = bootA();
    const deaf = trace.map((line) =>
      line.event === 'gicv3_its_process_command' ? { ...line, text: line.text.replace(/: 0xa$/, ': 0x5') } : line,
    );
    assert.isAtLeast(differing(deaf, dtb)['interrupt translations'] ?? 0, 200);
  });
});
