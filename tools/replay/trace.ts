/**
 * A QEMU trace of one boot (the simple text backend): one event a line, `PID@SECONDS.MICROSECONDS:EVENT TEXT`, and the
 * fields in the text, which stand as `name=1`, `name: 0x1` or `name 0x1` by the taste of whoever wrote the event.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readUnpacked } from '#shared/yaml/files.ts';

export interface TraceLine {
  /** From 1. */
  readonly number: number;
  /** The host thread: lines of one access come from one thread, those of another may stand between them. */
  readonly thread: string;
  readonly event: string;
  readonly text: string;
}

/** 64 bits as two words. */
export interface Wide {
  readonly hi: number;
  readonly lo: number;
}

/** What was recorded cannot be replayed. One line. */
export class TraceError extends Error {
  override name = 'TraceError';
}

const LINE = /^(\d+)@[\d.]+:(\w+) ?(.*)$/;
const HIGH = 0x1_0000_0000;

/** Where a file of the folder is, packed (`NAME.gz`) or plain; undefined: it is not there. */
export function pathOf(folder: string, name: string): string | undefined {
  const plain = join(folder, name);
  return [`${plain}.gz`, plain].find((path) => existsSync(path));
}

/** The bytes of a file of the folder; undefined: it is not there. Throws FileError. */
export function fileOf(folder: string, name: string): Uint8Array | undefined {
  const path = pathOf(folder, name);
  return path === undefined ? undefined : readUnpacked(path);
}

/** The events of a trace. `other` is told of the lines that are none: what a program printed between them. */
export function parseTrace(text: string, other: (number: number, line: string) => void = () => {}): TraceLine[] {
  const lines: TraceLine[] = [];
  for (const [i, line] of text.split('\n').entries()) {
    const m = LINE.exec(line);
    if (m !== null) lines.push({ number: i + 1, thread: m[1]!, event: m[2]!, text: m[3]! });
    else if (line.trim() !== '') other(i + 1, line);
  }
  return lines;
}

const patterns = new Map<string, RegExp>();

function textOf({ text }: TraceLine, name: string): string | undefined {
  let pattern = patterns.get(name);
  if (pattern === undefined) {
    pattern = new RegExp(`(?:^|[^\\w@.])${name}\\s*[:=]?\\s*(0x[0-9a-fA-F]+|-?\\d+)`);
    patterns.set(name, pattern);
  }
  return pattern.exec(text)?.[1];
}

/** The number that follows `name`, or undefined. Exact below 2^53. */
export function fieldMaybe(line: TraceLine, name: string): number | undefined {
  const text = textOf(line, name);
  return text === undefined ? undefined : Number(text);
}

/** The number that follows `name`. Throws TraceError when there is none. */
export function field(line: TraceLine, name: string): number {
  const value = fieldMaybe(line, name);
  if (value === undefined) throw new TraceError(`line ${line.number}: ${line.event} without ${name}: ${line.text}`);
  return value;
}

/** The same with all 64 bits. */
export function wideField(line: TraceLine, name: string): Wide {
  const text = textOf(line, name);
  if (text === undefined) throw new TraceError(`line ${line.number}: ${line.event} without ${name}: ${line.text}`);
  if (!text.startsWith('0x')) return wideOf(Number(text));
  const digits = text.slice(2).padStart(16, '0');
  return { hi: Number.parseInt(digits.slice(0, 8), 16), lo: Number.parseInt(digits.slice(8), 16) };
}

export function wideOf(value: number): Wide {
  return { hi: Math.floor(value / HIGH), lo: value >>> 0 };
}

/** Exact below 2^53. */
export function numberOf({ hi, lo }: Wide): number {
  return hi * HIGH + lo;
}

export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
