/**
 * 32-bit registers written as the book's table, checked when the module loads. A field knows its register and so
 * does a word, so reading a field of one register out of another does not compile.
 * A 64-bit register is two: NAME_LO and NAME_HI, four bytes apart.
 */

declare const wordOf: unique symbol;

/** The value of register `R`, unsigned. */
export type Word<R extends string> = number & { readonly [wordOf]: R };

/** RW: copied from the write. RO: kept. W1C: a one clears it. WO: given to the handler, reads as it was. */
export type Access = 'RW' | 'RO' | 'W1C' | 'WO';

/** `[access, msb, lsb]`; one bit when lsb is left out. */
export type FieldSpec = readonly [access: Access, msb: number, lsb?: number];

export interface Field<R extends string> {
  readonly reg: R;
  readonly name: string;
  readonly access: Access;
  readonly lsb: number;
  /** The largest value, that is the mask before shifting. */
  readonly max: number;
}

export interface Register<R extends string = string> {
  readonly id: R;
  /** Bytes from the start of its register block. */
  readonly offset: number;
  readonly reset: number;
  readonly rwMask: number;
  readonly w1cMask: number;
  /** Every bit that a field covers; the others are RES0. */
  readonly definedMask: number;
}

export type Register32<R extends string, T> = Register<R> & { readonly [K in keyof T]: Field<R> };

const INFO_KEYS = new Set(['id', 'offset', 'reset', 'rwMask', 'w1cMask', 'definedMask']);

/** Declares a register. Throws at load when fields overlap, do not fit, or the offset is not a multiple of 4. */
export function reg32<const R extends string, const T extends Record<string, FieldSpec>>(
  id: R,
  offset: number,
  table: T,
  reset = 0,
): Register32<R, T> {
  if (offset < 0 || offset % 4 !== 0) throw new Error(`${id}: offset ${offset} is not a multiple of 4`);
  const fields: Record<string, Field<R>> = {};
  let rwMask = 0;
  let w1cMask = 0;
  let seen = 0;
  for (const [name, [access, msb, lsb = msb]] of Object.entries(table)) {
    if (INFO_KEYS.has(name)) throw new Error(`${id}.${name}: the name is taken by the register itself`);
    const max = 0xffff_ffff >>> (31 - (msb - lsb));
    const mask = (max << lsb) >>> 0;
    if (msb > 31 || lsb < 0 || msb < lsb || (seen & mask) !== 0) {
      throw new Error(`${id}.${name}: [${msb}:${lsb}] overlaps or does not fit`);
    }
    seen |= mask;
    if (access === 'RW') rwMask |= mask;
    if (access === 'W1C') w1cMask |= mask;
    fields[name] = { reg: id, name, access, lsb, max };
  }
  const info: Register<R> = {
    id,
    offset,
    reset: reset >>> 0,
    rwMask: rwMask >>> 0,
    w1cMask: w1cMask >>> 0,
    definedMask: seen >>> 0,
  };
  return Object.freeze({ ...fields, ...info }) as Register32<R, T>;
}

/** The field's value, shifted down. */
export function get<R extends string>(field: Field<R>, word: Word<NoInfer<R>>): number {
  return ((word >>> field.lsb) & field.max) >>> 0;
}

/** `word` with the field replaced; bits of `value` beyond the field are cut off. */
export function put<R extends string>(field: Field<R>, word: Word<NoInfer<R>>, value: number): Word<R> {
  return (((word & ~(field.max << field.lsb)) | ((value & field.max) << field.lsb)) >>> 0) as Word<R>;
}

/** A word of `register` out of a number that was read from it. */
export function asWord<R extends string>(_register: Register<R>, raw: number): Word<R> {
  return (raw >>> 0) as Word<R>;
}

/** A word with the named fields set and the rest zero: `wordWith(SMMU_CR0, { SMMUEN: 1, CMDQEN: 1 })`. */
export function wordWith<R extends string, T>(
  register: Register32<R, T>,
  values: { readonly [K in keyof T]?: number },
): Word<R> {
  let word = 0;
  for (const [name, value] of Object.entries(values as Record<string, number>)) {
    const field = (register as unknown as Record<string, Field<R>>)[name];
    if (field === undefined) throw new Error(`${register.id} has no field ${name}`);
    if (value < 0 || value > field.max) throw new Error(`${register.id}.${name}: ${value} does not fit`);
    word |= value << field.lsb;
  }
  return (word >>> 0) as Word<R>;
}
