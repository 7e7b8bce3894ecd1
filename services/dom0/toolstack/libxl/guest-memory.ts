/**
 * What the toolstack writes into a guest's memory before it runs, through foreign mappings of its pages (libxc
 * xg_dom_core.c, xg_dom_boot.c: xc_dom_gnttab_seed, xc_clear_domain_page).
 * Deviates: the store page says XENSTORE_RECONNECT until xenstored has mapped it, as init-dom0less does it and libxl does
 * not, since INTRODUCE is answered before the page is mapped.
 */
import { GUEST_GNTTAB_BASE, XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { GNTTAB_RESERVED, GTF, grant_entry_v1 } from '#shared/abi/grant-table.ts';
import { XENSTORE_CONNECTION, XS_RING, xs_ring_words } from '#shared/abi/xs-ring.ts';
import { type Op, Undo } from '#shared/core/op.ts';
import { type Libxl, plain, undoFailed } from './context.ts';

/** Where console and store run: in dom0. */
const BACKEND_DOMID = 0;

/** Writes into a domain's memory through foreign mappings of its pages. */
export function* writeGuest(ctx: Libxl, domid: number, ipa: number, data: Uint8Array): Op<void> {
  const { hypercalls, region, cpu } = ctx.kernel;
  const gfn = ipa / XEN_PAGE_SIZE;
  const count = Math.ceil(data.length / XEN_PAGE_SIZE);
  const at = Array.from({ length: count }, () => region.take());
  const undo = new Undo();
  undo.push(
    'region',
    plain(() => {
      for (const page of at) region.give(page);
    }),
  );
  try {
    yield* hypercalls.map_foreign(
      domid,
      Array.from({ length: count }, (_, i) => gfn + i),
      at,
    );
    for (const page of at) undo.push('foreign page', () => hypercalls.remove_from_physmap(page));
    for (let i = 0; i < count; i++) {
      yield* cpu.write(at[i]! * XEN_PAGE_SIZE, data.subarray(i * XEN_PAGE_SIZE, (i + 1) * XEN_PAGE_SIZE));
    }
  } finally {
    yield* undo.run(undoFailed(ctx));
  }
}

/**
 * The reserved entries of a guest's grant table: its console and its store page, granted to dom0. The table's frame is
 * put where the guest will have it, and taken away again, for the guest to map it itself.
 */
export function* seedGrantTable(
  ctx: Libxl,
  domid: number,
  pages: { readonly consoleGfn: number; readonly storeGfn: number },
): Op<void> {
  const { hypercalls } = ctx.kernel;
  const entries = new Uint8Array(GNTTAB_RESERVED.count * grant_entry_v1.size);
  for (const [ref, frame] of [
    [GNTTAB_RESERVED.console, pages.consoleGfn],
    [GNTTAB_RESERVED.xenstore, pages.storeGfn],
  ] as const) {
    const entry = { flags: GTF.permit_access, domid: BACKEND_DOMID, frame };
    grant_entry_v1.encodeInto(entries, entry, ref * grant_entry_v1.size);
  }
  const scratchGfn = GUEST_GNTTAB_BASE / XEN_PAGE_SIZE;
  yield* hypercalls.add_to_physmap('grant_table', 0, scratchGfn, domid);
  try {
    yield* writeGuest(ctx, domid, GUEST_GNTTAB_BASE, entries);
  } finally {
    yield* hypercalls.remove_from_physmap(scratchGfn, domid);
  }
}

/** An empty store ring that nobody serves yet. */
export function* initStorePage(ctx: Libxl, domid: number, storeGfn: number): Op<void> {
  const page = new Uint8Array(XS_RING.words + xs_ring_words.size);
  xs_ring_words.encodeInto(page, { connection: XENSTORE_CONNECTION.RECONNECT }, XS_RING.words);
  yield* writeGuest(ctx, domid, storeGfn * XEN_PAGE_SIZE, page);
}
