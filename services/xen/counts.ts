/** What Xen did, by kind and name: designs are compared by these numbers. */

export type CountGroup =
  | 'hypercalls'
  | 'traps'
  | 'itsCommands'
  | 'smmuCommands'
  | 'smmuEvents'
  | 'tlbInvalidations'
  | 'msisDelivered'
  | 'spisDelivered'
  | 'upcalls';

export class Counts {
  readonly #groups = new Map<CountGroup, Map<string, number>>();

  /** Adds `by` to `name` of a group: `add('hypercalls', 'domctl.assign_device')`. */
  add(group: CountGroup, name: string, by = 1): void {
    let names = this.#groups.get(group);
    if (names === undefined) {
      names = new Map();
      this.#groups.set(group, names);
    }
    names.set(name, (names.get(name) ?? 0) + by);
  }

  get(group: CountGroup, name: string): number {
    return this.#groups.get(group)?.get(name) ?? 0;
  }

  /** `{ hypercalls: { 'memory_op.populate_physmap': 3 }, ... }`; a group that counted nothing is empty. */
  inspect(): Record<CountGroup, Record<string, number>> {
    const of = (group: CountGroup) => Object.fromEntries(this.#groups.get(group) ?? []);
    return {
      hypercalls: of('hypercalls'),
      traps: of('traps'),
      itsCommands: of('itsCommands'),
      smmuCommands: of('smmuCommands'),
      smmuEvents: of('smmuEvents'),
      tlbInvalidations: of('tlbInvalidations'),
      msisDelivered: of('msisDelivered'),
      spisDelivered: of('spisDelivered'),
      upcalls: of('upcalls'),
    };
  }
}
