/** YAML files against a schema: a mistake is told with file, line, what stands there and what was expected. */
import { isMap, isScalar, LineCounter, type Node, parseDocument } from 'yaml';
import type { z } from 'zod';

/** A file says something it should not. The message starts with `FILE:LINE:`. */
export class FileError extends Error {
  override name = 'FileError';
}

export interface Checked<T> {
  readonly data: T;
  /** `FILE:LINE` of the deepest part of a path that is there. */
  at(...path: readonly PropertyKey[]): string;
}

/** Parses `text` of the file `name` and checks it. Throws FileError with every mistake, one a line. */
export function parseYaml<S extends z.ZodType>(name: string, text: string, schema: S): z.output<S> {
  return checkYaml(name, text, schema).data;
}

/** The same, for who has to tell of further mistakes. */
export function checkYaml<S extends z.ZodType>(name: string, text: string, schema: S): Checked<z.output<S>> {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const syntax = document.errors[0];
  if (syntax !== undefined) {
    const { line } = lines.linePos(syntax.pos[0]);
    throw new FileError(`${name}:${line}: ${syntax.message.replace(/\s+/g, ' ')}`);
  }
  if (document.contents === null) throw new FileError(`${name}:1: the file is empty`);
  const result = schema.safeParse(document.toJS());
  const place = (path: readonly PropertyKey[]): string => `${name}:${lineOf(document.contents, path, lines)}`;
  if (result.success) return { data: result.data, at: (...path) => place(path) };
  const mistakes = flatten(result.error.issues).map((issue) => {
    const at = issue.code === 'unrecognized_keys' ? [...issue.path, issue.keys[0] ?? ''] : issue.path;
    const where = issue.path.length === 0 ? '' : ` in ${issue.path.join('.')}`;
    return `${place(at)}: ${issue.message}${where}`;
  });
  throw new FileError([...new Set(mistakes)].join('\n'));
}

/** Of a union, the alternative that came closest: the one that failed deepest in; all when none is of the right kind. */
function flatten(issues: readonly z.core.$ZodIssue[]): z.core.$ZodIssue[] {
  return issues.flatMap((issue) => {
    if (issue.code !== 'invalid_union' || issue.errors.length === 0) return [issue];
    const closest = issue.errors.reduce((best, next) => (closeness(next) > closeness(best) ? next : best));
    const kinds = issue.errors.map(([first]) => (first?.path.length === 0 ? kindOf(first) : undefined));
    if (closeness(closest) <= WRONG_KIND && kinds.every((kind) => kind !== undefined)) {
      const expected = [...new Set(kinds)].join(' or ');
      return [{ ...issue, message: `Invalid input: expected ${expected}` }];
    }
    return flatten(closest).map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] }));
  });
}

/** An issue at the value itself, which is of another type. */
const WRONG_KIND = 0.25;

function closeness(alternative: readonly z.core.$ZodIssue[]): number {
  const unknown = alternative.some(({ code }) => code === 'unrecognized_keys') ? 0.1 : 0;
  const depths = alternative.map(({ code, path }) => {
    if (code === 'unrecognized_keys') return path.length;
    return path.length + (kindOf({ code } as z.core.$ZodIssue) === undefined ? 0.5 : WRONG_KIND);
  });
  return Math.max(...depths) - unknown;
}

/** What kind of value was expected, when it was another one. */
function kindOf(issue: z.core.$ZodIssue): string | undefined {
  if (issue.code === 'invalid_type') return issue.expected ?? '';
  return issue.code === 'invalid_value'
    ? (issue.values ?? []).map((value) => JSON.stringify(value)).join(' or ')
    : undefined;
}

/** The line of the deepest part of `path` that is there. */
function lineOf(root: unknown, path: readonly PropertyKey[], lines: LineCounter): number {
  let node = root as Node | null;
  let offset = node?.range?.[0] ?? 0;
  for (const step of path) {
    if (node === null || node === undefined || !('items' in node)) break;
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(step));
      if (pair === undefined) break;
      offset = (pair.key as Node).range?.[0] ?? offset;
      node = pair.value as Node | null;
    } else {
      const item = (node.items as unknown as (Node | null)[])[Number(step)];
      if (item === undefined) break;
      node = item;
      offset = item?.range?.[0] ?? offset;
    }
  }
  return lines.linePos(offset).line;
}
