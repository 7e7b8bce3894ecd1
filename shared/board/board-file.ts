/**
 * Board files: a device tree, and the PCI functions in it from `lspci -xxxx` dumps (docs/reference/scenario.md).
 */
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { formatSbdf, parseSbdf } from '../ids/sbdf.ts';
import { type LspciFunction, parseLspci } from '../lspci/dump.ts';
import { type Checked, checkYaml, FileError } from '../yaml/document.ts';
import { readBytes, readText } from '../yaml/files.ts';
import type { BoardChoices } from './choices.ts';
import type { BoardDescription, BoardFunction, FunctionQuirks, NvmeOptions } from './description.ts';

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

/** A namespace of an NVMe controller; `file` is read when the board is, and never written. */
const nvmeNamespace = z.strictObject({
  size: sizeText.optional(),
  block: z.union([z.literal(512), z.literal(4096)]).default(512),
  file: z.string().optional(),
});

const nvmeOptions = z.strictObject({
  namespaces: z
    .array(nvmeNamespace)
    .min(1)
    .max(32)
    .default([{ size: 2 ** 30, block: 512 }]),
  queues: z.number().int().min(1).max(128).default(64),
  serial: z
    .string()
    .regex(/^[ -~]{1,20}$/, 'up to 20 ASCII characters were expected')
    .optional(),
});

const nicOptions = z.strictObject({
  wire: z.string().min(1).default('wire0'),
  mac: z
    .string()
    .regex(/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i, 'a unicast address such as "52:54:00:00:00:01" was expected')
    .optional(),
  queues: z.number().int().min(1).max(8).default(4),
});

const boardFunction = z.strictObject({
  /** Where it sits. */
  at: bdf,
  /** Its dump: a file, relative to the board file. */
  dump: z.string().optional(),
  /** Which function of the dump; the one at the same place when absent. */
  from: bdf.optional(),
  model: z.enum(['dma-probe', 'inert', 'nic', 'nvme']).default('inert'),
  nvme: nvmeOptions.optional(),
  nic: nicOptions.optional(),
  bars: z
    .record(z.string().regex(/^(bar[0-5]|rom|vf[0-5])$/, 'bar0 to bar5, rom, or vf0 to vf5 was expected'), barSize)
    .default({}),
  /** Of a bridge: the bus below it, where it is not what the dump says. */
  secondary: z.number().int().min(1).max(255).optional(),
  /** How long it takes after a reset, and what configuration reads see meanwhile. */
  reset: z
    .union([
      z.literal('never-completes'),
      z.strictObject({ ms: z.number().positive(), meanwhile: z.enum(['rrs', 'all-ones']).default('rrs') }),
    ])
    .optional(),
  /** Of an SR-IOV physical function: virtual functions that dom0 enables at boot. */
  vfs: z.number().int().min(1).max(65535).optional(),
  /** It has no Function Level Reset, whatever its dump says. */
  flr: z.literal('none').optional(),
});

const idBits = z.number().int().min(8).max(32);

/** shared/board/choices.ts */
const gicChoices = z.strictObject({
  idBits: z.number().int().min(14).max(24).exactOptional(),
  directLpi: z.boolean().exactOptional(),
});

const itsChoices = z.strictObject({
  eventIdBits: idBits.exactOptional(),
  deviceIdBits: idBits.exactOptional(),
  collectionIdBits: z.number().int().min(1).max(16).exactOptional(),
  PTA: z.boolean().exactOptional(),
  ittEntryBytes: z.literal([4, 8, 12]).exactOptional(),
  indirect: z.boolean().exactOptional(),
  pageBytes: z
    .array(z.literal([0x1000, 0x4000, 0x1_0000]))
    .min(1)
    .exactOptional(),
  onError: z.enum(['ignore', 'stall']).exactOptional(),
});

export const boardSchema = z.strictObject({
  dtb: z.string(),
  /** The dump of every function that names none. */
  dump: z.string().optional(),
  /** What the board may lack. */
  without: z.array(z.enum(['msi', 'smmu'])).default([]),
  /** Choices of the GIC, and of its ITSs. */
  gic: gicChoices.exactOptional(),
  its: itsChoices.exactOptional(),
  functions: z.array(boardFunction).min(1, 'a board needs at least one function'),
});

type BoardFile = z.output<typeof boardSchema>;

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
  const { data: board, at } = checkYaml(path, readText(path), boardSchema);
  const folder = dirname(path);
  const dumps = new Map<string, LspciFunction[]>();
  const dumpOf = (name: string, from: string): LspciFunction[] => {
    const file = resolve(folder, name);
    let functions = dumps.get(file);
    if (functions === undefined) {
      functions = parseLspci(new TextDecoder().decode(readNamed(file, from)), name);
      dumps.set(file, functions);
    }
    return functions;
  };
  const places = new Map<number, string>();
  const functions = board.functions.map((entry, i): BoardFunction => {
    const sbdf = parseSbdf(entry.at)!;
    const here = (...more: readonly PropertyKey[]): string => at('functions', i, ...more);
    const before = places.get(sbdf);
    if (before !== undefined)
      throw new FileError(
        `${here('at')}: there is a function at ${formatSbdf(sbdf)} already, in ${before}: another place was expected`,
      );
    places.set(sbdf, here('at'));
    const dump = entry.dump ?? board.dump;
    if (dump === undefined)
      throw new FileError(
        `${here('at')}: function ${entry.at} names no dump, and neither does the board: "dump" was expected`,
      );
    const from = parseSbdf(entry.from ?? entry.at)!;
    const found = dumpOf(dump, entry.dump === undefined ? at('dump') : here('dump')).find((f) => f.sbdf === from);
    if (found === undefined)
      throw new FileError(
        `${here(entry.from === undefined ? 'at' : 'from')}: there is no function ${formatSbdf(from)} in ${dump}: one of that dump was expected`,
      );
    for (const model of ['nvme', 'nic'] as const)
      if (entry[model] !== undefined && entry.model !== model)
        throw new FileError(
          `${here(model)}: function ${entry.at} has options of model ${model} and is a ${entry.model}: "model: ${model}" was expected`,
        );
    return {
      sbdf,
      config: found.config,
      model: entry.model,
      barSizes: new Map(Object.entries(entry.bars).map(([bar, bytes]) => [barIndex(bar), bytes])),
      secondaryBus: entry.secondary,
      quirks: quirksOf(entry),
      vfs: entry.vfs,
      nvme: entry.nvme === undefined ? undefined : nvmeOf(entry.nvme, folder, (n) => here('nvme', 'namespaces', n)),
      nic: entry.nic === undefined ? undefined : { ...entry.nic, mac: macOf(entry.nic.mac) },
    };
  });
  return {
    dtb: readNamed(resolve(folder, board.dtb), at('dtb')),
    without: board.without,
    functions,
    choices: choicesOf(board),
  };
}

/** Where a board file speaks of a function, or of `part`: what a machine made of it complains about. Throws FileError. */
export function placeIn(path: string, sbdf: number | undefined, part: 'gic' | 'its' | 'dtb'): string {
  const { data, at }: Checked<BoardFile> = checkYaml(path, readText(path), boardSchema);
  const i = data.functions.findIndex((entry) => parseSbdf(entry.at) === sbdf);
  return i < 0 ? at(part) : at('functions', i, 'at');
}

/** Reads the files of the namespaces. One without a size is as large as its file, in whole blocks. */
function nvmeOf(
  { namespaces, queues, serial }: z.output<typeof nvmeOptions>,
  folder: string,
  placeOf: (n: number) => string,
): NvmeOptions {
  return {
    queues,
    serial,
    namespaces: namespaces.map(({ size, block, file }, i) => {
      const contents = file === undefined ? undefined : readNamed(resolve(folder, file), placeOf(i));
      const sizeBytes = size ?? Math.ceil((contents?.length ?? 0) / block) * block;
      if (sizeBytes === 0 || sizeBytes % block !== 0 || (contents?.length ?? 0) > sizeBytes)
        throw new FileError(`${placeOf(i)}: namespace ${i + 1} cannot have ${sizeBytes} bytes in blocks of ${block}`);
      return { sizeBytes, blockBytes: block, contents };
    }),
  };
}

function macOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number.parseInt(text.replaceAll(':', ''), 16);
}

function choicesOf({ gic, its }: BoardFile): BoardChoices {
  return { ...(gic === undefined ? {} : { gic }), ...(its === undefined ? {} : { its }) };
}

/** As `BoardFunction.barSizes` counts them. */
function barIndex(name: string): number {
  if (name === 'rom') return 6;
  return name.startsWith('vf') ? 7 + Number(name.slice(2)) : Number(name.slice(3));
}

function quirksOf({ reset, flr }: z.output<typeof boardFunction>): FunctionQuirks | undefined {
  if (reset === undefined && flr === undefined) return undefined;
  const quirks: { -readonly [K in keyof FunctionQuirks]: FunctionQuirks[K] } = {};
  if (flr !== undefined) quirks.flr = flr;
  if (reset === 'never-completes') quirks.resetNs = Number.POSITIVE_INFINITY;
  else if (reset !== undefined) {
    quirks.resetNs = reset.ms * 1e6;
    quirks.notReady = reset.meanwhile;
  }
  return quirks;
}

/** What stands in a board file at `from`. */
function readNamed(file: string, from: string): Uint8Array {
  try {
    return readBytes(file);
  } catch (error) {
    throw error instanceof FileError ? new FileError(`${from}: cannot read ${error.message}`) : error;
  }
}
