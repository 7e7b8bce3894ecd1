/** Guests that speak to the store through their ring page, in the simulated world: as they should, and as they should not. */
import { resolve } from 'node:path';
import { assert, describe, test } from 'vitest';
import { GUEST_MAGIC_BASE, XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { EVTCHNOP, evtchn_port_arg } from '#shared/abi/event-channel.ts';
import { HYPERCALL } from '#shared/abi/hypercall.ts';
import { XENSTORE_ERROR, XS_RING, XS_RING_WORD, xs_ring_words } from '#shared/abi/xs-ring.ts';
import { packPacket, packStrings, XS } from '#shared/abi/xs-wire.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { body, type Payload } from '#shared/core/core.ts';
import { Prng } from '#shared/core/prng.ts';
import { le32, readOp, write32Op, writeOp } from '#shared/kernel/cpu-bus.ts';
import { readScenario, type Scenario } from '#tools/scenario/schema.ts';
import { playSimulated, type SimulatedResult } from '#tools/sim/play.ts';
import { TwoGuests } from '../support/simulated-host.ts';

const scenario = readScenario(resolve(import.meta.dirname, '../../examples/two-guests.yaml'));
const board = readBoard(scenario.boardFile);

/** The bundled scenario, whose guests of these names use their ring. */
function onRing(...names: string[]): Scenario {
  const extra = '\nextra = "console=hvc0 xenstore=ring"\n';
  const guests = Object.entries(scenario.guests).map(([name, cfg]) => [name, names.includes(name) ? cfg + extra : cfg]);
  return { ...scenario, guests: Object.fromEntries(guests) };
}

function problems(result: SimulatedResult): string[] {
  return result.steps.flatMap((step) => step.problems.map((problem) => `${step.title}: ${problem}`));
}

test.each([
  [1, ['guest1', 'guest2']],
  [2, ['guest1', 'guest2']],
  [3, ['guest2']],
])('two guests have their functions to themselves, seed %i, with %j on their rings', (seed, names) => {
  const result = playSimulated(onRing(...names), board, { seed }, () => undefined);
  assert.deepEqual(problems(result), []);
  assert.equal(result.result, 'passed');
});

const PAGE = GUEST_MAGIC_BASE + XEN_PAGE_SIZE;

/** Guest 1 with a client of its own on its CPU bus and its hypercalls, beside its kernel. */
class Hostile {
  readonly on: TwoGuests;
  readonly #port: number;

  constructor(seed: number, extra: string) {
    this.on = new TwoGuests(seed, extra);
    const tree = this.on.inspect('xenstored', 'tree') as Record<string, { value: string }>;
    this.#port = Number(tree['/local/domain/1/store/port']!.value);
  }

  store(...ops: ReturnType<typeof readOp>[]): number[] {
    const event = evtchn_port_arg.encode({ port: this.#port });
    return [
      this.on.post('hardware', body('cpuAccessRequest', { vcpu: 0, ops })),
      this.on.post(
        'xen',
        body('hypercallRequest', { number: HYPERCALL.event_channel_op, cmd: EVTCHNOP.send, arg: event }),
      ),
    ];
  }

  words(): ReturnType<typeof xs_ring_words.decode> {
    const op = readOp(PAGE + XS_RING.words, xs_ring_words.size);
    const [answer] = this.on.answers([this.on.post('hardware', body('cpuAccessRequest', { vcpu: 0, ops: [op] }))]);
    const { results } = (answer!.body as { value: Payload<'cpuAccessReply'> }).value;
    return xs_ring_words.decode(results[0]!.data);
  }

  /** What the other guest needs the store for, and how long it took. */
  assertOtherWell(): void {
    const { on } = this;
    on.xlDone('pci-detach guest2 0000:02:00.0');
    on.xlDone('pci-attach guest2 0000:02:00.0');
    assert.equal(on.guest(2, 'dma-check', { bytes: 1 << 16, seed: 3 })['mismatches'], 0);
  }
}

describe('a hostile guest', () => {
  test.each([
    ['on its ring', 'xenstore=ring'],
    ['over the bus', ''],
  ])('that breaks its ring has lost it, and the other guest, %s, is as it was', (_how, extra) => {
    const guest = new Hostile(4, extra);
    guest.assertOtherWell();
    guest.on.answers(guest.store(write32Op(PAGE + XS_RING_WORD.req_prod, guest.words().req_cons + 1025)));
    guest.assertOtherWell();
    assert.equal(guest.words().error, XENSTORE_ERROR.RINGIDX);
    assert.deepInclude(guest.on.inspect('xenstored', 'rings.1'), { state: 'broken', error: XENSTORE_ERROR.RINGIDX });
    assert.deepInclude(guest.on.inspect('xenstored', 'rings.2'), { state: 'open' });
    guest.on.xlDone('destroy guest1');
    assert.include(guest.on.xlDone('pci-assignable-list'), '0000:01:00.0');
    assert.notProperty(guest.on.inspect('xenstored', 'rings'), '1');
  });

  test('that rewrites its page all the time, whatever with, does not hold the other up', () => {
    const guest = new Hostile(5, 'xenstore=ring');
    const random = new Prng(55);
    const now = () => guest.on.host.world.now;
    const calm = now();
    guest.assertOtherWell();
    const calmNs = now() - calm;
    let writes = 0;
    guest.on.onRequest = (from) => {
      if (from !== 'd2' && from !== 'd0') return;
      if (writes >= 3000) return;
      writes++;
      const noise = packPacket(XS.WATCH, random.next(), 0, packStrings('x', `${writes}`));
      guest.store(
        writeOp(PAGE + random.below(1024 - noise.length), noise),
        writeOp(
          PAGE + XS_RING.words + 4 * random.below(4),
          le32(random.chance(0.5) ? random.below(1024) : random.next()),
        ),
      );
    };
    const start = now();
    guest.assertOtherWell();
    guest.on.onRequest = undefined;
    assert.isAbove(writes, 300);
    assert.isBelow(now() - start, calmNs * 3);
    guest.on.xlDone('destroy guest1');
    guest.assertOtherWell();
  });
});
