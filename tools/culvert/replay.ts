/**
 * `culvert replay FOLDER`: a recorded boot on our models. Exit status 0 when every answer is the recorded one and every
 * line that has a part in it could be read, else 1.
 */
import { type Replayed, replayFolder } from '../replay/replay.ts';

export interface ReplayReport {
  readonly exit: number;
  readonly stdout: string;
}

const SHOWN_MAX = 20;

/** Throws TraceError for a folder that is no recorded boot or has nothing to compare. */
export function replay(folder: string, options: { readonly json?: boolean }): ReplayReport {
  const result = replayFolder(folder);
  const stdout = options.json === true ? `${JSON.stringify({ folder, ...result }, null, 2)}\n` : textOf(folder, result);
  return { exit: result.differ === 0 && result.unreadable.length === 0 ? 0 : 1, stdout };
}

function textOf(folder: string, r: Replayed & { readonly trace: string }): string {
  const lines = [
    `${folder}: ${r.lines} lines`,
    `${'compared'.padEnd(40)}${'times'.padStart(8)}${'differ'.padStart(8)}`,
  ];
  for (const { kind, compared, differ } of r.compared) {
    lines.push(`${`  ${kind}`.padEnd(40)}${String(compared).padStart(8)}${String(differ).padStart(8)}`);
  }
  for (const [reason, count] of Object.entries(r.left)) lines.push(`not asked: ${count} ${reason}`);
  const others = Object.entries(r.notReplayed).map(([event, count]) => `${event} ${count}`);
  if (others.length > 0) lines.push(`not replayed: ${others.join(', ')}`);
  for (const d of r.differences) {
    lines.push(`line ${d.line}: ${d.kind}: ${d.asked}: traced ${d.traced}; ours ${d.ours}`);
  }
  for (const { line, text, expected } of r.unreadable.slice(0, SHOWN_MAX))
    lines.push(`${r.trace}:${line}: "${text}" is in a form that is not known: "${expected}" was expected`);
  if (r.unreadable.length > 0) lines.push(`${r.unreadable.length} lines could not be read`);
  lines.push(r.differ === 0 ? 'no answer differs' : `${r.differ} answers differ`);
  return `${lines.join('\n')}\n`;
}
