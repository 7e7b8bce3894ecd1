/** Comparison of a result with what a scenario expects of it. */

/** What differs, as lines `path: is X, expected Y`; empty when all is as expected. */
export function differences(actual: unknown, expected: unknown, path = ''): string[] {
  const at = path === '' ? 'result' : path;
  if (typeof expected === 'object' && expected !== null && !Array.isArray(expected)) {
    if (typeof actual !== 'object' || actual === null) return [`${at}: is ${show(actual)}, expected ${show(expected)}`];
    return Object.entries(expected).flatMap(([key, value]) =>
      differences((actual as Record<string, unknown>)[key], value, path === '' ? key : `${path}.${key}`),
    );
  }
  return matches(actual, expected) ? [] : [`${at}: is ${show(actual)}, expected ${show(expected)}`];
}

function matches(actual: unknown, expected: unknown): boolean {
  if (typeof expected === 'string') {
    const compare = /^(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)$/.exec(expected);
    if (compare !== null) {
      const [n, limit] = [Number(actual), Number(compare[2])];
      return { '>=': n >= limit, '<=': n <= limit, '>': n > limit, '<': n < limit }[
        compare[1] as '>=' | '<=' | '>' | '<'
      ];
    }
    const pattern = /^\/(.*)\/$/s.exec(expected);
    if (pattern !== null) return new RegExp(pattern[1]!, 'm').test(String(actual));
  }
  return JSON.stringify(actual) === JSON.stringify(expected);
}

function show(value: unknown): string {
  return value === undefined ? 'absent' : JSON.stringify(value);
}

/** What two trees do not share, as lines; for finding what was left behind. */
export function changes(before: unknown, after: unknown, path = ''): string[] {
  if (typeof before === 'object' && before !== null && typeof after === 'object' && after !== null) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys].flatMap((key) =>
      changes(
        (before as Record<string, unknown>)[key],
        (after as Record<string, unknown>)[key],
        path === '' ? key : `${path}.${key}`,
      ),
    );
  }
  return JSON.stringify(before) === JSON.stringify(after) ? [] : [`${path}: was ${show(before)}, is ${show(after)}`];
}
