/**
 * A whole host in the simulated world: the very cores that the processes run, and stand-ins for what is around them
 * (the key keeper, the broker's view of connections, whoever starts guests).
 */

import type { Envelope } from '#gen/bus.ts';
import { type BoardDescription, mediaOf } from '#shared/board/description.ts';
import { type Body, body, type Core, domidOf, type Effect, type Nanos, type Peer, peerOf } from '#shared/core/core.ts';
import { World, type WorldOptions } from '#shared/sim/world.ts';
import { createDom0Core } from '../../services/dom0/core.ts';
import { createDomuCore } from '../../services/domu/core.ts';
import { createHardwareCore } from '../../services/hardware/core.ts';
import { createXenCore } from '../../services/xen/core.ts';
import { createXenstoredCore } from '../../services/xenstored/core.ts';
import { SimulatedMedia } from './media.ts';

/** Ids of one life of a peer; the next life starts this much higher. */
const IDS_PER_LIFE = 2 ** 32;

/** A peer that answers each request at once. */
class StandIn implements Core {
  readonly #answer: (from: Peer, message: Body) => Body | undefined;
  #nextId = 1;

  constructor(answer: (from: Peer, message: Body) => Body | undefined) {
    this.#answer = answer;
  }

  start(): readonly Effect[] {
    return [];
  }

  receive(_now: Nanos, from: Peer, envelope: Envelope): readonly Effect[] {
    if (envelope.inReplyTo !== 0 || envelope.body === undefined) return [];
    const answer = this.#answer(from, envelope.body);
    if (answer === undefined) return [];
    const reply = { id: this.#nextId++, inReplyTo: envelope.id, oldestPending: 0, refused: '', body: answer };
    return [{ do: 'send', to: from, envelope: reply }];
  }

  wake(): readonly Effect[] {
    return [];
  }

  inspect(): unknown {
    return { ready: true };
  }
}

export class SimulatedHost {
  readonly world: World;
  /** Domains whose credential the broker would accept. */
  readonly #live = new Set<number>();
  #lives = 0;
  #brokerId = 0;

  constructor(board: BoardDescription, options: WorldOptions) {
    this.world = new World(options);
    const { world } = this;
    world.add('keys', new StandIn((from, message) => this.#keys(from, message)));
    world.add('broker', new StandIn((_from, message) => this.#broker(message)));
    world.add('vacant', new StandIn((_from, message) => this.#vacant(message)));
    const media = mediaOf(board);
    if (media.length > 0) world.add('media', new SimulatedMedia(media, options.seed));
    world.add('hardware', createHardwareCore(board, this.#life()));
    world.add('xenstored', createXenstoredCore({ ...this.#life(), dom0: true }));
    world.add('xen', createXenCore(this.#life()));
    world.add('d0', createDom0Core(this.#life()));
  }

  #life(): { idBase: number } {
    return { idBase: ++this.#lives * IDS_PER_LIFE };
  }

  #keys(from: Peer, message: Body): Body | undefined {
    if (from !== 'd0') return undefined;
    if (message.$case === 'mintCredentialRequest') {
      this.#live.add(message.value.domid);
      return body('mintCredentialReply', { jwt: `jwt of ${message.value.publicKey}`, error: '' });
    }
    if (message.$case === 'revokeCredentialRequest') {
      this.#live.delete(message.value.domid);
      this.end(message.value.domid);
      return body('revokeCredentialReply', { error: '' });
    }
    return undefined;
  }

  #broker(message: Body): Body | undefined {
    if (message.$case !== 'inspectRequest') return undefined;
    return body('inspectReply', { json: JSON.stringify([...this.#live].sort()), error: '' });
  }

  #vacant(message: Body): Body | undefined {
    if (message.$case !== 'takeDomainRequest') return undefined;
    const publicKey = `KEY${++this.#lives}`;
    const taker = new StandIn((_from, grant) => {
      if (grant.$case !== 'grantCredentialRequest') return undefined;
      this.#startGuest(grant.value.domid);
      return body('grantCredentialReply', { error: '' });
    });
    this.world.add(`t${publicKey}`, new RepliesAs('vacant', taker));
    return body('takeDomainReply', { publicKey, error: '' });
  }

  #startGuest(domid: number): void {
    if (this.world.has(peerOf(domid))) return;
    this.world.add(peerOf(domid), createDomuCore({ ...this.#life(), domid }));
    this.#tellXen(domid, true);
  }

  /** Ends a domain's process as SIGKILL does; the broker notices. */
  end(domid: number): void {
    if (!this.world.has(peerOf(domid))) return;
    this.world.remove(peerOf(domid));
    this.#tellXen(domid, false);
  }

  #tellXen(domid: number, connected: boolean): void {
    const id = ++this.#brokerId;
    const envelope = {
      id,
      inReplyTo: 0,
      oldestPending: id,
      refused: '',
      body: body('domainConnection', { domid, connected }),
    };
    this.world.post('broker', 'xen', envelope);
  }

  /** Domains that have a process. */
  guests(): number[] {
    return this.world
      .peers()
      .map(domidOf)
      .filter((domid) => domid > 0);
  }
}

/** A taker answers under the name of those who take (its credential allows no other). */
class RepliesAs implements Core {
  readonly name: Peer;
  readonly #inner: Core;

  constructor(name: Peer, inner: Core) {
    this.name = name;
    this.#inner = inner;
  }

  start(now: Nanos): readonly Effect[] {
    return this.#inner.start(now);
  }

  receive(now: Nanos, from: Peer, envelope: Envelope): readonly Effect[] {
    return this.#inner.receive(now, from, envelope).map((e) => (e.do === 'send' ? { ...e, as: this.name } : e));
  }

  wake(now: Nanos): readonly Effect[] {
    return this.#inner.wake(now);
  }

  inspect(): unknown {
    return this.#inner.inspect();
  }
}
