/**
 * A host for tests of dom0: the machine, Xen, the store and dom0 on one clock, and guests that a test starts and kills.
 * Messages take 10 us each and keep their order; nothing is lost.
 */
import { assert } from 'vitest';
import type { Envelope } from '#gen/bus.ts';
import type { DomainConfig, PciSpec, ToolstackReply } from '#gen/toolstack.ts';
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import { type Body, type BodyCase, body, type Core, type Effect, type Payload, type Peer } from '#shared/core/core.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { createDom0Core } from '../../../services/dom0/core.ts';
import { createDomuCore } from '../../../services/domu/core.ts';
import { createHardwareCore } from '../../../services/hardware/core.ts';
import { createXenCore } from '../../../services/xen/core.ts';
import { createXenstoredCore } from '../../../services/xenstored/core.ts';

const MESSAGE_NS = 10_000;

interface Event {
  readonly at: number;
  readonly seq: number;
  readonly run: () => void;
}

export class Host {
  readonly #cores = new Map<Peer, Core>();
  readonly traces: { peer: Peer; event: string; detail: unknown }[] = [];
  /** Every message sent, for tests of order: `from to case`. */
  readonly sent: { from: Peer; to: Peer; envelope: Envelope }[] = [];
  readonly revoked: number[] = [];
  /** Peers whose messages are dropped: they hang. */
  readonly deaf = new Set<Peer>();
  /** When false, nobody takes a domain. */
  vacancies = true;
  /** Answers a message in the place of its receiver; undefined lets it through. */
  intercept: (from: Peer, to: Peer, message: Body) => Body | undefined = () => undefined;
  #queue: Event[] = [];
  #seq = 0;
  #now = 1e15;
  #nextId = 1;
  readonly #answers = new Map<number, Envelope>();

  /** A board file, or what one says. */
  constructor(board: string | BoardDescription = 'examples/boards/qemu-virt.yaml') {
    const description = typeof board === 'string' ? readBoard(board) : board;
    this.add('hardware', createHardwareCore(description, { idBase: 0 }));
    this.add('xenstored', createXenstoredCore({ idBase: 0 }));
    this.add('d0', createDom0Core({ idBase: 0 }));
    this.add('xen', createXenCore({ idBase: 0 }));
    this.runUntil(() => this.inspect('d0').booted);
  }

  add(peer: Peer, core: Core): void {
    this.#cores.set(peer, core);
    this.#carryOut(peer, core.start(this.#now));
  }

  /** The guest's process dies, and the broker says so. */
  kill(domid: number): void {
    this.#cores.delete(`d${domid}`);
    const request = body('domainConnection', { domid, connected: false });
    this.#deliver('broker', 'xen', { id: this.#nextId++, inReplyTo: 0, oldestPending: 0, refused: '', body: request });
  }

  // biome-ignore lint/suspicious/noExplicitAny: a tree that tests look into
  inspect(peer: Peer): any {
    return this.#cores.get(peer)!.inspect();
  }

  /** What the operator gets for a request. Throws when it is refused. */
  ask<C extends BodyCase>(to: Peer, request: Body, expect: C, limitNs = 120e9): Payload<C> {
    const reply = this.begin(to, request);
    this.runUntil(() => reply() !== undefined, limitNs);
    const envelope = reply()!;
    assert.equal(envelope.refused, '');
    assert.equal(envelope.body?.$case, expect);
    return envelope.body!.value as Payload<C>;
  }

  /** Sends a request of the operator; the function gives the answer when there is one. */
  begin(to: Peer, request: Body): () => Envelope | undefined {
    const id = this.#nextId++;
    this.#deliver('operator', to, { id, inReplyTo: 0, oldestPending: 0, refused: '', body: request });
    return () => this.#answers.get(id);
  }

  runUntil(done: () => boolean, limitNs = 120e9): void {
    const limit = this.#now + limitNs;
    while (!done()) {
      const next = this.#queue.shift();
      if (next === undefined || next.at > limit) {
        assert.fail(`nothing more happens: ${JSON.stringify(this.traces.slice(-8))}`);
      }
      this.#now = Math.max(this.#now, next!.at);
      next!.run();
    }
  }

  runFor(ns: number): void {
    const end = this.#now + ns;
    while ((this.#queue[0]?.at ?? Infinity) <= end) {
      const next = this.#queue.shift()!;
      this.#now = Math.max(this.#now, next.at);
      next.run();
    }
    this.#now = end;
  }

  // xl, in short

  toolstack(request: Body): ToolstackReply {
    return this.ask('d0', request, 'toolstackReply');
  }

  create(name: string, config: Partial<DomainConfig> = {}, paused = false): ToolstackReply {
    return this.toolstack(body('createDomainRequest', { config: domainConfig(name, config), paused }));
  }

  assignableAdd(bdf: string): ToolstackReply {
    return this.toolstack(body('pciAssignableAddRequest', { spec: pciSpec(bdf), name: '' }));
  }

  attach(domid: number, bdf: string, more: Partial<PciSpec> = {}): ToolstackReply {
    return this.toolstack(body('pciAttachRequest', { domid, spec: { ...pciSpec(bdf), ...more } }));
  }

  detach(domid: number, bdf: string, force = false): ToolstackReply {
    return this.toolstack(body('pciDetachRequest', { domid, spec: pciSpec(bdf), force }));
  }

  destroy(domid: number): ToolstackReply {
    return this.toolstack(body('destroyDomainRequest', { domid }));
  }

  assignable(): (string | undefined)[] {
    return this.inspect('d0').assignable;
  }

  /** The value of every node of the store whose path starts with `prefix`. */
  nodes(prefix: string): Record<string, string> {
    const { tree } = this.inspect('xenstored') as { tree: Record<string, { value: string }> };
    const found = Object.entries(tree).filter(([path]) => path.startsWith(prefix));
    return Object.fromEntries(found.map(([path, { value }]) => [path, value]));
  }

  #carryOut(from: Peer, effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.do === 'trace') this.traces.push({ peer: from, event: effect.event, detail: effect.detail });
      else if (effect.do === 'send') this.#deliver(from, effect.to, effect.envelope);
      else this.#at(effect.at, () => this.#wake(from));
    }
  }

  #wake(peer: Peer): void {
    const core = this.#cores.get(peer);
    if (core !== undefined && !this.deaf.has(peer)) this.#carryOut(peer, core.wake(this.#now));
  }

  #deliver(from: Peer, to: Peer, envelope: Envelope): void {
    this.sent.push({ from, to, envelope });
    this.#at(this.#now + MESSAGE_NS, () => {
      if (to === 'operator') this.#answers.set(envelope.inReplyTo, envelope);
      const message = envelope.body;
      const instead = message === undefined ? undefined : this.intercept(from, to, message);
      const answer = instead ?? this.#outside(to, message);
      if (answer !== undefined) {
        const id = this.#nextId++;
        const sender = to.startsWith('t') ? 'vacant' : to;
        this.#deliver(sender, from, { id, inReplyTo: envelope.id, oldestPending: 0, refused: '', body: answer });
      }
      const core = instead === undefined ? this.#cores.get(to) : undefined;
      if (core !== undefined && !this.deaf.has(to)) this.#carryOut(to, core.receive(this.#now, from, envelope));
    });
  }

  /** The key keeper and the processes that wait for a domain. */
  #outside(to: Peer, request: Body | undefined): Body | undefined {
    switch (request?.$case) {
      case 'takeDomainRequest':
        if (to !== 'vacant' || !this.vacancies) return undefined;
        return body('takeDomainReply', { publicKey: `K${request.value.domid}`, error: '' });
      case 'mintCredentialRequest':
        return body('mintCredentialReply', { jwt: `jwt of ${request.value.publicKey}`, error: '' });
      case 'grantCredentialRequest': {
        const { domid } = request.value;
        this.add(`d${domid}`, createDomuCore({ idBase: 0, domid }));
        return body('grantCredentialReply', { error: '' });
      }
      case 'revokeCredentialRequest':
        this.revoked.push(request.value.domid);
        return body('revokeCredentialReply', { error: '' });
      default:
        return undefined;
    }
  }

  #at(at: number, run: () => void): void {
    const event = { at, seq: this.#seq++, run };
    let i = this.#queue.length;
    while (i > 0 && this.#queue[i - 1]!.at > at) i--;
    this.#queue.splice(i, 0, event);
  }
}

export function pciSpec(bdf: string): PciSpec {
  const s = parseSbdf(bdf)!;
  return {
    segment: s >>> 16,
    bus: (s >>> 8) & 0xff,
    device: (s >>> 3) & 0x1f,
    functionMask: 1 << (s & 7),
    vslot: -1,
    permissive: false,
    msitranslate: false,
    seize: false,
    powerMgmt: false,
    rdmPolicy: 'strict',
    name: '',
  };
}

function domainConfig(name: string, more: Partial<DomainConfig>): DomainConfig {
  return {
    name,
    uuid: '',
    memoryMib: 32,
    vcpus: 1,
    pci: [],
    kernel: '',
    cmdline: 'console=hvc0',
    onCrash: '',
    passthrough: '',
    maxEventChannels: 0,
    maxGrantFrames: 0,
    ...more,
  };
}
