/**
 * A guest that works with anything but good manners: every call that is not its to make, messages that it may not send,
 * garbage. In the simulated world there is no broker to stop it, so what is shown here is what each service refuses by itself.
 */
import { assert, beforeAll, describe, test } from 'vitest';
import { errnoName } from '#shared/abi/errno.ts';
import { EVTCHNOP } from '#shared/abi/event-channel.ts';
import { GNTTABOP } from '#shared/abi/grant-table.ts';
import { HVMOP } from '#shared/abi/hvm.ts';
import { HYPERCALL } from '#shared/abi/hypercall.ts';
import { XENMEM } from '#shared/abi/memory.ts';
import { PHYSDEVOP } from '#shared/abi/physdev.ts';
import { SCHEDOP } from '#shared/abi/sched.ts';
import { type Body, body, type Payload } from '#shared/core/core.ts';
import { LIMITS } from '#shared/core/limits.ts';
import { Prng } from '#shared/core/prng.ts';
import { ALLOWED, FORBIDDEN_HYPERCALLS, FORBIDDEN_STORE, forbiddenMessages, outcomeOf } from '../support/attacks.ts';
import { TwoGuests } from '../support/simulated-host.ts';

let guests: TwoGuests;

beforeAll(() => {
  guests = new TwoGuests(1);
});

/** The other guest and the host are as they were: DMA, interrupts, who holds what. */
function assertVictimWell(on: TwoGuests): void {
  const dma = on.guest(2, 'dma-check', { bytes: 1 << 18, seed: 3 });
  assert.equal(dma['mismatches'], 0);
  const interrupts = on.guest(2, 'interrupts', { count: 16, vectors: 4 });
  assert.deepEqual([interrupts['delivered'], interrupts['lost']], [16, 0]);
  const devices = on.inspect('xen', 'devices') as { sbdf: string; owner: number }[];
  assert.equal(devices.find((d) => d.sbdf === '0000:02:00.0')?.owner, 2);
  assert.match(on.xlDone('list guest2'), /guest2 +2 /);
}

describe('a guest, by its own kernel', () => {
  test.each([
    ['memory_mapping', { mfn: 0x4_0000 }, 'EPERM'],
    ['iomem_permission', { mfn: 0x4_0000 }, 'EPERM'],
    ['bind_foreign_port', { domid: 2, port: 1 }, 'EINVAL'],
    ['map_foreign_gmfn', { domid: 2, gfn: 0x4_0000 }, 'EPERM'],
    ['write_foreign_node', { domid: 2 }, 'EACCES'],
  ])('is stopped at %s %o with %s', (attack, args, errno) => {
    assert.deepEqual(guests.guest(1, 'hostile', { attack, ...args }), { attack, errno });
  });
});

describe('a guest, with a client of its own,', () => {
  test.each([...FORBIDDEN_HYPERCALLS, ...FORBIDDEN_STORE])('is stopped when it $what: $stoppedBy', async (attack) => {
    const outcome = await outcomeOf(attack.attempt(guests.field), guests.ask);
    assert.equal(outcome, attack.stoppedBy);
  });

  test('may do what is its own to do, so that the refusals mean something', async () => {
    assert.equal(await outcomeOf(ALLOWED.attempt(guests.field), guests.ask), 'OK');
  });

  test('is refused every message that is not a guest’s to send', () => {
    const messages = forbiddenMessages(guests.field);
    const answers = guests.answers(messages.map(({ to, message }) => guests.post(to, message)));
    messages.forEach(({ what }, i) => {
      assert.isUndefined(answers[i]!.body, `it ${what}, and got an answer`);
      assert.isNotEmpty(answers[i]!.refused);
    });
  });

  test('has not changed anything for the other', () => assertVictimWell(guests));
});

describe('garbage', () => {
  const COMMANDS: readonly (readonly [number, readonly number[]])[] = [
    [HYPERCALL.memory_op, Object.values(XENMEM)],
    [HYPERCALL.grant_table_op, Object.values(GNTTABOP)],
    [HYPERCALL.sched_op, [SCHEDOP.shutdown, SCHEDOP.watchdog]],
    [HYPERCALL.event_channel_op, Object.values(EVTCHNOP)],
    [HYPERCALL.physdev_op, Object.values(PHYSDEVOP)],
    [HYPERCALL.hvm_op, Object.values(HVMOP)],
    [HYPERCALL.domctl, [0]],
    [HYPERCALL.sysctl, [0, 1]],
  ];

  const resultOf = (answer: Body | undefined): number => {
    assert.equal(answer?.$case, 'hypercallReply');
    return (answer as { value: Payload<'hypercallReply'> }).value.result;
  };

  test.each([0, 1, 3])('of %i bytes as the argument of any hypercall is an errno', async (bytes) => {
    for (const [number, cmds] of COMMANDS) {
      for (const cmd of [...cmds, 999, 0xffff_ffff]) {
        const request = body('hypercallRequest', { number, cmd, arg: new Uint8Array(bytes).fill(0xff) });
        const result = resultOf(await guests.ask('xen', request));
        assert.isBelow(result, 0, `hypercall ${number} ${cmd}`);
        assert.notMatch(errnoName(result), /^errno/, `hypercall ${number} ${cmd}`);
      }
    }
  });

  test('in the argument of hypercalls, whatever it is, ends in an answer', async () => {
    const on = new TwoGuests(2);
    const random = new Prng(99);
    // Its own shutdown is its own to ask for; all else it may call as it likes.
    const calls = COMMANDS.flatMap(([number, cmds]) => cmds.map((cmd) => [number, cmd] as const)).filter(
      ([number, cmd]) => number !== HYPERCALL.sched_op || cmd !== SCHEDOP.shutdown,
    );
    const interesting = [0, 1, 2, 7, 0x7ff0, 0x7ff1, 0xffff, 0x3_8100, 0x4_0000, 0x7fff_ffff, 0xffff_ffff];
    const ids: number[] = [];
    for (let i = 0; i < 1500; i++) {
      const [number, cmd] = calls[random.below(calls.length)]!;
      const words = new Uint32Array(1 + random.below(24)).map(() =>
        random.chance(0.7) ? interesting[random.below(interesting.length)]! : random.next(),
      );
      ids.push(on.post('xen', body('hypercallRequest', { number, cmd, arg: new Uint8Array(words.buffer) })));
      if (ids.length % 100 === 0) on.answers(ids);
    }
    for (const answer of on.answers(ids)) resultOf(answer.body);
    assertVictimWell(on);
  });

  test('written to system registers is undefined, or ends nothing', async () => {
    const random = new Prng(7);
    const names = ['ICC_EOIR1_EL1', 'ICC_DIR_EL1', 'ICC_SGI1R_EL1', '', 'x'.repeat(1000)];
    for (let i = 0; i < 200; i++) {
      const name = names[random.below(names.length)]!;
      const value = random.chance(0.5) ? random.below(1024) : random.next() * 2 ** 20;
      const answer = await guests.ask('xen', body('sysregTrapRequest', { vcpu: random.below(300), name, value }));
      assert.deepEqual(answer, body('sysregTrapReply', { undefined: name !== 'ICC_EOIR1_EL1' }));
    }
    assertVictimWell(guests);
  });

  test('on its CPU bus is a fault of its own or refused', () => {
    const read = (ipa: number, sizeBytes: number, kind = 1) => ({ kind, ipa, sizeBytes, data: new Uint8Array(0) });
    const ask = (ops: ReturnType<typeof read>[]) =>
      guests.post('hardware', body('cpuAccessRequest', { vcpu: 0, ops: ops as never }));
    const [many, long, total, ...faults] = guests.answers([
      ask(new Array(LIMITS.batchOps + 1).fill(read(0x4000_0000, 4))),
      ask([read(0x4000_0000, LIMITS.bulkAccessBytes + 1)]),
      ask(new Array(8).fill(read(0x4000_0000, LIMITS.bulkAccessBytes))),
      ask([read(2 ** 40, 4)]),
      ask([read(2 ** 53 - 8, 8)]),
      ask([read(0x4000_0000 - 4, 4)]),
      ask([read(0x4000_0000, 4, 9)]),
      ask([read(0x0300_1001, 4)]),
      ask([{ kind: 3, ipa: 0x4000_0001, sizeBytes: 0, data: new Uint8Array(4) }]),
      ask([{ kind: 2, ipa: 0x0402_0000, sizeBytes: 0, data: new Uint8Array(3) }]),
    ]);
    for (const refused of [many, long, total]) assert.match(refused!.refused, /batch of|access of/);
    for (const fault of faults) {
      assert.equal(fault.body?.$case, 'cpuAccessReply');
      const { results } = (fault.body as { value: Payload<'cpuAccessReply'> }).value;
      assert.isAbove(results[0]!.fault, 0, `access ${faults.indexOf(fault)}`);
    }
  });

  test('more requests at once than one may have are refused, and those before are answered', () => {
    const ids = Array.from({ length: 600 }, () =>
      guests.post('xen', body('hypercallRequest', { number: HYPERCALL.xen_version, cmd: 0, arg: new Uint8Array(0) })),
    );
    for (const answer of guests.answers(ids)) {
      if (answer.body === undefined) assert.match(answer.refused, /requests at once/);
      else assert.equal(resultOf(answer.body), (4 << 16) | 23);
    }
  });

  test('in place of an answer that another waits for is not taken for it', () => {
    let forged = 0;
    guests.onRequest = (from, to, id) => {
      if ((from !== 'xen' && from !== 'd2') || to === 'd1' || forged >= 500) return;
      const answer = from === 'xen' ? body('el2Reply', { results: [] }) : body('cpuAccessReply', { results: [] });
      guests.host.world.post('d1', from, {
        id: 2 ** 51 + ++forged,
        inReplyTo: id,
        oldestPending: 0,
        refused: '',
        body: answer,
      });
    };
    guests.xlDone('pci-assignable-add 0000:03:00.0');
    guests.xlDone('pci-attach guest2 0000:03:00.0');
    guests.xlDone('pci-detach guest2 0000:03:00.0');
    guests.onRequest = undefined;
    assertVictimWell(guests);
    assert.isAbove(forged, 50);
  });

  test('to the store daemon ends the connection of the one who sent it, and no other', async () => {
    const garbage = body('xenstoreRequest', { packet: new Uint8Array(40).fill(0xa5) });
    const [first, second] = guests.answers([guests.post('xenstored', garbage), guests.post('xenstored', garbage)]);
    assert.match(first!.refused, /domain 1 is ignored/);
    assert.match(second!.refused, /domain 1 is ignored/);
  });

  test('has not changed anything for the other', () => {
    assertVictimWell(guests);
    assert.match(guests.xlDone('list'), /guest1/);
    guests.xlDone('destroy guest1');
    assert.include(guests.xlDone('pci-assignable-list'), '0000:01:00.0');
    guests.xlDone('pci-attach guest2 0000:01:00.0');
  });
});
