/**
 * The toolstack's key keeper: makes a domain's credential when the domain is built and ends it with the domain. It holds
 * the account's and the operator's signing keys and the one permission to hand new account claims to the server.
 */
import { accountClaims, CLAIMS_UPDATE, type KeyRing, mintUser } from '#shared/bus/credentials.ts';
import { Bus } from '#shared/bus/nats.ts';
import type { ServeContext } from '#shared/bus/serve.ts';
import { type Body, body, peerOf } from '#shared/core/core.ts';

const CLAIMS_TIMEOUT_MS = 5000;

export class KeyKeeper {
  readonly #ring: KeyRing;
  readonly #context: ServeContext;
  #bus: Bus | undefined;
  readonly #keyOf = new Map<number, string>();
  readonly #revoked = new Map<string, number>();

  constructor(ring: KeyRing, context: ServeContext) {
    this.#ring = ring;
    this.#context = context;
  }

  async handle(message: Body): Promise<Body> {
    switch (message.$case) {
      case 'mintCredentialRequest': {
        const { domid, publicKey } = message.value;
        const token = await mintUser(this.#ring, peerOf(domid), publicKey);
        this.#keyOf.set(domid, publicKey);
        return body('mintCredentialReply', { jwt: token, error: '' });
      }
      case 'revokeCredentialRequest': {
        await this.#revoke(message.value.domid);
        return body('revokeCredentialReply', { error: '' });
      }
      default:
        throw new Error(`the key keeper does not do ${message.$case}`);
    }
  }

  /** Afterwards the server lets nobody in with that domain's credential, and has cut off whoever was in. */
  async #revoke(domid: number): Promise<void> {
    const publicKey = this.#keyOf.get(domid);
    if (publicKey === undefined) return;
    // JWTs carry whole seconds: a revocation covers what was issued up to and including that second.
    this.#revoked.set(publicKey, Math.floor(Date.now() / 1000) + 1);
    const claims = new TextEncoder().encode(await accountClaims(this.#ring, this.#revoked));
    const answer = await (await this.#connection()).request(CLAIMS_UPDATE, claims, CLAIMS_TIMEOUT_MS);
    const { error } = JSON.parse(new TextDecoder().decode(answer)) as { error?: { description?: string } };
    if (error !== undefined) throw new Error(`the server did not take the new claims: ${error.description}`);
    this.#keyOf.delete(domid);
  }

  async #connection(): Promise<Bus> {
    this.#bus ??= await Bus.connect({
      url: this.#context.settings.natsUrl,
      creds: this.#ring.claimsCreds,
      name: 'd0.keys',
      waitMs: CLAIMS_TIMEOUT_MS,
      onStatus: (event, detail) => this.#context.log.info({ event, detail }),
    });
    return this.#bus;
  }

  async close(): Promise<void> {
    await this.#bus?.close();
  }
}
