/**
 * The names of a node's children, in the order of their creation, as a value: `with` and `without` give another list
 * and leave this one as it was, so that a transaction may keep what it saw. Both take constant time, however many names
 * there are: all versions of a list share one table, the one used last has it, and the others know by which name they
 * differ from the next (persistent arrays after Baker, "Shallow Binding Makes Functional Arrays Fast").
 * Reading a version that is not the last used moves the table there, which takes as long as they differ.
 */

/** Names with the rank of their creation. */
interface Table {
  names: Map<string, number>;
  nextRank: number;
  /** A name was put back: the map is not in the order of ranks. */
  disordered: boolean;
  /** Versions that were left behind since one of them was given a table of its own. */
  left: number;
}

/** One step from a version to the one made from it. */
export interface ChildChange {
  readonly name: string;
  readonly added: boolean;
}

/** Beyond twice its size and this many steps a version gets a table of its own, so that an old one keeps no long chain alive. */
const STEPS_MAX = 64;

export class Children {
  readonly size: number;
  /** Of all names with a NUL each. */
  readonly bytes: number;
  /** The version that this one was made from, until `forgetOrigin`. */
  #origin: Children | undefined;
  readonly #change: ChildChange | undefined;
  #table: Table | undefined;
  /** Without a table: this is `#next` but for one name, which has a rank here or is absent here. */
  #next: Children | undefined;
  #name = '';
  #rank: number | undefined;

  private constructor(
    size: number,
    bytes: number,
    table: Table,
    origin: Children | undefined,
    change: ChildChange | undefined,
  ) {
    this.size = size;
    this.bytes = bytes;
    this.#table = table;
    this.#origin = origin;
    this.#change = change;
  }

  static of(names: Iterable<string>): Children {
    const ranked = new Map<string, number>();
    let bytes = 0;
    for (const name of names) {
      if (ranked.has(name)) continue;
      ranked.set(name, ranked.size);
      bytes += name.length + 1;
    }
    const table: Table = { names: ranked, nextRank: ranked.size, disordered: false, left: 0 };
    return new Children(ranked.size, bytes, table, undefined, undefined);
  }

  has(name: string): boolean {
    return this.size > 0 && this.#own().names.has(name);
  }

  /** The list with `name` at its end; itself when the name is in it. */
  with(name: string): Children {
    if (this.size === 0) {
      // Each list starts a table of its own, so that the empty one can be shared by all nodes.
      const names = new Map([[name, 0]]);
      const table: Table = { names, nextRank: 1, disordered: false, left: 0 };
      return new Children(1, name.length + 1, table, this, { name, added: true });
    }
    const table = this.#own();
    if (table.names.has(name)) return this;
    const made = new Children(this.size + 1, this.bytes + name.length + 1, table, this, { name, added: true });
    this.#leave(made, table, name, undefined);
    table.names.set(name, table.nextRank++);
    return made;
  }

  /** The list without `name`; itself when the name is not in it. */
  without(name: string): Children {
    if (this.size === 0) return this;
    const table = this.#own();
    const rank = table.names.get(name);
    if (rank === undefined) return this;
    const made = new Children(this.size - 1, this.bytes - name.length - 1, table, this, { name, added: false });
    this.#leave(made, table, name, rank);
    table.names.delete(name);
    return made;
  }

  /** In the order of creation. */
  [Symbol.iterator](): IterableIterator<string> {
    const table = this.#own();
    if (table.disordered) {
      table.names = new Map([...table.names].sort(([, a], [, b]) => a - b));
      table.disordered = false;
    }
    return table.names.keys();
  }

  /** How it was made from `origin`, step by step; undefined when it was not, or that was forgotten. */
  changesSince(origin: Children): ChildChange[] | undefined {
    const changes: ChildChange[] = [];
    let at: Children = this;
    while (at !== origin) {
      if (at.#origin === undefined) return undefined;
      changes.push(at.#change!);
      at = at.#origin;
    }
    return changes.reverse();
  }

  /** The versions before it need not be kept for `changesSince`. */
  forgetOrigin(): void {
    this.#origin = undefined;
  }

  /** The table, with the names of this version in it. */
  #own(): Table {
    if (this.#table !== undefined) return this.#table;
    const chain: Children[] = [];
    let at: Children = this;
    while (at.#table === undefined) {
      chain.push(at);
      at = at.#next!;
    }
    const table = at.#table;
    while (chain.length > 0) {
      const to = chain.pop()!;
      const { names } = table;
      at.#leave(to, table, to.#name, names.get(to.#name));
      if (to.#rank === undefined) names.delete(to.#name);
      else {
        names.set(to.#name, to.#rank);
        table.disordered = true;
      }
      to.#table = table;
      to.#next = undefined;
      at = to;
    }
    return table;
  }

  /** Hands the table over to `next`, in which `name` has another rank than it has here. */
  #leave(next: Children, table: Table, name: string, rank: number | undefined): void {
    if (++table.left > STEPS_MAX + 2 * this.size) {
      this.#table = { ...table, names: new Map(table.names), left: 0 };
      table.left = 0;
      return;
    }
    this.#table = undefined;
    this.#next = next;
    this.#name = name;
    this.#rank = rank;
  }
}

/** No names. */
export const NO_CHILDREN = Children.of([]);
