/** CPU ports and EL2 against the machine, in messages. */
import { assert, describe, test } from 'vitest';
import type { CpuOp } from '#gen/hardware.ts';
import { TrapOutcome } from '#gen/hardware.ts';
import { DFSC, decodeDataAbort, S2AP } from '#shared/arch/vmsa.ts';
import { body, type Peer } from '#shared/core/core.ts';
import { parseFdt } from '#shared/fdt/blob.ts';
import {
  CoreRig,
  le,
  number,
  physRead,
  physWrite,
  RAM,
  read,
  sysregRead,
  sysregWrite,
  tlbi,
  write,
} from './core-rig.ts';

const PAGE_A = RAM + 0x200_0000;
const PAGE_B = RAM + 0x300_0000;
const EXTERNAL_ABORT = 1;
const ALIGNMENT = 2;

/** Domain 1 with VMID 9 and two pages in a row at IPA 0x1000 that are far apart in memory. */
function rig(): CoreRig {
  const r = new CoreRig();
  r.loadPort(1, 9);
  r.map(0x1000, PAGE_A);
  r.map(0x2000, PAGE_B);
  return r;
}

const emulated = (data: Uint8Array) => body('trapReply', { outcome: TrapOutcome.TRAP_OUTCOME_EMULATED, data });
const retry = body('trapReply', { outcome: TrapOutcome.TRAP_OUTCOME_RETRY, data: new Uint8Array(0) });
const abort = body('trapReply', { outcome: TrapOutcome.TRAP_OUTCOME_ABORT, data: new Uint8Array(0) });

describe('a CPU port', () => {
  test('reads and writes RAM through its stage-2 tables, across pages', () => {
    const r = rig();
    const bytes = Uint8Array.from({ length: 0x1800 }, (_, i) => i * 7);
    const results = r.results(r.cpu(1, write(0x1400, bytes), read(0x1400, 0x1800)))!;
    assert.deepEqual(
      results.map((x) => x.fault),
      [0, 0],
    );
    assert.deepEqual(results[1]!.data, bytes);
    const [a, b] = r.el2(physRead(PAGE_A + 0x400, 0xc00), physRead(PAGE_B, 0xc00));
    assert.deepEqual(a!.data, bytes.slice(0, 0xc00));
    assert.deepEqual(b!.data, bytes.slice(0xc00));
  });

  test('of dom0 is xenstored’s as well, and neither waits for a trap of the other', () => {
    const r = new CoreRig();
    r.loadPort(0, 9);
    r.map(0x1000, PAGE_A);
    const stopped = r.cpu(0, read(0x5000, 4));
    const ask = (from: Peer, ...ops: CpuOp[]) => r.ask(from, body('cpuAccessRequest', { vcpu: 0, ops }));
    const id = ask('xenstored', write(0x1000, le(7)), read(0x1000, 4));
    assert.equal(number(r.results(id)![1]!.data), 7);
    assert.equal(r.results(stopped), undefined);
    assert.equal(number(r.el2(physRead(PAGE_A, 4))[0]!.data), 7);
    for (const peer of ['xen', 'operator', 'observer'] as const)
      assert.match(r.answer(ask(peer, read(0x1000, 4)))!.refused, /no CPU port/);
  });

  test('that was never programmed gets an external abort, and EL2 hears nothing', () => {
    const r = rig();
    assert.equal(r.results(r.cpu(2, read(0x1000, 4)))![0]!.fault, EXTERNAL_ABORT);
    assert.equal(r.sent('trapRequest'), undefined);
  });

  test('exchanges, sets and clears bits, and answers what was there', () => {
    const r = rig();
    const results = r.results(
      r.cpu(
        1,
        write(0x1000, le(0xff00)),
        { kind: 3, ipa: 0x1000, sizeBytes: 0, data: le(0x1234) },
        { kind: 4, ipa: 0x1000, sizeBytes: 0, data: le(0x8001) },
        { kind: 5, ipa: 0x1000, sizeBytes: 0, data: le(0x0034) },
        read(0x1000, 4),
      ),
    )!;
    assert.deepEqual(
      results.slice(1).map((x) => number(x.data)),
      [0xff00, 0x1234, 0x9235, 0x9201],
    );
  });

  test('traps a load of an unmapped address and gives it what EL2 emulated, then goes on', () => {
    const r = rig();
    const id = r.cpu(1, write(0x1000, le(1)), read(0x5008, 4), read(0x1000, 4));
    const trap = r.sent('trapRequest')!;
    assert.equal(trap.to, 'xen');
    assert.deepEqual([trap.value.port, trap.value.ipa, trap.value.data.length], [1, 0x5008, 0]);
    assert.deepEqual(decodeDataAbort(trap.value.esrEl2), { dfsc: DFSC.TRANSLATION | 3, isWrite: false, sizeBytes: 4 });
    assert.equal(r.results(id), undefined);
    r.reply(trap.id, emulated(le(0xcafe_f00d)));
    assert.deepEqual(
      r.results(id)!.map((x) => number(x.data)),
      [0, 0xcafe_f00d, 1],
    );
    assert.deepEqual(r.inspect('counts.traps'), { 'read: translation fault, level 3': 1 });
  });

  test('tells EL2 what a store would have stored', () => {
    const r = rig();
    const id = r.cpu(1, write(0x5000, le(0x1122_3344_5566, 8)));
    const trap = r.sent('trapRequest')!;
    assert.deepEqual(trap.value.data, le(0x1122_3344_5566, 8));
    assert.deepEqual(decodeDataAbort(trap.value.esrEl2), { dfsc: DFSC.TRANSLATION | 3, isWrite: true, sizeBytes: 8 });
    r.reply(trap.id, emulated(new Uint8Array(0)));
    assert.deepEqual(
      r.results(id)!.map((x) => x.fault),
      [0],
    );
  });

  test('a store to a read-only page is a permission fault', () => {
    const r = rig();
    r.map(0x6000, PAGE_A, S2AP.read);
    r.cpu(1, write(0x6000, le(1)));
    assert.equal(decodeDataAbort(r.sent('trapRequest')!.value.esrEl2)!.dfsc, DFSC.PERMISSION | 3);
  });

  test('does the access again when EL2 has changed the tables', () => {
    const r = rig();
    const id = r.cpu(1, write(0x2ffc, le(0x0001_0203_0405_0607, 8)));
    const trap = r.sent('trapRequest')!;
    assert.equal(trap.value.ipa, 0x3000);
    // A row of accesses: EL2 cannot tell what it was.
    assert.equal(decodeDataAbort(trap.value.esrEl2)!.sizeBytes, 0);
    r.map(0x3000, PAGE_A + 0x1000);
    r.reply(trap.id, retry);
    assert.equal(r.results(id)![0]!.fault, 0);
    assert.equal(number(r.el2(physRead(PAGE_A + 0x1000, 4))[0]!.data), 0x0001_0203);
  });

  test('takes an abort when EL2 says so, and the batch ends there', () => {
    const r = rig();
    const id = r.cpu(1, read(0x5000, 4), read(0x1000, 4));
    r.reply(r.sent('trapRequest')!.id, abort);
    assert.deepEqual(
      r.results(id)!.map((x) => x.fault),
      [EXTERNAL_ABORT],
    );
  });

  test('cannot be emulated where the syndrome does not say what it was', () => {
    const r = rig();
    const id = r.cpu(1, read(0x5000, 100));
    r.reply(r.sent('trapRequest')!.id, emulated(new Uint8Array(100)));
    assert.equal(r.results(id)![0]!.fault, EXTERNAL_ABORT);
  });

  test('takes an abort when EL2 does not answer', () => {
    const r = rig();
    const id = r.cpu(1, read(0x5000, 4));
    r.pass(25e9);
    assert.equal(r.results(id)![0]!.fault, EXTERNAL_ABORT);
  });

  test('its batches run one after another, those of another port go on beside them', () => {
    const r = rig();
    r.loadPort(2, 10);
    const waiting = r.cpu(1, read(0x5000, 4));
    const behind = r.cpu(1, read(0x1000, 4));
    const other = r.cpu(2, read(0x1000, 4));
    assert.equal(r.results(other)![0]!.fault, 0);
    assert.equal(r.results(behind), undefined);
    r.reply(r.sent('trapRequest')!.id, emulated(le(0)));
    assert.equal(r.results(waiting)!.length, 1);
    assert.equal(r.results(behind)!.length, 1);
  });

  test('a mapped register takes one aligned access, nothing else', () => {
    const r = rig();
    r.map(0x7000, 0x0800_0000);
    assert.equal(number(r.results(r.cpu(1, read(0x7000, 4)))![0]!.data), 0x50);
    assert.equal(r.results(r.cpu(1, read(0x7002, 4)))![0]!.fault, ALIGNMENT);
    assert.equal(r.results(r.cpu(1, read(0x7000, 16)))![0]!.fault, ALIGNMENT);
  });

  test('a mapped address with nothing behind it is an external abort', () => {
    const r = rig();
    r.map(0x7000, 0x0100_0000);
    assert.equal(r.results(r.cpu(1, read(0x7000, 4)))![0]!.fault, EXTERNAL_ABORT);
  });

  test('keeps a translation until its TLBI', () => {
    const r = rig();
    assert.equal(r.results(r.cpu(1, read(0x1000, 4)))![0]!.fault, 0);
    r.unmap(0x1000);
    assert.equal(r.results(r.cpu(1, read(0x1000, 4)))![0]!.fault, 0);
    r.el2(tlbi(1, 8));
    assert.equal(r.results(r.cpu(1, read(0x1000, 4)))![0]!.fault, 0);
    r.el2(tlbi(1, 9));
    assert.equal(r.results(r.cpu(1, read(0x1000, 4))), undefined);
    assert.equal(r.sent('trapRequest')!.value.ipa, 0x1000);
  });

  test('a batch that is too large is refused', () => {
    const r = rig();
    assert.match(r.answer(r.cpu(1, read(0x1000, 2 * 1024 * 1024)))!.refused, /2097152 bytes/);
    assert.match(r.answer(r.cpu(1, ...new Array(5).fill(read(0x1000, 1024 * 1024))))!.refused, /a batch of/);
  });
});

describe('EL2', () => {
  test('finds the device tree where firmware put it', () => {
    const r = new CoreRig();
    const [boot] = r.el2({ op: { $case: 'bootInfoRead', value: {} } });
    const [dtb] = r.el2(physRead(boot!.dtbPa, boot!.dtbSizeBytes));
    assert.deepEqual(parseFdt(dtb!.data).strings('compatible'), ['linux,dummy-virt']);
  });

  test('gets -EFAULT where nothing is, and the batch goes on', () => {
    const r = new CoreRig();
    const results = r.el2(
      physRead(0x100_0000, 4),
      physWrite(0x100_0000, le(1)),
      physRead(0x0800_0002, 4),
      physRead(0x0800_0000, 16),
      sysregRead('ICC_NOTHING_EL1'),
      sysregRead('ICC_IAR1_EL1', 2),
      physRead(0x0800_0000, 4),
    );
    assert.deepEqual(
      results.map((x) => x.error),
      [-14, -14, -14, -14, -14, -14, 0],
    );
    assert.equal(number(results[6]!.data), 0x50);
  });

  test('fills RAM and does atomics on it', () => {
    const r = new CoreRig();
    const [, was, now] = r.el2(
      { op: { $case: 'physFill', value: { pa: PAGE_A, sizeBytes: 0x1000, value: 0xa5 } } },
      { op: { $case: 'physAtomic', value: { kind: 5, pa: PAGE_A + 8, data: le(0xff) } } },
      physRead(PAGE_A + 8, 8),
    );
    assert.equal(number(was!.data), 0xa5a5_a5a5);
    assert.deepEqual([...now!.data], [0, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5]);
    assert.equal(
      r.el2({ op: { $case: 'physAtomic', value: { kind: 3, pa: 0x0800_0000, data: le(1) } } })[0]!.error,
      -14,
    );
  });

  test('is told of a pending interrupt once, again after 20 ms, and no more once it acknowledged', () => {
    const r = new CoreRig();
    const spi = 32 + 3;
    r.el2(
      physWrite(0x0800_0000, le(2)),
      physWrite(0x0800_0084, le(0xffff_ffff)),
      physWrite(0x0800_0104, le(8)),
      sysregWrite('ICC_PMR_EL1', 0xf8),
      sysregWrite('ICC_IGRPEN1_EL1', 1),
      physWrite(0x0800_0204, le(8)),
    );
    assert.deepEqual(r.sent('interruptPending')?.value, { pcpu: 0 });
    assert.equal(r.sent('interruptPending'), undefined);
    r.pass(19e6);
    assert.equal(r.sent('interruptPending'), undefined);
    r.pass(1e6);
    assert.deepEqual(r.sent('interruptPending')?.value, { pcpu: 0 });
    const [iar] = r.el2(sysregRead('ICC_IAR1_EL1'), sysregWrite('ICC_EOIR1_EL1', 0, 1));
    assert.equal(iar!.value, spi);
    assert.equal(r.el2(sysregRead('ICC_RPR_EL1'))[0]!.value, 0xff);
    r.pass(100e6);
    assert.equal(r.sent('interruptPending'), undefined);
  });

  test('is not told of what the same batch has already taken', () => {
    const r = new CoreRig();
    r.el2(
      physWrite(0x0800_0000, le(2)),
      physWrite(0x0800_0084, le(0xffff_ffff)),
      physWrite(0x0800_0104, le(8)),
      sysregWrite('ICC_PMR_EL1', 0xf8),
      sysregWrite('ICC_IGRPEN1_EL1', 1),
      physWrite(0x0800_0204, le(8)),
      sysregRead('ICC_IAR1_EL1'),
      sysregWrite('ICC_EOIR1_EL1', 0, 7),
    );
    assert.equal(r.sent('interruptPending'), undefined);
  });

  test('is xen and nobody else; a port belongs to a domain; inspecting to the operator', () => {
    const r = new CoreRig();
    const refused = (from: 'd0' | 'xen', message: Parameters<CoreRig['ask']>[1]) =>
      r.answer(r.ask(from, message))!.refused;
    assert.equal(refused('d0', body('el2Request', { ops: [] })), 'd0 is not EL2');
    assert.equal(refused('xen', body('cpuAccessRequest', { vcpu: 0, ops: [] })), 'xen has no CPU port');
    assert.equal(refused('d0', body('inspectRequest', { path: '' })), 'd0 may not inspect hardware');
    assert.match(
      refused('d0', body('toolstackReply', { error: 0, text: '' } as never)),
      /does not take toolstackReply/,
    );
  });

  test('leaves counts that the operator can ask for by path', () => {
    const r = new CoreRig();
    r.el2(physRead(RAM, 4), physRead(RAM, 4));
    assert.deepEqual(r.inspect('counts.el2Ops'), { physRead: 2 });
    assert.equal(r.inspect('counts.nothing'), 'hardware has no counts.nothing');
    assert.deepEqual(r.inspect('its.its@8080000.counts.msisDelivered'), 0);
  });
});
