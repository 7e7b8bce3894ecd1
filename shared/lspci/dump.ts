/**
 * Configuration spaces as `lspci -x`, `-xxx` and `-xxxx` print them (lspci(8), "Display options"), with or without
 * -D, and with the text that -v adds between, which is skipped. What `formatLspci` writes, `lspci -F` reads.
 * Not modelled: -P paths in place of an address, and domains above ffff; they are refused.
 */
import { formatSbdf, parseSbdf, type Sbdf } from '#shared/ids/sbdf.ts';

/** A dump that cannot be read: `file:line: what`. */
export class DumpError extends Error {
  override name = 'DumpError';
}

export interface LspciFunction {
  readonly sbdf: Sbdf;
  /** 64, 256 or 4096 bytes. */
  readonly config: Uint8Array;
  /** What the first line says behind the address. */
  readonly header: string;
}

const ROW_BYTES = 16;
const SIZES = [64, 256, 4096];
const HEADER = /^((?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?:\s+(.*))?$/i;
const ROW = /^([0-9a-f]{2,3}): (.*)$/i;

interface Open {
  readonly sbdf: Sbdf;
  readonly header: string;
  readonly line: number;
  readonly bytes: number[];
}

/** The functions of a dump, in its order. `fileName` is only for errors. Throws DumpError. */
export function parseLspci(text: string, fileName: string): LspciFunction[] {
  const functions: LspciFunction[] = [];
  let open: Open | undefined;
  const error = (line: number, what: string): DumpError => new DumpError(`${fileName}:${line}: ${what}`);
  const close = (): void => {
    if (open === undefined) return;
    const { sbdf, header, line, bytes } = open;
    // A CardBus bridge prints 128 bytes with -x, of which the header is the first half.
    const size = bytes.length === 128 ? 64 : bytes.length;
    if (!SIZES.includes(size))
      throw error(line, `${formatSbdf(sbdf)} has ${bytes.length} bytes of configuration space, not 64, 256 or 4096`);
    functions.push({ sbdf, header, config: Uint8Array.from(bytes.slice(0, size)) });
    open = undefined;
  };
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trimEnd();
    if (line === '' || /^\s/.test(line)) continue; // a gap, or what -v says
    const row = ROW.exec(line);
    if (row !== null) {
      if (open === undefined) throw error(index + 1, 'bytes before the first function');
      const problem = addRow(open.bytes, Number.parseInt(row[1]!, 16), row[2]!);
      if (problem !== undefined) throw error(index + 1, problem);
      continue;
    }
    const header = HEADER.exec(line);
    const sbdf = header === null ? undefined : parseSbdf(header[1]!);
    if (header === null || sbdf === undefined)
      throw error(index + 1, `neither a function nor a row of bytes: ${line.slice(0, 60)}`);
    close();
    open = { sbdf, header: header[2] ?? '', line: index + 1, bytes: [] };
  }
  close();
  if (functions.length === 0) throw error(1, 'no function in this dump');
  return functions;
}

/** A dump with domains, as `lspci -D -n -xxxx` prints it. */
export function formatLspci(functions: readonly LspciFunction[]): string {
  return functions
    .map((f) => {
      const rows: string[] = [];
      for (let at = 0; at < f.config.length; at += ROW_BYTES) {
        const bytes = [...f.config.subarray(at, at + ROW_BYTES)].map((b) => hex(b, 2));
        rows.push(`${hex(at, 2)}: ${bytes.join(' ')}`);
      }
      return `${formatSbdf(f.sbdf)} ${f.header || numericHeader(f.config)}\n${rows.join('\n')}\n`;
    })
    .join('\n');
}

/** Appends a row of bytes; returns what is wrong with it, if anything. */
function addRow(into: number[], at: number, text: string): string | undefined {
  if (at !== into.length) return `row ${hex(at, 2)} where row ${hex(into.length, 2)} should be`;
  const bytes = text.split(/\s+/);
  if (bytes.length !== ROW_BYTES) return `row ${hex(at, 2)} has ${bytes.length} bytes, not ${ROW_BYTES}`;
  for (const byte of bytes) {
    if (!/^[0-9a-f]{2}$/i.test(byte)) return `"${byte}" in row ${hex(at, 2)} is not a byte`;
    into.push(Number.parseInt(byte, 16));
  }
  return undefined;
}

function numericHeader(config: Uint8Array): string {
  const word = (at: number): string => hex(config[at]! | (config[at + 1]! << 8), 4);
  const revision = config[8]! === 0 ? '' : ` (rev ${hex(config[8]!, 2)})`;
  return `Class ${word(10)}: Device ${word(0)}:${word(2)}${revision}`;
}

function hex(n: number, digits: number): string {
  return n.toString(16).padStart(digits, '0');
}
