/**
 * What a service is to whatever runs it: a plain object. A message or a timer goes in, effects come out.
 * A core has no clock, socket, promise, randomness, environment or file (docs/decisions/0002).
 */
import type { Envelope } from '#gen/bus.ts';

/** Nanoseconds of the clock that runs the core: wall time in a process, virtual time in the simulated world. */
export type Nanos = number;

/**
 * Who speaks on the bus. `dN` is domain N (dom0's kernel and toolstack are `d0`), `operator` is the culvert
 * command, `observer` one that hears everything and says nothing, `vacant` whoever keeps guest processes ready, `tKEY` one such taker by its public key, `keys` the
 * key keeper inside dom0's own process, `disk` what holds xenstored's journal inside its own process,
 * `media` what holds the files of the machine's disks inside its.
 */
export type Peer =
  | 'hardware'
  | 'xen'
  | 'xenstored'
  | 'operator'
  | 'observer'
  | 'vacant'
  | 'keys'
  | 'disk'
  | 'media'
  | 'broker'
  | `d${number}`
  | `t${string}`;

/** One message without its envelope. */
export type Body = NonNullable<Envelope['body']>;
export type BodyCase = Body['$case'];
/** The payload of one kind of message. */
export type Payload<C extends BodyCase> = Extract<Body, { $case: C }>['value'];

export type Effect =
  | {
      readonly do: 'send';
      readonly to: Peer;
      readonly envelope: Envelope;
      /** Under another name than its own; only in the simulated world, for a peer that speaks for others. */
      readonly as?: Peer;
    }
  | { readonly do: 'wake'; readonly at: Nanos }
  | { readonly do: 'trace'; readonly event: string; readonly detail: unknown };

/** A service's behaviour. A restart is a new object. */
export interface Core {
  /** The first call, once. */
  start(now: Nanos): readonly Effect[];
  receive(now: Nanos, from: Peer, envelope: Envelope): readonly Effect[];
  wake(now: Nanos): readonly Effect[];
  /** A plain tree (JSON) for `culvert inspect` and for checkers. */
  inspect(): unknown;
}

/** The domain id of a peer, or -1 when it is not a domain. */
export function domidOf(peer: Peer): number {
  return /^d\d+$/.test(peer) ? Number(peer.slice(1)) : -1;
}

export function peerOf(domid: number): Peer {
  return `d${domid}`;
}

/** A message body, typed by its case: `body('inspectRequest', { path: '' })`. */
export function body<C extends BodyCase>($case: C, value: Payload<C>): Body {
  return { $case, value } as Body;
}
