/**
 * Credentials of the bus: one operator, one account for the host and one system account; a user per peer whose
 * permissions are those of subjects.ts. A domain's credential is a JWT for a key pair that the domain's own process
 * made, signed by the account's signing key when the domain is built, and revoked in the account when it ends.
 * Layout and meaning of the claims: the JWT guide of nats-server ("Decentralized JWT Authentication").
 */
import jwt from '@nats-io/jwt';
import type { Peer } from '../core/core.ts';
import { LIMITS } from '../core/limits.ts';
import { permissionsOf } from './subjects.ts';

/** What whoever makes and ends credentials has to hold. Secret. */
export interface KeyRing {
  readonly operatorSigningSeed: string;
  readonly accountPublicKey: string;
  readonly accountSigningSeed: string;
  /** Creds file text of the system-account user that may update account claims. */
  readonly claimsCreds: string;
}

/** All that a new host needs. */
export interface HostKeys {
  readonly keyRing: KeyRing;
  /** Creds file text of the system-account user that hears of connections (for xen). */
  readonly brokerCreds: string;
  /** Creds file text by peer: hardware, xen, xenstored, d0, operator, observer, vacant. */
  readonly creds: ReadonlyMap<Peer, string>;
  /** The configuration of nats-server but for port, host and directories. */
  readonly natsConf: string;
}

export const HOST_PEERS: readonly Peer[] = ['hardware', 'xen', 'xenstored', 'd0', 'operator', 'observer', 'vacant'];

export const CONNECT_EVENTS = '$SYS.ACCOUNT.*.CONNECT';
export const DISCONNECT_EVENTS = '$SYS.ACCOUNT.*.DISCONNECT';
export const CLAIMS_UPDATE = '$SYS.REQ.CLAIMS.UPDATE';

const UNLIMITED = { conn: -1, subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, leaf: -1 };

function seedText(seed: Uint8Array): string {
  return new TextDecoder().decode(seed);
}

function fromSeed(text: string): jwt.KeyPair {
  return jwt.fromSeed(new TextEncoder().encode(text));
}

function credsText(token: string, key: jwt.KeyPair): string {
  return new TextDecoder().decode(jwt.fmtCreds(token, key));
}

/** Makes the keys of a new host. */
export async function createHostKeys(): Promise<HostKeys> {
  const operator = jwt.createOperator();
  const operatorSigning = jwt.createOperator();
  const system = jwt.createAccount();
  const account = jwt.createAccount();
  const accountSigning = jwt.createAccount();
  const operatorJwt = await jwt.encodeOperator('culvert', operator, {
    signing_keys: [operatorSigning.getPublicKey()],
    system_account: system.getPublicKey(),
  });
  const systemJwt = await jwt.encodeAccount('SYS', system, { limits: UNLIMITED }, { signer: operator });
  const keyRing: KeyRing = {
    operatorSigningSeed: seedText(operatorSigning.getSeed()),
    accountPublicKey: account.getPublicKey(),
    accountSigningSeed: seedText(accountSigning.getSeed()),
    claimsCreds: await systemUser(system, 'claims', [CLAIMS_UPDATE], ['_INBOX.>']),
  };
  const creds = new Map<Peer, string>();
  for (const peer of HOST_PEERS) {
    const user = jwt.createUser();
    creds.set(peer, credsText(await mintUser(keyRing, peer, user.getPublicKey()), user));
  }
  const natsConf = [
    `max_payload: ${LIMITS.messageBytes}`,
    `operator: ${operatorJwt}`,
    `system_account: ${system.getPublicKey()}`,
    'resolver_preload: {',
    `  ${system.getPublicKey()}: ${systemJwt}`,
    `  ${account.getPublicKey()}: ${await accountClaims(keyRing, new Map())}`,
    '}',
    '',
  ].join('\n');
  const brokerCreds = await systemUser(system, 'broker', [], [CONNECT_EVENTS, DISCONNECT_EVENTS]);
  return { keyRing, brokerCreds, creds, natsConf };
}

async function systemUser(system: jwt.KeyPair, name: string, publish: string[], subscribe: string[]): Promise<string> {
  const user = jwt.createUser();
  const pub = publish.length > 0 ? { allow: publish } : { deny: ['>'] };
  return credsText(await jwt.encodeUser(name, user, system, { pub, sub: { allow: subscribe } }), user);
}

/** A JWT for the key pair whose public half is `publicKey`, with the permissions of `peer`; its name is the peer. */
export async function mintUser(keyRing: KeyRing, peer: Peer, publicKey: string): Promise<string> {
  const { publish, subscribe } = permissionsOf(peer);
  return jwt.encodeUser(peer, jwt.fromPublic(publicKey), fromSeed(keyRing.accountSigningSeed), {
    // An empty list of what is allowed would allow everything.
    pub: publish.length > 0 ? { allow: [...publish] } : { deny: ['>'] },
    sub: { allow: [...subscribe] },
    issuer_account: keyRing.accountPublicKey,
  });
}

/** The account's claims with the users revoked: public key to the time (Unix seconds) up to which their JWTs are void. */
export async function accountClaims(keyRing: KeyRing, revoked: ReadonlyMap<string, number>): Promise<string> {
  const signing = fromSeed(keyRing.accountSigningSeed).getPublicKey();
  return jwt.encodeAccount(
    'CULVERT',
    jwt.fromPublic(keyRing.accountPublicKey),
    { signing_keys: [signing], revocations: Object.fromEntries(revoked), limits: UNLIMITED },
    { signer: fromSeed(keyRing.operatorSigningSeed) },
  );
}

/** A key pair for a new domain's process: the secret never leaves it. */
export function createUserKey(): { publicKey: string; credsFor(token: string): string } {
  const user = jwt.createUser();
  return { publicKey: user.getPublicKey(), credsFor: (token) => credsText(token, user) };
}

/** The domain id in a user's JWT (its name is `dN`), or -1. */
export function domidOfJwt(token: string): number {
  const name = jwt.decode(token).name;
  return /^d\d+$/.test(name) ? Number(name.slice(1)) : -1;
}
