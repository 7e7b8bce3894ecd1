import { assert, test } from 'vitest';
import { dmaProbeWord } from '#shared/arch/dma-probe.ts';
import { GuestBench, RAM_BASE, RAM_BYTES } from './guest.ts';

function attached(): GuestBench {
  const b = new GuestBench().boot();
  b.attachFirst();
  return b;
}

test('dma-check writes, compares, copies and sums a range without a mismatch, and gives it back', () => {
  const b = attached();
  const { freeBytes } = b.inspect();
  const r = b.command('dma-check', { bytes: 0x2_0000, seed: 7 });
  assert.deepEqual([r.mismatches, r.bytesWritten, r.bytesRead], [0, 0x3_0000, 0x3_0000]);
  assert.equal(r.checksum, r.checksumExpected);
  assert.equal(b.inspect().freeBytes, freeBytes);
});

test('dma-check counts each word that is not what the device should have written', () => {
  const b = attached();
  const before = b.machine.answer.bind(b.machine);
  let corrupted = false;
  b.world.addScript('hardware', (_from, message) => {
    const ops = message.$case === 'cpuAccessRequest' ? message.value.ops : [];
    const bulk = ops.find((op) => op.kind === 1 && op.sizeBytes === 0x1000);
    if (bulk !== undefined && !corrupted) {
      corrupted = true;
      b.machine.write32(bulk.ipa + 0x10, 1);
      b.machine.write32(bulk.ipa + 0xf00, dmaProbeWord(1, 0));
    }
    return before(message);
  });
  assert.equal(b.command('dma-check', { bytes: 0x1000, seed: 7 }).mismatches, 2);
});

test('dma-check of more than is free is an error and takes nothing', () => {
  const b = attached();
  const { freeBytes } = b.inspect();
  assert.throws(() => b.command('dma-check', { bytes: RAM_BYTES }), /contiguous/);
  assert.equal(b.inspect().freeBytes, freeBytes);
});

test('interrupts are counted at the handler, by vector', () => {
  const b = attached();
  const r = b.command('interrupts', { count: 10, vectors: 4 });
  assert.deepEqual([r.delivered, r.lost], [10, 0]);
  assert.deepEqual(r.perVector, [3, 3, 2, 2]);
  const { interrupts } = b.inspect();
  assert.equal(interrupts['8192'], 3);
});

test('an interrupt that does not arrive within 5 s is reported as lost', () => {
  const b = attached();
  const fn = [...b.functions.values()][0]!;
  fn.lost.add(1);
  const r = b.command('interrupts', { count: 20, vectors: 2 });
  assert.deepEqual([r.delivered, r.lost, r.raised], [1, 1, 2]);
});

test('dma-access tells the address at which the device was stopped', () => {
  const b = attached();
  const outside = RAM_BASE + RAM_BYTES;
  const r = b.command('dma-access', { op: 'write', address: outside, bytes: 4 });
  assert.deepEqual([r.aborted, r.errorAddress], [true, outside]);
  assert.isFalse(b.command('dma-access', { op: 'read', address: RAM_BASE, bytes: 4 }).aborted);
});

test('a hostile guest is told the errno that Xen and the store gave it', () => {
  const b = attached();
  assert.equal(b.command('hostile', { attack: 'memory_mapping' }).errno, 'ENOSYS');
  assert.equal(b.command('hostile', { attack: 'write_foreign_node' }).errno, 'EACCES');
  assert.throws(() => b.command('hostile', { attack: 'toString' }), /no attack/);
});

test('a command that is not there, or has no JSON object, is an error and not a crash', () => {
  const b = attached();
  assert.throws(() => b.command('reboot'), /no command "reboot"/);
  assert.throws(() => b.command('interrupts', { count: -1 }), /whole number/);
  assert.throws(() => b.command('dma-check', { bytes: 8, bdf: '00:1f.0' }), /no dma-probe/);
});
