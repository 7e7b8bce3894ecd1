/** A request that is answered with an error of the wire. */
import type { XsErrorName } from '#shared/abi/xs-wire.ts';

export class XsError extends Error {
  override name = 'XsError';
  readonly code: XsErrorName;

  constructor(code: XsErrorName) {
    super(code);
    this.code = code;
  }
}
