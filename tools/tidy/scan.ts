/**
 * As much of TypeScript's grammar as the rules of tidy need: where comments, texts and regular expressions are, and
 * what a file imports. Not covered: JSX.
 */

export interface Import {
  readonly specifier: string;
  readonly line: number;
  /** `import type` or `export type`: gone at run time. */
  readonly typeOnly: boolean;
}

/** After one of these a "/" begins a regular expression; after a value it divides. */
const BEFORE_REGEX =
  /(?:^|[(,=:[!&|?{};+\-*%~^<>]|=>|\b(?:return|typeof|case|in|of|do|else|void|delete|throw|new|yield))$/;

/**
 * The text with comments blanked, and with the insides of texts and regular expressions too unless `keepTexts`; lengths
 * and lines stay. Code in a template's ${...} is kept.
 */
function blank(text: string, keepTexts: boolean): string {
  const out: string[] = [];
  /** For each template that we are in the braces of: how deep its ${ lies. */
  const templates: number[] = [];
  let depth = 0;
  let before = '';
  let i = 0;
  const skip = (to: number, hide: boolean): void => {
    const part = text.slice(i, to);
    out.push(hide ? part.replace(/[^\n]/g, ' ') : part);
    i = to;
  };
  const endOf = (quote: string): number => {
    let at = i;
    for (; at < text.length && text[at] !== quote && text[at] !== '\n'; at++) if (text[at] === '\\') at++;
    return at;
  };
  /** From inside a template to its end or to the next ${. */
  const template = (): void => {
    let at = i;
    for (; at < text.length && text[at] !== '`' && !text.startsWith('${', at); at++) if (text[at] === '\\') at++;
    skip(at, !keepTexts);
    if (text[at] === '`') skip(at + 1, false);
    else {
      skip(at + 2, false);
      templates.push(depth++);
    }
    before = text[at] === '`' ? '`' : '{';
  };
  while (i < text.length) {
    const c = text[i]!;
    if (text.startsWith('//', i)) {
      const end = text.indexOf('\n', i);
      skip(end < 0 ? text.length : end, true);
    } else if (text.startsWith('/*', i)) {
      const end = text.indexOf('*/', i + 2);
      skip(end < 0 ? text.length : end + 2, true);
    } else if (c === "'" || c === '"') {
      skip(i + 1, false);
      skip(endOf(c), !keepTexts);
      skip(i + 1, false);
      before = c;
    } else if (c === '`') {
      skip(i + 1, false);
      template();
    } else if (c === '/' && BEFORE_REGEX.test(before)) {
      skip(i + 1, false);
      let inClass = false;
      let at = i;
      for (; at < text.length && text[at] !== '\n' && (inClass || text[at] !== '/'); at++) {
        if (text[at] === '\\') at++;
        else if (text[at] === '[') inClass = true;
        else if (text[at] === ']') inClass = false;
      }
      skip(at, !keepTexts);
      skip(at + 1, false);
      before = ')';
    } else if (c === '}' && templates.at(-1) === depth - 1) {
      depth = templates.pop()!;
      skip(i + 1, false);
      template();
    } else {
      if (c === '{') depth++;
      else if (c === '}') depth--;
      if (!/\s/.test(c)) before = (/\w/.test(c) ? before.slice(-12) : '') + c;
      else if (/\w$/.test(before) && !BEFORE_REGEX.test(before)) before = ' ';
      skip(i + 1, false);
    }
  }
  return out.join('');
}

/** The code alone: comments, texts and regular expressions blanked, lines as they were. */
export function withoutTexts(text: string): string {
  return blank(text, false);
}

/** Every static import, re-export and import() of a constant text. */
export function importsOf(text: string): Import[] {
  const code = blank(text, true);
  const bare = blank(text, false);
  const found: Import[] = [];
  const pattern =
    /^[ \t]*(?:import|export)\b(?<clause>[^;'"]*?)\bfrom\s*['"](?<from>[^'"]+)['"]|^[ \t]*import\s*['"](?<alone>[^'"]+)['"]|\bimport\s*\(\s*['"](?<called>[^'"]+)['"]/gm;
  for (const match of code.matchAll(pattern)) {
    const { clause, from, alone, called } = match.groups ?? {};
    // An import that stands in a text is blank in the bare code.
    if (!/import|export/.test(bare.slice(match.index, match.index + match[0].length))) continue;
    const at = match.index + (/^\s*/.exec(match[0])?.[0].length ?? 0);
    found.push({
      specifier: from ?? alone ?? called ?? '',
      line: code.slice(0, at).split('\n').length,
      typeOnly: /^\s*type\b/.test(clause ?? ''),
    });
  }
  return found;
}
