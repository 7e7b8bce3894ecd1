/**
 * The replay of a trace, on traces made by hand in QEMU's words: what the recorded boots do not show (bypass, abort,
 * faults, an SMMU that is off, the spellings of QEMU 10) and how the order of lines is read.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, assert, describe, test } from 'vitest';
import { readBoard } from '#shared/board/board-file.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import { replay as culvertReplay } from '../../../../tools/culvert/replay.ts';
import { type Replayed, replay } from '../../../../tools/replay/replay.ts';
import { commandOf } from '../../../../tools/replay/smmu-commands.ts';
import { field, parseTrace, wideField } from '../../../../tools/replay/trace.ts';

const { dtb } = readBoard('examples/boards/qemu-virt.yaml');
const RAM = readBoardTree({ dtb }).memory[0]!.pa;
const hex = (n: number): string => `0x${n.toString(16)}`;

const STREAMS = RAM + 0x10_0000;
const CMDQ = RAM + 0x20_0000;
const EVENTQ = RAM + 0x30_0000;
const CD = RAM + 0x40_0000;
const ROOT = RAM + 0x50_0000;
const REGION = 'smmuv3-iommu-memory-region-1-0';

const write = (addr: number, value: number, sizeBytes = 4): string =>
  `smmuv3_write_mmio addr: ${hex(addr)} val:${hex(value)} size: ${hex(sizeBytes)}(0)`;

const ON = [
  write(0x80, STREAMS, 8),
  write(0x88, 8),
  write(0x90, CMDQ + 5, 8),
  write(0xa0, EVENTQ + 5, 8),
  write(0x20, 0xd),
];

/** What a configuration cache miss prints; `cd` for a stream of stage 1. */
const miss = (sid: number, cd = false): string[] => [
  `smmuv3_config_cache_miss Config cache MISS for sid=${hex(sid)} (hits=0, misses=1, hit rate=0)`,
  `smmuv3_find_ste sid=${hex(sid)} features:0x0, sid_split:0x0`,
  `smmuv3_get_ste STE addr: ${hex(STREAMS + sid * 64)}`,
  ...(cd
    ? [
        `smmuv3_get_cd CD addr: ${hex(CD)}`,
        'smmuv3_decode_cd oas=44',
        `smmuv3_decode_cd_tt TT[0]:tsz:16 ttb:${hex(ROOT)} granule_sz:12 had:0`,
      ]
    : []),
];

/** A walk of iova 0x1000 in QEMU 10's words that ends in `pte`. */
const walk = (pte: number): string[] => [
  'smmu_iotlb_lookup_miss IOTLB cache MISS asid=1 vmid=-1 addr=0x1000 hit=0 miss=1 hit rate=0',
  ...[0, 1, 2].map(
    (level) =>
      `smmu_ptw_level stage=1 level=${level} iova=0x1000 subpage_sz=0x1000 baseaddr=${hex(ROOT + level * 0x1000)} offset=0 => pte=${hex(ROOT + (level + 1) * 0x1000 + 3)}`,
  ),
  `smmu_ptw_level stage=1 level=3 iova=0x1000 subpage_sz=0x1000 baseaddr=${hex(ROOT + 0x3000)} offset=1 => pte=${hex(pte)}`,
];
const PAGE = RAM + 0x70_0000;
const READ_WRITE = 0xf43;
const READ_ONLY = 0xfc3;
const success = (pa: number, perm: number): string =>
  `smmuv3_translate_success ${REGION} sid=0x8 iova=0x1010 translated=${hex(pa + 0x10)} perm=${hex(perm)} stage=1`;
const hit = 'smmu_iotlb_lookup_hit IOTLB cache HIT asid=1 vmid=-1 addr=0x1000 hit=1 miss=1 hit rate=50';

function play(...lines: (string | readonly string[])[]): Replayed {
  const text = lines
    .flat()
    .map((line) => (/^\d+@/.test(line) ? line : `7@1.000001:${line}`))
    .join('\n');
  return replay(dtb, parseTrace(text));
}

function counted(r: Replayed): Record<string, string> {
  return Object.fromEntries(r.compared.map(({ kind, compared, differ }) => [kind, `${compared}/${differ}`]));
}

function command(cons: number, opcode: string, ...operands: string[]): string[] {
  return [
    `smmuv3_cmdq_consume prod=${cons + 1} cons=${cons} prod.wrap=0 cons.wrap=0`,
    `smmuv3_cmdq_opcode <--- SMMU_CMD_${opcode}`,
    ...operands,
    `smmuv3_cmdq_consume_out prod:${cons + 1}, cons:${cons + 1}, prod_wrap:0, cons_wrap:0 `,
    write(0x98, cons + 1),
  ];
}

describe('lines', () => {
  test('fields are found however an event writes them, with all their 64 bits', () => {
    const [line] = parseTrace('1@2.3:smmuv3_x sid= 0x10 addr: 0xf907000042590600 cons.wrap=1 cons=3 ICID 0x2 tsz:16');
    assert(line !== undefined);
    assert.deepEqual(wideField(line, 'addr'), { hi: 0xf907_0000, lo: 0x4259_0600 });
    assert.deepEqual(
      ['sid', 'cons', 'cons.wrap', 'ICID', 'tsz'].map((name) => field(line, name)),
      [16, 3, 1, 2, 16],
    );
  });

  test('what is no event is left out, an unknown event is counted by name', () => {
    assert.deepEqual(parseTrace('qemu-system-aarch64: warning: x\n\n7@1.2:some_event'), [
      { number: 3, thread: '7', event: 'some_event', text: '' },
    ]);
    const r = play('some_new_event x=1', 'some_new_event x=2');
    assert.deepEqual(r.notReplayed, { some_new_event: 2 });
    assert.equal(r.differ, 0);
  });

  test('an event whose fields are not there is told of with its line and is not the end', () => {
    const r = play('smmuv3_write_mmio in another form', ON, miss(8), 'smmuv3_config_cache_hit x');
    assert.deepEqual(r.unreadable, [
      {
        line: 1,
        text: 'smmuv3_write_mmio in another form',
        expected: 'smmuv3_write_mmio ... addr=NUMBER val=NUMBER size=NUMBER',
      },
    ]);
  });
});

describe('translations', () => {
  test('with the SMMU off, by an STE that bypasses, by one that aborts', () => {
    const r = play(
      `smmuv3_translate_disable ${REGION} sid=0x8 bypass (smmu disabled) iova:0x4010 is_write=0`,
      ON,
      miss(8),
      `smmuv3_translate_bypass ${REGION} sid=0x8 STE bypass iova:0x4010 is_write=1`,
      miss(9),
      `smmuv3_translate_abort ${REGION} sid=0x9 abort on iova:0x4010 is_write=0`,
    );
    assert.deepEqual(r.differences, []);
    assert.deepEqual(counted(r), {
      'DMA translations: SMMU off': '1/0',
      'DMA translations: STE bypass': '1/0',
      'DMA translations: aborted': '1/0',
    });
  });

  test('a page with both permissions, then the same from the TLB', () => {
    const r = play(ON, miss(8, true), walk(PAGE + READ_WRITE), success(PAGE, 3), hit, success(PAGE, 3));
    assert.deepEqual(r.differences, []);
    assert.deepEqual(counted(r), { 'DMA translations: translated': '2/0', 'table walks': '1/0' });
  });

  test('a read-only page is read and has to deny a write', () => {
    const r = play(ON, miss(8, true), walk(PAGE + READ_ONLY), success(PAGE, 1));
    assert.deepEqual(r.differences, []);
    const wrong = play(ON, miss(8, true), walk(PAGE + READ_WRITE), success(PAGE, 1));
    assert.equal(wrong.differ, 1);
  });

  test('a fault has to be the same fault', () => {
    const fault = (name: string): Replayed =>
      play(ON, miss(8, true), walk(0), `smmuv3_record_event SMMU_EVT_${name} sid=0x8`);
    assert.deepEqual(counted(fault('F_TRANSLATION')), { 'DMA translations: faults': '1/0' });
    assert.deepEqual(counted(fault('F_PERMISSION')), { 'DMA translations: faults': '1/1' });
    const bad = play(ON, miss(8), 'smmuv3_record_event SMMU_EVT_C_BAD_STE sid=0x8');
    assert.deepEqual(counted(bad), { 'DMA translations: faults': '1/0' });
  });

  test('an address that is not the traced one is a difference, with its line', () => {
    const r = play(ON, miss(8, true), walk(PAGE + READ_WRITE), success(PAGE + 0x1000, 3));
    assert.equal(r.differ, 1);
    assert.equal(r.differences[0]?.line, ON.length + 12);
  });

  test('lines of two threads do not mix', () => {
    const of = (thread: number, lines: string[]): string[] => lines.map((line) => `${thread}@1.2:${line}`);
    const [a, b] = [of(1, [...miss(8, true), ...walk(PAGE + READ_WRITE), success(PAGE, 3)]), of(2, miss(9))];
    const abort = of(2, [`smmuv3_translate_abort ${REGION} sid=0x9 abort on iova:0x4010 is_write=0`]);
    const r = play(ON, a.slice(0, 3), b, a.slice(3), abort);
    assert.deepEqual(r.differences, []);
    assert.deepEqual(counted(r), {
      'DMA translations: translated': '1/0',
      'table walks': '1/0',
      'DMA translations: aborted': '1/0',
    });
  });

  test('questions of stage 2 are counted and not asked', () => {
    const r = play(
      ON,
      miss(8),
      'smmu_iotlb_lookup_hit IOTLB cache HIT asid=-1 vmid=1 addr=0x1000 hit=1 miss=1 hit rate=50',
      success(PAGE, 3).replace('stage=1', 'stage=2'),
    );
    assert.deepEqual(counted(r), {});
    assert.equal(Object.values(r.left)[0], 1);
  });
});

describe('commands', () => {
  const mapped = [...ON, ...miss(8, true), ...walk(PAGE + READ_WRITE), success(PAGE, 3)];
  const moved = [...walk(PAGE + 0x5000 + READ_WRITE), success(PAGE + 0x5000, 3)];
  const invalidated = (address: string): string[] =>
    command(
      0,
      'TLBI_NH_VA',
      `smmuv3_range_inval vmid=-1 asid=1 addr=${address} tg=1 num_pages=0x1 ttl=3 leaf=1 stage=1`,
    );

  test('stand before the register write that rings for them, and have their effect where they stand', () => {
    const r = play(mapped, invalidated('0x1000').slice(0, -1), moved, write(0x98, 1));
    assert.deepEqual(r.differences, []);
    assert.equal(counted(r)['SMMU commands'], '1/0');
  });

  test('a page that moved without one, or with one for another page, is a stale translation', () => {
    for (const between of [[], invalidated('0x7000')]) {
      const r = play(mapped, between, moved);
      assert.deepEqual([counted(r)['DMA translations: translated'], counted(r)['table walks']], ['2/1', '2/1']);
    }
  });

  test('CMD_CFGI_CD is for the stream that QEMU calls sid', () => {
    const { words } = commandOf('SMMU_CMD_CFGI_CD', parseTrace('1@2.3:smmuv3_cmdq_cfgi_cd sid=0x208'));
    assert.equal(words[1], 0x208);
  });

  test('a range that QEMU splits in powers of two is one command', () => {
    const range = (addr: string, pages: string): string =>
      `smmuv3_range_inval vmid=-1 asid=1 addr=${addr} tg=1 num_pages=${pages} ttl=3 leaf=1 stage=1`;
    const r = play(
      mapped,
      command(0, 'TLBI_NH_VA', range('0xfffff000', '0x1'), range('0x0', '0x2')),
      hit,
      success(PAGE, 3),
    );
    // The sum of the pieces starts at the first one.
    assert.deepEqual(r.differences, []);
    const whole = play(mapped, command(0, 'TLBI_NH_VA', range('0x0', '0x1'), range('0x1000', '0x2')), moved);
    assert.deepEqual(whole.differences, []);
  });

  test('commands that wait for the queue to be enabled run when it is', () => {
    const off = ON.slice(0, -1);
    const r = play(
      off,
      write(0x98, 1),
      command(0, 'CFGI_STE_RANGE', 'smmuv3_cmdq_cfgi_ste_range start=0x0 - end=0xffffffff').slice(0, -1),
      write(0x20, 0xd),
    );
    assert.deepEqual(r.differences, []);
    assert.equal(counted(r)['SMMU commands'], '1/0');
  });

  test('a command that QEMU refused has to be refused', () => {
    const refused = [
      'smmuv3_cmdq_consume prod=1 cons=0 prod.wrap=0 cons.wrap=0',
      'smmuv3_cmdq_opcode <--- SMMU_CMD_ATC_INV',
      'smmuv3_cmdq_consume_error Error on SMMU_CMD_ATC_INV command execution: 1',
      'smmuv3_cmdq_consume_out prod:1, cons:0, prod_wrap:0, cons_wrap:0 ',
    ];
    assert.equal(counted(play(ON, refused))['SMMU commands'], '1/0');
    const done = refused.filter((line) => !line.includes('error'));
    assert.equal(counted(play(ON, done))['SMMU commands'], '1/1');
  });

  test('after QEMU emptied its full TLB by itself a hit of ours is no difference', () => {
    const r = play(mapped, 'smmu_iotlb_inv_all IOTLB invalidate all', walk(PAGE + READ_WRITE), success(PAGE, 3));
    assert.deepEqual(r.differences, []);
    assert.equal(Object.values(r.left)[0], 1);
  });
});

describe('messages', () => {
  const ITS = readBoardTree({ dtb }).itses[0]!.registers.pa;
  const its = (offset: number, value: string, sizeBytes = 8): string =>
    `gicv3_its_write GICv3 ITS write: offset ${hex(offset)} data ${value} size ${sizeBytes}`;
  const wide = (hi: number, lo: number): string =>
    `0x${hi.toString(16).padStart(8, '0')}${lo.toString(16).padStart(8, '0')}`;
  const READY = [
    its(0x100, wide(0x8107_0000, RAM + 0x10_0200)),
    its(0x108, wide(0x8407_0000, RAM + 0x20_0200)),
    its(0x80, wide(0x8000_0000, RAM + 0x30_0000)),
    its(0, '0x1', 4),
    `gicv3_redist_write GICv3 redistributor 0x0 write: offset 0x70 data ${hex(RAM + 0x40_000f)} size 8 secure 0`,
    `gicv3_redist_write GICv3 redistributor 0x0 write: offset 0x78 data ${hex(RAM + 0x50_0000)} size 8 secure 0`,
    'gicv3_redist_write GICv3 redistributor 0x0 write: offset 0x0 data 0x1 size 4 secure 0',
  ];
  const itsCommand = (n: number, opcode: number, text: string, ...tables: string[]): string[] => [
    `gicv3_its_process_command GICv3 ITS: processing command at offset ${hex(n)}: ${hex(opcode)}`,
    `gicv3_its_cmd_x GICv3 ITS: command ${text}`,
    ...tables,
  ];
  const ITT = RAM + 0x60_0000;
  const MAPPED = [
    ...itsCommand(0, 9, 'MAPC ICID 0x0 RDbase 0x0 V 1', 'gicv3_its_cte_write x: valid 1'),
    ...itsCommand(1, 8, `MAPD DeviceID 0x8 Size 0x3 ITT_addr ${hex(ITT / 256)} V 1`, 'gicv3_its_dte_write x: valid 1'),
    ...itsCommand(2, 10, 'MAPTI DeviceID 0x8 EventID 0x5 ICID 0x0 pINTID 0x2003', 'gicv3_its_ite_write x: valid 1'),
    its(0x88, '0x60', 4),
  ];
  const message = (eventId: number, lpi: number): string[] => [
    `gicv3_its_translation_write GICv3 ITS TRANSLATER write: offset 0x40 data ${hex(eventId)} size 4 requester_id 0x8`,
    'gicv3_its_dte_read x: valid 1 size 0x3',
    ...(lpi === 0
      ? ['gicv3_its_ite_read x: valid 0 inttype 0 intid 0x0 ICID 0x0']
      : [
          `gicv3_its_ite_read x: valid 1 inttype 1 intid ${hex(lpi)} ICID 0x0`,
          'gicv3_its_cte_read x: valid 1 RDBase 0x0',
        ]),
  ];
  const through = [
    `smmuv3_translate_disable ${REGION} sid=0x8 bypass (smmu disabled) iova:${hex(ITS + 0x1_0040)} is_write=1`,
  ];

  test('become the LPI that the tables say, at its redistributor', () => {
    const r = play(READY, MAPPED, through, message(5, 0x2003));
    assert.deepEqual(r.differences, []);
    assert.equal(counted(r)['interrupt translations'], '1/0');
    assert.equal(counted(r)['ITS commands'], '3/0');
  });

  test('of an event that is not mapped are dropped here too; another LPI is a difference', () => {
    assert.equal(counted(play(READY, MAPPED, through, message(6, 0)))['interrupt translations'], '1/0');
    assert.equal(counted(play(READY, MAPPED, through, message(5, 0x2004)))['interrupt translations'], '1/1');
  });

  test('a DISCARD stands where it stands', () => {
    const discard = itsCommand(3, 15, 'DISCARD DeviceID 0x8 EventID 0x5', 'gicv3_its_ite_write x: valid 0');
    const r = play(READY, MAPPED, through, message(5, 0x2003), discard, its(0x88, '0x80', 4), message(5, 0));
    assert.deepEqual(r.differences, []);
  });
});

describe('culvert replay', () => {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-replay-'));
  const record = (...lines: (string | readonly string[])[]): void => {
    const text = lines.flat().map((line) => `7@1.000001:${line}`);
    writeFileSync(join(folder, 'machine.dtb'), dtb);
    writeFileSync(join(folder, 'trace.log.gz'), gzipSync(text.join('\n')));
  };
  afterAll(() => rmSync(folder, { recursive: true }));

  test('exits with 0 when no answer differs, with 1 and the lines when one does', () => {
    record(ON, miss(8, true), walk(PAGE + READ_WRITE), success(PAGE, 3), 'pci_cfg_read x');
    const same = culvertReplay(folder, {});
    assert.equal(same.exit, 0);
    assert.match(same.stdout, /DMA translations: translated +1 +0\n/);
    assert.match(same.stdout, /not replayed: pci_cfg_read 1\nno answer differs\n$/);
    record(ON, miss(8, true), walk(PAGE + READ_WRITE), success(PAGE + 0x1000, 3));
    const other = culvertReplay(folder, {});
    assert.equal(other.exit, 1);
    assert.match(other.stdout, /traced read 0x\w+, write 0x\w+; ours read 0x\w+.*\n1 answers differ\n$/);
    assert.equal(JSON.parse(culvertReplay(folder, { json: true }).stdout).differ, 1);
  });

  test('exits with 1 and the lines when one of an event that is played cannot be read', () => {
    record(ON, miss(8, true), walk(PAGE + READ_WRITE), success(PAGE, 3), 'smmuv3_get_ste STE at 0x8', 'smmu_new x');
    const form = culvertReplay(folder, {});
    assert.equal(form.exit, 1);
    assert.match(
      form.stdout,
      /trace\.log\.gz:18: "smmuv3_get_ste STE at 0x8" is .* "smmuv3_get_ste \.\.\. addr=NUMBER" was/,
    );
    assert.match(form.stdout, /not replayed: smmu_new 1\n/);
    record(
      success(PAGE, 3),
      `some_event\nsmmuv3_read_mmio addr: 0x0 val:0x0 size: 0x4(0)\nqemu-system-aarch64: warning`,
    );
    const bare = culvertReplay(folder, {});
    assert.equal(bare.exit, 1);
    assert.match(bare.stdout, /trace\.log\.gz:3: .* "PID@SECONDS\.MICROSECONDS:smmuv3_read_mmio \.\.\." was expected/);
    assert.match(bare.stdout, /lines that are no event 1\n/);
  });

  test.each([
    ['is empty', ''],
    ['is something else', 'a b c\n'],
    ['has no answer', `7@1.000001:${write(0x20, 0)}\n`],
  ])('a trace that %s is an error with one line', (_what, text) => {
    writeFileSync(join(folder, 'machine.dtb'), dtb);
    writeFileSync(join(folder, 'trace.log.gz'), gzipSync(text));
    assert.throws(
      () => culvertReplay(folder, {}),
      /^\S+trace\.log\.gz:1: nothing was compared: a line [^\n]+ was expected$/,
    );
    writeFileSync(join(folder, 'trace.log.gz'), gzipSync(text.padEnd(2000, 'x')).subarray(0, 20));
    assert.throws(() => culvertReplay(folder, {}), /trace\.log\.gz: a whole file of gzip was expected/);
  });

  test('a device tree that is none is an error with its file', () => {
    record(success(PAGE, 3));
    writeFileSync(join(folder, 'machine.dtb'), '');
    assert.throws(() => culvertReplay(folder, {}), /machine\.dtb: device tree is truncated/);
  });

  test('a folder that is no recorded boot is an error with one line', () => {
    assert.throws(() => culvertReplay('examples', {}), /examples has no machine.dtb/);
  });
});
