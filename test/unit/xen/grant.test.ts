import { assert, describe, test } from 'vitest';
import { GUEST_GNTTAB_BASE, GUEST_RAM0_BASE } from '#shared/abi/arch-arm.ts';
import { GNTST, GTF, grant_entry_v1 } from '#shared/abi/grant-table.ts';
import { GrantFailed } from '#shared/kernel/hypercalls.ts';
import { HostBench } from '../../support/host-bench.ts';

const REF = 9;
const ENTRY = GUEST_GNTTAB_BASE + REF * grant_entry_v1.size;
/** In dom0's extended region. */
const AT = 0x8300_0000;
const PAGE = GUEST_RAM0_BASE + 5 * 4096;

/** A guest that grants the page at PAGE to dom0 as REF. */
function granted(flags: number = GTF.permit_access): { host: HostBench; domid: number } {
  const host = new HostBench();
  const domid = host.guest();
  host.run(domid, function* ({ hypercalls, cpu }) {
    yield* hypercalls.add_to_physmap('grant_table', 0, GUEST_GNTTAB_BASE / 4096);
    yield* cpu.write(ENTRY, grant_entry_v1.encode({ flags, domid: 0, frame: PAGE / 4096 }));
    yield* cpu.write(PAGE, Uint8Array.of(1, 2, 3, 4));
  });
  return { host, domid };
}

const flagsOf = (host: HostBench, domid: number): number =>
  host.run(domid, function* ({ cpu }) {
    return grant_entry_v1.decode(yield* cpu.read(ENTRY, grant_entry_v1.size)).flags;
  });

function statusOf(run: () => unknown): number {
  try {
    run();
    return GNTST.okay;
  } catch (error) {
    if (error instanceof GrantFailed) return error.status;
    throw error;
  }
}

describe('grants', () => {
  test('a mapped page is shared, marked in use while it is mapped, and out of reach afterwards', () => {
    const { host, domid } = granted();
    const handle = host.run(0, ({ hypercalls }) => hypercalls.map_grant_ref(domid, REF, AT, false));
    assert.deepEqual([...host.run(0, ({ cpu }) => cpu.read(AT, 4))], [1, 2, 3, 4]);
    host.run(0, ({ cpu }) => cpu.write(AT, Uint8Array.of(7)));
    assert.deepEqual([...host.run(domid, ({ cpu }) => cpu.read(PAGE, 1))], [7]);
    assert.equal(flagsOf(host, domid), GTF.permit_access | GTF.reading | GTF.writing);
    host.run(0, ({ hypercalls }) => hypercalls.unmap_grant_ref(AT, handle));
    assert.equal(flagsOf(host, domid), GTF.permit_access);
    assert.throws(() => host.run(0, ({ cpu }) => cpu.read(AT, 4)));
    assert.equal(host.domain(domid).grantsActive, 0);
  });

  test('a read-only grant is mapped for reading only', () => {
    const { host, domid } = granted(GTF.permit_access | GTF.readonly);
    const map = (readonly: boolean) => () =>
      host.run(0, ({ hypercalls }) => hypercalls.map_grant_ref(domid, REF, AT, readonly));
    assert.equal(statusOf(map(false)), GNTST.general_error);
    assert.equal(flagsOf(host, domid), GTF.permit_access | GTF.readonly);
    assert.equal(statusOf(map(true)), GNTST.okay);
    assert.throws(() => host.run(0, ({ cpu }) => cpu.write(AT, Uint8Array.of(7))));
  });

  test('each mistake has its status', () => {
    const { host, domid } = granted();
    const third = host.guest();
    const map = (who: number, granter: number, ref: number, at = AT): number =>
      statusOf(() => host.run(who, ({ hypercalls }) => hypercalls.map_grant_ref(granter, ref, at, false)));
    assert.equal(map(third, domid, REF), GNTST.general_error);
    assert.equal(map(0, 77, REF), GNTST.bad_domain);
    assert.equal(map(0, domid, 512), GNTST.bad_gntref);
    assert.equal(map(0, domid, REF + 1), GNTST.general_error);
    assert.equal(map(0, domid, REF, 2 ** 41), GNTST.bad_virt_addr);
    const unmap = (handle: number): number =>
      statusOf(() => host.run(0, ({ hypercalls }) => hypercalls.unmap_grant_ref(AT, handle)));
    assert.equal(unmap(5), GNTST.bad_handle);
    assert.equal(host.domain(0).grantMaps, 0);
    assert.equal(host.domain(domid).grantsActive, 0);
  });

  test('a mapped page of a guest that ends stays with the mapper and is free when it is unmapped', () => {
    const { host, domid } = granted();
    const handle = host.run(0, ({ hypercalls }) => hypercalls.map_grant_ref(domid, REF, AT, false));
    host.destroy(domid);
    const free = host.xen().frames.free;
    assert.deepEqual([...host.run(0, ({ cpu }) => cpu.read(AT, 4))], [1, 2, 3, 4]);
    host.run(0, ({ hypercalls }) => hypercalls.unmap_grant_ref(AT, handle));
    assert.isAbove(host.xen().frames.free, free);
    assert.equal(host.domain(0).grantMaps, 0);
  });

  test('dom0 fills in entries of a table that its domain has not mapped yet, and holds on to a frame that it maps', () => {
    const { host, domid } = granted();
    const other = host.guest();
    const scratch = GUEST_GNTTAB_BASE / 4096;
    host.run(0, function* ({ hypercalls, cpu }) {
      yield* hypercalls.add_to_physmap('grant_table', 0, scratch, other);
      yield* hypercalls.map_foreign(other, [scratch], [AT / 4096]);
      const entry = grant_entry_v1.encode({ flags: GTF.permit_access, domid: 0, frame: PAGE / 4096 });
      yield* cpu.write(AT + grant_entry_v1.size, entry);
      yield* hypercalls.remove_from_physmap(scratch, other);
    });
    host.run(other, ({ hypercalls }) => hypercalls.add_to_physmap('grant_table', 0, scratch));
    const handle = host.run(0, ({ hypercalls }) => hypercalls.map_grant_ref(other, 1, AT + 4096, false));
    host.run(0, ({ hypercalls }) => hypercalls.unmap_grant_ref(AT + 4096, handle));
    host.destroy(other);
    const { free } = host.xen().frames;
    host.run(0, ({ hypercalls }) => hypercalls.remove_from_physmap(AT / 4096));
    assert.isAbove(host.xen().frames.free, free);
    assert.equal(host.domain(domid).grantsActive, 0);
  });

  test('a mapper that ends gives the entry back to its owner', () => {
    const { host, domid } = granted();
    const mapper = host.guest();
    host.run(domid, ({ cpu }) =>
      cpu.write(ENTRY, grant_entry_v1.encode({ flags: GTF.permit_access, domid: mapper, frame: PAGE / 4096 })),
    );
    host.run(mapper, ({ hypercalls }) => hypercalls.map_grant_ref(domid, REF, 0x3900_0000, false));
    assert.equal(host.domain(domid).grantsActive, 1);
    host.destroy(mapper);
    assert.equal(flagsOf(host, domid), GTF.permit_access);
    assert.equal(host.domain(domid).grantsActive, 0);
  });
});
