/** What a replay compared: how often by kind, how often the answers were not the same, and the first of those. */

export interface Difference {
  /** Of the trace, from 1. */
  readonly line: number;
  readonly kind: string;
  /** What was asked. */
  readonly asked: string;
  readonly traced: string;
  readonly ours: string;
}

const SHOWN_MAX = 20;

export class Tally {
  readonly compared = new Map<string, number>();
  readonly differing = new Map<string, number>();
  readonly differences: Difference[] = [];

  /** Counts one comparison. `asked` is made into text only when the answers differ. */
  compare(kind: string, line: number, asked: () => string, traced: string, ours: string): void {
    this.compared.set(kind, (this.compared.get(kind) ?? 0) + 1);
    if (traced === ours) return;
    this.differing.set(kind, (this.differing.get(kind) ?? 0) + 1);
    if (this.differences.length < SHOWN_MAX) this.differences.push({ line, kind, asked: asked(), traced, ours });
  }

  get differ(): number {
    return [...this.differing.values()].reduce((a, b) => a + b, 0);
  }
}
