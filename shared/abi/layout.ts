/**
 * C structures of Xen's public headers as tables: each member gets the offset that the AArch64 ABI gives it
 * (natural alignment, little-endian). 64-bit members are numbers and must stay below 2^53.
 */

export interface CType<T> {
  readonly size: number;
  readonly align: number;
  get(view: DataView, offset: number): T;
  put(view: DataView, offset: number, value: T): void;
}

export type Value<C> = C extends CType<infer T> ? T : never;

export const u8: CType<number> = {
  size: 1,
  align: 1,
  get: (v, o) => v.getUint8(o),
  put: (v, o, n) => v.setUint8(o, n),
};

export const u16: CType<number> = {
  size: 2,
  align: 2,
  get: (v, o) => v.getUint16(o, true),
  put: (v, o, n) => v.setUint16(o, n, true),
};

export const s16: CType<number> = {
  size: 2,
  align: 2,
  get: (v, o) => v.getInt16(o, true),
  put: (v, o, n) => v.setInt16(o, n, true),
};

export const u32: CType<number> = {
  size: 4,
  align: 4,
  get: (v, o) => v.getUint32(o, true),
  put: (v, o, n) => v.setUint32(o, n, true),
};

export const s32: CType<number> = {
  size: 4,
  align: 4,
  get: (v, o) => v.getInt32(o, true),
  put: (v, o, n) => v.setInt32(o, n, true),
};

/** uint64_aligned_t, and a guest handle: then a byte offset into the argument that travels with the call. */
export const u64: CType<number> = {
  size: 8,
  align: 8,
  get: (v, o) => v.getUint32(o, true) + v.getUint32(o + 4, true) * 0x1_0000_0000,
  put: (v, o, n) => {
    v.setUint32(o, n >>> 0, true);
    v.setUint32(o + 4, Math.floor(n / 0x1_0000_0000), true);
  },
};

export function bytes(count: number): CType<Uint8Array> {
  return {
    size: count,
    align: 1,
    get: (v, o) => new Uint8Array(v.buffer, v.byteOffset + o, count).slice(),
    put: (v, o, from) => new Uint8Array(v.buffer, v.byteOffset + o, count).set(from.subarray(0, count)),
  };
}

export function array<T>(type: CType<T>, count: number): CType<T[]> {
  return {
    size: type.size * count,
    align: type.align,
    get: (v, o) => Array.from({ length: count }, (_, i) => type.get(v, o + i * type.size)),
    put: (v, o, from) => {
      for (let i = 0; i < Math.min(count, from.length); i++) type.put(v, o + i * type.size, from[i] as T);
    },
  };
}

export interface CStruct<T> extends CType<T> {
  /** Byte offset of each member. */
  readonly offsets: { readonly [K in keyof T]: number };
  /** A new buffer of exactly this structure; members left out are zero. */
  encode(value: Partial<T>): Uint8Array;
  /** Reads it at `offset` of `from`; throws RangeError when it does not fit. */
  decode(from: Uint8Array, offset?: number): T;
  /** Writes it at `offset` of `into`. */
  encodeInto(into: Uint8Array, value: Partial<T>, offset?: number): void;
}

type Members = { readonly [name: string]: CType<unknown> };
type StructOf<M extends Members> = { -readonly [K in keyof M]: Value<M[K]> };

// biome-ignore lint/suspicious/noExplicitAny: a member may be of any C type, and CType is invariant in it
type AnyMembers = { readonly [name: string]: CType<any> };

export function struct<M extends AnyMembers>(members: M): CStruct<StructOf<M>> {
  type T = StructOf<M>;
  const names = Object.keys(members) as (keyof M & string)[];
  const offsets = {} as { [K in keyof T]: number };
  let end = 0;
  let align = 1;
  for (const name of names) {
    const type = members[name] as CType<unknown>;
    end = Math.ceil(end / type.align) * type.align;
    offsets[name as keyof T] = end;
    end += type.size;
    align = Math.max(align, type.align);
  }
  const size = Math.ceil(end / align) * align;
  const self: CStruct<T> = {
    size,
    align,
    offsets,
    get: (view, offset) => {
      const out = {} as T;
      for (const name of names)
        out[name as keyof T] = (members[name] as CType<never>).get(view, offset + offsets[name as keyof T]);
      return out;
    },
    put: (view, offset, value) => {
      for (const name of names) {
        const member = (value as Partial<T>)[name as keyof T];
        if (member !== undefined)
          (members[name] as CType<unknown>).put(view, offset + offsets[name as keyof T], member);
      }
    },
    encode: (value) => {
      const out = new Uint8Array(size);
      self.put(new DataView(out.buffer), 0, value as T);
      return out;
    },
    decode: (from, offset = 0) => {
      if (offset < 0 || offset + size > from.length)
        throw new RangeError(`${size} bytes at ${offset} of ${from.length}`);
      return self.get(new DataView(from.buffer, from.byteOffset, from.byteLength), offset);
    },
    encodeInto: (into, value, offset = 0) => {
      if (offset < 0 || offset + size > into.length)
        throw new RangeError(`${size} bytes at ${offset} of ${into.length}`);
      self.put(new DataView(into.buffer, into.byteOffset, into.byteLength), offset, value as T);
    },
  };
  return self;
}
