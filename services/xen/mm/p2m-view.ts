/**
 * A second root for a domain's stage-2 tables that differs from the first in one page: what devices behind one ITS walk,
 * so that the guest's one doorbell address leads to that ITS (docs/decisions/0016-one-doorbell-several-its.md).
 * Only the tables on the way to that page are its own, one a level; every other entry of them is the same as in the
 * domain's tables, so all else is shared. It has a VMID of its own, as an SMMU may take one VMID for one set of tables.
 * Whoever changes the domain's tables lets the view `follow` in the same break-before-make.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { type Stage2Choice, TABLE_ENTRIES, writeLeaf, writeTable } from '#shared/arch/vmsa.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { addressOf, type Frames, frameOf } from './frames.ts';
import { framesOf, leafAttributes, P2M, type P2mType, runs, Table } from './p2m-table.ts';

/** Where VMIDs come from: they are one space for domains and views. */
export interface VmidPool {
  /** Throws XenError EBUSY when all are in use. */
  allocVmid(): number;
  freeVmid(vmid: number): void;
}

interface Write {
  readonly pa: number;
  readonly data: Uint8Array;
}

/** A block that covers what a table of the view splits up. */
interface Block {
  readonly mfn: number;
  readonly type: P2mType;
}

export class P2mView {
  readonly vmid: number;
  readonly rootPa: number;
  readonly ipaBits: number;
  readonly geometry: Stage2Choice & { readonly ps: number };
  /** The page that differs, and what it leads to here. */
  readonly gfn: number;
  readonly mfn: number;
  /** How many devices walk it. */
  users = 0;
  readonly #frames: Frames;
  readonly #rootTables: number;
  /** Root first, level 3 last. */
  readonly #tables: Table[] = [];

  /** Allocates its tables; throws XenError ENOMEM and leaves nothing then. `create` has to be written before a walk. */
  constructor(
    frames: Frames,
    vmid: number,
    geometry: Stage2Choice & { readonly ps: number },
    gfn: number,
    mfn: number,
  ) {
    this.#frames = frames;
    this.vmid = vmid;
    this.geometry = geometry;
    this.ipaBits = geometry.ipaBits;
    this.gfn = gfn;
    this.mfn = mfn;
    this.#rootTables = geometry.rootTables;
    const rootBytes = geometry.rootTables * XEN_PAGE_SIZE;
    this.rootPa = frames.allocAligned(rootBytes, rootBytes);
    this.#tables.push(new Table(this.rootPa, geometry.startLevel, geometry.rootTables));
    try {
      for (let level = geometry.startLevel + 1; level <= 3; level++) {
        this.#tables.push(new Table(addressOf(frames.allocPages(0)), level));
      }
    } catch (error) {
      this.free();
      throw error;
    }
  }

  /** Frames that it takes. */
  get tablePages(): number {
    return this.#rootTables + this.#tables.length - 1;
  }

  /** The tables, to be filled with zeros once nothing walks them. */
  get pieces(): readonly { readonly pa: number; readonly sizeBytes: number }[] {
    return this.#tables.map((t) => ({ pa: t.pa, sizeBytes: t.words.byteLength }));
  }

  /** What to write at first: every table whole, deepest first. */
  create(root: Table): Write[] {
    this.follow(root);
    this.#tables.forEach((table, depth) => {
      const index = this.#indexIn(table);
      const next = this.#tables[depth + 1];
      if (next !== undefined) writeTable(table.words, index, next.pa);
      else writeLeaf(table.words, index, 3, this.mfn * XEN_PAGE_SIZE, leafAttributes(P2M.mmio_direct_dev));
    });
    return [...this.#tables].reverse().map((t) => ({ pa: t.pa, data: bytesOf(t.words).slice() }));
  }

  /**
   * Takes over what the domain's tables say now. `breaks` are writes that make changed live entries invalid, `makes` those
   * of the new values, to be written when nothing has the old ones any more and after the domain's own.
   */
  follow(root: Table): { breaks: Write[]; makes: Write[] } {
    const breaks: Write[] = [];
    const makes: Write[] = [];
    let source: Table | undefined = root;
    let block: Block | undefined;
    for (const table of this.#tables) {
      const index = this.#indexIn(table);
      const wanted: Uint32Array = source?.words ?? wordsOfBlock(block, table);
      const live = new Set<number>();
      const valid = new Set<number>();
      for (let i = 0; i < table.words.length / 2; i++) {
        if (i === index) continue;
        const lo = wanted[2 * i]!;
        const hi = wanted[2 * i + 1]!;
        if (table.words[2 * i] === lo && table.words[2 * i + 1] === hi) continue;
        if (table.kind(i) !== 'invalid') live.add(i);
        table.words[2 * i] = lo;
        table.words[2 * i + 1] = hi;
        if (table.kind(i) !== 'invalid') valid.add(i);
      }
      for (const [first, count] of runs(live)) {
        breaks.push({ pa: table.pa + 8 * first, data: new Uint8Array(8 * count) });
      }
      for (const [first, count] of runs(valid)) {
        makes.push({ pa: table.pa + 8 * first, data: bytesOf(table.words.slice(2 * first, 2 * (first + count))) });
      }
      block = source === undefined ? partOf(block, table, index) : blockAt(source, index);
      source = source?.children[index];
    }
    return { breaks, makes };
  }

  /** Gives its frames back. Nothing walks them. */
  free(): void {
    const [root, ...rest] = this.#tables;
    this.#frames.freeAligned(root!.pa, this.#rootTables * XEN_PAGE_SIZE);
    for (const table of rest) this.#frames.freePages(frameOf(table.pa), 0);
  }

  #indexIn(table: Table): number {
    return Math.floor(this.gfn / framesOf(table.level)) % (table.words.length / 2);
  }
}

function blockAt(table: Table, index: number): Block | undefined {
  if (table.kind(index) !== 'leaf') return undefined;
  return { mfn: table.leafMfn(index), type: table.leafType(index) };
}

function partOf(block: Block | undefined, table: Table, index: number): Block | undefined {
  return block === undefined ? undefined : { ...block, mfn: block.mfn + index * framesOf(table.level) };
}

/** A table that maps what the block does, or nothing. */
function wordsOfBlock(block: Block | undefined, table: Table): Uint32Array {
  const words = new Uint32Array(table.words.length);
  if (block === undefined) return words;
  for (let i = 0; i < TABLE_ENTRIES; i++) {
    const mfn = block.mfn + i * framesOf(table.level);
    writeLeaf(words, i, table.level, mfn * XEN_PAGE_SIZE, leafAttributes(block.type));
  }
  return words;
}
