/**
 * Pages that are made from the code, and checks of the pages that are not.
 * `node tools/gen-docs.ts` writes docs/reference/not-modelled.md: every `Not modelled:` and `Deviates:` of the comments
 * that open the source files. With `--check` it writes nothing: it exits with 1 when that page is out of date, when a
 * page names a file that does not exist, or when a decision record lacks one of its lines.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';

export interface Remark {
  readonly kind: 'Not modelled' | 'Deviates';
  /** One paragraph, with the words that stood before the colon (`Deviates from libxl: ...`). */
  readonly text: string;
}

export interface FileRemarks {
  /** Relative to the project, with slashes. */
  readonly path: string;
  readonly remarks: readonly Remark[];
}

const MARK = /^(Not modelled|Deviates)(?=:|\b.*:)/;
const LINE_WIDTH = 120;
/** What stands before the text of a line of a block comment. */
const MARGIN = ' * '.length;

/** The `Not modelled:` and `Deviates:` paragraphs of the block comment that a source file opens with. */
export function remarksOf(source: string): Remark[] {
  const opening = /^(?:#!.*\n)?\/\*\*([\s\S]*?)\*\//.exec(source)?.[1];
  if (opening === undefined) return [];
  const remarks: Remark[] = [];
  for (const paragraph of paragraphsOf(opening)) {
    // A mark may follow other sentences of its paragraph.
    for (const piece of paragraph.split(/(?<=[.;:]) (?=Not modelled:|Deviates(?: from \w+)?[:,])/)) {
      const kind = MARK.exec(piece)?.[1];
      if (kind === 'Not modelled' || kind === 'Deviates') remarks.push({ kind, text: piece });
    }
  }
  return remarks;
}

/**
 * A comment's text as paragraphs. A line starts a new one when it opens with a mark, or when the line before it ended a
 * sentence although the next word would have fitted there.
 */
function paragraphsOf(comment: string): string[] {
  const paragraphs: string[] = [];
  let before = '';
  for (const raw of comment.split('\n')) {
    const line = raw.replace(/^\s*\*? ?/, '').trimEnd();
    const firstWord = line.split(' ')[0] ?? '';
    const fitted = MARGIN + before.length + 1 + firstWord.length <= LINE_WIDTH;
    const starts = before === '' || MARK.test(line) || (/[.:]$/.test(before) && fitted);
    if (line !== '') {
      if (starts) paragraphs.push(line);
      else paragraphs[paragraphs.length - 1] += ` ${line}`;
    }
    before = line;
  }
  return paragraphs;
}

const AREAS: readonly { readonly folder: string; readonly title: string }[] = [
  { folder: 'services/hardware/', title: 'The machine (`services/hardware`)' },
  { folder: 'services/xen/', title: 'The hypervisor (`services/xen`)' },
  { folder: 'services/xenstored/', title: 'The store (`services/xenstored`)' },
  { folder: 'services/dom0/', title: 'dom0: kernel, pciback, toolstack (`services/dom0`)' },
  { folder: 'services/domu/', title: 'A guest (`services/domu`)' },
  { folder: 'shared/', title: 'What services share (`shared`)' },
  { folder: 'tools/', title: 'Tools (`tools`)' },
];

/** The page. Files without a remark are not in it. */
export function notModelledPage(files: readonly FileRemarks[]): string {
  const lines = [
    '# Not modelled, and done differently',
    '',
    'What this emulation leaves out, and where it differs on purpose from the book or the program that it follows. Each',
    'line is the remark of the source file that it names. This page is generated: change the comment, then run',
    '`node tools/gen-docs.ts`.',
  ];
  for (const { folder, title } of AREAS) {
    const here = files.filter((f) => f.path.startsWith(folder) && f.remarks.length > 0);
    if (here.length === 0) continue;
    lines.push('', `## ${title}`);
    for (const { path, remarks } of here) {
      lines.push('', `\`${path}\``, '');
      for (const { text } of remarks) lines.push(`- ${text}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

/** Lines that a decision record has, in the order of the format. */
const RECORD_LINES = ['Status', 'Thread', 'Question', 'Options', 'Decision', 'Follows', 'Code', 'Proved by'] as const;

/** What is wrong with a page, a line each. `exists` is asked for paths relative to the project. */
export function pageProblems(path: string, text: string, exists: (path: string) => boolean): string[] {
  const problems: string[] = [];
  for (const m of text.matchAll(/\]\(([^)#:\s]+)(?:#[^)]*)?\)/g)) {
    const target = join(dirname(path), m[1]!);
    if (!exists(target)) problems.push(`${path}: links to ${target}, which does not exist`);
  }
  // A name with a wildcard or a brace stands for several files.
  for (const m of text.matchAll(/`((?:services|shared|tools|test|proto|docs|examples)\/[\w./-]+)`/g)) {
    if (!exists(m[1]!)) problems.push(`${path}: names ${m[1]}, which does not exist`);
  }
  if (/^docs\/decisions\/\d{4}-/.test(path)) problems.push(...recordProblems(path, text));
  return problems;
}

/** That the files of Code and Proved by exist is checked by tidy.ts. */
function recordProblems(path: string, text: string): string[] {
  return RECORD_LINES.filter((name) => !new RegExp(`^${name}:`, 'm').test(text)).map(
    (name) => `${path}: has no line "${name}:"`,
  );
}

/** Files below `folder` whose names end with `ending`, as sorted paths relative to `root`. */
function filesBelow(root: string, folder: string, ending: string): string[] {
  const found = readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll('\\', '/'));
  return found.sort();
}

function main(root: string, check: boolean): number {
  const sources = ['services', 'shared', 'tools'].flatMap((folder) => filesBelow(root, folder, '.ts'));
  const page = notModelledPage(
    sources.map((path) => ({ path, remarks: remarksOf(readFileSync(join(root, path), 'utf8')) })),
  );
  const target = join(root, 'docs', 'reference', 'not-modelled.md');
  if (!check) {
    writeFileSync(target, page);
    process.stdout.write(`wrote ${relative(process.cwd(), target)}\n`);
    return 0;
  }
  const problems: string[] = [];
  if (!existsSync(target) || readFileSync(target, 'utf8') !== page) {
    problems.push('docs/reference/not-modelled.md is out of date: run node tools/gen-docs.ts');
  }
  const pages = filesBelow(root, 'docs', '.md').concat(
    ['README.md', 'CONTRIBUTING.md'].filter((name) => existsSync(join(root, name))),
  );
  for (const path of pages) {
    const text = readFileSync(join(root, path), 'utf8');
    problems.push(...pageProblems(path, text, (name) => existsSync(join(root, name))));
  }
  for (const problem of problems) process.stderr.write(`${problem}\n`);
  return problems.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = main(resolve(import.meta.dirname, '..'), process.argv.includes('--check'));
