/**
 * The disk of the simulated world: keeps what it has acknowledged over a restart of the store, and of the rest a random
 * part. A write reaches the medium some time after it was asked for.
 */
import type { Envelope } from '#gen/bus.ts';
import { type Body, body, type Core, type Effect, type Nanos, type Payload, type Peer } from '#shared/core/core.ts';
import type { Prng } from '#shared/core/prng.ts';

/** Small parts, so that a journal comes in several. */
const PART_BYTES = 4096;

interface Write {
  readonly at: Nanos;
  readonly id: number;
  readonly from: Peer;
  readonly request: Payload<'journalAppendRequest'>;
}

export class SimulatedDisk implements Core {
  readonly #prng: Prng;
  readonly #syncNs: readonly [number, number];
  #journal: Uint8Array = new Uint8Array(0);
  #next: Uint8Array = new Uint8Array(0);
  #underWay: Write | undefined;
  #seq = 0;
  #nextId = 1;
  #idBase = 0;
  /** Writes that were acknowledged, and unacknowledged ones that left nothing, a part or all of them behind. */
  readonly counts = { acknowledged: 0, lost: 0, torn: 0, kept: 0 };

  /** `syncNs` is how long a write takes, at least and at most. */
  constructor(prng: Prng, syncNs: readonly [number, number] = [100_000, 3_000_000]) {
    this.#prng = prng;
    this.#syncNs = syncNs;
  }

  /** The store is killed: of a write that is under way a random part is there. The ids of its next life are above `idBase`. */
  crash(idBase: number): void {
    this.#idBase = idBase;
    const write = this.#underWay;
    this.#underWay = undefined;
    this.#seq = 0;
    if (write !== undefined) {
      const { data, offset } = write.request;
      const part = this.#prng.chance(0.3) ? data.length : this.#prng.below(data.length + 1);
      this.#journal = replaced(this.#journal, offset, data.subarray(0, part));
      // What was to be behind it may be there as garbage.
      if (part < data.length && this.#prng.chance(0.5))
        this.#journal = replaced(this.#journal, offset + part, new Uint8Array(data.length - part));
      const whole = part === data.length;
      if (whole && write.request.promote && this.#prng.chance(0.5)) this.#apply(write.request);
      this.counts[whole ? 'kept' : part === 0 ? 'lost' : 'torn']++;
    }
    this.#next = new Uint8Array(0);
  }

  start(): readonly Effect[] {
    return [];
  }

  receive(now: Nanos, from: Peer, envelope: Envelope): readonly Effect[] {
    if (envelope.id <= this.#idBase) return []; // of an earlier life
    const message = envelope.body;
    if (message?.$case === 'journalLoadRequest') {
      const { offset } = message.value;
      const data = this.#journal.slice(offset, offset + PART_BYTES);
      const last = offset + data.length >= this.#journal.length;
      return [this.#reply(from, envelope.id, body('journalLoadReply', { data, last }))];
    }
    if (message?.$case !== 'journalAppendRequest') return [];
    const request = message.value;
    if (request.seq === this.#underWay?.request.seq || request.seq <= this.#seq) return [];
    const [least, most] = this.#syncNs;
    const at = now + least + this.#prng.below(most - least + 1);
    this.#underWay = { at, id: envelope.id, from, request };
    return [{ do: 'wake', at }];
  }

  wake(now: Nanos): readonly Effect[] {
    const write = this.#underWay;
    if (write === undefined || now < write.at) return [];
    this.#underWay = undefined;
    this.#seq = write.request.seq;
    this.#apply(write.request);
    this.counts.acknowledged++;
    return [this.#reply(write.from, write.id, body('journalAppendReply', {}))];
  }

  inspect(): unknown {
    return { ready: true, bytes: this.#journal.length, ...this.counts };
  }

  #apply({ data, offset, nextData, nextOffset, promote }: Payload<'journalAppendRequest'>): void {
    if (data.length > 0) this.#journal = replaced(this.#journal, offset, data);
    if (nextData.length > 0) this.#next = replaced(this.#next, nextOffset, nextData);
    if (!promote) return;
    this.#journal = this.#next;
    this.#next = new Uint8Array(0);
  }

  #reply(to: Peer, inReplyTo: number, answer: Body): Effect {
    const envelope = { id: this.#nextId++, inReplyTo, oldestPending: 0, refused: '', body: answer };
    return { do: 'send', to, envelope };
  }
}

function replaced(bytes: Uint8Array, offset: number, data: Uint8Array): Uint8Array {
  const all = new Uint8Array(offset + data.length);
  all.set(bytes.subarray(0, offset));
  all.set(data, offset);
  return all;
}
