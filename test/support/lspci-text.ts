/** What the real lspci says of a dump, without what is not compared. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';

/** [what, why, where it stands in lspci's text]. Only what the groups match is left out, on both sides. */
export type Excuse = readonly [what: string, why: string, where: RegExp];

/** Addresses, which an enumeration assigns. */
export const EXCUSED: readonly Excuse[] = [
  ['BAR address', 'the kernel assigns it', /^\tRegion \d: (?:Memory|I\/O ports) at (\S+)/],
  ['ROM address', 'the kernel assigns it', /^\tExpansion ROM at (\S+(?: \[(?:disabled|virtual)\])*)$/],
  ['Bus numbers', 'the kernel assigns them', /^\tBus: primary=(\w+), secondary=(\w+), subordinate=(\w+),/],
  [
    'Windows of a bridge',
    'the kernel opens them',
    /^\t(?:I\/O|Memory|Prefetchable memory) behind bridge: (.*?)(?: \[\d\d-bit\])?$/,
  ],
  ['SR-IOV: VF BAR address', 'the kernel assigns it', /^\t\tRegion \d: Memory at (\S+)/],
];

/** What `lspci -vvv` says of each function of a dump, which is put into `file`, without what is excused. */
export function lspciText(file: string, dump: string, excused: readonly Excuse[]): string[] {
  writeFileSync(file, dump);
  const out = execFileSync('lspci', ['-D', '-vvv', '-F', file], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return out
    .trimEnd()
    .split('\n\n')
    .map((block) =>
      block
        .split('\n')
        .map((line) => excused.reduce((text, [, , where]) => blank(text, where), line))
        .filter((line) => line !== '')
        .join('\n'),
    );
}

/** Takes the groups of `where` out of a line that it matches. */
function blank(line: string, where: RegExp): string {
  const match = new RegExp(where.source, 'd').exec(line);
  if (match === null) return line;
  return match.indices!.slice(1).reduceRight((text, range) => {
    return range === undefined ? text : text.slice(0, range[0]) + text.slice(range[1]);
  }, line);
}
