import { assert, test } from 'vitest';
import { GTF, grant_entry_v1 } from '#shared/abi/grant-table.ts';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import { GrantTable, NoGrantEntry } from '#shared/kernel/grants.ts';
import { Hypercalls } from '#shared/kernel/hypercalls.ts';
import { BareKernel, GuestMachine } from '../domu/machine.ts';

const TABLE = 0x3800_0000;

function bench() {
  const machine = new GuestMachine();
  const kernel = new BareKernel(machine);
  const grants = new GrantTable(new CpuBus(), new Hypercalls(), TABLE, 1);
  const entry = (ref: number) => grant_entry_v1.decode(machine.read(TABLE + ref * 8, 8));
  const setFlags = (ref: number, flags: number) =>
    machine.write(TABLE + ref * 8, Uint8Array.of(entry(ref).flags | flags, 0));
  return { machine, kernel, grants, entry, setFlags };
}

test('a grant is an entry behind the eight reserved ones, with the flags stored last', () => {
  const { machine, kernel, grants, entry } = bench();
  const ref = kernel.run(grants.grant(3, 0x4_1234, true));
  assert.equal(ref, 8);
  assert.deepEqual(entry(ref), { flags: GTF.permit_access | GTF.readonly, domid: 3, frame: 0x4_1234 });
  assert.deepEqual(
    machine.cpuBatches.at(-1)?.map((op) => op.ipa - TABLE - ref * 8),
    [2, 0],
  );
});

test('a revoked entry permits nothing and its reference is used again', () => {
  const { kernel, grants, entry } = bench();
  const ref = kernel.run(grants.grant(0, 0x4_0000, false));
  assert.isTrue(kernel.run(grants.revoke(ref)));
  assert.equal(entry(ref).flags & GTF.type_mask, GTF.invalid);
  assert.equal(kernel.run(grants.grant(0, 0x4_0001, false)), ref);
});

test('a grant that is mapped is revoked only once the other domain let go', () => {
  const { machine, kernel, grants, setFlags, entry } = bench();
  const ref = kernel.run(grants.grant(0, 0x4_0000, false));
  setFlags(ref, GTF.reading | GTF.writing);
  assert.isFalse(kernel.run(grants.revoke(ref)));
  assert.equal(entry(ref).flags, GTF.reading | GTF.writing);
  assert.equal(grants.granted, 1);
  machine.write(TABLE + ref * 8, Uint8Array.of(0, 0));
  assert.isTrue(kernel.run(grants.revoke(ref)));
  assert.equal(grants.granted, 0);
});

test('a full table refuses the next grant', () => {
  const { kernel, grants } = bench();
  for (let i = 0; i < 504; i++) kernel.run(grants.grant(0, i, false));
  assert.throws(() => kernel.run(grants.grant(0, 504, false)), NoGrantEntry);
});
