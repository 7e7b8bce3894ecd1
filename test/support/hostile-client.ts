/** A NATS client that holds a guest's credential and uses none of our manners: any subject, any bytes. */
import { connect, credsAuthenticator, type NatsConnection } from 'nats';
import type { Envelope } from '#gen/bus.ts';
import { decodeEnvelope, encodeEnvelope } from '#shared/bus/codec.ts';
import { INTERFACE_OF, subjectOf } from '#shared/bus/subjects.ts';
import { type Body, type Peer, peerOf } from '#shared/core/core.ts';
import { Refused } from '#shared/core/op.ts';

/** Far above the ids that the guest's own kernel uses. */
const FIRST_ID = 2 ** 52;
const ANSWER_MS = 5000;

export class HostileClient {
  readonly nc: NatsConnection;
  readonly self: Peer;
  #nextId = FIRST_ID;
  readonly #answers = new Map<number, Envelope>();
  readonly #violations: string[] = [];

  private constructor(nc: NatsConnection, self: Peer) {
    this.nc = nc;
    this.self = self;
  }

  static async connect(url: string, creds: string, domid: number): Promise<HostileClient> {
    const nc = await connect({
      servers: url,
      authenticator: credsAuthenticator(new TextEncoder().encode(creds)),
      reconnect: false,
      timeout: 3000,
    });
    const client = new HostileClient(nc, peerOf(domid));
    nc.subscribe(`cv.${client.self}.reply.>`, {
      callback: (_error, message) => {
        const envelope = decodeEnvelope(message.data);
        client.#answers.set(envelope.inReplyTo, envelope);
      },
    });
    void client.#watch();
    await nc.flush();
    return client;
  }

  async #watch(): Promise<void> {
    for await (const status of this.nc.status()) {
      if (String(status.data) !== 'PERMISSIONS_VIOLATION') continue;
      const { subject } = (status as { permissionContext?: { subject?: string } }).permissionContext ?? {};
      this.#violations.push(subject ?? '');
    }
  }

  /** Publishes an envelope around `message` on any subject; gives its id. */
  send(subject: string, message: Body): number {
    const id = this.#nextId++;
    this.nc.publish(subject, encodeEnvelope({ id, inReplyTo: 0, oldestPending: 0, refused: '', body: message }));
    return id;
  }

  /** Whether the broker refused to carry something published on this subject. Needs a round trip, which it makes. */
  async wasRefused(subject: string): Promise<boolean> {
    await this.nc.flush();
    await new Promise((done) => setTimeout(done, 10));
    return this.#violations.some((text) => text === subject);
  }

  answerTo(id: number): Envelope | undefined {
    return this.#answers.get(id);
  }

  readonly ask = async (to: Peer, message: Body): Promise<Body> => {
    const id = this.send(subjectOf(to, INTERFACE_OF[message.$case], this.self), message);
    const end = performance.now() + ANSWER_MS;
    for (;;) {
      const answer = this.#answers.get(id);
      if (answer?.body !== undefined) return answer.body;
      if (answer !== undefined) throw new Refused(answer.refused);
      if (performance.now() > end) throw new Error(`no answer of ${to} to ${message.$case}`);
      await new Promise((done) => setTimeout(done, 1));
    }
  };
}
