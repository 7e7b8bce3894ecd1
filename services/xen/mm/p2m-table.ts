/**
 * Stage-2 tables as Xen keeps them: an exact copy of the descriptors in the machine's memory, so that a lookup reads
 * nothing, and a plan of what has to be written there after a change.
 */

import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import {
  descriptorAddress,
  descriptorKind,
  LEVEL_BYTES,
  type LeafAttributes,
  MEM_ATTR,
  S2_HI,
  S2AP,
  SHAREABILITY,
  TABLE_ENTRIES,
  writeInvalid,
  writeLeaf,
  writeTable,
} from '#shared/arch/vmsa.ts';

/** p2m_type_t (xen/arch/arm/include/asm/p2m.h); kept in bits [58:55] of a leaf. */
export const P2M = {
  invalid: 0,
  ram_rw: 1,
  ram_ro: 2,
  mmio_direct_dev: 3,
  mmio_direct_nc: 4,
  mmio_direct_c: 5,
  map_foreign_rw: 6,
  map_foreign_ro: 7,
  grant_map_rw: 8,
  grant_map_ro: 9,
} as const;
export type P2mType = (typeof P2M)[keyof typeof P2M];

export function isRam(type: number): boolean {
  return type === P2M.ram_rw || type === P2M.ram_ro;
}

/** A mapping of these holds a reference to each frame that it maps. */
export function holdsReference(type: number): boolean {
  return type >= P2M.map_foreign_rw && type <= P2M.grant_map_ro;
}

export function isWritable(type: number): boolean {
  return type !== P2M.ram_ro && type !== P2M.map_foreign_ro && type !== P2M.grant_map_ro;
}

/** How a leaf of this type maps. */
export function leafAttributes(type: P2mType): LeafAttributes {
  const s2ap = isWritable(type) ? S2AP.readWrite : S2AP.read;
  switch (type) {
    case P2M.mmio_direct_dev:
      return { s2ap, memAttr: MEM_ATTR.device_nGnRE, sh: SHAREABILITY.outer, xn: true, software: type };
    case P2M.mmio_direct_nc:
      return { s2ap, memAttr: MEM_ATTR.normal_NC, sh: SHAREABILITY.outer, xn: true, software: type };
    case P2M.ram_rw:
    case P2M.ram_ro:
      return { s2ap, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: false, software: type };
    default:
      return { s2ap, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: true, software: type };
  }
}

/** One table, or the tables side by side at the root. */
export class Table {
  readonly pa: number;
  /** Level of its entries, 0 to 3. */
  readonly level: number;
  /** The descriptors, two words each. */
  readonly words: Uint32Array;
  readonly children: (Table | undefined)[] = [];
  /** Entries that are not invalid. */
  used = 0;

  constructor(pa: number, level: number, tables = 1) {
    this.pa = pa;
    this.level = level;
    this.words = new Uint32Array(2 * TABLE_ENTRIES * tables);
  }

  kind(index: number): 'invalid' | 'table' | 'leaf' {
    return descriptorKind(this.words[2 * index]!, this.level);
  }

  leafMfn(index: number): number {
    return descriptorAddress(this.words[2 * index]!, this.words[2 * index + 1]!) / XEN_PAGE_SIZE;
  }

  leafType(index: number): P2mType {
    return ((this.words[2 * index + 1]! & S2_HI.SOFTWARE_MASK) >>> 23) as P2mType;
  }
}

/** Frames that one entry of a level covers. */
export function framesOf(level: number): number {
  return LEVEL_BYTES[level]! / XEN_PAGE_SIZE;
}

/** Frames that a mapping no longer covers. */
export interface DroppedLeaf {
  readonly mfn: number;
  readonly count: number;
  readonly type: P2mType;
}

/**
 * Changes to the copy, and what follows from them for the machine's memory: entries that were live and have to be
 * invalid before they change (break-before-make), then the new contents.
 */
export class Plan {
  readonly #touched = new Map<Table, Set<number>>();
  readonly #live = new Map<Table, Set<number>>();
  readonly #fresh = new Set<Table>();
  readonly dropped: DroppedLeaf[] = [];
  /** Addresses of tables that nothing refers to any more. */
  readonly freedTables: number[] = [];
  readonly #allocate: () => number;
  /** Change of the number of mapped frames. */
  frames = 0;

  /** `allocate` gives the address of a frame for a table; what it throws ends the change where it stands. */
  constructor(allocate: () => number) {
    this.#allocate = allocate;
  }

  /** An entry that a TLB may hold was changed. */
  get needsFlush(): boolean {
    return this.#live.size > 0;
  }

  /** Maps `count` frames from `gfn` on to `mfn` and on, or unmaps them when `mfn` is undefined. */
  set(table: Table, gfn: number, count: number, mfn: number | undefined, type: P2mType): void {
    const perEntry = framesOf(table.level);
    const mask = table.words.length / 2;
    for (let at = 0; at < count; ) {
      const index = Math.floor((gfn + at) / perEntry) % mask;
      const inEntry = (gfn + at) % perEntry;
      const n = Math.min(count - at, perEntry - inEntry);
      const target = mfn === undefined ? undefined : mfn + at;
      const whole = n === perEntry && (target === undefined || (table.level > 0 && target % perEntry === 0));
      if (whole) this.#setEntry(table, index, target, type);
      else this.#descend(table, index, gfn + at, n, target, type);
      at += n;
    }
  }

  #setEntry(table: Table, index: number, mfn: number | undefined, type: P2mType): void {
    const kind = table.kind(index);
    if (kind === 'invalid' && mfn === undefined) return;
    this.#touch(table, index);
    if (kind === 'table') this.#dropTable(table.children[index]!);
    if (kind === 'leaf') this.#dropLeaf(table, index);
    table.children[index] = undefined;
    if (kind === 'invalid') table.used++;
    if (mfn === undefined) {
      writeInvalid(table.words, index);
      table.used--;
      return;
    }
    writeLeaf(table.words, index, table.level, mfn * XEN_PAGE_SIZE, leafAttributes(type));
    this.frames += framesOf(table.level);
  }

  #descend(table: Table, index: number, gfn: number, count: number, mfn: number | undefined, type: P2mType): void {
    const kind = table.kind(index);
    if (kind === 'invalid' && mfn === undefined) return;
    if (kind !== 'table') {
      const child = new Table(this.#allocate(), table.level + 1);
      this.#fresh.add(child);
      this.#touch(table, index);
      if (kind === 'leaf') this.#shatter(table, index, child);
      else table.used++;
      table.children[index] = child;
      writeTable(table.words, index, child.pa);
    }
    const child = table.children[index]!;
    this.set(child, gfn, count, mfn, type);
    if (child.used === 0) {
      this.#touch(table, index);
      this.#dropTable(child);
      table.children[index] = undefined;
      writeInvalid(table.words, index);
      table.used--;
    }
  }

  /** A block becomes a table of smaller leaves that map the same. */
  #shatter(table: Table, index: number, child: Table): void {
    const mfn = table.leafMfn(index);
    const leaf = leafAttributes(table.leafType(index));
    const perEntry = framesOf(child.level);
    for (let i = 0; i < TABLE_ENTRIES; i++) {
      writeLeaf(child.words, i, child.level, (mfn + i * perEntry) * XEN_PAGE_SIZE, leaf);
    }
    child.used = TABLE_ENTRIES;
  }

  #dropLeaf(table: Table, index: number): void {
    const count = framesOf(table.level);
    this.frames -= count;
    const type = table.leafType(index);
    if (holdsReference(type)) this.dropped.push({ mfn: table.leafMfn(index), count, type });
  }

  /** Takes a whole subtree out of use. */
  #dropTable(table: Table): void {
    for (let i = 0; i < TABLE_ENTRIES; i++) {
      const kind = table.kind(i);
      if (kind === 'leaf') this.#dropLeaf(table, i);
      if (kind === 'table') this.#dropTable(table.children[i]!);
    }
    this.freedTables.push(table.pa);
    // A table that never reached the machine's memory is not written there either.
    this.#fresh.delete(table);
    this.#touched.delete(table);
  }

  #touch(table: Table, index: number): void {
    if (this.#fresh.has(table)) return;
    let touched = this.#touched.get(table);
    if (touched === undefined) {
      touched = new Set();
      this.#touched.set(table, touched);
    }
    if (touched.has(index)) return;
    touched.add(index);
    if (table.kind(index) === 'invalid') return;
    let live = this.#live.get(table);
    if (live === undefined) {
      live = new Set();
      this.#live.set(table, live);
    }
    live.add(index);
  }

  /** Writes that make every changed live entry invalid. */
  breaks(): { pa: number; data: Uint8Array }[] {
    const writes: { pa: number; data: Uint8Array }[] = [];
    for (const [table, indexes] of this.#live) {
      for (const [first, count] of runs(indexes)) {
        writes.push({ pa: table.pa + 8 * first, data: new Uint8Array(8 * count) });
      }
    }
    return writes;
  }

  /** Writes of the new contents, deepest tables first, so that no entry ever refers to what is not there yet. */
  makes(): { pa: number; data: Uint8Array }[] {
    const writes: { level: number; pa: number; data: Uint8Array }[] = [];
    for (const table of this.#fresh) writes.push({ level: table.level, pa: table.pa, data: bytes(table, 0, 512) });
    for (const [table, indexes] of this.#touched) {
      const valid = new Set([...indexes].filter((i) => table.kind(i) !== 'invalid'));
      for (const [first, count] of runs(valid)) {
        writes.push({ level: table.level, pa: table.pa + 8 * first, data: bytes(table, first, count) });
      }
    }
    return writes.sort((a, b) => b.level - a.level);
  }
}

function bytes(table: Table, first: number, count: number): Uint8Array {
  const { words } = table;
  return new Uint8Array(words.buffer, words.byteOffset + 8 * first, 8 * count).slice();
}

/** Neighbouring indexes as [first, count]. */
export function runs(indexes: ReadonlySet<number>): [number, number][] {
  const out: [number, number][] = [];
  for (const i of [...indexes].sort((a, b) => a - b)) {
    const last = out.at(-1);
    if (last !== undefined && last[0] + last[1] === i) last[1]++;
    else out.push([i, 1]);
  }
  return out;
}
