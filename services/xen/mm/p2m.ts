/**
 * A domain's physical-to-machine map: stage-2 tables in the machine's memory that the CPU port and the SMMU walk
 * (xen/arch/arm/mmu/p2m.c). An entry that was live is made invalid and invalidated in every TLB before its new value
 * is written. When an operation returns, tables and TLBs are as it says.
 * As in Xen, a mapping replaces what is there without looking.
 * Deviates: a table that becomes empty is freed at once, not when the domain ends.
 * Not modelled: mem_access, populate-on-demand, the contiguous bit; a domain sees none of them.
 */

import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { encodeVtcr, type Stage2Choice } from '#shared/arch/vmsa.ts';
import { assert } from '#shared/core/assert.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import type { Counts } from '../counts.ts';
import { type El2, physFill, physWrite, tlbiVmalls12e1is } from '../el2.ts';
import { check } from '../error.ts';
import { addressOf, type Frames, frameOf } from './frames.ts';
import { type DroppedLeaf, framesOf, P2M, type P2mType, Plan, Table } from './p2m-table.ts';

import { P2mView, type VmidPool } from './p2m-view.ts';

export { isRam, isWritable, P2M, type P2mType } from './p2m-table.ts';

/** ID_AA64MMFR0_EL1.PARange, which VTCR_EL2.PS repeats. */
const PS: ReadonlyMap<number, number> = new Map([
  [32, 0],
  [36, 1],
  [40, 2],
  [42, 3],
  [44, 4],
  [48, 5],
]);

export interface P2mEntry {
  readonly mfn: number;
  readonly type: P2mType;
  /** Frames from this one on that the same leaf maps in a row, this one included. */
  readonly run: number;
}

export interface Mapping {
  readonly gfn: number;
  readonly mfn: number;
  readonly count: number;
  readonly type: P2mType;
}

export interface P2mParts {
  readonly el2: El2;
  readonly frames: Frames;
  readonly counts: Counts;
}

export class P2m {
  readonly vmid: number;
  readonly rootPa: number;
  /** VTCR_EL2 for these tables. */
  readonly vtcr: number;
  readonly ipaBits: number;
  /** T0SZ, SL0 and PS as a stream table entry repeats them. */
  readonly geometry: Stage2Choice & { readonly ps: number };
  /** p2m->lock: who changes the tables holds it until the TLBs are done. */
  readonly lock: Lock;
  /**
   * Invalidates these VMIDs in the SMMUs. The SMMU driver sets it while a stream uses these tables or a view of them;
   * undefined when none does.
   */
  iommuFlush: ((vmids: readonly number[]) => Op<void>) | undefined;
  readonly #parts: P2mParts;
  readonly #root: Table;
  readonly #rootTables: number;
  readonly #views = new Set<P2mView>();
  #entries = 0;
  /** The tables are gone: nothing is mapped any more. */
  #dead = false;
  #tablePages: number;

  /** Allocates the root (XenError ENOMEM); `clear` has to run before anything walks it. */
  constructor(parts: P2mParts, vmid: number, choice: Stage2Choice) {
    this.#parts = parts;
    this.vmid = vmid;
    this.lock = new Lock(`p2m of vmid ${vmid}`);
    const ps = PS.get(choice.ipaBits)!;
    this.geometry = { ...choice, ps };
    this.ipaBits = choice.ipaBits;
    this.vtcr = encodeVtcr({ t0sz: choice.t0sz, sl0: choice.sl0, ps, vmid16: false });
    this.#rootTables = choice.rootTables;
    this.rootPa = parts.frames.allocAligned(choice.rootTables * XEN_PAGE_SIZE, choice.rootTables * XEN_PAGE_SIZE);
    this.#root = new Table(this.rootPa, choice.startLevel, choice.rootTables);
    this.#tablePages = choice.rootTables;
  }

  /** Zeroes the root in the machine's memory, and drops what TLBs hold of a former user of the VMID. */
  *clear(): Op<void> {
    yield* this.#parts.el2.batch([
      physFill(this.rootPa, this.#rootTables * XEN_PAGE_SIZE, 0),
      tlbiVmalls12e1is(this.vmid),
    ]);
    this.#countFlush();
  }

  /** Frames that are mapped. */
  get entries(): number {
    return this.#entries;
  }

  /** Frames that the tables take, and those of the views. */
  get tablePages(): number {
    let pages = this.#tablePages;
    for (const view of this.#views) pages += view.tablePages;
    return pages;
  }

  /** Every VMID under which something may have cached these tables. */
  get vmids(): readonly number[] {
    return [this.vmid, ...[...this.#views].map((view) => view.vmid)];
  }

  get views(): readonly P2mView[] {
    return [...this.#views];
  }

  /** The view in which a page leads to `mfn`; undefined when there is none. */
  view(mfn: number): P2mView | undefined {
    for (const view of this.#views) if (view.mfn === mfn) return view;
    return undefined;
  }

  /** Whether `count` frames from `gfn` on lie in the domain's address space. */
  inRange(gfn: number, count: number): boolean {
    return gfn >= 0 && count > 0 && gfn + count <= 2 ** this.ipaBits / XEN_PAGE_SIZE;
  }

  /** What is mapped at `gfn`; undefined when nothing is. */
  lookup(gfn: number): P2mEntry | undefined {
    if (!this.inRange(gfn, 1)) return undefined;
    for (let table: Table | undefined = this.#root; table !== undefined; ) {
      const perEntry = framesOf(table.level);
      const index: number = Math.floor(gfn / perEntry) % (table.words.length / 2);
      const kind = table.kind(index);
      if (kind === 'invalid') return undefined;
      if (kind === 'leaf') {
        const inEntry = gfn % perEntry;
        return { mfn: table.leafMfn(index) + inEntry, type: table.leafType(index), run: perEntry - inEntry };
      }
      table = table.children[index];
    }
    return undefined;
  }

  /** As lookup, when no change is half done: waits for the one under way. */
  *settled(gfn: number): Op<P2mEntry | undefined> {
    yield { step: 'lock', lock: this.lock };
    try {
      return this.lookup(gfn);
    } finally {
      this.lock.release();
    }
  }

  /**
   * Maps `count` frames. For foreign and grant types the caller has taken a reference to each frame, which the mapping
   * keeps and drops when it goes. Throws XenError EINVAL beyond the address space, ENOMEM without a frame for a table
   * (what was mapped before it stays).
   */
  *map(gfn: number, mfn: number, count: number, type: P2mType): Op<void> {
    yield* this.mapAll([{ gfn, mfn, count, type }]);
  }

  /** As `map`, with one break-before-make and one invalidation for all. */
  *mapAll(mappings: readonly Mapping[]): Op<void> {
    for (const m of mappings) check(this.inRange(m.gfn, m.count), 'EINVAL', `gfn 0x${m.gfn.toString(16)}`);
    yield* this.#change((plan) => {
      for (const m of mappings) plan.set(this.#root, m.gfn, m.count, m.mfn, m.type);
    });
  }

  /** Unmaps whatever is mapped there. Throws as `map` (splitting a block takes a frame). */
  *unmap(gfn: number, count: number): Op<void> {
    check(this.inRange(gfn, count), 'EINVAL', `gfn 0x${gfn.toString(16)}`);
    yield* this.#change((plan) => plan.set(this.#root, gfn, count, undefined, P2M.invalid));
  }

  /** Unmaps single frames with one invalidation. */
  *unmapAll(gfns: readonly number[]): Op<void> {
    yield* this.#change((plan) => {
      for (const gfn of gfns) plan.set(this.#root, gfn, 1, undefined, P2M.invalid);
    });
  }

  /**
   * A view in which `gfn` leads to the device page `mfn`, and everything else is as here, now and after every change.
   * Throws XenError EBUSY (no VMID is free), ENOMEM, EINVAL; nothing is left then.
   */
  openView(gfn: number, mfn: number, vmids: VmidPool): Op<P2mView> {
    return withLock(this.lock, () => this.#openView(gfn, mfn, vmids));
  }

  /** The view goes, with its VMID. No stream walks it, and no SMMU has anything of it. */
  closeView(view: P2mView, vmids: VmidPool): Op<void> {
    return withLock(this.lock, () => this.#closeView(view, vmids));
  }

  *#openView(gfn: number, mfn: number, vmids: VmidPool): Op<P2mView> {
    check(!this.#dead && this.inRange(gfn, 1), 'EINVAL', `gfn 0x${gfn.toString(16)}`);
    const vmid = vmids.allocVmid();
    let view: P2mView;
    try {
      view = new P2mView(this.#parts.frames, vmid, this.geometry, gfn, mfn);
    } catch (error) {
      vmids.freeVmid(vmid);
      throw error;
    }
    yield* this.#parts.el2.batch(view.create(this.#root).map((w) => physWrite(w.pa, w.data)));
    this.#views.add(view);
    return view;
  }

  *#closeView(view: P2mView, vmids: VmidPool): Op<void> {
    this.#views.delete(view);
    yield* this.#parts.el2.batch(view.pieces.map((piece) => physFill(piece.pa, piece.sizeBytes, 0)));
    view.free();
    vmids.freeVmid(view.vmid);
  }

  /** Unmaps everything and frees the tables, root included. The CPU port and every stream are off these tables. */
  *teardown(): Op<void> {
    yield* withLock(this.lock, () => this.#teardownLocked());
  }

  *#teardownLocked(): Op<void> {
    assert(this.#views.size === 0, 'a view outlives the tables that it shares');
    const everything = 2 ** this.ipaBits / XEN_PAGE_SIZE;
    yield* this.#changeLocked((plan) => plan.set(this.#root, 0, everything, undefined, P2M.invalid));
    this.#dead = true;
    const bytes = this.#rootTables * XEN_PAGE_SIZE;
    yield* this.#parts.el2.batch([physFill(this.rootPa, bytes, 0), tlbiVmalls12e1is(this.vmid)]);
    this.#countFlush();
    if (this.iommuFlush !== undefined) yield* this.iommuFlush(this.vmids);
    this.#parts.frames.freeAligned(this.rootPa, bytes);
    this.#tablePages -= this.#rootTables;
  }

  *#change(edit: (plan: Plan) => void): Op<void> {
    yield* withLock(this.lock, () => this.#changeLocked(edit));
  }

  *#changeLocked(edit: (plan: Plan) => void): Op<void> {
    check(!this.#dead, 'EINVAL', 'the domain is gone');
    const { el2, frames } = this.#parts;
    const plan = new Plan(() => {
      const pa = addressOf(frames.allocPages(0));
      this.#tablePages++;
      return pa;
    });
    let failed: unknown;
    try {
      edit(plan);
    } catch (error) {
      failed = error; // the copy has changed up to here: the machine follows before the caller hears of it
    }
    this.#entries += plan.frames;
    const followed = [...this.#views].map((view) => view.follow(this.#root));
    const makes = [...plan.makes(), ...followed.flatMap((f) => f.makes)].map((w) => physWrite(w.pa, w.data));
    const breaks = [...plan.breaks(), ...followed.flatMap((f) => f.breaks)].map((w) => physWrite(w.pa, w.data));
    if (plan.needsFlush || breaks.length > 0) {
      const alone = this.iommuFlush === undefined;
      yield* el2.batch([...breaks, tlbiVmalls12e1is(this.vmid), ...(alone ? makes : [])]);
      this.#countFlush();
      if (this.iommuFlush !== undefined) {
        yield* this.iommuFlush(this.vmids);
        if (makes.length > 0) yield* el2.batch(makes);
      }
    } else if (makes.length > 0) yield* el2.batch(makes);
    yield* this.#release(plan.dropped, plan.freedTables);
    if (failed !== undefined) throw failed;
  }

  /** After the invalidation: references of mappings that are gone, and tables that were emptied. */
  *#release(dropped: readonly DroppedLeaf[], tables: readonly number[]): Op<void> {
    const { el2, frames } = this.#parts;
    const free = tables.map(frameOf);
    this.#tablePages -= tables.length;
    for (const leaf of dropped) {
      for (let i = 0; i < leaf.count; i++) if (frames.putPage(leaf.mfn + i)) free.push(leaf.mfn + i);
    }
    if (free.length === 0) return;
    yield* el2.batch(free.map((mfn) => physFill(addressOf(mfn), XEN_PAGE_SIZE, 0)));
    for (const mfn of free) frames.freePages(mfn, 0);
  }

  #countFlush(): void {
    this.#parts.counts.add('tlbInvalidations', 'TLBI_VMALLS12E1IS');
  }
}
