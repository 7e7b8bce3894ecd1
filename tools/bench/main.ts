/**
 * `npm run bench -- translate [--json] [--rounds N]` measures the translation core and prints a table, or with --json
 * `{"rows": [{name, ours, reference, ratio, ..}]}` in operations per second. `npm run bench -- xenstore`: the store
 * (tools/bench/xenstore.ts).
 */
import { parseArgs } from 'node:util';
import { benchTranslate, type Row } from './translate.ts';
import { BenchError, runXenstoreBench } from './xenstore.ts';

const [subject, ...args] = process.argv.slice(2);

try {
  switch (subject) {
    case 'translate':
      await translate();
      break;
    case 'xenstore':
      await runXenstoreBench(args);
      break;
    default:
      throw new BenchError('usage: npm run bench -- translate|xenstore [--json] [--rounds N]');
  }
} catch (error) {
  const isUsage = error instanceof BenchError || String((error as { code?: string }).code).startsWith('ERR_PARSE_ARGS');
  if (!isUsage) throw error;
  console.error((error as Error).message);
  process.exitCode = 2;
}

async function translate(): Promise<void> {
  const { values } = parseArgs({
    args,
    options: { json: { type: 'boolean', default: false }, rounds: { type: 'string', default: '11' } },
  });
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1)
    throw new BenchError(`--rounds ${values.rounds} is not a number of rounds`);
  const rows = await benchTranslate({ rounds });
  console.log(values.json ? JSON.stringify({ rows }, null, 2) : table(rows));
}

function table(all: readonly Row[]): string {
  const width = Math.max(...all.map((row) => row.name.length));
  const mega = (rate: number | undefined): string => (rate === undefined ? '-' : (rate / 1e6).toFixed(1)).padStart(9);
  const lines = all.map((row) => {
    const ratio = row.ratio === undefined ? '-' : row.ratio.toFixed(2);
    const heap = row.heapBytesPerOperation.toFixed(2);
    return `${row.name.padEnd(width)}${mega(row.ours)}${mega(row.reference)}${ratio.padStart(7)}${heap.padStart(9)}`;
  });
  return [`${'Mops/s'.padEnd(width)}     ours        C  ratio  heap/op`, ...lines].join('\n');
}
