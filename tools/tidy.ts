/**
 * Rules about the code that no other tool knows: who may import whom, what a core may use, that every file is used, and
 * that decisions point at what exists. Prints a line per violation, `file:line: what`; exit status 1 where there are any.
 * Not covered: types, style and unused exports, which tsc, biome and knip look at.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, posix, resolve } from 'node:path';
import { type Import, importsOf, withoutTexts } from './tidy/scan.ts';

export interface Violation {
  readonly file: string;
  readonly line: number;
  readonly what: string;
}

/** The tree that is checked: text by path from the root, with "/". */
export type Tree = ReadonlyMap<string, string>;

interface Source {
  readonly path: string;
  readonly text: string;
  readonly imports: readonly Import[];
  /** Paths in the tree that it imports; what is in no file of the tree is left out. */
  readonly targets: ReadonlySet<string>;
}

/** Where wall time, sockets, files and promises are at home. */
const PROCESS_SIDE = [
  /^shared\/bus\/(?!(?:codec|subjects)\.ts$)/,
  /^shared\/config\.ts$/,
  /^shared\/board\/board-file\.ts$/,
  /^shared\/yaml\/files\.ts$/,
];
/** Tables of the books: they import each other and what describes a layout. */
const TABLES = /^shared\/(arch|abi)\//;
const TABLES_MAY_IMPORT = /^shared\/(arch|abi|regs|ids)\/|^shared\/core\/assert\.ts$/;
/** Folders of tools that put the cores themselves together. */
const ASSEMBLES_CORES = /^tools\/sim\//;
/** Folders of tools that run or measure single parts of a service. */
const RUNS_PARTS = /^tools\/(?:bench|replay|fuzz)\//;
/** What names a file that nothing imports: programs and configurations. */
const NAMES_FILES = /(^package\.json|\.config\.ts|\.mjs|\.sh|^Dockerfile|^docker-compose\.yml|^\.ci\/run)$/;

/** What a core has to be given instead of taking it, and what to say about it. */
const AMBIENT: readonly (readonly [RegExp, string])[] = [
  [/(?<![.\w#$])(?:new\s+Date\b|Date\s*[.(])/g, 'Date'],
  [/(?<![.\w#$])Math\s*\.\s*random\b/g, 'Math.random'],
  [/(?<![.\w#$])(?:set(?:Timeout|Interval|Immediate)|queueMicrotask)\b/g, 'a timer'],
  [/(?<![.\w#$])(?:process|performance|console|crypto)\s*\.\s*\w/g, 'an ambient object'],
  [/(?<![.\w#$])(?:fetch\s*\(|globalThis\b)/g, 'an ambient function'],
  [/(?<![.\w#$])(?:Promise\b|async\s+(?:function\b|\(|\w+\s*(?:=>|\())|await\s)/g, 'a promise'],
];

/** Checks a tree. `exists` tells of paths that the tree does not hold the text of. */
export function checkTree(tree: Tree, exists: (path: string) => boolean): Violation[] {
  const sources = new Map<string, Source>();
  for (const [path, text] of tree) if (isCode(path)) sources.set(path, readSource(path, text, tree));
  const pure = purePaths(sources);
  const found: Violation[] = [];
  for (const source of sources.values()) {
    found.push(...direction(source), ...exportsOf(source));
    if (pure.has(source.path)) found.push(...purity(source));
    if (TABLES.test(source.path)) found.push(...tableImports(source));
  }
  found.push(...unused(sources, tree), ...decisions(tree, exists));
  return found.sort((a, b) => a.file.localeCompare(b.file) || a.line - b.line);
}

function isCode(path: string): boolean {
  return path.endsWith('.ts') && /^(services|shared|tools|test)\//.test(path);
}

function readSource(path: string, text: string, tree: Tree): Source {
  const imports = importsOf(text);
  const targets = imports.map((one) => targetOf(path, one.specifier)).filter((to) => to !== undefined && tree.has(to));
  return { path, text, imports, targets: new Set(targets as string[]) };
}

/** The path that a specifier means, or undefined for a package or a module of Node. */
function targetOf(from: string, specifier: string): string | undefined {
  if (specifier.startsWith('.')) return posix.join(posix.dirname(from), specifier);
  const mapped = /^#(shared|tools|gen)\/(.*)$/.exec(specifier);
  if (mapped === null) return undefined;
  return mapped[1] === 'gen' ? `proto/gen/${mapped[2]}` : `${mapped[1]}/${mapped[2]}`;
}

function serviceOf(path: string): string | undefined {
  return /^services\/([^/]+)\//.exec(path)?.[1];
}

/** services never import each other or tools; shared imports neither; only the simulator's tools take cores. */
function direction({ path, imports }: Source): Violation[] {
  if (path.startsWith('test/')) return [];
  const found: Violation[] = [];
  for (const { specifier, line } of imports) {
    const to = targetOf(path, specifier);
    if (to === undefined) continue;
    const say = (what: string): number => found.push({ file: path, line, what: `${what}: ${specifier}` });
    const from = serviceOf(path);
    const service = serviceOf(to);
    if (from !== undefined && service !== undefined && service !== from) say('a service imports another');
    else if (from !== undefined && /^(tools|test)\//.test(to)) say('a service imports what runs it');
    else if (path.startsWith('shared/') && /^(services|tools|test)\//.test(to)) say('shared code imports its users');
    else if (path.startsWith('tools/') && to.startsWith('test/')) say('a tool imports a test');
    else if (path.startsWith('tools/') && service !== undefined && !RUNS_PARTS.test(path)) {
      if (!ASSEMBLES_CORES.test(path)) say('a tool reaches into a service');
      else if (!to.endsWith('/core.ts')) say('a tool reaches behind a core');
    }
  }
  return found;
}

/**
 * Services but for main.ts and what only main.ts uses, and shared but for its process side. A file of a service that
 * neither main.ts nor core.ts reaches is pure too.
 */
function purePaths(sources: ReadonlyMap<string, Source>): Set<string> {
  const pure = new Set<string>();
  for (const path of sources.keys()) {
    if (serviceOf(path) !== undefined) pure.add(path);
    if (path.startsWith('shared/') && !PROCESS_SIDE.some((pattern) => pattern.test(path))) pure.add(path);
  }
  for (const path of sources.keys()) {
    const service = /^services\/([^/]+)\/main\.ts$/.exec(path)?.[1];
    if (service === undefined) continue;
    const core = `services/${service}/core.ts`;
    const inCore = closure(core, sources);
    for (const reached of closure(path, sources, core))
      if (serviceOf(reached) === service && !inCore.has(reached)) pure.delete(reached);
  }
  return pure;
}

function closure(start: string, sources: ReadonlyMap<string, Source>, but?: string): Set<string> {
  const seen = new Set<string>();
  const waiting = [start];
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    if (seen.has(path) || path === but) continue;
    const source = sources.get(path);
    if (source === undefined) continue;
    seen.add(path);
    waiting.push(...source.targets);
  }
  return seen;
}

/** Packages that compute and do nothing else: an encoding. */
const PURE_PACKAGES: ReadonlySet<string> = new Set(['msgpackr']);

function purity({ path, text, imports }: Source): Violation[] {
  const found: Violation[] = [];
  for (const { specifier, line, typeOnly } of imports) {
    const to = targetOf(path, specifier);
    if (to === undefined) {
      if (specifier.startsWith('node:')) found.push({ file: path, line, what: `a core uses Node's ${specifier}` });
      else if (path.startsWith('services/') && !specifier.startsWith('#') && !PURE_PACKAGES.has(specifier))
        found.push({ file: path, line, what: `a core uses the package ${specifier}` });
    } else if (!typeOnly && PROCESS_SIDE.some((pattern) => pattern.test(to))) {
      found.push({ file: path, line, what: `a core imports the process side: ${specifier}` });
    }
  }
  const code = withoutTexts(text);
  for (const [pattern, name] of AMBIENT)
    for (const match of code.matchAll(pattern))
      found.push({ file: path, line: lineAt(code, match.index), what: `a core takes ${name}: ${match[0].trim()}` });
  return found;
}

function tableImports({ path, imports }: Source): Violation[] {
  return imports
    .filter(({ specifier }) => !TABLES_MAY_IMPORT.test(targetOf(path, specifier) ?? ''))
    .map(({ specifier, line }) => ({ file: path, line, what: `a table imports behaviour: ${specifier}` }));
}

/** No default exports but where a tool asks for one, and no file that only hands on others' exports. */
function exportsOf({ path, text }: Source): Violation[] {
  const code = withoutTexts(text);
  const found: Violation[] = [];
  const byDefault = /^export\s+default\b/m.exec(code);
  const forATool = path.endsWith('.config.ts') || /-reporter\.ts$/.test(path);
  if (byDefault !== null && !forATool)
    found.push({ file: path, line: lineAt(code, byDefault.index), what: 'a default export' });
  const statements = code.split(/;\s*\n|\n(?=\S)/).filter((statement) => statement.trim() !== '');
  if (statements.length > 0 && statements.every((s) => /^\s*export\s+(?:type\s+)?(?:\*|\{[^}]*\})\s*from\b/.test(s)))
    found.push({ file: path, line: 1, what: 'a barrel: it only hands on the exports of others' });
  return found;
}

/** Files outside test/ that no program is made of. */
function unused(sources: ReadonlyMap<string, Source>, tree: Tree): Violation[] {
  const programs = [...tree].filter(([path]) => NAMES_FILES.test(path)).map(([, text]) => text);
  const used = new Set<string>();
  for (const source of sources.values())
    if (!source.path.startsWith('test/')) for (const target of source.targets) used.add(target);
  const isProgram = (path: string): boolean =>
    /^services\/[^/]+\/main\.ts$/.test(path) || programs.some((text) => mentions(text, path));
  return [...sources.keys()]
    .filter((path) => !path.startsWith('test/') && !used.has(path) && !isProgram(path))
    .map((path) => ({ file: path, line: 1, what: 'nothing but tests imports this file, and no script runs it' }));
}

/** The path as it is, or as the words of a join(). */
function mentions(text: string, path: string): boolean {
  const words = path.split('/').map((word) => `'${word}'`);
  return text.includes(path) || text.includes(words.join(', '));
}

function decisions(tree: Tree, exists: (path: string) => boolean): Violation[] {
  const found: Violation[] = [];
  for (const [file, text] of tree) {
    if (!/^docs\/decisions\/\d{4}-[^/]*\.md$/.test(file)) continue;
    let field = '';
    const seen = new Set<string>();
    text.split('\n').forEach((content, i) => {
      const named = /^([A-Z][a-z]*(?: [a-z]+)?):\s*(.*)$/.exec(content);
      field = named === null ? (/^\s+\S/.test(content) ? field : '') : (named[1] ?? '');
      if (field !== 'Code' && field !== 'Proved by') return;
      seen.add(field);
      for (const path of (named?.[2] ?? content).matchAll(/[\w.@-]+(?:\/[\w.@-]+)+/g))
        if (!exists(path[0].replace(/\.$/, '')))
          found.push({ file, line: i + 1, what: `${field}: there is no ${path[0]}` });
    });
    for (const wanted of ['Code', 'Proved by'])
      if (!seen.has(wanted)) found.push({ file, line: 1, what: `the decision has no "${wanted}:"` });
  }
  return found;
}

function lineAt(text: string, index: number): number {
  return text.slice(0, index).split('\n').length;
}

const SKIPPED = new Set(['node_modules', '.git', '.culvert', 'coverage']);

/** The text files below `root` that the rules are about. */
export function readTree(root: string): Map<string, string> {
  const tree = new Map<string, string>();
  const walk = (folder: string): void => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
      if (entry.isDirectory()) {
        if (!SKIPPED.has(entry.name)) walk(path);
      } else if (/\.(ts|mjs|sh|md)$/.test(path) || NAMES_FILES.test(path)) {
        tree.set(path, readFileSync(join(root, path), 'utf8'));
      }
    }
  };
  walk('');
  return tree;
}

if (import.meta.main) {
  const root = resolve(import.meta.dirname, '..');
  const found = checkTree(readTree(root), (path) => existsSync(join(root, path)));
  for (const { file, line, what } of found) process.stdout.write(`${file}:${line}: ${what}\n`);
  process.exitCode = found.length > 0 ? 1 : 0;
}
