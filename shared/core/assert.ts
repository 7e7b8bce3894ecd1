/** Assertions that stay in every build: a false one means our own code is wrong, and the service stops. */

export class AssertionError extends Error {
  override name = 'AssertionError';
}

/** Stops when `condition` is false. In hot code give the text as a function, so that it is only built when needed. */
export function assert(condition: unknown, text: string | (() => string)): asserts condition {
  if (!condition) throw new AssertionError(typeof text === 'string' ? text : text());
}
