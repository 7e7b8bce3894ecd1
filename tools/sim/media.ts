/**
 * The media of the machine's disks in the simulated world. What was written is there for who reads; after a power cut
 * only what was made durable is certain, and of the rest a random part is there. A synchronisation that fails leaves it
 * to chance too, and the next one does not try again (Linux, fsync(2)).
 * Not modelled: the files themselves; nothing is written to them.
 */
import type { Envelope } from '#gen/bus.ts';
import { body, type Core, type Effect, type Nanos, type Payload, type Peer } from '#shared/core/core.ts';
import { Prng } from '#shared/core/prng.ts';

const SECTOR_BYTES = 512;
/** How long a request takes, at least and at most; a synchronisation as much more. */
const WRITE_NS = [50_000, 1_000_000] as const;

type Piece = Payload<'mediaWriteRequest'>['pieces'][number];

export class SimulatedMedium {
  /** What a read sees. */
  contents: Uint8Array;
  /** What it refuses. */
  refuses: 'nothing' | 'writes' | 'synchronisation' = 'nothing';
  readonly counts = { writes: 0, syncs: 0, refused: 0 };
  readonly #prng: Prng;
  #durable: Uint8Array;
  /** Sectors that were written since the last synchronisation. */
  readonly #unsure = new Set<number>();

  constructor(contents: Uint8Array, prng: Prng) {
    this.contents = contents.slice();
    this.#durable = contents.slice();
    this.#prng = prng;
  }

  /** Does a request; false when it is refused. */
  write(pieces: readonly Piece[], sync: boolean): boolean {
    if (this.refuses === 'writes') {
      this.counts.refused++;
      return false;
    }
    this.counts.writes++;
    for (const { offset, data, zeroes } of pieces) {
      const end = offset + data.length + zeroes;
      if (end > this.contents.length) throw new Error(`a write up to ${end} of a disk of ${this.contents.length}`);
      this.contents.set(data, offset);
      this.contents.fill(0, offset + data.length, end);
      for (let sector = Math.floor(offset / SECTOR_BYTES); sector * SECTOR_BYTES < end; sector++)
        this.#unsure.add(sector);
    }
    if (!sync) return true;
    if (this.refuses === 'synchronisation') {
      this.counts.refused++;
      this.#settle(0.5);
      return false;
    }
    this.counts.syncs++;
    this.#settle(1);
    return true;
  }

  /** The power fails: what is read from now on is what was durable, and chance. */
  cutPower(): void {
    this.#settle(0.5);
    this.contents = this.#durable.slice();
  }

  #settle(odds: number): void {
    for (const sector of this.#unsure) {
      const at = sector * SECTOR_BYTES;
      if (odds === 1 || this.#prng.chance(odds)) this.#durable.set(this.contents.subarray(at, at + SECTOR_BYTES), at);
    }
    this.#unsure.clear();
  }
}

interface Request {
  readonly at: Nanos;
  readonly id: number;
  readonly from: Peer;
  readonly request: Payload<'mediaWriteRequest'>;
}

/** All media of a board, as one peer. */
export class SimulatedMedia implements Core {
  readonly media: ReadonlyMap<string, SimulatedMedium>;
  readonly #prng: Prng;
  readonly #seqs = new Map<string, number>();
  #underWay: Request[] = [];
  #nextId = 1;

  constructor(board: readonly { readonly medium: string; readonly contents: Uint8Array }[], seed: number) {
    this.#prng = new Prng(seed);
    this.media = new Map(board.map(({ medium, contents }) => [medium, new SimulatedMedium(contents, this.#prng)]));
  }

  start(): readonly Effect[] {
    return [];
  }

  receive(now: Nanos, from: Peer, { id, body: message }: Envelope): readonly Effect[] {
    if (message?.$case !== 'mediaWriteRequest') return [];
    const request = message.value;
    // One that comes again is under way or done.
    if (request.seq === this.#seqs.get(request.medium)) return [];
    this.#seqs.set(request.medium, request.seq);
    const [least, most] = WRITE_NS;
    const at = now + (least + this.#prng.below(most - least + 1)) * (request.sync ? 2 : 1);
    this.#underWay.push({ at, id, from, request });
    return [{ do: 'wake', at }];
  }

  wake(now: Nanos): readonly Effect[] {
    const due = this.#underWay.filter(({ at }) => at <= now);
    this.#underWay = this.#underWay.filter(({ at }) => at > now);
    return due.map(({ id, from, request: { medium, pieces, sync } }): Effect => {
      const isDone = this.media.get(medium)?.write(pieces, sync) === true;
      const answer = isDone ? body('mediaWriteReply', {}) : undefined;
      const refused = isDone ? '' : `${medium} refused`;
      return {
        do: 'send',
        to: from,
        envelope: { id: this.#nextId++, inReplyTo: id, oldestPending: 0, refused, body: answer },
      };
    });
  }

  inspect(): unknown {
    return {
      ready: true,
      media: Object.fromEntries([...this.media].map(([name, { counts }]) => [name, { ...counts }])),
    };
  }
}
