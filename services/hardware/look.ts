/**
 * How far `inspect` looks into the tables that software made in RAM. They may be of any size and lead anywhere, also
 * back to themselves, so what one look reads and what it shows have an end, and it says when it came to one.
 */
export const LOOK_LIMITS = {
  /** Entries of tables that one look at one part (an SMMU, an ITS) reads: a fraction of a second's work. */
  read: 2 ** 20,
  /** Entries that it shows: they fit into an answer with those of other parts. */
  shown: 4096,
} as const;

export class Look {
  #read = 0;
  #shown = 0;
  #cut = false;

  /** Whether one more entry may be read. */
  read(): boolean {
    if (this.#read < LOOK_LIMITS.read) {
      this.#read++;
      return true;
    }
    this.#cut = true;
    return false;
  }

  /** Whether one more entry may be shown. */
  show(): boolean {
    if (this.#shown < LOOK_LIMITS.shown) {
      this.#shown++;
      return true;
    }
    this.#cut = true;
    return false;
  }

  /** Where there was more than a look takes. */
  get incomplete(): { readonly incomplete?: string } {
    if (!this.#cut) return {};
    return { incomplete: `more than ${LOOK_LIMITS.read} entries to read or ${LOOK_LIMITS.shown} to show` };
  }
}
