/**
 * Board files: a device tree, and the PCI functions in it from `lspci -xxxx` dumps (docs/reference/scenario.md).
 */
import { closeSync, openSync, readFileSync, statSync } from 'node:fs';
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

/** A namespace of an NVMe controller; `file` is read when the board is. */
const nvmeNamespace = z
  .strictObject({
    size: sizeText.optional(),
    block: z.union([z.literal(512), z.literal(4096)]).default(512),
    file: z.string().optional(),
    /** What becomes of a write: into the file, into memory only, or Namespace is Write Protected. */
    writes: z.enum(['file', 'memory', 'refused']).optional(),
  })
  .refine(({ file, writes }) => file !== undefined || writes === undefined, '"writes" without a file');

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

const bit = z.literal([0, 1]);

const smmuChoices = z.strictObject({
  S1P: bit.exactOptional(),
  S2P: bit.exactOptional(),
  ST_LEVEL: bit.exactOptional(),
  RIL: bit.exactOptional(),
  OAS: z.number().int().min(0).max(5).exactOptional(),
  SIDSIZE: z.number().int().min(0).max(32).exactOptional(),
  SSIDSIZE: z.number().int().min(0).max(20).exactOptional(),
  VMID16: bit.exactOptional(),
  MSI: bit.exactOptional(),
  GRAN16K: bit.exactOptional(),
  GRAN64K: bit.exactOptional(),
  CMDQS: z.number().int().min(0).max(19).exactOptional(),
  EVENTQS: z.number().int().min(0).max(19).exactOptional(),
});

export const boardSchema = z.strictObject({
  dtb: z.string(),
  /** The dump of every function that names none. */
  dump: z.string().optional(),
  /** What the board may lack. */
  without: z.array(z.enum(['msi', 'smmu'])).default([]),
  /** Choices of the GIC, of its ITSs, and of the SMMUv3s. */
  gic: gicChoices.exactOptional(),
  its: itsChoices.exactOptional(),
  smmu: smmuChoices.exactOptional(),
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
  const disks = new DiskFiles(folder);
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
      nvme: entry.nvme === undefined ? undefined : nvmeOf(entry.nvme, disks, (...part) => here('nvme', ...part)),
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
export function placeIn(path: string, sbdf: number | undefined, part: 'gic' | 'its' | 'smmu' | 'dtb'): string {
  const { data, at }: Checked<BoardFile> = checkYaml(path, readText(path), boardSchema);
  const i = data.functions.findIndex((entry) => parseSbdf(entry.at) === sbdf);
  return i < 0 ? at(part) : at('functions', i, 'at');
}

/** Reads the files of the namespaces. One without a size is as large as its file, in whole blocks. */
function nvmeOf(
  { namespaces, queues, serial }: z.output<typeof nvmeOptions>,
  disks: DiskFiles,
  placeOf: (...path: readonly PropertyKey[]) => string,
): NvmeOptions {
  return {
    queues,
    serial,
    namespaces: namespaces.map(({ size, block, file, writes = 'file' }, i) => {
      const at = placeOf('namespaces', i, file === undefined ? 'size' : 'file');
      const isMedium = file !== undefined && writes === 'file';
      const disk = file === undefined ? undefined : disks.read(file, isMedium, at);
      const length = disk?.contents.length ?? 0;
      const sizeBytes = size ?? Math.ceil(length / block) * block;
      if (sizeBytes === 0 || sizeBytes % block !== 0 || length > sizeBytes)
        throw new FileError(`${at}: namespace ${i + 1} cannot have ${sizeBytes} bytes in blocks of ${block}`);
      if (isMedium && length !== sizeBytes)
        throw new FileError(
          size === undefined
            ? `${at}: ${file} has ${length} bytes, which is no multiple of ${block}`
            : `${at}: ${file} has ${length} bytes, and namespace ${i + 1} has ${sizeBytes}`,
        );
      return {
        sizeBytes,
        blockBytes: block,
        contents: disk?.contents,
        medium: isMedium ? disk?.path : undefined,
        readOnly: writes === 'refused',
      };
    }),
  };
}

/** The files behind the namespaces of a board. One that is written stands behind one namespace only. */
class DiskFiles {
  readonly #folder: string;
  /** By device and inode: whether it is written, and where the board says so. */
  readonly #seen = new Map<string, { readonly written: boolean; readonly at: string }>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Throws FileError, saying that it was named `at`. */
  read(name: string, written: boolean, at: string): { readonly path: string; readonly contents: Uint8Array } {
    const path = resolve(this.#folder, name);
    try {
      const stat = statSync(path, { bigint: true });
      if (!stat.isFile()) throw new FileError(`${at}: ${path} is no regular file`);
      const id = `${stat.dev}:${stat.ino}`;
      const other = this.#seen.get(id);
      if (other !== undefined && (written || other.written))
        throw new FileError(`${at}: ${path} is the disk of another namespace, at ${other.at}`);
      this.#seen.set(id, { written, at });
      if (written) closeSync(openSync(path, 'r+'));
      return { path, contents: new Uint8Array(readFileSync(path)) };
    } catch (error) {
      if (error instanceof FileError) throw error;
      const { code, message } = error as NodeJS.ErrnoException;
      throw new FileError(`${at}: cannot use ${path}: ${code === 'ENOENT' ? 'no such file' : message}`);
    }
  }
}

function macOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number.parseInt(text.replaceAll(':', ''), 16);
}

function choicesOf({ gic, its, smmu }: BoardFile): BoardChoices {
  return {
    ...(gic === undefined ? {} : { gic }),
    ...(its === undefined ? {} : { its }),
    ...(smmu === undefined ? {} : { smmu }),
  };
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
