/** Answers to `inspect` requests: a part of a service's tree by its dotted path. */
import { type Body, body } from './core.ts';
import { LIMITS } from './limits.ts';

/** What one answer may hold, so that it fits into a message. */
const ANSWER_MAX = LIMITS.messageBytes - 256 * 1024;
const PARTS_NAMED_MAX = 20;

/**
 * The part of `tree` at `path` (`counts.hypercalls`; empty for the whole) as an inspectReply of the service `name`. A
 * key may hold dots itself: the longest one that fits counts. An answer that does not fit into a message is an error
 * that names its parts.
 */
export function inspectReply(name: string, tree: unknown, path: string): Body {
  let at = tree;
  for (let rest = path; rest !== ''; ) {
    const key = keyAtStart(at, rest);
    if (key === undefined) return body('inspectReply', { json: '', error: `${name} has no ${path}` });
    at = (at as Record<string, unknown>)[key];
    rest = rest.slice(key.length + 1);
  }
  const json = JSON.stringify(at ?? null);
  if (json.length <= ANSWER_MAX) return body('inspectReply', { json, error: '' });
  const parts = Object.keys(at as object).slice(0, PARTS_NAMED_MAX);
  const what = path === '' ? name : path;
  const error = `${what} is ${json.length} bytes as text; ask for a part of it: ${parts.join(', ')}`;
  return body('inspectReply', { json: '', error });
}

function keyAtStart(at: unknown, path: string): string | undefined {
  if (typeof at !== 'object' || at === null) return undefined;
  let found: string | undefined;
  for (const key of Object.keys(at)) {
    if ((path === key || path.startsWith(`${key}.`)) && key.length > (found?.length ?? -1)) found = key;
  }
  return found;
}
