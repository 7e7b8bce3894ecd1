/**
 * Takes domains that the toolstack has built: makes a key pair, gives the public half, and gets the credential for it.
 * The secret half never leaves the process that will be (or will start) the guest.
 */

import type { Envelope } from '#gen/bus.ts';
import { body, type Payload, type Peer } from '../core/core.ts';
import { decodeEnvelope, encodeEnvelope } from './codec.ts';
import { createUserKey } from './credentials.ts';
import { Bus } from './nats.ts';
import { idBaseNow } from './shell.ts';
import { INTERFACE_OF, parseSubject, subjectOf, subjectsTo, TAKERS_GROUP } from './subjects.ts';

export interface TakenDomain {
  readonly domid: number;
  /** Text of the creds file. */
  readonly creds: string;
}

export interface TakerOptions {
  readonly url: string;
  /** Creds of `vacant`. */
  readonly creds: string;
  readonly waitMs: number;
  /** How many domains it takes: one for a replica that becomes the guest, Infinity for a supervisor that starts processes. */
  readonly capacity: number;
  onTaken(domain: TakenDomain): void;
  /** The broker is gone for good. */
  onClosed(error: Error): void;
}

const SELF: Peer = 'vacant';

export class Taker {
  readonly #options: TakerOptions;
  readonly #bus: Bus;
  readonly #answers = new Map<number, Envelope>();
  #nextId = idBaseNow() + 1;
  #offered = 0;
  #stopped = false;

  private constructor(options: TakerOptions, bus: Bus) {
    this.#options = options;
    this.#bus = bus;
  }

  static async start(options: TakerOptions): Promise<Taker> {
    const { url, creds, waitMs } = options;
    const bus = await Bus.connect({ url, creds, name: SELF, waitMs, onStatus: () => undefined });
    const taker = new Taker(options, bus);
    bus.subscribe(subjectsTo(SELF), (message) => taker.#onMessage(message.subject, message.data), TAKERS_GROUP);
    await bus.flush();
    bus.closed().then(
      (error) => taker.#stopped || options.onClosed(error ?? new Error('the connection to the broker ended')),
      (error) => options.onClosed(error as Error),
    );
    return taker;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#bus.flush().catch(() => undefined);
    await this.#bus.close();
  }

  #onMessage(subject: string, data: Uint8Array): void {
    const parsed = parseSubject(subject);
    const envelope = decodeEnvelope(data);
    if (parsed?.from !== 'd0' || envelope.body === undefined || INTERFACE_OF[envelope.body.$case] !== parsed.iface)
      return;
    const known = this.#answers.get(envelope.id);
    if (known !== undefined) this.#publish(known);
    else if (envelope.body.$case === 'takeDomainRequest') this.#take(envelope.id, envelope.body.value.domid);
  }

  #take(id: number, domid: number): void {
    if (this.#offered >= this.#options.capacity) {
      this.#answer(id, '', 'this one has a domain already');
      return;
    }
    this.#offered++;
    const key = createUserKey();
    this.#bus.subscribe(subjectOf(`t${key.publicKey}`, 'lifecycle', 'd0'), (message) => {
      const envelope = decodeEnvelope(message.data);
      if (parseSubject(message.subject)?.from !== 'd0' || envelope.body?.$case !== 'grantCredentialRequest') return;
      this.#onGrant(envelope.id, domid, envelope.body.value, key);
    });
    this.#answer(id, key.publicKey, '');
  }

  #onGrant(
    id: number,
    domid: number,
    grant: Payload<'grantCredentialRequest'>,
    key: ReturnType<typeof createUserKey>,
  ): void {
    const known = this.#answers.get(id);
    if (known !== undefined) {
      this.#publish(known);
      return;
    }
    const fits = grant.domid === domid && grant.publicKey === key.publicKey;
    const error = fits ? '' : `the credential is for domain ${grant.domid}, not ${domid}`;
    this.#remember(id, {
      id: this.#nextId++,
      inReplyTo: id,
      oldestPending: 0,
      refused: '',
      body: body('grantCredentialReply', { error }),
    });
    if (fits) this.#options.onTaken({ domid, creds: key.credsFor(grant.jwt) });
  }

  #answer(id: number, publicKey: string, error: string): void {
    const reply = body('takeDomainReply', { publicKey, error });
    this.#remember(id, { id: this.#nextId++, inReplyTo: id, oldestPending: 0, refused: '', body: reply });
  }

  #remember(id: number, envelope: Envelope): void {
    this.#answers.set(id, envelope);
    this.#publish(envelope);
  }

  #publish(envelope: Envelope): void {
    this.#bus.publish(subjectOf('d0', 'reply', SELF), encodeEnvelope(envelope));
  }
}
