/**
 * Grants of memory between domains, as a kernel uses them (xen/include/public/grant_table.h, version 1 entries;
 * Linux drivers/xen/grant-table.c): the granting side owns a table of entries, the mapping side asks Xen.
 * Not modelled: version 2 entries (off on ARM), transfer, copy, sub-page grants.
 * Deviates: revoking makes an entry invalid at once even while it is mapped, where Linux leaves it valid and tries
 * again; nobody can map it any more, and the page stays taken until `revoke` gives true.
 */

import { XEN_PAGE_SHIFT, XEN_PAGE_SIZE } from '../abi/arch-arm.ts';
import { GNTTAB_RESERVED, GRANT_ENTRIES_PER_FRAME, GTF, grant_entry_v1 } from '../abi/grant-table.ts';
import { assert } from '../core/assert.ts';
import type { Op } from '../core/op.ts';
import { type CpuBus, writeOp } from './cpu-bus.ts';
import type { Hypercalls } from './hypercalls.ts';

/** Every entry is in use: what gnttab_alloc_grant_references answers -ENOSPC for. */
export class NoGrantEntry extends Error {
  override name = 'NoGrantEntry';
}

export class GrantTable {
  readonly #cpu: CpuBus;
  readonly #hypercalls: Hypercalls;
  readonly #table: number;
  readonly #frames: number;
  /** Free references, the lowest taken first. */
  readonly #free: number[] = [];
  readonly #used = new Set<number>();

  /** The table is seen at `tableIpa` (a page address), `frames` pages of 512 entries. Call `init` before the first grant. */
  constructor(cpu: CpuBus, hypercalls: Hypercalls, tableIpa: number, frames: number) {
    assert(tableIpa % XEN_PAGE_SIZE === 0 && frames > 0, 'a grant table is whole pages');
    this.#cpu = cpu;
    this.#hypercalls = hypercalls;
    this.#table = tableIpa;
    this.#frames = frames;
    // The first eight belong to the toolstack (console, xenstore).
    for (let ref = frames * GRANT_ENTRIES_PER_FRAME - 1; ref >= GNTTAB_RESERVED.count; ref--) this.#free.push(ref);
  }

  /** Maps the table's frames (XENMEM_add_to_physmap, XENMAPSPACE_grant_table). */
  *init(): Op<void> {
    for (let i = 0; i < this.#frames; i++) {
      yield* this.#hypercalls.add_to_physmap('grant_table', i, this.#table / XEN_PAGE_SIZE + i);
    }
  }

  /** Grants in use. */
  get granted(): number {
    return this.#used.size;
  }

  /** Lets `domid` map our page `gfn`; gives the reference. Throws NoGrantEntry when the table is full. */
  *grant(domid: number, gfn: number, readonly: boolean): Op<number> {
    const ref = this.#free.pop();
    if (ref === undefined) throw new NoGrantEntry(`no grant entry is left for frame 0x${gfn.toString(16)}`);
    this.#used.add(ref);
    const entry = this.#entry(ref);
    const bytes = grant_entry_v1.encode({
      domid,
      frame: gfn,
      flags: GTF.permit_access | (readonly ? GTF.readonly : 0),
    });
    try {
      // The flags make the entry valid, so they are stored last.
      yield* this.#cpu.batch([writeOp(entry + 2, bytes.slice(2)), writeOp(entry, bytes.slice(0, 2))]);
    } catch (error) {
      this.#release(ref);
      throw error;
    }
    return ref;
  }

  /** Ends a grant. False while the other domain still has the page mapped: the page must be kept, and this tried again. */
  *revoke(ref: number): Op<boolean> {
    assert(this.#used.has(ref), () => `grant reference ${ref} is not in use`);
    const was = yield* this.#cpu.clearBits32(this.#entry(ref), GTF.type_mask | GTF.readonly);
    if ((was & (GTF.reading | GTF.writing)) !== 0) return false;
    this.#release(ref);
    return true;
  }

  #release(ref: number): void {
    this.#used.delete(ref);
    this.#free.push(ref);
  }

  #entry(ref: number): number {
    return this.#table + ref * grant_entry_v1.size;
  }
}

/** Maps the page that `domid` granted as `ref` at our page address `atIpa`; gives the handle. Throws GrantFailed. */
export function mapGrant(
  hypercalls: Hypercalls,
  domid: number,
  ref: number,
  atIpa: number,
  readonly = false,
): Op<number> {
  assert(atIpa % (1 << XEN_PAGE_SHIFT) === 0, 'a grant is mapped at a page');
  return hypercalls.map_grant_ref(domid, ref, atIpa, readonly);
}

/** Unmaps what `mapGrant` mapped at `atIpa`. Throws GrantFailed. */
export function unmapGrant(hypercalls: Hypercalls, atIpa: number, handle: number): Op<void> {
  return hypercalls.unmap_grant_ref(atIpa, handle);
}
