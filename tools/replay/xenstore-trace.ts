/**
 * The trace that a real xenstored writes (`xenstored -T FILE`, as of Xen 4.17): `IN CONN DATE TIME TYPE (BODY)` and `OUT`
 * of every message, `CREATE` and `DESTROY` of what it holds, `CONN ... ignored` when a client can no longer be spoken with.
 * A body's NULs are blanks; its line ends are as they were, so one message may take several lines.
 */
import { TraceError } from './trace.ts';

interface OfConnection<K extends string> {
  readonly kind: K;
  /** From 1. */
  readonly line: number;
  /** As the trace calls it; used again once it is destroyed. */
  readonly connection: string;
}

export interface XenstoreTraceMessage extends OfConnection<'in' | 'out'> {
  readonly type: string;
  readonly body: string;
}

export type XenstoreTraceItem = OfConnection<'create' | 'destroy' | 'ignored'> | XenstoreTraceMessage;

const MESSAGE = /^(IN|OUT) (0x[0-9a-f]+) \d{8} \d\d:\d\d:\d\d (\w+) \((.*)$/s;
const CONNECTION = /^(CREATE|DESTROY) connection (0x[0-9a-f]+)$/;
const IGNORED = /^CONN (0x[0-9a-f]+) ignored(?:, reason \d+)?$/;
/** Lines that say nothing of a connection. */
const OTHER = /^(|\*\*\*|Checking store .*|wrl: .*|(CREATE|DESTROY) \w+ 0x[0-9a-f]+)$/;
const EXPECTED = '"IN CONNECTION DATE TIME TYPE (BODY)", "OUT ...", "CREATE ..." or "DESTROY ..." was expected';
const SHOWN = 60;

/** Throws TraceError, with `file` and line, for a line that is of no form a xenstored writes. */
export function parseXenstoreTrace(file: string, text: string): XenstoreTraceItem[] {
  const items: XenstoreTraceItem[] = [];
  const lines = text.split('\n');
  const wrong = (at: number, why: string): never => {
    throw new TraceError(`${file}:${at + 1}: ${why}`);
  };
  for (let at = 0; at < lines.length; at++) {
    const first = at;
    let line = lines[at]!;
    if (MESSAGE.test(line)) {
      while (!line.endsWith(')')) {
        const next = lines[++at];
        if (next === undefined || MESSAGE.test(next) || CONNECTION.test(next))
          wrong(first, 'the message does not end: ")" was expected');
        line += `\n${next}`;
      }
      const [, way, connection, type, body] = MESSAGE.exec(line) as unknown as string[];
      const kind = way === 'IN' ? 'in' : 'out';
      items.push({ kind, line: first + 1, connection: connection!, type: type!, body: body!.slice(0, -1) });
      continue;
    }
    const [, what, connection] = CONNECTION.exec(line) ?? [];
    const ignored = IGNORED.exec(line)?.[1];
    if (connection !== undefined)
      items.push({ kind: what === 'CREATE' ? 'create' : 'destroy', line: at + 1, connection });
    else if (ignored !== undefined) items.push({ kind: 'ignored', line: at + 1, connection: ignored });
    else if (!OTHER.test(line)) wrong(at, `"${line.slice(0, SHOWN)}" is no line of a xenstored trace: ${EXPECTED}`);
  }
  return items;
}
