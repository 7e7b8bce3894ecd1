/** What a hypercall handler throws to give its caller an errno. */
import { ERRNO, type ErrnoName } from '#shared/abi/errno.ts';

export class XenError extends Error {
  override name = 'XenError';
  /** Positive, as in xen/include/public/errno.h; the caller sees the negative. */
  readonly errno: number;

  /** `what` is for the trace; the guest sees the number only. */
  constructor(name: ErrnoName, what: string, options?: ErrorOptions) {
    super(`${name}: ${what}`, options);
    this.errno = ERRNO[name];
  }
}

/** Throws `name` when `condition` is false. */
export function check(condition: boolean, name: ErrnoName, what: string): asserts condition {
  if (!condition) throw new XenError(name, what);
}
