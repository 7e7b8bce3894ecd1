import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert, describe, test } from 'vitest';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { DumpError, formatLspci, parseLspci } from '#shared/lspci/dump.ts';

const DUMP = readFileSync(new URL('../../../examples/boards/qemu-virt.lspci', import.meta.url), 'utf8');

const ROW = (at: string, byte = '00'): string => `${at}: ${new Array(16).fill(byte).join(' ')}`;
const HEADER_ROWS = ['00', '10', '20', '30'].map((at) => ROW(at)).join('\n');

function messageOf(text: string): string {
  try {
    parseLspci(text, 'nic.lspci');
  } catch (error) {
    assert.instanceOf(error, DumpError);
    return (error as Error).message;
  }
  return 'no error';
}

describe('lspci dumps', () => {
  test('functions of 256 and 4096 bytes are read with their addresses', () => {
    const functions = parseLspci(DUMP, 'x');
    assert.deepEqual(functions.map((f) => `${formatSbdf(f.sbdf)} ${f.config.length}`).slice(6), [
      '0000:00:03.0 256',
      '0000:01:00.0 4096',
      '0000:02:00.0 4096',
      '0000:03:00.0 4096',
    ]);
    assert.deepEqual([...functions[7]!.config.subarray(0, 4)], [0x86, 0x80, 0xd3, 0x10]);
    assert.equal(functions[7]!.header, 'Class 0200: Device 8086:10d3');
  });

  test('an address without domain is in domain 0, and what -v says is skipped', () => {
    const text = `01:00.1 Ethernet controller: Maker Model (rev 03)\n\tSubsystem: Maker\n\tRegion 0: Memory\n${HEADER_ROWS}\n\n`;
    const [fn] = parseLspci(text, 'x');
    assert.equal(formatSbdf(fn!.sbdf), '0000:01:00.1');
    assert.equal(fn!.config.length, 64);
  });

  test('CRLF line ends are read', () => {
    assert.equal(parseLspci(DUMP.replaceAll('\n', '\r\n'), 'x').length, 10);
  });

  test('writing and reading gives the same functions', () => {
    const functions = parseLspci(DUMP, 'x');
    assert.deepEqual(parseLspci(formatLspci(functions), 'y'), functions);
  });

  test.skipIf(process.env['CI'] === undefined && spawnSync('lspci', ['--version']).error !== undefined)(
    'lspci -F reads what is written',
    () => {
      const folder = mkdtempSync(join(tmpdir(), 'dump-'));
      try {
        const file = join(folder, 'out');
        writeFileSync(file, formatLspci(parseLspci(DUMP, 'x').map((f) => ({ ...f, header: '' }))));
        const printed = execFileSync('lspci', ['-F', file, '-n', '-D', '-xxxx'], {
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        const strip = (text: string): string[][] =>
          parseLspci(text, 'z').map((f) => [formatSbdf(f.sbdf), Buffer.from(f.config).toString('hex')]);
        assert.deepEqual(strip(printed.toString()), strip(DUMP));
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
  );

  test.for([
    ['nic.lspci:1: bytes before the first function', HEADER_ROWS],
    ['nic.lspci:3: row 20 where row 10 should be', `01:00.0 x\n${ROW('00')}\n${ROW('20')}`],
    ['nic.lspci:2: row 00 has 3 bytes, not 16', '01:00.0 x\n00: 86 80 d3'],
    ['nic.lspci:2: "zz" in row 00 is not a byte', `01:00.0 x\n${ROW('00', 'zz')}`],
    ['nic.lspci:1: 0000:01:00.0 has 16 bytes', `01:00.0 x\n${ROW('00')}`],
    ['nic.lspci:1: neither a function nor a row of bytes: hello', 'hello'],
    ['nic.lspci:1: neither a function nor a row of bytes: 01:20.0', `01:20.0 x\n${HEADER_ROWS}`],
    ['nic.lspci:1: no function in this dump', '\n\n'],
  ] as const)('says the file, the line and what is wrong: %s', ([text, dump]) => {
    assert.include(messageOf(dump), text);
  });
});
