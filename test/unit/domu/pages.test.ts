import { assert, test } from 'vitest';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import { OutOfMemory, Pages } from '../../../services/domu/kernel/pages.ts';
import { BareKernel, GuestMachine } from './machine.ts';

const MIB = 1024 * 1024;
const pagesOf = (sizeBytes: number): Pages => new Pages(new CpuBus(), [{ base: 0x4000_0000, sizeBytes }]);

test('pages are aligned as asked, never overlap and never touch what is reserved', () => {
  const pages = pagesOf(MIB);
  pages.reserve({ base: 0x400f_8000, sizeBytes: 0x100 });
  const a = pages.take(0x1000);
  const b = pages.take(0x1_0000, 0x1_0000);
  assert.equal(a, 0x400f_f000);
  assert.equal(b, 0x400e_0000);
  assert.equal(pages.freeBytes, MIB - 0x1000 - 0x1000 - 0x1_0000);
});

test('what is freed joins its neighbours and can be taken whole again', () => {
  const pages = pagesOf(MIB);
  const parts = [pages.take(MIB / 4), pages.take(MIB / 4), pages.take(MIB / 4)];
  assert.throws(() => pages.take(MIB / 2), OutOfMemory);
  for (const part of [parts[1]!, parts[0]!, parts[2]!]) pages.free(part, MIB / 4);
  assert.equal(pages.take(MIB), 0x4000_0000);
});

test('freeing twice stops the kernel', () => {
  const pages = pagesOf(MIB);
  const a = pages.take(0x1000);
  pages.free(a, 0x1000);
  assert.throws(() => pages.free(a, 0x1000), /freed twice/);
});

test('allocated pages are zero whatever stood there', () => {
  const machine = new GuestMachine();
  const kernel = new BareKernel(machine);
  machine.write(0x4000_0000, new Uint8Array(0x4000).fill(0xaa));
  const pages = pagesOf(0x4000);
  const base = kernel.run(pages.allocate(0x2800));
  assert.deepEqual(machine.read(base, 0x2800), new Uint8Array(0x2800));
});
