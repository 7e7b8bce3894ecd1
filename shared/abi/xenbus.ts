/** States of a xenbus device, one for each end (xen/include/public/io/xenbus.h). */

export const XenbusState = {
  /** The node is absent or not a number. */
  Unknown: 0,
  Initialising: 1,
  InitWait: 2,
  Initialised: 3,
  Connected: 4,
  Closing: 5,
  Closed: 6,
  Reconfiguring: 7,
  Reconfigured: 8,
} as const;
export type XenbusStateName = keyof typeof XenbusState;
export type XenbusState = (typeof XenbusState)[XenbusStateName];

const NAMES = Object.keys(XenbusState) as XenbusStateName[];

export function xenbusStateName(state: XenbusState): XenbusStateName {
  return NAMES[state]!;
}

/** The state in a `state` node: Unknown when the node is absent or holds no state. */
export function parseXenbusState(text: string | undefined): XenbusState {
  const digits = text === undefined ? undefined : /^\s*(\d+)/.exec(text)?.[1];
  const name = digits === undefined ? undefined : NAMES[Number(digits)];
  return name === undefined ? XenbusState.Unknown : XenbusState[name];
}
