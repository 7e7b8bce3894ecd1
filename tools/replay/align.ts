/** Two lists of messages side by side: what is the same in both, and what stands in one only. */

export interface Sent {
  /** Of the trace: where it stands there, or the request that made it here; 0 for none. */
  readonly line: number;
  /** Among all that its connection was sent. */
  readonly place: number;
  readonly text: string;
  /** The text without what may be another number here. */
  readonly key: string;
  readonly isEvent: boolean;
  /** It gives a number that is in use already. */
  readonly taken: boolean;
}

/** What is in one list, or two in the same place that are not the same. */
export interface Only {
  readonly real?: Sent;
  readonly ours?: Sent;
}

/** How far ahead of a difference the place is looked for where the lists meet again. */
const LOOK_AHEAD = 8;

export function align(
  real: readonly Sent[],
  ours: readonly Sent[],
): { readonly pairs: (readonly [real: Sent, ours: Sent])[]; readonly only: Only[] } {
  const pairs: (readonly [Sent, Sent])[] = [];
  const only: Only[] = [];
  let i = 0;
  let j = 0;
  for (;;) {
    const [a, b] = [real[i], ours[j]];
    if (a === undefined && b === undefined) return { pairs, only };
    if (a !== undefined && b !== undefined && a.key === b.key) {
      pairs.push([a, b]);
      i++;
      j++;
      continue;
    }
    const inReal = real.slice(i, i + LOOK_AHEAD).findIndex(({ key }) => key === b?.key);
    const inOurs = ours.slice(j, j + LOOK_AHEAD).findIndex(({ key }) => key === a?.key);
    if (b !== undefined && (a === undefined || (inOurs > 0 && (inReal < 0 || inOurs <= inReal)))) {
      only.push({ ours: b });
      j++;
    } else if (a !== undefined && (b === undefined || inReal > 0)) {
      only.push({ real: a });
      i++;
    } else {
      only.push({ real: a!, ours: b! });
      i++;
      j++;
    }
  }
}
