/**
 * The xl.cfg syntax (xl.cfg(5), "SYNTAX"): `key = value`, one a line or split by `;`, `#` to the end of the line; a
 * value is a string, a number or a list of values. A key given twice: the later value counts.
 */

export type CfgValue = string | readonly CfgValue[];

export interface CfgEntry {
  readonly value: CfgValue;
  readonly line: number;
}

/** The text cannot be read; `text` is what xl prints before `Failed to parse config`. */
export class CfgSyntaxError extends Error {
  override name = 'CfgSyntaxError';
}

interface Token {
  readonly kind: 'name' | 'string' | 'number' | 'punctuation' | 'end-of-line' | 'end';
  readonly text: string;
  readonly line: number;
}

/** Parses the text of `file`. Throws CfgSyntaxError. */
export function parseCfg(file: string, text: string): Map<string, CfgEntry> {
  const tokens = tokenize(file, text);
  const entries = new Map<string, CfgEntry>();
  let i = 0;
  const peek = (): Token => tokens[i]!;
  const fail = (token: Token): never => {
    const near = token.kind === 'end' || token.kind === 'end-of-line' ? '' : ` near \`${token.text}'`;
    throw new CfgSyntaxError(`${file}:${token.line}: config parsing error${near}: syntax error`);
  };
  const skipLines = (): void => {
    while (peek().kind === 'end-of-line') i++;
  };
  const value = (): CfgValue => {
    const token = peek();
    i++;
    if (token.kind === 'string' || token.kind === 'number') return token.text;
    if (token.text !== '[') return fail(token);
    const list: CfgValue[] = [];
    for (;;) {
      skipLines();
      if (peek().text === ']' && peek().kind === 'punctuation') break;
      list.push(value());
      skipLines();
      if (peek().text === ',' && peek().kind === 'punctuation') i++;
      else if (peek().text !== ']') return fail(peek());
    }
    i++;
    return list;
  };
  for (;;) {
    while (peek().kind === 'end-of-line' || peek().text === ';') i++;
    const name = peek();
    if (name.kind === 'end') return entries;
    if (name.kind !== 'name') fail(name);
    i++;
    if (peek().text !== '=') fail(peek());
    i++;
    entries.set(name.text, { value: value(), line: name.line });
    const after = peek();
    if (after.kind !== 'end' && after.kind !== 'end-of-line' && after.text !== ';') fail(after);
  }
}

function tokenize(file: string, text: string): Token[] {
  const tokens: Token[] = [];
  let line = 1;
  let at = 0;
  while (at < text.length) {
    const rest = text.slice(at);
    const blank = /^(?:[ \t\r]+|#[^\n]*)/.exec(rest);
    if (blank !== null) {
      at += blank[0].length;
      continue;
    }
    if (rest[0] === '\n') {
      tokens.push({ kind: 'end-of-line', text: '\n', line });
      line++;
      at++;
      continue;
    }
    const string = /^'((?:[^'\\\n]|\\.)*)'|^"((?:[^"\\\n]|\\.)*)"/.exec(rest);
    const name = /^[A-Za-z_][A-Za-z0-9_]*/.exec(rest);
    const number = /^(?:0[xX][0-9a-fA-F]+|\d+)/.exec(rest);
    const punctuation = /^[=[\],;]/.exec(rest);
    if (string !== null) tokens.push({ kind: 'string', text: unquote(string[1] ?? string[2] ?? ''), line });
    else if (name !== null) tokens.push({ kind: 'name', text: name[0], line });
    else if (number !== null) tokens.push({ kind: 'number', text: number[0], line });
    else if (punctuation !== null) tokens.push({ kind: 'punctuation', text: punctuation[0], line });
    else {
      const near = /^\S[^\n]{0,15}/.exec(rest)?.[0] ?? rest[0];
      throw new CfgSyntaxError(`${file}:${line}: config parsing error near \`${near}': lexical error`);
    }
    at += (string ?? name ?? number ?? punctuation)![0].length;
  }
  tokens.push({ kind: 'end', text: '', line });
  return tokens;
}

function unquote(text: string): string {
  const known: Record<string, string> = { a: '\x07', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' };
  return text.replace(/\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)/g, (_, c: string) => {
    if (c[0] === 'x' && c.length === 3) return String.fromCharCode(Number.parseInt(c.slice(1), 16));
    if (/^[0-7]+$/.test(c)) return String.fromCharCode(Number.parseInt(c, 8));
    return known[c] ?? c;
  });
}
