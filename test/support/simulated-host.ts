/** A host with two guests in the simulated world, for tests that work on it as its operator or as one of the guests. */
import { resolve } from 'node:path';
import type { Envelope } from '#gen/bus.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { type Body, body, type Payload, type Peer, peerOf } from '#shared/core/core.ts';
import { call, type Op, Refused } from '#shared/core/op.ts';
import { Runtime } from '#shared/core/runtime.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { splitWords } from '#tools/scenario/words.ts';
import { SimulatedHost } from '#tools/sim/host.ts';
import { type XlResult, xl } from '#tools/xl/commands.ts';
import type { Battlefield } from './attacks.ts';

const board = readBoard(resolve(import.meta.dirname, '../../examples/boards/qemu-virt.yaml'));
const LIMIT_NS = 120e9;
/** Far above the ids that the guest itself has used, so that its kernel and its attacker do not meet. */
const HOSTILE_IDS = 2 ** 50;

export const GUESTS = [
  { name: 'guest1', bdf: '0000:01:00.0' },
  { name: 'guest2', bdf: '0000:02:00.0' },
] as const;

export class TwoGuests {
  readonly host: SimulatedHost;
  #operators = 0;
  #nextHostileId = HOSTILE_IDS;
  readonly #answers = new Map<number, { body?: Body | undefined; refused: string }>();
  /** Sees every request that arrives. */
  onRequest: ((from: Peer, to: Peer, id: number) => void) | undefined;

  readonly #extra: string;

  /** `extra` is the command line of both guests. */
  constructor(seed: number, extra = '') {
    this.#extra = extra;
    this.host = new SimulatedHost(board, {
      seed,
      onEvent: (_at, what, detail) => {
        if (what !== 'deliver') return;
        const { from, to, envelope } = detail as { from: Peer; to: Peer; envelope: Envelope };
        if (envelope.inReplyTo === 0) this.onRequest?.(from, to, envelope.id);
        if (to === 'd1' && envelope.inReplyTo >= HOSTILE_IDS) this.#answers.set(envelope.inReplyTo, envelope);
      },
    });
    this.operate(function* () {
      for (;;) {
        const reply = yield* call('d0', body('inspectRequest', { path: 'ready' }), 'inspectReply');
        if (reply.json === 'true') return;
      }
    });
    for (const { name, bdf } of GUESTS) {
      this.xlDone(`pci-assignable-add ${bdf}`);
      this.xlDone(`create ${name}`);
      this.xlDone(`pci-attach ${name} ${bdf}`);
    }
  }

  /** Runs an operation as the operator, until it is done. */
  operate<T>(op: () => Op<T>): T {
    const runtime = new Runtime({ idBase: ++this.#operators * 2 ** 20 });
    let ended: { value: T } | { error: unknown } | undefined;
    runtime.attach({
      onRequest: () => undefined,
      inspect: () => ({}),
      *boot() {
        try {
          ended = { value: yield* op() };
        } catch (error) {
          ended = { error };
        }
      },
    });
    this.host.world.add('operator', runtime);
    this.host.world.run(() => ended !== undefined, LIMIT_NS);
    if ('error' in ended!) throw ended.error;
    return (ended as unknown as { value: T }).value;
  }

  xl(line: string): XlResult {
    const readFile = (name: string): { text: string } => ({
      text: `name = "${name}"\nmemory = 96\nvcpus = 1\npassthrough = "enabled"\nextra = "${this.#extra}"\n`,
    });
    return this.operate(() => xl(splitWords(line), { readFile }));
  }

  xlDone(line: string): string {
    const { exit, stdout, stderr } = this.xl(line);
    if (exit !== 0) throw new Error(`xl ${line}: ${stderr}`);
    return stdout;
  }

  guest(domid: number, command: string, args: object): Record<string, unknown> {
    const request = body('guestCommandRequest', { command, args: JSON.stringify(args) });
    const reply = this.operate(() => call(peerOf(domid), request, 'guestCommandReply', { deadlineNs: LIMIT_NS }));
    if (reply.error !== '') throw new Error(reply.error);
    return JSON.parse(reply.result) as Record<string, unknown>;
  }

  inspect(peer: Peer, path: string): unknown {
    const reply: Payload<'inspectReply'> = this.operate(() =>
      call(peer, body('inspectRequest', { path }), 'inspectReply'),
    );
    if (reply.error !== '') throw new Error(reply.error);
    return JSON.parse(reply.json);
  }

  get field(): Battlefield {
    const { functions } = this.guest(2, 'devices', {}) as { functions: unknown[] };
    if (functions.length !== 1) throw new Error('guest2 has no device');
    const domains = this.inspect('xen', 'domains') as { domid: number; iomemRanges: [number, number][] }[];
    const victimMfn = domains.find((d) => d.domid === 2)!.iomemRanges[0]![0];
    return { self: 1, victim: 2, victimDevice: parseSbdf(GUESTS[1].bdf)!, victimMfn };
  }

  /** Posts a message as guest 1 would with a client of its own, and gives its id. */
  post(to: Peer, message: Body): number {
    const id = this.#nextHostileId++;
    this.host.world.post('d1', to, { id, inReplyTo: 0, oldestPending: 0, refused: '', body: message });
    return id;
  }

  /** The answers to the messages with these ids, when all are there. */
  answers(ids: readonly number[]): { body?: Body | undefined; refused: string }[] {
    this.host.world.run(() => ids.every((id) => this.#answers.has(id)), LIMIT_NS);
    return ids.map((id) => this.#answers.get(id)!);
  }

  readonly ask = async (to: Peer, message: Body): Promise<Body> => {
    const [answer] = this.answers([this.post(to, message)]);
    if (answer!.body === undefined) throw new Refused(answer!.refused);
    return answer!.body;
  };
}
