/**
 * Board files: a device tree, and the PCI functions in it from `lspci -xxxx` dumps (docs/reference/scenario.md).
 */
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { formatSbdf, parseSbdf } from '../ids/sbdf.ts';
import { type LspciFunction, parseLspci } from '../lspci/dump.ts';
import { FileError, parseYaml } from '../yaml/document.ts';
import type { BoardDescription, BoardFunction } from './description.ts';

const bdf = z.string().refine((text) => parseSbdf(text) !== undefined, 'a BDF such as 0000:01:00.0 was expected');

/** 4096, "16K", "128M", "1G"; a power of two. */
export const sizeText = z.union([z.number().int().positive(), z.string()]).transform((value, context) => {
  const bytes = typeof value === 'number' ? value : parseSize(value);
  if (bytes === undefined)
    context.addIssue({ code: 'custom', message: 'a size such as 4096, "16K" or "2M" was expected' });
  return bytes ?? 0;
});

const barSize = sizeText.refine((bytes) => bytes >= 16 && Number.isInteger(Math.log2(bytes)), {
  message: 'a BAR size is a power of two of at least 16 bytes',
});

const boardFunction = z.strictObject({
  /** Where it sits. */
  at: bdf,
  /** Its dump: a file, relative to the board file. */
  dump: z.string().optional(),
  /** Which function of the dump; the one at the same place when absent. */
  from: bdf.optional(),
  model: z.enum(['dma-probe', 'inert']).default('inert'),
  bars: z.record(z.string().regex(/^(bar[0-5]|rom)$/, 'bar0 to bar5 or rom was expected'), barSize).default({}),
  /** Of a bridge: the bus below it, where it is not what the dump says. */
  secondary: z.number().int().min(1).max(255).optional(),
});

export const boardSchema = z.strictObject({
  dtb: z.string(),
  /** The dump of every function that names none. */
  dump: z.string().optional(),
  functions: z.array(boardFunction).min(1, 'a board needs at least one function'),
});

/** Bytes, or undefined when it is no size. */
export function parseSize(text: string): number | undefined {
  const m = /^(\d+)\s*([KMG]?)(?:i?B)?$/i.exec(text.trim());
  if (m === null) return undefined;
  return (
    Number(m[1]) * { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 }[(m[2] ?? '').toUpperCase() as '' | 'K' | 'M' | 'G']
  );
}

/** Reads a board file and all that it names. Throws FileError, or the error of the part that is wrong. */
export function readBoard(path: string): BoardDescription {
  const board = parseYaml(path, readText(path, path), boardSchema);
  const folder = dirname(path);
  const dumps = new Map<string, LspciFunction[]>();
  const dumpOf = (name: string): LspciFunction[] => {
    const file = resolve(folder, name);
    let functions = dumps.get(file);
    if (functions === undefined) {
      functions = parseLspci(readText(file, path), name);
      dumps.set(file, functions);
    }
    return functions;
  };
  const functions = board.functions.map((entry): BoardFunction => {
    const sbdf = parseSbdf(entry.at)!;
    const dump = entry.dump ?? board.dump;
    if (dump === undefined)
      throw new FileError(`${path}: function ${entry.at} names no dump, and neither does the board`);
    const from = parseSbdf(entry.from ?? entry.at)!;
    const found = dumpOf(dump).find((f) => f.sbdf === from);
    if (found === undefined) throw new FileError(`${path}: there is no function ${formatSbdf(from)} in ${dump}`);
    return {
      sbdf,
      config: found.config,
      model: entry.model,
      barSizes: new Map(
        Object.entries(entry.bars).map(([bar, bytes]) => [bar === 'rom' ? 6 : Number(bar.slice(3)), bytes]),
      ),
      secondaryBus: entry.secondary,
    };
  });
  return { dtb: readBytes(resolve(folder, board.dtb), path), functions };
}

function readText(file: string, from: string): string {
  return new TextDecoder().decode(readBytes(file, from));
}

function readBytes(file: string, from: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(file));
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : (error as Error).message;
    throw new FileError(file === from ? `${file}: ${reason}` : `${from}: cannot read ${file}: ${reason}`);
  }
}
