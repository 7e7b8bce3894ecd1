/**
 * Grant table of one domain, version 1 (xen/common/grant_table.c): the shared entries are in frames of the machine's
 * memory that the domain maps; Xen checks an entry and marks it with GTF_reading and GTF_writing while it is mapped.
 * A host mapping goes into the mapping domain's p2m and holds a reference to the frame, so that a granting domain that
 * dies takes nothing away from under it.
 * Not modelled: GNTMAP_device_map alone, application and contains_pte maps, transfer, copy, version 2 (disabled on ARM,
 * XSA-268), setup_table (a domain on ARM maps its frames by XENMAPSPACE_grant_table): general_error or ENOSYS.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { GNTMAP, GNTST, GRANT_ENTRIES_PER_FRAME, GTF, grant_entry_v1 } from '#shared/abi/grant-table.ts';
import { assert } from '#shared/core/assert.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import type { Domain } from '../domain/domain.ts';
import { bytes32, type El2, physClearBits, physFill, physRead, physSetBits, word } from '../el2.ts';
import { check, XenError } from '../error.ts';
import { addressOf, type Frames } from '../mm/frames.ts';
import { isRam, P2M } from '../mm/p2m.ts';

/** A grant operation's own status, GNTST_*; the hypercall itself succeeds. */
class GrantError extends Error {
  override name = 'GrantError';
  readonly status: number;

  constructor(status: number, text: string) {
    super(text);
    this.status = status;
  }
}

/** What is mapped of one shared entry (struct active_grant_entry). */
interface Active {
  readonly mfn: number;
  readers: number;
  writers: number;
}

/** struct grant_mapping */
interface Maptrack {
  readonly granter: Domain;
  readonly ref: number;
  readonly gfn: number;
  readonly mfn: number;
  readonly readonly: boolean;
}

export interface MapRequest {
  readonly hostAddr: number;
  readonly flags: number;
  readonly ref: number;
}

export class GrantTable {
  readonly #domain: Domain;
  readonly #el2: El2;
  readonly #frames: Frames;
  /** Machine frames of the shared table. */
  readonly #shared: number[] = [];
  readonly #active = new Map<number, Active>();
  readonly #maptrack = new Map<number, Maptrack>();
  /** grant_table->lock: an entry's marks follow its counts. */
  readonly #lock: Lock;
  #destroyed = false;

  constructor(domain: Domain, el2: El2, frames: Frames) {
    this.#domain = domain;
    this.#el2 = el2;
    this.#frames = frames;
    this.#lock = new Lock(`grants of d${domain.domid}`);
  }

  /** Frames of the shared table now. */
  get frameCount(): number {
    return this.#shared.length;
  }

  get frameMax(): number {
    return this.#domain.config.grantFramesMax;
  }

  /** Mappings that this domain holds of others' grants. */
  get mapCount(): number {
    return this.#maptrack.size;
  }

  /** Entries of this table that somebody has mapped. */
  get activeCount(): number {
    return this.#active.size;
  }

  /** Machine frame `index` of the shared table, which grows to it. Throws XenError EINVAL beyond the maximum, ENOMEM. */
  *frame(index: number): Op<number> {
    check(!this.#destroyed && index < this.frameMax, 'EINVAL', `grant frame ${index} of ${this.frameMax}`);
    while (this.#shared.length <= index) {
      const mfn = this.#frames.allocPages(0);
      // share_xen_page_with_guest: the toolstack maps it as foreign, to fill in the reserved entries.
      this.#frames.assign(mfn, 1, this.#domain.domid);
      this.#shared.push(mfn);
      yield* this.#el2.batch([physFill(addressOf(mfn), XEN_PAGE_SIZE, 0)]);
    }
    return this.#shared[index]!;
  }

  /** Whether `mfn` is a frame of the shared table. */
  holdsFrame(mfn: number): boolean {
    return this.#shared.includes(mfn);
  }

  /** Maps `ref` of `granter` at `hostAddr` of this domain. `status` is GNTST_okay or what was wrong. */
  *map(granter: Domain, request: MapRequest): Op<{ status: number; handle: number; devBusAddr: number }> {
    try {
      const { handle, mfn } = yield* this.#map(granter, request);
      return { status: GNTST.okay, handle, devBusAddr: addressOf(mfn) };
    } catch (error) {
      return { status: statusOf(error), handle: 0, devBusAddr: 0 };
    }
  }

  *#map(granter: Domain, { hostAddr, flags, ref }: MapRequest): Op<{ handle: number; mfn: number }> {
    need((flags & GNTMAP.host_map) !== 0, GNTST.general_error, 'only host mappings are made');
    need(this.#maptrack.size < this.#domain.config.maptrackFramesMax * 256, GNTST.no_device_space, 'maptrack is full');
    need(hostAddr % XEN_PAGE_SIZE === 0, GNTST.general_error, `host address 0x${hostAddr.toString(16)}`);
    const gfn = hostAddr / XEN_PAGE_SIZE;
    need(this.#domain.p2m.inRange(gfn, 1), GNTST.bad_virt_addr, `host address 0x${hostAddr.toString(16)}`);
    const readonly = (flags & GNTMAP.readonly) !== 0;
    const mfn = yield* granter.grants.#pin(this.#domain, ref, readonly);
    try {
      yield* this.#domain.p2m.map(gfn, mfn, 1, readonly ? P2M.grant_map_ro : P2M.grant_map_rw);
    } catch (error) {
      // The mapping was not made, so the reference that it would hold is dropped here.
      yield* this.#put(mfn);
      yield* granter.grants.#unpin(ref, readonly);
      throw error;
    }
    const handle = this.#freeHandle();
    this.#maptrack.set(handle, { granter, ref, gfn, mfn, readonly });
    return { handle, mfn };
  }

  /** Unmaps `handle`, which must stand at `hostAddr`. Returns GNTST_*. */
  *unmap(hostAddr: number, handle: number): Op<number> {
    const entry = this.#maptrack.get(handle);
    if (entry === undefined) return GNTST.bad_handle;
    if (entry.gfn !== hostAddr / XEN_PAGE_SIZE) return GNTST.general_error;
    yield* this.#release(handle, entry);
    return GNTST.okay;
  }

  /** Drops every mapping that this domain holds (gnttab_release_mappings). */
  *releaseMappings(): Op<void> {
    for (const [handle, entry] of [...this.#maptrack]) yield* this.#release(handle, entry);
  }

  *#release(handle: number, entry: Maptrack): Op<void> {
    this.#maptrack.delete(handle);
    const there = this.#domain.p2m.lookup(entry.gfn);
    // The guest may have mapped something else over it: then the reference went with the old entry.
    const type = entry.readonly ? P2M.grant_map_ro : P2M.grant_map_rw;
    if (there?.mfn === entry.mfn && there.type === type) yield* this.#domain.p2m.unmap(entry.gfn, 1);
    yield* entry.granter.grants.#unpin(entry.ref, entry.readonly);
  }

  /** The table's own frames go. Entries that are still mapped keep the granted frames by their references. */
  *destroy(): Op<void> {
    this.#destroyed = true;
    const frames = this.#shared.splice(0);
    if (frames.length === 0) return;
    yield* this.#el2.batch(frames.map((mfn) => physFill(addressOf(mfn), XEN_PAGE_SIZE, 0)));
    for (const mfn of frames) if (this.#frames.putPage(mfn)) this.#frames.freePages(mfn, 0);
  }

  /** Checks an entry of this table for `mapper` and marks it in use. Returns the frame, with a reference taken. */
  #pin(mapper: Domain, ref: number, readonly: boolean): Op<number> {
    return withLock(this.#lock, () => this.#pinLocked(mapper, ref, readonly));
  }

  *#pinLocked(mapper: Domain, ref: number, readonly: boolean): Op<number> {
    const at = this.#entryPa(ref);
    need(at !== undefined, GNTST.bad_gntref, `ref ${ref} of d${this.#domain.domid}`);
    const seen = yield* this.#el2.read(at, grant_entry_v1.size);
    this.#checkEntry(seen, mapper, ref, readonly);
    need(!this.#destroyed, GNTST.bad_domain, `d${this.#domain.domid} is gone`);
    // Marked, then looked at again: from here on the owner cannot take it back unseen.
    const marks = bytes32(readonly ? GTF.reading : GTF.reading | GTF.writing);
    const [before, whole] = yield* this.#el2.batch([physSetBits(at, marks), physRead(at, grant_entry_v1.size)]);
    try {
      need(!this.#destroyed, GNTST.bad_domain, `d${this.#domain.domid} is gone`);
      const { frame } = this.#checkEntry(whole!.data, mapper, ref, readonly);
      const same = ((word(before!.data) ^ word(seen)) & ~(GTF.reading | GTF.writing)) === 0;
      need(same, GNTST.eagain, `ref ${ref} of d${this.#domain.domid} changes`);
      const page = this.#domain.p2m.lookup(frame);
      need(page !== undefined && isRam(page.type), GNTST.bad_page, `gfn ${frame} is no memory`);
      const active = this.#active.get(ref) ?? { mfn: page.mfn, readers: 0, writers: 0 };
      need(active.mfn === page.mfn, GNTST.general_error, `ref ${ref} changed its frame while mapped`);
      need(this.#frames.getPage(page.mfn, this.#domain.domid), GNTST.bad_page, `mfn ${page.mfn} is another’s`);
      if (readonly) active.readers++;
      else active.writers++;
      this.#active.set(ref, active);
      return page.mfn;
    } catch (error) {
      yield* this.#unmark(ref);
      throw error;
    }
  }

  #checkEntry(entry: Uint8Array, mapper: Domain, ref: number, readonly: boolean): { readonly frame: number } {
    const { flags, domid, frame } = grant_entry_v1.decode(entry);
    need(
      (flags & GTF.type_mask) === GTF.permit_access && domid === mapper.domid,
      GNTST.general_error,
      `ref ${ref} of d${this.#domain.domid} is not granted to d${mapper.domid}`,
    );
    need(readonly || (flags & GTF.readonly) === 0, GNTST.general_error, `ref ${ref} is read-only`);
    return { frame };
  }

  #unpin(ref: number, readonly: boolean): Op<void> {
    return withLock(this.#lock, () => this.#unpinLocked(ref, readonly));
  }

  *#unpinLocked(ref: number, readonly: boolean): Op<void> {
    const active = this.#active.get(ref);
    assert(active !== undefined, `ref ${ref} of d${this.#domain.domid} was unmapped twice`);
    if (readonly) active.readers--;
    else active.writers--;
    if (active.readers + active.writers === 0) this.#active.delete(ref);
    yield* this.#unmark(ref);
  }

  /** Physical address of an entry; undefined beyond the table, or when the table is gone. */
  #entryPa(ref: number): number | undefined {
    const frame = this.#shared[Math.floor(ref / GRANT_ENTRIES_PER_FRAME)];
    if (frame === undefined) return undefined;
    return addressOf(frame) + grant_entry_v1.size * (ref % GRANT_ENTRIES_PER_FRAME);
  }

  /** Clears the marks that no mapping needs any more. */
  *#unmark(ref: number): Op<void> {
    const at = this.#entryPa(ref);
    if (at === undefined) return;
    const active = this.#active.get(ref);
    let marks = 0;
    if (active === undefined || active.writers === 0) marks |= GTF.writing;
    if (active === undefined) marks |= GTF.reading;
    if (marks !== 0) yield* this.#el2.batch([physClearBits(at, bytes32(marks))]);
  }

  *#put(mfn: number): Op<void> {
    if (!this.#frames.putPage(mfn)) return;
    yield* this.#el2.batch([physFill(addressOf(mfn), XEN_PAGE_SIZE, 0)]);
    this.#frames.freePages(mfn, 0);
  }

  #freeHandle(): number {
    let handle = 0;
    while (this.#maptrack.has(handle)) handle++;
    return handle;
  }
}

function need(condition: boolean, status: number, text: string): asserts condition {
  if (!condition) throw new GrantError(status, text);
}

function statusOf(error: unknown): number {
  if (error instanceof GrantError) return error.status;
  if (error instanceof XenError) return GNTST.general_error;
  throw error;
}
